"""The devices of a guest in one ordered list, computed from its options.

The board puts each device at its place in the list, and the device tree describes them in the same
order; so the list determines the measurement of a realm.  Devices that the architecture fixes (GIC,
timers, PSCI) are not in the list.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from pyvmm.arch.errors import UserError
from pyvmm.devices import flash, fw_cfg, mc146818, pl011, pl031, uart, watchdog
from pyvmm.devices.pci import host
from pyvmm.devices.tree import Place, TreeWriter
from pyvmm.devices.virtio import mmio, pci
from pyvmm.vm import memory_map
from pyvmm.vm.memory_map import Window
from pyvmm.vm.options import VmOptions
from pyvmm.vm.share_options import Protocol, of_protocol


class Kind(StrEnum):
    """The kind of a device; with its number, its name on the bus and in statistics."""

    BLK = "blk"
    P9 = "9p"
    FS = "fs"
    NET = "net"
    HVC = "hvc"
    RNG = "rng"
    BALLOON = "balloon"
    AGENT = "agent"
    BUTTON = "button"
    VSOCK = "vsock"
    PORTS = "ports"
    UART = "uart"
    PL011 = "pl011"
    RTC = "rtc"
    PL031 = "pl031"
    WATCHDOG = "watchdog"
    PCI = "pci"
    FLASH = "flash"
    FW_CFG = "fw-cfg"


@dataclass(frozen=True, slots=True)
class PlannedDevice:
    """One device: its kind, its place, and the function that writes its device tree node.

    The place of a PCI function is that of its configuration space.
    """

    kind: Kind
    name: str
    index: int  # among the devices of its kind
    place: Place
    describe: Callable[[TreeWriter, Place], None]
    slot: int | None = None  # of a PCI function


def device_plan(options: VmOptions) -> tuple[PlannedDevice, ...]:
    """Return the devices of a guest: virtio devices by slot, then the standard ones.

    Raises:
        UserError: there are more virtio devices than slots.
    """
    virtio = _pci(options) if options.has_pci else _virtio_mmio(options)
    machine = options.layout.machine
    if machine is memory_map.VIRT:
        standard = [_device(Kind.PL011, machine.uart, pl011.describe)]
    else:
        standard = [*_serial_ports(), _mc146818()]
    standard.append(_device(Kind.PL031, machine.pl031, pl031.describe))
    if options.has_watchdog:
        standard.append(_device(Kind.WATCHDOG, machine.watchdog, watchdog.describe))
    if options.firmware is not None and machine.flash and machine.fw_cfg:
        standard.append(_device(Kind.FLASH, machine.flash, flash.describe))
        standard.append(_device(Kind.FW_CFG, machine.fw_cfg, fw_cfg.describe))
    return (*virtio, *standard)


def _device(
    kind: Kind, window: Window, describe: Callable[[TreeWriter, Place], None]
) -> PlannedDevice:
    """Plan the only device of a kind."""
    place = Place(window.base, window.size, window.spis)
    return PlannedDevice(kind, kind.value, 0, place, describe)


def _virtio(options: VmOptions, num_slots: int) -> list[tuple[Kind, int]]:
    """Return the kind of each virtio device, and its number among those of its kind."""
    counts = {
        Kind.BLK: len(options.disks),
        Kind.P9: len(of_protocol(options.directories, Protocol.P9)),
        Kind.FS: len(of_protocol(options.directories, Protocol.VIRTIOFS)),
        Kind.NET: len(options.networks),
        Kind.HVC: options.console == "virtio",
        Kind.RNG: options.has_rng,
        Kind.BALLOON: options.has_balloon,
        Kind.AGENT: options.has_agent,
        Kind.BUTTON: options.has_power_button,
        Kind.VSOCK: options.vsock is not None,
        Kind.PORTS: bool(options.ports),
    }
    devices = [(kind, index) for kind, count in counts.items() for index in range(count)]
    if len(devices) > num_slots:
        raise UserError(
            f"there are {len(devices)} virtio devices; the limit is {num_slots}: omit some"
        )
    return devices


def _virtio_mmio(options: VmOptions) -> Iterator[PlannedDevice]:
    """Give each virtio device the next window."""
    machine = options.layout.machine
    for slot, (kind, index) in enumerate(_virtio(options, machine.num_virtio)):
        window = machine.virtio_window(slot)
        place = Place(window.base, window.size, window.spis)
        yield PlannedDevice(kind, f"{kind}{slot}", index, place, mmio.describe)


def _pci(options: VmOptions) -> Iterator[PlannedDevice]:
    """Make a host bridge, and give each virtio device the next slot."""
    devices = _virtio(options, memory_map.NUM_PCI)
    spis = {slot: memory_map.PCI_SPI + slot for slot in range(len(devices))}
    machine = options.layout.machine
    config = machine.pci_config
    bridge = partial(host.describe, memory=machine.pci_memory, io=machine.pci_io, spis=spis)
    yield PlannedDevice(Kind.PCI, "pci", 0, Place(config.start, len(config)), bridge)
    for slot, (kind, index) in enumerate(devices):
        place = Place(config.start + slot * host.SLOT_SIZE, host.FUNCTION_SIZE, (spis[slot],))
        yield PlannedDevice(kind, f"{kind}{slot}", index, place, pci.describe, slot)


def _serial_ports() -> Iterator[PlannedDevice]:
    for index in range(memory_map.NUM_UARTS):
        spi = memory_map.UART_SPI + index
        place = Place(memory_map.uart_base(index), memory_map.UART_SIZE, (spi,))
        yield PlannedDevice(Kind.UART, f"uart{index}", index, place, uart.describe)


def _mc146818() -> PlannedDevice:
    place = Place(memory_map.RTC_BASE, memory_map.RTC_SIZE)
    return PlannedDevice(Kind.RTC, "rtc", 0, place, mc146818.describe)
