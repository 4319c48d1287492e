"""The granule protection table, read back by an independent walker of the architectural format."""

import random
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.gpt import GranuleProtectionTable
from monitor.layout import DramLayout
from pyvmm.arch.gpt import L0_REGION, Contig, Gpi, contiguous_descriptor, granules_descriptor

BASE = 0x8000_0000
SIZE = 1 << 30
GRANULE = 4096
MB = 1 << 20


class Root:
    """Root memory: only the top 4 MiB, where the tables are."""

    def __init__(self, layout: DramLayout) -> None:
        self.base = layout.root_base
        self.data = bytearray(layout.dram_top - layout.root_base)

    def read(self, pa: int, size: int) -> bytes:
        """Copy out."""
        return bytes(self.view(pa, size))

    def write(self, pa: int, data: bytes | bytearray | memoryview) -> None:
        """Copy in."""
        self.data[pa - self.base : pa - self.base + len(data)] = data

    def zero(self, pa: int, size: int) -> None:
        """Clear."""
        self.write(pa, bytes(size))

    def view(self, pa: int, size: int) -> memoryview:
        """Return a window."""
        return memoryview(self.data)[pa - self.base : pa - self.base + size]


def walk(root: Root, base_pa: int, pa: int) -> int:
    """Return the GPI of ``pa`` as a PE finds it: L0 entry, L1 entry, nibble."""
    l0 = int.from_bytes(root.read(base_pa + (pa >> 30) * 8, 8), "little")
    if l0 & 0xF == 1:
        return l0 >> 4 & 0xF
    assert l0 & 0xF == 3
    l1_pa = (l0 & ~0xFFF) + (pa >> 16 & 0x3FFF) * 8
    l1 = int.from_bytes(root.read(l1_pa, 8), "little")
    return l1 >> 4 & 0xF if l1 & 0xF == 1 else l1 >> 4 * (pa >> 12 & 0xF) & 0xF


def build(base: int = BASE, size: int = SIZE) -> tuple[GranuleProtectionTable, Root, DramLayout]:
    """Build a table."""
    layout = DramLayout.of(base, size)
    root = Root(layout)
    return GranuleProtectionTable(root, layout), root, layout


@pytest.mark.parametrize("base", [0x8000_0000, 0x4000_0000, 0x8800_0000])
@pytest.mark.parametrize("size", [64 * MB, 1 << 30, 5 << 29])
def test_initial_table_gives_each_region_its_space(base: int, size: int) -> None:
    """Non-secure, then Realm, then Root; devices below are Non-secure, above nobody has access."""
    table, root, layout = build(base, size)
    below = Gpi.NO_ACCESS if base % L0_REGION else Gpi.NS
    cases = {
        base: Gpi.NS,
        layout.rmm_base - GRANULE: Gpi.NS,
        layout.rmm_base: Gpi.REALM,
        layout.root_base - GRANULE: Gpi.REALM,
        layout.root_base: Gpi.ROOT,
        layout.dram_top - GRANULE: Gpi.ROOT,
        base - GRANULE: below,
        layout.dram_top: Gpi.NO_ACCESS,
        0: below if base < L0_REGION else Gpi.NS,
    }
    assert {pa: walk(root, table.base_pa, pa) for pa in cases} == cases
    assert layout.root_base <= layout.l0_base < layout.dram_top


def test_count_is_that_of_a_walk_over_every_granule() -> None:
    """In contiguous entries, in shattered ones, and in mixed ones."""
    table, root, layout = build(size=64 * MB)
    for pa in (BASE, BASE + 5 * GRANULE, BASE + 40 * MB):
        assert table.move(pa, Gpi.NS, Gpi.REALM)
    walked = Counter(walk(root, table.base_pa, pa) for pa in range(BASE, layout.dram_top, GRANULE))
    counts = table.count()
    assert {gpi: counts[gpi] for gpi in walked} == walked
    assert sum(counts.values()) == (1 << 30) // GRANULE  # one table's


def test_initial_table_uses_the_largest_contiguous_descriptors() -> None:
    """512 MiB, then 32 MiB, then 2 MiB up to the boundary."""
    _, root, layout = build()
    entries = memoryview(root.data).cast("Q")
    assert entries[0] == contiguous_descriptor(Gpi.NS, Contig.MB_512)
    assert entries[8192] == contiguous_descriptor(Gpi.NS, Contig.MB_32)
    last = (layout.rmm_base - BASE >> 16) - 1
    assert entries[last] == contiguous_descriptor(Gpi.NS, Contig.MB_2)


def test_move_shatters_only_the_way_to_its_granule() -> None:
    """One granule of 512 MiB: granules in its 2 MiB, 2 MiB in its 32 MiB, 32 MiB elsewhere."""
    table, root, _ = build()
    pa = BASE + 33 * MB
    assert table.move(pa, Gpi.NS, Gpi.REALM)
    entries = memoryview(root.data).cast("Q")
    assert entries[33 * 16] == granules_descriptor(Gpi.NS) ^ (Gpi.NS ^ Gpi.REALM)
    assert entries[33 * 16 - 1 * 16] == granules_descriptor(Gpi.NS)
    assert entries[34 * 16] == contiguous_descriptor(Gpi.NS, Contig.MB_2)
    assert entries[0] == contiguous_descriptor(Gpi.NS, Contig.MB_32)
    assert entries[8192] == contiguous_descriptor(Gpi.NS, Contig.MB_32)


