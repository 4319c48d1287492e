"""A debugger outside, as the tests use the core's: on one context, whose ``pe_debug`` it fills."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.arch.exits import ExitReason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvmm.core import Machine, PeContext, PeExit
    from pyvmm.core.machine import PeDebug

EC_BREAKPOINT, EC_STEP, EC_WATCHPOINT = 0x30, 0x32, 0x34
READ, WRITE = 1, 2
FSC_DEBUG = 0x22
IL = 1 << 25
WNR = 1 << 6
BUDGET = 1 << 40


class Debugger:
    """Runs a context of a PE with a debugger attached."""

    def __init__(self, machine: Machine, context: PeContext, pe: int = 0) -> None:
        self._pe = machine.pe(pe)
        self.context = context
        self.debug: PeDebug = machine.new_debug()
        machine.lend_debug(context, self.debug)

    def break_at(self, *addresses: int) -> None:
        """Have these breakpoints and no others."""
        self.debug.num_breakpoints = len(addresses)
        for n, address in enumerate(addresses):
            self.debug.breakpoints[n] = address

    def watch(self, *ranges: tuple[int, int, int]) -> None:
        """Have watchpoints at these (address, size, access) and no others."""
        self.debug.num_watchpoints = len(ranges)
        for n, (address, size, access) in enumerate(ranges):
            self.debug.watchpoints[n] = (address, size, access)

    def go(self, budget: int = BUDGET) -> PeExit:
        """Run until something stops it."""
        return self._pe.run(self.context, budget)

    def step(self) -> PeExit:
        """Do one instruction."""
        self.debug.step = 1
        try:
            return self._pe.run(self.context, BUDGET)
        finally:
            self.debug.step = 0

    def step_to_exit(self) -> tuple[PeExit, int]:
        """Step until the PE leaves for EL2; return that exit and the number of steps before it."""
        count = 0
        while (exit_ := self.step()).reason == ExitReason.DEBUG:
            assert (exit_.esr, exit_.instructions) == (EC_STEP << 26 | IL | FSC_DEBUG, 1)
            count += 1
        return exit_, count


def stops(debugger: Debugger) -> Iterable[tuple[int, int]]:
    """Go on from stop to stop, over each; yield (pc, address) of each until the PE leaves."""
    while (exit_ := debugger.go()).reason == ExitReason.DEBUG:
        yield int(debugger.context.pc), int(exit_.far)
        saved = debugger.debug.num_breakpoints, debugger.debug.num_watchpoints
        debugger.debug.num_breakpoints = debugger.debug.num_watchpoints = 0
        left = debugger.step().reason != ExitReason.DEBUG
        debugger.debug.num_breakpoints, debugger.debug.num_watchpoints = saved
        if left:
            return
