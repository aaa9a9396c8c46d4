/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests of protocol 1.1: QUERY, VECTOR, how much a doorbell does, and what
 * the answer says about that.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "fake_vmm.h"
#include "kernel_view.h"

#define BIT(code) (UINT64_C(1) << (code))

/* QUERY */

static uint64_t works(uint64_t addr, uint64_t length)
{
    struct memctl_vmm_ret ret = ask(MEMCTL_QUERY, addr, -1, length);

    assert_int_equal(ret.ret_errno, 0);
    assert_int_equal(ret.arg0, MEMCTL_VECTOR_MAX);
    assert_int_equal(ret.arg1, page_size);
    return ret.ret_value;
}

static void query_of_several_backings_is_what_works_on_all(void **state)
{
    uint64_t file = works(gpa(DISK, 0), REGION_SIZE);
    uint64_t copy = works(gpa(COPY, 0), REGION_SIZE);
    uint64_t both = works(gpa(DISK, 3), REGION_SIZE);

    assert_true(file & BIT(MEMCTL_REMOVE));
    assert_true(copy & BIT(MEMCTL_DONTNEED));
    assert_int_equal(both, file & copy);
    assert_false(both & (BIT(MEMCTL_REMOVE) | BIT(MEMCTL_DONTNEED)));
    assert_true(both & BIT(MEMCTL_ZERO));
}

static void query_of_no_range_is_about_all_ram(void **state)
{
    uint64_t all = works(0, 0);

    assert_int_equal(all, works(gpa(LOW, 0), page_size) &
                          works(gpa(SHARED, 0), page_size) &
                          works(gpa(DISK, 0), page_size) &
                          works(gpa(COPY, 0), page_size));
    /* Wherever */
    assert_int_equal(works(gpa(ROM, 0), 0), all);
    assert_int_equal(works(UINT64_MAX, 0), all);
}

static void query_knows_the_largest_granule(void **state)
{
    struct memctl_vmm_ret ret;

    if (!has_huge_regions()) {
        skip();
    }
    ret = ask(MEMCTL_QUERY, 0, -1, 0);
    assert_int_equal(ret.arg1, 2 * MIB);
    assert_int_equal(works(gpa(LEFT, 0), page_size) & BIT(MEMCTL_FREE),
                     BIT(MEMCTL_FREE));
    /* A byte of a huge page will do to ask */
    ret = ask(MEMCTL_QUERY, gpa(HUGE, 0) + 5, -1, 1);
    assert_int_equal(ret.ret_errno, 0);
    assert_int_equal(ret.arg1, 2 * MIB);
}

static void query_of_what_is_not_ram_is_refused(void **state)
{
    const uint64_t ranges[][2] = {
        { gpa(ROM, 0), page_size },
        { gpa(SHARED, 0), REGION_SIZE + 1 },
        { gpa(LEFT, 0) - 1, 2 },
        { gpa(LEFT, 0), gpa(SHARED, 0) - gpa(LEFT, 0) + 1 },
        { gpa(LEFT, 0), UINT64_MAX },
        { gpa(TOP, 0), REGION_SIZE + 1 },
        { gpa(TOP, 0), REGION_SIZE + page_size },
        { UINT64_MAX, 2 },
        { UINT64_MAX, UINT64_MAX },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++) {
        assert_refused(EINVAL, MEMCTL_QUERY, ranges[i][0], -1, ranges[i][1]);
    }
    /* The last byte there is */
    works(UINT64_MAX, 1);
    works(gpa(TOP, 0), REGION_SIZE);
    assert_true(all_untouched());
}

static void query_leaves_out_what_policy_leaves_out(void **state)
{
    PvmemctlOptions options = all_options;

    options.allowed &= ~(BIT(MEMCTL_DONTNEED) | BIT(MEMCTL_MPROTECT_R));
    new_core(&options);
    assert_false(works(gpa(LEFT, 0), 1) & BIT(MEMCTL_DONTNEED));
    assert_false(works(gpa(LEFT, 0), 1) & BIT(MEMCTL_MPROTECT_R));
    assert_true(works(gpa(LEFT, 0), 1) & BIT(MEMCTL_FREE));
}

/* VECTOR */

/* Every other page of BIG, with something in it */
static unsigned scattered(struct memctl_vmm_range *ranges, unsigned nr)
{
    for (unsigned i = 0; i < nr; i++) {
        ranges[i].addr = gpa(BIG, 2 * i);
        ranges[i].length = page_size;
    }
    memset(host(BIG, 0), 'x', (2 * nr + 1) * page_size);
    return nr;
}

/* Does process_madvise() on oneself take all advice? */
static bool takes_vectors(void)
{
    const struct iovec iov[] = {
        { host(BIG, 0), page_size }, { host(BIG, 2), page_size },
    };
    int self = syscall(SYS_pidfd_open, getpid(), 0);
    bool ok = syscall(SYS_process_madvise, self, iov, 2, MADV_DONTNEED, 0) ==
              2 * (long)page_size;

    close(self);
    return ok;
}

static void a_vector_of_scattered_ranges_is_one_system_call(void **state)
{
    static const unsigned sizes[] = { 2, 128, MEMCTL_VECTOR_MAX };
    static const uint64_t codes[] = {
        MEMCTL_DONTNEED, MEMCTL_ZERO, MEMCTL_COLD, MEMCTL_FREE,
        MEMCTL_POPULATE,
    };
    struct memctl_vmm_range ranges[MEMCTL_VECTOR_MAX];

    if (!takes_vectors()) {
        skip();                 /* Linux before 6.13 */
    }
    for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
        for (unsigned j = 0; j < ARRAY_SIZE(sizes); j++) {
            unsigned nr = scattered(ranges, sizes[j]);
            unsigned before = calls_made();
            bool gone = codes[i] == MEMCTL_DONTNEED || codes[i] == MEMCTL_ZERO;

            assert_vector(0, nr, 0, codes[i], ranges, nr);
            assert_int_equal(calls_made(), before + 1);
            assert_int_equal(bytes_mapped(BIG, 0, 2 * nr * page_size),
                             (gone ? nr : 2 * nr) * page_size);
            for (unsigned k = 0; k < 2 * nr; k++) {
                bool inside = k % 2 == 0;

                if (codes[i] != MEMCTL_FREE) {
                    assert_true(pages_hold(BIG, k, 1,
                                           inside && gone ? 0 : 'x'));
                }
            }
        }
    }
}

