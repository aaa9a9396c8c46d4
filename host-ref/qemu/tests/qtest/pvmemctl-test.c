/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QTest of the pvmemctl device: what a guest sees of it through PCI, and that
 * it acts on guest RAM and on nothing else.  The protocol's corners have unit
 * tests outside of QEMU.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "libqtest.h"
#include "qobject/qdict.h"
#include "libqos/pci.h"
#include "libqos/pci-pc.h"
#include "hw/pci/pci_ids.h"
#include "hw/pci/pci_regs.h"
#include <linux/pvmemctl.h>

#define PAGE        0x1000
#define RAM_SIZE    (64 * MiB)
#define BUFFER(n)   (16 * MiB + 32 * (n))   /* of connection n */
#define DATA        (32 * MiB)              /* what requests are about */
#define DATA_SIZE   (16 * PAGE)

/* Not RAM on a q35: interrupt controllers, firmware */
#define IOAPIC      0xfec00000
#define APIC        0xfee00000
#define BIOS        0xffff0000
#define BIOS_SIZE   (64 * KiB)

/* RAM or that firmware, as the chipset's PAM register has it */
#define PAM_ADDR    0xf0000
#define PAM_REG     0x90
#define PAM_RAM     0x30
#define PAM_RAM_RO  0x10
#define PAM_ROM     0x00

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

/* The firmware is a request to discard DATA */
static QTestState *qemu_start(const char *machine, const char *args)
{
    const struct memctl_vmm_call call = {
        .func_code = cpu_to_le64(MEMCTL_DONTNEED),
        .addr = cpu_to_le64(DATA),
        .length = cpu_to_le64(DATA_SIZE),
    };
    g_autofree char *bios = NULL;
    int fd = g_file_open_tmp("pvmemctl-test-XXXXXX", &bios, NULL);
    QTestState *qts;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(write(fd, &call, sizeof(call)), ==, sizeof(call));
    g_assert_cmpint(ftruncate(fd, BIOS_SIZE), ==, 0);
    close(fd);
    qts = qtest_initf("-machine %s -nodefaults -m 64M -bios %s %s", machine,
                      bios, args);
    unlink(bios);
    return qts;
}

static Machine machine_start(const char *args)
{
    Machine m;

    m.qts = qemu_start("q35", args);
    m.bus = qpci_new_pc(m.qts, NULL);
    return m;
}

static void machine_stop(Machine *m)
{
    qpci_free_pc(m->bus);
    qtest_quit(m->qts);
}

/* After a reset of the machine too: it takes the BAR's address away */
static void device_map(Device *d)
{
    qpci_device_enable(d->pci);
    d->bar = qpci_iomap(d->pci, 0, &d->bar_size).addr;
}

static Device device_find(Machine *m, int slot)
{
    Device d = { .qts = m->qts };

    d.pci = qpci_device_find(m->bus, QPCI_DEVFN(slot, 0));
    g_assert_nonnull(d.pci);
    device_map(&d);
    return d;
}

static void device_free(Device *d)
{
    g_free(d->pci);
}

/* One machine with one device in slot 4 */
static Device device_start(Machine *m, const char *props)
{
    g_autofree char *args = g_strdup_printf("-device pvmemctl,addr=04.0%s",
                                            props);

    *m = machine_start(args);
    return device_find(m, 4);
}

static void device_stop(Machine *m, Device *d)
{
    device_free(d);
    machine_stop(m);
}

static uint32_t read_answer(Device *d)
{
    return qtest_readl(d->qts, d->bar + MEMCTL_REG_COMMAND);
}

static uint32_t command(Device *d, uint32_t cmd)
{
    qtest_writel(d->qts, d->bar + MEMCTL_REG_COMMAND, cmd);
    return read_answer(d);
}

static uint32_t register_buffer(Device *d, uint64_t buffer)
{
    qtest_writeq(d->qts, d->bar + MEMCTL_REG_PAYLOAD, buffer);
    return command(d, MEMCTL_CMD_REGISTER);
}

static void handshake(Device *d, int nr)
{
    g_assert_cmphex(command(d, MEMCTL_CMD_RESET), ==, MEMCTL_ANSWER_ACK);
    for (int i = 0; i < nr; i++) {
        g_assert_cmphex(register_buffer(d, BUFFER(i)), ==, MEMCTL_ANSWER_ACK);
        g_assert_cmphex(qtest_readl(d->qts, d->bar + MEMCTL_REG_PAYLOAD), ==,
                        CONNECTION(i));
    }
    g_assert_cmphex(command(d, MEMCTL_CMD_READY), ==, MEMCTL_ANSWER_ACK);
}

