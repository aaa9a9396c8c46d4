/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ledger: what guests have set and the VMM must give back.
 *
 * An attribute is written down before the system call that sets it, and
 * crossed out after the one that undoes it.  So whatever fails half way, the
 * ledger holds at least what is set; to undo what is not does no harm.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* A thread that waits sleeps on one of so many, for few to wake in vain */
#define NR_TURNS 32

struct PvmemctlLedger {
    /* Serialises lifting and setting again; comes before the one below */
    pthread_mutex_t lift_lock;

    /*
     * Protects all below, and is held across the system call for one chunk, so
     * that ledger and memory agree.  The innermost lock.  Had in turns, by
     * number: who lets it go between chunks gets it back after all who wait.
     */
    pthread_mutex_t mutex;
    pthread_cond_t turns[NR_TURNS];
    _Atomic unsigned next_turn;
    unsigned turn;              /* whose it is */

    unsigned nr, max;           /* attributes */
    unsigned nr_cuts;
    uintptr_t *cuts;            /* where hugetlb memory was cut */
    uint64_t locked, max_locked;
    unsigned lifted;            /* by so many the protections are off */
    unsigned removals;          /* of protections, since the beginning */
    void *kept_whole;           /* the last mapping of keep_whole() */
    PvmemctlAttribute attributes[]; /* by kind, then address; no two overlap */
};

static PvmemctlKind kind_of(uint8_t code)
{
    return pvmemctl_function(code)->kind;
}

static void lock(PvmemctlLedger *l)
{
    unsigned mine = atomic_fetch_add(&l->next_turn, 1);

    pthread_mutex_lock(&l->mutex);
    while (l->turn != mine) {
        pthread_cond_wait(&l->turns[mine % NR_TURNS], &l->mutex);
    }
}

static void unlock(PvmemctlLedger *l)
{
    /* Who has a number and not the mutex yet will see it */
    if (++l->turn != atomic_load(&l->next_turn)) {
        pthread_cond_broadcast(&l->turns[l->turn % NR_TURNS]);
    }
    pthread_mutex_unlock(&l->mutex);
}

/* Between two chunks */
static void let_others_in(PvmemctlLedger *l)
{
    unlock(l);
    lock(l);
}

PvmemctlLedger *pvmemctl_ledger_new(unsigned max_ranges, uint64_t max_locked)
{
    /* Two borders each; guard hits cut attributes in two before we know */
    unsigned max = max_ranges / 2 - PVMEMCTL_GUARD_HITS;
    PvmemctlLedger *l = calloc(1, sizeof(*l) + max * sizeof(*l->attributes));

    if (l) {
        pthread_mutex_init(&l->lift_lock, NULL);
        pthread_mutex_init(&l->mutex, NULL);
        for (int i = 0; i < NR_TURNS; i++) {
            pthread_cond_init(&l->turns[i], NULL);
        }
        l->max = max;
        l->cuts = calloc(2 * max, sizeof(*l->cuts));
        l->max_locked = max_locked;
        pvmemctl_functions_init();
    }
    if (l && !l->cuts) {
        pvmemctl_ledger_free(l);
        l = NULL;
    }
    return l;
}

void pvmemctl_ledger_free(PvmemctlLedger *l)
{
    if (l) {
        for (int i = 0; i < NR_TURNS; i++) {
            pthread_cond_destroy(&l->turns[i]);
        }
        pthread_mutex_destroy(&l->mutex);
        pthread_mutex_destroy(&l->lift_lock);
        free(l->cuts);
        free(l);
    }
}

/* For so many attributes the borders suffice */
static unsigned room(const PvmemctlLedger *l)
{
    return l->max - (l->nr_cuts + 1) / 2;
}

