"""What programs cost in a guest: the host's CPU time, beside QEMU's for the same files.

The guest is Debian with a compiler, Python and OpenSSL. Both run each program in turn, so that
other work on the host disturbs both; the figure is the median of the rounds.
"""

from __future__ import annotations

import base64
import os
import re
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Self

import platformdirs

from benchmarks.boot import MEMORY, PROMPT, PYVMM, QEMU
from benchmarks.result import Result
from pyvmm.vm.images.debian import Image, Recipe, build_debian

GUEST = Path("build/debian-programs")
RECIPE = Recipe(packages=("gcc", "libc6-dev", "openssl", "python3-minimal"))
SOURCES = {name: Path(__file__).parent / f"{name}.c" for name in ("programs", "compute")}
RAM_KIB = int(MEMORY.removesuffix("M")) * 1024
TIMEOUT = 600.0
NUM_ROUNDS = 3
TICKS = os.sysconf("SC_CLK_TCK")
LINE = 512  # characters, less than a terminal takes at once

PREPARATION = (
    "gcc -O2 -pthread programs.c -o programs",
    "gcc -O2 -fno-tree-vectorize compute.c -o scalar",
    "gcc -O3 compute.c -o vectorised",
    "cat /usr/lib/aarch64-linux-gnu/lib*.so* | head -c 8000000 >data",
)
THREADS = "./programs threads 100000000"


@dataclass(frozen=True)
class Program:
    """A command, and the goal: the highest acceptable ratio to QEMU's time."""

    name: str
    command: str
    goal: float


PROGRAMS = (
    Program("scalar", "./scalar mix 50000", 1 / 1.6),
    Program("vectorised", "./vectorised mix 50000", 1 / 1.4),
    Program("filter", "./vectorised filter 100000", 1 / 1.4),
    Program("qsort", "./scalar sort 100", 1 / 1.3),
    Program("hash", "./scalar hash 50000000", 1 / 1.3),
    Program("sieve", "./scalar sieve 300", 1 / 1.3),
    Program("openssl-sha256", "openssl dgst -sha256 data data data data", 1 / 1.3),
    Program(
        "openssl-aes-gcm",
        "openssl speed -evp aes-128-gcm -bytes 8192 -seconds 2 -mr 2>&1",
        1 / 1.3,
    ),
    Program("python-start", "for n in 1 2 3 4 5; do python3 -c pass; done", 1 / 1.3),
    Program("python-loop", "python3 -c 'print(sum(n * n % 7 for n in range(1000000)))'", 1 / 1.3),
    Program("gcc", "gcc -O2 -c programs.c", 1 / 1.3),
    Program("gzip", "gzip -c data >/dev/null", 1 / 1.3),
    Program("memcpy-4M", "./programs memcpy 300", 1 / 1.2),
    Program("getpid", "./programs getpid 500000", 1 / 1.2),
    Program("pipe", "./programs pipe 20000", 1 / 1.2),
    Program("fork-exec", "./programs exec 200", 1 / 1.2),
    Program("page-fault", "./programs page-fault 50000", 1 / 1.2),
)


