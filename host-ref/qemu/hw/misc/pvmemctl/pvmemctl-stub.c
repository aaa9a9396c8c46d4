/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the rest of QEMU calls, where there is no pvmemctl.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-pvmemctl.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "hw/misc/pvmemctl.h"

bool pvmemctl_guard_kvm_fault(bool has_gpa, uint64_t gpa)
{
    return false;
}

void pvmemctl_protections_lift(void)
{
}

void pvmemctl_protections_reapply(void)
{
}

PvmemctlInfo *qmp_query_pvmemctl(Error **errp)
{
    error_setg(errp, "this QEMU has no pvmemctl device");
    return NULL;
}

void hmp_info_pvmemctl(Monitor *mon, const QDict *qdict)
{
    monitor_printf(mon, "This QEMU has no pvmemctl device\n");
}
