/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Registers, handshake and doorbells.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fake_vmm.h"
#include "kernel_view.h"

#define ACK MEMCTL_ANSWER_ACK
#define ERROR MEMCTL_ANSWER_ERROR

static uint64_t read_payload(void)
{
    return pvmemctl_core_read(core, MEMCTL_REG_PAYLOAD, 8);
}

static uint32_t read_answer(void)
{
    return pvmemctl_core_read(core, MEMCTL_REG_COMMAND, 4);
}

/* Answers ERROR to everything and rings in vain, until RESET */
static void assert_broken(void)
{
    assert_int_equal(read_answer(), ERROR);
    put_request(BUFFER(0), MEMCTL_INFO, 0, -1, 0);
    ring_in_vain(CONNECTION(0));
    assert_int_equal(register_buffer(BUFFER(0)), ERROR);
    assert_int_equal(command(MEMCTL_CMD_READY), ERROR);
    ring_in_vain(CONNECTION(0));
    assert_int_equal(command(MEMCTL_CMD_DISCONNECT), ERROR);

    connect_buffers(1);
    assert_int_equal(ask(MEMCTL_INFO, 0, -1, 0).ret_value, page_size);
}

/* States */

static void a_device_is_broken_at_power_on(void **state)
{
    assert_int_equal(read_payload(), 0);
    assert_int_equal(pvmemctl_core_read(core, MEMCTL_REG_COMMAND, 4), ERROR);
    assert_broken();
}

static void no_command_but_register_answers_in_the_payload(void **state)
{
    static const uint32_t commands[] = {
        MEMCTL_CMD_RESET, MEMCTL_CMD_DISCONNECT, MEMCTL_CMD_REGISTER,
        MEMCTL_CMD_READY, ACK, ERROR,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
        connect_buffers(2);
        assert_int_not_equal(read_payload(), 0);
        command(commands[i]);
        assert_int_equal(read_payload(), 0);
    }
}

static void a_device_is_broken_after_a_system_reset(void **state)
{
    connect_buffers(2);
    pvmemctl_core_reset(core);
    assert_int_equal(read_payload(), 0);
    assert_int_equal(pvmemctl_core_read(core, MEMCTL_REG_COMMAND, 4), ERROR);
    assert_broken();

    assert_int_equal(command(MEMCTL_CMD_RESET), ACK);
    pvmemctl_core_reset(core);
    assert_broken();
}

static void the_handshake_is_acknowledged(void **state)
{
    assert_int_equal(command(MEMCTL_CMD_RESET), ACK);
    assert_int_equal(register_buffer(BUFFER(0)), ACK);
    assert_int_equal(register_buffer(BUFFER(1)), ACK);
    assert_int_equal(command(MEMCTL_CMD_READY), ACK);
    assert_int_equal(ask(MEMCTL_INFO, 0, -1, 0).ret_value, page_size);
    /* A doorbell is no command */
    assert_int_equal(read_answer(), ACK);
}

static void a_handshake_without_connections_is_acknowledged(void **state)
{
    connect_buffers(0);
    ring_in_vain(CONNECTION(0));
    assert_int_equal(read_answer(), ACK);
}

static void register_before_reset_is_an_error(void **state)
{
    assert_int_equal(register_buffer(BUFFER(0)), ERROR);
    assert_broken();
}

static void register_after_ready_is_an_error(void **state)
{
    connect_buffers(1);
    assert_int_equal(register_buffer(BUFFER(1)), ERROR);
    assert_broken();
}

static void ready_before_reset_is_an_error(void **state)
{
    assert_int_equal(command(MEMCTL_CMD_READY), ERROR);
    assert_broken();
}

static void ready_twice_is_an_error(void **state)
{
    connect_buffers(1);
    assert_int_equal(command(MEMCTL_CMD_READY), ERROR);
    assert_broken();
}

static void an_answer_written_as_a_command_is_an_error(void **state)
{
    static const uint32_t answers[] = { ACK, ERROR };

    for (unsigned i = 0; i < ARRAY_SIZE(answers); i++) {
        connect_buffers(1);
        assert_int_equal(command(answers[i]), ERROR);
        assert_broken();

        assert_int_equal(command(MEMCTL_CMD_RESET), ACK);
        assert_int_equal(command(answers[i]), ERROR);
        assert_broken();
    }
}

