"""RMI_REC_ENTER: its checks, the exits, the host's view of them, and their completion."""

from threading import Event as Flag
from threading import Thread
from typing import Final

import pytest

from pyvmm.arch.esr import ESR_ABORT, ExceptionClass, FaultStatus, hpfar_of
from pyvmm.arch.events import Event
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.hcr import HCR_EL2, MDCR_NO_PMU
from pyvmm.arch.machine import PeContext
from pyvmm.arch.pas import Pas
from pyvmm.arch.rmi import RealmFlags, RecEnter, RecEnterFlags, RecExitReason, RmiFid
from pyvmm.arch.rsi import RsiFid
from tests.rmm.world import DRAM_BASE, FakeExit, World, abort, smc, sysreg, trap

ENTER: Final = RmiFid.RMI_REC_ENTER
ERROR_INPUT, ERROR_REALM, ERROR_REC = 1, 2, 3
MASK64: Final = (1 << 64) - 1
UNPROTECTED: Final = 1 << 32
PENDING: Final = 1 << 62
EMUL, SEA = RecEnterFlags.EMUL_MMIO, RecEnterFlags.INJECT_SEA
EA = 1 << 9  # of ESR_EL1
PSTATE_EL1H: Final = 0x3C5
PSTATE_SS: Final = 1 << 21
VBAR: Final = 0x10_0000
RAM_IPA, EMPTY_IPA, DESTROYED_IPA = 0x1000, 0x5000, 0x9000


@pytest.fixture
def active(world: World) -> tuple[World, int]:
    """A REC of an active realm with some RAM, some of it DESTROYED."""
    rd = world.realm()
    world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, RAM_IPA, RAM_IPA + 0x2000)
    world.page(rd, DESTROYED_IPA)
    world.do(RmiFid.RMI_DATA_DESTROY, rd, DESTROYED_IPA)
    rec = world.rec(rd)
    world.context(rec).vbar_el1 = VBAR
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    return world, rec


def mmio(**fields: int) -> dict[str, int]:
    """Fields of a syndrome that can be emulated."""
    return {"ISV": 1, "SAS": 2, "SRT": 3, "SF": 0, **fields}


# --- checks -----------------------------------------------------------------------------------


def test_enter_needs_the_hosts_granule(active: tuple[World, int]) -> None:
    """The run structure must be UNDELEGATED and readable; that comes before the REC."""
    world, rec = active
    run, ours = world.ns_granule(), world.delegated()
    before = world.snapshot()
    for pa in (ours, run + 8, 0, rec):
        assert world.call(ENTER, rec, pa)[0] == ERROR_INPUT
    assert world.snapshot() == before
    world.rmm.recs[rec].running = True
    assert world.call(ENTER, rec, ours)[0] == ERROR_INPUT
    world.rmm.recs[rec].running = False
    world.machine.gpt[(run - DRAM_BASE) >> 12] = Pas.ROOT
    assert world.call(ENTER, rec, run)[0] == ERROR_INPUT


def test_enter_checks_in_order(world: World) -> None:
    """Running, then the realm's state, then runnable, then the vGIC."""
    rd = world.realm(depth=0)
    rec, off = world.rec(rd), world.rec(rd, mpidr=1, flags=0)
    bad_gic = world.ns_granule(RecEnter.of(gicv3_hcr=1).data)
    world.rmm.recs[rec].running = True
    assert world.call(ENTER, rec, bad_gic)[0] == ERROR_REC
    world.rmm.recs[rec].running = False
    assert world.call(ENTER, rec, bad_gic)[0] == ERROR_REALM
    assert world.call(ENTER, off, bad_gic)[0] == ERROR_REALM
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    assert world.call(ENTER, off, world.ns_granule())[0] == ERROR_REC
    assert world.call(ENTER, rec, bad_gic)[0] == ERROR_REC


