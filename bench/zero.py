#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""what page zeroing by the host saves, and what it costs

Against the unpatched kernel, virtio-balloon's inflation and virtio-balloon's free page
reporting, in the same QEMU and the same run:

  faults    first byte and all bytes of huge pages of 2 MiB and 1 GiB, fresh and used
            before; the host's huge pages on and off, and shared memory (memfd)
  pool      what the host holds of a free pool of huge pages
  reclaim   1 GiB is freed: when has the host got it back, and what did that take
  shares    how much is not cleared of what was reported
  churn     allocate, touch, free, again and again
  idle      memory of the host after the guest was busy, over time
  by_call   huge pages zeroed by the host when they are touched, or cleared by the guest

Memory is read from /proc of the QEMU process, instructions are counted by a plugin, exits
in QEMU's trace, system calls by strace; each in a run of its own, since they disturb.
The guest reads back what it was given and what it wrote: a wrong byte anywhere fails.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import time

from common import (BenchError, OUT, Report, boot, check_kernels, compile_plugin, compile_program,
                    run_bench, say)

MIB = 1 << 20
GIB = 1 << 30
HUGE = 2 * MIB
ZERO = "/sys/kernel/mm/pvmemctl/zero/"
SIZES = {"huge": HUGE, "giga": GIB}
TOUCHES = {1: "first byte", 0: "all bytes"}
FRESH = {"fresh": "fresh", "fault": "used before"}
UNPATCHED = ("--kernel", "plain-unpatched")
BALLOON = ("-device", "virtio-balloon-pci,id=balloon")
REPORTING = ("-device", "virtio-balloon-pci,id=balloon,free-page-reporting=on")
# To TCG a string instruction is one, whatever it stores.  Have the guest clear by plain
# stores where instructions are counted, as on a CPU that is no good at the others.
PLAIN_STORES = " clearcpuid=erms,fsrm,rep_good"
# Of a line of the plugin: instructions of the first CPU; bytes of pages that were cleared
COLUMNS = {"insns": (1,), "clears": (3, 4)}
UNITS = {None: "us", "insns": "insns", "clears": "bytes"}
PER_CPU = 64 * MIB
MOST = 1700 * MIB
PATIENCE = 60
MEMORY_CALLS = ("madvise", "process_madvise", "fallocate")
IDLE_SECONDS = 15


class Effort:
    """How often, and of how much."""

    def __init__(self, quick):
        self.rounds = 1 if quick else 5
        self.boots = 1 if quick else 2
        self.pages = 16 if quick else 64
        self.free = 256 * MIB if quick else GIB
        self.churn = 2 if quick else 8
        self.idle = 4 if quick else IDLE_SECONDS
        self.giga = not quick


def resident(guest):
    """Bytes of memory that the host holds for QEMU, shared ones with them."""
    with open(f"/proc/{guest.pid}/smaps_rollup", encoding="ascii") as file:
        return int(re.search(r"^Rss:\s+(\d+) kB", file.read(), re.MULTILINE)[1]) << 10


def wait_until(condition, what, seconds=PATIENCE, pause=0.005):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise BenchError(f"not within {seconds} s: {what}")
        time.sleep(pause)


def settle(guest, pause=1.0):
    """Until the host's memory does not change any more."""
    before = -1
    for _ in range(PATIENCE):
        now = resident(guest)
        if abs(now - before) < 4 * MIB:
            return now
        before = now
        time.sleep(pause)
    raise BenchError("the guest does not come to rest")


def released(guest, mechanism, bytes_more, before):
    wait_until(lambda: guest.ask("read", f"{ZERO}{mechanism}_released")[0] >= before + bytes_more,
               f"{bytes_more >> 20} MiB are released", pause=0.05)


def between_marks(path, plugin):
    """What @plugin has counted between the last two marks."""
    with open(path, encoding="utf-8") as file:
        first, last = ([int(n) for n in line.split()] for line in file.readlines()[-2:])
    return sum(last[i] - first[i] for i in COLUMNS[plugin])


