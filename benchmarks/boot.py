"""Boot times as a user sees them: from the command to the shell's prompt."""

from __future__ import annotations

import os
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import platformdirs

from benchmarks.result import Result
from pyvmm.root_of_trust import DIRECTORY_VARIABLE, RootOfTrust
from pyvmm.vm.images.debian import Recipe, build_debian

QEMU = "qemu-system-aarch64"
PYVMM = str(Path(sys.executable).parent / "pyvmm")
GUEST = Path("build/debian")
PROMPT = b"root@debian:"
TIMEOUT = 180.0
MEMORY = "512M"
NUM_HELLOS = 9
NUM_BOOTS = 2
NUM_ROUNDS = 3


def seconds_until(command: Sequence[str], text: bytes) -> float:
    """Return the seconds from starting a command to a text in its output.

    Raises RuntimeError, with the end of the output, if the text does not appear.
    """
    start = time.monotonic()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    seen = b""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while text not in seen:
                left = TIMEOUT - (time.monotonic() - start)
                chunk = b""
                if left > 0 and selector.select(left):
                    chunk = os.read(process.stdout.fileno(), 65536)
                if not chunk:
                    last = seen.decode(errors="replace")[-2000:]
                    raise RuntimeError(f"{command[0]} did not print {text!r}; its output:\n{last}")
                seen += chunk
        return time.monotonic() - start
    finally:
        process.terminate()  # so that it leaves nothing behind
        process.communicate()


def ensure_guest() -> None:
    """Build the Debian image if it does not exist."""
    subprocess.run([PYVMM, "image", "build", "debian", "--output", str(GUEST)], check=True)


def with_disk(command: Sequence[str], disk_option: str, text: bytes, guest: Path = GUEST) -> float:
    """Time a command on a fresh copy of the disk, so that all runs are alike.

    ``disk_option`` has ``{}`` in place of the disk's path.
    """
    with tempfile.TemporaryDirectory(dir=guest) as directory:
        disk = Path(directory) / "rootfs.img"
        subprocess.run(
            ["cp", "--sparse=always", "--reflink=auto", str(guest / "rootfs.img"), str(disk)],
            check=True,
        )
        return seconds_until([*command, *disk_option.format(disk).split()], text)


def time_pyvmm(*options: str) -> float:
    """Return the seconds to Debian's prompt."""
    command = [PYVMM, "run", *options, "-m", MEMORY, "--kernel", str(GUEST / "Image")]
    command += ["--initrd", str(GUEST / "initrd.img")]
    return with_disk(command, "--disk {}", PROMPT)


def cpu_seconds(boot: Callable[[], object]) -> float:
    """Return the CPU time of a boot, which other load on the host hardly changes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    boot()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cpu_seconds_of_kernel(flavour: str) -> float:
    """Return the CPU time that Debian takes to its prompt with another of its kernels."""
    guest = Path(f"{GUEST}-{flavour}")
    cache = platformdirs.user_cache_path("pyvmm")
    image = build_debian(guest, cache, lambda _what, _percent: None, recipe=Recipe(kernel=flavour))
    command = [PYVMM, "run", "-m", MEMORY, "-k", str(image.kernel), "-i", str(image.initrd)]
    return cpu_seconds(lambda: with_disk(command, "--disk {}", PROMPT, guest))


def page_size() -> Iterator[Result]:
    """Debian's kernel with pages of 4 KiB and the same one with 16 KiB: CPU time to the prompt."""
    flavours = ("arm64", "arm64-16k")
    runs = [[cpu_seconds_of_kernel(flavour) for flavour in flavours] for _ in range(NUM_BOOTS)]
    small, large = map(min, zip(*runs, strict=True))
    yield Result("linux-4k-cpu", small, "s")
    yield Result("linux-16k-cpu", large, "s", goal=1.15 * small)


