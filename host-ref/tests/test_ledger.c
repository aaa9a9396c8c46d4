/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ledger: what guests have set, and that the VMM gets its defaults back.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fake_vmm.h"
#include "kernel_view.h"

static PvmemctlLedgerInfo info(void)
{
    PvmemctlLedgerInfo i;

    pvmemctl_ledger_info(ledger, &i);
    return i;
}

/*
 * Against a model: for every page and kind the function that set it, and who.
 * Random requests of two devices; after each the kernel and the ledger must
 * agree with the model about every page.
 */

enum { PROTECT, LOCK, DUMP, MERGE, THP, NAME, NR_KINDS };

static const int modelled[] = { LEFT, SHARED, COPY };
#define NR_MODELLED 3

typedef struct Cell {
    uint8_t code;               /* 0: default */
    uint64_t arg;
    const void *owner;
} Cell;

static Cell model[NR_MODELLED][REGION_PAGES][NR_KINDS];
static unsigned lifted;

static const struct {
    uint64_t code;
    int kind;
    bool sets;
} operations[] = {
    { MEMCTL_MPROTECT_NONE, PROTECT, true },
    { MEMCTL_MPROTECT_R, PROTECT, true },
    { MEMCTL_MPROTECT_W, PROTECT, false },
    { MEMCTL_MPROTECT_RW, PROTECT, false },
    { MEMCTL_MLOCK, LOCK, true },
    { MEMCTL_MUNLOCK, LOCK, false },
    { MEMCTL_DONTDUMP, DUMP, true },
    { MEMCTL_DODUMP, DUMP, false },
    { MEMCTL_MERGEABLE, MERGE, true },
    { MEMCTL_UNMERGEABLE, MERGE, false },
    { MEMCTL_NOHUGEPAGE, THP, true },
    { MEMCTL_HUGEPAGE, THP, false },
    { MEMCTL_SET_VMA_ANON_NAME, NAME, true },
};

static bool is_possible(unsigned op, int region)
{
    switch (operations[op].kind) {
    case MERGE:
        return has_ksm() && region != SHARED;
    case THP:
        return has_thp() && region != COPY;
    case NAME:
        return has_names() && region == LEFT;
    default:
        return true;
    }
}

static void check_kernel(void)
{
    for (unsigned r = 0; r < NR_MODELLED; r++) {
        PageState states[REGION_PAGES];

        if (r) {
            page_states_then(modelled[r], states);
        } else {
            page_states(modelled[r], states);
        }
        for (unsigned page = 0; page < REGION_PAGES; page++) {
            const Cell *cells = model[r][page];
            const PageState *s = &states[page];
            const char *perms =
                lifted ? "rw-" :
                cells[PROTECT].code == MEMCTL_MPROTECT_NONE ? "---" :
                cells[PROTECT].code == MEMCTL_MPROTECT_R ? "r--" : "rw-";

            assert_string_equal(s->perms, perms);
            assert_int_equal(s->locked, !!cells[LOCK].code);
            assert_int_equal(s->no_dump, !!cells[DUMP].code);
            assert_int_equal(s->mergeable, !!cells[MERGE].code);
            assert_int_equal(s->no_huge, !!cells[THP].code);
            assert_int_equal(s->name, cells[NAME].arg);
        }
    }
}

static int kind_of(uint64_t code)
{
    for (unsigned i = 0; i < ARRAY_SIZE(operations); i++) {
        if (operations[i].code == code) {
            return operations[i].kind;
        }
    }
    fail();
    return 0;
}

typedef struct Comparison {
    unsigned cells;             /* of the model that the ledger has */
    PvmemctlAttribute last;
    unsigned seen;
} Comparison;

static bool may_be_joined(const PvmemctlAttribute *a,
                          const PvmemctlAttribute *b)
{
    return a->end == b->start && a->code == b->code && a->arg == b->arg &&
           a->owner == b->owner;
}

static void compare_attribute(void *arg, const PvmemctlAttribute *a)
{
    Comparison *c = arg;

    assert_true(a->start < a->end);
    if (c->seen++ && kind_of(c->last.code) == kind_of(a->code)) {
        assert_true(c->last.end <= a->start);
        assert_false(may_be_joined(&c->last, a));
    }
    c->last = *a;
    for (uintptr_t at = a->start; at < a->end; at += page_size) {
        const Cell *cell = NULL;

        for (unsigned r = 0; r < NR_MODELLED; r++) {
            uintptr_t start = (uintptr_t)host(modelled[r], 0);

            if (at - start < REGION_SIZE) {
                cell = &model[r][(at - start) / page_size][kind_of(a->code)];
            }
        }
        assert_non_null(cell);
        assert_int_equal(cell->code, a->code);
        assert_int_equal(cell->arg, a->arg);
        assert_ptr_equal(cell->owner, a->owner);
        c->cells++;
    }
}

static void check_ledger(void)
{
    Comparison c = { 0 };
    const Cell *cell = &model[0][0][0];
    unsigned cells = 0, locked = 0;

    pvmemctl_ledger_each(ledger, compare_attribute, &c);
    for (unsigned i = 0; i < sizeof(model) / sizeof(*cell); i++) {
        cells += !!cell[i].code;
        locked += cell[i].code == MEMCTL_MLOCK;
    }
    assert_int_equal(c.cells, cells);
    assert_int_equal(info().attributes, c.seen);
    assert_int_equal(info().ranges, 2 * c.seen);
    assert_int_equal(info().locked, locked * page_size);
    assert_int_equal(info().lifted, lifted);
}

static void forget_cells(unsigned r, unsigned first, unsigned nr,
                         const void *owner)
{
    for (unsigned page = first; page < first + nr; page++) {
        for (int kind = 0; kind < NR_KINDS; kind++) {
            Cell *cell = &model[r][page][kind];

            if (!owner || cell->owner == owner) {
                *cell = (Cell) { 0 };
            }
        }
    }
}