@pytest.mark.parametrize(
    ("hcr", "lrs"),
    [
        (1, ()),  # En is the RMM's
        (1 << 8, ()),
        (1 << 13, ()),
        (1 << 15, ()),
        (1 << 27, ()),
        (1 << 63, ()),
        (0, (PENDING | 1 << 61,)),  # HW
        (0, (PENDING | 1 << 32 | 30,)),  # pINTID
        (0, (PENDING | 1 << 44 | 30,)),
        (0, (PENDING | 1 << 48 | 30,)),  # a priority bit that is not implemented
        (0, (PENDING | 1020,)),
        (0, (PENDING | 8191,)),
        (0, (PENDING | 1 << 16,)),
        (0, (PENDING | 30, 0, 1 << 63 | 30)),  # twice
    ],
)
def test_enter_refuses_gic_state(active: tuple[World, int], hcr: int, lrs: tuple[int, ...]) -> None:
    """Forbidden values are ERROR_REC, and the realm does not run."""
    world, rec = active
    enter = RecEnter.of(gicv3_hcr=hcr, gicv3_lrs=lrs + (0,) * (16 - len(lrs)))
    run = world.ns_granule(enter.data)
    before = world.snapshot()
    assert world.call(ENTER, rec, run) == (ERROR_REC, 0, 0, 0, 0)
    assert world.snapshot() == before


def test_enter_loads_and_saves_gic_state(active: tuple[World, int]) -> None:
    """Invalid list registers may hold anything; four are used; the exit shows all that changed."""
    world, rec = active
    lrs = (PENDING | 27 | 1 << 41 | 0xF8 << 48, 0x1234, PENDING | 8192, 0, PENDING | 1 << 61)
    enter = RecEnter.of(gicv3_hcr=0x40FE, gicv3_lrs=lrs + (0,) * 11)
    context = world.context(rec)

    def realm(context: PeContext) -> FakeExit:
        context.ich_lr[0] = 27
        context.ich_hcr |= 5 << 27
        context.ich_misr, context.ich_vmcr = 3, 0xFF00
        return FakeExit()

    leave = world.enter(rec, realm, enter=enter)
    assert context.ich_hcr == 0x40FF | 5 << 27
    assert leave.gicv3_lrs == (27, 0x1234, PENDING | 8192, *[0] * 13)
    assert (leave.gicv3_hcr, leave.gicv3_misr, leave.gicv3_vmcr) == (0x40FE | 5 << 27, 3, 0xFF00)


@pytest.mark.parametrize("flags", [EMUL, SEA])
def test_enter_refuses_answers_to_nothing(active: tuple[World, int], flags: int) -> None:
    """EMUL_MMIO and INJECT_SEA answer the last exit, once."""
    world, rec = active
    run = world.ns_granule(RecEnter.of(flags=flags).data)
    before = world.snapshot()
    assert world.call(ENTER, rec, run)[0] == ERROR_REC
    assert world.snapshot() == before
    world.enter(rec, abort(RAM_IPA))
    assert world.call(ENTER, rec, run)[0] == ERROR_REC
    world.enter(rec, abort(UNPROTECTED, **mmio()))
    world.enter(rec)
    assert world.call(ENTER, rec, run)[0] == ERROR_REC


def test_emul_mmio_needs_a_valid_syndrome(active: tuple[World, int]) -> None:
    """Without ISV there is nothing to emulate, but an SEA is possible."""
    world, rec = active
    world.enter(rec, abort(UNPROTECTED, ISV=0))
    run = world.ns_granule(RecEnter.of(flags=EMUL).data)
    assert world.call(ENTER, rec, run)[0] == ERROR_REC
    world.enter(rec, enter=RecEnter.of(flags=SEA))


@pytest.mark.parametrize("flags", range(4))
def test_enter_traps_wfx_for_one_entry(active: tuple[World, int], flags: int) -> None:
    """TRAP_WFI and TRAP_WFE are HCR_EL2.TWI and TWE."""
    world, rec = active
    world.enter(rec, enter=RecEnter.of(flags=flags << 2))
    hcr = HCR_EL2(world.context(rec).hcr_el2)
    assert (bool(flags & 1), bool(flags & 2)) == (hcr.TWI, hcr.TWE)
    world.enter(rec)
    assert not HCR_EL2(world.context(rec).hcr_el2).TWI


def test_exit_is_lost_when_the_host_takes_the_run_granule(active: tuple[World, int]) -> None:
    """The host gave the granule away while the realm ran: ERROR_INPUT, and the REC is idle."""
    world, rec = active
    run = world.ns_granule()

    def realm(_: PeContext) -> FakeExit:
        world.do(RmiFid.RMI_GRANULE_DELEGATE, run)  # the RMM's lock is free meanwhile
        return FakeExit()

    world.machine.pe(0).steps.append(realm)
    assert world.call(ENTER, rec, run)[0] == ERROR_INPUT
    world.enter(rec)


# --- exits ------------------------------------------------------------------------------------


