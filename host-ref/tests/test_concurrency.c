/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Several vCPUs at once.  Best run under the thread sanitizer: that the device
 * survives is as much of a test as what is asserted.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fake_vmm.h"
#include "kernel_view.h"

/* Long enough on the busiest machine, and only waited for where a test fails */
#define PATIENCE_S 60

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * UINT64_C(1000) + ts.tv_nsec / 1000000;
}

static bool wait_until(_Atomic unsigned *value, unsigned wanted)
{
    uint64_t end = now_ms() + PATIENCE_S * 1000;

    while (*value < wanted) {
        if (now_ms() > end) {
            return false;
        }
        sched_yield();
    }
    return true;
}

/* A vCPU that rings one doorbell */
static void *ring_once(void *arg)
{
    return (void *)(uintptr_t)ring_doorbell(core, CONNECTION((uintptr_t)arg));
}

static pthread_t start(void *(*fn)(void *), uintptr_t arg)
{
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, fn, (void *)arg), 0);
    return thread;
}

static uintptr_t finish(pthread_t thread)
{
    void *ret;

    assert_int_equal(pthread_join(thread, &ret), 0);
    return (uintptr_t)ret;
}

/* Two doorbells meet inside */

static _Atomic unsigned inside, met;

static void meet_in_get_ram(uint64_t addr)
{
    if (addr == gpa(LEFT, 0) || addr == gpa(RIGHT, 0)) {
        inside++;
        met += wait_until(&inside, 2);
    }
}

static int meet_in_call(SysCall call, char *addr, uint64_t length, int value)
{
    inside++;
    met += wait_until(&inside, 2);
    return 0;
}

static void two_doorbells_are_in_the_device_at_once(void **state)
{
    pthread_t threads[2];

    connect_buffers(2);
    for (int round = 0; round < 2; round++) {
        inside = met = 0;
        fake.on_get_ram = round ? NULL : meet_in_get_ram;
        fake.on_call = round ? meet_in_call : NULL;
        put_request(BUFFER(0), MEMCTL_DONTNEED, gpa(LEFT, 0), page_size, 0);
        put_request(BUFFER(1), MEMCTL_POPULATE, gpa(RIGHT, 0), page_size, 0);
        threads[0] = start(ring_once, 0);
        threads[1] = start(ring_once, 1);
        assert_true(finish(threads[0]));
        assert_true(finish(threads[1]));
        assert_int_equal(met, 2);
        assert_int_equal(get_answer(BUFFER(0)).ret_errno, 0);
        assert_int_equal(get_answer(BUFFER(1)).ret_errno, 0);
        fake.on_get_ram = NULL;
        fake.on_call = NULL;
    }
}

/* One is held up in an attribute call; what takes no lock goes by */

static _Atomic unsigned held_up, let_go, got_through;

static int hold_up_mprotect(SysCall call, char *addr, uint64_t length,
                            int value)
{
    if (call == CALL_MPROTECT) {
        held_up = 1;
        got_through = wait_until(&let_go, 1);
    }
    return 0;
}

static void a_discard_does_not_wait_for_an_attribute(void **state)
{
    static const uint64_t codes[] = {
        MEMCTL_DONTNEED, MEMCTL_ZERO, MEMCTL_FREE, MEMCTL_COLD, MEMCTL_POPULATE,
    };
    pthread_t thread;

    connect_buffers(2);
    held_up = let_go = got_through = 0;
    fake.on_call = hold_up_mprotect;
    put_request(BUFFER(1), MEMCTL_MPROTECT_R, gpa(LEFT, 0), page_size, 0);
    thread = start(ring_once, 1);
    assert_true(wait_until(&held_up, 1));

    for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
        put_request(BUFFER(0), codes[i], gpa(RIGHT, 0), page_size, 0);
        assert_true(ring_doorbell(core, CONNECTION(0)));
        assert_int_equal(get_answer(BUFFER(0)).ret_errno, 0);
    }
    let_go = 1;
    assert_true(finish(thread));
    /* It waited for us, and not we for it */
    assert_true(got_through);
    fake.on_call = NULL;
}

static void no_hit(void *arg, const void *owner, void *addr)
{
}

/* A CPU that waits for the ledger gets it before the next chunk of another's */

static PvmemctlCore *bystander;
static _Atomic pid_t waiting;
static _Atomic unsigned got_in;
static unsigned chunks, passed_over;
static uint64_t longest;
static pthread_t waiter;