/* The shortest table, and attributes, which take a call each */
static void a_vector_may_have_one_entry_or_set_attributes(void **state)
{
    const struct memctl_vmm_range ranges[] = {
        { gpa(LEFT, 2), page_size }, { gpa(SHARED, 4), 2 * page_size },
        { gpa(LEFT, 8), page_size },
    };

    assert_vector(0, 1, 0, MEMCTL_DONTNEED, ranges, 1);
    assert_true(pages_hold(LEFT, 2, 1, 0));
    assert_vector(0, 3, 0, MEMCTL_DONTDUMP, ranges, 3);
    assert_true(only_flagged(SHARED, 4, 2, "dd"));
    assert_non_null(strstr(smaps(LEFT, 2, "VmFlags:"), " dd"));
    assert_non_null(strstr(smaps(LEFT, 8, "VmFlags:"), " dd"));
    assert_null(strstr(smaps(LEFT, 3, "VmFlags:"), " dd"));
    assert_vector(0, 3, 0, MEMCTL_DODUMP, ranges, 3);
    assert_true(all_default());
}

static void a_vector_spans_regions_and_backings(void **state)
{
    const struct memctl_vmm_range ranges[] = {
        { gpa(LEFT, REGION_PAGES - 1), 2 * page_size },     /* and RIGHT */
        { gpa(SHARED, 3), page_size },
        { gpa(DISK, REGION_PAGES - 1), 2 * page_size },     /* and COPY */
        { gpa(TOP, 0), page_size },
        { gpa(SHARED, 5), page_size },
    };

    assert_vector(0, 5, 0, MEMCTL_ZERO, ranges, 5);
    assert_int_equal(fake.changed, 7 * page_size);
    /* Before they are read, which backs them */
    assert_int_equal(pages_held(SHARED, 3, 1), 0);
    assert_int_equal(pages_held(SHARED, 5, 1), 0);
    assert_true(pages_hold(LEFT, 0, REGION_PAGES - 1, pattern(LEFT)));
    assert_true(pages_hold(LEFT, REGION_PAGES - 1, 1, 0));
    assert_true(pages_hold(RIGHT, 0, 1, 0));
    assert_true(pages_hold(RIGHT, 1, REGION_PAGES - 1, pattern(RIGHT)));
    assert_true(pages_hold(SHARED, 3, 1, 0));
    assert_true(pages_hold(SHARED, 4, 1, pattern(SHARED)));
    assert_true(pages_hold(SHARED, 5, 1, 0));
    assert_true(pages_hold(DISK, 0, REGION_PAGES - 1, pattern(DISK)));
    assert_true(pages_hold(DISK, REGION_PAGES - 1, 1, 0));
    assert_true(pages_hold(COPY, 0, 1, 0));
    assert_true(pages_hold(COPY, 1, REGION_PAGES - 1, pattern(COPY)));
    assert_true(pages_hold(TOP, 0, 1, 0));
}

static void every_entry_of_a_full_vector_may_be_in_two_pieces(void **state)
{
    struct memctl_vmm_range ranges[MEMCTL_VECTOR_MAX];

    for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++) {
        ranges[i].addr = gpa(LEFT, REGION_PAGES - 1);
        ranges[i].length = 2 * page_size;
    }
    assert_vector(0, MEMCTL_VECTOR_MAX, 0, MEMCTL_DONTNEED, ranges,
                  MEMCTL_VECTOR_MAX);
    assert_true(pages_hold(LEFT, REGION_PAGES - 1, 1, 0));
    assert_true(pages_hold(RIGHT, 0, 1, 0));
    assert_int_equal(fake.changed, 2 * MEMCTL_VECTOR_MAX * page_size);
}

static void a_vector_works_in_order(void **state)
{
    /* Protected, opened, protected: the last one counts */
    const struct memctl_vmm_range ranges[] = {
        { gpa(LEFT, 3), 3 * page_size }, { gpa(LEFT, 4), 3 * page_size },
        { gpa(LEFT, 3), page_size }, { gpa(ROM, 0), page_size },
        { gpa(LEFT, 9), page_size },
    };

    assert_vector(EINVAL, 3, 0, MEMCTL_MPROTECT_R, ranges, 5);
    assert_true(only_protected(LEFT, 3, 4, "r--"));
    assert_int_equal(get_answer(BUFFER(0)).ret_code, 0);
    assert_vector(EINVAL, 3, 0, MEMCTL_MPROTECT_RW, ranges, 5);
    assert_true(all_untouched());
}

