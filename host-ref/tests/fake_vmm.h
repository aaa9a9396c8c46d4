/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A VMM for the unit tests: guest RAM is real memory of this process, so that
 * what a request did can be asked of the kernel.
 *
 * The guest-physical memory, in regions of REGION_PAGES pages, each filled with
 * a byte of its own:
 *
 *   0             LOW      private   the buffers of the connections
 *   0x10000000    LEFT     private
 *   behind it     RIGHT    private   adjacent to LEFT for the guest only
 *   0x40000000    SHARED   memfd
 *   behind it     ROM      not RAM
 *   0x80000000    DISK     a file, shared
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

enum { LOW, LEFT, RIGHT, SHARED, ROM, DISK, TOP, NR_REGIONS };

#define REGION_PAGES 16
#define REGION_SIZE (REGION_PAGES * page_size)

typedef struct Region {
    uint64_t gpa;
    unsigned char *host;
    int fd;                     /* -1: private memory */
    bool is_ram;                /* false: ROM, or unplugged by a test */
} Region;

typedef struct FakeVmm {
    Region regions[NR_REGIONS];
    PvmemctlRam held;           /* what get_ram gave out last */
    int refs;
    unsigned answered;          /* number of callbacks, and the last one's */
    struct memctl_vmm_call last_call;
    struct memctl_vmm_ret last_ret;
    unsigned unplug_after;      /* 0 or: RIGHT goes after so many get_ram */
    bool unplug_before_write;   /* LOW goes before the answer is written */
} FakeVmm;

extern FakeVmm fake;
extern const PvmemctlVmm fake_vmm;
extern PvmemctlCore *core;
extern uint64_t page_size;

/* Every test starts with a device at power-on that allows everything */
int fake_setup(void **state);
int fake_teardown(void **state);

/* Guest-physical and host address of a page */
uint64_t gpa(int region, unsigned page);
unsigned char *host(int region, unsigned page);

/* The pages hold the byte @want */
bool pages_hold(int region, unsigned first, unsigned nr, unsigned char want);
unsigned char pattern(int region);

/* No page of any region but LOW has changed since fake_setup() */
bool all_untouched(void);

/* Of @nr pages, how many the process has mapped or in swap (pagemap) */
unsigned pages_mapped(int region, unsigned first, unsigned nr);

/* Of @nr pages, how many are resident (mincore) */
unsigned pages_resident(int region, unsigned first, unsigned nr);

/* Pages that the file behind a region occupies */
unsigned file_pages(int region);

/* Pages of a region's first mapping that are not dirty (smaps) */
unsigned clean_pages(int region);

/*
 * A line of /proc/self/smaps for the mapping that holds a page: the first for
 * key "", else the one that starts with @key.  Valid until the next call.
 */
const char *smaps(int region, unsigned page, const char *key);

/* Exactly pages [first, first + nr) have a flag of VmFlags, like "lo" */
bool only_flagged(int region, unsigned first, unsigned nr, const char *flag);

/* Exactly pages [first, first + nr) have these permissions, like "r--" */
bool only_protected(int region, unsigned first, unsigned nr, const char *perms);

/* The guest's side */

#define BUFFER(index) (gpa(LOW, 0) + 64 + 32 * (uint64_t)(index))
#define CONNECTION(index) (MEMCTL_CONNECTION_BASE + (index))

/* Write a command, return the device's answer */
uint32_t command(uint32_t cmd);
/* Write the payload and REGISTER, return the device's answer */
uint32_t register_buffer(uint64_t buffer);
void connect_buffers(unsigned nr);

/* Write a request to a buffer; read what the buffer holds as an answer */
void put_request(uint64_t buffer, uint64_t code, uint64_t addr, uint64_t length,
                 uint64_t arg);
struct memctl_vmm_ret get_answer(uint64_t buffer);

/* Ring a doorbell that must be answered */
void ring(uint32_t connection);
/* Ring a doorbell that must be ignored and leave all buffers alone */
void ring_in_vain(uint32_t connection);

/* A request by connection 0, connecting if need be, that must be answered */
struct memctl_vmm_ret ask(uint64_t code, uint64_t addr, uint64_t length,
                          uint64_t arg);

/*
 * ask() and compare the answer: success, an errno of the system call, or an
 * errno with the code because nothing was tried.  All else in it is zero.
 */
#define assert_done(...) \
    assert_answer(__FILE__, __LINE__, 0, false, __VA_ARGS__)
#define assert_failed(err, ...) \
    assert_answer(__FILE__, __LINE__, err, false, __VA_ARGS__)
#define assert_refused(err, ...) \
    assert_answer(__FILE__, __LINE__, err, true, __VA_ARGS__)
void assert_answer(const char *file, int line, uint32_t ret_errno, bool refused,
                   uint64_t code, uint64_t addr, uint64_t length, uint64_t arg);

#define TEST(name) cmocka_unit_test_setup_teardown(name, fake_setup, \
                                                   fake_teardown)

#define ARRAY_SIZE(x) (sizeof(x) / sizeof((x)[0]))

extern const struct CMUnitTest device_tests[], function_tests[], policy_tests[];
extern const size_t nr_device_tests, nr_function_tests, nr_policy_tests;

#endif
