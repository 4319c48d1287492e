"""Exceptions that the RMM injects into a realm's EL1.

Spec: Arm ARM DDI 0487, AArch64.TakeException to EL1.
"""

from typing import Final

from pyvmm.arch.bits import MASK64
from pyvmm.arch.esr import EC_SHIFT, ESR_ABORT, IL, ExceptionClass, FaultStatus
from pyvmm.arch.machine import PeContext

_PSTATE_MODE: Final = 0xF
_PSTATE_AARCH32: Final = 1 << 4
_PSTATE_EL0: Final = 0b0000
_PSTATE_EL1T: Final = 0b0100
_PSTATE_EL1H: Final = 0b0101
_PSTATE_DAIF: Final = 0xF << 6
_PSTATE_SSBS: Final = 1 << 12
_PSTATE_PAN: Final = 1 << 22
_PSTATE_KEPT: Final = 0xF << 28 | 1 << 24 | _PSTATE_PAN  # NZCV, DIT, PAN
_SCTLR_SPAN: Final = 1 << 23
_SCTLR_DSSBS: Final = 1 << 44

_SEA: Final = ESR_ABORT.EA.mask | FaultStatus.SYNC_EXTERNAL
_ABORT_KEPT: Final = ESR_ABORT.IL.mask | ESR_ABORT.CM.mask | ESR_ABORT.WnR.mask


def inject_undefined(context: PeContext, pc: int) -> None:
    """Report the instruction at ``pc`` as undefined."""
    _take_exception(context, pc, ExceptionClass.UNKNOWN << EC_SHIFT | IL)


def inject_sea(context: PeContext, esr: int, far: int) -> None:
    """Inject an SEA for the access whose abort has the full syndrome ``esr``.

    The realm takes a synchronous external abort at the virtual address ``far``.
    Spec: DEN0137 1.0, "Synchronous External Aborts".
    """
    _inject_abort(context, esr, far, _SEA)


def inject_protection_fault(context: PeContext, esr: int, far: int) -> None:
    """Inject the granule protection fault whose syndrome at EL2 is ``esr``."""
    _inject_abort(context, esr, far, esr & ESR_ABORT.FSC.mask)


def _inject_abort(context: PeContext, esr: int, far: int, fault: int) -> None:
    ec = esr >> EC_SHIFT & 0x3F  # 0x20 or 0x24 from a lower level; add one from EL1
    if context.pstate & _PSTATE_MODE != _PSTATE_EL0:
        ec |= 1
    context.far_el1 = far
    _take_exception(context, context.pc, ec << EC_SHIFT | esr & _ABORT_KEPT | fault)


def _take_exception(context: PeContext, pc: int, esr: int) -> None:
    pstate = context.pstate
    context.esr_el1 = esr
    context.elr_el1 = pc & MASK64
    context.spsr_el1 = pstate
    context.pc = context.vbar_el1 + _vector_offset(pstate) & MASK64
    sctlr = context.sctlr_el1
    new = pstate & _PSTATE_KEPT | _PSTATE_DAIF | _PSTATE_EL1H
    if not sctlr & _SCTLR_SPAN:
        new |= _PSTATE_PAN
    if sctlr & _SCTLR_DSSBS:
        new |= _PSTATE_SSBS
    context.pstate = new


def _vector_offset(pstate: int) -> int:
    """Return the vector offset of a synchronous exception."""
    if pstate & _PSTATE_AARCH32:
        return 0x600
    if pstate & _PSTATE_MODE == _PSTATE_EL0:
        return 0x400
    return 0x000 if pstate & _PSTATE_MODE == _PSTATE_EL1T else 0x200