static void disconnect_answers_error_and_breaks_the_device(void **state)
{
    connect_buffers(2);
    assert_int_equal(command(MEMCTL_CMD_DISCONNECT), ERROR);
    assert_broken();

    assert_int_equal(command(MEMCTL_CMD_RESET), ACK);
    assert_int_equal(command(MEMCTL_CMD_DISCONNECT), ERROR);
    assert_broken();
}

static void reset_forgets_all_connections(void **state)
{
    connect_buffers(2);
    put_request(BUFFER(0), MEMCTL_INFO, 0, -1, 0);
    assert_int_equal(command(MEMCTL_CMD_RESET), ACK);
    ring_in_vain(CONNECTION(0));
    assert_int_equal(command(MEMCTL_CMD_READY), ACK);
    ring_in_vain(CONNECTION(0));
}

/* Connections */

static void connections_count_from_the_base(void **state)
{
    /* And restart there with every RESET */
    for (unsigned round = 0; round < 3; round++) {
        assert_int_equal(command(MEMCTL_CMD_RESET), ACK);
        for (unsigned i = 0; i < 5; i++) {
            assert_int_equal(register_buffer(BUFFER(i)), ACK);
            assert_int_equal(pvmemctl_core_read(core, MEMCTL_REG_PAYLOAD, 4),
                             0x80000000u + i);
            assert_int_equal(read_payload(), 0x80000000u + i);
        }
    }
}

static void register_leaves_the_buffer_alone(void **state)
{
    put_request(BUFFER(0), 1, 2, 3, 4);
    connect_buffers(1);
    assert_int_equal(get_answer(BUFFER(0)).ret_errno, 1);
    assert_int_equal(get_answer(BUFFER(0)).ret_value, 2);
    assert_int_equal(get_answer(BUFFER(0)).arg0, 3);
    assert_int_equal(get_answer(BUFFER(0)).arg1, 4);
}

static void each_connection_has_its_own_buffer(void **state)
{
    connect_buffers(3);
    for (unsigned i = 0; i < 3; i++) {
        put_request(BUFFER(i), 100 + i, 0, -1, 0);
    }
    ring(CONNECTION(1));
    assert_int_equal(get_answer(BUFFER(0)).ret_errno, 100);
    assert_int_equal(get_answer(BUFFER(1)).ret_errno, EOPNOTSUPP);
    assert_int_equal(get_answer(BUFFER(1)).ret_code, 101);
    assert_int_equal(get_answer(BUFFER(2)).ret_errno, 102);
}

static void buffers_may_have_any_alignment_and_lie_in_any_ram(void **state)
{
    const uint64_t buffers[] = {
        gpa(LOW, 0), gpa(LEFT, 1) + 1, gpa(SHARED, 1) - 16,
        gpa(LEFT, REGION_PAGES) - 32, gpa(TOP, REGION_PAGES) - 32,
        gpa(LEFT, REGION_PAGES) - 15,   /* in two pieces of host memory */
    };

    for (unsigned i = 0; i < ARRAY_SIZE(buffers); i++) {
        assert_int_equal(command(MEMCTL_CMD_RESET), ACK);
        assert_int_equal(register_buffer(buffers[i]), ACK);
        assert_int_equal(command(MEMCTL_CMD_READY), ACK);
        put_request(buffers[i], MEMCTL_INFO, 0, -1, 0);
        ring(CONNECTION(0));
        assert_int_equal(get_answer(buffers[i]).ret_value, page_size);
    }
}

static void a_buffer_outside_ram_is_an_error(void **state)
{
    const uint64_t bad[] = {
        gpa(LOW, REGION_PAGES),         /* just behind RAM */
        gpa(LOW, REGION_PAGES) - 31,    /* its last byte behind RAM */
        gpa(LOW, REGION_PAGES) - 1,     /* its first byte in RAM */
        gpa(LEFT, 0) - 1,               /* its first byte before RAM */
        gpa(ROM, 0),
        gpa(ROM, 0) - 16,               /* half RAM, half ROM */
        UINT64_C(1) << 52,
        UINT64_MAX,                     /* these four wrap to RAM at 0 */
        UINT64_MAX - 7,
        UINT64_MAX - 15,
        UINT64_MAX - 30,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(command(MEMCTL_CMD_RESET), ACK);
        assert_int_equal(register_buffer(BUFFER(0)), ACK);
        assert_int_equal(register_buffer(bad[i]), ERROR);
        assert_broken();
    }
    assert_true(all_untouched());
}

