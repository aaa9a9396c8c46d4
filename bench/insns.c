/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A plugin for QEMU's TCG: instructions that a virtual CPU has executed,
 * printed whenever it comes by a mark, an instruction that does nothing and
 * that no compiler makes:  nopl 0x4d565042(%rax,%rax,1).  Marks count as well.
 *
 *   -plugin insns.so,out=FILE[,clears=on]
 *
 * A line is "CPU INSTRUCTIONS ALL MAPPED DIRECT": the instructions of this CPU
 * and of all, and with clears=on bytes of whole pages that the guest's kernel has
 * filled by "rep stos", in vmalloc's mappings and elsewhere.  A "rep stos" is no
 * instruction then: QEMU has one of any length, or with -icount many of one step.
 */
#include <glib.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <qemu-plugin.h>

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

static const uint8_t mark[] = {
    0x0f, 0x1f, 0x84, 0x00, 0x42, 0x50, 0x56, 0x4d
};

static qemu_plugin_u64 insns, mapped, direct, begin, end;
static struct qemu_plugin_register *rcx, *rdi;
static bool clears;
static FILE *out;

static void marked(unsigned int cpu, void *userdata)
{
    fprintf(out, "%u %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", cpu,
            qemu_plugin_u64_get(insns, cpu), qemu_plugin_u64_sum(insns),
            qemu_plugin_u64_sum(mapped), qemu_plugin_u64_sum(direct));
    fflush(out);
}

static uint64_t read_register(struct qemu_plugin_register *reg)
{
    static __thread GByteArray *bytes;
    uint64_t value = 0;

    if (!bytes) {
        bytes = g_byte_array_new();
    }
    g_byte_array_set_size(bytes, 0);
    if (reg && qemu_plugin_read_register(reg, bytes) == sizeof(value)) {
        memcpy(&value, bytes->data, sizeof(value));
    }
    return value;
}

/* Without KASLR, and with 4 or 5 levels of page tables */
static bool is_mapped(uint64_t addr)
{
    return addr >= (addr >> 47 == 0x1ffff ? 0xffffc90000000000
                                          : 0xffa0000000000000);
}

/*
 * A "rep stos" of @userdata bytes each time is about to begin; or to go on, which
 * has the end, not the beginning, of what began last
 */
static void filled(unsigned int cpu, void *userdata)
{
    uint64_t addr = read_register(rdi), length;

    if (!(addr >> 63) || addr % 4096) {
        return;
    }
    length = read_register(rcx) * (uintptr_t)userdata;
    if (!length || length % 4096 ||
        (addr != qemu_plugin_u64_get(begin, cpu) &&
         addr + length == qemu_plugin_u64_get(end, cpu))) {
        return;
    }
    qemu_plugin_u64_set(begin, cpu, addr);
    qemu_plugin_u64_set(end, cpu, addr + length);
    qemu_plugin_u64_add(is_mapped(addr) ? mapped : direct, cpu, length);
}

/* All virtual CPUs are alike */
static void started(qemu_plugin_id_t id, unsigned int cpu)
{
    g_autoptr(GArray) all = qemu_plugin_get_registers();

    for (guint i = 0; i < all->len; i++) {
        qemu_plugin_reg_descriptor *reg =
            &g_array_index(all, qemu_plugin_reg_descriptor, i);

        if (!strcmp(reg->name, "rcx")) {
            rcx = reg->handle;
        } else if (!strcmp(reg->name, "rdi")) {
            rdi = reg->handle;
        }
    }
}

/* Bytes that a "rep stos" fills each time; 0: it is something else */
static uintptr_t fills(struct qemu_plugin_insn *insn)
{
    uint8_t bytes[3];

    switch (qemu_plugin_insn_size(insn)) {
    case 2:
        qemu_plugin_insn_data(insn, bytes, 2);
        return !memcmp(bytes, "\xf3\xaa", 2) ? 1 : 0;
    case 3:
        qemu_plugin_insn_data(insn, bytes, 3);
        return !memcmp(bytes, "\xf3\x48\xab", 3) ? 8 : 0;
    }
    return 0;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        uint8_t bytes[sizeof(mark)];

        if (clears && fills(insn)) {
            qemu_plugin_register_vcpu_insn_exec_cb(
                insn, filled, QEMU_PLUGIN_CB_R_REGS, (void *)fills(insn));
            continue;
        }
        qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
            insn, QEMU_PLUGIN_INLINE_ADD_U64, insns, 1);
        if (qemu_plugin_insn_size(insn) == sizeof(mark) &&
            qemu_plugin_insn_data(insn, bytes, sizeof(bytes)) == sizeof(mark) &&
            !memcmp(bytes, mark, sizeof(mark))) {
            qemu_plugin_register_vcpu_insn_exec_cb(
                insn, marked, QEMU_PLUGIN_CB_NO_REGS, NULL);
        }
    }
}

static qemu_plugin_u64 counter(void)
{
    return qemu_plugin_scoreboard_u64(
        qemu_plugin_scoreboard_new(sizeof(uint64_t)));
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id,
                                           const qemu_info_t *info, int argc,
                                           char **argv)
{
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4)) {
            out = fopen(argv[i] + 4, "w");
        } else if (!strcmp(argv[i], "clears=on")) {
            clears = true;
        }
    }
    if (!out) {
        fprintf(stderr, "insns: out=FILE is wanted\n");
        return -1;
    }
    insns = counter();
    mapped = counter();
    direct = counter();
    begin = counter();
    end = counter();
    qemu_plugin_register_vcpu_init_cb(id, started);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
