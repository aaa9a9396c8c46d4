#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The host oracle: what the host kernel really holds for guest memory.

A guest that asks pvmemctl to change the backing of its memory needs the result
confirmed by somebody who is not the device under test.  This process runs
beside QEMU.  It asks QEMU (over QMP) only where guest RAM lies in QEMU's
address space, and reads everything else from the host kernel.

Requests are lines, each with one line as its answer:

  state <gpa> <length>   ok pages=N resident=N ... (see COUNTERS)
  host                   ok page_size=N ... (what this host can do)
  ping                   ok
  anything else          error <text>

serve keeps its QMP connection open, and a QMP socket has one client at a time:
give it a socket of its own.  Needs Linux 6.7 and, for full answers, root.
"""

import argparse
import array
import contextlib
import ctypes
import errno
import fcntl
import functools
import json
import mmap
import os
import re
import select
import socket
import stat
import struct
import sys
import time
from typing import NamedTuple

PAGE = os.sysconf("SC_PAGE_SIZE")

# The guest is not trusted: what it can make grow has a limit.
MAX_LINE = 256              # bytes in a request
MAX_LENGTH = 64 << 30       # bytes a state request may cover
MAX_PFNS = 65536            # page frames looked up one by one for a request
MAX_LOG = 64 << 20          # bytes written to --log
STEP = 256 << 20            # bytes looked at at a time (holds the mmap lock)

CONNECT_SECONDS = 10
QMP_SECONDS = 30

# The numbers of a state answer, in order.  All but vmas count pages; those
# with two letters count the pages of the VMAs that have this flag (VmFlags).
# Behind them an answer has of all VMAs, or "mixed":
#   prot=rw-p          as in maps
#   name=-             that was given to anonymous memory
#   backing=anon       or memfd (any shared memory without a name), or file
#   page_size=4096     of the kernel's pages there: more with hugetlb
#   hva=N              the address in the process
COUNTERS = {
    "pages": "in the range",
    "resident": "the host holds memory for, mapped or not",
    "mapped": "present in the page table",
    "swapped": "with their content in swap",
    "zero": "mapped to the kernel's shared zero page",
    "huge": "mapped by a huge page table entry",
    "anon": "mapped and the process's own, not a file's: of a private mapping",
    "ksm": "merged by KSM; -1: not known",
    "lazyfree": "given to reclaim by MADV_FREE; -1: not known",
    "locked": "lo", "dontdump": "dd", "mergeable": "mg", "nohuge": "nh",
    "hugeadv": "hg", "hugetlb": "ht", "readable": "rd", "writable": "wr",
    "vmas": "mappings the range touches",
}


class OracleError(Exception):
    """A request that cannot be answered; its text is the answer."""


class Gone(Exception):
    """QEMU closed one of its sockets."""


# --- Kernel interfaces that Python does not wrap ----------------------------

libc = ctypes.CDLL(None, use_errno=True)


def iowr(kind, number, size):
    return 3 << 30 | size << 16 | kind << 8 | number


# linux/fs.h
PAGEMAP_SCAN = iowr(ord("f"), 16, 96)
IS_FILE, IS_PRESENT, IS_SWAPPED, IS_ZERO, IS_HUGE = 4, 8, 16, 32, 64
# linux/kernel-page-flags.h
KPF_ANON, KPF_SWAPBACKED = 1 << 12, 1 << 14
KPF_HUGE, KPF_KSM = 1 << 17, 1 << 21
# linux/userfaultfd.h
USERFAULTFD_IOC_NEW = 0xAA << 8
UFFDIO_API, UFFD_API, MINOR_HUGETLBFS = iowr(0xAA, 0x3F, 24), 0xAA, 1 << 9
UFFDIO_REGISTER, MODE_MINOR = iowr(0xAA, 0x00, 32), 1 << 2
UFFDIO_CONTINUE = iowr(0xAA, 0x07, 32)
# Others
SYS_CACHESTAT = 451         # on all architectures, like all from 424 on
TMPFS_MAGIC = 0x01021994
PR_SET_VMA, PR_SET_VMA_ANON_NAME = 0x53564D41, 0
MADV_COLLAPSE = 25


def call(name, *args):
    if getattr(libc, name)(*args):
        raise OSError(ctypes.get_errno(), name)


def address_of(area):
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


def is_tmpfs(fd):
    buf = (ctypes.c_long * 64)()        # longer than any struct statfs
    call("fstatfs", fd, buf)
    return buf[0] == TMPFS_MAGIC        # f_type comes first


def cachestat(fd, offset, length):
    """(cached, evicted) pages of a part of a file."""
    found = (ctypes.c_uint64 * 5)()
    try:
        call("syscall", ctypes.c_long(SYS_CACHESTAT), ctypes.c_uint(fd),
             (ctypes.c_uint64 * 2)(offset, length), found, ctypes.c_uint(0))
    except OSError as e:
        if e.errno != errno.ENOSYS:     # a kernel made small
            raise
        return data_pages(fd, offset, offset + length), 0
    return found[0], found[3]           # nr_cache, nr_evicted


def data_pages(fd, start, end):
    """Pages with data in a part of a file.

    Second best: on tmpfs it takes swapped pages for cached ones and fallocated
    ones for holes, and on a disk it tells about the disk.
    """
    found = 0
    with contextlib.suppress(OSError):  # ENXIO: no more data
        while start < end:
            start = os.lseek(fd, start, os.SEEK_DATA)
            hole = os.lseek(fd, start, os.SEEK_HOLE)
            found += max(0, min(hole, end) - start)
            start = hole
    return found // PAGE


def hugetlb_cached(fd, start, end):
    """Pages of [start, end) of a hugetlbfs file that have memory.

    hugetlbfs has no cachestat, SEEK_DATA finds data everywhere, and mincore
    looks only at the caller's page table.  But userfaultfd tells: with minor
    faults caught, UFFDIO_CONTINUE maps a page the file has, fails with EFAULT
    for one it has not, and allocates none.
    """
    size = os.fstat(fd).st_blksize
    low, high = start - start % size, end + -end % size
    with contextlib.ExitStack() as stack:
        dev = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, dev)
        uffd = fcntl.ioctl(dev, USERFAULTFD_IOC_NEW, os.O_CLOEXEC)
        stack.callback(os.close, uffd)
        # No reservation: it would take huge pages from their owner.
        noreserve = getattr(mmap, "MAP_NORESERVE", 0x4000)
        area = stack.enter_context(mmap.mmap(
            fd, high - low, mmap.MAP_SHARED | noreserve, offset=low))
        base = address_of(area) - low
        fcntl.ioctl(uffd, UFFDIO_API,
                    struct.pack("3Q", UFFD_API, MINOR_HUGETLBFS, 0))
        fcntl.ioctl(uffd, UFFDIO_REGISTER,
                    struct.pack("4Q", base + low, high - low, MODE_MINOR, 0))
        held = 0
        for page in range(low, high, size):
            try:
                fcntl.ioctl(uffd, UFFDIO_CONTINUE,
                            struct.pack("4Q", base + page, size, 0, 0))
                held += min(end, page + size) - max(start, page)
            except OSError as e:
                if e.errno != errno.EFAULT:
                    raise
        return held // PAGE


def drain_lru():
    """Have the kernel finish its per-CPU batches of page list changes.

    MADV_FREE shows in a page's flags only when a batch of some 30 pages is
    full, and a page that some other CPU just touched cannot be paged out while
    it is in one: after an answer, what was touched before it can be.
    MADV_COLLAPSE first flushes the batches of all CPUs; on an area with
    nothing to collapse that is all it does before it fails.  (The area must
    have had a page once, hence the write.)
    """
    with mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area[0] = 1
        area.madvise(mmap.MADV_DONTNEED)
        with contextlib.suppress(OSError):
            area.madvise(MADV_COLLAPSE)


# --- A process's memory as the host kernel has it ---------------------------

class Vma(NamedTuple):
    start: int
    end: int
    prot: str
    offset: int         # of start in the file
    inode: tuple        # (device, number); number 0: anonymous memory
    name: str
    backing: str        # anon, memfd or file
    page_size: int
    flags: frozenset    # VmFlags


VMA_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+)"
                      r" ([0-9a-f]+):([0-9a-f]+) (\d+) *(.*)")


def backing_of(inode, path):
    """What a VMA is made of.

    A name behind /dev/zero or SYSV is shared memory too, and /anon_hugepage
    is what a mapping of anonymous huge pages pretends to map.
    """
    if not inode or path.startswith("/anon_hugepage"):
        return "anon"
    if re.match(r"/memfd:|/dev/zero|/SYSV", path):
        return "memfd"
    return "file"


def read_vmas(pid, low, high):
    """The VMAs of a process that touch [low, high), in order."""
    vmas, head, end, page_size = [], None, 0, PAGE
    with open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace") as f:
        for line in f:
            match = VMA_LINE.match(line)
            if match:
                head = match
                start, end = int(head[1], 16), int(head[2], 16)
                if start >= high:
                    break       # smaps walks the page table of each VMA
            elif line.startswith("KernelPageSize:"):
                page_size = int(line.split()[1]) << 10
            elif line.startswith("VmFlags:") and end > low:
                device = os.makedev(int(head[5], 16), int(head[6], 16))
                name = re.match(r"\[anon(?:_shmem)?:(.*)\]$", head[8])
                vmas.append(Vma(
                    start, end, head[3], int(head[4], 16),
                    (device, int(head[7])),
                    # A name may have spaces; a value in an answer may not.
                    re.sub(r"\s", "_", name[1]) if name else "-",
                    backing_of(int(head[7]), head[8]), page_size,
                    frozenset(line.split()[1:])))
    return vmas


# The kernel collects as many regions at a time as a page table has entries.
# Given a longer vector it carries on by itself, but leaves walk_end where the
# first such batch ended (up to Linux 7.2 at least): some would count twice.
VECTOR = 512


def regions(pagemap, start, end):
    """Yield (start, end, categories) of what is present or swapped."""
    vec = array.array("Q", bytes(24 * VECTOR))
    while start < end:
        arg = bytearray(struct.pack(
            "12Q", 96, 0, start, end, 0, vec.buffer_info()[0], VECTOR, 0,
            0, 0, IS_PRESENT | IS_SWAPPED,
            IS_FILE | IS_PRESENT | IS_SWAPPED | IS_ZERO | IS_HUGE))
        for i in range(fcntl.ioctl(pagemap, PAGEMAP_SCAN, arg)):
            yield vec[3 * i:3 * i + 3]
        walk_end = struct.unpack_from("Q", arg, 32)[0]
        if walk_end <= start:
            raise OracleError("page table scan does not advance")
        start = walk_end


def words(file, index, count):
    """Some of the 64 bit words that pagemap and kpageflags consist of."""
    data = os.pread(file.fileno(), count * 8, index * 8)
    if len(data) < count * 8:
        raise OracleError("memory is gone")
    return array.array("Q", data)


def open_proc(pid, name):
    return open(f"/proc/{pid}/{name}", "rb", buffering=0)


def open_file(pid, vma, mode):
    """Open the file that a VMA maps."""
    def paths():
        # This has the file even if no descriptor is left, but takes privilege.
        yield f"/proc/{pid}/map_files/{vma.start:x}-{vma.end:x}", True
        # These any process of the same user may open.
        for fd in os.listdir(f"/proc/{pid}/fd"):
            yield f"/proc/{pid}/fd/{fd}", False

    for path, exact in paths():
        with contextlib.suppress(OSError):
            st = os.stat(path)
            # Merely opening a device may act; a regular file is safe.
            if stat.S_ISREG(st.st_mode) and (
                    exact or (st.st_dev, st.st_ino) == vma.inode):
                return open(path, mode, buffering=0)
    raise OracleError("cannot open the file mapped at 0x%x" % vma.start)


def file_pages(pid, vma, gaps):
    """(resident, swapped) pages the file behind a VMA has for some gaps."""
    hugetlb = "ht" in vma.flags
    # A private hugetlb mapping has its own pages only in the page table.
    if not gaps or not vma.inode[1] or (hugetlb and vma.prot[3] == "p"):
        return 0, 0
    resident = swapped = 0
    with open_file(pid, vma, "r+b" if hugetlb else "rb") as file:
        fd = file.fileno()
        tmpfs = is_tmpfs(fd)            # others just drop what they evict
        for low, high in gaps:
            offset = vma.offset + low - vma.start
            if hugetlb:
                resident += hugetlb_cached(fd, offset, offset + high - low)
            else:
                cached, evicted = cachestat(fd, offset, high - low)
                resident += cached
                swapped += evicted if tmpfs else 0
    return resident, swapped


def count_pages(pid, pagemap, vma, start, end, total):
    """Count pages of part of a VMA; return its present anonymous stretches.

    A present page is resident whatever it is, but for the shared zero page.
    Where the page table has nothing, the file behind the VMA may hold memory
    still, and in case of tmpfs swap: swapping out a shmem page clears its page
    table entry, so neither PAGEMAP_SCAN nor pagemap ever show it.

    So a swap entry is an anonymous page's.  In a shared VMA it is something
    else (a userfaultfd marker, say), and with IS_FILE it is a page being
    migrated.  An anonymous page being migrated cannot be told from a swapped
    one; that lasts microseconds.
    """
    anonymous, gaps, at = [], [], start
    for low, high, kind in regions(pagemap, start, end):
        pages = (high - low) // PAGE
        if kind & IS_PRESENT:
            total["mapped"] += pages
            total["huge"] += pages if kind & IS_HUGE else 0
            total["zero" if kind & IS_ZERO else "resident"] += pages
            if not kind & (IS_ZERO | IS_FILE):
                total["anon"] += pages
                anonymous.append((low, high))
        elif vma.prot[3] == "p" and not kind & IS_FILE:
            total["swapped"] += pages
        else:
            continue
        if at < low:
            gaps.append((at, low))
        at = high
    if at < end:
        gaps.append((at, end))
    resident, swapped = file_pages(pid, vma, gaps)
    total["resident"] += resident
    total["swapped"] += swapped
    return anonymous


def count_frames(pagemap, stretches):
    """(ksm, lazyfree) pages among present anonymous ones; -1: not known.

    A page written again after MADV_FREE counts as lazyfree still: the kernel
    itself finds out only when it comes to reclaim the page.
    """
    ksm = lazyfree = 0
    if sum(high - low for low, high in stretches) > MAX_PFNS * PAGE:
        return -1, -1
    with contextlib.suppress(OSError), open_proc("", "kpageflags") as kpf:
        for low, high in stretches:
            for entry in words(pagemap, low // PAGE, (high - low) // PAGE):
                if not entry >> 63:     # no longer present
                    continue
                frame = entry & (1 << 55) - 1
                if not frame:           # not for us to know
                    return -1, -1
                flags = words(kpf, frame, 1)[0]
                ksm += bool(flags & KPF_KSM)
                # Hugetlb pages are never "swapbacked" but not lazyfree.
                lazyfree += (flags & (KPF_ANON | KPF_SWAPBACKED | KPF_HUGE)
                             == KPF_ANON)
        return ksm, lazyfree
    return -1, -1


def state(pid, ranges):
    """The answer for some ranges (address, length) of a process's memory."""
    drain_lru()
    # A page is in a range if any byte of it is.
    spans = [(a - a % PAGE, a + n + -(a + n) % PAGE) for a, n in ranges]
    vmas = read_vmas(pid, min(a for a, _ in spans), max(b for _, b in spans))
    total = dict.fromkeys(COUNTERS, 0)
    touched, anonymous = set(), []
    with open_proc(pid, "pagemap") as pagemap:
        for at, end in spans:
            for vma in vmas:
                while vma.start <= at < min(end, vma.end):
                    high = min(end, vma.end, at + STEP)
                    touched.add(vma)
                    for key, flag in COUNTERS.items():
                        if key == "pages" or flag in vma.flags:
                            total[key] += (high - at) // PAGE
                    anonymous += count_pages(pid, pagemap, vma, at, high,
                                             total)
                    # So many are enough to know that they are too many.
                    del anonymous[MAX_PFNS + 1:]
                    at = high
            if at < end:
                raise OracleError("not mapped at host address 0x%x" % at)
        total["ksm"], total["lazyfree"] = count_frames(pagemap, anonymous)
    total["vmas"] = len(touched)

    def common(values):
        return values.pop() if len(values) == 1 else "mixed"

    return " ".join(["ok"] + [f"{key}={n}" for key, n in total.items()] + [
        "prot=" + common({vma.prot for vma in touched}),
        "name=" + common({vma.name for vma in touched}),
        "backing=" + common({vma.backing for vma in touched}),
        "page_size=" + common({str(vma.page_size) for vma in touched}),
        "hva=%d" % ranges[0][0]])


