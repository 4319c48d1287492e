"""Network backend: a switch to which other guests connect through a Unix socket.

Peers speak the protocol of `net_stream`; they are other guests of pyvmm (``connect=``), QEMU's
``-netdev stream`` and the like.  With one peer the switch is a cable.  As in an Ethernet switch,
frames for a peer that is too slow are dropped.
"""

import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import Final

from pyvmm.devices.ioloop import IoEvents
from pyvmm.devices.net_stream import BUFFER_SIZE, pack_frame, size_of, whole_frames
from pyvmm.devices.virtio.net import ETHERNET_HEADER_SIZE, NetBackend, NetPort

MAX_PEERS: Final = 64
#: Bytes that wait for a slow peer, or for the guest.
MAX_WAITING: Final = 4 << 20
#: Addresses that are remembered; a frame to a forgotten one goes to everybody.
MAX_ADDRESSES: Final = 4096

Frame = bytes | memoryview


class Switch(NetBackend):
    """Connects the guest and all peers.

    Args:
        listener: where peers connect; closed at the end.
        mtu: the longest packets of the network.
        on_close: called at the end.

    Concurrency: a vCPU sends; everything else is on the loop's thread.
    """

    def __init__(
        self, loop: IoEvents, listener: socket.socket, mtu: int, on_close: Callable[[], None]
    ) -> None:
        self.mtu = mtu
        self._loop = loop
        self._listener = listener
        self._on_close = on_close
        self._lock = Lock()  # guards all of the following
        self._guest = _GuestEnd(loop)
        self._peers: list[_Peer] = []
        self._places: dict[bytes, _End] = {}  # the end at which an address was seen last
        self._is_closed = False

    def start(self, port: NetPort) -> None:
        """Accept peers from now on."""
        self._guest.port = port
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Disconnect all peers."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
            for peer in self._peers:
                peer.close()
            self._peers.clear()
        self._on_close()

    def send(self, frame: list[memoryview], queue: int = 0) -> bool:  # noqa: ARG002  it has one
        """Pass a frame on to the peers for which it is."""
        with self._lock:
            self._forward(self._guest, b"".join(frame))
        return True

    def resume(self, queue: int = 0) -> None:  # noqa: ARG002  it has one
        """Deliver the frames for which the guest had no buffers."""
        self._loop.call_soon(self._guest.deliver)

    def _accept(self) -> None:
        try:
            stream, _ = self._listener.accept()
        except OSError:  # it has left again, or there are too many open files
            return
        with self._lock:
            if self._is_closed or len(self._peers) >= MAX_PEERS:
                stream.close()
                return
            peer = _Peer(self._loop, stream, self._lock)
            self._peers.append(peer)
        self._loop.add_reader(stream.fileno(), lambda: self._receive(peer))

    def _receive(self, peer: "_Peer") -> None:
        """Pass on what a peer sends; disconnect it if it leaves or breaks the protocol."""
        with self._lock:
            if self._is_closed or peer not in self._peers:
                return
            try:
                for frame in peer.receive():
                    self._forward(peer, frame)
            except (OSError, ValueError):
                peer.close()
                self._peers.remove(peer)
                self._places = {mac: end for mac, end in self._places.items() if end is not peer}
        self._guest.deliver()

    def _forward(self, source: "_End", frame: Frame) -> None:
        """Pass a frame to the end where its target is, or to all others."""
        if len(frame) < ETHERNET_HEADER_SIZE:
            return
        target, sender = bytes(frame[:6]), bytes(frame[6:12])
        if not sender[0] & 1 and (sender in self._places or len(self._places) < MAX_ADDRESSES):
            self._places[sender] = source
        place = None if target[0] & 1 else self._places.get(target)
        ends = [self._guest, *self._peers] if place is None else [place]
        for end in ends:
            if end is not source:
                end.take(frame)


class _End:
    """One end of the switch: a bounded queue of frames that leave here."""

    def take(self, frame: Frame) -> None:
        """Pass a frame on, or drop it if too many wait."""
        raise NotImplementedError


class _GuestEnd(_End):
    """The guest's end."""

    def __init__(self, loop: IoEvents) -> None:
        self.port: NetPort | None = None
        self._loop = loop
        self._frames: deque[bytes] = deque()
        self._size = 0

    def take(self, frame: Frame) -> None:
        """Keep a frame until `deliver`."""
        if self._size + len(frame) <= MAX_WAITING:
            self._frames.append(bytes(frame))
            self._size += len(frame)

    def deliver(self) -> None:
        """Pass waiting frames to the guest; on the loop's thread, without the switch's lock."""
        if self.port is not None and self._frames:
            self.port.receive(self._waiting())

    def _waiting(self) -> Iterator[bytes]:
        """Yield the frames; the guest has one when it asks for the next."""
        while self._frames:
            yield self._frames[0]
            self._size -= len(self._frames.popleft())


class _Peer(_End):
    """A connected peer.

    Args:
        lock: held in all methods.
    """

    def __init__(self, loop: IoEvents, stream: socket.socket, lock: Lock) -> None:
        self._loop = loop
        self._stream = stream
        self._stream.setblocking(False)
        self._lock = lock
        self._is_closed = False
        self._received = bytearray(BUFFER_SIZE)
        self._received_size = 0
        self._unsent = bytearray()

    def close(self) -> None:
        """Disconnect it."""
        self._is_closed = True
        self._loop.remove_reader(self._stream.fileno())
        self._loop.remove_writer(self._stream.fileno())
        self._stream.close()

    def receive(self) -> Iterator[Frame]:
        """Yield the frames that have arrived.

        Raises:
            ConnectionError: it has left.
            ValueError: it breaks the protocol.
        """
        try:
            size = self._stream.recv_into(memoryview(self._received)[self._received_size :])
        except BlockingIOError:
            return
        if not size:
            raise ConnectionAbortedError
        self._received_size += size
        stream = memoryview(self._received)[: self._received_size]
        frames = whole_frames(stream)
        yield from frames
        rest = bytes(stream[size_of(frames) :])
        self._received[: len(rest)] = rest
        self._received_size = len(rest)

    def take(self, frame: Frame) -> None:
        """Send a frame, or keep it until the peer reads, unless too much waits."""
        parts = pack_frame([frame])
        if self._unsent:
            if len(self._unsent) + len(frame) <= MAX_WAITING:
                self._unsent += b"".join(parts)
            return
        done = self._send(parts)
        if done < sum(map(len, parts)):  # the rest must follow before anything else
            self._unsent += b"".join(parts)[done:]
            self._loop.add_writer(self._stream.fileno(), self._flush)

    def _send(self, parts: Sequence[Frame | bytearray]) -> int:
        """Return the number of bytes that are sent, or need not be."""
        try:
            return self._stream.sendmsg(parts)
        except BlockingIOError:
            return 0
        except OSError:  # it has left: `receive` will tell
            return sum(map(len, parts))

    def _flush(self) -> None:
        """Send what waits; on the loop's thread."""
        with self._lock:
            if self._is_closed:
                return
            del self._unsent[: self._send([self._unsent])]
            if not self._unsent:
                self._loop.remove_writer(self._stream.fileno())
