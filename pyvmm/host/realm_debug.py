"""The debug port of a realm that allows it: registers and memory through the RMM's vendor calls."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from pyvmm.arch.machine import GuestRegisters, PhysicalMemory
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi_debug import (
    MAX_BREAKPOINTS,
    MAX_WATCHPOINTS,
    WATCHPOINT_WORDS,
    DebugPoints,
    DebugRegisters,
    DebugRmiFid,
)
from pyvmm.host.debug import DebugFault, DebugPort, Holder, TooManyError, Watch
from pyvmm.host.rmi import Rmi, RmiFailed

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
    """Stops a realm; its clock continues, because only the RMM could stop it."""

    def __init__(
        self,
        vcpus: Holder,
        num_cpus: int,
        rmi: Rmi,
        memory: PhysicalMemory,
        page_pa: int,
    ) -> None:
        """Pass data through the Non-secure granule ``page_pa``."""
        super().__init__(vcpus, num_cpus)
        self._rmi = rmi
        self._memory = memory
        self._page_pa = page_pa
        self._recs: list[int] = []
        self._points = DebugPoints()

    def add(self, rec_pa: int) -> None:
        """Add the REC of the next vCPU."""
        self._recs.append(rec_pa)

    def close(self) -> None:
        """Forget the RECs, which will be destroyed, after a running inspection ends."""
        with self._turn:
            self._recs.clear()

    def registers(self, cpu: int) -> GuestRegisters:
        """Return a copy."""
        with self._turn:
            self._call(cpu, DebugRmiFid.RMI_PYVMM_DEBUG_READ_REGISTERS)
            return RecRegisters(self._memory.read(self._page_pa, GRANULE_SIZE))

    def set_registers(self, cpu: int, registers: GuestRegisters) -> None:
        """Set the registers."""
        page = DebugRegisters.of(**{name: getattr(registers, name) for name in _SCALARS})
        page.x = tuple(registers.x[n] for n in range(31))
        page.v = tuple(registers.v[n] for n in range(64))
        with self._turn:
            self._call(cpu, DebugRmiFid.RMI_PYVMM_DEBUG_WRITE_REGISTERS, given=bytes(page))

    def set_points(self, breakpoints: Sequence[int], watchpoints: Sequence[Watch]) -> None:
        """Set these breakpoints and watchpoints on every REC, at the next resume."""
        if len(breakpoints) > MAX_BREAKPOINTS or len(watchpoints) > MAX_WATCHPOINTS:
            raise TooManyError
        words = [word for w in watchpoints for word in (w.address, w.size, int(w.access))]
        points = DebugPoints.of(num_breakpoints=len(breakpoints), num_watchpoints=len(watchpoints))
        points.breakpoints = _padded(breakpoints, MAX_BREAKPOINTS)
        points.watchpoints = _padded(words, WATCHPOINT_WORDS * MAX_WATCHPOINTS)
        self._points = points

    def _lend(self, is_attached: bool) -> None:
        """Do nothing: the RMM gave every REC a debugger when it was created."""

    def _set_steps(self, steps: Sequence[bool]) -> None:
        for cpu, step in enumerate(steps):
            self._points.step = step
            with suppress(DebugFault):  # it is gone and will not run
                self._call(cpu, DebugRmiFid.RMI_PYVMM_DEBUG_SET_POINTS, given=bytes(self._points))

    def _read_part(self, cpu: int, va: int, size: int) -> bytes:
        self._call(cpu, DebugRmiFid.RMI_PYVMM_DEBUG_READ_MEMORY, va, size)
        return self._memory.read(self._page_pa, size)

    def _write_part(self, cpu: int, va: int, data: bytes) -> None:
        self._call(cpu, DebugRmiFid.RMI_PYVMM_DEBUG_WRITE_MEMORY, va, len(data), given=data)

    def _call(self, cpu: int, fid: DebugRmiFid, *args: int, given: bytes = b"") -> None:
        """Call for a REC that stands still, on its usual PE; the caller holds the turn.

        Raises:
            DebugFault: it has no such memory, is gone, or its last exit will never be completed.
        """
        if cpu >= len(self._recs):
            raise DebugFault
        if given:
            self._memory.write(self._page_pa, given)
        try:
            self._rmi.call(cpu, fid, self._recs[cpu], *args, self._page_pa)
        except RmiFailed:
            raise DebugFault from None

    def _stopped(self) -> None:
        """Do nothing: the host does not control a realm's clock."""

    def _resuming(self) -> None:
        """Do nothing, as in ``_stopped``."""


def _padded(words: Sequence[int], count: int) -> tuple[int, ...]:
    return (*words, *(0,) * (count - len(words)))
