"""The interface of the GIC of a PE with EL2: which interrupts it signals while a realm runs.

DEN0137 A6.1: a realm's run ends for an interrupt only if the host would take it, if PSTATE did not
mask it: neither the priority mask nor the enables of the groups may hold it back.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from pyvmm.arch.gic import (
    ICH_LR_GROUP1,
    ICH_LR_PENDING,
    ICH_LR_PRIORITY_SHIFT,
    ICH_VMCR_EL2,
    PPI_HYP_PHYSICAL_TIMER,
    PPI_HYP_VIRTUAL_TIMER,
    PRIORITY_BITS,
)
from pyvmm.arch.machine import PeContextWithEl2
from pyvmm.arch.timer import CNT_CTL
from pyvmm.host.vgic import Limits

_RUNS: Final = CNT_CTL.ENABLE.mask  # with neither IMASK nor ISTATUS
_CTL: Final = _RUNS | CNT_CTL.IMASK.mask | CNT_CTL.ISTATUS.mask
_IDLE_PRIORITY: Final = 0x100


def limits(context: PeContextWithEl2) -> Limits:
    """Return the priorities, one for each group, from which on the interface signals nothing."""
    vmcr = ICH_VMCR_EL2(context.icc_vmcr)
    active = context.icc_ap0r0 | context.icc_ap1r0
    lowest = (active & -active).bit_length() - 1
    running = lowest << 8 - PRIORITY_BITS if active else _IDLE_PRIORITY
    limit = min(vmcr.VPMR, running)
    return (limit if vmcr.VENG0 else 0, limit if vmcr.VENG1 else 0)


def signals(lrs: Sequence[int], limit: Limits) -> bool:
    """Check whether one of the interrupts that the distributor forwards is signalled."""
    return any(
        (lr >> ICH_LR_PRIORITY_SHIFT & 0xFF) < limit[bool(lr & ICH_LR_GROUP1)]
        for lr in lrs
        if lr & ICH_LR_PENDING
    )


def deadlines(context: PeContextWithEl2) -> Iterator[tuple[int, int]]:
    """Yield the count at which the output of each timer of EL2 will rise, and its PPI.

    The timers of EL1 are the realm's while it runs.
    """
    if context.cnthp_ctl & _CTL == _RUNS:
        yield context.cnthp_cval, PPI_HYP_PHYSICAL_TIMER
    if context.cnthv_ctl & _CTL == _RUNS:
        yield context.cnthv_cval, PPI_HYP_VIRTUAL_TIMER
