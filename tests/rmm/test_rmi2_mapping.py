"""RMI 2.0: ranges of a realm's memory, how far a command gets, and where addresses come from."""

from array import array
from collections.abc import Iterator, Sequence

import pytest

from pyvmm.arch.events import RttChange
from pyvmm.arch.pas import GRANULE_SIZE, GranuleProtectionFault, Pas
from pyvmm.arch.rmi import Ripas, RmiFid
from pyvmm.arch.rmi2 import Rmi2Fid
from pyvmm.arch.rsi import RsiFid
from rmm.granule import GranuleState
from tests.rmm.invariants import check_invariants
from tests.rmm.world import DRAM_BASE, smc
from tests.rmm.world2 import INPUT, LIST, NONE, RTT, SINGLE, CoreWorld2, World2, desc

PAGE, MIB2, GIB = GRANULE_SIZE, 2 << 20, 1 << 30
UNPROTECTED = 1 << 32
MAP, UNMAP = Rmi2Fid.RMI_RTT_DATA_MAP, Rmi2Fid.RMI_RTT_DATA_UNMAP
SHARE, UNSHARE = Rmi2Fid.RMI_RTT_UNPROT_MAP, Rmi2Fid.RMI_RTT_UNPROT_UNMAP
RW = 6 << 16 | 3 << 19
UNDELEGATED = 1


@pytest.fixture
def world() -> Iterator[World2]:
    """An active RMM; the invariants hold at the end of each test."""
    world = World2()
    yield world
    check_invariants(world.rmm, world.is_realm, ())


def entry(world: World2, rd: int, ipa: int, level: int = 3) -> tuple[int, ...]:
    """Return level, state, descriptor and RIPAS."""
    return world.do(RmiFid.RMI_RTT_READ_ENTRY, rd, ipa, level)[:4]


def backed(world: World2, rd: int, base: int, top: int) -> list[int]:
    """Return the PAs of the pages of a range; 0 where there is none."""
    return [entry(world, rd, ipa)[2] for ipa in range(base, top, PAGE)]


def pages(first: int, count: int) -> list[int]:
    """Return the addresses of pages in a row."""
    return [first + n * PAGE for n in range(count)]


def unmapped(world: World2, fid: int, *args: int) -> tuple[int, Sequence[int]]:
    """Unmap into a list; return the IPA reached and the descriptors."""
    buffer = world.ns_granule()
    rd, base, top, *count = args
    flags = LIST | (count[0] << 2 if count else 0)
    reached, x2, x3, *_ = world.do(fid, rd, base, top, flags, buffer)
    assert x2 == 0
    return reached, array("Q", world.ns.read(buffer, 8 * x3)).tolist()


def test_a_range_and_back(world: World2) -> None:
    """RIPAS stays; the pages are zero, and scrubbed at the end."""
    rd, pa = world.realm(), world.delegated(8)
    world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 4 * PAGE, 6 * PAGE)
    assert world.do(MAP, rd, 2 * PAGE, 10 * PAGE, SINGLE, desc(pa, 8))[0] == 10 * PAGE
    assert backed(world, rd, 2 * PAGE, 10 * PAGE) == pages(pa, 8)
    ripas = [entry(world, rd, n * PAGE)[3] for n in range(2, 10)]
    assert ripas == [0, 0, Ripas.RAM, Ripas.RAM, 0, 0, 0, 0]
    world.realm_memory.write(pa + PAGE, b"secret")
    assert world.do(UNMAP, rd, 0, MIB2, NONE, 0)[:3] == (MIB2, 0, 0)
    assert world.realm_memory.read(pa + PAGE, PAGE) == bytes(PAGE)
    assert [entry(world, rd, n * PAGE)[1:] for n in (3, 4)] == [
        (0, 0, Ripas.EMPTY),
        (0, 0, Ripas.DESTROYED),
    ]


