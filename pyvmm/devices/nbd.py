"""A disk behind an NBD server: the client's side of the protocol, over Unix sockets.

Each request takes one of a few connections and waits for its reply there, so the requests of as
many threads are under way at a time.  Data moves between the socket and the guest's memory.

A client of our own, because libnbd's Python module copies all data through buffers of its own and
is not on PyPI; and what is needed of the protocol is little.
Spec: the NBD protocol (doc/proto.md of NetworkBlockDevice/nbd), fixed newstyle negotiation, simple
replies.
"""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum, IntFlag
from queue import SimpleQueue
from struct import Struct
from typing import Final

from pyvmm.arch.system import connect_unix
from pyvmm.devices.buffers import after

_GREETING: Final = b"NBDMAGICIHAVEOPT"
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPTION_MAGIC: Final = int.from_bytes(b"IHAVEOPT", "big")
_OPTION_REPLY_MAGIC: Final = 0x3_E889_0455_65A9
_OPT_GO, _REP_ACK, _REP_INFO, _INFO_EXPORT = 7, 1, 3, 0
_REQUEST_MAGIC, _REPLY_MAGIC = 0x2560_9513, 0x6744_6698

_option = Struct(">QII")  # magic, option, length
_option_reply = Struct(">QIII")  # magic, option, type, length
_export = Struct(">HQH")  # type, size, flags
_request = Struct(">IHHQQI")  # magic, flags, command, cookie, offset, length
_reply = Struct(">IIQ")  # magic, error, cookie

#: Longest reply to an option that is read; a server may send what nobody asked for.
_MAX_INFO: Final = 4096
#: Replies to one option.
_MAX_REPLIES: Final = 64
#: Buffers of one sendmsg() or recvmsg(): IOV_MAX.
_MAX_BUFFERS: Final = 1024
_ZEROS: Final = bytes(1 << 20)
#: Seconds without a byte from the NBD server after which it is given up.
PATIENCE: Final = 60.0
NUM_CONNECTIONS: Final = 4


class Command(IntEnum):
    """The requests used here."""

    READ = 0
    WRITE = 1
    FLUSH = 3
    TRIM = 4
    WRITE_ZEROES = 6


_NO_HOLE: Final = 2  # a flag of WRITE_ZEROES


class ExportFlag(IntFlag):
    """What the NBD server can do with the disk."""

    READ_ONLY = 2
    SEND_FLUSH = 4
    SEND_TRIM = 32
    SEND_WRITE_ZEROES = 64
    CAN_MULTI_CONN = 256


class NbdError(OSError):
    """The server does not speak the protocol, or is gone."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EIO, reason)


class _Connection:
    """One socket, for one request at a time.

    Raises:
        OSError: the NBD server cannot be reached, or refuses.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.size, self.flags = 0, ExportFlag(0)
        try:
            connect_unix(self._socket, path, PATIENCE)
            self._socket.settimeout(PATIENCE)
            self._negotiate()
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """End the connection; a request that waits there fails."""
        with suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _negotiate(self) -> None:
        """Select the export, and learn its size and flags."""
        if self._receive(len(_GREETING)) != _GREETING:
            raise NbdError("the NBD server does not speak NBD")
        self._receive(2)  # the server's flags
        name = bytes(4) + bytes(2)  # the default export, no further information
        self._send([(_FIXED_NEWSTYLE | _NO_ZEROES).to_bytes(4, "big")])
        self._send([_option.pack(_OPTION_MAGIC, _OPT_GO, len(name)), name])
        for _ in range(_MAX_REPLIES):
            magic, _, kind, size = _option_reply.unpack(self._receive(_option_reply.size))
            if magic != _OPTION_REPLY_MAGIC or size > _MAX_INFO:
                raise NbdError("the NBD server sent an invalid reply")
            info = self._receive(size)
            if kind == _REP_ACK:
                return
            if kind != _REP_INFO:
                reason = info.decode(errors="replace")
                raise NbdError(f"the NBD server refused the export: {reason}")
            if len(info) == _export.size and info[:2] == _INFO_EXPORT.to_bytes(2, "big"):
                _, self.size, flags = _export.unpack(info)
                self.flags = ExportFlag(flags & sum(ExportFlag))
        raise NbdError("the NBD server sent too many replies")

    def request(
        self,
        command: Command,
        offset: int = 0,
        size: int = 0,
        *,
        flags: int = 0,
        data: list[memoryview] | None = None,
        into: list[memoryview] | None = None,
    ) -> int:
        """Make one request; return the server's error code.

        Raises:
            OSError: the connection cannot be used any more.
        """
        head = _request.pack(_REQUEST_MAGIC, flags, command, 0, offset, size)
        self._send([head, *(data or ())])
        magic, code, _ = _reply.unpack(self._receive(_reply.size))
        if magic != _REPLY_MAGIC:
            raise NbdError("the NBD server sent an invalid reply")
        if into and not code:
            self._receive_into(into)
        return int(code)

    def _send(self, buffers: list[bytes | memoryview]) -> None:
        views = [memoryview(buffer) for buffer in buffers]
        while views:
            done = self._socket.sendmsg(views[:_MAX_BUFFERS])
            views = after(views, done)

    def _receive(self, size: int) -> bytes:
        data = bytearray(size)
        self._receive_into([memoryview(data)])
        return bytes(data)

    def _receive_into(self, buffers: list[memoryview]) -> None:
        buffers = [buffer for buffer in buffers if buffer]
        while buffers:
            done = self._socket.recvmsg_into(buffers[:_MAX_BUFFERS])[0]
            if not done:
                raise NbdError("the NBD server is gone")
            buffers = after(buffers, done)


