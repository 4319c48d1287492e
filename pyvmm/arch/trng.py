"""True Random Number Generator Firmware Interface: function ids and results.

Spec: Arm DEN0098 (TRNG) 1.0.
"""

from enum import IntEnum
from typing import Final

VERSION_1_0: Final = 0x1_0000


class TrngFid(IntEnum):
    """TRNG function ids; the generator has both widths."""

    TRNG_VERSION = 0x8400_0050
    TRNG_FEATURES = 0x8400_0051
    TRNG_GET_UUID = 0x8400_0052
    TRNG_RND_32 = 0x8400_0053
    TRNG_RND_64 = 0xC400_0053


#: The number of bits that one call returns at most, in three registers.
MAX_BITS: Final = {TrngFid.TRNG_RND_32: 96, TrngFid.TRNG_RND_64: 192}
