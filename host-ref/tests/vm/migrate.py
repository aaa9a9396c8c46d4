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
                lift(target, area)
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
            lift(guest, area)
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
            lift(guest, area)
            assert area.check(1) == (0, 0)
            assert not guest.info()["devices"][0]["ignored"]
            assert not guest.info()["guard-hits"]
            guest.power_off()


def lift(guest, area):
    """What set_all() has protected may be touched again."""
    for page in range(2 * EACH):
        guest.agent.do(vm.PROTECT_RW, area.gpa(page))


def set_capability(guest, name):
    try:
        guest.qmp.command("migrate-set-capabilities", capabilities=[
            {"capability": name, "state": True}])
    except vm.oracle.OracleError as e:
        raise Skip(f"{name}: {e}") from None


def assert_busy(guest, codes, gpa, arg=0):
    for code in codes:
        said = guest.agent.call(code, gpa, arg=arg)
        assert said == (0, errno.EBUSY), f"function {code}: {said}"


def start_postcopy(source, target, path):
    """The guest goes on at the target, most of its memory has not arrived."""
    slow(source)
    source.qmp.command("migrate-set-parameters", **{
        "max-postcopy-bandwidth": MIB // 16})
    source.qmp.command("migrate", uri=f"unix:{path}")
    vm.wait_until(lambda: migration(source) == "active", "a start")
    source.qmp.command("migrate-start-postcopy")
    vm.wait_until(lambda: migration(target) == "postcopy-active", "postcopy")
    target.qmp.command("cont")
    target.boot = source.boot
    assert target.agent.ask("ping") == source.boot


def postcopy(tap, protocol):
    with new_vm(protocol) as source:
        source.require_protocol(protocol)
        set_capability(source, "postcopy-ram")
        area, contents = set_all(source), source.area(4 * MIB)
        contents.fill(2)
        # Each page that is asked for brings others: let there be many
        source.area(64 * MIB).fill(4)
        # Where the protocol and the host know it
        small = source.agent.call(vm.NOHUGEPAGE, contents.gpa(9)) == (0, 0)
        before = source.attributes()
        lost = sum(a["function"] in ("mlock", "nohugepage")
                   for a in source.info()["ledger"])
        start_load(source)
        path = source.dir / "target"
        with new_vm(protocol, incoming=f"unix:{path}") as target:
            set_capability(target, "postcopy-ram")
            with tap.test(f"{protocol}: no page comes or goes during postcopy"):
                start_postcopy(source, target, path)
                page = area_of(target, contents).gpa(0)
                # Postcopy makes the pages, all of them
                assert_busy(target, [vm.DONTNEED, vm.FREE], page)
                if protocol == "1.1":
                    assert_busy(target, [vm.ZERO, vm.POPULATE], page)
                for code, arg in SETTINGS:
                    assert_busy(target, [code], page, arg)
                assert protects(target, area) == ["r--", "---"]
                # Defaults can be given back
                target.agent.do(vm.PROTECT_RW, area.gpa(0))
                target.agent.do(vm.PROTECT_RW, area.gpa(EACH))
                assert protects(target, area) == ["rw-", "rw-"]
                assert contents.check(2) == (0, 0)
                assert migration(target) == "postcopy-active"
                more_rounds(target, 50)
            with tap.test(f"{protocol}: all is there after postcopy"):
                source.qmp.command("migrate-set-parameters", **{
                    "max-postcopy-bandwidth": 0})
                for guest in source, target:
                    vm.wait_until(lambda g=guest: migration(g) == "completed",
                                  "completed")
                assert contents.check(2) == (0, 0)
                more_rounds(target, 200)
                assert end_load(target), "it never was refused"
            with tap.test(f"{protocol}: what postcopy forbade works again"):
                for i, code in enumerate((vm.PROTECT_R, vm.PROTECT_NONE)):
                    target.agent.do(code, area.gpa(i * EACH))
                # But for locks, which would have waited for their pages,
                # and small pages, as QEMU asks for huge ones at the end
                for page in range(2 * EACH, 3 * EACH):
                    assert "lo" not in target.page(area.gpa(page))[2]
                    target.agent.do(vm.MLOCK, area.gpa(page))
                if small:
                    assert target.page(contents.gpa(9))[2] & {"hg"}
                    assert not any(a["function"] == "nohugepage"
                                   for a in target.info()["ledger"])
                    target.agent.do(vm.NOHUGEPAGE, contents.gpa(9))
                assert target.attributes() == before, target.attributes()
                assert f"pvmemctl: {lost} of " in target.qemu_log(), \
                    target.qemu_log()
                target.agent.do(vm.DONTNEED, contents.gpa(5))
                assert contents.check(2) == (1, 1)
                lift(target, area)
                assert area_of(target, area).check(1) == (0, 0)
                assert not target.info()["guard-hits"]
                assert not source.info()["guard-hits"]
                target.power_off()


class SlowFile:
    """Writes what a migration sends to a file, so many bytes a second."""

    def __init__(self, directory, rate):
        self.path, self.file = directory / "sink", directory / "stream"
        self.rate = rate
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        self.thread = threading.Thread(target=self.copy, daemon=True)
        self.thread.start()

    def copy(self):
        connection, _ = self.listener.accept()
        with open(self.file, "wb") as file:
            while data := connection.recv(64 << 10):
                file.write(data)
                time.sleep(len(data) / self.rate)

    def close(self):
        self.thread.join()
        self.listener.close()


def background_snapshot(tap, protocol):
    """Memory is saved as it is at the start, while the guest goes on."""
    with new_vm(protocol) as guest:
        guest.require_protocol(protocol)
        set_capability(guest, "background-snapshot")
        with tap.test(f"{protocol}: no discards during a background snapshot"):
            area, contents = set_all(guest), guest.area(4 * MIB)
            contents.fill(2)
            guest.agent.do(vm.DONTNEED, contents.gpa(5))
            before = guest.attributes()
            start_load(guest, 1)
            sink = SlowFile(guest.dir, 8 * MIB)
            guest.qmp.events.clear()
            guest.qmp.command("migrate", uri=f"unix:{sink.path}")
            guest.qmp.wait_event("RESUME")
            while_migrating(guest, area)
            discards = [vm.DONTNEED, vm.FREE]
            assert_busy(guest, discards, contents.gpa(0))
            assert contents.check(2) == (1, 1)
            contents.fill(3)
            guest.agent.do(vm.DONTDUMP, contents.gpa(1))
            if protocol == "1.1":
                # What must not be released is cleared
                guest.agent.do(vm.ZERO, contents.gpa(2))
                guest.agent.do(vm.POPULATE, contents.gpa(3))
                assert contents.check(3) == (1, 1)
                assert guest.is_backed(contents.gpa(2))
                contents.fill(3)
            assert migration(guest) == "active", "it was too fast for this test"
        with tap.test(f"{protocol}: the guest goes on after it"):
            sink.rate = 1 << 40
            vm.wait_until(lambda: migration(guest) == "completed", "completed")
            wait_settled(guest)
            sink.close()
            end_load(guest)
            assert protects(guest, area) == ["r--", "---"]
            assert contents.check(3) == (0, 0)
            guest.agent.do(vm.DONTNEED, contents.gpa(7))
            assert not guest.is_backed(contents.gpa(7))
            assert not guest.info()["guard-hits"]
        with tap.test(f"{protocol}: another starts from where it was taken"), \
                new_vm(protocol, incoming=f"file:{sink.file}") as other:
            vm.wait_until(lambda: migration(other) == "completed", "it loads")
            other.qmp.command("cont")
            assert other.agent.ask("ping") == guest.boot
            assert area_of(other, contents).check(2) == (1, 1)
            more_rounds(other, 100)
            end_load(other)
            assert other.attributes() == before, other.attributes()
            lift(other, area)
            assert area_of(other, area).check(1) == (0, 0)
            other.agent.do(vm.DONTNEED, contents.gpa(6))
            assert contents.check(2) == (2, 2)
            other.power_off()
        with tap.test(f"{protocol}: and the first still is where it was"):
            assert area_of(guest, contents).check(3) == (1, 1)
            # Whoever gets these pages when the agent ends may write to them
            lift(guest, area)
            guest.power_off()


def moves_1_1(tap):
    moves(tap, "1.1")


def moves_1_0(tap):
    moves(tap, "1.0")


def snapshots_1_1(tap):
    snapshots(tap, "1.1")


def snapshots_1_0(tap):
    snapshots(tap, "1.0")


def postcopy_1_1(tap):
    postcopy(tap, "1.1")


def postcopy_1_0(tap):
    postcopy(tap, "1.0")


def background_snapshot_1_1(tap):
    background_snapshot(tap, "1.1")


def background_snapshot_1_0(tap):
    background_snapshot(tap, "1.0")


if __name__ == "__main__":
    sys.exit(vm.main(moves_1_1, moves_1_0, snapshots_1_1, snapshots_1_0,
                     postcopy_1_1, postcopy_1_0, background_snapshot_1_1,
                     background_snapshot_1_0))