static bool has_closed(unsigned r, unsigned first, unsigned nr)
{
    for (unsigned page = first; page < first + nr; page++) {
        if (model[r][page][PROTECT].code == MEMCTL_MPROTECT_NONE) {
            return !lifted;
        }
    }
    return false;
}

static void random_request(void)
{
    unsigned op = random() % ARRAY_SIZE(operations);
    unsigned r = random() % NR_MODELLED;
    unsigned first = random() % REGION_PAGES;
    unsigned nr = 1 + random() % (REGION_PAGES - first);
    int kind = operations[op].kind;
    uint64_t arg = kind == NAME ? random() % 3 : 0;
    bool sets = operations[op].sets && (kind != NAME || arg);
    struct memctl_vmm_ret ret;

    if (!is_possible(op, modelled[r])) {
        return;
    }
    if (lifted && kind == PROTECT && sets) {
        assert_failed(EBUSY, operations[op].code, gpa(modelled[r], first),
                      nr * page_size, arg);
        return;
    }
    /* The kernel locks what is protected, and says that it cannot fill it */
    ret = ask(operations[op].code, gpa(modelled[r], first), nr * page_size,
              arg);
    assert_int_equal(ret.ret_errno, operations[op].code == MEMCTL_MLOCK &&
                                    has_closed(r, first, nr) ? ENOMEM : 0);
    for (unsigned page = first; page < first + nr; page++) {
        model[r][page][kind] = sets ? (Cell) {
            .code = operations[op].code, .arg = arg, .owner = core,
        } : (Cell) { 0 };
    }
}

static void random_event(void)
{
    unsigned r = random() % NR_MODELLED;
    unsigned first = random() % REGION_PAGES;
    unsigned nr = 1 + random() % (REGION_PAGES - first);

    switch (random() % 4) {
    case 0:
        assert_int_equal(pvmemctl_core_reset(core), 0);
        for (r = 0; r < NR_MODELLED; r++) {
            forget_cells(r, 0, REGION_PAGES, core);
        }
        break;
    case 1:
        pvmemctl_ledger_undo_range(ledger, host(modelled[r], first),
                                   nr * page_size);
        forget_cells(r, first, nr, NULL);
        break;
    case 2:
        pvmemctl_ledger_lift(ledger);
        lifted++;
        break;
    case 3:
        if (lifted) {
            assert_int_equal(pvmemctl_ledger_reapply(ledger), 0);
            lifted--;
        }
        break;
    }
}

static void kernel_and_ledger_agree_with_a_model(void **state)
{
    PvmemctlCore *devices[2] = { core, make_core(&all_options) };

    memset(model, 0, sizeof(model));
    lifted = 0;
    for (unsigned seed = 1; seed <= 4; seed++) {
        srandom(seed);
        for (unsigned i = 0; i < 150; i++) {
            core = devices[random() % 2];
            if (random() % 25) {
                random_request();
            } else {
                random_event();
            }
            check_kernel();
            check_ledger();
        }
        while (lifted) {
            pvmemctl_ledger_reapply(ledger);
            lifted--;
        }
        check_kernel();
        for (unsigned i = 0; i < 2; i++) {
            assert_int_equal(pvmemctl_core_reset(devices[i]), 0);
        }
        memset(model, 0, sizeof(model));
        check_kernel();
        check_ledger();
        assert_true(all_untouched());
    }
    core = devices[0];
    drop_core(devices[1]);
}

/* Giving back */

/* Something of every kind, in several regions */
static void set_everything(void)
{
    for (unsigned r = 0; r < NR_MODELLED; r++) {
        for (unsigned op = 0; op < ARRAY_SIZE(operations); op++) {
            if (operations[op].sets && is_possible(op, modelled[r]) &&
                operations[op].code != MEMCTL_MPROTECT_NONE &&
                (core->options.minor || operations[op].code < MEMCTL_QUERY)) {
                assert_done(operations[op].code, gpa(modelled[r], 2 + op),
                            2 * page_size, 7);
            }
        }
    }
    assert_done(MEMCTL_MPROTECT_NONE, gpa(TOP, 5), page_size, 0);
    assert_false(all_default());
}

static void by_reset(void)
{
    command(MEMCTL_CMD_RESET);
}

static void by_disconnect(void)
{
    command(MEMCTL_CMD_DISCONNECT);
}

static void by_a_wrong_command(void)
{
    command(MEMCTL_CMD_READY);
}

static void by_a_system_reset(void)
{
    assert_int_equal(pvmemctl_core_reset(core), 0);
}

static void (*const ways_out[])(void) = {
    by_reset, by_disconnect, by_a_wrong_command, by_a_system_reset,
};

static void all_is_given_back_unchanged(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(ways_out); i++) {
        set_everything();
        ways_out[i]();
        assert_int_equal(info().attributes, 0);
        assert_int_equal(info().locked, 0);
        assert_true(all_untouched());
    }
}

static void a_1_0_host_gives_back_only_at_a_system_reset(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(ways_out) - 1; i++) {
        set_everything();
        ways_out[i]();
        assert_true(info().attributes > 0);
        assert_false(all_default());
        assert_true(only_protected(TOP, 5, 1, "---"));
    }
    by_a_system_reset();
    assert_int_equal(info().attributes, 0);
    assert_true(all_untouched());
}

