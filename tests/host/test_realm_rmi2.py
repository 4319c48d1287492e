"""A realm whose host uses RMI 2.0: the same life by other commands, and memory that is lent."""

from collections.abc import Iterator

import pytest

from pyvmm.arch.events import RmiCall
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.psci import PsciFid
from pyvmm.arch.rmi import Ripas, RmiFid
from pyvmm.arch.rmi_revisions import VERSION_2_0
from pyvmm.host.guest import Outcome, RealmOptions, Segment
from pyvmm.host.rmi import RmiFailed
from tests.host.fakes import DRAM_BASE, FakeContext, FakeExit, Script
from tests.host.platform import ENTRY, RAM_BASE, RealmRig
from tests.host.test_realm import (
    assert_nothing_left,
    commands,
    power_off,
    run,
    set_ripas,
    smc,
    touch,
)

PAGE = GRANULE_SIZE
OPTIONS = RealmOptions(revision=VERSION_2_0)


def rig_of(*scripts: Script, segments: tuple[Segment, ...] = ()) -> RealmRig:
    """Make a realm by RMI 2.0."""
    return RealmRig(*scripts, segments=segments, options=OPTIONS)


def powers_off(context: FakeContext) -> Iterator[FakeExit]:
    """Turn the realm off at once."""
    yield power_off(context)


def test_life_of_a_realm() -> None:
    """Everything is returned in the end."""
    rig = rig_of(powers_off, lambda _: iter(()), segments=(Segment(ENTRY, b"x" * 2 * PAGE),))
    assert run(rig) is Outcome.OFF
    housekeeping = ("GRANULE_RANGE_DELEGATE", "GRANULE_RANGE_UNDELEGATE", "RTT_CREATE")
    steps = ("OP_MEM_DONATE", "OP_MEM_RECLAIM", "OP_CONTINUE")
    assert commands(rig, without=(*housekeeping, *steps)) == [
        "VERSION",
        "RMM_STATE_GET",
        "RMM_CONFIG_SET",
        "RMM_ACTIVATE",
        "FEATURES",
        "REALM_CREATE",
        "RTT_INIT_RIPAS",
        "RTT_DATA_MAP_INIT",
        "REC_CREATE",
        "REALM_ACTIVATE",
        "REC_ENTER",
        "REALM_TERMINATE",
        "REC_DESTROY",
        "RTT_DATA_UNMAP",
        "RTT_DESTROY",
        "REALM_DESTROY",
    ]
    results = [e.results[0] for e in rig.events if isinstance(e, RmiCall)]
    assert {x0 & 0xFF for x0 in results} <= {0, 4, 13}  # ERROR_RTT: a table was missing


@pytest.mark.parametrize("free", range(1, 8))
def test_shortage_of_memory_cancels_an_operation(free: int) -> None:
    """Whatever was lent before comes back; the next try, with memory, succeeds."""
    rig = rig_of(powers_off)
    realm, allocator = rig.realm, rig.allocator
    taken: list[int] = []
    while allocator.free_size > free * PAGE:
        taken.append(allocator.allocate())
    with pytest.raises(MemoryError):
        realm.build()
    for pa in taken:
        allocator.free(pa)
    realm.close()
    assert rig.rmm.operations == {}
    assert_nothing_left(rig)


def test_second_vcpu_is_turned_on() -> None:
    """The RMM knows it by its MPIDR."""
    seen: list[int] = []

    def second(context: FakeContext) -> Iterator[FakeExit]:
        seen.extend((context.pc, context.x[0]))
        yield smc(context, PsciFid.CPU_OFF)

    def first(context: FakeContext) -> Iterator[FakeExit]:
        yield smc(context, PsciFid.CPU_ON_64, 1, ENTRY + 64, 77)
        assert context.x[0] == 0
        while context.x[0] != 1:
            yield smc(context, PsciFid.AFFINITY_INFO_64, 1, 0)
        yield power_off(context)

    assert run(rig_of(first, second)) is Outcome.OFF
    assert seen == [ENTRY + 64, 77]


def test_memory_is_backed_shared_and_taken_back() -> None:
    """On demand, by ranges."""

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        yield touch(RAM_BASE)
        yield set_ripas(context, RAM_BASE, RAM_BASE + 4 * PAGE, Ripas.EMPTY)
        yield touch(RAM_BASE | rig.realm.geometry.alias)
        yield set_ripas(context, RAM_BASE, RAM_BASE + 2 * PAGE, Ripas.RAM)
        yield touch(RAM_BASE)
        yield power_off(context)

    rig = rig_of(guest)
    assert run(rig) is Outcome.OFF
    used = set(commands(rig))
    assert {"RTT_DATA_MAP", "RTT_DATA_UNMAP", "RTT_UNPROT_MAP", "RTT_UNPROT_UNMAP"} <= used


def test_refusals_are_told() -> None:
    """With the command, its arguments and the status."""
    rig = rig_of(powers_off)
    rig.realm.build()
    dialect, pa = rig.realm._rmi, rig.allocator.allocate(4 * PAGE)
    nothing = DRAM_BASE + PAGE // 2
    with pytest.raises(RmiFailed, match=r"RMI_RTT_DATA_MAP .* -> ERROR_INPUT"):
        dialect.back(0, nothing, RAM_BASE, pa, 1)
    with pytest.raises(RmiFailed, match=r"RMI_RTT_DATA_UNMAP .* -> ERROR_INPUT"):
        dialect.take(0, nothing, RAM_BASE, 1)
    with pytest.raises(RmiFailed, match=r"RMI_REC_DESTROY .* -> ERROR_INPUT"):
        dialect.execute(RmiFid.RMI_REC_DESTROY, pa)
    rig.allocator.free(pa, 4 * PAGE)
    rig.realm.close()
    assert_nothing_left(rig)
