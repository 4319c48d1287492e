"""SMC Calling Convention: function identifiers and the answers common to all services.

Spec: Arm DEN0028 (SMCCC) 1.2.
"""

from enum import IntEnum
from typing import Final

SVE_HINT: Final = 1 << 16  # "no live SVE state": not part of the function's name
FID_MASK: Final = 0xFFFF_FFFF & ~SVE_HINT  # of x0: the function id is W0
NOT_SUPPORTED: Final = (1 << 64) - 1  # unknown function: x0 = -1
UNKNOWN: Final = (NOT_SUPPORTED,)  # the whole answer to an unknown function

VERSION_1_2: Final = 0x1_0002
NUM_ARGS: Final = 18  # x0 to x17


class SmcccFid(IntEnum):
    """Arm Architecture Service calls."""

    SMCCC_VERSION = 0x8000_0000
    SMCCC_ARCH_FEATURES = 0x8000_0001


def standard_secure_fid(number: int) -> int:
    """Return the fast SMC64 function id of a Standard Secure Service.

    >>> hex(standard_secure_fid(0x150))
    '0xc4000150'
    """
    return 0xC400_0000 | number
