"""The host side of a guest's port: a Unix socket, for one program at a time.

What the guest writes while nobody is connected is lost.  What a program writes waits in its socket
until the guest has opened the port.  Each side waits for the other: buffers are bounded.
"""

import socket
from threading import Lock
from typing import Final

from pyvmm.devices.ioloop import IoEvents
from pyvmm.devices.virtio.port import Port

_CHUNK: Final = 64 << 10
#: Bytes from the guest that wait for a program that does not read.
MAX_UNREAD: Final = 256 << 10


class PortSocket:
    """A ``PortUser``; its callbacks run on the event loop's thread.

    Args:
        listener: a listening socket, non-blocking; closed by ``close``.
        events: the event loop.

    Concurrency: ``_lock`` is never held while the port is used, because the port calls back with
    its own lock held.
    """

    def __init__(self, name: str, listener: socket.socket, events: IoEvents) -> None:
        self.port = Port(name, self)
        self._listener = listener
        self._events = events
        self._lock = Lock()  # guards the following
        self._program: socket.socket | None = None
        self._unread = bytearray()
        self._is_open = self._is_closed = False
        events.add_reader(listener.fileno(), self._accept)

    @property
    def is_full(self) -> bool:
        """Whether a program has to read first."""
        return len(self._unread) >= MAX_UNREAD

    def opened(self) -> None:
        """Start to read from the program."""
        self._is_open = True
        self._events.call_soon(self._watch)

    def received(self, data: bytes) -> None:
        """Keep data for the program, if there is one."""
        with self._lock:
            if self._program is not None:
                self._unread += data
                self._events.call_soon(self._watch)

    def drained(self) -> None:
        """Read on from the program."""
        self._events.call_soon(self._watch)

    def closed(self) -> None:
        """Stop reading from the program, which stays connected."""
        self._is_open = False
        self._events.call_soon(self._watch)

    def close(self) -> None:
        """Disconnect the program, after the event loop has stopped."""
        self._is_closed = True
        self._hang_up()
        self._listener.close()

    # --- on the event loop's thread ----------------------------------------------------------

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has left again
            return
        connection.setblocking(False)
        with self._lock:
            self._program = connection
        self._events.remove_reader(self._listener.fileno())  # others wait for their turn
        self._watch()

    def _watch(self) -> None:
        """Watch the program for what can be done now."""
        program = self._program
        if program is None or self._is_closed:
            return
        if self._is_open and not self.port.backlog:
            self._events.add_reader(program.fileno(), self._read)
        else:
            self._events.remove_reader(program.fileno())
        if self._unread:
            self._events.add_writer(program.fileno(), self._write)
        else:
            self._events.remove_writer(program.fileno())

    def _read(self) -> None:
        """Pass data of the program to the guest."""
        program = self._program
        if program is None:
            return
        try:
            data = program.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._hang_up()
            return
        self.port.send(data)
        self._watch()

    def _write(self) -> None:
        """Pass data of the guest to the program."""
        program = self._program
        if program is None:
            return
        try:
            with self._lock:
                size = program.send(self._unread)
                del self._unread[:size]
        except BlockingIOError:
            return
        except OSError:
            self._hang_up()
            return
        self._watch()
        if not self.is_full:
            self.port.resume()

    def _hang_up(self) -> None:
        """Disconnect the program, and let the next one connect."""
        with self._lock:
            program, self._program = self._program, None
            self._unread.clear()
        if program is not None:
            self._events.remove_reader(program.fileno())
            self._events.remove_writer(program.fileno())
            program.close()
        if not self._is_closed:
            self._events.add_reader(self._listener.fileno(), self._accept)
            self.port.resume()
