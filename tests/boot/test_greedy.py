"""A guest whose requests are as large as the driver allows, and far larger."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.memory_map import MIB
from pyvmm.vm.option_values import DiskOptions
from pyvmm.vm.options import VmOptions
from tests.boot.command import Running
from tests.boot.greedy_guest import PIECE_SIZE, QUEUE_SIZE, greedy_guest
from tests.boot.inside import Inside

DISK_SIZE = 1 << 33
TOO_MANY = (1 << 32) // PIECE_SIZE + 1
MANY = (1 << 30) // PIECE_SIZE - 1
#: Seconds; all that the queue holds would take a minute and more.
SOON = 10.0

KINDS = pytest.mark.parametrize("is_realm", [False, True], ids=["normal", "realm"])


def options(directory: Path, count: int, num_requests: int, *, is_realm: bool = False) -> VmOptions:
    """Return a guest with a sparse disk."""
    kernel, disk = directory / "kernel", directory / "disk"
    kernel.write_bytes(greedy_guest(count, num_requests, is_realm=is_realm))
    disk.touch()
    os.truncate(disk, DISK_SIZE)
    return VmOptions(
        kernel=kernel, disks=(DiskOptions(disk),), ram_size=32 * MIB, is_realm=is_realm
    )


@KINDS
def test_a_request_of_more_than_4_gib_is_an_error(tmp_path: Path, *, is_realm: bool) -> None:
    """Only that request fails; the guest continues."""
    with Inside(options(tmp_path, TOO_MANY, 1, is_realm=is_realm)) as guest:
        guest.shell.expect(re.compile(b":1111"))


@KINDS
def test_a_busy_disk_holds_up_nobody(tmp_path: Path, *, is_realm: bool) -> None:
    """A pause takes effect between two requests, the end within one."""
    with Inside(options(tmp_path, MANY, QUEUE_SIZE, is_realm=is_realm)) as guest:
        while not guest.instance.counters().get("blk0", {}).get("reads"):
            time.sleep(0.01)
        start = time.monotonic()
        guest.instance.pause()
        guest.instance.resume()
        guest.instance.quit()
        assert guest.wait() is ExitCode.QUIT
        assert time.monotonic() - start < SOON


def test_a_signal_ends_a_guest_with_a_busy_disk(tmp_path: Path) -> None:
    """Like any other guest."""
    asked = options(tmp_path, MANY, QUEUE_SIZE)
    with Running("run", "-k", tmp_path / "kernel", "-d", asked.disks[0].path, "-m", "32M") as guest:
        guest.shell.expect(re.compile(b":"))
        time.sleep(1)  # now it waits for its disk
        start = time.monotonic()
        os.kill(guest.pid, signal.SIGTERM)
        assert guest.wait() == ExitCode.QUIT
        assert time.monotonic() - start < SOON