def test_a_range_is_traced_entry_by_entry(world: World2) -> None:
    """A listener sees each entry change, and there the same happens."""
    rd, pa = world.realm(), world.delegated(3)
    seen: list[object] = []
    world.rmm.events.listener = seen.append
    world.do(MAP, rd, PAGE, 4 * PAGE, SINGLE, desc(pa, 3))
    world.do(UNMAP, rd, PAGE, 4 * PAGE, NONE, 0)
    world.rmm.events.listener = None
    changes = [(each.ipa, each.level) for each in seen if isinstance(each, RttChange)]
    assert changes == [(n * PAGE, 3) for n in (1, 2, 3, 1, 2, 3)]
    assert backed(world, rd, 0, 4 * PAGE) == [0] * 4


def test_mapping_the_same_again(world: World2) -> None:
    """Counts as progress; another page at its place does not."""
    rd, pa = world.realm(), world.delegated(4)
    world.do(MAP, rd, 0, 2 * PAGE, SINGLE, desc(pa, 2))
    assert world.do(MAP, rd, 0, 4 * PAGE, SINGLE, desc(pa, 4))[0] == 4 * PAGE
    assert world.call(MAP, rd, 0, PAGE, SINGLE, desc(pa + PAGE))[0] == RTT | 3 << 8
    world.ns_granule()
    other = world.delegated(4)
    assert world.do(MAP, rd, 4 * PAGE, 8 * PAGE, SINGLE, desc(other, 2))[0] == 6 * PAGE
    assert world.do(MAP, rd, 3 * PAGE, 8 * PAGE, SINGLE, desc(pa + 3 * PAGE, 4))[0] == 4 * PAGE


def test_map_stops_at_a_granule_in_use(world: World2) -> None:
    """With what it has done; at the first granule it fails."""
    rd, pa = world.realm(), world.delegated(4)
    world.do(Rmi2Fid.RMI_GRANULE_RANGE_UNDELEGATE, pa + 2 * PAGE, pa + 3 * PAGE)
    assert world.do(MAP, rd, 0, 4 * PAGE, SINGLE, desc(pa, 4))[0] == 2 * PAGE
    assert world.call(MAP, rd, 2 * PAGE, 4 * PAGE, SINGLE, desc(pa + 2 * PAGE, 2))[0] == INPUT
    assert world.rmm.granules.state(pa + 3 * PAGE) is GranuleState.DELEGATED


def test_map_stops_with_its_table(world: World2) -> None:
    """The host goes on with the next one."""
    rd, pa = world.realm(), world.delegated(4)
    base, top = MIB2 - 2 * PAGE, MIB2 + 2 * PAGE
    assert world.do(MAP, rd, base, top, SINGLE, desc(pa, 4))[0] == MIB2
    args = (rd, MIB2, top, SINGLE, desc(pa + 2 * PAGE, 2))
    assert world.call(MAP, *args)[0] == RTT | 2 << 8
    world.tables(rd, MIB2, [3])
    assert world.do(MAP, *args)[0] == top
    assert world.do(UNMAP, rd, base, top, NONE, 0)[0] == MIB2
    assert world.do(UNMAP, rd, MIB2, top, NONE, 0)[0] == top


def test_lists_of_ranges(world: World2) -> None:
    """In their order; those that are too many are ignored, and the first bad one ends the call."""
    rd, pa = world.realm(), world.delegated(8)
    buffer = world.list(desc(pa + 6 * PAGE, 2), desc(pa, 3), desc(pa + 3 * PAGE, 3))
    assert world.do(MAP, rd, 0, 6 * PAGE, LIST | 3 << 2, buffer)[0] == 6 * PAGE
    assert backed(world, rd, 0, 6 * PAGE) == pages(pa + 6 * PAGE, 2) + pages(pa, 4)
    assert unmapped(world, UNMAP, rd, 0, MIB2) == (MIB2, [desc(pa + 6 * PAGE, 2), desc(pa, 4)])
    for bad in (desc(pa, 2) | 1 << 52, desc(pa, 2, 0, UNDELEGATED), desc(pa, 0), desc(DRAM_BASE)):
        buffer = world.list(desc(pa + 6 * PAGE, 2), bad, desc(pa + 3 * PAGE, 3))
        assert world.do(MAP, rd, 0, 6 * PAGE, LIST | 3 << 2, buffer)[0] == 2 * PAGE
        world.do(UNMAP, rd, 0, 6 * PAGE, NONE, 0)


