"""Exceptions that a hypervisor makes a guest take at EL1.

Spec: Arm ARM DDI 0487, AArch64.TakeException.
"""

from typing import Final

from pyvmm.arch.bits import MASK64
from pyvmm.arch.el1 import SCTLR_EL1
from pyvmm.arch.esr import ESR_EL2, ExceptionClass, FaultStatus
from pyvmm.arch.machine import PeContext
from pyvmm.arch.pstate import (
    EL1H_MASKED,
    SPSR_EL1,
    VECTOR_CURRENT_SP0,
    VECTOR_CURRENT_SPX,
    VECTOR_LOWER_A64,
)

SP_ELX: Final = SPSR_EL1.SP.mask
LEVEL: Final = SPSR_EL1.EL.mask
SS: Final = SPSR_EL1.SS.mask
PAN: Final = SPSR_EL1.PAN.mask
KEPT: Final = SPSR_EL1.NZCV.mask | SPSR_EL1.DIT.mask
SCTLR_SPAN: Final = SCTLR_EL1.SPAN.mask


def vector_of(context: PeContext) -> int:
    """Return the vector for a synchronous exception in the current state."""
    vector = VECTOR_CURRENT_SPX if context.pstate & SP_ELX else VECTOR_CURRENT_SP0
    if not context.pstate & LEVEL:
        vector = VECTOR_LOWER_A64
    return context.vbar_el1 + vector & MASK64


def skip(context: PeContext) -> None:
    """Continue after the current instruction, which is complete; so is a software step of it."""
    context.pc += 4
    context.pstate &= ~SS


def take_to_el1(context: PeContext, syndrome: int) -> None:
    """Enter the guest's synchronous exception vector with ESR_EL1 = ``syndrome``."""
    # AArch64.TakeException
    old, vector = context.pstate, vector_of(context)
    context.esr_el1 = syndrome
    context.spsr_el1 = old
    context.elr_el1 = context.pc
    pan = old & PAN if context.sctlr_el1 & SCTLR_SPAN else PAN
    context.pstate = EL1H_MASKED | old & KEPT | pan
    context.pc = vector


def undefined(context: PeContext) -> None:
    """Make the current instruction UNDEFINED."""
    take_to_el1(context, ESR_EL2.of(EC=ExceptionClass.UNKNOWN, IL=1))


def external_abort(context: PeContext, far: int, *, fetch: bool) -> None:
    """Answer the access at ``far`` with a synchronous external abort."""
    context.far_el1 = far
    lower = ExceptionClass.INSTRUCTION_ABORT_LOWER if fetch else ExceptionClass.DATA_ABORT_LOWER
    same_level = 1 if context.pstate & LEVEL else 0  # added to the class for the same level
    take_to_el1(context, ESR_EL2.of(EC=lower + same_level, IL=1, ISS=FaultStatus.SYNC_EXTERNAL))
