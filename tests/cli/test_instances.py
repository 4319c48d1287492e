"""The life of instances from the shell: one command per verb, as a user or a script runs it."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyvmm.cli.common.stopping import TIME_TO_POWER_OFF
from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import PYVMM, call, pyvmm
from tests.boot.shell import PATIENCE
from tests.cli.inside import verb
from tests.cli.instance import (
    DONE,
    REALM,
    VM,
    at_terminal,
    create,
    is_gone,
    left,
    result,
    running,
    status,
    until_gone,
)
from tests.cli.kernels import BUTTON, CHATTER, DEAF_BUTTON, ECHO, IDLE, kernel
from tests.vm.gdb.client import Client
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("runtime")


def test_the_life_of_a_realm_step_by_step(runtime: Path) -> None:
    """Every command does one thing and returns; at the end nothing is left."""
    pid = create("r1", *REALM)
    rows = [row.split() for row in verb("list").output.splitlines()]
    assert rows == [
        ["PID", "NAME", "STATE", "KIND", "CPUS", "MEM", "UP"],
        [str(pid), "r1", "new", "realm", "1", "64M", "-"],
    ]
    assert result(pyvmm("console", "r1", "--log")) == DONE
    rim = verb("measure", "r1").output.strip()
    assert verb("measure", *REALM).output.strip() == rim == status("r1")["rim"]
    assert verb("measure", "r1", "--log").code == ExitCode.BAD_INPUT
    assert result(verb("start", "r1")) == DONE
    assert verb("wait", "r1", "--for", "console:RIM +[0-9a-f]{64}", "--timeout", "60").code == 0
    assert result(verb("wait", "r1", "--timeout", "60")) == DONE
    assert verb("list").output.split()[-8:-1] == ["r1", "shut", "off", "(0)", "realm", "1", "64M"]
    assert verb("list", "--run").output.count("\n") == 1
    said = pyvmm("console", "r1", "--log").output
    assert said.startswith("Hello from a realm.")
    assert re.findall("RIM +([0-9a-f]+)", said) == [rim]
    assert is_gone(pid)
    assert result(verb("destroy", "r1")) == DONE
    assert left(runtime) == []
    assert verb("destroy", "r1").code == ExitCode.BAD_INPUT


def test_its_trace_can_be_read_meanwhile(tmp_path: Path) -> None:
    """Each event is in the file as soon as it happens."""
    trace = tmp_path / "trace"
    create("r1", *REALM, "--trace", f"rmi:{trace}")
    assert " RMI_REC_CREATE " in trace.read_text().splitlines()[-1]


def test_what_cannot_be_made_leaves_nothing(runtime: Path, tmp_path: Path) -> None:
    """One line and the exit code, as for `pyvmm run`."""
    (tmp_path / "text").write_text("no kernel\n" * 100)
    for options, code, line in (
        (("-k", tmp_path / "text"), ExitCode.BAD_INPUT, "text file"),
        (("-d", tmp_path / "none"), ExitCode.BAD_INPUT, "No such file"),
        (("--trace", f"rmi:{tmp_path}"), ExitCode.BAD_INPUT, "Is a directory"),
        (("--name", "r2"), ExitCode.BAD_INPUT, "two names"),
    ):
        ended = pyvmm("create", "r1", *options)
        assert (ended.code, ended.output, ended.errors.count("\n")) == (code, "", 1)
        assert line in ended.errors
        assert left(runtime) == [] if runtime.exists() else True


@pytest.mark.parametrize("arguments", ["run -m 64", "create r1 -m 64"])
def test_too_few_open_files_are_one_line(runtime: Path, arguments: str) -> None:
    """Reported before anything is created."""
    ended = call("sh", "-c", f"ulimit -n 8; exec {PYVMM} {arguments}")
    line = "pyvmm: the limit is 8 open files; a guest needs 64: ulimit -n 64\n"
    assert result(ended) == (ExitCode.BAD_INPUT, "", line)
    assert not runtime.exists() or left(runtime) == []


@pytest.mark.parametrize("is_full", [False, True])
def test_destroy_ends_what_does_not_answer(runtime: Path, tmp_path: Path, *, is_full: bool) -> None:
    """In time, even if its backlog is full; other verbs report it."""
    pid = create("r1", *VM, kernel(tmp_path, IDLE))
    os.kill(pid, signal.SIGSTOP)
    with ExitStack() as stack:
        while is_full:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            try:
                waiting.connect(str(runtime / "r1.sock"))
            except BlockingIOError:
                break
        assert status("r1")["state"] == "new"
        line = "pyvmm: r1 did not stop in time: pyvmm destroy r1 kills it\n"
        assert result(verb("stop", "r1", "--timeout", "0.2")) == (ExitCode.TIMEOUT, "", line)
        start = time.monotonic()
        assert result(verb("destroy", "r1", "--timeout", "1")) == DONE
        assert 1 <= time.monotonic() - start < PATIENCE
    assert is_gone(pid)
    assert left(runtime) == []


def test_one_of_two_gets_the_name(tmp_path: Path) -> None:
    """The other one gets an error, whichever comes first."""
    with running("create", "r1", *VM) as one, running("create", "r1", *VM) as other:
        errors = [each.communicate(timeout=PATIENCE)[1] for each in (one, other)]
    assert {one.returncode, other.returncode} == {ExitCode.OK, ExitCode.BAD_INPUT}
    line = rb"pyvmm: r1 exists and is (building|new): choose another name\n"
    assert re.fullmatch(line, max(errors))
    ended = pyvmm("run", "--name", "r1", kernel(tmp_path, IDLE))
    assert result(ended) == (2, "", "pyvmm: r1 exists and is new: choose another name\n")


def test_run_is_an_instance_like_any_other(runtime: Path, tmp_path: Path) -> None:
    """Other verbs list, pause, inspect and stop it; it leaves nothing when it ends."""
    with running("run", "--name", "fore", *VM, str(kernel(tmp_path, CHATTER))) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"a\n"
        assert result(verb("wait", "fore", "--for", "state:running")) == DONE
        assert result(verb("pause", "fore")) == DONE
        assert "paused" in verb("list").output
        assert result(verb("resume", "fore")) == DONE
        assert result(verb("stop", "fore")) == DONE  # though nobody reads what it says
        process.stdout.read()
        assert process.wait(PATIENCE) == ExitCode.QUIT
    assert left(runtime) == []


@pytest.mark.parametrize("is_started", [False, True])
def test_a_killed_instance_is_dead_and_can_be_cleaned_up(
    runtime: Path, tmp_path: Path, *, is_started: bool
) -> None:
    """Others are not affected; its name can be used again."""
    pid = create("r1", *VM, kernel(tmp_path, IDLE))
    other = create("r2", *VM, kernel(tmp_path, IDLE))
    if is_started:
        assert result(verb("start", "r1")) == DONE
    os.kill(pid, signal.SIGKILL)
    until_gone(pid)
    assert status("r1")["state"] == "dead"
    for name in ("stop", "pause", "console"):
        ended = verb(name, "r1")
        line = "pyvmm: r1 is dead: pyvmm destroy r1 cleans up\n"
        assert result(ended) == (ExitCode.UNREACHABLE, "", line)
    again = create("r1", *VM, kernel(tmp_path, IDLE))
    os.kill(again, signal.SIGKILL)
    until_gone(again)
    assert result(verb("destroy", "r1")) == DONE
    assert left(runtime) == ["r2.d", "r2.sock"]
    assert result(verb("destroy", "r2")) == DONE
    until_gone(other)


def test_a_hanging_instance_is_ended_by_force(runtime: Path) -> None:
    """`stop` gives up, `destroy` does not."""
    pid = create("r1", *VM)
    os.kill(pid, signal.SIGSTOP)
    ended = verb("stop", "r1", "--timeout", "0.1")
    line = "pyvmm: r1 did not stop in time: pyvmm destroy r1 kills it\n"
    assert result(ended) == (ExitCode.TIMEOUT, "", line)
    assert result(verb("destroy", "r1", "--timeout", "0.1")) == DONE
    assert left(runtime) == []
    assert is_gone(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("is_started", [False, True])
def test_a_signal_ends_it_as_stop_does(
    runtime: Path, tmp_path: Path, number: signal.Signals, *, is_started: bool
) -> None:
    """It is then shut off; exit code and log describe the end of the silent guest."""
    pid = create("r1", *VM, kernel(tmp_path, IDLE))
    if is_started:
        assert result(verb("start", "r1")) == DONE
    os.kill(pid, number)
    until_gone(pid)
    assert (status("r1")["state"], status("r1")["exit_code"]) == ("shut off", ExitCode.QUIT)
    assert result(verb("stop", "r1")) == DONE
    assert verb("wait", "r1").code == ExitCode.QUIT
    assert pyvmm("console", "r1").code == ExitCode.QUIT
    log = (runtime / "r1.d" / "log").read_text()
    assert log.startswith("pyvmm: the guest's console showed nothing. vCPU 0") == is_started


def test_a_closed_terminal_ends_run_as_a_signal_does(runtime: Path, tmp_path: Path) -> None:
    """No guest keeps running unnoticed."""
    ours, theirs = pty.openpty()
    command = [PYVMM, "run", "--name", "r1", *VM, str(kernel(tmp_path, IDLE))]
    with subprocess.Popen(
        ["setsid", "-c", *command], stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        while not (runtime / "r1.sock").exists():
            assert process.poll() is None
        assert verb("wait", "r1", "--for", "state:running", "--timeout", "60").code == 0
        os.close(ours)
        assert process.wait(PATIENCE) == ExitCode.QUIT
    assert left(runtime) == []


def test_the_console_carries_both_ways(tmp_path: Path) -> None:
    """From a pipe to a pipe; its exit code is the guest's."""
    create("r1", *VM, kernel(tmp_path, ECHO))
    assert result(verb("start", "r1")) == DONE
    text = "".join(f"line {number}\n" for number in range(500))
    ended = pyvmm("console", "r1", typed=f"{text}\x04")
    assert (ended.code, ended.errors) == (ExitCode.OK, "")
    assert ended.output == text
    assert pyvmm("console", "r1", "--log").output == text


