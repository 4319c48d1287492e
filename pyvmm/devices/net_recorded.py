"""The host side of a network card whose frames are recorded, or come from a record."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pyvmm.devices.virtio.net import NetBackend, NetPort

_FRAME, _LINK = 0, 1  # kinds of input


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a backend tells its card; see `NetBackend`."""

    mtu: int
    num_queues: int
    offloads: int
    has_headers: bool

    @classmethod
    def of(cls, backend: NetBackend) -> "Abilities":
        """Return those of a backend."""
        return cls(backend.mtu, backend.num_queues, backend.offloads, backend.has_headers)


class RecordedNet(NetBackend):
    """Passes on what a backend delivers as input, and what the guest sends at once.

    What the guest sends has no effect on it, so no frame is refused; one that the backend refuses,
    or for which the guest has no buffer, is lost.

    Args:
        abilities: of the backend.
        backend: None in a replay.
        inlet: gets a function that takes input, and returns the one to call.
    """

    def __init__(
        self,
        abilities: Abilities,
        backend: NetBackend | None,
        inlet: Callable[[Callable[[bytes], None]], Callable[[bytes], None]],
    ) -> None:
        self.mtu, self.num_queues = abilities.mtu, abilities.num_queues
        self.offloads, self.has_headers = abilities.offloads, abilities.has_headers
        self._backend = backend
        self._put = inlet(self._deliver)
        self._port: NetPort | None = None

    def start(self, port: NetPort) -> None:
        """Start to deliver frames."""
        self._port = port
        if self._backend is not None:
            self._backend.start(_Entrance(self._put))

    def send(self, frame: Sequence[memoryview], queue: int = 0) -> bool:
        """Send a frame."""
        if self._backend is not None:
            self._backend.send(list(frame), queue)
        return True

    def poll(self, queue: int = 0) -> None:
        """Let the backend deliver."""
        if self._backend is not None:
            self._backend.poll(queue)

    def resume(self, queue: int = 0) -> None:
        """Do nothing: no frame waits."""

    def set_offloads(self, offloads: int) -> None:
        """Set what the guest accepts."""
        if self._backend is not None:
            self._backend.set_offloads(offloads)

    def close(self) -> None:
        """Stop."""
        if self._backend is not None:
            self._backend.close()

    def _deliver(self, data: bytes) -> None:
        if self._port is None or len(data) < 2:
            return
        if data[0] == _FRAME:
            self._port.receive([data[2:]], data[1])
        else:
            self._port.set_link(is_up=bool(data[1]))


class _Entrance:
    """The port that a backend sees: its frames become input."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put

    def receive(self, frames: Iterable[bytes | memoryview], queue: int = 0) -> int:
        """Take all frames."""
        count = 0
        for count, frame in enumerate(frames, 1):  # noqa: B007  the number of frames
            self._put(bytes((_FRAME, queue)) + bytes(frame))
        return count

    def sendable(self) -> None:
        """Do nothing: no frame is sent again."""

    def set_link(self, *, is_up: bool) -> None:
        """Change the link."""
        self._put(bytes((_LINK, is_up)))
