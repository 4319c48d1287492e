"""JSON-RPC 2.0 over a stream socket: one object per line, in UTF-8.

Both ends use this.  Batches are not supported: a stream does not need them.
"""

import os
import select
import socket
import time
from contextlib import suppress
from enum import IntEnum
from threading import Lock
from typing import Final, Literal

import msgspec

from pyvmm.vm.json_text import decode

MAX_LINE: Final = 1 << 20  # bytes; larger than all our messages
_NEWLINE: Final = b"\n"
_CHUNK: Final = 64 << 10


class ErrorCode(IntEnum):
    """Protocol errors; errors of an instance are positive: exit codes."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603


class RpcError(msgspec.Struct, frozen=True):
    """The reason why a request failed."""

    code: int
    message: str


Id = int | str | None


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call, or, without an id, a notification."""

    method: str
    jsonrpc: Literal["2.0"]
    params: msgspec.Raw = msgspec.Raw(b"{}")  # an object: by name
    id: Id | msgspec.UnsetType = msgspec.UNSET


class Response(msgspec.Struct, frozen=True):
    """The answer to a call: a result or an error."""

    jsonrpc: Literal["2.0"]
    id: Id
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: RpcError | msgspec.UnsetType = msgspec.UNSET


def message(
    method: str, params: dict[str, object], id_: Id | msgspec.UnsetType = msgspec.UNSET
) -> Request:
    """Return a call, or, without an id, a notification."""
    return Request(method, "2.0", msgspec.Raw(msgspec.json.encode(params)), id_)


class Stream:
    """Lines in both directions; any thread may send, one may receive."""

    def __init__(self, connection: socket.socket, *, takes_descriptors: bool = False) -> None:
        self._connection = connection
        self._takes_descriptors = takes_descriptors
        self._descriptor: int | None = None  # the last one that has come
        self._lock = Lock()
        self._buffer = bytearray()

    def receive(self, timeout: float | None = None) -> bytes | None:
        """Return the next line; empty when the other end is gone, None after the time-out.

        A line longer than `MAX_LINE` also counts as the end.
        """
        searched = 0
        deadline = None if timeout is None else time.monotonic() + timeout
        while (newline := self._buffer.find(_NEWLINE, searched)) < 0:
            searched = len(self._buffer)
            if searched > MAX_LINE:
                return b""
            try:
                if deadline is not None and not self._wait(deadline - time.monotonic()):
                    return None
                data = self._receive()
            except OSError:  # reset, or closed by another thread
                return b""
            if not data:
                return b""
            self._buffer += data
        line = bytes(self._buffer[: newline + 1])
        del self._buffer[: newline + 1]
        return line

    def _receive(self) -> bytes:
        if not self._takes_descriptors:
            return self._connection.recv(_CHUNK)
        flags = socket.MSG_CMSG_CLOEXEC
        data, descriptors, _, _ = socket.recv_fds(self._connection, _CHUNK, 1, flags)
        for fd in descriptors:
            self._drop_descriptor()
            self._descriptor = fd
        return data

    def take_descriptor(self) -> int | None:
        """Return the descriptor that came with a request, for the caller to close."""
        fd, self._descriptor = self._descriptor, None
        return fd

    def _drop_descriptor(self) -> None:
        if (fd := self.take_descriptor()) is not None:
            os.close(fd)

    def _wait(self, patience: float) -> bool:
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        return bool(poll.poll(max(patience, 0) * 1000))

    def send(self, message: msgspec.Struct, descriptor: int | None = None) -> None:
        """Send one message, with an open file if one is given.

        Raises:
            OSError: the other end is gone.
        """
        data = msgspec.json.encode(message) + _NEWLINE
        with self._lock:
            if descriptor is not None:
                data = data[socket.send_fds(self._connection, [data], [descriptor]) :]
            self._connection.sendall(data)

    def end_input(self) -> None:
        """Make `receive` return the end after the data received so far."""
        self._shut(socket.SHUT_RD)

    def hang_up(self) -> None:
        """Shut the connection down: senders and receivers return."""
        self._shut(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up and release the socket; no thread may use it afterwards."""
        self._drop_descriptor()
        self._connection.close()

    def _shut(self, how: int) -> None:
        with suppress(OSError):  # the other end has closed already
            self._connection.shutdown(how)


class _MessageKind(msgspec.Struct):
    """The member that distinguishes a call from an answer."""

    method: str | msgspec.UnsetType = msgspec.UNSET


def parse(line: bytes) -> Request | Response:
    """Return the message in a line.

    Raises:
        msgspec.DecodeError: it is not a message.
    """
    if decode(line, _MessageKind).method is msgspec.UNSET:
        return decode(line, Response)
    return decode(line, Request)
