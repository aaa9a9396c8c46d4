/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QTest of the pvmemctl device: memory that the guest has protected is touched,
 * by whomever.  QEMU must live, tell of it, and go on.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "libqos/pci-pc.h"
#include "hw/pci/pci_regs.h"
#include "pvmemctl-util.h"

#define EDU_SLOT        6
#define EDU_DMA_SRC     0x80
#define EDU_DMA_DST     0x88
#define EDU_DMA_CNT     0x90
#define EDU_DMA_CMD     0x98
#define EDU_DMA_RUN     1
#define EDU_DMA_TO_PCI  2
#define EDU_BUFFER      0x40000

#define FW_CFG_DMA      0x514
#define FW_CFG_READ     0x02
#define FW_CFG_SELECT   0x08
#define FW_CFG_ACCESS   (18 * MiB)      /* where the guest keeps requests */

#define QUIET           " 2>/dev/null"  /* warnings about hits */

typedef struct Guarded {
    Machine m;
    Device d, other;                    /* in slots 4 and 5 */
    QPCIDevice *edu;
    uint64_t edu_bar;
} Guarded;

static Guarded guarded_start(const char *props, const char *args)
{
    g_autofree char *all = g_strdup_printf(
        "-device pvmemctl,addr=04.0,id=dev%s "
        "-device pvmemctl,addr=05.0,id=other%s -device edu,addr=06.0 %s" QUIET,
        props, props, args);
    Guarded g = { .m = machine_start(all) };

    g.d = device_find(&g.m, 4);
    g.other = device_find(&g.m, 5);
    g.edu = qpci_device_find(g.m.bus, QPCI_DEVFN(EDU_SLOT, 0));
    g_assert_nonnull(g.edu);
    qpci_device_enable(g.edu);
    g.edu_bar = qpci_iomap(g.edu, 0, NULL).addr;
    handshake(&g.d, 1);
    fill(&g.d, DATA, MiB);
    return g;
}

static void guarded_stop(Guarded *g)
{
    g_free(g->edu);
    device_free(&g->other);
    device_stop(&g->m, &g->d);
}

/* Whoever may touch the page at @addr */
typedef void Touch(Guarded *g, uint64_t addr);

static void touch_read(Guarded *g, uint64_t addr)
{
    g_assert_true(is_filled(&g->d, addr, PAGE, 0xaa));
}

static void touch_write(Guarded *g, uint64_t addr)
{
    qtest_writel(g->m.qts, addr + 0x40, 0x12345678);
    g_assert_cmphex(qtest_readl(g->m.qts, addr + 0x40), ==, 0x12345678);
}

static void edu_dma(Guarded *g, uint64_t src, uint64_t dst, uint64_t cmd)
{
    qtest_writeq(g->m.qts, g->edu_bar + EDU_DMA_SRC, src);
    qtest_writeq(g->m.qts, g->edu_bar + EDU_DMA_DST, dst);
    qtest_writeq(g->m.qts, g->edu_bar + EDU_DMA_CNT, 64);
    qtest_writeq(g->m.qts, g->edu_bar + EDU_DMA_CMD, cmd | EDU_DMA_RUN);
    qtest_clock_step(g->m.qts, 200 * 1000 * 1000);
}

static void touch_dma_read(Guarded *g, uint64_t addr)
{
    edu_dma(g, addr, EDU_BUFFER, 0);
    qtest_qmp_assert_success(g->m.qts, "{ 'execute': 'cont' }");
    /* What the device got is what was there */
    edu_dma(g, EDU_BUFFER, DATA + MiB, EDU_DMA_TO_PCI);
    g_assert_true(is_filled(&g->d, DATA + MiB, 64, 0xaa));
}

static void touch_dma_write(Guarded *g, uint64_t addr)
{
    edu_dma(g, EDU_BUFFER, addr, EDU_DMA_TO_PCI);
    g_assert_true(is_filled(&g->d, addr, 64, 0));
    g_assert_true(is_filled(&g->d, addr + 64, PAGE - 64, 0xaa));
}

