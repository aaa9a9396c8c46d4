/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pvmemctl device with no VMM in it.
 *
 * A VMM passes the guest's accesses to the registers on to
 * pvmemctl_core_write() and pvmemctl_core_read(), and gives the core a way to
 * guest RAM (PvmemctlVmm).  The core does the rest.  A doorbell takes this way:
 *
 *   device.c    registers, handshake; copies the request from its buffer
 *   request.c   checks it, looks every address up, cuts it into chunks
 *   functions.c what a code means for a backing, and the system calls
 *   ledger.c    what the guest has set and the VMM must give back
 *
 * and back.  policy.c reads the operator's list of functions, guard.c is for
 * the VMM's fault handlers.
 *
 * The guest is hostile.  Nothing here allocates, logs or loops by an amount
 * that the guest sets; every address is looked up again at every doorbell.
 *
 * Doorbells run at the same time in as many threads as the VMM has vCPUs, and
 * those that discard, populate or cool memory take no lock.
 *
 * C11 with -D_GNU_SOURCE, for Linux 5.14 or later.
 */
#ifndef PVMEMCTL_CORE_H
#define PVMEMCTL_CORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/pvmemctl.h>

/* One connection for each CPU a guest may have; more is abuse */
#define PVMEMCTL_MAX_CONNECTIONS 4096

/*
 * How much memory one system call works on: what else wants the VMM's memory
 * map, or the vCPU, waits no longer than that takes.  Bytes.
 */
#define PVMEMCTL_CHUNK (UINT64_C(64) << 20)

/* What one doorbell may ask for in protocol 1.1; bytes, over all ranges */
#define PVMEMCTL_DOORBELL_MAX (UINT64_C(1) << 30)

/* Of functions that move or make data a doorbell does this much, then stops */
#define PVMEMCTL_HEAVY_MAX PVMEMCTL_CHUNK

/* How a piece of RAM is backed, and what its operator has decided about it */
enum {
    PVMEMCTL_RAM_SHARED     = 1 << 0,   /* mapped MAP_SHARED */
    PVMEMCTL_RAM_FILE       = 1 << 1,   /* of a file; else anonymous or memfd */
    PVMEMCTL_RAM_MERGEABLE  = 1 << 2,   /* the default is MADV_MERGEABLE */
    PVMEMCTL_RAM_NO_MERGE   = 1 << 3,   /* operator: not to be merged */
    PVMEMCTL_RAM_NO_DUMP    = 1 << 4,   /* default and operator: not in dumps */
    PVMEMCTL_RAM_LOCKED     = 1 << 5,   /* operator: locked */
    PVMEMCTL_RAM_PREALLOC   = 1 << 6,   /* operator: always backed */
};

/* A piece of guest RAM in the VMM's own address space */
typedef struct PvmemctlRam {
    void *addr;
    uint64_t length;            /* bytes */
    uint64_t page_size;         /* of the backing, bytes */
    unsigned flags;             /* PVMEMCTL_RAM_* */
    void *block;                /* the whole mapping that the piece is in */
    uint64_t block_length;      /* bytes */
    void *ref;                  /* the VMM's: what keeps the piece mapped */
} PvmemctlRam;

/* What a request does, for PvmemctlVmm.begin() */
enum {
    PVMEMCTL_DISCARDS   = 1 << 0,   /* takes pages away */
    PVMEMCTL_POPULATES  = 1 << 1,   /* makes pages */
};

/*
 * What the VMM does for the core.  @opaque is from pvmemctl_core_init().  All
 * may be called by several threads at once.
 */
