#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the host oracle, as TAP.

A child process arranges its memory through the C library as it is told, and
the oracle must see what was arranged.  To test against a real QEMU as well:

  QEMU="qemu-system-x86_64 -L FIRMWARE_DIR" test_oracle.py

Arguments, if any, are the tests to run (such as SharedMemory.test_memfd).
"""

import ctypes
import errno
import json
import mmap
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import unittest
from unittest import mock

import oracle

PAGE = oracle.PAGE
HUGE = 2 << 20
READ, WRITE = mmap.PROT_READ, mmap.PROT_WRITE
SHARED, PRIVATE, ANON, FIXED = 0x01, 0x02, 0x20, 0x10
NORESERVE, HUGETLB, MFD_HUGETLB = 0x4000, 0x40000, 0x0004
DONTNEED, FREE, REMOVE, MERGEABLE, UNMERGEABLE = 4, 8, 9, 12, 13
HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP, PAGEOUT = 14, 15, 16, 17, 21


# --- The child --------------------------------------------------------------

def fake_qmp(path, replies):
    """Answer QMP commands like QEMU, for one client after the other."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()

    def send(client, message):
        client.sendall(json.dumps(message).encode() + b"\r\n")

    def run():
        while True:
            client = server.accept()[0]
            send(client, {"QMP": {"version": {}, "capabilities": ["oob"]}})
            for line in client.makefile():
                request = json.loads(line)
                # Events may come any time, not least before a reply.
                send(client, {"event": "RTC_CHANGE", "data": {"offset": 0}})
                if request["execute"] == "qmp_capabilities":
                    reply = {"return": {}}
                else:
                    text = replies[request["arguments"]["command-line"]]
                    reply = {"return": text.replace("\n", "\r\n")}
                send(client, {**reply, "id": request["id"]})

    threading.Thread(target=run, daemon=True).start()


