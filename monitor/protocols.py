"""What the Monitor needs from outside: the machine, the RMM and the HES's mailbox."""

from collections.abc import Sequence
from typing import Protocol

from pyvmm.arch.machine import PhysicalMemory
from pyvmm.arch.pas import Pas


class Machine(Protocol):
    """The machine as EL3 sees it."""

    @property
    def dram_base(self) -> int:
        """First byte of DRAM."""

    @property
    def dram_size(self) -> int:
        """Bytes of DRAM."""

    @property
    def num_pes(self) -> int:
        """The number of PEs."""

    def memory(self, pas: Pas, /) -> PhysicalMemory:
        """Return the view of one physical address space."""

    def set_gpt(self, gptbr_pa: int, gpccr: int, /) -> None:
        """Write GPTBR_EL3 and GPCCR_EL3: every access is checked from then on."""

    def punch(self, pas: Pas, pa: int, size: int, /) -> None:
        """Drop contents: they read as zeros afterwards."""

    def tlbi_pa(self, pa: int, size: int, /) -> None:
        """Wait until no PE uses an earlier translation to the range."""


class Rmm(Protocol):
    """The RMM as EL3 enters it."""

    def boot(self, cpu: int, version: int, num_cpus: int, shared_pa: int, /) -> int:
        """Boot on one CPU; return the status of RMM_BOOT_COMPLETE, 0 or negative."""

    def handle(self, pe: int, fid: int, args: Sequence[int], /) -> tuple[int, ...]:
        """Perform an RMI command with x1.. = ``args``; return x0.. of RMI_REQ_COMPLETE."""

    def handle_series(
        self, pe: int, args: Sequence[int], steps: Sequence[int], count: int, /
    ) -> int:
        """Perform a command several times at once, x0.. = ``args`` and each time ``steps`` more.

        Returns how many times, each with success; 0: one by one.
        """


class Mailbox(Protocol):
    """The connection to the hardware-enforced security module."""

    def call(self, message: bytes, /) -> bytes:
        """Send a request and return the reply; OSError if there is none."""
