/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A VMM for the unit tests: guest RAM is real memory of this process, so that
 * what a request did can be asked of the kernel.
 *
 * The guest-physical memory, in regions of 16 pages of what backs them, each
 * filled with a byte of its own:
 *
 *   0             LOW      private   the buffers of the connections
 *   0x10000000    LEFT     private
 *   behind it     RIGHT    private   adjacent to LEFT for the guest only
 *   0x40000000    SHARED   memfd
 *   behind it     ROM      not RAM
 *   0x80000000    DISK     a file, shared
 *   behind it     COPY     a file, private; the file holds another byte
 *   0x100000000   BIG      private, 256 MiB, nothing in it
 *   0x200000000   HUGE     private hugetlb, where a test asks for it
 *   behind it     HUGE_SHARED        hugetlb memfd, likewise
 *   up to 2^64    TOP      private   a range that wraps would go on in LOW
 */
#ifndef FAKE_VMM_H
#define FAKE_VMM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pvmemctl-core.h"

enum {
    LOW, LEFT, RIGHT, SHARED, ROM, DISK, COPY, BIG, TOP, HUGE, HUGE_SHARED,
    NR_REGIONS
};

#define REGION_PAGES 16
#define REGION_SIZE (REGION_PAGES * page_size)
#define BIG_SIZE (UINT64_C(256) << 20)
#define MIB (UINT64_C(1) << 20)

typedef struct Region {
    uint64_t gpa;
    unsigned char *host;        /* NULL: a test without huge pages */
    uint64_t granule;           /* bytes of a page of its backing */
    uint64_t size;
    void *room;                 /* it and the holes around it */
    uint64_t room_size;
    unsigned flags;             /* PVMEMCTL_RAM_*, a test may add some */
    int fd;                     /* -1: anonymous memory */
    bool is_ram;                /* false: ROM, or unplugged by a test */
} Region;

/* A system call of the core */
typedef enum SysCall {
    CALL_MADVISE, CALL_PROCESS_MADVISE, CALL_MLOCK, CALL_MUNLOCK,
    CALL_MPROTECT, CALL_NAME, CALL_READ, NR_CALLS
} SysCall;

typedef struct FakeVmm {
    Region regions[NR_REGIONS];
    _Atomic unsigned answered;  /* number of callbacks */
    unsigned unplug_after;      /* 0 or: RIGHT goes after so many get_ram */
    /* What begin() answers, by effects */
    int begin_errno[PVMEMCTL_POPULATES + 1];
    _Atomic unsigned begun[PVMEMCTL_POPULATES + 1];
    _Atomic int open;           /* begin() without end() */
    /* 0 or: this and all later looks at interrupted() say yes */
    unsigned interrupt_at, interrupt_looks;
    /* Called in get_ram(), and before each system call: its errno, or 0 */
    void (*on_get_ram)(uint64_t gpa);
    int (*on_call)(SysCall call, char *addr, uint64_t length, int value);
    _Atomic unsigned calls[NR_CALLS];
    /* Bytes that put_ram() said had changed, apart from LOW */
    _Atomic uint64_t changed;
} FakeVmm;

extern FakeVmm fake;
extern const PvmemctlVmm fake_vmm;
extern PvmemctlCore *core;
extern PvmemctlLedger *ledger;
extern uint64_t page_size;

/* What the VMM was last told in this thread */
extern _Thread_local struct memctl_vmm_call last_call;
extern _Thread_local struct memctl_vmm_ret last_ret;

extern const PvmemctlOptions all_options;

#define MAX_RANGES 1024
#define MAX_LOCKED (1 * MIB)

/* Every test starts with a device at power-on that allows everything */
int fake_setup(void **state);
/* ... of protocol 1.0 */
int fake_setup_1_0(void **state);
/* ... with huge pages, or it is skipped */
int fake_setup_huge(void **state);
/* ... and a test ends with all memory as it was made */
int fake_teardown(void **state);

/* Had this machine huge pages for fake_setup_huge()? */
bool has_huge_regions(void);

/* Another device in the place of this one, same ledger */
void new_core(const PvmemctlOptions *options);
PvmemctlCore *make_core(const PvmemctlOptions *options);
void drop_core(PvmemctlCore *c);
/* Another ledger and a device with all_options */
void new_ledger(unsigned max_ranges, uint64_t max_locked);

/* pvmemctl_guard_lift(), from a handler that may interrupt a doorbell */
bool lift_in_handler(void *addr);

