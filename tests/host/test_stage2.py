"""Stage-2 tables of a normal VM, walked as by the architecture."""

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.host.allocator import Allocator
from pyvmm.host.stage2 import Stage2
from tests.host.fakes import DRAM_BASE, SparseMemory

GRANULE = 4096
MB = 1 << 20
GB = 1 << 30
TABLES = 64 << 10


def walk(memory: SparseMemory, vttbr: int, ipa: int) -> tuple[int, int] | None:
    """Return (pa, level of the leaf), or None for a translation fault."""
    table = vttbr & 0xFFFF_FFFF_F000
    for level in (1, 2, 3):
        shift = 12 + 9 * (3 - level)
        entry = memory.read_u64(table + 8 * (ipa >> shift & 0x1FF))
        if not entry & 1:
            return None
        address = entry & 0xFFFF_FFFF_F000
        if level == 3 or not entry & 2:
            assert entry & 0x400, "access flag"
            assert entry >> 6 & 3 == 3, "read-write"
            return address | ipa & (1 << shift) - 1, level
        table = address
    return None


def make() -> tuple[Stage2, SparseMemory, Allocator]:
    """Return an empty stage 2 and what it is made of."""
    memory, allocator = SparseMemory(size=TABLES), Allocator(DRAM_BASE, TABLES)
    return Stage2(memory, allocator, vmid=7), memory, allocator


def test_map_uses_the_largest_blocks_that_fit() -> None:
    """1 GiB where both addresses are aligned to it, then 2 MiB, then pages."""
    stage2, memory, _ = make()
    stage2.map(2 * GB, 4 * GB, GB + 2 * MB + GRANULE)
    assert walk(memory, stage2.vttbr, 2 * GB + 0x1234) == (4 * GB + 0x1234, 1)
    assert walk(memory, stage2.vttbr, 3 * GB + 5) == (5 * GB + 5, 2)
    assert walk(memory, stage2.vttbr, 3 * GB + 2 * MB) == (5 * GB + 2 * MB, 3)
    assert walk(memory, stage2.vttbr, 3 * GB + 2 * MB + GRANULE) is None
    assert walk(memory, stage2.vttbr, 2 * GB - 1) is None
    assert stage2.vttbr >> 48 == 7


@given(st.integers(0, 1100), st.integers(0, 1100), st.integers(1, 1100))
def test_map_translates_exactly_its_range(ipa: int, pa: int, count: int) -> None:
    """With any alignment, exactly the range is mapped."""
    stage2, memory, allocator = make()
    ipa, pa, size = ipa * GRANULE, 8 * GB + pa * GRANULE, count * GRANULE
    stage2.map(ipa, pa, size)
    for offset in (0, size // 2 & ~0xFFF, size - GRANULE):
        found = walk(memory, stage2.vttbr, ipa + offset)
        assert found is not None
        assert found[0] == pa + offset
    assert walk(memory, stage2.vttbr, ipa + size) is None
    assert ipa == 0 or walk(memory, stage2.vttbr, ipa - GRANULE) is None
    stage2.close()
    assert allocator.free_size == TABLES