def time_qemu() -> float:
    """Return QEMU's seconds to the same prompt."""
    command = [QEMU, "-M", "virt", "-cpu", "cortex-a76", "-m", MEMORY, "-nographic"]
    command += ["-kernel", str(GUEST / "Image"), "-initrd", str(GUEST / "initrd.img")]
    command += ["-append", "console=ttyAMA0 root=/dev/vda rw", "-net", "none"]
    command += ["-global", "virtio-mmio.force-legacy=false"]
    disk = "-drive file={},if=none,format=raw,id=disk -device virtio-blk-device,drive=disk"
    return with_disk(command, disk, PROMPT)


@contextmanager
def own_hes() -> Iterator[None]:
    """Give the realms a separate root of trust that already has an identity."""
    with tempfile.TemporaryDirectory() as directory:
        before = os.environ.get(DIRECTORY_VARIABLE)
        os.environ[DIRECTORY_VARIABLE] = str(Path(directory) / "hes")
        try:
            with RootOfTrust() as root_of_trust:
                root_of_trust.power_on()
            yield
        finally:
            del os.environ[DIRECTORY_VARIABLE]
            if before is not None:
                os.environ[DIRECTORY_VARIABLE] = before


def time_hello(*options: str) -> float:
    """Return the seconds from the command to the end of the built-in guest in a realm."""
    start = time.monotonic()
    subprocess.run(
        [PYVMM, "run", "--realm", *options],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=60,
    )
    return time.monotonic() - start


def realm_hello() -> Iterator[Result]:
    """The built-in guest in a realm, and the part of its time that starting the HES takes."""
    with own_hes():
        time_hello()  # compiles what no earlier start has compiled
        pairs = [(time_hello(), time_hello("--no-hes")) for _ in range(NUM_HELLOS)]
    yield Result("realm-hello", median(with_hes for with_hes, _ in pairs), "s", goal=1.0)
    added = median(with_hes - without for with_hes, without in pairs)
    yield Result("hes-start", added, "s", goal=0.15)


def list_instances() -> Iterator[Result]:
    """`pyvmm list`, which a prompt or a status line may call."""

    def seconds() -> float:
        start = time.monotonic()
        subprocess.run([PYVMM, "list"], check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - start

    seconds()  # compiles what no earlier start has compiled
    yield Result("list", median(seconds() for _ in range(NUM_HELLOS)), "s", goal=0.08)


def time_banner() -> float:
    """Return the seconds from creating an instance to its realm's first line about RSI."""
    name = f"benchmark-{os.getpid()}"
    banner = ("wait", name, "--for", "console:RSI version", "--timeout", "60")
    start = time.monotonic()
    try:
        for words in (("create", name, "--realm", "-m", "64M"), ("start", name), banner):
            subprocess.run([PYVMM, *words], check=True)
        return time.monotonic() - start
    finally:
        subprocess.run([PYVMM, "destroy", name], check=True)


def realm_banner() -> Iterator[Result]:
    """The built-in guest in a realm, step by step: create, start, wait for its RSI version."""
    with own_hes():
        seconds = median(time_banner() for _ in range(NUM_HELLOS))
    yield Result("realm-banner", seconds, "s", goal=1.5)


def debian() -> Iterator[Result]:
    """Debian to its prompt, as a VM, as a realm and in QEMU with the same files: CPU time.

    The third boot is that of a realm with a virtio console: output to a UART costs two exits per
    character.
    """
    ensure_guest()
    boots: dict[str, Callable[[], object]] = {
        "debian-vm": time_pyvmm,
        "debian-realm": partial(time_pyvmm, "--realm"),
        "debian-realm-virtio": partial(time_pyvmm, "--realm", "--console", "virtio"),
    }
    if shutil.which(QEMU) is not None:
        boots[QEMU] = time_qemu
    with own_hes():
        rounds = [[cpu_seconds(boot) for boot in boots.values()] for _ in range(NUM_ROUNDS)]
    seconds = dict(zip(boots, map(median, zip(*rounds, strict=True)), strict=True))
    peer, realm_goal = seconds.pop(QEMU, None), 1.25 * seconds["debian-vm"]
    for name, taken in seconds.items():
        is_realm = name != "debian-vm"
        goals = (realm_goal, 0.8) if is_realm else (None, 0.6)
        yield Result(name, taken, "s", goal=goals[0], peer=peer, goal_ratio=goals[1])
