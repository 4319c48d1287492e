"""Helpers for tests to create and inspect instances."""

import json
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path

from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import PYVMM, Ended, pyvmm
from tests.boot.shell import PATIENCE, Shell
from tests.cli.inside import verb
from tests.waiting import wait_until

REALM = ("--realm", "--no-hes", "-m", "64")
VM = ("-m", "64")
DONE = (ExitCode.OK, "", "")


def result(ended: Ended) -> tuple[int, str, str]:
    """Return exit code, output and errors of a command."""
    return ended.code, ended.output, ended.errors


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in the background, with pipes; kill it at the end."""
    pipe = subprocess.PIPE
    with subprocess.Popen([PYVMM, *arguments], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def at_terminal(*arguments: str) -> Iterator[tuple[Shell, "subprocess.Popen[bytes]"]]:
    """Run a command on a terminal of 80 columns; kill it at the end."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(
        ["setsid", "-c", PYVMM, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm"},
    ) as process:
        os.close(theirs)
        try:
            yield Shell(ours, ours), process
        finally:
            process.kill()
            os.close(ours)


def create(name: str, *options: str | Path) -> int:
    """Create an instance; return the PID of its process."""
    assert result(pyvmm("create", name, *options)) == DONE
    return int(status(name)["pid"])


def status(name: str) -> dict[str, int | str]:
    """Return the status of an instance as `list` prints it."""
    listed = json.loads(verb("list", "--json").output)
    (found,) = [each for each in listed if each["name"] == name]
    assert isinstance(found, dict)
    return found


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, with all its threads, even if not waited for yet."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True
    return "State:\tZ" in text and "Threads:\t1\n" in text


def left(runtime: Path) -> list[str]:
    """List the content of the runtime directory, except its lock."""
    return sorted(path.name for path in runtime.iterdir() if path.name != ".lock")


def until_gone(pid: int) -> None:
    """Wait for the end of a process."""
    wait_until(lambda: is_gone(pid), PATIENCE)
