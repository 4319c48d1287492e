"""`pyvmm-agent secret`, run on this machine, against `pyvmm kbs` and against brokers that lie."""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pyvmm.token.claims import RealmKey
from pyvmm.token.generations import Generation
from tests.cli.instance import running
from tests.kbs.realm import NAME, SECRET, make_library, reference
from tests.token.draft import Draft
from tests.vm.agent_program import COMPILE, LINK, SOURCES

PATIENCE = 60
TOKEN_PORT = Path(__file__).with_name("token_port.c")
NONCE = b'{"nonce":"AAAA"}'


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile an agent whose tokens come from the test."""
    directory = tmp_path_factory.mktemp("agent")
    compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
    objects = []
    for source in [*sorted(SOURCES.glob("*.c")), TOKEN_PORT]:
        renamed = ["-Dget_report=kernel_report"] if source.stem == "run" else []
        objects.append(directory / f"{source.stem}.o")
        command = [compiler, *COMPILE, '-DSOURCE_DIGEST="test"', *renamed, f"-I{SOURCES}"]
        subprocess.run([*command, "-c", source, "-o", objects[-1]], check=True)
    subprocess.run([compiler, *LINK, *objects, "-o", directory / "agent"], check=True)
    return directory / "agent"


def attest(port: socket.socket) -> None:
    """Answer one challenge with a genuine token."""
    with port:
        challenge = port.recv(64)
        if challenge:
            draft = Draft.good(Generation.G1)
            draft.realm.claims[int(RealmKey.CHALLENGE)] = challenge
            port.sendall(draft.encode())


def secret(program: Path, server: str, name: str = NAME) -> subprocess.CompletedProcess[bytes]:
    """Run the client."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=attest, args=(ours,))
    thread.start()
    with theirs:
        line = f'exec "$0" "$@" 3<&{theirs.fileno()} {theirs.fileno()}<&-'
        command = ["bash", "-c", line, str(program), "secret", server, name]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
        )
    output, errors = process.communicate(timeout=PATIENCE)
    thread.join()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run `pyvmm kbs`: this realm may have the repository default, but not other."""
    root = make_library(tmp_path_factory.mktemp("kbs"))
    for size in (0, 1, 65536):
        (root / f"resource/default/key/size-{size}").write_bytes(bytes(size))
    with running("kbs", str(root)) as process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip().removeprefix("http://")


def test_secret_arrives_whole(program: Path, broker: str) -> None:
    """On standard output, also an empty one and the largest."""
    got = secret(program, broker)
    assert (got.returncode, got.stdout, got.stderr) == (0, SECRET, b"")
    for size in (0, 1, 65536):
        assert secret(program, broker, f"default/key/size-{size}").stdout == bytes(size)


def test_refusal_is_one_line(program: Path, broker: str, tmp_path: Path) -> None:
    """The broker's reason, and exit code 1."""
    for name, reason in (
        ("default/key/none", b"no secret 'default/key/none': check the names"),
        ("other/key/x", b"this realm may not have secrets of 'other'"),
    ):
        got = secret(program, broker, name)
        assert (got.returncode, got.stdout, got.stderr.count(b"\n")) == (1, b"", 1)
        assert reason in got.stderr
    root = make_library(tmp_path, {"other": reference(b"o" * 32)})
    with running("kbs", str(root)) as process:
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip().removeprefix("http://")
        got = secret(program, address)
    assert b"attest: default/other.json: realm.cca-realm-initial-measurement" in got.stderr


@pytest.mark.parametrize(
    ("server", "name", "reason"),
    [
        ("127.0.0.1", NAME, b"give vsock:CID:PORT or IP:PORT"),
        ("256.0.0.1:80", NAME, b"give vsock:CID:PORT or IP:PORT"),
        ("127.0.0.1:65536", NAME, b"give vsock:CID:PORT or IP:PORT"),
        ("vsock:2", NAME, b"give vsock:CID:PORT or IP:PORT"),
        ("vsock:2:4294967296", NAME, b"give vsock:CID:PORT or IP:PORT"),
        ("127.0.0.1:1", NAME, b"connection refused"),
        ("127.0.0.1:1", "a b", b"give REPOSITORY/TYPE/TAG"),
        ("127.0.0.1:1", "a" * 600, b"give REPOSITORY/TYPE/TAG"),
    ],
)
def test_bad_argument_is_one_line(program: Path, server: str, name: str, reason: bytes) -> None:
    """What is wrong, and what to give."""
    got = secret(program, server, name)
    assert got.returncode in {1, 2}
    assert (got.stdout, got.stderr.count(b"\n")) == (b"", 1)
    assert reason in got.stderr


def http(body: bytes, status: bytes = b"200 OK") -> bytes:
    """Return a response."""
    return b"HTTP/1.1 " + status + b"\r\nset-cookie: kbs-session-id=x; Path=/\r\n\r\n" + body


@pytest.mark.parametrize(
    ("responses", "reason"),
    [
        ([b""], b"no HTTP response"),
        ([b"SSH-2.0-x\r\n\r\n"], b"no HTTP response"),
        ([b"HTTP/1.1 200 OK\r\n"], b"no HTTP response"),
        ([b"HTTP/1.1 x\r\n\r\n"], b"no HTTP response"),
        ([http(bytes(300_000))], b"a response that is too large"),
        ([http(b"{}")], b"the broker sent no challenge"),
        ([http(b'{"nonce":"a\\"b"}')], b"the broker sent no challenge"),
        ([http(b'{"nonce":"' + b"a" * 500 + b'"}')], b"the broker sent no challenge"),
        ([http(b'{"nonce":"a\x1b[2J"}')], b"the broker sent no challenge"),
        ([http(b"x", b"500 Oops")], b"the broker refuses, status 500"),
        ([http(b'{"detail":"no"}', b"403 No")], b"auth: no\n"),
        ([http(NONCE), http(b"{}"), http(b"{}")], b"is not a secret for this realm"),
        (
            [http(NONCE), http(b"{}"), http(b'{"protected":"e30","ciphertext":"A"}')],
            b"is not a secret for this realm",
        ),
    ],
)
def test_lying_broker_does_no_harm(program: Path, responses: list[bytes], reason: bytes) -> None:
    """The host can answer anything: one line, no output."""

    def serve(listener: socket.socket) -> None:
        for response in responses:
            with listener.accept()[0] as client, suppress(ConnectionError):
                client.recv(1 << 20)
                client.sendall(response)
                client.shutdown(socket.SHUT_WR)
                while client.recv(1 << 16):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        got = secret(program, f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert (got.returncode, got.stdout, got.stderr.count(b"\n")) == (1, b"", 1)
    assert reason in got.stderr