def child_main():
    # On one CPU, MADV_FREE finds every page on the lists it works on.
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p

    def touch(address, pages, step, write):
        for at in range(address, address + pages * PAGE, step * PAGE):
            if write:
                ctypes.memset(at, at // PAGE % 255 + 1, PAGE)
            else:
                ctypes.string_at(at, 1)

    def memfd(size, flags):
        fd = os.memfd_create("oracle-test", flags)
        os.ftruncate(fd, size)
        return fd

    def fill(address, value, length):
        ctypes.memset(address, value, length)

    own = {"touch": touch, "memfd": memfd, "close": os.close, "fill": fill,
           "fallocate": os.posix_fallocate, "fake_qmp": fake_qmp}
    for line in sys.stdin:
        name, *args = json.loads(line)
        if name in own:
            result, code = own[name](*args), 0
        else:
            result = getattr(libc, name)(*(
                ctypes.c_long(a) if isinstance(a, int) else a.encode()
                for a in args))
            code = ctypes.get_errno() if result in (-1, 2**64 - 1) else 0
        print(json.dumps([result, code]), flush=True)


class Child:
    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "--child"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid

    def __getattr__(self, name):
        def call(*args):
            self.process.stdin.write(json.dumps([name, *args]) + "\n")
            self.process.stdin.flush()
            result, code = json.loads(self.process.stdout.readline())
            if code:
                raise OSError(code, os.strerror(code))
            return result
        return call

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def map(self, pages, fd=-1, flags=None, small=True, offset=0):
        """Map memory between inaccessible areas, at a huge page boundary."""
        size = pages * PAGE
        if flags is None:
            flags = SHARED if fd >= 0 else PRIVATE | ANON
        room = self.mmap(0, size + 3 * HUGE, 0, PRIVATE | ANON | NORESERVE,
                         -1, 0)
        address = self.mmap(room + 2 * HUGE - room % HUGE, size, READ | WRITE,
                            flags | FIXED, fd, offset)
        if small:
            try:
                self.madvise(address, size, NOHUGEPAGE)
            except OSError:
                pass                    # a kernel without huge pages
        return address


def parse(reply):
    """An answer as a dictionary; numbers where it has them."""
    status, *fields = reply.split(" ")
    if status != "ok":
        raise AssertionError(reply)
    pairs = (field.split("=") for field in fields)
    return {key: int(value) if re.fullmatch(r"-?\d+", value) else value
            for key, value in pairs}


def read(path):
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return ""


def meminfo(key):
    return int((re.findall(key + r": *(\d+)", read("/proc/meminfo")) + [0])[0])


HOST = parse(oracle.host())


class MemoryTest(unittest.TestCase):
    def setUp(self):
        self.child = Child()
        self.addCleanup(self.child.end)

    def state(self, address, pages):
        return parse(oracle.state(self.child.pid, [(address, pages * PAGE)]))

    def check(self, address, count, **expected):
        """The numbers must be as expected; those not given, 0."""
        found = self.state(address, count)
        want = dict.fromkeys(
            ("resident", "mapped", "swapped", "zero", "huge"), 0)
        want.update(expected)
        self.assertEqual({key: found[key] for key in want}, want)
        return found

    def attempt(self, what, *args):
        try:
            return getattr(self.child, what)(*args)
        except OSError as e:
            self.skipTest(f"{what}: {e.strerror}")

    def need(self, key):
        if not HOST[key] > 0:
            self.skipTest(f"host has {key}={HOST[key]}")

    def eventually(self, address, pages, **least):
        """Wait for something the kernel does in its own time."""
        for _ in range(100):
            found = self.state(address, pages)
            if all(found[key] >= n for key, n in least.items()):
                break
            time.sleep(0.1)
        for key, n in least.items():
            self.assertGreaterEqual(found[key], n, key)
        return found


class PrivateMemory(MemoryTest):
    def test_untouched(self):
        at = self.child.map(64)
        found = self.check(at, 64, pages=64, vmas=1, prot="rw-p", name="-",
                           readable=64, writable=64, locked=0, dontdump=0,
                           mergeable=0, hugeadv=0, hva=at)
        self.assertEqual(list(found),
                         list(oracle.COUNTERS) + ["prot", "name", "backing",
                                                  "page_size", "hva"])

    def test_written(self):
        at = self.child.map(64)
        self.child.touch(at, 64, 1, True)
        self.check(at, 64, resident=64, mapped=64, anon=64, backing="anon",
                   page_size=PAGE)

    def test_read_maps_the_zero_page(self):
        at = self.child.map(64)
        self.child.touch(at, 64, 1, False)
        if self.state(at, 64)["anon"] == 64:
            self.skipTest("a kernel that gives readers pages of their own")
        self.check(at, 64, mapped=64, zero=64, anon=0)

    def test_dontneed(self):
        at = self.child.map(64)
        self.child.touch(at, 64, 1, True)
        self.child.madvise(at + 8 * PAGE, 16 * PAGE, DONTNEED)
        self.check(at, 64, resident=48, mapped=48)
        self.check(at + 8 * PAGE, 16)

    def test_free(self):
        self.need("kpageflags")
        at = self.child.map(64)
        self.child.touch(at, 64, 1, True)
        self.check(at, 64, resident=64, mapped=64, lazyfree=0, ksm=0)
        self.child.madvise(at, 40 * PAGE, FREE)
        self.check(at, 64, resident=64, mapped=64, lazyfree=40)

    def test_too_many_frames(self):
        at = self.child.map(64)
        self.child.touch(at, 64, 2, True)
        with mock.patch.object(oracle, "MAX_PFNS", 31):
            self.check(at, 64, resident=32, mapped=32, ksm=-1, lazyfree=-1)

    def test_huge_page(self):
        if "[never]" in (read("/sys/kernel/mm/transparent_hugepage/enabled")
                         or "[never]"):
            self.skipTest("no transparent huge pages")
        pages = HUGE // PAGE
        at = self.child.map(2 * pages, small=False)
        self.child.madvise(at, HUGE, HUGEPAGE)
        self.child.madvise(at + HUGE, HUGE, NOHUGEPAGE)
        self.child.touch(at, 2 * pages, 1, True)
        if not self.state(at, 1)["huge"]:
            self.skipTest("the host found no huge page")
        self.check(at, 2 * pages, resident=2 * pages, mapped=2 * pages,
                   huge=pages, hugeadv=pages, nohuge=pages, vmas=2)
        self.check(at + 100 * PAGE, 7, resident=7, mapped=7, huge=7)

    def test_protection(self):
        at = self.child.map(30)
        self.child.touch(at, 30, 1, True)
        self.child.mprotect(at + 10 * PAGE, 10 * PAGE, READ)
        self.child.mprotect(at + 20 * PAGE, 10 * PAGE, 0)
        self.check(at, 30, resident=30, mapped=30, vmas=3, prot="mixed",
                   readable=20, writable=10)
        for first, prot in (0, "rw-p"), (10, "r--p"), (20, "---p"):
            self.check(at + first * PAGE, 10, resident=10, mapped=10, vmas=1,
                       prot=prot)

    def test_lock(self):
        at = self.child.map(16)
        self.attempt("mlock", at, 4 * PAGE)
        self.check(at, 16, resident=4, mapped=4, locked=4, vmas=2)

    def test_dontdump(self):
        at = self.child.map(16)
        self.child.madvise(at, 4 * PAGE, DONTDUMP)
        self.check(at, 16, dontdump=4, vmas=2)

        self.child.madvise(at, 2 * PAGE, DODUMP)
        self.check(at, 16, dontdump=2, vmas=3)

    def test_mergeable(self):
        at = self.child.map(16)
        self.attempt("madvise", at, 4 * PAGE, MERGEABLE)
        self.check(at, 16, mergeable=4, vmas=2)
        self.child.madvise(at, 2 * PAGE, UNMERGEABLE)
        self.check(at, 16, mergeable=2, vmas=3)

    def test_huge_advice(self):
        # An attribute of the mapping, whatever pages it has
        at = self.child.map(16, small=False)
        self.check(at, 16, nohuge=0, hugeadv=0)
        self.attempt("madvise", at, 4 * PAGE, HUGEPAGE)
        self.attempt("madvise", at + 8 * PAGE, 2 * PAGE, NOHUGEPAGE)
        self.check(at, 16, hugeadv=4, nohuge=2, vmas=4)
        self.child.madvise(at, 4 * PAGE, NOHUGEPAGE)
        self.check(at, 4, hugeadv=0, nohuge=4, vmas=1)

    def test_ksm(self):
        if HOST["ksm"] != 1:
            self.skipTest("KSM does not run")
        at = self.child.map(64)
        self.child.fill(at, 0x5a, 64 * PAGE)
        self.child.madvise(at, 64 * PAGE, MERGEABLE)
        self.eventually(at, 64, ksm=64, resident=64)

    def test_swap(self):
        self.need("swap_kib")
        at = self.child.map(64)
        self.child.touch(at, 64, 1, True)
        self.child.madvise(at, 32 * PAGE, PAGEOUT)
        found = self.eventually(at, 32, swapped=32)
        self.assertEqual((found["resident"], found["mapped"]), (0, 0))
        self.check(at, 64, resident=32, mapped=32, swapped=32)

    def test_name(self):
        self.need("anon_name")
        at = self.child.map(16)
        for first, name in (0, "pvmemctl-7"), (8, "with a space"):
            self.child.prctl(oracle.PR_SET_VMA, 0, at + first * PAGE, 8 * PAGE,
                             name)
            self.check(at + first * PAGE, 8, name=name.replace(" ", "_"))
        self.check(at, 16, name="mixed", vmas=2)

    def test_partial_pages_count_whole(self):
        at = self.child.map(16)
        self.child.touch(at, 16, 1, True)
        found = parse(oracle.state(self.child.pid, [(at + PAGE - 1, 2)]))
        self.assertEqual((found["pages"], found["resident"]), (2, 2))

    def test_hole(self):
        at = self.child.map(16)
        self.child.munmap(at + 8 * PAGE, PAGE)
        with self.assertRaisesRegex(oracle.OracleError,
                                    "not mapped at host address 0x%x"
                                    % (at + 8 * PAGE)):
            self.state(at, 16)
        with self.assertRaises(oracle.OracleError):
            self.state(at + 8 * PAGE, 1)
        self.check(at + 9 * PAGE, 7, pages=7)

    def test_many_regions(self):
        # More than fit the scan's buffers, and looked at in several steps.
        at = self.child.map(6000)
        self.child.touch(at, 6000, 2, True)
        for step in 256 << 20, 1000 * PAGE, 333 * PAGE:
            with mock.patch.object(oracle, "STEP", step):
                self.check(at, 6000, pages=6000, resident=3000, mapped=3000,
                           readable=6000, vmas=1)

    def test_several_ranges(self):
        at = self.child.map(64)
        self.child.touch(at, 16, 1, True)
        found = parse(oracle.state(self.child.pid, [
            (at + 32 * PAGE, 4 * PAGE), (at, 4 * PAGE)]))
        self.assertEqual([found[key] for key in (
            "pages", "resident", "vmas", "hva")], [8, 4, 1, at + 32 * PAGE])


class SharedMemory(MemoryTest):
    def check_shared(self, at):
        self.check(at, 64, pages=64, prot="rw-s", vmas=1, backing="memfd",
                   page_size=PAGE)
        self.child.touch(at, 64, 1, True)
        known = HOST["kpageflags"] - 1      # 0, or -1 for not known
        self.check(at, 64, resident=64, mapped=64, anon=0, lazyfree=known,
                   ksm=known)
        self.child.madvise(at, 64 * PAGE, DONTNEED)
        self.check(at, 64, resident=64)
        # Writing, as a read of shared memory maps the pages around as well
        self.child.touch(at, 8, 1, True)
        self.check(at, 64, resident=64, mapped=8)
        self.child.madvise(at + 16 * PAGE, 16 * PAGE, REMOVE)
        self.check(at, 64, resident=48, mapped=8)
        self.check(at + 12 * PAGE, 8, resident=4)
        self.child.madvise(at, 64 * PAGE, REMOVE)
        self.check(at, 64)

    def test_memfd(self):
        fd = self.child.memfd(80 * PAGE, 0)
        self.check_shared(self.child.map(64, fd, offset=16 * PAGE))

    def test_memfd_by_descriptor(self):
        # As for an oracle without the privilege to use map_files
        fd = self.child.memfd(64 * PAGE, 0)
        at = self.child.map(64, fd)
        self.child.touch(at, 8, 1, True)
        self.child.madvise(at, 8 * PAGE, DONTNEED)
        stat = os.stat

        def denied(path):
            if "map_files" in str(path):
                raise PermissionError
            return stat(path)

        with mock.patch.object(os, "stat", denied):
            self.check(at, 64, resident=8)
            self.child.close(fd)
            with self.assertRaisesRegex(oracle.OracleError, "cannot open"):
                self.state(at, 64)

    def test_fallocated(self):
        fd = self.child.memfd(64 * PAGE, 0)
        at = self.child.map(64, fd)
        self.child.fallocate(fd, 0, 8 * PAGE)
        if oracle.libc.syscall(oracle.SYS_CACHESTAT, -1, 0, 0, 0) and \
                ctypes.get_errno() == errno.ENOSYS:
            self.skipTest("no cachestat")
        self.check(at, 64, resident=8)

    def test_without_cachestat(self):
        fd = self.child.memfd(80 * PAGE, 0)
        with mock.patch.object(oracle, "SYS_CACHESTAT", 1 << 20):
            self.check_shared(self.child.map(64, fd, offset=16 * PAGE))

    def test_no_descriptor_left(self):
        if os.geteuid():
            self.skipTest("takes root")
        fd = self.child.memfd(64 * PAGE, 0)
        at = self.child.map(64, fd)
        self.child.close(fd)
        self.check_shared(at)

    def test_shared_anonymous(self):
        if os.geteuid():
            self.skipTest("takes root")
        self.check_shared(self.child.map(64, flags=SHARED | ANON))

    def test_disk_file(self):
        # On a disk, pages not in memory are not in swap either.
        with tempfile.NamedTemporaryFile() as file:
            file.write(bytes(64 * PAGE))
            file.flush()
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            fd = self.child.open(file.name, os.O_RDWR)
            at = self.child.map(64, fd)
            self.child.touch(at, 64, 1, False)
            self.check(at, 64, resident=64, mapped=64, anon=0, backing="file",
                       page_size=PAGE)

    def test_private_mapping_of_a_disk_file(self):
        # As a VMM has it that starts from a snapshot
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"x" * 64 * PAGE)
            file.flush()
            os.fsync(file.fileno())
            fd = self.child.open(file.name, os.O_RDWR)
            at = self.child.map(64, fd, flags=PRIVATE)
            self.check(at, 64, resident=64, backing="file", prot="rw-p")
            self.child.touch(at, 16, 1, True)
            found = self.check(at, 16, resident=16, mapped=16, anon=16)
            self.assertEqual(found["vmas"], 1)
            # Its own pages go, the file's stay
            self.child.madvise(at, 64 * PAGE, DONTNEED)
            self.check(at, 64, resident=64, anon=0)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self.check(at, 64)

    def test_lock(self):
        for flags in SHARED, PRIVATE:
            fd = self.child.memfd(16 * PAGE, 0)
            at = self.child.map(16, fd, flags=flags)
            self.attempt("mlock", at, 4 * PAGE)
            self.check(at, 16, resident=4, mapped=4, locked=4, vmas=2)
            self.child.munlock(at, 4 * PAGE)
            self.check(at, 16, resident=4, mapped=4, locked=0, vmas=1)

    def test_private_mapping_of_a_file(self):
        fd = self.child.memfd(64 * PAGE, 0)
        self.child.touch(self.child.map(64, fd), 32, 1, True)
        at = self.child.map(64, fd, flags=PRIVATE)
        self.check(at, 64, resident=32)
        self.child.touch(at + 24 * PAGE, 16, 1, True)
        # 24 pages of the file, 16 of its own (8 instead of the file's)
        self.check(at, 64, resident=40, mapped=16, anon=16)
        self.child.madvise(at, 64 * PAGE, DONTNEED)
        # Copying has had the file get the pages it lacked.
        self.check(at, 64, resident=40)

    def test_swap(self):
        self.need("swap_kib")
        fd = self.child.memfd(64 * PAGE, 0)
        at = self.child.map(64, fd)
        self.child.touch(at, 64, 1, True)
        self.child.madvise(at, 32 * PAGE, PAGEOUT)
        found = self.eventually(at, 32, swapped=32)
        self.assertEqual((found["resident"], found["mapped"]), (0, 0))
        self.check(at, 64, resident=32, mapped=32, swapped=32)


