/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The device as the guest sees it: two registers, a handshake, and doorbells.
 */
#include <endian.h>
#include <sched.h>
#include <string.h>

#include "internal.h"

void pvmemctl_core_init(PvmemctlCore *core, const PvmemctlVmm *vmm,
                        void *opaque, PvmemctlLedger *ledger,
                        const PvmemctlOptions *options)
{
    memset(core, 0, sizeof(*core));
    core->vmm = vmm;
    core->opaque = opaque;
    core->ledger = ledger;
    core->options = *options;
    core->rate_credit = options->rate_limit;
    pthread_mutex_init(&core->command_lock, NULL);
    pthread_mutex_init(&core->rate_lock, NULL);
    atomic_store(&core->answer, MEMCTL_ANSWER_ERROR);
}

void pvmemctl_core_destroy(PvmemctlCore *core)
{
    pthread_mutex_destroy(&core->command_lock);
    pthread_mutex_destroy(&core->rate_lock);
}

/*
 * Break the device and wait for the doorbells that saw it work.  They stop
 * after the chunk they are at, and take no lock that a caller of this may
 * hold.
 */
static void quiesce(PvmemctlCore *core)
{
    atomic_store(&core->answer, MEMCTL_ANSWER_ERROR);
    atomic_store(&core->state, PVMEMCTL_STATE_BROKEN);
    while (atomic_load(&core->in_flight)) {
        sched_yield();
    }
}

static void disconnect(PvmemctlCore *core)
{
    quiesce(core);
    atomic_store(&core->payload, 0);
    core->nr_connections = 0;
}

unsigned pvmemctl_core_reset(PvmemctlCore *core)
{
    unsigned failed;

    pthread_mutex_lock(&core->command_lock);
    disconnect(core);
    failed = pvmemctl_ledger_undo(core->ledger, core);
    pthread_mutex_unlock(&core->command_lock);
    return failed;
}

bool pvmemctl_core_restore(PvmemctlCore *core, uint32_t state, uint32_t answer,
                           uint64_t payload, uint32_t nr_connections,
                           const uint64_t *buffers)
{
    if (state > PVMEMCTL_STATE_READY ||
        nr_connections > PVMEMCTL_MAX_CONNECTIONS ||
        (answer != MEMCTL_ANSWER_ACK && answer != MEMCTL_ANSWER_ERROR)) {
        return false;
    }
    pthread_mutex_lock(&core->command_lock);
    disconnect(core);
    memcpy(core->buffers, buffers, nr_connections * sizeof(buffers[0]));
    core->nr_connections = nr_connections;
    atomic_store(&core->payload, payload);
    atomic_store(&core->answer, answer);
    atomic_store(&core->state, state);
    pthread_mutex_unlock(&core->command_lock);
    return true;
}

static void count(PvmemctlCore *core, uint64_t code, bool failed,
                  uint64_t start)
{
    PvmemctlStats *stats;
    uint64_t time, longest;

    if (code >= PVMEMCTL_NR_CODES) {
        return;
    }
    stats = &core->stats[code];
    atomic_fetch_add_explicit(&stats->calls, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&stats->failed, failed, memory_order_relaxed);
    if (start) {
        time = pvmemctl_now() - start;
        atomic_fetch_add_explicit(&stats->time, time, memory_order_relaxed);
        longest = atomic_load(&stats->longest);
        while (time > longest) {
            if (atomic_compare_exchange_weak(&stats->longest, &longest, time)) {
                break;
            }
        }
    }
}

/* The request is copied once; what the guest does to it then is its own loss */
static bool answer_request(PvmemctlCore *core, uint64_t buffer)
{
    struct memctl_buf wire;
    struct memctl_vmm_call call;
    struct memctl_vmm_ret ret;
    uint64_t start = core->options.timing ? pvmemctl_now() : 0;

    if (!pvmemctl_copy_from_guest(core, buffer, &wire, sizeof(wire))) {
        return false;
    }
    call = (struct memctl_vmm_call) {
        .func_code = le64toh(wire.call.func_code),
        .addr = le64toh(wire.call.addr),
        .length = le64toh(wire.call.length),
        .arg = le64toh(wire.call.arg),
    };

    ret = pvmemctl_request(core, &call);
    wire.ret = (struct memctl_vmm_ret) {
        .ret_errno = htole32(ret.ret_errno),
        .ret_code = htole32(ret.ret_code),
        .ret_value = htole64(ret.ret_value),
        .arg0 = htole64(ret.arg0),
        .arg1 = htole64(ret.arg1),
    };
    /* Overtaken by RESET: nobody waits for the answer */
    if (atomic_load(&core->state) != PVMEMCTL_STATE_READY ||
        !pvmemctl_copy_to_guest(core, buffer, &wire, sizeof(wire))) {
        return false;
    }
    count(core, call.func_code, ret.ret_errno, start);
    if (core->vmm->answered) {
        core->vmm->answered(core->opaque, &call, &ret);
    }
    return true;
}

