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
#include "kernel_view.h"

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

/*
 * What has no effect on a backing: protocol 1.1 says so, 1.0 answers as the
 * system call does.
 */
static void assert_no_effect(int errno_1_0, uint64_t code, uint64_t addr,
                             uint64_t length, uint64_t arg)
{
    if (core->options.minor) {
        assert_refused(EOPNOTSUPP, code, addr, length, arg);
    } else {
        assert_failed(errno_1_0, code, addr, length, arg);
    }
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
        assert_int_equal(ret.arg1, core->options.minor);
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
    assert_no_effect(0, MEMCTL_DONTNEED, RANGE(SHARED), 0);
    assert_int_equal(pages_mapped(SHARED, FIRST, NR),
                     core->options.minor ? NR : 0);
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
    assert_no_effect(EINVAL, MEMCTL_REMOVE, RANGE(LEFT), 0);
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
    assert_no_effect(EINVAL, MEMCTL_FREE, RANGE(SHARED), 0);
    assert_true(all_untouched());
}

static void pageout_keeps_contents(void **state)
{
    if (has_swap()) {
        assert_done(MEMCTL_PAGEOUT, RANGE(LEFT), 0);
        assert_int_equal(swapped_pages(LEFT), NR);
    } else {
        assert_no_effect(0, MEMCTL_PAGEOUT, RANGE(LEFT), 0);
    }
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
        bool swaps = is_in_memory(DISK) && has_swap();

        assert_done(MEMCTL_PAGEOUT, RANGE(DISK), 0);
        assert_int_equal(swapped_pages(DISK), swaps ? NR + 1 : 0);
        assert_true(only_hold(DISK, pattern(DISK)));
        if (!swaps) {
            skip();             /* a file system in memory */
        }
        return;
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
    assert_true(only_flagged(LEFT, FIRST, NR, "dd"));
    assert_done(MEMCTL_DONTDUMP, RANGE(SHARED), 0);
    assert_true(only_flagged(SHARED, FIRST, NR, "dd"));
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
    int err;

    if (!has_names()) {
        assert_no_effect(EINVAL, MEMCTL_SET_VMA_ANON_NAME, RANGE(LEFT), 42);
        assert_no_effect(EINVAL, MEMCTL_SET_VMA_ANON_NAME, RANGE(LEFT), 0);
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
    /* EBADF; Linux 6.2 and later name a memfd too */
    err = syscall(SYS_prctl, PR_SET_VMA, PR_SET_VMA_ANON_NAME,
                  host(SHARED, FIRST), page_size, NULL) ? errno : 0;
    assert_no_effect(err, MEMCTL_SET_VMA_ANON_NAME, RANGE(SHARED), 42);
    assert_int_equal(!!strstr(smaps(SHARED, FIRST, ""), "pvmemctl-42]"),
                     !core->options.minor && !err);
    assert_no_effect(err, MEMCTL_SET_VMA_ANON_NAME, RANGE(SHARED), 0);
}

static void mlock_locks_until_munlock(void **state)
{
    if (syscall(SYS_mlock2, host(RIGHT, 0), NR * page_size, 0)) {
        assert_failed(errno, MEMCTL_MLOCK, RANGE(LEFT), 0);
        assert_true(all_untouched());
        skip();                 /* RLIMIT_MEMLOCK */
    }
    syscall(SYS_munlock, host(RIGHT, 0), NR * page_size);
    assert_int_equal(syscall(SYS_madvise, host(LEFT, FIRST), NR * page_size,
                             MADV_DONTNEED), 0);
    assert_done(MEMCTL_MLOCK, RANGE(LEFT), 0);
    assert_true(only_flagged(LEFT, FIRST, NR, "lo"));
    /* No flags: the pages are there at once */
    assert_int_equal(pages_mapped(LEFT, FIRST, NR), NR);

    assert_done(MEMCTL_MUNLOCK, gpa(LEFT, FIRST), page_size, 0);
    assert_true(only_flagged(LEFT, FIRST + 1, NR - 1, "lo"));
    assert_done(MEMCTL_MUNLOCK, RANGE(LEFT), 0);
    assert_true(only_flagged(LEFT, 0, 0, "lo"));
}

static void mprotect_protects(void **state)
{
    static const struct {
        uint64_t code;
        const char *perms;
    } ways[] = {
        { MEMCTL_MPROTECT_NONE, "---" },
        { MEMCTL_MPROTECT_R, "r--" },
        { MEMCTL_MPROTECT_W, "rw-" },
    };
    static const int regions[] = { LEFT, SHARED };

    for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
        for (unsigned j = 0; j < ARRAY_SIZE(regions); j++) {
            int r = regions[j];

            assert_done(ways[i].code, RANGE(r), 0);
            assert_true(ways[i].code == MEMCTL_MPROTECT_W ||
                        only_protected(r, FIRST, NR, ways[i].perms));
            assert_done(MEMCTL_MPROTECT_RW, RANGE(r), 0);
            assert_true(only_protected(r, 0, REGION_PAGES, "rw-"));
            assert_true(only_hold(r, pattern(r)));
        }
    }
}