/* Also what is not a guest's but the VMM's own */
static void defaults_other_than_the_kernels_are_given_back(void **state)
{
    fake.regions[LEFT].flags |= PVMEMCTL_RAM_NO_DUMP;
    syscall(SYS_madvise, host(LEFT, 0), REGION_SIZE, MADV_DONTDUMP);
    assert_done(MEMCTL_DONTDUMP, gpa(LEFT, 0), page_size, 0);
    assert_int_equal(info().attributes, 0);

    if (has_ksm()) {
        fake.regions[LEFT].flags |= PVMEMCTL_RAM_MERGEABLE;
        syscall(SYS_madvise, host(LEFT, 0), REGION_SIZE, MADV_MERGEABLE);
        assert_done(MEMCTL_UNMERGEABLE, gpa(LEFT, 3), 2 * page_size, 0);
        assert_int_equal(info().attributes, 1);
        assert_done(MEMCTL_MERGEABLE, gpa(LEFT, 3), page_size, 0);
        assert_int_equal(info().attributes, 1);
        by_reset();
        assert_int_equal(info().attributes, 0);
        assert_true(only_flagged(LEFT, 0, REGION_PAGES, "mg"));
    }
    assert_true(only_flagged(LEFT, 0, REGION_PAGES, "dd"));

    /* Locked by the operator: a guest's lock is none */
    fake.regions[RIGHT].flags |= PVMEMCTL_RAM_LOCKED;
    syscall(SYS_mlock2, host(RIGHT, 0), REGION_SIZE, 0);
    assert_done(MEMCTL_MLOCK, gpa(RIGHT, 0), page_size, 0);
    assert_int_equal(info().locked, 0);
    by_reset();
    assert_true(only_flagged(RIGHT, 0, REGION_PAGES, "lo"));
    syscall(SYS_munlock, host(RIGHT, 0), REGION_SIZE);
}

/* Limits */

/* 2 borders for each, and a reserve for guard hits */
#define MIN_ATTRIBUTES (PVMEMCTL_MIN_RANGES / 2 - 64)

static void the_number_of_attributes_is_limited(void **state)
{
    unsigned before, i;

    new_ledger(PVMEMCTL_MIN_RANGES, MAX_LOCKED);
    connect_buffers(1);
    before = mappings();
    for (i = 0; i < MIN_ATTRIBUTES; i++) {
        assert_done(MEMCTL_DONTDUMP, gpa(BIG, 4 * i + 1), 2 * page_size, 0);
    }
    assert_int_equal(mappings(), before + 2 * MIN_ATTRIBUTES);
    assert_int_equal(info().ranges, 2 * MIN_ATTRIBUTES);
    assert_int_equal(info().max_ranges, PVMEMCTL_MIN_RANGES);

    /* One too many, of whatever kind */
    assert_failed(ENOSPC, MEMCTL_DONTDUMP, gpa(BIG, 4 * i + 1), page_size, 0);
    assert_failed(ENOSPC, MEMCTL_MPROTECT_R, gpa(BIG, 0), page_size, 0);
    assert_failed(ENOSPC, MEMCTL_MLOCK, gpa(SHARED, 0), page_size, 0);
    /* To cut one in two as well; memory stays as it was */
    assert_int_equal(mappings(), before + 2 * MIN_ATTRIBUTES);

    /* Those that grow, shrink or join are welcome */
    assert_done(MEMCTL_DONTDUMP, gpa(BIG, 4), page_size, 0);
    assert_done(MEMCTL_DODUMP, gpa(BIG, 4), page_size, 0);
    assert_done(MEMCTL_DODUMP, gpa(BIG, 1), page_size, 0);
    assert_failed(ENOSPC, MEMCTL_DONTDUMP, gpa(BIG, 4 * i + 1), page_size, 0);
    assert_done(MEMCTL_DONTDUMP, gpa(BIG, 3), 2 * page_size, 0);
    assert_int_equal(info().attributes, MIN_ATTRIBUTES - 1);
    assert_done(MEMCTL_DONTDUMP, gpa(BIG, 4 * i + 1), page_size, 0);
    assert_failed(ENOSPC, MEMCTL_DONTDUMP, gpa(BIG, 4 * i + 3), page_size, 0);

    by_reset();
    assert_int_equal(mappings(), before);
    assert_done(MEMCTL_DONTDUMP, gpa(BIG, 4 * i + 1), page_size, 0);
}

static void a_full_ledger_lets_no_attribute_be_cut_in_two(void **state)
{
    unsigned before;

    new_ledger(PVMEMCTL_MIN_RANGES, MAX_LOCKED);
    for (unsigned i = 0; i < MIN_ATTRIBUTES; i++) {
        assert_done(MEMCTL_MPROTECT_R, gpa(BIG, 4 * i), 3 * page_size, 0);
    }
    before = mappings();
    assert_failed(ENOSPC, MEMCTL_MPROTECT_RW, gpa(BIG, 1), page_size, 0);
    assert_failed(ENOSPC, MEMCTL_MPROTECT_NONE, gpa(BIG, 1), page_size, 0);
    assert_int_equal(mappings(), before);
    /* But at an end, and all of it */
    assert_done(MEMCTL_MPROTECT_RW, gpa(BIG, 2), page_size, 0);
    assert_done(MEMCTL_MPROTECT_RW, gpa(BIG, 4), 3 * page_size, 0);
    assert_done(MEMCTL_MPROTECT_RW, gpa(BIG, 9), page_size, 0);
    assert_failed(ENOSPC, MEMCTL_MPROTECT_RW, gpa(BIG, 13), page_size, 0);
}