/* Does the thread sleep for a lock of the ledger?  The kernel says on what. */
static bool sleeps_on_ledger(pid_t tid)
{
    char name[64];
    uintptr_t addr;
    long nr;
    FILE *f;
    bool sleeps;

    snprintf(name, sizeof(name), "/proc/self/task/%d/syscall", (int)tid);
    f = fopen(name, "r");
    assert_non_null(f);
    /* Or it says "running" */
    sleeps = fscanf(f, "%ld %" SCNxPTR, &nr, &addr) == 2 && nr == SYS_futex &&
             addr - (uintptr_t)ledger < page_size;
    fclose(f);
    return sleeps;
}

static void *wait_for_ledger(void *arg)
{
    waiting = syscall(SYS_gettid);
    return (void *)(uintptr_t)ring_doorbell(bystander, CONNECTION(0));
}

static int count_chunks(SysCall call, char *addr, uint64_t length, int value)
{
    uint64_t end = now_ms() + PATIENCE_S * 1000;

    if (addr - (char *)host(BIG, 0) >= (ptrdiff_t)BIG_SIZE ||
        addr < (char *)host(BIG, 0)) {
        got_in = 1;
        return 0;
    }
    /* The ledger touches a page for itself */
    if (call == CALL_MADVISE && value == MADV_POPULATE_WRITE) {
        return 0;
    }
    longest = length > longest ? length : longest;
    if (!chunks++) {
        waiter = start(wait_for_ledger, 0);
        while (!waiting || !sleeps_on_ledger(waiting)) {
            assert_true(now_ms() < end);
            sched_yield();
        }
    } else {
        passed_over += !got_in;
    }
    return 0;
}

static void does_protect(void)
{
    put_request(BUFFER(0), MEMCTL_MPROTECT_R, gpa(BIG, 0), BIG_SIZE, 0);
    assert_true(ring_doorbell(core, CONNECTION(0)));
    assert_int_equal(get_answer(BUFFER(0)).ret_errno, 0);
}

static void does_lift(void)
{
    pvmemctl_ledger_lift(ledger);
}

static void does_reapply(void)
{
    assert_int_equal(pvmemctl_ledger_reapply(ledger), 0);
}

static void does_unprotect(void)
{
    /* Takes no lock, and is one call */
    assert_true(pvmemctl_guard_lift_all(ledger));
    fake.on_call = count_chunks;
    assert_int_equal(pvmemctl_guard_collect(ledger, no_hit, NULL), 1);
}

static void does_reset(void)
{
    assert_int_equal(pvmemctl_core_reset(core), 0);
}

static void nobody_waits_for_two_chunks(void **state)
{
    static void (*const jobs[])(void) = {
        does_protect, does_lift, does_reapply, does_unprotect, does_protect,
        does_reset,
    };
    PvmemctlCore *one = core;

    bystander = make_core(&all_options);
    connect_buffers(1);
    core = bystander;
    assert_int_equal(command(MEMCTL_CMD_RESET), MEMCTL_ANSWER_ACK);
    assert_int_equal(register_buffer(BUFFER(1)), MEMCTL_ANSWER_ACK);
    assert_int_equal(command(MEMCTL_CMD_READY), MEMCTL_ANSWER_ACK);
    core = one;
    for (unsigned i = 0; i < ARRAY_SIZE(jobs); i++) {
        put_request(BUFFER(1), i % 2 ? MEMCTL_DODUMP : MEMCTL_DONTDUMP,
                    gpa(LEFT, 0), page_size, 0);
        waiting = got_in = chunks = passed_over = longest = 0;
        fake.on_call = jobs[i] == does_unprotect ? NULL : count_chunks;
        jobs[i]();
        assert_true(finish(waiter));
        fake.on_call = NULL;
        assert_int_equal(get_answer(BUFFER(1)).ret_errno, 0);
        assert_int_equal(longest, PVMEMCTL_CHUNK);
        assert_int_equal(chunks, BIG_SIZE / PVMEMCTL_CHUNK);
        assert_int_equal(passed_over, 0);
    }
    drop_core(bystander);
}

/* RESET waits for a doorbell, which gets no answer then and does no more */

static _Atomic unsigned reset_done;

