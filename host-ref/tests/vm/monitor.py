#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What query-pvmemctl and "info pvmemctl" say is what the guest did, and what the
host kernel has."""

import sys

import vm
from vm import PAGE, Vm

PROT = {"mprotect-none": "---", "mprotect-r": "r--"}


def assert_agrees(guest):
    """The ledger and smaps, in both directions, for all of guest RAM."""
    info = guest.info()
    said = {}
    for entry in info["ledger"]:
        for offset in range(entry["offset"], entry["offset"] + entry["length"],
                            PAGE):
            said.setdefault((entry["block"], offset), set()).add(
                (entry["function"], entry["arg"]))
    usual = max(((end - start, what) for parts in guest.attributes().values()
                 for start, end, what in parts), key=lambda p: p[0])[1]
    found = {}
    for block, parts in guest.attributes().items():
        for start, end, (prot, name, flags) in parts:
            what = {(f, 0) for f, p in PROT.items() if p == prot[:3]}
            if name != "-":
                what.add(("set-vma-anon-name", int(name.rsplit("-", 1)[1])))
            for flag, function, on in (("lo", "mlock", True),
                                       ("dd", "dontdump", True),
                                       ("mg", "unmergeable", False)):
                if (flag in flags) == on and (flag in usual[2]) != on:
                    what.add((function, 0))
            for offset in range(start, end, PAGE) if what else ():
                found[block, offset] = what
    assert said == found, f"said {said}, found {found}"
    locked = sum(PAGE for what in found.values() if ("mlock", 0) in what)
    assert info["locked"] == locked, info["locked"]
    assert info["ranges"] <= info["max-ranges"]


def function(guest, name):
    for entry in guest.info()["devices"][0]["functions"]:
        if entry["name"] == name:
            return entry["calls"], entry["failed"], entry["bytes"]
    return 0, 0, 0


def counters(tap, protocol):
    with Vm(device=("allow=all", f"x-protocol={protocol}")) as guest:
        guest.require_protocol(protocol)
        area = guest.area(64 * PAGE)
        device, = guest.info()["devices"]
        with tap.test(f"{protocol}: connections"):
            assert device["state"] == "ready" and device["ignored"] == 0, device
            assert device["connections"] == 2, device
        with tap.test(f"{protocol}: counters"):
            before = function(guest, "dontneed")
            for page in range(5):
                guest.agent.do(vm.DONTNEED, area.gpa(page))
            assert guest.agent.call(vm.DONTNEED, 3 << 30) != (0, 0)
            after = function(guest, "dontneed")
            assert [b - a for a, b in zip(before, after)] == [
                6, 1, 5 * PAGE], (before, after)
            assert not any(guest.is_backed(area.gpa(p)) for p in range(5))
            assert all(guest.is_backed(area.gpa(p)) for p in range(5, 9))
        with tap.test(f"{protocol}: ledger"):
            for step, (code, arg) in enumerate(vm.SETTINGS):
                for page in range(8 + step, 40, 7):
                    guest.agent.do(code, area.gpa(page), arg=arg)
                assert_agrees(guest)
            for page in range(8, 40, 3):
                guest.agent.do(vm.PROTECT_RW, area.gpa(page))
                guest.agent.do(vm.MUNLOCK, area.gpa(page))
            assert_agrees(guest)
        with tap.test(f"{protocol}: info pvmemctl"):
            said = guest.qmp.hmp("info pvmemctl")
            info = guest.info()
            assert f"protocol {protocol}, ready, 2 connections" in said, said
            assert said.count("+0x") == len(info["ledger"]), said
            assert f"{info['ranges']} of {info['max-ranges']} borders" in said
        with tap.test(f"{protocol}: the guest ends in order"):
            guest.power_off()


def counters_1_1(tap):
    counters(tap, "1.1")


def counters_1_0(tap):
    counters(tap, "1.0")


if __name__ == "__main__":
    sys.exit(vm.main(counters_1_1, counters_1_0))
