/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pvmemctl: a guest tells its host how to back the guest's memory.
 *
 * A PCI device with one BAR around the core, which is in device.c, request.c,
 * functions.c, ledger.c, guard.c and policy.c; pvmemctl-ram.c is the core's way
 * to guest RAM.  docs/specs/pvmemctl.rst describes it.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/util.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "qom/object.h"
#include "exec/cpu-common.h"
#include "hw/core/cpu.h"
#include "hw/misc/pvmemctl.h"
#include "hw/pci/pci_device.h"
#include "hw/qdev-properties.h"
#include "migration/misc.h"
#include "migration/options.h"
#include "migration/register.h"
#include "migration/vmstate.h"
#include "system/memory.h"
#include "system/qtest.h"
#include "system/ramblock.h"
#include "pvmemctl.h"
#include "trace.h"

PvmemctlProcess pvmemctl_process;

PvmemctlDevice *pvmemctl_device_of(const void *owner)
{
    PvmemctlDevice *s;

    QLIST_FOREACH(s, &pvmemctl_process.devices, next) {
        if (&s->core == owner) {
            return s;
        }
    }
    return NULL;
}

/* Registers; without the BQL */

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
    bool accepted = false;

    trace_pvmemctl_enter(offset, value, size);
    /*
     * Only a CPU of the guest: a device that was told to write here would do so
     * from within its own work, and lockless I/O has no guard against that.
     */
    if (current_cpu || qtest_enabled()) {
        accepted = pvmemctl_core_write(&s->core, offset, value, size);
    }
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

/* Migration */

/*
 * System calls of QEMU would fail on protected memory, where copying is a hit.
 * A background snapshot has all pages made present, to see them written: none
 * may go after that, not even by a doorbell that is under way.
 */
static int pvmemctl_save_prepare(void *opaque, Error **errp)
{
    PvmemctlProcess *p = opaque;
    int ret;

    if (p->saving) {
        return 0;
    }
    if (migrate_background_snapshot()) {
        ret = ram_block_uncoordinated_discard_disable(true);
        if (ret) {
            error_setg_errno(errp, -ret, "pvmemctl: cannot disable discards");
            return ret;
        }
        p->discards_disabled = true;
    }
    p->saving = true;
    pvmemctl_protections_lift();
    return 0;
}

static void pvmemctl_save_cleanup(void *opaque)
{
    PvmemctlProcess *p = opaque;

    if (p->discards_disabled) {
        p->discards_disabled = false;
        ram_block_uncoordinated_discard_disable(false);
    }
    if (p->saving) {
        p->saving = false;
        pvmemctl_protections_reapply();
    }
}

static const SaveVMHandlers pvmemctl_savevm_handlers = {
    .save_prepare = pvmemctl_save_prepare,
    .save_cleanup = pvmemctl_save_cleanup,
};

static void pvmemctl_save_attribute(void *arg, const PvmemctlAttribute *a)
{
    PvmemctlDevice *s = arg;
    PvmemctlSaved *saved = &s->saved;
    PvmemctlSavedAttribute *to = &saved->attributes[saved->nr_attributes];
    ram_addr_t offset;
    RAMBlock *rb = qemu_ram_block_from_host((void *)a->start, false, &offset);

    if (a->owner != &s->core || !rb) {
        return;
    }
    *to = (PvmemctlSavedAttribute) {
        .offset = offset,
        .length = a->end - a->start,
        .arg = a->arg,
        .code = a->code,
    };
    pstrcpy(to->block, sizeof(to->block), qemu_ram_get_idstr(rb));
    saved->nr_attributes++;
}

static int pvmemctl_drop_saved(void *opaque)
{
    PvmemctlDevice *s = opaque;

    g_clear_pointer(&s->saved.attributes, g_free);
    g_clear_pointer(&s->saved.buffers, g_free);
    return 0;
}

static int pvmemctl_pre_load(void *opaque)
{
    PvmemctlDevice *s = opaque;

    pvmemctl_drop_saved(s);
    s->saved.buffers = g_new0(uint64_t, PVMEMCTL_MAX_CONNECTIONS);
    return 0;
}

