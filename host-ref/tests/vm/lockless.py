#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""CPUs ring at the same time: a long call of one keeps no other waiting."""

import re
import sys
import time

import vm
from vm import MIB, Vm

# As the device logs them: when a register is written, and when that is over
LINE = re.compile(r"pvmemctl_(enter|write) offset 0x8 value 0x8000000([01]) ")


def contained(log):
    """(calls of CPU 1 that began and ended while one of CPU 0 was under way,
    all of CPU 1)."""
    inside = [False, False]
    within = found = total = 0
    began = False
    for match in LINE.finditer(log):
        cpu, enters = int(match[2]), match[1] == "enter"
        if cpu == 0:
            # Only what ends before this does counts
            if not enters:
                found += within
            within = 0
        elif enters:
            began = inside[0]
        else:
            within += began and inside[0]
            total += 1
        inside[cpu] = enters
        if cpu == 0:
            began = False
    return found, total


def lockless(tap):
    with Vm("--append", "hugepages=40", mem=512, device=("allow=all",), qemu=(
            "-trace", "pvmemctl_enter", "-trace", "pvmemctl_write")) as guest:
        with tap.test("calls of one CPU complete during a call of another"):
            area = guest.area(64 * MIB, huge=True)
            assert len(area.gpas) == 64 * MIB // vm.PAGE
            size, = guest.agent.ask(f"overlap {area.id}")
            assert int(size) >= 8 * MIB, f"runs of {size} bytes only"

            def overlaps():
                time.sleep(1)
                found, total = contained(guest.qemu_log())
                return found if total > 100 and found > 10 else 0

            found = vm.wait_until(overlaps, "calls within another", 120)
            guest.agent.ask("unload")
            found, total = contained(guest.qemu_log())
            print(f"# {found} of {total} calls of CPU 1 were within one of CPU 0")
        with tap.test("the guest ends in order"):
            guest.power_off()


if __name__ == "__main__":
    sys.exit(vm.main(lockless))
