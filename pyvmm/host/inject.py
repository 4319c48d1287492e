"""Exceptions that the host makes a guest take at EL1."""

from typing import Final

from pyvmm.arch.esr import ESR_EL2, ExceptionClass, FaultStatus
from pyvmm.arch.machine import PeContext
from pyvmm.arch.pstate import SPSR_EL1
from pyvmm.arch.take_exception import take_exception

LEVEL: Final = SPSR_EL1.EL.mask
SS: Final = SPSR_EL1.SS.mask


def skip(context: PeContext) -> None:
    """Continue after the current instruction, which is complete; so is a software step of it."""
    context.pc += 4
    context.pstate &= ~SS


def undefined(context: PeContext) -> None:
    """Make the current instruction UNDEFINED."""
    take_exception(context, context.pc, ESR_EL2.of(EC=ExceptionClass.UNKNOWN, IL=1))


def external_abort(context: PeContext, far: int, *, fetch: bool) -> None:
    """Answer the access at ``far`` with a synchronous external abort."""
    context.far_el1 = far
    lower = ExceptionClass.INSTRUCTION_ABORT_LOWER if fetch else ExceptionClass.DATA_ABORT_LOWER
    same_level = 1 if context.pstate & LEVEL else 0  # added to the class for the same level
    esr = ESR_EL2.of(EC=lower + same_level, IL=1, ISS=FaultStatus.SYNC_EXTERNAL)
    take_exception(context, context.pc, esr)
