"""The operations of RMI 2.0: what a host may do between two steps, and what it cannot get wrong."""

from array import array
from collections.abc import Iterator

import pytest

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import RecParams, RmiFid
from pyvmm.arch.rmi2 import Rmi2Fid
from rmm.granule import GranuleState
from rmm.realm import RealmState
from tests.rmm.invariants import check_invariants
from tests.rmm.world2 import (
    BLOCKED,
    CAN_CANCEL,
    DONATE,
    INCOMPLETE,
    INPUT,
    REALM,
    RECLAIM,
    CoreWorld2,
    Host2,
    World2,
    desc,
)

PAGE = GRANULE_SIZE
CONTINUE, CANCEL = Rmi2Fid.RMI_OP_CONTINUE, Rmi2Fid.RMI_OP_CANCEL
ASKS = INCOMPLETE | DONATE | CAN_CANCEL
HAS_ALL = INCOMPLETE | CAN_CANCEL
RETURNS = INCOMPLETE | RECLAIM


@pytest.fixture(params=[World2, CoreWorld2], ids=["fake", "core"])
def world(request: pytest.FixtureRequest) -> Iterator[Host2]:
    """A world with an active RMM; the invariants hold at the end of each test."""
    world: Host2 = request.param()
    yield world
    check_invariants(world.rmm, world.is_realm, ())


def begin_realm(world: Host2) -> int:
    """Begin the creation of a realm; return the handle."""
    rd = world.delegated()
    results = world.call(RmiFid.RMI_REALM_CREATE, rd, world.ns_granule(world.params2().data))
    assert results[:3] == (ASKS, rd, 2 << 2)
    return rd


def begin_rec(world: Host2, rd: int, mpidr: int = 0) -> int:
    """Begin the creation of a REC; return the handle."""
    rec = world.delegated()
    params = RecParams.of(flags=1, mpidr=mpidr, pc=0x1000)
    results = world.call(RmiFid.RMI_REC_CREATE, rd, rec, world.ns_granule(params.data))
    assert results[:3] == (ASKS, rec, 2 << 2)
    return rec


def donate(world: Host2, handle: int, *ranges: int, pe: int = 0) -> tuple[int, ...]:
    """Lend memory to an operation; return x0 to x2."""
    args = (handle, world.list(*ranges), len(ranges))
    return world.call(Rmi2Fid.RMI_OP_MEM_DONATE, *args, pe=pe)[:3]


def reclaim(world: Host2, handle: int, count: int = 512) -> tuple[int, list[int]]:
    """Take memory back; return x0 and the list."""
    buffer = world.ns_granule()
    x0, found, *_ = world.call(Rmi2Fid.RMI_OP_MEM_RECLAIM, handle, buffer, count)
    return x0, array("Q", world.ns.read(buffer, 8 * found)).tolist()


def apart(world: Host2, count: int) -> list[int]:
    """Return granules that are not in a row, in which case they would be one range."""
    return [world.delegated(2) for _ in range(count)]


def states(world: Host2, *pas: int) -> set[str]:
    """Return the states of granules."""
    return {world.rmm.granules.state(pa).name for pa in pas}


def test_memory_in_parts(world: Host2) -> None:
    """The remaining need is told each time; nothing exists before the last step."""
    rd, pa = begin_realm(world), world.delegated(2)
    assert donate(world, rd) == (ASKS, 0, 2 << 2)
    assert donate(world, rd, desc(pa)) == (ASKS, 1, 1 << 2)
    assert donate(world, rd, desc(pa)) == (INPUT, 0, 0)  # the same memory again
    assert donate(world, rd, desc(pa + PAGE)) == (HAS_ALL, 1, 0)
    assert rd not in world.rmm.realms
    assert world.call(CONTINUE, rd, 0)[:3] == (0, 0, 0)
    assert world.rmm.realms[rd].donated == [pa, pa + PAGE]
    assert world.call(CONTINUE, rd, 0)[0] == INPUT  # the handle is dead


def test_a_range_of_granules_is_one_descriptor(world: Host2) -> None:
    """Given and taken back."""
    rd, pa = begin_realm(world), world.delegated(2)
    assert donate(world, rd, desc(pa, 2)) == (HAS_ALL, 2, 0)
    world.do(CONTINUE, rd, 0)
    world.do(Rmi2Fid.RMI_REALM_TERMINATE, rd)
    assert world.call(RmiFid.RMI_REALM_DESTROY, rd)[:3] == (RETURNS, rd, 0)
    assert reclaim(world, rd) == (INCOMPLETE, [desc(pa, 2)])
    world.do(CONTINUE, rd, 0)
    assert states(world, rd, pa, pa + PAGE) == {"DELEGATED"}
    assert not world.rmm.operations