/* The first attribute of @kind that ends behind @addr, or where it would be */
static unsigned find(const PvmemctlLedger *l, PvmemctlKind kind, uintptr_t addr)
{
    unsigned low = 0, high = l->nr;

    while (low < high) {
        unsigned mid = (low + high) / 2;
        const PvmemctlAttribute *a = &l->attributes[mid];
        PvmemctlKind k = kind_of(a->code);

        if (k < kind || (k == kind && a->end <= addr)) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

static bool is_of(const PvmemctlLedger *l, unsigned i, PvmemctlKind kind)
{
    return i < l->nr && kind_of(l->attributes[i].code) == kind;
}

static bool same_but_place(const PvmemctlAttribute *a,
                           const PvmemctlAttribute *b)
{
    return a->code == b->code && a->undo == b->undo && a->arg == b->arg &&
           a->owner == b->owner;
}

static uint64_t locked_bytes(const PvmemctlAttribute *a)
{
    return a->code == MEMCTL_MLOCK ? a->end - a->start : 0;
}

/*
 * Make [start, end) hold @new, which is just there and in @ram, or nothing.
 * 0 or ENOSPC, and then nothing has changed.
 */
static int set_range(PvmemctlLedger *l, PvmemctlKind kind, uintptr_t start,
                     uintptr_t end, const PvmemctlAttribute *new,
                     const PvmemctlRam *ram)
{
    PvmemctlAttribute put[3];
    unsigned first = find(l, kind, start), last = first, nr = 0;
    uint64_t locked = l->locked;

    /* A neighbour of the same sort grows instead, if in the same mapping */
    PvmemctlAttribute grown = { 0 };
    bool grows_up = false;
    if (new) {
        uintptr_t block = (uintptr_t)ram->block;

        grown = *new;
        grows_up = end != block + ram->block_length;
        if (first && start != block && is_of(l, first - 1, kind) &&
            l->attributes[first - 1].end == start &&
            same_but_place(&l->attributes[first - 1], new)) {
            last = --first;
        }
    }
    while (is_of(l, last, kind) &&
           (l->attributes[last].start < end ||
            (grows_up && l->attributes[last].start == end &&
             same_but_place(&l->attributes[last], new)))) {
        locked -= locked_bytes(&l->attributes[last]);
        /* If what this replaces is to stay after all, it has to be undone */
        grown.proven |= l->attributes[last].proven;
        last++;
    }

    /* What sticks out on either side stays */
    if (first < last && l->attributes[first].start < start) {
        if (new && same_but_place(&l->attributes[first], new)) {
            grown.start = l->attributes[first].start;
        } else {
            put[nr] = l->attributes[first];
            put[nr++].end = start;
        }
    }
    if (new) {
        put[nr++] = grown;
    }
    if (first < last && l->attributes[last - 1].end > end) {
        if (new && same_but_place(&l->attributes[last - 1], new)) {
            put[nr - 1].end = l->attributes[last - 1].end;
        } else {
            put[nr] = l->attributes[last - 1];
            put[nr++].start = end;
        }
    }

    for (unsigned i = 0; i < nr; i++) {
        locked += locked_bytes(&put[i]);
    }
    if ((new && l->nr - (last - first) + nr > room(l)) ||
        l->nr - (last - first) + nr > l->max ||
        (new && locked > l->locked && locked > l->max_locked)) {
        return ENOSPC;
    }
    l->locked = locked;
    l->removals += kind == PVMEMCTL_KIND_PROTECT && !new;
    memmove(&l->attributes[first + nr], &l->attributes[last],
            (l->nr - last) * sizeof(put[0]));
    memcpy(&l->attributes[first], put, nr * sizeof(put[0]));
    l->nr = l->nr - (last - first) + nr;
    return 0;
}

/* The system call that a function stands for, of those that leave attributes */
static int run_code(uint8_t code, uint64_t arg, uintptr_t start, uintptr_t end)
{
    const PvmemctlFunction *f = pvmemctl_function(code);
    PvmemctlAction action = { .how = f->how, .value = f->value, .arg = arg };

    return pvmemctl_action_run(&action, (void *)start, end - start);
}

/* The kernel cannot do that here at all, or may not */
static bool is_impossible(int err)
{
    return err == EINVAL || err == EBADF || err == EPERM || err == ENOSYS ||
           err == EOPNOTSUPP;
}

/*
 * The kernel joins two anonymous mappings again only if they have been one when
 * the first page was written.  What a guest sets on memory that nobody has
 * touched, and takes back later, would leave its borders for ever, and not be
 * bounded by anything: so touch a page, while there is nothing in the whole
 * mapping that could have cut it.  That changes no contents, and is done once:
 * what becomes of the page later does not matter.
 */
static void keep_whole(PvmemctlLedger *l, const PvmemctlRam *ram, void *addr)
{
    const PvmemctlAction touch = {
        .how = PVMEMCTL_MADVISE, .value = MADV_POPULATE_WRITE,
    };
    uintptr_t start = (uintptr_t)ram->block, end = start + ram->block_length;

    /* hugetlb mappings are never joined */
    if (ram->block == l->kept_whole || ram->flags & PVMEMCTL_RAM_SHARED ||
        pvmemctl_is_huge(ram)) {
        return;
    }
    for (int kind = PVMEMCTL_KIND_NONE + 1; kind < PVMEMCTL_NR_KINDS; kind++) {
        unsigned i = find(l, kind, start);

        if (is_of(l, i, kind) && l->attributes[i].start < end) {
            return;
        }
    }
    if (!pvmemctl_action_run(&touch, addr, ram->page_size)) {
        l->kept_whole = ram->block;
    }
}

/* About to cut hugetlb memory at @addr; false if there are too many borders */
static bool cut_huge_at(PvmemctlLedger *l, const PvmemctlRam *ram,
                        uintptr_t addr)
{
    uintptr_t block = (uintptr_t)ram->block;

    if (!pvmemctl_is_huge(ram) || addr == block ||
        addr == block + ram->block_length) {
        return true;
    }
    for (unsigned i = 0; i < l->nr_cuts; i++) {
        if (l->cuts[i] == addr) {
            return true;
        }
    }
    if (l->nr >= room(l)) {
        return false;
    }
    l->cuts[l->nr_cuts++] = addr;
    return true;
}

static bool cut_huge(PvmemctlLedger *l, const PvmemctlRam *ram, uintptr_t start,
                     uintptr_t end)
{
    return cut_huge_at(l, ram, start) && cut_huge_at(l, ram, end);
}

static void forget_cuts(PvmemctlLedger *l, uintptr_t start, uintptr_t end)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < l->nr_cuts; i++) {
        if (l->cuts[i] < start || l->cuts[i] >= end) {
            l->cuts[kept++] = l->cuts[i];
        }
    }
    l->nr_cuts = kept;
}

