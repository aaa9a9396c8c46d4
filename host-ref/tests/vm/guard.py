#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Somebody touches what the guest has protected: the VM lives, and it is told."""

import contextlib
import re
import sys
import tempfile

import vm
from vm import MIB, PAGE, Skip, Vm

VALUE = 0x5117ab1e


def written(guest, gpa):
    return int.from_bytes(guest.read(gpa, 8), "little")


def stops(guest, code, access, tap, name):
    with tap.test(name):
        area = guest.area(4 * PAGE)
        area.fill(1)
        gpa = area.gpa(1)
        was = written(guest, gpa + 16)
        for page in range(3):
            guest.agent.do(code, area.gpa(page))
        guest.qmp.events.clear()
        guest.agent.send(access.format(id=area.id, offset=PAGE + 16, value=VALUE))
        event = guest.qmp.wait_event("PVMEMCTL_GUARD_HIT")
        assert event["gpa"] == gpa + 16, event
        assert (event["action"], event["hits"]) == ("stop", 1), event
        guest.qmp.wait_event("STOP")
        assert guest.qmp.command("query-status")["status"] == "paused"
        # Only this page's protection is gone
        usual = {vm.PROTECT_R: "r--", vm.PROTECT_NONE: "---"}[code]
        assert [guest.page(area.gpa(i))[0] for i in range(4)] == [
            usual, "rw-", usual, "rw-"]
        assert not [e for e in guest.info()["ledger"]
                    if e["gpa"] <= gpa < e["gpa"] + e["length"]]
        guest.qmp.command("cont")
        expected = VALUE if "write" in access else was
        answer = guest.agent.receive()
        assert answer == ["ok", hex(expected)], answer
        assert written(guest, gpa + 16) == expected
        for page in range(3):
            guest.agent.do(vm.PROTECT_RW, area.gpa(page))


def on_stop(tap):
    with Vm(device=("allow=all",)) as guest:
        stops(guest, vm.PROTECT_R, "write {id} {offset} {value}", tap,
              "a write to what may be read stops the VM")
        stops(guest, vm.PROTECT_NONE, "read {id} {offset}", tap,
              "a read of what may not be touched stops the VM")
        stops(guest, vm.PROTECT_NONE, "write {id} {offset} {value}", tap,
              "a write to what may not be touched stops the VM")
        with tap.test("the guest ends in order"):
            assert guest.info()["guard-hits"] == 3
            guest.power_off()


def on_log(tap):
    """Hundreds of hits: bounded messages, everything written."""
    with tap.test("hits are logged, not one by one"), \
            Vm(device=("allow=all", "on-guard=log")) as guest:
        area = guest.area(MIB)
        for gpa in area.gpas:
            guest.agent.do(vm.PROTECT_R, gpa)
        area.fill(5)
        assert area.check(5) == (0, 0)
        vm.wait_until(lambda: not guest.info()["ledger"], "all are lifted")
        assert all(guest.page(gpa)[0] == "rw-" for gpa in area.gpas[::16])
        lines = guest.qemu_log().count("\n")
        assert 1 <= lines < 30, guest.qemu_log()
        assert guest.info()["guard-hits"] >= 1
        guest.power_off()


def on_mce(tap):
    # Of AMD's only some recover, and find out minutes later
    with Vm(device=("allow=all", "on-guard=mce"), qemu=(
            "-cpu", "max,vendor=GenuineIntel,family=6,model=94")) as guest:
        with tap.test("a hit raises a machine check, and the guest lives"):
            area = guest.area(4 * PAGE)
            gpa = area.gpa(1)
            guest.agent.do(vm.PROTECT_R, gpa)
            answer = guest.agent.ask(f"write {area.id} {PAGE} {VALUE}")
            # The kernel may be faster to take the page away
            assert answer in (["killed"], [hex(VALUE)]), answer
            vm.wait_until(lambda: guest.info()["guard-hits"] == 1, "the hit")
            assert guest.page(gpa)[0] == "rw-"
            assert guest.agent.ask("ping") == guest.boot
            assert guest.qmp.command("query-status")["running"]
        with tap.test("the guest's kernel reports it"):
            if guest.agent.sh("test -d /sys/devices/system/machinecheck")[0]:
                raise Skip("this kernel knows no machine checks")
            vm.wait_until(lambda: "Machine check events logged" in
                          guest.console() or "mce: " in guest.console(),
                          "a line in the kernel's log", 30)
        with tap.test("the guest's kernel gives the page up"):
            if "Memory failure" not in guest.console():
                raise Skip("this kernel, or its CPU, does not recover")
            assert f"{gpa // PAGE:#x}: recovery action" in guest.console()