/* The kernel joins anonymous memory only if it was touched while one piece */
static void attributes_that_are_taken_back_leave_one_mapping(void **state)
{
    static const uint64_t codes[][2] = {
        { MEMCTL_DONTDUMP, MEMCTL_DODUMP },
        { MEMCTL_MPROTECT_R, MEMCTL_MPROTECT_RW },
    };
    const unsigned pages = 256;
    unsigned before = mappings();

    for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
        for (unsigned page = 1; page < pages; page += 2) {
            assert_done(codes[i][0], gpa(BIG, page), page_size, 0);
        }
        /* The guest writes to the others, and to these once it may */
        for (unsigned page = 0; page < pages; page += 2) {
            host(BIG, page)[0] = 'x';
        }
        for (unsigned page = 1; page < pages; page += 2) {
            assert_done(codes[i][1], gpa(BIG, page), page_size, 0);
            host(BIG, page)[0] = 'x';
        }
        assert_int_equal(info().attributes, 0);
        assert_int_equal(mappings(), before);
        syscall(SYS_madvise, host(BIG, 0), BIG_SIZE, MADV_DONTNEED);
    }
}

static void a_mapping_is_touched_once(void **state)
{
    for (int i = 0; i < 2; i++) {
        fake.calls[CALL_MADVISE] = 0;
        for (unsigned page = 0; page < 4; page++) {
            assert_done(MEMCTL_MPROTECT_R, gpa(BIG, page), page_size, 0);
            assert_done(MEMCTL_MPROTECT_RW, gpa(BIG, page), page_size, 0);
        }
        assert_int_equal(fake.calls[CALL_MADVISE], 1);
        /* Another of the same place is another */
        pvmemctl_ledger_forget(ledger, host(BIG, 0), BIG_SIZE);
    }
}

static void no_mix_of_attributes_makes_more_mappings(void **state)
{
    const unsigned pages = 1024;
    unsigned before, most = 0, full = 0;

    new_ledger(PVMEMCTL_MIN_RANGES, BIG_SIZE);
    connect_buffers(1);
    before = mappings();
    srandom(7);
    for (unsigned i = 0; i < 4000; i++) {
        unsigned op = random() % ARRAY_SIZE(operations);
        unsigned page = random() % pages, now;

        if (!is_possible(op, LEFT) || (operations[op].kind == THP)) {
            continue;
        }
        full += ask(operations[op].code, gpa(BIG, page),
                    (1 + random() % 3) * page_size,
                    random() % 4).ret_errno == ENOSPC;
        if (i % 16 == 0) {
            now = mappings() - before;
            most = now > most ? now : most;
            assert_true(now <= PVMEMCTL_MIN_RANGES);
        }
    }
    assert_true(full > 0);
    assert_true(most > PVMEMCTL_MIN_RANGES / 4);
    by_reset();
    assert_int_equal(mappings(), before);
}

static void the_bytes_that_are_locked_are_limited(void **state)
{
    new_ledger(MAX_RANGES, 4 * page_size);
    assert_done(MEMCTL_MLOCK, gpa(LEFT, 0), 3 * page_size, 0);
    assert_failed(ENOSPC, MEMCTL_MLOCK, gpa(SHARED, 0), 2 * page_size, 0);
    assert_true(only_flagged(SHARED, 0, 0, "lo"));
    assert_done(MEMCTL_MLOCK, gpa(SHARED, 0), page_size, 0);
    assert_int_equal(info().locked, 4 * page_size);
    assert_int_equal(info().max_locked, 4 * page_size);
    /* What is locked already may be again */
    assert_done(MEMCTL_MLOCK, gpa(LEFT, 1), 2 * page_size, 0);
    assert_failed(ENOSPC, MEMCTL_MLOCK, gpa(LEFT, 1), 3 * page_size, 0);
    assert_done(MEMCTL_MUNLOCK, gpa(LEFT, 1), page_size, 0);
    assert_int_equal(info().locked, 3 * page_size);
    assert_done(MEMCTL_MLOCK, gpa(LEFT, 3), page_size, 0);
    assert_true(pages_mapped(LEFT, 0, 4) == 4);
    by_reset();
    assert_int_equal(info().locked, 0);
}

/* What the kernel cannot do at all leaves nothing that nobody could undo */

static int impossible_errno;

static int impossible(SysCall call, char *addr, uint64_t length, int value)
{
    return impossible_errno;
}

static void what_is_impossible_is_not_recorded(void **state)
{
    static const int errors[] = { EINVAL, EBADF, EPERM };

    assert_done(MEMCTL_MPROTECT_R, gpa(LEFT, 2), page_size, 0);
    assert_done(MEMCTL_MPROTECT_R, gpa(LEFT, 4), page_size, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(errors); i++) {
        fake.on_call = impossible;
        impossible_errno = errors[i];
        for (unsigned page = 0; page < REGION_PAGES; page += 2) {
            if (has_names()) {
                assert_failed(errors[i], MEMCTL_SET_VMA_ANON_NAME,
                              gpa(LEFT, page), page_size, 7);
            }
            assert_failed(errors[i], MEMCTL_MLOCK, gpa(LEFT, page), page_size,
                          7);
        }
        assert_int_equal(info().attributes, 2);
        assert_int_equal(info().locked, 0);
        fake.on_call = NULL;
    }
    assert_int_equal(pvmemctl_core_reset(core), 0);
}

/* Half of it may have been done */
static void what_failed_half_way_is_recorded(void **state)
{
    fake.on_call = impossible;
    impossible_errno = ENOMEM;
    assert_failed(ENOMEM, MEMCTL_MLOCK, gpa(LEFT, 2), 2 * page_size, 0);
    assert_int_equal(info().attributes, 1);
    /* ... and stays until it could be undone */
    assert_int_equal(pvmemctl_core_reset(core), 1);
    assert_int_equal(info().attributes, 1);
    fake.on_call = NULL;
    assert_int_equal(pvmemctl_core_reset(core), 0);
    assert_int_equal(info().attributes, 0);
}

