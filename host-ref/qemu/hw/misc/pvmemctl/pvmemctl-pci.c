/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pvmemctl: a guest tells its host how to back the guest's memory.
 *
 * The thin part: a PCI device with one BAR, and the way to guest RAM.  The
 * device itself is in device.c, functions.c and policy.c.
 * docs/specs/pvmemctl.rst describes it.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/module.h"
#include "qom/object.h"
#include "hw/boards.h"
#include "hw/pci/pci_device.h"
#include "hw/qdev-properties.h"
#include "migration/vmstate.h"
#include "system/address-spaces.h"
#include "system/hostmem.h"
#include "system/memory.h"
#include "system/numa.h"
#include "pvmemctl-core.h"
#include "trace.h"

#define TYPE_PVMEMCTL "pvmemctl"
OBJECT_DECLARE_SIMPLE_TYPE(PvmemctlDevice, PVMEMCTL)

struct PvmemctlDevice {
    PCIDevice parent_obj;

    MemoryRegion bar;
    char *allow;
    PvmemctlCore core;
};

/*
 * RAM only: the guest must not reach other devices through this one.  By
 * guest-physical address, as the protocol has it: no IOMMU is in between.
 */
static const MemTxAttrs ram_only = { .memory = 1 };

/*
 * The main memory of the machine, or memory plugged in.  Not what else QEMU
 * keeps in RAM blocks, such as video memory, or memory shared with other VMs:
 * it is not the guest's to decide how that is backed.
 */
static bool pvmemctl_is_main_memory(const MemoryRegionSection *section)
{
    MachineState *ms = MACHINE(qdev_get_machine());
    MemoryRegion *mr = section->mr;

    if (section->readonly || section->nonvolatile ||
        !memory_region_is_ram(mr) || memory_region_is_ram_device(mr)) {
        return false;
    }
    if (mr == ms->ram) {
        return true;
    }
    if (ms->device_memory) {
        uint64_t base = ms->device_memory->base;
        uint64_t size = memory_region_size(&ms->device_memory->mr);

        if (section->offset_within_address_space >= base &&
            section->offset_within_address_space - base < size) {
            return true;
        }
    }
    for (int i = 0; ms->numa_state && i < ms->numa_state->num_nodes; i++) {
        HostMemoryBackend *backend = ms->numa_state->nodes[i].node_memdev;

        if (backend && mr == host_memory_backend_get_memory(backend)) {
            return true;
        }
    }
    return false;
}

static bool pvmemctl_get_ram(void *opaque, uint64_t gpa, uint64_t length,
                             PvmemctlRam *ram)
{
    /* Holds a reference on the region: the system call runs outside of RCU */
    MemoryRegionSection section = memory_region_find(get_system_memory(), gpa,
                                                     length);

    if (!section.mr) {
        return false;
    }
    if (section.offset_within_address_space != gpa ||
        !pvmemctl_is_main_memory(&section)) {
        memory_region_unref(section.mr);
        return false;
    }
    ram->addr = memory_region_get_ram_ptr(section.mr) +
                section.offset_within_region;
    ram->length = int128_get64(section.size);
    ram->ref = section.mr;
    return true;
}

static void pvmemctl_put_ram(void *opaque, PvmemctlRam *ram)
{
    memory_region_unref(ram->ref);
}

/*
 * The attribute in ram_only keeps accesses from devices' registers, but not
 * from ROM or from RAM of a device.
 */
static bool pvmemctl_is_ram(void *opaque, uint64_t gpa, size_t size)
{
    PvmemctlRam ram;

    for (; size; gpa += ram.length, size -= ram.length) {
        if (!pvmemctl_get_ram(opaque, gpa, size, &ram)) {
            return false;
        }
        pvmemctl_put_ram(opaque, &ram);
    }
    return true;
}

static bool pvmemctl_read_ram(void *opaque, uint64_t gpa, void *buf,
                              size_t size)
{
    return pvmemctl_is_ram(opaque, gpa, size) &&
           address_space_read(&address_space_memory, gpa, ram_only,
                              buf, size) == MEMTX_OK;
}

static bool pvmemctl_write_ram(void *opaque, uint64_t gpa, const void *buf,
                               size_t size)
{
    return pvmemctl_is_ram(opaque, gpa, size) &&
           address_space_write(&address_space_memory, gpa, ram_only,
                               buf, size) == MEMTX_OK;
}