static int hold_up_madvise(SysCall call, char *addr, uint64_t length, int value)
{
    if (call == CALL_MADVISE && !held_up) {
        held_up = 1;
        while (!let_go || core->state == PVMEMCTL_STATE_READY) {
            sched_yield();
        }
        met = !reset_done;
    }
    return 0;
}

static void *reset_device(void *arg)
{
    if (arg) {
        pvmemctl_core_reset(core);
    } else {
        pvmemctl_core_write(core, MEMCTL_REG_COMMAND, MEMCTL_CMD_RESET, 4);
    }
    reset_done = 1;
    return NULL;
}

static void a_reset_waits_for_doorbells(void **state)
{
    pthread_t ringing, resetting;

    for (uintptr_t by_system = 0; by_system < 2; by_system++) {
        memset(host(BIG, 0), 'x', page_size);
        memset(host(BIG, 0) + 2 * PVMEMCTL_CHUNK, 'x', page_size);
        connect_buffers(1);
        held_up = let_go = met = reset_done = 0;
        fake.on_call = hold_up_madvise;
        put_request(BUFFER(0), MEMCTL_DONTNEED, gpa(BIG, 0), BIG_SIZE, 0);
        ringing = start(ring_once, 0);
        assert_true(wait_until(&held_up, 1));
        resetting = start(reset_device, by_system);
        let_go = 1;
        assert_false(finish(ringing));
        finish(resetting);
        /* The first chunk was done before the reset, the third not at all */
        assert_int_equal(met, 1);
        assert_int_equal(bytes_mapped(BIG, 0, PVMEMCTL_CHUNK), 0);
        assert_int_equal(*host(BIG, 2 * PVMEMCTL_CHUNK / page_size), 'x');
        /* And the buffer holds the request still */
        assert_int_equal(get_answer(BUFFER(0)).ret_errno, MEMCTL_DONTNEED);
        fake.on_call = NULL;
    }
}

/* A command that meets another is ignored, and does not wait */

static int hold_up_reset(SysCall call, char *addr, uint64_t length, int value)
{
    if (call == CALL_MPROTECT && value == (PROT_READ | PROT_WRITE)) {
        held_up = 1;
        got_through = wait_until(&let_go, 1);
    }
    return 0;
}

static void a_command_during_a_command_is_ignored(void **state)
{
    static const uint32_t commands[] = {
        MEMCTL_CMD_RESET, MEMCTL_CMD_REGISTER, MEMCTL_CMD_READY,
        MEMCTL_CMD_DISCONNECT,
    };
    pthread_t thread;

    assert_done(MEMCTL_MPROTECT_R, gpa(LEFT, 0), page_size, 0);
    held_up = let_go = got_through = reset_done = 0;
    fake.on_call = hold_up_reset;
    thread = start(reset_device, 0);
    assert_true(wait_until(&held_up, 1));
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
        assert_false(pvmemctl_core_write(core, MEMCTL_REG_COMMAND, commands[i],
                                         4));
        assert_int_equal(pvmemctl_core_read(core, MEMCTL_REG_COMMAND, 4),
                         MEMCTL_ANSWER_ERROR);
    }
    let_go = 1;
    finish(thread);
    assert_true(got_through);
    assert_int_equal(pvmemctl_core_read(core, MEMCTL_REG_COMMAND, 4),
                     MEMCTL_ANSWER_ACK);
    fake.on_call = NULL;
}

/* All at once: eight vCPUs, resets, another device, and the VMM's business */

#define NR_VCPUS 8
#define STORM_MS 3000

static _Atomic bool storm_over;
static _Atomic unsigned storm_answers, storm_denied;

static void *storm_vcpu(void *arg)
{
    static const int regions[] = { LEFT, RIGHT, SHARED, DISK, COPY, TOP };
    uintptr_t index = (uintptr_t)arg;
    uint64_t table = gpa(LOW, 4 + index);
    unsigned seed = index;

    while (!storm_over) {
        uint64_t code = rand_r(&seed) % (MEMCTL_VECTOR + 1);
        int region = regions[rand_r(&seed) % ARRAY_SIZE(regions)];
        unsigned page = rand_r(&seed) % REGION_PAGES;
        unsigned nr = 1 + rand_r(&seed) % (REGION_PAGES - page);
        uint64_t addr = gpa(region, page), length = nr * page_size;
        uint64_t arg = rand_r(&seed) % 3;
        struct memctl_vmm_ret ret;

        if (code == MEMCTL_VECTOR) {
            const struct memctl_vmm_range ranges[] = {
                { addr, length }, { gpa(LEFT, page), page_size },
                { gpa(RIGHT, page), page_size },
            };

            put_table(table, ranges, 3);
            addr = table;
            length = 3;
            arg = rand_r(&seed) % MEMCTL_VECTOR;
        }
        put_request(BUFFER(index), code, addr, length, arg);
        if (ring_doorbell(core, CONNECTION(index))) {
            ret = get_answer(BUFFER(index));
            storm_answers++;
            storm_denied += ret.ret_errno != 0;
        }
    }
    return NULL;
}