static void ten_thousand_registers_hit_the_limit(void **state)
{
    unsigned ok = 0;

    assert_int_equal(command(MEMCTL_CMD_RESET), ACK);
    for (unsigned i = 0; i < 10000; i++) {
        ok += register_buffer(BUFFER(i % 8)) == ACK;
        /* Once refused, refused until RESET */
        assert_int_equal(read_answer(), ok == i + 1 ? ACK : ERROR);
        assert_true(core->nr_connections <= PVMEMCTL_MAX_CONNECTIONS);
    }
    assert_int_equal(ok, PVMEMCTL_MAX_CONNECTIONS);
    assert_broken();
}

static void the_last_connection_works(void **state)
{
    assert_int_equal(command(MEMCTL_CMD_RESET), ACK);
    for (unsigned i = 0; i < PVMEMCTL_MAX_CONNECTIONS; i++) {
        assert_int_equal(register_buffer(BUFFER(0)), ACK);
    }
    assert_int_equal(command(MEMCTL_CMD_READY), ACK);
    put_request(BUFFER(0), MEMCTL_INFO, 0, -1, 0);
    ring_in_vain(CONNECTION(PVMEMCTL_MAX_CONNECTIONS));
    ring(CONNECTION(PVMEMCTL_MAX_CONNECTIONS - 1));
    assert_int_equal(get_answer(BUFFER(0)).ret_value, page_size);
}

/* Doorbells */

static void a_doorbell_before_ready_gets_no_answer(void **state)
{
    put_request(BUFFER(0), MEMCTL_DONTNEED, gpa(LEFT, 0), page_size, 0);
    assert_int_equal(command(MEMCTL_CMD_RESET), ACK);
    ring_in_vain(CONNECTION(0));
    assert_int_equal(register_buffer(BUFFER(0)), ACK);
    ring_in_vain(CONNECTION(0));
    assert_true(all_untouched());
    /* It broke nothing */
    assert_int_equal(command(MEMCTL_CMD_READY), ACK);
    assert_done(MEMCTL_DONTNEED, gpa(LEFT, 0), page_size, 0);
}

static void an_unknown_connection_gets_no_answer(void **state)
{
    connect_buffers(2);
    put_request(BUFFER(0), MEMCTL_INFO, 0, -1, 0);
    put_request(BUFFER(1), MEMCTL_INFO, 0, -1, 0);
    ring_in_vain(CONNECTION(2));
    ring_in_vain(CONNECTION(PVMEMCTL_MAX_CONNECTIONS));
    ring_in_vain(UINT32_MAX);
    assert_int_equal(ask(MEMCTL_INFO, 0, -1, 0).ret_value, page_size);
}

static void an_unknown_command_gets_no_answer(void **state)
{
    connect_buffers(1);
    put_request(BUFFER(0), MEMCTL_INFO, 0, -1, 0);
    ring_in_vain(0);
    ring_in_vain(1);
    ring_in_vain(0x7fffffff);
    ring_in_vain(MEMCTL_CMD_RESET + 1);
    ring_in_vain(MEMCTL_CMD_RESET | MEMCTL_CONNECTION_BASE);
    ring_in_vain(__builtin_bswap32(MEMCTL_CMD_RESET));
    assert_int_equal(ask(MEMCTL_INFO, 0, -1, 0).ret_value, page_size);
}

static void a_buffer_that_is_ram_no_more_gets_no_answer(void **state)
{
    connect_buffers(1);
    put_request(BUFFER(0), MEMCTL_DONTNEED, gpa(LEFT, 0), page_size, 0);
    fake.regions[LOW].is_ram = false;
    ring_in_vain(CONNECTION(0));
    assert_true(all_untouched());

    fake.regions[LOW].is_ram = true;
    assert_int_equal(ask(MEMCTL_INFO, 0, -1, 0).ret_value, page_size);
}