/* The vCPUs stand still */
static int pvmemctl_pre_save(void *opaque)
{
    PvmemctlDevice *s = opaque;
    PvmemctlSaved *saved = &s->saved;
    PvmemctlLedgerInfo info;

    pvmemctl_pre_load(s);
    saved->state = atomic_load(&s->core.state);
    saved->answer = atomic_load(&s->core.answer);
    saved->payload = atomic_load(&s->core.payload);
    saved->nr_connections = s->core.nr_connections;
    memcpy(saved->buffers, s->core.buffers,
           saved->nr_connections * sizeof(saved->buffers[0]));

    pvmemctl_ledger_info(pvmemctl_process.ledger, &info);
    saved->attributes = g_new0(PvmemctlSavedAttribute, info.attributes);
    saved->nr_attributes = 0;
    pvmemctl_ledger_each(pvmemctl_process.ledger, pvmemctl_save_attribute, s);
    return 0;
}

/* From a stream that nobody vouches for */
static bool pvmemctl_can_load(void *opaque, int version_id)
{
    PvmemctlDevice *s = opaque;

    return s->saved.nr_connections <= PVMEMCTL_MAX_CONNECTIONS &&
           s->saved.nr_attributes >= 0 &&
           s->saved.nr_attributes <= PVMEMCTL_MAX_RANGES / 2;
}

/*
 * The RAM blocks are the same on both sides, QEMU has seen to that.  Everything
 * else the other host may have allowed, and this one not.
 */
static bool pvmemctl_makes_sense(const PvmemctlSaved *saved)
{
    for (int i = 0; i < saved->nr_attributes; i++) {
        const PvmemctlSavedAttribute *a = &saved->attributes[i];
        RAMBlock *rb = memchr(a->block, 0, sizeof(a->block))
                       ? qemu_ram_block_by_name(a->block) : NULL;

        if (!rb || !a->length || a->offset > rb->used_length ||
            a->length > rb->used_length - a->offset) {
            return false;
        }
    }
    return true;
}

static int pvmemctl_restore_attribute(PvmemctlDevice *s,
                                      const PvmemctlSavedAttribute *from)
{
    const PvmemctlAttribute attribute = {
        .code = from->code,
        .arg = from->arg,
        .owner = &s->core,
    };
    RAMBlock *rb = qemu_ram_block_by_name(from->block);
    PvmemctlRam ram;

    if (!rb->host || !rb->mr || !pvmemctl_is_main_block(rb->mr) ||
        !QEMU_IS_ALIGNED(from->offset | from->length,
                         qemu_real_host_page_size())) {
        return EINVAL;
    }
    /*
     * Locking would wait for pages that are still on their way, and at the end
     * of postcopy QEMU asks for huge pages everywhere
     */
    if ((from->code == MEMCTL_MLOCK || from->code == MEMCTL_NOHUGEPAGE) &&
        migration_in_incoming_postcopy()) {
        return EBUSY;
    }
    if (from->code >= 64 ||
        !(s->core.options.allowed & (UINT64_C(1) << from->code))) {
        return EPERM;
    }
    pvmemctl_describe_ram(rb->mr, from->offset, from->length, &ram);
    return pvmemctl_ledger_restore(pvmemctl_process.ledger, &ram, &attribute);
}

/* All RAM is there, no vCPU runs yet */
static int pvmemctl_post_load(void *opaque, int version_id)
{
    PvmemctlDevice *s = opaque;
    PvmemctlSaved *saved = &s->saved;
    unsigned lost = 0;
    int err = 0;

    if (!pvmemctl_makes_sense(saved) ||
        !pvmemctl_core_restore(&s->core, saved->state, saved->answer,
                               saved->payload, saved->nr_connections,
                               saved->buffers)) {
        error_report("pvmemctl: the saved state of the device makes no sense");
        return -EINVAL;
    }
    for (int i = 0; i < saved->nr_attributes; i++) {
        int failed = pvmemctl_restore_attribute(s, &saved->attributes[i]);

        if (failed) {
            err = failed;
            lost++;
        }
    }
    if (lost) {
        warn_report("pvmemctl: %u of %d memory attributes could not be "
                    "restored here: %s", lost, saved->nr_attributes,
                    strerror(err));
    }
    return pvmemctl_drop_saved(s);
}

static const VMStateDescription vmstate_pvmemctl_attribute = {
    .name = "pvmemctl/attribute",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_BUFFER_UNSAFE(block, PvmemctlSavedAttribute, 0,
                              sizeof_field(PvmemctlSavedAttribute, block)),
        VMSTATE_UINT64(offset, PvmemctlSavedAttribute),
        VMSTATE_UINT64(length, PvmemctlSavedAttribute),
        VMSTATE_UINT64(arg, PvmemctlSavedAttribute),
        VMSTATE_UINT8(code, PvmemctlSavedAttribute),
        VMSTATE_END_OF_LIST()
    }
};

