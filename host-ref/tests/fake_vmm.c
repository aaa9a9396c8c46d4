/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The fake VMM, what the kernel knows of its memory, and the guest's side.
 */
#include <endian.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fake_vmm.h"

FakeVmm fake;
PvmemctlCore *core;
uint64_t page_size;

/* The VMM's functions */

static Region *find_ram(uint64_t addr)
{
    for (int i = 0; i < NR_REGIONS; i++) {
        Region *r = &fake.regions[i];

        if (r->is_ram && addr - r->gpa < REGION_SIZE) {
            return r;
        }
    }
    return NULL;
}

static bool fake_get_ram(void *opaque, uint64_t addr, uint64_t length,
                         PvmemctlRam *ram)
{
    Region *r;

    assert_ptr_equal(opaque, &fake);
    assert_int_not_equal(length, 0);
    if (fake.unplug_after && !--fake.unplug_after) {
        fake.regions[RIGHT].is_ram = false;
    }
    r = find_ram(addr);
    if (!r) {
        return false;
    }
    ram->addr = r->host + (addr - r->gpa);
    ram->length = REGION_SIZE - (addr - r->gpa);
    if (ram->length > length) {
        ram->length = length;
    }
    ram->ref = r;
    fake.held = *ram;
    fake.refs++;
    return true;
}

static void fake_put_ram(void *opaque, PvmemctlRam *ram)
{
    assert_ptr_equal(opaque, &fake);
    assert_ptr_equal(ram->ref, fake.held.ref);
    fake.refs--;
    assert_int_equal(fake.refs, 0);
}

/* Where [addr, addr + size) is, NULL if not all of it is in one region */
static void *one_region(uint64_t addr, size_t size)
{
    Region *r = find_ram(addr);

    if (!r || REGION_SIZE - (addr - r->gpa) < size) {
        return NULL;
    }
    return r->host + (addr - r->gpa);
}

static bool fake_read(void *opaque, uint64_t addr, void *buf, size_t size)
{
    void *p = one_region(addr, size);

    assert_ptr_equal(opaque, &fake);
    if (p) {
        memcpy(buf, p, size);
    }
    return p;
}

static bool fake_write(void *opaque, uint64_t addr, const void *buf,
                       size_t size)
{
    void *p;

    assert_ptr_equal(opaque, &fake);
    if (fake.unplug_before_write) {
        fake.regions[LOW].is_ram = false;
    }
    p = one_region(addr, size);
    if (p) {
        memcpy(p, buf, size);
    }
    return p;
}

static void fake_answered(void *opaque, const struct memctl_vmm_call *call,
                          const struct memctl_vmm_ret *ret)
{
    assert_ptr_equal(opaque, &fake);
    fake.answered++;
    fake.last_call = *call;
    fake.last_ret = *ret;
}

const PvmemctlVmm fake_vmm = {
    .get_ram = fake_get_ram,
    .put_ram = fake_put_ram,
    .read = fake_read,
    .write = fake_write,
    .answered = fake_answered,
};

/*
 * The linker sends the core's system calls here.  Each must be on all of the
 * piece of RAM that the core holds a reference on.  Not by the C library:
 * under the address sanitizer its munlock() does nothing.
 */
static void assert_held(const void *addr, uint64_t length)
{
    assert_int_equal(fake.refs, 1);
    assert_ptr_equal(addr, fake.held.addr);
    assert_int_equal(length, fake.held.length);
}

int __wrap_madvise(void *addr, size_t length, int advice);
int __wrap_madvise(void *addr, size_t length, int advice)
{
    assert_held(addr, length);
    return syscall(SYS_madvise, addr, length, advice);
}

int __wrap_mlock2(const void *addr, size_t length, unsigned flags);
int __wrap_mlock2(const void *addr, size_t length, unsigned flags)
{
    assert_held(addr, length);
    assert_int_equal(flags, 0);
    return syscall(SYS_mlock2, addr, length, flags);
}

int __wrap_munlock(const void *addr, size_t length);
int __wrap_munlock(const void *addr, size_t length)
{
    assert_held(addr, length);
    return syscall(SYS_munlock, addr, length);
}

int __wrap_mprotect(void *addr, size_t length, int prot);
int __wrap_mprotect(void *addr, size_t length, int prot)
{
    assert_held(addr, length);
    return syscall(SYS_mprotect, addr, length, prot);
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
    assert_held(addr, length);
    return syscall(SYS_prctl, option, what, addr, length, name);
}

/* Guest memory */