static void pvmemctl_answered(void *opaque, const struct memctl_vmm_call *call,
                              const struct memctl_vmm_ret *ret)
{
    const char *name = pvmemctl_function_name(call->func_code);

    trace_pvmemctl_call(name ?: "unknown", call->addr, call->length, call->arg,
                        ret->ret_errno, ret->ret_code);
}

static const PvmemctlVmm pvmemctl_vmm = {
    .get_ram = pvmemctl_get_ram,
    .put_ram = pvmemctl_put_ram,
    .read = pvmemctl_read_ram,
    .write = pvmemctl_write_ram,
    .answered = pvmemctl_answered,
};

static uint64_t pvmemctl_bar_read(void *opaque, hwaddr offset, unsigned size)
{
    PvmemctlDevice *s = opaque;
    uint64_t value = pvmemctl_core_read(&s->core, offset, size);

    trace_pvmemctl_read(offset, value, size);
    return value;
}

static void pvmemctl_bar_write(void *opaque, hwaddr offset, uint64_t value,
                               unsigned size)
{
    PvmemctlDevice *s = opaque;
    bool accepted = pvmemctl_core_write(&s->core, offset, value, size);

    trace_pvmemctl_write(offset, value, size, accepted);
}

static const MemoryRegionOps pvmemctl_bar_ops = {
    .read = pvmemctl_bar_read,
    .write = pvmemctl_bar_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = {
        .min_access_size = 4,
        .max_access_size = 8,
    },
    .impl = {
        .min_access_size = 4,
        .max_access_size = 8,
    },
};

static void pvmemctl_realize(PCIDevice *dev, Error **errp)
{
    PvmemctlDevice *s = PVMEMCTL(dev);
    uint64_t allowed;
    const char *bad;

    if (!pvmemctl_policy_parse(s->allow, &allowed, &bad)) {
        error_setg(errp, "allow=%s: no function is named '%.*s'", s->allow,
                   (int)strcspn(bad, ":"), bad);
        error_append_hint(errp, "Use 'all', 'default' or names like 'dontneed',"
                          " separated by ':'.\n");
        return;
    }
    pvmemctl_core_init(&s->core, &pvmemctl_vmm, s, allowed);
    memory_region_init_io(&s->bar, OBJECT(s), &pvmemctl_bar_ops, s,
                          TYPE_PVMEMCTL, MEMCTL_BAR_SIZE);
    pci_register_bar(dev, 0, PCI_BASE_ADDRESS_SPACE_MEMORY, &s->bar);
}

static void pvmemctl_reset_hold(Object *obj, ResetType type)
{
    pvmemctl_core_reset(&PVMEMCTL(obj)->core);
}

/*
 * Connections do not travel: after a restore the device is broken, and a guest
 * finds that out and connects again.
 */
static const VMStateDescription vmstate_pvmemctl = {
    .name = TYPE_PVMEMCTL,
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_PCI_DEVICE(parent_obj, PvmemctlDevice),
        VMSTATE_END_OF_LIST()
    }
};

static const Property pvmemctl_properties[] = {
    DEFINE_PROP_STRING("allow", PvmemctlDevice, allow),
};

static void pvmemctl_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    ResettableClass *rc = RESETTABLE_CLASS(klass);

    pc->realize = pvmemctl_realize;
    pc->vendor_id = MEMCTL_PCI_VENDOR_ID;
    pc->device_id = MEMCTL_PCI_DEVICE_ID;
    pc->subsystem_vendor_id = MEMCTL_PCI_VENDOR_ID;
    pc->subsystem_id = MEMCTL_PCI_SUBSYSTEM_ID;
    pc->class_id = PCI_CLASS_SYSTEM_OTHER;
    pc->revision = 1;
    rc->phases.hold = pvmemctl_reset_hold;
    dc->vmsd = &vmstate_pvmemctl;
    dc->desc = "Guest control of how the host backs its memory";
    device_class_set_props(dc, pvmemctl_properties);
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
}

static const TypeInfo pvmemctl_info = {
    .name          = TYPE_PVMEMCTL,
    .parent        = TYPE_PCI_DEVICE,
    .instance_size = sizeof(PvmemctlDevice),
    .class_init    = pvmemctl_class_init,
    .interfaces = (const InterfaceInfo[]) {
        { INTERFACE_CONVENTIONAL_PCI_DEVICE },
        { },
    },
};

static void pvmemctl_register_types(void)
{
    type_register_static(&pvmemctl_info);
}

type_init(pvmemctl_register_types)
