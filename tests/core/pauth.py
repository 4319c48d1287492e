"""Pointer authentication in Python, from the manual: what the core's answers are checked by.

Spec: DDI 0487, AddPAC, Auth, Strip, CalculateBottomPACBit, EffectiveTBI, with FEAT_PAuth2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

MASK64 = (1 << 64) - 1
#: A code of 64 bits of a value and a modifier.
Algorithm = Callable[[int, int], int]


def siphash(key: bytes, data: bytes, *, c_rounds: int, d_rounds: int) -> int:
    """Return SipHash-c-d of ``data``, as its authors' paper describes it."""
    k0, k1 = struct.unpack("<2Q", key)
    v0, v1, v2, v3 = (
        k ^ int.from_bytes(text, "big")
        for k, text in ((k0, b"somepseu"), (k1, b"dorandom"), (k0, b"lygenera"), (k1, b"tedbytes"))
    )

    def rounds(count: int) -> None:
        nonlocal v0, v1, v2, v3
        for _ in range(count):
            v0, v2 = v0 + v1 & MASK64, v2 + v3 & MASK64
            v1, v3 = rotate(v1, 13) ^ v0, rotate(v3, 16) ^ v2
            v0 = rotate(v0, 32)
            v2, v0 = v2 + v1 & MASK64, v0 + v3 & MASK64
            v1, v3 = rotate(v1, 17) ^ v2, rotate(v3, 21) ^ v0
            v2 = rotate(v2, 32)

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for (block,) in struct.iter_unpack("<Q", padded):
        v3 ^= int(block)
        rounds(c_rounds)
        v0 ^= int(block)
    v2 ^= 0xFF
    rounds(d_rounds)
    return int(v0 ^ v1 ^ v2 ^ v3)


def rotate(value: int, count: int) -> int:
    """Rotate 64 bits to the left."""
    return (value << count | value >> 64 - count) & MASK64


def algorithm(low: int, high: int) -> Algorithm:
    """Return the core's algorithm with the key of these two registers: SipHash-1-3."""
    key = struct.pack("<2Q", low, high)
    return lambda value, modifier: siphash(
        key, struct.pack("<2Q", value, modifier), c_rounds=1, d_rounds=3
    )


@dataclass(frozen=True)
class Regime:
    """What TCR_EL1 says of pointers, the low half first."""

    size_offset: tuple[int, int]  # T0SZ, T1SZ
    tbi: tuple[int, int]
    tbid: tuple[int, int]

    @property
    def tcr(self) -> int:
        """The bits of TCR_EL1."""
        (t0sz, t1sz), (tbi0, tbi1), (tbid0, tbid1) = self.size_offset, self.tbi, self.tbid
        return t0sz | t1sz << 16 | tbi0 << 37 | tbi1 << 38 | tbid0 << 51 | tbid1 << 52

    def ignores_top_byte(self, half: int, *, data: bool) -> bool:
        """Tell whether bits 63:56 of a pointer are a tag."""
        return bool(self.tbi[half] and (data or not self.tbid[half]))

    def code_bits(self, pointer: int, half: int, *, data: bool) -> int:
        """Return the bits of a pointer that hold its code, bit 55 aside."""
        bottom = 64 - min(max(self.size_offset[half], 16), 39)
        bits = (1 << 55) - (1 << bottom)
        tagged = self.ignores_top_byte(pointer >> 55 & 1, data=data)
        return bits if tagged else bits | 0xFF << 56

    def plain(self, pointer: int, half: int, *, data: bool) -> int:
        """Return a pointer whose extension bits are what its half says."""
        bits = self.code_bits(pointer, half, data=data) | 1 << 55
        return pointer | bits if half else pointer & ~bits

    def add(self, pointer: int, modifier: int, compute: Algorithm, *, data: bool) -> int:
        """Return the pointer with its code."""
        tags = any(self.ignores_top_byte(half, data=data) for half in (0, 1))
        half = pointer >> (55 if tags else 63) & 1
        code = compute(self.plain(pointer, half, data=data), modifier)
        signed = pointer ^ code & self.code_bits(pointer, half, data=data)
        return signed & ~(1 << 55) | half << 55

    def strip(self, pointer: int, *, data: bool) -> int:
        """Return the pointer without a code."""
        return self.plain(pointer, pointer >> 55 & 1, data=data)

    def is_good(self, pointer: int, modifier: int, compute: Algorithm, *, data: bool) -> bool:
        """Tell whether the code of a pointer is right."""
        half, plain = pointer >> 55 & 1, self.strip(pointer, data=data)
        return pointer ^ plain == compute(plain, modifier) & self.code_bits(
            pointer, half, data=data
        )