static unsigned char *map_region(int fd)
{
    /* Between two pages without access: no mapping merges with ours */
    char *room = mmap(NULL, REGION_SIZE + 2 * page_size, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *p;

    assert_ptr_not_equal(room, MAP_FAILED);
    p = mmap(room + page_size, REGION_SIZE, PROT_READ | PROT_WRITE, MAP_FIXED |
             (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED), fd, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    return p;
}

static int disk_file(void)
{
    char name[] = "pvmemctl-test-XXXXXX";
    int fd = mkstemp(name);

    assert_true(fd >= 0);
    assert_int_equal(unlink(name), 0);
    return fd;
}

int fake_setup(void **state)
{
    page_size = sysconf(_SC_PAGESIZE);
    fake = (FakeVmm) {
        .regions = {
            [LOW]    = { .gpa = 0, .fd = -1 },
            [LEFT]   = { .gpa = 0x10000000, .fd = -1 },
            [RIGHT]  = { .gpa = 0x10000000 + REGION_SIZE, .fd = -1 },
            [SHARED] = { .gpa = 0x40000000, .fd = memfd_create("shared", 0) },
            [ROM]    = { .gpa = 0x40000000 + REGION_SIZE, .fd = -1 },
            [DISK]   = { .gpa = 0x80000000, .fd = disk_file() },
            [TOP]    = { .gpa = -REGION_SIZE, .fd = -1 },
        },
    };
    for (int i = 0; i < NR_REGIONS; i++) {
        Region *r = &fake.regions[i];

        if (r->fd >= 0) {
            assert_int_equal(ftruncate(r->fd, REGION_SIZE), 0);
        }
        r->host = map_region(r->fd);
        memset(r->host, pattern(i), REGION_SIZE);
        r->is_ram = i != ROM;
    }

    /* From the heap, so that the address sanitizer sees its end */
    core = malloc(sizeof(*core));
    memset(core, 0xa5, sizeof(*core));
    pvmemctl_core_init(core, &fake_vmm, &fake, UINT64_MAX);
    return 0;
}

int fake_teardown(void **state)
{
    for (int i = 0; i < NR_REGIONS; i++) {
        Region *r = &fake.regions[i];

        munmap(r->host - page_size, REGION_SIZE + 2 * page_size);
        if (r->fd >= 0) {
            close(r->fd);
        }
    }
    free(core);
    return fake.refs;
}

uint64_t gpa(int region, unsigned page)
{
    return fake.regions[region].gpa + page * page_size;
}

unsigned char *host(int region, unsigned page)
{
    return fake.regions[region].host + page * page_size;
}

unsigned char pattern(int region)
{
    return 'A' + region;
}

bool pages_hold(int region, unsigned first, unsigned nr, unsigned char want)
{
    const unsigned char *p = host(region, first);

    for (uint64_t i = 0; i < nr * page_size; i++) {
        if (p[i] != want) {
            return false;
        }
    }
    return true;
}

/* What the kernel knows of it */

bool all_untouched(void)
{
    for (int i = LOW + 1; i < NR_REGIONS; i++) {
        uintptr_t start = (uintptr_t)host(i, 0);
        char whole[64];

        /* One mapping still: then its first page speaks for all */
        snprintf(whole, sizeof(whole), "%" PRIxPTR "-%" PRIxPTR " rw-", start,
                 start + REGION_SIZE);
        if (strncmp(smaps(i, 0, ""), whole, strlen(whole)) ||
            strstr(smaps(i, 0, "VmFlags:"), " dd") ||
            strstr(smaps(i, 0, "VmFlags:"), " lo") ||
            strstr(smaps(i, 0, "VmFlags:"), " mg") ||
            (fake.regions[i].fd < 0 && clean_pages(i))) {
            return false;
        }
        /* Contents come last: reading maps pages */
        if (pages_mapped(i, 0, REGION_PAGES) != REGION_PAGES ||
            !pages_hold(i, 0, REGION_PAGES, pattern(i))) {
            return false;
        }
    }
    return true;
}

unsigned pages_mapped(int region, unsigned first, unsigned nr)
{
    int fd = open("/proc/self/pagemap", O_RDONLY);
    uint64_t at = (uintptr_t)host(region, first) / page_size * 8;
    uint64_t entries[REGION_PAGES];
    unsigned mapped = 0;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, entries, nr * 8, at), nr * 8);
    close(fd);
    for (unsigned i = 0; i < nr; i++) {
        mapped += entries[i] >> 62 != 0;        /* bit 63 present, 62 swapped */
    }
    return mapped;
}

