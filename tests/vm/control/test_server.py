"""An instance's API over its socket: the typed client, raw lines, and clients that misbehave."""

import json
import os
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.arch.errors import UserError
from pyvmm.devices.bus import Bus
from pyvmm.host.guest import Outcome
from pyvmm.vm import memory_map
from pyvmm.vm.control import server
from pyvmm.vm.control.api import API_VERSION, State, Status
from pyvmm.vm.control.client import Client, Gone, NoAnswer, connect
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.control.rpc import MAX_LINE
from pyvmm.vm.exit_code import ExitCode, Failure
from tests.shortage import ACCEPT_FAILURES, BusyListener, refuse_threads
from tests.vm.served import Served
from tests.vm.stage import show
from tests.waiting import wait_until

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602


class Told:
    """Records an instance's notifications."""

    def __init__(self) -> None:
        self.states: list[State] = []
        self.positions: list[int] = []
        self.said = b""
        self.is_closed = False

    def state_changed(self, status: Status) -> None:
        """Note it."""
        self.states.append(status.state)

    def console_output(self, position: int, data: bytes) -> None:
        """Note it."""
        self.positions.append(position)
        self.said += data

    def console_closed(self) -> None:
        """Note it."""
        self.is_closed = True

    def listen_to_end(self, client: Client) -> None:
        """Listen until the instance is gone."""
        try:
            while client.listen(self, 10):
                pass
        except Gone:
            return
        pytest.fail("the instance is not gone")


def ask(connection: socket.socket, line: bytes) -> dict[str, object]:
    """Send a line and return the answer."""
    connection.sendall(line)
    answer = json.loads(connection.makefile("rb").readline())
    assert isinstance(answer, dict)
    return answer


def test_a_client_leads_the_whole_life(served: Served) -> None:
    """Each call has the effect of the lifecycle's control."""
    api = served.client().api
    assert api.version().api == API_VERSION
    assert api.status() == served.owner.lifecycle.status
    assert api.start().state == State.RUNNING
    assert api.pause().state == State.PAUSED
    assert api.resume().state == State.RUNNING
    assert api.statistics().vcpus[0].instructions == 7
    assert api.stop().exit_code == ExitCode.QUIT


def test_refusals_arrive_as_they_were(served: Served) -> None:
    """A UserError stays a UserError, and a Failure keeps its code."""
    api = served.client().api
    with pytest.raises(UserError, match="r1 is new: start it first"):
        api.pause()

    def fail(_bus: Bus) -> None:
        raise Failure(ExitCode.REFUSED, "not today")

    served.owner.guest._script = fail
    with pytest.raises(Failure, match="not today") as caught:
        api.start()
    assert caught.value.code is ExitCode.REFUSED