class HugetlbMemory(MemoryTest):
    PAGES = HUGE // PAGE

    def setUp(self):
        super().setUp()
        if meminfo("Hugepagesize") != HUGE >> 10 or meminfo(
                "HugePages_Free") < 4:
            self.skipTest("no hugetlb pages")

    def test_private(self):
        n = self.PAGES
        at = self.child.map(4 * n, flags=PRIVATE | ANON | HUGETLB, small=False)
        self.check(at, 4 * n)
        self.child.touch(at, 2 * n, 1, True)
        self.check(at, 4 * n, resident=2 * n, mapped=2 * n, huge=2 * n)
        self.check(at + PAGE, n, resident=n, mapped=n, huge=n, anon=n,
                   lazyfree=0, backing="anon", page_size=HUGE, hugetlb=n)

    def test_private_mapping_of_a_memfd(self):
        n = self.PAGES
        fd = self.child.memfd(4 * HUGE, MFD_HUGETLB)
        at = self.child.map(4 * n, fd, flags=PRIVATE, small=False)
        self.check(at, 4 * n, prot="rw-p", backing="memfd", page_size=HUGE)
        self.child.touch(at, 2 * n, 1, True)
        self.check(at, 4 * n, resident=2 * n, mapped=2 * n, huge=2 * n,
                   anon=2 * n)
        self.child.madvise(at, HUGE, DONTNEED)
        self.check(at, 4 * n, resident=n, mapped=n, huge=n, anon=n)

    def test_shared(self):
        if not os.access("/dev/userfaultfd", os.R_OK | os.W_OK):
            self.skipTest("no /dev/userfaultfd")
        n = self.PAGES
        fd = self.child.memfd(4 * HUGE, MFD_HUGETLB)
        at = self.child.map(4 * n, fd, small=False)
        self.check(at, 4 * n)
        self.child.touch(at + HUGE, 2 * n, 1, True)
        self.check(at, 4 * n, resident=2 * n, mapped=2 * n, huge=2 * n, anon=0,
                   page_size=HUGE)
        self.child.madvise(at, 2 * HUGE, DONTNEED)
        self.check(at, 4 * n, resident=2 * n, mapped=n, huge=n)
        self.check(at + HUGE - PAGE, 3, resident=2)
        self.child.madvise(at, 2 * HUGE, REMOVE)
        self.check(at, 4 * n, resident=n, mapped=n, huge=n)


