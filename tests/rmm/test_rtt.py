"""RMI_RTT_*: tables, folding and splitting, unprotected mappings."""

from array import array
from typing import Final

import pytest

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import Ripas, RmiFid
from pyvmm.arch.stage2 import (
    ADDRESS_MASK,
    ASSIGNED,
    BLOCK_TYPE,
    RIPAS_SHIFT,
    TABLE_ENTRIES,
    TABLE_TYPE,
    UNASSIGNED_DESTROYED,
    UNASSIGNED_NS,
    UNASSIGNED_RAM,
)
from rmm.granule import GranuleState
from rmm.rtt import folded, ram_entry
from tests.rmm.test_granule import NOT_GRANULES, granule_in
from tests.rmm.world import World

CREATE, DESTROY, FOLD = (
    RmiFid.RMI_RTT_CREATE,
    RmiFid.RMI_RTT_DESTROY,
    RmiFid.RMI_RTT_FOLD,
)
READ, MAP, UNMAP = (
    RmiFid.RMI_RTT_READ_ENTRY,
    RmiFid.RMI_RTT_MAP_UNPROTECTED,
    RmiFid.RMI_RTT_UNMAP_UNPROTECTED,
)
ERROR_INPUT, ERROR_RTT = 1, 4
MIB2: Final = 2 << 20
GIB: Final = 1 << 30
UNPROTECTED: Final = 1 << 32  # of a 33-bit realm
WRITE_BACK_RW: Final = 6 << 2 | 3 << 6
MINUS_ONE: Final = (1 << 64) - 1

BAD_TABLES = [
    (0, 0), (0, 1), (0, 4), (0, MINUS_ONE), (0, 1 << 32 | 2),  # level; the start level is 1
    (0x1000, 3), (MIB2, 2), (GIB - 1, 2), (1, 3),  # alignment
    (1 << 33, 2), (1 << 48, 3), (MINUS_ONE & -GIB, 2),  # outside the IPA space
]  # fmt: skip


def error_rtt(level: int) -> int:
    """Return x0 of ERROR_RTT."""
    return ERROR_RTT | level << 8


def raw(world: World, rd: int, ipa: int, level: int = 3) -> tuple[int, int]:
    """Read the entry where the walk ends, and its level."""
    table, index, reached = world.rmm.realms[rd].rtt.walk(ipa, level)
    return table.entries[index], reached


def full_table(world: World, rd: int) -> int:
    """Fill the page table for IPA 0 with 512 pages in a row; returns the first PA."""
    first = world.delegated(TABLE_ENTRIES, align=MIB2)
    for index in range(TABLE_ENTRIES):
        offset = index * GRANULE_SIZE
        world.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, rd, first + offset, offset)
    return first


# --- create -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fid", [CREATE, DESTROY, FOLD])
@pytest.mark.parametrize(("ipa", "level"), BAD_TABLES)
def test_table_commands_refuse_levels_and_ipas(
    world: World, fid: int, ipa: int, level: int
) -> None:
    """A table is between the start level and 3, aligned, inside the IPA space."""
    rd, rtt = world.realm(), world.delegated()
    args = (rd, rtt, ipa, level) if fid == CREATE else (rd, ipa, level)
    before = world.snapshot()
    assert world.call(fid, *args) == (ERROR_INPUT, 0, 0, 0, 0)
    assert world.snapshot() == before


@pytest.mark.parametrize("state", sorted(set(GranuleState) - {GranuleState.DELEGATED}))
def test_rtt_create_needs_a_delegated_granule_and_a_realm(
    world: World, state: GranuleState
) -> None:
    """ERROR_INPUT for a granule in use."""
    bad, rd, rtt = granule_in(world, state), world.realm(vmid=9), world.delegated()
    before = world.snapshot()
    assert world.call(CREATE, rd, bad, MIB2, 3)[0] == ERROR_INPUT
    for pa in (*NOT_GRANULES, rd):
        assert world.call(CREATE, rd, pa, MIB2, 3)[0] == ERROR_INPUT
    if state is not GranuleState.RD:
        for fid in (DESTROY, FOLD, READ, UNMAP, MAP):
            assert world.call(fid, bad, 0, 3)[0] == ERROR_INPUT
        assert world.call(CREATE, bad, rtt, MIB2, 3)[0] == ERROR_INPUT
    assert world.snapshot() == before