unsigned pages_resident(int region, unsigned first, unsigned nr)
{
    unsigned char vec[REGION_PAGES];
    unsigned resident = 0;

    assert_int_equal(mincore(host(region, first), nr * page_size, vec), 0);
    for (unsigned i = 0; i < nr; i++) {
        resident += vec[i] & 1;
    }
    return resident;
}

unsigned file_pages(int region)
{
    struct stat st;

    assert_int_equal(fstat(fake.regions[region].fd, &st), 0);
    return st.st_blocks * 512 / page_size;
}

unsigned clean_pages(int region)
{
    const char *line = smaps(region, 0, "Private_Clean:");

    return strtoul(strchr(line, ':') + 1, NULL, 10) * 1024 / page_size;
}

const char *smaps(int region, unsigned page, const char *key)
{
    static char line[512];
    uintptr_t want = (uintptr_t)host(region, page), start, end;
    FILE *f = fopen("/proc/self/smaps", "r");
    bool inside = false, found = false;

    assert_non_null(f);
    while (!found && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end) == 2) {
            inside = want >= start && want < end;
            found = inside && !*key;
        } else {
            found = inside && !strncmp(line, key, strlen(key));
        }
    }
    fclose(f);
    assert_true(found);
    return line;
}

/* Exactly these pages' line of smaps contains @what */
static bool only(int region, unsigned first, unsigned nr, const char *key,
                 const char *what)
{
    for (unsigned i = 0; i < REGION_PAGES; i++) {
        bool want = i >= first && i < first + nr;

        if (want != !!strstr(smaps(region, i, key), what)) {
            return false;
        }
    }
    return true;
}

bool only_flagged(int region, unsigned first, unsigned nr, const char *flag)
{
    return only(region, first, nr, "VmFlags:", flag);
}

bool only_protected(int region, unsigned first, unsigned nr, const char *perms)
{
    char field[8];

    snprintf(field, sizeof(field), " %s", perms);
    return only(region, first, nr, "", field);
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

static void *guest_pointer(uint64_t addr)
{
    for (int i = 0; i < NR_REGIONS; i++) {
        Region *r = &fake.regions[i];

        if (addr - r->gpa < REGION_SIZE) {
            return r->host + (addr - r->gpa);
        }
    }
    fail();
    return NULL;
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

    memcpy(guest_pointer(buffer), &wire, sizeof(wire));
}

struct memctl_vmm_ret get_answer(uint64_t buffer)
{
    struct memctl_vmm_ret wire;

    memcpy(&wire, guest_pointer(buffer), sizeof(wire));
    return (struct memctl_vmm_ret) {
        .ret_errno = le32toh(wire.ret_errno),
        .ret_code = le32toh(wire.ret_code),
        .ret_value = le64toh(wire.ret_value),
        .arg0 = le64toh(wire.arg0),
        .arg1 = le64toh(wire.arg1),
    };
}

void ring(uint32_t connection)
{
    unsigned answered = fake.answered;

    assert_true(pvmemctl_core_write(core, MEMCTL_REG_COMMAND, connection, 4));
    assert_int_equal(fake.refs, 0);
    assert_int_equal(fake.answered, answered + 1);
}

void ring_in_vain(uint32_t connection)
{
    unsigned char before[4096];
    unsigned answered = fake.answered;
    uint32_t answer = pvmemctl_core_read(core, MEMCTL_REG_COMMAND, 4);

    memcpy(before, host(LOW, 0), sizeof(before));
    assert_false(pvmemctl_core_write(core, MEMCTL_REG_COMMAND, connection, 4));
    assert_memory_equal(before, host(LOW, 0), sizeof(before));
    assert_int_equal(fake.answered, answered);
    assert_int_equal(fake.refs, 0);
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

void assert_answer(const char *file, int line, uint32_t ret_errno, bool refused,
                   uint64_t code, uint64_t addr, uint64_t length, uint64_t arg)
{
    struct memctl_vmm_ret ret = ask(code, addr, length, arg);

    _assert_int_equal(ret.ret_errno, ret_errno, file, line);
    _assert_int_equal(ret.ret_code, refused ? (uint32_t)code : 0, file, line);
    _assert_int_equal(ret.ret_value, 0, file, line);
    /* Zero differs from the length, so the guest sees that this is an answer */
    _assert_int_equal(ret.arg0, 0, file, line);
    _assert_int_equal(ret.arg1, 0, file, line);
}