def test_our_own_defect_is_told_and_loses_nothing(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    """The traceback goes to the log; the instance continues."""

    def fail(_bus: Bus) -> None:
        raise ZeroDivisionError

    api = served.client().api
    served.owner.guest._script = fail
    with pytest.raises(Failure, match="ZeroDivisionError") as caught:
        api.start()
    assert caught.value.code is ExitCode.INTERNAL
    assert "Traceback" in capsys.readouterr().err
    assert api.status().state == State.NEW


def test_states_are_told_to_the_end(served: Served) -> None:
    """All watching clients get every state, including the last one."""
    clients, told = [served.client() for _ in range(3)], [Told() for _ in range(3)]
    assert {client.api.watch().state for client in clients} == {State.NEW}
    clients[0].api.start()
    clients[0].api.pause()
    served.end()
    for client, each in zip(clients, told, strict=True):
        each.listen_to_end(client)
        assert each.states == [State.RUNNING, State.PAUSED, State.STOPPED]


def test_the_console_is_told_to_the_end(served: Served) -> None:
    """Clients get earlier output on request, and every client may type."""
    served.owner.lifecycle.console_log.write(b"before\n")
    late, early = served.client(), served.client()
    assert early.api.console_attach().position == 0
    place = late.api.console_attach(scrollback=False)
    assert (place.position, place.end) == (7, 7)

    def echo(bus: Bus) -> Outcome:
        bus.write(memory_map.UART_BASE + 1, 1, 1)  # IER.RDI
        while not bus.read(memory_map.UART_BASE + 5, 1) & 1:  # LSR.DR
            pass
        show(bus, bytes((bus.read(memory_map.UART_BASE, 1),)) + b"\n")
        return Outcome.OFF

    late.api.console_write(b"y")
    served.owner.guest._script = echo
    late.api.start()
    served.end()
    for client, said, position in ((early, b"before\ny\n", 0), (late, b"y\n", 7)):
        told = Told()
        told.listen_to_end(client)
        assert (told.said, told.positions[0], told.is_closed) == (said, position, True)


def test_who_reads_too_slowly_holds_nobody_up(served: Served) -> None:
    """It misses some output, sees where, and gets the rest; the guest does not wait."""
    client, told = served.client(), Told()
    client.api.console_attach()
    log = served.owner.lifecycle.console_log
    for number in range(2000):
        log.write(bytes((number & 0xFF,)) * 4096)
    log.write(b"end")
    reader = threading.Thread(target=told.listen_to_end, args=(client,))
    reader.start()
    served.end()
    reader.join(10)
    assert told.said.endswith(b"end")
    assert len(told.said) < log.end
    assert told.positions[-1] > told.positions[0]


def test_typing_waits_for_the_guest(served: Served) -> None:
    """This does not block other requests or the end."""
    served.client().api.console_write(b"x" * 4095)
    blocked = served.client()
    answered = threading.Event()
    blocked.post("console_write", {"data": b"yy"}, answered.set)
    assert not blocked.listen(Told(), 0.05)
    assert not answered.is_set()
    assert served.client().api.stop().state == State.STOPPED


def test_a_dead_connection_is_a_failure(served: Served) -> None:
    """The client does not wait."""
    client = served.client()
    served.end()
    with pytest.raises(Gone, match="r1 has ended"):
        client.api.status()
    with pytest.raises(Gone):
        client.listen(Told())


def test_no_answer_is_a_failure(served: Served) -> None:
    """The failure comes after the time-out."""
    client = served.client()
    client.patience = 0.05
    client.post("console_write", {"data": b"x" * 5000}, lambda: None)
    with pytest.raises(NoAnswer, match="pyvmm destroy r1 ends it"):
        client.api.status()


def test_only_friends_are_heard(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections from other users are closed, even if the directory's mode let them in."""
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(server, "_ROOT", 4712)
    with pytest.raises(Gone):
        connect(served.directory, "r1")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"\n", PARSE_ERROR),
        (b"{\n", PARSE_ERROR),
        (b"\xff\n", PARSE_ERROR),
        (b'{"a":' * 100_000 + b"\n", PARSE_ERROR),
        (b"[]\n", INVALID_REQUEST),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "status"}\n', INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1}\n', INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "status"}\n', INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "fly"}\n', METHOD_NOT_FOUND),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "__init__"}\n', METHOD_NOT_FOUND),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "status", "params": [1]}\n', INVALID_PARAMS),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "status", "params": {"a": 1}}\n', INVALID_PARAMS),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "console_write"}\n', INVALID_PARAMS),
        (
            b'{"jsonrpc": "2.0", "id": 1, "method": "console_write", "params": {"data": "?"}}\n',
            INVALID_PARAMS,
        ),
        (
            b'{"jsonrpc":"2.0", "id": 1, "method":"console_attach", "params": {"scrollback": 1}}\n',
            INVALID_PARAMS,
        ),
    ],
)
def test_a_bad_line_gets_an_error_and_the_next_an_answer(
    served: Served, line: bytes, code: int
) -> None:
    """Invalid lines do not end the connection, except one that is too long."""
    connection = served.raw()
    error = ask(connection, line)["error"]
    assert isinstance(error, dict)
    assert error["code"] == code
    assert error["message"]
    answer = ask(connection, b'{"jsonrpc": "2.0", "id": "a", "method": "status"}\n')
    assert answer["id"] == "a"
    assert answer["jsonrpc"] == "2.0"
    assert isinstance(answer["result"], dict)
    assert answer["result"]["state"] == "new"


def test_a_line_without_end_ends_the_connection(served: Served) -> None:
    """The server does not buffer it without limit."""
    connection = served.raw()
    with pytest.raises(OSError, match=r"reset|pipe"):
        connection.sendall(bytes(2 * MAX_LINE))
    assert served.client().api.status().state == State.NEW


