/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qobject/qlist.h"
#include "libqos/pci-pc.h"
#include <sys/prctl.h>
#include <sys/sysinfo.h>
#include <linux/prctl.h>
#include "pvmemctl-util.h"

/* Machines */

/* The firmware is a request to discard DATA */
QTestState *qemu_start(const char *machine, const char *args)
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

Machine machine_start_type(const char *machine, const char *args)
{
    Machine m;

    m.qts = qemu_start(machine, args);
    m.bus = qpci_new_pc(m.qts, NULL);
    return m;
}

Machine machine_start(const char *args)
{
    return machine_start_type("q35", args);
}

void machine_stop(Machine *m)
{
    qpci_free_pc(m->bus);
    qtest_quit(m->qts);
}

void device_map(Device *d)
{
    qpci_device_enable(d->pci);
    d->bar = qpci_iomap(d->pci, 0, &d->bar_size).addr;
}

Device device_find(Machine *m, int slot)
{
    Device d = { .qts = m->qts };

    d.pci = qpci_device_find(m->bus, QPCI_DEVFN(slot, 0));
    g_assert_nonnull(d.pci);
    device_map(&d);
    return d;
}

void device_free(Device *d)
{
    g_free(d->pci);
}

Device device_start_args(Machine *m, const char *props, const char *args)
{
    g_autofree char *all = g_strdup_printf("-device pvmemctl,addr=04.0%s %s",
                                           props, args);

    *m = machine_start(all);
    return device_find(m, 4);
}

Device device_start(Machine *m, const char *props)
{
    return device_start_args(m, props, "");
}

void device_stop(Machine *m, Device *d)
{
    device_free(d);
    machine_stop(m);
}

/* The guest's side of the protocol */

uint32_t read_answer(Device *d)
{
    return qtest_readl(d->qts, d->bar + MEMCTL_REG_COMMAND);
}

uint32_t command(Device *d, uint32_t cmd)
{
    qtest_writel(d->qts, d->bar + MEMCTL_REG_COMMAND, cmd);
    return read_answer(d);
}

uint32_t register_buffer(Device *d, uint64_t buffer)
{
    qtest_writeq(d->qts, d->bar + MEMCTL_REG_PAYLOAD, buffer);
    return command(d, MEMCTL_CMD_REGISTER);
}

void handshake(Device *d, int nr)
{
    g_assert_cmphex(command(d, MEMCTL_CMD_RESET), ==, MEMCTL_ANSWER_ACK);
    for (int i = 0; i < nr; i++) {
        g_assert_cmphex(register_buffer(d, BUFFER(i)), ==, MEMCTL_ANSWER_ACK);
        g_assert_cmphex(qtest_readl(d->qts, d->bar + MEMCTL_REG_PAYLOAD), ==,
                        CONNECTION(i));
    }
    g_assert_cmphex(command(d, MEMCTL_CMD_READY), ==, MEMCTL_ANSWER_ACK);
}

void put_request(Device *d, uint64_t buffer, uint64_t code, uint64_t addr,
                 uint64_t length, uint64_t arg)
{
    struct memctl_vmm_call call = {
        .func_code = cpu_to_le64(code),
        .addr = cpu_to_le64(addr),
        .length = cpu_to_le64(length),
        .arg = cpu_to_le64(arg),
    };

    qtest_memwrite(d->qts, buffer, &call, sizeof(call));
}

void put_table(Device *d, const struct memctl_vmm_range *ranges, unsigned nr)
{
    g_autofree struct memctl_vmm_range *table =
        g_new(struct memctl_vmm_range, nr);

    for (unsigned i = 0; i < nr; i++) {
        table[i].addr = cpu_to_le64(ranges[i].addr);
        table[i].length = cpu_to_le64(ranges[i].length);
    }
    qtest_memwrite(d->qts, TABLE, table, nr * sizeof(*table));
}

