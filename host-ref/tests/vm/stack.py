#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel stacks of the pool: what ends a guest, what outlives one, who may not use it."""

import sys

import reset
import vm
from vm import MIB, Vm, wait_until

FIGURES = "/sys/kernel/mm/pvmemctl/stack/"
DRIVE = "/sys/kernel/debug/stack_pool_test/"


def boot(*options, **more):
    return Vm("--kernel", "distro", *options, consumers=True, **more)


def figure(guest, name):
    return int(guest.agent.run(f"cat {FIGURES}{name}"))


def wait_active(guest):
    wait_until(lambda: figure(guest, "active") and figure(guest, "idle"), "the pool is in use")


def go_deep(guest, depth):
    """A task uses so many bytes of its stack."""
    guest.agent.run(f"for i in 1 2 3 4 5 6 7 8; do echo {depth} >{DRIVE}deep; done")


def assert_clean(guest):
    """No task has on its stack what another left there."""
    left = guest.agent.run(f"for i in $(seq 300); do cat {DRIVE}left; done")
    assert set(left.split()) == {"0"}, left


def dies(guest, command, complaint):
    """The guest ends with that complaint when a thread of the pool runs the command."""
    wait_active(guest)
    taken = figure(guest, "taken")
    # More at once than CPUs keep stacks for, be they the pool's or older than it
    guest.agent.sh("for i in $(seq 40); do sleep 1 & done; wait")
    assert figure(guest, "taken") > taken, "no thread has a stack of the pool"
    guest.agent.send("sh " + command)
    assert guest.process.wait(60) == 70, guest.said()
    assert complaint in guest.console(), guest.said()


def end_written(tap):
    for value in (0, 1):
        with tap.test(f"0x{value:x} at the end of a stack is found"), boot() as guest:
            dies(guest, f"echo {value} >{DRIVE}end", "corrupted stack end detected")
    # Of a thread that had the whole stack the scheduler has seen as much, and left its magic
    with tap.test("a zero at the end of a stack that was deep is found"), boot() as guest:
        dies(guest, f"echo 13000 >{DRIVE}deep; sleep 1; echo 0 >{DRIVE}end",
             "corrupted stack end detected")


def overflow(tap):
    with tap.test("a stack that overflows hits its guard page"), boot() as guest:
        dies(guest, f"echo 30000 >{DRIVE}deep", "stack guard page was hit")


def deep_is_right(tap):
    with tap.test("the last page of a stack may be used"), boot() as guest:
        wait_active(guest)
        for depth in (5000, 9000, 13000, 15000):
            go_deep(guest, depth)
        # Stacks come back after a grace period
        wait_until(lambda: int(guest.agent.run(f"cat {FIGURES}depth").split()[4]),
                   "one comes back of which all was used")
        guest.power_off()


def refusals(tap):
    for name, options in (("without ZERO", {"device": ["allow=dontneed:nohugepage:hugepage"]}),
                          ("of protocol 1.0", {"device": ["x-protocol=1.0"]}),
                          ("that lies to a probe", {"device": ["x-lie=1"],
                                                    "append": "pvmemctl.stack=probe"})):
        with tap.test(f"the pool is not used on a host {name}"), boot(**options) as guest:
            guest.agent.run("sleep 1")
            assert not figure(guest, "active")
            assert not figure(guest, "grown")
            guest.power_off()
    for backing, active in (("anon", 1), ("memfd", 0)):
        with tap.test(f"pvmemctl.stack=probe on 1.0 looks whether {backing} is zeroed"), \
             boot("--backing", backing, device=["x-protocol=1.0"],
                  append="pvmemctl.stack=probe") as guest:
            guest.agent.run("sleep 1")
            assert figure(guest, "active") == active
            guest.power_off()
    with tap.test("pvmemctl.stack=off cannot be undone"), \
         boot(append="pvmemctl.stack=off") as guest:
        guest.agent.run("sleep 1")
        assert not figure(guest, "active")
        status, _ = guest.agent.sh(f"echo 1 >{FIGURES}enabled")
        assert status
        guest.power_off()


