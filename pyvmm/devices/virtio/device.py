"""The base of all virtio devices, and the transport's interface for them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import ClassVar, Literal, Protocol

from pyvmm.arch import saved
from pyvmm.arch.errors import UserError
from pyvmm.arch.saved import State
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
        """End it: publish used buffers, interrupt; return True to suppress a queue's fault."""
        ...

    def config_changed(self) -> None:
        """Tell the driver that the configuration space changed; inside an activity."""
        ...


class _NoTransport:
    """The transport before the device is attached to one."""

    def __enter__(self) -> object:
        return self

    def __exit__(self, *_: object) -> Literal[False]:
        return False

    def config_changed(self) -> None:
        pass


class VirtioDevice(ABC):
    """Base class of the devices: set the class variables, override the methods as needed.

    Every method except ``attach`` is called inside an activity.
    """

    device_id: ClassVar[int]
    queue_sizes: tuple[int, ...]
    counter_names: ClassVar[tuple[str, ...]] = ()
    saved_names: ClassVar[tuple[str, ...] | None] = None  # its state; None: it cannot be saved

    #: Offered device-specific feature bits; the transport adds those of the rings.
    features: int = 0
    #: Device-specific feature bits accepted by the driver; 0 until FEATURES_OK.
    acked_features: int = 0

    #: Statistics by ``counter_names``; set once attached.
    counters: dict[str, int]

    transport: Transport = _NoTransport()
    queues: Sequence[VirtQueue] = ()

    def attach(self, transport: Transport, queues: Sequence[VirtQueue]) -> None:
        """Connect the device to ``transport``, which calls this once."""
        self.counters = dict.fromkeys(self.counter_names, 0)
        self.transport = transport
        self.queues = queues

    def config(self) -> bytes:
        """Return the whole configuration space."""
        return b""

    def write_config(self, offset: int, data: bytes) -> None:  # noqa: B027  few need it
        """Process a driver's write to the configuration space; most devices ignore it."""

    def accept(self, features: int) -> None:
        """Begin with the device-specific features that the driver has accepted."""
        self.acked_features = features

    @abstractmethod
    def notify(self, queue: VirtQueue) -> None:
        """Serve ``queue``, which has new buffers."""

    def reset(self) -> None:
        """Return to the initial state; the transport resets the queues itself."""
        self.acked_features = 0

    @property
    def is_idle(self) -> bool:
        """Whether the device has no request of the driver in progress."""
        return True

    def save(self) -> State:
        """Return what the device knows, apart from its queues.

        Raises:
            UserError: that cannot be saved.
        """
        if self.saved_names is None:
            raise UserError(f"a {type(self).__name__} device cannot be saved: omit it")
        return saved.save(self, self.saved_names)

    def load(self, state: State) -> None:
        """Set what `save` has returned.

        Raises:
            StateError: it is not the state of such a device.
        """
        saved.load(self, self.saved_names or (), state)

    def settle(self) -> bool:
        """After a reset, return whether the device has stopped accessing the driver's memory.

        It may wait for that a little; if the answer is False, the driver repeats the reset.
        """
        return True
