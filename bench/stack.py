#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""What a thread's kernel stack costs, with the pool of stacks and without.

Each figure is beside that of the unpatched kernel of the same configuration.  What
the host holds is asked of the host's kernel.  Guest instructions and the bytes that
the guest clears are counted by a plugin for TCG, in a machine whose clock is its
instructions; doorbells by the device; who rang is in the guest's trace.  Goals are
about the configuration "distro".
"""

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import threading
import time

from common import (OUT, BenchError, Report, boot, check_kernels, compile_plugin,
                    compile_program, oracle, run_bench, say)

KIB, PAGE = 1024, 4096
STACK = 4 * PAGE
MEMORY = 1024               # of a guest, MiB
CPUS = 2
SYSFS = "/sys/kernel/mm/pvmemctl/stack/"
CHUNKS = "/sys/kernel/debug/stack_pool/chunks"
TRACING = "/sys/kernel/tracing/"
GOALS_ON = "distro"

THREADS = (100, 1000, 4000)
SURVIVORS = 1               # per cent
DEPTH = 12000               # bytes of a deep stack

# Figures of the issue: what is held, cleared, done
IDLE_KIB, CLEARED, SHARE, DEEP_FACTOR = 4.5, PAGE, 0.95, 1.1
# "Off" leaves patched-out branches: at most so many instructions for a thread
OFF_INSNS = 16

KINDS = {"clone": "clone+exit", "burst": "clone+exit, 64 at once", "fork": "fork+exec+exit"}
# A clock that instructions drive: no more ticks for who is slow
ICOUNT = ["-icount", "shift=0,sleep=off"]
# Is the same each time but when the slab allocator or a tick comes in between: counted
# one by one, the median is right to the last instruction
MARKED = "vfork"
COUNTED = {**KINDS, MARKED: "vfork+exit"}
# Clears memory by stores, each an instruction of its own
NO_REP = "clearcpuid=rep_good,erms,fsrm"


class Effort:
    """How much is done."""

    def __init__(self, quick):
        self.backings = [("anon", True, False)] if quick else [
            ("anon", True, False), ("anon", False, False), ("memfd", True, False),
            ("memfd", False, False), ("anon", True, True)]
        self.rounds = 3 if quick else 11
        self.insns_rounds = 2 if quick else 5
        self.insns_counts = {"clone": 128, "burst": 128, "fork": 64, "vfork": 256}
        self.counts = {"clone": 256, "burst": 256, "fork": 64} if quick else {
            "clone": 1024, "burst": 1024, "fork": 128}
        self.mix_rounds = 1 if quick else 3
        self.mix = 3 if quick else 20


class Machine:
    """A guest, and what this machine holds of its memory."""

    def __init__(self, guest):
        self.guest, self.ask = guest, guest.ask
        # Nothing is plugged: this stays as it is
        self.blocks = oracle.parse_ramblock(guest.qmp.hmp("info ramblock"))
        self.flats = oracle.parse_flatview(guest.qmp.hmp("info mtree -f"))

    def held(self, ranges):
        """KiB the host holds of ranges (host address, length)."""
        answer = oracle.state(self.guest.pid, ranges)
        return int(re.search(r"resident=(\d+)", answer)[1]) * PAGE // KIB

    def all_held(self):
        return self.held([(block.hva, block.size) for block in self.blocks
                          if re.fullmatch(r"mem\d*", block.name)])

    def figure(self, name):
        return self.ask("read", SYSFS + name)[0]

    def depth(self):
        return self.ask("read", SYSFS + "depth")

    def available(self):
        return self.ask("read", "/proc/meminfo")[2]

    def pool(self):
        """(KiB the host holds for the pool, stacks in use)."""
        numbers = self.ask("read", CHUNKS)
        whole, kib, live = [], 0, 0
        for i in range(0, len(numbers), 5):
            gpa, length, _, used, shattered = numbers[i:i + 5]
            ranges = oracle.translate(self.blocks, self.flats, gpa, length)
            live += used
            if shattered:
                # All but its used stacks is other memory by now: at most that
                kib += min(self.held(ranges), used * STACK // KIB)
            else:
                whole += ranges
        return kib + (self.held(whole) if whole else 0), live


@contextlib.contextmanager
def machine(program, kernel, *options, cpus=CPUS, **more):
    with boot(f"stack-{kernel}", program, cpus, "--kernel", kernel, *options,
              mem=MEMORY, **more) as guest:
        yield Machine(guest)


class Bench:
    """All that is measured with one configuration."""

    def __init__(self, report, effort, kernel, program):
        self.report, self.effort, self.kernel, self.program = report, effort, kernel, program
        self.pair = kernel, kernel + "-unpatched"
        self.measured = {}      # what goals are about: {kind: {figure: value}}
        self.plot = {}          # {kernel: [(threads, KiB)]}
        self.mixed = {}         # {kernel: [(seconds, KiB)]}

    def figure(self, name, unit, ours, other=None, **more):
        against = "unpatched" if other is not None else None
        return self.report.figure(f"{self.kernel}: {name}", unit, ours, against, other, **more)

    def keep(self, kind, name, value):
        self.measured.setdefault(kind, {})[name] = value

    def keep_share(self, guest, name):
        taken, fallbacks = guest.figure("taken"), guest.figure("fallbacks")
        self.keep("share", name, taken / (taken + fallbacks) if taken else 0)
        self.figure(f"share of stacks that are the pool's, {name}", "ratio",
                    self.measured["share"][name], taken=taken, fallbacks=fallbacks)

    # --- Memory of threads that sleep ---

    def memory(self):
        for backing, thp, numa in self.effort.backings:
            title = f"{backing}, THP {'on' if thp else 'off'}{', 2 nodes' if numa else ''}"
            say(f"{self.kernel}: memory of threads that sleep: {title}")
            options = ["--backing", backing] + ["--numa"] * numa
            grown = {}
            for kernel in self.pair:
                with machine(self.program, kernel, *options, thp=thp) as guest:
                    grown[kernel] = self.ramp(guest, title, kernel == self.kernel)
            for i, threads in enumerate(THREADS):
                ours, other = (grown[kernel][i] / threads for kernel in self.pair)
                self.figure(f"growth of the host's memory, {threads} threads, {title}",
                            "KiB/thread", ours, other)
            if (backing, thp, numa) == self.effort.backings[0]:
                self.plot = {kernel: list(zip(THREADS, values))
                             for kernel, values in grown.items()}

    def ramp(self, guest, title, patched):
        """KiB by which the host's memory grew, for each number of threads."""
        time.sleep(1)
        before, grown = guest.all_held(), []
        depth = guest.depth() if patched else None
        for threads in THREADS:
            if patched and threads == THREADS[-1]:
                # There are not so many stacks yet: these are made
                self.rung(guest, f"making {threads} threads, {title}", threads,
                          "threads", threads, 0)
            else:
                guest.ask("threads", threads, 0)
            time.sleep(1)
            grown.append(guest.all_held() - before)
            if patched:
                kib, live = guest.pool()
                self.figure(f"an idle thread's stack, {threads} threads, {title}", "KiB",
                            kib / live if live else 0, pool_kib=kib, live=live)
                if threads == THREADS[-1]:
                    self.keep("idle", title, kib / live if live else None)
                    self.keep("pooled", title, live / threads)
        if patched:
            guest.ask("threads", 0, 0)
            time.sleep(0.5)
            self.distribution(title, [b - a for a, b in zip(depth, guest.depth())])
            self.keep_share(guest, f"{THREADS[-1]} threads, {title}")
        return grown

    def distribution(self, title, stacks):
        for pages, number in enumerate(stacks):
            self.figure(f"stacks with {pages} pages written, {title}", "stacks", number)

    # --- What is left of a burst ---

    def survivors(self):
        say(f"{self.kernel}: {SURVIVORS} % survive")
        left = {}
        for kernel in self.pair:
            with machine(self.program, kernel) as guest:
                time.sleep(1)
                host, available = guest.all_held(), guest.available()
                guest.ask("threads", THREADS[-1], 0)
                peak = guest.all_held() - host, available - guest.available()
                stay = guest.ask("survive", SURVIVORS)[0]
                time.sleep(2)
                left[kernel] = (guest.all_held() - host, available - guest.available()) + peak
                if kernel == self.kernel:
                    title = f"{stay} of {THREADS[-1]} threads survive, 2 s later"
                    kib, live = guest.pool()
                    self.figure(f"{title}: host memory for the pool", "KiB", kib, live=live)
                    self.figure(f"{title}: guest memory of the pool", "KiB",
                                guest.figure("pages") * PAGE // KIB,
                                stacks=guest.figure("stacks"), idle=guest.figure("idle"),
                                shattered=guest.figure("shattered"))
        for i, what in enumerate((
                f"{title}: growth of the host's memory", f"{title}: guest memory not available",
                f"{THREADS[-1]} threads: growth of the host's memory",
                f"{THREADS[-1]} threads: guest memory not available")):
            self.figure(what, "KiB", *(left[kernel][i] for kernel in self.pair))

    # --- Deep stacks ---

    def deep(self):
        say(f"{self.kernel}: deep stacks")
        held = {}
        with machine(self.program, self.kernel) as guest:
            for depth in 0, DEPTH:
                guest.ask("threads", THREADS[-1], depth)
                held[depth, "peak"] = guest.pool()[0]
                guest.ask("threads", 0, 0)
                end = time.monotonic()
                time.sleep(0.8)         # to look takes a while too
                held[depth, "after"] = guest.pool()[0]
                took = time.monotonic() - end
                time.sleep(3)
                held[depth, "later"] = guest.pool()[0]
        for what, text in (("peak", "while they sleep"),
                           ("after", "1 s after they ended"), ("later", "4 s after")):
            self.report.figure(
                f"{self.kernel}: pool's host memory, {THREADS[-1]} threads went deep, {text}",
                "KiB", held[DEPTH, what], "not deep", held[0, what])
        self.report.note(f"{self.kernel}: 'after 1 s' was {took:.2f} s")
        self.keep("deep", "1 s", held[DEPTH, "after"] / held[0, "after"])

    # --- Threads and processes that end ---

    def churn(self):
        say(f"{self.kernel}: threads and processes that end")
        with machine(self.program, self.pair[0]) as ours, \
                machine(self.program, self.pair[1]) as other:
            for kind, what in KINDS.items():
                for cpus in 1, CPUS:
                    title = f"{what}, {cpus} CPU{'s' if cpus > 1 else ''}"
                    self.doorbells(ours, title, kind, cpus)
                    self.times((ours, other), title, kind, cpus)
            self.mix((ours, other))
            self.keep_share(ours, "threads and processes that end")

    def doorbells(self, guest, title, kind, cpus):
        line = "run", kind, cpus, self.effort.counts[kind]
        guest.ask(*line)
        depth = guest.depth()
        rung = self.rung(guest, title, self.effort.counts[kind] * cpus, *line)
        self.keep("doorbells", title, rung)
        pages = [b - a for a, b in zip(depth, guest.depth())]
        if sum(pages):
            self.figure(f"pages written of a stack, {title}", "pages",
                        sum(i * n for i, n in enumerate(pages)) / sum(pages), stacks=pages)

    def rung(self, guest, title, operations, *line):
        """Doorbells by who forks or exits, as the trace has it: not the pool's work."""
        guest.ask("write", TRACING + "trace")
        guest.ask("write", TRACING + "events/pvmemctl/enable", 1)
        grown = guest.guest.counted(*line)[1]
        guest.ask("write", TRACING + "events/pvmemctl/enable", 0)
        seen = guest.ask("count", TRACING + "trace", "func=")[0]
        forker = seen - guest.ask("count", TRACING + "trace", "kworker")[0]
        rung = sum(function["calls"] for function in grown.values())
        if rung != seen:
            self.report.note(f"{title}: {rung} doorbells, {seen} calls in the guest's trace")
        self.figure(f"doorbells of {title}, all", "per 1000", 1000 * rung / operations)
        self.figure(f"doorbells of {title}, by who forks or exits", "per 1000",
                    1000 * forker / operations)
        return forker

    def times(self, machines, title, kind, cpus):
        rounds = [], []
        for i in range(self.effort.rounds + 1):
            for j in (0, 1) if i % 2 else (1, 0):
                ns = machines[j].ask("run", kind, cpus, self.effort.counts[kind])[0]
                # The first round warms up
                if i:
                    rounds[j].append(ns / self.effort.counts[kind] / 1e3)
        ratios = sorted(a / b for a, b in zip(*rounds))
        self.figure(f"time of {title}", "us", *rounds, ratio_min=ratios[0],
                    ratio_median=statistics.median(ratios), ratio_max=ratios[-1])
        if kind != "fork":
            self.keep("time", title, statistics.median(ratios))

    def mix(self, machines):
        """Threads that talk, and a storm of programs."""
        times, samples = ([], []), ([], [])
        for _ in range(self.effort.mix_rounds):
            for j in 0, 1:
                with sampled(machines[j]) as found:
                    times[j].append(machines[j].ask("mix", self.effort.mix)[0] / 1e9)
                samples[j].extend(found)
        self.figure("a busy mix, time", "s", *times)
        for what, of in ("peak", max), ("mean", statistics.mean), ("last", lambda kib: kib[-1]):
            self.figure(f"a busy mix, host memory, {what}", "KiB",
                        *(of([kib for _, kib in found]) for found in samples))
        self.mixed = dict(zip(self.pair, samples))

    # --- Counted by the plugin ---

    def counted(self, kernel, cpus, append=""):
        """{kind: [(instructions, bytes cleared in mappings, elsewhere, of stacks that are
        not the pool's)...]}, of each operation."""
        plugin = compile_plugin("insns.so", "insns.c")
        marks = os.path.join(OUT, f"insns-{kernel}.out")
        qemu = ["-plugin", f"{plugin},out={marks},clears=on"]
        # With more CPUs QEMU 10.2 crashes with both
        if cpus == 1:
            qemu += ICOUNT
        found = {}
        with machine(self.program, kernel, cpus=cpus, append="nokaslr " + append,
                     qemu=qemu) as guest:
            def fallbacks():
                return guest.figure("fallbacks") if kernel == self.kernel else 0

            for kind in COUNTED:
                count = self.effort.insns_counts[kind]
                operations = count * cpus
                marked = operations if kind == MARKED else 0
                found[kind] = []
                for i in range(self.effort.insns_rounds + 1):
                    before = fallbacks()
                    guest.ask("run", kind, cpus, count)
                    others = (fallbacks() - before) * STACK / operations
                    with open(marks, encoding="utf-8") as file:
                        at = [[int(n) for n in line.split()[2:]]
                              for line in file.readlines()[-marked - 2:]]
                    if marked and cpus == 1:
                        # One by one, from the end of the first
                        at, each = at[1:-1], 1
                    else:
                        at, each = [at[0], at[-1]], operations
                    # The first round warms up
                    if i:
                        found[kind] += [[(b - a) / each for a, b in zip(*pair)] + [others]
                                        for pair in zip(at, at[1:])]
        return found

    def counts(self):
        say(f"{self.kernel}: guest instructions")
        off = self.counted(self.kernel, 1, "pvmemctl.stack=off")
        for cpus, append, how in (1, "", ", clearing not counted"), (1, NO_REP, ""), (CPUS, "", ""):
            ours, other = (self.counted(kernel, cpus, append) for kernel in self.pair)
            for kind, what in COUNTED.items():
                title = f"{what}, {cpus} CPU{'s' if cpus > 1 else ''}"
                name = f"guest instructions of {title}{how}"
                insns, against = ([value[0] for value in column[kind]]
                                  for column in (ours, other))
                if cpus > 1:
                    name += ", clearing not counted, with ticks"
                self.figure(name, "insns", insns, against)
                if cpus == 1 and kind != "fork":
                    self.keep("insns", title + how,
                              statistics.median(insns) / statistics.median(against))
                if not append:
                    self.cleared(title, ours[kind], other[kind])
                if how:
                    figure = self.figure(f"{name}, pvmemctl.stack=off", "insns",
                                         [value[0] for value in off[kind]], against)
                    if kind == MARKED:
                        self.keep("off", title, figure["ours"] - figure["other"])
        self.report.note("guest instructions on one CPU: time passes by instructions, so all "
                         "see the same ticks; without 'clearing not counted', a CPU that "
                         "clears by stores")

    def cleared(self, title, *columns):
        """But for stacks that are new, nothing else is cleared by vmalloc's mapping."""
        for i, what in (1, "by a stack's mapping"), (2, "otherwise, also what is no stack"):
            self.figure(f"bytes cleared of {title}, {what}", "bytes",
                        *([value[i] for value in column] for column in columns))
        self.keep("cleared", title, statistics.median(
            value[1] + value[3] for value in columns[0]))


