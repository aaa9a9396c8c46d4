// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/pvmemctl<N>: raw calls for user space, by guest-physical address.
 *
 * Such a call can change any memory of the guest, like /dev/mem can, and is held
 * to the same rules: CAP_SYS_ADMIN, and not at all under lockdown.
 */

#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/idr.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "pvmemctl.h"

static bool raw_calls = true;
module_param(raw_calls, bool, 0444);
MODULE_PARM_DESC(raw_calls, "Allow calls by guest-physical address (default: y)");

static DEFINE_IDA(pvmemctl_ida);

struct pvmemctl_chardev {
	struct miscdevice misc;
	struct pvmemctl *pm;
	char name[sizeof("pvmemctl4294967295")];
	int id;
};

static int pvmemctl_open(struct inode *inode, struct file *file)
{
	struct pvmemctl_chardev *cd = container_of(file->private_data,
						   struct pvmemctl_chardev, misc);

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;

	/* The file may outlive the device and its node, but not this */
	pvmemctl_get(cd->pm);
	file->private_data = cd->pm;
	return 0;
}

static int pvmemctl_release(struct inode *inode, struct file *file)
{
	pvmemctl_put(file->private_data);
	return 0;
}

static long pvmemctl_ioctl_raw(struct pvmemctl *pm, struct memctl_buf __user *ubuf)
{
	struct memctl_buf buf;
	int ret;

	if (!raw_calls)
		return -EPERM;
	ret = security_locked_down(LOCKDOWN_DEV_MEM);
	if (ret)
		return ret;

	if (copy_from_user(&buf, ubuf, sizeof(buf)))
		return -EFAULT;
	ret = pvmemctl_call(pm, &buf);
	if (ret)
		return ret;
	if (copy_to_user(ubuf, &buf, sizeof(buf)))
		return -EFAULT;
	return 0;
}

static long pvmemctl_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	switch (cmd) {
	case MEMCTL_IOCTL:
		return pvmemctl_ioctl_raw(file->private_data, (void __user *)arg);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations pvmemctl_fops = {
	.owner		= THIS_MODULE,
	.open		= pvmemctl_open,
	.release	= pvmemctl_release,
	.unlocked_ioctl	= pvmemctl_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
	.llseek		= noop_llseek,
};

/**
 * pvmemctl_chardev_add - make /dev/pvmemctl<N> for a device
 * @dev: parent in sysfs
 * @pm: the device, registered
 *
 * Context: Process context, may sleep.
 * Return: the node, to be given to pvmemctl_chardev_remove(), or an ERR_PTR.
 */
struct pvmemctl_chardev *pvmemctl_chardev_add(struct device *dev, struct pvmemctl *pm)
{
	struct pvmemctl_chardev *cd;
	int ret;

	cd = kzalloc_obj(*cd, GFP_KERNEL);
	if (!cd)
		return ERR_PTR(-ENOMEM);
	cd->id = ida_alloc(&pvmemctl_ida, GFP_KERNEL);
	if (cd->id < 0) {
		ret = cd->id;
		goto err_free;
	}
	snprintf(cd->name, sizeof(cd->name), "pvmemctl%d", cd->id);
	cd->pm = pm;
	cd->misc.minor = MISC_DYNAMIC_MINOR;
	cd->misc.name = cd->name;
	cd->misc.fops = &pvmemctl_fops;
	cd->misc.parent = dev;
	cd->misc.mode = 0600;

	ret = misc_register(&cd->misc);
	if (ret)
		goto err_id;
	return cd;

err_id:
	ida_free(&pvmemctl_ida, cd->id);
err_free:
	kfree(cd);
	return ERR_PTR(ret);
}

/**
 * pvmemctl_chardev_remove - take the node away
 * @cd: node; open() is over or will not come when this returns
 *
 * Files that are open stay so, and hold the struct pvmemctl.
 *
 * Context: Process context, may sleep.
 */
void pvmemctl_chardev_remove(struct pvmemctl_chardev *cd)
{
	misc_deregister(&cd->misc);
	ida_free(&pvmemctl_ida, cd->id);
	kfree(cd);
}