def test_move_back_restores_the_table_byte_for_byte() -> None:
    """Shattering and fusing are inverse operations: the form is canonical."""
    table, root, _ = build()
    before = bytes(root.data)
    pas = [BASE + GRANULE * n for n in (0, 1, 511, 512, 8192, 131071, 140000)]
    for pa in pas:
        assert table.move(pa, Gpi.NS, Gpi.REALM)
    assert bytes(root.data) != before
    random.Random(1).shuffle(pas)
    for pa in pas:
        assert table.move(pa, Gpi.REALM, Gpi.NS)
    assert bytes(root.data) == before


def test_move_fuses_a_whole_region_of_the_new_space() -> None:
    """The last granule of 2 MiB makes a contiguous Realm descriptor."""
    table, root, _ = build()
    for n in range(512):
        assert table.move(BASE + n * GRANULE, Gpi.NS, Gpi.REALM)
    entries = memoryview(root.data).cast("Q")
    assert set(entries[:32]) == {contiguous_descriptor(Gpi.REALM, Contig.MB_2)}


def test_move_row_makes_the_table_that_single_moves_make() -> None:
    """Over the borders of entries and of contiguous regions, there and back."""
    table, root, _ = build()
    other, other_root, _ = build()
    first, count = BASE + 32 * MB - 700 * GRANULE, 1500
    for old, new in ((Gpi.NS, Gpi.REALM), (Gpi.REALM, Gpi.NS)):
        assert table.move_row(first, old, new, count)
        for n in range(count):
            assert other.move(first + n * GRANULE, old, new)
        assert root.data == other_root.data


def test_move_row_changes_nothing_when_the_last_one_is_not_the_old_one() -> None:
    """All of them, or none."""
    table, root, _ = build()
    table.move(BASE + 40 * GRANULE, Gpi.NS, Gpi.REALM)
    before = bytes(root.data)
    assert not table.move_row(BASE, Gpi.NS, Gpi.REALM, 41)
    assert bytes(root.data) == before


def test_move_changes_nothing_when_the_granule_is_not_the_old_one() -> None:
    """A refused move leaves no trace, in a contiguous region and outside one."""
    table, root, _ = build()
    before = bytes(root.data)
    assert not table.move(BASE, Gpi.REALM, Gpi.NS)
    assert bytes(root.data) == before
    table.move(BASE, Gpi.NS, Gpi.REALM)
    before = bytes(root.data)
    assert not table.move(BASE, Gpi.NS, Gpi.REALM)
    assert bytes(root.data) == before


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 70), st.sampled_from([1, 1, 2, 15, 16, 17, 600]), st.booleans()),
        max_size=80,
    ),
    st.integers(0, 3),
)
def test_table_agrees_with_a_dictionary(moves: list[tuple[int, int, bool]], where: int) -> None:
    """After any moves, a PE finds the dictionary's value, and every result agrees with it."""
    table, root, _ = TABLE.table, TABLE.root, TABLE.layout
    first = BASE + where * 32 * MB - (36 if where else 0) * GRANULE
    model: dict[int, int] = {}
    for n, count, to_realm in moves:
        pas = range(first + n * GRANULE, first + (n + count) * GRANULE, GRANULE)
        old, new = (Gpi.NS, Gpi.REALM) if to_realm else (Gpi.REALM, Gpi.NS)
        may_move = all(model.get(pa, Gpi.NS) == old for pa in pas)
        if count == 1:
            has_moved = table.move(pas[0], old, new)
        else:
            has_moved = table.move_row(pas[0], old, new, count)
        assert has_moved == may_move
        if may_move:
            model |= dict.fromkeys(pas, new)
    for n in range(-1, 672):
        pa = first + n * GRANULE
        if pa >= BASE:
            assert walk(root, table.base_pa, pa) == table.gpi(pa) == model.get(pa, Gpi.NS)
    leaked = list(table.granules_not(Gpi.NS, BASE, BASE + 256 * MB))
    assert leaked == sorted(pa for pa, gpi in model.items() if gpi == Gpi.REALM)
    for pa in leaked:
        table.move(pa, Gpi.REALM, Gpi.NS)


TABLE = SimpleNamespace(**dict(zip(("table", "root", "layout"), build(), strict=True)))


def test_dram_must_have_room_for_the_firmware() -> None:
    """The RMM's and EL3's own memory comes off the top."""
    with pytest.raises(ValueError, match="no room for EL3"):
        DramLayout.of(BASE, 4 * MB)
    assert DramLayout.of(BASE, 6 * MB).ns_size == 2 * MB
