"""virtio over PCI: a device as a function with one BAR, for its registers and its MSI-X table.

Only the modern interface is there; a legacy driver finds a device number that it does not know.

Spec: virtio 1.2, "Virtio Over PCI Bus".
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import IntEnum
from struct import Struct, pack
from typing import Final

from pyvmm.arch import saved
from pyvmm.arch.bits import MASK32, replace_bytes
from pyvmm.arch.errors import RepeatAccess
from pyvmm.arch.saved import State
from pyvmm.devices.bus import IrqLine
from pyvmm.devices.dma import Dma
from pyvmm.devices.pci import config as pci
from pyvmm.devices.pci.config import ConfigSpace
from pyvmm.devices.pci.master import BusMaster
from pyvmm.devices.pci.msix import CONTROL, Msix, Send
from pyvmm.devices.tree import Place, TreeWriter
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import VirtQueue, never
from pyvmm.devices.virtio.state import DeviceState

_VENDOR: Final = 0x1AF4
_FIRST_DEVICE: Final = 0x1040  # the device number is this plus the virtio device's
_SUBSYSTEM: Final = 0x1100
#: By virtio device; one that is not listed fits no class.
_CLASSES: Final = {1: 0x02_00_00, 2: 0x01_80_00, 3: 0x07_80_00}
_NO_CLASS: Final = 0xFF_00_00

_PART_SIZE: Final = 0x1000
_BAR_SIZE: Final = 0x8000
_NOTIFY_STEP: Final = 4

#: The capability that shows a register: where its data are, and what software may change of it.
_WINDOW_DATA: Final = 16
_WINDOW_WRITABLE: Final = b"\0\0" + b"\xff\0\0\0" + b"\xff" * 12
_WINDOW_SIZES: Final = (1, 2, 4)

NO_VECTOR: Final = 0xFFFF
_ISR_QUEUE, _ISR_CONFIG = 1, 2

_SAVED: Final = (
    *("_device_features_sel", "_driver_features_sel", "_queue_sel", "_config_vector"),
    *("_isr", "_is_raised"),
)

#: The common configuration: the part of the device, and that of the selected queue.
_HEAD: Final = Struct("<IIIIHHBBH")
_QUEUE: Final = Struct("<HHHHQQQ")


class Part(IntEnum):
    """Offsets of the parts of the BAR."""

    COMMON = 0x0000
    ISR = 0x1000
    DEVICE = 0x2000
    NOTIFY = 0x3000
    MSIX = 0x4000


class CapType(IntEnum):
    """What a virtio capability points to.  Spec: "Virtio Structure PCI Capabilities"."""

    COMMON = 1
    NOTIFY = 2
    ISR = 3
    DEVICE = 4
    PCI = 5


class Common(IntEnum):
    """Offsets in the common configuration.  Spec: "Common configuration structure layout"."""

    DEVICE_FEATURE_SELECT = 0x00
    DEVICE_FEATURE = 0x04
    DRIVER_FEATURE_SELECT = 0x08
    DRIVER_FEATURE = 0x0C
    CONFIG_VECTOR = 0x10
    NUM_QUEUES = 0x12
    STATUS = 0x14
    CONFIG_GENERATION = 0x15
    QUEUE_SELECT = 0x16
    QUEUE_SIZE = 0x18
    QUEUE_VECTOR = 0x1A
    QUEUE_ENABLE = 0x1C
    QUEUE_NOTIFY_OFF = 0x1E
    QUEUE_DESC = 0x20
    QUEUE_DRIVER = 0x28
    QUEUE_DEVICE = 0x30


class VirtioPci:
    """One device as a PCI function.

    Args:
        irq: the pin, for a driver that does not use MSI-X.
        send: sends the messages of MSI-X; None if nothing receives them.
        device, dma, access_platform, is_halting: as for ``DeviceState``.

    Concurrency: any thread.
    """

    def __init__(
        self,
        device: VirtioDevice,
        dma: Dma,
        irq: IrqLine,
        send: Send | None,
        *,
        access_platform: bool = False,
        is_halting: Callable[[], bool] = never,
    ) -> None:
        self._irq = irq
        self._send = send
        self._dma = BusMaster(dma)
        self._is_raised = False
        self._isr = 0
        num_queues = len(device.queue_sizes)
        self._msix = Msix(num_queues + 1 if send else 0, self._message)
        self._clear()
        self._state = DeviceState(
            device, self._dma, self, access_platform=access_platform, is_halting=is_halting
        )
        self._config = ConfigSpace(
            (_VENDOR, _FIRST_DEVICE + device.device_id),
            _CLASSES.get(device.device_id, _NO_CLASS),
            (_VENDOR, _SUBSYSTEM),
            _BAR_SIZE,
        )
        with self._state:
            config_size = len(device.config())
        self._add_capabilities(config_size)

    def _clear(self) -> None:
        self._device_features_sel = 0
        self._driver_features_sel = 0
        self._queue_sel = 0
        self._config_vector = NO_VECTOR
        self._vectors: dict[int, int] = {}  # by queue, without those that have none

    def _add_capabilities(self, config_size: int) -> None:
        add, num_queues = self._config.add_capability, len(self._state.queues)
        add(pci.CAP_VENDOR, _capability(CapType.COMMON, Part.COMMON, Common.QUEUE_DEVICE + 8))
        step = pack("<I", _NOTIFY_STEP)
        add(
            pci.CAP_VENDOR,
            _capability(CapType.NOTIFY, Part.NOTIFY, num_queues * _NOTIFY_STEP, step),
        )
        add(pci.CAP_VENDOR, _capability(CapType.ISR, Part.ISR, 1))
        if config_size:
            add(pci.CAP_VENDOR, _capability(CapType.DEVICE, Part.DEVICE, config_size))
        window = _capability(CapType.PCI, 0, 0, bytes(4))
        self._window_data = add(pci.CAP_VENDOR, window, _WINDOW_WRITABLE) + _WINDOW_DATA
        self._msix_control: int | None = None
        if self._send:
            self._msix_control = add(pci.CAP_MSIX, *self._msix.capability(0, Part.MSIX)) + CONTROL

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
        return saved.save(self, _SAVED) | {
            "config": self._config.save(),
            "vectors": [[queue, vector] for queue, vector in self._vectors.items()],
            "msix": self._msix.save(),
            "state": self._state.save(),
        }

    def load(self, state: State) -> None:
        """Set the state of a device that was not used yet; StateError if it is not one."""
        saved.load(self, _SAVED, state)
        self._device_features_sel &= MASK32
        self._driver_features_sel &= MASK32
        self._queue_sel &= 0xFFFF
        self._config_vector = self._valid_vector(self._config_vector & 0xFFFF)
        self._isr &= _ISR_QUEUE | _ISR_CONFIG
        config = state.get("config")
        if not isinstance(config, bytes):
            raise saved.StateError("there is no configuration space")
        self._config.load(config)
        self._dma.is_enabled = bool(self._config.half(pci.COMMAND) & pci.COMMAND_MASTER)
        for each in saved.items(state, "vectors"):
            queue, vector = saved.items({"pair": each}, "pair", 2)
            number = saved.number({"queue": queue}, "queue", len(self._state.queues))
            self._vectors[number] = self._valid_vector(
                saved.number({"vector": vector}, "vector", NO_VECTOR + 1)
            )
        control = 0 if self._msix_control is None else self._config.half(self._msix_control)
        self._msix.load(saved.part(state, "msix"), control)
        with self._state:
            self._state.load(saved.part(state, "state"))

    # --- interrupts ---------------------------------------------------------------------------

    def queue_used(self, index: int, /) -> None:
        """Interrupt for used buffers of one queue."""
        if self._msix.is_enabled:
            self._msix.raise_vector(self._vectors.get(index, NO_VECTOR))
        else:
            self._set_isr(self._isr | _ISR_QUEUE)

    def config_changed(self) -> None:
        """Interrupt for a change of the configuration space or the status."""
        if self._msix.is_enabled:
            self._msix.raise_vector(self._config_vector)
        else:
            self._set_isr(self._isr | _ISR_CONFIG)

    def _message(self, address: int, data: int) -> None:
        """Send a message, which is a write by the function."""
        if self._send and self._dma.is_enabled:
            self._send(address, data)

    def _set_isr(self, causes: int) -> None:
        self._isr = causes
        self._config.set_interrupt(bool(causes))
        self._drive_pin()

    def _drive_pin(self) -> None:
        is_off = self._msix.is_enabled or self._config.half(pci.COMMAND) & pci.COMMAND_NO_INTX
        is_raised = bool(self._isr) and not is_off
        if is_raised != self._is_raised:
            self._is_raised = is_raised
            self._irq(is_raised)

    # --- configuration space ------------------------------------------------------------------

    @property
    def bar(self) -> tuple[int, int] | None:
        """The address and the size of the registers; None if the function does not decode them."""
        return self._config.bar

    def read_config(self, offset: int, size: int) -> int:
        """Read the configuration space, and through it perhaps a register."""
        with self._state.lock:
            if offset <= self._window_data < offset + size:
                bar, place, length = self._window()
                value = 0 if bar or length not in _WINDOW_SIZES else self._read(place, length)
                self._config.put(self._window_data, value)
            return self._config.read(offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Write the configuration space, and through it perhaps a register.

        Raises:
            RepeatAccess: a queue was not served completely, because vCPUs must stop.
        """
        is_cut = False
        with self._state:
            self._config.write(offset, size, value)
            self._dma.is_enabled = bool(self._config.half(pci.COMMAND) & pci.COMMAND_MASTER)
            if self._msix_control is not None:
                self._msix.control(self._config.half(self._msix_control))
            self._drive_pin()
            if offset <= self._window_data < offset + size:
                bar, place, length = self._window()
                if not bar and length in _WINDOW_SIZES:
                    data = self._config.read(self._window_data, length)
                    is_cut = self._write(place, length, data)
        if is_cut:
            raise RepeatAccess

    def _window(self) -> tuple[int, int, int]:
        """Return the BAR, the offset and the size of the register that the window shows."""
        read, data = self._config.read, self._window_data
        return read(data - 12, 1), read(data - 8, 4), read(data - 4, 4)

    # --- registers ----------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read a register."""
        with self._state.lock:
            return self._read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register.

        Raises:
            RepeatAccess: a queue was not served completely, because vCPUs must stop.
        """
        is_cut = False
        with self._state:
            is_cut = self._write(offset, size, value)
        if is_cut:
            raise RepeatAccess

    def _read(self, offset: int, size: int) -> int:
        part, place = offset & -_PART_SIZE, offset % _PART_SIZE
        match part:
            case Part.COMMON:
                return int.from_bytes(self._common()[place : place + size], "little")
            case Part.ISR if not place:
                causes = self._isr
                self._set_isr(0)
                return causes
            case Part.DEVICE:
                return self._state.read_config(place, size)
            case Part.MSIX:
                return self._msix.read(place, size)
            case _:
                return 0

    def _write(self, offset: int, size: int, value: int) -> bool:
        """Write a register; return whether serving a queue was cut short."""
        part, place = offset & -_PART_SIZE, offset % _PART_SIZE
        match part:
            case Part.NOTIFY:
                return self._state.notify(place // _NOTIFY_STEP)
            case Part.COMMON:
                return self._write_common(place, size, value)
            case Part.DEVICE:
                self._state.write_config(place, size, value)
            case Part.MSIX:
                self._msix.write(place, size, value)
            case _:
                pass  # read-only
        return False

    # --- the common configuration -------------------------------------------------------------

    def _common(self) -> bytes:
        """Return the whole structure."""
        state, queue = self._state, self._selected()
        head = _HEAD.pack(
            self._device_features_sel,
            state.offered_features(self._device_features_sel),
            self._driver_features_sel,
            state.driver_features(self._driver_features_sel),
            self._config_vector,
            len(state.queues),
            int(state.status),
            state.config_generation & 0xFF,
            self._queue_sel,
        )
        if queue is None:
            return head + bytes(_QUEUE.size)
        vector = self._vectors.get(queue.index, NO_VECTOR)
        areas = (queue.desc_addr, queue.driver_addr, queue.device_addr)
        return head + _QUEUE.pack(queue.size, vector, queue.is_ready, queue.index, *areas)

    def _selected(self) -> VirtQueue | None:
        queues = self._state.queues
        return queues[self._queue_sel] if self._queue_sel < len(queues) else None

    def _write_common(self, offset: int, size: int, value: int) -> bool:
        """Write a field; return whether serving a queue was cut short."""
        value &= (1 << 8 * size) - 1
        match offset, size:
            case Common.DEVICE_FEATURE_SELECT, 4:
                self._device_features_sel = value
            case Common.DRIVER_FEATURE_SELECT, 4:
                self._driver_features_sel = value
            case Common.DRIVER_FEATURE, 4:
                self._state.set_driver_features(self._driver_features_sel, value)
            case Common.CONFIG_VECTOR, 2:
                self._config_vector = self._valid_vector(value)
            case Common.STATUS, 1:
                return self._set_status(value)
            case Common.QUEUE_SELECT, 2:
                self._queue_sel = value
            case _:
                queue = self._selected()
                if queue is not None:
                    self._write_queue(queue, offset, size, value)
        return False

    def _set_status(self, value: int) -> bool:
        """Set a new status, or reset; return whether that is incomplete."""
        if value:
            return self._state.set_status(value)
        self._clear()
        is_complete = self._state.reset()
        self._set_isr(0)
        return not is_complete

    def _valid_vector(self, vector: int) -> int:
        return vector if vector < self._msix.num_vectors else NO_VECTOR

    def _write_queue(self, queue: VirtQueue, offset: int, size: int, value: int) -> None:
        if (offset, size) == (Common.QUEUE_VECTOR, 2):
            self._vectors[queue.index] = self._valid_vector(value)
        elif queue.is_ready:
            return  # the driver must not change a queue in use
        elif (offset, size) == (Common.QUEUE_ENABLE, 2):
            self._state.set_ready(queue, value == 1)
        elif (offset, size) == (Common.QUEUE_SIZE, 2):
            queue.size = value
        elif size < 4:
            return  # the rest are addresses
        elif offset & ~7 == Common.QUEUE_DESC:
            queue.desc_addr = replace_bytes(queue.desc_addr, offset & 7, size, value)
        elif offset & ~7 == Common.QUEUE_DRIVER:
            queue.driver_addr = replace_bytes(queue.driver_addr, offset & 7, size, value)
        elif offset & ~7 == Common.QUEUE_DEVICE:
            queue.device_addr = replace_bytes(queue.device_addr, offset & 7, size, value)


def _capability(kind: CapType, offset: int, size: int, rest: bytes = b"") -> bytes:
    """Return the body of a capability that points to a part of the BAR."""
    fixed_size = 16
    return pack("<BBBxxxII", fixed_size + len(rest), kind, 0, offset, size) + rest


def describe(_tree: TreeWriter, _place: Place) -> None:
    """Write nothing: the guest finds functions in their configuration spaces."""