static void touch_fw_cfg(Guarded *g, uint64_t addr)
{
    struct {
        uint32_t control, length;
        uint64_t address;
    } access = {
        cpu_to_be32(FW_CFG_SELECT | FW_CFG_READ), cpu_to_be32(4),
        cpu_to_be64(addr),
    };
    char signature[4];

    qtest_memwrite(g->m.qts, FW_CFG_ACCESS, &access, sizeof(access));
    qtest_outl(g->m.qts, FW_CFG_DMA, 0);
    qtest_outl(g->m.qts, FW_CFG_DMA + 4, bswap32(FW_CFG_ACCESS));
    qtest_memread(g->m.qts, addr, signature, sizeof(signature));
    g_assert_cmpmem(signature, sizeof(signature), "QEMU", 4);
}

static void touch_pmemsave_read(Guarded *g, uint64_t addr)
{
    g_autofree char *path = NULL, *data = NULL;
    int fd = g_file_open_tmp("pvmemctl-test-XXXXXX", &path, NULL);
    size_t length;

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    qtest_qmp_assert_success(g->m.qts, "{ 'execute': 'pmemsave', 'arguments':"
                             " { 'val': %" PRIu64 ", 'size': 4096,"
                             " 'filename': %s } }", addr, path);
    g_assert_true(g_file_get_contents(path, &data, &length, NULL));
    unlink(path);
    g_assert_cmpuint(length, ==, PAGE);
    g_assert_cmphex((uint8_t)data[0], ==, 0xaa);
}

/* The other device may protect what is a buffer of this one */
static void touch_buffer(Guarded *g, uint64_t addr)
{
    const struct memctl_vmm_call call = {
        .func_code = cpu_to_le64(MEMCTL_INFO),
        .length = -1,
    };
    struct memctl_vmm_ret ret;

    ask_ok(&g->d, MEMCTL_MPROTECT_RW, addr, PAGE);
    command(&g->other, MEMCTL_CMD_RESET);
    register_buffer(&g->other, addr + 64);
    command(&g->other, MEMCTL_CMD_READY);
    qtest_memwrite(g->m.qts, addr + 64, &call, sizeof(call));
    ask_ok(&g->d, MEMCTL_MPROTECT_R, addr, PAGE);
    ask_ok(&g->d, MEMCTL_MPROTECT_NONE, addr, PAGE);
    qtest_writel(g->m.qts, g->other.bar + MEMCTL_REG_COMMAND, CONNECTION(0));
    qtest_memread(g->m.qts, addr + 64, &ret, sizeof(ret));
    g_assert_cmpuint(le64_to_cpu(ret.arg1), ==, 1);
    g_assert_cmpuint(le64_to_cpu(ret.ret_value), ==, getpagesize());
}

static void touch_table_read(Guarded *g, uint64_t addr)
{
    struct memctl_vmm_ret ret = ask_arg(&g->d, 0, MEMCTL_VECTOR, addr, 1,
                                        MEMCTL_DONTNEED);

    /* It reads 0xaaaa...: no such range */
    g_assert_cmpuint(ret.ret_errno, !=, 0);
    g_assert_cmpuint(ret.ret_value, ==, 0);
}

static void assert_hit(Guarded *g, uint64_t addr, uint64_t hits,
                       const char *action)
{
    QDict *event = qtest_qmp_eventwait_ref(g->m.qts, "PVMEMCTL_GUARD_HIT");
    QDict *data = qdict_get_qdict(event, "data");

    g_assert_cmpstr(qdict_get_str(data, "path"), ==, "/machine/peripheral/dev");
    g_assert_cmphex(qdict_get_int(data, "gpa") & -PAGE, ==, addr);
    g_assert_cmpstr(qdict_get_str(data, "block"), ==, "pc.ram");
    g_assert_cmphex(qdict_get_int(data, "offset") & -PAGE, ==, addr);
    g_assert_cmpuint(qdict_get_int(data, "hits"), ==, hits);
    g_assert_cmpstr(qdict_get_str(data, "action"), ==, action);
    qobject_unref(event);
}

/* Until the main loop of QEMU has gone round for sure, and no event came */
static void assert_no_hit(Guarded *g, unsigned so_far)
{
    QDict *event;

    query_number(g->m.qts, "guard-hits");
    g_assert_cmpuint(query_number(g->m.qts, "guard-hits"), ==, so_far);
    event = qtest_qmp_event_ref(g->m.qts, "PVMEMCTL_GUARD_HIT");
    g_assert_null(event);
}

