"""`pyvmm kbs` as a program: what it serves and prints, and strange clients."""

import http.client
import json
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyvmm.kbs.web import MAX_BODY
from tests.boot.command import pyvmm
from tests.cli.instance import running
from tests.kbs.realm import NAME, REQUEST, SECRET, Json, Realm, make_library


@dataclass
class Server:
    """A running broker, and what it has printed on standard error."""

    port: int
    path: Path  # of its Unix socket
    log: list[str]

    def call(self, method: str, path: str, body: bytes = b"", cookie: str = "") -> tuple[int, Json]:
        """Return the status and the body of a response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with closing(connection):
            connection.request(method, f"/kbs/v0/{path}", body, {"Cookie": cookie})
            response = connection.getresponse()
            self.cookie = (response.headers["Set-Cookie"] or "").partition(";")[0]
            assert response.headers["Server"] is None
            text = response.read()
            return response.status, json.loads(text) if text.startswith(b"{") else {}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a broker."""
    root = make_library(tmp_path_factory.mktemp("kbs"))
    path = root / "socket"
    with running("kbs", str(root), "--port", "0", "--socket", str(path)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        errors = process.stderr
        log: list[str] = []
        reader = threading.Thread(target=lambda: log.extend(line.decode() for line in errors))
        reader.start()
        yield Server(int(process.stdout.readline().rpartition(b":")[2]), path, log)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        reader.join()
    assert not path.exists()


def test_handshake(server: Server) -> None:
    """A realm gets its secret; what it may not know is not in the log."""
    realm = Realm()
    status, challenge = server.call("POST", "auth", REQUEST)
    cookie = server.cookie
    assert (status, cookie.partition("=")[0]) == (200, "kbs-session-id")
    status, _ = server.call("POST", "attest", realm.answer(str(challenge["nonce"])), cookie)
    assert status == 200
    status, secret = server.call("GET", f"resource/{NAME}", cookie=cookie)
    assert (status, realm.read(secret)) == (200, SECRET)
    status, problem = server.call("GET", f"resource/{NAME}")
    assert status == 401
    assert str(problem["type"]).endswith("/errors/session")
    log = "".join(server.log)
    assert f"pyvmm: /kbs/v0/resource/{NAME}: released\n" in log
    assert "refused: no such session" in log
    assert SECRET.decode("latin-1") not in log
    assert cookie.partition("=")[2] not in log


def test_strange_requests_get_an_answer(server: Server) -> None:
    """A body that is too large, other methods, other paths, and no HTTP at all."""
    assert server.call("POST", "auth", bytes(MAX_BODY + 1))[0] == 413
    assert server.call("GET", "auth")[0] == 405
    assert server.call("GET", "resource/a/b")[0] == 404
    assert server.call("GET", "resource/default/key/%2e%2e")[0] == 401
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"\0\xff\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400")
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST /kbs/v0/auth HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
    assert server.call("POST", "auth", REQUEST)[0] == 200


def test_unix_socket_is_the_owners(server: Server) -> None:
    """A guest's vsock ends in it."""
    assert server.path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(server.path))
        client.sendall(b"GET /kbs/v0/auth HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 405")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("no-such-directory",), "does not exist"),
        ((".",), "resource is not a directory"),
        (("library", "--host", "999.1.1.1"), "--host 999.1.1.1"),
        (("library", "--socket", "library/x/y"), "--socket library/x/y: No such file"),
        (("library", "--key", "library/policy/default/web.json"), "is not a private key"),
        (("library", "--lifetime", "0"), "--lifetime"),
    ],
)
def test_bad_option_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], reason: str
) -> None:
    """And exit code 2."""
    make_library(tmp_path / "library")
    monkeypatch.chdir(tmp_path)
    ended = pyvmm("kbs", *arguments)
    assert (ended.code, ended.output, ended.errors.count("\n")) == (2, "", 1)
    assert reason in ended.errors
