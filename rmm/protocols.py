"""What only the RMM needs from the layers below: the machine as seen from R-EL2, and EL3."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from pyvmm.arch import machine
from pyvmm.arch.pas import Pas


class Record(Protocol):
    """Words to be written to memory together, some of them registers of a context."""

    @property
    def words(self) -> memoryview:
        """The words, 64 bits each."""

    def write(self, pa: int, context: machine.PeContext, /) -> None:
        """Take the registers of a context into the words, and write these.

        Raises ``GranuleProtectionFault``, with no effect on memory.
        """


class Machine(machine.Machine, Protocol):
    """The machine as seen from R-EL2."""

    def new_record(self, pas: Pas, size: int, registers: Mapping[str, int], /) -> Record:
        """Make a record of ``size`` bytes for one PAS, all zeros.

        ``registers`` are the places of registers, by their names: the offset of each, of the first
        of an array, in bytes.
        """

    def memory(self, pas: Pas, /) -> machine.PhysicalMemory:
        """Return the view of one physical address space."""

    def pe(self, index: int, /) -> machine.Pe:
        """Return a PE."""

    def list_registers(self, context: machine.PeContext, /) -> bytes:
        """Return ICH_LR<n>_EL2 of a context or of a PE's interface."""

    def copy_interface(self, source: machine.PeContext, target: machine.PeContext, /) -> None:
        """Copy ICH_*_EL2."""

    def tlbi_ipa(self, vmid: int, ipa: int, size: int, /) -> None:
        """Wait until no PE uses an earlier stage-2 translation of the range."""

    def id_register(self, op0: int, op1: int, crn: int, crm: int, op2: int, /) -> int:
        """Read an ID register."""


class El3(Protocol):
    """The Monitor as the RMM calls it: x0.. in, x0.. out; other registers are unchanged."""

    def smc(self, pe: int, args: Sequence[int]) -> Sequence[int]:
        """Call EL3 on a PE."""

    def smc_series(
        self, pe: int, args: Sequence[int], steps: Sequence[int], count: int
    ) -> tuple[int, Sequence[int]]:
        """Call EL3 until a call fails; return how many succeeded, and the results of that one."""