typedef struct Toucher {
    const char *path;
    Touch *touch;
    bool reads;
} Toucher;

static const Toucher touchers[] = {
    { "/pvmemctl/guard/read", touch_read, true },
    { "/pvmemctl/guard/write", touch_write },
    { "/pvmemctl/guard/dma-read", touch_dma_read, true },
    { "/pvmemctl/guard/dma", touch_dma_write },
    { "/pvmemctl/guard/fw-cfg", touch_fw_cfg },
    { "/pvmemctl/guard/pmemsave", touch_pmemsave_read, true },
    { "/pvmemctl/guard/buffer", touch_buffer },
    { "/pvmemctl/guard/table", touch_table_read, true },
};

/* A page in the middle of five is touched: it alone is given free */
static void guard_page(Guarded *g, const Toucher *t, int code, unsigned *hits)
{
    QTestState *qts = g->m.qts;
    const uint64_t start = DATA + 16 * PAGE, page = start + 2 * PAGE;
    HostRange r;

    fill(&g->d, start, 5 * PAGE);
    ask_ok(&g->d, code, start, 2 * PAGE);
    ask_ok(&g->d, code, start + 3 * PAGE, 2 * PAGE);
    ask_ok(&g->d, code, page, PAGE);
    g_assert_cmpuint(query_ledger(qts), ==, 1);
    t->touch(g, page);
    if (code == MEMCTL_MPROTECT_R && t->reads) {
        assert_no_hit(g, *hits);
        g_assert_true(is_running(qts));
        ask_ok(&g->d, MEMCTL_MPROTECT_RW, start, 5 * PAGE);
        return;
    }
    assert_hit(g, page, 1, "stop");
    (*hits)++;
    if (t->touch != touch_dma_read) {
        g_assert_false(is_running(qts));
        qtest_qmp_assert_success(qts, "{ 'execute': 'cont' }");
    }
    g_assert_true(is_running(qts));
    assert_no_hit(g, *hits);
    g_assert_true(host_is_writable(qts, page, PAGE));
    r = host_range(qts, start, 5 * PAGE, NULL, NULL);
    g_assert_cmpuint(r.none + r.read_only, ==, 4 * PAGE);
    g_assert_cmpuint(query_ledger(qts), ==, 2);

    /* It may be protected again */
    ask_ok(&g->d, MEMCTL_MPROTECT_NONE, page, PAGE);
    g_assert_true(host_is_protected(qts, page, PAGE));
    ask_ok(&g->d, MEMCTL_MPROTECT_RW, start, 5 * PAGE);
    g_assert_cmpuint(query_ledger(qts), ==, 0);
}

static void test_touch(const void *opaque)
{
    const Toucher *t = opaque;
    Guarded g = guarded_start("", "");
    unsigned hits = 0;

    guard_page(&g, t, MEMCTL_MPROTECT_NONE, &hits);
    if (t->touch != touch_buffer) {
        guard_page(&g, t, MEMCTL_MPROTECT_R, &hits);
    }
    guarded_stop(&g);
}

/* A device's own buffer is not to be protected by it */
static void test_own_buffer(void)
{
    Guarded g = guarded_start("", "");

    ask_fails(&g.d, MEMCTL_MPROTECT_NONE, BUFFER(0) & -PAGE, PAGE, EINVAL);
    ask_fails(&g.d, MEMCTL_MPROTECT_R, BUFFER(0) & -PAGE, PAGE, EINVAL);
    ask_fails(&g.d, MEMCTL_MPROTECT_NONE, BUFFER(0) & -MiB, 4 * MiB, EINVAL);
    g_assert_true(host_is_writable(g.m.qts, BUFFER(0) & -PAGE, PAGE));
    guarded_stop(&g);
}

