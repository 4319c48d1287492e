"""`pyvmm snapshot`, and `--restore` of run and create."""

from pathlib import Path

import pytest

from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import pyvmm
from tests.cli.inside import verb
from tests.cli.instance import DONE, REALM, VM, create, result, running, status
from tests.cli.kernels import ECHO, kernel

pytestmark = pytest.mark.usefixtures("runtime")


def said(name: str) -> str:
    """Return the console's output so far."""
    return pyvmm("console", name, "--log").output


def test_a_saved_guest_continues_elsewhere(tmp_path: Path) -> None:
    """The original runs on, unless it is to stop; both answer."""
    file = str(tmp_path / "saved")
    create("v1", *VM, kernel(tmp_path, ECHO))
    assert verb("snapshot", "v1", file).errors == "pyvmm: v1 is new: start it first\n"
    assert result(verb("start", "v1")) == DONE
    with running("console", "v1") as typing:
        assert typing.stdin is not None
        typing.stdin.write(b"one")
        typing.stdin.flush()
        assert verb("wait", "v1", "--for", "console:one").code == ExitCode.OK
    assert result(verb("snapshot", "v1", file)) == DONE
    assert status("v1")["state"] == "running"
    assert result(verb("pause", "v1")) == DONE
    assert result(verb("snapshot", "v1", file, "--stop")) == DONE
    assert (status("v1")["state"], status("v1")["exit_code"]) == ("shut off", ExitCode.QUIT)
    create("v2", "--restore", file)
    assert said("v2") == "one"
    assert result(verb("start", "v2")) == DONE
    assert pyvmm("console", "v2", typed="two\x04").code == ExitCode.OK
    assert said("v2") == "onetwo"
    ended = pyvmm("run", "--restore", file, typed="three\x04")
    assert result(ended) == (ExitCode.OK, "three", "")


def test_a_realm_is_not_saved(tmp_path: Path) -> None:
    """The line says why."""
    create("r1", *REALM, kernel(tmp_path, ECHO))
    assert result(verb("start", "r1")) == DONE
    ended = verb("snapshot", "r1", str(tmp_path / "saved"))
    assert (ended.code, ended.errors.count("\n")) == (ExitCode.BAD_INPUT, 1)
    assert "its registers and memory are hidden from its host" in ended.errors
    assert not list(tmp_path.glob("saved*"))
    assert status("r1")["state"] == "running"


def test_a_file_that_cannot_be_written_is_a_line(tmp_path: Path) -> None:
    """The guest runs on."""
    create("v1", *VM, kernel(tmp_path, ECHO))
    assert result(verb("start", "v1")) == DONE
    ended = verb("snapshot", "v1", str(tmp_path / "none" / "saved"), "--stop")
    assert (ended.code, ended.errors.count("\n")) == (ExitCode.BAD_INPUT, 1)
    assert "No such file or directory: choose another file" in ended.errors
    assert status("v1")["state"] == "running"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("-m 64", "the snapshot determines --mem: omit it"),
        ("-c 2", "the snapshot determines --cpus: omit it"),
        ("-k KERNEL", "the snapshot determines --kernel: omit it"),
        ("--realm", "the snapshot determines --realm: omit it"),
        ("--rng", "the snapshot determines --rng: omit it"),
        ("--on-reboot restart", "a snapshot has no kernel to boot again"),
        ("", "No such file or directory: check the path"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: str, complaint: str) -> None:
    """One line each."""
    for command in ("run", "create v1"):
        words = f"{command} --restore {tmp_path}/none {options}".split()
        ended = verb(*words)
        assert (ended.code, ended.output, ended.errors.count("\n")) == (ExitCode.BAD_INPUT, "", 1)
        assert complaint in ended.errors
