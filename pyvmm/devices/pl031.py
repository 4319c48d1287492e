"""The PL031, Arm's PrimeCell real-time clock: one 32-bit count of seconds, and an alarm.

It has the time of an injected clock (seconds since 1970, UTC) until the guest sets it.  The alarm
is raised when the count reaches the match register; a match in the past is reached after the count
has wrapped around.

Source: Arm DDI 0224, programmer's model.
"""

import math
import time
from collections.abc import Callable
from threading import Lock
from typing import Final

from pyvmm.arch import saved
from pyvmm.arch.saved import State
from pyvmm.devices.bus import IrqLine
from pyvmm.devices.ioloop import SetTimer
from pyvmm.devices.tree import Place, TreeWriter, Trigger

_RTCDR, _RTCMR, _RTCLR, _RTCCR, _RTCIMSC, _RTCRIS, _RTCMIS, _RTCICR = range(0, 0x20, 4)
_PERIPH_ID, _PERIPH_ID_END = 0xFE0, 0x1000
_ID_BYTES: Final = bytes((0x31, 0x10, 0x14, 0x00, 0x0D, 0xF0, 0x05, 0xB1))  # revision 1
_WORD: Final = 0xFFFF_FFFF
_CLOCK_HZ: Final = 24_000_000
#: Seconds after which an alarm is computed again, because the host's clock may have been set.
_CHECK_PERIOD: Final = 60.0


_SAVED: Final = ("_offset", "_now", "_match", "_load", "_is_enabled", "_is_raised", "_level")


class Pl031:
    """An MMIO device with a level interrupt; any thread may call.

    Args:
        irq: the interrupt line; called only when the level changes.
        set_timer: sets a timer; used only while an alarm is set and not masked.
    """

    def __init__(
        self, irq: IrqLine, set_timer: SetTimer, clock: Callable[[], float] = time.time
    ) -> None:
        self._irq = irq
        self._set_timer = set_timer
        self._clock = clock
        self._lock = Lock()
        self._offset = 0  # seconds that the guest's time is ahead of the clock's
        self._now = clock()  # the guest's time at the last update
        self._match = self._load = 0
        self._is_enabled = self._is_raised = self._level = False

    def read(self, offset: int, size: int) -> int:
        """Return a register, or a part of it."""
        with self._lock:
            self._update()
            word = self._read_register(offset & ~3)
        return word >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register."""
        with self._lock:
            self._update()
            self._write_register(offset, value & (1 << 8 * size) - 1 & _WORD)
            self._drive()
            self._wait()

    def save(self) -> State:
        """Return the state."""
        with self._lock:
            self._update()
            return saved.save(self, _SAVED)

    def load(self, state: State) -> None:
        """Set the state; an alarm of the time between is raised; StateError if it is no clock's."""
        with self._lock:
            saved.load(self, _SAVED, state)
            self._match &= _WORD
            self._load &= _WORD
            self._update()
            self._wait()

    def _on_timer(self) -> None:
        """Update the time; the timer may expire too early, or for an earlier alarm."""
        with self._lock:
            self._update()
            self._wait()

    def _read_register(self, offset: int) -> int:
        if _PERIPH_ID <= offset < _PERIPH_ID_END:
            return _ID_BYTES[(offset - _PERIPH_ID) // 4]
        registers = {
            _RTCDR: self._count & _WORD,
            _RTCMR: self._match,
            _RTCLR: self._load,
            _RTCCR: 1,  # it always runs
            _RTCIMSC: self._is_enabled,
            _RTCRIS: self._is_raised,
            _RTCMIS: self._is_enabled and self._is_raised,
        }
        return int(registers.get(offset, 0))

    def _write_register(self, offset: int, value: int) -> None:
        if offset == _RTCIMSC:
            self._is_enabled = bool(value & 1)
        elif offset == _RTCICR:
            self._is_raised = False  # by any value, as the tests of this clock expect
        elif offset == _RTCMR:
            self._match = value
            self._is_raised |= self._count & _WORD == value
        elif offset == _RTCLR:
            self._load = value
            change = value - self._count
            self._offset += change
            self._now += change
            self._is_raised |= value == self._match

    @property
    def _count(self) -> int:
        """The seconds at the last update, without wrapping."""
        return math.floor(self._now)

    def _update(self) -> None:
        """Update the time; raise the alarm if the count has passed the match."""
        last = self._count
        self._now = self._clock() + self._offset
        self._is_raised |= self._count - self._match & _WORD < self._count - last
        self._drive()

    def _drive(self) -> None:
        level = self._is_enabled and self._is_raised
        if level != self._level:
            self._level = level
            self._irq(level)

    def _wait(self) -> None:
        """Set the timer to the match, if that would assert the line."""
        seconds = None
        if self._is_enabled and not self._is_raised:
            whole = (self._match - self._count - 1 & _WORD) + 1  # the next match, not the current
            seconds = min(whole - self._now % 1, _CHECK_PERIOD)
        self._set_timer(self._on_timer, seconds)


def describe(tree: TreeWriter, place: Place) -> None:
    """Write the node of the clock, and of the bus clock that its binding requires."""
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
        tree.cells("clock-frequency", _CLOCK_HZ)
        tree.cells("phandle", clock)
