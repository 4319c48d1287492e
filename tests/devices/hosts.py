"""The host's side of virtio devices, in memory."""

from collections import deque
from collections.abc import Callable

from pyvmm.devices.ioloop import Callback
from pyvmm.devices.virtio.net import NetBackend, NetPort
from pyvmm.devices.virtio.vsock import Header

NUM_SECTORS = 64


class Inline:
    """An executor that does everything at once."""

    def submit(self, work: Callable[[], None]) -> None:
        """Do it."""
        work()


class Resetter:
    """A host of sockets that answers every packet with an RST, of which it keeps few."""

    def __init__(self) -> None:
        self.resets: deque[Header] = deque(maxlen=8)

    def received(self, header: Header, data: bytes) -> None:
        """Answer."""
        assert len(data) == header.size
        self.resets.append(header.reset())

    def next_packet(self, room: int) -> bytes | None:
        """Return an answer."""
        assert room >= 0
        return self.resets.popleft().pack() if self.resets else None

    def reset(self) -> None:
        """Forget the answers."""
        self.resets.clear()


def no_timer(_callback: Callback, _seconds: float | None) -> None:
    """Ignore a timer."""


class Later:
    """An executor that does what a test chooses, when it chooses."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def submit(self, work: Callable[[], None]) -> None:
        """Keep it."""
        self.work.append(work)

    def do(self, index: int = 0) -> None:
        """Do one thing."""
        self.work.pop(index)()


class MemoryDisk:
    """A disk that logs its requests, and fails on demand."""

    def __init__(self, *, is_read_only: bool = False) -> None:
        self.bytes = bytearray(b"".join(bytes([n]) * 512 for n in range(NUM_SECTORS)))
        self.size = len(self.bytes)
        self.is_read_only = is_read_only
        self.log: list[tuple[str, int, int]] = []
        self.is_failing = False
        self.is_at_hand = False  # its content can be read without waiting

    def _log(self, what: str, offset: int = 0, size: int = 0) -> None:
        if self.is_failing:
            raise OSError(5, "broken")
        self.log.append((what, offset, size))

    def read(self, offset: int, buffers: list[memoryview]) -> None:
        """Fill the buffers."""
        self._log("read", offset, sum(map(len, buffers)))
        for buffer in buffers:
            buffer[:] = self.bytes[offset : offset + len(buffer)]
            offset += len(buffer)

    def read_now(self, offset: int, buffers: list[memoryview]) -> bool:
        """Do it on request."""
        if self.is_at_hand:
            self.read(offset, buffers)
        return self.is_at_hand

    def write(self, offset: int, buffers: list[memoryview]) -> None:
        """Store the buffers."""
        self._log("write", offset, sum(map(len, buffers)))
        data = b"".join(buffers)
        self.bytes[offset : offset + len(data)] = data

    def flush(self) -> None:
        """Log it."""
        self._log("flush")

    def discard(self, offset: int, size: int) -> None:
        """Log it."""
        self._log("discard", offset, size)

    def write_zeroes(self, offset: int, size: int, *, may_unmap: bool) -> None:
        """Log it."""
        self._log("unmap" if may_unmap else "zero", offset, size)


class VastDisk(MemoryDisk):
    """A disk of 1 TiB without contents: it only records its requests."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 1 << 40

    def read(self, offset: int, buffers: list[memoryview]) -> None:
        """Note it."""
        self._log("read", offset, sum(map(len, buffers)))

    def write(self, offset: int, buffers: list[memoryview]) -> None:
        """Note it."""
        self._log("write", offset, sum(map(len, buffers)))


class Listener:
    """The host side of a port; records all calls."""

    def __init__(self) -> None:
        self.calls: list[str | bytes] = []
        self.is_full = False

    def opened(self) -> None:
        """Note it."""
        self.calls.append("opened")

    def received(self, data: bytes) -> None:
        """Keep what was written."""
        self.calls.append(data)

    def drained(self) -> None:
        """Do nothing."""

    def closed(self) -> None:
        """Note it."""
        self.calls.append("closed")


class Wire(NetBackend):
    """A backend that records sent frames, and can be busy."""

    mtu = 1500

    def __init__(
        self, *, offloads: int = 0, has_headers: bool = False, num_queues: int = 1
    ) -> None:
        self.offloads = offloads
        self.has_headers = has_headers
        self.num_queues = num_queues
        self.used_offloads = 0
        self.queues: list[int] = []  # of the sent frames
        self.sent: list[bytes] = []
        self.is_busy = False
        self.sendable: int | None = None  # frames until it is busy
        self.num_resumes = 0

    def start(self, port: NetPort) -> None:
        """Do nothing: frames are delivered by the test."""

    def set_offloads(self, offloads: int) -> None:
        """Keep them."""
        self.used_offloads = offloads

    def send(self, frame: list[memoryview], queue: int = 0) -> bool:
        """Keep the frame, unless busy."""
        if self.is_busy:
            return False
        if self.sendable is not None:
            self.sendable -= 1
            self.is_busy = self.sendable <= 0
        self.queues.append(queue)
        self.sent.append(b"".join(frame))
        return True

    def resume(self, queue: int = 0) -> None:  # noqa: ARG002  all are alike
        """Count."""
        self.num_resumes += 1

    def close(self) -> None:
        """Nothing to close."""