def test_who_detaches_has_a_line_of_its_own(tmp_path: Path) -> None:
    """After detaching or quitting, the cursor is at the start of a line."""
    create("r1", *VM, kernel(tmp_path, ECHO))
    assert result(verb("start", "r1")) == DONE
    run = ("run", "--name", "r2", *VM, str(kernel(tmp_path, ECHO)))
    for arguments, code in ((("console", "r1"), ExitCode.OK), (run, ExitCode.QUIT)):
        with at_terminal(*arguments) as (shell, process):
            wait_until(lambda: not termios.tcgetattr(shell._in_fd)[3] & termios.ICANON)
            shell.type("login: ")
            shell.expect(re.compile(rb"login: $"))
            shell.type("\x01x")
            assert process.wait(PATIENCE) == code
            shell.read_all()
            assert shell.log.endswith(b"login: \r\n")


def test_waiting_for_words(tmp_path: Path) -> None:
    """For text before or after the call; if it cannot appear any more, the wait ends."""
    create("r1", *VM, kernel(tmp_path, ECHO))
    assert result(verb("start", "r1")) == DONE
    with (
        running("wait", "r1", "--json", "--for", r"console:login: (\w+) (\d)?") as waiting,
        running("console", "r1") as typing,
    ):
        assert typing.stdin is not None
        typing.stdin.write(b"some login: root x\n")
        typing.stdin.flush()
        out, _ = waiting.communicate(timeout=PATIENCE)
    assert json.loads(out) == {"text": "login: root ", "groups": ["root", None]}
    assert result(verb("wait", "r1", "--for", "console:login")) == DONE
    late = verb("wait", "r1", "--for", "console:login", "--new", "--timeout", "0.1")
    assert result(late) == (124, "", "pyvmm: r1: console:login did not occur within 0.1 s\n")
    bad = verb("wait", "r1", "--for", "console:(")
    assert (bad.code, bad.errors.count("\n")) == (2, 1)
    assert verb("wait", "r1", "--for", "state:flying").code == 2
    assert result(verb("wait", "r1", "--for", "state:RUNNING")) == DONE
    with running("wait", "r1", "--for", "console:never") as waiting:
        assert pyvmm("console", "r1", typed="\x04").code == ExitCode.OK
        assert waiting.wait(PATIENCE) == ExitCode.ENDED
    assert verb("wait", "r1", "--for", "console:never").code == ExitCode.ENDED
    assert verb("wait", "r1", "--for", "state:running").code == ExitCode.ENDED
    assert result(verb("wait", "r1")) == DONE