struct memctl_vmm_ret ask_arg(Device *d, int n, uint64_t code, uint64_t addr,
                              uint64_t length, uint64_t arg)
{
    struct memctl_vmm_ret ret;

    put_request(d, BUFFER(n), code, addr, length, arg);
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

struct memctl_vmm_ret ask(Device *d, int n, uint64_t code, uint64_t addr,
                          uint64_t length)
{
    return ask_arg(d, n, code, addr, length, 0);
}

void ask_ok(Device *d, uint64_t code, uint64_t addr, uint64_t length)
{
    ask_fails(d, code, addr, length, 0);
}

void ask_fails(Device *d, uint64_t code, uint64_t addr, uint64_t length,
               uint32_t err)
{
    struct memctl_vmm_ret ret = ask(d, 0, code, addr, length);

    if (ret.ret_errno != err || (!err && ret.ret_code)) {
        g_error("code %" PRIu64 " at 0x%" PRIx64 " of 0x%" PRIx64 " bytes: "
                "errno %u code %u", code, addr, length, ret.ret_errno,
                ret.ret_code);
    }
}

struct memctl_vmm_ret ask_vector(Device *d, uint64_t code, unsigned nr)
{
    return ask_arg(d, 0, MEMCTL_VECTOR, TABLE, nr, code);
}

void assert_info(Device *d, int n, unsigned minor)
{
    struct memctl_vmm_ret ret = ask(d, n, MEMCTL_INFO, 0, -1);

    g_assert_cmpuint(ret.ret_errno, ==, 0);
    g_assert_cmpuint(ret.ret_code, ==, 0);
    g_assert_cmpuint(ret.ret_value, ==, getpagesize());
    g_assert_cmpuint(ret.arg0, ==, 1);
    g_assert_cmpuint(ret.arg1, ==, minor);
}

void assert_info_works(Device *d, int n)
{
    assert_info(d, n, 1);
}

void fill(Device *d, uint64_t addr, uint64_t length)
{
    qtest_memset(d->qts, addr, 0xaa, length);
}

static bool all_bytes(const uint8_t *data, uint64_t length, uint8_t want)
{
    for (uint64_t i = 0; i < length; i++) {
        if (data[i] != want) {
            return false;
        }
    }
    return true;
}

bool is_filled(Device *d, uint64_t addr, uint64_t length, uint8_t want)
{
    const uint64_t step = 64 * KiB;
    g_autofree uint8_t *data = g_malloc(step);

    /* What answers a long request in one line takes time by its square */
    for (; length; addr += MIN(length, step), length -= MIN(length, step)) {
        qtest_bufread(d->qts, addr, data, MIN(length, step));
        if (!all_bytes(data, MIN(length, step), want)) {
            return false;
        }
    }
    return true;
}

/* The host's side */

uint64_t host_addr(QTestState *qts, uint64_t addr)
{
    g_autofree char *answer = qtest_hmp(qts, "gpa2hva 0x%" PRIx64, addr);
    const char *is = strstr(answer, ") is ");

    g_assert_nonnull(is);
    return g_ascii_strtoull(is + 5, NULL, 16);
}

static FILE *open_proc(QTestState *qts, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", qtest_pid(qts),
                                            name);
    FILE *f = fopen(path, "r");

    g_assert_nonnull(f);
    return f;
}

typedef struct Vma {
    uint64_t start, end;
    char prot[5];
    char name[128];
    char flags[128];        /* each between spaces */
    uint64_t anonymous, lazyfree, anon_huge, referenced;
} Vma;

static uint64_t smaps_bytes(const char *line)
{
    return g_ascii_strtoull(strchr(line, ':') + 1, NULL, 10) * KiB;
}

/* The next mapping in smaps */
static bool next_vma(FILE *f, Vma *vma)
{
    uint64_t start, end;
    char line[512], prot[5];
    int name;

    while (fgets(line, sizeof(line), f)) {
        g_strchomp(line);
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*s %*s %*s %n",
                   &start, &end, prot, &name) == 3) {
            vma->start = start;
            vma->end = end;
            g_strlcpy(vma->prot, prot, sizeof(vma->prot));
            g_strlcpy(vma->name, line + name, sizeof(vma->name));
        } else if (g_str_has_prefix(line, "Anonymous:")) {
            vma->anonymous = smaps_bytes(line);
        } else if (g_str_has_prefix(line, "Referenced:")) {
            vma->referenced = smaps_bytes(line);
        } else if (g_str_has_prefix(line, "LazyFree:")) {
            vma->lazyfree = smaps_bytes(line);
        } else if (g_str_has_prefix(line, "AnonHugePages:")) {
            vma->anon_huge = smaps_bytes(line);
        } else if (g_str_has_prefix(line, "VmFlags:")) {
            g_snprintf(vma->flags, sizeof(vma->flags), "%s ", line + 8);
            return true;
        }
    }
    return false;
}