/* What was set can be undone, whatever the kernel says at the moment */
static void what_was_set_is_not_given_up(void **state)
{
    static const struct {
        uint64_t code;
        const char *flag;
    } cases[] = {
        { MEMCTL_NOHUGEPAGE, "nh" }, { MEMCTL_MERGEABLE, "mg" },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        if (i ? !has_ksm() : !has_thp()) {
            continue;
        }
        assert_done(cases[i].code, gpa(LEFT, 2), 2 * page_size, 0);
        fake.on_call = impossible;
        impossible_errno = EPERM;
        /* Beside it and over it, in vain */
        assert_failed(EPERM, cases[i].code, gpa(LEFT, 4), page_size, 0);
        impossible_errno = ENOMEM;
        assert_failed(ENOMEM, cases[i].code, gpa(LEFT, 1), 2 * page_size, 0);
        impossible_errno = EPERM;
        assert_int_equal(pvmemctl_core_reset(core), 1);
        assert_int_equal(info().attributes, 1);
        assert_true(only_flagged(LEFT, 2, 2, cases[i].flag));
        fake.on_call = NULL;
        by_reset();
        assert_true(only_flagged(LEFT, 0, 0, cases[i].flag));
    }
}

/* Errors that come half way: of the page before there may be something */
static int half_way(SysCall call, char *addr, uint64_t length, int value)
{
    if (value != MADV_NOHUGEPAGE || length == page_size) {
        return impossible_errno;
    }
    return madvise(addr, page_size, value) ? errno : ENOMEM;
}

static void what_may_have_been_set_is_not_given_up(void **state)
{
    if (!has_thp()) {
        skip();
    }
    fake.on_call = half_way;
    impossible_errno = 0;
    assert_failed(ENOMEM, MEMCTL_NOHUGEPAGE, gpa(LEFT, 2), 2 * page_size, 0);
    impossible_errno = EPERM;
    assert_int_equal(pvmemctl_core_reset(core), 1);
    assert_int_equal(info().attributes, 1);
    fake.on_call = NULL;
    by_reset();
    assert_true(only_flagged(LEFT, 0, 0, "nh"));
}

/* But where there never was any: refused, and at first not to be undone either */
static int set_in_vain(SysCall call, char *addr, uint64_t length, int value)
{
    return value == MADV_NOHUGEPAGE ? EINVAL : impossible_errno;
}

static void what_never_was_set_is_given_up(void **state)
{
    if (!has_thp()) {
        skip();
    }
    fake.on_call = set_in_vain;
    impossible_errno = ENOMEM;
    assert_failed(EINVAL, MEMCTL_NOHUGEPAGE, gpa(LEFT, 2), page_size, 0);
    assert_int_equal(info().attributes, 1);
    impossible_errno = EINVAL;
    assert_int_equal(pvmemctl_core_reset(core), 0);
    assert_int_equal(info().attributes, 0);
}

/* The kernel cuts a huge page for nobody: no record may be cut there either */
static void no_record_ends_within_a_huge_page(void **state)
{
    PvmemctlOptions options = all_options;

    if (!has_huge_regions()) {
        skip();
    }
    for (options.minor = 0; options.minor < 2; options.minor++) {
        new_core(&options);
        assert_done(MEMCTL_MPROTECT_NONE, gpa(HUGE, 1), 4 * MIB, 0);
        assert_done(MEMCTL_DONTDUMP, gpa(HUGE_SHARED, 1), 4 * MIB, 0);
        assert_hinted(EINVAL, 2 * MIB, MEMCTL_MPROTECT_R, gpa(HUGE, 1),
                      page_size, 0);
        assert_hinted(EINVAL, 2 * MIB, MEMCTL_MPROTECT_RW,
                      gpa(HUGE, 2) + page_size, page_size, 0);
        assert_hinted(EINVAL, 2 * MIB, MEMCTL_DONTDUMP,
                      gpa(HUGE_SHARED, 5) + MIB, MIB, 0);
        assert_true(only_protected(HUGE, 1, 2, "---"));
        assert_int_equal(info().attributes, 2);
        assert_int_equal(pvmemctl_core_reset(core), 0);
        assert_true(all_untouched());
    }
}

static char *broken_page;

static int breaks_at_a_page(SysCall call, char *addr, uint64_t length,
                            int value)
{
    return broken_page >= addr && broken_page < addr + length ? ENOMEM : 0;
}

static void one_that_cannot_be_undone_keeps_no_other(void **state)
{
    for (unsigned i = 0; i < REGION_PAGES; i += 2) {
        assert_done(MEMCTL_MPROTECT_R, gpa(LEFT, i), page_size, 0);
        assert_done(MEMCTL_DONTDUMP, gpa(RIGHT, i), page_size, 0);
    }
    broken_page = (char *)host(LEFT, 4);
    fake.on_call = breaks_at_a_page;
    assert_int_equal(pvmemctl_core_reset(core), 1);
    assert_int_equal(info().attributes, 1);
    assert_true(only_protected(LEFT, 4, 1, "r--"));
    assert_true(only_flagged(RIGHT, 0, 0, "dd"));

    /* A range that ends within what cannot be undone */
    fake.on_call = NULL;
    assert_done(MEMCTL_MPROTECT_R, gpa(LEFT, 2), 4 * page_size, 0);
    fake.on_call = breaks_at_a_page;
    pvmemctl_ledger_undo_range(ledger, host(LEFT, 3), 2 * page_size);
    assert_true(only_protected(LEFT, 2, 4, "r--"));
    pvmemctl_ledger_undo_range(ledger, host(LEFT, 2), 2 * page_size);
    assert_true(only_protected(LEFT, 4, 2, "r--"));
}

/* As where a chunk is less than a page, or would make a mapping too many */
static int all_or_nothing(SysCall call, char *addr, uint64_t length, int value)
{
    return call == CALL_MPROTECT && length < BIG_SIZE ? EINVAL : 0;
}

