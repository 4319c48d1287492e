"""The debug port of a normal VM, whose contexts and memory belong to the host."""

from collections.abc import Sequence
from typing import Final

from pyvmm.arch.bits import MASK64
from pyvmm.arch.machine import GuestRegisters, PeContext, PhysicalMemory
from pyvmm.arch.pas import GranuleProtectionFault, Pas
from pyvmm.host.debug import DebugFault, DebugPort, Holder, Watch, fill_debug
from pyvmm.host.machine import Machine

DEBUGGER: Final = 3  # the kind of access for translate


class NormalDebug(DebugPort):
    """Stops a normal VM and its clock: its virtual time stands still too."""

    def __init__(
        self, machine: Machine, memory: PhysicalMemory, vcpus: Holder, contexts: Sequence[PeContext]
    ) -> None:
        """``contexts`` is the VM's own list, one per vCPU."""
        super().__init__(vcpus, len(contexts))
        self._machine = machine
        self._memory = memory
        self._contexts = contexts
        self._debugs = [machine.new_debug() for _ in contexts]
        self._is_lent = False
        self._stopped_at: int | None = None  # count of the timer

    def adopt(self, cpu: int, context: PeContext) -> None:
        """Copy the debugger's state into a new context of a vCPU."""
        context.cntvoff_el2 = self._contexts[cpu].cntvoff_el2
        self._machine.lend_debug(context, self._debugs[cpu] if self._is_lent else None)

    def registers(self, cpu: int) -> GuestRegisters:
        """Return the context itself."""
        return self._contexts[cpu]

    def set_registers(self, cpu: int, registers: GuestRegisters) -> None:
        """Do nothing: the registers were changed in place."""

    def set_points(self, breakpoints: Sequence[int], watchpoints: Sequence[Watch]) -> None:
        """Set these breakpoints and watchpoints on every vCPU."""
        for debug in self._debugs:
            fill_debug(debug, breakpoints, watchpoints)

    def _lend(self, is_attached: bool) -> None:
        self._is_lent = is_attached
        for context, debug in zip(self._contexts, self._debugs, strict=True):
            self._machine.lend_debug(context, debug if is_attached else None)

    def _set_steps(self, steps: Sequence[bool]) -> None:
        for debug, step in zip(self._debugs, steps, strict=True):
            debug.step = step

    def _read_part(self, cpu: int, va: int, size: int) -> bytes:
        try:
            return self._memory.read(self._pa(cpu, va), size)
        except GranuleProtectionFault:
            raise DebugFault from None

    def _write_part(self, cpu: int, va: int, data: bytes) -> None:
        try:
            self._memory.write(self._pa(cpu, va), data)
        except GranuleProtectionFault:
            raise DebugFault from None

    def _pa(self, cpu: int, va: int) -> int:
        pe = self._machine.pe(cpu)
        fault, pa, pas, _ = pe.translate(self._contexts[cpu], va, DEBUGGER)
        if fault or pas != Pas.NS:
            raise DebugFault
        return pa

    def _stopped(self) -> None:
        if self._stopped_at is None:
            self._stopped_at = self._machine.counter()

    def _resuming(self) -> None:
        """Subtract the time of the stop from the guest's virtual counter."""
        if self._stopped_at is None:
            return
        lost = self._machine.counter() - self._stopped_at
        self._stopped_at = None
        for context in self._contexts:
            context.cntvoff_el2 = context.cntvoff_el2 + lost & MASK64
