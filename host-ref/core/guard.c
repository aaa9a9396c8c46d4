/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guard hits: somebody, the guest or the VMM itself, touched what the guest
 * had protected.  That must not end the VMM.  A fault handler takes the
 * protection off the page and has the access tried again; a thread does the
 * rest.
 *
 * A handler may interrupt anything, so what it looks at is a few words that
 * change atomically, and all it does is mprotect().
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

#define WATCHED_MAX 64

/* Mappings in which a guest has ever protected anything; end 0: none */
typedef struct Watched {
    _Atomic uintptr_t start, end;
    _Atomic uintptr_t page_size;
    atomic_bool overrun;        /* all protections of it were taken off */
} Watched;

static Watched watched[WATCHED_MAX];

/* What was hit since the last time; 0: free */
static _Atomic uintptr_t hits[PVMEMCTL_GUARD_HITS];

static Watched *find(uintptr_t addr)
{
    for (int i = 0; i < WATCHED_MAX; i++) {
        Watched *w = &watched[i];

        if (addr < atomic_load(&w->end) && addr >= atomic_load(&w->start)) {
            return w;
        }
    }
    return NULL;
}

/* Changes come under the ledger's lock */
bool pvmemctl_guard_watch(const PvmemctlRam *ram)
{
    uintptr_t start = (uintptr_t)ram->block;

    if (find(start)) {
        return true;
    }
    for (int i = 0; i < WATCHED_MAX; i++) {
        Watched *w = &watched[i];

        if (!atomic_load(&w->end)) {
            atomic_store(&w->start, start);
            atomic_store(&w->page_size, ram->page_size);
            atomic_store(&w->overrun, false);
            atomic_store(&w->end, start + ram->block_length);
            return true;
        }
    }
    return false;
}

void pvmemctl_guard_forget(const void *addr, uint64_t length)
{
    for (int i = 0; i < WATCHED_MAX; i++) {
        uintptr_t start = atomic_load(&watched[i].start);

        if (start >= (uintptr_t)addr && start < (uintptr_t)addr + length) {
            atomic_store(&watched[i].end, 0);
        }
    }
}

static bool note_hit(uintptr_t addr)
{
    for (int i = 0; i < PVMEMCTL_GUARD_HITS; i++) {
        uintptr_t none = 0;

        if (atomic_compare_exchange_strong(&hits[i], &none, addr)) {
            return true;
        }
    }
    return false;
}

/* Needs no new mappings, and no room to note it */
static bool lift_mapping(Watched *w)
{
    uintptr_t start = atomic_load(&w->start);
    int ret = mprotect((void *)start, atomic_load(&w->end) - start,
                       PROT_READ | PROT_WRITE);

    atomic_store(&w->overrun, true);
    return !ret;
}

bool pvmemctl_guard_lift(void *addr)
{
    Watched *w = find((uintptr_t)addr);
    uintptr_t page;
    int err = errno;
    bool ok;

    if (!w) {
        return false;
    }
    page = (uintptr_t)addr & ~(atomic_load(&w->page_size) - 1);
    /* hugetlb memory would stay cut */
    ok = note_hit((uintptr_t)addr) &&
         atomic_load(&w->page_size) == (uintptr_t)sysconf(_SC_PAGESIZE) &&
         !mprotect((void *)page, atomic_load(&w->page_size),
                   PROT_READ | PROT_WRITE);
    /* Too many of them, or too many mappings for the kernel? */
    if (!ok) {
        ok = lift_mapping(w);
    }
    errno = err;
    return ok;
}

bool pvmemctl_guard_lift_all(PvmemctlLedger *ledger)
{
    unsigned removals;

    if (!pvmemctl_ledger_protects(ledger, 0, &removals)) {
        return false;
    }
    for (int i = 0; i < WATCHED_MAX; i++) {
        if (atomic_load(&watched[i].end)) {
            lift_mapping(&watched[i]);
        }
    }
    return true;
}

bool pvmemctl_guard_fault(PvmemctlLedger *ledger, void *addr, unsigned *seen)
{
    unsigned before = *seen;

    if (addr && !find((uintptr_t)addr)) {
        return false;
    }
    if (pvmemctl_ledger_protects(ledger, (uintptr_t)addr, seen)) {
        if (addr) {
            return pvmemctl_guard_lift(addr);
        }
        /* Nothing may be left to lift, if another was faster just now */
        pvmemctl_guard_lift_all(ledger);
        return true;
    }
    return *seen != before;
}

/* Somewhere in a mapping that was hit; its start if nothing was noted */
static uintptr_t one_hit(Watched *w)
{
    for (int i = 0; i < PVMEMCTL_GUARD_HITS; i++) {
        uintptr_t addr = atomic_load(&hits[i]);

        if (addr && find(addr) == w) {
            return addr;
        }
    }
    return atomic_load(&w->start);
}

unsigned pvmemctl_guard_collect(PvmemctlLedger *ledger,
                                void (*hit)(void *arg, const void *owner,
                                            void *addr),
                                void *arg)
{
    unsigned nr = 0;

    for (int i = 0; i < WATCHED_MAX; i++) {
        Watched *w = &watched[i];

        if (atomic_exchange(&w->overrun, false)) {
            uintptr_t start = atomic_load(&w->start);
            const void *owner = pvmemctl_ledger_unprotect(
                ledger, start, atomic_load(&w->end));

            if (owner) {
                hit(arg, owner, (void *)one_hit(w));
                nr++;
            }
        }
    }
    for (int i = 0; i < PVMEMCTL_GUARD_HITS; i++) {
        uintptr_t addr = atomic_load(&hits[i]);
        Watched *w = addr ? find(addr) : NULL;

        if (w) {
            uintptr_t size = atomic_load(&w->page_size);
            uintptr_t page = addr & ~(size - 1);
            const void *owner = pvmemctl_ledger_unprotect(ledger, page,
                                                          page + size);

            /* Two may touch the same page before it is lifted: one hit */
            if (owner) {
                hit(arg, owner, (void *)addr);
                nr++;
            }
        }
        /* Only now is there room for another */
        atomic_store(&hits[i], 0);
    }
    return nr;
}
