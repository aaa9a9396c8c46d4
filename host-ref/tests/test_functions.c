/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What each function code does to the VMM's memory: asked of the kernel and of
 * the memory, not of the device.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/prctl.h>

#include "fake_vmm.h"

/* Most requests are for these pages in the middle of a region */
#define FIRST 5
#define NR 4
#define RANGE(region) gpa(region, FIRST), NR * page_size

/* The pages are as @want, those around them hold their pattern */
static bool only_hold(int region, unsigned char want)
{
    return pages_hold(region, 0, FIRST, pattern(region)) &&
           pages_hold(region, FIRST, NR, want) &&
           pages_hold(region, FIRST + NR, REGION_PAGES - FIRST - NR,
                      pattern(region));
}

static void info_tells_page_size_and_version(void **state)
{
    const uint64_t ranges[][2] = {
        { 0, -1 }, { 0, 0 }, { gpa(ROM, 0), 1 }, { -1, -1 }, { RANGE(LEFT) },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++) {
        struct memctl_vmm_ret ret = ask(MEMCTL_INFO, ranges[i][0],
                                        ranges[i][1], UINT64_MAX);

        assert_int_equal(ret.ret_errno, 0);
        assert_int_equal(ret.ret_code, 0);
        assert_int_equal(ret.ret_value, page_size);
        assert_int_equal(ret.arg0, 1);
        assert_int_equal(ret.arg1, 0);
    }
    assert_true(all_untouched());
}

static void dontneed_releases_and_zeroes_private_memory(void **state)
{
    assert_done(MEMCTL_DONTNEED, RANGE(LEFT), 0);
    assert_int_equal(pages_mapped(LEFT, FIRST, NR), 0);
    assert_int_equal(pages_resident(LEFT, FIRST, NR), 0);
    assert_int_equal(pages_mapped(LEFT, 0, REGION_PAGES), REGION_PAGES - NR);
    assert_true(only_hold(LEFT, 0));
}

static void dontneed_keeps_the_contents_of_shared_memory(void **state)
{
    assert_done(MEMCTL_DONTNEED, RANGE(SHARED), 0);
    assert_int_equal(pages_mapped(SHARED, FIRST, NR), 0);
    assert_int_equal(file_pages(SHARED), REGION_PAGES);
    assert_true(only_hold(SHARED, pattern(SHARED)));
}

static void remove_punches_shared_memory(void **state)
{
    assert_done(MEMCTL_REMOVE, RANGE(SHARED), 0);
    assert_int_equal(file_pages(SHARED), REGION_PAGES - NR);
    assert_int_equal(pages_resident(SHARED, FIRST, NR), 0);
    assert_int_equal(lseek(fake.regions[SHARED].fd, 0, SEEK_HOLE),
                     FIRST * page_size);
    assert_int_equal(lseek(fake.regions[SHARED].fd, FIRST * page_size,
                           SEEK_DATA), (FIRST + NR) * page_size);
    assert_true(only_hold(SHARED, 0));
}

static void remove_fails_on_private_memory(void **state)
{
    assert_failed(EINVAL, MEMCTL_REMOVE, RANGE(LEFT), 0);
    assert_true(all_untouched());
}

static void free_makes_private_memory_lazily_free(void **state)
{
    /*
     * The kernel takes such pages for clean at once; smaps' LazyFree counts
     * them some time later.
     */
    assert_int_equal(clean_pages(LEFT), 0);
    assert_done(MEMCTL_FREE, RANGE(LEFT), 0);
    assert_int_equal(clean_pages(LEFT), NR);
    /* Written again, they stay */
    memset(host(LEFT, FIRST), pattern(LEFT), NR * page_size);
    assert_int_equal(clean_pages(LEFT), 0);
    assert_true(only_hold(LEFT, pattern(LEFT)));
}

static void free_fails_on_shared_memory(void **state)
{
    assert_failed(EINVAL, MEMCTL_FREE, RANGE(SHARED), 0);
    assert_true(all_untouched());
}