static void a_vector_stops_at_the_first_failure(void **state)
{
    const struct memctl_vmm_range ranges[] = {
        { gpa(LEFT, 0), page_size },
        { gpa(LEFT, 2), page_size },
        { gpa(LEFT, 4), page_size },    /* locked */
        { gpa(LEFT, 6), page_size },
    };
    const struct memctl_vmm_range holes[] = {
        { gpa(RIGHT, 0), page_size },
        { gpa(RIGHT, 2), page_size },
        { gpa(ROM, 0), page_size },
        { gpa(RIGHT, 6), page_size },
    };
    const struct memctl_vmm_range too_big = { gpa(BIG, 0), BIT(40) };

    assert_done(MEMCTL_MLOCK, gpa(LEFT, 4), page_size, 0);
    assert_vector(EINVAL, 2, 0, MEMCTL_DONTNEED, ranges, 4);
    /* The host tried: no code */
    assert_int_equal(get_answer(BUFFER(0)).ret_code, 0);
    assert_true(pages_hold(LEFT, 0, 1, 0));
    assert_true(pages_hold(LEFT, 1, 1, pattern(LEFT)));
    assert_true(pages_hold(LEFT, 2, 1, 0));
    assert_true(pages_hold(LEFT, 3, REGION_PAGES - 3, pattern(LEFT)));

    /* What comes before a bad entry is done though it was only collected */
    assert_vector(EINVAL, 2, 0, MEMCTL_DONTNEED, holes, 4);
    assert_int_equal(get_answer(BUFFER(0)).ret_code, 0);
    assert_true(pages_hold(RIGHT, 0, 1, 0));
    assert_true(pages_hold(RIGHT, 2, 1, 0));
    assert_true(pages_hold(RIGHT, 3, REGION_PAGES - 3, pattern(RIGHT)));

    /* What fails among the collected comes before what is bad later */
    put_table(TABLE, ranges, 3);
    put_table(TABLE + 3 * sizeof(ranges[0]), holes + 2, 1);
    assert_int_equal(ask(MEMCTL_VECTOR, TABLE, 4, MEMCTL_DONTNEED).ret_value,
                     2);

    put_table(TABLE + 3 * sizeof(ranges[0]), &too_big, 1);
    assert_int_equal(ask(MEMCTL_VECTOR, TABLE, 4, MEMCTL_DONTNEED).ret_errno,
                     EINVAL);

    /* Bad at once: nothing was tried */
    assert_vector(EINVAL, 0, 0, MEMCTL_DONTNEED, holes + 2, 2);
    assert_int_equal(get_answer(BUFFER(0)).ret_code, MEMCTL_VECTOR);
    assert_true(pages_hold(RIGHT, 6, 1, pattern(RIGHT)));
}

static void a_vector_of_other_functions_is_refused(void **state)
{
    const struct memctl_vmm_range range = { gpa(LEFT, 0), page_size };
    static const uint64_t codes[] = {
        MEMCTL_INFO, MEMCTL_QUERY, MEMCTL_VECTOR, MEMCTL_SET_VMA_ANON_NAME,
        15, 31, 40, 63, 64, 256 + MEMCTL_DONTNEED, UINT64_MAX,
        BIT(32) + MEMCTL_DONTNEED,
    };
    PvmemctlOptions options = all_options;

    put_table(TABLE, &range, 1);
    for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
        assert_refused(EINVAL, MEMCTL_VECTOR, TABLE, 1, codes[i]);
    }
    assert_int_equal(calls_made(), 0);

    /* Policy is about the function */
    options.allowed &= ~BIT(MEMCTL_DONTNEED);
    new_core(&options);
    assert_refused(EPERM, MEMCTL_VECTOR, TABLE, 1, MEMCTL_DONTNEED);
    assert_true(all_untouched());
}

static void a_bad_table_is_refused(void **state)
{
    static const struct memctl_vmm_range entry = { 0x10000000, 4096 };
    const uint64_t good = TABLE;
    const struct {
        uint64_t addr, length;
        int err;
    } tables[] = {
        { good, 0, EINVAL },
        { good + 8, 1, EINVAL },
        { good + 1, 1, EINVAL },
        { good, MEMCTL_VECTOR_MAX + 1, E2BIG },
        { good, UINT64_MAX, E2BIG },
        { good, BIT(60), E2BIG },
        { good, BIT(63) + 1, E2BIG },
        { gpa(ROM, 0), 1, EINVAL },
        { gpa(LOW, REGION_PAGES) - 16, 2, EINVAL },
        { gpa(LEFT, 0) - 16, 2, EINVAL },
        { UINT64_MAX - 15, 2, EINVAL },
        { BIT(52), 1, EINVAL },
    };

    put_table(TABLE, &entry, 1);
    for (unsigned i = 0; i < ARRAY_SIZE(tables); i++) {
        assert_refused(tables[i].err, MEMCTL_VECTOR, tables[i].addr,
                       tables[i].length, MEMCTL_DONTNEED);
    }
    assert_int_equal(calls_made(), 0);
    assert_true(all_untouched());
}

static void a_table_may_lie_across_regions(void **state)
{
    const struct memctl_vmm_range ranges[] = {
        { gpa(SHARED, 0), page_size }, { gpa(SHARED, 2), page_size },
    };
    uint64_t table = gpa(LEFT, REGION_PAGES) - sizeof(ranges[0]);

    put_table(table, ranges, 2);
    assert_int_equal(ask(MEMCTL_VECTOR, table, 2, MEMCTL_ZERO).ret_value, 2);
    assert_true(pages_hold(SHARED, 0, 1, 0));
    assert_true(pages_hold(SHARED, 1, 1, pattern(SHARED)));
    assert_true(pages_hold(SHARED, 2, 1, 0));
}

static void a_vector_may_discard_its_own_table(void **state)
{
    const struct memctl_vmm_range ranges[] = {
        { TABLE, page_size }, { gpa(LEFT, 0), page_size },
        { gpa(LOW, 0), page_size },
    };

    assert_vector(0, 3, 0, MEMCTL_DONTNEED, ranges, 3);
    assert_true(pages_hold(LOW, 1, 1, 0));
    assert_true(pages_hold(LEFT, 0, 1, 0));
}

static void a_vector_cannot_protect_a_buffer(void **state)
{
    const struct memctl_vmm_range ranges[] = {
        { gpa(LEFT, 0), page_size }, { gpa(LOW, 0), 2 * page_size },
    };

    assert_vector(EINVAL, 1, 0, MEMCTL_MPROTECT_NONE, ranges, 2);
    assert_true(only_protected(LOW, 0, 0, "---"));
    assert_true(only_protected(LEFT, 0, 1, "---"));
}

