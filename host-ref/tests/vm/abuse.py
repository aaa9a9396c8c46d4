#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Eight CPUs ask for everything, sensible or not, while the driver comes and goes.

Usage: abuse.py [SECONDS]

QEMU lives, its memory and its mappings stay bounded, the guest's kernel has
nothing to complain of.
"""

import re
import sys
import time

import vm
from vm import MIB, PAGE, Vm
from reset import DRIVER

SECONDS = int(sys.argv.pop(1)) if sys.argv[1:] and sys.argv[1].isdigit() else 60
CPUS = 8
# The device allocates nothing for a call. All in all 1.4 MiB have been seen, and 3.2 with
# 3.4 million calls, 0.4 of it what TCG takes for eight CPUs that just run programs; to
# leak 16 bytes with each answer takes 12 MiB of two million calls.
MAY_GROW = 8 * MIB


def own_memory(guest):
    """Anonymous memory of QEMU in bytes, less guest RAM and translated code."""
    ram = [(b.hva, b.hva + b.size) for b in guest.blocks()]
    total, ours = 0, False
    with open(f"/proc/{guest.pid}/smaps", encoding="ascii", errors="replace") as f:
        for line in f:
            match = vm.oracle.VMA_LINE.match(line)
            if match:
                start = int(match[1], 16)
                ours = ("x" not in match[3] and
                        not any(low <= start < high for low, high in ram))
            elif ours and line.startswith("Anonymous:"):
                total += int(line.split()[1]) * 1024
    return total


# Doorbells and commands that no driver rings
COMMANDS = [0, 1, 0x7fffffff, 0x80000008, 0x80000fff, 0xffffffff, 0x060FE6D2,
            0x0E359539, 0x0CA8D227, 0x030F5DA0, 0x03CF5196, 0x01FBA249]


def abuse(tap):
    with Vm(device=("allow=all", "on-guard=log"), smp=CPUS) as guest:
        device = guest.agent.run(f"cd {DRIVER} && echo 0000:*").split()[0]
        mappings, memory = guest.mappings(), own_memory(guest)
        with tap.test(f"{SECONDS} s of abuse"):
            guest.agent.ask(f"abuse {CPUS}")
            guest.agent.run(
                f"cd {DRIVER} && (while [ ! -e /tmp/stop ]; do"
                f" echo {device} >unbind; sleep 0.2; echo {device} >bind;"
                " sleep 1; done; touch /tmp/stopped) >/dev/null 2>&1 &")
            start, held, most = time.monotonic(), 0, 0
            poke = 0
            while time.monotonic() < start + SECONDS:
                time.sleep(0.5)
                guest.agent.ask(
                    f"poke /sys/bus/pci/devices/{device}/resource0"
                    f" {8 if poke % 5 else poke % 4 * 4} {COMMANDS[poke % 12]}")
                poke += 1
                info = guest.info()
                assert info["ranges"] <= info["max-ranges"], info["ranges"]
                held = max(held, own_memory(guest))
                most = max(most, guest.mappings())
            grown = held - memory
            calls = int(guest.agent.ask("rounds")[0])
            print(f"# {calls} calls; {grown // 1024} KiB more memory,"
                  f" {most - mappings} more mappings at most")
            assert calls > 1000, calls
            assert grown < MAY_GROW, f"{grown} bytes"
            assert most <= mappings + info["max-ranges"], most
        with tap.test("the guest comes out of it"):
            said = guest.agent.ask("unload")
            print(f"# rounds, failed, busy, bad, pages: {said}")
            assert said[3] == "0", said
            guest.agent.run("touch /tmp/stop")
            vm.wait_until(lambda: not guest.agent.sh("test -e /tmp/stopped")[0],
                          "the driver is left alone")
            # It gave up if it was bound while others rang
            guest.agent.run(f"cd {DRIVER} && echo {device} >unbind && echo {device} >bind")
            area = guest.area(PAGE)
            guest.agent.do(vm.PROTECT_R, area.gpa(0))
            assert guest.page(area.gpa(0))[0] == "r--"
            guest.agent.run(f"echo {device} >{DRIVER}/unbind")
            info = guest.info()
            assert not info["ledger"] and not info["locked"], info
            assert not info["guard-hits"], info
        with tap.test("QEMU said little"):
            lines = guest.qemu_log().splitlines()
            assert len(lines) < 50, lines[:20]
        with tap.test("the guest's kernel has no complaint"):
            said = re.findall(r"pvmemctl.*", guest.console())
            print("\n".join(f"# {line}" for line in said[:5]))
            guest.power_off()


if __name__ == "__main__":
    sys.exit(vm.main(abuse))