static void pageout_keeps_contents(void **state)
{
    assert_done(MEMCTL_PAGEOUT, RANGE(LEFT), 0);
    assert_true(only_hold(LEFT, pattern(LEFT)));
}

/* Without swap only the pages of a file can go, once they are clean */
static void pageout_moves_memory_out(void **state)
{
    assert_int_equal(fsync(fake.regions[DISK].fd), 0);
    assert_int_equal(pages_resident(DISK, 0, REGION_PAGES), REGION_PAGES);
    assert_int_equal(syscall(SYS_madvise, host(DISK, 0), page_size,
                             MADV_PAGEOUT), 0);
    if (pages_resident(DISK, 0, 1)) {
        assert_done(MEMCTL_PAGEOUT, RANGE(DISK), 0);
        assert_true(only_hold(DISK, pattern(DISK)));
        skip();                 /* a file system in memory */
    }
    assert_done(MEMCTL_PAGEOUT, RANGE(DISK), 0);
    assert_int_equal(pages_mapped(DISK, FIRST, NR), 0);
    assert_int_equal(pages_resident(DISK, FIRST, NR), 0);
    assert_int_equal(pages_mapped(DISK, 1, REGION_PAGES - 1),
                     REGION_PAGES - 1 - NR);
    assert_true(only_hold(DISK, pattern(DISK)));
}

static void dontdump_leaves_memory_out_of_core_dumps(void **state)
{
    assert_done(MEMCTL_DONTDUMP, RANGE(LEFT), 0);
    assert_true(only_flagged(LEFT, FIRST, NR, " dd"));
    assert_done(MEMCTL_DONTDUMP, RANGE(SHARED), 0);
    assert_true(only_flagged(SHARED, FIRST, NR, " dd"));
    assert_true(only_hold(LEFT, pattern(LEFT)));
}

/* The mapping of these pages alone is called @name */
static bool only_named(int region, const char *name)
{
    for (unsigned i = 0; i < REGION_PAGES; i++) {
        bool want = i >= FIRST && i < FIRST + NR;

        if (want != !!strstr(smaps(region, i, ""), name)) {
            return false;
        }
    }
    return true;
}

static void set_vma_anon_name_names_private_memory(void **state)
{
    /* Does this kernel know names? */
    if (syscall(SYS_prctl, PR_SET_VMA, PR_SET_VMA_ANON_NAME, host(RIGHT, 0),
                page_size, "probe")) {
        assert_int_equal(errno, EINVAL);
        assert_failed(EINVAL, MEMCTL_SET_VMA_ANON_NAME, RANGE(LEFT), 42);
        assert_failed(EINVAL, MEMCTL_SET_VMA_ANON_NAME, RANGE(LEFT), 0);
        assert_true(all_untouched());
        skip();                 /* no CONFIG_ANON_VMA_NAME */
    }
    assert_done(MEMCTL_SET_VMA_ANON_NAME, RANGE(LEFT), 42);
    assert_true(only_named(LEFT, "[anon:pvmemctl-42]"));
    assert_done(MEMCTL_SET_VMA_ANON_NAME, RANGE(LEFT), UINT64_MAX);
    assert_true(only_named(LEFT, "[anon:pvmemctl-18446744073709551615]"));
    assert_done(MEMCTL_SET_VMA_ANON_NAME, RANGE(LEFT), 0);
    assert_null(strstr(smaps(LEFT, FIRST, ""), "[anon"));
    assert_true(only_hold(LEFT, pattern(LEFT)));
    assert_failed(EBADF, MEMCTL_SET_VMA_ANON_NAME, RANGE(SHARED), 42);
}