def test_each_step_on_another_pe(world: Host2) -> None:
    """An operation does not belong to the PE that began it."""
    rd, pas = begin_realm(world), [world.delegated(), world.delegated()]
    donate(world, rd, *map(desc, pas), pe=1)
    world.do(CONTINUE, rd, 0, pe=2)
    world.do(Rmi2Fid.RMI_REALM_TERMINATE, rd, pe=3)
    world.must_operate(RmiFid.RMI_REALM_DESTROY, rd)


@pytest.mark.parametrize("num_donated", [0, 1, 2])
def test_cancelling(world: Host2, num_donated: int) -> None:
    """What was donated comes back, then everything is as before."""
    rd = world.realm(depth=1)
    rim = world.rmm.realms[rd].measurements.values[0]
    rec, pas = begin_rec(world, rd), apart(world, num_donated)
    donate(world, rec, *map(desc, pas))
    expected = RETURNS if pas else INCOMPLETE
    assert world.call(CANCEL, rec)[:3] == (expected, 0, 0)
    assert world.call(CANCEL, rec)[0] == INPUT
    if pas:
        assert world.call(CONTINUE, rec, 0)[0] == INPUT
        assert donate(world, rec, desc(world.delegated()))[0] == INPUT
        assert reclaim(world, rec, 1)[1] == [desc(pas[0])]
        assert sum(len(reclaim(world, rec, 1)[1]) for _ in pas[1:]) == num_donated - 1
    assert world.call(CONTINUE, rec, 0)[:3] == (INPUT, 0, 0)
    assert states(world, rec, *pas) == {"DELEGATED"}
    assert world.rmm.realms[rd].measurements.values[0] == rim
    world.rec(rd)  # nothing is in the way


def test_start_tables_are_reserved_and_released(world: Host2) -> None:
    """They cannot be used for anything else while a realm is being created."""
    params = world.params2()
    rd, page = world.delegated(), world.ns_granule(params.data)
    world.call(RmiFid.RMI_REALM_CREATE, rd, page)
    table = params.rtt_base
    for pa in (rd, table):
        range_ = (pa, pa + PAGE)
        assert world.call(Rmi2Fid.RMI_GRANULE_RANGE_UNDELEGATE, *range_)[0] in {INPUT, BLOCKED}
    other = world.delegated()
    assert world.call(RmiFid.RMI_REALM_CREATE, other, page)[0] == INPUT
    world.ns.write(page, b"\xff" * PAGE)  # the parameters have been read
    world.call(CANCEL, rd)
    world.call(CONTINUE, rd, 0)
    assert states(world, rd, table) == {"DELEGATED"}


def test_vmids_of_operations_are_taken(world: Host2) -> None:
    """Two realms that are being created at once get different ones."""
    handles = [begin_realm(world) for _ in range(3)]
    for rd in handles:
        donate(world, rd, desc(world.delegated(2), 2))
        world.do(CONTINUE, rd, 0)
    assert {world.rmm.realms[rd].vmid for rd in handles} == {1, 2, 3}


def test_object_of_an_operation_is_blocked(world: Host2) -> None:
    """For every command that names it; nothing changes."""
    rd = begin_realm(world)
    assert world.call(RmiFid.RMI_REALM_ACTIVATE, rd)[0] == BLOCKED
    assert world.call(RmiFid.RMI_REALM_CREATE, rd, world.ns_granule(world.params2().data))[0] == (
        BLOCKED
    )
    donate(world, rd, desc(world.delegated(2), 2))
    world.do(CONTINUE, rd, 0)
    rec = begin_rec(world, rd)
    run = world.ns_granule()
    assert world.call(RmiFid.RMI_REC_ENTER, rec, run)[0] == BLOCKED
    assert world.call(RmiFid.RMI_REC_DESTROY, rec)[0] == BLOCKED


CHANGES = {
    "activated": (RmiFid.RMI_REALM_ACTIVATE, REALM),
    "terminated": (Rmi2Fid.RMI_REALM_TERMINATE, REALM),
}


