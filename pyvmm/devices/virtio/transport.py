"""The virtio-mmio transport, version 2: a window of 0x200 bytes and one interrupt.

Not here: shared memory regions, the legacy interface.
Spec: virtio 1.2, "Virtio Over MMIO" and "Basic Facilities of a Virtio Device".
"""

import threading
from collections.abc import Callable
from enum import IntEnum
from types import TracebackType
from typing import Self

from pyvmm.arch.errors import RepeatAccess
from pyvmm.devices.bus import IrqLine
from pyvmm.devices.dma import Dma, DmaFault
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import MAX_QUEUE_SIZE, QueueFault, VirtQueue, never

MMIO_SIZE = 0x200


class Feature(IntEnum):
    """Feature bits that belong to no device type."""

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


_MAGIC = 0x7472_6976  # "virt"
_VENDOR = 0x4D4D_5650  # "PVMM"
_IRQ_USED, _IRQ_CONFIG = 1, 2
_NO_SHARED_MEMORY = 0xFFFF_FFFF


class Register(IntEnum):
    """Offsets in the window.  Spec: "MMIO Device Register Layout"."""

    MAGIC_VALUE = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SEL = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SEL = 0x024
    QUEUE_SEL = 0x030
    QUEUE_SIZE_MAX = 0x034
    QUEUE_SIZE = 0x038
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    QUEUE_DESC = 0x080  # this and the next two: the low word; the high word is at + 4
    QUEUE_DRIVER = 0x090
    QUEUE_DEVICE = 0x0A0
    SHM_LEN_LOW = 0x0B0
    SHM_LEN_HIGH = 0x0B4
    SHM_BASE_LOW = 0x0B8
    SHM_BASE_HIGH = 0x0BC
    CONFIG_GENERATION = 0x0FC
    CONFIG = 0x100


# The offsets and masks of the hot path, as plain numbers.
_QUEUE_NOTIFY = int(Register.QUEUE_NOTIFY)
_INTERRUPT_STATUS = int(Register.INTERRUPT_STATUS)
_INTERRUPT_ACK = int(Register.INTERRUPT_ACK)
_CONFIG = int(Register.CONFIG)
_LIVE = int(Status.DRIVER_OK)
_LIVE_OR_BROKEN = Status.DRIVER_OK | Status.NEEDS_RESET


