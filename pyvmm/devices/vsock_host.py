"""The host side of a guest's vsock: streams through Unix sockets, with Firecracker's convention.

- A program on the host connects to the guest's socket PATH and sends ``CONNECT PORT``; the reply
  ``OK NUMBER`` says that a program in the guest accepts the stream.
- A program in the guest that connects to PORT of the host (CID 2) reaches the Unix socket
  PATH_PORT.
- A program in the guest that connects to another CID reaches that guest: through its PATH, with
  ``CONNECT PORT CID:PORT``, whose second part is the address of the caller.

Whatever is wrong gets an RST.  The number of connections is bounded, and so is what waits for each.
"""

import re
import socket
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from typing import Final

from pyvmm.devices.ioloop import IoLoop
from pyvmm.devices.virtio.vsock import (
    FIRST_GUEST_CID,
    HOST_CID,
    MAX_CID,
    STREAM,
    Header,
    Op,
    VirtioVsock,
)
from pyvmm.devices.vsock_connection import Connection, Key, Line

MAX_CONNECTIONS: Final = 256
#: Connections of the host whose first line has not come yet; for more, the oldest is closed.
MAX_GREETINGS: Final = 32
#: RSTs for unknown connections that wait for the guest's buffers; for more, the oldest is dropped.
MAX_RESETS: Final = 256
MAX_PORT: Final = (1 << 32) - 2
_FIRST_HOST_PORT: Final = 1 << 30
_NUM_HOST_PORTS: Final = 1 << 30
_PACE: Final = 0.1  # seconds until a failed accept is tried again
_CONNECT: Final = re.compile(rb"CONNECT (\d{1,10})(?: (\d{1,10}):(\d{1,10}))?\r?")
_OK: Final = re.compile(rb"OK \d{1,10}\r?")
#: Returns a non-blocking stream to a program of the host (its port), or to a guest's socket (its
#: CID); raises OSError, and does not wait.
Connect = Callable[[int, int], socket.socket]


