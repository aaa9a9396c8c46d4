#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The device beside what else QEMU does with guest memory: a sandbox, balloons,
several nodes, memory that is plugged in and out."""

import sys
import time

import vm
from vm import MIB, PAGE, Skip, Vm
from reset import DRIVER

GIB4 = 4 << 30          # where memory that is plugged in lies


def works_on(guest, gpas):
    """Each function on one page, seen from outside; all undone."""
    do = guest.agent.do
    gpa = list(gpas[:6])
    do(vm.DONTNEED, gpa[0])
    assert not guest.is_backed(gpa[0])
    do(vm.PROTECT_R, gpa[1])
    do(vm.PROTECT_NONE, gpa[2])
    do(vm.MLOCK, gpa[3])
    do(vm.DONTDUMP, gpa[4])
    if vm.NAMES:
        do(vm.NAME, gpa[5], arg=77)
    assert guest.page(gpa[1])[0] == "r--" and guest.page(gpa[2])[0] == "---"
    assert "lo" in guest.page(gpa[3])[2] and "dd" in guest.page(gpa[4])[2]
    assert guest.page(gpa[5])[1] == ("pvmemctl-77" if vm.NAMES else "-")
    for code in (vm.PROTECT_RW, vm.MUNLOCK):
        for page in gpa:
            do(code, page)
    if vm.NAMES:
        do(vm.NAME, gpa[5], arg=0)


def rebind(guest):
    """All back, by way of the driver."""
    address = guest.agent.run(f"cd {DRIVER} && echo 0000:*").split()[0]
    guest.agent.run(f"echo {address} >{DRIVER}/unbind")
    found = guest.attributes()
    guest.agent.run(f"echo {address} >{DRIVER}/bind")
    return found


def is_1_1(guest):
    return guest.info()["devices"][0]["protocol"] == "1.1"


def sandbox(tap):
    with tap.test("in QEMU's sandbox"), Vm(device=("allow=all",), qemu=(
            "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,"
            "resourcecontrol=deny")) as guest:
        default = guest.attributes()
        area = guest.area(16 * PAGE)
        works_on(guest, area.gpas)
        for code in vm.FREE, vm.MERGEABLE, vm.UNMERGEABLE, vm.MERGEABLE:
            guest.agent.do(code, area.gpa(9))
        if is_1_1(guest):
            assert rebind(guest) == default
        guest.power_off()


def balloon(tap):
    with tap.test("beside virtio-balloon"), Vm(
            device=("allow=all",), mem=512,
            qemu=("-device", "virtio-balloon")) as guest:
        area = guest.area(16 * PAGE)
        guest.agent.ask(f"load 1 {4 * MIB}")
        guest.qmp.command("balloon", value=256 * MIB)
        vm.wait_until(lambda: guest.qmp.command("query-balloon")["actual"] ==
                      256 * MIB, "the balloon grows")
        works_on(guest, area.gpas)
        guest.qmp.command("balloon", value=512 * MIB)
        vm.wait_until(lambda: guest.qmp.command("query-balloon")["actual"] ==
                      512 * MIB, "the balloon shrinks")
        said = guest.agent.ask("unload")
        assert said[3:] == ["0", "0"], said
        guest.power_off()


def locked_balloon(tap):
    """What the guest has locked, the host does not give away, and says so, but not often."""
    with tap.test("a balloon takes what is locked"), Vm(
            device=("allow=all",), qemu=("-device", "virtio-balloon")) as guest:
        area = guest.area(64 * MIB)
        area.fill(1)
        locked = area.gpas[:4096]
        runs = []
        for gpa in locked:
            if runs and sum(runs[-1]) == gpa:
                runs[-1][1] += PAGE
            else:
                runs.append([gpa, PAGE])
        for gpa, length in runs:
            guest.agent.do(vm.MLOCK, gpa, length)
        area.free()
        start = time.monotonic()
        guest.qmp.command("balloon", value=48 * MIB)
        # The rest of the area tells that it is the balloon's by now
        others = area.gpas[4096::512]
        vm.wait_until(lambda: sum(map(guest.is_backed, others)) < len(others) / 4,
                      "the balloon grows")
        lines = guest.qemu_log().count("\n")
        seconds = time.monotonic() - start
        print(f"# {lines} lines in {seconds:.0f} s")
        assert 1 <= lines <= seconds + 1, guest.qemu_log()[-2000:]
        for gpa in locked[::512]:
            assert guest.is_backed(gpa) and "lo" in guest.page(gpa)[2], hex(gpa)
        guest.qmp.command("balloon", value=256 * MIB)
        for gpa, length in runs:
            guest.agent.do(vm.MUNLOCK, gpa, length)
        assert not guest.info()["locked"]
        guest.power_off()


def nodes(tap):
    with tap.test("over two NUMA nodes with a backend each"), Vm(
            "--numa", device=("allow=all",)) as guest:
        default = guest.attributes()
        blocks = guest.ram()
        assert len(blocks) == 2, blocks
        area = guest.area(160 * MIB)
        half = blocks[0].size
        low = [gpa for gpa in area.gpas if gpa < half]
        high = [gpa for gpa in area.gpas if gpa >= half]
        assert len(low) > 100 and len(high) > 100
        works_on(guest, low)
        works_on(guest, high)
        # Across the border; no matter whose that memory is
        guest.agent.do(vm.DONTDUMP, half - 2 * PAGE, 4 * PAGE)
        for gpa in half - 2 * PAGE, half - PAGE, half, half + PAGE:
            assert "dd" in guest.page(gpa)[2], hex(gpa)
        assert "dd" not in guest.page(half + 2 * PAGE)[2]
        assert "dd" not in guest.page(half - 3 * PAGE)[2]
        if is_1_1(guest):
            assert rebind(guest) == default
        guest.power_off()


# Keeps what is plugged in movable, so that it can leave
ONLINE = ("for m in /sys/devices/system/memory/memory*; do"
          " grep -q offline $m/state && echo online_movable >$m/state; done; true")


def plugged_pages(guest):
    """An area, and those of its pages that lie in memory plugged in."""
    area = guest.area(180 * MIB)
    return area, [gpa for gpa in area.gpas if gpa >= GIB4]


def has_more(guest, than):
    def found():
        guest.agent.run(ONLINE)
        return int(guest.agent.run(
            "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")) > than
    return found


def total(guest):
    return int(guest.agent.run(
        "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo"))


def virtio_mem(tap):
    with tap.test("beside virtio-mem"), Vm(
            device=("allow=all",), append="memory_hotplug.online_policy=auto-movable",
            qemu=("-m", "256M,slots=4,maxmem=2G",
                  "-object", "memory-backend-ram,id=memv,size=512M",
                  "-device", "virtio-mem-pci,id=vm0,memdev=memv,requested-size=0"
                  )) as guest:
        if guest.agent.sh("test -e /sys/bus/virtio/drivers/virtio_mem")[0]:
            raise Skip("this kernel has no virtio-mem")
        before = total(guest)
        guest.qmp.command("qom-set", path="/machine/peripheral/vm0",
                          property="requested-size", value=384 * MIB)
        vm.wait_until(has_more(guest, before + 300 * 1024), "memory comes")
        area, pages = plugged_pages(guest)
        if len(pages) < 100:
            raise Skip("the guest took other memory")
        works_on(guest, pages)
        # What is not plugged in is no RAM, whoever asks
        said = guest.agent.call(vm.DONTDUMP, GIB4 + 510 * MIB)
        assert said != (0, 0), said
        for gpa in pages[10:20]:
            guest.agent.do(vm.DONTDUMP, gpa)
        area.free()
        guest.qmp.command("qom-set", path="/machine/peripheral/vm0",
                          property="requested-size", value=0)
        vm.wait_until(lambda: guest.qmp.command(
            "qom-get", path="/machine/peripheral/vm0", property="size") <=
            128 * MIB, "memory leaves")
        area = guest.area(8 * PAGE)
        works_on(guest, area.gpas)
        guest.power_off()


def dimm(tap):
    with Vm(device=("allow=all",),
            qemu=("-m", "256M,slots=4,maxmem=2G")) as guest:
        with tap.test("memory is plugged in"):
            before = total(guest)
            guest.qmp.command("object-add", **{
                "qom-type": "memory-backend-ram", "id": "memd",
                "size": 256 * MIB})
            guest.qmp.command("device_add", driver="pc-dimm", id="dimm0",
                              memdev="memd")
            try:
                vm.wait_until(has_more(guest, before + 100 * 1024),
                              "memory comes", 60)
            except AssertionError:
                raise Skip("this kernel takes no more memory") from None
            area, pages = plugged_pages(guest)
            if len(pages) < 100:
                raise Skip("the guest took other memory")
            works_on(guest, pages)
            for gpa in pages[10:20]:
                guest.agent.do(vm.DONTDUMP, gpa)
            guest.agent.do(vm.MLOCK, pages[30])
            assert guest.info()["ledger"]
        with tap.test("and out again"):
            if total(guest) <= before + 100 * 1024:
                raise Skip("it was not plugged in")
            area.free()
            guest.qmp.events.clear()
            guest.qmp.command("device_del", id="dimm0")
            guest.qmp.wait_event("DEVICE_DELETED")
            info = guest.info()
            assert not info["locked"], info
            assert not [e for e in info["ledger"] if "memd" in e["block"]], info
            # Its mapping is as QEMU made it, for whoever is given it next
            attributes = {what for _, _, what in guest.attributes().get(
                "memd", guest.attributes().get("/objects/memd", []))}
            assert len(attributes) <= 1, attributes
            guest.qmp.command("object-del", id="memd")
            area = guest.area(8 * PAGE)
            works_on(guest, area.gpas)
        with tap.test("the guest ends in order"):
            guest.power_off()


if __name__ == "__main__":
    sys.exit(vm.main(sandbox, balloon, locked_balloon, nodes, virtio_mem, dimm))