class HugetlbProbe(unittest.TestCase):
    def test_on_tmpfs(self):
        # Where there is no hugetlb, tmpfs can stand in: its minor faults
        # work alike, only the feature bit differs.
        fd = os.memfd_create("oracle-test")
        self.addCleanup(os.close, fd)
        os.ftruncate(fd, 16 * PAGE)
        os.pwrite(fd, b"x", 4 * PAGE)
        os.pwrite(fd, b"x", 9 * PAGE)
        with mock.patch.object(oracle, "MINOR_HUGETLBFS", 1 << 10):
            def cached(first, end):
                return oracle.hugetlb_cached(fd, first * PAGE, end * PAGE)
            try:
                self.assertEqual(cached(0, 16), 2)
            except OSError as e:
                self.skipTest(f"userfaultfd: {e.strerror}")
            self.assertEqual([cached(4, 5), cached(5, 9), cached(5, 10)],
                             [1, 0, 1])
        self.assertEqual(oracle.cachestat(fd, 0, 16 * PAGE)[0], 2)


class Host(unittest.TestCase):
    def test_host(self):
        self.assertEqual(list(HOST), ["page_size", "swap_kib", "hugetlb_free",
                                      "ksm", "anon_name", "kpageflags",
                                      "pagemap_scan", "uptime_ms"])
        self.assertEqual(HOST["page_size"], PAGE)
        self.assertEqual(HOST["pagemap_scan"], 1)
        self.assertGreater(HOST["uptime_ms"], 0)
        later = parse(oracle.host())
        self.assertGreaterEqual(later["uptime_ms"], HOST["uptime_ms"])