def test_single_returns_one_run(world: World2) -> None:
    """And leaves the next one where it is."""
    rd, pa = world.realm(), world.delegated(4)
    world.do(MAP, rd, PAGE, 3 * PAGE, SINGLE, desc(pa, 2))
    world.do(MAP, rd, 3 * PAGE, 4 * PAGE, SINGLE, desc(pa + 3 * PAGE))
    assert world.do(UNMAP, rd, 0, MIB2, SINGLE, 0)[:3] == (3 * PAGE, desc(pa, 2), 0)
    assert backed(world, rd, 3 * PAGE, 4 * PAGE) == [pa + 3 * PAGE]
    assert world.do(UNMAP, rd, 3 * PAGE, MIB2, SINGLE, 0)[:2] == (MIB2, desc(pa + 3 * PAGE))
    assert world.do(UNMAP, rd, 0, MIB2, SINGLE, 0)[:2] == (MIB2, 0)


def test_list_that_is_full_ends_the_call(world: World2) -> None:
    """By its count, or with its granule."""
    rd, pa = world.realm(), world.delegated(6)
    for n in (0, 2, 4):
        world.do(MAP, rd, n * PAGE, (n + 1) * PAGE, SINGLE, desc(pa + n * PAGE))
    assert unmapped(world, UNMAP, rd, 0, MIB2, 2) == (4 * PAGE, [desc(pa), desc(pa + 2 * PAGE)])
    buffer = world.ns_granule() + PAGE - 8
    world.do(MAP, rd, 0, PAGE, SINGLE, desc(pa))
    assert world.do(UNMAP, rd, 0, MIB2, LIST | 9 << 2, buffer)[:3] == (4 * PAGE, 0, 1)


@pytest.mark.parametrize("ripas", [Ripas.EMPTY, Ripas.RAM])
def test_blocks(ripas: Ripas) -> None:
    """Where there is no table of pages; a table that exists gets pages."""
    world = World2()
    rd = world.realm(depth=2)
    if ripas == Ripas.RAM:
        world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0, MIB2)
    block = DRAM_BASE + MIB2
    hole = (block + PAGE, block + 2 * PAGE)
    world.do(Rmi2Fid.RMI_GRANULE_RANGE_DELEGATE, block, block + MIB2)
    world.do(Rmi2Fid.RMI_GRANULE_RANGE_UNDELEGATE, *hole)
    assert world.call(MAP, rd, 0, MIB2, SINGLE, desc(block, 1, 1))[0] == INPUT
    world.do(Rmi2Fid.RMI_GRANULE_RANGE_DELEGATE, *hole)
    assert world.do(MAP, rd, 0, MIB2, SINGLE, desc(block, 1, 1))[0] == MIB2
    assert entry(world, rd, 0) == (2, 1, block, ripas)
    check_invariants(world.rmm, world.is_realm, ())
    for base, top in ((0, PAGE), (PAGE, MIB2)):
        assert world.call(UNMAP, rd, base, top, NONE, 0)[0] == RTT | 2 << 8
    assert unmapped(world, UNMAP, rd, 0, MIB2) == (MIB2, [desc(block, 1, 1)])
    world.tables(rd, 0, [3])
    assert world.do(MAP, rd, 0, MIB2, SINGLE, desc(block, 1, 1))[0] == MIB2
    assert entry(world, rd, PAGE)[2] == block + PAGE
    assert world.do(UNMAP, rd, 0, MIB2, SINGLE, 0)[:2] == (MIB2, desc(block, 512))


