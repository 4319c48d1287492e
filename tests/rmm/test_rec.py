"""RMI_REC_CREATE, RMI_REC_DESTROY and the PSCI calls that concern two RECs."""

from typing import Final

import pytest

from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.psci import PsciFid, PsciReturn
from pyvmm.arch.pstate import EL1H_MASKED
from pyvmm.arch.rmi import RecEnter, RecExitReason, RmiFid
from pyvmm.arch.smccc import SmcccFid
from rmm.granule import GranuleState
from rmm.rec import HCR, SCTLR_EL1_EE, SCTLR_EL1_RESET
from tests.rmm.test_granule import NOT_GRANULES, granule_in
from tests.rmm.world import World, smc

CREATE, DESTROY, COMPLETE = (
    RmiFid.RMI_REC_CREATE,
    RmiFid.RMI_REC_DESTROY,
    RmiFid.RMI_PSCI_COMPLETE,
)
ENTER: Final = RmiFid.RMI_REC_ENTER
ERROR_INPUT, ERROR_REALM, ERROR_REC = 1, 2, 3
MASK64: Final = (1 << 64) - 1
UNPROTECTED: Final = 1 << 32


def create(world: World, rd: int, **changes: int | tuple[int, ...]) -> tuple[int, ...]:
    """Try to create a REC and check that a failure changes nothing."""
    rec = world.delegated()
    pointer = world.ns_granule(world.rec_params(**changes).data)
    before = world.snapshot()
    results = world.call(CREATE, rd, rec, pointer)
    assert (world.snapshot() == before) == (results[0] != 0)
    return results


# --- create and destroy -----------------------------------------------------------------------


def test_rec_create_sets_up_the_context(world: World) -> None:
    """The registers that the host gives, stage 2 of the realm, and the traps of section 5.3."""
    rd = world.realm(vmid=0x1234)
    rec = world.rec(rd, pc=0xAB00, gprs=tuple(range(10, 18)))
    context = world.context(rec)
    assert context.pc == 0xAB00
    assert context.x[:9] == [*range(10, 18), 0]
    assert context.pstate == EL1H_MASKED == 0x3C5
    assert context.vttbr_el2 == world.rmm.realms[rd].rtt.start[0].pa | 0x1234 << 48
    assert context.vtcr_el2 & 0xFF == (64 - 33) | 1 << 6
    assert context.vmpidr_el2 == 1 << 31
    assert context.security == Pas.REALM
    assert context.hcr_el2 == HCR
    states = world.rmm.granules
    assert states.state(rec) is GranuleState.REC
    assert [states.state(pa) for pa in world.rmm.recs[rec].aux] == [GranuleState.REC_AUX] * 2


def test_rec_create_counts_up_mpidr(world: World) -> None:
    """RECs are created in the order of their linear index: after 0x0f comes 0x100."""
    rd = world.realm(depth=0)
    for index in range(16):
        assert create(world, rd, mpidr=index + 1)[0] == ERROR_INPUT
        assert create(world, rd, mpidr=index)[0] == 0
    assert create(world, rd, mpidr=0x10)[0] == ERROR_INPUT
    assert create(world, rd, mpidr=0x100)[0] == 0
    last = list(world.rmm.recs.values())[-1]
    assert last.index == 16
    assert last.context.vmpidr_el2 == 1 << 31 | 0x100


@pytest.mark.parametrize("mpidr", [0x10, 0xF0, 1 << 32, 1 << 63, 1 << 31])
def test_rec_create_refuses_mpidr(world: World, mpidr: int) -> None:
    """Reserved bits and any REC but the next are ERROR_INPUT."""
    assert create(world, world.realm(depth=0), mpidr=mpidr)[0] == ERROR_INPUT


@pytest.mark.parametrize("num_aux", [0, 1, 3, 16, 17, MASK64])
def test_rec_create_refuses_another_number_of_aux_granules(world: World, num_aux: int) -> None:
    """RMI_REC_AUX_COUNT returns the number."""
    rd = world.realm(depth=0)
    assert world.do(RmiFid.RMI_REC_AUX_COUNT, rd)[0] == 2
    aux = tuple(world.delegated() for _ in range(16))
    assert create(world, rd, num_aux=num_aux, aux=aux)[0] == ERROR_INPUT


