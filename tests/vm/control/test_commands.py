"""Commands through an instance's socket, with the real agent running on this machine."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.vm.control.api import MAX_FED, State
from pyvmm.vm.control.client import Client, Gone, connect
from pyvmm.vm.control.console import ConsoleLog
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.control.instance import Instance
from pyvmm.vm.control.server import Server
from tests.shortage import refuse_threads
from tests.vm.agent_instance import Running
from tests.vm.stage import OwnerThread
from tests.waiting import wait_until

PATIENCE = 30.0


@pytest.fixture
def running(tmp_path: Path, agent_program: Path) -> Iterator[Running]:
    """Return an instance whose agent is there."""
    before = threading.active_count()
    made = Running(Directory(tmp_path / "pyvmm"), agent_program)
    made.port.start()
    yield made
    made.close()
    assert threading.active_count() == before


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    """Return a client of it."""
    with connect(running.directory, "r1") as client:
        client.patience = PATIENCE
        yield client


class Heard:
    """Records the notifications about commands."""

    def __init__(self, client: Client) -> None:
        self.output: dict[int, dict[str, bytes]] = {}
        self.taken = 0
        self.ended: dict[int, tuple[int, int, str]] = {}
        self._client = client

    def until(self, is_so: Callable[[], bool]) -> None:
        """Listen until a condition is true."""
        while not is_so():
            assert self._client.listen(self, PATIENCE)

    def end(self, number: int) -> tuple[int, int, str]:
        """Listen until a command has ended; return its end."""
        self.until(lambda: number in self.ended)
        return self.ended[number]

    def exec_output(self, number: int, stream: str, data: bytes) -> None:
        streams = self.output.setdefault(number, {"stdout": b"", "stderr": b""})
        streams[stream] += data

    def exec_taken(self, number: int, size: int) -> None:
        assert number
        self.taken += size

    def exec_ended(self, number: int, exit_status: int, signal: int, error: str) -> None:
        self.ended[number] = exit_status, signal, error


def test_commands_run_side_by_side(client: Client) -> None:
    """Each command has its own number, streams, environment and end."""
    heard = Heard(client)
    words = ["sh", "-c", 'echo "$X"; echo no >&2; exit 3']
    first = client.api.exec_start(words, env={"X": "1"})
    second = client.api.exec_start(["pwd"], directory="/")
    assert heard.end(first) == (3, 0, "")
    assert heard.end(second) == (0, 0, "")
    assert heard.output[first] == {"stdout": b"1\n", "stderr": b"no\n"}
    assert heard.output[second]["stdout"] == b"/\n"


def test_arguments_may_be_any_bytes(client: Client) -> None:
    """In latin-1 each character stands for a byte."""
    heard = Heard(client)
    script = 'printf "%s %s %s" "$0" "$X" "$PWD"'
    number = client.api.exec_start(
        ["sh", "-c", script, "caf\u00e9"], env={"X": "\u00ff"}, directory="/", encoding="latin-1"
    )
    assert heard.end(number) == (0, 0, "")
    assert heard.output[number]["stdout"] == b"caf\xe9 \xff /"
    with pytest.raises(UserError, match="not in latin-1"):
        client.api.exec_start(["\u20ac"], encoding="latin-1")


def test_input_is_taken_at_the_command_s_pace(client: Client) -> None:
    """Input up to the limit may wait, more follows as it is taken; the end comes last."""
    heard = Heard(client)
    number = client.api.exec_start(["sh", "-c", "read x; cat"])
    line = b"go\n"
    client.api.exec_write(number, bytes(MAX_FED - len(line)))
    with pytest.raises(UserError, match="exec_taken"):
        client.api.exec_write(number, bytes(MAX_FED))
    heard.until(lambda: heard.taken == MAX_FED - len(line))
    client.api.exec_write(number, line)
    client.api.exec_write(number, b"rest")
    client.api.exec_end_input(number)
    assert heard.end(number) == (0, 0, "")
    assert heard.output[number]["stdout"] == b"rest"


def test_signal_reaches_a_command(client: Client) -> None:
    """The client is notified of the signal that ended it."""
    heard = Heard(client)
    number = client.api.exec_start(["sh", "-c", "echo up; sleep 1000; true"])
    heard.until(lambda: number in heard.output)
    client.api.exec_signal(number, 15)
    assert heard.end(number) == (0, 15, "")
    with pytest.raises(UserError, match=f"command {number} is not running"):
        client.api.exec_signal(number, 15)


@pytest.mark.parametrize("signal", [-1, 0, 65, 1 << 32])
def test_signal_that_linux_does_not_have_is_refused(client: Client, signal: int) -> None:
    """Every invalid number is the client's mistake."""
    number = client.api.exec_start(["cat"])
    with pytest.raises(UserError, match=f"signal {signal}: give 1 to 64"):
        client.api.exec_signal(number, signal)


def test_token_may_take_any_time(client: Client) -> None:
    """The agent here has no token; no time-out is too large."""
    with pytest.raises(UserError, match="no token"):
        client.api.attest(bytes(64), patience=1e300)


def test_commands_end_with_their_client(running: Running) -> None:
    """A client that hangs up leaves nothing running; other clients are not affected."""
    with connect(running.directory, "r1") as other, connect(running.directory, "r1") as client:
        staying = other.api.exec_start(["cat"])
        heard = Heard(client)
        number = client.api.exec_start(["sh", "-c", "echo $$; exec sleep 1000"])
        heard.until(lambda: number in heard.output)
        client.close()
        pid = int(heard.output[number]["stdout"])
        wait_until(lambda: not Path(f"/proc/{pid}").exists())
        other.api.exec_end_input(staying)
        assert Heard(other).end(staying) == (0, 0, "")


