"""The normal VM's run loop: every kind of exit, PSCI, and how a VM ends."""

from collections.abc import Iterator
from functools import partial

import pytest

from pyvmm.arch import gic
from pyvmm.arch.el1 import SCTLR_EL1
from pyvmm.arch.esr import ESR_ABORT, ESR_EL2, ESR_SYSREG, ExceptionClass, hpfar_of
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.gic import PPI_PMU
from pyvmm.arch.hcr import MDCR_NO_PMU
from pyvmm.arch.pas import GranuleProtectionFault, Pas
from pyvmm.arch.psci import PsciFid, PsciReturn
from pyvmm.arch.pstate import EL1H, SPSR_EL1
from pyvmm.arch.smccc import NOT_SUPPORTED, VERSION_1_2, SmcccFid
from pyvmm.host.allocator import Allocator
from pyvmm.host.guest import ExitKind, Guest, GuestConfig, Outcome, Segment
from pyvmm.host.normal_vm import NormalVm
from pyvmm.host.vgic import Vgic
from tests.host.fakes import (
    DRAM_BASE,
    DRAM_SIZE,
    FakeBus,
    FakeContext,
    FakeExit,
    FakeMachine,
    Script,
    SparseMemory,
    call,
    fewer_interrupts,
)

RAM_BASE = 0x8000_0000
RAM_SIZE = 2 << 20
UART = 0x0100_0004
VBAR = 0xFFFF_0000
PSTATE_SS = 1 << 21


hvc = partial(call, ExceptionClass.HVC64)


class Rig:
    """A VM whose vCPUs follow scripts."""

    def __init__(
        self, *scripts: Script, segments: tuple[Segment, ...] = (), num_counters: int = 0
    ) -> None:
        """Build the VM and everything around it."""
        self.machine = FakeMachine(*scripts)
        self.memory = SparseMemory()
        self.allocator = Allocator(DRAM_BASE, DRAM_SIZE)
        self.bus = FakeBus(a1000004=0x80)
        self.vgic = Vgic(len(scripts))
        config = GuestConfig(
            *(len(scripts), RAM_BASE, RAM_SIZE, segments, RAM_BASE + 0x80000, (0x1234, 0, 0, 0)),
            num_counters=num_counters,
        )
        self.vm = NormalVm(
            self.machine, self.memory, self.allocator, bus=self.bus, vgic=self.vgic, config=config
        )

    def run(self) -> Outcome | None:
        """Run to the end."""
        guest: Guest = self.vm
        guest.build()
        guest.start()
        return guest.wait(10)


def power_off(context: FakeContext) -> FakeExit:
    """End the VM."""
    return hvc(context, PsciFid.SYSTEM_OFF)


def mmio(ipa: int, **fields: int) -> FakeExit:
    """Access a device."""
    esr = ESR_ABORT.of(EC=ExceptionClass.DATA_ABORT_LOWER, IL=1, FSC=6, **{"ISV": 1, **fields})
    return FakeExit(esr=esr, far=0xFFFF_8000_0000_0000 | ipa & 0xFFF, hpfar=hpfar_of(ipa))


