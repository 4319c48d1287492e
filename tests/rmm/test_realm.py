"""RMI_REALM_* : parameters, geometry, states."""

from collections.abc import Callable

import pytest

from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.rmi import RmiFid
from pyvmm.arch.stage2 import UNASSIGNED_NS, level_shift
from rmm.granule import GranuleState
from tests.rmm.test_granule import NOT_GRANULES, granule_in
from tests.rmm.world import DRAM_BASE, World

CREATE, ACTIVATE, DESTROY = (
    RmiFid.RMI_REALM_CREATE,
    RmiFid.RMI_REALM_ACTIVATE,
    RmiFid.RMI_REALM_DESTROY,
)
ERROR_INPUT, ERROR_REALM = 1, 2

GEOMETRIES = [
    (32, 1, 1), (33, 1, 1), (39, 1, 1), (40, 1, 2), (43, 1, 16), (40, 0, 1), (48, 0, 1),
    (32, 2, 4), (33, 2, 8), (34, 2, 16),
]  # fmt: skip


@pytest.mark.parametrize(("s2sz", "level", "tables"), GEOMETRIES)
def test_realm_create_makes_the_start_tables(
    world: World, s2sz: int, level: int, tables: int
) -> None:
    """The lower half of the IPA space is UNASSIGNED/EMPTY, the upper half UNASSIGNED_NS."""
    rd = world.realm(depth=0, s2sz=s2sz, rtt_level_start=level, rtt_num_start=tables)
    realm = world.rmm.realms[rd]
    entries = [entry for table in realm.rtt.start for entry in table.entries]
    used = 1 << s2sz - level_shift(level)
    assert entries[: used // 2] == [0] * (used // 2)
    assert entries[used // 2 : used] == [UNASSIGNED_NS] * (used // 2)
    assert not any(entries[used:])
    granules = world.rmm.granules
    assert granules.state(rd) is GranuleState.RD
    assert all(granules.state(table.pa) is GranuleState.RTT for table in realm.rtt.start)


@pytest.mark.parametrize(
    "changes",
    [
        {"s2sz": 31},
        {"s2sz": 49, "rtt_level_start": 0},
        {"s2sz": 0x121},
        {"flags": 1},
        {"flags": 2},
        {"flags": 4},
        {"flags": 4, "pmu_num_ctrs": 7},
        {"flags": 6, "pmu_num_ctrs": 6},
        {"num_bps": 0},
        {"num_bps": 6},
        {"num_wps": 0},
        {"num_wps": 4},
        {"hash_algo": 2},
        {"hash_algo": 255},
        {"rtt_level_start": 0},
        {"rtt_level_start": 3},
        {"rtt_level_start": 4},
        {"rtt_level_start": -1},
        {"rtt_num_start": 0},
        {"rtt_num_start": 2},
        {"rtt_num_start": 0xFFFF_FFFF},
        {"s2sz": 40, "rtt_num_start": 1},
        {"rtt_base": DRAM_BASE},
        {"rtt_base": 0},
        {"rtt_base": (1 << 64) - GRANULE_SIZE},
    ],
)
def test_realm_create_refuses_parameters(world: World, changes: dict[str, int]) -> None:
    """Every parameter out of its range is ERROR_INPUT, and nothing changes."""
    num_start = changes.get("rtt_num_start", 1)
    params = world.realm_params(**(changes if num_start < 3 else {}))
    params.rtt_num_start = num_start
    rd, pointer = world.delegated(), world.ns_granule(params.data)
    before = world.snapshot()
    assert world.call(CREATE, rd, pointer) == (ERROR_INPUT, 0, 0, 0, 0)
    assert world.snapshot() == before


def test_realm_create_refuses_aliased_and_unaligned_granules(world: World) -> None:
    """RD, start tables and parameters are different granules; start tables are aligned."""
    params = world.realm_params(s2sz=40, rtt_num_start=2)
    good = world.delegated()
    pointer = world.ns_granule(params.data)
    shifted = world.realm_params(s2sz=40, rtt_num_start=2)
    odd = world.delegated(4, align=2 * GRANULE_SIZE) + GRANULE_SIZE
    shifted.rtt_base = odd
    before = world.snapshot()
    for rd in (params.rtt_base, params.rtt_base + GRANULE_SIZE, pointer, good + 8):
        assert world.call(CREATE, rd, pointer)[0] == ERROR_INPUT
    for bad_pointer in (*NOT_GRANULES, good, pointer + 8):
        assert world.call(CREATE, good, bad_pointer)[0] == ERROR_INPUT
    assert world.snapshot() == before
    assert world.call(CREATE, good, world.ns_granule(shifted.data))[0] == ERROR_INPUT


def test_realm_create_refuses_parameters_that_it_cannot_read(world: World) -> None:
    """An UNDELEGATED granule may still be the Secure world's."""
    rd, pointer = world.delegated(), world.ns_granule(world.realm_params().data)
    world.machine.gpt[(pointer - DRAM_BASE) // GRANULE_SIZE] = Pas.SECURE
    assert world.call(CREATE, rd, pointer)[0] == ERROR_INPUT


@pytest.mark.parametrize("state", sorted(set(GranuleState) - {GranuleState.DELEGATED}))
def test_realm_create_changes_nothing_when_a_granule_is_not_delegated(
    world: World, state: GranuleState
) -> None:
    """Neither the RD nor a start table can be in use."""
    bad = granule_in(world, state)
    params = world.realm_params(vmid=9)
    rd, pointer = world.delegated(), world.ns_granule(params.data)
    before = world.snapshot()
    assert world.call(CREATE, bad, pointer)[0] == ERROR_INPUT
    assert world.snapshot() == before
    params.rtt_base = bad
    assert world.call(CREATE, rd, world.ns_granule(params.data))[0] == ERROR_INPUT


def test_vmid_is_unique_among_live_realms(world: World) -> None:
    """A VMID is taken from REALM_CREATE to REALM_DESTROY."""
    rd = world.realm(depth=0)
    other, pointer = world.delegated(), world.ns_granule(world.realm_params().data)
    assert world.call(CREATE, other, pointer)[0] == ERROR_INPUT
    world.do(DESTROY, rd)
    world.do(CREATE, other, pointer)


def live_table(world: World) -> int:
    """Make a realm with a table."""
    return world.realm(depth=2)


def live_rec(world: World) -> int:
    """Make a realm with a REC."""
    rd = world.realm(depth=0)
    world.rec(rd)
    return rd


def test_realm_destroy_takes_shared_blocks_with_it(world: World) -> None:
    """Shared memory is the host's: it does not prevent the destruction of the realm."""
    rd = world.realm(depth=0)
    (start,) = world.rmm.realms[rd].rtt.start
    world.do(RmiFid.RMI_RTT_MAP_UNPROTECTED, rd, 1 << 32, 1, 0)
    world.do(DESTROY, rd)
    assert world.machine.tlbis
    assert not any(world.realm_memory.read(start.pa, GRANULE_SIZE))


@pytest.mark.parametrize("make", [live_table, live_rec])
def test_realm_destroy_changes_nothing_when_realm_is_live(
    world: World, make: Callable[[World], int]
) -> None:
    """Tables and RECs go first."""
    rd = make(world)
    before = world.snapshot()
    assert world.call(DESTROY, rd)[0] == ERROR_REALM
    assert world.snapshot() == before


def test_realm_destroy_frees_scrubbed_granules(world: World) -> None:
    """What was the realm's is DELEGATED and zero."""
    rd = world.realm(depth=0, s2sz=40, rtt_num_start=2)
    base = world.rmm.realms[rd].rtt.start[0].pa
    world.do(DESTROY, rd)
    for pa in (rd, base, base + GRANULE_SIZE):
        assert world.rmm.granules.state(pa) is GranuleState.DELEGATED
        assert not any(world.realm_memory.read(pa, GRANULE_SIZE))
    assert (7,) in world.machine.tlbis


@pytest.mark.parametrize("fid", [ACTIVATE, DESTROY, RmiFid.RMI_REC_AUX_COUNT])
@pytest.mark.parametrize("state", sorted(set(GranuleState) - {GranuleState.RD}))
def test_realm_commands_need_an_rd(world: World, fid: int, state: GranuleState) -> None:
    """Only an RD identifies a realm."""
    pa = granule_in(world, state)
    before = world.snapshot()
    assert world.call(fid, pa) == (ERROR_INPUT, 0, 0, 0, 0)
    assert world.snapshot() == before


def test_realm_activate_only_once(world: World) -> None:
    """NEW becomes ACTIVE; ACTIVE stays."""
    rd = world.realm()
    world.do(ACTIVATE, rd)
    before = world.snapshot()
    assert world.call(ACTIVATE, rd) == (ERROR_REALM, 0, 0, 0, 0)
    assert world.snapshot() == before
