"""The part of a realm's GIC that the host controls: list registers and ICH_HCR_EL2.

Spec: DEN0137 1.0, "Realm interrupts"; Arm IHI 0069 (GICv3).
"""

from functools import lru_cache
from struct import Struct
from typing import Final

from pyvmm.arch import gic
from pyvmm.arch.rmi import RmiStatus
from rmm.errors import RmiError
from rmm.rec import Rec

_UIE_TO_VGRP1DIE: Final = 0x7F << 1  # UIE, LRENPIE, NPIE, VGrp{0,1}{E,D}IE
_TDIR: Final = 1 << 14
HCR_OF_HOST: Final = _UIE_TO_VGRP1DIE | _TDIR

_STATE: Final = gic.ICH_LR_PENDING | gic.ICH_LR_ACTIVE
_PINTID: Final = 0x1FFF << 32  # with HW = 0, only its EOI bit is used
_PRIORITY_RES0: Final = (~gic.PRIORITY_MASK & 0xFF) << gic.ICH_LR_PRIORITY_SHIFT
_NOT_OF_HOST: Final = gic.ICH_LR_HW | _PINTID & ~gic.ICH_LR_EOI | _PRIORITY_RES0
_LPI_INTIDS: Final = range(8192, 1 << 16)


#: List registers as they are in a run granule; usually none is in use.
_LRS: Final = Struct(f"<{gic.NUM_LRS}Q")
NO_LRS: Final = bytes(_LRS.size)


def unpack_lrs(lrs: bytes) -> tuple[int, ...]:
    """Return the list registers of a run granule or of a machine."""
    return _LRS.unpack(lrs)


def check(hcr: int, lrs: bytes) -> None:
    """Check the host's settings of the virtual CPU interface; RmiError(ERROR_REC) if illegal."""
    if hcr & ~HCR_OF_HOST or (lrs != NO_LRS and not _are_legal(lrs)):
        raise RmiError(RmiStatus.ERROR_REC)


@lru_cache(maxsize=64)  # a pending interrupt stays listed for many entries
def _are_legal(lrs: bytes) -> bool:
    seen = []
    for lr in _LRS.unpack(lrs):
        if not lr & _STATE:
            continue
        intid = lr & gic.ICH_LR_INTID_MASK
        is_known = intid <= gic.MAX_SPI_INTID or intid in _LPI_INTIDS
        if lr & _NOT_OF_HOST or not is_known or intid in seen:
            return False
        seen.append(intid)
    return True


def load(rec: Rec, hcr: int, lrs: bytes) -> None:
    """Load the host's list registers into a REC; a realm changes none that are zero."""
    rec.context.ich_hcr = hcr | gic.ICH_HCR_EN
    is_any = lrs != NO_LRS
    if is_any or rec.has_lrs:
        ich_lr = rec.context.ich_lr
        for index, lr in enumerate(_LRS.unpack(lrs)):
            ich_lr[index] = lr
        rec.has_lrs = is_any