static void mlock_locks_until_munlock(void **state)
{
    if (syscall(SYS_mlock2, host(RIGHT, 0), NR * page_size, 0)) {
        assert_failed(errno, MEMCTL_MLOCK, RANGE(LEFT), 0);
        assert_true(all_untouched());
        skip();                 /* RLIMIT_MEMLOCK */
    }
    assert_int_equal(syscall(SYS_madvise, host(LEFT, FIRST), NR * page_size,
                             MADV_DONTNEED), 0);
    assert_done(MEMCTL_MLOCK, RANGE(LEFT), 0);
    assert_true(only_flagged(LEFT, FIRST, NR, " lo"));
    /* No flags: the pages are there at once */
    assert_int_equal(pages_mapped(LEFT, FIRST, NR), NR);

    assert_done(MEMCTL_MUNLOCK, gpa(LEFT, FIRST), page_size, 0);
    assert_true(only_flagged(LEFT, FIRST + 1, NR - 1, " lo"));
    assert_done(MEMCTL_MUNLOCK, RANGE(LEFT), 0);
    assert_true(only_flagged(LEFT, 0, 0, " lo"));
}

static void mprotect_protects(void **state)
{
    static const struct {
        uint64_t code;
        const char *perms;
    } ways[] = {
        { MEMCTL_MPROTECT_NONE, "---" },
        { MEMCTL_MPROTECT_R, "r--" },
        { MEMCTL_MPROTECT_W, "-w-" },
    };
    static const int regions[] = { LEFT, SHARED };

    for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
        for (unsigned j = 0; j < ARRAY_SIZE(regions); j++) {
            int r = regions[j];

            assert_done(ways[i].code, RANGE(r), 0);
            assert_true(only_protected(r, FIRST, NR, ways[i].perms));
            assert_done(MEMCTL_MPROTECT_RW, RANGE(r), 0);
            assert_true(only_protected(r, 0, REGION_PAGES, "rw-"));
            assert_true(only_hold(r, pattern(r)));
        }
    }
}

static void mergeable_until_unmergeable(void **state)
{
    if (syscall(SYS_madvise, host(RIGHT, 0), page_size, MADV_MERGEABLE)) {
        assert_failed(errno, MEMCTL_MERGEABLE, RANGE(LEFT), 0);
        assert_true(all_untouched());
        skip();                 /* no CONFIG_KSM */
    }
    assert_done(MEMCTL_MERGEABLE, RANGE(LEFT), 0);
    assert_true(only_flagged(LEFT, FIRST, NR, " mg"));
    assert_done(MEMCTL_UNMERGEABLE, gpa(LEFT, FIRST), page_size, 0);
    assert_true(only_flagged(LEFT, FIRST + 1, NR - 1, " mg"));
    assert_done(MEMCTL_UNMERGEABLE, RANGE(LEFT), 0);
    assert_true(only_flagged(LEFT, 0, 0, " mg"));
    assert_true(only_hold(LEFT, pattern(LEFT)));
}

/* Ranges */

static void a_range_may_span_adjacent_regions(void **state)
{
    const uint64_t addr = gpa(LEFT, REGION_PAGES - 2), length = 5 * page_size;

    assert_done(MEMCTL_DONTDUMP, addr, length, 0);
    assert_true(only_flagged(LEFT, REGION_PAGES - 2, 2, " dd"));
    assert_true(only_flagged(RIGHT, 0, 3, " dd"));
    assert_done(MEMCTL_DONTNEED, addr, length, 0);
    assert_true(pages_hold(LEFT, 0, REGION_PAGES - 2, pattern(LEFT)));
    assert_true(pages_hold(LEFT, REGION_PAGES - 2, 2, 0));
    assert_true(pages_hold(RIGHT, 0, 3, 0));
    assert_true(pages_hold(RIGHT, 3, REGION_PAGES - 3, pattern(RIGHT)));
    /* All of both */
    assert_done(MEMCTL_DONTNEED, gpa(LEFT, 0), 2 * REGION_SIZE, 0);
    assert_true(pages_hold(LEFT, 0, REGION_PAGES, 0));
    assert_true(pages_hold(RIGHT, 0, REGION_PAGES, 0));
}

