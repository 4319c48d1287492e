"""The random numbers of the Monitor."""

import pytest

from monitor import trng
from pyvmm.arch.psci import PsciReturn
from pyvmm.arch.smccc import NOT_SUPPORTED
from pyvmm.arch.trng import TrngFid


def call(fid: int, *args: int) -> tuple[int, ...]:
    """Return x0.. with a source of ones."""
    return trng.services(lambda size: b"\xff" * size)[fid](0, fid, (fid, *args))


def test_it_describes_itself() -> None:
    """Version 1.0; each function; a UUID, whose first word is not an error."""
    assert call(TrngFid.TRNG_VERSION) == (0x1_0000,)
    for fid in TrngFid:
        assert call(TrngFid.TRNG_FEATURES, fid) == (0,)
    assert call(TrngFid.TRNG_FEATURES, 0x8400_0054) == (NOT_SUPPORTED,)
    words = call(TrngFid.TRNG_GET_UUID)
    assert b"".join(word.to_bytes(4, "little") for word in words) == trng.SOURCE.bytes
    assert words[0] != 0xFFFF_FFFF


@pytest.mark.parametrize(
    ("fid", "bits", "words"),
    [
        (TrngFid.TRNG_RND_64, 1, (0, 0, 1)),
        (TrngFid.TRNG_RND_64, 64, (0, 0, (1 << 64) - 1)),
        (TrngFid.TRNG_RND_64, 129, (1, (1 << 64) - 1, (1 << 64) - 1)),
        (TrngFid.TRNG_RND_64, 192, ((1 << 64) - 1,) * 3),
        (TrngFid.TRNG_RND_32, 33, (0, 1, 0xFFFF_FFFF)),
        (TrngFid.TRNG_RND_32, 96, (0xFFFF_FFFF,) * 3),
        (TrngFid.TRNG_RND_32, 96 | 1 << 32, (0xFFFF_FFFF,) * 3),
    ],
)
def test_it_returns_exactly_so_many_bits(fid: int, bits: int, words: tuple[int, ...]) -> None:
    """In x3, then x2, then x1; the 32-bit call has a 32-bit argument."""
    assert call(fid, bits) == (0, *words)


@pytest.mark.parametrize(
    ("fid", "bits"),
    [(TrngFid.TRNG_RND_64, 0), (TrngFid.TRNG_RND_64, 193), (TrngFid.TRNG_RND_32, 97)],
)
def test_it_refuses_other_numbers(fid: int, bits: int) -> None:
    """None, or more than fit."""
    assert call(fid, bits) == (PsciReturn.INVALID_PARAMETERS.x0,)