/*
 * A guest that rewrites its table all the time, with entries that are good ones
 * and bad ones: what is done must always be what was checked.
 */
static _Atomic bool stop_flipping;

__attribute__((no_sanitize("thread")))
static void *flip_entries(void *arg)
{
    volatile uint64_t *table = arg;

    for (unsigned i = 0; !stop_flipping; i++) {
        bool good = i & 1;

        for (unsigned j = 0; j < 8; j++) {
            table[2 * j] = good ? gpa(BIG, j) : gpa(ROM, j);
            table[2 * j + 1] = good ? page_size : 5 * page_size;
        }
    }
    return NULL;
}

static void a_table_is_copied_once(void **state)
{
    struct memctl_vmm_range ranges[8];
    unsigned done = 0, refused = 0;
    pthread_t thread;

    for (unsigned j = 0; j < 8; j++) {
        ranges[j] = (struct memctl_vmm_range) { gpa(BIG, j), page_size };
    }
    put_table(TABLE, ranges, 8);
    connect_buffers(1);
    stop_flipping = false;
    assert_int_equal(pthread_create(&thread, NULL, flip_entries,
                                    guest_pointer(TABLE)), 0);
    /* That no system call goes beyond what is held is seen to by fake_vmm.c */
    for (unsigned i = 0; (i < 20000 || !done || !refused) && i < 2000000; i++) {
        struct memctl_vmm_ret ret = ask(MEMCTL_VECTOR, TABLE, 8,
                                        MEMCTL_MPROTECT_R);

        done += !ret.ret_errno;
        refused += !!ret.ret_errno;
        if (!ret.ret_errno) {
            assert_int_equal(ret.ret_value, 8);
        } else if (ret.ret_errno != EINVAL) {
            fail();
        }
    }
    stop_flipping = true;
    pthread_join(thread, NULL);
    assert_true(done && refused);
    assert_true(only_protected(ROM, 0, 0, "r--"));
    assert_true(pages_hold(ROM, 0, REGION_PAGES, pattern(ROM)));
}

/* Of a table that changes while it is worked off, the first copy counts */
static void rewrite_table(uint64_t addr)
{
    if (addr == gpa(LEFT, 0)) {
        const struct memctl_vmm_range other[] = {
            { gpa(RIGHT, 0), page_size }, { gpa(RIGHT, 2), page_size },
        };

        put_table(TABLE, other, 2);
    }
}

static void a_table_rewritten_meanwhile_changes_nothing(void **state)
{
    const struct memctl_vmm_range ranges[] = {
        { gpa(LEFT, 0), page_size }, { gpa(LEFT, 2), page_size },
    };

    fake.on_get_ram = rewrite_table;
    assert_vector(0, 2, 0, MEMCTL_DONTNEED, ranges, 2);
    assert_true(pages_hold(LEFT, 0, 1, 0));
    assert_true(pages_hold(LEFT, 2, 1, 0));
    assert_true(pages_hold(RIGHT, 0, REGION_PAGES, pattern(RIGHT)));
}

/* On kernels whose process_madvise() takes little */
static int no_process_madvise(SysCall call, char *addr, uint64_t length,
                              int value)
{
    return call == CALL_PROCESS_MADVISE ? EINVAL : 0;
}

static void a_vector_works_without_process_madvise(void **state)
{
    struct memctl_vmm_range ranges[128];
    unsigned nr = scattered(ranges, 128);

    /* Remembered for the life of the process: of advice no other test needs */
    fake.on_call = no_process_madvise;
    assert_vector(0, nr, 0, MEMCTL_FREE, ranges, nr);
    assert_int_equal(fake.calls[CALL_MADVISE], nr);
    assert_int_equal(fake.calls[CALL_PROCESS_MADVISE], 1);
    assert_vector(0, nr, 0, MEMCTL_FREE, ranges, nr);
    assert_int_equal(fake.calls[CALL_PROCESS_MADVISE], 1);
}

/* Chunks */

/* A byte in every 2 MiB, of huge or small pages */
static void dot_big(void)
{
    for (uint64_t at = 0; at < BIG_SIZE; at += 2 * MIB) {
        host(BIG, 0)[at] = 'x';
    }
}

static void a_doorbell_stops_after_a_chunk_when_it_is_told_to(void **state)
{
    for (unsigned looks = 1; looks <= 4; looks++) {
        uint64_t done = looks * PVMEMCTL_CHUNK;

        dot_big();
        fake.interrupt_at = looks;
        fake.interrupt_looks = 0;
        if (looks < 4) {
            assert_stopped(EAGAIN, done, MEMCTL_DONTNEED, gpa(BIG, 0), BIG_SIZE,
                           0);
            assert_true(bytes_mapped(BIG, done, BIG_SIZE - done) > 0);
            assert_int_equal(host(BIG, 0)[done], 'x');
        } else {
            /* It was done before it looked */
            assert_done(MEMCTL_DONTNEED, gpa(BIG, 0), BIG_SIZE, 0);
        }
        assert_int_equal(bytes_mapped(BIG, 0, done), 0);
        assert_int_equal(fake.changed, BIG_SIZE);
        fake.changed = 0;
    }
}

static void an_attribute_stops_after_a_chunk_too(void **state)
{
    fake.interrupt_at = 2;
    assert_stopped(EAGAIN, 2 * PVMEMCTL_CHUNK, MEMCTL_DONTDUMP, gpa(BIG, 0),
                   BIG_SIZE, 0);
    assert_non_null(strstr(smaps(BIG, 2 * PVMEMCTL_CHUNK / page_size - 1,
                                 "VmFlags:"), " dd"));
    assert_null(strstr(smaps(BIG, 2 * PVMEMCTL_CHUNK / page_size,
                             "VmFlags:"), " dd"));
}

