"""The MMIO bus."""

import pytest

from pyvmm.arch.events import Event, EventStream, MmioAccess
from pyvmm.devices.bus import Bus


class Scratch:
    """A device that records its accesses."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        """Return the access itself as a number."""
        return offset << 8 | size

    def write(self, offset: int, size: int, value: int) -> None:
        """Record the access."""
        self.writes.append((offset, size, value))


@pytest.fixture
def events() -> EventStream:
    """Return a stream nobody listens to."""
    return EventStream()


def test_bus_gives_the_offset_to_the_owner_of_the_address(events: EventStream) -> None:
    """Regions may be added in any order; each sees offsets from its own base."""
    bus, low, high = Bus(events), Scratch(), Scratch()
    bus.add(0x2000, 0x100, high, "high")
    bus.add(0x1000, 0x100, low, "low")
    assert bus.read(0x1004, 4) == 0x404
    bus.write(0x20FC, 4, 7)
    assert (low.writes, high.writes) == ([], [(0xFC, 4, 7)])


@pytest.mark.parametrize("addr", [0, 0xFFF, 0x10FD, 0x1100, 1 << 63])
def test_bus_reads_zero_when_nothing_or_only_half_a_device_is_there(
    events: EventStream, addr: int
) -> None:
    """An access across the end of a region reaches no device."""
    bus, device = Bus(events), Scratch()
    bus.add(0x1000, 0x100, device, "device")
    bus.write(addr, 4, 1)
    assert bus.read(addr, 4) == 0
    assert device.writes == []


@pytest.mark.parametrize(
    ("base", "size"), [(0x0F00, 0x101), (0x1080, 1), (0x10FF, 0x100), (0, 1 << 32)]
)
def test_bus_refuses_an_overlap(events: EventStream, base: int, size: int) -> None:
    """Two devices at one address are our bug, found when the machine is made."""
    bus = Bus(events)
    bus.add(0x1000, 0x100, Scratch(), "first")
    with pytest.raises(ValueError, match="overlaps first"):
        bus.add(base, size, Scratch(), "second")


def test_bus_tells_a_listener_of_every_access() -> None:
    """Accesses without a device are events too, with an empty name."""
    seen: list[Event] = []
    bus = Bus(EventStream(seen.append))
    bus.add(0x1000, 0x100, Scratch(), "scratch")
    bus.read(0x1001, 1)
    bus.write(0x5000, 8, 9)
    assert seen == [
        MmioAccess("scratch", 0x1001, 1, is_write=False, value=0x101),
        MmioAccess("", 0x5000, 8, is_write=True, value=9),
    ]


def test_regions_that_move_give_way_to_fixed_ones(events: EventStream) -> None:
    """They are replaced together; one that overlaps another is not mapped."""
    bus, fixed, first, second = Bus(events), Scratch(), Scratch(), Scratch()
    bus.add(0x1000, 0x100, fixed, "fixed")
    bus.set_movable([(0x2000, 0x100, first, "first"), (0x1080, 0x100, second, "second")])
    bus.write(0x2000, 4, 1)
    bus.write(0x1080, 4, 2)
    bus.write(0x1100, 4, 3)
    assert (fixed.writes, first.writes, second.writes) == ([(0x80, 4, 2)], [(0, 4, 1)], [])
    bus.set_movable([(0x3000, 0x100, first, "first"), (0x30FC, 4, second, "second")])
    bus.write(0x2000, 4, 4)
    bus.write(0x30FC, 4, 5)
    assert (first.writes[1:], second.writes) == ([(0xFC, 4, 5)], [])