def test_boot_cpu_starts_as_linux_wants_it() -> None:
    """EL1h, masked, MMU off, x0 = DTB, stage 2 on, the payload in place."""
    seen: list[FakeContext] = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        seen.append(context)
        yield power_off(context)

    rig = Rig(guest, segments=(Segment(RAM_BASE + 0x80000, b"kernel"),))
    assert rig.vm.outcome is None
    assert rig.run() is Outcome.OFF
    context = seen[0]
    assert (context.pstate, context.sctlr_el1) == (0x3C5, 0x30D0_0980)
    assert context.pc == RAM_BASE + 0x80000
    assert context.x[1:4] == [0, 0, 0]
    assert context.vmpidr_el2 == 1 << 31
    assert context.hcr_el2 & 1
    assert context.security == Pas.NS
    assert context.ich_hcr & gic.ICH_HCR_EN
    assert rig.vm.dma.read(RAM_BASE + 0x80000, 6) == b"kernel"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"SAS": 0}, 0x80, id="byte"),
        pytest.param({"SAS": 0, "SSE": 1}, 0xFFFF_FF80, id="signed to 32 bits"),
        pytest.param({"SAS": 0, "SSE": 1, "SF": 1}, 0xFFFF_FFFF_FFFF_FF80, id="signed to 64 bits"),
        pytest.param({"SAS": 1, "SSE": 1}, 0x80, id="positive halfword"),
    ],
)
def test_device_read_is_extended_into_its_register(fields: dict[str, int], expected: int) -> None:
    """ESR_EL2 describes the load; then the guest continues after it, with a software step done."""
    values = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        context.pc, context.pstate = 0x1000, 5 | PSTATE_SS
        yield mmio(UART, SRT=5, **fields)
        values.append((context.x[5], context.pc, context.pstate))
        yield power_off(context)

    rig = Rig(guest)
    rig.run()
    assert values == [(expected, 0x1004, 5)]
    assert rig.bus.log[0][:3] == ("read", UART, 1 << fields["SAS"])


def test_device_write_is_repeated_when_the_device_says_so() -> None:
    """The guest does not continue after the store until it is complete."""
    places = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        context.pc = 0x1000
        for _ in range(2):
            yield mmio(UART, SRT=31, WnR=1)
            places.append(context.pc)
        yield power_off(context)

    rig = Rig(guest)
    rig.bus.num_repeats = 1
    assert rig.run() is Outcome.OFF
    assert places == [0x1000, 0x1004]


def test_device_write_is_cut_to_its_size_and_knows_xzr() -> None:
    """A byte store of x3, then an 8-byte store and a load of xzr."""

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        context.x[3] = 0x1_2345
        yield mmio(UART, SRT=3, WnR=1)
        yield mmio(UART, SRT=31, WnR=1, SAS=3, SF=1)
        yield mmio(UART, SRT=31)
        yield power_off(context)

    rig = Rig(guest)
    rig.run()
    assert rig.bus.log == [
        ("write", UART, 1, 0x45),
        ("write", UART, 8, 0),
        ("read", UART, 1, 0x80),
    ]


@pytest.mark.parametrize(
    ("fields", "syndrome"),
    [
        pytest.param({"ISV": 0}, 0x25, id="no syndrome"),
        pytest.param({"S1PTW": 1}, 0x25, id="page table in a device"),
        pytest.param({"FSC": 0x28}, 0x25, id="granule protection fault"),
        pytest.param({"EC": ExceptionClass.INSTRUCTION_ABORT_LOWER}, 0x21, id="fetch"),
    ],
)
def test_other_accesses_become_external_aborts(fields: dict[str, int], syndrome: int) -> None:
    """The guest has to handle what cannot be emulated: EC of the same level, FSC 0x10."""
    seen: list[int] = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        context.pc, context.vbar_el1, context.pstate = 0x1000, VBAR, 0x6000_0005
        exit_ = mmio(UART)
        exit_.esr = ESR_ABORT(exit_.esr).replace(**fields)
        yield exit_
        seen.extend((context.pc, context.esr_el1, context.elr_el1, context.spsr_el1))
        seen.extend((context.pstate, context.far_el1))
        yield power_off(context)

    rig = Rig(guest)
    rig.run()
    assert seen[:4] == [VBAR + 0x200, syndrome << 26 | 1 << 25 | 0x10, 0x1000, 0x6000_0005]
    assert seen[4:] == [0x6000_03C5, 0xFFFF_8000_0000_0004]
    assert rig.bus.log == []


