# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual machines for tests: a guest that does as it is told, QEMU as its host
kernel sees it, and TAP.

A Vm is started by scripts/boot with the program guest/agent.c in it.  What the
guest asked for is judged by smaps and pagemap of the QEMU process, or by its
memory; never by what the device says alone.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

sys.dont_write_bytecode = True      # beside the sources
ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "host-ref/oracle"))
import oracle   # noqa: E402

BUILD = ROOT / "build"
PAGE = oracle.PAGE
MIB = 1 << 20
# For whatever has to happen some time, on a machine that does other things too
PATIENCE = 240
oracle.QMP_SECONDS = PATIENCE

# include/uapi/linux/pvmemctl.h
(INFO, DONTNEED, REMOVE, FREE, PAGEOUT, DONTDUMP, NAME, MLOCK, MUNLOCK,
 PROTECT_NONE, PROTECT_R, PROTECT_W, PROTECT_RW, MERGEABLE, UNMERGEABLE
 ) = range(15)
(QUERY, ZERO, POPULATE, HUGEPAGE, NOHUGEPAGE, DODUMP, COLD, VECTOR
 ) = range(32, 40)

# What leaves something behind, and its argument; names are for some kernels only
NAMES = "anon_name=1" in oracle.host()
SETTINGS = [(PROTECT_R, 0), (PROTECT_NONE, 0), (MLOCK, 0), (DONTDUMP, 0),
            (UNMERGEABLE, 0)] + NAMES * [(NAME, 77)]

# The guest kernel's own calls would be among those that a test makes and counts
CONSUMERS_OFF = "pvmemctl.stack=off pvmemctl.zero=off"


class Skip(Exception):
    """A test cannot be made here; its text says why."""


