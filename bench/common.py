# SPDX-License-Identifier: GPL-2.0-only
"""What the benches share: a guest that does as it is told, figures, goals."""

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(ROOT, "build")
OUT = os.path.join(BUILD, "bench")
QEMU = os.path.join(BUILD, "out/qemu/qemu-system-x86_64")
sys.path.insert(0, os.path.join(ROOT, "host-ref/oracle"))

import oracle  # noqa: E402  pylint: disable=wrong-import-position

BOOT_SECONDS = 120
ANSWER_SECONDS = 300
END_SECONDS = 20
STRACE_SECONDS = 10

PR_SET_THP_DISABLE = 41      # linux/prctl.h


class BenchError(Exception):
    """Something that the bench needs does not work; its text says what."""


def run_bench(main):
    """Run a bench: a signal ends the guest as well, an error is told in a line."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        main()
    except BenchError as error:
        sys.exit(f"bench: error: {error}")


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


# --- Programs ----------------------------------------------------------------

def compile_c(name, sources, *options):
    """Compile C sources of bench/; return the path of the result."""
    path = os.path.join(OUT, name)
    os.makedirs(OUT, exist_ok=True)
    sources = [os.path.join(ROOT, "bench", source) for source in sources]
    done = subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", path, *sources, *options],
                          stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise BenchError(f"cannot compile {name}:\n{done.stderr}")
    return path


def compile_program(name, *sources):
    return compile_c(name, sources, "-static", "-pthread", "-D_GNU_SOURCE",
                     "-I", os.path.join(ROOT, "include/uapi"))


def compile_plugin(name, *sources):
    glib = subprocess.run(["pkg-config", "--cflags", "glib-2.0"], check=True,
                          stdout=subprocess.PIPE, text=True).stdout.split()
    return compile_c(name, sources, "-shared", "-fPIC", "-Wno-unused-parameter", *glib,
                     "-I", os.path.join(BUILD, "qemu/include/qemu"))


class Server:
    """A program that answers a line with a line "ok NUMBER..."."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def wait_ready(self):
        if self.reader.readline() != "ready\n":
            raise BenchError("a program did not start")

    def ask(self, *words):
        """Its answer, as a list of numbers."""
        line = " ".join(str(word) for word in words)
        self.writer.write(line + "\n")
        self.writer.flush()
        try:
            answer = self.reader.readline()
        except TimeoutError:
            answer = f"nothing within {ANSWER_SECONDS} s"
        if not answer.startswith("ok "):
            raise BenchError(f"to '{line}' the answer was '{answer.strip()}'")
        return [int(word) for word in answer.split()[1:]]


@contextlib.contextmanager
def native(command):
    """A program of this machine that takes commands on its standard input."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:
        server = Server(process.stdout, process.stdin)
        server.wait_ready()
        yield server
        process.stdin.close()


# --- The guest ---------------------------------------------------------------

class Guest(Server):
    """A booted guest, its program, and what can be asked from outside."""

    def __init__(self, port, qmp, run):
        super().__init__(port.makefile("r"), port.makefile("w"))
        self.qmp = qmp
        self.run = run
        self.pid = qmp.pid
        self.vcpu = qmp.command("query-cpus-fast")[0]["thread-id"]

    def threads(self):
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def counters(self):
        """Of the device: {function: {counter: number}}."""
        device = self.qmp.command("query-pvmemctl")["devices"][0]
        return {f["name"]: f for f in device["functions"]}

    def counted(self, *words):
        """Ask; the answer, and by how much the device's counters grew."""
        before = self.counters()
        answer = self.ask(*words)
        grown = {}
        for name, now in self.counters().items():
            old = before.get(name, {})
            grown[name] = {key: value - old.get(key, 0) for key, value in now.items()
                           if key not in ("name", "longest-ns")}
            grown[name]["longest-ns"] = now["longest-ns"]
        return answer, grown

    def traced(self, event, *words):
        """Ask; the lines that a trace event of QEMU wrote meanwhile."""
        path = os.path.join(self.run, "trace.log")

        with open(path, encoding="utf-8") as log:
            log.seek(0, os.SEEK_END)
            self.qmp.hmp(f"trace-event {event} on")
            self.ask(*words)
            self.qmp.hmp(f"trace-event {event} off")
            return [line for line in log if event in line]

    def straced(self, *words):
        """Ask; {system call: times} of the thread of the first virtual CPU."""
        path = os.path.join(self.run, "strace")
        with subprocess.Popen(["strace", "-p", str(self.vcpu), "-o", path],
                              stderr=subprocess.PIPE, text=True) as strace:
            said = strace.stderr.readline()
            if "attached" not in said:
                strace.terminate()
                raise BenchError(f"strace does not work here: {said.strip()}")
            self.ask(*words)
            strace.send_signal(signal.SIGINT)
            strace.wait(STRACE_SECONDS)
        calls = {}
        with open(path, encoding="utf-8") as file:
            for name in re.findall(r"^(\w+)\(", file.read(), re.MULTILINE):
                calls[name] = calls.get(name, 0) + 1
        return calls