class NbdDisk:
    """A disk of an NBD server, which may end when this is closed.

    Args:
        path: the server's socket; not used any more afterwards.

    Raises:
        OSError: the NBD server cannot be reached, or refuses.
    """

    def __init__(self, path: str) -> None:
        first = _Connection(path)
        self._connections = [first]
        try:
            self.size = first.size
            self._flags = first.flags
            self.is_read_only = ExportFlag.READ_ONLY in first.flags
            if ExportFlag.CAN_MULTI_CONN in first.flags:
                self._connections += [_Connection(path) for _ in range(NUM_CONNECTIONS - 1)]
        except BaseException:
            self.close()
            raise
        self._free: SimpleQueue[_Connection] = SimpleQueue()
        for connection in self._connections:
            self._free.put(connection)

    def close(self) -> None:
        """Leave the server; requests under way fail."""
        for connection in self._connections:
            connection.close()

    def abandon(self) -> None:
        """Do the same."""
        self.close()

    @contextmanager
    def _connection(self) -> Iterator[_Connection]:
        """Take a connection; a broken one fails at once for whoever takes it next."""
        connection = self._free.get()
        try:
            yield connection
        except OSError as error:
            connection.close()
            if isinstance(error, NbdError):
                raise
            does = "does not answer" if isinstance(error, TimeoutError) else "is gone"
            raise NbdError(f"the NBD server {does}") from None
        finally:
            self._free.put(connection)

    def _request(
        self,
        command: Command,
        offset: int = 0,
        size: int = 0,
        *,
        flags: int = 0,
        data: list[memoryview] | None = None,
        into: list[memoryview] | None = None,
    ) -> None:
        with self._connection() as connection:
            code = connection.request(command, offset, size, flags=flags, data=data, into=into)
        if code:
            raise OSError(code, os.strerror(code))

    def read(self, offset: int, buffers: list[memoryview]) -> None:
        """Fill ``buffers`` from ``offset``."""
        self._request(Command.READ, offset, sum(map(len, buffers)), into=buffers)

    def read_now(self, _offset: int, _buffers: list[memoryview]) -> bool:
        """Return False: the NBD server has to be asked."""
        return False

    def write(self, offset: int, buffers: list[memoryview]) -> None:
        """Store ``buffers`` at ``offset``."""
        self._request(Command.WRITE, offset, sum(map(len, buffers)), data=buffers)

    def flush(self) -> None:
        """Flush all writes to stable storage."""
        if ExportFlag.SEND_FLUSH in self._flags:
            self._request(Command.FLUSH)

    def discard(self, offset: int, size: int) -> None:
        """Free the space if the NBD server can."""
        if ExportFlag.SEND_TRIM in self._flags and size:
            self._request(Command.TRIM, offset, size)

    def write_zeroes(self, offset: int, size: int, *, may_unmap: bool) -> None:
        """Make the range read as zeros."""
        if ExportFlag.SEND_WRITE_ZEROES in self._flags:
            if size:
                flags = 0 if may_unmap else _NO_HOLE
                self._request(Command.WRITE_ZEROES, offset, size, flags=flags)
            return
        for start in range(offset, offset + size, len(_ZEROS)):
            part = memoryview(_ZEROS)[: min(len(_ZEROS), offset + size - start)]
            self.write(start, [part])