# --- QEMU's memory layout ---------------------------------------------------

# As QEMU prints them, but smaller: main memory of 64 pages ("pc.ram") around
# the holes a PC has, a DIMM of 16 pages right behind its upper part, two
# devices with memory of the same name.
RAMBLOCK = """\
              Block Name    PSize              Offset               Used\
              Total                HVA  RO
                  pc.ram    4 KiB  0x0000000000000000 0x0000000000040000\
 0x0000000000040000 0x{0:016x}  rw
           /objects/dimm    4 KiB  0x0000000040000000 0x0000000000010000\
 0x0000000000010000 0x{1:016x}  rw
   0000:00:01.0/vga.vram    4 KiB  0x0000000010080000 0x0000000001000000\
 0x0000000001000000 0x00007f55fec00000  rw
   0000:00:02.0/vga.vram    4 KiB  0x0000000020080000 0x0000000001000000\
 0x0000000001000000 0x00007f55fdc00000  rw
   0000:00:03.0/bar.vram    2 MiB  0x0000000030080000 0x0000000000200000\
 0x0000000000200000 0x00007f55fba00000  rw
    /rom@etc/acpi/tables    4 KiB  0x00000000110c0000 0x0000000000020000\
 0x0000000000200000 0x00007f565c400000  ro
                 pc.bios    4 KiB  0x0000000010000000 0x0000000000040000\
 0x0000000000040000 0x00007f565cc00000  ro
"""
MTREE = """\
FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan
  0000000000000008-000000000000000f (prio 0, i/o): dma-cont

FlatView #1
 AS "cpu-smm-0", root: memory
 Root memory region: memory
  0000000000000000-00000000ffffffff (prio 0, ram): pc.bios

FlatView #2
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 AS "VGA", root: bus master container, alias system
 Root memory region: system
  0000000000000000-0000000000009fff (prio 0, ram): pc.ram KVM
  000000000000a000-000000000000bfff (prio 1, i/o): vga-lowmem
  000000000000c000-000000000000dfff (prio 1, rom): pc.ram @000000000000c000 KVM
  000000000000e000-000000000000ffff (prio 0, rom): pc.bios @0000000000020000 KVM
  0000000000010000-000000000002ffff (prio 0, ram): pc.ram @0000000000010000 KVM
  00000000fc000000-00000000fcffffff (prio 1, ram): vga.vram KVM
  00000000fd000000-00000000fd0fffff (prio 1, ram): bar.vram @0000000000100000
  00000000fe000000-00000000fe000fff (prio 0, ramd): 0000:01:00.0 BAR 0 mmaps[0]
  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic
  00000000fffc0000-00000000ffffffff (prio 0, romd): system.flash0
  0000000100000000-000000010000ffff (prio 0, ram): pc.ram @0000000000030000 KVM
  0000000100010000-000000010001ffff (prio 0, ram): dimm KVM
  0000000140000000-000000014000ffff (prio 0, nv-ram): nvdimm KVM

FlatView #3
 AS "mch", root: bus master container
 Root memory region: (none)
  No rendered FlatView

"""
HIGH = 1 << 32
NOT_RAM = (     # address, length, the address to complain about
    (0x9000, 0x1001, 0xa000), (0xa000, 1, 0xa000), (0xc000, 0x1000, 0xc000),
    (0xe000, 1, 0xe000), (0, 0x10000, 0xa000), (0x30000, 1, 0x30000),
    (0x2f000, 0x2000, 0x30000), (0xfe000000, 1, 0xfe000000),
    (0xfec00000, 4, 0xfec00000), (0xffffffff, 2, 0xffffffff),
    (HIGH + 0x1f000, 0x1001, HIGH + 0x20000), (5 << 30, 4096, 5 << 30))


