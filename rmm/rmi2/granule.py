"""RMI_GRANULE_* and RMI_GPT_*: ranges of memory, how it is tracked, and the GPT.

All DRAM is tracked as single granules from the start, and EL3 manages the GPT of all of it.
"""

from typing import Final

from pyvmm.arch.pas import GRANULE_OFFSET, GRANULE_SIZE
from pyvmm.arch.rmi import RmiStatus
from pyvmm.arch.rmi2 import L0GPT_SHIFT, GptPar, MemoryCategory, Rmi2Fid, Tracking
from rmm.commands import rmi_command
from rmm.errors import RmiError
from rmm.granule import DELEGATED, UNDELEGATED, GranuleState
from rmm.rmi.granule import move_several
from rmm.rmm import Rmm

#: Granules that one command moves, so that other PEs do not wait long.
MAX_GRANULES: Final = 8192
_TRACKING_SHIFTS: Final = (30, 21)  # of a region, by RmiRmmConfig.tracking_region_size
_L0_OFFSET: Final = (1 << L0GPT_SHIFT) - 1
_STATES: Final = (Tracking.NONE, Tracking.FINE, Tracking.COARSE)


@rmi_command(Rmi2Fid.RMI_GRANULE_RANGE_DELEGATE)
def granule_range_delegate(rmm: Rmm, pe: int, base: int, top: int) -> tuple[int, ...]:
    """Move granules from the Non-secure to the Realm PAS; skip those that are DELEGATED already.

    Output: where it stopped: ``top``, a granule that cannot be moved, or after many.
    Spec: DEN0137 2.0, RMI_GRANULE_RANGE_DELEGATE.
    Raises: RmiError(ERROR_INPUT) if the range is empty or unaligned; (ERROR_TRACKING) if the first
    granule is not DRAM; (BLOCKED) if an operation has it; (ERROR_INPUT) if it is in another use or
    EL3 refuses.
    """
    return _move(rmm, pe, base, top, UNDELEGATED, DELEGATED)


@rmi_command(Rmi2Fid.RMI_GRANULE_RANGE_UNDELEGATE)
def granule_range_undelegate(rmm: Rmm, pe: int, base: int, top: int) -> tuple[int, ...]:
    """Return granules to the host; skip those that it has already.

    Output: where it stopped: ``top``, a granule that cannot be moved, or after many.
    Spec: DEN0137 2.0, RMI_GRANULE_RANGE_UNDELEGATE.
    Raises: RmiError(ERROR_INPUT) if the range is empty or unaligned; (ERROR_TRACKING) if the first
    granule is not DRAM; (BLOCKED) if an operation has it; (ERROR_INPUT) if it is in another use or
    EL3 refuses.
    """
    return _move(rmm, pe, base, top, DELEGATED, UNDELEGATED)


def _move(rmm: Rmm, pe: int, base: int, top: int, source: int, target: int) -> tuple[int, ...]:
    if base >= top or (base | top) & GRANULE_OFFSET:
        raise RmiError(RmiStatus.ERROR_INPUT)
    granules, pa = rmm.granules, base
    end = min(top, base + MAX_GRANULES * GRANULE_SIZE)
    while pa < end:
        left = (end - pa) // GRANULE_SIZE
        skipped = granules.count(pa, target, left)
        wanted = granules.count(pa, source, left) if not skipped else 0
        moved = move_several(rmm, pe, pa, wanted, target) if wanted else 0
        if not skipped and not moved:
            break
        pa += (skipped + moved) * GRANULE_SIZE
    if pa == base:
        check_tracked(rmm, base)
        if base in rmm.operations:
            raise RmiError(RmiStatus.BLOCKED)
        raise RmiError(RmiStatus.ERROR_INPUT)
    return (pa,)


def check_tracked(rmm: Rmm, pa: int) -> None:
    """Check that an address is in DRAM; otherwise RmiError(ERROR_TRACKING)."""
    if rmm.granules.state(pa) is GranuleState.NOT_DRAM:
        raise RmiError(RmiStatus.ERROR_TRACKING)


