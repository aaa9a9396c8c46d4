/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A hostile guest for the device core: the input is a program of what the
 * guest does to the registers and to its memory, of what the VMM does
 * meanwhile, and of what the kernel refuses.  See ops[] for the list,
 * gen_corpus.py for the encoding.
 *
 * Guest RAM is real memory of this process, in small regions with all sorts of
 * backings.  The core's system calls go by the linker's --wrap, so that what
 * they did is known page by page.  After each operation it is checked that
 *
 *   - each system call was on RAM that was held, allowed by the operator, and
 *     not against what it has decided about that RAM
 *   - the ledger is in order, within its limits, and has all that is not
 *     default
 *   - nothing is held any more, every answer is well formed
 *
 * and after each input, when all devices were reset, that the kernel has every
 * mapping in one piece as at the start, and that no page has changed but those
 * that the guest named.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <fcntl.h>

#include "internal.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

#define ARRAY_SIZE(x) (sizeof(x) / sizeof((x)[0]))
#define PAGE UINT64_C(4096)
#define NR_PAGES 8
#define BIG_PAGES ((UINT64_C(160) << 20) / PAGE)

const char *__asan_default_options(void);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* A violation: the message, then the fuzzer's own report */
#define require(condition, ...) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "pvmemctl fuzz: %s: ", #condition); \
            fprintf(stderr, __VA_ARGS__); \
            fputc('\n', stderr); \
            abort(); \
        } \
    } while (0)

/* With VERBOSE in the environment it is said what happens */
static bool verbose;

#define tell(...) \
    do { \
        if (verbose) { \
            fprintf(stderr, __VA_ARGS__); \
        } \
    } while (0)

/* Guest memory */

enum {
    LOW, LEFT, RIGHT, SHARED, FILE_PRIVATE, FILE_SHARED, HUGE_PRIVATE,
    HUGE_SHARED, LOCKED, MERGE, TOP, BIG, NR_REGIONS
};

typedef struct Region {
    uint64_t gpa;
    unsigned flags;             /* PVMEMCTL_RAM_* */
    uint64_t page_size;
    bool file;                  /* of a memfd */
    bool joined;                /* follows the region before without a canary */

    unsigned char *host;
    unsigned char *low, *high;  /* the mapping it is in, with canaries */
    uint64_t length;
    int fd;
    bool plugged;
    bool dirty[NR_PAGES];       /* may differ from the pattern */
    uint8_t set[NR_PAGES][PVMEMCTL_KIND_NAME + 1];  /* code last applied */
    uint8_t defaults[PVMEMCTL_KIND_NAME + 1];
} Region;

static Region regions[NR_REGIONS] = {
    [LOW] = { .gpa = 0 },
    /* Neighbours for guest and host, but two mappings */
    [LEFT] = { .gpa = 0x100000 },
    [RIGHT] = { .gpa = 0x100000 + NR_PAGES * PAGE, .joined = true },
    /* ROM is behind it */
    [SHARED] = { .gpa = 0x200000, .flags = PVMEMCTL_RAM_SHARED, .file = true },
    [FILE_PRIVATE] = { .gpa = 0x300000, .flags = PVMEMCTL_RAM_FILE,
        .file = true },
    [FILE_SHARED] = { .gpa = 0x300000 + NR_PAGES * PAGE, .file = true,
        .flags = PVMEMCTL_RAM_FILE | PVMEMCTL_RAM_SHARED },
    /* The core knows huge pages by their size: these need no pool */
    [HUGE_PRIVATE] = { .gpa = 0x400000, .page_size = 2 * PAGE },
    [HUGE_SHARED] = { .gpa = 0x400000 + NR_PAGES * PAGE, .file = true,
        .page_size = 2 * PAGE, .flags = PVMEMCTL_RAM_SHARED },
    /* What an operator may have decided */
    [LOCKED] = { .gpa = 0x500000, .flags = PVMEMCTL_RAM_LOCKED |
        PVMEMCTL_RAM_NO_DUMP | PVMEMCTL_RAM_NO_MERGE },
    [MERGE] = { .gpa = 0x500000 + NR_PAGES * PAGE,
        .flags = PVMEMCTL_RAM_MERGEABLE | PVMEMCTL_RAM_PREALLOC },
    /* A range that wraps would go on in LOW */
    [TOP] = { .gpa = -(NR_PAGES * PAGE) },
    /* Longer than two chunks, never filled */
    [BIG] = { .gpa = 0x40000000, .flags = PVMEMCTL_RAM_SHARED, .file = true },
};

#define ROM_GPA (0x200000 + NR_PAGES * PAGE)
static unsigned char rom[NR_PAGES * PAGE];

static unsigned char *arena;
static size_t arena_length;
static int mem_fd, maps_fd;
static bool big_touched;

static uint64_t pattern(const unsigned char *host)
{
    return ((uintptr_t)host - (uintptr_t)arena) * UINT64_C(0x9e3779b97f4a7c15) |
           1;
}

/* By words, and unknown to the fuzzer, which would learn from memcmp() */
static void fill_page(unsigned char *page)
{
    uint64_t *word = (uint64_t *)page, value = pattern(page);

    for (unsigned i = 0; i < PAGE / sizeof(*word); i++) {
        word[i] = value;
    }
}

static bool page_is(const unsigned char *page, uint64_t value)
{
    const uint64_t *word = (const uint64_t *)page;
    uint64_t differ = 0;

    for (unsigned i = 0; i < PAGE / sizeof(*word); i++) {
        differ |= word[i] ^ value;
    }
    return !differ;
}

static unsigned index_of(const Region *r)
{
    return r - regions;
}

/* As in QEMU huge pages are the default of anonymous memory */
static bool wants_huge(const Region *r)
{
    return r->page_size == PAGE && !(r->flags & PVMEMCTL_RAM_FILE);
}

static uint8_t default_code(const Region *r, unsigned kind)
{
    if (kind == PVMEMCTL_KIND_HUGE && !wants_huge(r)) {
        return 0;
    }
    if (kind == PVMEMCTL_KIND_NAME) {
        return 0;
    }
    return kind ? pvmemctl_function_undo(kind, r->flags) : 0;
}

static void set_defaults(Region *r, unsigned char *low, uint64_t length)
{
    if (wants_huge(r)) {
        madvise(low, length, MADV_HUGEPAGE);
    }
    if (r->flags & PVMEMCTL_RAM_MERGEABLE) {
        madvise(low, length, MADV_MERGEABLE);
    }
    if (r->flags & PVMEMCTL_RAM_NO_DUMP) {
        madvise(low, length, MADV_DONTDUMP);
    }
    if (r->flags & PVMEMCTL_RAM_LOCKED) {
        mlock2(low, length, 0);
    }
    for (unsigned k = 0; k <= PVMEMCTL_KIND_NAME; k++) {
        r->defaults[k] = default_code(r, k);
    }
    for (unsigned i = 0; i < NR_PAGES; i++) {
        memcpy(r->set[i], r->defaults, sizeof(r->defaults));
    }
}

static void map(Region *r, unsigned char *low, uint64_t length)
{
    int flags = MAP_FIXED | MAP_NORESERVE |
                (r->flags & PVMEMCTL_RAM_SHARED ? MAP_SHARED : MAP_PRIVATE) |
                (r->file ? 0 : MAP_ANONYMOUS);
    void *p = mmap(low, length, PROT_READ | PROT_WRITE, flags, r->fd,
                   r->file ? low - r->low : 0);

    require(p == low, "mmap: %m");
    set_defaults(r, low, length);
}