def test_rec_create_refuses_aliased_granules(world: World) -> None:
    """REC and auxiliary granules are different ones."""
    rd, rec, aux = world.realm(depth=0), world.delegated(), world.delegated()
    before = world.snapshot()
    for pair in ((aux, aux), (rec, aux), (aux, rec), (aux, rd), (aux, 0), (aux, aux + 8)):
        params = world.rec_params(aux=pair + (0,) * 14)
        pointer = world.ns_granule(params.data)
        world._next = pointer
        assert world.call(CREATE, rd, rec, pointer)[0] == ERROR_INPUT
        world.ns.zero(pointer, GRANULE_SIZE)
    assert world.snapshot() == before


@pytest.mark.parametrize("state", sorted(set(GranuleState) - {GranuleState.DELEGATED}))
def test_rec_create_needs_granules_in_their_states(world: World, state: GranuleState) -> None:
    """A granule in use can become neither REC nor auxiliary."""
    bad, rd, rec = granule_in(world, state), world.realm(vmid=9), world.delegated()
    params = world.rec_params()
    pointer = world.ns_granule(params.data)
    aliased = world.ns_granule(world.rec_params(aux=(bad, params.aux[0], *[0] * 14)).data)
    before = world.snapshot()
    assert world.call(CREATE, rd, bad, pointer)[0] == ERROR_INPUT
    assert world.call(CREATE, rd, rec, aliased)[0] == ERROR_INPUT
    for pa in (*NOT_GRANULES, rec):
        assert world.call(CREATE, rd, rec, pa)[0] == ERROR_INPUT
    if state is not GranuleState.RD:
        assert world.call(CREATE, bad, rec, pointer)[0] == ERROR_INPUT
    if state is not GranuleState.REC:
        assert world.call(DESTROY, bad)[0] == ERROR_INPUT
        assert world.call(ENTER, bad, pointer)[0] == ERROR_INPUT
    assert world.snapshot() == before


def test_rec_create_checks_the_realm_before_mpidr_and_after_granules(world: World) -> None:
    """The observable order: granules, state of the realm, mpidr."""
    rd = world.realm(depth=0)
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    assert create(world, rd, mpidr=5)[0] == ERROR_REALM
    assert create(world, rd, mpidr=5, aux=(1, 2, *[0] * 14))[0] == ERROR_INPUT


def test_rec_create_fails_when_the_realm_is_full(world: World) -> None:
    """RMI_FEATURES promises 2^10 - 1 RECs: one more is ERROR_REALM, until one is destroyed."""
    rd = world.realm(depth=0)
    realm = world.rmm.realms[rd]
    realm.num_recs = realm.num_live_recs = 1022
    assert create(world, rd, mpidr=0x3F0E)[0] == 0
    assert create(world, rd, mpidr=0x3F0F)[0] == ERROR_REALM
    assert create(world, rd, mpidr=5)[0] == ERROR_REALM  # before the MPIDR is looked at
    (last,) = world.rmm.recs
    world.do(DESTROY, last)
    assert create(world, rd, mpidr=0x3F0F)[0] == 0


def test_rec_destroy_frees_scrubbed_granules(world: World) -> None:
    """REC and auxiliary granules are DELEGATED again; a running REC stays."""
    rd = world.realm(depth=0)
    rec = world.rec(rd)
    aux = world.rmm.recs[rec].aux
    world.rmm.recs[rec].running = True
    before = world.snapshot()
    assert world.call(DESTROY, rec) == (ERROR_REC, 0, 0, 0, 0)
    assert world.snapshot() == before
    world.rmm.recs[rec].running = False
    world.do(DESTROY, rec)
    for pa in (rec, *aux):
        assert world.rmm.granules.state(pa) is GranuleState.DELEGATED
        assert not any(world.realm_memory.read(pa, GRANULE_SIZE))
    assert world.call(DESTROY, rec)[0] == ERROR_INPUT
    assert create(world, rd, mpidr=0)[0] == ERROR_INPUT  # its index is not given again


# --- PSCI -------------------------------------------------------------------------------------


