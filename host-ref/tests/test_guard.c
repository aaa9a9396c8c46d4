/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guard hits: touching what the guest protected lifts the protection of a page,
 * and the VMM hears of it.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake_vmm.h"
#include "kernel_view.h"

static struct sigaction old_action;
static volatile sig_atomic_t faults;

/* As a VMM's */
static void on_fault(int sig, siginfo_t *info, void *context)
{
    faults++;
    if (info->si_code != SEGV_ACCERR || !lift_in_handler(info->si_addr)) {
        static const char said[] = "a fault that is not ours\n";

        sigaction(SIGSEGV, &old_action, NULL);
        (void)!write(STDERR_FILENO, said, sizeof(said) - 1);
    }
}

static void catch_faults(void)
{
    struct sigaction action = { .sa_flags = SA_SIGINFO | SA_NODEFER };

    action.sa_sigaction = on_fault;
    faults = 0;
    sigaction(SIGSEGV, &action, &old_action);
}

/* A test with that handler: cmocka sets its own when it starts a test */
static void with_handler(void **state)
{
    void (*test)(void **state) = *state;

    catch_faults();
    test(state);
}

static char *hits[256];
static unsigned nr_hits;

static const void *hit_owner;   /* of the last one */

static void note(void *arg, const void *owner, void *addr)
{
    assert_ptr_equal(arg, hits);
    assert_non_null(owner);
    hit_owner = owner;
    assert_true(nr_hits < ARRAY_SIZE(hits));
    hits[nr_hits++] = addr;
}

static unsigned collect(void)
{
    unsigned nr;

    nr_hits = 0;
    nr = pvmemctl_guard_collect(ledger, note, hits);
    assert_int_equal(nr, nr_hits);
    return nr;
}

/* The guest accesses its memory; the sanitizers know nothing of guests */
__attribute__((no_sanitize("address", "thread")))
static unsigned char load(const unsigned char *p)
{
    return *(const volatile unsigned char *)p;
}

__attribute__((no_sanitize("address", "thread")))
static void store(unsigned char *p, unsigned char value)
{
    *(volatile unsigned char *)p = value;
}

static PvmemctlLedgerInfo info(void)
{
    PvmemctlLedgerInfo i;

    pvmemctl_ledger_info(ledger, &i);
    return i;
}

static void a_hit_lifts_the_page_and_is_told(void **state)
{
    unsigned char *page = host(LEFT, 4);

    assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, 2), 6 * page_size, 0);
    assert_int_equal(load(page + 123), pattern(LEFT));
    assert_int_equal(faults, 1);
    assert_true(only_protected(LEFT, 0, 0, "r--"));
    assert_int_equal(info().attributes, 1);
    /* As long as that page is lifted nobody faults */
    store(page + 7, 'x');
    assert_int_equal(faults, 1);

    assert_int_equal(collect(), 1);
    assert_ptr_equal(hits[0], page + 123);
    assert_ptr_equal(hit_owner, core);
    assert_int_equal(collect(), 0);
    assert_int_equal(info().attributes, 2);
    store(host(LEFT, 7), 'y');
    assert_int_equal(faults, 2);
    assert_int_equal(collect(), 1);
    assert_ptr_equal(hits[0], host(LEFT, 7));
    assert_int_equal(info().attributes, 2);

    assert_int_equal(page[7], 'x');
    assert_int_equal(*host(LEFT, 7), 'y');
    assert_true(pages_hold(LEFT, 0, 2, pattern(LEFT)));
}

static void neighbours_of_a_hit_stay_protected(void **state)
{
    PageState states[REGION_PAGES];

    assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, 0), REGION_SIZE, 0);
    load(host(LEFT, 4));
    for (int i = 0; i < 2; i++) {
        page_states(LEFT, states);
        for (unsigned page = 0; page < REGION_PAGES; page++) {
            assert_string_equal(states[page].perms, page == 4 ? "rw-" : "---");
        }
        collect();
    }
    /* To give back what is left is still possible */
    assert_int_equal(pvmemctl_core_reset(core), 0);
    assert_true(all_untouched());
}