/*
 * An attribute that the kernel would not set, where there was none of its kind.
 * Part of the range may have it all the same, so it is undone first: the record
 * goes if that works, or is just as impossible.
 */
static void drop_impossible(PvmemctlLedger *l, const PvmemctlAttribute *a)
{
    int err = run_code(a->undo, 0, a->start, a->end);

    if (!err || is_impossible(err)) {
        set_range(l, kind_of(a->code), a->start, a->end, NULL, NULL);
    }
}

/* Where the guest asks for what is the default: what there was goes */
static int give_back(PvmemctlLedger *l, PvmemctlKind kind,
                     const PvmemctlAction *action, const PvmemctlRam *ram,
                     uintptr_t start, uintptr_t end)
{
    unsigned i = find(l, kind, start), cuts = l->nr_cuts;
    bool splits = is_of(l, i, kind) && l->attributes[i].start < start &&
                  l->attributes[i].end > end;
    int err;

    if (!cut_huge(l, ram, start, end) || (splits && l->nr >= room(l))) {
        l->nr_cuts = cuts;
        return ENOSPC;
    }
    err = pvmemctl_action_run(action, (void *)start, end - start);
    return err ? err : set_range(l, kind, start, end, NULL, NULL);
}

/* Write down what is about to be set; 0 or ENOSPC, and then nothing is */
static int record(PvmemctlLedger *l, const PvmemctlAttribute *new,
                  const PvmemctlRam *ram)
{
    unsigned cuts = l->nr_cuts;
    int err = ENOSPC;

    if (cut_huge(l, ram, new->start, new->end)) {
        err = set_range(l, kind_of(new->code), new->start, new->end, new, ram);
    }
    if (err) {
        l->nr_cuts = cuts;
    }
    return err;
}