def test_rtt_create_fails_when_tables_miss_or_are_there(world: World) -> None:
    """The index is the level that the walk reached, or that of the table's entry."""
    rd, rtt = world.realm(depth=2), world.delegated()
    before = world.snapshot()
    assert world.call(CREATE, rd, rtt, GIB, 3)[0] == error_rtt(1)
    assert world.call(CREATE, rd, rtt, 0, 2)[0] == error_rtt(1)
    assert world.snapshot() == before
    world.do(CREATE, rd, rtt, 0, 3)
    assert world.call(CREATE, rd, world.delegated(), 0, 3)[0] == error_rtt(2)


@pytest.mark.parametrize("entry", [0, UNASSIGNED_RAM, UNASSIGNED_DESTROYED])
def test_rtt_create_splits_what_is_unassigned(world: World, entry: int) -> None:
    """All children have the RIPAS of their parent."""
    rd = world.realm(depth=2)
    if entry == UNASSIGNED_RAM:
        world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0, MIB2)
    elif entry == UNASSIGNED_DESTROYED:
        world.tables(rd, 0, [3])
        world.do(DESTROY, rd, 0, 3)
    (rtt,) = world.tables(rd, 0, [3])
    table = world.rmm.realms[rd].rtt.tables[rtt]
    assert list(table.entries) == [entry] * TABLE_ENTRIES
    assert table.live == 0
    assert world.machine.tlbis == ([] if entry != UNASSIGNED_DESTROYED else [(7, 0, MIB2)])


def test_rtt_create_in_the_unprotected_half(world: World) -> None:
    """UNASSIGNED_NS has 512 UNASSIGNED_NS children."""
    rd = world.realm(depth=1)
    (rtt,) = world.tables(rd, UNPROTECTED, [2])
    entries = world.rmm.realms[rd].rtt.tables[rtt].entries
    assert list(entries) == [UNASSIGNED_NS] * TABLE_ENTRIES


# --- destroy ----------------------------------------------------------------------------------


def test_rtt_destroy_outputs_and_tops(world: World) -> None:
    """A destroyed table leaves DESTROYED, its granule is zero, and top is the next live IPA."""
    rd = world.realm(depth=2)
    (first,) = world.tables(rd, 0, [3])
    world.tables(rd, 4 * MIB2, [3])
    world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0, MIB2)
    assert world.do(DESTROY, rd, 0, 3) == (first, 4 * MIB2, 0, 0)
    assert raw(world, rd, 0) == (UNASSIGNED_DESTROYED, 2)
    assert world.rmm.granules.state(first) is GranuleState.DELEGATED
    assert not any(world.realm_memory.read(first, GRANULE_SIZE))
    assert world.call(DESTROY, rd, 0, 3) == (error_rtt(2), 0, 4 * MIB2, 0, 0)
    assert world.call(DESTROY, rd, 5 * MIB2, 3) == (error_rtt(2), 0, GIB, 0, 0)
    assert world.call(DESTROY, rd, GIB, 3) == (error_rtt(1), 0, 4 * GIB, 0, 0)
    assert world.machine.tlbis[-1] == (7, 0, MIB2)


def test_rtt_destroy_in_the_unprotected_half(world: World) -> None:
    """There the entry becomes UNASSIGNED_NS."""
    rd = world.realm()
    world.do(DESTROY, rd, UNPROTECTED, 3)
    assert raw(world, rd, UNPROTECTED) == (UNASSIGNED_NS, 2)


def test_rtt_destroy_takes_shared_memory_with_it(world: World) -> None:
    """Shared pages do not keep a table, but a table of shared pages keeps the one above it."""
    rd = world.realm()
    (rtt,) = world.tables(rd, UNPROTECTED + MIB2, [3])
    for ipa in (UNPROTECTED, UNPROTECTED + MIB2 + 0x1000):
        world.do(MAP, rd, ipa, 3, WRITE_BACK_RW)
    before = world.snapshot()
    assert world.call(DESTROY, rd, UNPROTECTED, 2) == (error_rtt(2), 0, UNPROTECTED, 0, 0)
    assert world.snapshot() == before
    world.machine.tlbis.clear()
    top = UNPROTECTED + GIB
    assert world.do(DESTROY, rd, UNPROTECTED + MIB2, 3) == (rtt, top, 0, 0)
    assert world.machine.tlbis == [(7, UNPROTECTED + MIB2, MIB2)]
    assert not any(world.realm_memory.read(rtt, GRANULE_SIZE))
    assert raw(world, rd, UNPROTECTED + MIB2) == (UNASSIGNED_NS, 2)