class LayoutTest(unittest.TestCase):
    def setUp(self):
        self.blocks = oracle.parse_ramblock(
            RAMBLOCK.format(1 << 40, 1 << 41).replace("\n", "\r\n"))
        self.flats = oracle.parse_flatview(MTREE.replace("\n", "\r\n"))

    def translate(self, gpa, length):
        return oracle.translate(self.blocks, self.flats, gpa, length)

    def test_parse(self):
        self.assertEqual(len(self.blocks), 7)
        self.assertEqual(len(self.flats), 13)
        self.assertEqual(self.blocks[1],
                         ("/objects/dimm", 0x10000, 1 << 41))
        self.assertEqual(self.blocks[5].size, 0x200000)
        self.assertEqual(self.flats[4],
                         (0x10000, 0x30000, "ram", "pc.ram", 0x10000))
        self.assertEqual(self.flats[7].name, "0000:01:00.0 BAR 0 mmaps[0]")

    def test_translate(self):
        main, dimm = 1 << 40, 1 << 41
        self.assertEqual(self.translate(0, 1), [(main, 1)])
        self.assertEqual(self.translate(0x9fff, 1), [(main + 0x9fff, 1)])
        self.assertEqual(self.translate(0x10000, 0x20000),
                         [(main + 0x10000, 0x20000)])
        self.assertEqual(self.translate(HIGH + 0xf000, 0x3000), [
            (main + 0x3f000, 0x1000), (dimm, 0x2000)])
        self.assertEqual(self.translate(0xfd000010, 16),
                         [(0x7f55fba00000 + 0x100010, 16)])

    def test_not_ram(self):
        for gpa, length, where in NOT_RAM:
            with self.subTest(gpa=hex(gpa)), self.assertRaisesRegex(
                    oracle.OracleError, "not RAM at 0x%x$" % where):
                self.translate(gpa, length)

    def test_unclear(self):
        with self.assertRaisesRegex(oracle.OracleError, "ambiguous"):
            self.translate(0xfc000000, 4096)
        with self.assertRaisesRegex(oracle.OracleError, "no RAM block"):
            oracle.find_block(self.blocks, "pc")
        self.blocks[0] = self.blocks[0]._replace(size=0x2f000)
        with self.assertRaisesRegex(oracle.OracleError, "exceeds"):
            self.translate(0x10000, 0x20000)
        with self.assertRaises(oracle.OracleError):
            oracle.parse_flatview(MTREE.replace('"memory"', '"other"'))


# --- The server -------------------------------------------------------------

HOSTILE = (
    b"", b" ", b"\0", b"\xff\xfe", b"%s%n", b"host host", b"ping 1", b"PING",
    b"state", b"state 0", b"state 0 4096 0", b"state x y", b"state 0x 4096",
    b"state 0 0", b"state 0 -1", b"state -4096 4096", b"state 1_0 4096",
    b"state 0x0x0 4096", b"state 1e3 4096", b"state 010x 1",
    b"state \xd9\xa1 1",
    b"state 0 0x1000000001", b"state 0xfffffffffffff000 0x1001",
    b"state 0x10000000000000000 1", b"state " + b"9" * 200 + b" 1",
    b"ping\0", b"__class__", b"state{} 0 1", b"A" * 256, b"A" * 257,
    b"ping" + b" " * 253, b"\x80" * 70000)


