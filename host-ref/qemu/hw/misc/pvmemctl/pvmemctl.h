/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of the QEMU device share.
 */
#ifndef HW_MISC_PVMEMCTL_H
#define HW_MISC_PVMEMCTL_H

#include "hw/pci/pci_device.h"
#include "qapi/qapi-types-pvmemctl.h"
#include "qemu/queue.h"
#include "pvmemctl-core.h"

#define TYPE_PVMEMCTL "pvmemctl"
OBJECT_DECLARE_SIMPLE_TYPE(PvmemctlDevice, PVMEMCTL)

/* An attribute as it travels to another QEMU: by RAM block, not by address */
typedef struct PvmemctlSavedAttribute {
    char block[256];
    uint64_t offset;            /* bytes */
    uint64_t length;            /* bytes */
    uint64_t arg;
    uint8_t code;
} PvmemctlSavedAttribute;

typedef struct PvmemctlSaved {
    uint32_t state;
    uint32_t answer;
    uint64_t payload;
    uint32_t nr_connections;
    uint64_t *buffers;          /* room for PVMEMCTL_MAX_CONNECTIONS */
    int32_t nr_attributes;
    PvmemctlSavedAttribute *attributes;
} PvmemctlSaved;

struct PvmemctlDevice {
    PCIDevice parent_obj;

    MemoryRegion bar;
    PvmemctlCore core;

    /* Properties */
    char *allow;
    char *protocol;
    char *on_guard;
    uint32_t max_ranges;
    uint64_t max_locked;
    uint64_t rate_limit;
    bool hugetlb_release;
    bool timing;
    uint32_t refuse;
    uint32_t lie;

    PvmemctlGuardAction guard_action;
    PvmemctlSaved saved;        /* only while it is being saved or loaded */
    QLIST_ENTRY(PvmemctlDevice) next;
};

/* What all devices of the process have in common; under the BQL */
typedef struct PvmemctlProcess {
    QLIST_HEAD(, PvmemctlDevice) devices;
    PvmemctlLedger *ledger;     /* from the first device to the end */
    uint64_t guard_hits;
    bool saving;                /* a migration or snapshot is under way */
    bool discards_disabled;     /* for a background snapshot */
} PvmemctlProcess;

extern PvmemctlProcess pvmemctl_process;

/* The device that an attribute's owner stands for, NULL if it has left */
PvmemctlDevice *pvmemctl_device_of(const void *owner);

/* pvmemctl-ram.c: guest RAM */
extern const PvmemctlVmm pvmemctl_vmm;

/*
 * Describe [offset, offset + length) of a RAM block that the guest may manage
 */
void pvmemctl_describe_ram(MemoryRegion *mr, uint64_t offset, uint64_t length,
                           PvmemctlRam *ram);
/* Is it all memory that pvmemctl_vmm.get_ram() may find? */
bool pvmemctl_is_main_block(MemoryRegion *mr);
void pvmemctl_ram_init(void);

/* pvmemctl-guard.c: accesses to what the guest has protected */
void pvmemctl_guard_init(void);
/* Where the guest sees an address of this process; false: nowhere now */
bool pvmemctl_gpa_of(void *host, hwaddr *gpa);

/* pvmemctl-mce.c */
void pvmemctl_inject_mce(hwaddr gpa);

#endif
