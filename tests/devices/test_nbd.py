"""The NBD client against servers that break the protocol, or leave."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import pack
from threading import Thread

import pytest

from pyvmm.devices import nbd
from pyvmm.devices.nbd import NbdDisk, NbdError
from tests.waiting import PATIENCE

GREETING = b"NBDMAGICIHAVEOPT\0\1"
CLIENT_SIZE = 4 + 16 + 6  # its flags and its option
SIZE, FLAGS = 1 << 20, 1 | 4
ACK = pack(">QIII", 0x3E889045565A9, 7, 1, 0)


def info(size: int = SIZE, flags: int = FLAGS) -> bytes:
    """Return the description of the disk."""
    return pack(">QIII", 0x3E889045565A9, 7, 3, 12) + pack(">HQH", 0, size, flags)


def receive(peer: socket.socket, size: int) -> bytes:
    """Receive so many bytes, or all until the end."""
    data = b""
    while len(data) < size and (part := peer.recv(size - len(data))):
        data += part
    return data


@contextmanager
def server(path: Path, serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve one connection."""

    def run() -> None:
        peer, _ = listener.accept()
        with peer:
            serve(peer)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = Thread(target=run)
        thread.start()
        yield str(path)
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ([b""], "the NBD server is gone"),
        ([b"HTTP/1.1 400 Bad"], "does not speak NBD"),
        ([GREETING, b""], "the NBD server is gone"),
        ([GREETING, ACK[:10]], "the NBD server is gone"),
        ([GREETING, b"x" * 20], "invalid reply"),
        ([GREETING, pack(">QIII", 0x3E889045565A9, 7, 3, 1 << 31)], "invalid reply"),
        ([GREETING, pack(">QIII", 0x3E889045565A9, 7, (1 << 31) + 6, 2) + b"no"], "refused.*: no"),
        ([GREETING, info() * 100], "too many replies"),
    ],
)
def test_a_server_that_breaks_the_negotiation_is_an_error(
    tmp_path: Path, answers: list[bytes], why: str
) -> None:
    """There is one line, and no waiting."""

    def serve(peer: socket.socket) -> None:
        for answer in answers:
            peer.sendall(answer)
            if answer == GREETING:
                receive(peer, CLIENT_SIZE)

    with server(tmp_path / "s", serve) as path, pytest.raises(NbdError, match=why):
        NbdDisk(path)


def negotiate(peer: socket.socket) -> None:
    """Do what a good server does first."""
    peer.sendall(GREETING)
    receive(peer, CLIENT_SIZE)
    peer.sendall(info() + ACK)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "the NBD server is gone"),
        (bytes(16), "invalid reply"),
        (pack(">IIQ", 0x67446698, 0, 0) + b"short", "the NBD server is gone"),
    ],
)
def test_a_server_that_breaks_off_fails_all_requests(
    tmp_path: Path, answer: bytes, why: str
) -> None:
    """The connection is not used any more."""

    def serve(peer: socket.socket) -> None:
        negotiate(peer)
        receive(peer, 28)
        peer.sendall(answer)

    with server(tmp_path / "s", serve) as path:
        disk = NbdDisk(path)
        assert (disk.size, disk.is_read_only) == (SIZE, False)
        with pytest.raises(NbdError, match=why):
            disk.read(0, [memoryview(bytearray(512))])
        with pytest.raises(NbdError, match="the NBD server is gone"):
            disk.flush()
        disk.close()


def test_an_error_of_the_storage_does_not_end_the_connection(tmp_path: Path) -> None:
    """The next request is served."""

    def serve(peer: socket.socket) -> None:
        negotiate(peer)
        for code in (28, 0):
            receive(peer, 28 + 512)
            peer.sendall(pack(">IIQ", 0x67446698, code, 0))

    with server(tmp_path / "s", serve) as path:
        disk = NbdDisk(path)
        with pytest.raises(OSError, match="No space left on device"):
            disk.write(0, [memoryview(bytes(512))])
        disk.write(0, [memoryview(bytes(512))])
        disk.close()


def test_a_server_that_does_not_answer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request does not wait for ever."""
    monkeypatch.setattr(nbd, "PATIENCE", 0.1)

    def serve(peer: socket.socket) -> None:
        negotiate(peer)
        while peer.recv(4096):
            pass

    with server(tmp_path / "s", serve) as path:
        disk = NbdDisk(path)
        with pytest.raises(NbdError, match="the NBD server does not answer"):
            disk.flush()
        disk.close()


def test_what_the_server_cannot_do_is_done_otherwise(tmp_path: Path) -> None:
    """Zeros are written; nothing is discarded."""
    received: list[bytes] = []

    def serve(peer: socket.socket) -> None:
        negotiate(peer)
        for _ in range(2):
            received.append(receive(peer, 28))
            receive(peer, int.from_bytes(received[-1][24:], "big"))
            peer.sendall(pack(">IIQ", 0x67446698, 0, 0))

    with server(tmp_path / "s", serve) as path:
        disk = NbdDisk(path)
        disk.discard(0, 4096)
        disk.write_zeroes(512, (1 << 20) + 512, may_unmap=True)
        disk.close()
    assert [(head[6:8], head[16:]) for head in received] == [
        (b"\0\1", pack(">QI", 512, 1 << 20)),
        (b"\0\1", pack(">QI", 512 + (1 << 20), 512)),
    ]
