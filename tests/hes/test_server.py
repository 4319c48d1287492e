"""The loop: many mailboxes, including bad ones, and no client delays another."""

import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hes import server
from hes.hes import Hes
from hes.image import installation
from hes.server import Server
from pyvmm.arch.psa import (
    MAX_MESSAGE,
    DelegatedAttestation,
    HesService,
    PsaHandle,
    PsaReply,
    PsaRequest,
    PsaStatus,
)
from tests.hes.rig import Answer, parse_reply, request
from tests.receiving import receive_exactly
from tests.shortage import BusyListener

PATIENCE = 30.0
PUBLIC_KEY = request(
    PsaHandle.DELEGATED_ATTESTATION, DelegatedAttestation.GET_PUBLIC_KEY, (), (97,)
)
POWER_ON = request(PsaHandle.HES, HesService.POWER_ON, (b"g1",), (200,))
STATUS = request(PsaHandle.HES, HesService.STATUS, (), (4096,))


class Loop:
    """A server in a thread, and functions to call it."""

    def __init__(self, directory: Path) -> None:
        self.address = directory / "socket"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.address))
        listener.listen()
        self.server = Server(Hes(directory, installation()), listener, self.address)
        self.first, theirs = socket.socketpair()
        self.server.add(theirs)
        self.thread = threading.Thread(target=self.server.run, name="hes loop", daemon=True)

    def connect(self) -> socket.socket:
        """Open a mailbox."""
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(PATIENCE)
        stream.connect(str(self.address))
        return stream


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    """A loop that runs until its last mailbox is closed."""
    loop = Loop(tmp_path)
    loop.thread.start()
    with loop.first:
        yield loop
    loop.thread.join(PATIENCE)
    assert not loop.thread.is_alive()
    assert not loop.address.exists()


def frame(message: bytes) -> bytes:
    """Return the frame of a message."""
    return struct.pack("<I", len(message)) + message


def receive(stream: socket.socket) -> bytes:
    """Return the next reply."""
    (size,) = struct.unpack("<I", receive_exactly(stream, 4))
    return receive_exactly(stream, size)


def ask(stream: socket.socket, message: bytes) -> Answer:
    """Send a message and parse its reply."""
    stream.sendall(frame(message))
    return parse_reply(receive(stream))


def is_closed(stream: socket.socket) -> bool:
    """Wait until the other end is closed."""
    stream.settimeout(PATIENCE)
    try:
        return stream.recv(1) == b""
    except ConnectionResetError:
        return True


def test_each_connection_is_a_machine_of_its_own(loop: Loop) -> None:
    """In reset until it is switched on, off when it is closed."""
    with loop.connect() as one, loop.connect() as other:
        assert ask(one, POWER_ON).status is PsaStatus.SUCCESS
        assert ask(one, PUBLIC_KEY).status is PsaStatus.SUCCESS
        assert ask(other, PUBLIC_KEY).status is PsaStatus.BAD_STATE
        assert f'"machines": [{os.getpid()}]' in ask(other, STATUS).text
    with loop.connect() as again:
        assert ask(again, PUBLIC_KEY).status is PsaStatus.BAD_STATE
        assert '"machines": []' in ask(again, STATUS).text


def test_message_may_come_byte_by_byte_and_many_at_once(loop: Loop) -> None:
    """A stream has no message boundaries."""
    with loop.connect() as stream:
        for byte in frame(POWER_ON):
            stream.sendall(bytes([byte]))
        assert parse_reply(receive(stream)).status is PsaStatus.SUCCESS
        stream.sendall(frame(PUBLIC_KEY) * 5)
        replies = {receive(stream) for _ in range(5)}
        assert len(replies) == 1


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(struct.pack("<I", MAX_MESSAGE + 1), id="too long"),
        pytest.param(b"\xff" * 8, id="far too long"),
        pytest.param(b"\1", id="half a size"),
        pytest.param(frame(POWER_ON)[:-1], id="half a message"),
    ],
)
def test_bad_frame_closes_its_connection_only(loop: Loop, data: bytes) -> None:
    """The others' machines stay on."""
    with loop.connect() as good:
        ask(good, POWER_ON)
        rak = ask(good, PUBLIC_KEY)
        with loop.connect() as bad:
            bad.sendall(data)
            bad.shutdown(socket.SHUT_WR)
            assert is_closed(bad)
        assert ask(good, PUBLIC_KEY) == rak