def test_irq_exit_shows_the_timers(active: tuple[World, int]) -> None:
    """An interrupt reveals nothing of the realm but its timers."""
    world, rec = active
    context = world.context(rec)
    context.cntv_ctl, context.cntv_cval, context.cntp_ctl, context.cntp_cval = 5, 600, 1, 700
    context.x[0] = 0xDEAD
    leave = world.enter(rec)
    assert leave.exit_reason == RecExitReason.IRQ
    assert (leave.esr, leave.far, leave.hpfar, leave.gprs) == (0, 0, 0, (0,) * 31)
    assert (leave.cntv_ctl, leave.cntv_cval, leave.cntp_ctl, leave.cntp_cval) == (5, 600, 1, 700)


@pytest.mark.parametrize(("old", "new", "is_exit"), [(0, 1, True), (1, 0, True), (1, 1, False)])
def test_pmu_overflow_that_changed_is_an_exit(
    active: tuple[World, int], old: int, new: int, *, is_exit: bool
) -> None:
    """The host injects the interrupt, so every exit shows whether it is asserted."""
    world, rec = active
    context = world.context(rec)
    context.pmu_overflow = old
    assert world.enter(rec).pmu_ovf_status == old

    def version(context: PeContext) -> FakeExit:
        context.pmu_overflow = new
        return smc(RsiFid.RSI_VERSION, 0x1_0000)(context)

    leave = world.enter(rec, version, trap(ExceptionClass.WFX))
    assert leave.exit_reason == (RecExitReason.IRQ if is_exit else RecExitReason.SYNC)
    assert leave.pmu_ovf_status == new


RISE, FALL, MASKED = 0b101, 0b001, 0b111  # CNTx_CTL: ENABLE, IMASK, ISTATUS


@pytest.mark.parametrize("timer", ["cntv_ctl", "cntp_ctl"])
@pytest.mark.parametrize(
    ("old", "new", "is_exit"),
    [
        (FALL, RISE, True),
        (RISE, FALL, True),
        (RISE, MASKED, True),
        (0, RISE, True),
        (RISE, RISE, False),
        (FALL, MASKED, False),
        (0, FALL, False),
        (0b100, RISE, True),  # a disabled timer signals nothing
    ],
)
def test_timer_output_that_changed_is_an_exit(
    active: tuple[World, int], timer: str, old: int, new: int, *, is_exit: bool
) -> None:
    """The host injects the timers' interrupts, so it must see each change of their outputs.

    The PE itself leaves when one rises; but that may be while it leaves for the RMM anyway.
    """
    world, rec = active
    context = world.context(rec)
    setattr(context, timer, old)
    world.enter(rec)  # the host knows the old state

    def version(context: PeContext) -> FakeExit:
        setattr(context, timer, new)
        return smc(RsiFid.RSI_VERSION, 0x1_0000)(context)

    leave = world.enter(rec, version, trap(ExceptionClass.WFX))
    assert leave.exit_reason == (RecExitReason.IRQ if is_exit else RecExitReason.SYNC)
    assert context.x[:2] == [0, 0x1_0000]  # the call is done, and behind the realm
    assert context.pc == (0x1004 if is_exit else 0x1008)
    assert getattr(leave, timer) == new
    assert bool(world.machine.pe(0).steps) == is_exit


def test_whole_exit_is_written(active: tuple[World, int]) -> None:
    """Bytes that the host left in the exit half are gone."""
    world, rec = active
    run = world.ns_granule(bytes(0x800) + b"\xff" * 0x800)
    assert world.call(ENTER, rec, run)[0] == 0
    exit_half = world.ns.read(run + 0x800, 0x800)
    assert exit_half == bytes([1]) + bytes(0x7FF)


def test_budget_is_not_an_exit(active: tuple[World, int]) -> None:
    """A realm that only computes continues."""
    world, rec = active
    leave = world.enter(rec, lambda _: FakeExit(ExitReason.BUDGET), lambda _: FakeExit(3, 0x11))
    assert (leave.exit_reason, leave.esr) == (RecExitReason.SERROR, 0x11)


def test_host_sees_the_syndrome_of_an_serror(active: tuple[World, int]) -> None:
    """EC, IDS, AET, EA and DFSC of it, and nothing else."""
    world, rec = active
    leave = world.enter(rec, lambda _: FakeExit(ExitReason.SERROR, (1 << 64) - 1))
    shown = 0x3F << 26 | 1 << 24 | 7 << 10 | 1 << 9 | 0x3F
    assert (leave.exit_reason, leave.esr) == (RecExitReason.SERROR, shown)