def test_several_at_once(runtime: Path, tmp_path: Path) -> None:
    """A failure with one instance does not affect the others; the exit code reports it."""
    for name in ("r1", "r2", "r3"):
        create(name, *VM, kernel(tmp_path, IDLE))
    ended = verb("start", "r1", "r0", "-n", "r2")
    assert result(ended) == (2, "", "pyvmm: no instance r0: pyvmm list shows all instances\n")
    assert [status(name)["state"] for name in ("r1", "r2", "r3")] == ["running", "running", "new"]
    assert result(verb("stop", "--all")) == DONE
    assert {status(name)["state"] for name in ("r1", "r2", "r3")} == {"shut off"}
    assert result(verb("destroy", "r1", "r2", "r3")) == DONE
    assert left(runtime) == []
    for wrong in (("stop",), ("stop", "--all", "r1"), ("console",), ("wait", "r1", "-n", "r1")):
        assert verb(*wrong).code == ExitCode.BAD_INPUT


def test_stop_presses_the_power_button(tmp_path: Path) -> None:
    """A guest that powers off ends by itself, several at the same time."""
    for name in ("r1", "r2"):
        create(name, *VM, "--power-button", kernel(tmp_path, BUTTON))
        assert result(verb("start", name)) == DONE
        wait_until(lambda name=name: _has_exits(name, 5))  # type: ignore[misc]
    assert result(verb("stop", "--all")) == DONE
    assert [status(name)["exit_code"] for name in ("r1", "r2")] == [ExitCode.OK] * 2