static void *storm_other_device(void *arg)
{
    PvmemctlCore *other = arg;
    unsigned seed = 99;

    while (!storm_over) {
        pvmemctl_core_write(other, MEMCTL_REG_COMMAND, MEMCTL_CMD_RESET, 4);
        pvmemctl_core_write(other, MEMCTL_REG_PAYLOAD, BUFFER(NR_VCPUS), 8);
        pvmemctl_core_write(other, MEMCTL_REG_COMMAND, MEMCTL_CMD_REGISTER, 4);
        pvmemctl_core_write(other, MEMCTL_REG_COMMAND, MEMCTL_CMD_READY, 4);
        for (unsigned i = 0; i < 20; i++) {
            put_request(BUFFER(NR_VCPUS), MEMCTL_DONTDUMP + rand_r(&seed) % 9,
                        gpa(LEFT, i % REGION_PAGES), page_size, 1);
            ring_doorbell(other, CONNECTION(0));
        }
    }
    return NULL;
}

static void count_attribute(void *arg, const PvmemctlAttribute *a)
{
    ++*(unsigned *)arg;
}

static void *storm_vmm(void *arg)
{
    while (!storm_over) {
        PvmemctlLedgerInfo info;
        unsigned nr = 0;

        pvmemctl_ledger_lift(ledger);
        pvmemctl_ledger_each(ledger, count_attribute, &nr);
        pvmemctl_ledger_info(ledger, &info);
        pvmemctl_ledger_reapply(ledger);
        pvmemctl_ledger_undo_range(ledger, host(TOP, 2), 5 * page_size);
        pvmemctl_guard_collect(ledger, no_hit, NULL);
        pvmemctl_core_read(core, MEMCTL_REG_PAYLOAD, 8);
        sched_yield();
    }
    return NULL;
}

static void storm(void **state)
{
    PvmemctlCore *other = make_core(&all_options);
    pthread_t threads[NR_VCPUS + 2];
    uint64_t end = now_ms() + STORM_MS;
    unsigned resets = 0;

    storm_over = false;
    storm_answers = storm_denied = 0;
    connect_buffers(NR_VCPUS);
    for (uintptr_t i = 0; i < NR_VCPUS; i++) {
        threads[i] = start(storm_vcpu, i);
    }
    threads[NR_VCPUS] = start(storm_other_device, (uintptr_t)other);
    threads[NR_VCPUS + 1] = start(storm_vmm, 0);
    while (now_ms() < end || storm_answers < 100 || resets < 10) {
        struct timespec nap = { .tv_nsec = 2000000 };

        /* While it works, then while nobody waits for it */
        nanosleep(&nap, NULL);
        if (resets++ % 8 == 0) {
            pvmemctl_core_reset(core);
        }
        connect_buffers(NR_VCPUS);
    }
    storm_over = true;
    for (unsigned i = 0; i < ARRAY_SIZE(threads); i++) {
        finish(threads[i]);
    }
    drop_core(other);
    assert_true(storm_answers > storm_denied);
    assert_int_equal(fake.open, 0);
    assert_int_equal(pvmemctl_core_reset(core), 0);
    assert_true(all_default());
    assert_true(pages_hold(ROM, 0, REGION_PAGES, pattern(ROM)));
    assert_int_equal(ask(MEMCTL_INFO, 0, -1, 0).ret_value, page_size);
}

static const struct CMUnitTest concurrency_tests[] = {
    TEST(two_doorbells_are_in_the_device_at_once),
    TEST(a_discard_does_not_wait_for_an_attribute),
    TEST(nobody_waits_for_two_chunks),
    TEST(a_reset_waits_for_doorbells),
    TEST(a_command_during_a_command_is_ignored),
    TEST(storm),
};
TEST_GROUP(concurrency);