typedef struct PvmemctlVmm {
    /*
     * Find guest RAM at guest-physical address @gpa.  Sets @ram to the longest
     * piece that starts there, is contiguous in the VMM and has at most
     * @length bytes, and keeps it mapped until put_ram().  Returns false where
     * there is no RAM; ROM and the memory of devices are not RAM.
     */
    bool (*get_ram)(void *opaque, uint64_t gpa, uint64_t length,
                    PvmemctlRam *ram);
    /* @changed: so many bytes from the start of the piece may have changed */
    void (*put_ram)(void *opaque, PvmemctlRam *ram, uint64_t changed);
    /* Call @fn for all RAM there is; a piece is valid until @fn returns */
    void (*each_ram)(void *opaque,
                     void (*fn)(void *arg, const PvmemctlRam *ram), void *arg);
    /*
     * Optional.  May memory be discarded or populated now (PVMEMCTL_DISCARDS
     * ...)?  0, or an errno; on 0 it stays so until end().
     */
    int (*begin)(void *opaque, unsigned effects);
    void (*end)(void *opaque, unsigned effects);
    /* Optional.  Is the calling thread wanted elsewhere, for a stop say? */
    bool (*interrupted)(void *opaque);
    /* Optional: a request was answered */
    void (*answered)(void *opaque, const struct memctl_vmm_call *call,
                     const struct memctl_vmm_ret *ret);
} PvmemctlVmm;

/*
 * The ledger: every attribute of memory that a guest has set and that is not
 * the VMM's default.  One per process, shared by all devices, because memory
 * and the limits on mappings are.
 */
typedef struct PvmemctlLedger PvmemctlLedger;

typedef struct PvmemctlAttribute {
    uintptr_t start, end;       /* in the VMM's address space */
    uint8_t code;               /* the function that set it */
    uint8_t undo;               /* the one that gives the default back */
    uint64_t arg;               /* of a name */
    bool huge;                  /* of hugetlb memory */
    bool proven;                /* the kernel may have set it, or a part */
    const void *owner;          /* the device that set it */
} PvmemctlAttribute;

/*
 * Borders that guests may put between mappings: two for each attribute, and on
 * hugetlb memory, of which the kernel never joins mappings again, one for each
 * place where there ever was one.  What guard hits need on top comes out of
 * a reserve, so that the sum is a bound.
 */
#define PVMEMCTL_MIN_RANGES 512
#define PVMEMCTL_MAX_RANGES 32768
#define PVMEMCTL_DEFAULT_RANGES 4096

/**
 * pvmemctl_ledger_new: an empty ledger; never freed while a core uses it
 *
 * @max_ranges: borders between mappings that guests may make, from
 *              PVMEMCTL_MIN_RANGES to PVMEMCTL_MAX_RANGES
 * @max_locked: bytes that guests may lock
 *
 * Returns: NULL without memory.
 */
PvmemctlLedger *pvmemctl_ledger_new(unsigned max_ranges, uint64_t max_locked);
void pvmemctl_ledger_free(PvmemctlLedger *ledger);

/**
 * pvmemctl_ledger_undo: give the VMM's defaults back, change no contents
 *
 * @owner: only what this one set; NULL: everything
 *
 * Returns: how many attributes could not be undone; they stay in the ledger.
 */
unsigned pvmemctl_ledger_undo(PvmemctlLedger *ledger, const void *owner);

/**
 * pvmemctl_ledger_forget: a mapping is gone, and all attributes with it
 */
void pvmemctl_ledger_forget(PvmemctlLedger *ledger, const void *addr,
                            uint64_t length);

/**
 * pvmemctl_ledger_undo_range: give back the defaults of a mapping that stays,
 * but is no RAM of the guest any more
 */
void pvmemctl_ledger_undo_range(PvmemctlLedger *ledger, const void *addr,
                                uint64_t length);

/**
 * pvmemctl_ledger_lift: take all protections off, keep them in the ledger
 *
 * For the time in which the VMM itself copies memory.  Until
 * pvmemctl_ledger_reapply() new protections are refused with EBUSY.  Nests.
 */
void pvmemctl_ledger_lift(PvmemctlLedger *ledger);
unsigned pvmemctl_ledger_reapply(PvmemctlLedger *ledger);

/**
 * pvmemctl_ledger_restore: set an attribute that was saved elsewhere
 *
 * @ram: where it is to be
 * @attribute: @code, @arg and @owner count
 *
 * Returns: 0, or the errno that says why it cannot be.
 */