@pytest.mark.parametrize(
    ("text", "options", "least"),
    [
        (DEAF_BUTTON, ("--timeout", "1"), 1),
        (DEAF_BUTTON, ("--force",), 0),
        (IDLE, (), 0),  # it has no driver
    ],
)
def test_stop_ends_a_guest_that_does_not_power_off(
    tmp_path: Path, text: str, options: tuple[str, ...], least: float
) -> None:
    """After the time that the guest has; at once, if it cannot react or must not."""
    create("r1", *VM, "--power-button", kernel(tmp_path, text))
    assert result(verb("start", "r1")) == DONE
    if text is DEAF_BUTTON:
        wait_until(lambda: _has_exits("r1"))
    start = time.monotonic()
    assert result(verb("stop", "r1", *options)) == DONE
    assert least <= time.monotonic() - start < least + TIME_TO_POWER_OFF
    assert status("r1")["exit_code"] == ExitCode.QUIT


def _has_exits(name: str, count: int = 1) -> bool:
    """Return whether a guest has accessed its devices that often."""
    (vcpu,) = json.loads(verb("stat", name, "--json").output)[name]["vcpus"]
    return int(vcpu["exits"]["mmio"]) >= count


def test_destroying_all_leaves_none(runtime: Path, tmp_path: Path) -> None:
    """Live, shut off and dead ones; for other verbs, --all means live ones only."""
    for name in ("r1", "r2"):
        create(name, *VM, kernel(tmp_path, IDLE))
    create("r3", *VM)
    os.kill(int(status("r1")["pid"]), signal.SIGKILL)
    wait_until(lambda: "dead" in verb("list").output)
    assert result(verb("stop", "r2")) == DONE
    assert result(verb("start", "--all")) == DONE
    assert result(verb("destroy", "--all")) == DONE
    assert left(runtime) == []
    assert result(verb("destroy", "--all")) == DONE


def test_a_lost_command_leaves_no_instance(runtime: Path, tmp_path: Path) -> None:
    """If `create` is killed, its unfinished instance ends by itself."""
    (tmp_path / "payload").write_bytes(bytes(48 << 20))
    payload = str(tmp_path / "payload")
    with running("create", "r1", *REALM, "-m", "256", "-i", payload) as process:
        wait_until((runtime / "r1.d" / "state").exists)
        process.kill()
    wait_until(lambda: left(runtime) == [])