class VsockHost:
    """All streams of one guest.

    Args:
        cid: the guest's.
        loop: its thread watches the sockets.
        listener: the guest's socket, which listens.
        connect: opens streams.

    Concurrency: everything happens inside the device's activities.
    """

    def __init__(self, cid: int, loop: IoLoop, listener: socket.socket, connect: Connect) -> None:
        self._cid = cid
        self._loop = loop
        self._listener = listener
        self._listener.setblocking(False)
        self._connect = connect
        self._device: VirtioVsock | None = None
        self._connections: dict[Key, Connection] = {}
        self._greetings: OrderedDict[Line, None] = OrderedDict()
        self._ready: OrderedDict[Connection, None] = OrderedDict()  # may have packets
        self._resets: deque[Header] = deque(maxlen=MAX_RESETS)
        self._num_calls = 0

    def start(self, device: VirtioVsock) -> None:
        """Accept connections for a device, which has its transport."""
        self._device = device
        self._listen()

    def close(self) -> None:
        """Close all connections and the listener."""
        self._loop.remove_reader(self._listener.fileno())
        self.reset()
        while self._greetings:
            self._drop_greeting(next(iter(self._greetings)))
        self._listener.close()

    def reset(self) -> None:
        """Close all connections."""
        for connection in list(self._connections.values()):
            self._remove(connection)
        self._resets.clear()

    # --- connections of the host --------------------------------------------------------------

    def _listen(self) -> None:
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._device is not None  # noqa: S101  it has been started
        with self._device.transport:
            try:
                stream, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # too many open files: do not try all the time
                self._loop.remove_reader(self._listener.fileno())
                self._loop.set_timer(self._listen, _PACE)
                return
            stream.setblocking(False)
            if len(self._greetings) >= MAX_GREETINGS:
                self._drop_greeting(next(iter(self._greetings)))
            line = Line(stream)
            self._greetings[line] = None
            self._loop.add_reader(stream.fileno(), partial(self._greeted, line))

    def _drop_greeting(self, line: Line) -> None:
        del self._greetings[line]
        self._loop.remove_reader(line.stream.fileno())
        line.stream.close()

    def _greeted(self, line: Line) -> None:
        """Read the first line of a connection; then ask the guest for a stream."""
        assert self._device is not None  # noqa: S101  it has been started
        with self._device.transport:
            if line not in self._greetings:
                return
            try:
                text = line.read()
            except OSError:
                self._drop_greeting(line)
                return
            if text is None:
                return
            key = self._called(text)
            if key is None:
                self._drop_greeting(line)
                return
            del self._greetings[line]
            self._loop.remove_reader(line.stream.fileno())
            connection = self._add(key, line.stream)
            connection.ask(Op.REQUEST)
            self._deliver(connection)

    def _called(self, text: bytes) -> Key | None:
        """Return the key of the connection that a line asks for; None to refuse it."""
        match = _CONNECT.fullmatch(text)
        if match is None or len(self._connections) >= MAX_CONNECTIONS:
            return None
        port = int(match[1])
        if match[2] is None:
            key = (HOST_CID, self._free_port(port), port)
        else:
            key = (int(match[2]), int(match[3]), port)
            if not self._is_guest(key[0]) or key[1] > MAX_PORT or key in self._connections:
                return None
        return key if port <= MAX_PORT else None

    def _free_port(self, guest_port: int) -> int:
        """Return a port of the host; a recent one is not used again soon."""
        while True:
            port = _FIRST_HOST_PORT + self._num_calls % _NUM_HOST_PORTS
            self._num_calls += 1
            if (HOST_CID, port, guest_port) not in self._connections:
                return port

    def _is_guest(self, cid: int) -> bool:
        return FIRST_GUEST_CID <= cid <= MAX_CID and cid != self._cid

    # --- from the guest -----------------------------------------------------------------------

    def received(self, header: Header, data: bytes) -> None:
        """Process a packet of the guest."""
        key = (header.dst_cid, header.dst_port, header.src_port)
        connection = self._connections.get(key)
        if header.op == Op.RST:
            if connection is not None:
                self._remove(connection)
        elif header.kind != STREAM:
            self._resets.append(header.reset())
        elif connection is None:
            if header.op != Op.REQUEST or not self._open(key, header):
                self._resets.append(header.reset())
        elif self._process(connection, header, data):
            self._watch_output(connection)
            self._ready[connection] = None
        else:
            self._remove(connection)
            self._resets.append(header.reset())

    def _open(self, key: Key, header: Header) -> bool:
        """Connect to a program of the host or to another guest; return False if it fails."""
        cid, port, own_port = key
        is_known = cid == HOST_CID or self._is_guest(cid)
        if not is_known or port > MAX_PORT or len(self._connections) >= MAX_CONNECTIONS:
            return False
        try:
            stream = self._connect(cid, port)
        except OSError:
            return False
        connection = self._add(key, stream)
        connection.learn_credit(header)
        if cid == HOST_CID:
            connection.establish(Op.RESPONSE)
            self._ready[connection] = None
            return True
        if not connection.tell(b"CONNECT %d %d:%d\n" % (port, self._cid, own_port)):
            self._remove(connection)
            return False
        line = connection.answer = Line(stream)
        self._loop.add_reader(stream.fileno(), partial(self._answered, connection, line))
        return True

    def _answered(self, connection: Connection, line: Line) -> None:
        """Read whether another guest accepts a stream."""
        assert self._device is not None  # noqa: S101  it has been started
        with self._device.transport:
            if self._connections.get(connection.key) is not connection:
                return
            try:
                text = line.read()
            except OSError:
                text = b""
            if text is None:
                return
            self._loop.remove_reader(connection.stream.fileno())
            connection.answer = None
            if _OK.fullmatch(text):
                connection.establish(Op.RESPONSE)
            else:
                self._end(connection)
            self._deliver(connection)

    def _process(self, connection: Connection, header: Header, data: bytes) -> bool:
        """Process a packet of a connection; return False if the connection is over."""
        connection.learn_credit(header)
        is_established = connection.is_established
        match header.op:
            case Op.RESPONSE if not is_established and connection.answer is None:
                connection.establish()
                return connection.tell(b"OK %d\n" % connection.key[1])
            case Op.RW if is_established:
                return connection.take(data)
            case Op.SHUTDOWN if is_established:
                return connection.shut_down(header.flags)
            case Op.CREDIT_UPDATE if is_established:
                return True
            case Op.CREDIT_REQUEST if is_established:
                connection.ask(Op.CREDIT_UPDATE)
                return True
            case _:
                return False

    # --- to the guest -------------------------------------------------------------------------

    def next_packet(self, room: int) -> bytes | None:
        """Return a packet for the guest; connections take turns."""
        if self._resets:
            return self._resets.popleft().pack()
        while self._ready:
            connection, _ = self._ready.popitem(last=False)
            packet = connection.next_packet(room)
            if packet is not None:
                self._ready[connection] = None
                return packet
            self._watch_input(connection)
        return None

    def _deliver(self, connection: Connection) -> None:
        if self._connections.get(connection.key) is connection:
            self._ready[connection] = None
        if self._device is not None:
            self._device.deliver()

    # --- sockets ------------------------------------------------------------------------------

    def _add(self, key: Key, stream: socket.socket) -> Connection:
        connection = self._connections[key] = Connection(key, self._cid, stream)
        return connection

    def _end(self, connection: Connection) -> None:
        """Remove a connection, and tell the guest."""
        self._remove(connection)
        self._resets.append(connection.reset())

    def _remove(self, connection: Connection) -> None:
        del self._connections[connection.key]
        self._ready.pop(connection, None)
        self._loop.remove_reader(connection.stream.fileno())
        self._loop.remove_writer(connection.stream.fileno())
        connection.stream.close()

    def _watch_input(self, connection: Connection) -> None:
        """Watch a socket that has no more data now, if the guest could take some."""
        if connection.wants_input:
            fd = connection.stream.fileno()
            self._loop.add_reader(fd, partial(self._readable, connection))

    def _watch_output(self, connection: Connection) -> None:
        """Watch a socket that did not take all data."""
        if connection.has_unsent and not connection.is_output_watched:
            connection.is_output_watched = True
            fd = connection.stream.fileno()
            self._loop.add_writer(fd, partial(self._writable, connection))

    def _readable(self, connection: Connection) -> None:
        assert self._device is not None  # noqa: S101  it has been started
        with self._device.transport:
            if self._connections.get(connection.key) is connection:
                self._loop.remove_reader(connection.stream.fileno())
                self._deliver(connection)

    def _writable(self, connection: Connection) -> None:
        assert self._device is not None  # noqa: S101  it has been started
        with self._device.transport:
            if self._connections.get(connection.key) is not connection:
                return
            if not connection.flush() or connection.is_over:
                self._end(connection)
            elif not connection.has_unsent:
                connection.is_output_watched = False
                self._loop.remove_writer(connection.stream.fileno())
            self._deliver(connection)
