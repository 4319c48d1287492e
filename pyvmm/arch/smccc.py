"""SMC Calling Convention: function identifiers, common results, and register preservation.

Spec: Arm DEN0028 (SMCCC) 1.2.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final

from pyvmm.arch.bits import MASK64

SVE_HINT: Final = 1 << 16  # "no live SVE state": not part of the function id
FID_MASK: Final = 0xFFFF_FFFF & ~SVE_HINT  # of x0: the function id is W0
NOT_SUPPORTED: Final = MASK64  # unknown function: x0 = -1
UNKNOWN: Final = (NOT_SUPPORTED,)  # the results of an unknown function

VERSION_1_2: Final = 0x1_0002
NUM_ARGS: Final = 18  # x0 to x17


#: Results of SMCCC_ARCH_SOC_ID: the part of MIDR_EL1, from no manufacturer; the revision.
SOC_ID: Final = (0x0C0A, 0)


class SmcccFid(IntEnum):
    """Arm Architecture Service calls."""

    SMCCC_VERSION = 0x8000_0000
    SMCCC_ARCH_FEATURES = 0x8000_0001
    SMCCC_ARCH_SOC_ID = 0x8000_0002


#: x0 to x3, which a call does not preserve.
_NOT_KEPT: Final[tuple[int, ...]] = (0, 0, 0, 0)
#: Those of them without a result, by the number of results.
_WITHOUT_RESULT: Final = tuple(_NOT_KEPT[count:] for count in range(NUM_ARGS + 1))


def registers_after(args: Sequence[int], results: tuple[int, ...]) -> tuple[int, ...]:
    """Return x0.. after a call with x0.. = ``args``; higher registers keep their values.

    Registers without a result: x1 to x3 become zero, x4 to x17 keep the caller's values.

    >>> registers_after((0xC400_0150, 1, 2, 3, 4, 5), (0, 7))
    (0, 7, 0, 0, 4, 5)
    """
    changed = results + _WITHOUT_RESULT[len(results)]
    return changed if len(args) <= len(changed) else changed + tuple(args[len(changed) :])


#: Makes one call on a PE with x0..; returns x0...
Call = Callable[[int, Sequence[int]], tuple[int, ...]]
#: Makes several calls at once if all of them succeed: takes PE, x0.. of the first call, the steps
#: and the number of calls; returns how many it made, perhaps none.
CallSeveral = Callable[[int, Sequence[int], Sequence[int], int], int]


def call_series(
    call: Call,
    pe: int,
    args: Sequence[int],
    steps: Sequence[int],
    count: int,
    several: CallSeveral | None = None,
) -> tuple[int, tuple[int, ...]]:
    """Make the same call up to ``count`` times, until one fails (x0 is not zero).

    ``args`` are x0.. of the first call; each later call adds ``steps``.  ``several`` may shorten
    the work, never change what comes of it.
    Returns: the number of calls that succeeded, and the results of the one that failed; zeros if
    none did.
    """
    done = 0
    while done < count:
        now = [arg + step * done for arg, step in zip(args, steps, strict=True)]
        made = several(pe, now, steps, count - done) if several is not None else 0
        if not made:
            results = call(pe, now)
            if results[0]:
                return done, results
            made = 1
        done += made
    return done, _NOT_KEPT


def standard_secure_fid(number: int) -> int:
    """Return the fast SMC64 function id of a Standard Secure Service.

    >>> hex(standard_secure_fid(0x150))
    '0xc4000150'
    """
    return 0xC400_0000 | number
