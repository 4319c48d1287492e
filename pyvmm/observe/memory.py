"""All four physical address spaces, read without a protection check."""

from typing import Protocol

from pyvmm.arch.pas import Pas


class RawMemory(Protocol):
    """The memory of each address space, as the core has it."""

    dram_base: int
    dram_size: int

    def buffer(self, pas: Pas) -> memoryview:
        """Return all memory of an address space."""


class Dram:
    """Reads DRAM; addresses are physical."""

    def __init__(self, machine: RawMemory) -> None:
        self.base, self.size = machine.dram_base, machine.dram_size
        self._buffers = {pas: machine.buffer(pas).cast("B") for pas in Pas}

    def read(self, pas: Pas, pa: int, size: int) -> bytes:
        """Return bytes; fewer where DRAM ends, none outside it."""
        offset = pa - self.base
        return b"" if offset < 0 else bytes(self._buffers[pas][offset : offset + size])

    def word(self, pas: Pas, pa: int) -> int | None:
        """Return the 64-bit word at ``pa``; None outside DRAM."""
        data = self.read(pas, pa, 8)
        return int.from_bytes(data, "little") if len(data) == 8 else None