static void unplug_before_write(uint64_t addr)
{
    if (addr == gpa(LEFT, 0)) {
        fake.regions[LOW].is_ram = false;
    }
}

static void a_buffer_unplugged_during_the_request_gets_no_answer(void **state)
{
    connect_buffers(1);
    put_request(BUFFER(0), MEMCTL_DONTNEED, gpa(LEFT, 0), page_size, 0);
    fake.on_get_ram = unplug_before_write;
    ring_in_vain(CONNECTION(0));
    assert_true(pages_hold(LEFT, 0, 1, 0));
}

/* What protects a buffer would make the VMM fault when it writes the answer */
static void a_guest_cannot_protect_the_buffer_in_use(void **state)
{
    static const uint64_t codes[] = { MEMCTL_MPROTECT_NONE, MEMCTL_MPROTECT_R };

    for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
        assert_refused(EINVAL, codes[i], gpa(LOW, 0), page_size, 0);
        assert_true(only_protected(LOW, 0, REGION_PAGES, "rw-"));
    }
    /* Nor a byte of one of them, nor what is one to be used later */
    connect_buffers(1);
    assert_int_equal(command(MEMCTL_CMD_RESET), ACK);
    assert_int_equal(register_buffer(BUFFER(0)), ACK);
    assert_int_equal(register_buffer(gpa(LEFT, 3) - 31), ACK);
    assert_int_equal(register_buffer(gpa(LEFT, 7) - 1), ACK);
    assert_int_equal(command(MEMCTL_CMD_READY), ACK);
    for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
        for (unsigned page = 0; page < REGION_PAGES; page++) {
            bool used = page == 2 || page == 3 || page == 6 || page == 7;

            assert_int_equal(ask(codes[i], gpa(LEFT, page), page_size, 0)
                             .ret_errno, used ? EINVAL : 0);
        }
    }
    assert_refused(EINVAL, MEMCTL_MPROTECT_R, gpa(LEFT, 0), REGION_SIZE, 0);
    assert_done(MEMCTL_MPROTECT_RW, gpa(LEFT, 0), REGION_SIZE, 0);
}

static void a_request_may_discard_its_own_buffer(void **state)
{
    assert_done(MEMCTL_DONTNEED, gpa(LOW, 0), page_size, 0);
    /* The answer is all that the page holds, and the VMM works on */
    memset(host(LOW, 0) + (BUFFER(0) - gpa(LOW, 0)), 0, 32);
    assert_true(pages_hold(LOW, 0, 1, 0));
    assert_int_equal(ask(MEMCTL_INFO, 0, -1, 0).ret_value, page_size);
}

static void the_wire_is_little_endian(void **state)
{
    unsigned char *buffer = host(LOW, 0) + (BUFFER(0) - gpa(LOW, 0));
    const unsigned char unknown[32] = {
        0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01,
    };
    const unsigned char refused[32] = {
        EOPNOTSUPP, 0, 0, 0,    0x08, 0x07, 0x06, 0x05,
    };
    const unsigned char info[32] = { 0 };
    const unsigned char told[32] = {
        [8] = page_size & 0xff, page_size >> 8 & 0xff, page_size >> 16 & 0xff,
        [16] = MEMCTL_PROTOCOL_MAJOR,
        [24] = core->options.minor,
    };
    const unsigned char dontneed[32] = {
        [0] = MEMCTL_DONTNEED,
        [8] = 0, 0, 0, 0x10, 0, 0, 0, 0,        /* LEFT */
        [16] = page_size & 0xff, page_size >> 8 & 0xff, page_size >> 16 & 0xff,
    };

    connect_buffers(1);
    memcpy(buffer, unknown, 32);
    ring(CONNECTION(0));
    assert_memory_equal(buffer, refused, 32);
    memcpy(buffer, info, 32);
    ring(CONNECTION(0));
    assert_memory_equal(buffer, told, 32);
    memcpy(buffer, dontneed, 32);
    ring(CONNECTION(0));
    assert_true(pages_hold(LEFT, 0, 1, 0));
}

