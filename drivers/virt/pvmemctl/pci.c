// SPDX-License-Identifier: GPL-2.0-only
/*
 * pvmemctl over PCI: finds the device, reaches its registers, follows its life.
 *
 * The host needs guest-physical addresses and reads the buffers inside the
 * trapped register write, so there is no DMA to map and no bus mastering.
 */

#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/pm.h>

#include "pvmemctl.h"

struct pvmemctl_pci {
	void __iomem *bar;
	struct pvmemctl *pm;
	struct pvmemctl_chardev *cd;
};

static void pvmemctl_pci_write_payload(void *transport, u64 payload)
{
	struct pvmemctl_pci *pp = transport;

	/* Two halves: not every machine can write 8 bytes at once */
	iowrite32(lower_32_bits(payload), pp->bar + MEMCTL_REG_PAYLOAD);
	iowrite32(upper_32_bits(payload), pp->bar + MEMCTL_REG_PAYLOAD + 4);
}

static u32 pvmemctl_pci_read_payload(void *transport)
{
	struct pvmemctl_pci *pp = transport;

	return ioread32(pp->bar + MEMCTL_REG_PAYLOAD);
}

static void pvmemctl_pci_write_command(void *transport, u32 command)
{
	struct pvmemctl_pci *pp = transport;

	iowrite32(command, pp->bar + MEMCTL_REG_COMMAND);
}

static u32 pvmemctl_pci_read_answer(void *transport)
{
	struct pvmemctl_pci *pp = transport;

	return ioread32(pp->bar + MEMCTL_REG_COMMAND);
}

static const struct pvmemctl_ops pvmemctl_pci_ops = {
	.write_payload	= pvmemctl_pci_write_payload,
	.read_payload	= pvmemctl_pci_read_payload,
	.write_command	= pvmemctl_pci_write_command,
	.read_answer	= pvmemctl_pci_read_answer,
};

static int pvmemctl_pci_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct device *dev = &pdev->dev;
	struct pvmemctl_pci *pp;
	int ret;

	pp = devm_kzalloc(dev, sizeof(*pp), GFP_KERNEL);
	if (!pp)
		return -ENOMEM;

	ret = pcim_enable_device(pdev);
	if (ret)
		return dev_err_probe(dev, ret, "cannot enable the device\n");
	if (pci_resource_len(pdev, 0) < MEMCTL_BAR_SIZE)
		return dev_err_probe(dev, -ENODEV, "no BAR 0, or too small: the VMM is broken\n");
	pp->bar = pcim_iomap_region(pdev, 0, KBUILD_MODNAME);
	if (IS_ERR(pp->bar))
		return dev_err_probe(dev, PTR_ERR(pp->bar), "cannot map BAR 0\n");

	pp->pm = pvmemctl_register(dev, &pvmemctl_pci_ops, pp);
	if (IS_ERR(pp->pm))
		return PTR_ERR(pp->pm);

	/* Last, because from here on users can call */
	pp->cd = pvmemctl_chardev_add(dev, pp->pm);
	if (IS_ERR(pp->cd)) {
		pvmemctl_unregister(pp->pm);
		return dev_err_probe(dev, PTR_ERR(pp->cd), "cannot make a device node\n");
	}
	pci_set_drvdata(pdev, pp);
	return 0;
}

static void pvmemctl_pci_remove(struct pci_dev *pdev)
{
	struct pvmemctl_pci *pp = pci_get_drvdata(pdev);

	pvmemctl_chardev_remove(pp->cd);
	pvmemctl_unregister(pp->pm);
}

/* Reboot, power-off, kexec: the next kernel must find all memory usable */
static void pvmemctl_pci_shutdown(struct pci_dev *pdev)
{
	struct pvmemctl_pci *pp = pci_get_drvdata(pdev);

	pvmemctl_suspend(pp->pm);
}

static int pvmemctl_pci_suspend(struct device *dev)
{
	struct pvmemctl_pci *pp = dev_get_drvdata(dev);

	pvmemctl_suspend(pp->pm);
	return 0;
}

static int pvmemctl_pci_resume(struct device *dev)
{
	struct pvmemctl_pci *pp = dev_get_drvdata(dev);

	return pvmemctl_resume(pp->pm);
}

/*
 * Last to go and first to return, since consumers may call until then.  The same
 * for hibernation: the kernel that loads an image has connections of its own.
 */
static DEFINE_NOIRQ_DEV_PM_OPS(pvmemctl_pci_pm, pvmemctl_pci_suspend,
			       pvmemctl_pci_resume);

static const struct pci_device_id pvmemctl_pci_ids[] = {
	{ PCI_DEVICE(MEMCTL_PCI_VENDOR_ID, MEMCTL_PCI_DEVICE_ID) },
	{ }
};
MODULE_DEVICE_TABLE(pci, pvmemctl_pci_ids);

static struct pci_driver pvmemctl_pci_driver = {
	.name		= KBUILD_MODNAME,
	.id_table	= pvmemctl_pci_ids,
	.probe		= pvmemctl_pci_probe,
	.remove		= pvmemctl_pci_remove,
	.shutdown	= pvmemctl_pci_shutdown,
	.driver.pm	= pm_sleep_ptr(&pvmemctl_pci_pm),
};
module_pci_driver(pvmemctl_pci_driver);

MODULE_DESCRIPTION("Host control of guest memory backing over PCI");
MODULE_LICENSE("GPL");
