"""A solution of exercise stage2."""

from collections.abc import Callable

ADDRESS = (1 << 48) - (1 << 12)
ACCESS_FLAG = 1 << 10


def translate(read: Callable[[int], int], table: int, ipa: int) -> int | None:
    """Walk from level 1 to a block or page."""
    for level in (1, 2, 3):
        shift = 39 - 9 * level
        entry = read(table + 8 * (ipa >> shift & 511))
        kind = entry & 0b11
        if kind == 0b11 and level < 3:
            table = entry & ADDRESS
            continue
        if kind != (0b11 if level == 3 else 0b01) or not entry & ACCESS_FLAG:
            return None
        size = 1 << shift
        return entry & ADDRESS & -size | ipa & size - 1
    return None