@pytest.mark.parametrize("change", CHANGES)
def test_realm_that_changes_under_an_operation(world: Host2, change: str) -> None:
    """The REC is refused at the end; its memory comes back first."""
    fid, status = CHANGES[change]
    rd = world.realm(depth=1)
    rec, pa = begin_rec(world, rd), world.delegated(2)
    donate(world, rec, desc(pa, 2))
    world.do(fid, rd)
    rim = world.rmm.realms[rd].measurements.values[0]
    assert world.call(CONTINUE, rec, 0)[:3] == (RETURNS, 0, 0)
    assert world.call(CANCEL, rec)[0] == INPUT
    assert reclaim(world, rec) == (INCOMPLETE, [desc(pa, 2)])
    assert world.call(CONTINUE, rec, 0)[:3] == (status, 0, 0)
    assert states(world, rec, pa) == {"DELEGATED"}
    assert world.rmm.realms[rd].measurements.values[0] == rim
    assert world.rmm.realms[rd].num_live_recs == 0


def test_realm_that_is_destroyed_under_an_operation(world: Host2) -> None:
    """Even if there is another realm at its place."""
    rd = world.realm(depth=1)
    rec, pa = begin_rec(world, rd), world.delegated(2)
    donate(world, rec, desc(pa, 2))
    world.destroy(rd)
    world.must_operate(RmiFid.RMI_REALM_CREATE, rd, world.ns_granule(world.params2().data))
    assert world.rmm.realms[rd].state is RealmState.NEW
    assert world.call(CONTINUE, rec, 0)[0] == RETURNS
    reclaim(world, rec)
    assert world.call(CONTINUE, rec, 0)[0] == REALM
    assert not world.rmm.realms[rd].recs


def test_two_operations_for_one_mpidr(world: Host2) -> None:
    """The first one that ends gets it; the other one fails, and may be repeated with another."""
    rd = world.realm(depth=1)
    first, second = begin_rec(world, rd, 3), begin_rec(world, rd, 3)
    for rec in (second, first):
        donate(world, rec, desc(world.delegated(2), 2))
    world.do(CONTINUE, second, 0)
    assert world.call(CONTINUE, first, 0)[0] == RETURNS
    reclaim(world, first)
    assert world.call(CONTINUE, first, 0)[0] == INPUT
    assert world.rmm.realms[rd].recs == {3: second}
    params = RecParams.of(flags=1, mpidr=1)
    world.must_operate(RmiFid.RMI_REC_CREATE, rd, first, world.ns_granule(params.data))


def test_list_ends_with_its_granule(world: Host2) -> None:
    """However many entries the host says there are."""
    rd, pas = begin_realm(world), apart(world, 2)
    buffer = world.ns_granule()
    world.ns.write(buffer + PAGE - 8, desc(pas[0]).to_bytes(8, "little"))
    args = (rd, buffer + PAGE - 8, (1 << 64) - 1)
    assert world.call(Rmi2Fid.RMI_OP_MEM_DONATE, *args)[:3] == (ASKS, 1, 1 << 2)
    assert donate(world, rd, desc(pas[1]))[0] == HAS_ALL
    world.do(CONTINUE, rd, 0)
    world.do(Rmi2Fid.RMI_REALM_TERMINATE, rd)
    world.call(RmiFid.RMI_REALM_DESTROY, rd)
    assert world.call(Rmi2Fid.RMI_OP_MEM_RECLAIM, rd, buffer + PAGE - 8, 512)[:2] == (RETURNS, 1)
    assert world.call(Rmi2Fid.RMI_OP_MEM_RECLAIM, rd, buffer, 0)[:2] == (RETURNS, 0)
    assert world.call(Rmi2Fid.RMI_OP_MEM_RECLAIM, rd, buffer, 1)[:2] == (INCOMPLETE, 1)
    world.do(CONTINUE, rd, 0)


def test_returned_memory_is_scrubbed(world: Host2) -> None:
    """Whatever the RMM kept there; here it keeps nothing."""
    rd = world.realm(depth=1)
    rec = world.rec(rd)
    aux = world.rmm.recs[rec].aux
    for pa in aux:
        world.realm_memory.write(pa, b"secret")
    world.must_operate(RmiFid.RMI_REC_DESTROY, rec)
    assert {world.realm_memory.read(pa, PAGE) for pa in (rec, *aux)} == {bytes(PAGE)}


def test_abandoned_operation_costs_only_its_memory(world: Host2) -> None:
    """Other realms live on, and the host's memory is all accounted for."""
    abandoned = [begin_realm(world) for _ in range(8)]
    donate(world, abandoned[0], desc(world.delegated()))
    rd = world.realm()
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    lent = world.rmm.granules.states.count(GranuleState.REC_AUX)
    assert lent == 8 * 2 + 1 + 2  # RD and table of each; one page; the realm's
    assert set(world.rmm.operations) == set(abandoned)