@contextlib.contextmanager
def sampled(machine_):
    """[(seconds, KiB of the host)...] of the time in between."""
    found, stop, start = [], threading.Event(), time.monotonic()

    def sample():
        while not stop.wait(0.1):
            found.append((time.monotonic() - start, machine_.all_held()))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield found
    finally:
        stop.set()
        sampler.join()
        found.append((time.monotonic() - start, machine_.all_held()))


def set_goals(report, measured):
    def goal(name, kind, pick, limit, is_met):
        """The worst counts."""
        found = measured.get(kind, {})
        title = pick((t for t in found if found[t] is not None), key=found.get, default=None)
        value = found.get(title)
        report.goal(name, value, limit, value is not None and is_met(value), worst=title)

    def at_most(limit):
        return lambda value: value <= limit

    def at_least(limit):
        return lambda value: value >= limit

    goal(f"host memory of an idle thread's stack, {THREADS[-1]} threads, KiB", "idle", max,
         IDLE_KIB, at_most(IDLE_KIB))
    goal(f"stacks of the pool / threads, {THREADS[-1]} threads", "pooled", min, SHARE,
         at_least(SHARE))
    goal("share of stacks that are the pool's", "share", min, SHARE, at_least(SHARE))
    goal("bytes cleared for a thread's stack", "cleared", max, CLEARED, at_most(CLEARED))
    goal("guest instructions of clone+exit / unpatched", "insns", max, 1, at_most(1))
    goal("time of clone+exit / unpatched", "time", max, 1, at_most(1))
    goal("doorbells on the fork path", "doorbells", max, 0, at_most(0))
    goal("pool's host memory 1 s after deep stacks / not deep", "deep", max, DEEP_FACTOR,
         at_most(DEEP_FACTOR))
    goal("guest instructions, off, more than unpatched", "off", max, OFF_INSNS,
         at_most(OFF_INSNS))


