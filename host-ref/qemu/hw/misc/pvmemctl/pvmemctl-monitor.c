/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pvmemctl: what the operator can see.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-pvmemctl.h"
#include "qemu/units.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "system/ramblock.h"
#include "exec/cpu-common.h"
#include "pvmemctl.h"

static PvmemctlFunctionInfoList *pvmemctl_functions_info(PvmemctlCore *core)
{
    PvmemctlFunctionInfoList *list = NULL, **tail = &list;

    for (unsigned code = 0; code < PVMEMCTL_NR_CODES; code++) {
        PvmemctlStats *stats = &core->stats[code];

        if (pvmemctl_function_name(code) &&
            (atomic_load(&stats->calls) || atomic_load(&stats->bytes))) {
            PvmemctlFunctionInfo *info = g_new0(PvmemctlFunctionInfo, 1);

            info->name = g_strdup(pvmemctl_function_name(code));
            info->calls = atomic_load(&stats->calls);
            info->failed = atomic_load(&stats->failed);
            info->bytes = atomic_load(&stats->bytes);
            info->time_ns = atomic_load(&stats->time);
            info->longest_ns = atomic_load(&stats->longest);
            info->system_ns = atomic_load(&stats->system);
            QAPI_LIST_APPEND(tail, info);
        }
    }
    return list;
}

static PvmemctlDeviceInfo *pvmemctl_device_info(PvmemctlDevice *s)
{
    static const PvmemctlDeviceState states[] = {
        [PVMEMCTL_STATE_BROKEN] = PVMEMCTL_DEVICE_STATE_BROKEN,
        [PVMEMCTL_STATE_REGISTERING] = PVMEMCTL_DEVICE_STATE_REGISTERING,
        [PVMEMCTL_STATE_READY] = PVMEMCTL_DEVICE_STATE_READY,
    };
    PvmemctlDeviceInfo *info = g_new0(PvmemctlDeviceInfo, 1);

    info->path = object_get_canonical_path(OBJECT(s));
    info->protocol = g_strdup_printf("%d.%u", MEMCTL_PROTOCOL_MAJOR,
                                     s->core.options.minor);
    info->state = states[atomic_load(&s->core.state)];
    info->connections = s->core.nr_connections;
    info->ignored = atomic_load(&s->core.ignored);
    info->functions = pvmemctl_functions_info(&s->core);
    return info;
}

typedef struct AttributeTail {
    PvmemctlAttributeInfoList **tail;
} AttributeTail;

static void pvmemctl_attribute_info(void *arg, const PvmemctlAttribute *a)
{
    AttributeTail *list = arg;
    PvmemctlAttributeInfo *info = g_new0(PvmemctlAttributeInfo, 1);
    PvmemctlDevice *s = pvmemctl_device_of(a->owner);
    ram_addr_t offset = 0;
    hwaddr gpa;
    RAMBlock *rb = qemu_ram_block_from_host((void *)a->start, false, &offset);

    info->function = g_strdup(pvmemctl_function_name(a->code));
    info->arg = a->arg;
    info->block = g_strdup(rb ? qemu_ram_get_idstr(rb) : "");
    info->offset = offset;
    info->length = a->end - a->start;
    info->has_gpa = pvmemctl_gpa_of((void *)a->start, &gpa);
    info->gpa = info->has_gpa ? gpa : 0;
    info->device = s ? object_get_canonical_path(OBJECT(s)) : g_strdup("");
    QAPI_LIST_APPEND(list->tail, info);
}

PvmemctlInfo *qmp_query_pvmemctl(Error **errp)
{
    PvmemctlInfo *info = g_new0(PvmemctlInfo, 1);
    PvmemctlDeviceInfoList **devices = &info->devices;
    AttributeTail attributes = { &info->ledger };
    PvmemctlLedgerInfo ledger = { 0 };
    PvmemctlDevice *s;

    QLIST_FOREACH(s, &pvmemctl_process.devices, next) {
        QAPI_LIST_APPEND(devices, pvmemctl_device_info(s));
    }
    if (pvmemctl_process.ledger) {
        pvmemctl_ledger_info(pvmemctl_process.ledger, &ledger);
        pvmemctl_ledger_each(pvmemctl_process.ledger, pvmemctl_attribute_info,
                             &attributes);
    }
    info->ranges = ledger.ranges;
    info->max_ranges = ledger.max_ranges;
    info->locked = ledger.locked;
    info->max_locked = ledger.max_locked;
    info->protections_lifted = ledger.lifted;
    info->guard_hits = pvmemctl_process.guard_hits;
    return info;
}

void hmp_info_pvmemctl(Monitor *mon, const QDict *qdict)
{
    g_autoptr(PvmemctlInfo) info = qmp_query_pvmemctl(&error_abort);
    PvmemctlDeviceInfoList *d;
    PvmemctlFunctionInfoList *f;
    PvmemctlAttributeInfoList *a;

    for (d = info->devices; d; d = d->next) {
        monitor_printf(mon, "%s: protocol %s, %s, %u connections, %" PRIu64
                       " doorbells without an answer\n", d->value->path,
                       d->value->protocol,
                       PvmemctlDeviceState_str(d->value->state),
                       d->value->connections, d->value->ignored);
        for (f = d->value->functions; f; f = f->next) {
            monitor_printf(mon, "  %-18s %" PRIu64 " calls, %" PRIu64
                           " failed, %" PRIu64 " KiB\n", f->value->name,
                           f->value->calls, f->value->failed,
                           f->value->bytes / KiB);
        }
    }
    monitor_printf(mon, "ledger: %u of %u borders between mappings, %" PRIu64
                   " KiB locked, %" PRIu64 " guard hits%s\n", info->ranges,
                   info->max_ranges, info->locked / KiB, info->guard_hits,
                   info->protections_lifted ? ", protections are lifted" : "");
    for (a = info->ledger; a; a = a->next) {
        monitor_printf(mon, "  %s+0x%" PRIx64 " %" PRIu64 " KiB: %s\n",
                       a->value->block, a->value->offset,
                       a->value->length / KiB, a->value->function);
    }
}
