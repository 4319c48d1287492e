"""Records of Debian, and many of the built-in guest, replay exactly."""

from pathlib import Path

import pytest

from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image
from tests.boot.command import guest_options, pyvmm

pytestmark = [pytest.mark.boot, pytest.mark.slow]

COMMANDS = "head -c 100000 /dev/urandom | sha256sum\nls -l /\npoweroff -f\n"
KINDS = [[], ["--realm"], ["-c", "2"], ["--realm", "-c", "2"], ["--realm", "--rng"]]
MAX_SIZE = 20 << 20
NUM_HELLO, NUM_DEBIAN = 100, 2  # of each kind


def check(file: Path, *arguments: str | Path, typed: str = "") -> None:
    """Record a run and replay it."""
    ended = pyvmm("run", *arguments, "--record", file, typed=typed)
    assert ended.code == ExitCode.OK, ended.errors
    again = pyvmm("replay", file)
    assert (again.code, again.output) == (ExitCode.OK, ended.output), again.errors


@pytest.mark.parametrize("kind", [[], ["--realm"]], ids=["vm", "realm"])
def test_the_built_in_guest_replays_each_time(tmp_path: Path, kind: list[str]) -> None:
    """A hundred boots."""
    for _ in range(NUM_HELLO // 2):
        check(tmp_path / "record", *kind)


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_debian_replays_each_time(tmp_path: Path, image: Image, kind: list[str]) -> None:
    """Ten boots, each with a shell's commands; a record has at most 20 MB."""
    for _ in range(NUM_DEBIAN):
        file, disk = tmp_path / "record", f"{image.rootfs},snapshot"
        check(file, *guest_options(image, None), "--disk", disk, *kind, typed=COMMANDS)
        assert file.stat().st_size <= MAX_SIZE
