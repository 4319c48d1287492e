"""A machine in turns that pauses at any instruction, for a debugger that the guest cannot notice.

A pause is within a run of a PE, so the whole program stands still, in whatever world the PE is.
Breakpoints and watchpoints do not change the run: with the exact clock, how often a run is
interrupted makes no difference.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pyvmm.arch.engine import Engine
from pyvmm.arch.esr import ESR_ABORT, ExceptionClass
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.sysregs import Feature
from pyvmm.core.machine import Pe, PeContext, PeExit
from pyvmm.core.turns import MachineInTurns, PeInTurns

_ELSEWHERE: Final = 1 << 50  # no instruction has an address with this bit changed
_BUDGET: Final = int(ExitReason.BUDGET)
_DEBUG: Final = int(ExitReason.DEBUG)
_WATCHPOINT: Final = ExceptionClass.WATCHPOINT_LOWER


@dataclass(frozen=True, slots=True)
class Hit:
    """A PE is about to execute an instruction with a breakpoint, or make an access watched."""

    position: int
    cpu: int
    is_watch: bool
    address: int = 0  # of the access
    is_write: bool = False


class Pauses:
    """Where the machine pauses next.

    ``pause`` is called there, with the index of the PE; it returns when the machine is to go on.
    """

    def __init__(self, machine: "MachineWithPauses") -> None:
        self._machine = machine
        self.pause: Callable[[int], None] = lambda _: None
        self.target = 0  # position
        self.stops = True  # at hits; otherwise the last one is kept
        self.last: Hit | None = None
        self.debug = machine.new_debug()
        self._points: tuple[Sequence[int], Sequence[tuple[int, int, int]]] = ((), ())
        self.is_passing = False  # the instruction of a hit is executed

    def set_points(
        self, breakpoints: Sequence[int], watchpoints: Sequence[tuple[int, int, int]]
    ) -> None:
        """Replace the breakpoints, and the watchpoints: address, size and access of each."""
        self._points = breakpoints, watchpoints
        self.is_passing = False
        self._arm()

    def forget(self) -> None:
        """Forget the last hit."""
        self.last = None

    def left(self) -> int:
        """Return the number of instructions until something is to be done."""
        left = self.target - self._machine.position
        return min(left, 1) if self.is_passing else left

    def ran(self) -> None:
        """Take note that instructions were executed."""
        if self.is_passing:
            self.is_passing = False
            self._arm()

    def hit(self, cpu: int, exit_: PeExit) -> None:
        """Take note of a hit, and pass it."""
        syndrome = ESR_ABORT(exit_.esr)
        is_watch = syndrome.EC is _WATCHPOINT
        self.last = Hit(self._machine.position, cpu, is_watch, exit_.far, bool(syndrome.WnR))
        self.is_passing = True
        self._arm()
        if self.stops:
            self.target = self._machine.position

    def _arm(self) -> None:
        """Write the points; one that is passed keeps its page and offset, so nothing is decoded."""
        breakpoints, watchpoints = self._points
        away = _ELSEWHERE if self.is_passing else 0
        debug = self.debug
        debug.num_breakpoints, debug.num_watchpoints = len(breakpoints), len(watchpoints)
        for n, address in enumerate(breakpoints):
            debug.breakpoints[n] = address ^ away
        for slot, (address, size, access) in zip(debug.watchpoints, watchpoints, strict=False):
            slot.addr, slot.size, slot.access = address, size, 0 if away else access


class PeWithPauses(PeInTurns):
    """A PE of a machine that pauses."""

    __slots__ = ("_with_pauses",)

    def __init__(self, machine: "MachineWithPauses", index: int) -> None:
        super().__init__(machine, index)
        self._with_pauses = machine

    def _execute(self, context: PeContext, budget: int) -> PeExit:
        machine, pauses, done = self._with_pauses, self._with_pauses.pauses, 0
        own = context.debug
        while True:
            while (left := pauses.left()) <= 0:
                pauses.pause(self.index)
            context.debug = pauses.debug
            exit_ = Pe.run(self, context, min(budget - done, left))
            context.debug = own
            done += exit_.instructions
            machine.position += exit_.instructions
            if exit_.reason == _DEBUG:
                pauses.hit(self.index, exit_)
                continue
            if exit_.instructions:
                pauses.ran()
            if exit_.reason != _BUDGET or done >= budget:
                break
        if not own:
            context.excl_size = 0  # as at every exit without a debugger
        exit_.instructions = done
        return exit_


class MachineWithPauses(MachineInTurns):
    """A machine that pauses; its memory is copied by fork()."""

    def __init__(
        self,
        dram_base: int,
        dram_size: int,
        num_pes: int,
        features: Feature,
        *,
        engine: Engine = Engine.INTERP,
    ) -> None:
        super().__init__(dram_base, dram_size, num_pes, features, engine=engine)
        self.make_private()
        self.pauses = Pauses(self)
        self._in_turns = [PeWithPauses(self, index) for index in range(num_pes)]