/* Number of system calls since fake_setup(), all or of one sort */
unsigned calls_made(void);

/* Guest-physical and host address of a page, as large as its backing's */
uint64_t gpa(int region, unsigned page);
unsigned char *host(int region, unsigned page);

/* The piece of RAM from a page on, as get_ram() answers */
PvmemctlRam ram_of(int region, unsigned page, unsigned nr);

/* The guest's side */

#define BUFFER(index) (gpa(LOW, 0) + 64 + 32 * (uint64_t)(index))
#define CONNECTION(index) (MEMCTL_CONNECTION_BASE + (index))
/* Where vector() puts its table: not in the page of the buffers */
#define TABLE gpa(LOW, 1)

/* Write a command, return the device's answer */
uint32_t command(uint32_t cmd);
/* Write the payload and REGISTER, return the device's answer */
uint32_t register_buffer(uint64_t buffer);
void connect_buffers(unsigned nr);

/* Where guest memory is, RAM or not */
void *guest_pointer(uint64_t addr);
void guest_write(uint64_t addr, const void *buf, size_t size);

/* Write a request to a buffer; read what the buffer holds as an answer */
void put_request(uint64_t buffer, uint64_t code, uint64_t addr, uint64_t length,
                 uint64_t arg);
struct memctl_vmm_ret get_answer(uint64_t buffer);

/* Ring a doorbell */
bool ring_doorbell(PvmemctlCore *c, uint32_t connection);
/* ... that must be answered */
void ring(uint32_t connection);
/* ... that must be ignored and leave all buffers alone */
void ring_in_vain(uint32_t connection);

/* A request by connection 0, connecting if need be, that must be answered */
struct memctl_vmm_ret ask(uint64_t code, uint64_t addr, uint64_t length,
                          uint64_t arg);

void put_table(uint64_t table, const struct memctl_vmm_range *ranges,
               unsigned nr);

/* A VECTOR request for a table that is written to TABLE before */
struct memctl_vmm_ret vector(uint64_t code,
                             const struct memctl_vmm_range *ranges,
                             unsigned nr);

/*
 * ask() and compare the answer: success, an errno of the system call, or an
 * errno with the code because nothing was tried.  All else in it is zero.
 */
#define assert_done(...) \
    assert_answer(__FILE__, __LINE__, 0, false, 0, __VA_ARGS__)
#define assert_failed(err, ...) \
    assert_answer(__FILE__, __LINE__, err, false, 0, __VA_ARGS__)
#define assert_refused(err, ...) \
    assert_answer(__FILE__, __LINE__, err, true, 0, __VA_ARGS__)
/* ... with a value beside the errno, in protocol 1.1 */
#define assert_stopped(err, bytes, ...) \
    assert_answer(__FILE__, __LINE__, err, false, bytes, __VA_ARGS__)
#define assert_hinted(err, value, ...) \
    assert_answer(__FILE__, __LINE__, err, true, value, __VA_ARGS__)
void assert_answer(const char *file, int line, uint32_t ret_errno, bool refused,
                   uint64_t ret_value, uint64_t code, uint64_t addr,
                   uint64_t length, uint64_t arg);

/* The same for vector(): errno, ranges done, bytes of the next */
#define assert_vector(err, done, part, ...) \
    assert_vector_answer(__FILE__, __LINE__, err, done, part, __VA_ARGS__)
void assert_vector_answer(const char *file, int line, uint32_t ret_errno,
                          uint64_t done, uint64_t part, uint64_t code,
                          const struct memctl_vmm_range *ranges, unsigned nr);

#define TEST(name) cmocka_unit_test_setup_teardown(name, fake_setup, \
                                                   fake_teardown)
#define TEST_1_0(name) \
    { #name "_on_a_1_0_host", name, fake_setup_1_0, fake_teardown, NULL }
#define TEST_HUGE(name) cmocka_unit_test_setup_teardown(name, fake_setup_huge, \
                                                        fake_teardown)

#define ARRAY_SIZE(x) (sizeof(x) / sizeof((x)[0]))

typedef struct TestGroup {
    const char *name;
    const struct CMUnitTest *tests;
    size_t nr;
} TestGroup;

#define TEST_GROUP(name) \
    const TestGroup name##_group = { #name, name##_tests, \
                                     ARRAY_SIZE(name##_tests) }

extern const TestGroup device_group, function_group, request_group,
    ledger_group, guard_group, concurrency_group, policy_group;

#endif
