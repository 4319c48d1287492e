"""The machine's interface for the normal world, and the SMC waist."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pyvmm.arch import machine
from pyvmm.arch.pas import Pas


class Pe(machine.Pe, Protocol):
    """A PE that other threads may interrupt."""

    def kick(self) -> None:
        """Make the current or the next ``run`` return; from any thread."""


class Machine(machine.Machine, Protocol):
    """The machine as NS-EL2 software sees it: its PEs, and nothing of other worlds."""

    def pe(self, index: int, /) -> Pe:
        """Return one PE."""

    def counter(self) -> int:
        """Return the physical count of the generic timer."""

    def set_counter(self, count: int, /) -> None:
        """Make the counter continue from a value; before any PE runs."""

    def save_context(self, context: machine.PeContext, /) -> dict[str, list[int]]:
        """Return all numbers of a context by name."""

    def load_context(
        self, context: machine.PeContext, saved: Mapping[str, Sequence[int]], /
    ) -> None:
        """Set numbers of a context; ValueError if there are no such."""

    def id_register(self, op0: int, op1: int, crn: int, crm: int, op2: int, /) -> int:
        """Read an ID register."""

    def memfd(self, pas: Pas, /) -> int:
        """Return the file of the memory of a PAS; its offsets begin at the start of DRAM."""

    @property
    def dram_base(self) -> int:
        """The first address of DRAM."""

    def punch(self, pas: Pas, pa: int, size: int, /) -> None:
        """Drop contents of the caller's own memory: they read as zeros afterwards."""


class PeWithAlarm(Pe, Protocol):
    """A PE that can interrupt itself."""

    def set_alarm(self, count: int, /) -> None:
        """Make a ``run`` return when the counter reaches ``count``, once; MASK64: never."""


class MachineWithEl2(Machine, Protocol):
    """The machine for software that has EL2 itself."""

    def pe(self, index: int, /) -> PeWithAlarm:
        """Return one PE."""

    def new_context_with_el2(self) -> machine.PeContextWithEl2:
        """Make a context that has EL2, and starts there."""


class Firmware(Protocol):
    """The SMC waist: the normal world's only way to the realm world."""

    def smc(self, pe: int, args: Sequence[int]) -> tuple[int, ...]:
        """Call with x0.. = ``args`` on a PE; return x0.. (other registers are preserved)."""

    def smc_series(
        self, pe: int, args: Sequence[int], steps: Sequence[int], count: int
    ) -> tuple[int, tuple[int, ...]]:
        """Call up to ``count`` times, adding ``steps`` to x0.. each time, until a call fails.

        Returns how many calls succeeded, and the results of the one that failed, if one did.
        """


@dataclass(frozen=True, slots=True)
class Usage:
    """A machine's counters and resource usage, as its owner sees them."""

    instructions: tuple[int, ...]  # executed, by PE
    granules: Mapping[Pas, int]  # assigned to each PAS by the GPT
    resident: Mapping[Pas, int]  # bytes of host memory
