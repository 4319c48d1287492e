"""A full runtime directory: each verb does what is possible, and reports what is not."""

import os
import re
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import PYVMM, pyvmm
from tests.boot.shell import PATIENCE
from tests.cli.inside import verb
from tests.cli.instance import DONE, VM, create, left, result, status
from tests.waiting import wait_until

HELLO = "Hello from a normal VM"
NO_INODE = 7  # the file system's root, ours, its lock, the instance's, socket, state, log


def mount(place: Path, options: str) -> None:
    """Mount a file system in memory, or remount it with other options."""
    remount = "remount," if place.is_mount() else ""
    command = ["mount", "-t", "tmpfs", "-o", f"{remount}{options}", "tmpfs", str(place)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the runtime directory, on a separate small file system."""
    place = tmp_path / "small"
    place.mkdir()
    try:
        mount(place, "size=64k,mode=700")
    except subprocess.CalledProcessError:
        pytest.skip("only root mounts a file system")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    yield place / "pyvmm"
    for path in (place / "pyvmm").glob("*.d"):
        verb("destroy", path.stem, "--timeout", "0")
    subprocess.run(["umount", str(place)], check=True)


def fill(place: Path) -> Path:
    """Fill the file system; return the file that uses the space."""
    full = place / "full"
    with full.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return full


@pytest.mark.parametrize("inodes", range(1, NO_INODE))
def test_no_room_for_any_of_its_files_leaves_none(small: Path, inodes: int) -> None:
    """Whichever file does not fit; `run` needs none of them."""
    mount(small.parent, f"nr_inodes={inodes}")
    ended = pyvmm("create", "r1", *VM)
    assert (ended.code, ended.output) == (ExitCode.BAD_INPUT, "")
    assert re.fullmatch(r"pyvmm: .*pyvmm.*No space left on device.*\n", ended.errors)
    assert not small.exists() or left(small) == []
    listed = verb("list")
    assert listed.code == (ExitCode.OK if inodes > 2 else ExitCode.BAD_INPUT)
    assert listed.errors.count("\n") == (0 if inodes > 2 else 1)
    ran = pyvmm("run", *VM)
    assert (ran.code, ran.output[: len(HELLO)]) == (ExitCode.OK, HELLO)
    line = r"pyvmm: other pyvmm commands cannot see this guest: .*No space left on device\n"
    assert re.fullmatch(line, ran.errors) or (inodes == NO_INODE - 1 and not ran.errors)
    assert not small.exists() or left(small) == []


def test_what_lives_lives_on_without_room(small: Path) -> None:
    """Its end is still reported, but its console output cannot be stored."""
    create("r1", *VM)
    full = fill(small.parent)
    assert result(verb("start", "r1")) == DONE
    assert result(verb("wait", "r1")) == DONE
    assert (status("r1")["state"], status("r1")["exit_code"]) == ("shut off", ExitCode.OK)
    lost = "pyvmm: the console output of r1 could not be stored and is lost\n"
    assert result(pyvmm("console", "r1", "--log")) == (ExitCode.OK, "", lost)
    assert result(verb("destroy", "r1")) == DONE
    full.unlink()
    assert left(small) == []


def test_what_cannot_be_removed_is_told(small: Path) -> None:
    """A verb that leaves something behind fails."""
    create("r1", *VM)
    os.kill(create("r2", *VM), signal.SIGKILL)
    assert result(verb("stop", "r1")) == DONE
    wait_until(lambda: not (small / "r1.sock").exists())  # so nobody writes any more
    mount(small.parent, "ro")
    try:
        assert [status(name)["state"] for name in ("r1", "r2")] == ["shut off", "dead"]
        ended = verb("destroy", "r1", "r2")
        lines = ended.errors.splitlines()
        assert (ended.code, len(lines)) == (ExitCode.BAD_INPUT, 2)
        for name, line in zip(("r1", "r2"), lines, strict=True):
            assert line.endswith(f": Read-only file system: {name} could not be removed")
        ended = pyvmm("create", "r3", *VM)
        assert (ended.code, ended.errors.count("\n")) == (ExitCode.BAD_INPUT, 1)
        assert pyvmm("run", *VM).code == ExitCode.OK
    finally:
        mount(small.parent, "rw")
    assert result(verb("destroy", "r1", "r2")) == DONE
    assert left(small) == []


def test_a_limit_on_files_is_no_room(runtime: Path) -> None:
    """A file size limit has the same effect, and setting it does not require root."""
    for arguments in (("create", "r1", *VM), ("run", *VM)):
        done = subprocess.run(
            [PYVMM, *arguments],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (done.returncode, done.stdout) == (ExitCode.BAD_INPUT, b"")
        for line in done.stderr.decode().splitlines():
            assert re.fullmatch(r"pyvmm: .*File too large.*", line)
        assert left(runtime) == []
