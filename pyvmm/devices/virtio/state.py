"""A virtio device independent of its transport: status, features, queues, activities on them.

A transport is a window: it translates its registers to calls of ``DeviceState``, and the calls of
``Interrupts`` to interrupts of its bus.

Spec: virtio 1.2, "Basic Facilities of a Virtio Device".
"""

import threading
from collections.abc import Callable
from enum import IntEnum
from types import TracebackType
from typing import Protocol, Self

from pyvmm.arch import saved
from pyvmm.arch.bits import MASK32
from pyvmm.arch.saved import State, StateError
from pyvmm.devices.dma import Dma, DmaFault
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import MAX_QUEUE_SIZE, QueueFault, VirtQueue, never


class Feature(IntEnum):
    """Feature bits common to all device types."""

    RING_INDIRECT_DESC = 1 << 28
    RING_EVENT_IDX = 1 << 29
    VERSION_1 = 1 << 32
    ACCESS_PLATFORM = 1 << 33


class Status(IntEnum):
    """Bits of the device status."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 64
    FAILED = 128


_SAVED = ("config_generation", "status", "_driver_features")
_WORKING = int(Status.DRIVER_OK)
_WORKING_OR_BROKEN = Status.DRIVER_OK | Status.NEEDS_RESET


class Interrupts(Protocol):
    """The transport's interrupts to the driver; each method is called inside an activity."""

    def queue_used(self, index: int, /) -> None:
        """Interrupt for used buffers of one queue."""

    def config_changed(self) -> None:
        """Interrupt for a change of the configuration space or the status."""