static void a_single_page_and_the_ends_of_a_region_are_ranges(void **state)
{
    assert_done(MEMCTL_DONTNEED, gpa(LEFT, 0), page_size, 0);
    assert_done(MEMCTL_DONTNEED, gpa(RIGHT, REGION_PAGES - 1), page_size, 0);
    assert_true(pages_hold(LEFT, 0, 1, 0));
    assert_true(pages_hold(LEFT, 1, REGION_PAGES - 1, pattern(LEFT)));
    assert_true(pages_hold(RIGHT, 0, REGION_PAGES - 1, pattern(RIGHT)));
    assert_true(pages_hold(RIGHT, REGION_PAGES - 1, 1, 0));
}

static void a_bad_range_is_refused_and_untouched(void **state)
{
    const uint64_t ranges[][2] = {
        /* Empty */
        { gpa(LEFT, 0), 0 },
        { 0, 0 },
        /* Misaligned */
        { gpa(LEFT, 0) + 1, page_size },
        { gpa(LEFT, 0) + page_size / 2, page_size },
        { gpa(LEFT, 0), 1 },
        { gpa(LEFT, 0), page_size - 1 },
        { gpa(LEFT, 0), page_size + page_size / 2 },
        { gpa(LEFT, 0) + 1, page_size - 1 },
        /* Wraps, or ends at 2^64 */
        { gpa(TOP, REGION_PAGES - 1), page_size },
        { gpa(TOP, REGION_PAGES - 1), 2 * page_size },
        { gpa(LEFT, 0), -page_size },
        { gpa(LEFT, 0), -gpa(LEFT, 0) },
        { -page_size, -page_size },
        /* No RAM */
        { gpa(LOW, REGION_PAGES), page_size },
        { gpa(ROM, 0), page_size },
        { UINT64_C(1) << 52, page_size },
        /* RAM in part */
        { gpa(LEFT, 0) - page_size, 2 * page_size },
        { gpa(RIGHT, REGION_PAGES - 1), 2 * page_size },
        { gpa(SHARED, REGION_PAGES - 1), 2 * page_size },
        { gpa(SHARED, 0), 2 * REGION_SIZE },
        { gpa(LEFT, 0), UINT64_C(1) << 62 },
        /* RAM at both ends */
        { gpa(LEFT, REGION_PAGES - 1), gpa(SHARED, 1) -
                                       gpa(LEFT, REGION_PAGES - 1) },
    };

    for (uint64_t code = MEMCTL_DONTNEED; code <= MEMCTL_UNMERGEABLE; code++) {
        for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++) {
            assert_refused(EINVAL, code, ranges[i][0], ranges[i][1], 0);
        }
        assert_true(all_untouched());
    }
}

static void a_range_unplugged_before_the_request_is_refused(void **state)
{
    connect_buffers(1);
    fake.regions[RIGHT].is_ram = false;
    assert_refused(EINVAL, MEMCTL_DONTNEED, RANGE(RIGHT), 0);
    assert_refused(EINVAL, MEMCTL_DONTNEED, gpa(LEFT, 0), 2 * REGION_SIZE, 0);
    assert_true(all_untouched());
}

/* The range is RAM when it is checked, and not when its turn comes */
static void a_range_unplugged_during_the_request_is_an_error(void **state)
{
    connect_buffers(1);
    fake.unplug_after = 2;
    assert_refused(EINVAL, MEMCTL_DONTNEED, RANGE(RIGHT), 0);
    assert_true(all_untouched());
}

static void a_code_is_no_answer_once_part_of_the_range_is_done(void **state)
{
    connect_buffers(1);
    fake.unplug_after = 4;      /* two checked, one done */
    assert_failed(EINVAL, MEMCTL_DONTNEED, gpa(LEFT, 0), 2 * REGION_SIZE, 0);
    assert_true(pages_hold(LEFT, 0, REGION_PAGES, 0));
    assert_true(pages_hold(RIGHT, 0, REGION_PAGES, pattern(RIGHT)));
}

/* Answers */

