/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pvmemctl: tell the guest of a hit as a machine check, where there are such.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "system/hw_accel.h"
#include "cpu.h"
#include "pvmemctl.h"

#ifdef TARGET_I386
/* A processor that does not expect one would shut down: the machine be reset */
static bool pvmemctl_takes_mce(CPUState *cs)
{
    cpu_synchronize_state(cs);
    return X86_CPU(cs)->env.cr[4] & CR4_MCE_MASK;
}
#endif

void pvmemctl_inject_mce(hwaddr gpa)
{
#ifdef TARGET_I386
    /*
     * Bank 9 is for memory; software may recover, and need not do so at once:
     * the access is done.  That is what kvm_mce_inject() says of such errors,
     * too.
     */
    uint64_t status = MCI_STATUS_VAL | MCI_STATUS_EN | MCI_STATUS_MISCV |
                      MCI_STATUS_ADDRV;
    X86CPU *cpu = X86_CPU(first_cpu);
    int flags = cpu_x86_support_mca_broadcast(&cpu->env)
                ? MCE_INJECT_BROADCAST : 0;
    bool all = pvmemctl_takes_mce(first_cpu);
    CPUState *cs;

    if (IS_AMD_CPU(&cpu->env)) {
        status |= MCI_STATUS_DEFERRED | MCI_STATUS_POISON;
    } else {
        status |= MCI_STATUS_UC | MCI_STATUS_S | 0xc0;
    }
    if (flags & MCE_INJECT_BROADCAST) {
        CPU_FOREACH(cs) {
            all &= pvmemctl_takes_mce(cs);
        }
    }
    if (!all) {
        warn_report_once("pvmemctl: the guest takes no machine checks");
        return;
    }
    cpu_x86_inject_mce(NULL, cpu, 9, status, MCG_STATUS_MCIP | MCG_STATUS_RIPV,
                       gpa, MCM_ADDR_PHYS << 6 | 0xc, flags);
#else
    warn_report_once("pvmemctl: on-guard=mce is for x86 only");
#endif
}
