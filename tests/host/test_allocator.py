"""The allocator of physical granules."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.host.allocator import Allocator

GRANULE = 4096
BASE = 0x8000_3000
NUM = 64


def test_allocate_aligns_the_address() -> None:
    """A range has the requested alignment, and the space before it stays free."""
    allocator = Allocator(BASE, NUM * GRANULE)
    assert allocator.allocate(2 * GRANULE, 0x10000) == 0x8001_0000
    assert allocator.allocate() == BASE
    assert allocator.free_size == (NUM - 3) * GRANULE


def test_freed_granules_join_to_a_range_again() -> None:
    """Single granules freed in any order make room for a large range."""
    allocator = Allocator(BASE, NUM * GRANULE)
    granules = [allocator.allocate() for _ in range(NUM)]
    with pytest.raises(MemoryError):
        allocator.allocate()
    for pa in granules[::2] + granules[1::2]:
        allocator.free(pa)
    assert allocator.allocate(NUM * GRANULE) == BASE


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3), st.booleans()), max_size=60))
def test_ranges_never_overlap_and_nothing_is_lost(steps: list[tuple[int, int, bool]]) -> None:
    """Any sequence of allocations and frees keeps every granule in exactly one place."""
    allocator = Allocator(BASE, NUM * GRANULE)
    used: list[tuple[int, int]] = []
    for count, align, is_free in steps:
        if is_free and used:
            allocator.free(*used.pop(count % len(used)))
            continue
        size = count * GRANULE
        try:
            pa = allocator.allocate(size, GRANULE << align)
        except MemoryError:
            continue
        assert pa % (GRANULE << align) == 0
        assert BASE <= pa <= BASE + NUM * GRANULE - size
        assert all(pa + size <= other or other + length <= pa for other, length in used)
        used.append((pa, size))
    assert allocator.free_size == NUM * GRANULE - sum(size for _, size in used)