def test_unknown_exits_are_undefined_instructions() -> None:
    """A trapped register other than the SGI registers, a read of those, a reserved class."""
    vectors = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        sysreg = ESR_SYSREG.of(EC=ExceptionClass.SYSREG, IL=1, OP0=3, CRN=12, CRM=11, OP2=5)
        for esr in (sysreg.replace(CRM=12), sysreg.replace(READ=1), 0x3F << 26):
            context.vbar_el1, context.pstate = VBAR, 0
            yield FakeExit(esr=esr)
            vectors.append((context.pc - VBAR, context.esr_el1))
        yield power_off(context)

    Rig(guest).run()
    assert vectors == [(0x400, 1 << 25)] * 3


@pytest.mark.parametrize(("num_counters", "mdcr", "tid3"), [(0, MDCR_NO_PMU, 1), (4, 4, 0)])
def test_pmu_is_hidden_unless_asked_for(num_counters: int, mdcr: int, tid3: int) -> None:
    """Then ID registers trap, and ID_AA64DFR0_EL1.PMUVer reads as zero."""
    seen: list[int] = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        assert (context.mdcr_el2, context.hcr_el2 >> 18 & 1) == (mdcr, tid3)
        context.pc = 0x1000
        read = ESR_SYSREG.of(EC=ExceptionClass.SYSREG, IL=1, OP0=3, RT=4, READ=1)
        for crm, op2, rt in ((5, 0, 4), (6, 1, 5), (4, 0, 31)):
            yield FakeExit(esr=read.replace(CRM=crm, OP2=op2, RT=rt))
        seen.extend((context.x[4], context.x[5], context.pc))
        yield power_off(context)

    rig = Rig(guest, num_counters=num_counters)
    rig.run()
    plain = rig.machine.id_register
    assert seen == [plain(3, 0, 0, 5, 0) & ~0xF00, plain(3, 0, 0, 6, 1), 0x100C]


def test_pmu_drives_its_interrupt() -> None:
    """PPI 23 has the level that the core shows at each exit."""
    levels = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        for level in (0, 1, 1, 0):
            context.pmu_overflow = level
            yield FakeExit(reason=ExitReason.IRQ)
            levels.append(rig.vgic.cpus[0].private.line >> PPI_PMU & 1)
        yield power_off(context)

    rig = Rig(guest, num_counters=6)
    rig.run()
    assert levels == [0, 1, 1, 0]


def test_injected_exceptions_set_pan_and_ssbs_by_sctlr() -> None:
    """SPAN = 0 sets PAN, DSSBS sets SSBS; the flags are kept."""
    seen = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        context.pstate, context.sctlr_el1 = SPSR_EL1.of(NZCV=0xA), SCTLR_EL1.DSSBS.mask
        yield FakeExit(esr=0x3F << 26)
        seen.append(context.pstate)
        yield power_off(context)

    Rig(guest).run()
    assert seen == [SPSR_EL1.of(NZCV=0xA, PAN=1, SSBS=1, DAIF=0xF, MODE=EL1H)]


def test_smc_is_not_supported_and_skipped() -> None:
    """A normal VM has no firmware."""
    seen = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        context.pc = 0x1000
        yield FakeExit(esr=ESR_EL2.of(EC=ExceptionClass.SMC64))
        seen.append((context.x[0], context.pc))
        yield power_off(context)

    Rig(guest).run()
    assert seen == [(NOT_SUPPORTED, 0x1004)]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ((PsciFid.PSCI_VERSION,), 0x1_0001),
        ((PsciFid.PSCI_FEATURES, PsciFid.CPU_ON_64), 0),
        ((PsciFid.PSCI_FEATURES, SmcccFid.SMCCC_VERSION), 0),
        ((PsciFid.PSCI_FEATURES, 0x8400_000E), NOT_SUPPORTED),
        ((PsciFid.MIGRATE_INFO_TYPE,), 2),
        ((SmcccFid.SMCCC_VERSION,), VERSION_1_2),
        ((SmcccFid.SMCCC_ARCH_FEATURES, 0x8000_8000), NOT_SUPPORTED),
        ((SmcccFid.SMCCC_ARCH_FEATURES, SmcccFid.SMCCC_ARCH_SOC_ID), NOT_SUPPORTED),
        ((SmcccFid.SMCCC_ARCH_SOC_ID, 0), NOT_SUPPORTED),
        ((PsciFid.CPU_ON_64, 0, 0), PsciReturn.ALREADY_ON.x0),
        ((PsciFid.CPU_ON_64, 5, 0), PsciReturn.INVALID_PARAMETERS.x0),
        ((PsciFid.AFFINITY_INFO_64, 0, 0), 0),
        ((PsciFid.AFFINITY_INFO_64, 1, 0), 1),
        ((PsciFid.AFFINITY_INFO_64, 1, 1), PsciReturn.INVALID_PARAMETERS.x0),
        ((PsciFid.CPU_SUSPEND_64, 0), 0),
        ((0xDEAD_BEEF_0000_0000,), NOT_SUPPORTED),
    ],
)
def test_psci_answers(call: tuple[int, ...], expected: int) -> None:
    """Every call except those that change the power state is answered."""
    answers = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        yield hvc(context, *call)
        answers.append(context.x[0])
        yield power_off(context)

    Rig(guest, lambda _: iter(())).run()
    assert answers == [expected]