static void what_may_be_read_is_hit_by_a_write_only(void **state)
{
    assert_done(MEMCTL_MPROTECT_R, gpa(SHARED, 3), page_size, 0);
    assert_int_equal(load(host(SHARED, 3)), pattern(SHARED));
    assert_int_equal(faults, 0);
    assert_int_equal(collect(), 0);
    store(host(SHARED, 3) + page_size - 1, 'x');
    assert_int_equal(faults, 1);
    assert_int_equal(collect(), 1);
    assert_ptr_equal(hits[0], host(SHARED, 3) + page_size - 1);
    assert_int_equal(info().attributes, 0);
    assert_true(only_protected(SHARED, 0, REGION_PAGES, "rw-"));
}

static void memory_that_no_guest_has_protected_is_not_lifted(void **state)
{
    char local;
    void *other = mmap(NULL, page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
                       -1, 0);

    assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, 3), page_size, 0);
    assert_done(MEMCTL_DONTDUMP, gpa(RIGHT, 3), page_size, 0);
    assert_false(pvmemctl_guard_lift(other));
    assert_false(pvmemctl_guard_lift(&local));
    assert_false(pvmemctl_guard_lift(NULL));
    assert_false(pvmemctl_guard_lift(host(RIGHT, 3)));
    assert_false(pvmemctl_guard_lift(host(LEFT, 0) - 1));
    assert_false(pvmemctl_guard_lift(host(LEFT, REGION_PAGES)));
    assert_int_equal(collect(), 0);
    munmap(other, page_size);
}

static void a_handler_leaves_errno_alone(void **state)
{
    assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, 3), page_size, 0);
    errno = ENOTTY;
    load(host(LEFT, 3));
    assert_int_equal(errno, ENOTTY);
    assert_int_equal(faults, 1);
}

static void too_many_hits_lift_the_whole_mapping(void **state)
{
    unsigned i;

    assert_done(MEMCTL_MPROTECT_NONE, gpa(BIG, 0), 512 * page_size, 0);
    assert_done(MEMCTL_MPROTECT_R, gpa(BIG, 1000), page_size, 0);
    assert_done(MEMCTL_MPROTECT_R, gpa(LEFT, 3), page_size, 0);
    for (i = 0; i < 64; i++) {
        load(host(BIG, 2 * i));
        assert_int_equal(faults, i + 1);
    }
    assert_non_null(strstr(smaps(BIG, 500, ""), " ---"));
    load(host(BIG, 2 * i));
    assert_int_equal(faults, 65);
    load(host(BIG, 501));
    store(host(BIG, 1000), 'x');
    assert_int_equal(faults, 65);

    /* One for the whole mapping */
    assert_int_equal(collect(), 1);
    assert_ptr_equal(hits[0], host(BIG, 0));
    assert_true(only_protected(LEFT, 3, 1, "r--"));
    assert_int_equal(info().attributes, 1);
    assert_int_equal(collect(), 0);

    /* And there is room again */
    assert_done(MEMCTL_MPROTECT_NONE, gpa(BIG, 0), 512 * page_size, 0);
    load(host(BIG, 5));
    assert_int_equal(collect(), 1);
    assert_non_null(strstr(smaps(BIG, 6, ""), " ---"));
}

static int no_page(SysCall call, char *addr, uint64_t length, int value)
{
    return call == CALL_MPROTECT && length == page_size ? ENOMEM : 0;
}

static void a_page_that_cannot_be_cut_out_lifts_the_whole_mapping(void **state)
{
    assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, 2), 6 * page_size, 0);
    fake.on_call = no_page;
    load(host(LEFT, 4));
    assert_int_equal(faults, 1);
    assert_true(only_protected(LEFT, 0, REGION_PAGES, "rw-"));
    fake.on_call = NULL;
    assert_true(collect() >= 1);
    assert_int_equal(info().attributes, 0);
}

static int no_mprotect(SysCall call, char *addr, uint64_t length, int value)
{
    return call == CALL_MPROTECT ? ENOMEM : 0;
}

static void collecting_ends_where_the_kernel_refuses(void **state)
{
    assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, 2), 6 * page_size, 0);
    assert_done(MEMCTL_MPROTECT_R, gpa(LEFT, 12), page_size, 0);
    load(host(LEFT, 4));
    fake.on_call = no_mprotect;
    assert_int_equal(collect(), 1);
    pvmemctl_guard_lift_all(ledger);
    fake.on_call = NULL;
    /* What is not lifted is still on record */
    assert_int_equal(info().attributes, 2);
    assert_int_equal(pvmemctl_core_reset(core), 0);
    assert_true(all_untouched());
}

static char *stuck_page;