static void put_request(Device *d, uint64_t buffer, uint64_t code,
                        uint64_t addr, uint64_t length)
{
    struct memctl_vmm_call call = {
        .func_code = cpu_to_le64(code),
        .addr = cpu_to_le64(addr),
        .length = cpu_to_le64(length),
    };

    qtest_memwrite(d->qts, buffer, &call, sizeof(call));
}

static struct memctl_vmm_ret ask(Device *d, int n, uint64_t code,
                                 uint64_t addr, uint64_t length)
{
    struct memctl_vmm_ret ret;

    put_request(d, BUFFER(n), code, addr, length);
    qtest_writel(d->qts, d->bar + MEMCTL_REG_COMMAND, CONNECTION(n));
    qtest_memread(d->qts, BUFFER(n), &ret, sizeof(ret));
    return (struct memctl_vmm_ret) {
        .ret_errno = le32_to_cpu(ret.ret_errno),
        .ret_code = le32_to_cpu(ret.ret_code),
        .ret_value = le64_to_cpu(ret.ret_value),
        .arg0 = le64_to_cpu(ret.arg0),
        .arg1 = le64_to_cpu(ret.arg1),
    };
}

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

static void assert_info_works(Device *d, int n)
{
    struct memctl_vmm_ret ret = ask(d, n, MEMCTL_INFO, 0, -1);

    g_assert_cmpuint(ret.ret_errno, ==, 0);
    g_assert_cmpuint(ret.ret_code, ==, 0);
    g_assert_cmpuint(ret.ret_value, ==, getpagesize());
    g_assert_cmpuint(ret.arg0, ==, MEMCTL_PROTOCOL_MAJOR);
    g_assert_cmpuint(ret.arg1, ==, MEMCTL_PROTOCOL_MINOR);
}

static void fill_data(Device *d)
{
    qtest_memset(d->qts, DATA, 0xaa, DATA_SIZE);
}

static bool data_is(Device *d, uint64_t offset, uint64_t length, uint8_t want)
{
    g_autofree uint8_t *data = g_malloc(length);

    qtest_memread(d->qts, DATA + offset, data, length);
    for (uint64_t i = 0; i < length; i++) {
        if (data[i] != want) {
            return false;
        }
    }
    return true;
}

