"""What every virtio device has in common, and what the transport does for it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import ClassVar, Literal, Protocol

from pyvmm.devices.virtio.queue import VirtQueue


class Transport(Protocol):
    """The transport as a device sees it: ``with transport:`` is one activity on its queues."""

    def __enter__(self) -> object:
        """Begin an activity: other threads wait."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> bool:
        """End it: publish used buffers, interrupt; True swallows a fault of a queue."""
        ...

    def config_changed(self) -> None:
        """Tell the driver that the configuration space changed; inside an activity."""
        ...


class _NoTransport:
    """The place of the transport before there is one."""

    def __enter__(self) -> object:
        return self

    def __exit__(self, *_: object) -> Literal[False]:
        return False

    def config_changed(self) -> None:
        pass


class VirtioDevice(ABC):
    """Base of the devices: declare the class variables, override what the device does.

    Every method but ``attach`` is called inside an activity.
    """

    device_id: ClassVar[int]
    queue_sizes: tuple[int, ...]
    counter_names: ClassVar[tuple[str, ...]] = ()

    #: Device-specific feature bits on offer; the transport adds those of the rings.
    features: int = 0
    #: Device-specific feature bits the driver took; 0 until FEATURES_OK.
    acked_features: int = 0

    #: What it has done so far, by ``counter_names``, for whoever looks; there once attached.
    counters: dict[str, int]

    transport: Transport = _NoTransport()
    queues: Sequence[VirtQueue] = ()

    def attach(self, transport: Transport, queues: Sequence[VirtQueue]) -> None:
        """Take the place behind ``transport``; called once, by it."""
        self.counters = dict.fromkeys(self.counter_names, 0)
        self.transport = transport
        self.queues = queues

    def config(self) -> bytes:
        """Return the whole configuration space."""
        return b""

    def write_config(self, offset: int, data: bytes) -> None:  # noqa: B027  few have to
        """Take a driver's write to the configuration space; most devices ignore it."""

    @abstractmethod
    def notify(self, queue: VirtQueue) -> None:
        """Serve ``queue``: its driver says that there is something new."""

    def reset(self) -> None:
        """Return to the state before the driver came; the transport resets the queues itself."""
        self.acked_features = 0