@pytest.fixture
def pair(world: World) -> tuple[World, int, int]:
    """An active realm with a boot REC and one that waits for CPU_ON."""
    rd = world.realm()
    recs = world.rec(rd), world.rec(rd, mpidr=1, flags=0)
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    return world, *recs


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ((PsciFid.PSCI_VERSION,), 0x1_0001),
        ((SmcccFid.SMCCC_VERSION,), 0x1_0002),
        ((SmcccFid.SMCCC_ARCH_FEATURES, 0), MASK64),
        ((PsciFid.PSCI_FEATURES, PsciFid.CPU_ON_64), 0),
        ((PsciFid.PSCI_FEATURES, PsciFid.SYSTEM_RESET), 0),
        ((PsciFid.PSCI_FEATURES, SmcccFid.SMCCC_VERSION), 0),
        ((PsciFid.PSCI_FEATURES, PsciFid.MIGRATE_INFO_TYPE), MASK64),
        ((PsciFid.PSCI_FEATURES, 0x8400_0012), MASK64),
        ((PsciFid.MIGRATE_INFO_TYPE,), MASK64),
        ((PsciFid.CPU_ON_64, 1, UNPROTECTED, 0), PsciReturn.INVALID_ADDRESS.x0),
        ((PsciFid.CPU_ON_64, 7, UNPROTECTED, 0), PsciReturn.INVALID_ADDRESS.x0),
        ((PsciFid.CPU_ON_64, 2, 0, 0), PsciReturn.INVALID_PARAMETERS.x0),
        ((PsciFid.CPU_ON_64, 1 << 32, 0, 0), PsciReturn.INVALID_PARAMETERS.x0),
        ((PsciFid.CPU_ON_64, 0, 0, 0), PsciReturn.ALREADY_ON.x0),
        ((PsciFid.AFFINITY_INFO_64, 1, 1), PsciReturn.INVALID_PARAMETERS.x0),
        ((PsciFid.AFFINITY_INFO_64, 2, 0), PsciReturn.INVALID_PARAMETERS.x0),
        ((PsciFid.AFFINITY_INFO_64, 0, 0), 0),
        ((0x8600_FF01,), MASK64),
        ((0xC400_0150, 0x1_0000), MASK64),  # RMI is not for realms
        ((0xFFFF_FFFF,), MASK64),
    ],
)
def test_psci_calls_that_the_rmm_answers(
    pair: tuple[World, int, int], call: tuple[int, ...], result: int
) -> None:
    """The realm continues after the SMC, with x1 to x3 zero."""
    world, rec, _ = pair
    world.context(rec).x[3] = 99
    assert world.enter(rec, smc(*call)).exit_reason == RecExitReason.IRQ
    assert world.context(rec).x[:4] == [result, 0, 0, 0]
    assert world.context(rec).pc == 0x1004


def test_function_id_is_w0(pair: tuple[World, int, int]) -> None:
    """SMCCC: upper bits of x0 and the SVE hint are not part of the function id."""
    world, rec, _ = pair
    world.enter(rec, smc(0xABCD_0000_0000_0000 | PsciFid.PSCI_VERSION | 1 << 16))
    assert world.context(rec).x[0] == 0x1_0001


@pytest.mark.parametrize("fid", [PsciFid.CPU_ON_32, PsciFid.CPU_ON_64])
def test_cpu_on(pair: tuple[World, int, int], fid: PsciFid) -> None:
    """The host gives the target's REC, which starts from reset, with the caller's endianness."""
    world, rec, target = pair
    world.context(rec).sctlr_el1 |= SCTLR_EL1_EE
    context = world.context(target)
    for n in range(31):
        context.x[n] = 0xBAD  # from before a CPU_OFF
    high = 1 << 63 if fid is PsciFid.CPU_ON_32 else 0
    leave = world.enter(rec, smc(fid, 1 | high, 0x8000 | high, 0x77 | high))
    assert leave.exit_reason == RecExitReason.PSCI
    assert leave.gprs == (fid, 1, *[0] * 29)
    run = world.ns_granule()
    assert world.call(ENTER, rec, run)[0] == ERROR_REC  # it waits for the answer
    assert world.call(ENTER, target, run)[0] == ERROR_REC  # it is off
    world.do(COMPLETE, rec, target, 0)
    assert (context.pc, context.pstate) == (0x8000, EL1H_MASKED)
    assert list(context.x) == [0x77, *[0] * 30]
    assert context.sctlr_el1 == SCTLR_EL1_RESET | SCTLR_EL1_EE
    assert world.context(rec).x[:4] == [0, 0, 0, 0]
    assert world.call(COMPLETE, rec, target, 0)[0] == ERROR_INPUT  # nothing is pending any more
    world.enter(rec)
    world.enter(target)