def test_rtt_destroy_of_a_split_shared_block(world: World) -> None:
    """The pages that a block of shared memory was split into do not keep their table."""
    rd = world.realm(depth=2)
    world.do(MAP, rd, UNPROTECTED, 2, WRITE_BACK_RW)
    (rtt,) = world.tables(rd, UNPROTECTED, [3])
    world.do(RmiFid.RMI_RTT_UNMAP_UNPROTECTED, rd, UNPROTECTED, 3)
    assert world.do(DESTROY, rd, UNPROTECTED, 3)[0] == rtt
    assert raw(world, rd, UNPROTECTED) == (UNASSIGNED_NS, 2)


def test_rtt_destroy_changes_nothing_when_table_is_live(world: World) -> None:
    """(ERROR_RTT, level) and top = ipa: destroy the entries first."""
    rd = world.realm()
    world.page(rd, 0x5000)
    before = world.snapshot()
    assert world.call(DESTROY, rd, 0, 3) == (error_rtt(3), 0, 0, 0, 0)
    assert world.call(DESTROY, rd, 0, 2) == (error_rtt(2), 0, 0, 0, 0)
    assert world.snapshot() == before


# --- fold -------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [0, UNASSIGNED_RAM])
def test_rtt_fold_of_unassigned_entries(world: World, entry: int) -> None:
    """512 equal UNASSIGNED entries become one, and the table's granule is free and zero."""
    rd = world.realm(depth=2)
    (rtt,) = world.tables(rd, 0, [3])
    if entry:
        world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0, MIB2)
    assert world.do(FOLD, rd, 0, 3) == (rtt, 0, 0, 0)
    assert raw(world, rd, 0) == (entry, 2)
    assert world.rmm.granules.state(rtt) is GranuleState.DELEGATED
    assert not any(world.realm_memory.read(rtt, GRANULE_SIZE))
    assert world.rmm.realms[rd].rtt.start[0].live == 2
    assert world.call(FOLD, rd, 0, 2)[0] == (error_rtt(2) if entry else 0)
    assert raw(world, rd, 0)[1] == (2 if entry else 1)


@pytest.mark.parametrize("ripas", [Ripas.EMPTY, Ripas.RAM])
def test_rtt_fold_and_split_of_a_block(world: World, ripas: Ripas) -> None:
    """512 pages in a row are one block of 2 MiB and back again, with all DATA granules kept."""
    rd = world.realm()
    if ripas is Ripas.RAM:
        world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0, MIB2)
    first = full_table(world, rd)
    before = [raw(world, rd, ipa)[0] for ipa in (0, 0x1000, MIB2 - 0x1000)]
    (rtt, *_) = world.do(FOLD, rd, 0, 3)
    block = first | ASSIGNED | ripas << RIPAS_SHIFT
    expected = ram_entry(first, 2) if ripas is Ripas.RAM else block
    assert raw(world, rd, 0x1000) == (expected, 2)
    assert world.do(READ, rd, 0, 3) == (2, 1, first, ripas)
    assert world.call(RmiFid.RMI_DATA_DESTROY, rd, 0x1000) == (error_rtt(2), 0, 0x1000, 0, 0)
    assert world.call(DESTROY, rd, 0, 3) == (error_rtt(2), 0, 0, 0, 0)
    world.machine.tlbis.clear()
    world.do(CREATE, rd, rtt, 0, 3)
    assert world.machine.tlbis == ([(7, 0, MIB2)] if ripas is Ripas.RAM else [])
    assert [raw(world, rd, ipa)[0] for ipa in (0, 0x1000, MIB2 - 0x1000)] == before
    assert world.rmm.realms[rd].rtt.tables[rtt].live == TABLE_ENTRIES
    assert world.call(DESTROY, rd, 0, 3) == (error_rtt(3), 0, 0, 0, 0)


def test_rtt_fold_changes_nothing_when_entries_differ(world: World) -> None:
    """(ERROR_RTT, level): a different RIPAS, a page more or less, another order, a table."""
    rd = world.realm()
    world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0, 0x1000)
    before = world.snapshot()
    assert world.call(FOLD, rd, 0, 3) == (error_rtt(3), 0, 0, 0, 0)
    assert world.call(FOLD, rd, 0, 2) == (error_rtt(2), 0, 0, 0, 0)
    assert world.snapshot() == before
    first = full_table(world, rd)
    assert world.call(FOLD, rd, 0, 3)[0] == error_rtt(3)  # one RAM, 511 EMPTY
    for ipa in (0x1000, 0x2000):
        world.do(RmiFid.RMI_DATA_DESTROY, rd, ipa)
    assert world.call(FOLD, rd, 0, 3)[0] == error_rtt(3)
    world.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, rd, first + 0x2000, 0x1000)
    world.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, rd, first + 0x1000, 0x2000)
    assert world.call(FOLD, rd, 0, 3)[0] == error_rtt(3)


