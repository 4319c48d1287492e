"""pyvmm exec as a user runs it, on an instance whose agent runs on this machine."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pyvmm.vm.control.directory import Directory
from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import PYVMM, pyvmm
from tests.vm.agent_instance import PATIENCE, Running
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def running(
    tmp_path: Path, agent_program: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Running]:
    """Start r1."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = Running(Directory(tmp_path / "pyvmm"), agent_program)
    made.port.start()
    yield made
    made.close()


def start(*words: str) -> "subprocess.Popen[bytes]":
    """Start pyvmm exec with pipes for its streams."""
    return subprocess.Popen(
        [PYVMM, "exec", "r1", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_streams_and_status_are_the_command_s() -> None:
    """Nothing of pyvmm's is added to them."""
    ended = pyvmm("exec", "r1", "--", "sh", "-c", "cat; echo no >&2; exit 7", typed="in")
    assert (ended.code, ended.output, ended.errors) == (7, "in", "no\n")
    ended = pyvmm("exec", "r1", "--", "sh", "-c", "kill -9 $$")
    assert (ended.code, ended.output, ended.errors) == (128 + 9, "", "")


def test_arguments_are_passed_on_as_they_are(tmp_path: Path) -> None:
    """Byte for byte, including variables and directory."""
    there = os.fsdecode(bytes(tmp_path) + b"/caf\xe9")
    Path(there).mkdir()
    for word in (b"\xe9\xff", b"\xc3\xa9"):
        text = os.fsdecode(word)
        with start(
            "-e", f"X={text}", "--cwd", there, "--", "sh", "-c", 'echo "$0$X$PWD"', text
        ) as ran:
            output, errors = ran.communicate(timeout=PATIENCE)
        assert (output, errors) == (word + word + os.fsencode(there) + b"\n", b"")


def test_json_has_it_all() -> None:
    """The output is one JSON object."""
    words = ("-e", "X=1", "--cwd", "/", "--no-input", "--json")
    ended = pyvmm("exec", "r1", *words, "--", "sh", "-c", "cat; echo $X $PWD; printf '\\377' >&2")
    answer = {"exit_status": 0, "signal": 0, "stdout": "1 /\n", "stderr": "\ufffd"}
    assert (ended.code, json.loads(ended.output), ended.errors) == (0, answer, "")


def test_json_has_no_endless_output() -> None:
    """A guest cannot fill the host's memory with its output."""
    ended = pyvmm("exec", "r1", "--no-input", "--json", "--", "cat", "/dev/zero")
    complaint = "pyvmm: --json: the command wrote more than 32 MiB: omit --json\n"
    assert (ended.code, ended.output, ended.errors) == (ExitCode.BAD_INPUT, "", complaint)


def test_much_goes_through(tmp_path: Path) -> None:
    """In both directions at once, byte for byte."""
    data = os.urandom(3 << 20)
    (tmp_path / "in").write_bytes(data)
    with (tmp_path / "in").open("rb") as file, (tmp_path / "out").open("wb") as out:
        subprocess.run([PYVMM, "exec", "r1", "--", "cat"], stdin=file, stdout=out, check=True)
    assert (tmp_path / "out").read_bytes() == data


def test_interrupt_is_for_the_command() -> None:
    """The first Ctrl-C interrupts the command; the second one kills it."""
    with start("--", "cat") as process:  # no shell: bash forgets one that comes while it forks
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"up\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 128 + signal.SIGINT
    with start(
        "--", "sh", "-c", "trap 'echo no' INT; echo up; while :; do sleep 1; done"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"no\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == ExitCode.INTERRUPTED


def test_output_that_nobody_reads_ends_it(running: Running) -> None:
    """As in a pipe; the command is killed as well."""
    with start("--", "sh", "-c", "echo $$; exec yes") as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.stdout.close()
        assert process.wait(PATIENCE) == 128 + signal.SIGPIPE
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert running.agent.poll() is None
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_timeout_kills_it() -> None:
    """With one line that says so."""
    ended = pyvmm("exec", "r1", "--timeout", "0.3", "--", "sleep", "1000")
    line = "pyvmm: the command was killed after 0.3 s\n"
    assert (ended.code, ended.output, ended.errors) == (ExitCode.TIMEOUT, "", line)


def test_a_guest_that_is_held_answers_nobody() -> None:
    """The verb does not wait for a paused guest."""
    assert pyvmm("pause", "r1").code == ExitCode.OK
    for words in (("exec", "r1", "--", "true"), ("attest", "r1")):
        ended = pyvmm(*words)
        line = "pyvmm: r1 is paused: resume it first\n"
        assert (ended.code, ended.output, ended.errors) == (ExitCode.BAD_INPUT, "", line)
    assert pyvmm("resume", "r1").code == ExitCode.OK
    assert pyvmm("exec", "r1", "--", "true").code == ExitCode.OK


@pytest.mark.parametrize(("redirection", "stream"), [("", "output"), (">&2", "error")])
def test_output_without_room_ends_it(redirection: str, stream: str) -> None:
    """The command is killed, because its output would be lost."""
    with Path("/dev/full").open("wb") as full:
        process = subprocess.run(
            [PYVMM, "exec", "r1", "--no-input", "--", "sh", "-c", f"yes {redirection}"],
            stdout=full if stream == "output" else subprocess.PIPE,
            stderr=full if stream == "error" else subprocess.PIPE,
            timeout=PATIENCE,
            check=False,
        )
    assert process.returncode == ExitCode.STORAGE
    if stream == "output":
        line = b"pyvmm: standard output: No space left on device: the rest is lost\n"
        assert process.stderr == line


def test_attest_says_why_there_is_no_token() -> None:
    """In one line."""
    ended = pyvmm("attest", "r1", "--challenge", "00" * 64)
    assert (ended.code, ended.output) == (ExitCode.BAD_INPUT, "")
    assert ended.errors.startswith("pyvmm: no token: ")
    assert ended.errors.count("\n") == 1


def test_start_waits_for_the_agent(
    tmp_path: Path, agent_program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --wait; an instance that is already started does not affect the others."""
    directory = tmp_path / "other"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    with closing(Running(Directory(directory / "pyvmm"), agent_program, is_started=False)) as made:
        threading.Timer(0.5, made.port.start).start()
        ended = pyvmm("start", "--wait", "r1")
        assert (ended.code, ended.output, ended.errors) == (0, "", "")
        assert made.owner.lifecycle.agent.is_ready
        ended = pyvmm("start", "r1", "--wait")
        line = "pyvmm: r1 is running: it was started already\n"
        assert (ended.code, ended.output, ended.errors) == (ExitCode.BAD_INPUT, "", line)