def test_slow_client_gets_all_of_it(client: Client) -> None:
    """No output is dropped: the command waits."""
    heard = Heard(client)
    number = client.api.exec_start(["head", "-c", "3000000", "/dev/zero"])
    client.api.status()
    time.sleep(0.2)
    assert heard.end(number) == (0, 0, "")
    assert len(heard.output[number]["stdout"]) == 3_000_000


def test_guest_that_ends_takes_its_commands_along(running: Running, client: Client) -> None:
    """Clients are notified before the connection closes; later requests fail."""
    heard = Heard(client)
    number = client.api.exec_start(["cat"])
    running.end()
    assert heard.end(number) == (0, 0, "the guest has ended, and the command with it")
    with pytest.raises(Gone):
        client.api.status()


def test_attest_says_why_there_is_no_token(client: Client) -> None:
    """The reason is the guest's or ours."""
    with pytest.raises(UserError, match=r"no token: .*not a realm"):
        client.api.attest(bytes(64))
    with pytest.raises(UserError, match="give 64"):
        client.api.attest(b"short")


@pytest.mark.parametrize(
    ("argv", "complaint"), [([], "no command"), (["a\0b"], "zero byte"), (["x" * 70_000], "bytes")]
)
def test_what_is_no_command_is_refused(client: Client, argv: list[str], complaint: str) -> None:
    """The error is one line; the connection stays open."""
    with pytest.raises(UserError, match=complaint):
        client.api.exec_start(argv)
    assert client.api.status().state == State.RUNNING


def test_agent_is_awaited_while_the_guest_says_something(
    tmp_path: Path, agent_program: Path
) -> None:
    """Any output extends the wait; silence and the guest's end finish it."""
    running = Running(Directory(tmp_path / "pyvmm"), agent_program)
    log = running.owner.lifecycle.console_log
    boots = threading.Event()

    def boot() -> None:
        for _ in range(10):
            log.write(b"booting")
            time.sleep(0.1)
        boots.set()
        running.port.start()

    with connect(running.directory, "r1") as client:
        thread = threading.Thread(target=boot)
        thread.start()
        client.api.wait_agent(patience=0.5)
        assert boots.is_set()
        thread.join()
    running.close()


class Building(OwnerThread):
    """An instance whose build waits for the test."""

    def __init__(self, *, starts_itself: bool) -> None:
        super().__init__()
        self.may_go_on = threading.Event()
        self._starts_itself = starts_itself

    def assemble(self, log: ConsoleLog) -> Instance:
        """Wait, then make the guest."""
        assert self.may_go_on.wait(PATIENCE)
        return super().assemble(log)

    def _run(self) -> None:
        self.lifecycle.run(self.assemble, is_started=self._starts_itself)


@pytest.mark.parametrize(
    ("starts_itself", "complaint"), [(False, "r1 is new: start it first"), (True, "has no port")]
)
def test_agent_is_awaited_while_the_guest_is_built(
    tmp_path: Path, complaint: str, *, starts_itself: bool
) -> None:
    """A client waits for the build and an automatic start, but not for a manual start."""
    with Building(starts_itself=starts_itself) as owner:
        directory = Directory(tmp_path / "pyvmm")
        claim = directory.claim(owner.lifecycle.status)
        server = Server(claim.listener, owner.lifecycle)
        server.start()
        with connect(directory, "r1") as client:
            answered = threading.Event()
            client.post("wait_agent", {"patience": 0.01}, answered.set)
            assert not client.listen(Heard(client), 0.3)
            assert not answered.is_set()
            owner.may_go_on.set()
            with pytest.raises(UserError, match=complaint):
                client.api.exec_start(["true"], patience=0.01)
            assert answered.is_set()
        owner.lifecycle.quit()
        owner.end()
        server.close()
        claim.listener.close()


def test_agent_is_awaited(tmp_path: Path, agent_program: Path) -> None:
    """The request sets the time limit; without a port nothing waits."""
    running = Running(Directory(tmp_path / "pyvmm"), agent_program)
    with connect(running.directory, "r1") as client:
        with pytest.raises(UserError, match="this guest has no agent"):
            client.api.exec_start(["true"], patience=0.05)
        threading.Timer(0.1, running.port.start).start()
        number = client.api.exec_start(["true"], patience=PATIENCE)
        assert Heard(client).end(number) == (0, 0, "")
    running.close()
    with OwnerThread() as owner:
        owner.until(State.NEW)
        with pytest.raises(UserError, match="start it first"):
            _ = owner.lifecycle.agent
        owner.lifecycle.start()
        assert owner.lifecycle.agent.is_settled


def test_threads_of_commands_end_with_them(client: Client) -> None:
    """A connection that runs many commands has no more threads than one that runs none."""
    heard = Heard(client)
    before = threading.active_count()
    for _ in range(30):
        assert heard.end(client.api.exec_start(["true"])) == (0, 0, "")
    wait_until(lambda: threading.active_count() <= before)
    assert threading.active_count() == before


@pytest.mark.parametrize("spare", [0, 1])
def test_a_command_without_a_thread_is_refused_and_ended(
    client: Client, running: Running, monkeypatch: pytest.MonkeyPatch, spare: int
) -> None:
    """Either thread may be missing; the connection and other commands continue."""
    with monkeypatch.context() as patch:
        refuse_threads(patch, "api-pump", spare)
        with pytest.raises(UserError, match="no more threads"):
            client.api.exec_start(["sleep", "1000"])
    assert client.api.status().state == State.RUNNING
    agent = running.owner.lifecycle.agent
    wait_until(lambda: not agent._commands)
