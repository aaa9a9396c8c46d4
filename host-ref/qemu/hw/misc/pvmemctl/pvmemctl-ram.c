/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pvmemctl: the way from guest-physical addresses to memory of this process,
 * and when the rest of QEMU does not want that memory touched.
 *
 * All of this runs in vCPU threads without the BQL.
 */
#include "qemu/osdep.h"
#include "hw/boards.h"
#include "hw/core/cpu.h"
#include "migration/misc.h"
#include "system/address-spaces.h"
#include "system/hostmem.h"
#include "system/memory.h"
#include "system/numa.h"
#include "system/ram_addr.h"
#include "system/ramblock.h"
#include "system/system.h"
#include "pvmemctl.h"
#include "trace.h"

/*
 * The main memory of the machine, or memory plugged in.  Not what else QEMU
 * keeps in RAM blocks, such as video memory, or memory shared with other VMs:
 * it is not the guest's to decide how that is backed.
 */
static bool pvmemctl_is_main_memory(const MemoryRegionSection *section)
{
    MachineState *ms = current_machine;
    MemoryRegion *mr = section->mr;

    if (section->readonly || section->nonvolatile ||
        !memory_region_is_ram(mr) || memory_region_is_ram_device(mr)) {
        return false;
    }
    if (mr == ms->ram) {
        return true;
    }
    if (ms->device_memory) {
        uint64_t base = ms->device_memory->base;
        uint64_t size = memory_region_size(&ms->device_memory->mr);

        if (section->offset_within_address_space >= base &&
            section->offset_within_address_space - base < size) {
            return true;
        }
    }
    for (int i = 0; ms->numa_state && i < ms->numa_state->num_nodes; i++) {
        HostMemoryBackend *backend = ms->numa_state->nodes[i].node_memdev;

        if (backend && mr == host_memory_backend_get_memory(backend)) {
            return true;
        }
    }
    return false;
}

bool pvmemctl_is_main_block(MemoryRegion *mr)
{
    MachineState *ms = current_machine;
    MemoryRegion *root = mr;
    MemoryRegionSection section = { .mr = mr };

    while (root->container) {
        root = root->container;
        if (ms->device_memory && root == &ms->device_memory->mr) {
            section.offset_within_address_space = ms->device_memory->base;
        }
    }
    return !memory_region_is_rom(mr) && !memory_region_is_nonvolatile(mr) &&
           pvmemctl_is_main_memory(&section);
}

/*
 * Blocks of virtio-mem that are not plugged are no RAM.  The guest can race
 * with its own requests to plug and unplug; pvmemctl_put_ram() looks again.
 */
static bool pvmemctl_is_plugged(const MemoryRegionSection *section)
{
    RamDiscardManager *rdm = memory_region_get_ram_discard_manager(section->mr);

    return !rdm || ram_discard_manager_is_populated(rdm, section);
}

/*
 * Which backend a mapping is of; to find that out takes longer than a short
 * system call.  Written by any thread that holds a reference on the region, so
 * not after pvmemctl_block_removed(); keyed by the mapping's address, which is
 * written last.
 */
typedef struct Backing {
    void *host;
    HostMemoryBackend *backend; /* NULL: memory without one */
    bool is_file;
} Backing;

static Backing pvmemctl_backings[16];

static Backing pvmemctl_backing(MemoryRegion *mr)
{
    void *host = mr->ram_block->host;
    Backing found = { .host = host };

    for (int i = 0; i < ARRAY_SIZE(pvmemctl_backings); i++) {
        if (qatomic_load_acquire(&pvmemctl_backings[i].host) == host) {
            return pvmemctl_backings[i];
        }
    }
    found.backend = (HostMemoryBackend *)
        object_dynamic_cast(mr->owner, TYPE_MEMORY_BACKEND);
    found.is_file = object_dynamic_cast(mr->owner, TYPE_MEMORY_BACKEND_FILE);
    for (int i = 0; i < ARRAY_SIZE(pvmemctl_backings); i++) {
        Backing *b = &pvmemctl_backings[i];

        /* Half of an entry is none */
        if (!qatomic_cmpxchg(&b->host, NULL, b)) {
            b->backend = found.backend;
            b->is_file = found.is_file;
            qatomic_store_release(&b->host, host);
            break;
        }
    }
    return found;
}

