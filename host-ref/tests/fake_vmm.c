/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The fake VMM and the guest's side.
 *
 * Everything here may run in several threads.  What a thread holds is its own
 * affair, so no lock of ours hides a race of the core's from a sanitizer.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fake_vmm.h"
#include "kernel_view.h"

FakeVmm fake;
PvmemctlCore *core;
PvmemctlLedger *ledger;
uint64_t page_size;
_Thread_local struct memctl_vmm_call last_call;
_Thread_local struct memctl_vmm_ret last_ret;

const PvmemctlOptions all_options = {
    .allowed = UINT64_MAX,
    .minor = 1,
    .hugetlb_release = true,
};

/* What this thread is at */
static _Thread_local PvmemctlRam held[MEMCTL_VECTOR_MAX + 2];
static _Thread_local unsigned nr_held;
static _Thread_local bool ringing;

/* An assertion that may fail in any thread */
#define require(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort(); \
        } \
    } while (0)

/* The VMM's functions */

static Region *find_ram(uint64_t addr)
{
    for (int i = 0; i < NR_REGIONS; i++) {
        Region *r = &fake.regions[i];

        if (r->is_ram && addr - r->gpa < r->size) {
            return r;
        }
    }
    return NULL;
}

static void fill_ram(PvmemctlRam *ram, Region *r, uint64_t offset,
                     uint64_t length)
{
    *ram = (PvmemctlRam) {
        .addr = r->host + offset,
        .length = r->size - offset < length ? r->size - offset : length,
        .page_size = r->granule,
        .flags = r->flags,
        .block = r->host,
        .block_length = r->size,
        .ref = r,
    };
}

static bool fake_get_ram(void *opaque, uint64_t addr, uint64_t length,
                         PvmemctlRam *ram)
{
    Region *r;

    require(opaque == &fake);
    require(length != 0);
    if (fake.on_get_ram) {
        fake.on_get_ram(addr);
    }
    if (fake.unplug_after && !--fake.unplug_after) {
        fake.regions[RIGHT].is_ram = false;
    }
    r = find_ram(addr);
    if (!r) {
        return false;
    }
    fill_ram(ram, r, addr - r->gpa, length);
    require(nr_held < ARRAY_SIZE(held));
    held[nr_held++] = *ram;
    return true;
}

static void fake_put_ram(void *opaque, PvmemctlRam *ram, uint64_t changed)
{
    unsigned i;

    require(opaque == &fake);
    require(changed <= ram->length);
    for (i = 0; i < nr_held && memcmp(&held[i], ram, sizeof(*ram)); i++) {
    }
    require(i < nr_held);
    held[i] = held[--nr_held];
    if (ram->ref != &fake.regions[LOW]) {
        fake.changed += changed;
    }
}

static void fake_each_ram(void *opaque,
                          void (*fn)(void *arg, const PvmemctlRam *ram),
                          void *arg)
{
    require(opaque == &fake);
    for (int i = 0; i < NR_REGIONS; i++) {
        Region *r = &fake.regions[i];
        PvmemctlRam ram;

        if (r->is_ram) {
            fill_ram(&ram, r, 0, UINT64_MAX);
            fn(arg, &ram);
        }
    }
}

static int fake_begin(void *opaque, unsigned effects)
{
    require(opaque == &fake);
    require(effects == PVMEMCTL_DISCARDS || effects == PVMEMCTL_POPULATES);
    require(nr_held > 0);
    fake.begun[effects]++;
    if (!fake.begin_errno[effects]) {
        fake.open++;
    }
    return fake.begin_errno[effects];
}

static void fake_end(void *opaque, unsigned effects)
{
    require(opaque == &fake);
    require(effects == PVMEMCTL_DISCARDS || effects == PVMEMCTL_POPULATES);
    fake.open--;
}

static bool fake_interrupted(void *opaque)
{
    require(opaque == &fake);
    return fake.interrupt_at && ++fake.interrupt_looks >= fake.interrupt_at;
}

static void fake_answered(void *opaque, const struct memctl_vmm_call *call,
                          const struct memctl_vmm_ret *ret)
{
    require(opaque == &fake);
    fake.answered++;
    last_call = *call;
    last_ret = *ret;
}

const PvmemctlVmm fake_vmm = {
    .get_ram = fake_get_ram,
    .put_ram = fake_put_ram,
    .each_ram = fake_each_ram,
    .begin = fake_begin,
    .end = fake_end,
    .interrupted = fake_interrupted,
    .answered = fake_answered,
};