class Guest:
    """A running guest at its prompt; a context manager that ends it."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        self._selector.register(self._output, selectors.EVENT_READ)
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._selector.close()
        self._process.kill()
        self._process.communicate()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Return the match of a pattern in the output, which may contain what precedes it."""
        seen, deadline = b"", time.monotonic() + TIMEOUT
        while not (match := re.search(pattern, seen.decode(errors="replace"), re.DOTALL)):
            left = deadline - time.monotonic()
            chunk = b""
            if left > 0 and self._selector.select(left):
                chunk = os.read(self._output, 65536)
            if not chunk:
                raise RuntimeError(f"no {pattern} in {seen.decode(errors='replace')[-2000:]}")
            seen += chunk
        return match

    def run(self, command: str) -> str:
        """Run a command; return what it printed.

        Raises RuntimeError if it fails.
        """
        self._count += 1
        assert self._process.stdin is not None
        # The quotes are not in what echo prints, but in the terminal's echo of the command.
        self._process.stdin.write(f"{command}; echo do''ne-{self._count}-$?.\n".encode())
        self._process.stdin.flush()
        output, status = self.wait_for(rf"(.*)done-{self._count}-(\d+)\.").groups()
        if status != "0":
            raise RuntimeError(f"{command}: exit status {status}: {output[-2000:]}")
        return str(output)

    def cpu_seconds(self) -> float:
        """Return the CPU time of the process so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self) -> float:
        """Return the MiB of memory that the process uses besides the guest's RAM.

        What is mapped twice counts once.
        """
        text = Path(f"/proc/{self._process.pid}/smaps").read_text()
        mappings = re.findall(
            r"^Size: +(\d+) kB$.*?^Pss: +(\d+) kB$", text, re.MULTILINE | re.DOTALL
        )
        return sum(int(used) for size, used in mappings if int(size) < RAM_KIB) / 1024

    def prepare(self) -> None:
        """Make the files that the programs use."""
        self.wait_for(re.escape(PROMPT.decode()))
        for name, source in SOURCES.items():
            text = base64.b64encode(source.read_bytes()).decode()
            for at in range(0, len(text), LINE):
                self.run(f"echo {text[at : at + LINE]} >>{name}.base64")
            self.run(f"base64 -d {name}.base64 >{name}.c")
        for command in PREPARATION:
            self.run(command)

    def measure(self, program: Program) -> float:
        """Return the seconds of a program; of one that counts what it does, per million."""
        before = self.cpu_seconds()
        output = self.run(program.command)
        seconds = self.cpu_seconds() - before
        done = re.search(r"\+R:(\d+):", output)
        return seconds / int(done[1]) * 1e6 if done else seconds


def start(stack: ExitStack, command: list[str], image: Image) -> Guest:
    """Boot a guest on a copy of the disk, which the command names as ``{}``, and prepare it."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=image.directory)))
    disk = directory / "rootfs.img"
    subprocess.run(
        ["cp", "--sparse=always", "--reflink=auto", str(image.rootfs), str(disk)], check=True
    )
    guest = stack.enter_context(Guest([word.format(disk) for word in command]))
    guest.prepare()
    return guest


def commands(image: Image) -> Iterator[list[str]]:
    """Return the commands that boot the guest, ours and QEMU's."""
    files = [str(image.kernel), str(image.initrd)]
    yield [PYVMM, "run", "-m", MEMORY, "-k", files[0], "-i", files[1], "-d", "{}", "--no-agent"]
    if shutil.which(QEMU) is not None:
        machine = ["-M", "virt", "-cpu", "cortex-a76", "-m", MEMORY, "-nographic", "-net", "none"]
        kernel = ["-kernel", files[0], "-initrd", files[1]]
        disk = ["-drive", "file={},if=none,format=raw,id=disk"]
        yield [
            *(QEMU, *machine, *kernel, "-append", "console=ttyAMA0 root=/dev/vda rw"),
            *(*disk, "-device", "virtio-blk-device,drive=disk"),
            *("-global", "virtio-mmio.force-legacy=false"),
        ]


def build() -> Image:
    """Build the guest, unless that is done."""
    cache = platformdirs.user_cache_path("pyvmm")
    return build_debian(GUEST, cache, lambda _what, _percent: None, recipe=RECIPE)


def programs() -> Iterator[Result]:
    """Programs in a Debian guest: CPU time of the host, and of QEMU for the same."""
    image = build()
    with ExitStack() as stack:
        guests = [start(stack, command, image) for command in commands(image)]
        for program in PROGRAMS:
            for guest in guests:
                guest.measure(program)  # reads its files, and translates its code
            rounds = [[guest.measure(program) for guest in guests] for _ in range(NUM_ROUNDS)]
            ours, *theirs = map(median, zip(*rounds, strict=True))
            peer = theirs[0] if theirs else None
            yield Result(program.name, ours, "s", peer=peer, goal_ratio=program.goal)
        used, *others = [guest.memory() for guest in guests]
        yield Result("memory", used, "MiB", peer=others[0] if others else None, goal_ratio=1.0)


def two_cpus() -> Iterator[Result]:
    """Two threads that only compute: the time on one CPU over the time on two."""
    image = build()
    times = []
    for count in ("1", "2"):
        with ExitStack() as stack:
            ours = next(commands(image))
            guest = start(stack, [*ours, "-c", count], image)
            begin = time.monotonic()
            guest.run(THREADS)
            times.append(time.monotonic() - begin)
    yield Result("two-cpus", times[0] / times[1], "times", goal=1.8)
