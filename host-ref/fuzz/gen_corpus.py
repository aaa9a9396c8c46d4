#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the seeds of the fuzzer: programs in the encoding of fuzz_core.c.

Usage: gen_corpus.py DIR

Files that are there and not made here (crash-*: what a fuzzer once found) stay.
"""

import os
import struct
import sys

(ASK, VECTOR, STRIDE, CONNECT, COMMAND, REGISTER, WRITE, READ, GUEST_WRITE, RING,
 OTHER, EVENT, FAIL, PLUG, FORGET, RESET, LIFT, GUARD, RESTORE, RESTORE_CORE, UNDO,
 CLOCK, INTERRUPT, POLICY) = range(24)
(LOW, LEFT, RIGHT, SHARED, FILE_PRIVATE, FILE_SHARED, HUGE_PRIVATE, HUGE_SHARED,
 LOCKED, MERGE, TOP, BIG, ROM, HOLE, RAW) = range(15)
(UNPLUG, REPLUG, EVENT_WRITE, TOUCH, EVENT_CLOCK, EVENT_INTERRUPT, BUSY, EVENT_LIFT,
 REAPPLY, COLLECT, OTHER_RESET, UNDO_RANGE) = range(12)

CODES = ["info", "dontneed", "remove", "free", "pageout", "dontdump", "name", "mlock",
         "munlock", "mprotect-none", "mprotect-r", "mprotect-w", "mprotect-rw",
         "mergeable", "unmergeable", "query", "zero", "populate", "hugepage",
         "nohugepage", "dodump", "cold", "vector"]
CODE = {name: i for i, name in enumerate(CODES)}

SMALL = (LEFT, SHARED, FILE_PRIVATE, FILE_SHARED, HUGE_PRIVATE, HUGE_SHARED, LOCKED,
         MERGE)
TABLE = bytes((LOW, 2, 0))


def start(how=0, deny=0, rate=0, lock=0, pieces=0):
    return bytes((how, deny, rate, lock, pieces))


def ask(code, region, page=0, length=2, arg=0, tweak=0):
    return bytes((ASK, 0, CODE[code], region, page, tweak, length, arg))


def vector(code, *ranges):
    said = bytes((VECTOR, 0, CODE[code])) + TABLE + bytes((len(ranges),))
    return said + b"".join(bytes((r, page, 0, length)) for r, page, length in ranges)


def stride(code, region, step, pages, number):
    return (bytes((STRIDE, 0, CODE[code])) + TABLE + bytes((region, 0, 0)) +
            bytes((step | (pages - 1) << 3, number - 1)))


def event(after, what, region=0, page=0, value=0):
    return bytes((EVENT, after - 1, what, region, page, 0, value))


CONNECTED = start() + bytes((CONNECT, 1))


def everywhere(*codes):
    """Each code on each backing: half a region, all of two, one huge page"""
    said = CONNECTED
    for code in codes:
        for region in SMALL:
            said += ask(code, region, 0, 4, 5)
        said += ask(code, LEFT, 4, 8, 5)
    return said


def seeds():
    pairs = (("info", "query"), ("mlock", "munlock"), ("mprotect-w", "mprotect-rw"),
             ("mergeable", "unmergeable"), ("dontdump", "dodump"),
             ("hugepage", "nohugepage"), ("pageout", "cold"))
    made = {"-".join(pair): everywhere(*pair) for pair in pairs}
    for code in set(CODES) - {"vector"} - set(sum(pairs, ())):
        made[code] = everywhere(code)
    made["minor-0"] = start(1) + bytes((CONNECT, 1)) + b"".join(
        ask(code, region, 1, 2, 3)
        for code in CODES for region in (LEFT, SHARED))
    made["vector-one-call"] = CONNECTED + vector(
        "dontneed", (LEFT, 1, 1), (LEFT, 4, 2), (RIGHT, 0, 3), (MERGE, 1, 1)) + stride(
        "zero", SHARED, 2, 1, 4) + vector("cold", (LEFT, 0, 8), (SHARED, 0, 2))
    made["vector-mixed"] = CONNECTED + vector(
        "zero", (LEFT, 0, 2), (FILE_PRIVATE, 1, 2), (SHARED, 1, 3), (HUGE_PRIVATE, 2, 2),
        (LOCKED, 3, 1), (MERGE, 0, 1)) + vector("mprotect-r", (LEFT, 0, 1), (ROM, 0, 1))
    made["ledger-full"] = start(0x10) + bytes((CONNECT, 1)) + stride(
        "mprotect-none", LEFT, 2, 1, 8) + stride("mprotect-rw", LEFT, 1, 1, 16) + ask(
        "dontdump", LEFT, 0, 8) + ask("dodump", LEFT, 3, 1) + stride(
        "mlock", SHARED, 2, 1, 4)
    made["locked-limit"] = start(lock=4) + bytes((CONNECT, 1)) + ask(
        "mlock", LEFT, 0, 3) + ask("mlock", LEFT, 2, 3) + ask("munlock", LEFT, 1, 1)
    made["ranges-that-wrap"] = CONNECTED + b"".join(
        ask("dontneed", region, 4, length)
        for region in (TOP, BIG, HOLE, ROM) for length in range(16, 31))
    made["chunks"] = CONNECTED + ask("zero", BIG, 0, 30) + ask(
        "dontdump", BIG, 0, 30) + ask("populate", BIG, 0, 21) + vector(
        "remove", (BIG, 0, 19), (BIG, 120, 20)) + vector(
        "zero", *((BIG, 0, 30),) * 8)
    made["rate-limit"] = start(rate=1) + bytes((CONNECT, 1)) + ask(
        "populate", LEFT, 0, 8) + ask("populate", LEFT, 0, 8) + bytes(
        (CLOCK, 255)) + ask("populate", LEFT, 0, 1)
    made["policy-denies"] = start(deny=128) + bytes((CONNECT, 1)) + ask(
        "mlock", LEFT) + vector("mergeable", (LEFT, 0, 1)) + bytes(
        (POLICY, 9)) + b"free:zero"
    made["hugetlb-kept"] = start(2) + bytes((CONNECT, 1)) + b"".join(
        ask(code, region, 0, 2) for code in ("dontneed", "remove", "zero")
        for region in (HUGE_PRIVATE, HUGE_SHARED))
    made["commands"] = start() + b"".join(
        bytes((COMMAND, c)) for c in (2, 0, 1, 2, 6, 3, 4, 5)) + bytes(
        (WRITE, 0)) + struct.pack("<Q", 4096) + bytes((WRITE, 0x14)) + bytes(
        8) + bytes((WRITE, 0x18)) + bytes(8) + b"".join(
        bytes((READ, i)) for i in (0x40, 0x48, 0x64, 0x8f, 0x21))
    made["buffers"] = start() + bytes((COMMAND, 0, REGISTER, TOP, 8, 0xf0)) + bytes(
        (COMMAND, 0, REGISTER, LEFT, 8, 0xf0, REGISTER, ROM, 0, 0, COMMAND, 0,
         REGISTER, LEFT, 8, 0xf0, COMMAND, 2)) + ask("mprotect-r", LEFT, 7, 1) + ask(
        "dontneed", LEFT, 7, 2) + bytes((RING, 3, RING, 255)) + bytes(8)
    made["two-devices"] = start(0x40) + bytes((CONNECT, 1, OTHER, CONNECT, 2)) + ask(
        "dontdump", LEFT, 0, 4) + bytes((OTHER,)) + ask(
        "dontdump", LEFT, 2, 4) + bytes((RESET, OTHER)) + ask(
        "mlock", LEFT, 0, 4) + event(2, OTHER_RESET) + ask("mprotect-r", LEFT, 1, 1)
    made["unplug"] = CONNECTED + ask("mprotect-none", LEFT, 0, 4) + bytes(
        (PLUG, LEFT)) + ask("zero", LEFT) + bytes((PLUG, 128 | LEFT)) + event(
        3, UNPLUG, value=RIGHT) + ask("dontneed", LEFT, 4, 8) + event(
        4, UNPLUG, value=LOW) + ask("free", LEFT)
    made["forget"] = CONNECTED + ask("mprotect-none", LEFT, 2, 10) + bytes(
        (FORGET, LEFT)) + ask("mlock", SHARED, 1, 3) + bytes((FORGET, SHARED))
    made["guard-hits"] = CONNECTED + ask("mprotect-none", LEFT, 0, 8) + bytes(
        (GUARD, 0, LEFT, 3, 0, GUARD, 1, LEFT, 0, 0)) + ask(
        "mprotect-r", HUGE_SHARED, 0, 4) + bytes(
        (GUARD, 0, HUGE_SHARED, 1, 0)) + ask("mprotect-r", HUGE_SHARED, 0, 4) + bytes(
        (GUARD, 2, LEFT, 0, 0, GUARD, 3, LEFT, 0, 0))
    made["guard-overrun"] = CONNECTED + ask("mprotect-none", LEFT, 0, 6) + bytes(
        (FAIL, 0, 0, GUARD, 0, LEFT, 3, 0, GUARD, 1, LEFT, 0, 0)) + ask(
        "mprotect-r", LEFT, 2, 12) + bytes((FAIL, 0, 0, GUARD, 0, LEFT, 3, 0))
    made["guard-in-request"] = CONNECTED + ask("mprotect-none", LEFT, 0, 8) + event(
        2, TOUCH, LEFT, 2) + ask("mprotect-r", LEFT, 0, 8) + ask(
        "mprotect-none", LOW, 2, 1) + vector("zero", (LEFT, 0, 1))
    made["lift"] = CONNECTED + ask("mprotect-none", LEFT, 1, 3) + bytes((LIFT, 0)) + ask(
        "mprotect-none", LEFT, 0, 2) + ask("mprotect-rw", LEFT, 2, 1) + bytes(
        (LIFT, 0, LIFT, 1, LIFT, 1)) + event(3, EVENT_LIFT) + ask(
        "mprotect-r", LEFT, 0, 8)
    made["restore"] = start() + bytes((RESTORE, CODE["mprotect-r"], LEFT, 1, 0, 2, 0)) + \
        bytes((RESTORE, CODE["mlock"], LOCKED, 1, 0, 2, 0)) + \
        bytes((RESTORE, CODE["zero"], LEFT, 1, 0, 2, 0)) + \
        bytes((RESTORE_CORE, 2, 2)) + ask("info", LEFT) + bytes(
        (RESTORE_CORE, 255, 2, RESTORE_CORE, 2, 4))
    made["failures"] = CONNECTED + b"".join(
        bytes((FAIL, how, err)) + ask(code, LEFT, 1, 4) for how, err, code in (
            (0x10, 0, "mprotect-none"), (0, 1, "mlock"), (0, 2, "zero"),
            (0x10, 1, "dontneed"), (0x20, 3, "zero"))) + bytes(
        (FAIL, 0x11, 0)) + stride("dontneed", LEFT, 2, 1, 6) + bytes((FAIL, 0, 0, RESET))
    made["busy-interrupted"] = start(0, pieces=2) + bytes((CONNECT, 1, INTERRUPT, 2)) + \
        ask("zero", LEFT, 0, 4) + bytes((INTERRUPT, 1)) + ask(
        "mlock", LEFT, 0, 8) + vector("mprotect-r", (LEFT, 0, 8), (RIGHT, 0, 8)) + ask(
        "zero", BIG, 0, 30)
    made["table-changes"] = CONNECTED + event(2, EVENT_WRITE, LOW, 2, 3) + vector(
        "dontneed", (LEFT, 0, 1), (LEFT, 2, 1)) + bytes((PLUG, LOW)) + ask("info", LEFT)
    made["no-callbacks"] = start(0x0c, pieces=3) + bytes((CONNECT, 1)) + ask(
        "zero", LEFT, 0, 16) + ask("dontneed", SHARED, 0, 9) + bytes(
        (UNDO, LEFT, UNDO, 128))
    # What was found
    made["found-locked-bytes"] = CONNECTED + ask("mlock", LEFT, 0, 2) + ask(
        "mlock", LEFT, 2, 2)
    made["found-two-mappings"] = CONNECTED + ask("mprotect-none", LEFT, 4, 8) + bytes(
        (FORGET, LEFT))
    made["found-unknown-to-kernel"] = CONNECTED + ask("name", LEFT, 0, 2, 5) + bytes(
        (RESET,)) + start(1) + bytes((CONNECT, 1)) + ask("name", SHARED, 0, 2, 5)
    made["found-lift-fails"] = CONNECTED + ask("mprotect-none", LEFT, 1, 4) + bytes(
        (FAIL, 0, 0, LIFT, 0, RESET))
    return made


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, said in seeds().items():
        assert len(said) < 512, name
        with open(os.path.join(sys.argv[1], name), "wb") as file:
            file.write(said)


if __name__ == "__main__":
    main()