def test_what_it_does_can_be_watched(tmp_path: Path) -> None:
    """Counts since the start, and rates as a table or JSON, of live instances."""
    create("r1", *VM, "-c", "2", kernel(tmp_path, CHATTER))
    create("r2", *REALM)
    os.kill(create("r3", *VM), signal.SIGKILL)
    assert result(verb("start", "r1")) == DONE
    assert result(verb("wait", "r1", "--for", "console:a")) == DONE
    assert result(verb("pause", "r1")) == DONE
    ended = verb("stat", "r1", "r2", "r3", "--json")
    assert (ended.code, ended.errors.count("\n")) == (ExitCode.UNREACHABLE, 1)
    found = json.loads(ended.output)
    assert list(found) == ["r1", "r2"]
    assert [bool(vcpu["instructions"]) for vcpu in found["r1"]["vcpus"]] == [True, False]
    assert (
        found["r1"]["vcpus"][0]["exits"]["mmio"]
        >= found["r1"]["devices"]["console"]["output_bytes"]
    )
    assert found["r1"]["memory"]["realm"]["granules"] == 512  # the RMM's own
    assert found["r2"]["memory"]["realm"]["granules"] > 512
    shown = verb("stat", "r1", "r2").output
    assert re.findall("RMI .*", shown) == ["RMI         1.0"]
    assert "instructions" in shown
    assert "\n  vCPU 0      -\n" in shown
    assert all(line == line.rstrip() for line in shown.splitlines())
    assert verb("stat", "r3").output == ""
    assert result(verb("resume", "r1")) == DONE
    (line,) = verb("top", "--json", "-n", "1", "-d", "0.2").output.splitlines()
    busy, idle, dead = json.loads(line)
    assert busy["rates"]["exits"]["mmio"] > 0
    assert idle["rates"]["instructions"] == 0
    assert dead["statistics"] is None
    table = verb("top", "-n", "2", "-d", "0.1").output.splitlines()
    assert len(table) == 8
    assert {len(row.split()) for row in table} == {11}


@pytest.mark.parametrize(("command", "code"), [("stop", ExitCode.QUIT), ("destroy", ExitCode.QUIT)])
def test_what_is_being_made_can_be_ended(
    runtime: Path, tmp_path: Path, command: str, code: ExitCode
) -> None:
    """`create` reports it; nothing is left."""
    (tmp_path / "payload").write_bytes(bytes(96 << 20))
    payload = str(tmp_path / "payload")
    with running("create", "r1", *REALM, "-m", "512", "-i", payload) as process:
        wait_until((runtime / "r1.d" / "state").exists)
        assert verb("start", "r1").errors == "pyvmm: r1 is building: it is not complete yet\n"
        assert result(verb(command, "r1")) == DONE
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == code
    assert errors == b"pyvmm: r1 was stopped while it was being created\n"
    assert left(runtime) == []


