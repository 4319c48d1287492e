"""A solution of exercise chain."""

from collections.abc import Callable
from struct import unpack

NEXT, WRITE, INDIRECT = 1, 2, 4


def chain(
    read: Callable[[int, int], bytes], table: int, size: int, head: int
) -> list[tuple[int, int, bool]] | None:
    """Follow it."""
    buffers: list[tuple[int, int, bool]] = []
    index = head
    while True:
        if index >= size or len(buffers) == size:
            return None
        address, length, flags, following = unpack("<QIHH", read(table + 16 * index, 16))
        is_writable = bool(flags & WRITE)
        if flags & INDIRECT or (buffers and buffers[-1][2] and not is_writable):
            return None
        buffers.append((address, length, is_writable))
        if not flags & NEXT:
            return buffers
        index = following