class Zero:
    """All figures of one run."""

    def __init__(self, report, effort, program, plugin):
        self.report, self.effort = report, effort
        self.program, self.plugin = program, plugin
        self.measured = {}
        self.verified, self.wrong = 0, 0

    @contextlib.contextmanager
    def checked(self, guest_context):
        """In the end the guest says what it read back."""
        with guest_context as guest:
            yield guest
            verified, wrong = guest.ask("verified")
            self.verified += verified
            self.wrong += wrong
            if wrong or not verified:
                raise BenchError(f"{wrong} words are wrong of {verified >> 20} MiB read back")

    def boot(self, name, *options, cpus=1, plugin=None, **more):
        path = os.path.join(OUT, name + ".insns")
        qemu = list(more.pop("qemu", ()))
        if plugin:
            clears = plugin == "clears"
            qemu += ["-plugin", f"{self.plugin},out={path}{',clears=on' * clears}"]
            more["append"] = more.get("append", "") + PLAIN_STORES * (not clears)
        return self.checked(boot("zero-" + name, self.program, cpus, *options, qemu=qemu,
                                 **more)), path

    # --- Faults -------------------------------------------------------------

    def boot_pool(self, name, *options, **more):
        """With huge pages of both sizes, which nobody had yet."""
        giga = 2 * self.effort.giga
        return self.boot(name, *options, mem=1024 + giga * 1280, append=(
            f"hugepagesz=1G hugepages={giga} hugepagesz=2M hugepages={self.effort.pages}"),
                         **more)

    def fault_runs(self, ours, backing, thp, plugin=None, again=False):
        """{what: [numbers]}: microseconds, or what @plugin counts, a page.

        @again: only of fresh pages, of which there are no more after that.
        """
        name = f"fault-{'ours' if ours else 'other'}-{backing}-{thp}-{plugin}"
        cm, path = self.boot_pool(name, "--backing", backing, *(() if ours else UNPATCHED),
                                  thp=thp, plugin=plugin)
        kinds = list(SIZES)[:1 + self.effort.giga]
        found = {}
        with cm as guest:
            def fault(how, kind, count, touch):
                ns = guest.ask(how, kind, count, touch)[0]
                value = between_marks(path, plugin) if plugin else ns / 1e3
                found.setdefault((how, kind, touch), []).append(value / count)
                return count * SIZES[kind]

            @contextlib.contextmanager
            def all_released(*counts):
                had = guest.ask("read", ZERO + "hugetlb_released")[0] if ours else 0
                yield
                if ours:
                    released(guest, "hugetlb",
                             sum(count * SIZES[kind] for kind, count in zip(SIZES, counts)), had)

            pages, rounds = self.effort.pages, self.effort.rounds
            some = pages // (2 * rounds)
            if ours:
                released(guest, "hugetlb", pages * HUGE + 2 * self.effort.giga * GIB, 0)
            for kind in kinds:
                for _ in range(rounds if kind == "huge" else 1):
                    for touch in TOUCHES:
                        fault("fresh", kind, some if kind == "huge" else 1, touch)
            self.look_at_thp(guest, backing, thp)
            with all_released(2 * rounds * some, 2 * self.effort.giga):
                guest.ask("drop")
            for kind in () if again else kinds:
                count = pages if kind == "huge" else 1
                counts = (count, 0) if kind == "huge" else (0, count)
                with all_released(*counts):
                    guest.ask("fault", kind, count, 0)
                for touch in TOUCHES:
                    for _ in range(rounds):
                        with all_released(*counts):
                            fault("fault", kind, count, touch)
        return found

    def look_at_thp(self, guest, backing, thp):
        """Has the host what it is said to have?"""
        with open(f"/proc/{guest.pid}/smaps_rollup", encoding="ascii") as file:
            huge = int(re.search(r"^AnonHugePages:\s+(\d+)", file.read(), re.MULTILINE)[1])
        if huge and not thp:
            raise BenchError(f"the host has {huge} KiB in huge pages, which are off")
        if not huge and thp and backing == "anon":
            self.report.note("the host has no transparent huge pages, whatever is said to be on")

    def faults(self):
        for backing, thp in ("anon", True), ("anon", False), ("memfd", True):
            where = backing if backing == "memfd" else f"host THP {'on' if thp else 'off'}"
            say(f"faults, {where}")
            plugins = (None, "insns", "clears") if (backing, thp) == ("anon", True) else (None,)
            for plugin in plugins:
                ours, other = (self.fault_runs(patched, backing, thp, plugin)
                               for patched in (True, False))
                # A page of 1 GiB is fresh once
                for _ in range(0 if plugin else self.effort.boots - 1):
                    for patched, found in (True, ours), (False, other):
                        for what, values in self.fault_runs(patched, backing, thp,
                                                            again=True).items():
                            found[what] += values
                for (how, kind, touch), values in ours.items():
                    size = "2 MiB" if kind == "huge" else "1 GiB"
                    self.report.figure(
                        f"{'cleared for ' * (plugin == 'clears')}{TOUCHES[touch]} of a page of "
                        f"{size}, {FRESH[how]}, {where}", UNITS[plugin], values, "unpatched",
                        other[how, kind, touch])
                self.keep_faults(plugin, ours, other)

    def keep_faults(self, plugin, ours, other):
        """What goals are about."""
        if plugin == "insns":
            self.measured["fault insns"] = (statistics.median(ours["fault", "huge", 1]) /
                                            statistics.median(other["fault", "huge", 1]))
        if plugin == "clears":
            # The plugin sees what the others clear, or says nothing
            if all(min(values) >= SIZES[what[1]] for what, values in other.items()):
                self.measured["cleared"] = max(map(statistics.median, ours.values()))

    # --- The pool -----------------------------------------------------------

    def pool(self):
        say("the free pool")
        pages = 2 * self.effort.pages
        held = {}
        for ours in True, False:
            cm, _ = self.boot(f"pool-{ours}", *(() if ours else UNPATCHED), mem=1024,
                              append=f"hugepages={pages}")
            with cm as guest:
                if ours:
                    released(guest, "hugetlb", pages * HUGE, 0)
                base = settle(guest)
                guest.ask("hold", "huge", pages)
                full = resident(guest)
                guest.ask("check")
                guest.ask("drop")
                time.sleep(1)
                held[ours] = (settle(guest) - base) / (full - base)
        self.report.figure(f"a free pool of {pages} huge pages, of what it holds when full",
                           "%", 100 * held[True], "unpatched", 100 * held[False])
        self.measured["pool"] = 100 * held[True]

    # --- 1 GiB comes back ---------------------------------------------------

    def reclaim_setups(self):
        report = "pvmemctl.zero_report=1 pvmemctl.zero_report_order=9"
        return {
            "ours": {"append": report},
            "ours at 2 s": {"append": report + " pvmemctl.zero_report_delay_ms=2000"},
            "balloon reporting": {"options": UNPATCHED, "qemu": REPORTING},
            "balloon reporting, patched kernel": {"qemu": REPORTING},
            "inflation": {"options": UNPATCHED, "qemu": BALLOON},
        }

    @contextlib.contextmanager
    def reclaim_guest(self, name, setup, plugin=None):
        cm, path = self.boot("reclaim-" + re.sub(r"\W+", "-", name) + ("-insns" if plugin else ""),
                             *setup.get("options", ()), plugin=plugin, mem=2048,
                             qemu=setup.get("qemu", ()), append=setup.get("append", ""))
        with cm as guest:
            # What is free at boot has been reported
            time.sleep(3)
            settle(guest)
            yield guest, path

    def reclaim_once(self, guest, name, mark=False):
        """Seconds until the host has it back, but for what is on per-CPU lists."""
        size = self.effort.free
        if name == "inflation":
            # It takes any pages, and gets nothing back by those that nobody had yet
            guest.ask("hold", "thp", MOST // HUGE)
            guest.ask("drop")
        guest.ask("hold", "thp", size // HUGE)
        time.sleep(2.5)
        guest.ask("check")
        full = resident(guest)
        start = time.monotonic()
        guest.ask("drop")
        if name == "inflation":
            self.inflate(guest, full - size + PER_CPU)
        wait_until(lambda: full - resident(guest) >= size - PER_CPU, f"{name}: memory is back")
        seconds = time.monotonic() - start
        if mark:
            guest.ask("mark")
        if name == "inflation":
            guest.qmp.command("balloon", value=2048 * MIB)
            time.sleep(2)
        return seconds

    def inflate(self, guest, left):
        """Until the host holds @left bytes: pages that it never backed do not count."""
        size = 2048 * MIB
        while (more := resident(guest) - left) > 0:
            size -= more
            guest.qmp.command("balloon", value=size)
            wait_until(lambda: guest.qmp.command("query-balloon")["actual"] <= size,
                       f"the balloon is inflated to {size >> 20} MiB")

    def count_calls(self, guest, act):
        """System calls on memory of all threads of QEMU while @act is done."""
        path = os.path.join(guest.run, "strace")
        with subprocess.Popen(["strace", "-f", "-p", str(guest.pid), "-o", path, "-e",
                               "trace=" + ",".join(MEMORY_CALLS)],
                              stderr=subprocess.PIPE, text=True) as strace:
            said = strace.stderr.readline()
            if "attached" not in said:
                strace.terminate()
                raise BenchError(f"strace does not work here: {said.strip()}")
            act()
            strace.send_signal(signal.SIGINT)
            strace.wait(20)
        with open(path, encoding="utf-8") as file:
            return len(re.findall(r"(?:madvise|process_madvise|fallocate)\(", file.read()))

    def count_exits(self, guest, act):
        """Doorbells of the device, and notifications of virtqueues but the console's."""
        events = "pvmemctl_enter", "virtio_balloon_handle_output", "virtio_queue_notify"
        log_path = os.path.join(guest.run, "trace.log")
        with open(log_path, encoding="utf-8") as log:
            log.seek(0, os.SEEK_END)
            for event in events:
                guest.qmp.hmp(f"trace-event {event} on")
            act()
            for event in events:
                guest.qmp.hmp(f"trace-event {event} off")
            lines = log.readlines()
        ours = sum("pvmemctl_enter" in line for line in lines)
        console = sum("virtio_queue_notify" in line for line in lines)
        return ours, console

    def reclaim(self):
        seconds, insns, exits, calls = {}, {}, {}, {}
        for name, setup in self.reclaim_setups().items():
            say(f"{self.effort.free >> 20} MiB back: {name}")
            with self.reclaim_guest(name, setup) as (guest, _):
                seconds[name] = [self.reclaim_once(guest, name)
                                 for _ in range(self.effort.rounds)]
                calls[name] = self.count_calls(
                    guest, lambda name=name, guest=guest: self.reclaim_once(guest, name))
                ours, notified = self.count_exits(
                    guest, lambda name=name, guest=guest: self.reclaim_once(guest, name))
                exits[name] = ours or notified
            with self.reclaim_guest(name, setup, plugin="insns") as (guest, path):
                found = []
                for _ in range(min(3, self.effort.rounds)):
                    self.reclaim_once(guest, name, mark=True)
                    found.append(between_marks(path, "insns"))
                insns[name] = found
        size = f"{self.effort.free >> 20} MiB"
        for name in seconds:
            if name == "ours":
                continue
            self.report.figure(f"{size} freed are back on the host", "s", seconds["ours"], name,
                               seconds[name])
            self.report.figure(f"{size} freed: guest instructions", "insns", insns["ours"], name,
                               insns[name])
            self.report.figure(f"{size} freed: exits", "count", exits["ours"], name, exits[name])
            self.report.figure(f"{size} freed: system calls on memory", "count", calls["ours"],
                               name, calls[name])
        self.report.note("exits of balloons are notifications of all virtqueues, the console's "
                         "few with them")
        median = statistics.median
        self.measured.update({
            "reclaim/reporting": median(seconds["ours"]) / median(seconds["balloon reporting"]),
            "reclaim/inflation": median(seconds["ours"]) / median(seconds["inflation"]),
            "equal delay": (median(seconds["ours at 2 s"]) /
                            median(seconds["balloon reporting, patched kernel"])),
            "insns": median(insns["ours"]) / median(insns["balloon reporting"]),
            "insns inflation": median(insns["ours"]) / median(insns["inflation"]),
            "exits": exits["ours"] / max(1, exits["balloon reporting"]),
            "exits inflation": exits["ours"] / max(1, exits["inflation"]),
            "calls": calls["ours"] / max(1, calls["balloon reporting"]),
            "calls inflation": calls["ours"] / max(1, calls["inflation"]),
        })

    # --- Shares -------------------------------------------------------------

    def shares(self):
        say("what need not be cleared")
        for kind, order, count in ("thp", 9, 256), ("small", 0, 256 * 512):
            cm, path = self.boot(f"shares-{kind}", mem=2048, plugin="clears",
                                 append="pvmemctl.zero_report=1 pvmemctl.zero_report_order=9")
            with cm as guest:
                time.sleep(3)
                settle(guest)
                guest.ask("fault", kind, count, 1)
                size = count * (HUGE if order else 4096)
                share = 100 * (1 - between_marks(path, "clears") / size)
                self.report.figure(f"not cleared, of order {order} after a full report", "%",
                                   share)
                self.measured["share", order] = share

    # --- Churn --------------------------------------------------------------

    def churn(self):
        say("churn")
        setups = {
            "ours, pool": ((), "hugepages=64", "huge"),
            "unpatched, pool": (UNPATCHED, "hugepages=64", "huge"),
            "ours, reported": ((), "pvmemctl.zero_report=1 pvmemctl.zero_report_order=9", "thp"),
            "unpatched, reported": (UNPATCHED, "", "thp"),
            "ours, idle": ((), "", "thp"),
        }
        times = {}
        for name, (options, append, kind) in setups.items():
            cm, _ = self.boot("churn-" + re.sub(r"\W+", "-", name), *options, cpus=2, mem=1024,
                              append=append)
            with cm as guest:
                time.sleep(2)
                guest.ask("churn", kind, 64, 1)
                times[name] = [guest.ask("churn", kind, 64, self.effort.churn)[0] / 1e6
                               for _ in range(max(2, self.effort.rounds))]
        rounds = self.effort.churn
        for ours, other, text in (("ours, pool", "unpatched, pool", "pages of the pool"),
                                  ("ours, reported", "unpatched, reported", "memory, reported"),
                                  ("ours, idle", "unpatched, reported", "memory, not reported")):
            figure = self.report.figure(f"churn of 128 MiB x {rounds}, {text}", "ms", times[ours],
                                        "unpatched", times[other])
            self.measured["churn", text] = figure["ratio"]

    # --- Idle ---------------------------------------------------------------

    def idle(self):
        say("memory over time")
        curves = {}
        setups = {**self.reclaim_setups(), "unpatched": {"options": UNPATCHED}}
        del setups["balloon reporting, patched kernel"]
        for name, setup in setups.items():
            with self.reclaim_guest(name, setup) as (guest, _):
                guest.ask("hold", "thp", self.effort.free // HUGE)
                time.sleep(2.5)
                guest.ask("check")
                start = time.monotonic()
                curve = []
                dropped = False
                while time.monotonic() - start < self.effort.idle:
                    at = time.monotonic() - start
                    if at >= 1 and not dropped:
                        guest.ask("drop")
                        dropped = True
                        if name == "inflation":
                            # An operator who knows at once, and takes what is free
                            guest.qmp.command("balloon", value=2048 * MIB - MOST)
                    curve.append((round(at, 3), resident(guest)))
                    time.sleep(0.05)
                curves[name] = curve
        path = os.path.join(OUT, "zero-idle.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(curves, file)
        for name, curve in curves.items():
            self.report.figure(f"idle, {name}: memory of the host in the end", "MiB",
                               curve[-1][1] / MIB, "before", curve[0][1] / MIB)
        self.plot(curves)

    def plot(self, curves):
        data = []
        for i, (name, curve) in enumerate(curves.items()):
            path = os.path.join(OUT, f"zero-idle-{i}.dat")
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(f"{at} {held / MIB}\n" for at, held in curve)
            data.append(f"'{path}' with lines title '{name}'")
        picture = os.path.join(OUT, "zero-idle.png")
        script = (f"set terminal png size 900,500; set output '{picture}'; set yrange [0:*];"
                  "set xlabel 'seconds; memory is freed after 1'; set ylabel 'MiB on the host';"
                  f"plot {', '.join(data)}")
        try:
            subprocess.run(["gnuplot", "-e", script], check=True, stderr=subprocess.PIPE)
        except FileNotFoundError:
            self.report.note(f"there is no gnuplot here: {picture} is not drawn")
        except subprocess.CalledProcessError as error:
            raise BenchError(f"gnuplot failed:\n{error.stderr.decode()}") from error

    # --- Zeroing by call ----------------------------------------------------

    def by_call(self):
        """Of the same guest, and of pages that are in use all the time."""
        for thp in True, False:
            where = f"host THP {'on' if thp else 'off'}"
            say(f"zeroing by call, {where}")
            cm, _ = self.boot_pool(f"call-{thp}", thp=thp)
            with cm as guest:
                guest.ask("write", 0, ZERO + "hugetlb")
                for kind in list(SIZES)[:1 + self.effort.giga]:
                    for touch in TOUCHES:
                        self.one_by_call(guest, kind, touch, where)

    def one_by_call(self, guest, kind, touch, where):
        count = self.effort.pages if kind == "huge" else 1
        rounds = max(2, self.effort.rounds) if kind == "huge" else 2
        times = {}
        for order in "none", "9":
            guest.ask("write", order, ZERO + "order")
            # The first time they are as those before have left them
            guest.ask("fault", kind, count, touch)
            had = guest.ask("read", ZERO + "call_released")[0]
            times[order] = [guest.ask("fault", kind, count, touch)[0] / count / 1e3
                            for _ in range(rounds)]
            by_call = guest.ask("read", ZERO + "call_released")[0] - had
            wanted = rounds * count * SIZES[kind] if order == "9" else 0
            if by_call != wanted:
                raise BenchError(f"{by_call >> 20} MiB were zeroed by call, not {wanted >> 20}")
        self.report.figure(f"{TOUCHES[touch]} of a page of "
                           f"{'2 MiB' if kind == 'huge' else '1 GiB'} zeroed by call, {where}",
                           "us", times["9"], "cleared by the guest", times["none"])

    # --- Goals --------------------------------------------------------------

    def goals(self):
        report, m = self.report, self.measured
        report.note("instructions are counted on a CPU without string instructions, so that "
                    "each store of a clear counts")

        def at_most(name, key, limit):
            value = m.get(key)
            report.goal(name, value, limit, value is not None and value <= limit)

        def at_least(name, value, limit):
            report.goal(name, value, limit, value is not None and value >= limit)

        report.figure("read back, with no word wrong", "GiB", self.verified / GIB)
        report.goal("words of 8 bytes that were wrong when read back", self.wrong, 0,
                    self.verified and not self.wrong)
        at_most("fault of a huge page known to be zero, bytes that the guest clears", "cleared",
                0)
        at_most("fault of a page of 2 MiB known to be zero, instructions / unpatched",
                "fault insns", 0.05)
        at_most("free pool on the host, % of its size", "pool", 1)
        at_most("freed memory back, time / balloon reporting", "reclaim/reporting", 0.1)
        at_most("freed memory back, time / inflation", "reclaim/inflation", 1)
        at_most("freed memory back, time / balloon reporting at equal delay", "equal delay", 1)
        at_most("freed memory back, guest instructions / balloon reporting", "insns", 1)
        at_most("freed memory back, guest instructions / inflation", "insns inflation", 1)
        at_most("freed memory back, exits / balloon reporting", "exits", 0.99)
        at_most("freed memory back, exits / inflation", "exits inflation", 0.99)
        at_most("freed memory back, system calls / balloon reporting", "calls", 0.99)
        at_most("freed memory back, system calls / inflation", "calls inflation", 0.99)
        at_least("order 9 not cleared after a full report, %", m.get(("share", 9)), 95)
        for text in "pages of the pool", "memory, reported":
            at_most(f"churn, {text}, time / unpatched", ("churn", text), 1.05)


PARTS = "faults", "pool", "reclaim", "shares", "churn", "idle", "by_call"


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench zero", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true",
                        help="few rounds: does it work, not how fast it is")
    parser.add_argument("--only", choices=PARTS, action="append",
                        help="this part, may be repeated; goals of others are not met")
    args = parser.parse_args()
    check_kernels(["plain"])
    report = Report("zero", "tcg")
    zero = Zero(report, Effort(args.quick), compile_program("zeroguest", "zero/guest.c"),
                compile_plugin("insns.so", "insns.c"))
    failed = []
    for part in args.only or PARTS:
        try:
            getattr(zero, part)()
        except BenchError as error:
            # The others take long, too, and say something without it
            failed.append(f"{part}: {error}")
            report.note(failed[-1])
    zero.goals()
    report.write()
    report.print()
    print(f"\naccelerator {report.accelerator}; the figures are {report.path}")
    if failed:
        raise BenchError("; ".join(failed))


if __name__ == "__main__":
    run_bench(main)