static void the_vmm_is_told_of_every_answer(void **state)
{
    assert_hinted(EINVAL, page_size, MEMCTL_DONTNEED, gpa(LEFT, 0), 1, 7);
    assert_int_equal(fake.answered, 1);
    assert_int_equal(last_call.func_code, MEMCTL_DONTNEED);
    assert_int_equal(last_call.addr, gpa(LEFT, 0));
    assert_int_equal(last_call.length, 1);
    assert_int_equal(last_call.arg, 7);
    assert_int_equal(last_ret.ret_errno, EINVAL);
    assert_int_equal(last_ret.ret_code, MEMCTL_DONTNEED);
}

static void a_vmm_need_not_have_the_optional_functions(void **state)
{
    PvmemctlVmm vmm = fake_vmm;

    vmm.answered = NULL;
    vmm.begin = NULL;
    vmm.end = NULL;
    vmm.interrupted = NULL;
    core->vmm = &vmm;
    connect_buffers(1);
    put_request(BUFFER(0), MEMCTL_INFO, 0, -1, 0);
    assert_true(ring_doorbell(core, CONNECTION(0)));
    assert_int_equal(get_answer(BUFFER(0)).ret_value, page_size);
    put_request(BUFFER(0), MEMCTL_POPULATE, gpa(BIG, 0), 2 * page_size, 0);
    assert_true(ring_doorbell(core, CONNECTION(0)));
    assert_int_equal(get_answer(BUFFER(0)).ret_errno, 0);
    assert_int_equal(bytes_mapped(BIG, 0, 2 * page_size), 2 * page_size);
    put_request(BUFFER(0), MEMCTL_DONTNEED, gpa(BIG, 0), BIG_SIZE, 0);
    assert_true(ring_doorbell(core, CONNECTION(0)));
    assert_int_equal(get_answer(BUFFER(0)).ret_errno, 0);
    assert_int_equal(bytes_mapped(BIG, 0, 2 * page_size), 0);
    assert_int_equal(fake.answered, 0);
    core->vmm = &fake_vmm;
}

/* Registers */

static void the_payload_takes_8_bytes_or_4_and_4(void **state)
{
    /* TOP needs all 64 bits */
    const uint64_t buffer = gpa(TOP, 3) + 0x10;

    assert_int_equal(command(MEMCTL_CMD_RESET), ACK);
    assert_true(pvmemctl_core_write(core, 0, buffer, 8));
    assert_int_equal(read_payload(), buffer);
    assert_int_equal(command(MEMCTL_CMD_REGISTER), ACK);

    assert_true(pvmemctl_core_write(core, 0, (uint32_t)buffer, 4));
    assert_true(pvmemctl_core_write(core, 4, buffer >> 32, 4));
    assert_int_equal(read_payload(), buffer);
    assert_int_equal(command(MEMCTL_CMD_REGISTER), ACK);

    assert_true(pvmemctl_core_write(core, 4, buffer >> 32, 4));
    assert_true(pvmemctl_core_write(core, 0, (uint32_t)buffer, 4));
    assert_int_equal(read_payload(), buffer);
    assert_int_equal(command(MEMCTL_CMD_REGISTER), ACK);

    assert_int_equal(command(MEMCTL_CMD_READY), ACK);
    for (unsigned i = 0; i < 3; i++) {
        put_request(buffer, MEMCTL_INFO, 0, -1, 0);
        ring(CONNECTION(i));
        assert_int_equal(get_answer(buffer).ret_value, page_size);
    }
}

static void half_a_payload_leaves_the_other_half(void **state)
{
    assert_true(pvmemctl_core_write(core, 0, 0x1122334455667788, 8));
    assert_true(pvmemctl_core_write(core, 0, 0xaabbccdd, 4));
    assert_int_equal(read_payload(), 0x11223344aabbccdd);
    assert_true(pvmemctl_core_write(core, 4, 0xddccbbaa, 4));
    assert_int_equal(read_payload(), 0xddccbbaaaabbccdd);
}

static bool is_register(uint64_t offset, unsigned size)
{
    return (offset == 0 && (size == 4 || size == 8)) ||
           (offset == 4 && size == 4) || (offset == 8 && size == 4);
}

