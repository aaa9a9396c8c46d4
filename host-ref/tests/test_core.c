/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs all tests of the core as one group.  An argument is a pattern that the
 * names of tests have to match.
 */
#include <stdlib.h>
#include <string.h>

#include "fake_vmm.h"

int main(int argc, char **argv)
{
    size_t nr = nr_device_tests + nr_function_tests + nr_policy_tests;
    struct CMUnitTest *all = malloc(nr * sizeof(*all)), *end = all;
    int failed;

    end = mempcpy(end, device_tests, nr_device_tests * sizeof(*all));
    end = mempcpy(end, function_tests, nr_function_tests * sizeof(*all));
    mempcpy(end, policy_tests, nr_policy_tests * sizeof(*all));
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    failed = _cmocka_run_group_tests("pvmemctl core", all, nr, NULL, NULL);
    free(all);
    return failed != 0;
}