static int one_page_is_stuck(SysCall call, char *addr, uint64_t length,
                             int value)
{
    return stuck_page >= addr && stuck_page < addr + length ? ENOMEM : 0;
}

static void a_protection_that_stays_keeps_no_other(void **state)
{
    for (unsigned page = 0; page < 8; page += 2) {
        assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, page), page_size, 0);
    }
    stuck_page = (char *)host(LEFT, 2);
    fake.on_call = one_page_is_stuck;
    assert_true(pvmemctl_guard_lift_all(ledger));
    assert_int_equal(collect(), 1);
    assert_int_equal(info().attributes, 1);
    assert_true(only_protected(LEFT, 2, 1, "---"));
    fake.on_call = NULL;
}

/* Two threads may fault before the first has lifted the page */
static void two_hits_of_a_page_are_one(void **state)
{
    assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, 2), 6 * page_size, 0);
    assert_true(pvmemctl_guard_lift(host(LEFT, 4) + 1));
    assert_true(pvmemctl_guard_lift(host(LEFT, 4) + 2));
    assert_int_equal(collect(), 1);
    assert_ptr_equal(hits[0], host(LEFT, 4) + 1);
}

static void what_was_protected_again_meanwhile_is_open(void **state)
{
    assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, 2), 6 * page_size, 0);
    load(host(LEFT, 4));
    assert_done(MEMCTL_MPROTECT_R, gpa(LEFT, 4), page_size, 0);
    assert_int_equal(collect(), 1);
    assert_int_equal(info().attributes, 2);
    store(host(LEFT, 4), pattern(LEFT));
    assert_int_equal(faults, 1);
}

static void all_protections_can_be_lifted_at_once(void **state)
{
    assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, 2), 6 * page_size, 0);
    assert_done(MEMCTL_MPROTECT_R, gpa(SHARED, 2), page_size, 0);
    assert_done(MEMCTL_DONTDUMP, gpa(SHARED, 2), page_size, 0);
    assert_true(pvmemctl_guard_lift_all(ledger));
    assert_true(only_protected(LEFT, 0, REGION_PAGES, "rw-"));
    assert_true(only_protected(SHARED, 0, REGION_PAGES, "rw-"));
    assert_int_equal(collect(), 2);
    assert_int_equal(info().attributes, 1);
    assert_true(only_flagged(SHARED, 2, 1, "dd"));
    /* Nothing is left to lift: whoever tries again is told so */
    assert_false(pvmemctl_guard_lift_all(ledger));
    assert_int_equal(collect(), 0);
}

/* Two vCPUs under KVM meet the same protection; the second is late */
static void what_another_has_lifted_is_tried_again_once(void **state)
{
    static const uint64_t undo[] = { 0, MEMCTL_MPROTECT_RW, MEMCTL_MPROTECT_W };
    void *page = host(LEFT, 4);
    unsigned first = 0, late = 0;

    for (unsigned i = 0; i < 2 * ARRAY_SIZE(undo); i++) {
        void *addr = i % 2 ? NULL : page;

        assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, 4), page_size, 0);
        if (undo[i / 2]) {
            assert_done(undo[i / 2], gpa(LEFT, 4), page_size, 0);
            assert_true(pvmemctl_guard_fault(ledger, addr, &first));
            assert_int_equal(collect(), 0);
        } else {
            assert_true(pvmemctl_guard_fault(ledger, addr, &first));
            assert_true(only_protected(LEFT, 0, REGION_PAGES, "rw-"));
            assert_int_equal(collect(), 1);
        }
        assert_true(pvmemctl_guard_fault(ledger, addr, &late));
        /* And if it fails again, that is for something else */
        assert_false(pvmemctl_guard_fault(ledger, addr, &late));
    }
    assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, 4), page_size, 0);
    assert_int_equal(pvmemctl_core_reset(core), 0);
    assert_true(pvmemctl_guard_fault(ledger, page, &late));
    assert_false(pvmemctl_guard_fault(ledger, page, &late));
    assert_int_equal(faults, 0);
}