def test_rtt_fold_needs_an_aligned_block(world: World) -> None:
    """512 consecutive pages that do not begin at 2 MiB are not a block."""
    rd = world.realm()
    for index in range(TABLE_ENTRIES):
        desc = 0x1000 + index * GRANULE_SIZE | WRITE_BACK_RW
        world.do(MAP, rd, UNPROTECTED + index * GRANULE_SIZE, 3, desc)
    assert world.call(FOLD, rd, UNPROTECTED, 3)[0] == error_rtt(3)


def test_rtt_fold_never_makes_a_block_of_tables() -> None:
    """Not even if their addresses would form a block; otherwise a realm could write them."""
    pas = range(0, GIB, MIB2)
    blocks, tables = (array("Q", [pa | kind for pa in pas]) for kind in (BLOCK_TYPE, TABLE_TYPE))
    assert folded(memoryview(blocks), 2) == BLOCK_TYPE
    assert folded(memoryview(tables), 2) is None


def test_rtt_fold_without_a_table(world: World) -> None:
    """(ERROR_RTT, level reached), or the level above if there is no table in that entry."""
    rd = world.realm(depth=2)
    assert world.call(FOLD, rd, 0, 3)[0] == error_rtt(2)
    assert world.call(FOLD, rd, GIB, 3)[0] == error_rtt(1)
    assert world.call(FOLD, rd, GIB, 2)[0] == error_rtt(1)


def test_rtt_fold_of_shared_blocks_up_to_level_1(world: World) -> None:
    """Shared memory folds to 2 MiB and to 1 GiB, but there are no blocks of 512 GiB."""
    rd = world.realm(s2sz=48, rtt_level_start=0, depth=1)
    base = 1 << 47
    (rtt,) = world.tables(rd, base, [2])
    for index in range(TABLE_ENTRIES):
        world.do(MAP, rd, base + index * MIB2, 2, index * MIB2 | WRITE_BACK_RW)
    assert world.do(FOLD, rd, base, 2)[0] == rtt
    assert world.do(READ, rd, base, 3) == (1, 1, WRITE_BACK_RW, 0)
    for index in range(1, TABLE_ENTRIES):
        world.do(MAP, rd, base + index * GIB, 1, index * GIB | WRITE_BACK_RW)
    before = world.snapshot()
    assert world.call(FOLD, rd, base, 1)[0] == error_rtt(0)
    assert world.snapshot() == before
    world.do(CREATE, rd, rtt, base, 2)
    assert world.do(READ, rd, base + 5 * MIB2, 2) == (2, 1, 5 * MIB2 | WRITE_BACK_RW, 0)


def test_ram_page_is_found_in_pages_and_blocks(world: World) -> None:
    """Each byte of a realm's RAM is at its IPA."""
    rd = world.realm()
    world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0, MIB2)
    first, tree = full_table(world, rd), world.rmm.realms[rd].rtt
    ipas = (0, 1, 0x1000, 0x12345, MIB2 - 1)
    assert [tree.ram_page(ipa) for ipa in ipas] == [first + ipa for ipa in ipas]
    world.do(FOLD, rd, 0, 3)
    assert [tree.ram_page(ipa) for ipa in ipas] == [first + ipa for ipa in ipas]


# --- read -------------------------------------------------------------------------------------


