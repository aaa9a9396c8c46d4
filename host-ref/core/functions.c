/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What each function code does to the VMM's mapping of guest memory, on which
 * backings that has an effect, and the system calls.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <linux/prctl.h>

#include "internal.h"

/* Classes of backing; a shared mapping of a file and of a memfd behave alike */
enum {
    ANON            = 1 << 0,   /* private anonymous */
    SHARED          = 1 << 1,   /* shared memfd, or anonymous */
    FILE_PRIVATE    = 1 << 2,
    FILE_SHARED     = 1 << 3,
    HUGE_PRIVATE    = 1 << 4,   /* hugetlb */
    HUGE_SHARED     = 1 << 5,

    PRIVATE = ANON | FILE_PRIVATE,
    SMALL = ANON | SHARED | FILE_PRIVATE | FILE_SHARED,
    ALL = SMALL | HUGE_PRIVATE | HUGE_SHARED,
};

static unsigned class_of(const PvmemctlRam *ram)
{
    bool shared = ram->flags & PVMEMCTL_RAM_SHARED;

    if (pvmemctl_is_huge(ram)) {
        return shared ? HUGE_SHARED : HUGE_PRIVATE;
    }
    if (ram->flags & PVMEMCTL_RAM_FILE) {
        return shared ? FILE_SHARED : FILE_PRIVATE;
    }
    return shared ? SHARED : ANON;
}

#define READ_WRITE (PROT_READ | PROT_WRITE)
#define MADV(advice) .how = PVMEMCTL_MADVISE, .value = (advice)
#define PROT(prot) .how = PVMEMCTL_MPROTECT, .value = (prot), \
                   .kind = PVMEMCTL_KIND_PROTECT, .backings = ALL
#define RELEASE .flags = PVMEMCTL_CONTENTS | PVMEMCTL_RELEASES

static const PvmemctlFunction functions[PVMEMCTL_NR_CODES] = {
    [MEMCTL_INFO] = { "info" },
    /* Of a shared mapping it drops page tables, not memory */
    [MEMCTL_DONTNEED] = { "dontneed", MADV(MADV_DONTNEED), RELEASE,
        .backings = PRIVATE | HUGE_PRIVATE },
    [MEMCTL_REMOVE] = { "remove", MADV(MADV_REMOVE), RELEASE,
        .backings = SHARED | FILE_SHARED | HUGE_SHARED },
    [MEMCTL_FREE] = { "free", MADV(MADV_FREE), RELEASE, .backings = ANON },
    [MEMCTL_PAGEOUT] = { "pageout", MADV(MADV_PAGEOUT), .backings = SMALL,
        .flags = PVMEMCTL_HEAVY | PVMEMCTL_RATED | PVMEMCTL_RELEASES },
    [MEMCTL_DONTDUMP] = { "dontdump", MADV(MADV_DONTDUMP), .backings = ALL,
        .kind = PVMEMCTL_KIND_DUMP },
    [MEMCTL_SET_VMA_ANON_NAME] = { "set-vma-anon-name", PVMEMCTL_NAME,
        .backings = ANON, .kind = PVMEMCTL_KIND_NAME },
    [MEMCTL_MLOCK] = { "mlock", PVMEMCTL_MLOCK, .backings = SMALL,
        .flags = PVMEMCTL_HEAVY, .kind = PVMEMCTL_KIND_LOCK },
    [MEMCTL_MUNLOCK] = { "munlock", PVMEMCTL_MUNLOCK, .backings = SMALL,
        .kind = PVMEMCTL_KIND_LOCK },
    [MEMCTL_MPROTECT_NONE] = { "mprotect-none", PROT(PROT_NONE) },
    [MEMCTL_MPROTECT_R] = { "mprotect-r", PROT(PROT_READ) },
    /* No processor that runs guests has memory to be written and not read */
    [MEMCTL_MPROTECT_W] = { "mprotect-w", PROT(READ_WRITE) },
    [MEMCTL_MPROTECT_RW] = { "mprotect-rw", PROT(READ_WRITE) },
    [MEMCTL_MERGEABLE] = { "mergeable", MADV(MADV_MERGEABLE),
        .backings = PRIVATE, .kind = PVMEMCTL_KIND_MERGE },
    [MEMCTL_UNMERGEABLE] = { "unmergeable", MADV(MADV_UNMERGEABLE),
        .backings = PRIVATE, .kind = PVMEMCTL_KIND_MERGE },
    [MEMCTL_QUERY] = { "query", .minor = 1 },
    /* How is up to the backing: plan_zero() */
    [MEMCTL_ZERO] = { "zero", PVMEMCTL_CLEAR, .flags = PVMEMCTL_CONTENTS,
        .backings = ALL, .minor = 1 },
    [MEMCTL_POPULATE] = { "populate", MADV(MADV_POPULATE_WRITE),
        .flags = PVMEMCTL_HEAVY | PVMEMCTL_RATED, .backings = ALL, .minor = 1 },
    [MEMCTL_HUGEPAGE] = { "hugepage", MADV(MADV_HUGEPAGE), .minor = 1,
        .backings = ANON | SHARED, .kind = PVMEMCTL_KIND_HUGE },
    [MEMCTL_NOHUGEPAGE] = { "nohugepage", MADV(MADV_NOHUGEPAGE), .minor = 1,
        .backings = ANON | SHARED, .kind = PVMEMCTL_KIND_HUGE },
    [MEMCTL_DODUMP] = { "dodump", MADV(MADV_DODUMP), .minor = 1,
        .backings = ALL, .kind = PVMEMCTL_KIND_DUMP },
    [MEMCTL_COLD] = { "cold", MADV(MADV_COLD), .backings = SMALL, .minor = 1 },
    [MEMCTL_VECTOR] = { "vector", .minor = 1 },
};