static void a_fault_for_something_else_lifts_nothing(void **state)
{
    unsigned seen = 0;

    assert_false(pvmemctl_guard_fault(ledger, NULL, &seen));
    assert_done(MEMCTL_MPROTECT_R, gpa(LEFT, 2), 2 * page_size, 0);
    assert_false(pvmemctl_guard_fault(ledger, host(LEFT, 1), &seen));
    assert_false(pvmemctl_guard_fault(ledger, host(LEFT, 4), &seen));
    assert_false(pvmemctl_guard_fault(ledger, host(RIGHT, 2), &seen));
    assert_done(MEMCTL_MPROTECT_RW, gpa(LEFT, 3), page_size, 0);
    /* Nobody has ever protected this */
    assert_false(pvmemctl_guard_fault(ledger, host(RIGHT, 2), &seen));
    assert_true(pvmemctl_guard_fault(ledger, host(LEFT, 4), &seen));
    assert_int_equal(collect(), 0);
    assert_true(only_protected(LEFT, 2, 1, "r--"));
}

static void hits_of_a_mapping_that_is_gone_are_not_told(void **state)
{
    assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, 0), REGION_SIZE, 0);
    assert_done(MEMCTL_MPROTECT_NONE, gpa(RIGHT, 0), REGION_SIZE, 0);
    load(host(LEFT, 4));
    load(host(RIGHT, 4));
    pvmemctl_ledger_forget(ledger, host(LEFT, 0), REGION_SIZE);
    assert_int_equal(collect(), 1);
    assert_ptr_equal(hits[0], host(RIGHT, 4));
    assert_false(pvmemctl_guard_lift(host(LEFT, 5)));
    mprotect(host(LEFT, 0), REGION_SIZE, PROT_READ | PROT_WRITE);
    /* It comes back, as RAM that is plugged in again */
    assert_done(MEMCTL_MPROTECT_NONE, gpa(LEFT, 0), REGION_SIZE, 0);
    load(host(LEFT, 5));
    assert_int_equal(collect(), 1);
}

/* A border in hugetlb memory would stay for ever: no page is cut out */
static void a_hit_of_a_huge_page_lifts_the_whole_mapping(void **state)
{
    unsigned before;

    if (!has_huge_regions()) {
        skip();
    }
    before = mappings();
    assert_done(MEMCTL_MPROTECT_NONE, gpa(HUGE, 0), 4 * 2 * MIB, 0);
    load(host(HUGE, 1) + MIB + 5);
    load(host(HUGE, 3));
    assert_int_equal(faults, 1);
    assert_true(only_protected(HUGE, 0, REGION_PAGES, "rw-"));
    assert_int_equal(collect(), 1);
    assert_ptr_equal(hits[0], host(HUGE, 1) + MIB + 5);
    assert_int_equal(info().attributes, 0);
    /* Cut once, where the request ended */
    assert_true(mappings() <= before + info().ranges);
    assert_int_equal(info().ranges, 1);
}

/* What a guest protects by another device, or another address of the RAM */

static void the_device_gets_over_a_protected_buffer(void **state)
{
    PvmemctlCore *one = core, *other = make_core(&all_options);
    static const uint64_t codes[] = { MEMCTL_MPROTECT_NONE, MEMCTL_MPROTECT_R };

    connect_buffers(1);
    for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
        core = other;
        assert_int_equal(command(MEMCTL_CMD_RESET), MEMCTL_ANSWER_ACK);
        assert_int_equal(register_buffer(gpa(LEFT, 0)), MEMCTL_ANSWER_ACK);
        assert_int_equal(command(MEMCTL_CMD_READY), MEMCTL_ANSWER_ACK);
        put_request(gpa(LEFT, 0), codes[i], gpa(LOW, 0), page_size, 0);
        put_request(BUFFER(0), MEMCTL_INFO, 0, -1, 0);
        ring(CONNECTION(0));
        assert_int_equal(get_answer(gpa(LEFT, 0)).ret_errno, 0);

        core = one;
        faults = 0;
        ring(CONNECTION(0));
        assert_int_equal(faults, 1);
        assert_int_equal(get_answer(BUFFER(0)).ret_value, page_size);
        assert_int_equal(collect(), 1);
        assert_ptr_equal(hit_owner, other);
        assert_int_equal(info().attributes, 0);
    }
    drop_core(other);
}

static void the_device_gets_over_a_protected_table(void **state)
{
    const struct memctl_vmm_range range = { gpa(RIGHT, 0), page_size };

    put_table(TABLE, &range, 1);
    assert_done(MEMCTL_MPROTECT_NONE, TABLE, page_size, 0);
    assert_int_equal(ask(MEMCTL_VECTOR, TABLE, 1, MEMCTL_ZERO).ret_errno, 0);
    assert_int_equal(faults, 1);
    assert_true(pages_hold(RIGHT, 0, 1, 0));
    assert_int_equal(collect(), 1);
}

