"""RMI_PYVMM_DEBUG_*: the host debugs a realm, if this was allowed during its construction."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pyvmm.arch.bits import Member
from pyvmm.arch.machine import PhysicalMemory
from pyvmm.arch.pas import GRANULE_SIZE, GranuleProtectionFault, Pas
from pyvmm.arch.rmi import RmiStatus
from pyvmm.arch.rmi_debug import (
    MAX_BREAKPOINTS,
    MAX_WATCHPOINTS,
    WATCHPOINT_WORDS,
    DebugPoints,
    DebugRegisters,
    DebugRmiFid,
)
from pyvmm.arch.sysregs import ALL_BITS, SYSREGS
from rmm.commands import rmi_command
from rmm.errors import RmiError
from rmm.granule import UNDELEGATED
from rmm.realm import RealmState
from rmm.rec import Rec
from rmm.rmm import Rmm

_ARRAYS: Final = ("x", "v")
_FIELDS: Final = tuple(m.name for m in DebugRegisters.members() if m.name not in _ARRAYS)
#: The bits of each register that a write keeps, and those that it sets, as for MSR.
_KEPT: Final = {
    (row.storage or row.name.lower()).removeprefix("st."): (row.writable, row.res1)
    for row in SYSREGS
}
_MODES: Final = frozenset({0b0000, 0b0100, 0b0101})  # EL0t, EL1t, EL1h
_MODE: Final = 0x1F
_DEBUGGER: Final = 3  # access type for translate()


@rmi_command(DebugRmiFid.RMI_PYVMM_DEBUG_ALLOW)
def pyvmm_debug_allow(rmm: Rmm, rd: int) -> None:
    """Allow the host to debug a new realm that has no REC yet; this is measured.

    Spec: docs/debugging.md, RMI_PYVMM_DEBUG_ALLOW.
    Raises: RmiError(ERROR_INPUT) if the realm does not exist; (ERROR_REALM) if it is not NEW, has
    a REC or already allows debugging.
    """
    realm = rmm.realm(rd)
    if realm.state is not RealmState.NEW or realm.num_recs or realm.is_debuggable:
        raise RmiError(RmiStatus.ERROR_REALM)
    realm.is_debuggable = True
    realm.measurements.extend_debug()


@rmi_command(DebugRmiFid.RMI_PYVMM_DEBUG_READ_REGISTERS)
def pyvmm_debug_read_registers(rmm: Rmm, rec: int, ptr: int) -> None:
    """Copy the registers of a stopped REC to the host.

    Spec: docs/debugging.md, RMI_PYVMM_DEBUG_READ_REGISTERS.
    Raises: RmiError(ERROR_INPUT) if the REC does not exist or ``ptr`` is not the host's;
    (ERROR_REALM) if its realm allows no debugging; (ERROR_REC) if it runs, or the next entry has
    to complete an operation.
    """
    context = _debuggable(rmm, rec).context
    shown = DebugRegisters.of(**{name: getattr(context, name) for name in _FIELDS})
    shown.x = tuple(context.x[n] for n in range(_length(DebugRegisters.x)))
    shown.v = tuple(context.v[n] for n in range(_length(DebugRegisters.v)))
    _write_ns(rmm, ptr, bytes(shown))


@rmi_command(DebugRmiFid.RMI_PYVMM_DEBUG_WRITE_REGISTERS)
def pyvmm_debug_write_registers(rmm: Rmm, rec: int, ptr: int) -> None:
    """Set the registers of a stopped REC.

    Spec: docs/debugging.md, RMI_PYVMM_DEBUG_WRITE_REGISTERS.
    Raises: RmiError(ERROR_INPUT) if the REC does not exist, ``ptr`` is not the host's, or PSTATE
    is not valid for a realm; (ERROR_REALM) if its realm allows no debugging; (ERROR_REC) if it
    runs, or the next entry has to complete an operation.
    """
    context = _debuggable(rmm, rec).context
    given = DebugRegisters(rmm.read_ns(ptr, GRANULE_SIZE))
    if given.pstate & _MODE not in _MODES or given.pstate >> 32:
        raise RmiError(RmiStatus.ERROR_INPUT)
    for name in _FIELDS:
        mask, res1 = _KEPT.get(name, (ALL_BITS, 0))
        setattr(context, name, getattr(given, name) & mask | res1)
    for n, value in enumerate(given.x):
        context.x[n] = value
    for n, value in enumerate(given.v):
        context.v[n] = value


@rmi_command(DebugRmiFid.RMI_PYVMM_DEBUG_READ_MEMORY)
def pyvmm_debug_read_memory(rmm: Rmm, pe: int, rec: int, va: int, size: int, ptr: int) -> None:
    """Copy memory at a virtual address of a REC, within a page, to the host.

    Spec: docs/debugging.md, RMI_PYVMM_DEBUG_READ_MEMORY.
    Raises: RmiError(ERROR_INPUT) if the REC does not exist, ``ptr`` is not the host's, or the
    range is not within a page; (ERROR_REALM) if its realm allows no debugging; (ERROR_REC) if it
    runs, or the next entry has to complete an operation; (ERROR_RTT) if nothing is mapped there,
    or shared memory there is not the host's.
    """
    memory, pa = _memory_at(rmm, pe, _debuggable(rmm, rec), va, size)
    with _faults_as(RmiStatus.ERROR_RTT):
        data = memory.read(pa, size)
    _write_ns(rmm, ptr, data)


@rmi_command(DebugRmiFid.RMI_PYVMM_DEBUG_WRITE_MEMORY)
def pyvmm_debug_write_memory(rmm: Rmm, pe: int, rec: int, va: int, size: int, ptr: int) -> None:
    """Write memory at a virtual address of a REC, within a page.

    Spec: docs/debugging.md, RMI_PYVMM_DEBUG_WRITE_MEMORY.
    Raises: RmiError(ERROR_INPUT) if the REC does not exist, ``ptr`` is not the host's, or the
    range is not within a page; (ERROR_REALM) if its realm allows no debugging; (ERROR_REC) if it
    runs, or the next entry has to complete an operation; (ERROR_RTT) if nothing is mapped there,
    or shared memory there is not the host's.
    """
    memory, pa = _memory_at(rmm, pe, _debuggable(rmm, rec), va, size)
    data = rmm.read_ns(ptr, size)
    with _faults_as(RmiStatus.ERROR_RTT):
        memory.write(pa, data)


@rmi_command(DebugRmiFid.RMI_PYVMM_DEBUG_SET_POINTS)
def pyvmm_debug_set_points(rmm: Rmm, rec: int, ptr: int) -> None:
    """Set the points at which a stopped REC will exit with a debug exception.

    Spec: docs/debugging.md, RMI_PYVMM_DEBUG_SET_POINTS.
    Raises: RmiError(ERROR_INPUT) if the REC does not exist, ``ptr`` is not the host's, or there
    are too many points; (ERROR_REALM) if its realm allows no debugging; (ERROR_REC) if it runs,
    or the next entry has to complete an operation.
    """
    stopped = _debuggable(rmm, rec)
    wanted = DebugPoints(rmm.read_ns(ptr, GRANULE_SIZE))
    if wanted.num_breakpoints > MAX_BREAKPOINTS or wanted.num_watchpoints > MAX_WATCHPOINTS:
        raise RmiError(RmiStatus.ERROR_INPUT)
    debug = stopped.debug
    for n, address in enumerate(wanted.breakpoints):
        debug.breakpoints[n] = address
    words = iter(wanted.watchpoints)
    for watchpoint, *fields in zip(debug.watchpoints, *[words] * WATCHPOINT_WORDS, strict=True):
        watchpoint.addr, watchpoint.size, watchpoint.access = fields
    debug.num_breakpoints = wanted.num_breakpoints
    debug.num_watchpoints = wanted.num_watchpoints
    debug.step = wanted.step & 1
    stopped.step_from = stopped.context.pc if debug.step else None


def _debuggable(rmm: Rmm, pa: int) -> Rec:
    """Return a stopped REC whose registers are complete.

    Raises: RmiError(ERROR_INPUT) if the REC does not exist; (ERROR_REALM) if its realm allows no
    debugging; (ERROR_REC) if it runs, or the next entry has to complete an operation.
    """
    rec = rmm.rec(pa)
    if not rec.realm.is_debuggable:
        raise RmiError(RmiStatus.ERROR_REALM)
    if rec.running or rec.is_incomplete:
        raise RmiError(RmiStatus.ERROR_REC)
    return rec


def _memory_at(rmm: Rmm, pe: int, rec: Rec, va: int, size: int) -> tuple[PhysicalMemory, int]:
    """Return the memory and the address of a part of a virtual page.

    Raises: RmiError(ERROR_INPUT) if it is not within a page; (ERROR_RTT) if it is not mapped.
    """
    if not 0 < size <= GRANULE_SIZE - va % GRANULE_SIZE:
        raise RmiError(RmiStatus.ERROR_INPUT)
    fault, pa, pas, _ = rmm.machine.pe(pe).translate(rec.context, va, _DEBUGGER)
    if fault:
        raise RmiError(RmiStatus.ERROR_RTT)
    return (rmm.memory if pas == Pas.REALM else rmm.ns), pa


def _write_ns(rmm: Rmm, pa: int, data: bytes) -> None:
    rmm.granules.require(pa, UNDELEGATED)
    with _faults_as(RmiStatus.ERROR_INPUT):
        rmm.ns.write(pa, data)


@contextmanager
def _faults_as(status: RmiStatus) -> Iterator[None]:
    """Convert a GPT fault to a status: the host may map any address as shared memory."""
    try:
        yield
    except GranuleProtectionFault:
        raise RmiError(status) from None


def _length(array: Member[tuple[int, ...]]) -> int:
    return array.struct.size // 8