class VirtioMmio:
    """One device behind its register window.

    Args:
        device: attached to this transport from now on.
        dma: the memory that queues and buffers are in.
        irq: raised while InterruptStatus is not zero.
        access_platform: offer ACCESS_PLATFORM and insist on it: the device reaches only what the
            guest shares with it (a realm), so a driver that hands it any page could not work.
        is_halting: says whether vCPUs are wanted elsewhere; a device that serves one gives way.

    Concurrency: any thread; ``with transport:`` makes an activity atomic.
    """

    def __init__(
        self,
        device: VirtioDevice,
        dma: Dma,
        irq: IrqLine,
        *,
        access_platform: bool = False,
        is_halting: Callable[[], bool] = never,
    ) -> None:
        self._device = device
        self._irq = irq
        self._is_halting = is_halting
        self._lock = threading.RLock()
        self._depth = 0
        self._required = Feature.VERSION_1 | (Feature.ACCESS_PLATFORM if access_platform else 0)
        self._offered = int(
            device.features | self._required | Feature.RING_INDIRECT_DESC | Feature.RING_EVENT_IDX
        )
        self._queues = tuple(
            VirtQueue(index, min(size, MAX_QUEUE_SIZE), dma)
            for index, size in enumerate(device.queue_sizes)
        )
        self._config_generation = 0
        self._clear()
        device.attach(self, self._queues)

    def _clear(self) -> None:
        self._status = 0
        self._driver_features = 0
        self._device_features_sel = 0
        self._driver_features_sel = 0
        self._queue_sel = 0
        self._interrupt_status = 0

    # --- activities ---------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._lock.acquire()
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
            self._lock.release()
        return is_fault

    def config_changed(self) -> None:
        """Tell the driver that the configuration space changed."""
        self._config_generation = (self._config_generation + 1) & 0xFFFF_FFFF
        if self._status & Status.DRIVER_OK:
            self._raise(_IRQ_CONFIG)

    def _publish(self) -> None:
        is_wanted = False
        for queue in self._queues:
            is_wanted |= queue.publish()
        if is_wanted:
            self._raise(_IRQ_USED)

    def _break(self) -> None:
        """Stop serving the driver until it resets the device."""
        self._status |= Status.NEEDS_RESET
        if self._status & Status.DRIVER_OK:
            self._raise(_IRQ_CONFIG)

    def _raise(self, cause: int) -> None:
        is_new = not self._interrupt_status
        self._interrupt_status |= cause
        if is_new:
            self._irq(True)

    # --- registers ----------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read a register (32 bits), or the configuration space (any size)."""
        if offset == _INTERRUPT_STATUS:
            return self._interrupt_status
        with self._lock:
            if offset >= _CONFIG:
                return self._read_config(offset - _CONFIG, size)
            return self._read_register(offset) if size == 4 else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register (32 bits), or the configuration space (any size).

        Raises:
            RepeatAccess: a queue was not served to its end, as vCPUs are wanted elsewhere.
        """
        if offset >= _CONFIG:
            data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
            with self:
                self._device.write_config(offset - _CONFIG, data)
            return
        if size != 4:
            return
        if offset == _INTERRUPT_ACK:
            with self._lock:
                self._acknowledge(value)
            return
        is_cut = False
        with self:
            if offset == _QUEUE_NOTIFY:
                is_cut = self._notify(value)
            elif offset == Register.STATUS:
                is_cut = self._set_status(value & 0xFF)
            else:
                self._write_register(offset, value & 0xFFFF_FFFF)
        if is_cut:
            raise RepeatAccess

    def _notify(self, index: int) -> bool:
        """Serve a queue, if there is such a one; return whether it was cut short."""
        is_working = self._status & _LIVE_OR_BROKEN == _LIVE
        if not is_working or index >= len(self._queues) or not self._queues[index].is_ready:
            return False
        queue = self._queues[index]
        queue.must_leave = self._is_halting
        try:
            self._device.notify(queue)
        finally:
            queue.must_leave = never
        return queue.is_cut

    def _acknowledge(self, causes: int) -> None:
        was_raised = self._interrupt_status
        self._interrupt_status &= ~causes
        if was_raised:
            self._irq(False)
            if self._interrupt_status:  # an edge-triggered interrupt needs a new edge for the rest
                self._irq(True)

    def _read_config(self, offset: int, size: int) -> int:
        return int.from_bytes(self._device.config()[offset : offset + size], "little")

    def _read_register(self, offset: int) -> int:
        match offset:
            case Register.MAGIC_VALUE:
                return _MAGIC
            case Register.VERSION:
                return 2
            case Register.DEVICE_ID:
                return self._device.device_id
            case Register.VENDOR_ID:
                return _VENDOR
            case Register.DEVICE_FEATURES:
                sel = self._device_features_sel
                return self._offered >> 32 * sel & 0xFFFF_FFFF if sel < 2 else 0
            case Register.QUEUE_SIZE_MAX:
                queue = self._selected()
                return queue.max_size if queue else 0
            case Register.QUEUE_READY:
                queue = self._selected()
                return int(queue.is_ready) if queue else 0
            case Register.STATUS:
                return int(self._status)
            case (
                Register.SHM_LEN_LOW
                | Register.SHM_LEN_HIGH
                | Register.SHM_BASE_LOW
                | Register.SHM_BASE_HIGH
            ):
                return _NO_SHARED_MEMORY
            case Register.CONFIG_GENERATION:
                return self._config_generation
            case _:
                return 0

    def _selected(self) -> VirtQueue | None:
        return self._queues[self._queue_sel] if self._queue_sel < len(self._queues) else None

    def _write_register(self, offset: int, value: int) -> None:
        match offset:
            case Register.DEVICE_FEATURES_SEL:
                self._device_features_sel = value
            case Register.DRIVER_FEATURES:
                self._set_driver_features(value)
            case Register.DRIVER_FEATURES_SEL:
                self._driver_features_sel = value
            case Register.QUEUE_SEL:
                self._queue_sel = value
            case _:
                queue = self._selected()
                if queue:
                    self._write_queue(queue, offset, value)

    def _set_driver_features(self, value: int) -> None:
        if not self._status & Status.FEATURES_OK and self._driver_features_sel < 2:
            shift = 32 * self._driver_features_sel
            self._driver_features &= ~(0xFFFF_FFFF << shift)
            self._driver_features |= value << shift

    def _write_queue(self, queue: VirtQueue, offset: int, value: int) -> None:
        if offset == Register.QUEUE_READY:
            self._set_ready(queue, bool(value & 1))
        elif queue.is_ready:
            return  # the driver must not change a queue in use
        elif offset == Register.QUEUE_SIZE:
            queue.size = value
        elif offset & ~4 == Register.QUEUE_DESC:
            queue.desc_addr = _set_half(queue.desc_addr, offset, value)
        elif offset & ~4 == Register.QUEUE_DRIVER:
            queue.driver_addr = _set_half(queue.driver_addr, offset, value)
        elif offset & ~4 == Register.QUEUE_DEVICE:
            queue.device_addr = _set_half(queue.device_addr, offset, value)

    def _set_ready(self, queue: VirtQueue, is_ready: bool) -> None:
        if is_ready and not queue.is_ready:
            queue.enable(
                event_idx=bool(self._driver_features & Feature.RING_EVENT_IDX),
                indirect=bool(self._driver_features & Feature.RING_INDIRECT_DESC),
            )
        elif not is_ready:
            queue.reset()

    def _set_status(self, value: int) -> bool:
        """Go on with the driver, or reset; return whether serving its queues was cut short."""
        if not value:
            self._reset()
            return False
        new = value & ~self._status
        if new & Status.FEATURES_OK and not self._accept_features():
            value &= ~Status.FEATURES_OK
        if not (self._status | value) & Status.FEATURES_OK:
            value &= ~Status.DRIVER_OK  # without an agreement nothing goes live
        self._status |= value & ~Status.NEEDS_RESET  # only a reset clears a bit
        if not value & Status.DRIVER_OK:
            return False
        # A buffer may have been offered before the device was live.
        return any(self._notify(index) for index in range(len(self._queues)))

    def _accept_features(self) -> bool:
        wanted = self._driver_features
        if wanted & ~self._offered or self._required & ~wanted:
            return False
        self._device.acked_features = wanted & self._device.features
        return True

    def _reset(self) -> None:
        was_raised = self._interrupt_status
        for queue in self._queues:
            queue.reset()
        self._clear()
        self._device.reset()
        if was_raised:
            self._irq(False)


def _set_half(addr: int, offset: int, value: int) -> int:
    """Replace the low or (register offset + 4) the high half of a 64-bit address."""
    shift = 32 if offset & 4 else 0
    return addr & ~(0xFFFF_FFFF << shift) | value << shift