static const VMStateDescription vmstate_pvmemctl = {
    .name = TYPE_PVMEMCTL,
    .version_id = 2,
    .minimum_version_id = 2,
    .pre_save = pvmemctl_pre_save,
    .post_save = pvmemctl_drop_saved,
    .pre_load = pvmemctl_pre_load,
    .post_load = pvmemctl_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_PCI_DEVICE(parent_obj, PvmemctlDevice),
        VMSTATE_UINT32(saved.state, PvmemctlDevice),
        VMSTATE_UINT32(saved.answer, PvmemctlDevice),
        VMSTATE_UINT64(saved.payload, PvmemctlDevice),
        VMSTATE_UINT32(saved.nr_connections, PvmemctlDevice),
        VMSTATE_INT32(saved.nr_attributes, PvmemctlDevice),
        VMSTATE_VALIDATE("pvmemctl has sensible counts", pvmemctl_can_load),
        VMSTATE_VARRAY_UINT32(saved.buffers, PvmemctlDevice,
                              saved.nr_connections, 0, vmstate_info_uint64,
                              uint64_t),
        VMSTATE_STRUCT_VARRAY_ALLOC(saved.attributes, PvmemctlDevice,
                                    saved.nr_attributes, 0,
                                    vmstate_pvmemctl_attribute,
                                    PvmemctlSavedAttribute),
        VMSTATE_END_OF_LIST()
    }
};

/* Life */

/* The first device sets up what all share, others must agree on its limits */
static bool pvmemctl_join(PvmemctlDevice *s, Error **errp)
{
    PvmemctlProcess *p = &pvmemctl_process;
    PvmemctlLedgerInfo info;

    if (s->max_ranges < PVMEMCTL_MIN_RANGES ||
        s->max_ranges > PVMEMCTL_MAX_RANGES) {
        error_setg(errp, "max-ranges=%u is not between %d and %d",
                   s->max_ranges, PVMEMCTL_MIN_RANGES, PVMEMCTL_MAX_RANGES);
        return false;
    }
    if (!p->ledger) {
        p->ledger = pvmemctl_ledger_new(s->max_ranges, s->max_locked);
        if (!p->ledger) {
            error_setg(errp, "no memory for %u ranges", s->max_ranges);
            return false;
        }
        pvmemctl_ram_init();
        pvmemctl_guard_init();
        register_savevm_live(TYPE_PVMEMCTL "-protections", 0, 1,
                             &pvmemctl_savevm_handlers, p);
    }
    pvmemctl_ledger_info(p->ledger, &info);
    if (info.max_ranges != (s->max_ranges & ~1u) ||
        info.max_locked != s->max_locked) {
        error_setg(errp, "max-ranges and max-locked are limits of the process: "
                   "another device has %u and %" PRIu64, info.max_ranges,
                   info.max_locked);
        return false;
    }
    return true;
}

static bool pvmemctl_parse_options(PvmemctlDevice *s, PvmemctlOptions *options,
                                   Error **errp)
{
    const char *bad;
    int action;

    *options = (PvmemctlOptions) {
        .minor = MEMCTL_PROTOCOL_MINOR,
        .hugetlb_release = s->hugetlb_release,
        .rate_limit = s->rate_limit,
        .timing = s->timing,
        .refuse = s->refuse,
        .lie = s->lie,
    };
    if (!pvmemctl_policy_parse(s->allow, &options->allowed, &bad)) {
        error_setg(errp, "allow=%s: no function is named '%.*s'", s->allow,
                   (int)strcspn(bad, ":"), bad);
        error_append_hint(errp, "Use 'all', 'default' or names like 'dontneed',"
                          " separated by ':'.\n");
        return false;
    }
    if (s->protocol && !strcmp(s->protocol, "1.0")) {
        options->minor = 0;
    } else if (s->protocol && strcmp(s->protocol, "1.1")) {
        error_setg(errp, "x-protocol=%s is neither 1.0 nor 1.1", s->protocol);
        return false;
    }
    if (s->rate_limit > INT64_MAX) {
        error_setg(errp, "rate-limit=%" PRIu64 " is too much", s->rate_limit);
        return false;
    }
    action = qapi_enum_parse(&PvmemctlGuardAction_lookup, s->on_guard,
                             PVMEMCTL_GUARD_ACTION_STOP, errp);
    s->guard_action = action;
    return action >= 0;
}

