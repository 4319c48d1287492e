"""Real-time clocks: kvmtool's MC146818, and the PL031 that arm64 Linux has a driver for.

Both read the time of an injected clock (seconds since 1970, UTC) and cannot be set by the guest:
a write to the time is accepted and forgotten, as kvmtool does.  No alarms.
"""

import time
from collections.abc import Callable

from pyvmm.devices.tree import Place, TreeWriter, Trigger

Clock = Callable[[], float]

_PL031_CLOCK_HZ = 24_000_000

# MC146818 registers and bits.  Source: Motorola MC146818A data sheet.
_SECONDS, _MINUTES, _HOURS, _WEEKDAY, _DAY, _MONTH, _YEAR = 0, 2, 4, 6, 7, 8, 9
_REG_A, _REG_B, _REG_C, _REG_D, _CENTURY = 0x0A, 0x0B, 0x0C, 0x0D, 0x32
_A_UIP, _A_32KHZ_1024HZ = 0x80, 0x26
_B_BINARY, _B_24H, _B_WRITABLE = 0x04, 0x02, 0x07
_D_VALID = 0x80
_UPDATE_SECONDS = 244e-6  # how long UIP announces an update


class Mc146818:
    """The PC's clock: an index register at offset 0, the data register at offset 1."""

    def __init__(self, clock: Clock = time.time) -> None:
        self._clock = clock
        self._index = 0
        self._nvram = bytearray(128)
        self._nvram[_REG_A] = _A_32KHZ_1024HZ
        self._nvram[_REG_B] = _B_24H

    def read(self, offset: int, size: int) -> int:
        """Return the register that the index selects; the index itself is write-only."""
        return self._read_register(self._index) if offset == 1 and size == 1 else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Select a register, or write the selected one."""
        if size != 1:
            return
        if offset == 0:
            self._index = value & 0x7F
        elif offset == 1 and self._index == _REG_B:
            self._nvram[_REG_B] = value & _B_WRITABLE
        elif offset == 1 and self._index > _REG_D and self._index != _CENTURY:
            self._nvram[self._index] = value & 0xFF

    def _read_register(self, index: int) -> int:
        if index == _REG_A:
            is_updating = self._clock() % 1 > 1 - _UPDATE_SECONDS
            return self._nvram[_REG_A] | (_A_UIP if is_updating else 0)
        if index == _REG_C:
            return 0
        if index == _REG_D:
            return _D_VALID
        if index <= _YEAR or index == _CENTURY:
            return self._time_register(index)
        return self._nvram[index]

    def _time_register(self, index: int) -> int:
        now = time.gmtime(self._clock())
        if index == _HOURS:
            return self._hours(now.tm_hour)
        values = {
            _SECONDS: now.tm_sec,
            _MINUTES: now.tm_min,
            _WEEKDAY: (now.tm_wday + 1) % 7 + 1,  # the chip's week starts on Sunday, as 1
            _DAY: now.tm_mday,
            _MONTH: now.tm_mon,
            _YEAR: now.tm_year % 100,
            _CENTURY: now.tm_year // 100,
        }
        return self._encode(values.get(index, 0))  # the alarm registers read as 0

    def _hours(self, hour: int) -> int:
        if self._nvram[_REG_B] & _B_24H:
            return self._encode(hour)
        return self._encode((hour + 11) % 12 + 1) | (0x80 if hour >= 12 else 0)

    def _encode(self, value: int) -> int:
        if self._nvram[_REG_B] & _B_BINARY:
            return value
        return value // 10 << 4 | value % 10


# PL031 registers.  Source: Arm DDI 0224, programmer's model.
_RTCDR, _RTCMR, _RTCLR, _RTCCR, _PERIPH_ID, _PERIPH_ID_END = 0x00, 0x04, 0x08, 0x0C, 0xFE0, 0x1000
_ID_BYTES = bytes((0x31, 0x10, 0x04, 0x00, 0x0D, 0xF0, 0x05, 0xB1))


class Pl031:
    """Arm's PrimeCell clock: one 32-bit count of seconds; identification in the last 32 bytes."""

    def __init__(self, clock: Clock = time.time) -> None:
        self._clock = clock

    def read(self, offset: int, _size: int) -> int:
        """Return the time, or a byte of the PrimeCell identification."""
        if offset == _RTCDR:
            return int(self._clock()) & 0xFFFF_FFFF
        if offset == _RTCCR:
            return 1  # always enabled
        if _PERIPH_ID <= offset < _PERIPH_ID_END and offset % 4 == 0:
            return _ID_BYTES[(offset - _PERIPH_ID) // 4]
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Accept and forget: neither the time nor an alarm can be set."""


def describe_mc146818(tree: TreeWriter, place: Place) -> None:
    """Write the node of the PC's clock."""
    with tree.node(f"rtc@{place.base:x}"):
        tree.text("compatible", "motorola,mc146818")
        tree.wide_cells("reg", place.base, place.size)


def describe_pl031(tree: TreeWriter, place: Place) -> None:
    """Write the node of a PL031, and of the clock that its binding asks for."""
    clock = tree.new_phandle()
    with tree.node(f"rtc@{place.base:x}"):
        tree.text("compatible", "arm,pl031", "arm,primecell")
        tree.wide_cells("reg", place.base, place.size)
        tree.interrupts(place.spis, Trigger.LEVEL_HIGH)
        tree.cells("clocks", clock)
        tree.text("clock-names", "apb_pclk")
    with tree.node("apb-pclk"):
        tree.text("compatible", "fixed-clock")
        tree.cells("#clock-cells", 0)
        tree.cells("clock-frequency", _PL031_CLOCK_HZ)
        tree.cells("phandle", clock)