def wait_until(condition, what, seconds=PATIENCE):
    """Wait for a condition; return what it is, which is not false."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.1)


class Qmp(oracle.Qmp):
    """QMP that keeps the events, and says why a command failed."""

    def __init__(self, path):
        self.events = []
        super().__init__(path)

    def receive(self):
        messages = super().receive()
        self.events += [m for m in messages if "event" in m]
        for message in messages:
            if "error" in message:
                raise oracle.OracleError(message["error"]["desc"])
        return messages

    def has_event(self, name):
        """The data of the first event of that name, which is then forgotten."""
        self.command("query-name")      # takes in what has come
        for event in self.events:
            if event["event"] == name:
                self.events.remove(event)
                return event.get("data") or {"": ""}
        return None

    def wait_event(self, name):
        return wait_until(lambda: self.has_event(name), f"event {name}")


class Agent:
    """The program in the guest."""

    def __init__(self, path):
        self.sock = oracle.connect(path)
        self.input = self.sock.makefile("rb")
        self.serial = 0

    def close(self):
        self.input.close()
        self.sock.close()

    def send(self, request):
        self.serial += 1
        try:
            self.sock.sendall(f"{self.serial} {request}\n".encode())
        except ConnectionError as e:
            raise AssertionError(f"QEMU ended: {e}") from None

    def receive(self, seconds=PATIENCE):
        """The answer to the last request, and what follows it."""
        self.sock.settimeout(seconds)
        while True:
            # A reader that timed out once reads no more
            line = b""
            try:
                while not line.endswith(b"\n"):
                    byte = self.sock.recv(1)
                    if not byte:
                        raise AssertionError("the guest's port is closed")
                    line += byte
            except TimeoutError:
                raise AssertionError(
                    f"the guest did not answer within {seconds} s") from None
            except ConnectionError as e:
                raise AssertionError(f"QEMU ended: {e}") from None
            words = line.decode(errors="replace").split()
            if words and words[0] == str(self.serial):
                return words[1:]

    def ask(self, request, seconds=PATIENCE):
        self.send(request)
        words = self.receive(seconds)
        if words[:1] != ["ok"]:
            raise AssertionError(f"{request}: {' '.join(words)}")
        return words[1:]

    def sh(self, command, seconds=PATIENCE):
        """(status, output) of a command."""
        status, length = map(int, self.ask("sh " + command, seconds))
        said = b""
        while len(said) < length:
            said += self.sock.recv(length - len(said))
        return status, said.decode(errors="replace")

    def run(self, command, seconds=PATIENCE):
        status, said = self.sh(command, seconds)
        assert not status, f"{command}: status {status}: {said}"
        return said

    def call(self, code, gpa=0, length=PAGE, arg=0):
        """(errno of the ioctl, errno of the host)."""
        answer = self.ask(f"call {code} {gpa} {length} {arg}")
        return int(answer[0]), int(answer[1])

    def do(self, code, gpa, length=PAGE, arg=0):
        said = self.call(code, gpa, length, arg)
        assert said == (0, 0), f"function {code} at 0x{gpa:x}: {said}"


class Area:
    """Memory that the agent has, locked in the guest."""

    def __init__(self, agent, length, huge=False):
        self.agent, self.length = agent, length
        number, dirty, *runs = agent.ask(f"alloc {length}" + " huge" * huge)
        self.id = int(number)
        self.dirty = int(dirty)     # pages that were not zero
        self.gpas = []
        for run in runs:
            start, size = (int(n, 16) for n in run.split(":"))
            self.gpas += range(start, start + size, PAGE)

    def fill(self, seed):
        self.agent.ask(f"fill {self.id} {seed}")

    def check(self, seed):
        """(pages that differ from what fill wrote, zero pages among them)."""
        bad, zero = self.agent.ask(f"check {self.id} {seed}")
        return int(bad), int(zero)

    def free(self):
        self.agent.ask(f"free {self.id}")

    def gpa(self, page):
        return self.gpas[page]


class Vm:
    """A guest in QEMU, and the agent in it."""

    def __init__(self, *options, device=(), qemu=(), append="", mem=256,
                 smp=2, incoming=None, device_option=True, raw=False,
                 consumers=False):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="pvmemctl-vm."))
        self.agent_path = str(self.dir / "agent")
        args = [ROOT / "scripts/boot", "--run", self.dir / "run",
                "--timeout", "900", "--mem", mem, "--smp", smp,
                "--add", f"{agent_program()}:/bin/agent", *options]
        if device_option:
            args += sum((["--device-arg", a] for a in device), [])
        qemu = list(qemu) + [
            "-chardev", f"socket,id=agent,path={self.agent_path},server=on,wait=off",
            "-device", "virtserialport,chardev=agent,name=org.pvmemctl.agent"]
        if incoming:
            qemu += ["-S", "-incoming", incoming]
        args += sum((["--qemu-arg", a] for a in qemu), [])
        if not consumers:
            append = f"{CONSUMERS_OFF} {append}"
        if append:
            args += ["--append", append]
        self.raw = raw      # the agent is the driver
        self.log = open(self.dir / "boot.log", "wb")
        self.process = subprocess.Popen(
            [str(a) for a in [*args, "--", "agent"]], stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)
        self.qmp = self.agent = None
        try:
            self.connect(incoming)
        except BaseException:
            self.explain()
            self.close()
            raise

    def connect(self, incoming):
        run = self.dir / "run"

        def is_up():
            assert self.process.poll() is None, "boot ended: " + self.said()
            return (run / "qemu.pid").exists() and (run / "qmp.sock").exists()

        wait_until(is_up, "QEMU starts")
        self.qmp = Qmp(str(run / "qmp.sock"))
        self.pid = int((run / "qemu.pid").read_text())
        self.agent = Agent(self.agent_path)
        self.boot = None
        if not incoming:
            self.wait_boot()

    def said(self):
        """What boot and QEMU printed, and the end of the console."""
        return "\n".join(
            path.read_text(errors="replace")[-2000:]
            for path in (self.dir / "boot.log", self.dir / "run/qemu.log",
                         self.dir / "run/console.log") if path.exists())

    def console(self):
        return (self.dir / "run/console.log").read_text(errors="replace")

    def qemu_log(self):
        return (self.dir / "run/qemu.log").read_text(errors="replace")

    def wait_boot(self):
        """Wait until a kernel other than the last one runs the agent."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "boot ended: " + self.said()
            boot = None
            # A request may be lost with the kernel that took it
            with contextlib.suppress(AssertionError):
                boot = self.agent.ask("ping", 5)
            if boot and boot != self.boot:
                self.boot = boot
                if self.raw:
                    self.start_raw()
                return
            time.sleep(0.2)
        raise AssertionError("the guest did not come up: " + self.said())

    def start_raw(self):
        """Take the device from its driver, if there is one."""
        found = self.agent.run(
            "cd /sys/bus/pci/devices && grep -l 0x1ae0 */vendor").split()
        device = "/sys/bus/pci/devices/" + found[0].split("/")[0]
        self.agent.sh(f"cd {device}; [ ! -e driver ] ||"
                      f" echo ${{PWD##*/}} >driver/unbind; echo 1 >enable")
        self.agent.ask(f"raw {device}/resource0")

    def area(self, length, huge=False):
        area = Area(self.agent, length, huge)
        assert not area.dirty, f"{area.dirty} pages with something of others in them"
        return area

    def info(self):
        return self.qmp.command("query-pvmemctl")

    def require_protocol(self, protocol):
        found = self.info()["devices"][0]["protocol"]
        if found != protocol:
            raise Skip(f"this QEMU's device speaks {found}")

    # What the host kernel says

    def blocks(self):
        return oracle.parse_ramblock(self.qmp.hmp("info ramblock"))

    def hva(self, gpa):
        flats = oracle.parse_flatview(self.qmp.hmp("info mtree -f"))
        return oracle.translate(self.blocks(), flats, gpa, PAGE)[0][0]

    def ram(self):
        """The RAM blocks that the guest may manage."""
        return [b for b in self.blocks() if re.match(r"(/objects/)?mem", b.name)]

    def attributes(self):
        """What smaps says of guest RAM: {block: [(start, end, attributes)]}.

        As offsets in the block; neighbours that are alike are one.
        """
        found = {}
        for block in self.ram():
            low, high = block.hva, block.hva + block.size
            parts = found[block.name] = []
            for vma in oracle.read_vmas(self.pid, low, high):
                what = (vma.prot, vma.name, frozenset(
                    vma.flags & {"lo", "dd", "mg", "hg", "nh"}))
                start, end = max(low, vma.start) - low, min(high, vma.end) - low
                if parts and parts[-1][1:] == (start, what):
                    start = parts.pop()[0]
                parts.append((start, end, what))
        return found

    def page(self, gpa):
        """(protection, name, flags) of a page of the guest."""
        hva = self.hva(gpa)
        vma, = oracle.read_vmas(self.pid, hva, hva + PAGE)
        return vma.prot[:3], vma.name, vma.flags

    def read(self, gpa, length=PAGE):
        """The guest's memory, past all protections."""
        hva = self.hva(gpa)
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            return os.pread(memory.fileno(), length, hva)

    def is_backed(self, gpa):
        """Does the host hold memory for a page?  Not the shared zero page."""
        hva = self.hva(gpa)
        with oracle.open_proc(self.pid, "pagemap") as pagemap:
            return any(not kind & oracle.IS_ZERO for _, _, kind
                       in oracle.regions(pagemap, hva, hva + PAGE))

    def mappings(self):
        with open(f"/proc/{self.pid}/maps") as maps:
            return len(maps.readlines())

    # The end

    def power_off(self, status=0):
        """End the guest in order; boot has looked at its log then."""
        self.agent.send("exit")
        try:
            found = self.process.wait(PATIENCE)
        finally:
            self.agent.close()
        assert found == status, f"boot ended with {found}: " + self.said()

    def close(self):
        if self.agent:
            self.agent.close()
        if self.qmp:
            self.qmp.sock.close()
        if self.process.poll() is None:
            # boot ends QEMU, which is its child
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def explain(self):
        print("\n".join("# " + line for line in self.said().splitlines()[-60:]))

    def __exit__(self, kind, *_):
        if kind and not issubclass(kind, Skip):
            self.explain()
        self.close()


