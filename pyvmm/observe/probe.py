"""Registers and memory for a debugger of the simulator, whatever world they belong to."""

from collections.abc import Callable, Sequence
from typing import Final

from pyvmm.arch.machine import PeContext
from pyvmm.arch.pas import GRANULE_OFFSET, GRANULE_SIZE
from pyvmm.core import Machine

_DEBUGGER: Final = 3  # kind of access: permissions of stage 1 do not matter


class Probe:
    """Looks into a machine that stands still."""

    def __init__(self, machine: Machine, contexts: Callable[[], Sequence[PeContext]]) -> None:
        """``contexts`` returns those of the vCPUs, in their order."""
        self._machine = machine
        self._contexts = contexts

    def registers(self, cpu: int) -> dict[str, list[int]]:
        """Return all registers of a vCPU by name."""
        return self._machine.save_context(self._contexts()[cpu])

    def read(self, cpu: int, va: int, size: int) -> bytes:
        """Read memory as a vCPU sees it, up to the first page that is not mapped."""
        data = bytearray()
        while len(data) < size:
            at = va + len(data)
            length = min(size - len(data), GRANULE_SIZE - (at & GRANULE_OFFSET))
            part = self._read_part(cpu, at, length)
            if part is None:
                break
            data += part
        return bytes(data)

    def _read_part(self, cpu: int, va: int, size: int) -> bytes | None:
        context = self._contexts()[cpu]
        fault, pa, pas, _ = self._machine.pe(cpu).translate(context, va, _DEBUGGER)
        offset = pa - self._machine.dram_base
        if fault or not 0 <= offset <= self._machine.dram_size - size:
            return None
        return self._machine.buffer(pas)[offset : offset + size].tobytes()