static bool doorbell(PvmemctlCore *core, uint32_t connection)
{
    uint32_t index = connection - MEMCTL_CONNECTION_BASE;
    bool answered = false;

    /* Either this sees the state that quiesce() set, or that sees this */
    atomic_fetch_add(&core->in_flight, 1);
    if (atomic_load(&core->state) == PVMEMCTL_STATE_READY &&
        index < core->nr_connections) {
        answered = answer_request(core, core->buffers[index]);
    }
    atomic_fetch_sub(&core->in_flight, 1);
    if (!answered) {
        atomic_fetch_add_explicit(&core->ignored, 1, memory_order_relaxed);
    }
    return answered;
}

static bool register_buffer(PvmemctlCore *core)
{
    uint64_t buffer = atomic_load(&core->payload);
    struct memctl_buf probe;

    if (atomic_load(&core->state) != PVMEMCTL_STATE_REGISTERING ||
        core->nr_connections == PVMEMCTL_MAX_CONNECTIONS ||
        !pvmemctl_copy_from_guest(core, buffer, &probe, sizeof(probe))) {
        return false;
    }
    core->buffers[core->nr_connections] = buffer;
    atomic_store(&core->payload,
                 MEMCTL_CONNECTION_BASE + core->nr_connections);
    core->nr_connections++;
    return true;
}

/* Defaults back; a host of protocol 1.0 leaves that to the guest */
static void reset_by_guest(PvmemctlCore *core)
{
    disconnect(core);
    if (core->options.minor) {
        pvmemctl_ledger_undo(core->ledger, core);
    }
}

/* A command that fails leaves the device broken, DISCONNECT always does */
static void command(PvmemctlCore *core, uint32_t cmd)
{
    bool ok = false;

    switch (cmd) {
    case MEMCTL_CMD_RESET:
        reset_by_guest(core);
        atomic_store(&core->state, PVMEMCTL_STATE_REGISTERING);
        ok = true;
        break;
    case MEMCTL_CMD_REGISTER:
        ok = register_buffer(core);
        break;
    case MEMCTL_CMD_READY:
        ok = atomic_load(&core->state) == PVMEMCTL_STATE_REGISTERING;
        if (ok) {
            atomic_store(&core->state, PVMEMCTL_STATE_READY);
        }
        break;
    }
    if (ok) {
        atomic_store(&core->answer, MEMCTL_ANSWER_ACK);
    } else {
        reset_by_guest(core);
    }
}

/*
 * A CPU that breaks in on another's command must not wait for that one's work
 */
static bool try_command(PvmemctlCore *core, uint32_t cmd)
{
    if (pthread_mutex_trylock(&core->command_lock)) {
        return false;
    }
    command(core, cmd);
    pthread_mutex_unlock(&core->command_lock);
    return true;
}

static bool is_command(uint32_t value)
{
    switch (value) {
    case MEMCTL_CMD_RESET:
    case MEMCTL_CMD_REGISTER:
    case MEMCTL_CMD_READY:
    case MEMCTL_CMD_DISCONNECT:
    case MEMCTL_ANSWER_ACK:
    case MEMCTL_ANSWER_ERROR:
        return true;
    default:
        return false;
    }
}

static bool write_half(PvmemctlCore *core, int shift, uint32_t value)
{
    uint64_t old = atomic_load(&core->payload), new;

    do {
        new = (old & ~((uint64_t)UINT32_MAX << shift)) |
              (uint64_t)value << shift;
    } while (!atomic_compare_exchange_weak(&core->payload, &old, new));
    return true;
}

bool pvmemctl_core_write(PvmemctlCore *core, uint64_t offset, uint64_t value,
                         unsigned size)
{
    switch (offset) {
    case MEMCTL_REG_PAYLOAD:
        if (size == 8) {
            atomic_store(&core->payload, value);
            return true;
        }
        return size == 4 && write_half(core, 0, value);
    case MEMCTL_REG_PAYLOAD + 4:
        return size == 4 && write_half(core, 32, value);
    case MEMCTL_REG_COMMAND:
        if (size != 4) {
            return false;
        }
        if (is_command(value)) {
            return try_command(core, value);
        }
        return doorbell(core, value);
    default:
        return false;
    }
}

uint64_t pvmemctl_core_read(PvmemctlCore *core, uint64_t offset,
                            unsigned size)
{
    const struct {
        uint64_t payload;
        uint32_t answer;
        uint32_t zero;
    } regs = {
        .payload = htole64(atomic_load(&core->payload)),
        .answer = htole32(atomic_load(&core->answer)),
    };
    uint64_t value = 0;

    if (size > sizeof(value) || offset > sizeof(regs) - size) {
        return 0;
    }
    memcpy(&value, (const char *)&regs + offset, size);
    return le64toh(value);
}
