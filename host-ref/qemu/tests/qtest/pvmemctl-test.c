/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QTest of the pvmemctl device: what a guest sees of it through PCI, that it
 * acts on guest RAM and on nothing else, and what the host's kernel holds
 * afterwards.  The protocol's corners have unit tests outside of QEMU; accesses
 * to protected memory and migration have tests of their own.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qobject/qlist.h"
#include "hw/pci/pci_ids.h"
#include "hw/pci/pci_regs.h"
#include "pvmemctl-util.h"

/* Not RAM on a q35: interrupt controllers, firmware */
#define IOAPIC      0xfec00000
#define APIC        0xfee00000
#define BIOS        0xffff0000

/* RAM or that firmware, as the chipset's PAM register has it */
#define PAM_ADDR    0xf0000
#define PAM_REG     0x90
#define PAM_RAM     0x30
#define PAM_RAM_RO  0x10
#define PAM_ROM     0x00

static void assert_answer(Device *d, int n, uint64_t code, uint64_t addr,
                          uint64_t length, uint32_t err, uint32_t ret_code)
{
    struct memctl_vmm_ret ret = ask(d, n, code, addr, length);

    g_assert_cmpuint(ret.ret_errno, ==, err);
    g_assert_cmpuint(ret.ret_code, ==, ret_code);
    g_assert_cmpuint(ret.ret_value, ==, 0);
    g_assert_cmpuint(ret.arg0, ==, 0);
    g_assert_cmpuint(ret.arg1, ==, 0);
}

static void fill_data(Device *d)
{
    qtest_memset(d->qts, DATA, 0xaa, DATA_SIZE);
}

static bool data_is(Device *d, uint64_t offset, uint64_t length, uint8_t want)
{
    return is_filled(d, DATA + offset, length, want);
}

/* Ring with a request to discard DATA in the buffer: nothing must happen */
static void assert_rings_in_vain(Device *d, uint32_t connection,
                                 uint64_t buffer)
{
    uint8_t before[32], after[32];

    fill_data(d);
    put_request(d, buffer, MEMCTL_DONTNEED, DATA, DATA_SIZE, 0);
    qtest_memread(d->qts, buffer, before, sizeof(before));
    qtest_writel(d->qts, d->bar + MEMCTL_REG_COMMAND, connection);
    qtest_memread(d->qts, buffer, after, sizeof(after));
    g_assert_cmpmem(before, sizeof(before), after, sizeof(after));
    g_assert_true(data_is(d, 0, DATA_SIZE, 0xaa));
}

/* Broken until RESET */
static void assert_broken(Device *d)
{
    g_assert_cmphex(read_answer(d), ==, MEMCTL_ANSWER_ERROR);
    assert_rings_in_vain(d, CONNECTION(0), BUFFER(0));
    g_assert_cmphex(register_buffer(d, BUFFER(0)), ==, MEMCTL_ANSWER_ERROR);
    g_assert_cmphex(command(d, MEMCTL_CMD_READY), ==, MEMCTL_ANSWER_ERROR);
    assert_rings_in_vain(d, CONNECTION(0), BUFFER(0));
    handshake(d, 1);
    assert_info_works(d, 0);
}

static void test_pci(void)
{
    Machine m;
    Device d = device_start(&m, "");

    g_assert_cmphex(qpci_config_readw(d.pci, PCI_VENDOR_ID), ==, 0x1ae0);
    g_assert_cmphex(qpci_config_readw(d.pci, PCI_DEVICE_ID), ==, 0x0087);
    g_assert_cmphex(qpci_config_readw(d.pci, PCI_SUBSYSTEM_VENDOR_ID), ==,
                    0x1ae0);
    g_assert_cmphex(qpci_config_readw(d.pci, PCI_SUBSYSTEM_ID), ==, 0x011f);
    g_assert_cmphex(qpci_config_readw(d.pci, PCI_CLASS_DEVICE), ==, 0x0880);
    g_assert_cmpuint(qpci_config_readb(d.pci, PCI_INTERRUPT_PIN), ==, 0);
    /* BAR 0 and no other: 32-bit memory, not prefetchable */
    g_assert_cmpuint(d.bar_size, ==, 16);
    g_assert_cmphex(qpci_config_readl(d.pci, PCI_BASE_ADDRESS_0) & 0xf, ==, 0);
    for (int reg = PCI_BASE_ADDRESS_1; reg <= PCI_BASE_ADDRESS_5; reg += 4) {
        qpci_config_writel(d.pci, reg, 0xffffffff);
        g_assert_cmphex(qpci_config_readl(d.pci, reg), ==, 0);
    }
    device_stop(&m, &d);
}

static void test_handshake(void)
{
    Machine m;
    Device d = device_start(&m, "");

    assert_broken(&d);
    handshake(&d, 3);
    for (int i = 0; i < 3; i++) {
        assert_info_works(&d, i);
    }
    /* Bus mastering is nothing to this device */
    qpci_config_writew(d.pci, PCI_COMMAND, PCI_COMMAND_MEMORY);
    assert_info_works(&d, 0);
    g_assert_cmphex(command(&d, MEMCTL_CMD_DISCONNECT), ==,
                    MEMCTL_ANSWER_ERROR);
    assert_broken(&d);
    g_assert_cmphex(register_buffer(&d, BUFFER(1)), ==, MEMCTL_ANSWER_ERROR);
    assert_broken(&d);
    device_stop(&m, &d);
}

static void test_payload_halves(void)
{
    Machine m;
    Device d = device_start(&m, "");

    g_assert_cmphex(command(&d, MEMCTL_CMD_RESET), ==, MEMCTL_ANSWER_ACK);
    qtest_writel(d.qts, d.bar + MEMCTL_REG_PAYLOAD, 0x55667788);
    qtest_writel(d.qts, d.bar + MEMCTL_REG_PAYLOAD + 4, 0x11223344);
    g_assert_cmphex(qtest_readq(d.qts, d.bar), ==, 0x1122334455667788);
    g_assert_cmphex(qtest_readl(d.qts, d.bar), ==, 0x55667788);
    g_assert_cmphex(qtest_readl(d.qts, d.bar + 4), ==, 0x11223344);
    qtest_writel(d.qts, d.bar + MEMCTL_REG_PAYLOAD + 4, 0);
    qtest_writel(d.qts, d.bar + MEMCTL_REG_PAYLOAD, BUFFER(0));
    g_assert_cmphex(command(&d, MEMCTL_CMD_REGISTER), ==, MEMCTL_ANSWER_ACK);
    g_assert_cmphex(command(&d, MEMCTL_CMD_READY), ==, MEMCTL_ANSWER_ACK);
    assert_info_works(&d, 0);
    device_stop(&m, &d);
}

static void test_dontneed(void)
{
    Machine m;
    Device d = device_start(&m, "");

    handshake(&d, 1);
    fill_data(&d);
    assert_answer(&d, 0, MEMCTL_DONTNEED, DATA + 4 * PAGE, 3 * PAGE, 0, 0);
    g_assert_true(data_is(&d, 0, 4 * PAGE, 0xaa));
    g_assert_true(data_is(&d, 4 * PAGE, 3 * PAGE, 0));
    g_assert_true(data_is(&d, 7 * PAGE, DATA_SIZE - 7 * PAGE, 0xaa));
    device_stop(&m, &d);
}

/* A refusal without anything done; @granule: why, if that is alignment */
static void assert_refused(Device *d, uint64_t code, uint64_t addr,
                           uint64_t length, uint32_t err, uint64_t granule)
{
    struct memctl_vmm_ret ret = ask(d, 0, code, addr, length);

    g_assert_cmpuint(ret.ret_errno, ==, err);
    g_assert_cmpuint(ret.ret_code, ==, (uint32_t)code);
    g_assert_cmpuint(ret.ret_value, ==, granule);
    g_assert_cmpuint(ret.arg0, ==, 0);
    g_assert_cmpuint(ret.arg1, ==, 0);
}

/* The codes that take a range */
static bool has_range(int code)
{
    return (code >= MEMCTL_DONTNEED && code <= MEMCTL_UNMERGEABLE) ||
           (code >= MEMCTL_ZERO && code <= MEMCTL_COLD);
}

static void test_bad_requests(void)
{
    Machine m;
    Device d = device_start(&m, ",allow=all");
    const uint64_t ranges[][3] = {
        { DATA, 0, PAGE }, { DATA + 1, PAGE, PAGE }, { DATA, PAGE - 1, PAGE },
        { -PAGE, PAGE }, { -PAGE, 2 * PAGE },
        { RAM_SIZE, PAGE }, { IOAPIC, PAGE }, { APIC, PAGE }, { BIOS, PAGE },
        { BIOS + BIOS_SIZE - PAGE, 2 * PAGE },
        { d.bar & ~(uint64_t)(PAGE - 1), PAGE },
    };
    /* Begin in RAM */
    const uint64_t across[][2] = {
        { DATA, RAM_SIZE }, { RAM_SIZE - PAGE, 2 * PAGE },
    };

    handshake(&d, 1);
    fill_data(&d);
    for (int code = 0; code < 64; code++) {
        if (!has_range(code)) {
            continue;
        }
        for (int i = 0; i < ARRAY_SIZE(ranges); i++) {
            assert_refused(&d, code, ranges[i][0], ranges[i][1], EINVAL,
                           ranges[i][2]);
        }
        /* More than a doorbell may carry, and it wraps */
        assert_refused(&d, code, DATA, -PAGE, E2BIG, GiB);
        if (code == MEMCTL_REMOVE || code == MEMCTL_PAGEOUT) {
            continue;
        }
        for (int i = 0; i < ARRAY_SIZE(across); i++) {
            assert_refused(&d, code, across[i][0], across[i][1], EINVAL, 0);
        }
    }
    for (int code = MEMCTL_UNMERGEABLE + 1; code < 64; code++) {
        if (code < MEMCTL_QUERY || code > MEMCTL_VECTOR) {
            assert_answer(&d, 0, code, DATA, PAGE, EOPNOTSUPP, code);
        }
    }
    assert_answer(&d, 0, -1, DATA, PAGE, EOPNOTSUPP, UINT32_MAX);
    assert_answer(&d, 0, 1ULL << 32 | MEMCTL_DONTNEED, DATA, PAGE, EOPNOTSUPP,
                  MEMCTL_DONTNEED);
    /* Guest RAM is private memory here: nothing to remove it from */
    assert_answer(&d, 0, MEMCTL_REMOVE, DATA, PAGE, EOPNOTSUPP, MEMCTL_REMOVE);
    g_assert_true(data_is(&d, 0, DATA_SIZE, 0xaa));
    device_stop(&m, &d);
}