static void mappings_are_bounded_with_hits_as_well(void **state)
{
    const unsigned max = PVMEMCTL_MIN_RANGES / 2 - 64;
    unsigned before;

    new_ledger(PVMEMCTL_MIN_RANGES, 0);
    connect_buffers(1);
    store(host(BIG, 0), 0);
    before = mappings();
    for (unsigned i = 0; i < max; i++) {
        assert_done(MEMCTL_MPROTECT_NONE, gpa(BIG, 4 * i), 3 * page_size, 0);
    }
    /* One in the middle of each; then they are collected, with no room */
    for (unsigned i = 0; i < max; i++) {
        load(host(BIG, 4 * i + 1));
        if (i % 8 == 0) {
            assert_true(mappings() - before <= PVMEMCTL_MIN_RANGES);
        }
        if (i % 64 == 63) {
            assert_int_equal(collect(), 64);
            assert_true(info().attributes <= max);
            assert_true(mappings() - before <= PVMEMCTL_MIN_RANGES);
        }
    }
    assert_int_equal(pvmemctl_core_reset(core), 0);
    collect();
    assert_int_equal(mappings(), before);
}

static void only_so_many_mappings_are_watched(void **state)
{
    PvmemctlRam ram = ram_of(BIG, 0, 1);
    const PvmemctlAttribute none = {
        .code = MEMCTL_MPROTECT_NONE, .owner = core,
    };
    unsigned i;

    ram.block_length = page_size;
    for (i = 0; i < 64; i++) {
        ram.block = ram.addr = host(BIG, 2 * i);
        assert_int_equal(pvmemctl_ledger_restore(ledger, &ram, &none), 0);
    }
    ram.block = ram.addr = host(BIG, 2 * i);
    assert_int_equal(pvmemctl_ledger_restore(ledger, &ram, &none), ENOSPC);
    assert_non_null(strstr(smaps(BIG, 2 * i, ""), " rw-"));
    load(host(BIG, 2 * 63));
    assert_int_equal(faults, 1);
    assert_int_equal(collect(), 1);
    pvmemctl_ledger_undo(ledger, NULL);
    pvmemctl_ledger_forget(ledger, host(BIG, 0), BIG_SIZE);
    assert_int_equal(pvmemctl_ledger_restore(ledger, &ram, &none), 0);
}

#define GUARD_TEST(name) \
    { #name, with_handler, fake_setup, fake_teardown, name }
#define GUARD_TEST_HUGE(name) \
    { #name, with_handler, fake_setup_huge, fake_teardown, name }

static const struct CMUnitTest guard_tests[] = {
    GUARD_TEST(a_hit_lifts_the_page_and_is_told),
    GUARD_TEST(neighbours_of_a_hit_stay_protected),
    GUARD_TEST(what_may_be_read_is_hit_by_a_write_only),
    GUARD_TEST(memory_that_no_guest_has_protected_is_not_lifted),
    GUARD_TEST(a_handler_leaves_errno_alone),
    GUARD_TEST(too_many_hits_lift_the_whole_mapping),
    GUARD_TEST(a_page_that_cannot_be_cut_out_lifts_the_whole_mapping),
    GUARD_TEST(collecting_ends_where_the_kernel_refuses),
    GUARD_TEST(a_protection_that_stays_keeps_no_other),
    GUARD_TEST(two_hits_of_a_page_are_one),
    GUARD_TEST(what_was_protected_again_meanwhile_is_open),
    GUARD_TEST(all_protections_can_be_lifted_at_once),
    GUARD_TEST(what_another_has_lifted_is_tried_again_once),
    GUARD_TEST(a_fault_for_something_else_lifts_nothing),
    GUARD_TEST(hits_of_a_mapping_that_is_gone_are_not_told),
    GUARD_TEST_HUGE(a_hit_of_a_huge_page_lifts_the_whole_mapping),
    GUARD_TEST(the_device_gets_over_a_protected_buffer),
    GUARD_TEST(the_device_gets_over_a_protected_table),
    GUARD_TEST(mappings_are_bounded_with_hits_as_well),
    GUARD_TEST(only_so_many_mappings_are_watched),
};
TEST_GROUP(guard);