def test_a_notification_gets_no_answer(served: Served) -> None:
    """This holds for valid and invalid notifications."""
    connection = served.raw()
    connection.sendall(b'{"jsonrpc": "2.0", "method": "fly"}\n')
    connection.sendall(b'{"jsonrpc": "2.0", "method": "start"}\n')
    answer = ask(connection, b'{"jsonrpc": "2.0", "id": 7, "method": "version"}\n')
    assert answer["id"] == 7
    assert served.owner.lifecycle.status.state == State.RUNNING


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_no_bytes_harm_the_instance(served: Served, noise: bytes) -> None:
    """Other clients are served after any input."""
    with served.directory.connect("r1", 10) as connection:
        connection.sendall(noise)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(10)
        while connection.recv(1 << 16):
            pass
    assert served.owner.lifecycle.status.state == State.NEW


def num_files() -> int:
    """Count this process's descriptors."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_clients_that_hang_up_at_once_leave_nothing(served: Served) -> None:
    """No thread and no descriptor remains."""
    threads, files = threading.active_count(), num_files()
    for _ in range(50):
        served.directory.connect("r1", 10).close()
    with connect(served.directory, "r1") as client:
        client.api.console_attach()
        client.api.watch()
    wait_until(lambda: (threading.active_count(), num_files()) == (threads, files))


SNAPSHOT = b'{"jsonrpc":"2.0","id":1,"method":"snapshot"}\n'


def test_a_snapshot_needs_a_file_with_the_request(served: Served, tmp_path: Path) -> None:
    """Without one, and with what is no file, it is refused; no descriptor remains."""
    files = num_files()
    with served.directory.connect("r1", 10) as connection:
        assert "no file came with the request" in str(ask(connection, SNAPSHOT))
        directory = os.open(tmp_path, os.O_RDONLY)
        socket.send_fds(connection, [SNAPSHOT], [directory])
        os.close(directory)
        with connection.makefile("rb") as answers:
            assert b"Is a directory: choose another file" in answers.readline()
    wait_until(lambda: num_files() == files)


def test_descriptors_that_nobody_asked_for_are_closed(served: Served) -> None:
    """However many come, with whatever bytes."""
    files = num_files()
    with served.directory.connect("r1", 10) as connection:
        for _ in range(20):
            socket.send_fds(connection, [b" "], [0] * 10)
        assert ask(connection, b'{"jsonrpc":"2.0","id":1,"method":"version"}\n')["id"] == 1
        assert num_files() <= files + 3
    wait_until(lambda: num_files() == files)


def test_a_client_without_a_thread_costs_nobody_else(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is closed; the next client is served."""
    with monkeypatch.context() as patch:
        refuse_threads(patch, "api-session")
        with pytest.raises(Gone):
            connect(served.directory, "r1")
    assert served.client().api.status().state == State.NEW


def test_a_client_waits_while_nobody_can_be_let_in(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server waits for a descriptor or for memory."""
    busy = BusyListener(served.claim.listener, *ACCEPT_FAILURES)
    monkeypatch.setattr(served.server, "_listener", busy)
    assert served.client().api.status().state == State.NEW
    assert not busy.failures


@pytest.mark.parametrize("method", ["watch", "console_attach"])
def test_a_request_without_a_thread_is_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The error is one line; the connection stays open."""
    client = served.client()
    refuse_threads(monkeypatch, "api-pump")
    with pytest.raises(UserError, match="no more threads"):
        getattr(client.api, method)()
    assert client.api.status().state == State.NEW


def test_who_takes_nobody_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client waits some seconds for the connection; the instance counts as running."""
    directory = Directory(tmp_path / "pyvmm")
    monkeypatch.setattr("pyvmm.vm.control.directory._BACKLOG", 0)
    status = Status(
        name="r1", state=State.RUNNING, pid=1, kind="vm", num_cpus=1, ram_size=0, created=0
    )
    claim = directory.claim(status)
    with directory.connect("r1", 0):
        for patience in (0.1, 0):
            with pytest.raises(NoAnswer, match="pyvmm destroy r1 ends it"):
                connect(directory, "r1", patience)
        assert directory.find("r1") == status
    claim.listener.close()