static void what_cannot_be_undone_in_chunks_is_undone_whole(void **state)
{
    assert_done(MEMCTL_MPROTECT_NONE, gpa(BIG, 0), BIG_SIZE, 0);
    assert_int_equal(info().attributes, 1);
    fake.on_call = all_or_nothing;
    assert_int_equal(pvmemctl_core_reset(core), 0);
    assert_int_equal(info().attributes, 0);
}

static void a_large_one_is_undone_in_chunks(void **state)
{
    assert_done(MEMCTL_MPROTECT_NONE, gpa(BIG, 0), BIG_SIZE, 0);
    fake.calls[CALL_MPROTECT] = 0;
    assert_int_equal(pvmemctl_core_reset(core), 0);
    assert_int_equal(fake.calls[CALL_MPROTECT], BIG_SIZE / PVMEMCTL_CHUNK);
}

static int no_second_mprotect(SysCall call, char *addr, uint64_t length,
                              int value)
{
    return call == CALL_MPROTECT && value == PROT_READ ? EINVAL : 0;
}

static void what_is_replaced_in_vain_stays_on_record(void **state)
{
    assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, 2), 4 * page_size, 0);
    fake.on_call = no_second_mprotect;
    assert_failed(EINVAL, MEMCTL_MPROTECT_R, gpa(LEFT, 2), 4 * page_size, 0);
    assert_int_equal(info().attributes, 1);
    assert_true(only_protected(LEFT, 2, 4, "---"));
    assert_int_equal(pvmemctl_core_reset(core), 0);
    assert_true(only_protected(LEFT, 0, REGION_PAGES, "rw-"));
}

/*
 * The kernel never joins mappings of hugetlb memory again: borders count also when
 * nothing is set any more, but each only once.
 */
static void borders_in_huge_pages_are_counted_for_ever(void **state)
{
    unsigned before = mappings();

    if (!has_huge_regions()) {
        skip();
    }
    for (unsigned round = 0; round < 3; round++) {
        assert_done(MEMCTL_MPROTECT_R, gpa(HUGE, 1), 2 * MIB, 0);
        assert_done(MEMCTL_DONTDUMP, gpa(HUGE, 1), 2 * MIB, 0);
        assert_int_equal(pvmemctl_core_reset(core), 0);
        assert_int_equal(info().attributes, 0);
        assert_int_equal(info().ranges, 2);
        assert_true(mappings() <= before + 2);
    }
    /* To undo what is not set makes no border, but the ledger cannot know */
    assert_done(MEMCTL_MPROTECT_RW, gpa(HUGE, 2), 2 * MIB, 0);
    assert_int_equal(info().ranges, 3);
    pvmemctl_ledger_forget(ledger, host(HUGE, 0), fake.regions[HUGE].size);
    assert_int_equal(info().ranges, 0);
}

static void what_is_refused_makes_no_border(void **state)
{
    if (!has_huge_regions()) {
        skip();
    }
    pvmemctl_ledger_lift(ledger);
    assert_failed(EBUSY, MEMCTL_MPROTECT_R, gpa(HUGE, 1), 2 * MIB, 0);
    assert_int_equal(info().ranges, 0);
    pvmemctl_ledger_reapply(ledger);

    /* Room for one border, but not for two, nor for what is between them */
    new_ledger(PVMEMCTL_MIN_RANGES, MAX_LOCKED);
    for (unsigned i = 0; i < MIN_ATTRIBUTES - 1; i++) {
        assert_done(MEMCTL_DONTDUMP, gpa(BIG, 2 * i), page_size, 0);
    }
    for (unsigned first = 0; first < 2; first++) {
        assert_failed(ENOSPC, MEMCTL_DONTDUMP, gpa(HUGE, first), 2 * MIB, 0);
        assert_int_equal(info().ranges, 2 * (MIN_ATTRIBUTES - 1));
    }
    assert_failed(ENOSPC, MEMCTL_DODUMP, gpa(HUGE, 1), 2 * MIB, 0);
    assert_int_equal(info().ranges, 2 * (MIN_ATTRIBUTES - 1));
    /* To give back what none has been cut for takes one border */
    assert_done(MEMCTL_DODUMP, gpa(HUGE, 0), 2 * MIB, 0);
    assert_int_equal(info().ranges, 2 * MIN_ATTRIBUTES - 1);
}

/* Owners */

static void a_device_gives_back_only_what_it_has_set(void **state)
{
    PvmemctlCore *one = core, *other = make_core(&all_options);

    assert_done(MEMCTL_DONTDUMP, gpa(LEFT, 0), 6 * page_size, 0);
    assert_done(MEMCTL_MPROTECT_R, gpa(LEFT, 0), page_size, 0);
    core = other;
    assert_done(MEMCTL_DONTDUMP, gpa(LEFT, 4), 4 * page_size, 0);
    assert_done(MEMCTL_MPROTECT_R, gpa(LEFT, 10), page_size, 0);
    core = one;
    by_reset();
    /* The other one has taken over pages 4 and 5 */
    assert_true(only_flagged(LEFT, 4, 4, "dd"));
    assert_true(only_protected(LEFT, 10, 1, "r--"));
    core = other;
    by_reset();
    assert_true(all_untouched());
    core = one;
    drop_core(other);
}

/* Regions that come and go */