def test_what_dies_while_it_is_made_is_dead(runtime: Path, tmp_path: Path) -> None:
    """`create` reports it, and `destroy` cleans up."""
    (tmp_path / "payload").write_bytes(bytes(96 << 20))
    payload = str(tmp_path / "payload")
    with running("create", "r1", *REALM, "-m", "512", "-i", payload) as process:
        wait_until((runtime / "r1.d" / "state").exists)
        os.kill(int(status("r1")["pid"]), signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == ExitCode.UNREACHABLE
    assert errors == b"pyvmm: r1 died while it was being created: pyvmm destroy r1 cleans up\n"
    assert status("r1")["state"] == "dead"
    assert result(verb("destroy", "r1")) == DONE
    assert left(runtime) == []


def test_the_wishes_of_many_come_to_one_end(runtime: Path, tmp_path: Path) -> None:
    """Late requests get an error that the instance is gone; nothing hangs or stays."""
    create("r1", *VM, kernel(tmp_path, IDLE))
    with ExitStack() as stack:
        commands = ["stop", "destroy", "resume", "destroy", "stop", "wait", "pause", "destroy"]
        each = [stack.enter_context(running(command, "r1")) for command in commands]
        for command, process in zip(commands, each, strict=True):
            output, errors = process.communicate(timeout=PATIENCE)
            assert (output, errors.count(b"\n") <= 1, b"Traceback" in errors) == (b"", True, False)
            if command in {"stop", "destroy"} and process.returncode:
                assert errors == b"pyvmm: no instance r1: pyvmm list shows all instances\n"
    assert left(runtime) == []


def test_list_loads_little() -> None:
    """A prompt or a status line may call it: none of the machine, the RMM or tokens is loaded."""
    create("r1", *VM)
    command = (sys.executable, "-X", "importtime", "-m", "pyvmm", "list")
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "r1" in ended.stdout
    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    heavy = (
        "cffi",
        "asyncio",
        "rich",
        "cryptography",
        "pyvmm.core",
        "pyvmm.host",
        "rmm",
        "monitor",
    )
    assert {name for name in loaded if name.startswith(heavy)} == set()


def test_a_balloon_without_a_driver_lends_nothing(tmp_path: Path) -> None:
    """The verb reports it; a request before the boot is accepted."""
    create("v1", *VM, "--balloon", "-k", kernel(tmp_path, IDLE))
    assert (
        verb("balloon", "v1", "-i", "8").output == "lent                 0 B of 8.0 MiB requested\n"
    )
    assert result(verb("start", "v1")) == DONE
    for words in ((), ("-i", "8"), ("--json",)):
        ended = verb("balloon", "v1", *words)
        complaint = "pyvmm: v1 has no driver for its balloon: wait until it has booted, or load"
        assert (ended.code, ended.output) == (ExitCode.BAD_INPUT, "")
        assert ended.errors.startswith(complaint)


def test_network_cards_are_shown_and_unplugged(tmp_path: Path) -> None:
    """One line for each card; the change is in it."""
    create("v1", *VM, "-n", f"mode=socket,listen={tmp_path}/lan", "-k", kernel(tmp_path, IDLE))
    line = "net0     02:15:15:15:15:15  mtu 1500  queue pairs 1  link {}\n"
    assert verb("network", "v1").output == line.format("up")
    assert verb("network", "v1", "--unplug", "net0").output == line.format("down")
    assert verb("network", "v1", "--plug", "net0").output == line.format("up")
    ended = verb("network", "v1", "--plug", "net0", "--unplug", "net0")
    assert (ended.code, ended.errors.count("\n")) == (ExitCode.BAD_INPUT, 1)


def test_waiting_for_an_agent_that_cannot_come(tmp_path: Path) -> None:
    """It is reported at once, and the instance continues."""
    create("r1", *VM, kernel(tmp_path, IDLE))
    ended = verb("start", "r1", "--wait")
    line = "pyvmm: this guest has no port for an agent: start it with --agent\n"
    assert result(ended) == (ExitCode.BAD_INPUT, "", line)
    assert status("r1")["state"] == "running"


def test_list_in_natural_order(tmp_path: Path) -> None:
    """r10 comes after r9; -q prints what other verbs take; a running instance has an uptime."""
    assert result(verb("list", "-q")) == DONE
    for name in ("r10", "r9", "a"):
        create(name, *VM, kernel(tmp_path, IDLE))
    assert verb("list", "-q").output == "a\nr9\nr10\n"
    assert [each["name"] for each in json.loads(verb("list", "--json").output)] == [
        "a",
        "r9",
        "r10",
    ]
    assert result(verb("start", "a")) == DONE
    assert re.search(r"a +running +vm +1 +64M +\d+[sm]\n", verb("list").output)


def test_debug_looks_into_a_normal_vm_and_not_into_a_realm(tmp_path: Path) -> None:
    """Registers, stack and code, as text and JSON; for a realm, the reason why not."""
    create("r1", *VM, "-c", "2", "--kernel", kernel(tmp_path, IDLE))
    assert result(verb("start", "r1")) == DONE
    shown = verb("debug", "r1")
    assert (shown.code, shown.errors) == (0, "")
    assert re.match(r"CPU 0: on, EL1h nzcv DAIF\n +pc 0000", shown.output)
    assert "\n  > 0000000080080004: 17ffffff  b #0x80080000\n" in shown.output
    assert "CPU 1: off" in shown.output
    first, second = json.loads(verb("debug", "-n", "r1", "--json").output)
    assert (first["is_on"], second["is_on"]) == (True, False)
    assert first["registers"]["pc"] == "0x0000000080080004"
    assert result(verb("debug", "r1", "--sysrq", "h")) == DONE
    assert verb("debug", "r1", "--sysrq", "help").code == ExitCode.BAD_INPUT
    assert result(verb("debug", "r1", "--nmi", "0")) == DONE
    assert verb("debug", "r1", "--nmi", "2").code == ExitCode.BAD_INPUT
    assert verb("debug", "r2").code == ExitCode.BAD_INPUT
    create("r2", *REALM)
    refused = "pyvmm: a realm hides its registers and memory from its host"
    for asked in ((), ("--json",)):
        ended = verb("debug", "r2", *asked)
        assert (ended.code, ended.output) == (ExitCode.BAD_INPUT, "")
        assert ended.errors.startswith(refused)
    assert result(verb("start", "r2"))[0] == ExitCode.OK


def test_a_created_instance_waits_for_its_debugger(tmp_path: Path) -> None:
    """The socket exists from the creation on; a started guest waits for GDB."""
    stub = tmp_path / "stub"
    ended = pyvmm("create", "r1", *VM, "--gdb", stub, "--gdb-wait")
    assert result(ended) == (0, "", f"pyvmm: for GDB: target remote {stub}\n")
    assert result(verb("start", "r1")) == DONE
    (vcpu,) = json.loads(verb("debug", "r1", "--json").output)
    assert vcpu["registers"]["pc"] == "0x0000000080080000"
    with Client(stub) as client:
        client.send("vCont;c")
        assert client.receive() == b"W00"
    wait_until(lambda: status("r1")["state"] == "shut off")
    assert status("r1")["exit_code"] == ExitCode.OK


def test_a_killed_instance_leaves_no_stub(runtime: Path, tmp_path: Path) -> None:
    """The next user of the address replaces the socket, but never a file."""
    stub = tmp_path / "stub"
    note = f"pyvmm: for GDB: target remote {stub}\n"
    for name in ("r1", "r2"):
        assert result(pyvmm("create", name, *VM, "--gdb", stub)) == (0, "", note)
        pid = int(status(name)["pid"])
        os.kill(pid, signal.SIGKILL)
        until_gone(pid)
        assert stub.is_socket()
    assert result(pyvmm("create", "r3", *VM, "--gdb", stub)) == (0, "", note)
    assert result(verb("destroy", "r1", "r2")) == DONE
    with Client(stub) as client:  # r3's: it was not r2's any more
        client.send("?")
        assert client.receive()
    assert result(verb("destroy", "r3")) == DONE
    assert (left(runtime), stub.exists()) == ([], False)
    assert result(pyvmm("create", "r1", *VM, "--gdb", stub)) == (0, "", note)
    os.kill(int(status("r1")["pid"]), signal.SIGKILL)
    assert result(verb("destroy", "r1")) == DONE
    assert (left(runtime), stub.exists()) == ([], False)
    stub.write_text("words")
    refused = f"pyvmm: --gdb {stub}: Address already in use: choose another\n"
    assert result(pyvmm("create", "r1", *VM, "--gdb", stub)) == (2, "", refused)
    assert (left(runtime), stub.read_text()) == ([], "words")


def test_a_realm_that_allows_it_is_looked_into(tmp_path: Path) -> None:
    """Its measurement differs from that of a realm that does not allow it."""
    options = (*REALM, "--kernel", str(kernel(tmp_path, IDLE)))
    create("r1", *options, "--realm-debug")
    rim = verb("measure", "r1").output
    assert verb("measure", *options, "--realm-debug").output == rim
    assert verb("measure", *options).output != rim
    assert result(verb("start", "r1")) == DONE
    shown = verb("debug", "r1")
    assert (shown.code, shown.errors) == (0, "")
    assert re.match(r"CPU 0: on, EL1h nzcv DAIF\n +pc 00000000800800", shown.output)
