"""What an access would do, as the machine's own walker decides it."""

from typing import Final, Protocol

from pyvmm.arch.el1 import TCR_EL1
from pyvmm.arch.esr import ESR_ABORT, ExceptionClass, FaultStatus, describe_fault
from pyvmm.arch.machine import Pe, PeContext
from pyvmm.arch.pictures import AccessResult, Step
from pyvmm.arch.pstate import SPSR_EL1
from pyvmm.arch.stage1 import S1_DESCRIPTOR

_ACCESSES: Final = ("read", "write", "fetch")
_WRITE, _FETCH = 1, 2
_FLAG_UPDATES: Final = TCR_EL1.HA.mask | TCR_EL1.HD.mask
_NO_STATUS: Final = 0x40  # what the core returns for an address size fault at level 0


class Machine(Protocol):
    """The part of the machine that the observer uses to ask what would happen."""

    def copy_context(self, context: PeContext, /) -> PeContext:
        """Return a copy of a context."""

    def pe(self, index: int, /) -> Pe:
        """Return a PE."""


def try_accesses(
    machine: Machine, pe: int, context: PeContext, va: int, el: int, steps: list[Step]
) -> list[AccessResult]:
    """Return what each kind of access to ``va`` at an exception level would do; none is made.

    ``steps`` are those of the walk.  The walker runs on a copy of the context that updates no
    access flag and no dirty state, so that it changes no table of the guest.
    """
    copy = machine.copy_context(context)
    copy.pstate = copy.pstate & ~SPSR_EL1.EL.mask | SPSR_EL1.EL.encode(el)
    tcr = copy.tcr_el1
    copy.tcr_el1 = tcr & ~_FLAG_UPDATES
    results = []
    for access, name in enumerate(_ACCESSES):
        status, _, _, is_el2 = machine.pe(pe).translate(copy, va, access)
        if not status or _is_updated(status, access, tcr, steps):
            results.append(AccessResult(name, is_allowed=True))
            continue
        esr = _syndrome(status % _NO_STATUS, access, is_lower=is_el2 or el == 0)
        level = "EL2" if is_el2 else "EL1"
        fault = describe_fault(status % _NO_STATUS)
        results.append(AccessResult(name, False, fault, level, hex(esr)))
    return results


def _is_updated(status: int, access: int, tcr: int, steps: list[Step]) -> bool:
    """Check whether the hardware would update the descriptor instead of taking the fault."""
    kind = status & ~3
    if kind == FaultStatus.ACCESS_FLAG:
        return bool(tcr & TCR_EL1.HA.mask)
    if kind != FaultStatus.PERMISSION or access != _WRITE or not tcr & TCR_EL1.HD.mask:
        return False
    leaves = [step for step in steps if step.stage == 1 and step.kind in {"block", "page"}]
    return bool(leaves) and bool(int(leaves[0].descriptor, 16) & S1_DESCRIPTOR.DBM.mask)


def _syndrome(status: int, access: int, *, is_lower: bool) -> int:
    if access == _FETCH:
        lower = ExceptionClass.INSTRUCTION_ABORT_LOWER
    else:
        lower = ExceptionClass.DATA_ABORT_LOWER
    return ESR_ABORT.of(EC=lower + (not is_lower), IL=1, WnR=access == _WRITE, FSC=status)
