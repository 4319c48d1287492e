"""The debug port of a realm that allows it: registers and memory through the RMM's vendor calls."""

from collections.abc import Sequence
from typing import Final

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import RmiStatus
from pyvmm.arch.rmi_debug import (
    MAX_BREAKPOINTS,
    MAX_WATCHPOINTS,
    WATCHPOINT_WORDS,
    DebugPoints,
    DebugRegisters,
    DebugRmiFid,
)
from pyvmm.host.debug import DebugFault, DebugPort, Holder, TooManyError, Watch
from pyvmm.host.machine import GuestRegisters, PhysicalMemory
from pyvmm.host.rmi import Rmi, RmiError

_SCALARS: Final = tuple(m.name for m in DebugRegisters.members() if m.name not in {"x", "v"})


class RecRegisters:
    """A copy of a REC's registers; a `GuestRegisters`."""

    pc: int
    pstate: int
    sp_el0: int
    sp_el1: int
    fpcr: int
    fpsr: int

    def __init__(self, page: bytes) -> None:
        layout = DebugRegisters(page)
        self.x = list(layout.x)
        self.v = list(layout.v)
        for name in _SCALARS:
            setattr(self, name, getattr(layout, name))


class RealmDebug(DebugPort):
    """Stops a realm; its time goes on, which only the RMM could stop."""

    def __init__(
        self,
        vcpus: Holder,
        num_cpus: int,
        rmi: Rmi,
        memory: PhysicalMemory,
        page_pa: int,
        recs: Sequence[int],
    ) -> None:
        """Pass things through the Non-secure granule ``page_pa``.

        ``recs`` has the REC granules, one a vCPU; it grows as they are made.
        """
        super().__init__(vcpus, num_cpus)
        self._rmi = rmi
        self._memory = memory
        self._page_pa = page_pa
        self._recs = recs
        self._points = DebugPoints()

    def registers(self, cpu: int) -> GuestRegisters:
        """Return a copy."""
        self._call(cpu, DebugRmiFid.RMI_PYVMM_DEBUG_READ_REGISTERS)
        return RecRegisters(self._memory.read(self._page_pa, GRANULE_SIZE))

    def set_registers(self, cpu: int, registers: GuestRegisters) -> None:
        """Take them back."""
        page = DebugRegisters.of(**{name: getattr(registers, name) for name in _SCALARS})
        page.x = tuple(registers.x[n] for n in range(31))
        page.v = tuple(registers.v[n] for n in range(64))
        self._pass(cpu, DebugRmiFid.RMI_PYVMM_DEBUG_WRITE_REGISTERS, bytes(page))

    def set_points(self, breakpoints: Sequence[int], watchpoints: Sequence[Watch]) -> None:
        """Have these breakpoints and watchpoints on every REC, at the next resume."""
        if len(breakpoints) > MAX_BREAKPOINTS or len(watchpoints) > MAX_WATCHPOINTS:
            raise TooManyError
        words = [word for w in watchpoints for word in (w.address, w.size, int(w.access))]
        points = DebugPoints.of(num_breakpoints=len(breakpoints), num_watchpoints=len(watchpoints))
        points.breakpoints = _padded(breakpoints, MAX_BREAKPOINTS)
        points.watchpoints = _padded(words, WATCHPOINT_WORDS * MAX_WATCHPOINTS)
        self._points = points

    def _lend(self, is_attached: bool) -> None:
        """Do nothing: the RMM has lent a debugger to every REC when it was made."""

    def _set_steps(self, steps: Sequence[bool]) -> None:
        for cpu, step in enumerate(steps[: len(self._recs)]):
            self._points.step = step
            self._pass(cpu, DebugRmiFid.RMI_PYVMM_DEBUG_SET_POINTS, bytes(self._points))

    def _read_part(self, cpu: int, va: int, size: int) -> bytes:
        self._reach(cpu, DebugRmiFid.RMI_PYVMM_DEBUG_READ_MEMORY, va, size)
        return self._memory.read(self._page_pa, size)

    def _write_part(self, cpu: int, va: int, data: bytes) -> None:
        self._memory.write(self._page_pa, data)
        self._reach(cpu, DebugRmiFid.RMI_PYVMM_DEBUG_WRITE_MEMORY, va, len(data))

    def _reach(self, cpu: int, fid: DebugRmiFid, va: int, size: int) -> None:
        try:
            self._call(cpu, fid, va, size)
        except RmiError as refusal:
            if refusal.status != RmiStatus.ERROR_RTT:
                raise
            raise DebugFault from None

    def _pass(self, cpu: int, fid: DebugRmiFid, page: bytes) -> None:
        self._memory.write(self._page_pa, page)
        self._call(cpu, fid)

    def _call(self, cpu: int, fid: DebugRmiFid, *args: int) -> None:
        """Call for a REC that stands still, on the PE that runs it otherwise."""
        self._rmi.call(cpu, fid, self._recs[cpu], *args, self._page_pa)

    def _stopped(self) -> None:
        """Do nothing: a realm's time is not the host's."""

    def _resuming(self) -> None:
        """Do nothing, as when it stopped."""


def _padded(words: Sequence[int], count: int) -> tuple[int, ...]:
    return (*words, *(0,) * (count - len(words)))
