"""Reads screenshots: PNG files of 8 bits per channel, without interlacing."""

import struct
import zlib
from collections import Counter
from dataclasses import dataclass

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Picture:
    """Rows of RGB pixels."""

    width: int
    height: int
    rows: list[bytes]

    def pixel(self, x: int, y: int) -> Colour:
        """Return a pixel."""
        red, green, blue = self.rows[y][3 * x : 3 * x + 3]
        return red, green, blue

    def colours(self) -> Counter[Colour]:
        """Return how often each colour occurs."""
        counts = Counter[Colour]()
        for row in self.rows:
            counts.update(zip(row[::3], row[1::3], row[2::3], strict=True))
        return counts


def parse(data: bytes) -> Picture:
    """Return the picture in a file."""
    width, height, depth, kind = struct.unpack_from(">IIBB", data, 16)
    assert (depth, kind) in {(8, 2), (8, 6)}
    size = 3 if kind == 2 else 4
    raw = zlib.decompress(b"".join(part for name, part in _chunks(data) if name == b"IDAT"))
    rows, before = list[bytes](), bytes(width * size)
    for start in range(0, len(raw), width * size + 1):
        before = _unfilter(raw[start], raw[start + 1 : start + 1 + width * size], before, size)
        rows.append(bytes(each for n, each in enumerate(before) if n % size < 3))
    return Picture(width, height, rows)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = list[tuple[bytes, bytes]](), 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += size + 12
    return found


def _unfilter(kind: int, line: bytes, above: bytes, size: int) -> bytes:
    row = bytearray(line)
    for n, value in enumerate(line):
        left = row[n - size] if n >= size else 0
        corner = above[n - size] if n >= size else 0
        row[n] = value + _predict(kind, left, above[n], corner) & 0xFF
    return bytes(row)


def _predict(kind: int, left: int, above: int, corner: int) -> int:
    match kind:
        case 0:
            return 0
        case 1:
            return left
        case 2:
            return above
        case 3:
            return (left + above) // 2
        case _:
            guess = left + above - corner
            return min((left, above, corner), key=lambda each: abs(guess - each))