def host():
    """The answer that tells what this host can do."""
    def attempt(probe, failed):
        try:
            return probe()
        except OSError:
            return failed

    def name():
        call("prctl", PR_SET_VMA,
             *map(ctypes.c_ulong, (PR_SET_VMA_ANON_NAME, at, PAGE)),
             ctypes.c_char_p(b"oracle"))
        return 1

    def scan():
        with open_proc("self", "pagemap") as pagemap:
            return len(list(regions(pagemap, at, at + PAGE)))

    def read(path):
        with open(path) as file:
            return file.read().strip()

    def hugetlb_free():
        """Pages of the default size that anybody may take."""
        numbers = dict(re.findall(r"HugePages_(\w+): *(\d+)",
                                  read("/proc/meminfo")))
        return int(numbers.get("Free", 0)) - int(numbers.get("Rsvd", 0))

    def flags():
        with open_proc("", "kpageflags") as kpageflags:
            return len(words(kpageflags, 0, 1))

    with mmap.mmap(-1, PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area[0] = 1
        at = address_of(area)
        return " ".join((
            "ok", f"page_size={PAGE}", "swap_kib=" + re.search(
                r"SwapFree: *(\d+)", read("/proc/meminfo"))[1],
            f"hugetlb_free={hugetlb_free()}",
            "ksm=" + attempt(lambda: read("/sys/kernel/mm/ksm/run"), "-1"),
            "anon_name=%d" % attempt(name, 0),
            "kpageflags=%d" % attempt(flags, 0),
            "pagemap_scan=%d" % attempt(scan, 0),
            "uptime_ms=%d" % (time.monotonic() * 1000)))


# --- QEMU: where guest memory lies in its address space ---------------------

def connect(path):
    """Connect to a unix socket that may not be there yet."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
            return sock
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class Qmp:
    """A QMP connection; the process at its other end is QEMU."""

    def __init__(self, path):
        self.sock = connect(path)
        self.sock.settimeout(QMP_SECONDS)
        self.pid = struct.unpack("3i", self.sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        self.partial = b""
        self.serial = 0
        self.command("qmp_capabilities")

    def receive(self):
        """Wait for input; return the messages that are complete."""
        data = self.sock.recv(1 << 16)
        if not data:
            raise Gone("QEMU closed its QMP socket")
        *lines, self.partial = (self.partial + data).split(b"\n")
        return [json.loads(line) for line in lines if line.strip()]

    def command(self, name, **arguments):
        self.serial += 1
        self.sock.sendall(json.dumps({
            "execute": name, "arguments": arguments,
            "id": self.serial}).encode() + b"\n")
        while True:
            # The greeting, events and belated answers have no or another id.
            for message in self.receive():
                if message.get("id") == self.serial:
                    if "return" not in message:
                        raise OracleError(f"QMP {name} failed")
                    return message["return"]

    def hmp(self, line):
        return self.command("human-monitor-command", **{"command-line": line})


class Block(NamedTuple):
    name: str
    size: int
    hva: int


class Flat(NamedTuple):
    start: int
    end: int
    kind: str
    name: str           # of the memory region
    offset: int         # of start in the memory region


# ram_block_format() in QEMU's system/physmem.c: name, page size, offset (in
# a space of QEMU's own), used and total size, address
BLOCK_LINE = re.compile(r"\s*(\S.*?)\s+[\d.e+]+ \w*B" +
                        r"\s+0x([0-9a-f]+)" * 4 + r"\s+r[ow]\s*")
# mtree_print_flatview() in QEMU's system/memory.c; KVM signs what it maps
FLAT_LINE = re.compile(r"\s+([0-9a-f]{16})-([0-9a-f]{16})"
                       r" \(prio -?\d+, (.+?)\):"
                       r" (.*?)(?: @([0-9a-f]{16}))?(?: KVM)*\s*")


def parse_ramblock(text):
    """`info ramblock`: the blocks of memory QEMU has for its guest."""
    found = filter(None, map(BLOCK_LINE.fullmatch, text.splitlines()))
    return [Block(m[1], int(m[4], 16), int(m[5], 16)) for m in found]


def parse_flatview(text):
    """`info mtree -f`: what is where in guest-physical space, in order."""
    for view in text.replace("\r", "").split("FlatView #"):
        if '\n AS "memory", ' in view:
            found = filter(None, map(FLAT_LINE.fullmatch, view.splitlines()))
            return [Flat(int(m[1], 16), int(m[2], 16) + 1, m[3], m[4],
                         int(m[5] or "0", 16)) for m in found]
    raise OracleError("no flat view of system memory")


def find_block(blocks, name):
    """The RAM block of a memory region.

    A block has its region's name, with the path of the device that owns it in
    front if any: region "vga.vram", block "0000:00:01.0/vga.vram".  Hence the
    same name wins, else the only path that ends in it, either way round.
    """
    for found in ([b for b in blocks if b.name == name],
                  [b for b in blocks if b.name.endswith("/" + name)],
                  [b for b in blocks if name.endswith("/" + b.name)]):
        if len(found) > 1:
            raise OracleError("ambiguous RAM block name")
        if found:
            return found[0]
    raise OracleError("no RAM block for a memory region")


def translate(blocks, flats, gpa, length):
    """The host ranges (address, length) of a guest-physical range."""
    ranges, at, end = [], gpa, gpa + length
    for flat in flats:
        if at < end and flat.start <= at < flat.end and flat.kind == "ram":
            block = find_block(blocks, flat.name)
            offset = flat.offset + at - flat.start
            size = min(end, flat.end) - at
            if offset + size > block.size:
                raise OracleError("memory region exceeds its RAM block")
            ranges.append((block.hva + offset, size))
            at += size
    if at < end:
        raise OracleError("not RAM at 0x%x" % at)
    return ranges


def guest_state(qmp, gpa, length):
    # Asked anew each time: memory may have been plugged or unplugged.
    blocks = parse_ramblock(qmp.hmp("info ramblock"))
    flats = parse_flatview(qmp.hmp("info mtree -f"))
    return state(qmp.pid, translate(blocks, flats, gpa, length))


# --- Requests ---------------------------------------------------------------

def number(text):
    if not re.fullmatch(r"0x[0-9a-f]{1,16}|[0-9]{1,20}", text.lower()):
        raise OracleError("bad number")
    return int(text, 16 if text[1:2] in ("x", "X") else 10)


def answer(line, state_of=None):
    """The answer to one request line, whatever is in it."""
    try:
        command, *args = line.decode("ascii").split() or [""]
        if command == "state" and len(args) == 2:
            start, length = map(number, args)
            if not 0 < length <= MAX_LENGTH or start + length > 1 << 64:
                raise OracleError("bad range")
            return state_of(start, length)
        if command in ("host", "ping") and not args:
            return host() if command == "host" else "ok"
        raise OracleError("bad request")
    except OracleError as e:
        return f"error {e}"
    except (Gone, ConnectionError):
        raise
    except Exception as e:      # whatever changed while we looked at it
        why = os.strerror(e.errno) if getattr(e, "errno", None) else "failed"
        return f"error {type(e).__name__}: {why}"


def serve(qmp, port, log):
    """Answer what arrives on the port until QEMU closes a socket."""
    state_of = functools.partial(guest_state, qmp)
    partial = b""
    while True:
        ready, _, _ = select.select([qmp.sock, port], [], [])
        if qmp.sock in ready:
            qmp.receive()               # events, or the end
        if port not in ready:
            continue
        data = port.recv(4096)
        if not data:
            raise Gone("QEMU closed the port")
        *lines, partial = (partial + data).split(b"\n")
        # One byte too many is enough to know later that the line is too long.
        partial = partial[:MAX_LINE + 1]
        for line in lines:
            reply = (answer(line, state_of) if len(line) <= MAX_LINE
                     else "error line too long")
            if log and log.tell() < MAX_LOG:
                log.write(f"{time.monotonic():.3f} {line!r} {reply}\n")
            port.sendall(reply.encode("ascii", "replace") + b"\n")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    qmp_help = "QMP socket of a running QEMU"
    sub = commands.add_parser("serve", help="answer a guest until QEMU ends")
    sub.add_argument("--qmp", metavar="SOCK", required=True, help=qmp_help)
    sub.add_argument("--port", metavar="SOCK", required=True,
                     help="virtio-serial port's socket (server=on,wait=off)")
    sub.add_argument("--log", metavar="FILE", help="record requests, answers")
    sub = commands.add_parser("state", help="one answer about some memory")
    where = sub.add_mutually_exclusive_group(required=True)
    where.add_argument("--pid", type=int, help="any process; use with --hva")
    where.add_argument("--qmp", metavar="SOCK", help=qmp_help + "; --gpa")
    where = sub.add_mutually_exclusive_group(required=True)
    where.add_argument("--hva", metavar="ADDR", help="address in the process")
    where.add_argument("--gpa", metavar="ADDR", help="guest-physical address")
    sub.add_argument("--length", metavar="LEN", required=True, help="in bytes")
    commands.add_parser("host", help="one answer about what this host can do")
    args = parser.parse_args()

    try:
        if args.command == "serve":
            log = args.log and open(args.log, "a", buffering=1)
            port, qmp = connect(args.port), Qmp(args.qmp)
            with contextlib.suppress(Gone, ConnectionError):
                serve(qmp, port, log)
            return 0
        if args.command == "host":
            reply = answer(b"host")
        elif (args.pid is None) != (args.hva is None):
            parser.error("--pid goes with --hva, --qmp with --gpa")
        elif args.qmp:
            reply = answer(f"state {args.gpa} {args.length}".encode(),
                           functools.partial(guest_state, Qmp(args.qmp)))
        else:
            reply = answer(f"state {args.hva} {args.length}".encode(),
                           lambda at, n: state(args.pid, [(at, n)]))
    except (Gone, OracleError, OSError) as e:
        sys.exit(f"oracle: {e}")
    print(reply)
    return int(not reply.startswith("ok"))


if __name__ == "__main__":
    sys.exit(main())
