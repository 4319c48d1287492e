"""A solution of exercise protection."""

from collections.abc import Callable

ADDRESS = (1 << 48) - (1 << 12)
BLOCK = 1


def gpi(read: Callable[[int], int], table: int, pa: int) -> int:
    """Look it up."""
    entry = read(table + 8 * (pa >> 30))
    if entry & 0xF == BLOCK:
        return entry >> 4 & 0xF
    entry = read((entry & ADDRESS) + 8 * (pa >> 16 & 0x3FFF))
    if entry & 0xF == BLOCK:
        return entry >> 4 & 0xF
    return entry >> 4 * (pa >> 12 & 0xF) & 0xF
