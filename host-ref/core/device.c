/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The device as the guest sees it: two registers, a handshake, and doorbells.
 */
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "pvmemctl-core.h"

void pvmemctl_core_init(PvmemctlCore *core, const PvmemctlVmm *vmm,
                        void *opaque, uint64_t allowed)
{
    core->vmm = vmm;
    core->opaque = opaque;
    core->allowed = allowed;
    pvmemctl_core_reset(core);
}

void pvmemctl_core_reset(PvmemctlCore *core)
{
    core->state = PVMEMCTL_STATE_BROKEN;
    core->answer = MEMCTL_ANSWER_ERROR;
    core->payload = 0;
    core->nr_connections = 0;
}

static uint64_t host_page_size(void)
{
    return sysconf(_SC_PAGESIZE);
}

/* Is all of the range RAM?  Nothing is done to a range of which some is not. */
static bool range_is_ram(PvmemctlCore *core, uint64_t addr, uint64_t length)
{
    PvmemctlRam ram;

    while (length) {
        if (!core->vmm->get_ram(core->opaque, addr, length, &ram)) {
            return false;
        }
        core->vmm->put_ram(core->opaque, &ram);
        addr += ram.length;
        length -= ram.length;
    }
    return true;
}

/* The host refuses: the function code says that it tried nothing */
static struct memctl_vmm_ret refuse(const struct memctl_vmm_call *call, int err)
{
    return (struct memctl_vmm_ret) {
        .ret_errno = err,
        .ret_code = (uint32_t)call->func_code,
    };
}

/*
 * Would the range take a buffer away from the core?  The answer could not be
 * written then, nor another request be read.
 */
static bool protects_buffer(const PvmemctlCore *core,
                            const struct memctl_vmm_call *call)
{
    switch (call->func_code) {
    case MEMCTL_MPROTECT_NONE:
    case MEMCTL_MPROTECT_R:
    case MEMCTL_MPROTECT_W:
        break;
    default:
        return false;
    }
    for (uint32_t i = 0; i < core->nr_connections; i++) {
        uint64_t first = core->buffers[i];
        uint64_t last = first + sizeof(struct memctl_buf) - 1;

        if (last >= call->addr && first <= call->addr + (call->length - 1)) {
            return true;
        }
    }
    return false;
}

static struct memctl_vmm_ret run_range(PvmemctlCore *core,
                                       const struct memctl_vmm_call *call)
{
    uint64_t addr = call->addr, length = call->length;
    PvmemctlRam ram;
    int err;

    if (!length || (addr | length) & (host_page_size() - 1) ||
        addr + length < addr || !range_is_ram(core, addr, length) ||
        protects_buffer(core, call)) {
        return refuse(call, EINVAL);
    }

    while (length) {
        /* Looked up anew: it may have been unplugged since */
        if (!core->vmm->get_ram(core->opaque, addr, length, &ram)) {
            if (addr == call->addr) {
                return refuse(call, EINVAL);
            }
            /* No refusal, a part has been done */
            return (struct memctl_vmm_ret) { .ret_errno = EINVAL };
        }
        err = pvmemctl_function_run(call->func_code, ram.addr, ram.length,
                                    call->arg);
        core->vmm->put_ram(core->opaque, &ram);
        if (err) {
            return (struct memctl_vmm_ret) { .ret_errno = err };
        }
        addr += ram.length;
        length -= ram.length;
    }
    return (struct memctl_vmm_ret) { 0 };
}

static struct memctl_vmm_ret run_call(PvmemctlCore *core,
                                      const struct memctl_vmm_call *call)
{
    if (!pvmemctl_function_name(call->func_code)) {
        return refuse(call, EOPNOTSUPP);
    }
    if (!(core->allowed & UINT64_C(1) << call->func_code)) {
        return refuse(call, EPERM);
    }
    if (call->func_code == MEMCTL_INFO) {
        return (struct memctl_vmm_ret) {
            .ret_value = host_page_size(),
            .arg0 = MEMCTL_PROTOCOL_MAJOR,
            .arg1 = MEMCTL_PROTOCOL_MINOR,
        };
    }
    return run_range(core, call);
}