int pvmemctl_ledger_restore(PvmemctlLedger *ledger, const PvmemctlRam *ram,
                            const PvmemctlAttribute *attribute);

/**
 * pvmemctl_ledger_each: call @fn for every attribute, in the order of kinds and
 * addresses, with the ledger locked
 */
void pvmemctl_ledger_each(PvmemctlLedger *ledger,
                          void (*fn)(void *arg, const PvmemctlAttribute *a),
                          void *arg);

typedef struct PvmemctlLedgerInfo {
    unsigned attributes;
    unsigned protections;           /* of them */
    unsigned ranges, max_ranges;    /* borders between mappings */
    uint64_t locked, max_locked;    /* bytes */
    bool lifted;
} PvmemctlLedgerInfo;

void pvmemctl_ledger_info(PvmemctlLedger *ledger, PvmemctlLedgerInfo *info);

/* guard.c: somebody touched what the guest protected */

/**
 * pvmemctl_guard_lift: take the protection off a page that was hit
 *
 * @addr: what was touched, in the VMM's address space
 *
 * For the handler of SIGSEGV with SEGV_ACCERR: async-signal-safe.  The access
 * can be tried again then.  Tell a thread to call pvmemctl_guard_collect().
 *
 * Returns: false if that is no memory that a guest may have protected.
 */
bool pvmemctl_guard_lift(void *addr);

/**
 * pvmemctl_guard_lift_all: take off all protections, because the address that
 * was hit is not known
 *
 * For a thread; otherwise like pvmemctl_guard_lift().
 *
 * Returns: false if nothing was protected.
 */
bool pvmemctl_guard_lift_all(PvmemctlLedger *ledger);

/**
 * pvmemctl_guard_fault: an access failed; was it for a protection?
 *
 * For a thread that is told by no signal: what it met may be gone already,
 * since another met it too, or the guest took it off.
 *
 * @addr: what was touched, NULL: not known, and all protections go
 * @seen: 0 at first; how many protections had gone when this thread asked last
 *
 * Returns: true if the access can be tried again; tell a thread to collect
 * then.  Without a protection there, and none gone since it asked last: false.
 */
bool pvmemctl_guard_fault(PvmemctlLedger *ledger, void *addr, unsigned *seen);

/**
 * pvmemctl_guard_collect: bring the ledger up to date with what was lifted
 *
 * @hit: called for each page since the last time, with the device that had
 *       protected it and the address touched; where there were too many, once
 *       for all of a mapping, with its first address
 *
 * Returns: how many hits there were.
 */
unsigned pvmemctl_guard_collect(PvmemctlLedger *ledger,
                                void (*hit)(void *arg, const void *owner,
                                            void *addr),
                                void *arg);

typedef enum PvmemctlState {
    PVMEMCTL_STATE_BROKEN,      /* until RESET */
    PVMEMCTL_STATE_REGISTERING, /* between RESET and READY */
    PVMEMCTL_STATE_READY,       /* doorbells work */
} PvmemctlState;

/* What the operator decides about one device */
typedef struct PvmemctlOptions {
    uint64_t allowed;           /* bit N: function code N may be used */
    unsigned minor;             /* of the protocol; 0 undoes nothing on RESET */
    bool hugetlb_release;       /* hugetlb pages may go back to the pool */
    uint64_t rate_limit;        /* PAGEOUT and POPULATE, bytes/s; or 0 */
    bool timing;                /* measure how long doorbells take */
    /* For tests: of ranges to be released or zeroed, each so manyth; 0: none */
    uint32_t refuse;            /* is refused */
    uint32_t lie;               /* is said to be done, and is not */
} PvmemctlOptions;

/* Counted since power-on */
typedef struct PvmemctlStats {
    _Atomic uint64_t calls;     /* requests, the ranges of a VECTOR apart */
    _Atomic uint64_t failed;    /* of them answered with an error */
    _Atomic uint64_t bytes;     /* that were done */
    /* With PvmemctlOptions.timing; nanoseconds */
    _Atomic uint64_t time;      /* from doorbell to answer, in all */
    _Atomic uint64_t longest;   /* of one doorbell */
    _Atomic uint64_t system;    /* of the time in system calls on memory */
} PvmemctlStats;

