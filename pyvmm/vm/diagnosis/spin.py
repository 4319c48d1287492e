"""Detects a guest that computes without progress, and reports it once.

It costs the guest nothing: it periodically checks counters that exist anyway.  Only CPU time
counts, so that neither a busy host nor a waiting guest is mistaken for a spinning one.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

from pyvmm.host.guest import ExitKind
from pyvmm.vm.diagnosis.advice import MANY_FAULTS, explain
from pyvmm.vm.options import VmOptions

#: Seconds between two checks.
INTERVAL: Final = 1.0
#: Seconds of CPU time without a sign of life.
PATIENCE: Final = 3.0
#: Exits that request something; the others are faults and interrupts.
_REQUESTS: Final = frozenset(ExitKind) - {ExitKind.FAULT, ExitKind.IRQ, ExitKind.OTHER}


class SpinWatch:
    """Watches one guest."""

    def __init__(self, options: VmOptions, clock: Callable[[], float] = time.process_time) -> None:
        """``clock`` returns the CPU time of this process, nearly all of which is its guest's."""
        self._options = options
        self._clock = clock
        self._since = clock()
        self._signs: tuple[int, ...] = ()
        self._faults = 0
        self._is_over = False

    def look(self, exits: Sequence[Sequence[int]], output: int) -> str:
        """Return a line for the user once, if the guest spins; otherwise an empty string.

        Args:
            exits: of each vCPU, by ``ExitKind``.
            output: number of bytes on its console.
        """
        total = [sum(column) for column in zip(*exits, strict=True)]
        now, faults = self._clock(), total[ExitKind.OTHER]
        total[ExitKind.OTHER] = 0
        signs = (*total, output)
        if signs != self._signs:
            self._signs, self._faults, self._since = signs, faults, now
        if self._is_over or now < self._since + PATIENCE:
            return ""
        total[ExitKind.OTHER] = faults - self._faults
        has_progress = any(total[kind] for kind in _REQUESTS) or output
        if has_progress and total[ExitKind.OTHER] < MANY_FAULTS:
            return ""
        self._is_over = True
        return (
            f"the guest has computed for {now - self._since:.0f} s without progress:"
            f" {explain(self._options, total)}"
        )
