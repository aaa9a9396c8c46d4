#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""What a call costs: the host's time, exits, system calls, guest instructions.

A program in the guest drives the device itself.  The device's counters say how
long it took from doorbell to answer, and how long of that the system calls took;
a program on the host makes the same system calls on memory of the same shape, in
turn with the guest.  Exits are counted in QEMU's trace, system calls by strace,
guest instructions by a plugin for TCG.
"""

import argparse
import errno
import os
import statistics

from common import (OUT, BenchError, Report, boot, compile_plugin, compile_program, native,
                    run_bench, say)

PAGE, MIB, GIB = 4096, 1 << 20, 1 << 30
HUGE = 2 * MIB

# include/uapi/linux/pvmemctl.h
CODES = {
    "info": 0, "dontneed": 1, "remove": 2, "free": 3, "pageout": 4, "dontdump": 5,
    "mlock": 7, "munlock": 8, "mprotect-none": 9, "mprotect-r": 10, "mprotect-w": 11,
    "mprotect-rw": 12, "mergeable": 13, "unmergeable": 14, "query": 32, "zero": 33,
    "populate": 34, "hugepage": 35, "nohugepage": 36, "dodump": 37, "cold": 38, "vector": 39,
}
# No range, no system call
BARELESS = "info", "query"
# These go by the ledger, range by range: system-ns has its work in it
ATTRIBUTES = ("dontdump", "dodump", "mlock", "munlock", "mprotect-none", "mprotect-r",
              "mprotect-w", "mprotect-rw", "mergeable", "unmergeable", "hugepage", "nohugepage")

# The first part of the area has small pages only, what is behind is as QEMU has it
SMALL_PART = 256 * MIB

# What is measured as one call; of two, the second undoes the first
SINGLES = {
    "anon": [("info",), ("query",), ("dontneed",), ("free",), ("pageout",), ("cold",), ("zero",),
             ("populate",), ("dontdump", "dodump"), ("mlock", "munlock"),
             ("mprotect-r", "mprotect-rw"), ("mprotect-none", "mprotect-rw"),
             ("mprotect-w",), ("unmergeable", "mergeable"),
             ("nohugepage", "hugepage")],
    "memfd": [("remove",), ("zero",), ("cold",)],
}
VECTORS = {"anon": ["dontneed", "cold", "zero", "free", "populate", "pageout", "dontdump"],
           "memfd": ["remove", "zero"]}
# The longest doorbell there may be: bytes
LONGEST = [("dontneed", GIB), ("zero", GIB), ("free", GIB), ("cold", GIB), ("dontdump", GIB),
           ("dodump", GIB), ("mprotect-r", GIB), ("mprotect-rw", GIB), ("unmergeable", GIB),
           ("mergeable", GIB), ("mlock", 64 * MIB), ("munlock", 64 * MIB),
           ("populate", 64 * MIB), ("pageout", 64 * MIB)]
# What makes it do something again
OPPOSITE = {"populate": "dontneed", "dontdump": "dodump", "dodump": "dontdump",
            "mprotect-r": "mprotect-rw", "mprotect-rw": "mprotect-r", "mlock": "munlock",
            "munlock": "mlock", "mergeable": "unmergeable", "unmergeable": "mergeable"}
# What no interrupt cuts
STEP = 64 * MIB

# System calls that do something to memory
ON_MEMORY = ("madvise", "process_madvise", "mprotect", "mlock", "mlock2", "munlock", "munlockall",
             "mlockall", "prctl", "fallocate", "mmap", "munmap", "mremap", "read", "pread64",
             "readv", "preadv")

HOST_FACTOR, HOST_NS = 1.2, 300
SCATTERED = 128
SPEEDUP = 5


class Effort:
    """How much is done."""

    def __init__(self, quick):
        self.rounds = 3 if quick else 11
        self.calls = {PAGE: 32 if quick else 64, HUGE: 4 if quick else 8}
        self.pageouts = 1 if quick else 4
        self.entries = [1, SCATTERED] if quick else [1 << i for i in range(9)]
        self.operations = 4
        self.longest = 64 * MIB if quick else GIB
        self.longest_rounds = 1 if quick else 3
        self.scale_calls = 2000 if quick else 20000
        self.scale_rounds = 3 if quick else 9
        self.insns_calls = 200 if quick else 1000
        self.insns_rounds = 3 if quick else 9


class Bench:
    """One guest with one kind of memory, and a program for the bare calls."""

    def __init__(self, report, effort, backing, guest, bare):
        self.report, self.effort, self.backing = report, effort, backing
        self.guest, self.bare = guest, bare
        self.measured = {}        # what goals are about: {(kind, figure): value}

    def works(self, name, answer):
        failed, err = answer[:2]
        if failed:
            self.report.note(f"{name}: not measured, the answer was "
                             f"{errno.errorcode.get(err, err)}")
        return not failed

    # --- One call ---

    def single(self, names, length):
        codes = [CODES[name] for name in names]
        count = self.effort.calls[length]
        # Every second page, of small ones; or huge pages, as the host likes to have them
        stride = 2 * PAGE if length == PAGE else length
        offset = SMALL_PART if length == HUGE or "hugepage" in names else 0
        if names[0] == "pageout":       # to a disk
            count = min(count, self.effort.pageouts)
        line = ("call", codes[0], codes[1] if codes[1:] else -1, length, stride, count, offset, 1)

        rounds = {name: [] for name in names}
        for i in range(self.effort.rounds + 1):
            answer, grown = self.guest.counted(*line)
            if not self.works(f"{names[0]} on {self.backing}", answer):
                return
            bare = self.bare.ask(*line)
            if not self.works(f"{names[0]} on {self.backing}, bare", bare):
                return
            # The first round warms up
            for name, ns in zip(names, bare[3:]) if i else ():
                c = grown[name]
                rounds[name].append((c["time-ns"] / c["calls"], c["system-ns"] / c["calls"],
                                     ns / count if name not in BARELESS else 0))
        for name, values in rounds.items():
            self.add_single(name, length, values)

    def add_single(self, name, length, rounds):
        size = "" if name in BARELESS else " 4 KiB" if length == PAGE else " 2 MiB"
        title = f"{name}{size} {self.backing}"
        if ("system", title) in self.measured:      # undoes another, too
            return
        host, system, bare = (list(column) for column in zip(*rounds))
        ledger = ", the ledger with it" if name in ATTRIBUTES else ""
        self.report.figure(f"one call: {title}", "ns", host, f"its system calls{ledger}", system)
        # A cross-check: other memory, another process, another moment
        if name not in BARELESS:
            self.report.figure(f"one call: {title}", "ns", host, "another process's", bare)
        if name == "query":     # of all memory, and of all functions: no goal is about that
            return
        # What the ledger does is no system call, though system-ns has it
        self.measured["system", title] = statistics.median(
            ours - HOST_FACTOR * other
            for ours, other in zip(host, bare if name in ATTRIBUTES else system))

    def singles(self):
        # Lasts, and is no default: one entry in the ledger
        code = CODES["nohugepage"]
        if self.backing == "anon":
            for who in self.guest, self.bare:
                who.ask("call", code, -1, SMALL_PART, 0, 1, 0, 0)
        for names in SINGLES[self.backing]:
            for length in PAGE, HUGE:
                if names[0] not in BARELESS or length == PAGE:
                    self.single(names, length)

    # --- Scattered ranges ---

    def vectors(self):
        for name in VECTORS[self.backing]:
            for entries in self.effort.entries:
                self.vector(name, entries)
            if name in ATTRIBUTES:      # and as it was
                self.whole(OPPOSITE[name], GIB)

    def vector(self, name, entries):
        count = self.effort.operations
        line = CODES[name], entries, PAGE, count, 0, 1
        ours, bare, singles, system = [], [], [], []
        for i in range(self.effort.rounds + 1):
            answer, grown = self.guest.counted("vector", *line)
            if name in ATTRIBUTES and answer[1] == errno.EAGAIN:
                continue        # interrupted between two ranges: not a whole one
            if not self.works(f"vector of {name} on {self.backing}", answer):
                return
            other = self.bare.ask("vector", *line)
            single = self.guest.counted("singles", *line)[1][name]
            if i:
                ours.append(grown["vector"]["time-ns"] / count / 1e3)
                system.append(grown["vector"]["system-ns"] / count / 1e3)
                singles.append(single["time-ns"] / count / 1e3)
                if not other[0]:
                    bare.append(other[3] / count / 1e3)
        title = f"vector of {entries}: {name} {self.backing}"
        if not ours:
            self.report.note(f"{title}: not measured, it was interrupted each time")
            return
        self.report.figure(title, "us/doorbell", ours, "its system calls", system)
        if bare:
            self.report.figure(title, "us/doorbell", ours, "bare process_madvise", bare)
        self.report.figure(title, "us/doorbell", ours, f"{entries} single calls", singles)
        if entries == SCATTERED:
            self.measured["speedup", f"{name} {self.backing}"] = statistics.median(
                one / many for one, many in zip(singles, ours))

    # --- Counts, by others than the device ---

    def count(self, name, how):
        """(exits, system calls on memory, all of the thread's) per operation."""
        operations = 10
        line = how, CODES[name], SCATTERED, PAGE, operations, 0, 1
        exits = self.guest.traced("pvmemctl_enter", *line)
        calls = self.guest.straced(*line)
        memory = sum(n for call, n in calls.items() if call in ON_MEMORY)
        return (len(exits) / operations, memory / operations,
                sum(calls.values()) / operations)

    def counts(self):
        for name in VECTORS[self.backing]:
            if name in ATTRIBUTES:
                continue
            line = "vector", CODES[name], SCATTERED, PAGE, 1, 0, 1
            if not self.works(f"vector of {name} on {self.backing}", self.guest.ask(*line)):
                continue
            title = f"{SCATTERED} ranges: {name} {self.backing}"
            try:
                ours, other = self.count(name, "vector"), self.count(name, "singles")
            except (BenchError, OSError) as e:
                self.report.note(f"{title}: not counted, {e}")
                continue
            for i, what in enumerate(("exits", "system calls on memory",
                                      "all system calls of the vCPU's thread")):
                self.report.figure(f"{title}, {what}", "count", ours[i],
                                   f"{SCATTERED} single calls", other[i])
            self.measured["exits", f"{name} {self.backing}"] = ours[0]
            self.measured["system calls", f"{name} {self.backing}"] = ours[1]

    # --- The longest doorbells ---

    def longest(self):
        """All on small pages: there are more of them."""
        self.whole("nohugepage", GIB)
        for name, length in LONGEST:
            self.longest_of(name, min(length, self.effort.longest))
        self.longest_vector(256, PAGE)
        if self.effort.longest == GIB:
            self.longest_vector(256, HUGE)

    def whole(self, name, length, touch=0):
        """Do that, in steps that nothing interrupts."""
        self.guest.ask("call", CODES[name], -1, STEP, STEP, length // STEP, 0, touch)

    def longest_of(self, name, length):
        self.measure_longest(name, name, f"longest doorbell: {name} {length // MIB} MiB",
                             ("call", CODES[name], -1, length, 0, 1, 0, 0), length)

    def longest_vector(self, entries, length):
        size = "4 KiB" if length == PAGE else "2 MiB"
        self.measure_longest("vector", "dontneed",
                             f"longest doorbell: vector of {entries} x {size} dontneed",
                             ("vector", CODES["dontneed"], entries, length, 1, 0, 0), GIB)

    def measure_longest(self, counted, name, title, line, length):
        times, done, systems = [], [], []
        for _ in range(self.effort.longest_rounds):
            # From touched memory, and from the opposite
            self.whole("info", length, touch=1)
            if name in OPPOSITE:
                self.whole(OPPOSITE[name], length)
            answer, grown = self.guest.counted(*line)
            if name == "mprotect-r":    # before it is touched again
                self.whole("mprotect-rw", length)
            # Interrupted, it has done a part: that is a doorbell as well
            if answer[0] and answer[1] != errno.EAGAIN:
                self.works(f"{title} on {self.backing}", answer)
                return
            if name == "mprotect-rw":
                self.whole("mprotect-rw", length)
            times.append(grown[counted]["time-ns"] / 1e3)
            systems.append(grown[counted]["system-ns"] / 1e3)
            done.append(grown[name]["bytes"] / MIB)
        self.report.figure(title, "us", times, "its system calls", systems,
                           mib_done_min=min(done), mib_done_max=max(done),
                           longest_us=grown[counted]["longest-ns"] / 1e3)

    # --- Two virtual CPUs ---

    def scaling(self):
        count = self.effort.scale_calls
        for touched, what in (0, "dontneed of untouched memory"), (1, "touch and dontneed"):
            rate, host = {1: [], 2: []}, {1: [], 2: []}
            for _ in range(self.effort.scale_rounds):
                for cpus in 1, 2:
                    answer, grown = self.guest.counted("scale", cpus, count, touched)
                    if not self.works(f"{what} on {cpus} CPUs", answer):
                        return
                    rate[cpus].append(cpus * count / answer[3] * 1e9)
                    host[cpus].append(grown["dontneed"]["time-ns"] / grown["dontneed"]["calls"])
            self.report.figure(f"two vCPUs: {what}", "calls/s", rate[2], "one vCPU", rate[1])
            self.report.figure(f"two vCPUs: {what}", "ns/call host", host[2], "one vCPU", host[1])
        self.report.note(f"two vCPUs were measured on {os.cpu_count()} host CPUs, which QEMU's "
                         "other threads and all else share")


def measure(report, effort, backing, guest_program, native_program):
    """Of one kind of memory; returns what goals are about."""
    say(f"guest memory is {backing}")
    with boot(backing, guest_program, 2, "--backing", backing,
              device=["allow=all", "x-timing=on"],
              append="hugepagesz=1G hugepages=1") as guest, \
            native([native_program, backing, "1024", str(guest.threads())]) as bare:
        guest.ask("attach")
        bench = Bench(report, effort, backing, guest, bare)
        bench.singles()
        bench.vectors()
        bench.counts()
        if backing == "anon":
            bench.scaling()
            bench.longest()
        return bench.measured


def count_insns(report, effort, guest_program):
    """Guest instructions, by the kernel's driver and by none."""
    say("guest instructions")
    plugin = compile_plugin("insns.so", "insns.c")
    marks = os.path.join(OUT, "insns.out")
    wanted = [(f"{what} by {text}", how, entries)
              for how, text in (("ioctl", "the driver's raw ioctl, from user space"),
                                ("raw", "a driver in user space"))
              for what, entries in (("one call", 0), (f"vector of {SCATTERED}", SCATTERED))]
    with boot("insns", guest_program, 1, device=["allow=all"],
              append="hugepagesz=1G hugepages=1",
              qemu=["-plugin", f"{plugin},out={marks}"]) as guest:

        def rounds(how, entries):
            """Instructions per call, by round; None: refused."""
            found = []
            for _ in range(effort.insns_rounds):
                failed, err = guest.ask("insns", how, CODES["dontneed"], entries,
                                        effort.insns_calls)[:2]
                if failed:
                    return errno.errorcode.get(err, err)
                with open(marks, encoding="utf-8") as file:
                    first, last = (int(line.split()[1]) for line in file.readlines()[-2:])
                found.append((last - first) / effort.insns_calls)
            return found

        loop = rounds("none", 0)
        for title, how, entries in wanted:
            if how == "raw" and not entries:
                guest.ask("attach")
            found = rounds(how, entries)
            if isinstance(found, str):
                why = {"ENOENT": "there is no driver",
                       "EINVAL": "the guest's driver does not know it"}.get(found, found)
                report.note(f"guest instructions, {title}: not measured, {why}")
                continue
            report.figure(f"guest instructions: {title}", "insns/call",
                          [n - statistics.median(loop) for n in found])


def set_goals(report, measured):
    def goal(name, kind, pick, limit, is_met):
        """The worst counts, of those that miss the goal if any does."""
        found = {title: value for (what, title), value in measured.items() if what == kind}
        missed = [title for title, value in found.items() if not is_met(value)]
        title = pick(missed or found, key=found.get, default=None)
        report.goal(name, found.get(title), limit, not missed, worst=title, missed=missed)

    def at_most(limit):
        return lambda value: value <= limit

    def one(value):
        return value == 1

    report.note("functions that leave an attribute: one call is compared with another process's "
                "system call; a vector of them is a system call for each range, not counted")
    goal("one call, host side, ns above 1.2 x its system calls", "system", max, HOST_NS,
         at_most(HOST_NS))
    goal(f"{SCATTERED} scattered ranges, exits", "exits", max, 1, one)
    goal(f"{SCATTERED} scattered ranges, system calls on memory", "system calls", max, 1, one)
    goal(f"{SCATTERED} single calls / one vector, host time", "speedup", min, SPEEDUP,
         lambda value: value >= SPEEDUP)


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench call", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true",
                        help="few rounds: does it work, not how fast it is")
    args = parser.parse_args()
    effort = Effort(args.quick)
    report = Report("call", "tcg")
    measured = {}

    guest = compile_program("guest", "call/guest.c", "call/loop.c")
    bare = compile_program("native", "call/native.c", "call/loop.c")
    for backing in SINGLES:
        measured.update(measure(report, effort, backing, guest, bare))
    count_insns(report, effort, guest)
    set_goals(report, measured)
    report.write()
    report.print()
    print(f"\naccelerator {report.accelerator}; the figures are {report.path}")


if __name__ == "__main__":
    run_bench(main)
