/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What these tests need of cmocka, for a program that needs no library.  Prints
 * TAP.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_vmm.h"

static jmp_buf leave_test;
static bool skipped;

void _fail(const char *const file, const int line)
{
    printf("# %s:%d: failed\n", file, line);
    longjmp(leave_test, 1);
}

void _skip(const char *const file, const int line)
{
    skipped = true;
    longjmp(leave_test, 1);
}

void print_error(const char *const format, ...)
{
    va_list ap;

    fputs("# ", stdout);
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
}

void _assert_true(const LargestIntegralType result,
                  const char *const expression, const char *const file,
                  const int line)
{
    if (!result) {
        printf("# %s\n", expression);
        _fail(file, line);
    }
}

void _assert_int_equal(const LargestIntegralType a, const LargestIntegralType b,
                       const char *const file, const int line)
{
    if (a != b) {
        printf("# %#llx is not %#llx\n", (unsigned long long)a,
               (unsigned long long)b);
        _fail(file, line);
    }
}

void _assert_int_not_equal(const LargestIntegralType a,
                           const LargestIntegralType b, const char *const file,
                           const int line)
{
    if (a == b) {
        printf("# %#llx\n", (unsigned long long)a);
        _fail(file, line);
    }
}

void _assert_in_range(const LargestIntegralType value,
                      const LargestIntegralType minimum,
                      const LargestIntegralType maximum,
                      const char *const file, const int line)
{
    if (value < minimum || value > maximum) {
        printf("# %#llx is not in %#llx-%#llx\n", (unsigned long long)value,
               (unsigned long long)minimum, (unsigned long long)maximum);
        _fail(file, line);
    }
}

void _assert_string_equal(const char *const a, const char *const b,
                          const char *const file, const int line)
{
    if (strcmp(a, b)) {
        printf("# \"%s\" is not \"%s\"\n", a, b);
        _fail(file, line);
    }
}

void _assert_memory_equal(const void *const a, const void *const b,
                          const size_t size, const char *const file,
                          const int line)
{
    if (memcmp(a, b, size)) {
        _fail(file, line);
    }
}

static void on_crash(int sig)
{
    signal(sig, SIG_DFL);
    printf("# signal %d\n", sig);
    longjmp(leave_test, 1);
}

static bool run_one(const struct CMUnitTest *test)
{
    volatile bool ok = false;
    void *state = test->initial_state;

    skipped = false;
    if (test->setup_func && test->setup_func(&state)) {
        return false;
    }
    signal(SIGSEGV, on_crash);
    signal(SIGBUS, on_crash);
    if (!setjmp(leave_test)) {
        test->test_func(&state);
        ok = true;
    }
    signal(SIGSEGV, SIG_DFL);
    signal(SIGBUS, SIG_DFL);
    if (test->teardown_func && test->teardown_func(&state)) {
        return false;
    }
    return ok;
}

int _cmocka_run_group_tests(const char *group_name,
                            const struct CMUnitTest *const tests,
                            const size_t num_tests,
                            CMFixtureFunction group_setup,
                            CMFixtureFunction group_teardown)
{
    int failed = 0;

    printf("TAP version 13\n1..%zu\n", num_tests);
    for (size_t i = 0; i < num_tests; i++) {
        bool ok = run_one(&tests[i]);

        printf("%s %zu - %s%s\n", ok || skipped ? "ok" : "not ok", i + 1,
               tests[i].name, skipped ? " # SKIP" : "");
        fflush(stdout);
        failed += !ok && !skipped;
    }
    return failed;
}