def disk_dma(tap):
    """A device that QEMU lets the kernel fill meets protected memory."""
    with tap.test("a disk's data goes into protected memory"):
        disk = vm.BUILD / "vm/disk"
        disk.parent.mkdir(exist_ok=True)
        disk.write_bytes(bytes([7]) * 4 * MIB)
        with Vm(device=("allow=all", "on-guard=log"), qemu=(
                "-drive", f"if=none,id=d,format=raw,file={disk},cache=none",
                "-device", "virtio-blk,drive=d,rerror=report,werror=report"
        )) as guest:
            if guest.agent.sh("test -e /dev/vda")[0]:
                raise Skip("this kernel has no virtio-blk")
            area = guest.area(8 * PAGE)
            area.fill(1)
            for code, page, way in (
                    (vm.PROTECT_R, 0, "r"), (vm.PROTECT_NONE, 1, "r"),
                    (vm.PROTECT_R, 2, "w"), (vm.PROTECT_NONE, 3, "w")):
                gpa = area.gpa(page)
                guest.agent.do(code, gpa)
                before = guest.read(gpa)
                result, error = map(int, guest.agent.ask(
                    f"file {way} /dev/vda {page * PAGE} {area.id} "
                    f"{page * PAGE} {PAGE}"))
                # Done, or refused with an error; nothing in between
                assert (result, error) == (PAGE, 0) or error == 5, (result, error)
                data = guest.read(gpa)
                print(f"# {way} with function {code}: errno {error}")
                if way == "r":
                    assert data == (before if error else bytes([7]) * PAGE)
                elif not error:
                    at = page * PAGE
                    assert disk.read_bytes()[at:at + PAGE] == data
                guest.agent.do(vm.PROTECT_RW, gpa)
            assert guest.qmp.command("query-status")["running"]
            result = guest.agent.ask(f"file r /dev/vda 0 {area.id} 0 {PAGE}")
            assert result == [str(PAGE), "0"], result
            guest.agent.ask("ping")
        disk.unlink()


class Gdb:
    """A debugger at QEMU's gdbstub: its remote protocol, on guest-physical memory."""

    def __init__(self, path):
        self.sock = vm.oracle.connect(path)
        self.sock.settimeout(vm.PATIENCE)
        self.input = self.sock.makefile("rb")
        assert self.ask("Qqemu.PhyMemMode:1") == "OK"

    def ask(self, request):
        self.sock.sendall(f"${request}#{sum(request.encode()) % 256:02x}".encode())
        assert self.input.read(1) == b"+", request
        answer = b""
        while not answer.endswith(b"#"):
            answer += self.input.read(1) or b"#"
        answer = answer.removeprefix(b"$")[:-1]
        assert int(self.input.read(2), 16) == sum(answer) % 256, answer
        self.sock.sendall(b"+")
        return answer.decode()

    def read(self, gpa, length):
        return bytes.fromhex(self.ask(f"m{gpa:x},{length:x}"))

    def write(self, gpa, data):
        assert self.ask(f"M{gpa:x},{len(data):x}:{data.hex()}") == "OK"

    def close(self):
        assert self.ask("D") == "OK"        # which continues the guest
        self.input.close()
        self.sock.close()