def draw(bench):
    """Host memory against threads, and the mix against time."""
    data = os.path.join(OUT, "stack")

    def plot(name, series, scale):
        lines = []
        for kernel, points in series.items():
            path = f"{data}-{name}-{kernel}.data"
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(f"{x} {y / KIB}\n" for x, y in points)
            lines.append(f"'{path}' with linespoints {scale} title '{kernel}'")
        return "plot " + ", ".join(lines)

    # The rounds of the mix lie above each other: points
    script = f"""
set terminal png size 1000,800
set output '{data}.png'
set multiplot layout 2,1
set grid
set key left top
set ylabel 'growth of the host memory, MiB'
set yrange [0:]
set xlabel 'threads that sleep'
{plot('threads', bench.plot, 'lw 2')}
set ylabel 'host memory, MiB'
set xlabel 'seconds of a busy mix'
{plot('mix', bench.mixed, 'ps 0.5')}
"""
    done = subprocess.run(["gnuplot"], input=script, text=True, stderr=subprocess.PIPE,
                          check=False)
    if done.returncode:
        raise BenchError(f"gnuplot failed:\n{done.stderr}")
    return data + ".png"


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench stack", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true",
                        help="few rounds: does it work, not how fast it is")
    parser.add_argument("--kernel", action="append", metavar="NAME",
                        help=f"configuration to measure (default: {GOALS_ON} and plain)")
    args = parser.parse_args()
    kernels = args.kernel or [GOALS_ON, "plain"]
    effort = Effort(args.quick)
    check_kernels(kernels)
    report = Report("stack", "tcg")
    program = compile_program("threads", "stack/threads.c")
    with open("/sys/kernel/mm/transparent_hugepage/enabled", encoding="utf-8") as file:
        report.note("transparent huge pages of this machine: " + file.read().strip())

    goals, picture = {}, None
    for kernel in kernels:
        bench = Bench(report, effort, kernel, program)
        bench.memory()
        bench.survivors()
        bench.deep()
        bench.churn()
        bench.counts()
        if kernel == GOALS_ON or not goals:
            goals, picture = bench.measured, draw(bench)
        # What comes later can fail
        report.goals.clear()
        set_goals(report, goals)
        report.write()
    report.print()
    print(f"\naccelerator {report.accelerator}; the figures are {report.path}, "
          f"the picture is {picture}")


if __name__ == "__main__":
    run_bench(main)