static void a_vector_says_where_it_stopped(void **state)
{
    const struct memctl_vmm_range ranges[] = {
        { gpa(LEFT, 0), page_size },
        { gpa(BIG, 0), BIG_SIZE },
        { gpa(RIGHT, 0), page_size },
    };

    dot_big();
    /* A look before the large one, then one after each chunk */
    fake.interrupt_at = 3;
    assert_vector(EAGAIN, 1, 2 * PVMEMCTL_CHUNK, MEMCTL_DONTNEED, ranges, 3);
    assert_int_equal(bytes_mapped(BIG, 0, 2 * PVMEMCTL_CHUNK), 0);
    assert_int_equal(host(BIG, 0)[2 * PVMEMCTL_CHUNK], 'x');
    assert_true(pages_hold(LEFT, 0, 1, 0));
    assert_true(pages_hold(RIGHT, 0, 1, pattern(RIGHT)));

    fake.interrupt_looks = 0;
    fake.interrupt_at = 1;
    assert_vector(EAGAIN, 1, 0, MEMCTL_DONTNEED, ranges, 3);
    fake.interrupt_looks = 0;
    fake.interrupt_at = 5;
    assert_vector(EAGAIN, 2, 0, MEMCTL_DONTNEED, ranges, 3);
    fake.interrupt_at = 0;
    assert_vector(0, 3, 0, MEMCTL_DONTNEED, ranges, 3);
    assert_true(pages_hold(RIGHT, 0, 1, 0));
}

static void what_moves_data_stops_after_64_mib(void **state)
{
    const struct memctl_vmm_range halves[] = {
        { gpa(BIG, 0), 48 * MIB },
        { gpa(BIG, 0) + 48 * MIB, 48 * MIB },
        { gpa(BIG, 0) + 96 * MIB, 48 * MIB },
    };
    struct memctl_vmm_ret ret;

    assert_stopped(EAGAIN, PVMEMCTL_HEAVY_MAX, MEMCTL_POPULATE, gpa(BIG, 0),
                   BIG_SIZE, 0);
    /* The kernel may take a huge page for the last */
    assert_in_range(bytes_mapped(BIG, 0, BIG_SIZE), PVMEMCTL_HEAVY_MAX,
                    PVMEMCTL_HEAVY_MAX + 2 * MIB);
    assert_done(MEMCTL_DONTNEED, gpa(BIG, 0), BIG_SIZE, 0);
    assert_done(MEMCTL_POPULATE, gpa(BIG, 0), PVMEMCTL_HEAVY_MAX, 0);
    assert_done(MEMCTL_DONTNEED, gpa(BIG, 0), BIG_SIZE, 0);

    ret = vector(MEMCTL_POPULATE, halves, 3);
    assert_int_equal(ret.ret_errno, EAGAIN);
    assert_in_range(ret.ret_value, 1, 2);
    assert_in_range(bytes_mapped(BIG, 0, BIG_SIZE), PVMEMCTL_HEAVY_MAX - 1,
                    2 * PVMEMCTL_HEAVY_MAX - 1);
    assert_in_range(bytes_mapped(BIG, 0, BIG_SIZE),
                    ret.ret_value * 48 * MIB + ret.arg1,
                    ret.ret_value * 48 * MIB + ret.arg1 + 2 * MIB);
    assert_done(MEMCTL_DONTNEED, gpa(BIG, 0), BIG_SIZE, 0);

    /* To clear is to make data */
    fake.begin_errno[PVMEMCTL_DISCARDS] = EBUSY;
    assert_stopped(EAGAIN, PVMEMCTL_HEAVY_MAX, MEMCTL_ZERO, gpa(BIG, 0),
                   BIG_SIZE, 0);
    fake.begin_errno[PVMEMCTL_DISCARDS] = 0;
    /* To release is not */
    assert_done(MEMCTL_ZERO, gpa(BIG, 0), BIG_SIZE, 0);
    assert_int_equal(bytes_mapped(BIG, 0, BIG_SIZE), 0);
}

static void a_doorbell_carries_no_more_than_a_gigabyte(void **state)
{
    struct memctl_vmm_range ranges[5];

    assert_hinted(E2BIG, PVMEMCTL_DOORBELL_MAX, MEMCTL_DONTNEED, gpa(BIG, 0),
                  PVMEMCTL_DOORBELL_MAX + page_size, 0);
    /* As much is a question of whether it is RAM */
    assert_refused(EINVAL, MEMCTL_DONTNEED, gpa(BIG, 0), PVMEMCTL_DOORBELL_MAX,
                   0);
    for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++) {
        ranges[i].addr = gpa(BIG, 0);
        ranges[i].length = BIG_SIZE;
    }
    assert_vector(0, 4, 0, MEMCTL_DONTNEED, ranges, 4);
    assert_vector(E2BIG, 4, 0, MEMCTL_DONTNEED, ranges, 5);
    ranges[0].length = UINT64_MAX - page_size + 1;
    assert_vector(E2BIG, 0, 0, MEMCTL_DONTNEED, ranges, 5);
    /* No sum of lengths comes round to a small one */
    ranges[0].length = page_size;
    ranges[1].length = -page_size;
    assert_vector(E2BIG, 1, 0, MEMCTL_DONTNEED, ranges, 5);
}

