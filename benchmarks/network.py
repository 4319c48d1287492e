"""TCP and ping between a guest and its host, beside QEMU with the same backend.

Both guests run at the same time and are measured in turn.  Needs root, iperf3 and passt.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.boot import MEMORY, PYVMM, QEMU
from benchmarks.result import Result
from pyvmm.devices.net_passt import passt_options
from tests.boot.shell import Piped

GUEST: Final = Path("build/debian-iperf3")
NUM_RUNS: Final = 3
SECONDS: Final = 4
NUM_PINGS: Final = 20
NUM_LINES: Final = 200
MTU: Final = 65520
_NAMESPACE: Final = f"pyvmm-bench-{os.getpid()}"
_IN_NAMESPACE: Final = ("ip", "netns", "exec", _NAMESPACE)
_ROUND_TRIP: Final = re.compile(r"= [\d.]+/([\d.]+)/")


class Measured:
    """A running guest: its shell, and where it finds its host."""

    def __init__(self, running: Piped, host: str, prefix: Sequence[str] = ()) -> None:
        self._shell = running.shell
        self._host = host
        self._prefix = prefix
        self._shell.log_in()

    def run(self, command: str) -> str:
        """Run a command in the guest; return its output."""
        answer = self._shell.run(command)
        if answer.status:
            raise RuntimeError(f"{command}: {answer.output}")
        return answer.output

    def gigabits(self, *, is_download: bool) -> float:
        """Return the rate of one TCP connection in Gbit/s, as the receiver sees it."""
        command = [*self._prefix, "iperf3", "--server", "--one-off", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            client = f"iperf3 -c {self._host} -t {SECONDS}{' -R' if is_download else ''}"
            self.run(f"until {client}; do sleep 0.2; done >/tmp/log 2>&1")
            shown = json.loads(server.communicate()[0])
        sums = shown["end"]["sum_sent" if is_download else "sum_received"]
        return float(sums["bits_per_second"]) / 1e9

    def ping(self) -> float:
        """Return the mean time of a ping in µs."""
        shown = self.run(f"ping -q -c {NUM_PINGS} -i 0.1 {self._host}")
        match = _ROUND_TRIP.search(shown)
        if match is None:
            raise RuntimeError(shown)
        return float(match[1]) * 1000

    def round_trip(self) -> float:
        """Return the mean time in µs for a line to the host over TCP and back."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            loop = f"for i in {{0..{NUM_LINES}}}; do echo >&3; read -u3; done"
            self._shell.type(f"exec 3<>/dev/tcp/{self._host}/{port}; {loop}; exec 3>&-\n")
            connection, _ = server.accept()
            with connection, connection.makefile("rwb", buffering=0) as stream:
                start = time.monotonic()
                for index in range(NUM_LINES + 1):
                    if index == 1:
                        start = time.monotonic()
                    stream.write(stream.readline())
                stream.readline()
                end = time.monotonic()
        self.run("true")
        return (end - start) / NUM_LINES * 1e6


def compare(
    name: str, guests: Sequence[Measured], latency: Callable[[Measured], float]
) -> Iterator[Result]:
    """Measure our guest and its peer in turn, and yield the medians."""
    figures: dict[str, tuple[list[float], list[float]]] = {}
    for _ in range(NUM_RUNS):
        for who, guest in enumerate(guests):
            for what, figure in (
                ("send", guest.gigabits(is_download=False)),
                ("receive", guest.gigabits(is_download=True)),
                ("latency", latency(guest)),
            ):
                figures.setdefault(what, ([], []))[who].append(figure)
    for what, (here, there) in figures.items():
        unit = "µs" if what == "latency" else "Gbit/s"
        yield Result(f"{name}-{what}", median(here), unit, peer=median(there), goal_ratio=1.0)


def pyvmm_guest(disk: Path, network: str, *options: str) -> list[str]:
    """Return the command that runs our guest."""
    command = [PYVMM, "run", "-m", MEMORY, "-k", str(GUEST / "Image"), "-n", network, *options]
    return [*command, "-i", str(GUEST / "initrd.img"), "-d", str(disk)]