const char *pvmemctl_function_name(uint64_t code)
{
    return code < PVMEMCTL_NR_CODES ? functions[code].name : NULL;
}

const PvmemctlFunction *pvmemctl_function(uint64_t code)
{
    if (code >= PVMEMCTL_NR_CODES || !functions[code].backings) {
        return NULL;
    }
    return &functions[code];
}

uint8_t pvmemctl_function_undo(PvmemctlKind kind, unsigned flags)
{
    switch (kind) {
    case PVMEMCTL_KIND_PROTECT:
        return MEMCTL_MPROTECT_RW;
    case PVMEMCTL_KIND_LOCK:
        return flags & PVMEMCTL_RAM_LOCKED ? MEMCTL_MLOCK : MEMCTL_MUNLOCK;
    case PVMEMCTL_KIND_DUMP:
        return flags & PVMEMCTL_RAM_NO_DUMP ? MEMCTL_DONTDUMP : MEMCTL_DODUMP;
    case PVMEMCTL_KIND_MERGE:
        return flags & PVMEMCTL_RAM_MERGEABLE ? MEMCTL_MERGEABLE
                                              : MEMCTL_UNMERGEABLE;
    case PVMEMCTL_KIND_HUGE:
        return MEMCTL_HUGEPAGE;
    case PVMEMCTL_KIND_NAME:
        return MEMCTL_SET_VMA_ANON_NAME;
    case PVMEMCTL_KIND_NONE:
    case PVMEMCTL_NR_KINDS:
        break;
    }
    return 0;
}

bool pvmemctl_function_is_default(uint64_t code, uint64_t arg, unsigned flags)
{
    if (code == MEMCTL_MPROTECT_W) {
        return true;
    }
    return code == pvmemctl_function_undo(functions[code].kind, flags) &&
           (code != MEMCTL_SET_VMA_ANON_NAME || !arg);
}