static void writes_of_other_widths_and_offsets_change_nothing(void **state)
{
    static const uint64_t values[] = {
        0, UINT64_MAX, MEMCTL_CMD_RESET, MEMCTL_CMD_DISCONNECT, ACK,
        MEMCTL_CONNECTION_BASE, (uint64_t)MEMCTL_CMD_RESET << 32,
        (uint64_t)MEMCTL_CMD_RESET << 32 | MEMCTL_CMD_RESET,
    };
    static const uint64_t far[] = {
        UINT64_C(1) << 32, (UINT64_C(1) << 32) + 8, INT64_MAX, UINT64_MAX - 7,
        UINT64_MAX - 3, UINT64_MAX,
    };
    PvmemctlCore *before = malloc(sizeof(*before));

    connect_buffers(1);
    put_request(BUFFER(0), MEMCTL_DONTNEED, gpa(LEFT, 0), page_size, 0);
    memcpy(before, core, sizeof(*before));
    for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
        for (unsigned size = 0; size <= 16; size++) {
            for (uint64_t offset = 0; offset <= 40; offset++) {
                if (!is_register(offset, size)) {
                    assert_false(pvmemctl_core_write(core, offset, values[i],
                                                     size));
                }
            }
            for (unsigned j = 0; j < ARRAY_SIZE(far); j++) {
                assert_false(pvmemctl_core_write(core, far[j], values[i],
                                                 size));
            }
        }
    }
    assert_memory_equal(core, before, sizeof(*core));
    free(before);
    assert_int_equal(fake.answered, 0);
    assert_true(all_untouched());
}

static void registers_read_at_every_offset_and_width(void **state)
{
    static const unsigned char bytes[16] = {
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
        0x96, 0x51, 0xcf, 0x03,
    };

    assert_int_equal(command(MEMCTL_CMD_RESET), ACK);
    assert_true(pvmemctl_core_write(core, 0, 0x1122334455667788, 8));
    for (unsigned size = 0; size <= 16; size++) {
        for (unsigned offset = 0; offset <= 40; offset++) {
            uint64_t want = 0;

            for (unsigned i = size; i-- && size <= 8 && offset + size <= 16; ) {
                want = want << 8 | bytes[offset + i];
            }
            assert_int_equal(pvmemctl_core_read(core, offset, size), want);
        }
        assert_int_equal(pvmemctl_core_read(core, INT64_MAX, size), 0);
        assert_int_equal(pvmemctl_core_read(core, UINT64_MAX, size), 0);
        assert_int_equal(pvmemctl_core_read(core, UINT64_MAX - 7, size), 0);
    }
    /* Reading changed nothing */
    assert_int_equal(read_payload(), 0x1122334455667788);
    assert_int_equal(read_answer(), ACK);
}

/* All of it at random */

static uint64_t random64(void)
{
    return (uint64_t)random() << 42 ^ (uint64_t)random() << 21 ^ random();
}

static uint64_t random_address(void)
{
    int region = random() % (TOP + 1);

    switch (random() % 8) {
    case 0:
        return random64();
    case 1:
        return gpa(region, random() % (REGION_PAGES + 2)) - 32 + random() % 64;
    default:
        return gpa(region, random() % (REGION_PAGES + 2));
    }
}

static uint64_t random_code(void)
{
    return random() % 20 ? (uint64_t)random() % (MEMCTL_VECTOR + 2)
                         : random64();
}

static void random_table(void)
{
    for (unsigned i = 0; i < 8; i++) {
        const struct memctl_vmm_range range = {
            random_address(), random() % REGION_PAGES * page_size,
        };

        put_table(TABLE + i * sizeof(range), &range, 1);
    }
}