static void a_mapping_that_is_gone_is_forgotten(void **state)
{
    unsigned before;

    assert_done(MEMCTL_DONTDUMP, gpa(LEFT, 2), 2 * page_size, 0);
    assert_done(MEMCTL_MPROTECT_R, gpa(LEFT, 2), page_size, 0);
    assert_done(MEMCTL_MLOCK, gpa(LEFT, 4), 2 * page_size, 0);
    assert_done(MEMCTL_MLOCK, gpa(RIGHT, 4), page_size, 0);
    before = calls_made();
    pvmemctl_ledger_forget(ledger, host(LEFT, 0), REGION_SIZE);
    assert_int_equal(calls_made(), before);
    assert_int_equal(info().attributes, 1);
    assert_int_equal(info().locked, page_size);

    /* In truth it is still there */
    syscall(SYS_madvise, host(LEFT, 0), REGION_SIZE, MADV_DODUMP);
    syscall(SYS_mprotect, host(LEFT, 0), REGION_SIZE, PROT_READ | PROT_WRITE);
    syscall(SYS_munlock, host(LEFT, 0), REGION_SIZE);
}

/* Two mappings side by side, as the kernel likes to put them */
static void neighbours_are_not_forgotten(void **state)
{
    PvmemctlRam left = ram_of(BIG, 0, 2), right = ram_of(BIG, 2, 2);
    const PvmemctlAttribute dump = { .code = MEMCTL_DONTDUMP, .owner = core };

    left.block_length = left.length;
    right.block = right.addr;
    right.block_length = right.length;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pvmemctl_ledger_restore(ledger, i ? &left : &right,
                                                 &dump), 0);
        assert_int_equal(pvmemctl_ledger_restore(ledger, i ? &right : &left,
                                                 &dump), 0);
        pvmemctl_ledger_forget(ledger, left.addr, left.length);
        assert_int_equal(info().attributes, 1);
        assert_int_equal(pvmemctl_core_reset(core), 0);
        assert_null(strstr(smaps(BIG, 2, "VmFlags:"), " dd"));
        assert_non_null(strstr(smaps(BIG, 1, "VmFlags:"), " dd"));
    }
    syscall(SYS_madvise, host(BIG, 0), REGION_SIZE, MADV_DODUMP);
}

static void what_is_no_ram_any_more_is_given_back(void **state)
{
    assert_done(MEMCTL_DONTDUMP, gpa(LEFT, 2), 10 * page_size, 0);
    assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, 4), 4 * page_size, 0);
    assert_done(MEMCTL_MPROTECT_NONE, gpa(RIGHT, 4), 4 * page_size, 0);
    pvmemctl_ledger_undo_range(ledger, host(LEFT, 5), 2 * page_size);
    assert_int_equal(info().attributes, 5);
    assert_true(pages_hold(LEFT, 5, 2, pattern(LEFT)));
    pvmemctl_ledger_undo_range(ledger, host(LEFT, 0), REGION_SIZE);
    assert_int_equal(info().attributes, 1);
    assert_true(only_protected(LEFT, 0, REGION_PAGES, "rw-"));
    assert_true(only_flagged(LEFT, 0, 0, "dd"));
    assert_true(only_protected(RIGHT, 4, 4, "---"));
}

/* Migration */

static void lifted_protections_come_back(void **state)
{
    assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, 2), 2 * page_size, 0);
    assert_done(MEMCTL_MPROTECT_R, gpa(SHARED, 2), 2 * page_size, 0);
    assert_done(MEMCTL_DONTDUMP, gpa(LEFT, 2), 2 * page_size, 0);
    pvmemctl_ledger_lift(ledger);
    pvmemctl_ledger_lift(ledger);
    assert_true(info().lifted);
    assert_int_equal(info().attributes, 3);
    assert_true(only_protected(LEFT, 0, REGION_PAGES, "rw-"));
    assert_true(only_protected(SHARED, 0, REGION_PAGES, "rw-"));
    assert_true(only_flagged(LEFT, 2, 2, "dd"));
    assert_true(pages_hold(LEFT, 0, REGION_PAGES, pattern(LEFT)));

    assert_failed(EBUSY, MEMCTL_MPROTECT_R, gpa(LEFT, 8), page_size, 0);
    assert_done(MEMCTL_DONTDUMP, gpa(LEFT, 8), page_size, 0);
    assert_done(MEMCTL_MPROTECT_RW, gpa(LEFT, 2), page_size, 0);
    assert_int_equal(pvmemctl_ledger_reapply(ledger), 0);
    assert_true(only_protected(LEFT, 0, REGION_PAGES, "rw-"));
    assert_int_equal(pvmemctl_ledger_reapply(ledger), 0);
    assert_true(only_protected(LEFT, 3, 1, "---"));
    assert_true(only_protected(SHARED, 2, 2, "r--"));
    assert_false(info().lifted);

    /* And not after RESET */
    pvmemctl_ledger_lift(ledger);
    by_reset();
    assert_int_equal(pvmemctl_ledger_reapply(ledger), 0);
    assert_true(all_untouched());
}

static void what_cannot_be_applied_again_is_counted(void **state)
{
    assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, 2), page_size, 0);
    assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, 4), page_size, 0);
    pvmemctl_ledger_lift(ledger);
    broken_page = (char *)host(LEFT, 4);
    fake.on_call = breaks_at_a_page;
    assert_int_equal(pvmemctl_ledger_reapply(ledger), 1);
    assert_true(only_protected(LEFT, 2, 1, "---"));
}

static void save(void *arg, const PvmemctlAttribute *a)
{
    PvmemctlAttribute **end = arg;

    *(*end)++ = *a;
}