/* Events are limited, hits are counted all the same */
static void test_log(void)
{
    Guarded g = guarded_start(",on-guard=log", "");
    int64_t start = g_get_monotonic_time();
    unsigned events = 0, hits = 0;
    int64_t seconds;

    ask_ok(&g.d, MEMCTL_MPROTECT_NONE, DATA, 64 * PAGE);
    for (int i = 0; i < 20; i++) {
        touch_read(&g, DATA + i * PAGE);
    }
    query_number(g.m.qts, "guard-hits");
    g_assert_cmpuint(query_number(g.m.qts, "guard-hits"), ==, 20);
    g_assert_true(is_running(g.m.qts));
    g_usleep(G_USEC_PER_SEC + G_USEC_PER_SEC / 10);
    touch_read(&g, DATA + 30 * PAGE);
    query_number(g.m.qts, "guard-hits");
    g_assert_cmpuint(query_number(g.m.qts, "guard-hits"), ==, 21);
    seconds = (g_get_monotonic_time() - start) / G_USEC_PER_SEC;

    while (hits < 21) {
        QDict *event = qtest_qmp_eventwait_ref(g.m.qts, "PVMEMCTL_GUARD_HIT");
        QDict *data = qdict_get_qdict(event, "data");

        g_assert_cmpstr(qdict_get_str(data, "action"), ==, "log");
        hits += qdict_get_int(data, "hits");
        events++;
        qobject_unref(event);
    }
    g_assert_cmpuint(hits, ==, 21);
    g_assert_cmpuint(events, >=, 2);
    g_assert_cmpuint(events, <=, 2 + seconds);
    assert_no_hit(&g, 21);
    guarded_stop(&g);
}

/* No machine check to a guest that takes none: it would be reset */
static void test_mce(void)
{
    Guarded g = guarded_start(",on-guard=mce", "");

    ask_ok(&g.d, MEMCTL_MPROTECT_NONE, DATA, PAGE);
    touch_write(&g, DATA);
    assert_hit(&g, DATA, 1, "mce");
    assert_no_hit(&g, 1);
    g_assert_true(is_running(g.m.qts));
    g_assert_null(qtest_qmp_event_ref(g.m.qts, "RESET"));
    g_assert_cmpuint(query_ledger(g.m.qts), ==, 0);
    guarded_stop(&g);
}

