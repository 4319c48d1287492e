"""The devices of a guest in one ordered list, computed from its options.

The board puts each device at its place in the list, and the device tree describes them in the same
order; so the list determines the measurement of a realm.  Devices that the architecture fixes (GIC,
timers, PSCI) are not in the list.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from pyvmm.devices import mc146818, pl031, uart, watchdog
from pyvmm.devices.tree import Place, TreeWriter
from pyvmm.devices.virtio import mmio
from pyvmm.vm import memory_map
from pyvmm.vm.options import VmOptions


class Kind(StrEnum):
    """The kind of a device; with its number, its name on the bus and in statistics."""

    BLK = "blk"
    P9 = "9p"
    NET = "net"
    HVC = "hvc"
    RNG = "rng"
    BALLOON = "balloon"
    AGENT = "agent"
    BUTTON = "button"
    UART = "uart"
    RTC = "rtc"
    PL031 = "pl031"
    WATCHDOG = "watchdog"


@dataclass(frozen=True, slots=True)
class PlannedDevice:
    """One device: its kind, its place, and the function that writes its device tree node."""

    kind: Kind
    name: str
    index: int  # among the devices of its kind
    place: Place
    describe: Callable[[TreeWriter, Place], None]


def device_plan(options: VmOptions) -> tuple[PlannedDevice, ...]:
    """Return the devices of a guest: virtio devices by slot, then the standard ones."""
    return (*_virtio(options), *_serial_ports(), *_clocks(), *_watchdog(options))


def _virtio(options: VmOptions) -> Iterator[PlannedDevice]:
    """Give each virtio device the next slot."""
    counts = {
        Kind.BLK: len(options.disks),
        Kind.P9: len(options.directories),
        Kind.NET: len(options.networks),
        Kind.HVC: options.console == "virtio",
        Kind.RNG: options.has_rng,
        Kind.BALLOON: options.has_balloon,
        Kind.AGENT: options.has_agent,
        Kind.BUTTON: options.has_power_button,
    }
    devices = [(kind, index) for kind, count in counts.items() for index in range(count)]
    for slot, (kind, index) in enumerate(devices):
        place = Place(
            memory_map.virtio_base(slot), memory_map.VIRTIO_STRIDE, (memory_map.VIRTIO_SPI + slot,)
        )
        yield PlannedDevice(kind, f"{kind}{slot}", index, place, mmio.describe)


def _serial_ports() -> Iterator[PlannedDevice]:
    for index in range(memory_map.NUM_UARTS):
        spi = memory_map.UART_SPI + index
        place = Place(memory_map.uart_base(index), memory_map.UART_SIZE, (spi,))
        yield PlannedDevice(Kind.UART, f"uart{index}", index, place, uart.describe)


def _clocks() -> Iterator[PlannedDevice]:
    place = Place(memory_map.RTC_BASE, memory_map.RTC_SIZE)
    yield PlannedDevice(Kind.RTC, "rtc", 0, place, mc146818.describe)
    place = Place(memory_map.PL031_BASE, memory_map.PL031_SIZE, (memory_map.PL031_SPI,))
    yield PlannedDevice(Kind.PL031, "pl031", 0, place, pl031.describe)


def _watchdog(options: VmOptions) -> Iterator[PlannedDevice]:
    if options.has_watchdog:
        spis = (memory_map.WATCHDOG_SPI,)
        place = Place(memory_map.WATCHDOG_BASE, memory_map.WATCHDOG_SIZE, spis)
        yield PlannedDevice(Kind.WATCHDOG, "watchdog", 0, place, watchdog.describe)