@contextlib.contextmanager
def hibernated(boot, before, append="", **options):
    """A guest that was hibernated after @before(guest), and has resumed."""
    with tempfile.NamedTemporaryFile(dir=BUILD, suffix=".swap") as disk:
        disk.truncate(600 << 20)
        options["qemu"] = ["-drive", f"file={disk.name},if=none,id=swap,format=raw",
                           "-device", "virtio-blk-pci,drive=swap"]
        options["append"] = f"{append} resume=/dev/vda nokaslr no_console_suspend"
        with boot(**options) as guest:
            guest.agent.run("mkswap /dev/vda && swapon /dev/vda")
            before(guest)
            guest.agent.run("echo keep >/tmp/kept")
            guest.agent.send("sh echo disk >/sys/power/state")
            guest.process.wait(240)
            assert "Image saving done" in guest.console() or "hibernation" in guest.console(), \
                guest.said()
        with boot(**options) as guest:
            assert guest.agent.run("cat /tmp/kept") == "keep\n", "it did not resume"
            yield guest


def agent_program():
    """guest/agent.c, compiled if it is newer."""
    source = ROOT / "host-ref/tests/vm/guest/agent.c"
    header = ROOT / "include/uapi/linux/pvmemctl.h"
    program = BUILD / "vm/agent"
    if not program.exists() or program.stat().st_mtime < max(
            source.stat().st_mtime, header.stat().st_mtime):
        program.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-static", "-isystem",
                        ROOT / "include/uapi", "-o", program, source, "-lpthread"],
                       check=True)
    return program


# --- TAP ----------------------------------------------------------------------

class Tap:
    """Runs tests and prints how they ended."""

    def __init__(self):
        self.count = self.failed = 0
        self.prefix = ""
        print("TAP version 13", flush=True)

    def result(self, ok, name, rest=""):
        self.count += 1
        self.failed += not ok
        print(f"{'' if ok else 'not '}ok {self.count} - {self.prefix}{name}{rest}",
              flush=True)

    @contextlib.contextmanager
    def test(self, name):
        """The test is what is done in the "with"; an exception fails it."""
        start = time.monotonic()
        try:
            yield
        except Skip as why:
            self.result(True, name, f" # SKIP {why}")
        except Exception:
            for line in traceback.format_exc().splitlines()[-12:]:
                print("#", line)
            self.result(False, name)
        else:
            self.result(True, name)
        print(f"# {time.monotonic() - start:.1f} s", flush=True)

    def end(self):
        print(f"1..{self.count}")
        sys.exit(1 if self.failed else 0)


def main(*suites):
    """Run functions that take a Tap; one that raises fails as a whole."""
    tap = Tap()
    wanted = sys.argv[1:]
    for suite in suites:
        name = suite.__name__
        if wanted and name not in wanted:
            continue
        try:
            suite(tap)
        except Skip as why:
            tap.result(True, name, f" # SKIP {why}")
        except Exception:
            for line in traceback.format_exc().splitlines()[-12:]:
                print("#", line)
            tap.result(False, name)
    tap.end()
