"""--sandbox: what a compromised process cannot do, and what a guest still can."""

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from pyvmm.arch.confine import landlock
from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import Ended, call
from tests.cli.exploit import ATTEMPTS

EVERYTHING = {attempt.__name__ for attempt in ATTEMPTS}


def exploit(*arguments: str | Path, victim: Path) -> tuple[Ended, dict[str, dict[str, str]]]:
    """Run a guest whose process attacks; return how it ended, and what came of each attempt."""
    victim.mkdir()
    (victim / "secret").write_text("the secret")
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(f"{victim}/socket")
        unix.listen()
        env = {"VICTIM": str(victim), "TCP_PORT": str(tcp.getsockname()[1])}
        command = (sys.executable, "-m", "tests.cli.exploit", "run", "-m", "64")
        ended = call(*command, *arguments, env=env)
    lines = [line for line in ended.errors.splitlines() if line.startswith("{")]
    return ended, json.loads(lines[0])


@pytest.mark.parametrize("kind", [[], ["--realm"]])
def test_a_compromised_process_reaches_nothing(
    tmp_path: Path, runtime: Path, kind: list[str]
) -> None:
    """Every attempt fails, in threads that are older than the sandbox too; the guest runs on."""
    victim = tmp_path / "victim"
    ended, results = exploit("--sandbox", "strict", *kind, victim=victim)
    assert ended.code == ExitCode.OK
    for thread in ("old", "new"):
        assert set(results[thread]) == EVERYTHING
        refused = {name for name, how in results[thread].items() if how in {"EPERM", "EACCES"}}
        assert refused == EVERYTHING
    assert (victim / "secret").read_text() == "the secret"
    assert not (victim / "left").exists()
    assert not list(runtime.glob("guest-*"))  # it could remove what it had in its directory


def test_without_a_sandbox_the_attempts_succeed(tmp_path: Path, runtime: Path) -> None:
    """The test can fail: what the sandbox refuses is possible otherwise."""
    assert runtime.parent.exists()
    _, results = exploit("--sandbox", "off", victim=tmp_path / "victim")
    possible = {"read_a_file", "read_a_system_file", "list_a_directory", "write_a_file", "fork"}
    possible |= {"connect_by_tcp", "connect_by_unix_socket", "kill", "make_data_executable"}
    possible |= {"make_memory_executable", "make_a_memory_file"}
    succeeded = {name for name, how in results["old"].items() if how == "succeeded"}
    assert possible <= succeeded


def test_landlock_is_there() -> None:
    """The tests above would not test it on another kernel."""
    assert landlock.version() > 0, f"no Landlock in {os.uname().release}"
