"""RMI_GRANULE_DELEGATE and RMI_GRANULE_UNDELEGATE."""

import pytest

from pyvmm.arch.islet import IsletRmiFid
from pyvmm.arch.pas import GRANULE_SIZE, GranuleProtectionFault, Pas
from pyvmm.arch.rmi import RmiFid
from rmm.granule import GranuleState, IllegalMove
from tests.rmm.metadata import realm_metadata
from tests.rmm.world import DRAM_BASE, DRAM_SIZE, World

DELEGATE, UNDELEGATE = RmiFid.RMI_GRANULE_DELEGATE, RmiFid.RMI_GRANULE_UNDELEGATE
ERROR_INPUT = 1
NOT_GRANULES = (
    0,
    DRAM_BASE + 1,
    DRAM_BASE + 0x800,
    DRAM_BASE - GRANULE_SIZE,
    DRAM_BASE + DRAM_SIZE,
    (1 << 64) - GRANULE_SIZE,
    (1 << 63) | DRAM_BASE,
)


def granule_in(world: World, state: GranuleState) -> int:
    """Bring a granule of the world into a state, by commands alone."""
    match state:
        case GranuleState.UNDELEGATED:
            return world.ns_granule()
        case GranuleState.DELEGATED:
            return world.delegated()
        case GranuleState.RD:
            return world.realm()
        case GranuleState.RTT:
            return next(iter(world.rmm.realms[world.realm()].rtt.tables))
        case GranuleState.DATA:
            return world.page(world.realm(), 0)
        case GranuleState.REC:
            return world.rec(world.realm())
        case GranuleState.REC_AUX:
            return world.rmm.recs[world.rec(world.realm())].aux[0]
        case GranuleState.METADATA:
            mdg, source = world.delegated(), world.ns_granule(realm_metadata().data)
            world.do(IsletRmiFid.RMI_ISLET_REALM_SET_METADATA, world.realm(), mdg, source)
            return mdg
        case GranuleState.NOT_DRAM:
            return DRAM_BASE + DRAM_SIZE


def test_states_are_distinct() -> None:
    """No two share a number."""
    assert len(GranuleState) == len(GranuleState.__members__)


@pytest.mark.parametrize("old", sorted(GranuleState))
def test_moves_that_are_not_in_the_diagram_are_refused(world: World, old: GranuleState) -> None:
    """Only DELEGATED has more than one neighbour, and no state is its own."""
    pa, granules = granule_in(world, GranuleState.UNDELEGATED), world.rmm.granules
    granules.states[(pa - DRAM_BASE) // GRANULE_SIZE] = old
    real = set(GranuleState) - {GranuleState.NOT_DRAM}
    neighbours = {
        GranuleState.DELEGATED: real - {GranuleState.DELEGATED},
        GranuleState.NOT_DRAM: set[GranuleState](),
    }.get(old, {GranuleState.DELEGATED})
    for new in GranuleState:
        if new in neighbours:
            granules.move(pa, new)
            granules.states[(pa - DRAM_BASE) // GRANULE_SIZE] = old
        else:
            with pytest.raises(IllegalMove):
                granules.move(pa, new)
            assert granules.state(pa) is old


def test_state_of_every_address(world: World) -> None:
    """Each granule of DRAM has a state; other addresses have none."""
    states, end = world.rmm.granules, DRAM_BASE + DRAM_SIZE
    assert states.state(DRAM_BASE) is states.state(end - 1) is GranuleState.UNDELEGATED
    for pa in (DRAM_BASE - 1, end, 0, (1 << 64) - GRANULE_SIZE):
        assert states.state(pa) is GranuleState.NOT_DRAM


def test_delegated_granule_reads_as_zeros_and_is_inaccessible_to_the_host(world: World) -> None:
    """The host's bytes do not enter the Realm PAS, and the host loses the granule."""
    pa = world.ns_granule(b"host")
    world.do(DELEGATE, pa)
    assert world.rmm.granules.state(pa) is GranuleState.DELEGATED
    assert world.realm_memory.read(pa, GRANULE_SIZE) == bytes(GRANULE_SIZE)
    with pytest.raises(GranuleProtectionFault):
        world.ns.read(pa, 1)


def test_undelegate_gives_the_granule_back_zeroed(world: World) -> None:
    """A round trip leaves the host an empty granule."""
    pa = world.ns_granule(b"host")
    world.do(DELEGATE, pa)
    world.do(UNDELEGATE, pa)
    assert world.rmm.granules.state(pa) is GranuleState.UNDELEGATED
    assert world.ns.read(pa, GRANULE_SIZE) == bytes(GRANULE_SIZE)


@pytest.mark.parametrize(
    ("fid", "state"),
    [
        *((DELEGATE, state) for state in GranuleState if state != GranuleState.UNDELEGATED),
        *((UNDELEGATE, state) for state in GranuleState if state != GranuleState.DELEGATED),
    ],
)
def test_granule_commands_change_nothing_when_granule_is_in_another_state(
    world: World, fid: int, state: GranuleState
) -> None:
    """A failed command has no effect; nothing that the RMM uses can be taken back."""
    pa = granule_in(world, state)
    before = world.snapshot()
    assert world.call(fid, pa) == (ERROR_INPUT, 0, 0, 0, 0)
    assert world.snapshot() == before


@pytest.mark.parametrize("fid", [DELEGATE, UNDELEGATE])
@pytest.mark.parametrize("pa", NOT_GRANULES)
def test_granule_commands_refuse_other_addresses(world: World, fid: int, pa: int) -> None:
    """Unaligned and foreign addresses are ERROR_INPUT."""
    before = world.snapshot()
    assert world.call(fid, pa)[0] == ERROR_INPUT
    assert world.snapshot() == before


def test_granule_delegate_fails_when_el3_refuses(world: World) -> None:
    """The RMM cannot take a granule that EL3 gave to the Secure world."""
    pa = world.ns_granule()
    world.machine.gpt[(pa - DRAM_BASE) // GRANULE_SIZE] = Pas.SECURE
    before = world.snapshot()
    assert world.call(DELEGATE, pa)[0] == ERROR_INPUT
    assert world.snapshot() == before


def test_granule_undelegate_fails_when_el3_refuses(world: World) -> None:
    """The RMM keeps the granule."""
    pa = world.delegated()
    world.machine.gpt[(pa - DRAM_BASE) // GRANULE_SIZE] = Pas.ROOT
    assert world.call(UNDELEGATE, pa)[0] == ERROR_INPUT
    assert world.rmm.granules.state(pa) is GranuleState.DELEGATED
