/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of the core share and a VMM does not need.
 */
#ifndef PVMEMCTL_INTERNAL_H
#define PVMEMCTL_INTERNAL_H

#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "pvmemctl-core.h"

/* What older C libraries do not know */
#ifndef MADV_COLD
#define MADV_COLD 20
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/*
 * A VMM may be built so that all of the stack is cleared: not what is large,
 * and read only as far as it was written.
 */
#if defined(__has_attribute) && __has_attribute(uninitialized)
#define PVMEMCTL_UNINITIALIZED __attribute__((uninitialized))
#else
#define PVMEMCTL_UNINITIALIZED
#endif

#define PVMEMCTL_BIT(code) (UINT64_C(1) << (code))

/* The kinds of attributes: setting one replaces another of the same kind */
typedef enum PvmemctlKind {
    PVMEMCTL_KIND_NONE,         /* leaves no attribute */
    PVMEMCTL_KIND_PROTECT,
    PVMEMCTL_KIND_LOCK,
    PVMEMCTL_KIND_DUMP,
    PVMEMCTL_KIND_MERGE,
    PVMEMCTL_KIND_HUGE,
    PVMEMCTL_KIND_NAME,
    PVMEMCTL_NR_KINDS
} PvmemctlKind;

/* How it is done */
typedef enum PvmemctlHow {
    PVMEMCTL_MADVISE,
    PVMEMCTL_MLOCK,
    PVMEMCTL_MUNLOCK,
    PVMEMCTL_MPROTECT,
    PVMEMCTL_NAME,
    PVMEMCTL_CLEAR,             /* write zeroes */
} PvmemctlHow;

/* A system call to be made */
typedef struct PvmemctlAction {
    PvmemctlHow how;
    int value;                  /* advice or protection */
    uint64_t arg;
} PvmemctlAction;

enum {
    PVMEMCTL_HEAVY      = 1 << 0,   /* moves or makes data: less at once */
    PVMEMCTL_RATED      = 1 << 1,   /* counts for rate-limit */
    PVMEMCTL_CONTENTS   = 1 << 2,   /* changes contents */
    PVMEMCTL_RELEASES   = 1 << 3,   /* gives memory back to the host */
};

typedef struct PvmemctlFunction {
    const char *name;
    PvmemctlHow how;
    int value;
    uint8_t backings;           /* has an effect there: bitmap of classes */
    uint8_t minor;              /* of the protocol that brought it */
    uint8_t kind;               /* PvmemctlKind */
    uint8_t flags;
} PvmemctlFunction;

/* Is it hugetlb memory?  That is cut between its pages only, and for ever. */
static inline bool pvmemctl_is_huge(const PvmemctlRam *ram)
{
    return ram->page_size > (uint64_t)sysconf(_SC_PAGESIZE);
}

/* functions.c */

void pvmemctl_functions_init(void);

/* NULL for a code that is unknown, or has no range: INFO, QUERY, VECTOR */
const PvmemctlFunction *pvmemctl_function(uint64_t code);

/*
 * What to do for @code on @ram.  Returns 0, or the errno of a refusal, with
 * *@granule set where the alignment of [addr, addr + length) is to blame.
 */
int pvmemctl_function_plan(const PvmemctlOptions *options, uint64_t code,
                           const PvmemctlRam *ram, PvmemctlAction *action,
                           uint64_t *granule);

/* Could @code do something on such memory?  For QUERY. */
bool pvmemctl_function_works(const PvmemctlOptions *options, uint64_t code,
                             const PvmemctlRam *ram);

/* The function that gives the default back for @kind */
uint8_t pvmemctl_function_undo(PvmemctlKind kind, unsigned flags);

/* Does @code, which leaves an attribute, ask for what is the default anyway? */
bool pvmemctl_function_is_default(uint64_t code, uint64_t arg, unsigned flags);

/* Returns 0 or an errno */
int pvmemctl_action_run(const PvmemctlAction *action, void *addr,
                        uint64_t length);

/*
 * The same for several pieces, in one system call where that can be.  Returns 0
 * or the errno for the first piece that failed; *@done bytes were done.
 */
int pvmemctl_action_run_vec(const PvmemctlAction *action,
                            const struct iovec *iov, unsigned nr,
                            uint64_t *done);

/* request.c */

/* Nanoseconds of a clock that only goes forward */
uint64_t pvmemctl_now(void);

/* Answer a request, which is a copy that the guest cannot change */
struct memctl_vmm_ret pvmemctl_request(PvmemctlCore *core,
                                       const struct memctl_vmm_call *call);

bool pvmemctl_copy_from_guest(PvmemctlCore *core, uint64_t gpa, void *buf,
                              uint64_t size);
bool pvmemctl_copy_to_guest(PvmemctlCore *core, uint64_t gpa, const void *buf,
                            uint64_t size);

/* ledger.c */

/* Set an attribute of RAM: record it and make the system call */
int pvmemctl_ledger_apply(PvmemctlLedger *ledger, const void *owner,
                          uint64_t code, const PvmemctlAction *action,
                          const PvmemctlRam *ram, void *addr, uint64_t length);

/*
 * The protection of [start, end) is gone: say so.  Returns who had set it,
 * NULL if there was none.
 */
const void *pvmemctl_ledger_unprotect(PvmemctlLedger *ledger,
                                      uintptr_t start, uintptr_t end);

/*
 * Is there a protection on @addr, 0: anywhere?  Sets *@removals to how many
 * have been taken off by now.
 */
bool pvmemctl_ledger_protects(PvmemctlLedger *ledger, uintptr_t addr,
                              unsigned *removals);

/* guard.c */

/* A guest may protect memory of this mapping from now on; false: too many */
bool pvmemctl_guard_watch(const PvmemctlRam *ram);
void pvmemctl_guard_forget(const void *addr, uint64_t length);

/* How many pages guard hits may lift before the ledger has to know */
#define PVMEMCTL_GUARD_HITS 64

#endif
