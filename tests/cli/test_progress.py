"""The progress bar while a realm is built: only on a terminal."""

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest

from tests.boot.command import PYVMM, pyvmm
from tests.boot.shell import PATIENCE

COLOR = re.compile(rb"\x1b\[[\d;]*m")


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Return a command that measures for a while; its realm then ends at once."""
    path = tmp_path / "payload"
    path.write_bytes(bytes(128 << 20))
    return [PYVMM, "run", "--realm", "--no-hes", "-m", "1G", "-i", str(path)]


def on_terminal(command: list[str], **env: str) -> bytes:
    """Return what a command shows on a separate terminal."""
    ours, theirs = pty.openpty()
    shown = b""
    with subprocess.Popen(
        ["setsid", "-c", *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm"} | env,
    ) as process:
        os.close(theirs)
        while data := _read(ours):
            shown += data
        assert process.wait(PATIENCE) == 0
    os.close(ours)
    return shown


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except OSError:  # the other end is closed
        return b""


def test_a_terminal_shows_a_bar_before_the_guest(command: list[str]) -> None:
    """In colours, removed before the guest's first output; NO_COLOR is respected."""
    shown = on_terminal(command)
    bar, _, said = shown.partition(b"Hello from a realm")
    assert b"measuring" in bar
    assert COLOR.search(bar)
    assert b"measuring" not in said
    plain = on_terminal(command, NO_COLOR="1")
    assert b"measuring" in plain
    assert not COLOR.search(plain)


def test_a_pipe_shows_none(command: list[str]) -> None:
    """It gets only the guest's bytes."""
    ended = pyvmm(*command[1:])
    assert (ended.code, ended.errors) == (0, "")
    assert ended.output.startswith("Hello from a realm")