def test_cpu_on_starts_a_parked_cpu_and_cpu_off_parks_it_again() -> None:
    """The second CPU starts at the entry point with the context in x0; then it is off."""
    seen: list[int] = []

    def second(context: FakeContext) -> Iterator[FakeExit]:
        seen.extend((context.pc, context.x[0], context.vmpidr_el2))
        yield hvc(context, PsciFid.CPU_OFF)

    def first(context: FakeContext) -> Iterator[FakeExit]:
        yield hvc(context, PsciFid.CPU_ON_64, 1, 0x8008_0000, 77)
        assert context.x[0] == 0
        for _ in range(100_000):
            yield hvc(context, PsciFid.AFFINITY_INFO_64, 1, 0)
            if context.x[0] == 1:
                break
        yield power_off(context)

    assert Rig(first, second).run() is Outcome.OFF
    assert seen == [0x8008_0000, 77, 1 << 31 | 1]


def test_sgi_wakes_a_sleeping_cpu() -> None:
    """A write of ICC_SGI1R_EL1 kicks the target, which finds the SGI in a list register."""
    found: list[int] = []

    def second(context: FakeContext) -> Iterator[FakeExit]:
        while not context.ich_lr[0]:
            yield FakeExit(ExitReason.BUDGET)
        found.append(context.ich_lr[0] & 0xFFFF_FFFF)
        yield power_off(context)

    def first(context: FakeContext) -> Iterator[FakeExit]:
        yield hvc(context, PsciFid.CPU_ON_64, 1, 0x8008_0000, 0)
        context.x[4] = 0b10 | 6 << 24
        esr = ESR_SYSREG.of(EC=ExceptionClass.SYSREG, IL=1, OP0=3, CRN=12, CRM=11, OP2=5, RT=4)
        yield FakeExit(esr=esr)

    rig = Rig(first, second)
    for cpu in rig.vgic.cpus:
        cpu.private.enabled = 0xFFFF
    rig.vgic.groups = gic.GICD_CTLR_GRP1
    assert rig.run() is Outcome.OFF
    assert found == [6]


def test_timer_output_becomes_its_ppi_and_falls_again() -> None:
    """ENABLE and ISTATUS without IMASK assert PPI 27; after an EOI the wire is sampled again."""
    listed: list[int] = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        context.cntv_ctl = 0b101
        yield FakeExit(ExitReason.IRQ, irq=2)
        listed.append(context.ich_lr[0] & 0xFFFF_FFFF)
        context.cntv_ctl = 0b111
        context.ich_lr[0] &= ~(3 << 62)
        yield FakeExit(ExitReason.IRQ, irq=4)
        listed.append(context.ich_lr[0])
        yield power_off(context)

    rig = Rig(guest)
    rig.vgic.cpus[0].private.enabled = 1 << 27
    rig.vgic.groups = gic.GICD_CTLR_GRP1
    rig.run()
    assert listed == [27, 0]