static void a_failed_system_call_is_its_errno_without_a_code(void **state)
{
    if (syscall(SYS_mlock2, host(RIGHT, 0), REGION_SIZE, 0)) {
        skip();                 /* RLIMIT_MEMLOCK */
    }
    /* Locked memory cannot be discarded */
    assert_failed(EINVAL, MEMCTL_DONTNEED, RANGE(RIGHT), 0);
    assert_failed(EINVAL, MEMCTL_DONTNEED, gpa(LEFT, 0), 2 * REGION_SIZE, 0);
    assert_true(pages_hold(RIGHT, 0, REGION_PAGES, pattern(RIGHT)));
}

static void an_unknown_code_is_not_supported(void **state)
{
    static const uint64_t codes[] = {
        15, 31, 40, 63, 64, 64 + MEMCTL_DONTNEED, UINT32_MAX,
        UINT64_C(1) << 32, (UINT64_C(1) << 32) + MEMCTL_DONTNEED,
        UINT64_C(1) << 63 | MEMCTL_REMOVE, UINT64_MAX,
    };

    /* Of a code above 2^32 the answer has the low half */
    for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
        assert_refused(EOPNOTSUPP, codes[i], RANGE(LEFT), 0);
        assert_refused(EOPNOTSUPP, codes[i], RANGE(SHARED), 0);
    }
    assert_true(all_untouched());
}

static void what_policy_leaves_out_is_not_permitted(void **state)
{
    for (uint64_t code = MEMCTL_DONTNEED; code <= MEMCTL_UNMERGEABLE; code++) {
        pvmemctl_core_init(core, &fake_vmm, &fake,
                           UINT64_MAX & ~(UINT64_C(1) << code));
        assert_refused(EPERM, code, RANGE(LEFT), 0);
        assert_refused(EPERM, code, RANGE(SHARED), 0);
        assert_true(all_untouched());
    }
}

static void what_policy_names_is_all_that_is_permitted(void **state)
{
    uint64_t allowed;
    const char *bad;

    assert_true(pvmemctl_policy_parse("dontneed", &allowed, &bad));
    pvmemctl_core_init(core, &fake_vmm, &fake, allowed);
    for (uint64_t code = MEMCTL_REMOVE; code <= MEMCTL_UNMERGEABLE; code++) {
        assert_refused(EPERM, code, RANGE(LEFT), 0);
    }
    /* What does not exist is not supported, whatever the policy */
    assert_refused(EOPNOTSUPP, 15, RANGE(LEFT), 0);
    assert_true(all_untouched());
    assert_int_equal(ask(MEMCTL_INFO, 0, -1, 0).ret_value, page_size);
    assert_done(MEMCTL_DONTNEED, RANGE(LEFT), 0);
    assert_true(only_hold(LEFT, 0));
}

const struct CMUnitTest function_tests[] = {
    TEST(info_tells_page_size_and_version),
    TEST(dontneed_releases_and_zeroes_private_memory),
    TEST(dontneed_keeps_the_contents_of_shared_memory),
    TEST(remove_punches_shared_memory),
    TEST(remove_fails_on_private_memory),
    TEST(free_makes_private_memory_lazily_free),
    TEST(free_fails_on_shared_memory),
    TEST(pageout_keeps_contents),
    TEST(pageout_moves_memory_out),
    TEST(dontdump_leaves_memory_out_of_core_dumps),
    TEST(set_vma_anon_name_names_private_memory),
    TEST(mlock_locks_until_munlock),
    TEST(mprotect_protects),
    TEST(mergeable_until_unmergeable),
    TEST(a_range_may_span_adjacent_regions),
    TEST(a_single_page_and_the_ends_of_a_region_are_ranges),
    TEST(a_bad_range_is_refused_and_untouched),
    TEST(a_range_unplugged_before_the_request_is_refused),
    TEST(a_range_unplugged_during_the_request_is_an_error),
    TEST(a_code_is_no_answer_once_part_of_the_range_is_done),
    TEST(a_failed_system_call_is_its_errno_without_a_code),
    TEST(an_unknown_code_is_not_supported),
    TEST(what_policy_leaves_out_is_not_permitted),
    TEST(what_policy_names_is_all_that_is_permitted),
};
const size_t nr_function_tests = ARRAY_SIZE(function_tests);
