"""Standard streams that are closed, full, or without a reader: a line and a code, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import PYVMM, pyvmm
from tests.boot.shell import PATIENCE
from tests.cli.inside import verb
from tests.cli.instance import DONE, REALM, VM, create, left, result, status
from tests.cli.kernels import CHATTER, kernel

pytestmark = pytest.mark.usefixtures("runtime")

FULL = Path("/dev/full")
LOST = b"pyvmm: standard output: No space left on device: the rest is lost\n"
SAID = b"pyvmm: standard output: No space left on device: the guest's output is lost\n"

needs_full = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")


def to_full(*arguments: str) -> tuple[int, bytes]:
    """Run a verb whose standard output is full; return its exit code and errors."""
    with FULL.open("wb") as full:
        done = subprocess.run(
            [PYVMM, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            check=False,
        )
    return done.returncode, done.stderr


def closed(*arguments: str, redirections: str) -> tuple[int, bytes]:
    """Run a verb with some of its standard streams closed; return its exit code and errors."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", PYVMM, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@needs_full
@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "list",
        "list --json",
        "version",
        "completion bash",
        "config show --mem 64",
        "doctor",
        "hes status --json",
        "measure --realm --log",
        "measure --realm --json",
        "top -n 1 -d 0.05 --json",
        "token show --help",
    ],
)
def test_a_full_output_is_a_failure_of_storage(arguments: str) -> None:
    """Whatever is printed, and however."""
    assert to_full(*arguments.split()) == (ExitCode.STORAGE, LOST)


@needs_full
def test_an_instance_is_not_lost_with_the_output(runtime: Path) -> None:
    """It exists, and other verbs find it."""
    assert to_full("create", "r1", *REALM, "--json") == (ExitCode.STORAGE, LOST)
    assert status("r1")["state"] == "new"
    for arguments in ("measure r1", "stat r1 --json", "wait r1 --json --for state:new"):
        assert to_full(*arguments.split()) == (ExitCode.STORAGE, LOST)
    assert result(verb("start", "r1")) == DONE
    assert result(verb("wait", "r1")) == DONE
    assert to_full("console", "r1", "--log") == (ExitCode.STORAGE, LOST)
    assert result(verb("destroy", "r1")) == DONE
    assert left(runtime) == []


@needs_full
def test_a_guest_goes_on_when_its_console_is_full(tmp_path: Path) -> None:
    """One line for the user; the guest's exit code, or 9 if that is 0."""
    assert to_full("run", *VM) == (ExitCode.STORAGE, SAID)
    code, said = to_full("run", *VM, "--timeout", "0.5", str(kernel(tmp_path, CHATTER)))
    assert code == ExitCode.TIMEOUT
    assert said == SAID + b"pyvmm: stopped after 0.5 s\n"
    create("r1", *VM, kernel(tmp_path, CHATTER))
    assert result(verb("start", "r1")) == DONE
    assert result(verb("wait", "r1", "--for", "console:a")) == DONE
    assert result(verb("stop", "r1")) == DONE
    assert to_full("console", "r1") == (ExitCode.STORAGE, LOST)


@needs_full
@pytest.mark.parametrize("option", ["rmi,rsi:/dev/full", "rmi,rsi"])
def test_a_guest_goes_on_when_its_trace_is_full(option: str) -> None:
    """A trace is not worth ending a guest."""
    with FULL.open("wb") as full:
        errors = subprocess.PIPE if ":" in option else full
        done = subprocess.run(
            [PYVMM, "run", *REALM, "--trace", option],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == ExitCode.OK
    assert done.stdout.startswith(b"Hello from a realm.")
    said = b"pyvmm: --trace: No space left on device: the rest is lost\n"
    assert done.stderr == (said if ":" in option else None)


def test_who_stops_reading_is_told_nothing() -> None:
    """No message; the exit code is that of any program whose reader is gone."""
    with subprocess.Popen(
        [PYVMM, "list", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == ExitCode.UNREAD


@needs_full
def test_a_mistake_keeps_its_code_when_nobody_can_be_told() -> None:
    """There is nowhere left to report it."""
    for redirection in ("2>/dev/full", "2>&-"):
        assert closed("bogus", redirections=redirection) == (ExitCode.BAD_INPUT, b"")


@pytest.mark.parametrize("redirections", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_file_of_ours(
    runtime: Path, tmp_path: Path, redirections: str
) -> None:
    """Output of guest and pyvmm is discarded, and never written to a disk."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    code, said = closed("run", *VM, "-d", str(disk), redirections=redirections)
    assert (code, said.startswith(b"Hello")) == (ExitCode.OK, " >&-" not in f" {redirections}")
    assert disk.read_bytes() == bytes(1 << 20)
    assert closed("create", "r1", *REALM, redirections=redirections) == (ExitCode.OK, b"")
    assert status("r1")["state"] == "new"
    for arguments in (("start", "r1"), ("wait", "r1"), ("console", "r1"), ("list",)):
        code, said = closed(*arguments, redirections=redirections)
        assert (code, b"Traceback" in said) == (ExitCode.OK, False)
    assert result(pyvmm("destroy", "r1")) == DONE
    assert left(runtime) == []


def test_an_output_that_does_not_block_is_written_whole(tmp_path: Path) -> None:
    """Another process may have made it non-blocking."""
    payload = tmp_path / "initrd"
    payload.write_bytes(bytes(2 << 20))
    command = [PYVMM, "measure", *REALM, "-i", str(payload), "--log", "--json"]
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with (
        os.fdopen(reader, "rb") as pipe,
        subprocess.Popen(command, stdout=writer) as process,
    ):
        os.close(writer)
        output = pipe.read()
        assert process.wait(PATIENCE) == ExitCode.OK
    assert output.endswith(b"}\n")
    assert len(output) > 1 << 16


def test_unbuffered_output_is_written_at_once(runtime: Path) -> None:
    """Trace lines are there at once, even if the process is killed."""
    created = pyvmm("create", "r1", *REALM, "--trace", "rmi", env={"PYTHONUNBUFFERED": "1"})
    assert result(created) == DONE
    log = runtime / "r1.d" / "log"
    assert " RMI_REC_CREATE " in log.read_text().splitlines()[-1]
    assert result(verb("start", "r1")) == DONE
    assert result(verb("wait", "r1")) == DONE
    assert "RMI_REC_ENTER" in log.read_text()


def test_the_log_of_an_instance_is_written_at_once_whatever_its_maker_had(runtime: Path) -> None:
    """Even if the standard error of `create` was closed."""
    arguments = ("create", "r1", *REALM, "--trace", "rmi")
    assert closed(*arguments, redirections="2>&-") == (ExitCode.OK, b"")
    log = runtime / "r1.d" / "log"
    assert " RMI_REC_CREATE " in log.read_text().splitlines()[-1]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_verb_that_is_killed_has_written_its_lines(unbuffered: str) -> None:
    """To a pipe on standard error, whatever Python's buffer settings are."""
    program = (
        "import os, sys; from pyvmm.cli import streams; streams.guard();"
        "sys.stderr.write('told\\n'); sys.stdout.write('half'); {} os._exit(0)"
    )
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    flush = "" if unbuffered else "sys.stdout.flush();"
    done = subprocess.run(
        [sys.executable, "-c", program.format(flush)], env=env, capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"half", b"told\n")


def test_output_takes_any_text() -> None:
    """Bytes of a name are unchanged; characters that the terminal lacks are escaped."""
    program = r"from pyvmm.cli import streams; streams.guard(); print('\u2026 \udcff \xe9')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONIOENCODING": "latin-1:strict"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"\\u2026 \xff \xe9\n"