@pytest.mark.parametrize("ipa", [RAM_IPA, DESTROYED_IPA])
@pytest.mark.parametrize("fetch", [False, True])
def test_abort_at_a_missing_page_is_an_exit(
    active: tuple[World, int], ipa: int, *, fetch: bool
) -> None:
    """The host sees the page and the fault, not the address, the register or the direction."""
    world, rec = active
    leave = world.enter(rec, abort(ipa + 0x30, 0x1234, fetch=fetch, **mmio(WnR=1, FnV=1)))
    shown = ESR_ABORT(leave.esr)
    ec = ExceptionClass.INSTRUCTION_ABORT_LOWER if fetch else ExceptionClass.DATA_ABORT_LOWER
    assert leave.esr == ESR_ABORT.of(EC=ec, FSC=shown.FSC, FnV=1)
    assert (leave.far, leave.hpfar) == (0, hpfar_of(ipa))
    assert leave.gprs == (0,) * 31
    assert world.context(rec).pc == 0x1000


@pytest.mark.parametrize(
    ("ipa", "fetch"),
    [
        (EMPTY_IPA, False),
        (EMPTY_IPA, True),
        (UNPROTECTED, True),
        (1 << 33, False),
        (1 << 33, True),
        (1 << 47, False),
    ],
)
@pytest.mark.parametrize(
    ("pstate", "offset", "same"),
    [(PSTATE_EL1H, 0x200, 1), (0x0, 0x400, 0), (0x10, 0x600, 0), (0x4, 0, 1)],
)
def test_abort_without_memory_is_an_sea_of_the_realm(
    active: tuple[World, int], ipa: int, pstate: int, offset: int, same: int, *, fetch: bool
) -> None:
    """The host does not see it: RIPAS EMPTY, fetches of shared memory, no IPA at all."""
    world, rec = active
    context = world.context(rec)
    context.pstate, context.sctlr_el1 = pstate, 1 << 23
    leave = world.enter(rec, abort(ipa, 0xFFFF_0000_1234, fetch=fetch, **mmio(WnR=1)))
    assert leave.exit_reason == RecExitReason.IRQ
    ec = (ExceptionClass.INSTRUCTION_ABORT_LOWER if fetch else 0x24) + same
    expected = ec << 26 | 1 << 25 | EA | 1 << 6 | FaultStatus.SYNC_EXTERNAL
    assert context.esr_el1 == expected
    assert (context.far_el1, context.elr_el1, context.spsr_el1) == (
        0xFFFF_0000_1234,
        0x1000,
        pstate,
    )
    assert (context.pc, context.pstate) == (VBAR + offset, PSTATE_EL1H)


@pytest.mark.parametrize("fsc", [0x24, 0x27, 0x28])
@pytest.mark.parametrize("fetch", [False, True])
def test_granule_protection_fault_is_the_realms(
    active: tuple[World, int], fsc: int, *, fetch: bool
) -> None:
    """Shared memory that the host took away: no exit, the realm learns why; nothing to emulate."""
    world, rec = active
    leave = world.enter(rec, abort(UNPROTECTED, 0x4321, fetch=fetch, FSC=fsc, **mmio(WnR=1)))
    assert (leave.exit_reason, leave.esr) == (RecExitReason.IRQ, 0)
    context = world.context(rec)
    ec = 0x21 if fetch else 0x25
    assert context.esr_el1 == ec << 26 | 1 << 25 | 1 << 6 | fsc
    assert (context.far_el1, context.elr_el1, context.pc) == (0x4321, 0x1000, VBAR + 0x200)
    run = world.ns_granule(RecEnter.of(flags=EMUL).data)
    assert world.call(ENTER, rec, run)[0] == ERROR_REC


def test_abort_is_retried_if_the_page_is_mapped_now(active: tuple[World, int]) -> None:
    """Another thread of the host mapped it between the fault and its handling."""
    world, rec = active
    rd = world.rmm.recs[rec].realm.rd
    world.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, rd, world.delegated(), RAM_IPA)
    assert world.enter(rec, abort(RAM_IPA)).exit_reason == RecExitReason.IRQ
    permission = int(FaultStatus.PERMISSION) + 3
    leave = world.enter(rec, abort(RAM_IPA, FSC=permission))
    assert leave.esr & 0x3F == permission