/* Does the operator let memory of this kind go back to the host? */
static bool may_release(const PvmemctlOptions *options, const PvmemctlRam *ram)
{
    if (ram->flags & (PVMEMCTL_RAM_LOCKED | PVMEMCTL_RAM_PREALLOC)) {
        return false;
    }
    return options->hugetlb_release ||
           !(class_of(ram) & (HUGE_PRIVATE | HUGE_SHARED));
}

/*
 * What the operator has decided about this memory is not the guest's to change
 */
static bool weakens(const PvmemctlOptions *options, uint64_t code,
                    const PvmemctlRam *ram)
{
    switch (code) {
    case MEMCTL_MUNLOCK:
        return ram->flags & PVMEMCTL_RAM_LOCKED;
    case MEMCTL_MERGEABLE:
        return ram->flags & PVMEMCTL_RAM_NO_MERGE;
    case MEMCTL_DODUMP:
        return ram->flags & PVMEMCTL_RAM_NO_DUMP;
    default:
        return functions[code].flags & PVMEMCTL_RELEASES &&
               !may_release(options, ram);
    }
}

static bool has_swap(void)
{
    struct sysinfo info;

    return !sysinfo(&info) && info.totalswap;
}

/* Functions that this kernel was built without: names, KSM, huge pages */
static uint64_t lacking;

/*
 * Of no bytes the calls do nothing, but they look whether they know what is
 * asked
 */
static void find_lacking(void)
{
    for (unsigned code = 0; code < PVMEMCTL_NR_CODES; code++) {
        if (functions[code].backings &&
            functions[code].how == PVMEMCTL_MADVISE &&
            syscall(SYS_madvise, NULL, 0, functions[code].value)) {
            lacking |= PVMEMCTL_BIT(code);
        }
    }
    if (syscall(SYS_prctl, PR_SET_VMA, PR_SET_VMA_ANON_NAME, 0, 0, NULL)) {
        lacking |= PVMEMCTL_BIT(MEMCTL_SET_VMA_ANON_NAME);
    }
}

/* Is there more to it than success? */
static bool has_effect(uint64_t code, const PvmemctlRam *ram)
{
    unsigned class = class_of(ram);

    if (!(functions[code].backings & class) || lacking & PVMEMCTL_BIT(code)) {
        return false;
    }
    return code != MEMCTL_PAGEOUT || class & (FILE_PRIVATE | FILE_SHARED) ||
           has_swap();
}

/*
 * By release where that makes zeroes, else by writing them.  A private file
 * shows its contents again when a page is dropped.
 */
static void plan_zero(const PvmemctlOptions *options, const PvmemctlRam *ram,
                      PvmemctlAction *action)
{
    unsigned class = class_of(ram);

    if (!may_release(options, ram) || class == FILE_PRIVATE) {
        *action = (PvmemctlAction) { .how = PVMEMCTL_CLEAR };
    } else {
        *action = (PvmemctlAction) {
            .how = PVMEMCTL_MADVISE,
            .value = class & (ANON | HUGE_PRIVATE) ? MADV_DONTNEED
                                                   : MADV_REMOVE,
        };
    }
}

bool pvmemctl_function_works(const PvmemctlOptions *options, uint64_t code,
                             const PvmemctlRam *ram)
{
    return options->allowed & PVMEMCTL_BIT(code) &&
           functions[code].minor <= options->minor &&
           !weakens(options, code, ram) &&
           (!options->minor || has_effect(code, ram));
}

