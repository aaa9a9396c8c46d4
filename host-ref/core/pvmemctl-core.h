/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pvmemctl device with no VMM in it.
 *
 * A VMM passes the guest's accesses to the registers on to
 * pvmemctl_core_write() and pvmemctl_core_read(), and gives the core a way to
 * guest RAM (PvmemctlVmm).  The core does the rest: the protocol's states
 * (device.c), who may ask for what (policy.c), and the system calls
 * (functions.c).  A doorbell takes this way:
 *
 *   pvmemctl_core_write() -> read the request from guest RAM -> policy ->
 *   look every address up -> system call -> write the answer to guest RAM
 *
 * The guest is hostile.  Nothing here allocates, logs or loops by an amount
 * that the guest sets; every address is looked up again at every doorbell.
 *
 * C11 with -D_GNU_SOURCE, for Linux.
 */
#ifndef PVMEMCTL_CORE_H
#define PVMEMCTL_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/pvmemctl.h>

/* One connection for each CPU a guest may have; more is abuse */
#define PVMEMCTL_MAX_CONNECTIONS 4096

/* A piece of guest RAM in the VMM's own address space */
typedef struct PvmemctlRam {
    void *addr;
    uint64_t length;            /* bytes */
    void *ref;                  /* the VMM's: what keeps the piece mapped */
} PvmemctlRam;

/* What the VMM does for the core.  @opaque is from pvmemctl_core_init(). */
typedef struct PvmemctlVmm {
    /*
     * Find guest RAM at guest-physical address @gpa.  Sets @ram to the longest
     * piece that starts there, is contiguous in the VMM and has at most
     * @length bytes, and keeps it mapped until put_ram().  Returns false where
     * there is no RAM; ROM and the memory of devices are not RAM.
     */
    bool (*get_ram)(void *opaque, uint64_t gpa, uint64_t length,
                    PvmemctlRam *ram);
    void (*put_ram)(void *opaque, PvmemctlRam *ram);
    /* Copy between guest RAM and @buf; false if any byte of it is not RAM */
    bool (*read)(void *opaque, uint64_t gpa, void *buf, size_t size);
    bool (*write)(void *opaque, uint64_t gpa, const void *buf, size_t size);
    /* Optional: a request was answered */
    void (*answered)(void *opaque, const struct memctl_vmm_call *call,
                     const struct memctl_vmm_ret *ret);
} PvmemctlVmm;

typedef enum PvmemctlState {
    PVMEMCTL_STATE_BROKEN,      /* until RESET */
    PVMEMCTL_STATE_REGISTERING, /* between RESET and READY */
    PVMEMCTL_STATE_READY,       /* doorbells work */
} PvmemctlState;

/*
 * The VMM serialises all accesses to a core.
 */
typedef struct PvmemctlCore {
    const PvmemctlVmm *vmm;
    void *opaque;
    uint64_t allowed;           /* bit N: function code N may be used */
    PvmemctlState state;
    uint32_t answer;            /* the command register as the guest reads it */
    uint64_t payload;           /* the payload register */
    uint32_t nr_connections;
    uint64_t buffers[PVMEMCTL_MAX_CONNECTIONS]; /* guest-physical addresses */
} PvmemctlCore;

/**
 * pvmemctl_core_init: a device as it is at power-on
 *
 * @core: to be initialised
 * @vmm: the VMM's functions
 * @opaque: handed to them
 * @allowed: from pvmemctl_policy_parse()
 */
void pvmemctl_core_init(PvmemctlCore *core, const PvmemctlVmm *vmm,
                        void *opaque, uint64_t allowed);

/**
 * pvmemctl_core_reset: forget all connections, as at power-on
 */
void pvmemctl_core_reset(PvmemctlCore *core);

/**
 * pvmemctl_core_write: the guest writes a register
 *
 * @offset: in BAR 0, bytes
 * @value: in host byte order
 * @size: width of the access, bytes
 *
 * Returns: false if the access was ignored: a register that does not exist, a
 * width that it does not have, a connection that is not known.
 */
bool pvmemctl_core_write(PvmemctlCore *core, uint64_t offset, uint64_t value,
                         unsigned size);

/**
 * pvmemctl_core_read: the guest reads a register
 *
 * Returns: its value in host byte order, 0 where there is no register.
 */
uint64_t pvmemctl_core_read(const PvmemctlCore *core, uint64_t offset,
                            unsigned size);

/* functions.c: what the codes mean */

/**
 * pvmemctl_function_name: the name of a function code, NULL if there is none
 */
const char *pvmemctl_function_name(uint64_t code);

/**
 * pvmemctl_function_run: do to a piece of the VMM's memory what a code says
 *
 * Returns: 0 or the errno of the system call, positive.
 */
int pvmemctl_function_run(uint64_t code, void *addr, uint64_t length,
                          uint64_t arg);

/* policy.c: what the operator allows */

/**
 * pvmemctl_policy_parse: read a list of functions
 *
 * @list: names separated by ':', in lower case; "default" and "all" stand for
 *        what they say.  NULL is "default".
 * @allowed: set to a bitmap of function codes.  INFO is always in it.
 * @bad: set to where the first unknown name starts
 *
 * Returns: false if a name is unknown.
 */
bool pvmemctl_policy_parse(const char *list, uint64_t *allowed,
                           const char **bad);

#endif
