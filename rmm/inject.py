"""Exceptions that the RMM injects into a realm's EL1.

Spec: Arm ARM DDI 0487, AArch64.TakeException to EL1.
"""

from typing import Final

from pyvmm.arch.bits import MASK64
from pyvmm.arch.el1 import SCTLR_EL1
from pyvmm.arch.esr import EC_SHIFT, ESR_ABORT, IL, ExceptionClass, FaultStatus
from pyvmm.arch.machine import PeContext
from pyvmm.arch.pstate import (
    EL1H_MASKED,
    SPSR_EL1,
    VECTOR_CURRENT_SP0,
    VECTOR_CURRENT_SPX,
    VECTOR_LOWER_A32,
    VECTOR_LOWER_A64,
)

_SP_ELX: Final = SPSR_EL1.SP.mask
_LEVEL: Final = SPSR_EL1.EL.mask
_AARCH32: Final = SPSR_EL1.AARCH32.mask
_SSBS: Final = SPSR_EL1.SSBS.mask
_PAN: Final = SPSR_EL1.PAN.mask
_KEPT: Final = SPSR_EL1.NZCV.mask | SPSR_EL1.DIT.mask | _PAN
_SCTLR_SPAN: Final = SCTLR_EL1.SPAN.mask
_SCTLR_DSSBS: Final = SCTLR_EL1.DSSBS.mask

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
    if context.pstate & _LEVEL:
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
    new = pstate & _KEPT | EL1H_MASKED
    if not sctlr & _SCTLR_SPAN:
        new |= _PAN
    if sctlr & _SCTLR_DSSBS:
        new |= _SSBS
    context.pstate = new


def _vector_offset(pstate: int) -> int:
    """Return the vector offset of a synchronous exception."""
    if pstate & _AARCH32:
        return VECTOR_LOWER_A32
    if not pstate & _LEVEL:
        return VECTOR_LOWER_A64
    return VECTOR_CURRENT_SPX if pstate & _SP_ELX else VECTOR_CURRENT_SP0