static void of_several_refusals_the_first_is_told(void **state)
{
    const uint64_t last = REGION_PAGES - 1, limit = PVMEMCTL_DOORBELL_MAX;
    const struct memctl_vmm_range too_long = { gpa(SHARED, 0) + 1, 2 * limit };
    const struct memctl_vmm_range odd = { gpa(ROM, 0) + 1, page_size };
    PvmemctlOptions options = all_options;

    options.allowed &= ~BIT(MEMCTL_COLD);
    new_core(&options);
    fake.regions[SHARED].flags |= PVMEMCTL_RAM_NO_MERGE;
    fake.begin_errno[PVMEMCTL_DISCARDS] = EBUSY;

    assert_refused(EOPNOTSUPP, 15, too_long.addr, too_long.length, 0);
    assert_refused(EPERM, MEMCTL_COLD, too_long.addr, too_long.length, 0);
    assert_refused(EINVAL, MEMCTL_VECTOR, TABLE + 1, MEMCTL_VECTOR_MAX + 1, 15);
    assert_refused(EPERM, MEMCTL_VECTOR, TABLE + 1, MEMCTL_VECTOR_MAX + 1,
                   MEMCTL_COLD);
    assert_refused(E2BIG, MEMCTL_VECTOR, TABLE + 1, MEMCTL_VECTOR_MAX + 1,
                   MEMCTL_MERGEABLE);
    assert_hinted(E2BIG, limit, MEMCTL_MERGEABLE, too_long.addr,
                  too_long.length, 0);
    assert_hinted(EINVAL, page_size, MEMCTL_MERGEABLE, odd.addr, odd.length, 0);
    /* The first page alone is EPERM or EOPNOTSUPP, the second is ROM */
    assert_refused(EINVAL, MEMCTL_MERGEABLE, gpa(SHARED, last), 2 * page_size,
                   0);
    assert_refused(EINVAL, MEMCTL_DONTNEED, gpa(SHARED, last), 2 * page_size,
                   0);
    assert_refused(EPERM, MEMCTL_MERGEABLE, gpa(SHARED, last), page_size, 0);
    assert_refused(EOPNOTSUPP, MEMCTL_DONTNEED, gpa(SHARED, last), page_size,
                   0);
    assert_refused(EBUSY, MEMCTL_DONTNEED, gpa(LEFT, 0), page_size, 0);

    /* Of a VECTOR there is no limit and no alignment in the value */
    assert_vector(E2BIG, 0, 0, MEMCTL_MERGEABLE, &too_long, 1);
    assert_vector(EINVAL, 0, 0, MEMCTL_MERGEABLE, &odd, 1);
}

static void what_is_refused_late_has_no_code(void **state)
{
    const struct {
        struct memctl_vmm_range range;
        uint32_t err;
    } refused[] = {
        { { gpa(ROM, 0), page_size }, EINVAL },
        { { gpa(LEFT, 3) + 1, page_size }, EINVAL },
        { { gpa(RIGHT, 0), page_size }, EPERM },
        { { gpa(SHARED, 0), page_size }, EOPNOTSUPP },
        { { gpa(BIG, 0), PVMEMCTL_DOORBELL_MAX }, E2BIG },
    };

    if (!has_ksm()) {
        skip();
    }
    fake.regions[RIGHT].flags |= PVMEMCTL_RAM_NO_MERGE;
    for (unsigned i = 0; i < ARRAY_SIZE(refused); i++) {
        const struct memctl_vmm_range ranges[] = {
            { gpa(LEFT, 0), page_size }, refused[i].range,
        };
        struct memctl_vmm_ret ret = vector(MEMCTL_MERGEABLE, ranges, 2);

        assert_int_equal(ret.ret_errno, refused[i].err);
        assert_int_equal(ret.ret_code, 0);
        assert_int_equal(ret.ret_value, 1);
        if (refused[i].err != E2BIG) {
            ret = vector(MEMCTL_MERGEABLE, ranges + 1, 1);
            assert_int_equal(ret.ret_errno, refused[i].err);
            assert_int_equal(ret.ret_code, MEMCTL_VECTOR);
            assert_int_equal(ret.ret_value, 0);
        }
    }
    /* New protections while memory is being copied: the ledger says no */
    pvmemctl_ledger_lift(ledger);
    assert_failed(EBUSY, MEMCTL_MPROTECT_R, gpa(LEFT, 0), page_size, 0);
    pvmemctl_ledger_reapply(ledger);
}

static void a_1_0_host_does_all_at_once(void **state)
{
    fake.interrupt_at = 1;
    dot_big();
    assert_done(MEMCTL_DONTNEED, gpa(BIG, 0), BIG_SIZE, 0);
    assert_int_equal(bytes_mapped(BIG, 0, BIG_SIZE), 0);
    assert_refused(EINVAL, MEMCTL_DONTNEED, gpa(BIG, 0),
                   PVMEMCTL_DOORBELL_MAX + page_size, 0);
}

/* Errors */

static int no_memory_yet(SysCall call, char *addr, uint64_t length, int value)
{
    return EAGAIN;
}

static void eagain_of_the_kernel_is_no_eagain_of_the_protocol(void **state)
{
    fake.on_call = no_memory_yet;
    if (core->options.minor) {
        assert_failed(ENOMEM, MEMCTL_MLOCK, gpa(LEFT, 0), page_size, 0);
        assert_failed(ENOMEM, MEMCTL_DONTNEED, gpa(LEFT, 0), page_size, 0);
    } else {
        assert_failed(EAGAIN, MEMCTL_MLOCK, gpa(LEFT, 0), page_size, 0);
        assert_failed(EAGAIN, MEMCTL_DONTNEED, gpa(LEFT, 0), page_size, 0);
    }
}

static unsigned calls_left;

static int fail_later(SysCall call, char *addr, uint64_t length, int value)
{
    /* The first attribute of a mapping takes one more */
    return value == MADV_POPULATE_WRITE || calls_left-- ? 0 : ENOMEM;
}

