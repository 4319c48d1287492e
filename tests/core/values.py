"""Operand values for the differential tests: mostly the ones at which arithmetic changes its mind.

``register_files(rng, count)`` gives whole register files in the layout that ``program.py`` runs.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

NUM_X = 31
NUM_V = 32

#: Offsets in a register file record, bytes.
X_OFFSET = 0
SP_OFFSET = 248
V_OFFSET = 256
NZCV_OFFSET = 768
FPCR_OFFSET = 776
FPSR_OFFSET = 784
SLOT_OFFSET = 792
RECORD_SIZE = 800

#: FPCR fields that exist without half-precision arithmetic: AHP, DN, FZ, RMode.
FPCR_MASK = 0x07C0_0000
#: FPSR fields: QC and the cumulative IDC, IXC, UFC, OFC, DZC, IOC.
FPSR_MASK = 0x0800_009F

F64_EDGES = (
    0.0, 1.0, 2.0, 0.5, 1.5, 2.5, 3.0, 1e-300, 1e300, 0.1, 1 / 3,
    127.5, 128.0, 255.5, 32767.5, 65535.5, 65519.99, 65520.0,
    2.0**-14, 2.0**-24, 2.0**-25, 2.0**-26,
    2.0**31, 2.0**31 - 0.5, 2.0**31 - 1, 2.0**32, 2.0**32 - 0.5, 2.0**32 - 1,
    2.0**52 + 0.5, 2.0**52 - 0.5, 2.0**53, 2.0**63, 2.0**63 - 1024, 2.0**64, 2.0**64 - 2048,
    3.4028234663852886e38, 3.4028235677973366e38, 1.1754943508222875e-38, 1.4e-45, 7e-46,
)  # fmt: skip
#: Encodings with no decimal form that says what they are: infinity, quiet and signalling NaNs,
#: least and greatest denormal, least and greatest normal number.
F64_BITS = (
    0x7FF0 << 48, 0x7FF8 << 48, 0x7FF8_0000_DEAD_BEEF, 0x7FF0_0000_0000_0001, 0x7FF4_1234_5678_9ABC,
    0x1, 0x000F_FFFF_FFFF_FFFF, 0x0010_0000_0000_0000, 0x7FEF_FFFF_FFFF_FFFF, 0x3FF0_0000_0000_0001,
    0x3FEF_FFFF_FFFF_FFFF, 0x0010_0000_0000_0001, 0x0008_0000_0000_0000,
)  # fmt: skip
F32_BITS = (
    0x7F80_0000, 0x7FC0_0000, 0x7FC0_BEEF, 0x7F80_0001, 0x7FA1_2345, 0x1, 0x007F_FFFF, 0x0080_0000,
    0x7F7F_FFFF, 0x3F80_0001, 0x3F7F_FFFF, 0x0040_0000, 0x0080_0001, 0x3380_0000, 0x3880_0000,
)  # fmt: skip
F16_BITS = (
    0x7C00, 0x7E00, 0x7E5A, 0x7C01, 0x7D55, 0x1, 0x03FF, 0x0400, 0x7BFF, 0x3C01, 0x3BFF, 0x0200,
    0x0, 0x3C00, 0x3800, 0x4000, 0x4200, 0x5BF8, 0x5C00, 0x7800,
)  # fmt: skip


def int_edges(width: int) -> list[int]:
    """Return the edge values of an integer of ``width`` bits, unsigned."""
    half, full = 1 << (width - 1), 1 << width
    small = [0, 1, 2, 3, width - 1, width, half - 1, half, half + 1, full - 2, full - 1]
    alternating = [0x5555_5555_5555_5555 % full, 0xAAAA_AAAA_AAAA_AAAA % full]
    return sorted({value % full for value in [*small, *alternating]})


def random_int(rng: random.Random, width: int) -> int:
    """Return a random integer of ``width`` bits: an edge, a run of ones, or anything."""
    match rng.randrange(4):
        case 0:
            return rng.choice(int_edges(width))
        case 1:
            run = (1 << rng.randint(1, width)) - 1
            return (run << rng.randrange(width)) & ((1 << width) - 1)
        case 2:
            return rng.getrandbits(rng.randint(1, width))
        case _:
            return rng.getrandbits(width)


def random_f64(rng: random.Random) -> int:
    """Return the encoding of a random double: special, edge, ordinary or anything."""
    return _random_float(rng, 64, F64_BITS, F64_EDGES, double_bits)


def random_f32(rng: random.Random) -> int:
    """Return the encoding of a random single: special, edge, ordinary or anything."""
    edges = [value for value in F64_EDGES if value < 2.0**127]
    return _random_float(rng, 32, F32_BITS, edges, single_bits)


def _random_float(
    rng: random.Random,
    width: int,
    special: Sequence[int],
    edges: Sequence[float],
    encode: Callable[[float], int],
) -> int:
    sign = rng.getrandbits(1) << width - 1
    match rng.randrange(4):
        case 0:
            return rng.choice(special) | sign
        case 1:
            return encode(rng.choice(edges)) | sign
        case 2:
            return encode(rng.gauss(0.0, 1.0) * 2.0 ** rng.choice((0, 0, 0, 4, 16, 31, 63)))
        case _:
            return rng.getrandbits(width)


def random_f16(rng: random.Random) -> int:
    """Return the encoding of a random half."""
    if rng.randrange(2):
        return rng.choice(F16_BITS) | rng.getrandbits(1) << 15
    return rng.getrandbits(16)


def double_bits(value: float) -> int:
    """Return the encoding of a double."""
    return int.from_bytes(struct.pack("<d", value), "little")


def single_bits(value: float) -> int:
    """Return the encoding of a double rounded to single."""
    return int.from_bytes(struct.pack("<f", value), "little")


def lanes(rng: random.Random, width: int, lane: Callable[[random.Random], int]) -> int:
    """Return 64 bits of lanes of ``width`` bits, each drawn on its own."""
    return sum(lane(rng) << shift for shift in range(0, 64, width))


def random_half_vector(rng: random.Random) -> int:
    """Return half a vector register: lanes of integers or floats of one width."""
    match rng.randrange(8):
        case 0 | 1:
            return random_f64(rng)
        case 2 | 3:
            return lanes(rng, 32, random_f32)
        case 4:
            return lanes(rng, 16, random_f16)
        case _:
            width = rng.choice((8, 16, 32, 64))
            return lanes(rng, width, lambda r: random_int(r, width))


def random_x(rng: random.Random) -> int:
    """Return a general register: a 64-bit value, or a 32-bit one under random high bits."""
    if rng.randrange(2):
        return random_int(rng, 64)
    return random_int(rng, 32) | rng.choice((0, 0xFFFF_FFFF, rng.getrandbits(32))) << 32


def pool(rng: random.Random, draw: Callable[[random.Random], int], size: int) -> list[bytes]:
    """Return ``size`` values of ``draw``, each 8 bytes."""
    return [draw(rng).to_bytes(8, "little") for _ in range(size)]


def register_files(rng: random.Random, count: int) -> bytearray:
    """Return ``count`` register files, RECORD_SIZE bytes each, with empty slot addresses."""
    general = pool(rng, random_x, 1024)
    vector = pool(rng, random_half_vector, 4096)
    nzcv = [(flags << 28).to_bytes(8, "little") for flags in range(16)]
    plain = [bytes(8)] * 64
    fpcr = plain + pool(rng, lambda r: r.getrandbits(32) & FPCR_MASK, 64)
    fpsr = plain + pool(rng, lambda r: r.getrandbits(32) & FPSR_MASK, 32)

    def pick(values: Sequence[bytes], number: int = 1) -> bytes:
        return b"".join(rng.choices(values, k=number))

    records = bytearray()
    for _ in range(count):
        records += pick(general, NUM_X + 1) + pick(vector, 2 * NUM_V)
        records += pick(nzcv) + pick(fpcr) + pick(fpsr) + bytes(8)
    return records
