"""The random numbers that EL3 gives to software of the normal world.

Spec: Arm DEN0098 (TRNG) 1.0.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final
from uuid import UUID

from monitor.attestation import Answer
from pyvmm.arch.bits import MASK32, MASK64
from pyvmm.arch.psci import PsciReturn
from pyvmm.arch.smccc import NOT_SUPPORTED
from pyvmm.arch.trng import MAX_BITS, VERSION_1_0, TrngFid

#: Identifies the generator: random bytes of the operating system.
SOURCE: Final = UUID("5f6e0ab9-64c4-4f0b-9a70-6f5d1c3f29be")
NUM_WORDS: Final = 3


def services(
    entropy: Callable[[int], bytes],
) -> Mapping[int, Callable[[int, int, Sequence[int]], Answer]]:
    """Return what EL3 serves, by function id; ``entropy`` returns so many random bytes."""
    return {
        TrngFid.TRNG_VERSION: _version,
        TrngFid.TRNG_FEATURES: _features,
        TrngFid.TRNG_GET_UUID: _uuid,
        **dict.fromkeys(MAX_BITS, partial(_random, entropy)),
    }


def _version(_pe: int, _fid: int, _args: Sequence[int]) -> Answer:
    return (VERSION_1_0,)


def _features(_pe: int, _fid: int, args: Sequence[int]) -> Answer:
    wanted = args[1] & MASK32 if len(args) > 1 else 0
    return (0 if wanted in set(TrngFid) else NOT_SUPPORTED,)


def _uuid(_pe: int, _fid: int, _args: Sequence[int]) -> Answer:
    words = memoryview(SOURCE.bytes).cast("I")
    return tuple(words)


def _random(entropy: Callable[[int], bytes], _pe: int, fid: int, args: Sequence[int]) -> Answer:
    """Return x1 bits in x3, x2 and x1, from the lowest on; the rest of them is zero."""
    most = MAX_BITS[TrngFid(fid)]
    bits, mask = args[1] if len(args) > 1 else 0, MASK64
    if fid == TrngFid.TRNG_RND_32:
        bits, mask = bits & MASK32, MASK32
    if not 1 <= bits <= most:
        return (PsciReturn.INVALID_PARAMETERS.x0,)
    value = int.from_bytes(entropy(most // 8), "little") >> most - bits
    width = most // NUM_WORDS
    return (0, *(value >> width * n & mask for n in (2, 1, 0)))
