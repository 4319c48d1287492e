"""RMI 2.0: which revision is served, the RMM's state, features, tracking and ranges of granules."""

import pytest

from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.rmi import RmiFid
from pyvmm.arch.rmi2 import Features0, Features1, Rmi2Fid, RmmConfig, RmmState
from rmm.rmi2.granule import MAX_GRANULES
from tests.rmm.world import DRAM_BASE, DRAM_SIZE, World
from tests.rmm.world2 import BUSY, GLOBAL, INPUT, REALM, World2

V1, V2 = 0x1_0000, 0x2_0000
PAGE, GIB = GRANULE_SIZE, 1 << 30
END = DRAM_BASE + DRAM_SIZE
UNKNOWN = (1 << 64) - 1
DELEGATE, UNDELEGATE = Rmi2Fid.RMI_GRANULE_RANGE_DELEGATE, Rmi2Fid.RMI_GRANULE_RANGE_UNDELEGATE


def test_both_revisions_are_offered() -> None:
    """1.0 is served until the host selects 2.0."""
    world = World2(is_active=False)
    assert world.call(DELEGATE, DRAM_BASE, END)[0] == UNKNOWN
    assert world.call(RmiFid.RMI_VERSION, 3 << 16) == (INPUT, V1, V2, 0, 0)
    assert world.call(RmiFid.RMI_GRANULE_DELEGATE, DRAM_BASE)[0] == 0
    assert world.call(RmiFid.RMI_VERSION, V2) == (0, V1, V2, 0, 0)
    assert world.call(RmiFid.RMI_GRANULE_DELEGATE, DRAM_BASE)[0] == UNKNOWN
    assert world.call(DELEGATE, DRAM_BASE, END)[0] == GLOBAL
    world.do(Rmi2Fid.RMI_RMM_ACTIVATE)
    assert world.call(DELEGATE, DRAM_BASE, DRAM_BASE + PAGE)[0] == 0  # it was delegated before


def test_a_realm_cannot_be_driven_by_the_other_revision() -> None:
    """As long as there is a realm or an operation, the revision stays."""
    world = World2()
    rd = world.realm(depth=1)
    for _ in range(2):
        assert world.call(RmiFid.RMI_VERSION, V1) == (INPUT, V1, V2, 0, 0)
    assert world.call(RmiFid.RMI_VERSION, V2)[0] == 0
    world.do(Rmi2Fid.RMI_REALM_TERMINATE, rd)
    world.call(RmiFid.RMI_REALM_DESTROY, rd)
    assert rd not in world.rmm.realms
    assert world.call(RmiFid.RMI_VERSION, V1)[0] == INPUT  # its memory is not returned
    buffer = world.ns_granule()
    world.call(Rmi2Fid.RMI_OP_MEM_RECLAIM, rd, buffer, 512)
    world.do(Rmi2Fid.RMI_OP_CONTINUE, rd, 0)
    assert world.call(RmiFid.RMI_VERSION, V1)[0] == 0
    rd = World.realm(OldHost(world))
    assert world.call(RmiFid.RMI_VERSION, V2)[0] == INPUT
    assert world.call(RmiFid.RMI_REALM_DESTROY, rd)[0] == REALM  # there is one: it has tables


class OldHost(World):
    """A host of the same machine that speaks RMI 1.0."""

    def __init__(self, world: World2) -> None:
        """Share the machine."""
        self.__dict__ = world.__dict__


def test_activation_lasts_over_a_change_of_revision() -> None:
    """The state of the RMM is not that of a host."""
    world = World2()
    world.do(RmiFid.RMI_VERSION, V1)
    world.do(RmiFid.RMI_VERSION, V2)
    assert world.do(Rmi2Fid.RMI_RMM_STATE_GET)[0] == RmmState.ACTIVE


def test_deactivation() -> None:
    """With all memory returned; the configuration stays."""
    world = World2(is_active=False)
    world.do(RmiFid.RMI_VERSION, V2)
    assert world.do(Rmi2Fid.RMI_RMM_STATE_GET)[0] == RmmState.INIT
    world.do(
        Rmi2Fid.RMI_RMM_CONFIG_SET, world.ns_granule(RmmConfig.of(tracking_region_size=1).data)
    )
    assert world.call(Rmi2Fid.RMI_RMM_DEACTIVATE)[0] == GLOBAL
    world.do(Rmi2Fid.RMI_RMM_ACTIVATE)
    pa = world.delegated()
    assert world.call(Rmi2Fid.RMI_RMM_DEACTIVATE)[0] == GLOBAL
    world.do(UNDELEGATE, pa, pa + PAGE)
    world.do(Rmi2Fid.RMI_RMM_DEACTIVATE)
    assert world.do(Rmi2Fid.RMI_RMM_STATE_GET)[0] == RmmState.INIT
    assert world.call(DELEGATE, pa, pa + PAGE)[0] == GLOBAL
    world.do(Rmi2Fid.RMI_RMM_CONFIG_GET, pa)
    assert RmmConfig(world.ns.read(pa, PAGE)).tracking_region_size == 1


def test_deactivation_waits_for_operations() -> None:
    """They are the host's, so it has to end them."""
    world = World2()
    rd = world.delegated()
    world.call(RmiFid.RMI_REALM_CREATE, rd, world.ns_granule(world.params2().data))
    assert world.call(Rmi2Fid.RMI_RMM_DEACTIVATE)[0] == BUSY