static void pvmemctl_realize(PCIDevice *dev, Error **errp)
{
    PvmemctlDevice *s = PVMEMCTL(dev);
    PvmemctlOptions options;
    ERRP_GUARD();

    s->guard_action = PVMEMCTL_GUARD_ACTION_STOP;
    if (!pvmemctl_parse_options(s, &options, errp) || *errp ||
        !pvmemctl_join(s, errp)) {
        return;
    }
    pvmemctl_core_init(&s->core, &pvmemctl_vmm, s, pvmemctl_process.ledger,
                       &options);
    QLIST_INSERT_HEAD(&pvmemctl_process.devices, s, next);
    memory_region_init_io(&s->bar, OBJECT(s), &pvmemctl_bar_ops, s,
                          TYPE_PVMEMCTL, MEMCTL_BAR_SIZE);
    memory_region_enable_lockless_io(&s->bar);
    pci_register_bar(dev, 0, PCI_BASE_ADDRESS_SPACE_MEMORY, &s->bar);
}

static void pvmemctl_reset(PvmemctlDevice *s)
{
    unsigned failed = pvmemctl_core_reset(&s->core);

    if (failed) {
        warn_report_once("pvmemctl: %u memory attributes could not be undone",
                         failed);
    }
}

static void pvmemctl_exit(PCIDevice *dev)
{
    PvmemctlDevice *s = PVMEMCTL(dev);

    /*
     * Doorbells that are under way end first; the memory lives until RCU says
     */
    pvmemctl_reset(s);
    QLIST_REMOVE(s, next);
}

static void pvmemctl_finalize(Object *obj)
{
    PvmemctlDevice *s = PVMEMCTL(obj);

    pvmemctl_drop_saved(s);
    if (s->core.vmm) {
        pvmemctl_core_destroy(&s->core);
    }
}

/*
 * In the first phase: devices that write to memory when they are reset, and the
 * loading of ROMs, come later.
 */
static void pvmemctl_reset_enter(Object *obj, ResetType type)
{
    pvmemctl_reset(PVMEMCTL(obj));
}

static const Property pvmemctl_properties[] = {
    DEFINE_PROP_STRING("allow", PvmemctlDevice, allow),
    DEFINE_PROP_STRING("x-protocol", PvmemctlDevice, protocol),
    DEFINE_PROP_STRING("on-guard", PvmemctlDevice, on_guard),
    DEFINE_PROP_UINT32("max-ranges", PvmemctlDevice, max_ranges,
                       PVMEMCTL_DEFAULT_RANGES),
    DEFINE_PROP_SIZE("max-locked", PvmemctlDevice, max_locked, 64 * MiB),
    DEFINE_PROP_SIZE("rate-limit", PvmemctlDevice, rate_limit, 0),
    DEFINE_PROP_BOOL("x-timing", PvmemctlDevice, timing, false),
    DEFINE_PROP_UINT32("x-refuse", PvmemctlDevice, refuse, 0),
    DEFINE_PROP_UINT32("x-lie", PvmemctlDevice, lie, 0),
    DEFINE_PROP_BOOL("hugetlb-release", PvmemctlDevice, hugetlb_release, false),
};

static void pvmemctl_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass);
    ResettableClass *rc = RESETTABLE_CLASS(klass);

    pc->realize = pvmemctl_realize;
    pc->exit = pvmemctl_exit;
    pc->vendor_id = MEMCTL_PCI_VENDOR_ID;
    pc->device_id = MEMCTL_PCI_DEVICE_ID;
    pc->subsystem_vendor_id = MEMCTL_PCI_VENDOR_ID;
    pc->subsystem_id = MEMCTL_PCI_SUBSYSTEM_ID;
    pc->class_id = PCI_CLASS_SYSTEM_OTHER;
    pc->revision = 1;
    rc->phases.enter = pvmemctl_reset_enter;
    dc->vmsd = &vmstate_pvmemctl;
    dc->desc = "Guest control of how the host backs its memory";
    device_class_set_props(dc, pvmemctl_properties);
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
}

static const TypeInfo pvmemctl_info = {
    .name          = TYPE_PVMEMCTL,
    .parent        = TYPE_PCI_DEVICE,
    .instance_size = sizeof(PvmemctlDevice),
    .instance_finalize = pvmemctl_finalize,
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
