/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pvmemctl: somebody touched memory that the guest has protected.
 *
 * QEMU itself accesses guest memory, under TCG always: that raises SIGSEGV
 * here. The handler takes the protection off the page, and the access is done
 * after all: a hit is reported, not prevented.  Under KVM the guest's own
 * accesses make KVM_RUN fail instead, see pvmemctl_guard_kvm_fault().
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-events-pvmemctl.h"
#include "qemu/error-report.h"
#include "qemu/event_notifier.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "hw/misc/pvmemctl.h"
#include "system/address-spaces.h"
#include "system/memory.h"
#include "system/ramblock.h"
#include "system/runstate.h"
#include "pvmemctl.h"
#include "trace.h"

/* Between two messages about hits, a guest can cause as many as it likes */
#define PVMEMCTL_MESSAGE_NS NANOSECONDS_PER_SECOND

static EventNotifier hit_notifier;
static struct sigaction old_action;

static void pvmemctl_segv(int sig, siginfo_t *info, void *context)
{
    if (info->si_code == SEGV_ACCERR && pvmemctl_guard_lift(info->si_addr)) {
        event_notifier_set(&hit_notifier);
        return;
    }
    if (old_action.sa_flags & SA_SIGINFO) {
        old_action.sa_sigaction(sig, info, context);
    } else if (old_action.sa_handler != SIG_DFL &&
               old_action.sa_handler != SIG_IGN) {
        old_action.sa_handler(sig);
    } else {
        /* The access is tried again, and ends the process */
        sigaction(sig, &old_action, NULL);
    }
}

typedef struct FindGpa {
    MemoryRegion *mr;
    ram_addr_t offset;
    hwaddr gpa;
} FindGpa;

static bool pvmemctl_find_gpa(Int128 start, Int128 len, const MemoryRegion *mr,
                              hwaddr offset, void *opaque)
{
    FindGpa *find = opaque;

    if (mr != find->mr || find->offset < offset ||
        find->offset - offset >= int128_get64(len)) {
        return false;
    }
    find->gpa = int128_get64(start) + (find->offset - offset);
    return true;
}

bool pvmemctl_gpa_of(void *host, hwaddr *gpa)
{
    FindGpa find = { .gpa = HWADDR_MAX };

    RCU_READ_LOCK_GUARD();
    find.mr = memory_region_from_host(host, &find.offset);
    if (find.mr) {
        flatview_for_each_range(
            address_space_to_flatview(&address_space_memory),
            pvmemctl_find_gpa, &find);
    }
    *gpa = find.gpa;
    return find.gpa != HWADDR_MAX;
}

typedef struct Report {
    uint64_t unreported;        /* hits since the last message */
    int64_t last;               /* when that was */
} Report;

static void pvmemctl_report(PvmemctlDevice *s, void *addr, hwaddr gpa,
                            bool has_gpa)
{
    static Report report;
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    g_autofree char *path = object_get_canonical_path(OBJECT(s));
    ram_addr_t offset = 0;
    RAMBlock *rb;

    report.unreported++;
    /* A stop is worth a message each time, and cannot come often */
    if (report.last && now - report.last < PVMEMCTL_MESSAGE_NS &&
        s->guard_action != PVMEMCTL_GUARD_ACTION_STOP) {
        return;
    }
    rb = qemu_ram_block_from_host(addr, false, &offset);
    warn_report("pvmemctl: access to memory that the guest has protected, at "
                "0x%" HWADDR_PRIx " (%" PRIu64 " since the last message)",
                gpa, report.unreported);
    qapi_event_send_pvmemctl_guard_hit(path, rb ? qemu_ram_get_idstr(rb) : "",
                                       offset, has_gpa, gpa, report.unreported,
                                       s->guard_action);
    report.unreported = 0;
    report.last = now;
}

static void pvmemctl_hit(void *arg, const void *owner, void *addr)
{
    PvmemctlDevice *s = pvmemctl_device_of(owner);
    hwaddr gpa;
    bool has_gpa = pvmemctl_gpa_of(addr, &gpa);

    if (!s) {
        return;
    }
    trace_pvmemctl_guard_hit(addr, gpa,
                             PvmemctlGuardAction_str(s->guard_action));
    pvmemctl_process.guard_hits++;
    pvmemctl_report(s, addr, gpa, has_gpa);
    switch (s->guard_action) {
    case PVMEMCTL_GUARD_ACTION_STOP:
        vm_stop(RUN_STATE_PAUSED);
        break;
    case PVMEMCTL_GUARD_ACTION_MCE:
        if (has_gpa) {
            pvmemctl_inject_mce(gpa);
        }
        break;
    default:
        break;
    }
}

/* In the main loop, with the BQL */
static void pvmemctl_collect(EventNotifier *n)
{
    if (event_notifier_test_and_clear(n)) {
        pvmemctl_guard_collect(pvmemctl_process.ledger, pvmemctl_hit, NULL);
    }
}

bool pvmemctl_guard_kvm_fault(bool has_gpa, uint64_t gpa)
{
    static __thread unsigned seen;
    PvmemctlLedger *ledger = pvmemctl_process.ledger;
    MemoryRegionSection section;
    bool again = false;

    if (!ledger) {
        return false;
    }
    if (!has_gpa) {
        again = pvmemctl_guard_fault(ledger, NULL, &seen);
    } else {
        section = memory_region_find(get_system_memory(), gpa, 1);
        if (section.mr && memory_region_is_ram(section.mr)) {
            void *addr = memory_region_get_ram_ptr(section.mr) +
                         section.offset_within_region;

            again = pvmemctl_guard_fault(ledger, addr, &seen);
        }
        memory_region_unref(section.mr);
    }
    if (again) {
        event_notifier_set(&hit_notifier);
    }
    return again;
}

void pvmemctl_protections_lift(void)
{
    if (pvmemctl_process.ledger) {
        pvmemctl_ledger_lift(pvmemctl_process.ledger);
    }
}

void pvmemctl_protections_reapply(void)
{
    if (pvmemctl_process.ledger) {
        unsigned failed = pvmemctl_ledger_reapply(pvmemctl_process.ledger);

        if (failed) {
            warn_report("pvmemctl: %u protections could not be set again",
                        failed);
        }
    }
}

void pvmemctl_guard_init(void)
{
    struct sigaction action = {
        .sa_sigaction = pvmemctl_segv,
        .sa_flags = SA_SIGINFO,
    };

    if (event_notifier_init(&hit_notifier, false)) {
        error_report("pvmemctl: no event notifier: %s", strerror(errno));
        exit(1);
    }
    event_notifier_set_handler(&hit_notifier, pvmemctl_collect);
    sigemptyset(&action.sa_mask);
    sigaction(SIGSEGV, &action, &old_action);
}