static void a_hostile_guest_does_no_harm(void **state)
{
    static const uint32_t commands[] = {
        MEMCTL_CMD_RESET, MEMCTL_CMD_REGISTER, MEMCTL_CMD_REGISTER,
        MEMCTL_CMD_READY, MEMCTL_CMD_READY, MEMCTL_CMD_DISCONNECT, ACK, ERROR,
    };
    PvmemctlOptions options = core->options;

    /* Protection would make this VMM fault when it reads a buffer */
    options.allowed &= ~(UINT64_C(1) << MEMCTL_MPROTECT_NONE |
                         UINT64_C(1) << MEMCTL_MPROTECT_R);
    srandom(20);
    new_core(&options);
    for (unsigned i = 0; i < 100000; i++) {
        switch (random() % 8) {
        case 0:
            pvmemctl_core_write(core, random() % 20, random64(),
                                1 << random() % 4);
            break;
        case 1:
            pvmemctl_core_read(core, random() % 20, random() % 10);
            break;
        case 2:
            if (random() % 4) {
                connect_buffers(4);
            } else {
                command(commands[random() % ARRAY_SIZE(commands)]);
            }
            break;
        case 3:
            pvmemctl_core_write(core, MEMCTL_REG_PAYLOAD, random_address(), 8);
            command(MEMCTL_CMD_REGISTER);
            break;
        case 4:
            ring_doorbell(core, CONNECTION(random() % 6));
            break;
        case 5:
            random_table();
            put_request(BUFFER(0), MEMCTL_VECTOR,
                        random() % 8 ? TABLE : random_address(),
                        random() % 10, random_code());
            ring_doorbell(core, CONNECTION(0));
            break;
        default:
            put_request(BUFFER(0), random_code(), random_address(),
                        random() % (REGION_PAGES * 2) * page_size, random64());
            ring_doorbell(core, CONNECTION(0));
            break;
        }
        assert_true(core->nr_connections <= PVMEMCTL_MAX_CONNECTIONS);
    }
    assert_true(fake.answered > 1000);
    assert_true(pages_hold(ROM, 0, REGION_PAGES, pattern(ROM)));
    assert_true(only_flagged(ROM, 0, 0, "dd"));
    assert_int_equal(command(MEMCTL_CMD_DISCONNECT), ERROR);
    assert_broken();
}

static const struct CMUnitTest device_tests[] = {
    TEST(a_device_is_broken_at_power_on),
    TEST_1_0(a_device_is_broken_at_power_on),
    TEST(no_command_but_register_answers_in_the_payload),
    TEST(a_device_is_broken_after_a_system_reset),
    TEST(the_handshake_is_acknowledged),
    TEST_1_0(the_handshake_is_acknowledged),
    TEST(a_handshake_without_connections_is_acknowledged),
    TEST(register_before_reset_is_an_error),
    TEST(register_after_ready_is_an_error),
    TEST(ready_before_reset_is_an_error),
    TEST(ready_twice_is_an_error),
    TEST(an_answer_written_as_a_command_is_an_error),
    TEST(disconnect_answers_error_and_breaks_the_device),
    TEST_1_0(disconnect_answers_error_and_breaks_the_device),
    TEST(reset_forgets_all_connections),
    TEST_1_0(reset_forgets_all_connections),
    TEST(connections_count_from_the_base),
    TEST(register_leaves_the_buffer_alone),
    TEST(each_connection_has_its_own_buffer),
    TEST(buffers_may_have_any_alignment_and_lie_in_any_ram),
    TEST(a_buffer_outside_ram_is_an_error),
    TEST(ten_thousand_registers_hit_the_limit),
    TEST(the_last_connection_works),
    TEST(a_doorbell_before_ready_gets_no_answer),
    TEST(an_unknown_connection_gets_no_answer),
    TEST_1_0(an_unknown_connection_gets_no_answer),
    TEST(an_unknown_command_gets_no_answer),
    TEST(a_buffer_that_is_ram_no_more_gets_no_answer),
    TEST(a_buffer_unplugged_during_the_request_gets_no_answer),
    TEST(a_guest_cannot_protect_the_buffer_in_use),
    TEST_1_0(a_guest_cannot_protect_the_buffer_in_use),
    TEST(a_request_may_discard_its_own_buffer),
    TEST(the_wire_is_little_endian),
    TEST_1_0(the_wire_is_little_endian),
    TEST(the_vmm_is_told_of_every_answer),
    TEST(a_vmm_need_not_have_the_optional_functions),
    TEST(the_payload_takes_8_bytes_or_4_and_4),
    TEST(half_a_payload_leaves_the_other_half),
    TEST(writes_of_other_widths_and_offsets_change_nothing),
    TEST(registers_read_at_every_offset_and_width),
    TEST(a_hostile_guest_does_no_harm),
    TEST_1_0(a_hostile_guest_does_no_harm),
};
TEST_GROUP(device);