def test_features() -> None:
    """Registers 0 and 1 tell limits; there are no devices, planes or private MECs."""
    world = World2()
    limits = Features0(world.do(RmiFid.RMI_FEATURES, 0)[0])
    assert (limits.S2SZ, limits.S2OASZ, limits.NUM_BPS, limits.NUM_WPS) == (48, 48, 5, 3)
    assert (limits.PMU, limits.PMU_NUM_CTRS) == (True, 6)
    more = Features1(world.do(RmiFid.RMI_FEATURES, 1)[0])
    hashes = (more.HASH_SHA_256, more.HASH_SHA_384, more.HASH_SHA_512)
    assert (more.GRANULE_4KB, *hashes) == (True, True, True, True)
    assert (more.MAX_RECS_ORDER, more.L0GPTSZ, more.PPS) == (10, 0, 5)
    for index in (2, 3, 4, 5, (1 << 64) - 1):
        assert world.do(RmiFid.RMI_FEATURES, index)[0] == 0


def test_tracking() -> None:
    """DRAM is conventional and fine; what is around it is not tracked."""
    world = World2()
    get = Rmi2Fid.RMI_GRANULE_TRACKING_GET
    assert world.do(get, DRAM_BASE, END)[:3] == (0, 2, END)
    assert world.do(get, DRAM_BASE + PAGE, END + GIB)[:3] == (0, 2, END)
    assert world.do(get, 0, END)[:3] == (3, 1, DRAM_BASE)
    assert world.do(get, 0, PAGE)[:3] == (3, 1, PAGE)
    assert world.do(get, END, 1 << 48)[:3] == (3, 1, 1 << 48)
    world.do(Rmi2Fid.RMI_GRANULE_TRACKING_SET, DRAM_BASE, 0, 2)


def test_tracking_sees_gaps() -> None:
    """Between two banks."""
    world = World2()
    get, gap = Rmi2Fid.RMI_GRANULE_TRACKING_GET, slice(16, 32)
    world.rmm.granules.states[gap] = bytes([7]) * 16
    first, second = DRAM_BASE + 16 * PAGE, DRAM_BASE + 32 * PAGE
    assert world.do(get, DRAM_BASE, END)[:3] == (0, 2, first)
    assert world.do(get, first, END)[:3] == (3, 1, second)
    assert world.do(get, first, first + PAGE)[:3] == (3, 1, first + PAGE)
    assert world.do(DELEGATE, first - PAGE, END)[0] == first


def test_gpt_info() -> None:
    """The platform manages the part for DRAM."""
    world = World2()
    assert world.do(Rmi2Fid.RMI_GPT_INFO, DRAM_BASE, DRAM_BASE + 4 * GIB)[:2] == (
        DRAM_BASE + GIB,
        1,
    )
    assert world.do(Rmi2Fid.RMI_GPT_INFO, 0, GIB)[:2] == (GIB, 0)
    assert world.do(Rmi2Fid.RMI_GPT_INFO, (1 << 48) - GIB, 1 << 48)[:2] == (1 << 48, 0)


# --- ranges of granules -----------------------------------------------------------------------


def test_range_is_moved_and_moved_back() -> None:
    """Both commands skip what is done already."""
    world = World2()
    base = world.ns_granule(b"secret")
    top = base + 10 * PAGE
    world.do(DELEGATE, base + 2 * PAGE, base + 4 * PAGE)
    assert world.do(DELEGATE, base, top)[0] == top
    assert all(world.is_realm(pa) for pa in range(base, top, PAGE))
    assert world.realm_memory.read(base, PAGE) == bytes(PAGE)
    assert world.do(DELEGATE, base, top)[0] == top
    world.do(UNDELEGATE, base + 8 * PAGE, top)
    assert world.do(UNDELEGATE, base, top)[0] == top
    assert not any(world.is_realm(pa) for pa in range(base, top, PAGE))
    assert world.ns.read(base, PAGE) == bytes(PAGE)


@pytest.mark.parametrize("fid", [DELEGATE, UNDELEGATE])
def test_range_stops_before_a_granule_in_use(fid: int) -> None:
    """And before the end of DRAM."""
    world = World2()
    rd = world.realm(depth=1)
    base = rd - 2 * PAGE
    world.do(DELEGATE if fid == UNDELEGATE else UNDELEGATE, base, rd)
    world.do(fid, base, rd)
    assert world.do(fid, base, END)[0] == world.rmm.realms[rd].rtt.start[0].pa
    assert world.do(fid, END - PAGE, END + PAGE)[0] == END


def test_range_stops_where_el3_refuses() -> None:
    """At a granule of the Secure world."""
    world = World2()
    base = world.ns_granule()
    world.machine.gpt[(base - DRAM_BASE) // PAGE + 2] = Pas.SECURE
    assert world.do(DELEGATE, base, base + 4 * PAGE)[0] == base + 2 * PAGE
    assert world.call(DELEGATE, base + 2 * PAGE, base + 4 * PAGE)[0] == INPUT


def test_range_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One command does not move all memory."""
    assert MAX_GRANULES * PAGE > DRAM_SIZE
    monkeypatch.setattr("rmm.rmi2.granule.MAX_GRANULES", 8)
    world = World2()
    base = world.ns_granule()
    assert world.do(DELEGATE, base, END)[0] == base + 8 * PAGE
    assert world.do(DELEGATE, base, END)[0] == base + 8 * PAGE  # skipped granules count
