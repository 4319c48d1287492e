"""The process: started by its first client, shared, and ended after its last one."""

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from hes import client
from hes.client import HesError, Mailbox
from pyvmm.arch.psa import HesService, PsaRequest
from tests.shortage import refuse_threads
from tests.waiting import wait_until

PATIENCE = 60.0
#: Connects and switches a machine on and off, a given number of times.
SHORT_CLIENT = """
import sys
from pathlib import Path
from hes.client import Mailbox
from pyvmm.arch.psa import HesService
for _ in range(int(sys.argv[2])):
    with Mailbox(Path(sys.argv[1])) as mailbox:
        mailbox.ask(HesService.POWER_ON, b"g1")
"""
#: Stays until it is killed.
LONG_CLIENT = """
import sys
from pathlib import Path
from hes.client import Mailbox
from pyvmm.arch.psa import HesService
mailbox = Mailbox(Path(sys.argv[1]))
mailbox.ask(HesService.POWER_ON, b"g1")
print("on", flush=True)
sys.stdin.read()
"""


def processes(directory: Path) -> list[int]:
    """Return the HES processes of a directory that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue  # it has just ended
        if words[2:5] == [b"-m", b"hes", str(directory).encode()] and state not in "ZX":
            found.append(int(path.name))
    return found


def wait_for_end(directory: Path) -> None:
    """Wait until the HES has ended and removed its address."""
    wait_until(lambda: not processes(directory) and not any(directory.glob("*.socket")), PATIENCE)


def instance_id(mailbox: Mailbox) -> str:
    """Return the platform's instance id."""
    status = mailbox.ask(HesService.STATUS)
    return status.partition('"instance_id": "')[2][:66]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory for the state, which does not exist yet."""
    return tmp_path / "hes"


def test_one_process_serves_all_and_ends_with_the_last(directory: Path) -> None:
    """The identity is kept."""
    with ExitStack() as stack:
        mailboxes = [stack.enter_context(Mailbox(directory)) for _ in range(3)]
        assert [bool(mailbox.ask(HesService.POWER_ON, b"g1")) for mailbox in mailboxes] == [
            True,
            False,
            False,
        ]
        first = {instance_id(mailbox) for mailbox in mailboxes}
        assert len(processes(directory)) == 1
        assert directory.stat().st_mode & 0o777 == 0o700
    wait_for_end(directory)
    with Mailbox(directory) as mailbox:
        assert {instance_id(mailbox)} == first
    wait_for_end(directory)


def test_many_start_at_once_and_share_one(directory: Path) -> None:
    """Whichever wins the race."""
    lodgers = [
        subprocess.Popen(
            [sys.executable, "-c", LONG_CLIENT, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(6)
    ]
    try:
        for lodger in lodgers:
            assert lodger.stdout is not None
            assert lodger.stdout.readline() == b"on\n"
        assert len(processes(directory)) == 1
    finally:
        for lodger in lodgers:
            lodger.communicate()
    wait_for_end(directory)


def test_every_client_is_served_during_restarts(directory: Path) -> None:
    """A client that finds a HES about to end starts another one."""
    visitors = [
        subprocess.Popen([sys.executable, "-c", SHORT_CLIENT, str(directory), "15"])
        for _ in range(3)
    ]
    assert [visitor.wait(PATIENCE) for visitor in visitors] == [0, 0, 0]
    wait_for_end(directory)


def test_threads_share_a_mailbox(directory: Path) -> None:
    """Each thread gets its own reply."""
    with Mailbox(directory) as mailbox:
        mailbox.ask(HesService.POWER_ON, b"g1")
        wanted = mailbox.ask(HesService.LOG, bytes(4), bytes(4))

        def is_answered(_: int) -> bool:
            return all(
                instance_id(mailbox) and mailbox.ask(HesService.LOG, bytes(4), bytes(4)) == wanted
                for _ in range(50)
            )

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(is_answered, range(4)))


def test_killed_hes_loses_only_its_machines(directory: Path) -> None:
    """Each gets an error, and the next one finds the same platform."""
    with Mailbox(directory) as mailbox, Mailbox(directory) as other:
        mailbox.ask(HesService.POWER_ON, b"g1")
        first = instance_id(mailbox)
        os.kill(processes(directory)[0], signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(HesError, match="the HES has ended"):
                mailbox.ask(HesService.STATUS)
        with Mailbox(directory) as again:
            assert instance_id(again) == first
        with pytest.raises(HesError, match="the HES has ended"):
            other.call(bytes(PsaRequest()))
    wait_for_end(directory)


def test_hes_ends_after_its_machine_is_killed(directory: Path) -> None:
    """The kernel closes the machine's connection."""
    with subprocess.Popen(
        [sys.executable, "-c", LONG_CLIENT, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as lodger:
        assert lodger.stdout is not None
        assert lodger.stdout.readline() == b"on\n"
        lodger.kill()
    wait_for_end(directory)


def test_interrupt_of_the_terminal_does_not_reach_it(directory: Path) -> None:
    """It serves others as well, so it has its own session."""
    with Mailbox(directory) as mailbox:
        mailbox.ask(HesService.POWER_ON, b"g1")
        (pid,) = processes(directory)
        assert os.getsid(pid) == pid
        assert os.getsid(pid) != os.getsid(0)
    wait_for_end(directory)


def test_hanging_hes_is_reported(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the timeout; a late reply is ignored."""
    with Mailbox(directory) as mailbox:
        mailbox.ask(HesService.POWER_ON, b"g1")
        monkeypatch.setattr(client, "TIMEOUT", 0.5)
        mailbox._stream.settimeout(0.5)
        (pid,) = processes(directory)
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(HesError, match=r"has not answered for 0\.5 seconds"):
                mailbox.ask(HesService.STATUS)
            with pytest.raises(HesError, match=r"has not answered for 0\.5 seconds"):
                Mailbox(directory)
        finally:
            os.kill(pid, signal.SIGCONT)
        with pytest.raises(HesError, match="the HES has ended"):
            mailbox.ask(HesService.STATUS)
    wait_for_end(directory)


def test_directory_may_have_a_long_name(tmp_path: Path) -> None:
    """Longer than the address of a socket."""
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    with Mailbox(directory) as mailbox, Mailbox(directory) as other:
        mailbox.ask(HesService.POWER_ON, b"g1")
        other.ask(HesService.POWER_ON, b"g1")
    wait_for_end(directory)


# --- failures ------------------------------------------------------------------------------------


def test_directory_accessible_to_others_is_refused(directory: Path) -> None:
    """Before anything is written."""
    directory.mkdir(mode=0o755)
    with pytest.raises(HesError, match="must be accessible only to you: chmod 700"):
        Mailbox(directory)
    assert list(directory.iterdir()) == []


def test_directory_that_is_a_file_is_refused(directory: Path) -> None:
    """With its name."""
    directory.write_text("")
    with pytest.raises(HesError, match=f"{directory}: File exists"):
        Mailbox(directory)


@pytest.mark.parametrize("program", ["/bin/false", "/nonexistent"])
def test_failed_start_is_reported(
    directory: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """In one line; the next attempt may succeed."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", program)
        with pytest.raises(HesError) as error, Mailbox(directory) as mailbox:
            mailbox.ask(HesService.STATUS)
        assert "\n" not in str(error.value)
    with Mailbox(directory) as mailbox:
        mailbox.ask(HesService.POWER_ON, b"g1")
    wait_for_end(directory)


def test_client_beyond_a_full_backlog_waits(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And reports the timeout in one line."""
    monkeypatch.setattr(client, "TIMEOUT", 0.3)
    address = directory / client._address()
    directory.mkdir(mode=0o700)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(address))
        listener.listen(0)
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(address))
        with pytest.raises(HesError, match="has not answered for"):
            Mailbox(directory)


@pytest.mark.filterwarnings("ignore:subprocess", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_machine_that_cannot_start_a_thread_has_its_hes(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread only prevents a zombie."""
    refuse_threads(monkeypatch, "hes")
    with Mailbox(directory) as mailbox:
        assert mailbox.ask(HesService.STATUS)
    wait_for_end(directory)


def test_a_compromised_hes_reaches_nothing(tmp_path: Path) -> None:
    """It keeps its state, and can open nothing else, nor start or signal anything."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "secret").write_text("the secret")
    code = """
import json, sys
from pathlib import Path
from hes.sandbox import hes_sandbox
from tests.cli.exploit import attack
hes_sandbox(Path(sys.argv[1])).enter(is_strict=True)
Path(sys.argv[1], "state").write_text("kept")
print(json.dumps(attack()))
"""
    state = tmp_path / "state"
    state.mkdir()
    env = os.environ | {"VICTIM": str(victim), "TCP_PORT": "1"}
    command = [sys.executable, "-c", code, str(state)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout).values()) <= {"EPERM", "EACCES"}
    assert (state / "state").read_text() == "kept"


def test_the_process_is_confined(tmp_path: Path) -> None:
    """Its kernel says so, once it serves."""
    with Mailbox(tmp_path) as mailbox:
        mailbox.ask(HesService.POWER_ON, b"g1")
        (pid,) = processes(tmp_path)
        status = Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    wait_for_end(tmp_path)