static int set(PvmemctlLedger *l, const PvmemctlAttribute *new,
               const PvmemctlAction *action, const PvmemctlRam *ram)
{
    PvmemctlKind kind = kind_of(new->code);
    unsigned i = find(l, kind, new->start);
    bool fresh = !is_of(l, i, kind) || l->attributes[i].start >= new->end;
    int err;

    if (kind == PVMEMCTL_KIND_PROTECT && l->lifted) {
        return EBUSY;
    }
    if (kind == PVMEMCTL_KIND_PROTECT && !pvmemctl_guard_watch(ram)) {
        return ENOSPC;
    }
    keep_whole(l, ram, (void *)new->start);
    err = record(l, new, ram);
    if (err) {
        return err;
    }
    err = pvmemctl_action_run(action, (void *)new->start,
                              new->end - new->start);
    if (!is_impossible(err)) {
        /* An error that comes half way leaves a part of it set */
        l->attributes[find(l, kind, new->start)].proven = true;
    } else if (fresh) {
        drop_impossible(l, new);
    }
    return err;
}

int pvmemctl_ledger_apply(PvmemctlLedger *l, const void *owner, uint64_t code,
                          const PvmemctlAction *action,
                          const PvmemctlRam *ram, void *addr, uint64_t length)
{
    PvmemctlKind kind = kind_of(code);
    const PvmemctlAttribute new = {
        .start = (uintptr_t)addr,
        .end = (uintptr_t)addr + length,
        .code = code,
        .undo = pvmemctl_function_undo(kind, ram->flags),
        .arg = kind == PVMEMCTL_KIND_NAME ? action->arg : 0,
        .huge = pvmemctl_is_huge(ram),
        .owner = owner,
    };
    int err;

    lock(l);
    if (pvmemctl_function_is_default(code, new.arg, ram->flags)) {
        err = give_back(l, kind, action, ram, new.start, new.end);
    } else {
        err = set(l, &new, action, ram);
    }
    unlock(l);
    return err;
}

/*
 * Undo [start, end) of the attribute @a; 0 or an errno.  Called with the lock.
 */
static int undo_part(PvmemctlLedger *l, const PvmemctlAttribute *a,
                     uintptr_t start, uintptr_t end)
{
    /* Also of a protection that was lifted: that may have failed */
    int err = run_code(a->undo, 0, start, end);

    /* Cutting off an end never takes more room */
    return err ? err : set_range(l, kind_of(a->code), start, end, NULL, NULL);
}

/*
 * As much of an attribute as is wanted.  What kernels are built without, or do
 * not do for all memory, was never set if it cannot be undone, unless the
 * kernel has done it once.
 */
static bool undo_whole(PvmemctlLedger *l, const PvmemctlAttribute *a,
                       uintptr_t start, uintptr_t end)
{
    PvmemctlKind kind = kind_of(a->code);
    int err = undo_part(l, a, start, end);

    if (is_impossible(err) && !a->proven &&
        (kind == PVMEMCTL_KIND_NAME || kind == PVMEMCTL_KIND_MERGE ||
         kind == PVMEMCTL_KIND_HUGE)) {
        err = set_range(l, kind, start, end, NULL, NULL);
    }
    return !err;
}