static void what_was_saved_is_restored(void **state)
{
    PvmemctlAttribute saved[64], *end = saved;
    uintptr_t base = (uintptr_t)host(LEFT, 0);

    for (unsigned op = 0; op < ARRAY_SIZE(operations); op++) {
        if (operations[op].sets && is_possible(op, LEFT)) {
            assert_done(operations[op].code, gpa(LEFT, op), 3 * page_size, 9);
        }
    }
    pvmemctl_ledger_each(ledger, save, &end);
    by_reset();
    assert_true(all_untouched());

    /* At another place, as in another process */
    for (PvmemctlAttribute *a = saved; a < end; a++) {
        PvmemctlRam ram = ram_of(RIGHT, (a->start - base) / page_size,
                                 (a->end - a->start) / page_size);

        assert_int_equal(pvmemctl_ledger_restore(ledger, &ram, a), 0);
    }
    assert_int_equal(info().attributes, end - saved);
    assert_true(only_protected(RIGHT, 0, 1, "---"));
    assert_true(only_protected(RIGHT, 1, 3, "r--"));
    assert_true(only_flagged(RIGHT, 6, 3, "dd"));
    assert_true(only_flagged(RIGHT, 4, 3, "lo"));
    by_reset();
    assert_true(all_untouched());
}

static void what_cannot_be_restored_is_said(void **state)
{
    PvmemctlRam ram = ram_of(LEFT, 0, 2), shared = ram_of(SHARED, 0, 1);
    PvmemctlAttribute a = { .owner = core };

    for (unsigned code = 0; code < 256; code++) {
        bool sets = false;

        for (unsigned op = 0; op < ARRAY_SIZE(operations); op++) {
            sets |= operations[op].code == code;
        }
        if (!sets) {
            a.code = code;
            assert_int_equal(pvmemctl_ledger_restore(ledger, &ram, &a), EINVAL);
        }
    }
    a.code = MEMCTL_MERGEABLE;
    assert_int_equal(pvmemctl_ledger_restore(ledger, &shared, &a), EOPNOTSUPP);
    ram.flags |= PVMEMCTL_RAM_NO_MERGE;
    assert_int_equal(pvmemctl_ledger_restore(ledger, &ram, &a), EPERM);
    a.code = MEMCTL_MLOCK;
    ram.length = MAX_LOCKED + page_size;
    assert_int_equal(pvmemctl_ledger_restore(ledger, &ram, &a), ENOSPC);
    ram = ram_of(LEFT, 0, 1);
    a.code = MEMCTL_MPROTECT_R;
    pvmemctl_ledger_lift(ledger);
    assert_int_equal(pvmemctl_ledger_restore(ledger, &ram, &a), EBUSY);
    pvmemctl_ledger_reapply(ledger);
    assert_int_equal(info().attributes, 0);
    assert_true(all_untouched());
}

static void a_device_goes_on_where_another_stopped(void **state)
{
    const uint64_t buffers[] = { BUFFER(0), BUFFER(3) };
    const uint32_t ack = MEMCTL_ANSWER_ACK;

    assert_true(pvmemctl_core_restore(core, PVMEMCTL_STATE_READY, ack,
                                      CONNECTION(1), 2, buffers));
    put_request(BUFFER(3), MEMCTL_INFO, 0, -1, 0);
    ring(CONNECTION(1));
    assert_int_equal(get_answer(BUFFER(3)).ret_value, page_size);
    assert_int_equal(pvmemctl_core_read(core, MEMCTL_REG_COMMAND, 4), ack);
    ring_in_vain(CONNECTION(2));

    assert_true(pvmemctl_core_restore(core, PVMEMCTL_STATE_REGISTERING, ack,
                                      BUFFER(5), 2, buffers));
    assert_int_equal(command(MEMCTL_CMD_REGISTER), ack);
    assert_int_equal(pvmemctl_core_read(core, MEMCTL_REG_PAYLOAD, 8),
                     CONNECTION(2));

    assert_false(pvmemctl_core_restore(core, PVMEMCTL_STATE_READY + 1, ack, 0,
                                       0, buffers));
    assert_false(pvmemctl_core_restore(core, PVMEMCTL_STATE_READY, ack + 1, 0,
                                       0, buffers));
    assert_false(pvmemctl_core_restore(core, PVMEMCTL_STATE_READY, ack, 0,
                                       PVMEMCTL_MAX_CONNECTIONS + 1, buffers));
}

static const struct CMUnitTest ledger_tests[] = {
    TEST(kernel_and_ledger_agree_with_a_model),
    TEST(all_is_given_back_unchanged),
    TEST_1_0(a_1_0_host_gives_back_only_at_a_system_reset),
    TEST(defaults_other_than_the_kernels_are_given_back),
    TEST(the_number_of_attributes_is_limited),
    TEST(a_full_ledger_lets_no_attribute_be_cut_in_two),
    TEST(attributes_that_are_taken_back_leave_one_mapping),
    TEST(a_mapping_is_touched_once),
    TEST(no_mix_of_attributes_makes_more_mappings),
    TEST(the_bytes_that_are_locked_are_limited),
    TEST(what_is_impossible_is_not_recorded),
    TEST(what_failed_half_way_is_recorded),
    TEST(what_was_set_is_not_given_up),
    TEST(what_may_have_been_set_is_not_given_up),
    TEST(what_never_was_set_is_given_up),
    TEST_HUGE(no_record_ends_within_a_huge_page),
    TEST(one_that_cannot_be_undone_keeps_no_other),
    TEST(what_cannot_be_undone_in_chunks_is_undone_whole),
    TEST(a_large_one_is_undone_in_chunks),
    TEST(what_is_replaced_in_vain_stays_on_record),
    TEST_HUGE(borders_in_huge_pages_are_counted_for_ever),
    TEST_HUGE(what_is_refused_makes_no_border),
    TEST(a_device_gives_back_only_what_it_has_set),
    TEST(a_mapping_that_is_gone_is_forgotten),
    TEST(neighbours_are_not_forgotten),
    TEST(what_is_no_ram_any_more_is_given_back),
    TEST(lifted_protections_come_back),
    TEST(what_cannot_be_applied_again_is_counted),
    TEST(what_was_saved_is_restored),
    TEST(what_cannot_be_restored_is_said),
    TEST(a_device_goes_on_where_another_stopped),
};
TEST_GROUP(ledger);
