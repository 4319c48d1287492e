"""The API as HTTP: requests right and wrong, feeds, and clients that misbehave."""

import http.client
import json
import socket
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pyvmm.vm.control import http_stream
from pyvmm.vm.control.api import METHODS, State
from pyvmm.vm.control.openapi import document
from pyvmm.vm.control.routes import FEEDS, READS, ROUTES
from pyvmm.vm.control.rpc import MAX_LINE
from pyvmm.vm.control.schema import MANUAL
from tests.boot.command import call
from tests.boot.transcript import steps
from tests.vm.served import Served


class Connection(http.client.HTTPConnection):
    """A connection of the standard library's client over an instance's socket."""

    def __init__(self, served: Served) -> None:
        super().__init__("localhost")
        self.sock = served.raw()

    def ask(self, verb: str, target: str, body: str | None = None) -> tuple[int, object]:
        """Make a request; return status and content."""
        self.request(verb, target, body)
        response = self.getresponse()
        return response.status, json.loads(response.read())


def raw(served: Served, data: bytes) -> bytes:
    """Send bytes; return everything that is answered."""
    with served.raw() as connection:
        with suppress(BrokenPipeError):  # an early refusal
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_a_client_leads_the_whole_life(served: Served) -> None:
    """On one connection, in order."""
    connection = Connection(served)
    status, version = connection.ask("GET", "/version")
    assert (status, sorted(version)) == (200, ["api", "pyvmm", "rmi"])  # type: ignore[call-overload]
    for verb in ("start", "pause", "resume"):
        status, answer = connection.ask("POST", f"/{verb}")
        assert isinstance(answer, dict)
        assert (status, answer["name"]) == (200, "r1")
    status, answer = connection.ask("POST", "/balloon", '{"change": 0}')
    assert status == 409
    status, answer = connection.ask("POST", "/stop", "{}")
    assert isinstance(answer, dict)
    assert (status, answer["state"]) == (200, State.STOPPED)


@pytest.mark.parametrize(
    ("verb", "target", "body", "status", "line"),
    [
        ("GET", "/", None, 404, "no path /: see /openapi.json"),
        ("GET", "/nothing", None, 404, "no path /nothing: see /openapi.json"),
        ("POST", "/exec_start", "{}", 404, "no path /exec_start"),
        ("GET", "/pause", None, 405, "/pause takes POST, not GET"),
        ("DELETE", "/status", None, 405, "/status takes GET, not DELETE"),
        ("POST", "/openapi.json", None, 405, "/openapi.json takes GET, not POST"),
        ("POST", "/pause", None, 409, "r1 is new: start it first"),
        ("POST", "/sysrq", None, 400, "missing required field `key`"),
        ("POST", "/sysrq", '{"key": 3}', 400, "Expected `str`"),
        ("POST", "/sysrq", '{"key": "t"}, "method": "stop"', 400, "JSON is malformed"),
        ("POST", "/sysrq", '{"key": "t", "more": 1}', 400, "unknown field `more`"),
        ("POST", "/sysrq", "[" * 100_000, 400, ""),
        ("POST", "/sysrq?key=t", None, 400, "takes its parameters in the body, as JSON"),
        ("GET", "/observe_granule", None, 400, "missing required field `pa`"),
        ("GET", "/observe_granule?pa=x", None, 400, "Expected `int`"),
        ("GET", "/observe_granule?pa=1&pa=2", None, 400, "a parameter is given twice"),
        ("GET", "/observe_granule?pa", None, 400, "bad query field"),
        ("GET", "/status?verbose=1", None, 400, "unknown field `verbose`"),
        ("GET", "/observe_granule?pa=%ff", None, 400, ""),
    ],
)
def test_a_bad_request_is_one_line(
    served: Served, verb: str, target: str, body: str | None, status: int, line: str
) -> None:
    """With a status; the connection serves the next request."""
    connection = Connection(served)
    got, answer = connection.ask(verb, target, body)
    assert isinstance(answer, dict)
    assert got == status
    assert line in answer["message"]
    assert "\n" not in answer["message"]
    assert connection.ask("GET", "/status")[0] == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /status HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"GET /status HTTP/9.9\r\nHost: x\r\n\r\n", b"505"),
        (b"GET  HTTP\r\n\r\n", b"400"),
        (b"G\0T /status HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET /status HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000, b"431"),
        (b"POST /stop HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /stop HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
        (
            b"POST /stop HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
            + b" " * (MAX_LINE + 1),
            b"413",
        ),
        (b"POST /stop HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{", b"400"),
    ],
)
def test_what_is_not_http_gets_a_status_and_ends(
    served: Served, data: bytes, status: bytes
) -> None:
    """And does nothing."""
    answer = raw(served, data)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.count(b"\nContent-Length: ") == 1
    assert served.client().api.status().state == State.NEW


def test_a_slow_client_is_not_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that does not end its request nor one that sends no other."""
    monkeypatch.setattr(http_stream, "_PATIENCE", 0.2)
    with served.raw() as connection:
        connection.sendall(b"GET /status HT")
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 408")
    with served.raw() as connection:
        connection.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"\nContent-Length: ") == 1


def test_large_bodies_may_be_announced(served: Served) -> None:
    """As curl does, which waits for 100 Continue."""
    with served.raw() as connection:
        connection.sendall(
            b"POST /start HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 100")
        connection.sendall(b"{}")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_states_are_events_to_the_end(served: Served) -> None:
    """The answer of the call comes first, then each state; then the response ends."""
    connection = Connection(served)
    connection.request("GET", "/watch")
    response = connection.getresponse()
    assert response.headers["Content-Type"] == "text/event-stream"
    api = served.client().api
    api.start()
    api.pause()
    served.end()
    events = [event.split(b"\n") for event in response.read().split(b"\n\n") if event]
    assert [name for name, _ in events] == [b"event: result"] + [b"event: state_changed"] * 3
    first, *rest = [json.loads(data.removeprefix(b"data: ")) for _, data in events]
    assert first["state"] == State.NEW
    states = [each["status"]["state"] for each in rest]
    assert states == [State.RUNNING, State.PAUSED, State.STOPPED]


def test_who_leaves_a_feed_is_forgotten(served: Served) -> None:
    """Its threads end; `served` counts them."""
    for name in FEEDS:
        with closing(Connection(served)) as connection:
            connection.request("GET", f"/{name}")
            connection.getresponse().close()


def test_curl_prints_what_the_manual_shows(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command of its section on HTTP."""
    del served
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    examples = [each for each in steps(MANUAL) if each.command.startswith("curl ")]
    assert len(examples) >= 4
    for each in examples:
        ended = call("bash", "-c", each.command)
        assert (ended.code, ended.errors) == (0, "")
        assert each.shows(ended.output), ended.output


def test_every_method_has_a_path_or_needs_a_connection() -> None:
    """The description has them all."""
    assert set(METHODS) - set(ROUTES) == {
        "snapshot", "exec_start", "exec_write", "exec_end_input", "exec_signal", "exec_resize",
    }  # fmt: skip
    assert set(METHODS) >= READS
    paths = document()["paths"]
    assert isinstance(paths, dict)
    assert [*paths] == [f"/{name}" for name in ROUTES]