/* Ring with a request to discard DATA in the buffer: nothing must happen */
static void assert_rings_in_vain(Device *d, uint32_t connection,
                                 uint64_t buffer)
{
    uint8_t before[32], after[32];

    fill_data(d);
    put_request(d, buffer, MEMCTL_DONTNEED, DATA, DATA_SIZE);
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

static void test_bad_requests(void)
{
    Machine m;
    Device d = device_start(&m, ",allow=all");
    const uint64_t ranges[][2] = {
        { DATA, 0 }, { DATA + 1, PAGE }, { DATA, PAGE - 1 },
        { DATA, -PAGE }, { -PAGE, PAGE }, { -PAGE, 2 * PAGE },
        { RAM_SIZE, PAGE }, { DATA, RAM_SIZE }, { RAM_SIZE - PAGE, 2 * PAGE },
        { IOAPIC, PAGE }, { APIC, PAGE }, { BIOS, PAGE },
        { BIOS + BIOS_SIZE - PAGE, 2 * PAGE },
        { d.bar & ~(uint64_t)(PAGE - 1), PAGE },
    };

    handshake(&d, 1);
    fill_data(&d);
    for (int code = MEMCTL_DONTNEED; code <= MEMCTL_UNMERGEABLE; code++) {
        for (int i = 0; i < ARRAY_SIZE(ranges); i++) {
            assert_answer(&d, 0, code, ranges[i][0], ranges[i][1], EINVAL,
                          code);
        }
    }
    assert_answer(&d, 0, 15, DATA, PAGE, EOPNOTSUPP, 15);
    assert_answer(&d, 0, -1, DATA, PAGE, EOPNOTSUPP, UINT32_MAX);
    assert_answer(&d, 0, 1ULL << 32 | MEMCTL_DONTNEED, DATA, PAGE, EOPNOTSUPP,
                  MEMCTL_DONTNEED);
    /* Guest RAM is private memory here: a system call that fails */
    assert_answer(&d, 0, MEMCTL_REMOVE, DATA, PAGE, EINVAL, 0);
    g_assert_true(data_is(&d, 0, DATA_SIZE, 0xaa));
    device_stop(&m, &d);
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
    for (int code = MEMCTL_DONTNEED; code <= MEMCTL_UNMERGEABLE; code++) {
        assert_answer(&d, 0, code, addr, PAGE, EINVAL, code);
    }
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
    put_request(&d, PAM_ADDR, MEMCTL_DONTNEED, DATA, DATA_SIZE);
    qpci_config_writeb(chipset, PAM_REG, pam);
    assert_rings_in_vain(&d, CONNECTION(0), PAM_ADDR);

    /* The device works on, and so does the connection once it is RAM again */
    qpci_config_writeb(chipset, PAM_REG, PAM_RAM);
    put_request(&d, PAM_ADDR, MEMCTL_DONTNEED, DATA, DATA_SIZE);
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
    put_request(&d, BUFFER(0), MEMCTL_DONTNEED, DATA, DATA_SIZE);
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
    for (int i = 0; i < 10000; i++) {
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

static uint64_t random64(void)
{
    return (uint64_t)g_test_rand_int() << 32 | (uint32_t)g_test_rand_int();
}

static uint64_t random_address(void)
{
    static const uint64_t places[] = {
        BUFFER(0), BUFFER(1), DATA, PAM_ADDR, RAM_SIZE, IOAPIC, APIC, BIOS,
        0xa0000,
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

static void random_request(Device *d)
{
    uint64_t code = g_test_rand_int_range(0, 18);
    uint64_t pages = g_test_rand_int_range(0, 64);

    put_request(d, BUFFER(g_test_rand_int_range(0, 2)),
                g_test_rand_int_range(0, 16) ? code : random64(),
                random_address(),
                g_test_rand_int_range(0, 8) ? pages * PAGE : random64());
}

static void random_access(Device *d)
{
    static const uint32_t commands[] = {
        MEMCTL_CMD_RESET, MEMCTL_CMD_REGISTER, MEMCTL_CMD_REGISTER,
        MEMCTL_CMD_READY, MEMCTL_CMD_READY, MEMCTL_CMD_DISCONNECT,
        MEMCTL_ANSWER_ACK, MEMCTL_ANSWER_ERROR,
    };
    uint64_t reg = d->bar + g_test_rand_int_range(0, MEMCTL_BAR_SIZE);

    switch (g_test_rand_int_range(0, 16)) {
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
        handshake(d, 2);
        break;
    case 9:
        qtest_writel(d->qts, d->bar + MEMCTL_REG_COMMAND,
                     CONNECTION(g_test_rand_int_range(0, 4)));
        break;
    default:
        random_request(d);
        qtest_writel(d->qts, d->bar + MEMCTL_REG_COMMAND,
                     CONNECTION(g_test_rand_int_range(0, 2)));
        break;
    }
}

static void test_hostile_guest(void)
{
    Machine m;
    /* Not mprotect-*: a guest that protects its own RAM breaks itself */
    Device d = device_start(&m, ",allow=dontneed:remove:free:pageout:dontdump:"
                            "set-vma-anon-name:mlock:munlock:mergeable:"
                            "unmergeable");

    for (int i = 0; i < 20000; i++) {
        random_access(&d);
    }
    g_assert_cmphex(command(&d, MEMCTL_CMD_DISCONNECT), ==,
                    MEMCTL_ANSWER_ERROR);
    handshake(&d, 2);
    assert_info_works(&d, 1);
    assert_answer(&d, 1, MEMCTL_MUNLOCK, DATA, DATA_SIZE, 0, 0);
    fill_data(&d);
    assert_answer(&d, 1, MEMCTL_DONTNEED, DATA, DATA_SIZE, 0, 0);
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
    qtest_add_func("/pvmemctl/policy", test_policy);
    qtest_add_func("/pvmemctl/bad-policy", test_bad_policy);
    qtest_add_func("/pvmemctl/hostile-guest", test_hostile_guest);
    qtest_add_func("/pvmemctl/buffer-rom", test_buffer_rom);
    qtest_add_func("/pvmemctl/buffer-becomes-rom", test_buffer_becomes_rom);
    qtest_add_func("/pvmemctl/buffer-becomes-read-only",
                   test_buffer_becomes_read_only);
    return g_test_run();
}