static void map_all(void)
{
    unsigned char *at;

    for (unsigned i = 0; i < NR_REGIONS; i++) {
        Region *r = &regions[i];

        r->length = (i == BIG ? BIG_PAGES : NR_PAGES) * PAGE;
        if (!r->page_size) {
            r->page_size = PAGE;
        }
        arena_length += r->length + 4 * PAGE;
    }
    arena = mmap(NULL, arena_length, PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    require(arena != MAP_FAILED, "mmap: %m");
    at = arena + PAGE;
    for (unsigned i = 0; i < NR_REGIONS; i++) {
        Region *r = &regions[i], *next = r + 1;
        uint64_t length = r->length;

        if (r->joined) {
            continue;
        }
        if (i + 1 < NR_REGIONS && next->joined) {
            length += next->length;
        }
        /* Huge pages are aligned */
        at += (uintptr_t)at & PAGE ? 0 : PAGE;
        r->low = at;
        r->host = at + PAGE;
        r->high = r->host + length + PAGE;
        r->fd = -1;
        if (r->file) {
            r->fd = memfd_create("fuzz", MFD_CLOEXEC);
            require(r->fd >= 0 && !ftruncate(r->fd, r->high - r->low), "%m");
        }
        map(r, r->low, r->high - r->low);
        fill_page(r->low);
        fill_page(r->high - PAGE);
        if (length != r->length) {
            next->low = r->low;
            next->high = r->high;
            next->host = r->host + r->length;
            next->fd = -1;
            set_defaults(next, next->host, next->length);
        }
        at = r->high + PAGE;
    }
    require(at <= arena + arena_length, "the arena is too small");
}

static Region *region_at(const void *addr, uint64_t length)
{
    uintptr_t start = (uintptr_t)addr;

    for (unsigned i = 0; i < NR_REGIONS; i++) {
        Region *r = &regions[i];

        if (start - (uintptr_t)r->host < r->length &&
            length <= r->length - (start - (uintptr_t)r->host)) {
            return r;
        }
    }
    return NULL;
}

static Region *find_ram(uint64_t gpa)
{
    for (unsigned i = 0; i < NR_REGIONS; i++) {
        if (regions[i].plugged && gpa - regions[i].gpa < regions[i].length) {
            return &regions[i];
        }
    }
    return NULL;
}

static void mark_dirty(Region *r, const void *addr, uint64_t length)
{
    uint64_t first = ((uintptr_t)addr - (uintptr_t)r->host) / PAGE;
    uint64_t last = ((uintptr_t)addr - (uintptr_t)r->host + length - 1) / PAGE;

    if (index_of(r) == BIG) {
        big_touched = true;
        return;
    }
    for (; first <= last; first++) {
        r->dirty[first] = true;
    }
}

/* Look at guest memory past all protections; false if that cannot be */
static bool peek(uint64_t gpa, void *buf, size_t size)
{
    char *to = buf;

    for (; size; gpa++, to++, size--) {
        Region *r = find_ram(gpa);
        size_t n;

        if (!r) {
            return false;
        }
        n = r->length - (gpa - r->gpa);
        n = n < size ? n : size;
        if (pread(mem_fd, to, n,
                  (off_t)(uintptr_t)(r->host + (gpa - r->gpa))) != (ssize_t)n) {
            return false;
        }
        gpa += n - 1;
        to += n - 1;
        size -= n - 1;
    }
    return true;
}

/* The guest stores; may be a guard hit */
static void guest_write(uint64_t gpa, const void *buf, size_t size)
{
    const unsigned char *from = buf;

    for (; size; gpa++, from++, size--) {
        Region *r = find_ram(gpa);

        if (r) {
            mark_dirty(r, r->host + (gpa - r->gpa), 1);
            *(volatile unsigned char *)(r->host + (gpa - r->gpa)) = *from;
        }
    }
}

/* The input */

static const uint8_t *in;
static size_t in_left;

static uint8_t get8(void)
{
    if (!in_left) {
        return 0;
    }
    in_left--;
    return *in++;
}

static uint64_t get64(void)
{
    uint64_t value = 0;

    for (int i = 0; i < 8; i++) {
        value |= (uint64_t)get8() << 8 * i;
    }
    return value;
}

static uint64_t get_addr(void)
{
    uint8_t where = get8() % (NR_REGIONS + 3), page = get8(), tweak = get8();
    uint64_t gpa;

    switch (where) {
    case NR_REGIONS:
        gpa = ROM_GPA + page % NR_PAGES * PAGE;
        break;
    case NR_REGIONS + 1:
        gpa = UINT64_C(0x7fffff000);    /* a hole */
        break;
    case NR_REGIONS + 2:
        return get64();
    case BIG:
        gpa = regions[BIG].gpa + page * (BIG_PAGES / 256 + 1) * PAGE;
        break;
    default:
        gpa = regions[where].gpa + page % (NR_PAGES + 1) * PAGE;
        break;
    }
    /* A buffer's place in a page, or a little off */
    return tweak < 128 ? gpa + tweak * 32 : gpa + (int8_t)tweak;
}

static uint64_t get_length(uint64_t addr)
{
    uint8_t b = get8() % 32;

    switch (b) {
    case 16:
        return 1;
    case 17:
        return PAGE - 1;
    case 18:
        return PAGE + 1;
    case 19:
        return PVMEMCTL_CHUNK;
    case 20:
        return PVMEMCTL_CHUNK + PAGE;
    case 21:
        return 2 * PVMEMCTL_CHUNK;
    case 22:
        return PVMEMCTL_DOORBELL_MAX;
    case 23:
        return PVMEMCTL_DOORBELL_MAX + PAGE;
    case 24:
        return -addr;
    case 25:
        return -addr - PAGE;
    case 26:
        return -addr + PAGE;
    case 27:
        return UINT64_MAX;
    case 28:
        return UINT64_C(1) << 63;
    case 29:
        return -PAGE;
    case 30:
        return BIG_PAGES * PAGE;
    case 31:
        return get64();
    default:
        return b * PAGE;
    }
}

static uint64_t get_code(void)
{
    static const uint64_t odd[] = {
        15, 31, 40, 63, 64, 255, UINT64_C(1) << 32 | MEMCTL_DONTNEED,
        UINT64_MAX, INT64_MIN,
    };
    uint8_t b = get8() % 32;

    if (b <= MEMCTL_UNMERGEABLE) {
        return b;
    }
    if (b <= MEMCTL_UNMERGEABLE + 8) {
        return MEMCTL_QUERY + (b - MEMCTL_UNMERGEABLE - 1);
    }
    return odd[b - MEMCTL_UNMERGEABLE - 9];
}

/* The VMM */

typedef struct Held {
    void *addr;
    uint64_t length;
    Region *region;
} Held;

typedef struct Event {
    unsigned after;             /* callbacks; 0: none */
    uint8_t what;
    uint64_t addr, value;
} Event;

enum {
    EVENT_UNPLUG, EVENT_REPLUG, EVENT_WRITE, EVENT_TOUCH, EVENT_CLOCK,
    EVENT_INTERRUPT, EVENT_BUSY, EVENT_LIFT, EVENT_REAPPLY, EVENT_COLLECT,
    EVENT_OTHER_RESET, EVENT_UNDO_RANGE, NR_EVENTS
};

typedef struct Failure {
    unsigned after;             /* system calls; 0: none */
    unsigned times;
    int err;
    bool half;                  /* the call does half of its work first */
} Failure;

static PvmemctlCore cores[2];
static int opaques[2];
static PvmemctlLedger *ledger;
static unsigned max_attributes, lifts;
static uint64_t max_locked;

static struct {
    PvmemctlCore *core;         /* that is at work; NULL: the harness is */
    bool doorbell;
    bool guard;                 /* in the fault handler */
    bool restoring;             /* by the VMM, which does as it likes */
    unsigned begun[2];          /* by effect: nested begin() */
    unsigned answers;
    const void *vain;           /* where the last call failed */
    unsigned nr_held;
    Held held[MEMCTL_VECTOR_MAX + 8];

    /* What the guest asked for, so far as is known */
    bool known;
    uint64_t buffer;
    uint64_t code;
    unsigned nr_asked;
    struct memctl_vmm_range asked[MEMCTL_VECTOR_MAX];
    struct memctl_vmm_call call;
    struct memctl_vmm_ret ret;
} now;

static struct {
    bool interrupted, busy;
    unsigned piece_max;         /* pages, 0: no limit */
    Event event;
    Failure failure;
    uint64_t clock;             /* ns */
    /* Calls have failed or guards were hit: the ledger may have too much */
    bool tainted;
    bool attributes;            /* have been set, or mappings been made */
} vmm;

static void fire(bool in_call);

static bool get_ram(void *opaque, uint64_t gpa, uint64_t length,
                    PvmemctlRam *ram)
{
    Region *r;
    uint64_t offset;

    require(now.core && opaque == &opaques[now.core - cores], "opaque");
    require(length, "a lookup of nothing");
    fire(false);
    r = find_ram(gpa);
    if (!r) {
        return false;
    }
    offset = gpa - r->gpa;
    *ram = (PvmemctlRam) {
        .addr = r->host + offset,
        .length = r->length - offset,
        .page_size = r->page_size,
        .flags = r->flags,
        .block = r->host,
        .block_length = r->length,
        .ref = r,
    };
    if (ram->length > length) {
        ram->length = length;
    }
    if (vmm.piece_max && index_of(r) != BIG) {
        uint64_t most = vmm.piece_max * PAGE, border = most - offset % most;

        ram->length = ram->length < border ? ram->length : border;
    }
    require(now.nr_held < ARRAY_SIZE(now.held), "too much is held");
    now.held[now.nr_held++] = (Held) { ram->addr, ram->length, r };
    return true;
}

static bool changes_contents(uint64_t code)
{
    return code == MEMCTL_DONTNEED || code == MEMCTL_REMOVE ||
           code == MEMCTL_FREE || code == MEMCTL_ZERO;
}

/* Did the guest ask for a change of [gpa, gpa + length)? */
static bool was_asked(uint64_t gpa, uint64_t length)
{
    if (!now.known) {
        return true;
    }
    if (gpa - now.buffer < sizeof(struct memctl_buf) &&
        length <= sizeof(struct memctl_buf) - (gpa - now.buffer)) {
        return true;
    }
    for (unsigned i = 0; i < now.nr_asked && changes_contents(now.code); i++) {
        const struct memctl_vmm_range *range = &now.asked[i];

        if (gpa - range->addr < range->length &&
            length <= range->length - (gpa - range->addr)) {
            return true;
        }
    }
    return false;
}

static void put_ram(void *opaque, PvmemctlRam *ram, uint64_t changed)
{
    Region *r = ram->ref;
    unsigned i = now.nr_held;

    require(now.core && opaque == &opaques[now.core - cores], "opaque");
    do {
        require(i, "put_ram() of what is not held");
        i--;
    } while (now.held[i].addr != ram->addr ||
             now.held[i].length != ram->length || now.held[i].region != r);
    now.held[i] = now.held[--now.nr_held];
    require(changed <= ram->length, "more has changed than was held");
    if (changed) {
        require(was_asked(r->gpa + ((unsigned char *)ram->addr - r->host),
                          changed),
                "changed what the guest did not name: code %" PRIu64,
                now.code);
        mark_dirty(r, ram->addr, changed);
    }
    fire(false);
}

static void each_ram(void *opaque,
                     void (*fn)(void *arg, const PvmemctlRam *ram), void *arg)
{
    for (unsigned i = 0; i < NR_REGIONS; i++) {
        Region *r = &regions[i];
        PvmemctlRam ram = {
            .addr = r->host, .length = r->length, .page_size = r->page_size,
            .flags = r->flags, .block = r->host, .block_length = r->length,
        };

        if (r->plugged) {
            fn(arg, &ram);
        }
    }
}

static unsigned effect_index(unsigned effects)
{
    require(effects == PVMEMCTL_DISCARDS || effects == PVMEMCTL_POPULATES,
            "effects %u", effects);
    return effects == PVMEMCTL_POPULATES;
}

static int begin(void *opaque, unsigned effects)
{
    unsigned i = effect_index(effects);

    fire(false);
    if (vmm.busy) {
        return EBUSY;
    }
    now.begun[i]++;
    return 0;
}

static void end(void *opaque, unsigned effects)
{
    unsigned i = effect_index(effects);

    require(now.begun[i], "end() without begin()");
    now.begun[i]--;
    fire(false);
}

static bool interrupted(void *opaque)
{
    fire(false);
    return vmm.interrupted;
}

static void check_answer(const struct memctl_vmm_call *call,
                         const struct memctl_vmm_ret *ret)
{
    const PvmemctlOptions *options = &now.core->options;
    uint64_t code = call->func_code;
    bool vector = code == MEMCTL_VECTOR && options->minor;
    unsigned err = ret->ret_errno;

    require(err <= 4095, "errno %u", err);
    require(!ret->ret_code || ret->ret_code == (uint32_t)code, "ret_code");
    require(err || !ret->ret_code, "a success with ret_code");
    if (code > 63 || !(options->allowed & PVMEMCTL_BIT(code))) {
        require(err == EPERM || err == EOPNOTSUPP, "answer to no function");
    }
    if (!err && code == MEMCTL_INFO) {
        require(ret->ret_value == PAGE && ret->arg0 == 1 &&
                ret->arg1 == options->minor, "INFO");
        return;
    }
    if (!err && code == MEMCTL_QUERY) {
        require(!(ret->ret_value & ~options->allowed), "QUERY allows more");
        require(ret->arg0 == MEMCTL_VECTOR_MAX, "QUERY");
        require(ret->arg1 <= 2 * PAGE, "QUERY: granule");
        return;
    }
    require(!ret->arg0, "arg0 0x%" PRIx64, (uint64_t)ret->arg0);
    if (!options->minor) {
        require(!ret->ret_value && !ret->arg1, "more than 1.0 answers");
        return;
    }
    if (vector) {
        require(ret->ret_value <= call->length, "more entries than there are");
        require(err || ret->ret_value == call->length, "success of less");
        require(err || !ret->arg1, "success and more");
        if (now.known && ret->ret_value < now.nr_asked) {
            require(ret->arg1 <= now.asked[ret->ret_value].length,
                    "more of the next entry than it has");
        }
        return;
    }
    require(!ret->arg1, "arg1");
    if (!err) {
        require(!ret->ret_value, "a value of success");
    } else if (!ret->ret_code) {
        require(ret->ret_value <= call->length, "more done than asked for");
    } else if (err == EINVAL) {
        require(!(ret->ret_value & (ret->ret_value - 1)), "granule");
    }
}

static void answered(void *opaque, const struct memctl_vmm_call *call,
                     const struct memctl_vmm_ret *ret)
{
    struct memctl_buf wire;

    require(now.doorbell, "an answer to nothing");
    if (now.known) {
        require(!memcmp(call, &now.call, sizeof(*call)), "another request");
    }
    check_answer(call, ret);
    /* Unless the guest has written there meanwhile */
    if (now.known && peek(now.buffer, &wire, sizeof(wire))) {
        require(le32toh(wire.ret.ret_errno) == ret->ret_errno &&
                le32toh(wire.ret.ret_code) == ret->ret_code &&
                le64toh(wire.ret.ret_value) == ret->ret_value &&
                le64toh(wire.ret.arg0) == ret->arg0 &&
                le64toh(wire.ret.arg1) == ret->arg1, "not what is on the wire");
    }
    tell("request %" PRIu64 " 0x%" PRIx64 " 0x%" PRIx64 " 0x%" PRIx64
         ": errno %u code %u 0x%" PRIx64 " 0x%" PRIx64 "\n",
         (uint64_t)call->func_code, (uint64_t)call->addr,
         (uint64_t)call->length, (uint64_t)call->arg, ret->ret_errno,
         ret->ret_code, (uint64_t)ret->ret_value, (uint64_t)ret->arg1);
    now.ret = *ret;
    now.answers++;
    fire(false);
}

/* Guard hits */

static struct sigaction old_segv;

static void on_segv(int sig, siginfo_t *info, void *context)
{
    bool guard = now.guard, ok = false;

    if (info->si_code == SEGV_ACCERR) {
        now.guard = true;
        ok = pvmemctl_guard_lift(info->si_addr);
        now.guard = guard;
        vmm.tainted = true;
    }
    if (!ok) {
        if (old_segv.sa_flags & SA_SIGINFO) {
            old_segv.sa_sigaction(sig, info, context);
        }
        signal(SIGSEGV, SIG_DFL);
    }
}

static void catch_segv(void)
{
    struct sigaction action = {
        .sa_sigaction = on_segv,
        .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK,
    };

    sigaction(SIGSEGV, &action, &old_segv);
}

static void touch(uint64_t gpa)
{
    Region *r = find_ram(gpa);

    if (r) {
        volatile unsigned char *p = r->host + (gpa - r->gpa);

        mark_dirty(r, (void *)p, 1);
        *p = *p;
    }
}

static unsigned nr_hits;

static void on_hit(void *arg, const void *owner, void *addr)
{
    require(!owner || owner == &cores[0] || owner == &cores[1], "owner");
    require(region_at(addr, 1), "a hit outside of RAM");
    nr_hits++;
}

static void collect(void)
{
    unsigned n;

    nr_hits = 0;
    n = pvmemctl_guard_collect(ledger, on_hit, NULL);
    require(n == nr_hits, "%u hits of %u", n, nr_hits);
}

/* System calls of the core */

static bool is_release(int advice)
{
    return advice == MADV_DONTNEED || advice == MADV_REMOVE ||
           advice == MADV_FREE;
}

static void check_policy(const Region *r, unsigned code)
{
    require(now.core->options.allowed & PVMEMCTL_BIT(code),
            "function %u is not allowed", code);
    switch (code) {
    case MEMCTL_MUNLOCK:
        require(!(r->flags & PVMEMCTL_RAM_LOCKED), "unlocks");
        break;
    case MEMCTL_MERGEABLE:
        require(!(r->flags & PVMEMCTL_RAM_NO_MERGE), "merges");
        break;
    case MEMCTL_DODUMP:
        require(!(r->flags & PVMEMCTL_RAM_NO_DUMP), "dumps");
        break;
    }
}

/* No buffer of the device at work may be protected by it */
static void check_protects(const Region *r, const unsigned char *addr,
                           uint64_t length)
{
    uint64_t gpa = r->gpa + (addr - r->host);

    for (unsigned i = 0; i < now.core->nr_connections; i++) {
        uint64_t buffer = now.core->buffers[i];

        require(buffer - gpa >= length && buffer + 31 - gpa >= length,
                "buffer %u is in what is protected", i);
    }
}

/*
 * May the core do this?  @code is what the call is for a guest, 0 if it is none
 * that leaves an attribute.
 */
static Region *check_call(const void *addr, uint64_t length, unsigned code,
                          bool releases, bool populates)
{
    Region *r = region_at(addr, length);
    bool held = false;

    require(r, "a call outside of one region");
    require(length && !(((uintptr_t)addr | length) % PAGE), "misaligned");
    if (!now.doorbell || now.guard) {
        require(!releases && !populates, "undoing changes contents");
        require(!now.guard || code == MEMCTL_MPROTECT_RW, "a hit protects");
        return r;
    }
    for (unsigned i = 0; i < now.nr_held; i++) {
        const Held *h = &now.held[i];

        held |= (uintptr_t)addr - (uintptr_t)h->addr < h->length &&
                length <= h->length - ((uintptr_t)addr - (uintptr_t)h->addr);
    }
    require(held, "a call on memory that is not held");
    require(length <= PVMEMCTL_CHUNK, "a call for more than a chunk");
    if (releases) {
        require(!(r->flags & (PVMEMCTL_RAM_LOCKED | PVMEMCTL_RAM_PREALLOC)),
                "released what the operator keeps");
        require(r->page_size == PAGE || now.core->options.hugetlb_release,
                "released hugetlb");
        require(now.begun[0] || !now.core->vmm->begin, "discards undeclared");
    }
    if (populates) {
        require(now.begun[1] || !now.core->vmm->begin, "populates undeclared");
    }
    /* What was set in vain may be undone, whatever the guest is allowed */
    if (code && now.known &&
        !(addr == now.vain && code == pvmemctl_function_undo(
              pvmemctl_function(code)->kind, r->flags))) {
        /* MPROTECT_W is done as RW */
        check_policy(r, code == MEMCTL_MPROTECT_RW ? now.code : code);
    }
    if (!now.restoring &&
        (code == MEMCTL_MPROTECT_NONE || code == MEMCTL_MPROTECT_R)) {
        check_protects(r, addr, length);
    }
    return r;
}

static bool fails(uint64_t *length)
{
    Failure *f = &vmm.failure;

    if (!f->after || --f->after) {
        return false;
    }
    if (f->times && --f->times) {
        f->after = 1;
    }
    *length = f->half ? *length / 2 & -PAGE : 0;
    return true;
}

static void note(Region *r, const unsigned char *addr, uint64_t length,
                 unsigned kind, unsigned code)
{
    vmm.attributes = true;
    if (index_of(r) == BIG) {
        return;
    }
    for (uint64_t i = (addr - r->host) / PAGE; length; i++, length -= PAGE) {
        r->set[i][kind] = code;
    }
}

/*
 * Make a call that was checked, or have it fail.  What would fill BIG is left
 * out, it takes too long.
 */
static long make_call(Region *r, long nr, void *addr, uint64_t length,
                      long value, unsigned kind, unsigned code)
{
    uint64_t part = length;
    bool failing;
    int ret = 0;

    fire(true);
    /* Of a guard hit, to lift one page: there is another way */
    failing = (!now.guard || length == r->page_size) && fails(&part);
    if (part && !(index_of(r) == BIG &&
                  (nr == SYS_mlock2 ||
                   (nr == SYS_madvise && value == MADV_POPULATE_WRITE)))) {
        ret = syscall(nr, addr, part, value);
    }
    if (!ret && kind) {
        note(r, addr, part, kind, code);
    }
    if (failing) {
        errno = vmm.failure.err;
        ret = -1;
    }
    if (ret) {
        vmm.tainted = true;
        now.vain = addr;
    }
    tell("  call %ld: region %u page %zu, 0x%" PRIx64 ", %ld: %d\n", nr,
         index_of(r), (size_t)((unsigned char *)addr - r->host) / PAGE, length,
         value,
         ret ? errno : 0);
    return ret;
}

/* The linker sends calls here; those of the harness and of libraries go on */

int __wrap_madvise(void *addr, size_t length, int advice);
int __wrap_madvise(void *addr, size_t length, int advice)
{
    static const struct {
        int advice;
        uint8_t kind, code;
    } leaves[] = {
        { MADV_DONTDUMP, PVMEMCTL_KIND_DUMP, MEMCTL_DONTDUMP },
        { MADV_DODUMP, PVMEMCTL_KIND_DUMP, MEMCTL_DODUMP },
        { MADV_MERGEABLE, PVMEMCTL_KIND_MERGE, MEMCTL_MERGEABLE },
        { MADV_UNMERGEABLE, PVMEMCTL_KIND_MERGE, MEMCTL_UNMERGEABLE },
        { MADV_HUGEPAGE, PVMEMCTL_KIND_HUGE, MEMCTL_HUGEPAGE },
        { MADV_NOHUGEPAGE, PVMEMCTL_KIND_HUGE, MEMCTL_NOHUGEPAGE },
    };
    unsigned kind = 0, code = 0;
    Region *r;

    if (!now.core) {
        return syscall(SYS_madvise, addr, length, advice);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++) {
        if (leaves[i].advice == advice) {
            kind = leaves[i].kind;
            code = leaves[i].code;
        }
    }
    r = check_call(addr, length, code, is_release(advice),
                   advice == MADV_POPULATE_WRITE);
    return make_call(r, SYS_madvise, addr, length, advice, kind, code);
}

int __wrap_mlock2(const void *addr, size_t length, unsigned flags);
int __wrap_mlock2(const void *addr, size_t length, unsigned flags)
{
    Region *r;

    if (!now.core) {
        return syscall(SYS_mlock2, addr, length, flags);
    }
    r = check_call(addr, length, MEMCTL_MLOCK, false, now.doorbell);
    return make_call(r, SYS_mlock2, (void *)addr, length, flags,
                     PVMEMCTL_KIND_LOCK, MEMCTL_MLOCK);
}

int __wrap_munlock(const void *addr, size_t length);
int __wrap_munlock(const void *addr, size_t length)
{
    Region *r;

    if (!now.core) {
        return syscall(SYS_munlock, addr, length);
    }
    r = check_call(addr, length, MEMCTL_MUNLOCK, false, false);
    return make_call(r, SYS_munlock, (void *)addr, length, 0,
                     PVMEMCTL_KIND_LOCK, MEMCTL_MUNLOCK);
}

int __wrap_mprotect(void *addr, size_t length, int prot);
int __wrap_mprotect(void *addr, size_t length, int prot)
{
    unsigned code = prot == PROT_NONE ? MEMCTL_MPROTECT_NONE :
                    prot == PROT_READ ? MEMCTL_MPROTECT_R : MEMCTL_MPROTECT_RW;
    Region *r;

    if (!now.core && !now.guard) {
        return syscall(SYS_mprotect, addr, length, prot);
    }
    require(code != MEMCTL_MPROTECT_RW || prot == (PROT_READ | PROT_WRITE),
            "protection %d", prot);
    r = check_call(addr, length, code, false, false);
    return make_call(r, SYS_mprotect, addr, length, prot,
                     PVMEMCTL_KIND_PROTECT, code);
}

static bool has_names;

int __real_prctl(int option, ...);
int __wrap_prctl(int option, unsigned long which, void *addr,
                 unsigned long length, const char *name);
int __wrap_prctl(int option, unsigned long which, void *addr,
                 unsigned long length, const char *name)
{
    unsigned code = name ? MEMCTL_SET_VMA_ANON_NAME : 0;
    uint64_t part = length;
    bool failing;
    Region *r;
    int ret = 0;

    if (!now.core) {
        return __real_prctl(option, which, addr, length, name);
    }
    require(option == PR_SET_VMA && which == PR_SET_VMA_ANON_NAME, "prctl");
    require(!name || !strncmp(name, "pvmemctl-", 9), "the name %s", name);
    r = check_call(addr, length, code, false, false);
    fire(true);
    /* A kernel without names says so, and fails in no other way */
    failing = has_names && fails(&part);
    if (part) {
        ret = __real_prctl(option, which, addr, part, name);
    }
    if (!ret) {
        note(r, addr, part, PVMEMCTL_KIND_NAME, code);
    }
    if (failing) {
        errno = vmm.failure.err;
        ret = -1;
    }
    if (ret) {
        vmm.tainted = true;
    }
    tell("  prctl: region %u page %zu, 0x%" PRIx64 ", %s: %d\n", index_of(r),
         (size_t)((unsigned char *)addr - r->host) / PAGE, length, name,
         ret ? errno : 0);
    return ret;
}

long __real_syscall(long nr, ...);
long __wrap_syscall(long nr, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
    const struct iovec *iov = (const struct iovec *)b;
    uint64_t all = c * PAGE;

    if (!now.core || nr != SYS_process_madvise) {
        return __real_syscall(nr, a, b, c, d, e, f);
    }
    require(now.doorbell && c > 1 && c <= MEMCTL_VECTOR_MAX, "vector");
    for (long i = 0; i < c; i++) {
        Region *r = check_call(iov[i].iov_base, iov[i].iov_len, 0,
                               is_release(d), d == MADV_POPULATE_WRITE);

        if (index_of(r) == BIG && d == MADV_POPULATE_WRITE) {
            errno = ENOMEM;
            return -1;
        }
    }
    fire(true);
    /* Progress that ends early, or an errno that leaves no doubt */
    if (fails(&all)) {
        if (!all) {
            errno = ENOMEM;
            return -1;
        }
        c = all / PAGE;
    }
    return __real_syscall(nr, a, b, c, d, e, f);
}

ssize_t __real_read(int fd, void *buf, size_t size);
ssize_t __wrap_read(int fd, void *buf, size_t size);
ssize_t __wrap_read(int fd, void *buf, size_t size)
{
    uint64_t part = size;
    Region *r;

    if (!now.core) {
        return __real_read(fd, buf, size);
    }
    /* Behind a short read it goes on anywhere */
    r = region_at(buf, size);
    require(r, "zeroes outside of one region");
    require(now.doorbell && !now.guard, "zeroes that nobody asked for");
    require(now.begun[1] || !now.core->vmm->begin, "zeroes undeclared");
    fire(true);
    if (fails(&part)) {
        if (!part) {
            errno = EFAULT;
            return -1;
        }
    }
    if (index_of(r) == BIG) {
        return part;
    }
    return __real_syscall(SYS_read, fd, buf, part);
}

int __real_clock_gettime(clockid_t id, struct timespec *ts);
int __wrap_clock_gettime(clockid_t id, struct timespec *ts);
int __wrap_clock_gettime(clockid_t id, struct timespec *ts)
{
    if (!now.core) {
        return __real_clock_gettime(id, ts);
    }
    vmm.clock += 1000;
    ts->tv_sec = vmm.clock / 1000000000;
    ts->tv_nsec = vmm.clock % 1000000000;
    return 0;
}

/* What happens at the same time: between two callbacks, or during a call */

static void enter(PvmemctlCore *core)
{
    memset(&now, 0, offsetof(typeof(now), held));
    now.known = false;
    now.nr_asked = 0;
    now.core = core;
}

static void leave(void)
{
    require(!now.nr_held, "%u pieces are still held", now.nr_held);
    require(!now.begun[0] && !now.begun[1], "begin() without end()");
    now.core = NULL;
    now.doorbell = false;
}

static void undo_region(Region *r)
{
    pvmemctl_ledger_undo_range(ledger, r->host, r->length);
}

static void fire(bool in_call)
{
    Event *event = &vmm.event;
    PvmemctlCore *core = now.core;
    bool doorbell = now.doorbell;
    Region *r = &regions[event->value % NR_REGIONS];

    if (!event->after || now.guard) {
        return;
    }
    if (event->after > 1) {
        event->after--;
        return;
    }
    /* A call is made with the ledger's lock */
    if (in_call && event->what != EVENT_TOUCH) {
        return;
    }
    event->after = 0;
    now.doorbell = false;
    tell("  event %u: 0x%" PRIx64 "\n", event->what, event->addr);
    switch (event->what) {
    case EVENT_UNPLUG:
        r->plugged = false;
        now.known = false;
        break;
    case EVENT_REPLUG:
        r->plugged = true;
        now.known = false;
        break;
    case EVENT_WRITE:
        now.known = false;
        guest_write(event->addr, &event->value, sizeof(event->value));
        break;
    case EVENT_TOUCH:
        touch(event->addr);
        break;
    case EVENT_CLOCK:
        vmm.clock += event->value << 20;
        break;
    case EVENT_INTERRUPT:
        vmm.interrupted = !vmm.interrupted;
        break;
    case EVENT_BUSY:
        vmm.busy = !vmm.busy;
        break;
    case EVENT_LIFT:
        lifts++;
        pvmemctl_ledger_lift(ledger);
        break;
    case EVENT_REAPPLY:
        if (lifts) {
            lifts--;
            pvmemctl_ledger_reapply(ledger);
        }
        break;
    case EVENT_COLLECT:
        collect();
        break;
    case EVENT_OTHER_RESET:
        now.core = &cores[core == &cores[0]];
        pvmemctl_core_write(now.core, MEMCTL_REG_COMMAND, MEMCTL_CMD_RESET, 4);
        break;
    case EVENT_UNDO_RANGE:
        undo_region(r);
        break;
    }
    now.core = core;
    now.doorbell = doorbell;
}

/* Checks */

typedef struct Seen {
    unsigned nr;
    unsigned kind;
    uintptr_t end;
    uint64_t locked;
    uint8_t covers[NR_REGIONS][NR_PAGES][PVMEMCTL_KIND_NAME + 1];
} Seen;

static Seen seen;

static void see_attribute(void *arg, const PvmemctlAttribute *a)
{
    const PvmemctlFunction *f = pvmemctl_function(a->code);
    Region *r;

    require(f && f->kind, "an attribute of code %u", a->code);
    require(a->start < a->end && !((a->start | a->end) % PAGE), "borders");
    if (f->kind == seen.kind) {
        require(a->start >= seen.end, "attributes overlap or are not sorted");
    } else {
        require(f->kind > seen.kind, "kinds are not sorted");
    }
    r = region_at((void *)a->start, a->end - a->start);
    require(r, "an attribute that is not in one mapping");
    require(a->owner == &cores[0] || a->owner == &cores[1], "owner");
    require(a->undo == pvmemctl_function_undo(f->kind, r->flags), "undo");
    seen.nr++;
    seen.kind = f->kind;
    seen.end = a->end;
    if (a->code == MEMCTL_MLOCK) {
        seen.locked += a->end - a->start;
    }
    if (index_of(r) != BIG) {
        for (uintptr_t at = a->start; at < a->end; at += PAGE) {
            seen.covers[index_of(r)][(at - (uintptr_t)r->host) / PAGE]
                       [f->kind] = a->code;
        }
    }
}

static void check_ledger(void)
{
    PvmemctlLedgerInfo info;

    memset(&seen, 0, sizeof(seen));
    pvmemctl_ledger_each(ledger, see_attribute, NULL);
    pvmemctl_ledger_info(ledger, &info);
    require(seen.nr == info.attributes && info.attributes <= max_attributes,
            "%u attributes", info.attributes);
    require(info.ranges <= info.max_ranges, "ranges");
    require(seen.locked == info.locked && info.locked <= max_locked, "locked");
    require(info.lifted == !!lifts, "lifted");

    for (unsigned i = 0; i < NR_REGIONS; i++) {
        Region *r = &regions[i];

        for (unsigned p = 0; i != BIG && p < NR_PAGES; p++) {
            for (unsigned k = 1; k <= PVMEMCTL_KIND_NAME; k++) {
                unsigned set = r->set[p][k], has = seen.covers[i][p][k];

                require(has || set == r->defaults[k],
                        "region %u page %u: %u is set, and not in the ledger",
                        i, p, set);
                require(!has || has == set || vmm.tainted || lifts ||
                        (k == PVMEMCTL_KIND_MERGE &&
                         r->flags & PVMEMCTL_RAM_SHARED),
                        "region %u page %u: %u is set, %u is in the ledger",
                        i, p, set, has);
            }
        }
    }
}

/* Does the kernel have every mapping in one piece, to be read and written? */
static void check_maps(void)
{
    static char buf[1 << 18];
    size_t size = 0;
    ssize_t n;
    unsigned left = (1 << NR_REGIONS) - 1;
    char *line = buf;

    while ((n = pread(maps_fd, buf + size, sizeof(buf) - 1 - size, size)) > 0) {
        size += n;
    }
    buf[size] = '\0';
    while (*line && left) {
        uintptr_t start = strtoul(line, &line, 16);
        uintptr_t stop = strtoul(line + 1, &line, 16);

        for (unsigned i = 0; i < NR_REGIONS; i++) {
            const Region *r = &regions[i];

            if (start <= (uintptr_t)r->low && stop >= (uintptr_t)r->high &&
                line[1] == 'r' && line[2] == 'w') {
                left &= ~(1u << i);
            }
        }
        line = strchr(line, '\n');
        if (!line++) {
            break;
        }
    }
    if (left) {
        fputs(buf, stderr);
    }
    require(!left, "mappings 0x%x are not as they were", left);
}

static void check_contents(void)
{
    for (unsigned i = 0; i < NR_REGIONS; i++) {
        Region *r = &regions[i];

        require(page_is(r->low, pattern(r->low)), "in front of region %u", i);
        require(page_is(r->high - PAGE, pattern(r->high - PAGE)),
                "behind region %u", i);
        for (unsigned p = 0; i != BIG && p < NR_PAGES; p++) {
            unsigned char *page = r->host + p * PAGE;

            require(r->dirty[p] || page_is(page, pattern(page)),
                    "region %u page %u has changed", i, p);
        }
    }
    for (unsigned p = 0; p < NR_PAGES; p++) {
        require(page_is(rom + p * PAGE, 0x524f4d), "ROM has changed");
    }
}

/* After a success of ZERO: so it reads */
static void check_zeroes(uint64_t gpa, uint64_t length)
{
    static unsigned char page[PAGE];

    for (; length; gpa += PAGE, length -= PAGE) {
        Region *r = find_ram(gpa);

        if (!r || index_of(r) == BIG) {
            break;
        }
        if (now.buffer + 31 - gpa >= PAGE + 31 && peek(gpa, page, PAGE)) {
            require(page_is(page, 0), "ZERO left something at 0x%" PRIx64, gpa);
        }
    }
}

/* What the guest does */

static PvmemctlCore *core;      /* the device in use */

/* What does the request in @buffer ask for? */
static void understand(uint64_t buffer)
{
    struct memctl_buf wire;
    bool vector;

    now.buffer = buffer;
    if (!peek(buffer, &wire, sizeof(wire))) {
        return;
    }
    now.call = (struct memctl_vmm_call) {
        le64toh(wire.call.func_code), le64toh(wire.call.addr),
        le64toh(wire.call.length), le64toh(wire.call.arg),
    };
    vector = now.call.func_code == MEMCTL_VECTOR;
    now.code = vector ? now.call.arg : now.call.func_code;
    now.known = true;
    if (!vector) {
        now.asked[0].addr = now.call.addr;
        now.asked[0].length = now.call.length;
        now.nr_asked = 1;
    } else if (now.call.length && now.call.length <= MEMCTL_VECTOR_MAX &&
               peek(now.call.addr, now.asked,
                    now.call.length * sizeof(now.asked[0]))) {
        now.nr_asked = now.call.length;
    }
}

static bool is_command(uint32_t value)
{
    return value == MEMCTL_CMD_RESET || value == MEMCTL_CMD_REGISTER ||
           value == MEMCTL_CMD_READY || value == MEMCTL_CMD_DISCONNECT ||
           value == MEMCTL_ANSWER_ACK || value == MEMCTL_ANSWER_ERROR;
}

static void write_register(uint64_t offset, uint64_t value, unsigned size)
{
    uint32_t index = (uint32_t)value - MEMCTL_CONNECTION_BASE;
    bool done;

    enter(core);
    now.doorbell = offset == MEMCTL_REG_COMMAND && size == 4 &&
                   !is_command(value);
    if (now.doorbell && index < core->nr_connections &&
        core->state == PVMEMCTL_STATE_READY) {
        understand(core->buffers[index]);
    }
    done = pvmemctl_core_write(core, offset, value, size);
    require(!now.doorbell || done == now.answers, "%u answers", now.answers);
    require(!done || !now.doorbell || index < core->nr_connections, "who?");
    if (done && now.doorbell && now.known && !now.ret.ret_errno &&
        now.code == MEMCTL_ZERO) {
        for (unsigned i = 0; i < now.nr_asked; i++) {
            check_zeroes(now.asked[i].addr, now.asked[i].length);
        }
    }
    leave();
    require(!core->in_flight, "in flight");
}

static uint32_t command(uint32_t cmd)
{
    uint32_t answer;

    write_register(MEMCTL_REG_COMMAND, cmd, 4);
    answer = pvmemctl_core_read(core, MEMCTL_REG_COMMAND, 4);
    require(answer == MEMCTL_ANSWER_ACK || answer == MEMCTL_ANSWER_ERROR,
            "command answers 0x%x", answer);
    return answer;
}

static void ring(uint32_t connection)
{
    write_register(MEMCTL_REG_COMMAND, MEMCTL_CONNECTION_BASE + connection, 4);
}

static uint32_t register_buffer(uint64_t buffer)
{
    write_register(MEMCTL_REG_PAYLOAD, buffer, 8);
    return command(MEMCTL_CMD_REGISTER);
}

static void ask(uint8_t connection, uint64_t code, uint64_t addr,
                uint64_t length, uint64_t arg)
{
    struct memctl_buf wire = {
        .call = { htole64(code), htole64(addr), htole64(length), htole64(arg) },
    };

    if (core->nr_connections) {
        connection %= core->nr_connections;
        guest_write(core->buffers[connection], &wire, sizeof(wire));
    }
    ring(connection);
}

static void op_write(void)
{
    uint8_t how = get8();
    static const uint8_t sizes[] = { 4, 8, 1, 2 };

    write_register(how & 15, get64(), sizes[how >> 4 & 3]);
}

static void op_read(void)
{
    uint8_t how = get8();
    uint64_t offset = how & 64 ? get64() : how & 31;

    pvmemctl_core_read(core, offset, how >> 7 ? 16 : 1 << (how >> 5 & 3));
}

static void op_command(void)
{
    static const uint32_t commands[] = {
        MEMCTL_CMD_RESET, MEMCTL_CMD_REGISTER, MEMCTL_CMD_READY,
        MEMCTL_CMD_DISCONNECT, MEMCTL_ANSWER_ACK, MEMCTL_ANSWER_ERROR, 0,
    };

    command(commands[get8() % ARRAY_SIZE(commands)]);
}

static void op_register(void)
{
    register_buffer(get_addr());
}

/* The whole handshake, with buffers where a driver would have them, or not */
static void op_connect(void)
{
    uint8_t how = get8();
    uint64_t base = how & 128 ? get_addr() : PAGE - 64;

    command(MEMCTL_CMD_RESET);
    for (unsigned i = 0; i <= (how & 7); i++) {
        register_buffer(base + i * 32);
    }
    command(MEMCTL_CMD_READY);
}

static void op_ask(void)
{
    uint8_t connection = get8();
    uint64_t code = get_code(), addr = get_addr(), length = get_length(addr);
    uint8_t arg = get8();

    if (code == MEMCTL_QUERY) {
        ask(connection, code, addr, UINT64_MAX, length);
    } else {
        ask(connection, code, addr, length, arg < 255 ? arg : get64());
    }
}

static void op_vector(void)
{
    uint8_t connection = get8();
    uint64_t code = get_code(), table = get_addr();
    uint8_t nr = get8();
    unsigned entries = nr & 15;

    for (unsigned i = 0; i < entries; i++) {
        struct memctl_vmm_range range;

        range.addr = htole64(get_addr());
        range.length = htole64(get_length(le64toh(range.addr)));
        guest_write(table + i * sizeof(range), &range, sizeof(range));
    }
    /* More than were filled, and more than there may be */
    ask(connection, MEMCTL_VECTOR, table,
        nr & 64 ? 257 : nr & 32 ? 256 : nr & 128 ? get64() : entries, code);
}

/* Every other page, say, of a region and on */
static void op_stride(void)
{
    uint8_t connection = get8();
    uint64_t code = get_code(), table = get_addr(), addr = get_addr();
    uint8_t how = get8();
    unsigned nr = 1 + get8() % 64;

    for (unsigned i = 0; i < nr; i++) {
        struct memctl_vmm_range range = {
            htole64(addr + i * (how & 7) * PAGE),
            htole64((1 + (how >> 3 & 3)) * PAGE),
        };

        guest_write(table + i * sizeof(range), &range, sizeof(range));
    }
    ask(connection, MEMCTL_VECTOR, table, nr, code);
}

static void op_guest_write(void)
{
    uint64_t addr = get_addr(), value = get64();

    guest_write(addr, &value, sizeof(value));
}

static void op_ring(void)
{
    uint8_t connection = get8();

    ring(connection < 255 ? connection : get64());
}

static void op_other(void)
{
    core = &cores[core == &cores[0]];
}

/* What the VMM does */

static void op_event(void)
{
    vmm.event.after = 1 + get8() % 64;
    vmm.event.what = get8() % NR_EVENTS;
    vmm.event.addr = get_addr();
    vmm.event.value = get8();
}

static void op_fail(void)
{
    static const int errs[] = {
        ENOMEM, EAGAIN, EINVAL, EBUSY, EPERM, EFAULT, EBADF, EOPNOTSUPP
    };
    uint8_t how = get8();

    vmm.failure.after = 1 + (how & 15);
    vmm.failure.half = how & 16;
    vmm.failure.times = 1 + (how >> 5);
    vmm.failure.err = errs[get8() % ARRAY_SIZE(errs)];
}

static void op_plug(void)
{
    uint8_t b = get8();
    Region *r = &regions[(b & 127) % NR_REGIONS];

    r->plugged = b & 128;
    if (!r->plugged) {
        enter(core);
        undo_region(r);
        leave();
    }
}

/* The mapping goes and there is another in its place */
static void op_forget(void)
{
    Region *r = &regions[get8() % NR_REGIONS];

    if (index_of(r) == BIG) {
        return;
    }
    pvmemctl_ledger_forget(ledger, r->host, r->length);
    map(r, r->host, r->length);
    vmm.attributes = true;
    for (unsigned p = 0; p < NR_PAGES; p++) {
        fill_page(r->host + p * PAGE);
        r->dirty[p] = false;
    }
}

static void op_reset(void)
{
    enter(core);
    pvmemctl_core_reset(core);
    leave();
    require(core->state == PVMEMCTL_STATE_BROKEN, "state");
}

static void op_lift(void)
{
    uint8_t b = get8();

    enter(core);
    if (b & 1 && lifts) {
        lifts--;
        pvmemctl_ledger_reapply(ledger);
    } else if (lifts < 100) {
        lifts++;
        pvmemctl_ledger_lift(ledger);
        for (unsigned i = 0; i < NR_REGIONS && i != BIG; i++) {
            for (unsigned p = 0; p < NR_PAGES && !vmm.tainted; p++) {
                require(regions[i].set[p][PVMEMCTL_KIND_PROTECT] ==
                        MEMCTL_MPROTECT_RW, "lifted, but not all");
            }
        }
    }
    leave();
}

static void op_guard(void)
{
    uint8_t b = get8();
    uint64_t addr = get_addr();

    enter(core);
    switch (b % 4) {
    case 0:
        touch(addr);
        break;
    case 1:
        collect();
        break;
    case 2:
        pvmemctl_guard_lift_all(ledger);
        collect();
        break;
    case 3:
        /* In no RAM */
        require(!pvmemctl_guard_lift(b & 4 ? rom : regions[b % NR_REGIONS].low),
                "lifts what is no RAM");
        break;
    }
    leave();
}

/* Migration brings attributes, and the state of a device */
static void op_restore(void)
{
    uint64_t code = get_code(), addr = get_addr(), length = get_length(addr);
    PvmemctlAttribute a = { .code = code, .arg = get8(), .owner = core };
    Region *r = find_ram(addr);
    PvmemctlRam ram;

    /* As get_ram() gives it, of what a stream that was checked may hold */
    if (!r || !length || (addr | length) % PAGE || index_of(r) == BIG) {
        return;
    }
    enter(core);
    now.doorbell = true;
    now.restoring = true;
    if (get_ram(&opaques[core - cores], addr, length, &ram)) {
        now.begun[1] = 1;
        pvmemctl_ledger_restore(ledger, &ram, &a);
        now.begun[1] = 0;
        put_ram(&opaques[core - cores], &ram, 0);
    }
    leave();
}

static void op_restore_core(void)
{
    uint64_t buffers[8];
    uint32_t nr = get8(), state = get8() % 5;
    PvmemctlOptions options = core->options;
    const PvmemctlVmm *functions = core->vmm;

    for (unsigned i = 0; i < ARRAY_SIZE(buffers); i++) {
        buffers[i] = PAGE - 64 + i * 32;
    }
    if (nr & 8) {
        buffers[0] = get_addr();
    }
    nr = nr == 255 ? UINT32_MAX : nr & 7;
    enter(core);
    pvmemctl_core_reset(core);
    pvmemctl_core_destroy(core);
    pvmemctl_core_init(core, functions, &opaques[core - cores], ledger,
                       &options);
    pvmemctl_core_restore(core, state, state & 4 ? 0 : MEMCTL_ANSWER_ACK, 0, nr,
                          buffers);
    leave();
}

static void op_undo(void)
{
    uint8_t b = get8();

    enter(core);
    if (b & 128) {
        pvmemctl_ledger_undo(ledger, NULL);
    } else {
        Region *r = &regions[b % NR_REGIONS];

        undo_region(r);
    }
    leave();
}

static void op_clock(void)
{
    vmm.clock += (uint64_t)get8() << 24;
}

static void op_interrupt(void)
{
    uint8_t b = get8();

    vmm.interrupted = b & 1;
    vmm.busy = b & 2;
}

static void op_policy(void)
{
    char list[33];
    const char *bad;
    uint64_t allowed;
    unsigned n = get8() % sizeof(list);

    for (unsigned i = 0; i < n; i++) {
        list[i] = get8();
    }
    list[n] = '\0';
    if (!pvmemctl_policy_parse(list, &allowed, &bad)) {
        require(bad >= list && bad <= list + n, "bad word");
    }
    require(allowed & 1, "INFO is always allowed");
}

static void (*const ops[])(void) = {
    op_ask, op_vector, op_stride, op_connect, op_command, op_register, op_write,
    op_read, op_guest_write, op_ring, op_other, op_event, op_fail, op_plug,
    op_forget, op_reset, op_lift, op_guard, op_restore, op_restore_core,
    op_undo, op_clock, op_interrupt, op_policy,
};

/* One input */

static PvmemctlVmm functions;

static void start(void)
{
    static const unsigned sizes[] = { 64, 3, 12, PVMEMCTL_MIN_RANGES / 2 - 64 };
    uint8_t how = get8(), deny = get8(), rate = get8(), lock = get8();
    PvmemctlOptions options = {
        .allowed = UINT64_MAX,
        .minor = !(how & 1),
        .hugetlb_release = !(how & 2),
        .rate_limit = (uint64_t)rate << 14,
    };
    const char *bad;

    pvmemctl_policy_parse(deny & 128 ? "default" : "all", &options.allowed,
                          &bad);
    options.allowed &= ~PVMEMCTL_BIT(deny & 63) | PVMEMCTL_BIT(MEMCTL_INFO) |
                       PVMEMCTL_BIT(MEMCTL_QUERY) | PVMEMCTL_BIT(MEMCTL_VECTOR);
    memset(&vmm, 0, sizeof(vmm));
    vmm.piece_max = get8() % 8;
    vmm.clock = 5000000000;
    for (unsigned i = 0; i < NR_REGIONS; i++) {
        regions[i].plugged = true;
    }
    functions = (PvmemctlVmm) {
        .get_ram = get_ram, .put_ram = put_ram, .each_ram = each_ram,
        .begin = how & 4 ? NULL : begin, .end = how & 4 ? NULL : end,
        .interrupted = how & 8 ? NULL : interrupted, .answered = answered,
    };
    /* Fewer than a VMM may ask for, so that few requests fill it */
    max_attributes = sizes[how >> 4 & 3];
    max_locked = lock ? lock * PAGE : UINT64_C(1) << 40;
    ledger = pvmemctl_ledger_new(2 * (max_attributes + PVMEMCTL_GUARD_HITS),
                                 max_locked);
    require(ledger, "no memory");
    lifts = 0;
    pvmemctl_core_init(&cores[0], &functions, &opaques[0], ledger, &options);
    if (how & 64) {
        options.minor = !options.minor;
    }
    pvmemctl_core_init(&cores[1], &functions, &opaques[1], ledger, &options);
    core = &cores[0];
}

static void finish(bool lifted)
{
    vmm.event.after = 0;
    vmm.failure.after = 0;
    enter(core);
    for (; lifts && !lifted; lifts--) {
        pvmemctl_ledger_reapply(ledger);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(cores); i++) {
        unsigned failed = pvmemctl_core_reset(&cores[i]);

        require(!failed, "reset leaves %u attributes", failed);
        pvmemctl_core_destroy(&cores[i]);
    }
    for (; lifts; lifts--) {
        pvmemctl_ledger_reapply(ledger);
    }
    collect();
    leave();
    check_ledger();
    require(!seen.nr, "%u attributes after reset", seen.nr);
    /* The most expensive of all */
    if (vmm.attributes) {
        check_maps();
    }
    check_contents();

    for (unsigned i = 0; i < NR_REGIONS; i++) {
        Region *r = &regions[i];

        pvmemctl_ledger_forget(ledger, r->host, r->length);
        for (unsigned p = 0; i != BIG && p < NR_PAGES; p++) {
            if (r->dirty[p]) {
                fill_page(r->host + p * PAGE);
                r->dirty[p] = false;
            }
        }
    }
    if (big_touched) {
        madvise(regions[BIG].host, regions[BIG].length, MADV_REMOVE);
        big_touched = false;
    }
    pvmemctl_ledger_free(ledger);
}

/* Each input frees a ledger: keep few of them */
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=8";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool lifted = size && data[0] & 128;

    if (!old_segv.sa_flags) {
        catch_segv();
    }
    in = data;
    in_left = size;
    start();
    while (in_left) {
        unsigned op = get8() % ARRAY_SIZE(ops);

        tell("op %u\n", op);
        ops[op]();
        check_ledger();
    }
    finish(lifted);
    return 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    require(sysconf(_SC_PAGESIZE) == PAGE, "the page size");
    verbose = getenv("VERBOSE");
    has_names = !__real_prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, NULL, 0, NULL);
    mem_fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    maps_fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    require(mem_fd >= 0 && maps_fd >= 0, "/proc: %m");
    for (unsigned i = 0; i < sizeof(rom) / 8; i++) {
        ((uint64_t *)rom)[i] = 0x524f4d;
    }
    map_all();
    for (unsigned i = 0; i < NR_REGIONS; i++) {
        for (unsigned p = 0; i != BIG && p < NR_PAGES; p++) {
            fill_page(regions[i].host + p * PAGE);
        }
    }
    check_maps();
    return 0;
}