def gdbstub(tap):
    """A debugger gets what it wants, and each access is a hit."""
    with tempfile.TemporaryDirectory() as at, Vm(device=("allow=all",), qemu=(
            "-gdb", f"unix:{at}/gdb,server=on,wait=off")) as guest:
        area = guest.area(16 * PAGE)
        area.fill(3)
        before = [guest.read(gpa) for gpa in area.gpas]
        # Another page each time, between others that stay as they are
        for page, code, name, access in (
                (1, vm.PROTECT_NONE, "reads what may not be touched", "read"),
                (4, vm.PROTECT_NONE, "writes what may not be touched", "write"),
                (7, vm.PROTECT_R, "writes what may be read", "write"),
                (10, vm.PROTECT_R, "reads what may be read", None)):
            with tap.test(f"a debugger {name}"):
                gpa = area.gpa(page)
                usual = {vm.PROTECT_R: "r--", vm.PROTECT_NONE: "---"}[code]
                for i in page - 1, page, page + 1:
                    guest.agent.do(code, area.gpa(i))
                hits = guest.info()["guard-hits"]
                guest.qmp.events.clear()
                with contextlib.closing(Gdb(f"{at}/gdb")) as gdb:
                    if access == "write":
                        data = VALUE.to_bytes(8, "little")
                        gdb.write(gpa + 16, data)
                        before[page] = before[page][:16] + data + before[page][24:]
                    else:
                        # The second time, nothing is in its way
                        for _ in range(2):
                            assert gdb.read(gpa + 16, 64) == before[page][16:80]
                    if access:
                        event = guest.qmp.wait_event("PVMEMCTL_GUARD_HIT")
                        assert (event["gpa"], event["hits"]) == (gpa + 16, 1), event
                    assert guest.info()["guard-hits"] == hits + bool(access)
                    assert [guest.page(area.gpa(page + i))[0] for i in (-1, 0, 1)] == [
                        usual, "rw-" if access else usual, usual]
                    assert [guest.read(gpa) for gpa in area.gpas] == before
                assert guest.agent.ask("ping") == guest.boot
                for i in page - 1, page, page + 1:
                    guest.agent.do(vm.PROTECT_RW, area.gpa(i))
        with tap.test("the guest has what the debugger wrote"):
            for page in 4, 7:
                said = guest.agent.ask(f"read {area.id} {page * PAGE + 16}")
                assert said == [hex(VALUE)], said
            assert area.check(3) == (2, 0)
            guest.power_off()


def fetch(tap):
    """Kernel code that may not be touched runs; a hit, which is at its first byte."""
    # getpriority() and setpriority(), and nothing before did
    nice = "renice -n 5 -p $$; awk '{ print $19 }' /proc/$$/stat"
    with tap.test("the guest's kernel fetches what may not be touched"), \
            Vm(device=("allow=all", "on-guard=log")) as guest:
        start = int(re.search(r"([0-9a-f]+)-.*Kernel code", guest.agent.run(
            "cat /proc/iomem")).group(1), 16)
        symbols = {words[2]: int(words[0], 16) for words in map(str.split, guest.agent.run(
            "grep -wE '_text|__x64_sys_getpriority' /proc/kallsyms").splitlines())}
        gpa = start + symbols["__x64_sys_getpriority"] - symbols["_text"]
        page = gpa & -PAGE
        code = guest.read(page)
        guest.agent.do(vm.PROTECT_NONE, page)
        assert guest.page(page)[0] == "---"
        guest.qmp.events.clear()
        assert guest.agent.run(nice) == "5\n"
        event = guest.qmp.wait_event("PVMEMCTL_GUARD_HIT")
        assert event["gpa"] == gpa, (event, hex(gpa))
        assert guest.page(page)[0] == "rw-" and guest.read(page) == code
        assert guest.agent.run(nice) == "5\n"
        assert guest.info()["guard-hits"] == 1
        guest.power_off()


if __name__ == "__main__":
    sys.exit(vm.main(on_stop, on_log, on_mce, disk_dma, gdbstub, fetch))
