/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs the tests of the core as one group: all, or those that an argument
 * names.  That is the name of a file's tests, like "device", or a pattern for
 * the names of tests.
 */
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_vmm.h"

static const TestGroup *const groups[] = {
    &device_group, &function_group, &request_group, &ledger_group,
    &guard_group, &concurrency_group, &policy_group,
};

static bool is_wanted(const TestGroup *group, const struct CMUnitTest *test,
                      int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], group->name) || !fnmatch(argv[i], test->name, 0)) {
            return true;
        }
    }
    return argc == 1;
}

int main(int argc, char **argv)
{
    struct CMUnitTest *wanted = NULL;
    size_t nr = 0;
    int failed;

    for (size_t i = 0; i < ARRAY_SIZE(groups); i++) {
        for (size_t j = 0; j < groups[i]->nr; j++) {
            if (is_wanted(groups[i], &groups[i]->tests[j], argc, argv)) {
                wanted = realloc(wanted, (nr + 1) * sizeof(*wanted));
                wanted[nr++] = groups[i]->tests[j];
            }
        }
    }
    failed = _cmocka_run_group_tests("pvmemctl core", wanted, nr, NULL, NULL);
    free(wanted);
    return failed != 0;
}
