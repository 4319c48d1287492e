"""RMI 2.0: entering a REC with ICH_*_EL2 of the PE, PSCI by the RMM's own knowledge, MPIDRs."""

import pytest

from pyvmm.arch.gic import ICH_HCR_EN, ICH_LR_HW, ICH_LR_PENDING
from pyvmm.arch.hcr import MDCR_EL2
from pyvmm.arch.machine import PeContext
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.psci import AffinityState, PsciFid, PsciReturn
from pyvmm.arch.rmi import RecEnter, RecExitReason, RmiFid
from pyvmm.arch.rmi2 import RealmFlags2, Rmi2Fid
from tests.rmm.world import FakeExit, abort, smc
from tests.rmm.world2 import INPUT, REALM, REC, SUCCESS, CoreWorld2, World2

PAGE = GRANULE_SIZE
DENIED = PsciReturn.DENIED.x0
COMPLETE = RmiFid.RMI_PSCI_COMPLETE


@pytest.fixture
def world() -> World2:
    """An active RMM."""
    return World2()


def active(world: World2, *mpidrs: int) -> tuple[int, list[int]]:
    """Make an active realm; return its RD and its RECs, of which the first runs."""
    rd = world.realm()
    recs = [world.rec(rd, mpidr=mpidr, flags=int(not n)) for n, mpidr in enumerate(mpidrs)]
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    return rd, recs


# --- interrupts -------------------------------------------------------------------------------


def test_interface_goes_in_and_out(world: World2) -> None:
    """The realm changes the registers, and the host finds them changed, with En clear."""
    _, (rec,) = active(world, 0)
    pe = world.pes[1].interface
    pe.ich_lr[0], pe.ich_hcr, pe.ich_vmcr = ICH_LR_PENDING | 40, ICH_HCR_EN | 1 << 3, 0x77

    def guest(context: PeContext) -> FakeExit:
        assert (context.ich_lr[0], context.ich_vmcr) == (ICH_LR_PENDING | 40, 0x77)
        assert context.ich_hcr == ICH_HCR_EN | 1 << 3
        context.ich_lr[0], context.ich_vmcr = 40, 0x88
        context.ich_hcr |= 3 << 27
        return FakeExit()

    left = world.enter(rec, guest, pe=1)
    assert (pe.ich_lr[0], pe.ich_vmcr, pe.ich_hcr) == (40, 0x88, 3 << 27 | 1 << 3)
    assert (left.gicv3_hcr, left.gicv3_vmcr, set(left.gicv3_lrs)) == (0, 0, {0})


def test_interface_belongs_to_the_pe(world: World2) -> None:
    """Another PE's is not touched; nothing of it stays in the REC."""
    _, (rec,) = active(world, 0)
    world.pes[0].interface.ich_lr[1] = ICH_LR_PENDING | 50
    world.enter(rec, pe=0)

    def guest(context: PeContext) -> FakeExit:
        assert not any(context.ich_lr[n] for n in range(4))
        return FakeExit()

    world.enter(rec, guest, pe=1)
    assert world.pes[0].interface.ich_lr[1] == ICH_LR_PENDING | 50


def test_counters_are_as_many_as_the_host_asked_for(world: World2) -> None:
    """The host learns only that their interrupt is asserted."""
    rd = world.realm(flags=int(RealmFlags2.of(PMU=1)), pmu_num_ctrs=3)
    rec = world.rec(rd)
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)

    def guest(context: PeContext) -> FakeExit:
        assert context.mdcr_el2 == MDCR_EL2.of(HPMN=3)
        context.pmu_overflow = 1
        return FakeExit()

    assert world.enter(rec, guest).pmu_ovf_status == 1


def test_interface_of_a_real_machine() -> None:
    """The C structure is copied whole, and nothing around it."""
    world = CoreWorld2()
    rd = world.realm()
    rec = world.rec(rd)
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    pe = world.pes[0].interface
    pe.ich_lr[3], pe.ich_vmcr, pe.ich_ap1r0 = ICH_LR_PENDING | 33, 0x9, 0x4  # type: ignore[attr-defined]
    world.enter(rec)
    context = world.rmm.recs[rec].context
    assert (context.ich_lr[3], context.ich_vmcr) == (ICH_LR_PENDING | 33, 0x9)
    assert context.ich_ap1r0 == 0x4  # type: ignore[attr-defined]
    assert context.pc == 0x1000
    assert not pe.ich_hcr & ICH_HCR_EN


def test_invalid_list_registers_are_not_checked(world: World2) -> None:
    """HW and an INTID twice only matter in those that are pending or active."""
    _, (rec,) = active(world, 0)
    pe = world.pes[0].interface
    pe.ich_lr[0], pe.ich_lr[1], pe.ich_lr[2] = ICH_LR_HW | 40, 40, ICH_LR_PENDING | 40
    world.enter(rec)


def test_run_granule_that_is_taken_away(world: World2) -> None:
    """While the realm runs: the exit cannot be reported."""
    _, (rec,) = active(world, 0)
    run = world.ns_granule()

    def guest(_context: PeContext) -> FakeExit:
        world.do(Rmi2Fid.RMI_GRANULE_RANGE_DELEGATE, run, run + PAGE)
        return FakeExit()

    world.pes[0].steps.append(guest)
    assert world.call(RmiFid.RMI_REC_ENTER, rec, run)[0] == INPUT