/*
 * The linker sends system calls here.  Each that is made by a doorbell must be
 * on memory that the core holds, others on a region.  They do not go by the C
 * library: under the address sanitizer its munlock() does nothing, and what the
 * guest does with its memory is no race of ours.
 */
long __real_syscall(long number, ...);

static void check_memory(const char *addr, uint64_t length)
{
    for (unsigned i = 0; i < nr_held; i++) {
        const char *start = held[i].addr;

        if (addr >= start && addr + length <= start + held[i].length) {
            return;
        }
    }
    require(!ringing);
    for (int i = 0; i < NR_REGIONS; i++) {
        const char *start = (char *)fake.regions[i].host;

        if (start && addr >= start &&
            addr + length <= start + fake.regions[i].size) {
            return;
        }
    }
    require(!"memory that is no RAM of the guest");
}

/* May the call go on?  If not, errno is set. */
static bool check_call(SysCall call, const void *addr, uint64_t length,
                       int value)
{
    int err;

    fake.calls[call]++;
    err = fake.on_call ? fake.on_call(call, (char *)addr, length, value) : 0;
    if (err) {
        errno = err;
        return false;
    }
    return true;
}

int __wrap_madvise(void *addr, size_t length, int advice);
int __wrap_madvise(void *addr, size_t length, int advice)
{
    check_memory(addr, length);
    return check_call(CALL_MADVISE, addr, length, advice)
           ? __real_syscall(SYS_madvise, addr, length, advice) : -1;
}

int __wrap_mlock2(const void *addr, size_t length, unsigned flags);
int __wrap_mlock2(const void *addr, size_t length, unsigned flags)
{
    check_memory(addr, length);
    require(flags == 0);
    return check_call(CALL_MLOCK, addr, length, 0)
           ? __real_syscall(SYS_mlock2, addr, length, flags) : -1;
}

int __wrap_munlock(const void *addr, size_t length);
int __wrap_munlock(const void *addr, size_t length)
{
    check_memory(addr, length);
    return check_call(CALL_MUNLOCK, addr, length, 0)
           ? __real_syscall(SYS_munlock, addr, length) : -1;
}

int __wrap_mprotect(void *addr, size_t length, int prot);
int __wrap_mprotect(void *addr, size_t length, int prot)
{
    check_memory(addr, length);
    return check_call(CALL_MPROTECT, addr, length, prot)
           ? __real_syscall(SYS_mprotect, addr, length, prot) : -1;
}

int __wrap_prctl(int option, ...);
int __wrap_prctl(int option, ...)
{
    va_list ap;
    unsigned long what;
    void *addr;
    uint64_t length;
    char *name;

    va_start(ap, option);
    what = va_arg(ap, unsigned long);
    addr = va_arg(ap, void *);
    length = va_arg(ap, uint64_t);
    name = va_arg(ap, char *);
    va_end(ap);
    check_memory(addr, length);
    return check_call(CALL_NAME, addr, length, 0)
           ? __real_syscall(SYS_prctl, option, what, addr, length, name) : -1;
}

ssize_t __wrap_read(int fd, void *buf, size_t length);
ssize_t __wrap_read(int fd, void *buf, size_t length)
{
    if (ringing) {
        check_memory(buf, length);
        if (!check_call(CALL_READ, buf, length, 0)) {
            return -1;
        }
    }
    return __real_syscall(SYS_read, fd, buf, length);
}

