"""Instances after their end: started again, renamed, and what they have said."""

import json
import os
import signal
from pathlib import Path

import pytest

from pyvmm.vm.control.console import ConsoleFile
from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import pyvmm
from tests.cli.inside import verb
from tests.cli.instance import DONE, VM, create, result, running, status, until_gone

HELLO = "Hello from a normal VM"


def end(name: str) -> None:
    """Start an instance of the built-in guest, and wait for its end."""
    assert result(pyvmm("start", name)) == DONE
    assert verb("wait", name).code == ExitCode.OK


def test_instance_starts_again_with_its_options(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of its configuration too, with paths relative to where it was created."""
    del runtime
    place = tmp_path / "place"
    place.mkdir()
    (place / "guest.toml").write_text("cpus = 2\nmem = '64M'\n")
    (place / "disk").write_bytes(bytes(1 << 20))
    monkeypatch.chdir(place)
    create("r1", "--config", "guest.toml", "-d", "disk,ro")
    end("r1")
    monkeypatch.chdir("/")
    (place / "guest.toml").unlink()
    end("r1")
    found = status("r1")
    assert (found["num_cpus"], found["ram_size"], found["state"]) == (2, 64 << 20, "shut off")
    assert pyvmm("logs", "r1").output.count(HELLO) == 2
    (place / "disk").unlink()
    again = pyvmm("start", "r1")
    assert again.code == ExitCode.BAD_INPUT
    assert "disk" in again.errors


def test_dead_instance_starts_again(runtime: Path) -> None:
    """As one that has ended well."""
    del runtime
    pid = create("r1", *VM)
    os.kill(pid, signal.SIGKILL)
    until_gone(pid)
    assert status("r1")["state"] == "dead"
    end("r1")


def test_restart_starts_what_has_ended_too(runtime: Path) -> None:
    """A name without an instance is an error, for which others do not wait."""
    del runtime
    create("r1", *VM)
    end("r1")
    ended = pyvmm("restart", "none", "r1")
    assert (ended.code, ended.errors.count("\n")) == (ExitCode.BAD_INPUT, 1)
    assert verb("wait", "r1").code == ExitCode.OK


def test_rename_needs_the_end_and_a_free_name(runtime: Path) -> None:
    """The instance keeps all that it has."""
    create("r1", *VM)
    assert "r1 is new: stop it before" in verb("rename", "r1", "r2").errors
    end("r1")
    create("r3", *VM)
    assert "r3 exists: choose another name" in verb("rename", "r1", "r3").errors
    assert "name '-r'" in verb("rename", "r1", "--", "-r").errors
    assert result(verb("rename", "r1", "r2")) == DONE
    assert sorted(path.name for path in runtime.glob("*.d")) == ["r2.d", "r3.d"]
    assert HELLO in pyvmm("logs", "r2").output
    assert "no instance r1" in pyvmm("logs", "r1").errors
    end("r2")


def test_logs_follow_to_the_end(runtime: Path) -> None:
    """What was there first, and then what comes."""
    del runtime
    create("r1", *VM)
    with running("logs", "-f", "r1") as process:
        assert result(verb("start", "r1")) == DONE
        out, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, b"")
    assert out.decode() == pyvmm("logs", "r1").output
    assert pyvmm("logs", "-n", "1", "r1").output.count("\n") <= 1
    assert pyvmm("logs", "-n", "0", "r1").output == ""


def test_log_is_rotated_and_bounded(tmp_path: Path) -> None:
    """One file is full at the limit; then it is the earlier one."""
    path = tmp_path / "console.log"
    for _ in range(2):  # a second process goes on with the file
        log = ConsoleFile(path, limit=10)
        for number in range(7):
            log.write(b"%d\n" % number)
        log.close()
    assert path.read_bytes() == b"3\n4\n5\n6\n"
    assert path.with_name("console.log.1").read_bytes() == b"5\n6\n0\n1\n2\n"


def test_log_that_cannot_be_written_is_given_up(tmp_path: Path) -> None:
    """The guest runs on."""
    log = ConsoleFile(tmp_path / "none/console.log")
    log.write(b"x")
    log.write(b"y")
    assert list(tmp_path.iterdir()) == []


def test_forwarded_ports_are_shown(runtime: Path) -> None:
    """By `port` and by `list`; it has the column only then."""
    create("r1", *VM)
    assert result(verb("port", "r1")) == DONE
    assert verb("port", "r1", "--json").output == "[]\n"
    assert "PORTS" not in verb("list").output
    state = json.loads((runtime / "r1.d/state").read_text())
    state["ports"] = [{"protocol": "tcp", "host": "127.0.0.1:8080", "guest_port": 80}]
    (runtime / "r1.d/state").write_text(json.dumps(state))
    assert verb("port", "r1").output == "80/tcp -> 127.0.0.1:8080\n"
    listed = verb("list").output.splitlines()
    assert listed[0].endswith("  UP  PORTS")
    assert listed[1].endswith("  127.0.0.1:8080->80/tcp")


def test_instance_without_options_cannot_start_again(runtime: Path) -> None:
    """It may be of an earlier version, or damaged."""
    create("r1", *VM)
    end("r1")
    for text in ("", "[]", '{"directory": 1}'):
        (runtime / "r1.d/options").write_text(text)
        again = pyvmm("start", "r1")
        assert again.code == ExitCode.BAD_INPUT
        assert "r1 has no options to start it again" in again.errors


def test_shutdown_needs_a_way_to_ask(runtime: Path) -> None:
    """The built-in guest has neither button nor agent."""
    del runtime
    create("r1", *VM)
    ended = verb("shutdown", "r1")
    assert (ended.code, ended.errors.count("\n")) == (ExitCode.BAD_INPUT, 1)
    assert "r1 has no power button, and no agent" in ended.errors


def test_options_are_json(runtime: Path) -> None:
    """Any bytes in them are kept."""
    create("r1", *VM, "-p", os.fsdecode(b"caf\xe9"))
    kept = json.loads((runtime / "r1.d/options").read_text())
    assert kept["given"] == {"ram_size": "64", "params": "caf\xe9"}


def test_inspect_shows_the_settings(runtime: Path) -> None:
    """As the user gave them, and the status; while it runs and after its end."""
    del runtime
    create("r1", *VM, "-p", "quiet", "--rng")
    end("r1")
    lines = dict(line.split(None, 1) for line in verb("inspect", "r1").output.splitlines())
    assert (lines["name"], lines["state"], lines["--params"]) == ("r1", "shut off", "quiet")
    shown = json.loads(verb("inspect", "r1", "--json").output)
    assert shown["status"]["state"] == "shut off"
    assert shown["options"] == {"mem": "64", "params": "quiet", "rng": True}
    assert shown["directory"] == str(Path.cwd())