def end(process):
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def forbid_thp():
    """For this process and its children."""
    oracle.call("prctl", PR_SET_THP_DISABLE, *map(ctypes.c_ulong, (1, 0, 0, 0)))


def accept(server, process, what):
    """Somebody connects to @server before @process ends."""
    server.settimeout(0.2)
    end = time.monotonic() + BOOT_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(socket.timeout):
            connection = server.accept()[0]
            connection.settimeout(ANSWER_SECONDS)
            return connection
    raise BenchError(f"the guest did not start: {what}")


def check_kernels(kernels):
    """Are they built, with the series and without?"""
    for kernel in kernels:
        for name, unpatched in (kernel, ""), (kernel + "-unpatched", " --unpatched"):
            if not os.path.exists(os.path.join(BUILD, "out", name, "arch/x86/boot/bzImage")):
                raise BenchError(f"the kernel '{name}' is not built: run "
                                 f"scripts/build --kernel {kernel}{unpatched} linux")


@contextlib.contextmanager
def boot(name, program, cpus, *options, device=(), qemu=(), append="", mem=2560, thp=True):
    """A guest that runs @program PORT @cpus as a server.

    Without @thp this machine's kernel gives QEMU no huge pages of its own accord.
    """
    run = os.path.join(OUT, "run-" + name)
    os.makedirs(run, exist_ok=True)
    with contextlib.ExitStack() as stack:
        sockets = stack.enter_context(tempfile.TemporaryDirectory(prefix="pvmemctl."))
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(sockets + "/port")
        listener.listen()
        qemu = ["-D", os.path.join(run, "trace.log"),
                "-chardev", f"socket,id=bench,path={sockets}/port,server=off",
                "-device", "virtserialport,chardev=bench,name=org.pvmemctl.bench", *qemu]
        command = [os.path.join(ROOT, "scripts/boot"), "--run", run, "--smp", str(cpus),
                   "--mem", str(mem), "--append", append, "--add", program, "--timeout", "3600",
                   *options]
        for arg in device:
            command += ["--device-arg", arg]
        for arg in qemu:
            command += ["--qemu-arg", arg]
        command += ["--", "/" + os.path.basename(program),
                    "/dev/virtio-ports/org.pvmemctl.bench", str(cpus)]
        said = stack.enter_context(open(os.path.join(run, "boot.log"), "w+", encoding="utf-8"))
        open(os.path.join(run, "trace.log"), "w", encoding="utf-8").close()
        process = stack.enter_context(subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            preexec_fn=None if thp else forbid_thp))
        stack.callback(end, process)
        port = stack.enter_context(accept(listener, process, said.name))
        qmp = oracle.Qmp(os.path.realpath(os.path.join(run, "qmp.sock")))
        guest = Guest(port, qmp, run)
        guest.wait_ready()
        yield guest
        # The guest's program sees the end of its commands, and the guest ends
        guest.writer.close()
        guest.reader.close()
        port.close()
        if process.wait(BOOT_SECONDS):
            said.seek(0)
            raise BenchError(f"the guest did not end well:\n{said.read()}")