static void a_failure_in_a_later_chunk_tells_what_was_done(void **state)
{
    dot_big();
    fake.on_call = fail_later;
    calls_left = 2;
    assert_stopped(ENOMEM, 2 * PVMEMCTL_CHUNK, MEMCTL_DONTNEED, gpa(BIG, 0),
                   BIG_SIZE, 0);
    calls_left = 1;
    assert_stopped(ENOMEM, PVMEMCTL_CHUNK, MEMCTL_DONTDUMP, gpa(BIG, 0),
                   BIG_SIZE, 0);
}

/* Rates */

static void what_is_rated_waits_when_its_second_is_used_up(void **state)
{
    PvmemctlOptions options = all_options;

    options.rate_limit = page_size;
    new_core(&options);
    assert_done(MEMCTL_POPULATE, gpa(BIG, 0), 64 * page_size, 0);
    /* That was a minute's worth: a debt */
    assert_refused(EBUSY, MEMCTL_POPULATE, gpa(BIG, 4096), page_size, 0);
    assert_int_equal(bytes_mapped(BIG, 4096 * page_size, page_size), 0);
    /* Others are free */
    assert_done(MEMCTL_DONTNEED, gpa(BIG, 0), 64 * page_size, 0);
    assert_done(MEMCTL_COLD, gpa(BIG, 0), page_size, 0);
    assert_done(MEMCTL_DONTDUMP, gpa(BIG, 0), page_size, 0);
    /* And so is another device */
    new_core(&all_options);
    assert_done(MEMCTL_POPULATE, gpa(BIG, 0), page_size, 0);
}

static void a_debt_is_paid_in_time(void **state)
{
    const struct timespec nap = { .tv_nsec = 10000000 };
    PvmemctlOptions options = all_options;
    struct memctl_vmm_ret ret;
    unsigned refused = 0;

    /* A page in a hundredth of a second: three, and one that starts a debt */
    options.rate_limit = 100 * page_size;
    new_core(&options);
    assert_done(MEMCTL_POPULATE, gpa(BIG, 0), 104 * page_size, 0);
    for (;;) {
        ret = ask(MEMCTL_POPULATE, gpa(BIG, 0), page_size, 0);
        if (ret.ret_errno != EBUSY) {
            break;
        }
        refused++;
        nanosleep(&nap, NULL);
    }
    assert_int_equal(ret.ret_errno, 0);
    assert_true(refused > 0);
}