def test_small_ranges_do_not_become_blocks(world: World2) -> None:
    """The size of the given blocks decides which table is needed."""
    rd = world.realm(depth=2)
    assert world.call(MAP, rd, 0, MIB2, SINGLE, desc(DRAM_BASE + MIB2, 512))[0] == RTT | 2 << 8
    both = world.list(desc(DRAM_BASE, 1, 1), desc(DRAM_BASE + PAGE, 512))
    shared = (rd, UNPROTECTED, UNPROTECTED + 2 * MIB2, LIST | 2 << 2 | RW, both)
    assert world.do(SHARE, *shared)[0] == UNPROTECTED + MIB2
    base, top = UNPROTECTED + MIB2, UNPROTECTED + 4 * MIB2
    odd = world.list(desc(0, 1, 1), desc(MIB2, 600), desc(0, 1, 1))
    assert world.do(SHARE, rd, base, top, LIST | 3 << 2 | RW, odd)[0] == top - MIB2


def test_level_0_has_no_blocks(world: World2) -> None:
    """Its entries are 512 GiB."""
    rd = world.realm(depth=0, s2sz=48, rtt_level_start=0)
    half = 1 << 47
    top = half + (1 << 39)
    assert world.call(SHARE, rd, half, top, SINGLE | RW, desc(0, 1, 3))[0] == RTT


def test_shared_ranges(world: World2) -> None:
    """Attributes are the host's; addresses come back as UNDELEGATED."""
    rd, pa = world.realm(), world.ns_granule()
    flags = SINGLE | 6 << 16
    base = UNPROTECTED
    for n, (access, s2ap) in enumerate(((0, 0), (1 << 19, 2), (1 << 20, 1), (3 << 19, 3))):
        at = base + n * PAGE
        assert world.do(SHARE, rd, at, at + PAGE, flags | access, desc(pa))[0] == at + PAGE
        assert entry(world, rd, at) == (3, 1, pa | 6 << 2 | s2ap << 6, 0)
    assert world.do(SHARE, rd, base + 4 * PAGE, base + 9 * PAGE, flags, desc(pa, 5))[0]
    assert world.call(SHARE, rd, base, base + PAGE, flags, desc(pa))[0] == RTT | 3 << 8
    reached, found = unmapped(world, UNSHARE, rd, base, base + MIB2)
    assert reached == base + MIB2
    assert found == [*[desc(pa, 1, 0, UNDELEGATED)] * 4, desc(pa, 5, 0, UNDELEGATED)]
    assert entry(world, rd, base) == (3, 0, 0, 0)


def test_shared_range_stops_at_one_in_use(world: World2) -> None:
    """And at the end of the PA space."""
    rd, base = world.realm(), UNPROTECTED
    world.do(SHARE, rd, base + 2 * PAGE, base + 3 * PAGE, SINGLE | RW, desc(0))
    assert world.do(SHARE, rd, base, base + 4 * PAGE, SINGLE | RW, desc(0, 4))[0] == base + 2 * PAGE
    last = (1 << 48) - PAGE
    both = world.list(desc(last), desc(1 << 48))
    args = (rd, base + 4 * PAGE, base + 6 * PAGE, LIST | 2 << 2 | RW, both)
    assert world.do(SHARE, *args)[0] == base + 5 * PAGE


def test_unmap_skips_what_is_not_there(world: World2) -> None:
    """Whole tables that do not exist, up to a TABLE entry."""
    rd = world.realm()
    assert world.do(UNMAP, rd, GIB + PAGE, 3 * GIB, NONE, 0)[0] == 3 * GIB
    assert world.do(UNMAP, rd, MIB2, GIB, NONE, 0)[0] == GIB
    world.tables(rd, 4 * MIB2, [3])
    assert world.do(UNMAP, rd, MIB2, GIB, NONE, 0)[0] == 4 * MIB2


def test_unmap_in_any_state(world: World2) -> None:
    """A host empties a realm that is over."""
    rd = world.realm()
    world.page(rd, 0)
    world.page(rd, PAGE)
    rec = world.rec(rd)
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    world.do(UNMAP, rd, 0, PAGE, NONE, 0)
    world.enter(rec, smc(0x8400_0008))
    world.do(UNMAP, rd, PAGE, 2 * PAGE, NONE, 0)
    world.do(Rmi2Fid.RMI_REALM_TERMINATE, rd)
    world.do(UNMAP, rd, 0, MIB2, NONE, 0)