long __wrap_syscall(long number, ...);
long __wrap_syscall(long number, ...)
{
    long a[6];
    va_list ap;

    va_start(ap, number);
    for (unsigned i = 0; i < ARRAY_SIZE(a); i++) {
        a[i] = va_arg(ap, long);
    }
    va_end(ap);
    if (number == SYS_process_madvise) {
        const struct iovec *iov = (const struct iovec *)a[1];

        for (long i = 0; i < a[2]; i++) {
            check_memory(iov[i].iov_base, iov[i].iov_len);
        }
        require(a[2] > 1 && a[4] == 0);
        if (!check_call(CALL_PROCESS_MADVISE, iov[0].iov_base, a[2], a[3])) {
            return -1;
        }
    }
    return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

bool lift_in_handler(void *addr)
{
    bool was_ringing = ringing, ok;

    ringing = false;
    ok = pvmemctl_guard_lift(addr);
    ringing = was_ringing;
    return ok;
}

unsigned calls_made(void)
{
    unsigned sum = 0;

    for (int i = 0; i < NR_CALLS; i++) {
        sum += fake.calls[i];
    }
    return sum;
}

/* Guest memory */

/* Between two pages without access: no mapping merges with ours */
static void map_region(Region *r)
{
    int flags = r->flags & PVMEMCTL_RAM_SHARED ? MAP_SHARED : MAP_PRIVATE;
    uintptr_t start;

    r->room_size = r->size + 3 * r->granule;
    r->room = mmap(NULL, r->room_size, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    require(r->room != MAP_FAILED);
    start = ((uintptr_t)r->room + 2 * r->granule - 1) & ~(r->granule - 1);
    if (r->fd < 0) {
        flags |= MAP_ANONYMOUS | MAP_NORESERVE;
        flags |= r->granule > page_size ? MAP_HUGETLB : 0;
    }
    r->host = mmap((void *)start, r->size, PROT_READ | PROT_WRITE,
                   flags | MAP_FIXED, r->fd, 0);
    require(r->host != MAP_FAILED);
}

static void unmap_region(Region *r)
{
    munmap(r->room, r->room_size);
    if (r->fd >= 0) {
        close(r->fd);
    }
}

static int disk_file(unsigned char fill)
{
    char name[] = "pvmemctl-test-XXXXXX";
    int fd = mkstemp(name);
    char *page = malloc(page_size);

    require(fd >= 0);
    require(!unlink(name));
    memset(page, fill, page_size);
    for (unsigned i = 0; i < REGION_PAGES; i++) {
        require(write(fd, page, page_size) == (ssize_t)page_size);
    }
    free(page);
    return fd;
}

#define HUGE_PAGE (2 * MIB)

/* Enough for two regions */
static bool has_huge_pages(void)
{
    const uint64_t need = 2 * REGION_PAGES * HUGE_PAGE;
    void *p = mmap(NULL, need, PROT_READ | PROT_WRITE, MAP_PRIVATE |
                   MAP_ANONYMOUS | MAP_HUGETLB | 21 << 26 /* MAP_HUGE_2MB */,
                   -1, 0);

    if (p == MAP_FAILED) {
        return false;
    }
    munmap(p, need);
    return true;
}

static int huge_memfd(void)
{
    return memfd_create("huge", MFD_HUGETLB | 21U << 26 /* MFD_HUGE_2MB */);
}

PvmemctlCore *make_core(const PvmemctlOptions *options)
{
    /* From the heap, so that the address sanitizer sees its end */
    PvmemctlCore *c = malloc(sizeof(*c));

    memset(c, 0xa5, sizeof(*c));
    pvmemctl_core_init(c, &fake_vmm, &fake, ledger, options);
    return c;
}

void drop_core(PvmemctlCore *c)
{
    pvmemctl_core_reset(c);
    pvmemctl_core_destroy(c);
    free(c);
}

void new_core(const PvmemctlOptions *options)
{
    drop_core(core);
    core = make_core(options);
}

void new_ledger(unsigned max_ranges, uint64_t max_locked)
{
    drop_core(core);
    pvmemctl_ledger_free(ledger);
    ledger = pvmemctl_ledger_new(max_ranges, max_locked);
    core = make_core(&all_options);
}

static int setup(const PvmemctlOptions *options, bool huge)
{
    page_size = sysconf(_SC_PAGESIZE);
    fake = (FakeVmm) {
        .regions = {
            [LOW]    = { .gpa = 0, .fd = -1 },
            [LEFT]   = { .gpa = 0x10000000, .fd = -1 },
            [RIGHT]  = { .gpa = 0x10000000 + REGION_SIZE, .fd = -1 },
            [SHARED] = { .gpa = 0x40000000, .fd = memfd_create("shared", 0),
                         .flags = PVMEMCTL_RAM_SHARED },
            [ROM]    = { .gpa = 0x40000000 + REGION_SIZE, .fd = -1 },
            [DISK]   = { .gpa = 0x80000000, .fd = disk_file(FILE_PATTERN),
                         .flags = PVMEMCTL_RAM_SHARED | PVMEMCTL_RAM_FILE },
            [COPY]   = { .gpa = 0x80000000 + REGION_SIZE,
                         .fd = disk_file(FILE_PATTERN),
                         .flags = PVMEMCTL_RAM_FILE },
            [BIG]    = { .gpa = 0x100000000, .fd = -1, .size = BIG_SIZE },
            [TOP]    = { .gpa = -REGION_SIZE, .fd = -1 },
            [HUGE]   = { .gpa = 0x200000000, .fd = -1, .granule = HUGE_PAGE },
            [HUGE_SHARED] = { .gpa = 0x200000000 + REGION_PAGES * HUGE_PAGE,
                              .fd = huge ? huge_memfd() : -1,
                              .granule = HUGE_PAGE,
                              .flags = PVMEMCTL_RAM_SHARED },
        },
    };
    for (int i = 0; i < NR_REGIONS; i++) {
        Region *r = &fake.regions[i];

        r->granule = r->granule ? r->granule : page_size;
        r->size = r->size ? r->size : REGION_PAGES * r->granule;
        if (r->granule > page_size && !huge) {
            continue;
        }
        if (r->fd >= 0) {
            require(!ftruncate(r->fd, r->size));
        }
        map_region(r);
        /* As a VMM does with all its RAM */
        __real_syscall(SYS_madvise, r->host, r->size, MADV_HUGEPAGE);
        if (i != BIG) {
            memset(r->host, pattern(i), r->size);
        }
        r->is_ram = i != ROM;
    }
    ledger = pvmemctl_ledger_new(MAX_RANGES, MAX_LOCKED);
    core = make_core(options);
    return 0;
}

int fake_setup(void **state)
{
    return setup(&all_options, false);
}

int fake_setup_1_0(void **state)
{
    PvmemctlOptions options = all_options;

    options.minor = 0;
    return setup(&options, false);
}

/* cmocka can skip a test, but no setup: such a test has no huge regions */
int fake_setup_huge(void **state)
{
    return setup(&all_options, has_huge_pages());
}

bool has_huge_regions(void)
{
    return fake.regions[HUGE].host;
}

static void ignore_hit(void *arg, const void *owner, void *addr)
{
}

int fake_teardown(void **state)
{
    bool clean;

    fake.on_call = NULL;
    fake.on_get_ram = NULL;
    pvmemctl_guard_collect(ledger, ignore_hit, NULL);
    clean = !pvmemctl_core_reset(core) && !pvmemctl_ledger_undo(ledger, NULL) &&
            all_default() && !fake.open && !nr_held;
    pvmemctl_core_destroy(core);
    free(core);
    for (int i = 0; i < NR_REGIONS; i++) {
        Region *r = &fake.regions[i];

        if (r->host) {
            pvmemctl_ledger_forget(ledger, r->host, r->size);
            unmap_region(r);
        }
    }
    pvmemctl_ledger_free(ledger);
    if (!clean) {
        fprintf(stderr, "the test leaves something behind\n");
    }
    return !clean;
}

uint64_t gpa(int region, unsigned page)
{
    return fake.regions[region].gpa + page * fake.regions[region].granule;
}

unsigned char *host(int region, unsigned page)
{
    return fake.regions[region].host + page * fake.regions[region].granule;
}

PvmemctlRam ram_of(int region, unsigned page, unsigned nr)
{
    Region *r = &fake.regions[region];
    PvmemctlRam ram;

    fill_ram(&ram, r, page * r->granule, nr * r->granule);
    return ram;
}

/* The guest's side */

uint32_t command(uint32_t cmd)
{
    assert_true(pvmemctl_core_write(core, MEMCTL_REG_COMMAND, cmd, 4));
    return pvmemctl_core_read(core, MEMCTL_REG_COMMAND, 4);
}

uint32_t register_buffer(uint64_t buffer)
{
    assert_true(pvmemctl_core_write(core, MEMCTL_REG_PAYLOAD, buffer, 8));
    return command(MEMCTL_CMD_REGISTER);
}

void connect_buffers(unsigned nr)
{
    assert_int_equal(command(MEMCTL_CMD_RESET), MEMCTL_ANSWER_ACK);
    for (unsigned i = 0; i < nr; i++) {
        assert_int_equal(register_buffer(BUFFER(i)), MEMCTL_ANSWER_ACK);
    }
    assert_int_equal(command(MEMCTL_CMD_READY), MEMCTL_ANSWER_ACK);
}

void *guest_pointer(uint64_t addr)
{
    for (int i = 0; i < NR_REGIONS; i++) {
        Region *r = &fake.regions[i];

        if (addr - r->gpa < r->size) {
            return r->host + (addr - r->gpa);
        }
    }
    require(!"no guest memory");
    return NULL;
}

/* What a guest does to its own memory may race, and cross regions */
__attribute__((no_sanitize("thread")))
void guest_write(uint64_t addr, const void *buf, size_t size)
{
    const unsigned char *from = buf;

    while (size--) {
        *(volatile unsigned char *)guest_pointer(addr++) = *from++;
    }
}

__attribute__((no_sanitize("thread")))
static void guest_read(uint64_t addr, void *buf, size_t size)
{
    unsigned char *to = buf;

    while (size--) {
        *to++ = *(volatile unsigned char *)guest_pointer(addr++);
    }
}

void put_request(uint64_t buffer, uint64_t code, uint64_t addr, uint64_t length,
                 uint64_t arg)
{
    const struct memctl_vmm_call wire = {
        .func_code = htole64(code),
        .addr = htole64(addr),
        .length = htole64(length),
        .arg = htole64(arg),
    };

    guest_write(buffer, &wire, sizeof(wire));
}

struct memctl_vmm_ret get_answer(uint64_t buffer)
{
    struct memctl_vmm_ret wire;

    guest_read(buffer, &wire, sizeof(wire));
    return (struct memctl_vmm_ret) {
        .ret_errno = le32toh(wire.ret_errno),
        .ret_code = le32toh(wire.ret_code),
        .ret_value = le64toh(wire.ret_value),
        .arg0 = le64toh(wire.arg0),
        .arg1 = le64toh(wire.arg1),
    };
}

bool ring_doorbell(PvmemctlCore *c, uint32_t connection)
{
    bool answered;

    ringing = true;
    answered = pvmemctl_core_write(c, MEMCTL_REG_COMMAND, connection, 4);
    ringing = false;
    require(!nr_held);
    return answered;
}

void ring(uint32_t connection)
{
    unsigned answered = fake.answered;

    assert_true(ring_doorbell(core, connection));
    assert_int_equal(fake.answered, answered + 1);
    assert_int_equal(fake.open, 0);
}

void ring_in_vain(uint32_t connection)
{
    unsigned char before[4096];
    unsigned answered = fake.answered;
    uint32_t answer = pvmemctl_core_read(core, MEMCTL_REG_COMMAND, 4);

    memcpy(before, host(LOW, 0), sizeof(before));
    assert_false(ring_doorbell(core, connection));
    assert_memory_equal(before, host(LOW, 0), sizeof(before));
    assert_int_equal(fake.answered, answered);
    assert_int_equal(fake.open, 0);
    assert_int_equal(pvmemctl_core_read(core, MEMCTL_REG_COMMAND, 4), answer);
}

struct memctl_vmm_ret ask(uint64_t code, uint64_t addr, uint64_t length,
                          uint64_t arg)
{
    if (core->state != PVMEMCTL_STATE_READY) {
        connect_buffers(1);
    }
    put_request(BUFFER(0), code, addr, length, arg);
    ring(CONNECTION(0));
    return get_answer(BUFFER(0));
}

void put_table(uint64_t table, const struct memctl_vmm_range *ranges,
               unsigned nr)
{
    for (unsigned i = 0; i < nr; i++) {
        const struct memctl_vmm_range wire = {
            .addr = htole64(ranges[i].addr),
            .length = htole64(ranges[i].length),
        };

        guest_write(table + i * sizeof(wire), &wire, sizeof(wire));
    }
}

struct memctl_vmm_ret vector(uint64_t code,
                             const struct memctl_vmm_range *ranges,
                             unsigned nr)
{
    put_table(TABLE, ranges, nr);
    return ask(MEMCTL_VECTOR, TABLE, nr, code);
}

void assert_answer(const char *file, int line, uint32_t ret_errno, bool refused,
                   uint64_t ret_value, uint64_t code, uint64_t addr,
                   uint64_t length, uint64_t arg)
{
    struct memctl_vmm_ret ret = ask(code, addr, length, arg);

    _assert_int_equal(ret.ret_errno, ret_errno, file, line);
    _assert_int_equal(ret.ret_code, refused ? (uint32_t)code : 0, file, line);
    _assert_int_equal(ret.ret_value, core->options.minor ? ret_value : 0, file,
                      line);
    /* Zero differs from the length, so the guest sees that this is an answer */
    _assert_int_equal(ret.arg0, 0, file, line);
    _assert_int_equal(ret.arg1, 0, file, line);
}

void assert_vector_answer(const char *file, int line, uint32_t ret_errno,
                          uint64_t done, uint64_t part, uint64_t code,
                          const struct memctl_vmm_range *ranges, unsigned nr)
{
    struct memctl_vmm_ret ret = vector(code, ranges, nr);

    _assert_int_equal(ret.ret_errno, ret_errno, file, line);
    _assert_int_equal(ret.ret_value, done, file, line);
    _assert_int_equal(ret.arg0, 0, file, line);
    _assert_int_equal(ret.arg1, part, file, line);
}
