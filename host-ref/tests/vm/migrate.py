#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that never stops to discard, protect and rewrite memory moves to another
QEMU, or to a file and back, with all it has set, and loses nothing."""

import errno
import os
import socket
import sys
import threading
import time

import vm
from vm import MIB, PAGE, SETTINGS, Skip, Vm

EACH = 3                # pages of each setting
LOAD = 16 * MIB         # a thread


def new_vm(protocol, **more):
    return Vm(device=("allow=all", f"x-protocol={protocol}"), **more)


def set_all(guest):
    area = guest.area(len(SETTINGS) * EACH * PAGE)
    area.fill(1)
    for i, (code, arg) in enumerate(SETTINGS):
        for page in range(i * EACH, (i + 1) * EACH):
            guest.agent.do(code, area.gpa(page), arg=arg)
    return area


def start_load(guest, threads=2):
    guest.agent.ask(f"load {threads} {LOAD}")
    more_rounds(guest, 200)


def more_rounds(guest, rounds):
    start = int(guest.agent.ask("rounds")[0])
    vm.wait_until(lambda: int(guest.agent.ask("rounds")[0]) > start + rounds,
                  "the load goes on")


def end_load(guest):
    """It saw nothing that it did not write; returns how often it was refused."""
    rounds, _, busy, bad, pages = map(int, guest.agent.ask("unload"))
    assert not bad and not pages, f"{bad} bad, {pages} pages, of {rounds} rounds"
    return busy


def migration(guest):
    return guest.qmp.command("query-migrate").get("status")


def protects(guest, area):
    return [guest.page(area.gpa(i * EACH))[0] for i in range(2)]


def wait_settled(guest):
    vm.wait_until(lambda: not guest.info()["protections-lifted"],
                  "protections are set again")


def differing_pages(one, other):
    """(pages of guest RAM that two QEMUs have different, all)."""
    different = total = 0
    for a, b in zip(one.ram(), other.ram()):
        assert (a.name, a.size) == (b.name, b.size)
        with open(f"/proc/{one.pid}/mem", "rb", buffering=0) as left, \
                open(f"/proc/{other.pid}/mem", "rb", buffering=0) as right:
            for offset in range(0, a.size, MIB):
                x = os.pread(left.fileno(), MIB, a.hva + offset)
                y = os.pread(right.fileno(), MIB, b.hva + offset)
                assert len(x) == len(y) == MIB
                total += MIB // PAGE
                if x != y:
                    different += sum(x[i:i + PAGE] != y[i:i + PAGE]
                                     for i in range(0, MIB, PAGE))
    return different, total


def slow(guest):
    guest.qmp.command("migrate-set-parameters", **{
        "max-bandwidth": 24 * MIB, "downtime-limit": 100})


class Sink:
    """Takes some of what a migration sends, then reads no more."""

    def __init__(self, directory):
        self.path = str(directory / "sink")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.socket = None
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        self.socket, _ = self.listener.accept()
        self.socket.recv(1 << 20)

    def close(self):
        vm.wait_until(lambda: self.socket, "QEMU connects")
        self.socket.close()
        self.listener.close()
        os.unlink(self.path)


def while_migrating(guest, area):
    """Protections are off, and there is no setting any."""
    vm.wait_until(lambda: guest.info()["protections-lifted"], "a start")
    assert protects(guest, area) == ["rw-", "rw-"], protects(guest, area)
    assert guest.page(area.gpa(3 * EACH))[2] & {"dd"}
    said = guest.agent.call(vm.PROTECT_R, area.gpa(0))
    assert said == (0, errno.EBUSY), said


def ends_badly(guest, area, end, status):
    before = guest.attributes()
    sink = Sink(guest.dir)
    slow(guest)
    guest.qmp.command("migrate", uri=f"unix:{sink.path}")
    while_migrating(guest, area)
    end(sink)
    vm.wait_until(lambda: migration(guest) == status, status)
    wait_settled(guest)
    assert guest.attributes() == before
    assert guest.qmp.command("query-status")["running"]
    assert not guest.info()["guard-hits"]
    # All works as it did
    guest.agent.do(vm.PROTECT_RW, area.gpa(0))
    guest.agent.do(vm.PROTECT_R, area.gpa(0))
    assert guest.attributes() == before


def cancels(guest, area):
    def end(sink):
        guest.qmp.command("migrate_cancel")
        sink.close()

    ends_badly(guest, area, end, "cancelled")


def fails(guest, area):
    ends_badly(guest, area, Sink.close, "failed")


def not_connected(guest, area):
    before = guest.attributes()
    try:
        guest.qmp.command("migrate", uri=f"unix:{guest.dir}/nobody")
    except vm.oracle.OracleError:
        pass
    vm.wait_until(lambda: migration(guest) == "failed", "it fails")
    wait_settled(guest)
    assert guest.attributes() == before and protects(guest, area)[0] == "r--"


def move(source, target, area):
    path = target.dir / "incoming"
    start_load(source)
    slow(source)
    source.qmp.command("migrate", uri=f"unix:{path}")
    while_migrating(source, area)

    def has_iterated():
        info = source.qmp.command("query-migrate")
        assert info["status"] not in ("failed", "cancelled"), info
        return (info["status"] == "completed" or
                info.get("ram", {}).get("dirty-sync-count", 0) >= 3)

    vm.wait_until(has_iterated, "several rounds")
    source.qmp.command("migrate-set-parameters", **{
        "max-bandwidth": 1 << 40, "downtime-limit": 60000})
    for guest in source, target:
        vm.wait_until(lambda g=guest: migration(g) == "completed", "completed")
    wait_settled(source)


def moves(tap, protocol):
    with new_vm(protocol) as source:
        source.require_protocol(protocol)
        area = set_all(source)
        before = source.attributes()
        for name, fn in (("nobody to migrate to", not_connected),
                         ("migration is cancelled", cancels),
                         ("migration fails", fails)):
            with tap.test(f"{protocol}: {name}"):
                fn(source, area)

        path = source.dir / "target"
        with new_vm(protocol, incoming=f"unix:{path}") as target:
            os.symlink(path, target.dir / "incoming")
            with tap.test(f"{protocol}: a guest under load migrates"):
                move(source, target, area)
                source_info = source.info()
            with tap.test(f"{protocol}: both have the same memory"):
                different, total = differing_pages(source, target)
                assert total == 256 * MIB // PAGE, total
                assert not different, f"{different} of {total} pages differ"
            with tap.test(f"{protocol}: both have the same attributes"):
                there = target.attributes()
                assert there == source.attributes(), there
                # The load's own comes and goes; what was there before stayed
                for page in range(len(SETTINGS) * EACH):
                    assert target.page(area.gpa(page))[:2] == \
                        source.page(area.gpa(page))[:2]
                assert protects(target, area) == ["r--", "---"]
                assert target.info()["ledger"] == source_info["ledger"]
            with tap.test(f"{protocol}: the guest goes on there"):
                target.qmp.command("cont")
                target.boot = source.boot
                assert target.agent.ask("ping") == source.boot
                more_rounds(target, 200)
                end_load(target)
                assert target.attributes() == before
                device, = target.info()["devices"]
                assert device["state"] == "ready" and not device["ignored"]
                assert device["connections"] == \
                    source_info["devices"][0]["connections"], device
                for page in range(2 * EACH):
                    target.agent.do(vm.PROTECT_RW, area.gpa(page))
                assert area_of(target, area).check(1) == (0, 0)
                assert "forgotten" not in target.console()
                assert not target.info()["guard-hits"]
                target.power_off()


def area_of(guest, area):
    """The same area, asked of where the guest now is."""
    area.agent = guest.agent
    return area


def job(guest, name, **arguments):
    guest.qmp.command(name, **{"job-id": "job"}, **arguments)

    def concluded():
        return [j for j in guest.qmp.command("query-jobs")
                if j["id"] == "job" and j["status"] == "concluded"]

    found, = vm.wait_until(concluded, name)
    guest.qmp.command("job-dismiss", id="job")
    assert "error" not in found, found


def add_disk(guest):
    """Where a snapshot can be."""
    file = str(guest.dir / "disk.qcow2")
    job(guest, "blockdev-create", options={
        "driver": "file", "filename": file, "size": 0})
    guest.qmp.command("blockdev-add", **{
        "driver": "file", "node-name": "file", "filename": file})
    try:
        job(guest, "blockdev-create", options={
            "driver": "qcow2", "file": "file", "size": MIB})
    except vm.oracle.OracleError as e:
        raise Skip(f"this QEMU has no qcow2: {e}") from None
    guest.qmp.command("blockdev-add", **{
        "driver": "qcow2", "node-name": "disk", "file": "file"})


def snapshots(tap, protocol):
    where = {"tag": "one", "vmstate": "disk", "devices": ["disk"]}
    with new_vm(protocol) as guest:
        guest.require_protocol(protocol)
        with tap.test(f"{protocol}: a snapshot is taken"):
            add_disk(guest)
            area = set_all(guest)
            contents = guest.area(MIB)
            contents.fill(2)
            guest.agent.do(vm.DONTNEED, contents.gpa(5))
            start_load(guest, 1)
            job(guest, "snapshot-save", **where)
            wait_settled(guest)
            end_load(guest)
            before = guest.attributes()
            assert protects(guest, area) == ["r--", "---"]
        with tap.test(f"{protocol}: and gone back to"):
            # All other than it was
            for page in range(2 * EACH):
                guest.agent.do(vm.PROTECT_RW, area.gpa(page))
            guest.agent.do(vm.MUNLOCK, area.gpa(2 * EACH))
            guest.agent.do(vm.PROTECT_NONE, area.gpa(3 * EACH))
            guest.agent.do(vm.DONTDUMP, area.gpa(0))
            guest.agent.do(vm.MLOCK, contents.gpa(1))
            contents.fill(3)
            guest.agent.do(vm.DONTNEED, contents.gpa(9))
            job(guest, "snapshot-load", **where)
            if not guest.qmp.command("query-status")["running"]:
                guest.qmp.command("cont")
            assert contents.check(2) == (1, 1)
            assert not any(guest.read(contents.gpa(5)))
            more_rounds(guest, 100)
            end_load(guest)
            assert guest.attributes() == before
            for page in range(2 * EACH):
                guest.agent.do(vm.PROTECT_RW, area.gpa(page))
            assert area.check(1) == (0, 0)
            assert not guest.info()["devices"][0]["ignored"]
            assert not guest.info()["guard-hits"]
            guest.power_off()


def moves_1_1(tap):
    moves(tap, "1.1")


def moves_1_0(tap):
    moves(tap, "1.0")


def snapshots_1_1(tap):
    snapshots(tap, "1.1")


def snapshots_1_0(tap):
    snapshots(tap, "1.0")


if __name__ == "__main__":
    sys.exit(vm.main(moves_1_1, moves_1_0, snapshots_1_1, snapshots_1_0))
