"""Lesson 4: a chain of virtio descriptors."""

from collections.abc import Callable, Iterator, Sequence
from struct import pack
from types import ModuleType
from typing import Final, cast

from pyvmm.lab.exercise import Case, case, exercise, wanted

_NEXT, _WRITE = 1, 2
_SIZE: Final = 8
_TABLE: Final = 0x4000

TEMPLATE: Final = '''
NEXT, WRITE, INDIRECT = 1, 2, 4


def chain(read, table, size, head):
    """Return the buffers as a list of (address, length, is_writable), or None."""
    return []
'''

Buffer = tuple[int, int, bool]
Chain = Callable[[Callable[[int, int], bytes], int, int, int], "list[Buffer] | None"]
#: addr, len, flags, next
Descriptor = tuple[int, int, int, int]

#: A request to a disk: a header, two pages to fill, a status byte.
_REQUEST: Final = {2: (0x100, 16, _NEXT, 5), 5: (0x2000, 4096, 3, 1), 1: (0x9000, 4096, 3, 0),
                   0: (0x300, 1, _WRITE, 7)}  # fmt: skip
_EVERY: Final = {n: (n << 12, n, _NEXT if n < _SIZE - 1 else 0, n + 1) for n in range(_SIZE)}
_CASES: Final[tuple[tuple[str, dict[int, Descriptor], int], ...]] = (
    ("a read request of a disk", _REQUEST, 2),
    ("one descriptor, whose next is ignored", {3: (0x5000, 12, 0, 3)}, 3),
    ("as many descriptors as the table has", _EVERY, 0),
    ("an address of 64 bits and a length of 32", {0: (1 << 63, 0xFFFF_FFFF, 0, 0)}, 0),
)
_HOSTILE: Final[tuple[tuple[str, dict[int, Descriptor], int], ...]] = (
    ("a chain that points at itself", {0: (0x1000, 1, _NEXT, 0)}, 0),
    ("a loop of two", {0: (0x1000, 1, _NEXT, 1), 1: (0x1000, 1, _NEXT, 0)}, 0),
    ("a head outside the table", {}, _SIZE),
    ("a next outside the table", {0: (0x1000, 1, _NEXT, 0xFFFF)}, 0),
    ("a readable buffer after a writable one", {0: (1, 1, 3, 1), 1: (2, 1, 0, 0)}, 0),
    ("an indirect table, which was not negotiated", {0: (0x1000, 16, 4, 0)}, 0),
)


@exercise(4, TEMPLATE)
def chain(module: ModuleType) -> Iterator[Case]:
    """Follow a chain of descriptors, also one that a hostile guest wrote.

    Define chain(read, table, size, head).  `read(address, length)` returns bytes of the guest's
    memory, `table` is the address of the descriptor table, which has `size` entries, and `head` is
    the index of the first descriptor, from the available ring.  A descriptor has 16 bytes,
    little-endian: the address (8), the length (4), flags (2), and the index of the next descriptor
    (2), which counts only if the flag NEXT is set.

    Return the buffers in order.  Return None for a chain that breaks a rule of the virtio
    specification: an index outside the table, more descriptors than the table has, a readable
    buffer after a writable one, or the flag INDIRECT, which this driver has not negotiated.
    """
    follow = cast("Chain", wanted(module, "chain"))
    for what, descriptors, head in _CASES:
        yield _case(what, list(_buffers(descriptors, head)), follow, descriptors, head)
    for what, descriptors, head in _HOSTILE:
        yield _case(what, None, follow, descriptors, head)


def _case(
    what: str,
    expected: list[Buffer] | None,
    follow: Chain,
    descriptors: dict[int, Descriptor],
    head: int,
) -> Case:
    return case(what, expected, lambda: follow(_memory(descriptors), _TABLE, _SIZE, head))


def _buffers(descriptors: dict[int, Descriptor], index: int) -> Iterator[Buffer]:
    while True:
        addr, length, flags, following = descriptors[index]
        yield addr, length, bool(flags & _WRITE)
        if not flags & _NEXT:
            return
        index = following


def _memory(descriptors: dict[int, Descriptor]) -> Callable[[int, int], bytes]:
    """Return a reader of a table; what lies behind it must not be read."""
    table = b"".join(pack("<QIHH", *_entry(descriptors, n)) for n in range(_SIZE))

    def read(address: int, length: int) -> bytes:
        offset = address - _TABLE
        if not 0 <= offset <= len(table) - length:
            raise ValueError(f"read of {address:#x}, outside the table")
        return table[offset : offset + length]

    return read


def _entry(descriptors: dict[int, Descriptor], n: int) -> Sequence[int]:
    return descriptors.get(n, (0, 0, 0, 0))
