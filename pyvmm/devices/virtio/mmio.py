"""virtio over MMIO: a device's register window on the bus.

Spec: virtio 1.2, "Virtio Over MMIO".
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import IntEnum

from pyvmm.arch import saved
from pyvmm.arch.bits import MASK32
from pyvmm.arch.errors import RepeatAccess
from pyvmm.arch.saved import State
from pyvmm.devices.bus import IrqLine
from pyvmm.devices.dma import Dma
from pyvmm.devices.tree import Place, TreeWriter, Trigger
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import VirtQueue, never
from pyvmm.devices.virtio.state import DeviceState

_MAGIC = 0x7472_6976  # "virt"
_VENDOR = 0x4D4D_5650  # "PVMM"
_IRQ_USED, _IRQ_CONFIG = 1, 2
_SAVED = (*("_device_features_sel", "_driver_features_sel", "_queue_sel", "_interrupt_status"),)
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


# The offsets of the hot path, as plain numbers.
_QUEUE_NOTIFY = int(Register.QUEUE_NOTIFY)
_INTERRUPT_STATUS = int(Register.INTERRUPT_STATUS)
_INTERRUPT_ACK = int(Register.INTERRUPT_ACK)
_CONFIG = int(Register.CONFIG)


class VirtioMmio:
    """One device behind its register window: selectors, and one interrupt with two causes.

    Args:
        irq: raised while InterruptStatus is not zero.
        device, dma, access_platform, is_halting: as for ``DeviceState``.

    Concurrency: any thread.
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
        self._irq = irq
        self._clear()
        self._state = DeviceState(
            device, dma, self, access_platform=access_platform, is_halting=is_halting
        )

    def _clear(self) -> None:
        self._device_features_sel = 0
        self._driver_features_sel = 0
        self._queue_sel = 0
        self._interrupt_status = 0

    # --- a snapshot ---------------------------------------------------------------------------

    @property
    def lock(self) -> AbstractContextManager[object]:
        """While it is held, nothing happens to the device."""
        return self._state.lock

    @property
    def is_idle(self) -> bool:
        """Whether the device has no request of the driver in progress."""
        return self._state.device.is_idle

    def save(self) -> State:
        """Return the state, while `lock` is held."""
        return saved.save(self, _SAVED) | {"state": self._state.save()}

    def load(self, state: State) -> None:
        """Set the state of a device that was not used yet; StateError if it is not one."""
        saved.load(self, _SAVED, state)
        for name in _SAVED:
            setattr(self, name, getattr(self, name) & MASK32)
        self._interrupt_status &= _IRQ_USED | _IRQ_CONFIG
        with self._state:
            self._state.load(saved.part(state, "state"))

    # --- interrupts ---------------------------------------------------------------------------

    def queue_used(self, _index: int, /) -> None:
        """Interrupt for used buffers; the driver checks all queues itself."""
        self._raise(_IRQ_USED)

    def config_changed(self) -> None:
        """Interrupt for a change of the configuration space or the status."""
        self._raise(_IRQ_CONFIG)

    def _raise(self, cause: int) -> None:
        is_new = not self._interrupt_status
        self._interrupt_status |= cause
        if is_new:
            self._irq(True)

    def _acknowledge(self, causes: int) -> None:
        was_raised = self._interrupt_status
        self._interrupt_status &= ~causes
        if was_raised:
            self._irq(False)
            if self._interrupt_status:  # an edge-triggered interrupt needs a new edge for the rest
                self._irq(True)

    # --- registers ----------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read a register (32 bits), or the configuration space (any size)."""
        if offset == _INTERRUPT_STATUS:
            return self._interrupt_status
        with self._state.lock:
            if offset >= _CONFIG:
                return self._state.read_config(offset - _CONFIG, size)
            return self._read_register(offset) if size == 4 else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register (32 bits), or the configuration space (any size).

        Raises:
            RepeatAccess: a queue was not served completely, because vCPUs must stop; or a reset is
                not complete.
        """
        state, is_cut = self._state, False
        if offset == _INTERRUPT_ACK and size == 4:
            with state.lock:
                self._acknowledge(value)
            return
        with state:
            if offset >= _CONFIG:
                state.write_config(offset - _CONFIG, size, value)
            elif size != 4:
                pass
            elif offset == _QUEUE_NOTIFY:
                is_cut = state.notify(value)
            elif offset == Register.STATUS:
                is_cut = self._set_status(value & 0xFF)
            else:
                self._write_register(offset, value & MASK32)
        if is_cut:
            raise RepeatAccess

    def _set_status(self, value: int) -> bool:
        """Set a new status, or reset; return whether that is incomplete."""
        if value:
            return self._state.set_status(value)
        was_raised = self._interrupt_status
        self._clear()
        is_complete = self._state.reset()
        if was_raised:
            self._irq(False)
        return not is_complete

    def _read_register(self, offset: int) -> int:
        match offset:
            case Register.MAGIC_VALUE:
                return _MAGIC
            case Register.VERSION:
                return 2
            case Register.DEVICE_ID:
                return self._state.device.device_id
            case Register.VENDOR_ID:
                return _VENDOR
            case Register.DEVICE_FEATURES:
                return self._state.offered_features(self._device_features_sel)
            case Register.QUEUE_SIZE_MAX:
                queue = self._selected()
                return queue.max_size if queue else 0
            case Register.QUEUE_READY:
                queue = self._selected()
                return int(queue.is_ready) if queue else 0
            case Register.STATUS:
                return int(self._state.status)
            case (
                Register.SHM_LEN_LOW
                | Register.SHM_LEN_HIGH
                | Register.SHM_BASE_LOW
                | Register.SHM_BASE_HIGH
            ):
                return _NO_SHARED_MEMORY
            case Register.CONFIG_GENERATION:
                return self._state.config_generation
            case _:
                return 0

    def _selected(self) -> VirtQueue | None:
        queues = self._state.queues
        return queues[self._queue_sel] if self._queue_sel < len(queues) else None

    def _write_register(self, offset: int, value: int) -> None:
        match offset:
            case Register.DEVICE_FEATURES_SEL:
                self._device_features_sel = value
            case Register.DRIVER_FEATURES:
                self._state.set_driver_features(self._driver_features_sel, value)
            case Register.DRIVER_FEATURES_SEL:
                self._driver_features_sel = value
            case Register.QUEUE_SEL:
                self._queue_sel = value
            case _:
                queue = self._selected()
                if queue:
                    self._write_queue(queue, offset, value)

    def _write_queue(self, queue: VirtQueue, offset: int, value: int) -> None:
        if offset == Register.QUEUE_READY:
            self._state.set_ready(queue, bool(value & 1))
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


def _set_half(addr: int, offset: int, value: int) -> int:
    """Replace the low or (register offset + 4) the high half of a 64-bit address."""
    shift = 32 if offset & 4 else 0
    return addr & ~(MASK32 << shift) | value << shift


def describe(tree: TreeWriter, place: Place) -> None:
    """Write the node of a window."""
    with tree.node(f"virtio@{place.base:x}"):
        tree.text("compatible", "virtio,mmio")
        tree.wide_cells("reg", place.base, place.size)
        tree.flag("dma-coherent")
        tree.interrupts(place.spis, Trigger.EDGE_RISING)