@rmi_command(Rmi2Fid.RMI_GRANULE_TRACKING_GET)
def granule_tracking_get(rmm: Rmm, base: int, top: int) -> tuple[int, ...]:
    """Return how memory is tracked: DRAM as single granules, the rest not at all.

    Outputs: RmiMemCategory, RmiTrackingState, the end of the range that has both.
    Spec: DEN0137 2.0, RMI_GRANULE_TRACKING_GET.
    Raises: RmiError(ERROR_INPUT) if the range is empty, unaligned or not in the PA space.
    """
    if base >= top or (base | top) & GRANULE_OFFSET or (top - 1) >> rmm.limits.s2sz:
        raise RmiError(RmiStatus.ERROR_INPUT)
    is_dram, end = rmm.granules.stretch(base, top)
    if is_dram:
        return MemoryCategory.CONVENTIONAL, Tracking.FINE, end
    return MemoryCategory.NONE, Tracking.NONE, end


@rmi_command(Rmi2Fid.RMI_GRANULE_TRACKING_SET)
def granule_tracking_set(rmm: Rmm, addr: int, category: int, state: int) -> None:
    """Track a region; all DRAM is tracked as single granules, and stays so.

    Spec: DEN0137 2.0, RMI_GRANULE_TRACKING_SET.
    Raises: RmiError(ERROR_INPUT) if ``addr`` is not a region's, or anything else is asked.
    """
    shift = _TRACKING_SHIFTS[rmm.tracking_size]
    if (
        addr & (1 << shift) - 1
        or category != MemoryCategory.CONVENTIONAL
        or state != Tracking.FINE
        or not rmm.granules.has_dram(addr, addr + (1 << shift))
    ):
        raise RmiError(RmiStatus.ERROR_INPUT)


@rmi_command(Rmi2Fid.RMI_GPT_L1_CREATE)
def gpt_l1_create(rmm: Rmm, addr: int) -> None:
    """Fail: EL3 manages the GPT.

    Spec: DEN0137 2.0, RMI_GPT_L1_CREATE.
    Raises: RmiError(ERROR_INPUT) if ``addr`` is not that of an L0 entry; (ERROR_GLOBAL) otherwise.
    """
    _refuse_l1(rmm, addr)


@rmi_command(Rmi2Fid.RMI_GPT_L1_DESTROY)
def gpt_l1_destroy(rmm: Rmm, addr: int) -> None:
    """Fail: EL3 manages the GPT.

    Spec: DEN0137 2.0, RMI_GPT_L1_DESTROY.
    Raises: RmiError(ERROR_INPUT) if ``addr`` is not that of an L0 entry; (ERROR_GLOBAL) otherwise.
    """
    _refuse_l1(rmm, addr)


def _refuse_l1(rmm: Rmm, addr: int) -> None:
    is_entry = not addr & _L0_OFFSET and not addr >> rmm.limits.s2sz
    raise RmiError(RmiStatus.ERROR_GLOBAL if is_entry else RmiStatus.ERROR_INPUT)


@rmi_command(Rmi2Fid.RMI_GPT_INFO)
def gpt_info(rmm: Rmm, base: int, top: int) -> tuple[int, ...]:
    """Return who manages a part of the GPT: the platform that of DRAM.

    Outputs: the end of the part, RmiGptParState.
    Spec: DEN0137 2.0, RMI_GPT_INFO.
    Raises: RmiError(ERROR_INPUT) if the range is empty, not of whole L0 entries, or not in the PA
    space.
    """
    if base >= top or (base | top) & _L0_OFFSET or (top - 1) >> rmm.limits.s2sz:
        raise RmiError(RmiStatus.ERROR_INPUT)
    is_dram = rmm.granules.has_dram(base, base + _L0_OFFSET + 1)
    return base + _L0_OFFSET + 1, GptPar.PLATFORM if is_dram else GptPar.RESERVED