static bool vma_has_flag(const Vma *vma, const char *flag)
{
    g_autofree char *word = g_strdup_printf(" %s ", flag);

    return strstr(vma->flags, word);
}

HostRange host_range(QTestState *qts, uint64_t addr, uint64_t length,
                     const char *flag, const char *name)
{
    uint64_t start = host_addr(qts, addr), end = start + length;
    HostRange r = { 0 };
    FILE *f = open_proc(qts, "smaps");
    Vma vma;

    while (next_vma(f, &vma)) {
        uint64_t from = MAX(start, vma.start), to = MIN(end, vma.end);
        uint64_t bytes = to - from;

        if (from >= to) {
            continue;
        }
        r.bytes += bytes;
        r.none += vma.prot[0] == '-' ? bytes : 0;
        r.read_only += vma.prot[0] == 'r' && vma.prot[1] == '-' ? bytes : 0;
        r.read_write += vma.prot[0] == 'r' && vma.prot[1] == 'w' ? bytes : 0;
        r.flag += flag && vma_has_flag(&vma, flag) ? bytes : 0;
        r.named += name && strstr(vma.name, name) ? bytes : 0;
        r.lazyfree += vma.lazyfree;
        r.anon_huge += vma.anon_huge;
        r.referenced += vma.referenced;
    }
    fclose(f);
    g_assert_cmpuint(r.bytes, ==, length);
    return r;
}

bool host_has_flag(QTestState *qts, uint64_t addr, uint64_t length,
                   const char *flag)
{
    return host_range(qts, addr, length, flag, NULL).flag == length;
}

bool host_lacks_flag(QTestState *qts, uint64_t addr, uint64_t length,
                     const char *flag)
{
    return !host_range(qts, addr, length, flag, NULL).flag;
}

bool host_is_protected(QTestState *qts, uint64_t addr, uint64_t length)
{
    return host_range(qts, addr, length, NULL, NULL).none == length;
}

bool host_is_writable(QTestState *qts, uint64_t addr, uint64_t length)
{
    return host_range(qts, addr, length, NULL, NULL).read_write == length;
}

char *host_attributes(QTestState *qts, uint64_t addr, uint64_t length)
{
    return host_attributes_at(qts, host_addr(qts, addr), length);
}

char *host_attributes_at(QTestState *qts, uint64_t start, uint64_t length)
{
    uint64_t end = start + length;
    FILE *f = open_proc(qts, "smaps");
    GString *all = g_string_new(NULL);
    g_autofree char *last = NULL;
    Vma vma;

    while (next_vma(f, &vma)) {
        const char *name = strstr(vma.name, "pvmemctl-");
        g_autofree char *this = NULL;
        char *sd;

        if (vma.end <= start || vma.start >= end) {
            continue;
        }
        /* Come and go with nobody's will: soft-dirty, accounted, reserved */
        while ((sd = strstr(vma.flags, " sd ")) ||
               (sd = strstr(vma.flags, " ac ")) ||
               (sd = strstr(vma.flags, " nr "))) {
            memmove(sd, sd + 3, strlen(sd + 3) + 1);
        }
        this = g_strdup_printf("%s%s%s", vma.prot, vma.flags,
                               g_str_has_prefix(vma.name, "[anon") && name ?
                               name : "");
        /* Neighbours that differ in nothing need not be one mapping */
        if (g_strcmp0(this, last)) {
            g_string_append_printf(all, "+0x%" PRIx64 " %s\n",
                                   MAX(vma.start, start) - start, this);
            g_free(last);
            last = g_steal_pointer(&this);
        }
    }
    fclose(f);
    return g_string_free(all, false);
}

