"""A guest that lends memory to its host, with Linux's own driver."""

import hashlib
from pathlib import Path

import pytest

from pyvmm.arch.pas import Pas
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image
from pyvmm.vm.memory_map import MIB
from pyvmm.vm.option_values import DiskOptions
from pyvmm.vm.options import VmOptions
from tests.boot.inside import Inside
from tests.boot.shell import PATIENCE
from tests.waiting import wait_until

pytestmark = pytest.mark.boot

DIRT = 96 * MIB  # that the guest touches and frees again
LENT = 256 * MIB


def test_a_guest_lends_memory_and_takes_it_back(debian: Image, disk: Path) -> None:
    """The host gets back memory that was touched and freed; later the guest has all again."""
    options = VmOptions(
        kernel=debian.kernel,
        initrd=debian.initrd,
        disks=(DiskOptions(disk),),
        ram_size=512 * MIB,
        has_balloon=True,
    )
    with Inside(options) as guest:
        balloon = guest.instance.board.balloon
        assert balloon is not None
        guest.shell.log_in()
        assert balloon.has_driver
        dirty = f"head -c {DIRT} /dev/zero >/dev/shm/dirt && rm /dev/shm/dirt"
        assert guest.shell.run(dirty).status == 0
        before = guest.platform.usage().resident[Pas.NS]
        said = balloon.ask(PATIENCE)
        assert LENT < said["free_memory"] < said["total_memory"] < options.ram_size
        for size in (LENT, 0):
            balloon.resize(size)
            wait_until(lambda size=size: balloon.actual == size, PATIENCE)  # type: ignore[misc]
            if size:
                assert guest.platform.usage().resident[Pas.NS] < before - DIRT // 2
        assert guest.shell.run(dirty).status == 0
        _report_free_pages(guest, dirty)
        guest.shell.type("poweroff -f\n")
        assert guest.wait() is ExitCode.OK


def _report_free_pages(guest: Inside, dirty: str) -> None:
    """Check that freed memory returns to the host, although the balloon has not been inflated."""
    counters = guest.instance.counters
    (name,) = (name for name in counters() if name.startswith("balloon"))
    before = counters()[name]["reported_bytes"]
    full = guest.platform.usage().resident[Pas.NS]
    assert guest.shell.run(dirty).status == 0
    wait_until(lambda: counters()[name]["reported_bytes"] > before + DIRT // 2, PATIENCE)
    wait_until(lambda: guest.platform.usage().resident[Pas.NS] < full - DIRT // 4, PATIENCE)
    digest = "head -c 50M /dev/zero >/dev/shm/f && sha256sum </dev/shm/f && rm /dev/shm/f"
    zeros = hashlib.sha256(bytes(50 * MIB)).hexdigest()
    assert guest.shell.run(digest).output.startswith(zeros)