def test_list_registers_without_an_interrupt_become_zero() -> None:
    """Only those in use are written at an entry, and those that were in use before."""
    listed: list[list[int]] = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        yield from fewer_interrupts(context, listed)
        yield power_off(context)

    rig = Rig(guest)
    rig.vgic.cpus[0].private.enabled = 0xFFFF_FFFF
    rig.vgic.groups = gic.GICD_CTLR_GRP1
    assert rig.run() is Outcome.OFF
    assert listed == [[27, 30, 0, 0], [30, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("fid", "outcome"),
    [
        (PsciFid.SYSTEM_OFF, Outcome.OFF),
        (PsciFid.SYSTEM_RESET, Outcome.RESET),
        (PsciFid.SYSTEM_RESET2_32, Outcome.RESET),
        (PsciFid.SYSTEM_RESET2_64, Outcome.RESET),
    ],
)
def test_system_calls_end_every_cpu(fid: PsciFid, outcome: Outcome) -> None:
    """One CPU ends the VM while the other sleeps."""

    def first(context: FakeContext) -> Iterator[FakeExit]:
        yield hvc(context, PsciFid.CPU_ON_64, 1, 0, 0)
        yield hvc(context, fid, 0)

    rig = Rig(first, lambda _: iter(()))
    assert rig.run() is outcome


@pytest.mark.parametrize("kind", [1, 0x8000_0000, 0xFFFF_FFFF])
def test_a_reset_of_an_unknown_type_is_refused(kind: int) -> None:
    """The guest continues, and can try another way."""
    results: list[int] = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        for fid in (PsciFid.SYSTEM_RESET2_32, PsciFid.SYSTEM_RESET2_64):
            yield hvc(context, fid, kind)
            results.append(context.x[0])
        yield power_off(context)

    assert Rig(guest).run() is Outcome.OFF
    assert results == [PsciReturn.INVALID_PARAMETERS.x0] * 2


def test_stop_ends_a_sleeping_guest_and_close_gives_everything_back() -> None:
    """Another thread stops it; afterwards all of DRAM is free again."""
    rig = Rig(lambda _: iter(()), lambda _: iter(()))
    rig.vm.build()
    rig.vm.start()
    assert rig.vm.wait(0.01) is None
    rig.vm.stop()
    assert rig.vm.wait(10) is Outcome.STOPPED
    rig.vm.close()
    assert rig.allocator.free_size == DRAM_SIZE
    assert [(pas, size) for pas, _, size in rig.machine.punched] == [(Pas.NS, RAM_SIZE)]
    assert rig.machine.forgotten == [1]


def test_released_memory_is_dropped_and_nothing_else() -> None:
    """Addresses outside RAM are refused, to the byte."""
    rig = Rig(lambda _: iter(()))
    rig.vm.release(RAM_BASE + 0x3000, 0x2000)
    assert rig.machine.punched == [(Pas.NS, rig.vm.dma._pa + 0x3000, 0x2000)]
    for ipa, size in ((RAM_BASE - 4096, 4096), (RAM_BASE + RAM_SIZE - 4096, 8192), (0, 4096)):
        with pytest.raises(GranuleProtectionFault):
            rig.vm.release(ipa, size)
    assert len(rig.machine.punched) == 1


def test_exits_are_counted_by_kind() -> None:
    """Each exit counts once, for its vCPU."""

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        yield mmio(UART)
        yield mmio(UART, WnR=1)
        yield hvc(context, PsciFid.PSCI_VERSION)
        yield FakeExit(esr=ESR_EL2.of(EC=ExceptionClass.WFX, IL=1))
        yield FakeExit(esr=ESR_EL2.of(EC=ExceptionClass.UNKNOWN, IL=1))
        yield FakeExit(ExitReason.IRQ)
        yield power_off(context)

    rig = Rig(guest, lambda _: iter(()))
    assert rig.run() is Outcome.OFF
    counts = {ExitKind(n): count for n, count in enumerate(rig.vm.exits[0]) if count}
    assert counts == {
        ExitKind.MMIO: 2,
        ExitKind.PSCI: 2,
        ExitKind.WFX: 1,
        ExitKind.OTHER: 1,
        ExitKind.IRQ: 1,
    }
    assert not any(rig.vm.exits[1])


def test_last_exit_and_call_are_remembered() -> None:
    """The registers are recorded too; interrupts of the host do not count."""

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        yield hvc(context, PsciFid.PSCI_VERSION)
        yield mmio(UART, WnR=1)
        context.pc = 0x1234
        yield FakeExit(ExitReason.IRQ)
        yield FakeExit(ExitReason.SERROR)

    rig = Rig(guest, lambda _: iter(()))
    rig.run()
    state, other = rig.vm.vcpu_states()
    assert (state.last.esr, state.last.ipa) == (mmio(UART, WnR=1).esr, UART)
    assert state.last.call == PsciFid.PSCI_VERSION
    assert state.registers is not None
    assert state.registers.pc == 0x1234
    assert (other.is_on, other.last.esr, other.last.call) == (False, None, None)


def test_pause_holds_the_guest_until_resume() -> None:
    """Once pause has returned, a guest makes no progress."""
    steps: list[int] = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        while context.x[9] == 0:
            steps.append(1)
            yield FakeExit(ExitReason.BUDGET)
        yield power_off(context)

    rig = Rig(guest)
    rig.vm.build()
    rig.vm.start()
    rig.vm.pause()
    count = len(steps)
    assert rig.vm.wait(0.05) is None
    assert len(steps) == count
    rig.vm._contexts[0].x[9] = 1
    rig.vm.resume()
    assert rig.vm.wait(10) is Outcome.OFF


def test_serror_crashes_the_vm() -> None:
    """An SError taken to EL2 cannot be handled."""
    rig = Rig(lambda _: iter([FakeExit(ExitReason.SERROR)]))
    assert rig.run() is Outcome.CRASHED
    assert rig.vm.reason == "vCPU 0: SError"


@pytest.mark.parametrize("pstate", [0, 4, 5])
def test_exception_vector_without_memory_crashes_the_vm(pstate: int) -> None:
    """Otherwise the same fetch would abort for ever."""

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        context.pc, context.vbar_el1, context.pstate = 0x1000, VBAR, pstate
        for _ in range(3):
            exit_ = mmio(UART)
            exit_.esr = ESR_ABORT(exit_.esr).replace(EC=ExceptionClass.INSTRUCTION_ABORT_LOWER)
            yield exit_
        yield power_off(context)

    rig = Rig(guest)
    assert rig.run() is Outcome.CRASHED
    assert rig.vm.reason == f"vCPU 0: no memory at its exception vector {VBAR + 0x200:#x}"


def test_bug_in_a_vcpu_thread_is_raised_by_wait() -> None:
    """An exception of ours does not vanish in a thread."""

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        yield mmio(UART)
        raise ZeroDivisionError(context.pc)

    rig = Rig(guest)
    rig.vm.build()
    rig.vm.start()
    with pytest.raises(ZeroDivisionError):
        rig.vm.wait(10)
    assert rig.vm.outcome is Outcome.CRASHED


@pytest.mark.parametrize(
    ("addr", "size"),
    [(RAM_BASE - 1, 1), (RAM_BASE, RAM_SIZE + 1), (RAM_BASE + RAM_SIZE, 1), (0, 8), (1 << 64, 1)],
)
def test_dma_outside_ram_is_refused(addr: int, size: int) -> None:
    """A device can access its guest's RAM and nothing else."""
    rig = Rig(lambda _: iter(()))
    with pytest.raises(GranuleProtectionFault):
        rig.vm.dma.read(addr, size)
    with pytest.raises(GranuleProtectionFault):
        rig.vm.dma.view(addr, size)
