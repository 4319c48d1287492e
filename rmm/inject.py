"""Exceptions that the RMM injects into a realm's EL1."""

from typing import Final

from pyvmm.arch.esr import EC_SHIFT, ESR_ABORT, IL, ExceptionClass, FaultStatus
from pyvmm.arch.machine import PeContext
from pyvmm.arch.pstate import SPSR_EL1
from pyvmm.arch.take_exception import take_exception

_LEVEL: Final = SPSR_EL1.EL.mask

_SEA: Final = ESR_ABORT.EA.mask | FaultStatus.SYNC_EXTERNAL
_ABORT_KEPT: Final = ESR_ABORT.IL.mask | ESR_ABORT.CM.mask | ESR_ABORT.WnR.mask


def inject_undefined(context: PeContext, pc: int) -> None:
    """Report the instruction at ``pc`` as undefined."""
    take_exception(context, pc, ExceptionClass.UNKNOWN << EC_SHIFT | IL)


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
    take_exception(context, context.pc, ec << EC_SHIFT | esr & _ABORT_KEPT | fault)