uint64_t host_present(QTestState *qts, uint64_t addr, uint64_t length)
{
    uint64_t start = host_addr(qts, addr), present = 0;
    FILE *f = open_proc(qts, "pagemap");

    for (uint64_t at = 0; at < length; at += PAGE) {
        uint64_t word = 0;

        g_assert_cmpint(pread(fileno(f), &word, sizeof(word),
                              (start + at) / PAGE * sizeof(word)), ==,
                        sizeof(word));
        present += word >> 63 ? PAGE : 0;
    }
    fclose(f);
    return present;
}

uint64_t host_file_bytes(QTestState *qts, uint64_t addr)
{
    uint64_t at = host_addr(qts, addr);
    FILE *f = open_proc(qts, "smaps");
    struct stat st = { 0 };
    Vma vma;

    while (next_vma(f, &vma)) {
        if (at >= vma.start && at < vma.end) {
            g_autofree char *path = g_strdup_printf(
                "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, qtest_pid(qts),
                vma.start, vma.end);

            g_assert_cmpint(stat(path, &st), ==, 0);
        }
    }
    fclose(f);
    return st.st_blocks * 512ull;
}

bool host_is_filled(QTestState *qts, uint64_t addr, uint64_t length,
                    uint8_t want)
{
    return host_is_filled_at(qts, host_addr(qts, addr), length, want);
}

bool host_is_filled_at(QTestState *qts, uint64_t start, uint64_t length,
                       uint8_t want)
{
    g_autofree uint8_t *data = g_malloc(length);
    FILE *f = open_proc(qts, "mem");
    ssize_t n = pread(fileno(f), data, length, start);

    fclose(f);
    g_assert_cmpint(n, ==, length);
    return all_bytes(data, length, want);
}

unsigned host_mappings(QTestState *qts)
{
    FILE *f = open_proc(qts, "maps");
    unsigned nr = 0;
    int c;

    while ((c = fgetc(f)) != EOF) {
        nr += c == '\n';
    }
    fclose(f);
    return nr;
}

uint64_t host_heap(QTestState *qts)
{
    uint64_t start = host_addr(qts, 0), end = start + RAM_SIZE, sum = 0;
    FILE *f = open_proc(qts, "smaps");
    Vma vma;

    while (next_vma(f, &vma)) {
        if (vma.end <= start || vma.start >= end) {
            sum += vma.anonymous;
        }
    }
    fclose(f);
    return sum;
}

bool host_has_thp(void)
{
    return !access("/sys/kernel/mm/transparent_hugepage", F_OK);
}

bool host_has_ksm(void)
{
    return !access("/sys/kernel/mm/ksm", F_OK);
}

bool host_has_names(void)
{
    void *p = mmap(NULL, getpagesize(), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS,
                   -1, 0);
    bool has = !prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, p, getpagesize(),
                      "probe");

    munmap(p, getpagesize());
    return has;
}

bool host_has_swap(void)
{
    struct sysinfo info;

    return !sysinfo(&info) && info.totalswap;
}

static unsigned huge_pages(const char *which)
{
    g_autofree char *path = g_strdup_printf(
        "/sys/kernel/mm/hugepages/hugepages-2048kB/%s", which);
    g_autofree char *text = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return 0;
    }
    return g_ascii_strtoull(text, NULL, 10);
}

bool host_has_huge_pages(void)
{
    return huge_pages("free_hugepages") >=
           huge_pages("resv_hugepages") + RAM_SIZE / (2 * MiB);
}

/* What QEMU says about itself */

QDict *query(QTestState *qts, const char *cmd)
{
    return qtest_qmp_assert_success_ref(qts, "{ 'execute': %s }", cmd);
}

QDict *query_pvmemctl(QTestState *qts)
{
    return query(qts, "query-pvmemctl");
}

uint64_t query_number(QTestState *qts, const char *name)
{
    QDict *info = query_pvmemctl(qts);
    uint64_t n = qdict_get_int(info, name);

    qobject_unref(info);
    return n;
}

unsigned query_ledger(QTestState *qts)
{
    QDict *info = query_pvmemctl(qts);
    unsigned n = qlist_size(qdict_get_qlist(info, "ledger"));

    qobject_unref(info);
    return n;
}

bool is_running(QTestState *qts)
{
    QDict *info = query(qts, "query-status");
    bool running = qdict_get_bool(info, "running");

    qobject_unref(info);
    return running;
}