/* The request is copied once; what the guest does to it then is its own loss */
static bool doorbell(PvmemctlCore *core, uint32_t connection)
{
    uint32_t index = connection - MEMCTL_CONNECTION_BASE;
    struct memctl_buf wire;
    struct memctl_vmm_call call;
    struct memctl_vmm_ret ret;
    uint64_t buffer;

    if (core->state != PVMEMCTL_STATE_READY || index >= core->nr_connections) {
        return false;
    }
    buffer = core->buffers[index];
    if (!core->vmm->read(core->opaque, buffer, &wire, sizeof(wire))) {
        return false;
    }
    call = (struct memctl_vmm_call) {
        .func_code = le64toh(wire.call.func_code),
        .addr = le64toh(wire.call.addr),
        .length = le64toh(wire.call.length),
        .arg = le64toh(wire.call.arg),
    };

    ret = run_call(core, &call);

    wire.ret = (struct memctl_vmm_ret) {
        .ret_errno = htole32(ret.ret_errno),
        .ret_code = htole32(ret.ret_code),
        .ret_value = htole64(ret.ret_value),
        .arg0 = htole64(ret.arg0),
        .arg1 = htole64(ret.arg1),
    };
    if (!core->vmm->write(core->opaque, buffer, &wire, sizeof(wire))) {
        return false;
    }
    if (core->vmm->answered) {
        core->vmm->answered(core->opaque, &call, &ret);
    }
    return true;
}

static bool register_buffer(PvmemctlCore *core)
{
    struct memctl_buf probe;

    if (core->state != PVMEMCTL_STATE_REGISTERING ||
        core->nr_connections == PVMEMCTL_MAX_CONNECTIONS ||
        !core->vmm->read(core->opaque, core->payload, &probe, sizeof(probe))) {
        return false;
    }
    core->buffers[core->nr_connections] = core->payload;
    core->payload = MEMCTL_CONNECTION_BASE + core->nr_connections;
    core->nr_connections++;
    return true;
}

/* A command that fails leaves the device broken, DISCONNECT always does */
static void command(PvmemctlCore *core, uint32_t cmd)
{
    bool ok = false;

    switch (cmd) {
    case MEMCTL_CMD_RESET:
        pvmemctl_core_reset(core);
        core->state = PVMEMCTL_STATE_REGISTERING;
        ok = true;
        break;
    case MEMCTL_CMD_REGISTER:
        ok = register_buffer(core);
        break;
    case MEMCTL_CMD_READY:
        ok = core->state == PVMEMCTL_STATE_REGISTERING;
        core->state = PVMEMCTL_STATE_READY;
        break;
    }
    if (ok) {
        core->answer = MEMCTL_ANSWER_ACK;
    } else {
        pvmemctl_core_reset(core);
    }
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

bool pvmemctl_core_write(PvmemctlCore *core, uint64_t offset, uint64_t value,
                         unsigned size)
{
    switch (offset) {
    case MEMCTL_REG_PAYLOAD:
        if (size == 8) {
            core->payload = value;
            return true;
        }
        if (size == 4) {
            core->payload &= ~(uint64_t)UINT32_MAX;
            core->payload |= (uint32_t)value;
            return true;
        }
        return false;
    case MEMCTL_REG_PAYLOAD + 4:
        if (size != 4) {
            return false;
        }
        core->payload &= UINT32_MAX;
        core->payload |= value << 32;
        return true;
    case MEMCTL_REG_COMMAND:
        if (size != 4) {
            return false;
        }
        if (is_command(value)) {
            command(core, value);
            return true;
        }
        return doorbell(core, value);
    default:
        return false;
    }
}

uint64_t pvmemctl_core_read(const PvmemctlCore *core, uint64_t offset,
                            unsigned size)
{
    const struct {
        uint64_t payload;
        uint32_t answer;
        uint32_t zero;
    } regs = {
        .payload = htole64(core->payload),
        .answer = htole32(core->answer),
    };
    uint64_t value = 0;

    if (size > sizeof(value) || offset > sizeof(regs) - size) {
        return 0;
    }
    memcpy(&value, (const char *)&regs + offset, size);
    return le64toh(value);
}
