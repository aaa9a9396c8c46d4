/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the QTests of the pvmemctl device share: a driver for the device, and
 * ways to ask the host's kernel what it holds for guest RAM.
 */
#ifndef PVMEMCTL_UTIL_H
#define PVMEMCTL_UTIL_H

#include "qemu/units.h"
#include "libqtest.h"
#include "libqos/pci.h"
#include "qobject/qdict.h"
#include <linux/pvmemctl.h>

#define PAGE        0x1000
#define RAM_SIZE    (64 * MiB)
#define BUFFER(n)   (16 * MiB + 32 * (n))   /* of connection n */
#define TABLE       (17 * MiB)              /* for VECTOR */
#define DATA        (32 * MiB)              /* what requests are about */
#define DATA_SIZE   (16 * PAGE)
#define BIOS_SIZE   (64 * KiB)

#define CONNECTION(n) (MEMCTL_CONNECTION_BASE + (n))

typedef struct Machine {
    QTestState *qts;
    QPCIBus *bus;
} Machine;

typedef struct Device {
    QTestState *qts;
    QPCIDevice *pci;
    uint64_t bar;
    uint64_t bar_size;
} Device;

/* Machines: 64 MiB of RAM; @args may override what is before it */

QTestState *qemu_start(const char *machine, const char *args);
Machine machine_start_type(const char *machine, const char *args);
Machine machine_start(const char *args);
void machine_stop(Machine *m);

/* After a reset of the machine too: it takes the BAR's address away */
void device_map(Device *d);
Device device_find(Machine *m, int slot);
void device_free(Device *d);

/* One machine with one device in slot 4 */
Device device_start(Machine *m, const char *props);
Device device_start_args(Machine *m, const char *props, const char *args);
void device_stop(Machine *m, Device *d);

/* The guest's side of the protocol */

uint32_t read_answer(Device *d);
uint32_t command(Device *d, uint32_t cmd);
uint32_t register_buffer(Device *d, uint64_t buffer);
void handshake(Device *d, int nr);
void put_request(Device *d, uint64_t buffer, uint64_t code, uint64_t addr,
                 uint64_t length, uint64_t arg);
void put_table(Device *d, const struct memctl_vmm_range *ranges, unsigned nr);
struct memctl_vmm_ret ask_arg(Device *d, int n, uint64_t code, uint64_t addr,
                              uint64_t length, uint64_t arg);
struct memctl_vmm_ret ask(Device *d, int n, uint64_t code, uint64_t addr,
                          uint64_t length);

/* By connection 0; fails unless the answer is success, or this error */
void ask_ok(Device *d, uint64_t code, uint64_t addr, uint64_t length);
void ask_fails(Device *d, uint64_t code, uint64_t addr, uint64_t length,
               uint32_t err);
/* By connection 0: @code for the table, which was put before */
struct memctl_vmm_ret ask_vector(Device *d, uint64_t code, unsigned nr);
void assert_info(Device *d, int n, unsigned minor);
void assert_info_works(Device *d, int n);

/* Contents as the guest sees them */
void fill(Device *d, uint64_t addr, uint64_t length);
bool is_filled(Device *d, uint64_t addr, uint64_t length, uint8_t want);

/* The host's side, from /proc; @addr is where the guest sees it */

typedef struct HostRange {
    uint64_t bytes;         /* of mappings in the range */
    uint64_t none, read_only, read_write;
    uint64_t flag;          /* with the VmFlag asked for */
    uint64_t named;         /* with the name asked for */
    uint64_t lazyfree;      /* of all mappings that touch the range */
    uint64_t anon_huge;     /* likewise */
    uint64_t referenced;    /* likewise */
} HostRange;

uint64_t host_addr(QTestState *qts, uint64_t addr);
HostRange host_range(QTestState *qts, uint64_t addr, uint64_t length,
                     const char *flag, const char *name);
bool host_has_flag(QTestState *qts, uint64_t addr, uint64_t length,
                   const char *flag);
bool host_lacks_flag(QTestState *qts, uint64_t addr, uint64_t length,
                     const char *flag);
bool host_is_protected(QTestState *qts, uint64_t addr, uint64_t length);
bool host_is_writable(QTestState *qts, uint64_t addr, uint64_t length);
/* Mappings of a range by their protection, flags and names: to be compared */
char *host_attributes(QTestState *qts, uint64_t addr, uint64_t length);
/* @start: in QEMU's address space, for what the guest does not see */
char *host_attributes_at(QTestState *qts, uint64_t start, uint64_t length);
/* Bytes in QEMU's page table */
uint64_t host_present(QTestState *qts, uint64_t addr, uint64_t length);
/* Bytes of the file that is mapped there */
uint64_t host_file_bytes(QTestState *qts, uint64_t addr);
/* Contents, read without a fault in QEMU */
bool host_is_filled(QTestState *qts, uint64_t addr, uint64_t length,
                    uint8_t want);
bool host_is_filled_at(QTestState *qts, uint64_t start, uint64_t length,
                       uint8_t want);
unsigned host_mappings(QTestState *qts);
/* Anonymous memory that is not RAM of the guest, bytes */
uint64_t host_heap(QTestState *qts);
bool host_has_thp(void);
bool host_has_ksm(void);
bool host_has_names(void);
bool host_has_swap(void);
/* Enough for all RAM */
bool host_has_huge_pages(void);

/* What QEMU says about itself */

QDict *query(QTestState *qts, const char *cmd);
QDict *query_pvmemctl(QTestState *qts);
uint64_t query_number(QTestState *qts, const char *name);
unsigned query_ledger(QTestState *qts);
bool is_running(QTestState *qts);

#endif