static void mergeable_until_unmergeable(void **state)
{
    if (!has_ksm()) {
        assert_no_effect(EINVAL, MEMCTL_MERGEABLE, RANGE(LEFT), 0);
        assert_true(all_untouched());
        skip();                 /* no CONFIG_KSM */
    }
    assert_done(MEMCTL_MERGEABLE, RANGE(LEFT), 0);
    assert_true(only_flagged(LEFT, FIRST, NR, "mg"));
    assert_done(MEMCTL_UNMERGEABLE, gpa(LEFT, FIRST), page_size, 0);
    assert_true(only_flagged(LEFT, FIRST + 1, NR - 1, "mg"));
    assert_done(MEMCTL_UNMERGEABLE, RANGE(LEFT), 0);
    assert_true(only_flagged(LEFT, 0, 0, "mg"));
    assert_true(only_hold(LEFT, pattern(LEFT)));
}

/* Ranges */

static void a_range_may_span_adjacent_regions(void **state)
{
    const uint64_t addr = gpa(LEFT, REGION_PAGES - 2), length = 5 * page_size;

    assert_done(MEMCTL_DONTDUMP, addr, length, 0);
    assert_true(only_flagged(LEFT, REGION_PAGES - 2, 2, "dd"));
    assert_true(only_flagged(RIGHT, 0, 3, "dd"));
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

/* Codes that this protocol has and that take a range */
static bool is_function(uint64_t code)
{
    return pvmemctl_function_name(code) && code != MEMCTL_INFO &&
           code != MEMCTL_QUERY && code != MEMCTL_VECTOR &&
           (core->options.minor || code <= MEMCTL_UNMERGEABLE);
}

/* The first half may refuse the function before the second turns out no RAM */
static void assert_bad_range(uint64_t code, uint64_t addr, uint64_t length)
{
    struct memctl_vmm_ret ret = ask(code, addr, length, 0);

    if (ret.ret_errno == EOPNOTSUPP) {
        assert_int_equal(core->options.minor, 1);
        assert_int_not_equal(ask(code, addr, page_size, 0).ret_errno, 0);
    } else {
        assert_int_equal(ret.ret_errno, EINVAL);
    }
    assert_int_equal(ret.ret_code, code);
    assert_int_equal(ret.ret_value, 0);
    assert_int_equal(ret.arg0, 0);
    assert_int_equal(ret.arg1, 0);
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

    for (uint64_t code = MEMCTL_DONTNEED; code <= MEMCTL_COLD; code++) {
        for (unsigned i = 0; is_function(code) && i < ARRAY_SIZE(ranges); i++) {
            const uint64_t addr = ranges[i][0], length = ranges[i][1];

            if (core->options.minor && length > PVMEMCTL_DOORBELL_MAX) {
                assert_hinted(E2BIG, PVMEMCTL_DOORBELL_MAX, code, addr, length,
                              0);
            } else if (!length || (addr | length) % page_size) {
                assert_hinted(EINVAL, page_size, code, addr, length, 0);
            } else {
                assert_bad_range(code, addr, length);
            }
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

/* All of the range is RAM when it is checked, and not when its turn comes */
static void a_range_unplugged_during_the_request_is_an_error(void **state)
{
    connect_buffers(1);
    fake.unplug_after = 4;      /* the buffer, LEFT and RIGHT are looked up */
    assert_stopped(EINVAL, REGION_SIZE, MEMCTL_DONTNEED, gpa(LEFT, 0),
                   2 * REGION_SIZE, 0);
    assert_true(pages_hold(LEFT, 0, REGION_PAGES, 0));
    assert_true(pages_hold(RIGHT, 0, REGION_PAGES, pattern(RIGHT)));
}

static void a_code_is_the_answer_where_nothing_was_tried(void **state)
{
    connect_buffers(1);
    fake.unplug_after = 3;
    assert_refused(EINVAL, MEMCTL_DONTNEED, gpa(LEFT, 0), 2 * REGION_SIZE, 0);
    assert_true(all_untouched());
}

/* Answers */

static void a_failed_system_call_is_its_errno_without_a_code(void **state)
{
    if (syscall(SYS_mlock2, host(RIGHT, 0), REGION_SIZE, 0)) {
        skip();                 /* RLIMIT_MEMLOCK */
    }
    /* Locked memory cannot be discarded */
    assert_failed(EINVAL, MEMCTL_DONTNEED, RANGE(RIGHT), 0);
    assert_stopped(EINVAL, REGION_SIZE, MEMCTL_DONTNEED, gpa(LEFT, 0),
                   2 * REGION_SIZE, 0);
    assert_true(pages_hold(LEFT, 0, REGION_PAGES, 0));
    assert_true(pages_hold(RIGHT, 0, REGION_PAGES, pattern(RIGHT)));
    syscall(SYS_munlock, host(RIGHT, 0), REGION_SIZE);
}

static void an_unknown_code_is_not_supported(void **state)
{
    static const uint64_t codes[] = {
        15, 31, 40, 41, 63, 64, 64 + MEMCTL_DONTNEED, UINT32_MAX,
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

static void a_1_0_host_does_not_know_what_1_1_brought(void **state)
{
    for (uint64_t code = MEMCTL_QUERY; code <= MEMCTL_VECTOR; code++) {
        assert_refused(EOPNOTSUPP, code, RANGE(LEFT), 0);
        assert_refused(EOPNOTSUPP, code, gpa(LOW, 1), 1, MEMCTL_DONTNEED);
    }
    assert_true(all_untouched());
}

static void what_policy_leaves_out_is_not_permitted(void **state)
{
    PvmemctlOptions options = core->options;

    for (uint64_t code = MEMCTL_DONTNEED; code <= MEMCTL_COLD; code++) {
        if (!is_function(code)) {
            continue;
        }
        options.allowed = UINT64_MAX & ~(UINT64_C(1) << code);
        new_core(&options);
        assert_refused(EPERM, code, RANGE(LEFT), 0);
        assert_refused(EPERM, code, RANGE(SHARED), 0);
        assert_true(all_untouched());
    }
}

static void what_policy_names_is_all_that_is_permitted(void **state)
{
    PvmemctlOptions options = core->options;
    const char *bad;

    assert_true(pvmemctl_policy_parse("dontneed", &options.allowed, &bad));
    new_core(&options);
    for (uint64_t code = MEMCTL_REMOVE; code <= MEMCTL_COLD; code++) {
        if (is_function(code)) {
            assert_refused(EPERM, code, RANGE(LEFT), 0);
        }
    }
    /* What does not exist is not supported, whatever the policy */
    assert_refused(EOPNOTSUPP, 15, RANGE(LEFT), 0);
    assert_true(all_untouched());
    assert_int_equal(ask(MEMCTL_INFO, 0, -1, 0).ret_value, page_size);
    assert_done(MEMCTL_DONTNEED, RANGE(LEFT), 0);
    assert_true(only_hold(LEFT, 0));
}

/*
 * Every function on every backing in protocol 1.1: what it does, as seen by the
 * kernel, or that it has no effect and is refused.
 */
typedef enum Outcome {
    none,       /* EOPNOTSUPP */
    freed,      /* no memory, reads as zero */
    dropped,    /* shows what the file holds */
    cleared,    /* reads as zero, still in memory */
    lazy,       /* clean, may go */
    out,        /* contents in swap or file, none in memory */
    cold,       /* not accessed of late, contents kept */
    filled,     /* in memory, was not before */
    named,      /* these set an attribute of the mapping, contents kept */
    dd, lo, mg, hg, nh,
    closed,     /* --- */
    rdonly,     /* r-- */
    normal,     /* has no such attribute; is given one before */
} Outcome;

enum { NR_BACKINGS = 6 };
static const int backings[NR_BACKINGS] = {
    LEFT, SHARED, COPY, DISK, HUGE, HUGE_SHARED,
};

static const struct {
    uint64_t code;
    Outcome outcomes[NR_BACKINGS];
} effects[] = {
    /*             in memory         of a file         hugetlb
     *             private  shared   private  shared   private  shared */
    { MEMCTL_DONTNEED,
                 { freed,   none,    dropped, none,    freed,   none   } },
    { MEMCTL_REMOVE,
                 { none,    freed,   none,    freed,   none,    freed  } },
    { MEMCTL_FREE,
                 { lazy,    none,    none,    none,    none,    none   } },
    { MEMCTL_PAGEOUT,
                 { out,     out,     out,     out,     none,    none   } },
    { MEMCTL_DONTDUMP,
                 { dd,      dd,      dd,      dd,      dd,      dd     } },
    { MEMCTL_SET_VMA_ANON_NAME,
                 { named,   none,    none,    none,    none,    none   } },
    { MEMCTL_MLOCK,
                 { lo,      lo,      lo,      lo,      none,    none   } },
    { MEMCTL_MUNLOCK,
                 { normal,  normal,  normal,  normal,  none,    none   } },
    { MEMCTL_MPROTECT_NONE,
                 { closed,  closed,  closed,  closed,  closed,  closed } },
    { MEMCTL_MPROTECT_R,
                 { rdonly,  rdonly,  rdonly,  rdonly,  rdonly,  rdonly } },
    { MEMCTL_MPROTECT_W,
                 { normal,  normal,  normal,  normal,  normal,  normal } },
    { MEMCTL_MPROTECT_RW,
                 { normal,  normal,  normal,  normal,  normal,  normal } },
    { MEMCTL_MERGEABLE,
                 { mg,      none,    mg,      none,    none,    none   } },
    { MEMCTL_UNMERGEABLE,
                 { normal,  none,    normal,  none,    none,    none   } },
    { MEMCTL_ZERO,
                 { freed,   freed,   cleared, freed,   freed,   freed  } },
    { MEMCTL_POPULATE,
                 { filled,  filled,  filled,  filled,  filled,  filled } },
    { MEMCTL_HUGEPAGE,
                 { hg,      hg,      none,    none,    none,    none   } },
    { MEMCTL_NOHUGEPAGE,
                 { nh,      nh,      none,    none,    none,    none   } },
    { MEMCTL_DODUMP,
                 { normal,  normal,  normal,  normal,  normal,  normal } },
    { MEMCTL_COLD,
                 { cold,    cold,    cold,    cold,    none,    none   } },
};

#define ALL_OF(region) gpa(region, FIRST), NR * fake.regions[region].granule

/* What undoes a code, to have something to undo */
static uint64_t opposite(uint64_t code)
{
    switch (code) {
    case MEMCTL_MUNLOCK:
        return MEMCTL_MLOCK;
    case MEMCTL_MPROTECT_W:
    case MEMCTL_MPROTECT_RW:
        return MEMCTL_MPROTECT_NONE;
    case MEMCTL_UNMERGEABLE:
        return MEMCTL_MERGEABLE;
    case MEMCTL_DODUMP:
        return MEMCTL_DONTDUMP;
    }
    return 0;
}

/* What this kernel and machine do not have: the errno then, or 0 */
static int missing(uint64_t code, int region)
{
    switch (code) {
    case MEMCTL_PAGEOUT:
        return has_swap() || region == DISK || region == COPY ? 0 : EOPNOTSUPP;
    case MEMCTL_SET_VMA_ANON_NAME:
        return has_names() ? 0 : EOPNOTSUPP;
    case MEMCTL_MERGEABLE:
    case MEMCTL_UNMERGEABLE:
        return has_ksm() ? 0 : EOPNOTSUPP;
    case MEMCTL_HUGEPAGE:
    case MEMCTL_NOHUGEPAGE:
        return has_thp() ? 0 : EOPNOTSUPP;
    case MEMCTL_REMOVE:
        return can_punch(region) ? 0 : EOPNOTSUPP;
    }
    return 0;
}

/* The memory as it is before a function of the table */
static void prepare(uint64_t code, int region)
{
    uint64_t granule = fake.regions[region].granule;

    switch (code) {
    case MEMCTL_PAGEOUT:
        if (region == DISK) {
            assert_int_equal(fsync(fake.regions[region].fd), 0);
        } else if (region == LEFT) {
            /* What FREE had, the kernel keeps the first time */
            syscall(SYS_madvise, host(region, FIRST), NR * granule,
                    MADV_DONTNEED);
            memset(host(region, FIRST), pattern(region), NR * granule);
        }
        break;
    case MEMCTL_POPULATE:
        if (fake.regions[region].flags & PVMEMCTL_RAM_SHARED) {
            syscall(SYS_madvise, host(region, FIRST), NR * granule,
                    MADV_REMOVE);
        }
        syscall(SYS_madvise, host(region, FIRST), NR * granule, MADV_DONTNEED);
        assert_int_equal(pages_mapped(region, FIRST, NR), 0);
        break;
    }
    if (opposite(code)) {
        assert_done(opposite(code), ALL_OF(region), 0);
    }
}

/* What memory shows that was released and then populated */
static unsigned char populated_with(int region)
{
    return region == COPY || (region == DISK && !can_punch(DISK))
           ? FILE_PATTERN : 0;
}

static void check_outcome(Outcome outcome, int region)
{
    unsigned char content = pattern(region);
    PageState states[REGION_PAGES];

    switch (outcome) {
    case freed:
        content = 0;
        assert_int_equal(pages_mapped(region, FIRST, NR), 0);
        if (can_punch(region)) {
            assert_int_equal(pages_held(region, FIRST, NR), 0);
        }
        break;
    case dropped:
        content = FILE_PATTERN;
        assert_int_equal(pages_mapped(region, FIRST, NR), 0);
        break;
    case cleared:
        content = 0;
        assert_int_equal(pages_mapped(region, FIRST, NR), NR);
        break;
    case filled:
        content = populated_with(region);
        assert_int_equal(pages_mapped(region, FIRST, NR), NR);
        assert_int_equal(pages_held(region, FIRST, NR), NR);
        break;
    case lazy:
        assert_int_equal(clean_pages(region), NR);
        break;
    case cold:
        assert_int_equal(referenced_pages(region), REGION_PAGES - NR);
        break;
    case out:
        /* Memory is still there for a while after it was written to swap */
        if (region == DISK && !is_in_memory(DISK)) {
            assert_int_equal(pages_resident(region, FIRST, NR), 0);
        } else if (has_swap()) {
            assert_int_equal(swapped_pages(region), NR);
        }
        break;
    case named:
        page_states(region, states);
        for (unsigned i = 0; i < REGION_PAGES; i++) {
            bool inside = i >= FIRST && i < FIRST + NR;

            assert_int_equal(states[i].name, inside ? 42 : 0);
        }
        break;
    case dd:
        assert_true(only_flagged(region, FIRST, NR, "dd"));
        break;
    case lo:
        assert_true(only_flagged(region, FIRST, NR, "lo"));
        break;
    case mg:
        assert_true(only_flagged(region, FIRST, NR, "mg"));
        break;
    case hg:
        assert_true(only_flagged(region, 0, REGION_PAGES, "hg"));
        break;
    case nh:
        assert_true(only_flagged(region, FIRST, NR, "nh"));
        break;
    case closed:
        assert_true(only_protected(region, FIRST, NR, "---"));
        assert_done(MEMCTL_MPROTECT_RW, ALL_OF(region), 0);
        break;
    case rdonly:
        assert_true(only_protected(region, FIRST, NR, "r--"));
        break;
    case normal:
        assert_true(all_default());
        break;
    case none:
        break;
    }
    /* The others hold what they held, these what the outcome says */
    assert_true(only_hold(region, content));
}

static void check_effects(unsigned first, unsigned nr)
{
    for (unsigned i = 0; i < ARRAY_SIZE(effects); i++) {
        for (unsigned j = first; j < first + nr; j++) {
            const uint64_t code = effects[i].code;
            const int region = backings[j];
            const Outcome outcome = effects[i].outcomes[j];
            int err = outcome == none ? EOPNOTSUPP : missing(code, region);
            unsigned long before = calls_made();
            struct memctl_vmm_ret ret;

            if (!err) {
                prepare(code, region);
            }
            ret = ask(code, ALL_OF(region), 42);
            if (ret.ret_errno != (uint32_t)err) {
                print_error("%s on region %d: errno %d, not %d\n",
                            pvmemctl_function_name(code), region,
                            ret.ret_errno, err);
                fail();
            }
            assert_int_equal(ret.ret_code, outcome == none ? code :
                             err && code != MEMCTL_REMOVE ? code : 0);
            assert_int_equal(ret.arg0, 0);
            assert_int_equal(ret.arg1, 0);
            if (err) {
                if (outcome == none) {
                    assert_int_equal(calls_made(), before);
                }
                assert_true(all_untouched());
                continue;
            }
            check_outcome(outcome, region);
            /* And now the next one, on memory as it was */
            assert_int_equal(pvmemctl_core_reset(core), 0);
            memset(host(region, 0), pattern(region), fake.regions[region].size);
            assert_true(all_untouched());
        }
    }
}

static void every_function_does_its_work_or_says_that_it_cannot(void **state)
{
    check_effects(0, 4);
}

static void every_function_works_on_huge_pages_or_says_so(void **state)
{
    if (!has_huge_regions()) {
        skip();
    }
    check_effects(4, 2);
}

static void no_code_is_missing_in_the_table(void **state)
{
    for (uint64_t code = 0; code < 64; code++) {
        unsigned found = 0;

        for (unsigned i = 0; i < ARRAY_SIZE(effects); i++) {
            found += effects[i].code == code;
        }
        assert_int_equal(found, is_function(code));
    }
}

/* Neither bitmap nor granule of QUERY is taken on trust: see the table */
static void query_says_what_the_table_says(void **state)
{
    unsigned nr = has_huge_regions() ? NR_BACKINGS : 4;

    for (unsigned j = 0; j < nr; j++) {
        const int region = backings[j];
        struct memctl_vmm_ret ret = ask(MEMCTL_QUERY, gpa(region, FIRST), -1,
                                        NR * fake.regions[region].granule);

        assert_int_equal(ret.ret_errno, 0);
        assert_int_equal(ret.ret_code, 0);
        for (unsigned i = 0; i < ARRAY_SIZE(effects); i++) {
            bool works = effects[i].outcomes[j] != none &&
                         (effects[i].code == MEMCTL_REMOVE ||
                          !missing(effects[i].code, region));

            assert_int_equal(ret.ret_value >> effects[i].code & 1, works);
        }
        assert_true(ret.ret_value >> MEMCTL_INFO & 1);
        assert_true(ret.ret_value >> MEMCTL_QUERY & 1);
        assert_true(ret.ret_value >> MEMCTL_VECTOR & 1);
        assert_int_equal(ret.ret_value >> (MEMCTL_VECTOR + 1), 0);
        assert_int_equal(ret.arg0, MEMCTL_VECTOR_MAX);
        assert_int_equal(ret.arg1, fake.regions[region].granule);
    }
}

/* ZERO */

static void assert_zeroed(int region, bool released)
{
    assert_done(MEMCTL_ZERO, ALL_OF(region), 0);
    assert_int_equal(pages_held(region, FIRST, NR), released ? 0 : NR);
    assert_int_equal(fake.changed,
                     NR * fake.regions[region].granule);
    assert_true(only_hold(region, 0));
    fake.changed = 0;
}

static void zero_clears_memory_that_is_locked(void **state)
{
    for (unsigned j = 0; j < 4; j++) {
        assert_done(MEMCTL_MLOCK, ALL_OF(backings[j]), 0);
        assert_zeroed(backings[j], false);
    }
}

static void zero_clears_where_the_operator_wants_memory_backed(void **state)
{
    static const unsigned flags[] = {
        PVMEMCTL_RAM_PREALLOC, PVMEMCTL_RAM_LOCKED,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(flags); i++) {
        for (unsigned j = 0; j < 4; j++) {
            int region = backings[j];

            fake.regions[region].flags |= flags[i];
            assert_zeroed(region, false);
            fake.regions[region].flags &= ~flags[i];
            memset(host(region, 0), pattern(region), REGION_SIZE);
        }
    }
    /* It never even tried */
    assert_int_equal(fake.begun[PVMEMCTL_DISCARDS], 0);
}

static void zero_clears_where_discards_are_disabled(void **state)
{
    fake.begin_errno[PVMEMCTL_DISCARDS] = EBUSY;
    for (unsigned j = 0; j < 4; j++) {
        assert_zeroed(backings[j], false);
    }
    fake.begin_errno[PVMEMCTL_POPULATES] = EBUSY;
    assert_refused(EBUSY, MEMCTL_ZERO, RANGE(RIGHT), 0);
    assert_true(pages_hold(RIGHT, 0, REGION_PAGES, pattern(RIGHT)));
}

/* As in a file system that knows no holes */
static int no_holes(SysCall call, char *addr, uint64_t length, int value)
{
    return value == MADV_REMOVE ? EOPNOTSUPP : 0;
}

static void zero_clears_files_that_have_no_holes(void **state)
{
    fake.on_call = no_holes;
    assert_zeroed(DISK, false);
    assert_zeroed(SHARED, false);
}

/* Of several pieces one cannot be released: it and later ones are cleared */
static void zero_goes_on_where_releasing_stops(void **state)
{
    const struct memctl_vmm_range ranges[] = {
        { gpa(LEFT, 0), page_size }, { gpa(LEFT, 2), page_size },
        { gpa(LEFT, 4), page_size }, { gpa(LEFT, 6), page_size },
    };

    assert_done(MEMCTL_MLOCK, gpa(LEFT, 4), page_size, 0);
    assert_vector(0, 4, 0, MEMCTL_ZERO, ranges, 4);
    assert_int_equal(pages_mapped(LEFT, 0, 3), 1);
    assert_int_equal(core->stats[MEMCTL_ZERO].bytes, 4 * page_size);
    for (unsigned page = 0; page < REGION_PAGES; page++) {
        bool zero = page < 8 && page % 2 == 0;

        assert_true(pages_hold(LEFT, page, 1, zero ? 0 : pattern(LEFT)));
    }
}

static void zero_clears_huge_pages_that_must_stay(void **state)
{
    PvmemctlOptions options = all_options;

    if (!has_huge_regions()) {
        skip();
    }
    options.hugetlb_release = false;
    new_core(&options);
    assert_zeroed(HUGE, false);
    assert_zeroed(HUGE_SHARED, false);
    /* To clear, no page need be whole */
    assert_done(MEMCTL_ZERO, gpa(HUGE, 0) + page_size, page_size, 0);
    assert_int_equal(host(HUGE, 0)[page_size - 1], pattern(HUGE));
    assert_int_equal(host(HUGE, 0)[page_size], 0);
    assert_int_equal(host(HUGE, 0)[2 * page_size - 1], 0);
    assert_int_equal(host(HUGE, 0)[2 * page_size], pattern(HUGE));

    assert_refused(EPERM, MEMCTL_DONTNEED, ALL_OF(HUGE), 0);
    assert_refused(EPERM, MEMCTL_REMOVE, ALL_OF(HUGE_SHARED), 0);
}

static void zero_of_protected_memory_fails_or_releases(void **state)
{
    struct memctl_vmm_ret ret;

    assert_done(MEMCTL_MPROTECT_NONE, RANGE(COPY), 0);
    assert_failed(EFAULT, MEMCTL_ZERO, RANGE(COPY), 0);
    assert_done(MEMCTL_MPROTECT_RW, RANGE(COPY), 0);
    assert_true(only_hold(COPY, pattern(COPY)));

    for (unsigned j = 0; j < 2; j++) {
        int region = backings[j];

        assert_done(MEMCTL_MPROTECT_R, RANGE(region), 0);
        ret = ask(MEMCTL_ZERO, RANGE(region), 0);
        assert_true(only_hold(region, ret.ret_errno ? pattern(region) : 0));
    }
}

static void all_discards_are_refused_while_the_vmm_disables_them(void **state)
{
    static const struct {
        uint64_t code;
        int region;
    } discards[] = {
        { MEMCTL_DONTNEED, LEFT }, { MEMCTL_FREE, LEFT },
        { MEMCTL_REMOVE, SHARED }, { MEMCTL_DONTNEED, COPY },
    };

    fake.begin_errno[PVMEMCTL_DISCARDS] = EBUSY;
    for (unsigned i = 0; i < ARRAY_SIZE(discards); i++) {
        assert_refused(EBUSY, discards[i].code, RANGE(discards[i].region), 0);
    }
    assert_true(all_untouched());
    fake.begin_errno[PVMEMCTL_DISCARDS] = 0;
    fake.begin_errno[PVMEMCTL_POPULATES] = EBUSY;
    assert_refused(EBUSY, MEMCTL_POPULATE, RANGE(LEFT), 0);
    assert_refused(EBUSY, MEMCTL_MLOCK, RANGE(LEFT), 0);
    assert_true(all_untouched());
    /* A page is touched before an attribute is set */
    assert_refused(EBUSY, MEMCTL_DONTDUMP, RANGE(LEFT), 0);
    assert_refused(EBUSY, MEMCTL_MPROTECT_R, RANGE(LEFT), 0);
    /* But not before a default is given back */
    fake.begin_errno[PVMEMCTL_POPULATES] = 0;
    assert_done(MEMCTL_DONTDUMP, RANGE(LEFT), 0);
    assert_done(MEMCTL_MPROTECT_NONE, RANGE(LEFT), 0);
    assert_done(MEMCTL_MLOCK, RANGE(RIGHT), 0);
    fake.begin_errno[PVMEMCTL_POPULATES] = EBUSY;
    assert_done(MEMCTL_MPROTECT_RW, RANGE(LEFT), 0);
    assert_done(MEMCTL_MPROTECT_W, RANGE(LEFT), 0);
    assert_done(MEMCTL_DODUMP, RANGE(LEFT), 0);
    assert_done(MEMCTL_MUNLOCK, RANGE(RIGHT), 0);
    assert_true(all_untouched());
    /* These do neither */
    fake.begin_errno[PVMEMCTL_DISCARDS] = EBUSY;
    assert_done(MEMCTL_COLD, RANGE(LEFT), 0);
    assert_done(MEMCTL_PAGEOUT, RANGE(DISK), 0);
}

static void the_vmm_is_told_what_may_have_changed(void **state)
{
    static const struct {
        uint64_t code;
        int region;
        bool changes;
    } calls[] = {
        { MEMCTL_DONTNEED, LEFT, true }, { MEMCTL_FREE, LEFT, true },
        { MEMCTL_REMOVE, SHARED, true }, { MEMCTL_ZERO, LEFT, true },
        { MEMCTL_ZERO, COPY, true }, { MEMCTL_DONTNEED, COPY, true },
        { MEMCTL_POPULATE, LEFT, false }, { MEMCTL_COLD, LEFT, false },
        { MEMCTL_DONTDUMP, LEFT, false }, { MEMCTL_MLOCK, LEFT, false },
        { MEMCTL_MPROTECT_R, LEFT, false },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(calls); i++) {
        fake.changed = 0;
        assert_done(calls[i].code, RANGE(calls[i].region), 0);
        assert_int_equal(fake.changed, calls[i].changes ? NR * page_size : 0);
    }
    fake.changed = 0;
    assert_refused(EOPNOTSUPP, MEMCTL_REMOVE, RANGE(LEFT), 0);
    fake.begin_errno[PVMEMCTL_DISCARDS] = EBUSY;
    assert_refused(EBUSY, MEMCTL_DONTNEED, RANGE(LEFT), 0);
    assert_int_equal(fake.changed, 0);
}

/* The operator's word */

static void what_the_operator_decided_is_not_weakened(void **state)
{
    static const struct {
        unsigned flag;
        uint64_t code;
        int region;
    } refused[] = {
        { PVMEMCTL_RAM_NO_MERGE, MEMCTL_MERGEABLE, LEFT },
        { PVMEMCTL_RAM_NO_DUMP, MEMCTL_DODUMP, LEFT },
        { PVMEMCTL_RAM_LOCKED, MEMCTL_MUNLOCK, LEFT },
        { PVMEMCTL_RAM_LOCKED, MEMCTL_DONTNEED, LEFT },
        { PVMEMCTL_RAM_LOCKED, MEMCTL_FREE, LEFT },
        { PVMEMCTL_RAM_LOCKED, MEMCTL_PAGEOUT, LEFT },
        { PVMEMCTL_RAM_LOCKED, MEMCTL_REMOVE, SHARED },
        { PVMEMCTL_RAM_PREALLOC, MEMCTL_DONTNEED, LEFT },
        { PVMEMCTL_RAM_PREALLOC, MEMCTL_FREE, LEFT },
        { PVMEMCTL_RAM_PREALLOC, MEMCTL_PAGEOUT, LEFT },
        { PVMEMCTL_RAM_PREALLOC, MEMCTL_REMOVE, SHARED },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(refused); i++) {
        int region = refused[i].region;

        if (!is_function(refused[i].code)) {
            continue;
        }

        fake.regions[region].flags |= refused[i].flag;
        assert_refused(EPERM, refused[i].code, RANGE(region), 0);
        if (core->options.minor) {
            struct memctl_vmm_ret ret = ask(MEMCTL_QUERY, gpa(region, 0), -1,
                                            page_size);

            assert_int_equal(ret.ret_value >> refused[i].code & 1, 0);
        }
        fake.regions[region].flags &= ~refused[i].flag;
        assert_true(all_untouched());
    }
}

/* Alignment */

static void a_misaligned_range_is_told_the_granule(void **state)
{
    assert_hinted(EINVAL, page_size, MEMCTL_DONTNEED, gpa(LEFT, 0) + 512,
                  page_size, 0);
    assert_hinted(EINVAL, page_size, MEMCTL_MPROTECT_R, gpa(LEFT, 0), 512, 0);
    assert_hinted(EINVAL, page_size, MEMCTL_ZERO, gpa(COPY, 0), 0, 0);
    assert_true(all_untouched());
}

static void a_huge_page_is_not_cut(void **state)
{
    if (!has_huge_regions()) {
        skip();
    }
    for (unsigned i = 0; i < ARRAY_SIZE(effects); i++) {
        for (unsigned j = 4; j < NR_BACKINGS; j++) {
            uint64_t base = gpa(backings[j], 0), code = effects[i].code;

            if (effects[i].outcomes[j] == none) {
                continue;
            }
            assert_hinted(EINVAL, 2 * MIB, code, base, page_size, 0);
            assert_hinted(EINVAL, 2 * MIB, code, base + page_size, 2 * MIB, 0);
            assert_hinted(EINVAL, 2 * MIB, code, base + MIB, MIB, 0);
            assert_hinted(EINVAL, page_size, code, base + 1, 2 * MIB, 0);
        }
    }
    /* Across both: refused before the first is touched */
    assert_hinted(EINVAL, 2 * MIB, MEMCTL_DONTDUMP, gpa(HUGE, 0),
                  17 * 2 * MIB + page_size, 0);
    assert_true(all_untouched());
}

static const struct CMUnitTest function_tests[] = {
    TEST(info_tells_page_size_and_version),
    TEST_1_0(info_tells_page_size_and_version),
    TEST(dontneed_releases_and_zeroes_private_memory),
    TEST_1_0(dontneed_releases_and_zeroes_private_memory),
    TEST(dontneed_keeps_the_contents_of_shared_memory),
    TEST_1_0(dontneed_keeps_the_contents_of_shared_memory),
    TEST(remove_punches_shared_memory),
    TEST_1_0(remove_punches_shared_memory),
    TEST(remove_fails_on_private_memory),
    TEST_1_0(remove_fails_on_private_memory),
    TEST(free_makes_private_memory_lazily_free),
    TEST_1_0(free_makes_private_memory_lazily_free),
    TEST(free_fails_on_shared_memory),
    TEST_1_0(free_fails_on_shared_memory),
    TEST(pageout_keeps_contents),
    TEST_1_0(pageout_keeps_contents),
    TEST(pageout_moves_memory_out),
    TEST(dontdump_leaves_memory_out_of_core_dumps),
    TEST_1_0(dontdump_leaves_memory_out_of_core_dumps),
    TEST(set_vma_anon_name_names_private_memory),
    TEST_1_0(set_vma_anon_name_names_private_memory),
    TEST(mlock_locks_until_munlock),
    TEST_1_0(mlock_locks_until_munlock),
    TEST(mprotect_protects),
    TEST_1_0(mprotect_protects),
    TEST(mergeable_until_unmergeable),
    TEST_1_0(mergeable_until_unmergeable),
    TEST(a_range_may_span_adjacent_regions),
    TEST_1_0(a_range_may_span_adjacent_regions),
    TEST(a_single_page_and_the_ends_of_a_region_are_ranges),
    TEST(a_bad_range_is_refused_and_untouched),
    TEST_1_0(a_bad_range_is_refused_and_untouched),
    TEST(a_range_unplugged_before_the_request_is_refused),
    TEST_1_0(a_range_unplugged_before_the_request_is_refused),
    TEST(a_range_unplugged_during_the_request_is_an_error),
    TEST_1_0(a_range_unplugged_during_the_request_is_an_error),
    TEST(a_code_is_the_answer_where_nothing_was_tried),
    TEST_1_0(a_code_is_the_answer_where_nothing_was_tried),
    TEST(a_failed_system_call_is_its_errno_without_a_code),
    TEST_1_0(a_failed_system_call_is_its_errno_without_a_code),
    TEST(an_unknown_code_is_not_supported),
    TEST_1_0(an_unknown_code_is_not_supported),
    TEST(what_policy_leaves_out_is_not_permitted),
    TEST_1_0(what_policy_leaves_out_is_not_permitted),
    TEST(what_policy_names_is_all_that_is_permitted),
    TEST_1_0(what_policy_names_is_all_that_is_permitted),
    TEST_1_0(a_1_0_host_does_not_know_what_1_1_brought),
    TEST(every_function_does_its_work_or_says_that_it_cannot),
    TEST_HUGE(every_function_works_on_huge_pages_or_says_so),
    TEST(no_code_is_missing_in_the_table),
    TEST_HUGE(query_says_what_the_table_says),
    TEST(zero_clears_memory_that_is_locked),
    TEST(zero_clears_where_the_operator_wants_memory_backed),
    TEST(zero_clears_where_discards_are_disabled),
    TEST(zero_clears_files_that_have_no_holes),
    TEST(zero_goes_on_where_releasing_stops),
    TEST_HUGE(zero_clears_huge_pages_that_must_stay),
    TEST(zero_of_protected_memory_fails_or_releases),
    TEST(all_discards_are_refused_while_the_vmm_disables_them),
    TEST(the_vmm_is_told_what_may_have_changed),
    TEST(what_the_operator_decided_is_not_weakened),
    TEST_1_0(what_the_operator_decided_is_not_weakened),
    TEST(a_misaligned_range_is_told_the_granule),
    TEST_HUGE(a_huge_page_is_not_cut),
};
TEST_GROUP(function);