static void pvmemctl_forget_backing(void *host)
{
    for (int i = 0; i < ARRAY_SIZE(pvmemctl_backings); i++) {
        if (qatomic_read(&pvmemctl_backings[i].host) == host) {
            qatomic_set(&pvmemctl_backings[i].host, NULL);
        }
    }
}

/* How QEMU has set the mapping up, and what the operator wants of it */
static unsigned pvmemctl_ram_flags(MemoryRegion *mr)
{
    RAMBlock *rb = mr->ram_block;
    Backing backing = pvmemctl_backing(mr);
    HostMemoryBackend *backend = backing.backend;
    MachineState *ms = current_machine;
    bool merge = backend ? backend->merge : machine_mem_merge(ms);
    bool dump = machine_dump_guest_core(ms) && (!backend || backend->dump);
    unsigned flags = 0;

    if (qemu_ram_is_shared(rb)) {
        flags |= PVMEMCTL_RAM_SHARED;
    }
    if (rb->fd >= 0 && (!qemu_ram_is_shared(rb) || backing.is_file)) {
        flags |= PVMEMCTL_RAM_FILE;
    }
    /* Anonymous memory gets the machine's default whatever the backend says */
    if (merge || (rb->fd < 0 && machine_mem_merge(ms))) {
        flags |= PVMEMCTL_RAM_MERGEABLE;
    }
    if (!merge) {
        flags |= PVMEMCTL_RAM_NO_MERGE;
    }
    if (!dump) {
        flags |= PVMEMCTL_RAM_NO_DUMP;
    }
    if (should_mlock(mlock_state)) {
        flags |= PVMEMCTL_RAM_LOCKED;
    }
    if (backend && backend->prealloc) {
        flags |= PVMEMCTL_RAM_PREALLOC;
    }
    return flags;
}

void pvmemctl_describe_ram(MemoryRegion *mr, uint64_t offset, uint64_t length,
                           PvmemctlRam *ram)
{
    RAMBlock *rb = mr->ram_block;

    *ram = (PvmemctlRam) {
        .addr = rb->host + offset,
        .length = length,
        .page_size = rb->page_size,
        .flags = pvmemctl_ram_flags(mr),
        .block = rb->host,
        .block_length = rb->max_length,
        .ref = mr,
    };
}

static bool pvmemctl_get_ram(void *opaque, uint64_t gpa, uint64_t length,
                             PvmemctlRam *ram)
{
    /* Holds a reference on the region: the system call runs outside of RCU */
    MemoryRegionSection section = memory_region_find(get_system_memory(), gpa,
                                                     length);

    if (!section.mr) {
        return false;
    }
    if (section.offset_within_address_space != gpa ||
        !pvmemctl_is_main_memory(&section) || !pvmemctl_is_plugged(&section)) {
        memory_region_unref(section.mr);
        return false;
    }
    pvmemctl_describe_ram(section.mr, section.offset_within_region,
                          int128_get64(section.size), ram);
    return true;
}

static void pvmemctl_put_ram(void *opaque, PvmemctlRam *ram, uint64_t changed)
{
    MemoryRegion *mr = ram->ref;

    if (memory_region_has_ram_discard_manager(mr)) {
        MemoryRegionSection section = {
            .mr = mr,
            .offset_within_region = (uint8_t *)ram->addr - mr->ram_block->host,
            .size = int128_make64(ram->length),
        };

        /* Unplugged meanwhile: what was populated since goes */
        if (!pvmemctl_is_plugged(&section)) {
            ram_block_discard_range(mr->ram_block, section.offset_within_region,
                                    ram->length);
        }
    }
    if (changed) {
        /* Marks it dirty, invalidates translated code, drops the reference */
        address_space_unmap(&address_space_memory, ram->addr, ram->length,
                            true, changed);
    } else {
        memory_region_unref(mr);
    }
}

typedef struct EachRam {
    void (*fn)(void *arg, const PvmemctlRam *ram);
    void *arg;
} EachRam;

