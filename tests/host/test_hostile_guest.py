"""The host against a hostile guest with all its devices: random code, drivers and tables."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest

from pyvmm.platform import Platform
from pyvmm.vm.control.instance import Instance
from pyvmm.vm.control.terminal import Terminal
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.option_values import DiskOptions
from pyvmm.vm.options import VmOptions
from tests.hostile import ALIAS, RAM_SIZE, Generator

LOG = logging.getLogger(__name__)  # shown when a test fails
NUM_CPUS = 2
DISK_SIZE = 1 << 20
SLICE = 0.03  # seconds of a guest's life
EXPECTED = {ExitCode.OK, ExitCode.CRASHED, ExitCode.TIMEOUT}


@contextmanager
def nowhere() -> Iterator[Terminal]:
    """Return a terminal without a user."""
    fd = os.open(os.devnull, os.O_RDWR)
    try:
        with Terminal(fd, fd) as terminal:
            yield terminal
    finally:
        os.close(fd)


def harass(
    seed: int, seconds: float, folder: Path, *, is_realm: bool, transport: str
) -> Counter[ExitCode]:
    """Run guests one after another, three at least; return their outcomes."""
    disks = tuple(DiskOptions(folder / name, name == "ro") for name in ("rw", "ro"))
    for disk in disks:
        disk.path.write_bytes(bytes(DISK_SIZE))
    options = VmOptions(
        disks=disks,
        ram_size=RAM_SIZE,
        num_cpus=NUM_CPUS,
        console="virtio",
        has_rng=True,
        is_realm=is_realm,
        transport=transport,
    )
    generator = Generator(
        seed, ALIAS if is_realm else 0, device_share=0.5, has_pci=transport == "pci"
    )
    codes = Counter[ExitCode]()
    until = monotonic() + seconds
    while codes.total() < 3 or monotonic() < until:
        LOG.warning("seed %d, life %d", seed, codes.total())
        platform = Platform(RAM_SIZE, NUM_CPUS)
        with nowhere() as terminal:
            instance = Instance(options, generator.config(NUM_CPUS), platform, terminal)
            codes[instance.run(SLICE)] += 1  # raises what a handler raised
        assert platform.leak_check() == []
        assert [disk.path.stat().st_size for disk in disks] == [DISK_SIZE] * 2
        assert disks[1].path.read_bytes() == bytes(DISK_SIZE)
    return codes


@pytest.mark.parametrize("transport", ["mmio", "pci"])
@pytest.mark.parametrize("is_realm", [False, True], ids=["normal", "realm"])
def test_hostile_guest(seed: int, tmp_path: Path, *, is_realm: bool, transport: str) -> None:
    """No guest raises an exception in the host; each is stopped and closed."""
    assert set(harass(seed, 2, tmp_path, is_realm=is_realm, transport=transport)) <= EXPECTED


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["mmio", "pci"])
@pytest.mark.parametrize("is_realm", [False, True], ids=["normal", "realm"])
@pytest.mark.parametrize("turn", range(10))
def test_hostile_guest_for_long(
    seed: int, turn: int, tmp_path: Path, *, is_realm: bool, transport: str
) -> None:
    """This is the same for twenty minutes, half a minute per seed."""
    codes = harass(seed + 1 + turn, 30, tmp_path, is_realm=is_realm, transport=transport)
    assert set(codes) <= EXPECTED