class ServeTest(MemoryTest):
    def setUp(self):
        super().setUp()
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.main, self.dimm = self.child.map(64), self.child.map(16)
        self.child.fake_qmp(self.path("qmp"), {
            "info ramblock": RAMBLOCK.format(self.main, self.dimm),
            "info mtree -f": MTREE})

    def path(self, name):
        return os.path.join(self.dir.name, name)

    def serve(self, qmp="qmp", port="port"):
        """Start the oracle, and only then open the port it wants."""
        self.oracle = subprocess.Popen(
            [sys.executable, oracle.__file__, "serve", "--qmp", self.path(qmp),
             "--port", self.path(port), "--log", self.path("log")],
            stderr=subprocess.PIPE, text=True)
        self.addCleanup(self.oracle.communicate)
        self.addCleanup(self.oracle.kill)
        time.sleep(0.2)
        server = socket.socket(socket.AF_UNIX)
        self.addCleanup(server.close)
        server.bind(self.path(port))
        server.listen()
        self.port = server.accept()[0]
        self.addCleanup(self.port.close)
        self.port.settimeout(30)
        self.lines = self.port.makefile("r", newline="\n")
        self.addCleanup(self.lines.close)

    def ask(self, line):
        self.port.sendall(line + b"\n")
        return self.lines.readline().rstrip("\n")

    def assert_ends_well(self):
        self.assertEqual(self.oracle.wait(10), 0)
        self.assertEqual(self.oracle.stderr.read(), "")

    def test_requests(self):
        self.serve()
        self.assertEqual(self.ask(b"ping"), "ok")
        self.assertEqual(self.ask(b" ping\r"), "ok")
        self.assertEqual(list(parse(self.ask(b"host"))), list(HOST))
        self.child.touch(self.main + 0x3f000, 1, 1, True)
        self.child.touch(self.dimm + 0x1000, 2, 1, True)
        found = parse(self.ask(b"state 0x10000F000 16384"))
        self.assertEqual([found[key] for key in (
            "pages", "resident", "mapped", "vmas", "prot", "hva")],
            [4, 3, 3, 2, "rw-p", self.main + 0x3f000])
        self.child.madvise(self.dimm, 0x10000, DONTNEED)
        self.assertEqual(parse(self.ask(b"state 0x10000f000 16384"))[
            "resident"], 1)
        # A layout that does not fit the process: nothing there
        self.child.munmap(self.main, PAGE)
        self.assertEqual(self.ask(b"state 0 4096"),
                         "error not mapped at host address 0x%x" % self.main)

    def test_not_ram(self):
        self.serve()
        for gpa, length, where in NOT_RAM:
            with self.subTest(gpa=hex(gpa)):
                self.assertEqual(self.ask(b"state %d %#x" % (gpa, length)),
                                 "error not RAM at 0x%x" % where)

    def test_hostile(self):
        self.serve()
        for line in HOSTILE:
            with self.subTest(line=line[:40]):
                reply = self.ask(line)
                self.assertRegex(reply, r"^error [ -~]+$")
                self.assertLess(len(reply), 200)
                self.assertEqual(self.ask(b"ping"), "ok")

    def test_pieces_and_bunches(self):
        self.serve()
        for piece in b"p", b"in", b"g\npi", b"ng\nnonsense\nping\n":
            self.port.sendall(piece)
            time.sleep(0.05)
        self.assertEqual([self.lines.readline() for _ in range(4)],
                         ["ok\n", "ok\n", "error bad request\n", "ok\n"])
        # An endless line costs neither memory nor the connection.
        for _ in range(64):
            self.port.sendall(b"ping " * 4096)
        self.assertEqual(self.ask(b""), "error line too long")
        peak = re.search(r"VmHWM:\s*(\d+)",
                         read(f"/proc/{self.oracle.pid}/status"))
        self.assertLess(int(peak[1]), 100 << 10)
        self.assertIn("error line too long", read(self.path("log")))

    def test_port_closed(self):
        self.serve()
        self.assertEqual(self.ask(b"ping"), "ok")
        self.lines.close()
        self.port.close()
        self.assert_ends_well()

    def test_qemu_ended(self):
        self.serve()
        self.assertEqual(self.ask(b"ping"), "ok")
        self.child.process.kill()
        self.assert_ends_well()

    def test_nobody_there(self):
        for args in (["--qmp", self.path("none"), "--port", self.path("none")],
                     ["--qmp", self.path("qmp"), "--port", self.path("none")]):
            with mock.patch.object(oracle, "CONNECT_SECONDS", 0), \
                    mock.patch.object(sys, "argv", ["", "serve", *args]), \
                    self.assertRaisesRegex(SystemExit, "^oracle: .*No such"):
                oracle.main()

    def test_one_shot(self):
        def run(*args):
            result = subprocess.run([sys.executable, oracle.__file__, *args],
                                    stdout=subprocess.PIPE, text=True)
            return result.returncode, result.stdout.rstrip("\n")

        self.child.touch(self.main, 10, 1, True)
        code, reply = run("state", "--qmp", self.path("qmp"), "--gpa", "0x0",
                          "--length", "0xa000")
        self.assertEqual((code, parse(reply)["resident"]), (0, 10))
        self.assertEqual((code, reply), run(
            "state", "--pid", str(self.child.pid), "--hva", str(self.main),
            "--length", "40960"))
        self.assertEqual((1, "error not RAM at 0xa000"), run(
            "state", "--qmp", self.path("qmp"), "--gpa", "0", "--length",
            "0xa001"))
        code, reply = run("state", "--pid", str(2**22 + 1), "--hva", "0",
                          "--length", "1")
        self.assertEqual((code, reply[:6]), (1, "error "))
        code, reply = run("host")
        self.assertEqual((code, list(parse(reply))), (0, list(HOST)))

    def test_process_gone(self):
        pid = self.child.pid
        self.child.process.kill()
        self.child.process.wait()
        reply = oracle.answer(b"state 0x1000 1", lambda at, n: oracle.state(
            pid, [(at, n)]))
        self.assertRegex(reply, "^error ")