static bool pvmemctl_each_range(Int128 start, Int128 len,
                                const MemoryRegion *mr, hwaddr offset,
                                void *opaque)
{
    EachRam *each = opaque;
    PvmemctlRam ram;

    if (memory_region_is_ram((MemoryRegion *)mr) &&
        pvmemctl_get_ram(NULL, int128_get64(start), int128_get64(len), &ram)) {
        each->fn(each->arg, &ram);
        pvmemctl_put_ram(NULL, &ram, 0);
    }
    return false;
}

static void pvmemctl_each_ram(void *opaque,
                              void (*fn)(void *arg, const PvmemctlRam *ram),
                              void *arg)
{
    EachRam each = { fn, arg };

    RCU_READ_LOCK_GUARD();
    flatview_for_each_range(address_space_to_flatview(&address_space_memory),
                            pvmemctl_each_range, &each);
}

static int pvmemctl_begin(void *opaque, unsigned effects)
{
    /* Postcopy wants to see every page come and go */
    if (migration_in_incoming_postcopy()) {
        return EBUSY;
    }
    if (effects & PVMEMCTL_DISCARDS && !ram_block_discard_enter()) {
        return EBUSY;
    }
    return 0;
}

static void pvmemctl_end(void *opaque, unsigned effects)
{
    if (effects & PVMEMCTL_DISCARDS) {
        ram_block_discard_leave();
    }
}

/* Somebody wants this vCPU to stop, or all vCPUs to be out of the way */
static bool pvmemctl_interrupted(void *opaque)
{
    CPUState *cpu = current_cpu;

    return cpu && (qatomic_read(&cpu->exit_request) ||
                   qatomic_read(&cpu->stop));
}

static void pvmemctl_answered(void *opaque, const struct memctl_vmm_call *call,
                              const struct memctl_vmm_ret *ret)
{
    const char *name = pvmemctl_function_name(call->func_code);

    trace_pvmemctl_call(name ?: "unknown", call->addr, call->length, call->arg,
                        ret->ret_errno, ret->ret_code, ret->ret_value);
}

const PvmemctlVmm pvmemctl_vmm = {
    .get_ram = pvmemctl_get_ram,
    .put_ram = pvmemctl_put_ram,
    .each_ram = pvmemctl_each_ram,
    .begin = pvmemctl_begin,
    .end = pvmemctl_end,
    .interrupted = pvmemctl_interrupted,
    .answered = pvmemctl_answered,
};

/* A mapping goes: no attribute of it is left */
static void pvmemctl_block_removed(RAMBlockNotifier *n, void *host, size_t size,
                                   size_t max_size)
{
    pvmemctl_ledger_forget(pvmemctl_process.ledger, host, max_size);
    pvmemctl_forget_backing(host);
}

static RAMBlockNotifier pvmemctl_block_notifier = {
    .ram_block_removed = pvmemctl_block_removed,
};

/*
 * Memory was unplugged, and its mapping stays for a while: it may be plugged in
 * again elsewhere, or be given to another.
 */
static bool pvmemctl_some_ram_left;

static void pvmemctl_region_del(MemoryListener *listener,
                                MemoryRegionSection *section)
{
    pvmemctl_some_ram_left |= memory_region_is_ram(section->mr);
}

static void pvmemctl_commit(MemoryListener *listener)
{
    RAMBlock *rb;

    if (!pvmemctl_some_ram_left) {
        return;
    }
    pvmemctl_some_ram_left = false;
    RCU_READ_LOCK_GUARD();
    RAMBLOCK_FOREACH(rb) {
        if (rb->host && rb->mr && !memory_region_is_mapped(rb->mr)) {
            pvmemctl_ledger_undo_range(pvmemctl_process.ledger, rb->host,
                                       rb->max_length);
        }
    }
}

static MemoryListener pvmemctl_memory_listener = {
    .name = TYPE_PVMEMCTL,
    .region_del = pvmemctl_region_del,
    .commit = pvmemctl_commit,
};

void pvmemctl_ram_init(void)
{
    ram_block_notifier_add(&pvmemctl_block_notifier);
    memory_listener_register(&pvmemctl_memory_listener, &address_space_memory);
}