/* A guest that asks very often must not starve by rounding */
static void asking_often_does_not_make_a_debt_last(void **state)
{
    PvmemctlOptions options = all_options;
    struct timespec start, now;

    options.rate_limit = 20;
    new_core(&options);
    core->rate_credit = 0;
    clock_gettime(CLOCK_MONOTONIC, &start);
    core->rate_time = start.tv_sec * UINT64_C(1000000000) + start.tv_nsec;
    do {
        if (!ask(MEMCTL_POPULATE, gpa(LEFT, 0), page_size, 0).ret_errno) {
            return;
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - start.tv_sec < 20);
    fail();
}

/* Counters */

static void requests_are_counted(void **state)
{
    const struct memctl_vmm_range ranges[] = {
        { gpa(LEFT, 0), page_size }, { gpa(LEFT, 2), 2 * page_size },
    };

    connect_buffers(1);
    assert_done(MEMCTL_DONTNEED, gpa(LEFT, 0), 3 * page_size, 0);
    assert_refused(EINVAL, MEMCTL_DONTNEED, gpa(ROM, 0), page_size, 0);
    assert_vector(0, 2, 0, MEMCTL_DONTNEED, ranges, 2);
    ring_in_vain(CONNECTION(7));
    assert_int_equal(core->stats[MEMCTL_DONTNEED].calls, 2);
    assert_int_equal(core->stats[MEMCTL_DONTNEED].failed, 1);
    assert_int_equal(core->stats[MEMCTL_DONTNEED].bytes, 6 * page_size);
    assert_int_equal(core->stats[MEMCTL_VECTOR].calls, 1);
    assert_int_equal(core->stats[MEMCTL_VECTOR].failed, 0);
    assert_int_equal(core->ignored, 1);
}

/* Hosts that are not to be trusted */

static void be_a_host(uint32_t refuse, uint32_t lie)
{
    PvmemctlOptions options = core->options;

    options.refuse = refuse;
    options.lie = lie;
    new_core(&options);
}

/* Every other page of LEFT */
static void every_other(struct memctl_vmm_range *ranges, unsigned nr)
{
    for (unsigned i = 0; i < nr; i++) {
        ranges[i].addr = gpa(LEFT, 2 * i);
        ranges[i].length = page_size;
    }
}

static void a_host_may_refuse_every_nth_range(void **state)
{
    struct memctl_vmm_range ranges[7];
    static const char want[] = { 1, 1, 0, 1, 1, 0, 1 };

    every_other(ranges, 7);
    be_a_host(3, 0);
    /* As a guest goes on: behind what is refused */
    assert_vector(EPERM, 2, 0, MEMCTL_ZERO, ranges, 7);
    assert_int_equal(get_answer(BUFFER(0)).ret_code, 0);
    assert_vector(EPERM, 2, 0, MEMCTL_ZERO, ranges + 3, 4);
    assert_vector(0, 1, 0, MEMCTL_ZERO, ranges + 6, 1);
    for (unsigned i = 0; i < 7; i++) {
        assert_true(pages_hold(LEFT, 2 * i, 1, want[i] ? 0 : pattern(LEFT)));
        assert_true(pages_hold(LEFT, 2 * i + 1, 1, pattern(LEFT)));
    }
    assert_int_equal(core->stats[MEMCTL_ZERO].bytes, 5 * page_size);

    /* What could not be done anyway is not counted, nor what is no release */
    assert_refused(EINVAL, MEMCTL_ZERO, gpa(ROM, 0), page_size, 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_done(MEMCTL_COLD, gpa(LEFT, 4), page_size, 0);
    }
    assert_done(MEMCTL_DONTNEED, gpa(LEFT, 1), page_size, 0);
    assert_refused(EPERM, MEMCTL_FREE, gpa(LEFT, 4), page_size, 0);
    assert_true(pages_hold(LEFT, 4, 1, pattern(LEFT)));
}

static void a_host_may_refuse_all(void **state)
{
    const struct memctl_vmm_range range = { gpa(LEFT, 0), page_size };

    be_a_host(1, 1);
    assert_refused(EPERM, MEMCTL_ZERO, gpa(LEFT, 0), page_size, 0);
    assert_refused(EPERM, MEMCTL_REMOVE, gpa(SHARED, 0), page_size, 0);
    assert_vector(EPERM, 0, 0, MEMCTL_DONTNEED, &range, 1);
    assert_int_equal(get_answer(BUFFER(0)).ret_code, MEMCTL_VECTOR);
    assert_int_equal(calls_made(), 0);
    assert_true(all_untouched());
    /* It still says that it can */
    assert_true(works(0, 0) & BIT(MEMCTL_ZERO));
}

static void a_host_may_lie_about_every_nth_range(void **state)
{
    struct memctl_vmm_range ranges[5];

    every_other(ranges, 5);
    be_a_host(0, 2);
    assert_vector(0, 5, 0, MEMCTL_ZERO, ranges, 5);
    assert_int_equal(fake.changed, 3 * page_size);
    for (unsigned i = 0; i < 5; i++) {
        assert_true(pages_hold(LEFT, 2 * i, 1, i & 1 ? pattern(LEFT) : 0));
        assert_true(pages_hold(LEFT, 2 * i + 1, 1, pattern(LEFT)));
    }

    /* Its lies count as done, behind what came before them, and no further */
    assert_done(MEMCTL_MLOCK, gpa(LEFT, 6), page_size, 0);
    assert_vector(EINVAL, 1, 0, MEMCTL_DONTNEED, ranges + 2, 3);
    memset(host(LEFT, 0), 'x', page_size);
    ranges[2].addr = gpa(ROM, 0);
    assert_vector(EINVAL, 2, 0, MEMCTL_DONTNEED, ranges, 3);
    assert_true(pages_hold(LEFT, 0, 1, 0));
    assert_true(pages_hold(LEFT, 2, 1, pattern(LEFT)));
}

static void a_host_may_lie_always(void **state)
{
    struct memctl_vmm_range ranges[3];

    every_other(ranges, 3);
    be_a_host(0, 1);
    assert_vector(0, 3, 0, MEMCTL_DONTNEED, ranges, 3);
    /* In two pieces, and longer than a chunk */
    assert_done(MEMCTL_DONTNEED, gpa(LEFT, 0), 2 * REGION_SIZE, 0);
    memset(host(BIG, 0), 'x', page_size);
    assert_done(MEMCTL_FREE, gpa(BIG, 0), BIG_SIZE, 0);
    assert_true(pages_hold(BIG, 0, 1, 'x'));
    /* Nothing before it was tried, but this one was: by what it says */
    ranges[1].addr = gpa(ROM, 0);
    assert_vector(EINVAL, 1, 0, MEMCTL_DONTNEED, ranges, 3);
    assert_int_equal(get_answer(BUFFER(0)).ret_code, 0);
    assert_int_equal(calls_made(), 0);
    assert_int_equal(fake.changed, 0);
    assert_true(all_untouched());
}

static const struct CMUnitTest request_tests[] = {
    TEST(query_of_several_backings_is_what_works_on_all),
    TEST(query_of_no_range_is_about_all_ram),
    TEST_HUGE(query_knows_the_largest_granule),
    TEST(query_of_what_is_not_ram_is_refused),
    TEST(query_leaves_out_what_policy_leaves_out),
    TEST(a_vector_of_scattered_ranges_is_one_system_call),
    TEST(a_vector_may_have_one_entry_or_set_attributes),
    TEST(a_vector_spans_regions_and_backings),
    TEST(every_entry_of_a_full_vector_may_be_in_two_pieces),
    TEST(a_vector_works_in_order),
    TEST(a_vector_stops_at_the_first_failure),
    TEST(a_vector_of_other_functions_is_refused),
    TEST(a_bad_table_is_refused),
    TEST(a_table_may_lie_across_regions),
    TEST(a_vector_may_discard_its_own_table),
    TEST(a_vector_cannot_protect_a_buffer),
    TEST(a_table_is_copied_once),
    TEST(a_table_rewritten_meanwhile_changes_nothing),
    TEST(a_vector_works_without_process_madvise),
    TEST(a_doorbell_stops_after_a_chunk_when_it_is_told_to),
    TEST(an_attribute_stops_after_a_chunk_too),
    TEST(a_vector_says_where_it_stopped),
    TEST(what_moves_data_stops_after_64_mib),
    TEST(a_doorbell_carries_no_more_than_a_gigabyte),
    TEST(of_several_refusals_the_first_is_told),
    TEST(what_is_refused_late_has_no_code),
    TEST_1_0(a_1_0_host_does_all_at_once),
    TEST(eagain_of_the_kernel_is_no_eagain_of_the_protocol),
    TEST_1_0(eagain_of_the_kernel_is_no_eagain_of_the_protocol),
    TEST(a_failure_in_a_later_chunk_tells_what_was_done),
    TEST(what_is_rated_waits_when_its_second_is_used_up),
    TEST(a_debt_is_paid_in_time),
    TEST(asking_often_does_not_make_a_debt_last),
    TEST(requests_are_counted),
    TEST(a_host_may_refuse_every_nth_range),
    TEST(a_host_may_refuse_all),
    TEST(a_host_may_lie_about_every_nth_range),
    TEST(a_host_may_lie_always),
};
TEST_GROUP(request);