int pvmemctl_function_plan(const PvmemctlOptions *options, uint64_t code,
                           const PvmemctlRam *ram, PvmemctlAction *action,
                           uint64_t *granule)
{
    const PvmemctlFunction *f = &functions[code];

    if (weakens(options, code, ram)) {
        return EPERM;
    }
    if (options->minor && !has_effect(code, ram)) {
        return EOPNOTSUPP;
    }
    *action = (PvmemctlAction) { .how = f->how, .value = f->value };
    if (code == MEMCTL_ZERO) {
        plan_zero(options, ram, action);
    }
    /*
     * A mapping of huge pages is cut between these only.  What could not be
     * undone piece by piece must not get into the ledger in any protocol.
     */
    if ((options->minor || f->kind == PVMEMCTL_KIND_PROTECT ||
         f->kind == PVMEMCTL_KIND_DUMP) && action->how != PVMEMCTL_CLEAR &&
        ((uintptr_t)ram->addr | ram->length) & (ram->page_size - 1)) {
        *granule = ram->page_size;
        return EINVAL;
    }
    return 0;
}

static int run_name(void *addr, uint64_t length, uint64_t arg)
{
    char name[sizeof("pvmemctl-18446744073709551615")];

    snprintf(name, sizeof(name), "pvmemctl-%" PRIu64, arg);
    return prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, addr, length,
                 arg ? name : NULL);
}

/* The process's own, opened once: a sandbox or chroot may come later */
static int self_fd = -1, zero_fd = -1;

void pvmemctl_functions_init(void)
{
    if (self_fd < 0) {
        self_fd = syscall(SYS_pidfd_open, getpid(), 0);
    }
    if (zero_fd < 0) {
        zero_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    }
    find_lacking();
}

/*
 * The kernel writes the zeroes: where memory is protected or cannot be backed
 * that is an error, not a signal.
 */
static int run_clear(char *addr, uint64_t length)
{
    while (length) {
        ssize_t n = read(zero_fd, addr, length);

        if (n <= 0) {
            return -1;
        }
        addr += n;
        length -= n;
    }
    return 0;
}

int pvmemctl_action_run(const PvmemctlAction *action, void *addr,
                        uint64_t length)
{
    int ret = -1;

    switch (action->how) {
    case PVMEMCTL_MADVISE:
        ret = madvise(addr, length, action->value);
        break;
    case PVMEMCTL_MLOCK:
        ret = mlock2(addr, length, 0);
        break;
    case PVMEMCTL_MUNLOCK:
        ret = munlock(addr, length);
        break;
    case PVMEMCTL_MPROTECT:
        ret = mprotect(addr, length, action->value);
        break;
    case PVMEMCTL_NAME:
        ret = run_name(addr, length, action->arg);
        break;
    case PVMEMCTL_CLEAR:
        ret = run_clear(addr, length);
        break;
    }
    return ret ? errno : 0;
}

/* What the kernel says to advice that process_madvise() does not take */
static bool is_unknown(int err)
{
    return err == EINVAL || err == EPERM || err == ENOSYS || err == EBADF;
}

int pvmemctl_action_run_vec(const PvmemctlAction *action,
                            const struct iovec *iov, unsigned nr,
                            uint64_t *done)
{
    /* For oneself it takes all advice since Linux 6.13, some before */
    static atomic_bool unknown[64];
    bool can = action->how == PVMEMCTL_MADVISE && action->value < 64;
    unsigned i = 0;

    *done = 0;
    while (i < nr) {
        uint64_t part = 0;
        bool doubt = false;
        int err;

        if (nr - i > 1 && can && !atomic_load(&unknown[action->value])) {
            ssize_t n = syscall(SYS_process_madvise, self_fd, iov + i, nr - i,
                                action->value, 0);

            doubt = n < 0 && is_unknown(errno);
            part = n < 0 ? 0 : n;
        }
        for (; i < nr && part >= iov[i].iov_len; i++) {
            part -= iov[i].iov_len;
            *done += iov[i].iov_len;
        }
        if (i == nr) {
            break;
        }
        /* It stopped at this piece and does not say why */
        err = pvmemctl_action_run(action, iov[i].iov_base, iov[i].iov_len);
        if (err) {
            return err;
        }
        *done += iov[i++].iov_len;
        if (doubt) {
            atomic_store(&unknown[action->value], true);
        }
    }
    return 0;
}
