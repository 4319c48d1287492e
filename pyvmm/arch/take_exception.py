"""Taking an exception to EL1, as a hypervisor does it for its guest.

Spec: Arm ARM DDI 0487, AArch64.TakeException.
"""

from typing import Final

from pyvmm.arch.bits import MASK64
from pyvmm.arch.el1 import SCTLR_EL1
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


def take_exception(context: PeContext, pc: int, esr: int) -> None:
    """Enter the synchronous exception vector of EL1 with ESR_EL1 = ``esr``, returning to ``pc``."""
    pstate = context.pstate
    context.esr_el1 = esr
    context.elr_el1 = pc & MASK64
    context.spsr_el1 = pstate
    context.pc = vector_of(context)
    sctlr = context.sctlr_el1
    new = pstate & _KEPT | EL1H_MASKED
    if not sctlr & _SCTLR_SPAN:
        new |= _PAN
    if sctlr & _SCTLR_DSSBS:
        new |= _SSBS
    context.pstate = new


def vector_of(context: PeContext) -> int:
    """Return the vector of a synchronous exception in the current state."""
    pstate = context.pstate
    offset = VECTOR_CURRENT_SPX if pstate & _SP_ELX else VECTOR_CURRENT_SP0
    if not pstate & _LEVEL:
        offset = VECTOR_LOWER_A64
    if pstate & _AARCH32:
        offset = VECTOR_LOWER_A32
    return context.vbar_el1 + offset & MASK64