def qemu_guest(disk: Path, network: str, card: str = "") -> list[str]:
    """Return the command that runs the same guest in QEMU."""
    command = [QEMU, "-M", "virt", "-cpu", "cortex-a76", "-m", MEMORY, "-nographic"]
    command += ["-kernel", str(GUEST / "Image"), "-initrd", str(GUEST / "initrd.img")]
    command += ["-append", "console=ttyAMA0 root=/dev/vda rw"]
    command += ["-global", "virtio-mmio.force-legacy=false"]
    command += ["-drive", f"file={disk},if=none,format=raw,id=disk"]
    command += ["-device", "virtio-blk-device,drive=disk", "-netdev", f"{network},id=net"]
    return [*command, "-device", f"virtio-net-device,netdev=net,mac=02:15:15:15:15:16{card}"]


@contextmanager
def disks() -> Iterator[tuple[Path, Path, Path]]:
    """Build the guest if necessary; yield a directory and two copies of its disk."""
    build = [PYVMM, "image", "build", "debian", "--with", "iperf3", "--output", str(GUEST)]
    subprocess.run(build, check=True)
    with tempfile.TemporaryDirectory(dir=GUEST) as directory:
        ours, peer = Path(directory, "ours"), Path(directory, "peer")
        for disk in (ours, peer):
            copy = ["cp", "--sparse=always", "--reflink=auto", str(GUEST / "rootfs.img"), str(disk)]
            subprocess.run(copy, check=True)
        yield Path(directory), ours, peer


@contextmanager
def namespace() -> Iterator[None]:
    """Have a network namespace with two tap interfaces."""
    commands = [f"ip netns add {_NAMESPACE}"]
    for number in range(2):
        prefix = f"ip -n {_NAMESPACE}"
        commands += [
            f"{prefix} tuntap add tap{number} mode tap",
            f"{prefix} addr add 10.77.{number}.1/24 dev tap{number}",
            f"{prefix} link set tap{number} up",
        ]
    try:
        for command in commands:
            subprocess.run(command.split(), check=True)
        yield
    finally:
        subprocess.run(["ip", "netns", "del", _NAMESPACE], check=False)


def tap(*options: str) -> Iterator[Result]:
    """TCP and ping through a tap interface, and QEMU on another one."""
    if shutil.which(QEMU) is None or os.geteuid():
        return
    with ExitStack() as stack:
        _, disk, peer_disk = stack.enter_context(disks())
        stack.enter_context(namespace())
        network = "tap,ifname=tap1,script=no,downscript=no"
        commands = (
            pyvmm_guest(disk, "mode=tap,tapif=tap0", *options),
            qemu_guest(peer_disk, network),
        )
        guests = []
        for number, command in enumerate(commands):
            running = stack.enter_context(Piped(*_IN_NAMESPACE, *command))
            guest = Measured(running, f"10.77.{number}.1", _IN_NAMESPACE)
            guest.run(f"ip addr add 10.77.{number}.2/24 dev eth0; ip link set eth0 up")
            guests.append(guest)
        yield from compare("tap", guests, Measured.ping)


def user(*options: str) -> Iterator[Result]:
    """TCP and ping in user mode through passt, and QEMU with the same options of passt."""
    if shutil.which(QEMU) is None or shutil.which("passt") is None:
        return
    with ExitStack() as stack:
        directory, disk, peer_disk = stack.enter_context(disks())
        directory.chmod(0o777)  # passt runs as nobody
        path = directory / "socket"
        passt = ["passt", "--foreground", "--quiet", "--socket", str(path), *passt_options()]
        program = subprocess.Popen(passt, stderr=subprocess.DEVNULL)
        stack.callback(program.terminate)
        while not path.exists():
            time.sleep(0.1)
        network = f"stream,server=off,addr.type=unix,addr.path={path}"
        commands = (
            pyvmm_guest(disk, "mode=user,backend=passt", *options),
            qemu_guest(peer_disk, network, f",host_mtu={MTU}"),
        )
        guests = [
            Measured(stack.enter_context(Piped(*command)), "192.168.33.1") for command in commands
        ]
        yield from compare("user", guests, Measured.round_trip)