class RealQemu(unittest.TestCase):
    def check(self, *memory):
        if "QEMU" not in os.environ:
            self.skipTest("QEMU not set in the environment")
        with tempfile.TemporaryDirectory() as where:
            qmp, port = (os.path.join(where, name) for name in ("qmp", "port"))
            # The loader writes to one page of the guest, which stays stopped.
            qemu = subprocess.Popen(
                [*shlex.split(os.environ["QEMU"]), "-M", "q35", "-m", "256M",
                 "-S", "-accel", "tcg", "-display", "none", "-nodefaults",
                 *memory, "-qmp", f"unix:{qmp},server=on,wait=off",
                 "-device", "virtio-serial-pci", "-chardev",
                 f"socket,id=port,path={port},server=on,wait=off",
                 "-device", "virtserialport,chardev=port,name=oracle",
                 "-device", "loader,addr=0x8000000,data=1,data-len=4"],
                stdin=subprocess.DEVNULL)
            try:
                monitor = oracle.Qmp(qmp)
                self.assertEqual(monitor.pid, qemu.pid)

                def state(gpa, length):
                    return parse(oracle.guest_state(monitor, gpa, length))

                first = state(0x8000000, 1)
                size = HUGE if first["huge"] else PAGE
                self.assertEqual(first["resident"], 1)
                self.assertEqual(state(0x8000000, 0x8000000)["resident"],
                                 size // PAGE)
                self.assertEqual(state(0x100000, 0xff00000)["pages"],
                                 0xff00000 // PAGE)
                before = state(0xc000000, HUGE)
                self.assertEqual(before["mapped"] + before["resident"], 0)
                # Looking at a page maps it.
                monitor.hmp("xp /1xb 0xc000000")
                after = state(0xc000000, HUGE)
                self.assertGreaterEqual(after["mapped"], 1)
                self.assertEqual(after["resident"] + after["zero"],
                                 after["mapped"])
                for gpa in 0xfffff, 0x10000000, 0xfffffff0:
                    with self.assertRaisesRegex(oracle.OracleError, "not RAM"):
                        state(gpa, 1)
                monitor.sock.close()

                server = subprocess.Popen([
                    sys.executable, oracle.__file__, "serve", "--qmp", qmp,
                    "--port", port])
                time.sleep(1)
                self.assertIsNone(server.poll())
                qemu.kill()
                self.assertEqual(server.wait(10), 0)
            finally:
                qemu.kill()
                qemu.wait()

    def test_anonymous(self):
        self.check()

    def test_memfd(self):
        self.check("-object", "memory-backend-memfd,id=m0,size=256M",
                   "-machine", "memory-backend=m0")

    def test_memfd_canonical_name(self):
        self.check("-object", "memory-backend-memfd,id=m0,size=256M,"
                   "x-use-canonical-path-for-ramblock-id=on",
                   "-machine", "memory-backend=m0")


# --- TAP --------------------------------------------------------------------

class TapResult(unittest.TestResult):
    """Prints each test's outcome as a line of TAP 13."""

    def startTest(self, test):
        super().startTest(test)
        self.outcome, self.traces = "", []

    def addError(self, test, err):
        super().addError(test, err)
        self.traces.append(err)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.traces.append(err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err:
            self.traces.append(err)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.outcome = f" # SKIP {reason}"

    def stopTest(self, test):
        super().stopTest(test)
        name = ".".join(test.id().split(".")[-2:])
        print("not ok" if self.traces else "ok", self.testsRun, "-", name
              + ("" if self.traces else self.outcome), flush=True)
        for err in self.traces:
            for line in "".join(traceback.format_exception(*err)).splitlines():
                print("  #", line)


def main():
    loader, module = unittest.defaultTestLoader, sys.modules[__name__]
    suite = (loader.loadTestsFromNames(sys.argv[1:], module)
             if sys.argv[1:] else loader.loadTestsFromModule(module))
    print(f"TAP version 13\n1..{suite.countTestCases()}")
    result = TapResult()
    suite.run(result)
    return int(not result.wasSuccessful())


if __name__ == "__main__":
    sys.exit(child_main() if sys.argv[1:] == ["--child"] else main())
