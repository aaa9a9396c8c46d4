/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pvmemctl, for the rest of QEMU: guests protect memory that QEMU itself
 * accesses. Without the device in the build all of this does nothing.
 */
#ifndef HW_MISC_PVMEMCTL_PUBLIC_H
#define HW_MISC_PVMEMCTL_PUBLIC_H

/**
 * pvmemctl_guard_kvm_fault: KVM_RUN failed with EFAULT
 *
 * @has_gpa: the exit says where
 * @gpa: guest-physical address
 *
 * Takes the protection away that may have caused that.  Without the BQL, in the
 * vCPU's thread.
 *
 * Returns: true if the vCPU can be run again.
 */
bool pvmemctl_guard_kvm_fault(bool has_gpa, uint64_t gpa);

/**
 * pvmemctl_protections_lift: about to hand guest memory to system calls, which
 * would fail where it is protected
 *
 * Until pvmemctl_protections_reapply().  Nests.
 */
void pvmemctl_protections_lift(void);
void pvmemctl_protections_reapply(void);

#endif