@pytest.mark.parametrize(("set_", "injected"), [(0, True), (2, False), (3, False)])
@pytest.mark.parametrize("fetch", [False, True])
def test_external_abort_is_reported(
    active: tuple[World, int], set_: int, *, injected: bool, fetch: bool
) -> None:
    """The host learns of a memory error; the realm as well if it can recover."""
    world, rec = active
    leave = world.enter(rec, abort(RAM_IPA, 0x99, fetch=fetch, FSC=0x10, SET=set_))
    assert (leave.exit_reason, leave.esr & 0x3F) == (RecExitReason.SYNC, 0x10)
    assert (leave.far, leave.hpfar) == (0, 0)
    assert (world.context(rec).pc == VBAR + 0x200) == injected


@pytest.mark.parametrize("ti", [0, 1])
def test_wfx_exit(active: tuple[World, int], ti: int) -> None:
    """Class and WFI or WFE; the instruction is complete."""
    world, rec = active
    leave = world.enter(rec, trap(ExceptionClass.WFX, 1 << 24 | 0xE << 20 | ti))
    assert leave.esr == ExceptionClass.WFX << 26 | ti
    assert world.context(rec).pc == 0x1004


@pytest.mark.parametrize("ec", [ExceptionClass.HVC64, ExceptionClass.SVE_ACCESS, 0x3E])
def test_hvc_and_unknown_traps_are_undefined(active: tuple[World, int], ec: int) -> None:
    """A realm has no hypervisor to call."""
    world, rec = active

    def realm(context: PeContext) -> FakeExit:
        context.pc += 4 if ec == ExceptionClass.HVC64 else 0
        return FakeExit(ExitReason.SYNC, ec << 26 | 1 << 25 | 0x77)

    assert world.enter(rec, realm).exit_reason == RecExitReason.IRQ
    context = world.context(rec)
    assert (context.esr_el1, context.elr_el1) == (1 << 25, 0x1000)
    assert context.pc == VBAR + 0x200


def test_injection_sets_pan_and_ssbs_as_sctlr_says(active: tuple[World, int]) -> None:
    """SPAN = 0 sets PAN, DSSBS sets SSBS, flags are kept, single-step and IL are not."""
    world, rec = active
    context = world.context(rec)
    context.pstate = 0xA << 28 | 1 << 21 | 1 << 20 | 0
    context.sctlr_el1 = 1 << 44
    world.enter(rec, trap(ExceptionClass.HVC64))
    assert context.pstate == 0xA << 28 | 1 << 22 | 1 << 12 | PSTATE_EL1H


# --- MMIO -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "value", "register"),
    [
        ({"SAS": 0}, 0x1FF, 0xFF),
        ({"SAS": 0, "SSE": 1}, 0x80, 0xFFFF_FF80),
        ({"SAS": 0, "SSE": 1, "SF": 1}, 0x80, MASK64 - 0x7F),
        ({"SAS": 0, "SSE": 1, "SF": 1}, 0x7F, 0x7F),
        ({"SAS": 1, "SSE": 1}, 0x1_8000, 0xFFFF_8000),
        ({"SAS": 2}, MASK64, 0xFFFF_FFFF),
        ({"SAS": 2, "SSE": 1, "SF": 1}, 0x8000_0000, MASK64 - 0x7FFF_FFFF),
        ({"SAS": 3, "SF": 1}, MASK64, MASK64),
        ({"SAS": 3, "SSE": 1, "SF": 1}, 1 << 63, 1 << 63),
    ],
)
def test_mmio_read(
    active: tuple[World, int], fields: dict[str, int], value: int, register: int
) -> None:
    """The host's value is truncated to the access, extended, and written to the register."""
    world, rec = active
    context = world.context(rec)
    context.x[3] = 0x5555
    leave = world.enter(rec, abort(UNPROTECTED + 0xABC, 0xFFF_1ABC, **mmio(**fields)))
    shown = ESR_ABORT(leave.esr)
    assert (shown.EC, shown.ISV) == (ExceptionClass.DATA_ABORT_LOWER, True)
    assert (fields["SAS"], bool(fields.get("SF", 0))) == (shown.SAS, shown.SF)
    assert (shown.IL, shown.SRT, shown.SSE) == (False, 0, False)
    assert (leave.far, leave.hpfar, leave.gprs) == (0xABC, hpfar_of(UNPROTECTED), (0,) * 31)
    world.enter(rec, enter=RecEnter.of(flags=EMUL, gprs=(value, *[7] * 30)))
    assert (context.x[3], context.pc) == (register, 0x1004)


