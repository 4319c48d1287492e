"""`pyvmm run --record` and `pyvmm replay`, with the built-in guest and small programs."""

from pathlib import Path

import pytest

from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import Ended, pyvmm
from tests.cli.inside import verb
from tests.cli.kernels import ECHO, kernel

pytestmark = pytest.mark.usefixtures("runtime")

REALM = ["--realm"]


def recorded(file: Path, *arguments: str | Path, typed: str = "") -> Ended:
    """Record a run."""
    ended = pyvmm("run", *arguments, "--record", file, typed=typed)
    assert ended.code == ExitCode.OK, ended.errors
    return ended


def check_same(file: Path, output: str, *arguments: str) -> None:
    """Replay: the same output, and nothing that differs."""
    ended = pyvmm("replay", file, *arguments)
    assert (ended.code, ended.output) == (ExitCode.OK, output), ended.errors
    assert "the same run" in ended.errors


@pytest.mark.parametrize("kind", [[], REALM, ["-c", "2"]], ids=["vm", "realm", "2 CPUs"])
def test_the_built_in_guest_replays_exactly(tmp_path: Path, kind: list[str]) -> None:
    """With either engine; a realm without the HES that answered in the recording."""
    file = tmp_path / "record"
    ended = recorded(file, *kind)
    check_same(file, ended.output)
    check_same(file, ended.output, "--engine", "interp")


def test_input_is_replayed(tmp_path: Path) -> None:
    """What was typed reaches the guest at the same instruction; nobody types in a replay."""
    file = tmp_path / "record"
    ended = recorded(file, "-k", kernel(tmp_path, ECHO), typed="abc\x04")
    assert ended.output == "abc"
    check_same(file, "abc")


def test_a_changed_kernel_is_a_line(tmp_path: Path) -> None:
    """The record names its digest."""
    file, program = tmp_path / "record", Path(kernel(tmp_path, ECHO))
    recorded(file, "-k", program, typed="\x04")
    program.write_bytes(program.read_bytes() + b"\0\0\0\1")
    ended = verb("replay", str(file))
    assert (ended.code, ended.errors.count("\n")) == (ExitCode.BAD_INPUT, 1)
    assert "kernel has changed since the recording" in ended.errors
