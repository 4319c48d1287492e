"""The socket of ``--gdb``: one debugger at a time, on a separate thread.

The guest stops when a debugger connects; when the debugger leaves in any way, its breakpoints are
removed and the guest continues.  Invalid data from a peer ends only its own connection.
"""

import socket
import time
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.devices.ioloop import IoLoop
from pyvmm.host.guest import Outcome
from pyvmm.vm.gdb.leftover import SocketNote, listen_unix
from pyvmm.vm.gdb.packets import Decoder, PacketError, Signal, encode
from pyvmm.vm.gdb.stub import Guest, Port, Stub
from pyvmm.vm.option_values import GdbAddress

LOOPBACK: Final = "127.0.0.1"
_CHUNK: Final = 1 << 16
_PACE: Final = 0.01  # seconds until a failed accept is tried again
#: Bytes of answers buffered for a peer that does not read them.
_MAX_UNSENT: Final = 1 << 20


def listen(address: GdbAddress) -> socket.socket:
    """Open the socket; only its owner can use a Unix socket.

    Raises:
        UserError: the address cannot be used.
    """
    try:
        return listen_unix(address.path) if address.path else _listen_tcp(address.port)
    except OSError as error:
        raise UserError(
            f"--gdb {address.path or address.port}: {error.strerror}: choose another"
        ) from None


def _listen_tcp(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen(1)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


class GdbServer:
    """Serves a guest's debug port.

    Raises:
        UserError: the address cannot be used.
    """

    def __init__(self, address: GdbAddress, port: Port, guest: Guest) -> None:
        self._listener = listen(address)
        self._socket = SocketNote.of(address.path) if address.path is not None else None
        #: In the format of GDB's ``target remote``.
        self.address = str(address.path or f"{LOOPBACK}:{self._listener.getsockname()[1]}")
        self._port = port
        self._guest = guest
        self._loop = IoLoop("pyvmm-gdb")
        self._session: _Session | None = None
        self._is_closed = False
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def start(self) -> None:
        """Start serving."""
        self._loop.start()

    def close(self, outcome: Outcome | None = None) -> None:
        """Tell a connected debugger how the guest ended, and stop serving."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.stop()
        if self._session is not None:
            self._session.tell_end(outcome)
            self._session.close()
        self._listener.close()
        if self._socket is not None:
            self._socket.remove_own()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:  # the debugger has left again
            return
        except OSError:  # out of descriptors: try again later
            time.sleep(_PACE)
            return
        self._loop.remove_reader(self._listener.fileno())
        self._session = _Session(connection, self._loop, Stub(self._port, self._guest))
        self._port.attach(lambda: self._loop.call_soon(self._stopped))
        self._loop.add_reader(connection.fileno(), self._serve)

    def _serve(self) -> None:
        """Handle data from the debugger."""
        if self._session is not None and not self._session.serve():
            self._hang_up(self._session)

    def _stopped(self) -> None:
        if self._session is not None and not self._session.stopped():
            self._hang_up(self._session)

    def _hang_up(self, session: "_Session") -> None:
        """Disconnect the debugger, remove what it set, and wait for the next one."""
        session.close()
        self._session = None
        self._port.detach()
        self._loop.add_reader(self._listener.fileno(), self._accept)


class _Session:
    """One connection.  Methods that return a bool return False when it is over."""

    def __init__(self, connection: socket.socket, loop: IoLoop, stub: Stub) -> None:
        self._connection = connection
        self._loop = loop
        self._stub = stub
        self._decoder = Decoder()
        self._unsent = bytearray()
        self._last_packet = b""
        self._sends_acks = True
        connection.setblocking(False)
        if connection.family == socket.AF_INET:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def serve(self) -> bool:
        """Read and answer; False when it is over."""
        try:
            data = self._connection.recv(_CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        try:
            return bool(data) and all(map(self._take, self._decoder.feed(data)))
        except PacketError:
            return False

    def stopped(self) -> bool:
        """Report that a vCPU has stopped; False when it is over."""
        reply = self._stub.stopped()
        return reply is None or self._send_packet(reply)

    def tell_end(self, outcome: Outcome | None) -> None:
        """Report the guest's end like a process's: an exit, or a signal."""
        crashed = outcome is Outcome.CRASHED
        self._send_packet(b"X06" if crashed else b"W00")

    def close(self) -> None:
        """Close the connection."""
        self._loop.remove_reader(self._connection.fileno())
        self._loop.remove_writer(self._connection.fileno())
        self._connection.close()

    def _take(self, item: bytes | Signal) -> bool:
        match item:
            case bytes():
                return self._answer(item)
            case Signal.BREAK:
                reply = self._stub.interrupt()
                return reply is None or self._send_packet(reply)
            case Signal.NACK:
                return self._send(self._last_packet)
            case Signal.BROKEN:
                return self._send(b"-")
            case _:
                return True

    def _answer(self, payload: bytes) -> bool:
        if self._sends_acks and not self._send(b"+"):
            return False
        reply = self._stub.handle(payload)
        self._sends_acks = self._sends_acks and not self._stub.wants_no_acks
        is_sent = reply is None or self._send_packet(reply)
        return is_sent and not self._stub.is_over

    def _send_packet(self, payload: bytes) -> bool:
        self._last_packet = encode(payload)
        return self._send(self._last_packet)

    def _send(self, data: bytes) -> bool:
        self._unsent += data
        return self._flush()

    def _flush(self) -> bool:
        """Send what can be sent now; False when the peer is gone or does not read."""
        try:
            while self._unsent:
                del self._unsent[: self._connection.send(self._unsent)]
        except BlockingIOError:
            self._loop.add_writer(self._connection.fileno(), self._resume_flush)
        except OSError:
            return False
        if not self._unsent:
            self._loop.remove_writer(self._connection.fileno())
        return len(self._unsent) <= _MAX_UNSENT

    def _resume_flush(self) -> None:
        if not self._flush():
            self._loop.remove_writer(self._connection.fileno())  # the next read fails too