def test_host_call_gets_all_registers(world: World2) -> None:
    """Though the interrupts' part of the run granule is read no longer."""
    rd = world.realm()
    pa = world.page(rd, 0)
    rec = world.rec(rd)
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    assert world.enter(rec, smc(0xC400_0199, 0)).exit_reason == RecExitReason.HOST_CALL
    world.enter(rec, enter=RecEnter.of(gprs=tuple(range(31))))
    assert world.realm_memory.read(pa + 8, 31 * 8)[30 * 8 :] == (30).to_bytes(8, "little")


def test_realm_that_is_over_says_so_without_an_index(world: World2) -> None:
    """RMI 1.0 tells SYSTEM_OFF apart."""
    rd, (rec,) = active(world, 0)
    world.enter(rec, smc(PsciFid.SYSTEM_OFF))
    run = world.ns_granule()
    assert world.call(RmiFid.RMI_REC_ENTER, rec, run)[0] == REALM
    world.do(Rmi2Fid.RMI_REALM_TERMINATE, rd)
    assert world.call(RmiFid.RMI_REC_ENTER, rec, run)[0] == REALM
    world.do(Rmi2Fid.RMI_REALM_TERMINATE, rd)  # again: nothing more to do


def test_terminated_realm_cannot_be_entered_again(world: World2) -> None:
    """And not be terminated while one of its RECs runs."""
    rd, (rec,) = active(world, 0)

    def guest(_context: PeContext) -> FakeExit:
        assert world.call(Rmi2Fid.RMI_REALM_TERMINATE, rd, pe=2)[0] == REALM
        assert world.call(RmiFid.RMI_REC_DESTROY, rec, pe=2)[0] == REC
        return FakeExit()

    world.enter(rec, guest)
    world.do(Rmi2Fid.RMI_REALM_TERMINATE, rd)
    assert world.call(RmiFid.RMI_REC_ENTER, rec, world.ns_granule())[0] == REALM


def test_abort_is_completed(world: World2) -> None:
    """As in RMI 1.0."""
    _, (rec,) = active(world, 0)
    left = world.enter(rec, abort(1 << 32, ISV=1))
    assert (left.exit_reason, left.hpfar) == (RecExitReason.SYNC, 1 << 24)
    world.enter(rec, enter=RecEnter.of(flags=1))
    assert world.context(rec).pc == 0x1004


# --- MPIDRs and PSCI ----------------------------------------------------------------------------


def test_mpidrs_may_have_gaps(world: World2) -> None:
    """A CPU_ON of one in a gap is the realm's mistake."""
    _, (rec, _) = active(world, 0x100, 0x7)
    assert world.context(rec).vmpidr_el2 == 0x8000_0100
    world.enter(rec, smc(PsciFid.CPU_ON_64, 1, 0, 0))
    assert world.context(rec).x[0] == PsciReturn.INVALID_PARAMETERS.x0
    left = world.enter(rec, smc(PsciFid.CPU_ON_64, 7, 0, 0))
    assert left.exit_reason == RecExitReason.PSCI
    assert world.call(COMPLETE, rec, 0)[0] == SUCCESS


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("status", [0, DENIED])
def test_cpu_on(world: World2, status: int, *, is_old: bool) -> None:
    """By either form of the command."""
    _, (rec, target) = active(world, 0, 1)
    world.enter(rec, smc(PsciFid.CPU_ON_64, 1, 0x2000, 5))
    args = (target, status) if is_old else (status,)
    assert world.call(COMPLETE, rec, *args)[0] == SUCCESS
    assert world.rmm.recs[target].runnable == (not status)
    assert world.context(rec).x[0] == status
    assert world.call(COMPLETE, rec, *args)[0] == INPUT


def test_affinity_info(world: World2) -> None:
    """Only success is an answer."""
    _, (rec, _) = active(world, 0, 1)
    world.enter(rec, smc(PsciFid.AFFINITY_INFO_64, 1, 0))
    assert world.call(COMPLETE, rec, DENIED)[0] == INPUT
    assert world.call(COMPLETE, rec, 0)[0] == SUCCESS
    assert world.context(rec).x[0] == AffinityState.OFF


def test_cpu_on_of_a_rec_that_is_on(world: World2) -> None:
    """It is on already, whatever the host says."""
    _, (rec, target) = active(world, 0, 1)
    world.rmm.recs[target].runnable = True
    world.enter(rec, smc(PsciFid.CPU_ON_64, 1, 0, 0))
    assert world.call(COMPLETE, rec, 0)[0] == SUCCESS
    assert world.context(rec).x[0] == PsciReturn.ALREADY_ON.x0


def test_target_that_is_destroyed_meanwhile(world: World2) -> None:
    """The host can only deny the call."""
    _, (rec, target) = active(world, 0, 1)
    world.enter(rec, smc(PsciFid.CPU_ON_64, 1, 0, 0))
    world.must_operate(RmiFid.RMI_REC_DESTROY, target)
    assert world.call(COMPLETE, rec, 0)[0] == INPUT
    assert world.call(COMPLETE, rec, target, 0)[0] == INPUT
    assert world.call(COMPLETE, rec, DENIED)[0] == SUCCESS
    assert world.context(rec).x[0] == DENIED