def test_init_ripas_of_pages_that_are_there(world: World2) -> None:
    """DATA entries become RAM; the realm's measurement stays zero."""
    rd, pa = world.realm(), world.delegated(4)
    world.do(MAP, rd, 0, 2 * PAGE, SINGLE, desc(pa, 2))
    assert world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0, MIB2)[0] == MIB2
    assert world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0, MIB2)[0] == MIB2  # RAM stays RAM
    assert entry(world, rd, PAGE) == (3, 1, pa + PAGE, Ripas.RAM)
    world.do(UNMAP, rd, 0, PAGE, NONE, 0)
    assert world.call(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0, MIB2)[0] == RTT | 3 << 8
    world.do(MAP, rd, 0, PAGE, SINGLE, desc(pa))
    assert entry(world, rd, 0) == (3, 1, pa, Ripas.DESTROYED)  # and not 0, as in RMI 1.0
    assert world.call(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0, MIB2)[0] == RTT | 3 << 8
    assert world.rmm.realms[rd].measurements.values[0] == bytes(32)
    assert entry(world, rd, 0, 2)[:2] == (2, 2)


def test_a_realm_uses_what_was_mapped() -> None:
    """On the real machine; and nothing after the unmap."""
    world = CoreWorld2()
    rd, pa = world.realm(), world.delegated(4)
    world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0, MIB2)
    world.do(MAP, rd, 0, 4 * PAGE, SINGLE, desc(pa, 4))
    shared = world.ns_granule(b"hello")
    world.do(SHARE, rd, UNPROTECTED, UNPROTECTED + PAGE, SINGLE | RW, desc(shared))
    context = world.context_of(world.rmm.realms[rd])
    assert [world.translate(context, ipa, 0) for ipa in (0, 3 * PAGE)] == [
        (pa, Pas.REALM),
        (pa + 3 * PAGE, Pas.REALM),
    ]
    assert world.translate(context, UNPROTECTED, 0) == (shared, Pas.NS)
    world.do(UNMAP, rd, 0, 4 * PAGE, NONE, 0)
    world.do(UNSHARE, rd, UNPROTECTED, UNPROTECTED + PAGE, NONE, 0)
    assert isinstance(world.translate(context, 0, 0), int)
    assert isinstance(world.translate(context, UNPROTECTED, 0), int)


def test_realm_reads_what_it_was_given(world: World2) -> None:
    """RSI sees the RIPAS that the host has set."""
    rd = world.realm()
    world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0, 2 * PAGE)
    rec = world.rec(rd)
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    world.enter(rec, smc(RsiFid.RSI_IPA_STATE_GET, 0, MIB2))
    assert world.context(rec).x[:3] == [0, 2 * PAGE, Ripas.RAM]


def test_pages_with_content_in_a_series(world: World2) -> None:
    """As many as certainly succeed; one whose source is not the host's ends it."""
    rd, pa = world.realm(), world.delegated(4)
    sources = [world.ns_granule(bytes([n + 1]) * PAGE) for n in range(4)]
    args = (Rmi2Fid.RMI_RTT_DATA_MAP_INIT, rd, pa, 0, sources[0], 1)
    steps = (0, 0, PAGE, PAGE, PAGE, 0)
    assert world.rmm.handle_series(0, args, steps, 4) == 4
    assert world.realm_memory.read(pa + 3 * PAGE, PAGE) == bytes([4]) * PAGE
    one = World2()
    other, data = one.realm(), one.delegated(4)
    for n in range(4):
        source = one.ns_granule(bytes([n + 1]) * PAGE)
        one.do(Rmi2Fid.RMI_RTT_DATA_MAP_INIT, other, data + n * PAGE, n * PAGE, source, 1)
    measurements = [w.rmm.realms[r].measurements.values for w, r in ((world, rd), (one, other))]
    assert measurements[0] == measurements[1]
    with pytest.raises(GranuleProtectionFault):
        world.ns.read(pa, 1)
