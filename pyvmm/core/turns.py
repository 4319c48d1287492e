"""A machine whose PEs run in turns, one at a time, so that a run can be repeated exactly.

A turn is a number of instructions.  It ends at exactly that number, or earlier if the guest waits
for an interrupt; then ``run`` calls ``ended`` and returns as for an interrupt of the host.
"""

from collections.abc import Callable, Sequence
from typing import Final

from pyvmm.arch.engine import Engine
from pyvmm.arch.exits import ExitReason, IrqCause
from pyvmm.arch.sysregs import DEFAULT_FEATURES, Feature
from pyvmm.core.machine import Clock, Machine, Pe, PeContext, PeExit

NEVER: Final = (1 << 63) - 1  # ticks
_IDLE: Final = int(IrqCause.IDLE)
_BUDGET: Final = int(ExitReason.BUDGET)
_IRQ: Final = int(ExitReason.IRQ)


def _nothing() -> None:
    """Do nothing."""


class PeInTurns(Pe):
    """A PE that runs only in its turns."""

    __slots__ = ("_ended", "_in_turns", "_left", "sleep")

    def __init__(self, machine: "MachineInTurns", index: int) -> None:
        super().__init__(machine, index)
        self._in_turns = machine
        self._left = 0  # instructions of its turn
        self._ended: Callable[[], None] = _nothing
        #: Ticks until a timer ends the wait for an interrupt, in which the last turn ended; None:
        #: it does not wait.
        self.sleep: int | None = None

    def begin_turn(self, instructions: int, ended: Callable[[], None]) -> None:
        """Allow so many instructions; call ``ended`` after the last one."""
        self._left, self._ended, self.sleep = instructions, ended, None

    def run(self, context: PeContext, budget: int) -> PeExit:
        """Run the context until an exit or the end of the turn."""
        exit_ = self._execute(context, min(budget, self._left))
        self._left = max(self._left - exit_.instructions, 0)
        if exit_.irq & _IDLE:
            self.sleep = exit_.far
        elif exit_.reason == _BUDGET:
            exit_.reason = _IRQ
        elif self._left:
            return exit_
        self._left = 0
        self._ended()
        return exit_

    def _execute(self, context: PeContext, budget: int) -> PeExit:
        exit_ = super().run(context, budget)
        self._in_turns.position += exit_.instructions
        return exit_


class MachineInTurns(Machine):
    """A machine with the exact clock."""

    def __init__(
        self,
        dram_base: int,
        dram_size: int,
        num_pes: int,
        features: Feature = DEFAULT_FEATURES,
        *,
        engine: Engine = Engine.INTERP,
    ) -> None:
        super().__init__(dram_base, dram_size, num_pes, Clock.EXACT, features, engine=engine)
        self.position = 0  # instructions executed by all PEs
        self._in_turns: Sequence[PeInTurns] = [PeInTurns(self, index) for index in range(num_pes)]

    def pe(self, index: int) -> PeInTurns:
        """Return a PE."""
        return self._in_turns[index]