class DeviceState:
    """The state of one device that its driver sees through a transport.

    Args:
        device: attached to this state from now on.
        dma: the memory of queues and buffers.
        interrupts: of the transport.
        access_platform: offer ACCESS_PLATFORM and require it: the device can access only memory
            that the guest (a realm) shares, so a driver that passes other pages cannot work.
        is_halting: returns whether vCPUs must stop; serving a queue then ends early.

    Concurrency: any thread; ``with state:`` makes an activity atomic.  Some methods must be called
    inside one; their documentation says so.
    """

    def __init__(
        self,
        device: VirtioDevice,
        dma: Dma,
        interrupts: Interrupts,
        *,
        access_platform: bool = False,
        is_halting: Callable[[], bool] = never,
    ) -> None:
        self.device = device
        self.queues = tuple(
            VirtQueue(index, min(size, MAX_QUEUE_SIZE), dma)
            for index, size in enumerate(device.queue_sizes)
        )
        self.config_generation = 0
        self.status = 0
        self._interrupts = interrupts
        self._is_halting = is_halting
        self.lock = threading.RLock()  # taken directly where nothing is published
        self._depth = 0
        self._required = Feature.VERSION_1 | (Feature.ACCESS_PLATFORM if access_platform else 0)
        self._offered = int(
            device.features | self._required | Feature.RING_INDIRECT_DESC | Feature.RING_EVENT_IDX
        )
        self._driver_features = 0
        device.attach(self, self.queues)

    # --- activities ---------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.lock.acquire()
        self._depth += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        is_fault = isinstance(fault, QueueFault | DmaFault)
        try:
            if is_fault:
                self._break()
            self._depth -= 1
            if not self._depth:
                self._publish()
        finally:
            self.lock.release()
        return is_fault

    def config_changed(self) -> None:
        """Tell the driver that the configuration space changed; inside an activity."""
        self.config_generation = (self.config_generation + 1) & MASK32
        if self.status & _WORKING:
            self._interrupts.config_changed()

    def _publish(self) -> None:
        for queue in self.queues:
            if queue.publish():
                self._interrupts.queue_used(queue.index)

    def _break(self) -> None:
        """Stop serving the driver until it resets the device."""
        self.status |= Status.NEEDS_RESET
        if self.status & _WORKING:
            self._interrupts.config_changed()

    # --- features -----------------------------------------------------------------------------

    def offered_features(self, half: int) -> int:
        """Return 32 of the offered feature bits; 0 beyond the second half."""
        return self._offered >> 32 * half & MASK32 if half < 2 else 0

    def driver_features(self, half: int) -> int:
        """Return 32 of the driver's feature bits; 0 beyond the second half."""
        return self._driver_features >> 32 * half & MASK32 if half < 2 else 0

    def set_driver_features(self, half: int, value: int) -> None:
        """Set 32 of the driver's feature bits, unless FEATURES_OK is set; inside an activity."""
        if not self.status & Status.FEATURES_OK and half < 2:
            self._driver_features &= ~(MASK32 << 32 * half)
            self._driver_features |= value << 32 * half

    def _accept_features(self) -> bool:
        wanted = self._driver_features
        if wanted & ~self._offered or self._required & ~wanted:
            return False
        self.device.accept(wanted & self.device.features)
        return True

    # --- status -------------------------------------------------------------------------------

    def set_status(self, value: int) -> bool:
        """Set a status other than 0; return whether serving a queue was cut short.

        Inside an activity.
        """
        new = value & ~self.status
        if new & Status.FEATURES_OK and not self._accept_features():
            value &= ~Status.FEATURES_OK
        if not (self.status | value) & Status.FEATURES_OK:
            value &= ~Status.DRIVER_OK  # requires agreed features
        self.status |= value & ~Status.NEEDS_RESET  # only a reset clears a bit
        if not value & Status.DRIVER_OK:
            return False
        # Buffers may have been offered before DRIVER_OK.
        return any(self.notify(index) for index in range(len(self.queues)))

    def reset(self) -> bool:
        """Return to the initial state; inside an activity.

        Returns: False if the device still accesses memory, and the driver must repeat the reset.
        """
        for queue in self.queues:
            queue.reset()
        self.status = 0
        self._driver_features = 0
        self.device.reset()
        return self.device.settle()

    # --- queues -------------------------------------------------------------------------------

    def set_ready(self, queue: VirtQueue, is_ready: bool) -> None:
        """Enable a queue as the driver has configured it, or disable it; inside an activity."""
        if is_ready and not queue.is_ready:
            queue.enable(
                event_idx=bool(self._driver_features & Feature.RING_EVENT_IDX),
                indirect=bool(self._driver_features & Feature.RING_INDIRECT_DESC),
            )
        elif not is_ready:
            queue.reset()

    def notify(self, index: int) -> bool:
        """Serve a queue, if it exists and is ready; return whether that was cut short.

        Inside an activity.
        """
        is_working = self.status & _WORKING_OR_BROKEN == _WORKING
        if not is_working or index >= len(self.queues) or not self.queues[index].is_ready:
            return False
        queue = self.queues[index]
        queue.must_leave = self._is_halting
        try:
            self.device.notify(queue)
        finally:
            queue.must_leave = never
        return queue.is_cut

    # --- a snapshot ---------------------------------------------------------------------------

    def save(self) -> State:
        """Return the state, while `lock` is held."""
        return saved.save(self, _SAVED) | {
            "queues": [queue.save() for queue in self.queues],
            "device": self.device.save(),
        }

    def load(self, state: State) -> None:
        """Set the state of a device that was not used yet.

        Raises:
            StateError: it is not the state of such a device.
        """
        saved.load(self, _SAVED, state)
        self.status &= 0xFF
        self.config_generation &= MASK32
        if self._driver_features & ~self._offered:
            raise StateError(f"features {self._driver_features:#x}")
        for queue, each in zip(
            self.queues, saved.items(state, "queues", len(self.queues)), strict=True
        ):
            queue.load(saved.part({"queue": each}, "queue"))
        if self.status & Status.FEATURES_OK:
            self.device.accept(self._driver_features & self.device.features)
        self.device.load(saved.part(state, "device"))

    # --- configuration space ------------------------------------------------------------------

    def read_config(self, offset: int, size: int) -> int:
        """Read the configuration space; zeros beyond its end; inside an activity."""
        return int.from_bytes(self.device.config()[offset : offset + size], "little")

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Write the configuration space; inside an activity."""
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        self.device.write_config(offset, data)