def test_rtt_read_entry(world: World) -> None:
    """The state as deep as there are tables."""
    rd = world.realm()
    page = world.page(rd, 0)
    table = raw(world, rd, 0, 2)[0] & ADDRESS_MASK
    assert world.do(READ, rd, 0, 3) == (3, 1, page, Ripas.RAM)
    assert world.do(READ, rd, 0, 2) == (2, 2, table, 0)
    assert world.do(READ, rd, 0x1000, 3) == (3, 0, 0, Ripas.EMPTY)
    assert world.do(READ, rd, GIB, 3) == (1, 0, 0, 0)
    assert world.do(READ, rd, 3 * UNPROTECTED // 2, 1) == (1, 0, 0, 0)


@pytest.mark.parametrize(
    ("ipa", "level"),
    [(0, 0), (0, 4), (0, MINUS_ONE), (0x800, 3), (0x1000, 2), (MIB2, 1), (1 << 33, 3)],
)
def test_rtt_read_entry_refuses_levels_and_ipas(world: World, ipa: int, level: int) -> None:
    """Aligned to the level, from the start level to 3, inside the IPA space."""
    assert world.call(READ, world.realm(), ipa, level) == (ERROR_INPUT, 0, 0, 0, 0)


# --- unprotected ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ipa", "level", "desc"),
    [
        (0, 3, 0),  # protected
        (UNPROTECTED - 0x1000, 3, 0),
        (1 << 33, 3, 0),
        (UNPROTECTED + 0x800, 3, 0),
        (UNPROTECTED + 0x1000, 2, 0),
        (UNPROTECTED, 0, 0),
        (UNPROTECTED, 4, 0),
        (UNPROTECTED, MINUS_ONE, 0),
        (UNPROTECTED, 3, 4 << 2),  # MemAttr 0b100 is reserved
        (UNPROTECTED, 3, 1),
        (UNPROTECTED, 3, 1 << 5),
        (UNPROTECTED, 3, 1 << 8),
        (UNPROTECTED, 3, 1 << 10),
        (UNPROTECTED, 3, 1 << 48),
        (UNPROTECTED, 3, 1 << 55),
        (UNPROTECTED, 2, 0x1000),
        (UNPROTECTED, 1, MIB2),
    ],
)
def test_rtt_map_unprotected_refuses(world: World, ipa: int, level: int, desc: int) -> None:
    """Only aligned unprotected IPAs, and only address, MemAttr and S2AP of the descriptor."""
    rd = world.realm()
    before = world.snapshot()
    assert world.call(MAP, rd, ipa, level, desc) == (ERROR_INPUT, 0, 0, 0, 0)
    assert world.snapshot() == before


def test_rtt_map_unprotected_level_1_needs_to_be_in_the_tree(world: World) -> None:
    """A tree that starts at level 2 has no entries at level 1."""
    rd = world.realm(rtt_level_start=2, rtt_num_start=8)
    assert world.call(MAP, rd, UNPROTECTED, 1, 0)[0] == ERROR_INPUT
    assert world.call(UNMAP, rd, UNPROTECTED, 1)[0] == ERROR_INPUT


def test_rtt_map_unprotected_adds_what_the_host_may_not_choose(world: World) -> None:
    """NS, XN, shareability and the access flag are the RMM's."""
    rd, shared = world.realm(), world.ns_granule()
    world.do(MAP, rd, UNPROTECTED, 3, shared | WRITE_BACK_RW)
    expected = 1 << 55 | 2 << 53 | 1 << 10 | 3 << 8 | shared | WRITE_BACK_RW | 3
    assert raw(world, rd, UNPROTECTED) == (expected, 3)
    assert world.do(READ, rd, UNPROTECTED, 3) == (3, 1, shared | WRITE_BACK_RW, 0)
    before = world.snapshot()
    assert world.call(MAP, rd, UNPROTECTED, 3, shared | WRITE_BACK_RW)[0] == error_rtt(3)
    assert world.call(MAP, rd, UNPROTECTED, 2, 0)[0] == error_rtt(2)
    assert world.call(MAP, rd, UNPROTECTED + GIB, 3, shared)[0] == error_rtt(1)
    assert world.snapshot() == before


def test_rtt_unmap_unprotected(world: World) -> None:
    """The entry is UNASSIGNED_NS again, no PE has it, and top is the next live IPA."""
    rd = world.realm()
    for offset in (0, 0x3000):
        world.do(MAP, rd, UNPROTECTED + offset, 3, 0x1000)
    assert world.do(UNMAP, rd, UNPROTECTED, 3)[0] == UNPROTECTED + 0x3000
    assert world.machine.tlbis == [(7, UNPROTECTED, GRANULE_SIZE)]
    assert raw(world, rd, UNPROTECTED) == (UNASSIGNED_NS, 3)
    before = world.snapshot()
    top = UNPROTECTED + 0x3000
    assert world.call(UNMAP, rd, UNPROTECTED, 3) == (error_rtt(3), top, 0, 0, 0)
    assert world.call(UNMAP, rd, UNPROTECTED, 2) == (error_rtt(2), UNPROTECTED, 0, 0, 0)
    assert world.call(UNMAP, rd, UNPROTECTED + GIB, 3)[:2] == (error_rtt(1), 1 << 39)
    for ipa, level in ((0, 3), (UNPROTECTED + 1, 3), (UNPROTECTED, 0), (1 << 33, 3)):
        assert world.call(UNMAP, rd, ipa, level) == (ERROR_INPUT, 0, 0, 0, 0)
    assert world.snapshot() == before