/* A host of 1.0 makes the system call, and has no more functions */
static void test_protocol_1_0(void)
{
    Machine m;
    Device d = device_start(&m, ",allow=all,x-protocol=1.0");
    g_autofree char *before = host_attributes(m.qts, 0, RAM_SIZE);
    g_autofree char *set = NULL, *after = NULL;
    QDict *info, *device;

    handshake(&d, 1);
    assert_info(&d, 0, 0);
    fill_data(&d);
    for (int code = MEMCTL_UNMERGEABLE + 1; code < 64; code++) {
        assert_answer(&d, 0, code, DATA, PAGE, EOPNOTSUPP, code);
    }
    assert_answer(&d, 0, MEMCTL_DONTNEED, DATA, PAGE - 1, EINVAL,
                  MEMCTL_DONTNEED);
    assert_answer(&d, 0, MEMCTL_REMOVE, DATA, PAGE, EINVAL, 0);
    /* Nothing to undo, and that is success */
    assert_answer(&d, 0, MEMCTL_MUNLOCK, DATA, PAGE, 0, 0);
    g_assert_true(data_is(&d, 0, DATA_SIZE, 0xaa));

    info = query_pvmemctl(m.qts);
    device = qobject_to(QDict, qlist_peek(qdict_get_qlist(info, "devices")));
    g_assert_cmpstr(qdict_get_str(device, "protocol"), ==, "1.0");
    qobject_unref(info);

    /* It leaves what it has set to the guest, but not to the next guest */
    assert_answer(&d, 0, MEMCTL_DONTDUMP, DATA, DATA_SIZE, 0, 0);
    assert_answer(&d, 0, MEMCTL_MPROTECT_NONE, DATA, DATA_SIZE, 0, 0);
    assert_answer(&d, 0, MEMCTL_MPROTECT_R, DATA + DATA_SIZE, PAGE, 0, 0);
    set = host_attributes(m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(set, !=, before);
    handshake(&d, 1);
    after = host_attributes(m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(after, ==, set);
    command(&d, MEMCTL_CMD_DISCONNECT);
    g_free(after);
    after = host_attributes(m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(after, ==, set);
    g_assert_cmpuint(query_ledger(m.qts), ==, 3);

    qtest_system_reset(m.qts);
    g_free(after);
    after = host_attributes(m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(after, ==, before);
    g_assert_cmpuint(query_ledger(m.qts), ==, 0);
    g_assert_true(host_is_filled(m.qts, DATA, DATA_SIZE, 0xaa));
    device_stop(&m, &d);
}

/* What is not default, by name as the operator sees it */
static void assert_bad_property(QTestState *qts, const char *property,
                                const char *value, const char *want)
{
    g_autofree char *json = g_strdup_printf(
        "{ 'execute': 'device_add', 'arguments': {"
        " 'driver': 'pvmemctl', 'id': 'bad', '%s': %s } }", property, value);
    QDict *rsp = qtest_qmp(qts, json, NULL), *error;

    error = qdict_get_qdict(rsp, "error");
    g_assert_nonnull(error);
    if (!strstr(qdict_get_str(error, "desc"), want)) {
        g_test_message("'%s' has no '%s'", qdict_get_str(error, "desc"), want);
        g_test_fail();
    }
    qobject_unref(rsp);
}

static void test_bad_properties(void)
{
    QTestState *qts = qemu_start("pc", "");

    assert_bad_property(qts, "x-protocol", "'2.0'",
                        "x-protocol=2.0 is neither 1.0 nor 1.1");
    assert_bad_property(qts, "x-protocol", "''", "is neither 1.0 nor 1.1");
    assert_bad_property(qts, "on-guard", "'panic'", "panic");
    assert_bad_property(qts, "max-ranges", "511",
                        "max-ranges=511 is not between 512 and 32768");
    assert_bad_property(qts, "max-ranges", "32769", "is not between");
    assert_bad_property(qts, "max-ranges", "-1", "max-ranges");
    assert_bad_property(qts, "rate-limit", "9223372036854775808",
                        "rate-limit=9223372036854775808 is too much");
    /* The limits are the process's */
    qtest_qmp_device_add(qts, "pvmemctl", "a",
                         "{ 'max-ranges': 1024, 'max-locked': 65536 }");
    assert_bad_property(qts, "max-ranges", "2048",
                        "another device has 1024 and 65536");
    assert_bad_property(qts, "max-ranges", "1024", "another device has");
    qtest_qmp_device_add(qts, "pvmemctl", "b",
                         "{ 'max-ranges': 1024, 'max-locked': 65536 }");
    qtest_quit(qts);
}

static void test_rom_range(void)
{
    Machine m;
    Device d = device_start(&m, "");
    QPCIDevice *chipset = qpci_device_find(m.bus, 0);

    handshake(&d, 1);
    qpci_config_writeb(chipset, PAM_REG, PAM_RAM);
    qtest_memset(d.qts, PAM_ADDR, 0xaa, PAGE);
    qpci_config_writeb(chipset, PAM_REG, PAM_RAM_RO);
    assert_answer(&d, 0, MEMCTL_DONTNEED, PAM_ADDR, PAGE, EINVAL,
                  MEMCTL_DONTNEED);
    g_assert_cmphex(qtest_readb(d.qts, PAM_ADDR), ==, 0xaa);
    qpci_config_writeb(chipset, PAM_REG, PAM_RAM);
    assert_answer(&d, 0, MEMCTL_DONTNEED, PAM_ADDR, PAGE, 0, 0);
    g_assert_cmphex(qtest_readb(d.qts, PAM_ADDR), ==, 0);
    g_free(chipset);
    device_stop(&m, &d);
}

static void test_buffer_not_ram(void)
{
    Machine m;
    Device d = device_start(&m, "");
    const uint64_t bad[] = {
        RAM_SIZE, RAM_SIZE - 1, RAM_SIZE - 31, IOAPIC, APIC, d.bar, d.bar - 16,
        1ULL << 32, 1ULL << 52, -1ULL, -16ULL, -32ULL,
    };

    for (int i = 0; i < ARRAY_SIZE(bad); i++) {
        g_assert_cmphex(command(&d, MEMCTL_CMD_RESET), ==, MEMCTL_ANSWER_ACK);
        g_assert_cmphex(register_buffer(&d, bad[i]), ==, MEMCTL_ANSWER_ERROR);
        assert_broken(&d);
    }
    /* The last place that is RAM */
    g_assert_cmphex(command(&d, MEMCTL_CMD_RESET), ==, MEMCTL_ANSWER_ACK);
    g_assert_cmphex(register_buffer(&d, RAM_SIZE - 32), ==, MEMCTL_ANSWER_ACK);
    device_stop(&m, &d);
}

static void test_buffer_rom(void)
{
    static const uint64_t bad[] = { BIOS, BIOS - 16, PAM_ADDR, PAM_ADDR - 16 };
    Machine m;
    Device d = device_start(&m, "");

    for (int i = 0; i < ARRAY_SIZE(bad); i++) {
        g_assert_cmphex(command(&d, MEMCTL_CMD_RESET), ==, MEMCTL_ANSWER_ACK);
        g_assert_cmphex(register_buffer(&d, bad[i]), ==, MEMCTL_ANSWER_ERROR);
        assert_broken(&d);
    }
    device_stop(&m, &d);
}

/* Kept in RAM by QEMU, but not the guest's: shared memory, video memory */
static void memory_of_device(const char *args, int bar)
{
    Machine m = machine_start(args);
    Device d = device_find(&m, 4);
    QPCIDevice *other = qpci_device_find(m.bus, QPCI_DEVFN(5, 0));
    uint64_t addr;

    g_assert_nonnull(other);
    qpci_device_enable(other);
    addr = qpci_iomap(other, bar, NULL).addr;
    qtest_memset(d.qts, addr, 0xaa, PAGE);
    g_assert_cmphex(qtest_readb(d.qts, addr), ==, 0xaa);

    handshake(&d, 1);
    for (int code = 0; code < 64; code++) {
        if (has_range(code)) {
            assert_answer(&d, 0, code, addr, PAGE, EINVAL, code);
        }
    }
    g_assert_cmpuint(ask_arg(&d, 0, MEMCTL_QUERY, addr, -1, PAGE).ret_errno,
                     ==, EINVAL);
    g_assert_cmphex(qtest_readb(d.qts, addr), ==, 0xaa);

    g_assert_cmphex(command(&d, MEMCTL_CMD_RESET), ==, MEMCTL_ANSWER_ACK);
    g_assert_cmphex(register_buffer(&d, addr), ==, MEMCTL_ANSWER_ERROR);
    assert_broken(&d);
    g_free(other);
    device_stop(&m, &d);
}

static void test_shared_memory(void)
{
    memory_of_device("-device pvmemctl,addr=04.0,allow=all "
                     "-object memory-backend-ram,id=shm,size=1M,share=on "
                     "-device ivshmem-plain,memdev=shm,addr=05.0", 2);
}

static void test_video_memory(void)
{
    memory_of_device("-device pvmemctl,addr=04.0,allow=all "
                     "-device bochs-display,addr=05.0,romfile=", 0);
}

/* Main memory made of several backends is as good as one */
static void test_numa(void)
{
    Machine m = machine_start(
        "-object memory-backend-ram,id=n0,size=32M "
        "-object memory-backend-ram,id=n1,size=32M "
        "-numa node,memdev=n0 -numa node,memdev=n1 "
        "-device pvmemctl,addr=04.0");
    Device d = device_find(&m, 4);

    handshake(&d, 1);
    qtest_memset(m.qts, 32 * MiB - PAGE, 0xaa, 2 * PAGE);
    assert_answer(&d, 0, MEMCTL_DONTNEED, 32 * MiB - PAGE, 2 * PAGE, 0, 0);
    g_assert_cmphex(qtest_readb(m.qts, 32 * MiB - 1), ==, 0);
    g_assert_cmphex(qtest_readb(m.qts, 32 * MiB), ==, 0);
    device_stop(&m, &d);
}

/* A buffer that was RAM when it was registered, and is not any more */
static void buffer_becomes(uint8_t pam)
{
    Machine m;
    Device d = device_start(&m, "");
    QPCIDevice *chipset = qpci_device_find(m.bus, 0);

    qpci_config_writeb(chipset, PAM_REG, PAM_RAM);
    g_assert_cmphex(command(&d, MEMCTL_CMD_RESET), ==, MEMCTL_ANSWER_ACK);
    g_assert_cmphex(register_buffer(&d, PAM_ADDR), ==, MEMCTL_ANSWER_ACK);
    g_assert_cmphex(command(&d, MEMCTL_CMD_READY), ==, MEMCTL_ANSWER_ACK);
    put_request(&d, PAM_ADDR, MEMCTL_DONTNEED, DATA, DATA_SIZE, 0);
    qpci_config_writeb(chipset, PAM_REG, pam);
    assert_rings_in_vain(&d, CONNECTION(0), PAM_ADDR);

    /* The device works on, and so does the connection once it is RAM again */
    qpci_config_writeb(chipset, PAM_REG, PAM_RAM);
    put_request(&d, PAM_ADDR, MEMCTL_DONTNEED, DATA, DATA_SIZE, 0);
    qtest_writel(d.qts, d.bar + MEMCTL_REG_COMMAND, CONNECTION(0));
    g_assert_true(data_is(&d, 0, DATA_SIZE, 0));
    g_free(chipset);
    device_stop(&m, &d);
}

static void test_buffer_becomes_rom(void)
{
    buffer_becomes(PAM_ROM);
}

static void test_buffer_becomes_read_only(void)
{
    buffer_becomes(PAM_RAM_RO);
}

static void test_unknown_command(void)
{
    static const uint32_t unknown[] = {
        0, 1, 0x7fffffff, CONNECTION(2), CONNECTION(4096), 0xffffffff,
        MEMCTL_CMD_RESET + 1, MEMCTL_CMD_RESET | MEMCTL_CONNECTION_BASE,
    };
    Machine m;
    Device d = device_start(&m, "");

    handshake(&d, 2);
    for (int i = 0; i < ARRAY_SIZE(unknown); i++) {
        assert_rings_in_vain(&d, unknown[i], BUFFER(0));
        g_assert_cmphex(read_answer(&d), ==, MEMCTL_ANSWER_ACK);
    }
    assert_info_works(&d, 0);
    assert_info_works(&d, 1);

    g_assert_cmphex(command(&d, MEMCTL_ANSWER_ACK), ==, MEMCTL_ANSWER_ERROR);
    assert_broken(&d);
    g_assert_cmphex(command(&d, MEMCTL_ANSWER_ERROR), ==, MEMCTL_ANSWER_ERROR);
    assert_broken(&d);
    device_stop(&m, &d);
}

static void test_wide_command(void)
{
    static const uint32_t values[] = {
        MEMCTL_CMD_RESET, MEMCTL_CMD_DISCONNECT, CONNECTION(0),
    };
    Machine m;
    Device d = device_start(&m, "");

    handshake(&d, 1);
    fill_data(&d);
    put_request(&d, BUFFER(0), MEMCTL_DONTNEED, DATA, DATA_SIZE, 0);
    for (int i = 0; i < ARRAY_SIZE(values); i++) {
        qtest_writeq(d.qts, d.bar + MEMCTL_REG_COMMAND, values[i]);
        qtest_writew(d.qts, d.bar + MEMCTL_REG_COMMAND, values[i]);
        qtest_writeb(d.qts, d.bar + MEMCTL_REG_COMMAND, values[i]);
        qtest_writel(d.qts, d.bar + MEMCTL_REG_COMMAND + 4, values[i]);
        g_assert_cmphex(read_answer(&d), ==, MEMCTL_ANSWER_ACK);
    }
    g_assert_true(data_is(&d, 0, DATA_SIZE, 0xaa));
    assert_info_works(&d, 0);
    device_stop(&m, &d);
}

static void test_register_before_reset(void)
{
    Machine m;
    Device d = device_start(&m, "");

    g_assert_cmphex(register_buffer(&d, BUFFER(0)), ==, MEMCTL_ANSWER_ERROR);
    assert_broken(&d);
    device_stop(&m, &d);
}

static void test_many_registers(void)
{
    Machine m;
    Device d = device_start(&m, "");
    int acked = 0;

    g_assert_cmphex(command(&d, MEMCTL_CMD_RESET), ==, MEMCTL_ANSWER_ACK);
    for (int i = 0; i < 4200; i++) {
        acked += register_buffer(&d, BUFFER(0)) == MEMCTL_ANSWER_ACK;
    }
    g_assert_cmpint(acked, ==, 4096);
    assert_broken(&d);
    device_stop(&m, &d);
}

static void test_two_devices(void)
{
    Machine m = machine_start("-device pvmemctl,addr=04.0,allow=dontneed "
                              "-device pvmemctl,addr=05.0,allow=free");
    Device a = device_find(&m, 4);
    Device b = device_find(&m, 5);

    handshake(&a, 2);
    assert_broken(&b);              /* leaves it connected */
    assert_rings_in_vain(&b, CONNECTION(1), BUFFER(1));
    assert_info_works(&a, 1);

    /* Each its own policy */
    assert_answer(&a, 0, MEMCTL_FREE, DATA, PAGE, EPERM, MEMCTL_FREE);
    assert_answer(&b, 0, MEMCTL_FREE, DATA, PAGE, 0, 0);
    assert_answer(&b, 0, MEMCTL_DONTNEED, DATA, PAGE, EPERM, MEMCTL_DONTNEED);
    assert_answer(&a, 0, MEMCTL_DONTNEED, DATA, PAGE, 0, 0);

    g_assert_cmphex(command(&a, MEMCTL_CMD_DISCONNECT), ==,
                    MEMCTL_ANSWER_ERROR);
    g_assert_cmphex(read_answer(&b), ==, MEMCTL_ANSWER_ACK);
    assert_info_works(&b, 0);
    device_free(&b);
    device_stop(&m, &a);
}

static void test_system_reset(void)
{
    Machine m;
    Device d = device_start(&m, "");

    handshake(&d, 1);
    assert_info_works(&d, 0);
    qtest_system_reset(m.qts);
    device_map(&d);
    g_assert_cmphex(qtest_readq(d.qts, d.bar + MEMCTL_REG_PAYLOAD), ==, 0);
    assert_broken(&d);
    device_stop(&m, &d);
}

static void test_policy(void)
{
    Machine m;
    Device d = device_start(&m, ",allow=default");

    handshake(&d, 1);
    fill_data(&d);
    assert_answer(&d, 0, MEMCTL_MLOCK, DATA, PAGE, EPERM, MEMCTL_MLOCK);
    assert_answer(&d, 0, MEMCTL_MERGEABLE, DATA, PAGE, EPERM, MEMCTL_MERGEABLE);
    assert_answer(&d, 0, MEMCTL_MUNLOCK, DATA, PAGE, 0, 0);
    device_stop(&m, &d);

    d = device_start(&m, ",allow=free:info");
    handshake(&d, 1);
    fill_data(&d);
    assert_answer(&d, 0, MEMCTL_DONTNEED, DATA, PAGE, EPERM, MEMCTL_DONTNEED);
    g_assert_true(data_is(&d, 0, DATA_SIZE, 0xaa));
    assert_answer(&d, 0, MEMCTL_FREE, DATA, PAGE, 0, 0);
    device_stop(&m, &d);
}

static void test_bad_policy(void)
{
    static const char *const bad[][2] = {
        { "nonsense", "nonsense" },
        { "free:mprotect:rubbish", "mprotect" },
        { "free:", "" },
        { "FREE", "FREE" },
    };
    /* A bus that takes a new device, to see what it says */
    QTestState *qts = qemu_start("pc", "");

    for (int i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autofree char *want = g_strdup_printf(
            "allow=%s: no function is named '%s'", bad[i][0], bad[i][1]);
        QDict *rsp = qtest_qmp_assert_failure_ref(qts,
            "{ 'execute': 'device_add', 'arguments': {"
            " 'driver': 'pvmemctl', 'id': 'd', 'allow': %s } }", bad[i][0]);

        g_assert_cmpstr(qdict_get_str(rsp, "desc"), ==, want);
        qobject_unref(rsp);
    }
    qtest_qmp_assert_success(qts,
        "{ 'execute': 'device_add', 'arguments': {"
        " 'driver': 'pvmemctl', 'id': 'd', 'allow': 'default:mlock' } }");
    qtest_quit(qts);
}

/* Kinds of memory, and what must be seen of each function from outside */

#define BIT(code)   (1ull << (code))
#define ANYWHERE    (BIT(MEMCTL_INFO) | BIT(MEMCTL_QUERY) | \
                     BIT(MEMCTL_VECTOR) | BIT(MEMCTL_ZERO) | \
                     BIT(MEMCTL_POPULATE) | BIT(MEMCTL_DONTDUMP) | \
                     BIT(MEMCTL_DODUMP) | BIT(MEMCTL_MPROTECT_NONE) | \
                     BIT(MEMCTL_MPROTECT_R) | BIT(MEMCTL_MPROTECT_W) | \
                     BIT(MEMCTL_MPROTECT_RW))
#define NOT_HUGE    (BIT(MEMCTL_MLOCK) | BIT(MEMCTL_MUNLOCK) | \
                     BIT(MEMCTL_COLD))
#define MERGE       (BIT(MEMCTL_MERGEABLE) | BIT(MEMCTL_UNMERGEABLE))
#define HUGE        (BIT(MEMCTL_HUGEPAGE) | BIT(MEMCTL_NOHUGEPAGE))

#define RANGE       (4 * MiB)   /* at DATA: two huge pages */
#define HUGE_PAGE   (2 * MiB)

typedef struct Backing {
    const char *path;
    const char *args;
    uint64_t works;
    uint64_t page_size;
    bool file;                  /* a regular one, made by us */
    bool pages_out;             /* also without swap */
} Backing;

#define MAIN "-machine memory-backend=ram -object memory-backend-"

static const Backing backings[] = {
    {
        "/pvmemctl/backing/private", "",
        ANYWHERE | NOT_HUGE | MERGE | HUGE | BIT(MEMCTL_DONTNEED) |
        BIT(MEMCTL_FREE) | BIT(MEMCTL_SET_VMA_ANON_NAME), PAGE,
    }, {
        "/pvmemctl/backing/memfd", MAIN "memfd,id=ram,size=64M",
        ANYWHERE | NOT_HUGE | HUGE | BIT(MEMCTL_REMOVE), PAGE,
    }, {
        "/pvmemctl/backing/private-file",
        MAIN "file,id=ram,size=64M,share=off,mem-path=",
        ANYWHERE | NOT_HUGE | MERGE | BIT(MEMCTL_DONTNEED), PAGE,
        .file = true, .pages_out = true,
    }, {
        "/pvmemctl/backing/shared-file",
        MAIN "file,id=ram,size=64M,share=on,mem-path=",
        ANYWHERE | NOT_HUGE | BIT(MEMCTL_REMOVE), PAGE,
        .file = true, .pages_out = true,
    }, {
        "/pvmemctl/backing/private-hugetlb",
        MAIN "memfd,id=ram,size=64M,share=off,hugetlb=on,hugetlbsize=2M",
        ANYWHERE | BIT(MEMCTL_DONTNEED), HUGE_PAGE,
    }, {
        "/pvmemctl/backing/shared-hugetlb",
        MAIN "memfd,id=ram,size=64M,hugetlb=on,hugetlbsize=2M",
        ANYWHERE | BIT(MEMCTL_REMOVE), HUGE_PAGE,
    },
};

static bool is_shared(const Backing *b)
{
    return b->works & BIT(MEMCTL_REMOVE);
}

static uint64_t works_on(const Backing *b)
{
    bool small = b->page_size == PAGE;
    uint64_t works = b->works;

    if (small && (b->pages_out || host_has_swap())) {
        works |= BIT(MEMCTL_PAGEOUT);
    }
    if (!host_has_names()) {
        works &= ~BIT(MEMCTL_SET_VMA_ANON_NAME);
    }
    if (!host_has_ksm()) {
        works &= ~MERGE;
    }
    if (!host_has_thp()) {
        works &= ~HUGE;
    }
    return works;
}

static void check_query(Device *d, const Backing *b)
{
    struct memctl_vmm_ret ret = ask_arg(d, 0, MEMCTL_QUERY, DATA, -1, RANGE);

    g_assert_cmpuint(ret.ret_errno, ==, 0);
    g_assert_cmphex(ret.ret_value, ==, works_on(b));
    g_assert_cmpuint(ret.arg0, ==, MEMCTL_VECTOR_MAX);
    g_assert_cmpuint(ret.arg1, ==, b->page_size);
    /* All RAM is alike here */
    ret = ask_arg(d, 0, MEMCTL_QUERY, 0, -1, 0);
    g_assert_cmphex(ret.ret_value, ==, works_on(b));
    g_assert_cmpuint(ret.arg1, ==, b->page_size);
    ret = ask_arg(d, 0, MEMCTL_QUERY, RAM_SIZE, -1, PAGE);
    g_assert_cmpuint(ret.ret_errno, ==, EINVAL);

    for (int code = 0; code < 64; code++) {
        if (has_range(code) && !(works_on(b) & BIT(code))) {
            assert_answer(d, 0, code, DATA, RANGE, EOPNOTSUPP, code);
        }
    }
    if (b->page_size > PAGE) {
        assert_refused(d, is_shared(b) ? MEMCTL_REMOVE : MEMCTL_DONTNEED,
                       DATA + PAGE, HUGE_PAGE, EINVAL, HUGE_PAGE);
        assert_refused(d, MEMCTL_MPROTECT_NONE, DATA, PAGE, EINVAL, HUGE_PAGE);
    }
    g_assert_true(is_filled(d, DATA, RANGE, 0xaa));
}

/* Bytes that the host spends on the range, and on the rest of the file */
static uint64_t spent(Device *d, const Backing *b)
{
    return is_shared(b) ? host_file_bytes(d->qts, DATA)
                        : host_present(d->qts, DATA, RANGE);
}

static void check_release(Device *d, const Backing *b)
{
    const int release = is_shared(b) ? MEMCTL_REMOVE : MEMCTL_DONTNEED;
    /* Read back from the file */
    const uint8_t old = b->file && !is_shared(b) ? 0x55 : 0;
    uint64_t before;

    fill(d, DATA, RANGE);
    before = spent(d, b);
    ask_ok(d, release, DATA, RANGE);
    g_assert_cmpuint(spent(d, b), <=, before - RANGE);
    g_assert_true(is_filled(d, DATA, RANGE, old));

    ask_ok(d, release, DATA, RANGE);
    before = spent(d, b);
    ask_ok(d, MEMCTL_POPULATE, DATA, RANGE);
    g_assert_cmpuint(host_present(d->qts, DATA, RANGE), ==, RANGE);
    g_assert_cmpuint(spent(d, b), >=, before + RANGE);

    fill(d, DATA - PAGE, RANGE + 2 * PAGE);
    before = spent(d, b);
    ask_ok(d, MEMCTL_ZERO, DATA, RANGE);
    if (old) {
        g_assert_cmpuint(host_present(d->qts, DATA, RANGE), ==, RANGE);
    } else {
        g_assert_cmpuint(spent(d, b), <=, before - RANGE);
    }
    g_assert_true(is_filled(d, DATA, RANGE, 0));
    g_assert_true(is_filled(d, DATA - PAGE, PAGE, 0xaa));
    g_assert_true(is_filled(d, DATA + RANGE, PAGE, 0xaa));

    if (b->page_size > PAGE) {
        assert_refused(d, MEMCTL_ZERO, DATA + PAGE, PAGE, EINVAL,
                       b->page_size);
    }

    if (b->works & BIT(MEMCTL_FREE)) {
        fill(d, DATA, RANGE);
        ask_ok(d, MEMCTL_FREE, DATA, RANGE);
        g_assert_cmpuint(host_range(d->qts, DATA, RANGE, NULL, NULL).lazyfree,
                         >, 0);
    }
}

static void check_flag(Device *d, int set, int undo, const char *flag,
                       bool has)
{
    QTestState *qts = d->qts;

    g_assert_true(has ? host_lacks_flag(qts, DATA, RANGE, flag)
                      : host_has_flag(qts, DATA, RANGE, flag));
    ask_ok(d, set, DATA, RANGE);
    g_assert_true(has ? host_has_flag(qts, DATA, RANGE, flag)
                      : host_lacks_flag(qts, DATA, RANGE, flag));
    g_assert_cmpuint(query_ledger(qts), ==, 1);
    ask_ok(d, undo, DATA, RANGE);
    g_assert_true(has ? host_lacks_flag(qts, DATA, RANGE, flag)
                      : host_has_flag(qts, DATA, RANGE, flag));
    g_assert_cmpuint(query_ledger(qts), ==, 0);
}

static void check_protection(Device *d)
{
    HostRange r;

    fill(d, DATA, RANGE);
    ask_ok(d, MEMCTL_MPROTECT_R, DATA, RANGE);
    r = host_range(d->qts, DATA, RANGE, NULL, NULL);
    g_assert_cmpuint(r.read_only, ==, RANGE);
    g_assert_true(is_filled(d, DATA, RANGE, 0xaa));
    ask_ok(d, MEMCTL_MPROTECT_NONE, DATA, RANGE);
    g_assert_true(host_is_protected(d->qts, DATA, RANGE));
    /* Acts as RW: there is no memory that can be written and not be read */
    ask_ok(d, MEMCTL_MPROTECT_W, DATA, RANGE);
    g_assert_true(host_is_writable(d->qts, DATA, RANGE));
    g_assert_cmpuint(query_ledger(d->qts), ==, 0);
    ask_ok(d, MEMCTL_MPROTECT_NONE, DATA, RANGE);
    ask_ok(d, MEMCTL_MPROTECT_RW, DATA, RANGE);
    g_assert_true(host_is_writable(d->qts, DATA, RANGE));
    g_assert_true(is_filled(d, DATA, RANGE, 0xaa));
    g_assert_cmpuint(query_number(d->qts, "guard-hits"), ==, 0);
}

static void check_name(Device *d)
{
    struct memctl_vmm_ret ret;

    ret = ask_arg(d, 0, MEMCTL_SET_VMA_ANON_NAME, DATA, RANGE, 4711);
    if (!host_has_names()) {
        g_assert_cmpuint(ret.ret_errno, ==, EOPNOTSUPP);
        return;
    }
    g_assert_cmpuint(ret.ret_errno, ==, 0);
    g_assert_cmpuint(host_range(d->qts, DATA, RANGE, NULL,
                                "[anon:pvmemctl-4711]").named, ==, RANGE);
    ask_ok(d, MEMCTL_SET_VMA_ANON_NAME, DATA, RANGE);
    g_assert_cmpuint(host_range(d->qts, DATA, RANGE, NULL, "pvmemctl").named,
                     ==, 0);
}

static void check_cold(Device *d, const Backing *b)
{
    uint64_t before;

    /* Alone in a mapping, or others' pages count too */
    ask_ok(d, MEMCTL_DONTDUMP, DATA, RANGE);
    fill(d, DATA, RANGE);
    before = host_range(d->qts, DATA, RANGE, NULL, NULL).referenced;
    ask_ok(d, MEMCTL_COLD, DATA, RANGE);
    /* The kernel passes over what a file system works on */
    g_assert_cmpuint(host_range(d->qts, DATA, RANGE, NULL, NULL).referenced,
                     <, before + b->file);
    ask_ok(d, MEMCTL_DODUMP, DATA, RANGE);
    g_assert_true(is_filled(d, DATA, RANGE, 0xaa));
}

static void check_attributes(Device *d, const Backing *b)
{
    check_flag(d, MEMCTL_DONTDUMP, MEMCTL_DODUMP, "dd", true);
    check_protection(d);
    if (b->works & BIT(MEMCTL_MLOCK)) {
        check_flag(d, MEMCTL_MLOCK, MEMCTL_MUNLOCK, "lo", true);
        check_cold(d, b);
    }
    if (b->works & HUGE && host_has_thp()) {
        check_flag(d, MEMCTL_NOHUGEPAGE, MEMCTL_HUGEPAGE, "nh", true);
        check_flag(d, MEMCTL_NOHUGEPAGE, MEMCTL_HUGEPAGE, "hg", false);
        ask_ok(d, MEMCTL_NOHUGEPAGE, DATA, RANGE);
        ask_ok(d, MEMCTL_ZERO, DATA, RANGE);
        fill(d, DATA, RANGE);
        g_assert_cmpuint(host_range(d->qts, DATA, RANGE, NULL, NULL).anon_huge,
                         ==, 0);
        ask_ok(d, MEMCTL_HUGEPAGE, DATA, RANGE);
    }
    if (b->works & MERGE && host_has_ksm()) {
        check_flag(d, MEMCTL_UNMERGEABLE, MEMCTL_MERGEABLE, "mg", false);
    }
    if (b->works & BIT(MEMCTL_SET_VMA_ANON_NAME)) {
        check_name(d);
    }
    g_assert_cmpuint(query_ledger(d->qts), ==, 0);
}

static void check_vector(Device *d, const Backing *b)
{
    const uint64_t size = b->page_size;
    struct memctl_vmm_range ranges[] = {
        { DATA, size }, { 40 * MiB, 2 * size }, { 48 * MiB, size },
    };
    struct memctl_vmm_ret ret;

    for (int i = 0; i < ARRAY_SIZE(ranges); i++) {
        fill(d, ranges[i].addr, 3 * size);
    }
    put_table(d, ranges, ARRAY_SIZE(ranges));
    ret = ask_vector(d, MEMCTL_ZERO, ARRAY_SIZE(ranges));
    g_assert_cmpuint(ret.ret_errno, ==, 0);
    g_assert_cmpuint(ret.ret_value, ==, ARRAY_SIZE(ranges));
    for (int i = 0; i < ARRAY_SIZE(ranges); i++) {
        uint64_t end = ranges[i].addr + ranges[i].length;

        if (!is_shared(b) && !b->file) {
            g_assert_cmpuint(host_present(d->qts, ranges[i].addr,
                                          ranges[i].length), ==, 0);
        }
        g_assert_true(is_filled(d, ranges[i].addr, ranges[i].length, 0));
        g_assert_true(is_filled(d, end, size, 0xaa));
    }

    ret = ask_vector(d, MEMCTL_DONTDUMP, ARRAY_SIZE(ranges));
    g_assert_cmpuint(ret.ret_errno, ==, 0);
    for (int i = 0; i < ARRAY_SIZE(ranges); i++) {
        g_assert_true(host_has_flag(d->qts, ranges[i].addr, ranges[i].length,
                                    "dd"));
    }
    g_assert_cmpuint(query_ledger(d->qts), ==, ARRAY_SIZE(ranges));
    ask_vector(d, MEMCTL_DODUMP, ARRAY_SIZE(ranges));
    g_assert_cmpuint(query_ledger(d->qts), ==, 0);

    /* The first that fails ends it */
    fill(d, 48 * MiB, size);
    fill(d, DATA, size);
    ranges[1].addr = RAM_SIZE;
    put_table(d, ranges, ARRAY_SIZE(ranges));
    ret = ask_vector(d, MEMCTL_ZERO, ARRAY_SIZE(ranges));
    g_assert_cmpuint(ret.ret_errno, ==, EINVAL);
    g_assert_cmpuint(ret.ret_value, ==, 1);
    g_assert_true(is_filled(d, DATA, size, 0));
    g_assert_true(is_filled(d, 48 * MiB, size, 0xaa));

    g_assert_cmpuint(ask_vector(d, MEMCTL_ZERO, 0).ret_errno, ==, EINVAL);
    g_assert_cmpuint(ask_vector(d, MEMCTL_ZERO,
                                MEMCTL_VECTOR_MAX + 1).ret_errno, ==, E2BIG);
    g_assert_cmpuint(ask_vector(d, MEMCTL_VECTOR, 1).ret_errno, ==, EINVAL);
    ret = ask_arg(d, 0, MEMCTL_VECTOR, RAM_SIZE - 16, 2, MEMCTL_ZERO);
    g_assert_cmpuint(ret.ret_errno, ==, EINVAL);
    ret = ask_arg(d, 0, MEMCTL_VECTOR, TABLE + 8, 1, MEMCTL_ZERO);
    g_assert_cmpuint(ret.ret_errno, ==, EINVAL);
}

static char *make_file(void)
{
    g_autofree uint8_t *data = g_malloc(RANGE);
    char *path = NULL;
    int fd = g_file_open_tmp("pvmemctl-test-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    memset(data, 0x55, RANGE);
    g_assert_cmpint(pwrite(fd, data, RANGE, DATA), ==, RANGE);
    g_assert_cmpint(ftruncate(fd, RAM_SIZE), ==, 0);
    close(fd);
    return path;
}

static void test_backing(const void *opaque)
{
    const Backing *b = opaque;
    g_autofree char *path = NULL, *args = NULL, *before = NULL, *after = NULL;
    Machine m;
    Device d;

    if (b->page_size == HUGE_PAGE && !host_has_huge_pages()) {
        g_test_skip("too few huge pages are free");
        return;
    }
    path = b->file ? make_file() : NULL;
    args = g_strdup_printf("%s%s", b->args, path ?: "");
    d = device_start_args(&m, ",allow=all,hugetlb-release=on", args);
    if (path) {
        unlink(path);
    }
    before = host_attributes(m.qts, 0, RAM_SIZE);
    handshake(&d, 1);
    fill(&d, DATA, RANGE);
    check_query(&d, b);
    check_release(&d, b);
    check_attributes(&d, b);
    check_vector(&d, b);
    after = host_attributes(m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(after, ==, before);
    device_stop(&m, &d);
}

/* What the guest has set is undone by whatever ends its use of the device */

/* A bit of everything; one page apart, so that each is an attribute */
static unsigned set_attributes(Device *d)
{
    static const int codes[] = {
        MEMCTL_MPROTECT_NONE, MEMCTL_MPROTECT_R, MEMCTL_MLOCK, MEMCTL_DONTDUMP,
        MEMCTL_UNMERGEABLE, MEMCTL_NOHUGEPAGE,
    };
    struct memctl_vmm_ret ret;
    unsigned nr = 0;

    fill(d, DATA, MiB);
    for (int i = 0; i < ARRAY_SIZE(codes); i++) {
        if ((codes[i] == MEMCTL_UNMERGEABLE && !host_has_ksm()) ||
            (codes[i] == MEMCTL_NOHUGEPAGE && !host_has_thp())) {
            continue;
        }
        ask_ok(d, codes[i], DATA + 8 * i * PAGE, 4 * PAGE);
        nr++;
    }
    /* All at once */
    for (int i = 0; i < 4; i++) {
        ask_ok(d, codes[i], DATA + 64 * PAGE, 8 * PAGE);
    }
    /* Replaces MPROTECT_NONE, and MLOCK and DONTDUMP stay */
    nr += 3;
    ret = ask_arg(d, 0, MEMCTL_SET_VMA_ANON_NAME, DATA + 80 * PAGE, PAGE, 1);
    return nr + (ret.ret_errno ? 0 : 1);
}

static void undo_by_reset(Machine *m, Device *d)
{
    g_assert_cmphex(command(d, MEMCTL_CMD_RESET), ==, MEMCTL_ANSWER_ACK);
}

static void undo_by_disconnect(Machine *m, Device *d)
{
    g_assert_cmphex(command(d, MEMCTL_CMD_DISCONNECT), ==,
                    MEMCTL_ANSWER_ERROR);
}

static void undo_by_system_reset(Machine *m, Device *d)
{
    qtest_system_reset(m->qts);
    device_map(d);
}

static void undo_by_unplug(Machine *m, Device *d)
{
    qpci_unplug_acpi_device_test(m->qts, "dev", 4);
    device_free(d);
    g_assert_cmpuint(query_ledger(m->qts), ==, 0);
    qtest_qmp_device_add(m->qts, "pvmemctl", "dev", "{ 'addr': '04.0' }");
    *d = device_find(m, 4);
}

typedef void Undo(Machine *m, Device *d);

static void assert_device(QTestState *qts, const char *state,
                          unsigned connections)
{
    QDict *info = query_pvmemctl(qts), *device;
    QList *devices = qdict_get_qlist(info, "devices");

    g_assert_cmpuint(qlist_size(devices), ==, 1);
    device = qobject_to(QDict, qlist_peek(devices));
    g_assert_cmpstr(qdict_get_str(device, "state"), ==, state);
    g_assert_cmpstr(qdict_get_str(device, "protocol"), ==, "1.1");
    g_assert_cmpuint(qdict_get_int(device, "connections"), ==, connections);
    qobject_unref(info);
}

static void undone(Undo *undo, const char *state)
{
    Machine m = machine_start_type("pc", "-device pvmemctl,id=dev,addr=04.0,"
                                   "allow=all");
    Device d = device_find(&m, 4);
    g_autofree char *before = host_attributes(m.qts, 0, RAM_SIZE);
    g_autofree char *set = NULL, *after = NULL, *said = NULL;
    unsigned nr;

    assert_device(m.qts, "broken", 0);
    handshake(&d, 2);
    assert_device(m.qts, "ready", 2);
    nr = set_attributes(&d);
    g_assert_cmpuint(query_ledger(m.qts), ==, nr);
    g_assert_cmpuint(query_number(m.qts, "ranges"), ==, 2 * nr);
    g_assert_cmpuint(query_number(m.qts, "locked"), ==, 12 * PAGE);
    g_assert_true(host_is_protected(m.qts, DATA, 4 * PAGE));
    said = qtest_hmp(m.qts, "info pvmemctl");
    g_assert_nonnull(strstr(said, "protocol 1.1, ready, 2 connections"));
    g_assert_nonnull(strstr(said, "pc.ram+0x2000000 16 KiB: mprotect-none"));

    undo(&m, &d);
    after = host_attributes(m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(after, ==, before);
    g_assert_cmpuint(query_ledger(m.qts), ==, 0);
    g_assert_cmpuint(query_number(m.qts, "ranges"), ==, 0);
    g_assert_cmpuint(query_number(m.qts, "locked"), ==, 0);
    assert_device(m.qts, state, 0);
    g_assert_true(host_is_filled(m.qts, DATA, MiB, 0xaa));
    g_assert_true(is_filled(&d, DATA, MiB, 0xaa));
    g_assert_cmpuint(query_number(m.qts, "guard-hits"), ==, 0);

    /* And it works on */
    handshake(&d, 1);
    ask_ok(&d, MEMCTL_MPROTECT_NONE, DATA, PAGE);
    g_assert_true(host_is_protected(m.qts, DATA, PAGE));
    device_stop(&m, &d);
}

static void test_undone_by_reset(void)
{
    undone(undo_by_reset, "registering");
}

static void test_undone_by_disconnect(void)
{
    undone(undo_by_disconnect, "broken");
}

static void test_undone_by_system_reset(void)
{
    undone(undo_by_system_reset, "broken");
}

static void test_undone_by_unplug(void)
{
    undone(undo_by_unplug, "broken");
}

/* Counters, as an operator sees them */
static void test_counters(void)
{
    Machine m;
    Device d = device_start(&m, "");
    QDict *info, *device, *f = NULL;
    const QListEntry *e;

    handshake(&d, 1);
    ask_ok(&d, MEMCTL_DONTNEED, DATA, 2 * PAGE);
    ask_ok(&d, MEMCTL_DONTNEED, DATA, PAGE);
    ask_fails(&d, MEMCTL_DONTNEED, RAM_SIZE, PAGE, EINVAL);
    qtest_writel(m.qts, d.bar + MEMCTL_REG_COMMAND, CONNECTION(7));
    info = query_pvmemctl(m.qts);
    device = qobject_to(QDict, qlist_peek(qdict_get_qlist(info, "devices")));
    g_assert_cmpuint(qdict_get_int(device, "ignored"), ==, 1);
    QLIST_FOREACH_ENTRY(qdict_get_qlist(device, "functions"), e) {
        f = qobject_to(QDict, qlist_entry_obj(e));
    }
    g_assert_nonnull(f);
    g_assert_cmpstr(qdict_get_str(f, "name"), ==, "dontneed");
    g_assert_cmpuint(qdict_get_int(f, "calls"), ==, 3);
    g_assert_cmpuint(qdict_get_int(f, "failed"), ==, 1);
    g_assert_cmpuint(qdict_get_int(f, "bytes"), ==, 3 * PAGE);
    qobject_unref(info);
    device_stop(&m, &d);
}

/* Memory that is plugged in and out; its backend stays */

#define MEMORY_HOTPLUG      0xa00
#define MEMORY_HOTPLUG_CTL  (MEMORY_HOTPLUG + 0x14)
#define MEMORY_EJECT        8
#define DIMM_SIZE           (16 * MiB)

static uint64_t memory_device_addr(QTestState *qts)
{
    QDict *rsp = qtest_qmp(qts, "{ 'execute': 'query-memory-devices' }");
    QDict *device = qobject_to(QDict,
                               qlist_peek(qdict_get_qlist(rsp, "return")));
    QDict *data = qdict_get_qdict(device, "data");
    uint64_t addr = qdict_get_int(data, qdict_haskey(data, "memaddr")
                                  ? "memaddr" : "addr");

    qobject_unref(rsp);
    return addr;
}

static void unplug_dimm(QTestState *qts, const char *id)
{
    qtest_qmp_device_del_send(qts, id);
    qtest_outl(qts, MEMORY_HOTPLUG, 0);
    qtest_outb(qts, MEMORY_HOTPLUG_CTL, MEMORY_EJECT);
    qtest_qmp_eventwait(qts, "DEVICE_DELETED");
}

static void test_dimm(void)
{
    Machine m = machine_start_type("pc", "-m slots=2,maxmem=256M "
        "-object memory-backend-ram,id=mem0,size=16M "
        "-device pc-dimm,id=dimm0,memdev=mem0 "
        "-device pvmemctl,addr=04.0,allow=all");
    Device d = device_find(&m, 4);
    uint64_t addr = memory_device_addr(m.qts);
    uint64_t host = host_addr(m.qts, addr);
    g_autofree char *before = host_attributes(m.qts, addr, DIMM_SIZE);
    g_autofree char *after = NULL;

    handshake(&d, 1);
    fill(&d, addr, DIMM_SIZE);
    ask_ok(&d, MEMCTL_DONTDUMP, addr + PAGE, PAGE);
    ask_ok(&d, MEMCTL_MLOCK, addr + 4 * PAGE, PAGE);
    ask_ok(&d, MEMCTL_MPROTECT_NONE, addr, DIMM_SIZE);
    ask_ok(&d, MEMCTL_MPROTECT_NONE, DATA, PAGE);
    g_assert_true(host_is_protected(m.qts, addr, DIMM_SIZE));
    g_assert_cmpuint(query_ledger(m.qts), ==, 4);

    unplug_dimm(m.qts, "dimm0");
    after = host_attributes_at(m.qts, host, DIMM_SIZE);
    g_assert_cmpstr(after, ==, before);
    g_assert_true(host_is_filled_at(m.qts, host, DIMM_SIZE, 0xaa));
    g_assert_cmpuint(query_ledger(m.qts), ==, 1);
    g_assert_true(host_is_protected(m.qts, DATA, PAGE));
    ask_fails(&d, MEMCTL_DONTNEED, addr, PAGE, EINVAL);

    /* Plugged in again, it is RAM as before */
    qtest_qmp_device_add(m.qts, "pc-dimm", "dimm1", "{ 'memdev': 'mem0' }");
    addr = memory_device_addr(m.qts);
    g_assert_cmphex(host_addr(m.qts, addr), ==, host);
    g_assert_true(is_filled(&d, addr, DIMM_SIZE, 0xaa));
    ask_ok(&d, MEMCTL_MPROTECT_R, addr, PAGE);
    ask_ok(&d, MEMCTL_DONTNEED, addr + PAGE, PAGE);
    g_assert_true(is_filled(&d, addr + PAGE, PAGE, 0));

    unplug_dimm(m.qts, "dimm1");
    qtest_qmp_assert_success(m.qts, "{ 'execute': 'object-del',"
                             " 'arguments': { 'id': 'mem0' } }");
    g_assert_cmpuint(query_ledger(m.qts), ==, 1);
    g_assert_cmpuint(query_number(m.qts, "guard-hits"), ==, 0);
    ask_fails(&d, MEMCTL_DONTNEED, addr, PAGE, EINVAL);
    assert_info_works(&d, 0);
    device_stop(&m, &d);
}

/* What the operator has decided */

/* Refused for what is said in @args, and nothing has changed by that */
static void refused_by(const char *args, const int *codes, int nr)
{
    Machine m;
    Device d = device_start_args(&m, ",allow=all", args);
    g_autofree char *before = host_attributes(m.qts, 0, RAM_SIZE);
    g_autofree char *after = NULL;

    handshake(&d, 1);
    fill_data(&d);
    for (int i = 0; i < nr; i++) {
        assert_answer(&d, 0, codes[i], DATA, DATA_SIZE, EPERM, codes[i]);
        g_assert_false(ask_arg(&d, 0, MEMCTL_QUERY, DATA, -1,
                               PAGE).ret_value & BIT(codes[i]));
    }
    after = host_attributes(m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(after, ==, before);
    g_assert_cmpuint(host_present(m.qts, DATA, DATA_SIZE), ==, DATA_SIZE);
    g_assert_true(data_is(&d, 0, DATA_SIZE, 0xaa));
    device_stop(&m, &d);
}

static void test_no_merge(void)
{
    static const int codes[] = { MEMCTL_MERGEABLE };

    refused_by("-machine mem-merge=off", codes, 1);
    refused_by(MAIN "ram,id=ram,size=64M,merge=off", codes, 1);
}

static void test_no_dump(void)
{
    static const int codes[] = { MEMCTL_DODUMP };

    refused_by("-machine dump-guest-core=off", codes, 1);
    refused_by(MAIN "ram,id=ram,size=64M,dump=off", codes, 1);
}

static void test_prealloc(void)
{
    static const int codes[] = { MEMCTL_DONTNEED, MEMCTL_FREE };
    static const int shared[] = { MEMCTL_REMOVE };
    Machine m;
    Device d;

    refused_by(MAIN "ram,id=ram,size=64M,prealloc=on", codes, 2);
    refused_by(MAIN "memfd,id=ram,size=64M,prealloc=on", shared, 1);

    /* It is still to be zeroed */
    d = device_start_args(&m, "", MAIN "ram,id=ram,size=64M,prealloc=on");
    handshake(&d, 1);
    fill_data(&d);
    ask_ok(&d, MEMCTL_ZERO, DATA, DATA_SIZE);
    g_assert_cmpuint(host_present(m.qts, DATA, DATA_SIZE), ==, DATA_SIZE);
    g_assert_true(data_is(&d, 0, DATA_SIZE, 0));
    device_stop(&m, &d);
}

static void test_mem_lock(void)
{
    static const int codes[] = {
        MEMCTL_MUNLOCK, MEMCTL_DONTNEED, MEMCTL_FREE, MEMCTL_PAGEOUT,
    };

    if (geteuid()) {
        g_test_skip("only root may lock so much memory");
        return;
    }
    refused_by("-overcommit mem-lock=on", codes, ARRAY_SIZE(codes));
}

/* No more mappings than the operator allows */
static void test_max_ranges(void)
{
    Machine m;
    Device d = device_start(&m, ",max-ranges=512");
    unsigned before = host_mappings(m.qts), done = 0;
    struct memctl_vmm_ret ret;

    handshake(&d, 1);
    do {
        ret = ask(&d, 0, MEMCTL_DONTDUMP, DATA + 4 * done * PAGE, 3 * PAGE);
    } while (!ret.ret_errno && ++done < 1000);
    g_assert_cmpuint(ret.ret_errno, ==, ENOSPC);
    g_assert_cmpuint(done, >, 100);
    g_assert_cmpuint(query_number(m.qts, "max-ranges"), ==, 512);
    g_assert_cmpuint(query_number(m.qts, "ranges"), <=, 512);
    g_assert_cmpuint(host_mappings(m.qts), <=, before + 512);
    g_assert_true(host_lacks_flag(m.qts, DATA + 4 * done * PAGE, 3 * PAGE,
                                  "dd"));
    /* To make two of one does not go either, to make one shorter does */
    ask_fails(&d, MEMCTL_DODUMP, DATA + PAGE, PAGE, ENOSPC);
    g_assert_true(host_has_flag(m.qts, DATA, 3 * PAGE, "dd"));
    ask_ok(&d, MEMCTL_DODUMP, DATA, PAGE);
    ask_ok(&d, MEMCTL_DODUMP, DATA, 4 * PAGE);
    ask_ok(&d, MEMCTL_DONTDUMP, DATA + 4 * done * PAGE, 3 * PAGE);
    handshake(&d, 1);
    g_assert_cmpuint(query_ledger(m.qts), ==, 0);
    device_stop(&m, &d);
}

static void test_max_locked(void)
{
    Machine m;
    Device d = device_start(&m, ",allow=all,max-locked=64K");

    handshake(&d, 1);
    ask_ok(&d, MEMCTL_MLOCK, DATA, 15 * PAGE);
    ask_ok(&d, MEMCTL_MLOCK, DATA, 15 * PAGE);
    ask_fails(&d, MEMCTL_MLOCK, DATA + MiB, 2 * PAGE, ENOSPC);
    g_assert_true(host_lacks_flag(m.qts, DATA + MiB, 2 * PAGE, "lo"));
    ask_ok(&d, MEMCTL_MLOCK, DATA + MiB, PAGE);
    g_assert_cmpuint(query_number(m.qts, "locked"), ==, 64 * KiB);
    g_assert_cmpuint(query_number(m.qts, "max-locked"), ==, 64 * KiB);
    ask_ok(&d, MEMCTL_MUNLOCK, DATA, 2 * PAGE);
    ask_ok(&d, MEMCTL_MLOCK, DATA + MiB, 2 * PAGE);
    g_assert_true(host_has_flag(m.qts, DATA + MiB, 2 * PAGE, "lo"));
    device_stop(&m, &d);
}

static void test_rate_limit(void)
{
    Machine m;
    /* Of which one doorbell makes a debt of many minutes */
    Device d = device_start(&m, ",rate-limit=4096");

    handshake(&d, 1);
    ask_ok(&d, MEMCTL_POPULATE, DATA, 8 * MiB);
    g_assert_cmpuint(host_present(m.qts, DATA, 8 * MiB), ==, 8 * MiB);
    ask_fails(&d, MEMCTL_POPULATE, DATA + 8 * MiB, MiB, EBUSY);
    g_assert_cmpuint(host_present(m.qts, DATA + 8 * MiB, MiB), ==, 0);
    ask_ok(&d, MEMCTL_DONTNEED, DATA, 8 * MiB);
    g_assert_cmpuint(host_present(m.qts, DATA, 8 * MiB), ==, 0);
    device_stop(&m, &d);
}

/* The rest of QEMU */

static void test_two_owners(void)
{
    Machine m = machine_start("-device pvmemctl,addr=04.0,id=a "
                              "-device pvmemctl,addr=05.0,id=b");
    Device a = device_find(&m, 4);
    Device b = device_find(&m, 5);

    handshake(&a, 1);
    handshake(&b, 1);
    ask_ok(&a, MEMCTL_MPROTECT_NONE, DATA, 4 * PAGE);
    ask_ok(&b, MEMCTL_MPROTECT_NONE, DATA + 2 * PAGE, 4 * PAGE);
    g_assert_cmpuint(query_ledger(m.qts), ==, 2);
    command(&b, MEMCTL_CMD_RESET);
    g_assert_true(host_is_protected(m.qts, DATA, 2 * PAGE));
    g_assert_true(host_is_writable(m.qts, DATA + 2 * PAGE, 4 * PAGE));
    command(&a, MEMCTL_CMD_DISCONNECT);
    g_assert_true(host_is_writable(m.qts, DATA, 6 * PAGE));
    device_free(&b);
    device_stop(&m, &a);
}

/* Blocks of virtio-mem that are not plugged in are no RAM */
static void test_virtio_mem(void)
{
    Machine m = machine_start("-m maxmem=1G "
        "-object memory-backend-ram,id=vm,size=128M "
        "-device virtio-mem-pci,memdev=vm,requested-size=0,addr=06.0 "
        "-device pvmemctl,addr=04.0,allow=all");
    Device d = device_find(&m, 4);
    uint64_t addr = memory_device_addr(m.qts);
    uint64_t host = host_addr(m.qts, addr);
    g_autofree char *before = host_attributes_at(m.qts, host, 128 * MiB);
    g_autofree char *after = NULL;

    handshake(&d, 1);
    for (int code = 0; code < 64; code++) {
        if (has_range(code)) {
            ask_fails(&d, code, addr, PAGE, EINVAL);
            ask_fails(&d, code, addr, 128 * MiB, EINVAL);
        }
    }
    g_assert_cmpuint(ask_arg(&d, 0, MEMCTL_QUERY, addr, -1, PAGE).ret_errno,
                     ==, EINVAL);
    after = host_attributes_at(m.qts, host, 128 * MiB);
    g_assert_cmpstr(after, ==, before);
    g_assert_cmpuint(host_present(m.qts, addr, 128 * MiB), ==, 0);
    ask_ok(&d, MEMCTL_DONTNEED, DATA, PAGE);
    device_stop(&m, &d);
}

static void test_balloon(void)
{
    Machine m;
    Device d = device_start_args(&m, "", "-device virtio-balloon-pci,"
                                 "free-page-reporting=on,addr=06.0");

    handshake(&d, 1);
    fill_data(&d);
    ask_ok(&d, MEMCTL_DONTNEED, DATA, DATA_SIZE);
    g_assert_cmpuint(host_present(m.qts, DATA, DATA_SIZE), ==, 0);
    g_assert_true(data_is(&d, 0, DATA_SIZE, 0));
    device_stop(&m, &d);
}

/* The system calls that all this takes are in the sandbox */
static void test_sandbox(void)
{
    Machine m;
    Device d = device_start_args(&m, ",allow=all,on-guard=log",
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,"
        "resourcecontrol=deny");
    const struct memctl_vmm_range ranges[] = {
        { DATA, PAGE }, { DATA + 8 * PAGE, PAGE },
    };
    uint64_t works;

    handshake(&d, 1);
    works = ask_arg(&d, 0, MEMCTL_QUERY, DATA, -1, MiB).ret_value;
    put_table(&d, ranges, ARRAY_SIZE(ranges));
    for (int code = 0; code < 64; code++) {
        if (!has_range(code) || !(works & BIT(code)) ||
            (code == MEMCTL_SET_VMA_ANON_NAME) ||
            (!host_has_ksm() && MERGE & BIT(code)) ||
            (!host_has_thp() && HUGE & BIT(code))) {
            continue;
        }
        fill(&d, DATA, MiB);
        ask_ok(&d, code, DATA, MiB);
        g_assert_cmpuint(ask_vector(&d, code, 2).ret_errno, ==, 0);
        handshake(&d, 1);
    }
    ask_ok(&d, MEMCTL_MPROTECT_NONE, DATA, PAGE);
    fill_data(&d);
    g_assert_cmpuint(query_number(m.qts, "guard-hits"), ==, 1);
    device_stop(&m, &d);
}

/* A hostile guest */

static uint64_t random64(void)
{
    return (uint64_t)g_test_rand_int() << 32 | (uint32_t)g_test_rand_int();
}

static uint64_t random_address(void)
{
    static const uint64_t places[] = {
        BUFFER(0), BUFFER(1), TABLE, DATA, PAM_ADDR, RAM_SIZE, IOAPIC, APIC,
        BIOS, 0xa0000,
    };

    switch (g_test_rand_int_range(0, 4)) {
    case 0:
        return random64();
    case 1:
        return places[g_test_rand_int_range(0, ARRAY_SIZE(places))] +
               g_test_rand_int_range(-40, 40);
    default:
        return g_test_rand_int_range(0, RAM_SIZE / PAGE + 16) * (uint64_t)PAGE;
    }
}

static void random_table(Device *d)
{
    struct memctl_vmm_range ranges[8];

    for (int i = 0; i < ARRAY_SIZE(ranges); i++) {
        ranges[i].addr = g_test_rand_int_range(0, 8)
                         ? g_test_rand_int_range(0, RAM_SIZE / PAGE) *
                           (uint64_t)PAGE : random_address();
        ranges[i].length = g_test_rand_int_range(0, 8)
                           ? g_test_rand_int_range(1, 32) * PAGE : random64();
    }
    put_table(d, ranges, ARRAY_SIZE(ranges));
}

static void random_request(Device *d, int nr_codes)
{
    uint64_t code = g_test_rand_int_range(0, nr_codes);
    uint64_t pages = g_test_rand_int_range(0, 64);
    uint64_t buffer = BUFFER(g_test_rand_int_range(0, 2));

    if (code == MEMCTL_VECTOR) {
        random_table(d);
        put_request(d, buffer, code,
                    g_test_rand_int_range(0, 4) ? TABLE : random_address(),
                    g_test_rand_int_range(0, 4) ? 8 : random64(),
                    g_test_rand_int_range(0, 42));
        return;
    }
    put_request(d, buffer, g_test_rand_int_range(0, 16) ? code : random64(),
                random_address(),
                g_test_rand_int_range(0, 8) ? pages * PAGE : random64(),
                g_test_rand_int_range(0, 2) ? pages * PAGE : random64());
}

static void random_access(Device *d, int nr_codes)
{
    static const uint32_t commands[] = {
        MEMCTL_CMD_RESET, MEMCTL_CMD_REGISTER, MEMCTL_CMD_REGISTER,
        MEMCTL_CMD_READY, MEMCTL_CMD_READY, MEMCTL_CMD_DISCONNECT,
        MEMCTL_ANSWER_ACK, MEMCTL_ANSWER_ERROR,
    };
    uint64_t reg = d->bar + g_test_rand_int_range(0, MEMCTL_BAR_SIZE);

    switch (g_test_rand_int_range(0, 40)) {
    case 0:
        qtest_writeb(d->qts, reg, g_test_rand_int());
        break;
    case 1:
        qtest_writew(d->qts, reg, g_test_rand_int());
        break;
    case 2:
        qtest_writel(d->qts, reg, g_test_rand_int());
        break;
    case 3:
        qtest_writeq(d->qts, reg, random64());
        break;
    case 4:
        qtest_readb(d->qts, reg);
        qtest_readw(d->qts, reg);
        break;
    case 5:
        qtest_readl(d->qts, reg);
        qtest_readq(d->qts, reg);
        break;
    case 6:
        command(d, commands[g_test_rand_int_range(0, ARRAY_SIZE(commands))]);
        break;
    case 7:
        command(d, MEMCTL_CMD_RESET);
        register_buffer(d, BUFFER(0));
        register_buffer(d, random_address());
        command(d, MEMCTL_CMD_READY);
        break;
    case 8:
    case 9:
        handshake(d, 2);
        break;
    case 10:
        qtest_writel(d->qts, d->bar + MEMCTL_REG_COMMAND,
                     CONNECTION(g_test_rand_int_range(0, 4)));
        break;
    default:
        random_request(d, nr_codes);
        qtest_writel(d->qts, d->bar + MEMCTL_REG_COMMAND,
                     CONNECTION(g_test_rand_int_range(0, 2)));
        break;
    }
}

/* Another CPU of the guest, which writes to what the device works with */
typedef struct Scribbler {
    uint8_t *ram;
    bool stop;
} Scribbler;

static void *scribble(void *opaque)
{
    static const uint64_t places[] = { BUFFER(0), TABLE };
    Scribbler *s = opaque;
    uint64_t seed = 1;

    while (!qatomic_read(&s->stop)) {
        for (int i = 0; i < 1000; i++) {
            uint64_t *at;

            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            at = (uint64_t *)(s->ram + places[seed >> 63]);
            qatomic_set(&at[(seed >> 50) % 16], (seed >> 40 & 3) ?
                        (seed >> 20) % (RAM_SIZE / PAGE) * PAGE :
                        (seed >> 30) % 64);
        }
        g_usleep(100);
    }
    return NULL;
}

static void hostile_guest(const char *props, const char *args, int nr_codes,
                          int iterations)
{
    Machine m;
    Device d = device_start_args(&m, props, args);
    g_autofree char *before = host_attributes(m.qts, 0, RAM_SIZE);
    g_autofree char *after = NULL;
    uint64_t heap = host_heap(m.qts);
    unsigned mappings = host_mappings(m.qts);
    unsigned max_ranges = query_number(m.qts, "max-ranges");

    for (int i = 0; i < iterations; i++) {
        random_access(&d, nr_codes);
    }
    g_assert_cmpuint(host_mappings(m.qts), <=, mappings + max_ranges);
    g_assert_cmpuint(query_number(m.qts, "ranges"), <=, max_ranges);
    g_assert_cmpuint(host_heap(m.qts), <=, heap + 16 * MiB);
    g_assert_cmphex(command(&d, MEMCTL_CMD_DISCONNECT), ==,
                    MEMCTL_ANSWER_ERROR);
    if (!strstr(props, "x-protocol")) {
        after = host_attributes(m.qts, 0, RAM_SIZE);
        g_assert_cmpstr(after, ==, before);
        g_assert_cmpuint(query_ledger(m.qts), ==, 0);
        handshake(&d, 2);
        assert_info_works(&d, 1);
    }
    qtest_system_reset(m.qts);
    device_map(&d);
    g_free(after);
    after = host_attributes(m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(after, ==, before);
    g_assert_cmpuint(query_ledger(m.qts), ==, 0);
    handshake(&d, 2);
    fill_data(&d);
    ask_ok(&d, MEMCTL_DONTNEED, DATA, DATA_SIZE);
    g_assert_true(data_is(&d, 0, DATA_SIZE, 0));
    device_stop(&m, &d);
}

#define QUIET " 2>/dev/null"    /* what is said about guard hits */

static void test_hostile_guest(void)
{
    hostile_guest(",allow=all,on-guard=log,max-ranges=512", QUIET, 64, 12000);
}

static void test_hostile_1_0(void)
{
    hostile_guest(",allow=all,on-guard=log,x-protocol=1.0", QUIET, 18, 4000);
}

/* With another CPU, and RAM that both can see */
static void test_hostile_cpus(void)
{
    g_autofree char *path = make_file();
    g_autofree char *args = g_strdup_printf(
        MAIN "file,id=ram,size=64M,share=on,mem-path=%s" QUIET, path);
    int fd = open(path, O_RDWR);
    Scribbler s = { 0 };
    GThread *thread;
    Machine m;
    Device d = device_start_args(&m, ",allow=all,on-guard=log", args);

    unlink(path);
    s.ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    g_assert_true(s.ram != MAP_FAILED);
    close(fd);
    thread = g_thread_new("scribbler", scribble, &s);
    for (int i = 0; i < 4000; i++) {
        random_access(&d, 64);
    }
    qatomic_set(&s.stop, true);
    g_thread_join(thread);
    munmap(s.ram, RAM_SIZE);
    handshake(&d, 1);
    g_assert_cmpuint(query_ledger(m.qts), ==, 0);
    fill_data(&d);
    ask_ok(&d, MEMCTL_REMOVE, DATA, DATA_SIZE);
    g_assert_true(data_is(&d, 0, DATA_SIZE, 0));
    device_stop(&m, &d);
}
int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qtest_add_func("/pvmemctl/pci", test_pci);
    qtest_add_func("/pvmemctl/handshake", test_handshake);
    qtest_add_func("/pvmemctl/shared-memory", test_shared_memory);
    qtest_add_func("/pvmemctl/video-memory", test_video_memory);
    qtest_add_func("/pvmemctl/numa", test_numa);
    qtest_add_func("/pvmemctl/payload-halves", test_payload_halves);
    qtest_add_func("/pvmemctl/dontneed", test_dontneed);
    qtest_add_func("/pvmemctl/bad-requests", test_bad_requests);
    qtest_add_func("/pvmemctl/rom-range", test_rom_range);
    qtest_add_func("/pvmemctl/buffer-not-ram", test_buffer_not_ram);
    qtest_add_func("/pvmemctl/unknown-command", test_unknown_command);
    qtest_add_func("/pvmemctl/wide-command", test_wide_command);
    qtest_add_func("/pvmemctl/register-before-reset",
                   test_register_before_reset);
    qtest_add_func("/pvmemctl/many-registers", test_many_registers);
    qtest_add_func("/pvmemctl/two-devices", test_two_devices);
    qtest_add_func("/pvmemctl/system-reset", test_system_reset);
    qtest_add_func("/pvmemctl/bad-properties", test_bad_properties);
    qtest_add_func("/pvmemctl/protocol-1.0", test_protocol_1_0);
    qtest_add_func("/pvmemctl/counters", test_counters);
    for (int i = 0; i < ARRAY_SIZE(backings); i++) {
        qtest_add_data_func(backings[i].path, &backings[i], test_backing);
    }
    qtest_add_func("/pvmemctl/undone/reset", test_undone_by_reset);
    qtest_add_func("/pvmemctl/undone/disconnect", test_undone_by_disconnect);
    qtest_add_func("/pvmemctl/undone/system-reset",
                   test_undone_by_system_reset);
    qtest_add_func("/pvmemctl/undone/unplug", test_undone_by_unplug);
    qtest_add_func("/pvmemctl/dimm", test_dimm);
    qtest_add_func("/pvmemctl/operator/no-merge", test_no_merge);
    qtest_add_func("/pvmemctl/operator/no-dump", test_no_dump);
    qtest_add_func("/pvmemctl/operator/prealloc", test_prealloc);
    qtest_add_func("/pvmemctl/operator/mem-lock", test_mem_lock);
    qtest_add_func("/pvmemctl/operator/max-ranges", test_max_ranges);
    qtest_add_func("/pvmemctl/operator/max-locked", test_max_locked);
    qtest_add_func("/pvmemctl/operator/rate-limit", test_rate_limit);
    qtest_add_func("/pvmemctl/two-owners", test_two_owners);
    qtest_add_func("/pvmemctl/virtio-mem", test_virtio_mem);
    qtest_add_func("/pvmemctl/balloon", test_balloon);
    qtest_add_func("/pvmemctl/sandbox", test_sandbox);
    qtest_add_func("/pvmemctl/policy", test_policy);
    qtest_add_func("/pvmemctl/bad-policy", test_bad_policy);
    qtest_add_func("/pvmemctl/hostile/guest", test_hostile_guest);
    qtest_add_func("/pvmemctl/hostile/protocol-1.0", test_hostile_1_0);
    qtest_add_func("/pvmemctl/hostile/cpus", test_hostile_cpus);
    qtest_add_func("/pvmemctl/buffer-rom", test_buffer_rom);
    qtest_add_func("/pvmemctl/buffer-becomes-rom", test_buffer_becomes_rom);
    qtest_add_func("/pvmemctl/buffer-becomes-read-only",
                   test_buffer_becomes_read_only);
    return g_test_run();
}