@pytest.mark.parametrize(("sas", "shown"), [(0, 0x88), (1, 0x7788), (2, 0x5566_7788)])
def test_mmio_write(active: tuple[World, int], sas: int, shown: int) -> None:
    """The host sees as many bytes as were stored."""
    world, rec = active
    world.context(rec).x[3] = 0x1122_3344_5566_7788
    world.context(rec).pstate |= PSTATE_SS
    leave = world.enter(rec, abort(UNPROTECTED, **mmio(SAS=sas, WnR=1)))
    assert leave.gprs == (shown, *[0] * 30)
    assert ESR_ABORT(leave.esr).WnR
    world.enter(rec, enter=RecEnter.of(flags=EMUL, gprs=(9,) * 31))
    assert world.context(rec).x[3] == 0x1122_3344_5566_7788
    assert world.context(rec).pc == 0x1004
    assert not world.context(rec).pstate & PSTATE_SS, "a software step of the store is over"


def test_mmio_with_the_zero_register(active: tuple[World, int]) -> None:
    """SRT 31 is XZR: it reads as zero and ignores the value read."""
    world, rec = active
    assert world.enter(rec, abort(UNPROTECTED, **mmio(SRT=31, WnR=1))).gprs[0] == 0
    world.enter(rec, abort(UNPROTECTED, **mmio(SRT=31)), enter=RecEnter.of(flags=EMUL))
    world.enter(rec, enter=RecEnter.of(flags=EMUL, gprs=(9,) * 31))
    assert world.context(rec).x == [0] * 31
    assert world.context(rec).pc == 0x1008


def test_unprotected_abort_without_answer_is_executed_again(active: tuple[World, int]) -> None:
    """The host may have mapped the page instead."""
    world, rec = active
    world.enter(rec, abort(UNPROTECTED, **mmio()))
    world.enter(rec, enter=RecEnter.of(gprs=(9,) * 31))
    assert world.context(rec).pc == 0x1000
    assert world.context(rec).x[3] == 0


def test_host_may_answer_with_an_sea(active: tuple[World, int]) -> None:
    """INJECT_SEA: the realm takes an external abort at the address it used."""
    world, rec = active
    world.enter(rec, abort(UNPROTECTED, 0xFFFF_8000, **mmio(WnR=1)))
    world.enter(rec, enter=RecEnter.of(flags=SEA | EMUL))
    context = world.context(rec)
    assert (context.far_el1, context.elr_el1, context.pc) == (0xFFFF_8000, 0x1000, VBAR + 0x200)
    assert context.esr_el1 == 0x25 << 26 | 1 << 25 | EA | 1 << 6 | 0x10


# --- system registers -------------------------------------------------------------------------


@pytest.mark.parametrize("op2", [1, 5, 6, 7])
def test_sgi_and_dir_writes_are_the_hosts(active: tuple[World, int], op2: int) -> None:
    """ICC_DIR, ICC_SGI1R, ICC_ASGI1R, ICC_SGI0R: full syndrome and the value written."""
    world, rec = active
    world.context(rec).x[9] = 0xFEED
    leave = world.enter(rec, sysreg(3, 0, 12, 11, op2, rt=9, read=False))
    assert leave.exit_reason == RecExitReason.SYNC
    assert leave.esr >> 26 == ExceptionClass.SYSREG
    assert leave.esr >> 5 & 31 == 9
    assert leave.gprs[0] == 0xFEED
    assert world.context(rec).pc == 0x1004
    world.enter(rec, enter=RecEnter.of(gprs=(1,) * 31))
    assert world.context(rec).x[9] == 0xFEED