/* More than can be noted before the main loop sees them */
static void test_many(void)
{
    Guarded g = guarded_start(",on-guard=log", "");
    g_autofree char *before = host_attributes(g.m.qts, 0, RAM_SIZE);
    g_autofree char *after = NULL;

    for (int i = 0; i < 200; i++) {
        ask_ok(&g.d, i % 2 ? MEMCTL_MPROTECT_R : MEMCTL_MPROTECT_NONE,
               DATA + i * PAGE, PAGE);
    }
    g_assert_cmpuint(query_ledger(g.m.qts), ==, 200);
    qtest_memset(g.m.qts, DATA, 0x55, MiB);
    g_assert_true(is_filled(&g.d, DATA, MiB, 0x55));
    query_ledger(g.m.qts);
    g_assert_cmpuint(query_ledger(g.m.qts), ==, 0);
    g_assert_cmpuint(query_number(g.m.qts, "guard-hits"), >, 0);
    after = host_attributes(g.m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(after, ==, before);
    qtest_qmp_eventwait(g.m.qts, "PVMEMCTL_GUARD_HIT");

    /* It is watched again */
    ask_ok(&g.d, MEMCTL_MPROTECT_NONE, DATA, 2 * PAGE);
    touch_write(&g, DATA);
    query_ledger(g.m.qts);
    g_assert_cmpuint(query_ledger(g.m.qts), ==, 1);
    g_assert_true(host_is_protected(g.m.qts, DATA + PAGE, PAGE));
    guarded_stop(&g);
}

/* No room to make two protections of one: all of it goes */
static void test_no_room(void)
{
    Guarded g = guarded_start(",on-guard=log,max-ranges=512", "");
    unsigned mappings = host_mappings(g.m.qts);
    struct memctl_vmm_ret ret;
    unsigned nr = 0;

    ask_ok(&g.d, MEMCTL_MPROTECT_NONE, DATA, 16 * PAGE);
    do {
        ret = ask(&g.d, 0, MEMCTL_DONTDUMP, DATA + MiB + 2 * nr++ * PAGE, PAGE);
    } while (!ret.ret_errno && nr < 1000);
    g_assert_cmpuint(ret.ret_errno, ==, ENOSPC);
    touch_write(&g, DATA + 8 * PAGE);
    query_ledger(g.m.qts);
    g_assert_cmpuint(query_number(g.m.qts, "guard-hits"), ==, 1);
    g_assert_true(host_is_writable(g.m.qts, DATA, 16 * PAGE));
    g_assert_cmpuint(host_mappings(g.m.qts), <=, mappings + 512);
    guarded_stop(&g);
}

static void test_huge(void)
{
    Guarded g;

    if (!host_has_huge_pages()) {
        g_test_skip("too few huge pages are free");
        return;
    }
    g = guarded_start(",on-guard=log", "-machine memory-backend=ram "
                      "-object memory-backend-memfd,id=ram,size=64M,"
                      "hugetlb=on,hugetlbsize=2M");
    ask_ok(&g.d, MEMCTL_MPROTECT_NONE, DATA, 4 * MiB);
    touch_write(&g, DATA + 3 * MiB);
    query_ledger(g.m.qts);
    g_assert_cmpuint(query_number(g.m.qts, "guard-hits"), ==, 1);
    g_assert_true(host_is_protected(g.m.qts, DATA, 2 * MiB));
    g_assert_true(host_is_writable(g.m.qts, DATA + 2 * MiB, 2 * MiB));
    guarded_stop(&g);
}

/* A dump has what is protected too, and leaves it so */
static void test_dump(void)
{
    Guarded g = guarded_start("", "");
    g_autofree char *path = NULL, *uri = NULL, *data = NULL;
    g_autofree char *before = NULL, *after = NULL;
    int fd = g_file_open_tmp("pvmemctl-test-XXXXXX", &path, NULL);
    size_t length, found = 0;

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    uri = g_strdup_printf("file:%s", path);
    ask_ok(&g.d, MEMCTL_MPROTECT_NONE, DATA, 16 * PAGE);
    ask_ok(&g.d, MEMCTL_MPROTECT_R, DATA + 32 * PAGE, PAGE);
    before = host_attributes(g.m.qts, 0, RAM_SIZE);
    qtest_qmp_assert_success(g.m.qts, "{ 'execute': 'dump-guest-memory',"
                             " 'arguments': { 'paging': false, 'protocol': %s,"
                             " 'begin': %" PRIu64 ", 'length': %" PRIu64
                             " } }", uri, (uint64_t)DATA, MiB);
    after = host_attributes(g.m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(after, ==, before);
    g_assert_true(g_file_get_contents(path, &data, &length, NULL));
    unlink(path);
    for (size_t i = 0; i < length; i++) {
        found += (uint8_t)data[i] == 0xaa;
    }
    g_assert_cmpuint(found, >=, MiB);
    assert_no_hit(&g, 0);
    g_assert_true(is_running(g.m.qts));

    /* Nor does one that fails */
    qobject_unref(qtest_qmp_assert_failure_ref(g.m.qts,
        "{ 'execute': 'dump-guest-memory', 'arguments': { 'paging': false,"
        " 'protocol': 'file:/dev/full', 'begin': %" PRIu64 ","
        " 'length': %" PRIu64 " } }", (uint64_t)DATA, MiB));
    g_free(after);
    after = host_attributes(g.m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(after, ==, before);
    qobject_unref(qtest_qmp_assert_failure_ref(g.m.qts,
        "{ 'execute': 'dump-guest-memory', 'arguments': { 'paging': false,"
        " 'protocol': 'file:/dev/null', 'begin': %" PRIu64 ","
        " 'length': 4096 } }", (uint64_t)1 << 40));
    g_free(after);
    after = host_attributes(g.m.qts, 0, RAM_SIZE);
    g_assert_cmpstr(after, ==, before);
    assert_no_hit(&g, 0);
    g_assert_true(is_running(g.m.qts));
    touch_write(&g, DATA);
    assert_hit(&g, DATA, 1, "stop");
    guarded_stop(&g);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < ARRAY_SIZE(touchers); i++) {
        qtest_add_data_func(touchers[i].path, &touchers[i], test_touch);
    }
    qtest_add_func("/pvmemctl/guard/own-buffer", test_own_buffer);
    qtest_add_func("/pvmemctl/guard/log", test_log);
    qtest_add_func("/pvmemctl/guard/mce", test_mce);
    qtest_add_func("/pvmemctl/guard/many", test_many);
    qtest_add_func("/pvmemctl/guard/no-room", test_no_room);
    qtest_add_func("/pvmemctl/guard/huge", test_huge);
    qtest_add_func("/pvmemctl/guard/dump", test_dump);
    return g_test_run();
}
