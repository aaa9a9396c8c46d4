#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Page zeroing by the host: when it must be off, hosts that cannot or will not, what
was there before the device was, and who else wants free memory.  All guests look at
everything that they take for zero."""

import time

import vm
from vm import MIB, PAGE, Skip, Vm, wait_until
from reset import DRIVER

ZERO = "/sys/kernel/mm/pvmemctl/zero/"
HUGE = 2 * MIB
POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB/"
VERIFY = "pvmemctl.zero_verify=1 "
# Where the host counts what it is asked for
ALONE = "pvmemctl.stack=off "
# Pages of a huge one; a guest that does not believe the host looks at the first and the last
TOUCHED = 0, 100, 200, 300, HUGE // PAGE - 1


def boot(*options, **more):
    return Vm(*options, consumers=True, **more)


def state(guest):
    status, said = guest.agent.sh(f"cat {ZERO}state")
    if status:
        raise Skip("this kernel has no page zeroing")
    return said.strip()


def number(guest, name):
    return int(guest.agent.run(f"cat {ZERO}{name}"))


def skipped(guest, name, order):
    said = guest.agent.run(f"cat {ZERO}{name}_skipped")
    return dict(tuple(map(int, line.split())) for line in said.splitlines()).get(order, 0)


def free(guest):
    return int(guest.agent.run("grep MemFree: /proc/meminfo").split()[1]) * 1024


def asked(guest, name):
    """(bytes that the host said it had zeroed, ranges that it refused)."""
    return number(guest, name + "_released"), number(guest, name + "_refused")


def no_lies(guest):
    for name in "hugetlb", "report", "call":
        assert number(guest, name + "_lies") == 0, name


def use_pool(guest, pages=8):
    """Write to huge pages and free them; where they were."""
    guest.agent.run(f"[ $(cat {POOL}nr_hugepages) -ge {pages} ] || echo {pages} >{POOL}nr_hugepages")
    area = guest.area(pages * HUGE, huge=True)
    area.fill(7)
    gpas = area.gpas[::HUGE // PAGE]
    area.free()
    return gpas


def is_off(guest, why):
    """Nothing is released, nothing skipped, and huge pages work as ever."""
    said = state(guest)
    assert said.startswith("off: ") and why in said, said
    gpas = use_pool(guest)
    time.sleep(1)
    assert all(guest.is_backed(gpa + i * PAGE) for gpa in gpas for i in TOUCHED)
    again = guest.area(8 * HUGE, huge=True)
    again.free()
    for name in "hugetlb", "report", "call":
        assert number(guest, name + "_released") == 0, name
        assert guest.agent.run(f"cat {ZERO}{name}_skipped") == "", name
    assert guest.agent.sh(f"echo 1 >{ZERO}report")[0] != 0


OFF = [
    ("switched off", "pvmemctl.zero=off", ("allow=all",), "pvmemctl.zero=off"),
    ("with init_on_free", "init_on_free=1", ("allow=all",), "init_on_free"),
    ("with page poisoning", "page_poison=1", ("allow=all",), "page_poison"),
    ("on a host of 1.0", "", ("allow=all", "x-protocol=1.0"), "does not say"),
    ("where the host's policy has no ZERO", "", ("allow=dontneed:populate",), "does not say"),
]


def off(tap):
    for what, append, device, why in OFF:
        kernel = "distro" if why == "page_poison" else "plain"    # not all have it
        with tap.test("off " + what), boot("--kernel", kernel, device=device,
                                           append=VERIFY + append) as guest:
            is_off(guest, why)
            guest.power_off()


def released(guest, gpas):
    """What the host's kernel says of huge pages that were freed."""
    return not any(guest.is_backed(gpa + i * PAGE) for gpa in gpas for i in TOUCHED)


def old_host(tap):
    """1.0, where one has to look: DONTNEED zeroes private memory, and only that."""
    for backing in "anon", "memfd", "file-private":
        with tap.test(f"probe a host of 1.0, backing {backing}"), boot(
                "--backing", backing, device=("allow=all", "x-protocol=1.0"),
                append=VERIFY + "pvmemctl.zero=probe") as guest:
            if backing == "file-private":
                # What was discarded is the file's: it may be zero, and may be not
                assert "host" in state(guest)
            else:
                assert state(guest) == "on: host was seen to do it", state(guest)
            gpas = use_pool(guest)
            if state(guest).startswith("on"):
                wait_until(lambda: released(guest, gpas), "the host has let go of the pool")
            area = guest.area(8 * HUGE, huge=True)
            area.free()
            no_lies(guest)
            guest.power_off()

    with tap.test("probe a host of 1.0 that does not zero"), boot(
            "--backing", "memfd", device=("allow=dontneed", "x-protocol=1.0"),
            append=VERIFY + "pvmemctl.zero=probe") as guest:
        # REMOVE, which would do, is not allowed; DONTNEED answers success
        is_off(guest, "not seen")
        guest.power_off()

    with tap.test("probe a host of 1.1"), boot(
            device=("allow=all",), append=VERIFY + "pvmemctl.zero=probe") as guest:
        assert state(guest) == "on: host was seen to do it", state(guest)
        wait_until(lambda gpas=use_pool(guest): released(guest, gpas), "it is released")
        no_lies(guest)
        guest.power_off()


