"""The MMIO bus: routes accesses to devices by address.

It is not a device and has no lock: each device serialises its own accesses.  Fixed regions are
added before the guest runs; the regions of PCI functions move while it runs.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Protocol

from pyvmm.arch.events import EventStream, MmioAccess

#: The level of an interrupt line: True is asserted.  An edge-triggered line pulses.
IrqLine = Callable[[bool], None]

UNCLAIMED = ""  # the device name in the event of an access without a device


class MmioDevice(Protocol):
    """A device as the bus sees it: registers at byte offsets, accesses of 1, 2, 4 or 8 bytes.

    Total over any offset inside the region, any size and any value.
    """

    def read(self, offset: int, size: int) -> int:
        """Return the value, zero-extended."""
        ...

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the value; only its low ``size`` bytes count.

        Raises: RepeatAccess if the vCPU has to repeat the write.
        """
        ...


class _Nothing:
    """The place without a device: reads as zero, ignores writes."""

    def read(self, _offset: int, _size: int) -> int:
        return 0

    def write(self, _offset: int, _size: int, _value: int) -> None:
        pass


_Region = tuple[int, int, MmioDevice, str]  # base, end, device, name
_Table = tuple[list[int], list[_Region]]  # the bases, and the regions in the same order


class Bus:
    """Routes an access to the device that owns the address.

    An access without a device, or across the end of a region, reads as zero and writes nothing.
    The listener of ``events`` gets every access, those without a device as ``UNCLAIMED``.
    """

    def __init__(self, events: EventStream) -> None:
        self._events = events
        self._nothing: _Region = (0, 1 << 64, _Nothing(), UNCLAIMED)
        self._fixed: _Table = ([], [])
        self._table = self._fixed  # with the regions that move; replaced, never changed

    def add(self, base: int, size: int, device: MmioDevice, name: str) -> None:
        """Map ``device`` to ``size`` bytes at ``base``.

        Raises: ValueError if the region overlaps another one (our bug, never a guest's).
        """
        other = _insert(self._fixed, (base, base + size, device, name))
        if other is not None:
            raise ValueError(f"{name} at {base:#x} overlaps {other}")

    def set_movable(self, regions: Iterable[tuple[int, int, MmioDevice, str]]) -> None:
        """Replace the regions that move: the base, size, device and name of each.

        A region that overlaps a fixed one or an earlier one is not mapped.
        """
        bases, fixed = self._fixed
        table = (bases.copy(), fixed.copy())
        for base, size, device, name in regions:
            _insert(table, (base, base + size, device, name))
        self._table = table

    def read(self, addr: int, size: int) -> int:
        """Return ``size`` bytes at ``addr`` as a little-endian number."""
        base, _, device, name = self._find(addr, size)
        value = device.read(addr - base, size)
        if self._events.listener is not None:
            self._events.listener(MmioAccess(name, addr, size, is_write=False, value=value))
        return value

    def write(self, addr: int, size: int, value: int) -> None:
        """Store the low ``size`` bytes of ``value`` at ``addr``."""
        base, _, device, name = self._find(addr, size)
        if self._events.listener is not None:
            self._events.listener(MmioAccess(name, addr, size, is_write=True, value=value))
        device.write(addr - base, size, value)

    def _find(self, addr: int, size: int) -> _Region:
        bases, regions = self._table
        slot = bisect_right(bases, addr)
        if slot:
            region = regions[slot - 1]
            if addr + size <= region[1]:
                return region
        return self._nothing


def _insert(table: _Table, region: _Region) -> str | None:
    """Insert a region into a table; if it overlaps another one, return that one's name instead."""
    bases, regions = table
    base, end, _, _ = region
    slot = bisect_right(bases, base)
    for other_base, other_end, _, other in regions[max(slot - 1, 0) : slot + 1]:
        if base < other_end and other_base < end:
            return other
    bases.insert(slot, base)
    regions.insert(slot, region)
    return None
