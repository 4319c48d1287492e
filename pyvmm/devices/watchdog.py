"""The generic watchdog of Arm's base system architecture, revision 1.

Its driver sets an offset and has to refresh the watchdog before so many ticks of the system counter
have passed.  The first time that it does not, the watchdog interrupts (WS0); the second time, WS1
is the end of the guest.  While vCPUs must stand still, the watchdog refreshes itself: a debugger or
`pyvmm pause` does not end a guest.

Source: Arm DEN0094 (BSA) 1.0, "Generic Watchdog"; `arm,sbsa-gwdt` in Linux's device tree bindings.
"""

from collections.abc import Callable
from threading import Lock
from typing import Final

from pyvmm.arch import saved
from pyvmm.arch.bits import MASK32, MASK64
from pyvmm.arch.saved import State
from pyvmm.arch.timer import SystemCounter
from pyvmm.devices.bus import IrqLine
from pyvmm.devices.ioloop import SetTimer
from pyvmm.devices.tree import Place, TreeWriter, Trigger

FRAME_SIZE: Final = 0x1000
_REFRESH_FRAME: Final = FRAME_SIZE  # after the control frame
_WCS, _WOR, _WOR_HIGH, _WCV, _WCV_HIGH, _W_IIDR = 0x000, 0x008, 0x00C, 0x010, 0x014, 0xFCC
_WRR: Final = _REFRESH_FRAME + 0x000
_REFRESH_IIDR: Final = _REFRESH_FRAME + _W_IIDR
_REFRESHING: Final = frozenset({_WRR, _WCS, _WOR, _WOR_HIGH})
_WCS_EN, _WCS_WS0, _WCS_WS1 = 1, 2, 4
_IIDR: Final = 1 << 16 | 0x43B  # architecture revision 1, Arm
_WOR_HIGH_MASK: Final = 0xFFFF
#: Seconds after which a distant expiry is computed again: timers have no long range.
_CHECK_PERIOD: Final = 3600.0
_SAVED: Final = ("_is_enabled", "_ws0", "_ws1", "_offset", "_compare")


class Watchdog:
    """An MMIO device of two frames, control and refresh; any thread may call.

    Args:
        irq: WS0; called only when the level changes.
        expire: WS1; called once, on the thread that notices it.
        set_timer: sets a timer; used only while the watchdog is enabled.
        counter: the system counter, which the guest reads too.
        is_halting: whether vCPUs must stand still.
    """

    def __init__(
        self,
        irq: IrqLine,
        expire: Callable[[], None],
        set_timer: SetTimer,
        counter: SystemCounter,
        is_halting: Callable[[], bool],
    ) -> None:
        self._irq = irq
        self._expire = expire
        self._set_timer = set_timer
        self._counter = counter
        self._is_halting = is_halting
        self._lock = Lock()
        self._is_enabled = self._ws0 = self._ws1 = False
        self._offset = 0  # ticks
        self._compare = 0

    def read(self, offset: int, size: int) -> int:
        """Return a register or a pair of registers, or a part of one."""
        with self._lock:
            self._update()
            pair = self._word(offset & ~3) | self._word((offset & ~3) + 4) << 32
        return pair >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register or a pair of registers; ignore the write of a part of one."""
        if size < 4 or offset % 4:
            return
        with self._lock:
            self._update()
            self._write_word(offset, value & MASK32)
            if size == 8:
                self._write_word(offset + 4, value >> 32 & MASK32)
            self._wait()

    def save(self) -> State:
        """Return the state."""
        with self._lock:
            return saved.save(self, _SAVED)

    def load(self, state: State) -> None:
        """Set the state; StateError if it is not one of a watchdog."""
        with self._lock:
            saved.load(self, _SAVED, state)
            self._offset &= _WOR_HIGH_MASK << 32 | MASK32
            self._compare &= MASK64
            self._wait()

    def _word(self, offset: int) -> int:
        status = self._is_enabled * _WCS_EN | self._ws0 * _WCS_WS0 | self._ws1 * _WCS_WS1
        words = {
            _WCS: status,
            _WOR: self._offset,
            _WOR_HIGH: self._offset >> 32,
            _WCV: self._compare,
            _WCV_HIGH: self._compare >> 32,
            _W_IIDR: _IIDR,
            _REFRESH_IIDR: _IIDR,
        }
        return words.get(offset, 0) & MASK32

    def _write_word(self, offset: int, value: int) -> None:
        if offset == _WCV:
            self._compare = self._compare & ~MASK32 | value
        elif offset == _WCV_HIGH:
            self._compare = self._compare & MASK32 | value << 32
        elif offset in _REFRESHING:
            if offset == _WCS:
                self._is_enabled = bool(value & _WCS_EN)
            elif offset == _WOR:
                self._offset = self._offset & ~MASK32 | value
            elif offset == _WOR_HIGH:
                self._offset = self._offset & MASK32 | (value & _WOR_HIGH_MASK) << 32
            self._refresh()

    def _refresh(self) -> None:
        """Begin again, as its driver asks."""
        self._load()
        self._set_ws0(level=False)
        self._ws1 = False

    def _load(self) -> None:
        self._compare = self._counter.read() + self._offset & MASK64

    def _set_ws0(self, *, level: bool) -> None:
        if level != self._ws0:
            self._ws0 = level
            self._irq(level)

    def _update(self) -> None:
        """Advance if the count has passed the compare value."""
        if not self._is_enabled or self._ws1 or self._counter.read() <= self._compare:
            return
        self._load()
        if self._is_halting():
            return
        if not self._ws0:
            self._set_ws0(level=True)
        else:
            self._ws1 = True
            self._expire()

    def _wait(self) -> None:
        """Set the timer to the moment after the compare value."""
        seconds = None
        if self._is_enabled and not self._ws1:
            ticks = max(self._compare - self._counter.read(), 0) + 1
            seconds = min(ticks / self._counter.frequency, _CHECK_PERIOD)
        self._set_timer(self._on_timer, seconds)

    def _on_timer(self) -> None:
        """Check for the expiry; the timer may be early."""
        with self._lock:
            self._update()
            self._wait()


def describe(tree: TreeWriter, place: Place) -> None:
    """Write the node of the watchdog."""
    with tree.node(f"watchdog@{place.base:x}"):
        tree.text("compatible", "arm,sbsa-gwdt")
        frames = (place.base, place.base + _REFRESH_FRAME)
        tree.wide_cells("reg", *(cell for base in frames for cell in (base, FRAME_SIZE)))
        tree.interrupts(place.spis, Trigger.LEVEL_HIGH)