# --- Results -----------------------------------------------------------------

def as_list(value):
    return value if isinstance(value, list) else [value]


class Report:
    """Figures and goals, as a table and as JSON."""

    def __init__(self, name, accelerator):
        self.name, self.accelerator = name, accelerator
        self.figures, self.goals, self.notes = [], [], []
        self.path = os.path.join(OUT, name + ".json")
        # A run that fails must not leave an older one's result
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.path)

    def figure(self, name, unit, ours, against=None, other=None, **more):
        """Of a list of rounds the median counts, and the spread is kept."""
        ours = as_list(ours)
        figure = {"name": name, "unit": unit, "ours": statistics.median(ours),
                  "against": against, "other": None, "ratio": None,
                  "min": min(ours), "max": max(ours), "rounds": len(ours)}
        if other is not None:
            other = as_list(other)
            figure["other"] = statistics.median(other)
            figure["other_min"], figure["other_max"] = min(other), max(other)
            if figure["other"]:
                figure["ratio"] = figure["ours"] / figure["other"]
        figure.update(more)
        self.figures.append(figure)
        return figure

    def goal(self, name, value, limit, met, **more):
        """A goal without a value was not measured, and is not met."""
        self.goals.append({"name": name, "value": value, "limit": limit,
                           "met": bool(value is not None and met), **more})

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)

    def write(self):
        os.makedirs(OUT, exist_ok=True)
        with open(self.path, "w", encoding="utf-8") as file:
            json.dump({"name": self.name, "accelerator": self.accelerator,
                       "figures": self.figures, "goals": self.goals,
                       "notes": self.notes}, file, indent=1)
            file.write("\n")

    def print(self):
        def number(value):
            if value is None:
                return "-"
            return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"

        width = max((len(f["name"]) for f in self.figures), default=0)
        print(f"{'FIGURE':{width}} {'OURS':>9} {'MIN':>9} {'MAX':>9} {'OTHER':>9} {'RATIO':>7}"
              f"  {'UNIT':12} AGAINST")
        for f in self.figures:
            print(f"{f['name']:{width}} {number(f['ours']):>9} {number(f['min']):>9}"
                  f" {number(f['max']):>9} {number(f['other']):>9} {number(f['ratio']):>7}"
                  f"  {f['unit']:12} {f['against'] or ''}")
        print()
        for g in self.goals:
            where = f" ({g['worst']})" if g.get("worst") else ""
            print(f"{'met    ' if g['met'] else 'NOT MET'} {g['name']}:"
                  f" {number(g['value'])}, limit {number(g['limit'])}{where}")
        for note in self.notes:
            print(f"note: {note}")


# --- Is a report well-formed?  common.py NAME PATTERN ----------------------------

NUMBER = (int, float)
FIGURE = {"name": str, "unit": str, "ours": NUMBER, "against": (str, type(None)),
          "other": (*NUMBER, type(None)), "ratio": (*NUMBER, type(None)),
          "min": NUMBER, "max": NUMBER}
GOAL = {"name": str, "value": (*NUMBER, type(None)), "limit": NUMBER, "met": bool}


def complaints(name, pattern):
    """What is wrong with a report; the goals that match @pattern must be met."""
    with open(os.path.join(OUT, name + ".json"), encoding="utf-8") as file:
        report = json.load(file)
    if report["name"] != name or not report["accelerator"]:
        yield "it does not say what it is"
    for kind, shape in ("figures", FIGURE), ("goals", GOAL):
        if not report[kind]:
            yield f"there are no {kind}"
        for entry in report[kind]:
            for key, types in shape.items():
                if key not in entry or not isinstance(entry[key], types):
                    yield f"'{key}' is not right: {entry}"
    counted = [goal for goal in report["goals"] if re.search(pattern, goal["name"])]
    if not counted:
        yield f"no goal is like '{pattern}'"
    for goal in counted:
        if not goal["met"]:
            yield f"not met: {goal}; {report['notes']}"


if __name__ == "__main__":
    found = list(complaints(*sys.argv[1:]))
    sys.exit("\n".join(found) if found else 0)