def test_trapped_read_is_completed_by_the_host(active: tuple[World, int]) -> None:
    """Its value comes with the next entry."""
    world, rec = active
    world.enter(rec, sysreg(3, 0, 12, 11, 5, rt=9, read=True))
    world.enter(rec, enter=RecEnter.of(gprs=(0x42, *[0] * 30)))
    assert world.context(rec).x[9] == 0x42
    world.enter(rec, enter=RecEnter.of(gprs=(0x43, *[0] * 30)))
    assert world.context(rec).x[9] == 0x42


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ((3, 0, 0, 4, 0), 0x1101_0010_1111_1111),  # PFR0 without RME, AMU, MPAM, SVE
        ((3, 0, 0, 4, 1), 0x1111_1011_1010_1011),  # PFR1 without MTE_frac, SME, MPAM_frac, MTE
        ((3, 0, 0, 4, 4), 0),  # ZFR0
        ((3, 0, 0, 6, 0), 0x1234),
        ((3, 0, 0, 7, 0), 0x5),
        ((3, 0, 1, 0, 1), 0),  # ACTLR_EL1: reads as zero
        ((3, 3, 9, 12, 0), 0),  # PMCR_EL0
    ],
)
def test_id_registers_are_filtered(
    active: tuple[World, int], key: tuple[int, int, int, int, int], value: int
) -> None:
    """Features that are not virtualised are hidden, all others are the machine's."""
    world, rec = active
    world.context(rec).x[4] = 77
    assert world.enter(rec, sysreg(*key, rt=4, read=True)).exit_reason == RecExitReason.IRQ
    assert hex(world.context(rec).x[4]) == hex(value)
    assert world.context(rec).pc == 0x1004


def test_debug_features_are_the_realms(active: tuple[World, int]) -> None:
    """As many breakpoints and watchpoints as the realm was created with; no DoubleLock."""
    world, rec = active
    world.enter(rec, sysreg(3, 0, 0, 5, 0, rt=4, read=True))
    value = world.context(rec).x[4]
    assert (value >> 12 & 0xF, value >> 20 & 0xF, value >> 36 & 0xF) == (1, 1, 0xF)
    assert (value & 0xF, value >> 8 & 0xF, value >> 32 & 0xF) == (6, 0, 0)


@pytest.mark.parametrize(
    ("changes", "mdcr", "version"),
    [
        ({}, MDCR_NO_PMU, 0),
        ({"pmu_num_ctrs": 3}, MDCR_NO_PMU, 0),
        ({"flags": RealmFlags.PMU, "pmu_num_ctrs": 3}, 3, 1),
    ],
)
def test_pmu_is_the_realms(world: World, changes: dict[str, int], mdcr: int, version: int) -> None:
    """Its event counters are those of its parameters; without the flag it has no PMU."""
    rd = world.realm(**changes)
    rec = world.rec(rd)
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    assert world.context(rec).mdcr_el2 == mdcr
    world.enter(rec, sysreg(3, 0, 0, 5, 0, rt=4, read=True))
    assert world.context(rec).x[4] >> 8 & 0xF == version


def test_writes_of_other_registers_are_ignored(active: tuple[World, int]) -> None:
    """RAZ/WI; XZR takes no value."""
    world, rec = active
    world.enter(
        rec, sysreg(3, 0, 1, 0, 1, rt=4, read=False), sysreg(3, 0, 0, 4, 0, rt=31, read=True)
    )
    assert world.context(rec).x == [0] * 31
    assert world.context(rec).pc == 0x1008


# --- threads ----------------------------------------------------------------------------------


def test_other_commands_work_while_a_realm_runs(active: tuple[World, int]) -> None:
    """A running REC holds no lock, cannot be entered again, and cannot be destroyed."""
    world, rec = active
    entered, leave = Flag(), Flag()

    def realm(_: PeContext) -> FakeExit:
        entered.set()
        assert leave.wait(10)
        return FakeExit()

    run, other = world.ns_granule(), world.ns_granule()
    world.machine.pe(1).steps.append(realm)
    thread = Thread(target=world.call, args=(ENTER, rec, run), kwargs={"pe": 1})
    thread.start()
    assert entered.wait(10)
    assert world.call(ENTER, rec, other)[0] == ERROR_REC
    assert world.call(RmiFid.RMI_REC_DESTROY, rec)[0] == ERROR_REC
    world.do(RmiFid.RMI_GRANULE_DELEGATE, other)
    leave.set()
    thread.join()
    world.do(RmiFid.RMI_REC_DESTROY, rec)


def test_exits_are_events(active: tuple[World, int]) -> None:
    """A listener sees each exit as the host does."""
    world, rec = active
    seen: list[Event] = []
    world.rmm.events.listener = seen.append
    world.enter(rec, abort(RAM_IPA))
    name = "(DATA_ABORT_LOWER read, translation fault at level 3)"
    line = f"REC_EXIT rec={rec:#x} SYNC esr=0x90000007 {name} far=0x0 hpfar=0x10"
    assert line in map(str, seen)
