/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A plugin for QEMU's TCG: instructions that a virtual CPU has executed,
 * printed whenever it comes by a mark, an instruction that does nothing and
 * that no compiler makes:  nopl 0x4d565042(%rax,%rax,1).  Marks count as well.
 *
 *   -plugin insns.so,out=FILE
 *
 * A line is "CPU INSTRUCTIONS".
 */
#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <qemu-plugin.h>

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

static const uint8_t mark[] = {
    0x0f, 0x1f, 0x84, 0x00, 0x42, 0x50, 0x56, 0x4d
};

static qemu_plugin_u64 insns;
static FILE *out;

static void marked(unsigned int cpu, void *userdata)
{
    fprintf(out, "%u %" PRIu64 "\n", cpu, qemu_plugin_u64_get(insns, cpu));
    fflush(out);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        uint8_t bytes[sizeof(mark)];

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

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id,
                                           const qemu_info_t *info, int argc,
                                           char **argv)
{
    if (argc == 1 && !strncmp(argv[0], "out=", 4)) {
        out = fopen(argv[0] + 4, "w");
    }
    if (!out) {
        fprintf(stderr, "insns: out=FILE is wanted\n");
        return -1;
    }
    insns = qemu_plugin_scoreboard_u64(
        qemu_plugin_scoreboard_new(sizeof(uint64_t)));
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