@pytest.mark.parametrize("message", [b"", b"\0", bytes(PsaRequest.size), b"\xff" * MAX_MESSAGE])
def test_bad_message_has_a_reply_and_the_connection_stays(loop: Loop, message: bytes) -> None:
    """An error status; the next message is served."""
    with loop.connect() as stream:
        assert ask(stream, message).status in {
            PsaStatus.PROGRAMMER_ERROR,
            PsaStatus.NOT_SUPPORTED,
        }
        assert ask(stream, POWER_ON).status is PsaStatus.SUCCESS


def test_client_that_reads_no_replies_delays_nobody(loop: Loop) -> None:
    """And finally gets all replies."""
    with loop.connect() as lazy, loop.connect() as other:
        lazy.setblocking(False)
        count, data = 0, frame(STATUS)
        sent = 0
        while True:
            try:
                sent += lazy.send(data[sent % len(data) :])
            except BlockingIOError:
                # Its replies fill the buffer now or soon; others are served meanwhile.
                if ask(other, STATUS).status is PsaStatus.SUCCESS and count == sent:
                    break
                count = sent
        lazy.setblocking(True)
        lazy.settimeout(PATIENCE)
        for _ in range(sent // len(data)):
            assert parse_reply(receive(lazy)).status is PsaStatus.SUCCESS


def test_a_bug_of_ours_ends_one_call(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The traceback goes to the error file, and the machines stay on."""

    def broken(*_: object) -> tuple[bytes, ...]:
        raise ZeroDivisionError

    with loop.connect() as stream:
        ask(stream, POWER_ON)
        with monkeypatch.context() as patch:
            patch.setattr(server, "serve", broken)
            assert ask(stream, PUBLIC_KEY).status is PsaStatus.GENERIC_ERROR
        assert "ZeroDivisionError" in capsys.readouterr().err
        assert ask(stream, PUBLIC_KEY).status is PsaStatus.SUCCESS


def test_other_users_are_not_served(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the directory's permissions."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: 12345)
        with loop.connect() as stranger:
            assert is_closed(stranger)
    with loop.connect() as stream:
        assert ask(stream, POWER_ON).status is PsaStatus.SUCCESS


def test_too_many_clients_have_to_wait(tmp_path: Path) -> None:
    """The number of descriptors is limited; a waiting client follows one that leaves."""
    loop = Loop(tmp_path)
    loop.server._max_clients = 3
    loop.thread.start()
    with loop.first, ExitStack() as stack:
        streams = [stack.enter_context(loop.connect()) for _ in range(2)]
        assert all(ask(stream, STATUS).status is PsaStatus.SUCCESS for stream in streams)
        late = stack.enter_context(loop.connect())
        late.sendall(frame(STATUS))
        late.settimeout(0.2)
        with pytest.raises(TimeoutError):
            late.recv(1)
        streams[0].close()
        late.settimeout(PATIENCE)
        assert len(receive(late)) > PsaReply.size
    loop.thread.join(PATIENCE)
    assert not loop.thread.is_alive()


def test_client_waiting_at_the_end_is_served(tmp_path: Path) -> None:
    """The last client has left, but another one is waiting."""
    loop = Loop(tmp_path)
    with loop.connect() as waiting:
        loop.first.close()
        loop.thread.start()
        assert ask(waiting, STATUS).status is PsaStatus.SUCCESS
    loop.thread.join(PATIENCE)
    assert not loop.thread.is_alive()


def test_address_of_another_hes_is_kept(tmp_path: Path) -> None:
    """If ours was removed, and another HES has it now."""
    loop = Loop(tmp_path)
    loop.thread.start()
    loop.address.unlink()
    with socket.socket(socket.AF_UNIX) as another:
        another.bind(str(loop.address))
        loop.first.close()
        loop.thread.join(PATIENCE)
        assert loop.address.exists()


def test_a_client_waits_while_it_cannot_be_accepted(tmp_path: Path) -> None:
    """For a descriptor; the loop does not spin meanwhile."""
    loop = Loop(tmp_path)
    busy = BusyListener(loop.server._listener, *[errno.EMFILE] * 20)
    loop.thread.start()
    with loop.first, pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.server, "_listener", busy)
        start = time.monotonic()
        with loop.connect() as stream:
            assert ask(stream, STATUS).status is PsaStatus.SUCCESS
        assert time.monotonic() - start > 0.1
        assert not busy.failures
        patch.undo()
    loop.thread.join(PATIENCE)
    assert not loop.thread.is_alive()