#define PVMEMCTL_NR_CODES (MEMCTL_VECTOR + 1)

typedef struct PvmemctlCore {
    const PvmemctlVmm *vmm;
    void *opaque;
    PvmemctlLedger *ledger;
    PvmemctlOptions options;

    /* Serialises commands; a doorbell never waits for it */
    pthread_mutex_t command_lock;
    _Atomic(PvmemctlState) state;
    _Atomic uint32_t answer;    /* the command register as the guest reads it */
    _Atomic uint64_t payload;   /* the payload register */
    _Atomic unsigned in_flight; /* doorbells that may have seen READY */
    /* Change only while the state is REGISTERING */
    uint32_t nr_connections;
    uint64_t buffers[PVMEMCTL_MAX_CONNECTIONS]; /* guest-physical addresses */

    /* Protects the two below */
    pthread_mutex_t rate_lock;
    int64_t rate_credit;        /* bytes; below zero after a large request */
    uint64_t rate_time;         /* when it was last filled up, ns */

    _Atomic uint32_t turn;      /* ranges that PvmemctlOptions.refuse counts */

    PvmemctlStats stats[PVMEMCTL_NR_CODES];
    _Atomic uint64_t ignored;   /* doorbells without an answer */
} PvmemctlCore;

/**
 * pvmemctl_core_init: a device as it is at power-on
 *
 * @core: to be initialised
 * @vmm: the VMM's functions
 * @opaque: handed to them
 * @ledger: the process's
 * @options: copied
 */
void pvmemctl_core_init(PvmemctlCore *core, const PvmemctlVmm *vmm,
                        void *opaque, PvmemctlLedger *ledger,
                        const PvmemctlOptions *options);
void pvmemctl_core_destroy(PvmemctlCore *core);

/**
 * pvmemctl_core_reset: as at power-on; undoes what the guest has set by this
 * device, and waits for doorbells that are being answered
 *
 * Not from within a doorbell.
 *
 * Returns: how many attributes could not be undone.
 */
unsigned pvmemctl_core_reset(PvmemctlCore *core);

/**
 * pvmemctl_core_restore: go on where another process stopped
 *
 * @core: fresh from pvmemctl_core_init()
 * @state, @answer, @payload, @nr_connections, @buffers: the other's
 *
 * Returns: false, and a broken device, if these make no sense.
 */
bool pvmemctl_core_restore(PvmemctlCore *core, uint32_t state, uint32_t answer,
                           uint64_t payload, uint32_t nr_connections,
                           const uint64_t *buffers);

/**
 * pvmemctl_core_write: the guest writes a register
 *
 * @offset: in BAR 0, bytes
 * @value: in host byte order
 * @size: width of the access, bytes
 *
 * Returns: false if the access was ignored: a register that does not exist, a
 * width that it does not have, a connection that is not known, a command while
 * another is under way.
 */
bool pvmemctl_core_write(PvmemctlCore *core, uint64_t offset, uint64_t value,
                         unsigned size);

/**
 * pvmemctl_core_read: the guest reads a register
 *
 * Returns: its value in host byte order, 0 where there is no register.
 */
uint64_t pvmemctl_core_read(PvmemctlCore *core, uint64_t offset,
                            unsigned size);

/* functions.c */

/**
 * pvmemctl_function_name: the name of a function code, NULL if there is none
 */
const char *pvmemctl_function_name(uint64_t code);

/* policy.c: what the operator allows */

/**
 * pvmemctl_policy_parse: read a list of functions
 *
 * @list: names separated by ':', in lower case; "default" and "all" stand for
 *        what they say.  NULL is "default".
 * @allowed: set to a bitmap of function codes.  INFO, QUERY and VECTOR, which
 *           do nothing by themselves, are always in it.
 * @bad: set to where the first unknown name starts
 *
 * Returns: false if a name is unknown.
 */
bool pvmemctl_policy_parse(const char *list, uint64_t *allowed,
                           const char **bad);

#endif