def test_cpu_on_denied_and_already_on(pair: tuple[World, int, int]) -> None:
    """The host may deny while the target is off; if it is on, the caller gets ALREADY_ON instead.

    The host's mistake is then an error that still ends the request, as in TF-RMM.
    """
    world, rec, target = pair
    denied = PsciReturn.DENIED.x0
    world.enter(rec, smc(PsciFid.CPU_ON_64, 1, 0x8000, 0))
    world.do(COMPLETE, rec, target, denied)
    assert world.context(rec).x[0] == denied
    assert not world.rmm.recs[target].runnable
    world.enter(rec, smc(PsciFid.CPU_ON_64, 1, 0x8000, 0))
    world.do(COMPLETE, rec, target, 0)
    world.enter(rec, smc(PsciFid.CPU_ON_64, 1, 0x9000, 0))
    assert world.call(COMPLETE, rec, target, denied) == (ERROR_INPUT, 0, 0, 0, 0)
    assert world.context(rec).x[:4] == [PsciReturn.ALREADY_ON.x0, 0, 0, 0]
    assert world.context(target).pc == 0x8000
    assert world.call(COMPLETE, rec, target, 0)[0] == ERROR_INPUT  # nothing is pending any more
    world.enter(rec, smc(PsciFid.CPU_ON_64, 1, 0x9000, 0))
    world.do(COMPLETE, rec, target, 0)
    assert world.context(rec).x[:4] == [PsciReturn.ALREADY_ON.x0, 0, 0, 0]
    assert world.context(target).pc == 0x8000


def test_affinity_info_and_cpu_off(pair: tuple[World, int, int]) -> None:
    """The host names the REC, the RMM knows whether it is on."""
    world, rec, target = pair
    leave = world.enter(rec, smc(PsciFid.AFFINITY_INFO_64, 1, 0))
    assert leave.gprs[:3] == (PsciFid.AFFINITY_INFO_64, 1, 0)
    assert world.call(COMPLETE, rec, target, PsciReturn.DENIED.x0)[0] == ERROR_INPUT
    world.do(COMPLETE, rec, target, 0)
    assert world.context(rec).x[0] == 1
    leave = world.enter(rec, smc(PsciFid.CPU_OFF))
    assert leave.gprs[0] == PsciFid.CPU_OFF
    assert world.call(ENTER, rec, world.ns_granule())[0] == ERROR_REC


def test_psci_complete_refuses(pair: tuple[World, int, int]) -> None:
    """Two RECs of one realm, a request, its target, a status that fits: or ERROR_INPUT."""
    world, rec, target = pair
    stranger = world.rec(world.realm(vmid=8, depth=0))
    assert world.call(COMPLETE, rec, target, 0)[0] == ERROR_INPUT
    world.enter(rec, smc(PsciFid.CPU_ON_64, 1, 0x8000, 0))
    before = world.snapshot()
    for calling, other, status in (
        (rec, rec, 0),
        (target, rec, 0),
        (rec, stranger, 0),
        (stranger, target, 0),
        (rec, world.rmm.recs[rec].realm.rd, 0),
        (rec + 8, target, 0),
        (rec, target, 1),
        (rec, target, PsciReturn.ALREADY_ON.x0),
        (rec, target, 0xFFFF_FFFD),
    ):
        assert world.call(COMPLETE, calling, other, status) == (ERROR_INPUT, 0, 0, 0, 0)
    assert world.snapshot() == before


def test_psci_complete_refuses_another_target(world: World) -> None:
    """The MPIDR that the realm named decides."""
    rd = world.realm(depth=0)
    recs = [world.rec(rd, mpidr=i, flags=i == 0) for i in range(3)]
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    world.enter(recs[0], smc(PsciFid.CPU_ON_64, 2, 0, 0))
    assert world.call(COMPLETE, recs[0], recs[1], 0)[0] == ERROR_INPUT
    world.do(COMPLETE, recs[0], recs[2], 0)


@pytest.mark.parametrize("fid", [PsciFid.SYSTEM_OFF, PsciFid.SYSTEM_RESET])
def test_system_off_is_the_end(pair: tuple[World, int, int], fid: PsciFid) -> None:
    """No REC of the realm can be entered again: (ERROR_REALM, 1)."""
    world, rec, target = pair
    assert world.enter(rec, smc(fid)).gprs[0] == fid
    for pa in (rec, target):
        assert world.call(ENTER, pa, world.ns_granule())[0] == ERROR_REALM | 1 << 8


def test_cpu_suspend_is_an_exit(pair: tuple[World, int, int]) -> None:
    """The realm resumes after the call, with SUCCESS, whenever the host enters it."""
    world, rec, _ = pair
    leave = world.enter(rec, smc(PsciFid.CPU_SUSPEND_64, 5, 6, 7))
    assert leave.gprs[:4] == (PsciFid.CPU_SUSPEND_64, 5, 6, 7)
    world.enter(rec, enter=RecEnter())
    assert world.context(rec).x[:4] == [0, 0, 0, 0]
    assert world.context(rec).pc == 0x1004