static bool is_wanted(const PvmemctlAttribute *a, const void *owner,
                      uintptr_t start, uintptr_t end)
{
    return (!owner || a->owner == owner) && a->start < end && a->end > start;
}

/* What is never joined again is not cut for our convenience */
static uintptr_t chunk_end(const PvmemctlAttribute *a, uintptr_t from,
                           uintptr_t to)
{
    return to - from > PVMEMCTL_CHUNK && !a->huge ? from + PVMEMCTL_CHUNK : to;
}

/*
 * The lock is let go after each chunk, so others may change the ledger
 * meanwhile. Go on behind what was looked at last, wherever that is by then.
 */
static unsigned undo_all(PvmemctlLedger *l, const void *owner, uintptr_t start,
                         uintptr_t end)
{
    PvmemctlKind kind = PVMEMCTL_KIND_NONE;
    uintptr_t behind = 0;
    unsigned failed = 0, i;

    lock(l);
    while ((i = find(l, kind, behind)) < l->nr) {
        PvmemctlAttribute a = l->attributes[i];
        uintptr_t from, to, chunk;

        kind = kind_of(a.code);
        behind = a.end;
        if (!is_wanted(&a, owner, start, end)) {
            continue;
        }
        from = a.start > start ? a.start : start;
        to = a.end < end ? a.end : end;
        chunk = chunk_end(&a, from, to);
        if (a.start == from && chunk < to && !undo_part(l, &a, from, chunk)) {
            behind = chunk;
        } else if (!undo_whole(l, &a, from, to)) {
            failed++;
        }
        let_others_in(l);
    }
    unlock(l);
    return failed;
}

unsigned pvmemctl_ledger_undo(PvmemctlLedger *l, const void *owner)
{
    return undo_all(l, owner, 0, UINTPTR_MAX);
}

void pvmemctl_ledger_undo_range(PvmemctlLedger *l, const void *addr,
                                uint64_t length)
{
    undo_all(l, NULL, (uintptr_t)addr, (uintptr_t)addr + length);
}

void pvmemctl_ledger_forget(PvmemctlLedger *l, const void *addr,
                            uint64_t length)
{
    uintptr_t start = (uintptr_t)addr, end = start + length;
    unsigned kept = 0;

    lock(l);
    for (unsigned i = 0; i < l->nr; i++) {
        /* No attribute reaches from one mapping into the next */
        if (is_wanted(&l->attributes[i], NULL, start, end)) {
            l->locked -= locked_bytes(&l->attributes[i]);
        } else {
            l->attributes[kept++] = l->attributes[i];
        }
    }
    l->nr = kept;
    forget_cuts(l, start, end);
    if ((uintptr_t)l->kept_whole >= start && (uintptr_t)l->kept_whole < end) {
        l->kept_whole = NULL;
    }
    pvmemctl_guard_forget(addr, length);
    unlock(l);
}

/*
 * Call the kernel for every protection there is, as set or as undone.  The lock
 * is let go after each chunk.  Meanwhile protections may go, and after that
 * there is nothing to be done; new ones come only when they are to be set.
 */
static unsigned each_protection(PvmemctlLedger *l, bool set)
{
    uintptr_t behind = 0;
    unsigned failed = 0;

    for (;;) {
        unsigned i = find(l, PVMEMCTL_KIND_PROTECT, behind);
        PvmemctlAttribute a;
        uintptr_t from, to;
        uint8_t code;

        if (!is_of(l, i, PVMEMCTL_KIND_PROTECT)) {
            return failed;
        }
        a = l->attributes[i];
        code = set ? a.code : a.undo;
        from = a.start > behind ? a.start : behind;
        to = chunk_end(&a, from, a.end);
        if (to < a.end && !run_code(code, 0, from, to)) {
            behind = to;
        } else {
            failed += !!run_code(code, 0, from, a.end);
            behind = a.end;
        }
        let_others_in(l);
    }
}

