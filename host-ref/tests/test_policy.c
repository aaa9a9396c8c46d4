/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The operator's list of functions.
 */
#include <string.h>

#include "fake_vmm.h"

#define BIT(code) (UINT64_C(1) << (code))

/* These do nothing by themselves and are always allowed */
#define ALWAYS (BIT(MEMCTL_INFO) | BIT(MEMCTL_QUERY) | BIT(MEMCTL_VECTOR))
#define ALL ((BIT(MEMCTL_UNMERGEABLE + 1) - 1) | \
             (BIT(MEMCTL_VECTOR + 1) - BIT(MEMCTL_QUERY)))
#define DEFAULT (ALL & ~BIT(MEMCTL_MLOCK) & ~BIT(MEMCTL_MERGEABLE))

static const char *const names[] = {
    [MEMCTL_INFO] = "info",
    [MEMCTL_DONTNEED] = "dontneed",
    [MEMCTL_REMOVE] = "remove",
    [MEMCTL_FREE] = "free",
    [MEMCTL_PAGEOUT] = "pageout",
    [MEMCTL_DONTDUMP] = "dontdump",
    [MEMCTL_SET_VMA_ANON_NAME] = "set-vma-anon-name",
    [MEMCTL_MLOCK] = "mlock",
    [MEMCTL_MUNLOCK] = "munlock",
    [MEMCTL_MPROTECT_NONE] = "mprotect-none",
    [MEMCTL_MPROTECT_R] = "mprotect-r",
    [MEMCTL_MPROTECT_W] = "mprotect-w",
    [MEMCTL_MPROTECT_RW] = "mprotect-rw",
    [MEMCTL_MERGEABLE] = "mergeable",
    [MEMCTL_UNMERGEABLE] = "unmergeable",
    [MEMCTL_QUERY] = "query",
    [MEMCTL_ZERO] = "zero",
    [MEMCTL_POPULATE] = "populate",
    [MEMCTL_HUGEPAGE] = "hugepage",
    [MEMCTL_NOHUGEPAGE] = "nohugepage",
    [MEMCTL_DODUMP] = "dodump",
    [MEMCTL_COLD] = "cold",
    [MEMCTL_VECTOR] = "vector",
};

static void assert_allows(const char *list, uint64_t want)
{
    uint64_t allowed = 0;
    const char *bad = NULL;

    assert_true(pvmemctl_policy_parse(list, &allowed, &bad));
    assert_int_equal(allowed, want);
}

/* The first unknown name is @offset characters into the list */
static void assert_bad(const char *list, size_t offset)
{
    uint64_t allowed = 0;
    const char *bad = NULL;

    assert_false(pvmemctl_policy_parse(list, &allowed, &bad));
    assert_ptr_equal(bad, list + offset);
}

static void policy_default_leaves_out_mlock_and_mergeable(void **state)
{
    assert_allows(NULL, DEFAULT);
    assert_allows("default", DEFAULT);
}

static void policy_all_is_every_function(void **state)
{
    assert_allows("all", ALL);
}

static void policy_knows_every_function_by_name(void **state)
{
    unsigned known = 0;

    for (unsigned code = 0; code < ARRAY_SIZE(names); code++) {
        if (names[code]) {
            assert_string_equal(pvmemctl_function_name(code), names[code]);
            assert_allows(names[code], ALWAYS | BIT(code));
            known++;
        } else {
            assert_null(pvmemctl_function_name(code));
        }
    }
    assert_int_equal(known, 15 + 8);
}

static void policy_other_codes_have_no_name(void **state)
{
    assert_null(pvmemctl_function_name(ARRAY_SIZE(names)));
    assert_null(pvmemctl_function_name(63));
    assert_null(pvmemctl_function_name(64));
    assert_null(pvmemctl_function_name(UINT64_C(1) << 32 | MEMCTL_DONTNEED));
    assert_null(pvmemctl_function_name(UINT64_MAX));
}

static void policy_always_allows_what_does_nothing(void **state)
{
    assert_allows("free", ALWAYS | BIT(MEMCTL_FREE));
    assert_allows("info", ALWAYS);
}

static void policy_lists_add_up(void **state)
{
    assert_allows("dontneed:free",
                  ALWAYS | BIT(MEMCTL_DONTNEED) | BIT(MEMCTL_FREE));
    assert_allows("free:info:free", ALWAYS | BIT(MEMCTL_FREE));
    assert_allows("default:mlock", DEFAULT | BIT(MEMCTL_MLOCK));
    assert_allows("mergeable:default", DEFAULT | BIT(MEMCTL_MERGEABLE));
    assert_allows("default:all", ALL);
}

static void policy_an_empty_name_is_unknown(void **state)
{
    assert_bad("", 0);
    assert_bad(":", 0);
    assert_bad("::", 0);
    assert_bad(":free", 0);
    assert_bad("free:", strlen("free:"));
    assert_bad("free::info", strlen("free:"));
}

static void policy_bad_points_at_the_first_unknown_name(void **state)
{
    assert_bad("frees", 0);
    assert_bad("fre", 0);
    assert_bad("mprotect", 0);
    assert_bad("mprotect-", 0);
    assert_bad("al", 0);
    assert_bad("defaults", 0);
    assert_bad("info:nonsense:rubbish", strlen("info:"));
    assert_bad("all:x", strlen("all:"));
    assert_bad("free,info", 0);
    assert_bad("free: info", strlen("free:"));
    assert_bad("free ", 0);
    assert_bad("0", 0);
}

static void policy_names_are_in_lower_case(void **state)
{
    assert_bad("DONTNEED", 0);
    assert_bad("free:Info", strlen("free:"));
    assert_bad("All", 0);
    assert_bad("Default", 0);
}

static const struct CMUnitTest policy_tests[] = {
    cmocka_unit_test(policy_default_leaves_out_mlock_and_mergeable),
    cmocka_unit_test(policy_all_is_every_function),
    cmocka_unit_test(policy_knows_every_function_by_name),
    cmocka_unit_test(policy_other_codes_have_no_name),
    cmocka_unit_test(policy_always_allows_what_does_nothing),
    cmocka_unit_test(policy_lists_add_up),
    cmocka_unit_test(policy_an_empty_name_is_unknown),
    cmocka_unit_test(policy_bad_points_at_the_first_unknown_name),
    cmocka_unit_test(policy_names_are_in_lower_case),
};
TEST_GROUP(policy);
