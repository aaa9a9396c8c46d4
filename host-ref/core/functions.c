/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What each function code does to the VMM's mapping of guest memory: one
 * system call.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include <linux/prctl.h>

#include "pvmemctl-core.h"

typedef struct PvmemctlFunction {
    const char *name;
    int (*run)(void *addr, uint64_t length, int how, uint64_t arg);
    int how;
} PvmemctlFunction;

static int run_madvise(void *addr, uint64_t length, int advice, uint64_t arg)
{
    return madvise(addr, length, advice);
}

static int run_mlock(void *addr, uint64_t length, int flags, uint64_t arg)
{
    return mlock2(addr, length, flags);
}

static int run_munlock(void *addr, uint64_t length, int how, uint64_t arg)
{
    return munlock(addr, length);
}

static int run_mprotect(void *addr, uint64_t length, int prot, uint64_t arg)
{
    return mprotect(addr, length, prot);
}

static int run_name(void *addr, uint64_t length, int how, uint64_t arg)
{
    char name[sizeof("pvmemctl-18446744073709551615")];

    snprintf(name, sizeof(name), "pvmemctl-%" PRIu64, arg);
    return prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, addr, length,
                 arg ? name : NULL);
}

static const PvmemctlFunction functions[] = {
    [MEMCTL_INFO]           = { .name = "info" },
    [MEMCTL_DONTNEED]       = { "dontneed", run_madvise, MADV_DONTNEED },
    [MEMCTL_REMOVE]         = { "remove", run_madvise, MADV_REMOVE },
    [MEMCTL_FREE]           = { "free", run_madvise, MADV_FREE },
    [MEMCTL_PAGEOUT]        = { "pageout", run_madvise, MADV_PAGEOUT },
    [MEMCTL_DONTDUMP]       = { "dontdump", run_madvise, MADV_DONTDUMP },
    [MEMCTL_SET_VMA_ANON_NAME] = { .name = "set-vma-anon-name",
                                .run = run_name },
    [MEMCTL_MLOCK]          = { "mlock", run_mlock, 0 },
    [MEMCTL_MUNLOCK]        = { .name = "munlock", .run = run_munlock },
    [MEMCTL_MPROTECT_NONE]  = { "mprotect-none", run_mprotect, PROT_NONE },
    [MEMCTL_MPROTECT_R]     = { "mprotect-r", run_mprotect, PROT_READ },
    [MEMCTL_MPROTECT_W]     = { "mprotect-w", run_mprotect, PROT_WRITE },
    [MEMCTL_MPROTECT_RW]    = { "mprotect-rw", run_mprotect,
                                PROT_READ | PROT_WRITE },
    [MEMCTL_MERGEABLE]      = { "mergeable", run_madvise, MADV_MERGEABLE },
    [MEMCTL_UNMERGEABLE]    = { "unmergeable", run_madvise, MADV_UNMERGEABLE },
};

const char *pvmemctl_function_name(uint64_t code)
{
    if (code >= sizeof(functions) / sizeof(functions[0])) {
        return NULL;
    }
    return functions[code].name;
}

int pvmemctl_function_run(uint64_t code, void *addr, uint64_t length,
                          uint64_t arg)
{
    const PvmemctlFunction *f = &functions[code];

    return f->run(addr, length, f->how, arg) ? errno : 0;
}
