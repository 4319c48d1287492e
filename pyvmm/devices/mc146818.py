"""The MC146818, the PC's real-time clock, as in a guest of kvmtool.

It has the time of an injected clock (seconds since 1970, UTC) until the guest sets it.  It has no
interrupt and so no alarm: the alarm registers are plain storage.

Source: Motorola MC146818A data sheet.
"""

import time
from calendar import timegm
from collections.abc import Callable
from threading import Lock

from pyvmm.arch import saved
from pyvmm.arch.saved import State
from pyvmm.devices.tree import Place, TreeWriter

_SECONDS, _MINUTES, _HOURS, _WEEKDAY, _DAY, _MONTH, _YEAR, _CENTURY = 0, 2, 4, 6, 7, 8, 9, 0x32
_TIME = (_SECONDS, _MINUTES, _HOURS, _WEEKDAY, _DAY, _MONTH, _YEAR, _CENTURY)
_REG_A, _REG_B, _REG_C, _REG_D = 0x0A, 0x0B, 0x0C, 0x0D
_A_UIP, _A_32KHZ_1024HZ = 0x80, 0x26
_B_SET, _B_BINARY, _B_24H, _B_WRITABLE = 0x80, 0x04, 0x02, 0x87
_D_VALID = 0x80
_PM = 0x80
_UPDATE_SECONDS = 244e-6  # how long UIP announces an update


#: Without the time that B.SET holds: a guest sets it in one go.
_SAVED = ("_offset", "_index", "_nvram")


class Mc146818:
    """An MMIO device: an index register at offset 0, the data register at offset 1.

    Any thread may call.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = Lock()
        self._offset = 0  # seconds that the guest's time is ahead of the clock's
        self._held: dict[int, int] | None = None  # the time registers while B.SET stops them
        self._index = 0
        self._nvram = bytearray(128)
        self._nvram[_REG_A] = _A_32KHZ_1024HZ
        self._nvram[_REG_B] = _B_24H

    def read(self, offset: int, size: int) -> int:
        """Return the register selected by the index; the index itself is write-only."""
        if offset != 1 or size != 1:
            return 0
        with self._lock:
            return self._read_register(self._index)

    def write(self, offset: int, size: int, value: int) -> None:
        """Select a register, or write the selected one."""
        if size != 1:
            return
        with self._lock:
            if offset == 0:
                self._index = value & 0x7F
            elif offset == 1:
                self._write_register(self._index, value & 0xFF)

    def save(self) -> State:
        """Return the state."""
        with self._lock:
            return saved.save(self, _SAVED)

    def load(self, state: State) -> None:
        """Set the state; StateError if it is not one of a clock."""
        with self._lock:
            nvram = state.get("_nvram")
            if not isinstance(nvram, bytes) or len(nvram) != len(self._nvram):
                raise saved.StateError("_nvram has another size")
            saved.load(self, _SAVED, state)
            self._index &= 0x7F

    def _read_register(self, index: int) -> int:
        if index in _TIME:
            return self._encode(index, self._time_registers()[index])
        if index == _REG_A:
            is_updating = self._held is None and self._clock() % 1 > 1 - _UPDATE_SECONDS
            return self._nvram[_REG_A] | (_A_UIP if is_updating else 0)
        if index == _REG_C:
            return 0
        return _D_VALID if index == _REG_D else self._nvram[index]

    def _write_register(self, index: int, value: int) -> None:
        if index in _TIME:
            registers = self._time_registers()
            registers[index] = self._decode(index, value)
            if self._held is None:
                self._set_time(registers)
        elif index == _REG_B:
            self._nvram[_REG_B] = value & _B_WRITABLE
            if value & _B_SET:
                self._held = self._time_registers()
            elif self._held is not None:
                self._set_time(self._held)
                self._held = None
        elif index not in (_REG_A, _REG_C, _REG_D):
            self._nvram[index] = value

    def _time_registers(self) -> dict[int, int]:
        """Return the values of the time registers."""
        if self._held is not None:
            return self._held
        now = time.gmtime(self._clock() + self._offset)
        return {
            _SECONDS: now.tm_sec,
            _MINUTES: now.tm_min,
            _HOURS: now.tm_hour,
            _WEEKDAY: (now.tm_wday + 1) % 7 + 1,  # the chip's week starts on Sunday, as 1
            _DAY: now.tm_mday,
            _MONTH: now.tm_mon,
            _YEAR: now.tm_year % 100,
            _CENTURY: now.tm_year // 100,
        }

    def _set_time(self, registers: dict[int, int]) -> None:
        """Set the clock to that time; the day of the week follows from the date."""
        year = min(max(100 * registers[_CENTURY] + registers[_YEAR], 1), 9999)
        month = min(max(registers[_MONTH], 1), 12)
        rest = (registers[index] for index in (_DAY, _HOURS, _MINUTES, _SECONDS))
        self._offset = timegm((year, month, *rest)) - int(self._clock())

    def _encode(self, index: int, value: int) -> int:
        """Encode a number in the format selected by register B."""
        half = 0
        if index == _HOURS and not self._nvram[_REG_B] & _B_24H:
            half = _PM if value >= 12 else 0
            value = (value + 11) % 12 + 1
        if not self._nvram[_REG_B] & _B_BINARY:
            value = value // 10 << 4 | value % 10
        return (value | half) & 0xFF

    def _decode(self, index: int, value: int) -> int:
        """Decode a number in the format selected by register B."""
        is_12h = index == _HOURS and not self._nvram[_REG_B] & _B_24H
        half = 12 if is_12h and value & _PM else 0
        if is_12h:
            value &= ~_PM
        if not self._nvram[_REG_B] & _B_BINARY:
            value = (value >> 4) * 10 + (value & 0xF)
        return value % 12 + half if is_12h else value


def describe(tree: TreeWriter, place: Place) -> None:
    """Write the node of the clock."""
    with tree.node(f"rtc@{place.base:x}"):
        tree.text("compatible", "motorola,mc146818")
        tree.wide_cells("reg", place.base, place.size)
