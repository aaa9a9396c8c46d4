/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pvmemctl: tell the guest of a hit as a machine check, where there are such.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "cpu.h"
#include "pvmemctl.h"

void pvmemctl_inject_mce(hwaddr gpa)
{
#ifdef TARGET_I386
    /*
     * Bank 9 is for memory; software may recover, and need not do so at once:
     * the access is done.
     */
    const uint64_t status = MCI_STATUS_VAL | MCI_STATUS_UC | MCI_STATUS_EN |
                            MCI_STATUS_MISCV | MCI_STATUS_ADDRV | MCI_STATUS_S |
                            0xc0;
    X86CPU *cpu = X86_CPU(first_cpu);
    int flags = cpu_x86_support_mca_broadcast(&cpu->env)
                ? MCE_INJECT_BROADCAST : 0;

    cpu_x86_inject_mce(NULL, cpu, 9, status, MCG_STATUS_MCIP | MCG_STATUS_RIPV,
                       gpa, MCM_ADDR_PHYS << 6 | 0xc, flags);
#else
    warn_report_once("pvmemctl: on-guard=mce is for x86 only");
#endif
}