void pvmemctl_ledger_lift(PvmemctlLedger *l)
{
    pthread_mutex_lock(&l->lift_lock);
    lock(l);
    /* None is set from here on */
    if (!l->lifted++) {
        each_protection(l, false);
    }
    unlock(l);
    pthread_mutex_unlock(&l->lift_lock);
}

unsigned pvmemctl_ledger_reapply(PvmemctlLedger *l)
{
    unsigned failed = 0;

    pthread_mutex_lock(&l->lift_lock);
    lock(l);
    if (!--l->lifted) {
        failed = each_protection(l, true);
    }
    unlock(l);
    pthread_mutex_unlock(&l->lift_lock);
    return failed;
}

int pvmemctl_ledger_restore(PvmemctlLedger *l, const PvmemctlRam *ram,
                            const PvmemctlAttribute *attribute)
{
    const PvmemctlOptions all = { .allowed = UINT64_MAX, .minor = 1 };
    const PvmemctlFunction *f = pvmemctl_function(attribute->code);
    PvmemctlAction action;
    uint64_t granule;
    int err;

    if (!f || !f->kind) {
        return EINVAL;
    }
    err = pvmemctl_function_plan(&all, attribute->code, ram, &action, &granule);
    if (err) {
        return err;
    }
    action.arg = attribute->arg;
    return pvmemctl_ledger_apply(l, attribute->owner, attribute->code, &action,
                                 ram, ram->addr, ram->length);
}

void pvmemctl_ledger_each(PvmemctlLedger *l,
                          void (*fn)(void *arg, const PvmemctlAttribute *a),
                          void *arg)
{
    lock(l);
    for (unsigned i = 0; i < l->nr; i++) {
        fn(arg, &l->attributes[i]);
    }
    unlock(l);
}

void pvmemctl_ledger_info(PvmemctlLedger *l, PvmemctlLedgerInfo *info)
{
    lock(l);
    *info = (PvmemctlLedgerInfo) {
        .attributes = l->nr,
        .protections = find(l, PVMEMCTL_KIND_PROTECT + 1, 0) -
                       find(l, PVMEMCTL_KIND_PROTECT, 0),
        .ranges = 2 * l->nr + l->nr_cuts,
        .max_ranges = 2 * (l->max + PVMEMCTL_GUARD_HITS),
        .locked = l->locked,
        .max_locked = l->max_locked,
        .lifted = l->lifted,
    };
    unlock(l);
}

bool pvmemctl_ledger_protects(PvmemctlLedger *l, uintptr_t addr,
                              unsigned *removals)
{
    bool protects;
    unsigned i;

    lock(l);
    i = find(l, PVMEMCTL_KIND_PROTECT, addr);
    protects = is_of(l, i, PVMEMCTL_KIND_PROTECT) &&
               (!addr || l->attributes[i].start <= addr);
    *removals = l->removals;
    unlock(l);
    return protects;
}

const void *pvmemctl_ledger_unprotect(PvmemctlLedger *l, uintptr_t start,
                                      uintptr_t end)
{
    const void *owner = NULL;

    lock(l);
    /* Go on behind each chunk: what the guest protects there again is new */
    while (start < end) {
        unsigned i = find(l, PVMEMCTL_KIND_PROTECT, start);
        PvmemctlAttribute a;

        if (!is_of(l, i, PVMEMCTL_KIND_PROTECT) ||
            l->attributes[i].start >= end) {
            break;
        }
        a = l->attributes[i];
        owner = a.owner;
        /* Without room for two halves all of it goes */
        if (l->nr >= room(l) && a.start < start && a.end > end) {
            start = a.start;
            end = a.end;
        }
        start = a.start > start ? a.start : start;
        a.end = chunk_end(&a, start, a.end < end ? a.end : end);
        /* The guest may have protected it again since: undone for sure */
        undo_part(l, &a, start, a.end);
        start = a.end;
        let_others_in(l);
    }
    unlock(l);
    return owner;
}