def reserved_at_boot(tap):
    for backing in "anon", "memfd":
        with tap.test(f"what was reserved at boot is released, backing {backing}"), boot(
                "--backing", backing, device=("allow=all",), mem=512,
                append=VERIFY + "hugepages=64") as guest:
            wait_until(lambda: number(guest, "hugetlb_released") >= 64 * HUGE, "all is")
            before = skipped(guest, "hugetlb", 9)
            area = guest.area(64 * HUGE, huge=True)
            assert skipped(guest, "hugetlb", 9) - before == 64 * HUGE
            area.fill(3)
            gpas = area.gpas[::HUGE // PAGE]
            assert all(guest.is_backed(gpa) for gpa in gpas)
            area.free()
            wait_until(lambda: released(guest, gpas), "the pool is released")
            no_lies(guest)
            # Free memory is not reported unless somebody asks for it
            assert number(guest, "report") == 0
            assert number(guest, "report_released") == 0
            guest.power_off()


def comes_and_goes(tap):
    with tap.test("the device leaves and comes back"), boot(
            device=("allow=all",), mem=512, append=VERIFY + "hugepages=32") as guest:
        wait_until(lambda: number(guest, "hugetlb_released") >= 32 * HUGE, "all is released")
        address = guest.agent.run(f"cd {DRIVER} && echo 0000:*").split()[0]
        guest.agent.run(f"echo {address} >{DRIVER}/unbind")
        assert state(guest).startswith("off: "), state(guest)
        # What was zeroed still is
        before = skipped(guest, "hugetlb", 9)
        area = guest.area(16 * HUGE, huge=True)
        assert skipped(guest, "hugetlb", 9) - before == 16 * HUGE
        area.fill(1)
        area.free()
        # And what was used since is not
        again = guest.area(32 * HUGE, huge=True)
        assert skipped(guest, "hugetlb", 9) - before == 32 * HUGE
        again.fill(2)
        again.free()
        had = number(guest, "hugetlb_released")
        guest.agent.run(f"echo {address} >{DRIVER}/bind")
        assert state(guest).startswith("on: "), state(guest)
        wait_until(lambda: number(guest, "hugetlb_released") >= had + 32 * HUGE, "again")
        # All the while
        guest.agent.send("sh for i in 1 2 3 4 5 6 7 8; do "
                         f"echo {address} >{DRIVER}/unbind; echo {address} >{DRIVER}/bind; "
                         f"echo 0 >{POOL}nr_hugepages; echo 32 >{POOL}nr_hugepages; done")
        status = int(guest.agent.receive()[1])
        assert status == 0
        gpas = use_pool(guest, 32)
        wait_until(lambda: released(guest, gpas), "once more")
        no_lies(guest)
        guest.power_off()


def balloon(tap):
    with tap.test("a balloon reports free memory already"), boot(
            device=("allow=all",), mem=512, append=VERIFY + "pvmemctl.zero_report=1",
            qemu=("-device", "virtio-balloon-pci,free-page-reporting=on")) as guest:
        assert state(guest).startswith("on: ")
        assert number(guest, "report") == 0
        assert guest.agent.sh(f"echo 1 >{ZERO}report")[0] != 0
        # What it reports is PageReported(), and nobody knows what that is
        area = guest.area(256 * MIB)
        area.fill(5)
        area.free()
        time.sleep(10)
        driver = "/sys/bus/virtio/drivers/virtio_balloon"
        name = guest.agent.run(f"cd {driver} && echo virtio*").split()[0]
        guest.agent.run(f"echo {name} >{driver}/unbind")
        guest.agent.run(f"echo 60000 >{ZERO}report_delay_ms && echo 1 >{ZERO}report")
        area = guest.area(200 * MIB)
        assert guest.agent.run(f"cat {ZERO}report_skipped") == ""
        area.free()
        # Now it is this one's, and the balloon comes too late
        guest.agent.run(f"echo 50 >{ZERO}report_delay_ms; echo 0 >{ZERO}report; echo 1 >{ZERO}report")
        wait_until(lambda: number(guest, "report_released") > 100 * MIB, "it is reported")
        assert guest.agent.sh(f"echo {name} >{driver}/bind")[0] != 0
        area = guest.area(64 * MIB)
        assert guest.agent.run(f"cat {ZERO}report_skipped") != ""
        area.free()
        no_lies(guest)
        guest.power_off()


def small(tap):
    """A batch is off the free lists: it must not be more than a small guest has to spare."""
    with tap.test("a small guest reports what little is free"), boot(
            device=("allow=all",), append=VERIFY + "pvmemctl.zero_report=1") as guest:
        area = guest.area(64 * MIB)
        area.fill(9)
        held = guest.area(free(guest) - 40 * MIB)
        had = number(guest, "report_released")
        gpas = area.gpas[::64]
        area.free()
        assert free(guest) < 120 * MIB, free(guest)
        wait_until(lambda: number(guest, "report_released") - had >= 32 * MIB, "it is reported")
        wait_until(lambda: sum(map(guest.is_backed, gpas)) < len(gpas) / 2, "the host has it")
        held.free()
        no_lies(guest)
        guest.power_off()


def reset(tap):
    with tap.test("a host that forgot its connections"), boot(
            device=("allow=all",), mem=512,
            append=VERIFY + "hugepages=16 pvmemctl.zero_report=1") as guest:
        wait_until(lambda: number(guest, "hugetlb_released") >= 16 * HUGE, "all is released")
        address = guest.agent.run(f"cd {DRIVER} && echo 0000:*").split()[0]
        # DISCONNECT behind the driver's back
        guest.agent.ask(f"poke /sys/bus/pci/devices/{address}/resource0 8 {0x030F5DA0}")
        gpas = use_pool(guest, 16)
        wait_until(lambda: released(guest, gpas), "the pool is released")
        assert state(guest).startswith("on: ")
        no_lies(guest)
        guest.power_off()


def hibernate(tap):
    """What was free when the image was made is not in it, whatever was known of it."""
    def report(guest):
        assert state(guest).startswith("on: ") and number(guest, "report") == 1
        area = guest.area(192 * MIB)
        area.fill(3)
        had = number(guest, "report_released")
        area.free()
        wait_until(lambda: number(guest, "report_released") >= had + 128 * MIB, "it is reported")
        area = guest.area(16 * MIB)
        assert guest.agent.run(f"cat {ZERO}report_skipped") != ""
        area.free()
        use_pool(guest)
        wait_until(lambda: number(guest, "hugetlb_released") >= 8 * HUGE, "the pool is released")

    def boot_distro(**more):
        return boot("--kernel", "distro", device=("allow=all",), mem=512, **more)

    with tap.test("memory is right after hibernation"), vm.hibernated(
            boot_distro, report, VERIFY + "pvmemctl.zero_report=1") as guest:
        # The boot kernel had all of this, and left something there.  The guest's kernel
        # looks at what it takes for zero.
        for area in guest.area(192 * MIB), guest.area(8 * HUGE, huge=True):
            area.free()
        no_lies(guest)
        guest.power_off()


def refuses(tap):
    with tap.test("huge pages of which the host refuses every other"), boot(
            device=("allow=all", "x-refuse=2"), mem=512,
            append=VERIFY + ALONE + "hugepages=16") as guest:
        def answers(nr):
            done, refused = asked(guest, "hugetlb")
            return done // HUGE + refused == nr and refused

        before = wait_until(lambda: answers(16), "all have been asked for")
        gpas = use_pool(guest, 16)
        refused = wait_until(lambda: answers(32), "and again") - before
        kept = [gpa for gpa in gpas if not released(guest, [gpa])]
        assert len(kept) == refused and 0 < refused < 16, (kept, refused)
        # They were written to: of what is kept nothing is gone
        assert all(guest.is_backed(gpa + i * PAGE) for gpa in kept for i in range(0, 512, 73))
        # It looks whether it is zero, and so does the guest
        had = skipped(guest, "hugetlb", 9)
        guest.area(16 * HUGE, huge=True).free()
        assert skipped(guest, "hugetlb", 9) - had == (16 - refused) * HUGE
        no_lies(guest)
        guest.power_off()

    with tap.test("free memory of which the host refuses every other block"), boot(
            device=("allow=all", "x-refuse=2"), mem=512, append=VERIFY + ALONE) as guest:
        area = guest.area(192 * MIB)
        area.fill(5)
        mine = set(area.gpas)
        blocks = [gpa for gpa in area.gpas if gpa % HUGE == 0 and
                  mine.issuperset(range(gpa, gpa + HUGE, PAGE))]
        assert len(blocks) >= 32, len(blocks)
        area.free()
        guest.agent.run(f"echo 1 >{ZERO}report")

        def all_answered():
            """As many blocks are kept as were refused, of up to two each, and the rest is gone."""
            done, refused = asked(guest, "report")
            kept = sum(not released(guest, [gpa]) for gpa in blocks)
            return (len(blocks) / 4 <= kept <= 2 * refused and
                    len(blocks) / 4 <= len(blocks) - kept <= done / HUGE)

        wait_until(all_answered, "all has been asked for")
        guest.area(192 * MIB).free()
        assert guest.agent.run(f"cat {ZERO}report_skipped") != ""
        no_lies(guest)
        guest.power_off()


FREE = 128 * MIB


def use_then_ask(guest, name):
    """Only when all has something in it is the host asked."""
    if name == "hugetlb":
        guest.agent.run(f"echo 0 >{ZERO}hugetlb")
        gpas = use_pool(guest, 16)
    else:
        area = guest.area(FREE)
        area.fill(7)
        gpas = area.gpas[::512]
        area.free()
    guest.agent.run(f"echo 1 >{ZERO}{name}")
    return gpas


def take(guest, name):
    """Memory of whoever asked, which must be zero."""
    if name == "hugetlb":
        guest.area(16 * HUGE, huge=True).free()
    else:
        guest.area(FREE).free()


def lies(tap):
    with tap.test("a host that lies does not pass a probe"), boot(
            device=("allow=all", "x-lie=1"),
            append=VERIFY + ALONE + "pvmemctl.zero=probe") as guest:
        is_off(guest, "not seen")
        assert "leaves it as it is: not used" in guest.console()
        # It answered success, and was asked for nothing else then
        used = {f["name"]: (f["calls"], f["failed"])
                for f in guest.info()["devices"][0]["functions"]}
        assert used["zero"] == (1, 0), used
        assert not used.keys() & {"dontneed", "remove", "free", "vector"}, used
        guest.power_off()

    for name in "hugetlb", "report":
        with tap.test(f"a host that begins to lie is asked no more, {name}"), boot(
                device=("allow=all", "x-lie=3"), mem=320,
                append=VERIFY + ALONE + "pvmemctl.zero=probe") as guest:
            # The first range was the probe's
            assert state(guest) == "on: host was seen to do it", state(guest)
            use_then_ask(guest, name)
            wait_until(lambda guest=guest: state(guest).startswith("off: "), "it is found out")
            assert "does not do what it says" in state(guest), state(guest)
            assert number(guest, name + "_lies") == 1
            had = asked(guest, name)
            for _ in range(2):
                take(guest, name)
            time.sleep(1)
            assert asked(guest, name) == had
            assert "host claims to have zeroed memory and has not" in guest.console()
            guest.power_off()


def lies_are_seen(tap):
    """What says of all other hosts here that they do not lie, of one that does."""
    with tap.test("pvmemctl.zero_verify=1 sees all that the host lies about"), boot(
            device=("allow=all", "x-lie=1"), mem=320, append=VERIFY + ALONE) as guest:
        gpas = use_then_ask(guest, "hugetlb")
        wait_until(lambda: number(guest, "hugetlb_released") == 16 * HUGE, "it says it did")
        assert all(guest.is_backed(gpa + i * PAGE) for gpa in gpas for i in range(0, 512, 73))
        take(guest, "hugetlb")
        assert number(guest, "hugetlb_lies") == 16
        assert skipped(guest, "hugetlb", 9) == 0

        # Those that nobody has asked for, and whoever takes them does
        guest.agent.run(f"echo 0 >{ZERO}hugetlb")
        use_pool(guest, 16)
        guest.agent.run(f"echo 9 >{ZERO}order")
        guest.area(2 * HUGE, huge=True)
        guest.agent.run(f"echo none >{ZERO}order")
        assert number(guest, "call_lies") == 2

        # Little is free that was never used.  Each page is a complaint: not all are taken.
        guest.area(free(guest) - FREE - 32 * MIB)
        use_then_ask(guest, "report")
        wait_until(lambda: number(guest, "report_released") > FREE * 3 / 4, "it says it did")
        for _ in range(40):
            guest.area(MIB)
            if number(guest, "report_lies"):
                break
        assert number(guest, "report_lies")
        assert "is not zero" in guest.console()
        guest.power_off(70)

    with tap.test("these tests see what a guest gets that believes a liar"), boot(
            device=("allow=all", "x-lie=1"), mem=320, append=ALONE) as guest:
        use_then_ask(guest, "hugetlb")
        wait_until(lambda: number(guest, "hugetlb_released") == 16 * HUGE, "it says it did")
        assert vm.Area(guest.agent, 16 * HUGE, huge=True).dirty == 16 * HUGE // PAGE
        guest.power_off()


if __name__ == "__main__":
    vm.main(off, old_host, reserved_at_boot, comes_and_goes, balloon, small, reset, hibernate,
            refuses, lies, lies_are_seen)