def use_deep(guest):
    """Of many stacks all but little is written to, and asked for; and what is left then."""
    wait_active(guest)
    guest.agent.run(f"for i in $(seq 60); do (echo 12800 >{DRIVE}deep; sleep 1) & done; wait")
    wait_until(lambda: not figure(guest, "deep") and figure(guest, "released"), "all is clean")
    left = guest.agent.run(f"for i in $(seq 60); do (cat {DRIVE}left; sleep 1) & done; wait")
    return left.split()


def untrue(tap):
    with tap.test("stacks are clean on a host that refuses every third range"), \
         boot(device=["x-refuse=3"]) as guest:
        left = use_deep(guest)
        assert len(left) == 60 and set(left) == {"0"}, left
        assert figure(guest, "refused")
        # Chunks too are refused, and asked for again
        wait_until(lambda: figure(guest, "idle") >= 20, "there are stacks")
        taken = figure(guest, "taken")
        guest.agent.run("for i in $(seq 20); do sleep 1 & done; wait")
        assert figure(guest, "taken") > taken
        guest.power_off()
    with tap.test("the same test sees what is left on a host that lies"), \
         boot(device=["x-lie=1"]) as guest:
        assert any(int(words) > 100 for words in use_deep(guest))
        assert not figure(guest, "refused")
        guest.power_off()


def hibernate(tap):
    """The image is made while a task uses its stack; that one has to be cleared."""
    def before(guest):
        wait_active(guest)
        go_deep(guest, 13000)

    with tap.test("stacks are right after hibernation"), \
         vm.hibernated(boot, before) as guest:
        wait_active(guest)
        assert_clean(guest)
        guest.power_off()


def small(guest):
    """Of so many bytes the host was asked not to back them by huge pages."""
    return sum(end - start for parts in guest.attributes().values()
               for start, end, what in parts if "nh" in what[2])


def suspend(tap):
    with tap.test("the pool goes on after suspend to RAM"), boot() as guest:
        wait_active(guest)
        go_deep(guest, 13000)
        guest.qmp.events.clear()
        guest.agent.run("(sleep 1; echo mem >/sys/power/state) >/dev/null 2>&1 &")
        guest.qmp.wait_event("SUSPEND")
        # The device forgot it all
        assert not small(guest), small(guest)
        guest.qmp.command("system_wakeup")
        guest.qmp.wait_event("WAKEUP")
        wait_active(guest)
        chunks = figure(guest, "chunks")
        wait_until(lambda: small(guest) >= chunks * 2 * MIB, "its chunks are small pages again")
        assert_clean(guest)
        # A machine of QEMU that has slept does not power off
        assert "Call Trace" not in guest.console(), guest.said()


def next_kernels(tap):
    """What one kernel asked for is not the next one's."""
    image = vm.BUILD / "out/distro/arch/x86/boot/bzImage"
    for name, when, go in (
            ("kexec", "now", None),
            ("a panic into a crash kernel", "crash",
             "(sleep 1; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &")):
        with tap.test(f"nothing of the pool is left after {name}"), boot(
                "--add", f"{image}:/boot/bzImage", mem=512,
                append="crashkernel=192M") as guest:
            guest.qmp.command("set-action", reboot="reset")
            wait_active(guest)
            assert small(guest) >= figure(guest, "chunks") * 2 * MIB
            words = reset.prepare_kexec(guest).split()
            reset.load_kernel(guest, when, " ".join(
                [word for word in words if "crashkernel" not in word] +
                ["maxcpus=1 reset_devices pvmemctl.stack=off"]))
            if go:
                guest.agent.run(go)
            guest.wait_boot()
            assert "reset_devices" in guest.agent.run("cat /proc/cmdline")
            assert not small(guest), small(guest)


if __name__ == "__main__":
    sys.exit(vm.main(deep_is_right, end_written, overflow, refusals, untrue, suspend,
                     hibernate, next_kernels))
