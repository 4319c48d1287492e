"""The GIC virtual CPU interface and the generic timer, as a guest drives them."""

from __future__ import annotations

import pytest

from pyvmm.arch.exits import ExitReason
from pyvmm.core import Clock, Machine
from tests.core.system import CODE, EC_HVC, EC_SYSREG, HCR_FMO, HCR_IMO, Bench, ec, vector

PENDING, ACTIVE, GROUP1, HW, EOI = 1 << 62, 1 << 63, 1 << 60, 1 << 61, 1 << 41
EN = 1
VMCR_ON = 0xFF << 24 | 3 << 18 | 2 << 21 | 3  # everything passes, both groups on
SPURIOUS = 1023
IRQ_TIMER, IRQ_MAINTENANCE = 2, 4
IRQ_VECTOR, FIQ_VECTOR = 0x280, 0x300
UNMASKED = 0x205  # EL1h with D masked

ACK = "mrs x0, s3_0_c12_c12_0\n"
END = "msr s3_0_c12_c12_1, x0\n"


def lr(intid: int, priority: int = 0xA0, state: int = PENDING, flags: int = GROUP1) -> int:
    """Return a list register."""
    return intid | priority << 48 | state | flags


@pytest.fixture
def bench() -> Bench:
    """Return a bench with the virtual CPU interface on."""
    bench = Bench()
    bench.state.hcr_el2 |= HCR_IMO | HCR_FMO
    bench.state.ich_hcr = EN
    bench.state.ich_vmcr = VMCR_ON
    bench.machine.pe(0).set_maintenance(True)
    return bench


def test_a_listed_interrupt_is_taken_acknowledged_and_ended(bench: Bench) -> None:
    """Pending, active, gone: the states of the list register."""
    bench.state.ich_lr[0] = lr(27)
    bench.state.pstate = UNMASKED
    exit_ = bench.run("nop\n nop")
    assert vector(exit_) == IRQ_VECTOR
    bench.run(ACK + "hvc #0")
    assert (bench.state.x[0], bench.state.ich_lr[0] & (PENDING | ACTIVE)) == (27, ACTIVE)
    assert bench.state.ich_ap1r0 == 1 << (0xA0 >> 3)
    bench.run("mrs x1, s3_0_c12_c11_3\n" + END + "mrs x2, s3_0_c12_c11_3\n hvc #0")
    assert (bench.state.x[1], bench.state.x[2]) == (0xA0, 0xFF)
    assert bench.state.ich_lr[0] & (PENDING | ACTIVE) == 0
    assert bench.state.ich_ap1r0 == 0


@pytest.mark.parametrize(
    ("lrs", "vmcr", "first"),
    [
        ([lr(40, 0xA0), lr(41, 0x80)], VMCR_ON, 41),
        ([lr(40, 0xA0, ACTIVE), lr(41, 0xA8)], VMCR_ON, 41),
        ([lr(40, 0xA0)], VMCR_ON & ~2, SPURIOUS),
        ([lr(40, 0xA0)], VMCR_ON & ~(0xFF << 24) | 0xA0 << 24, SPURIOUS),
        ([lr(40, 0xA0, PENDING | ACTIVE)], VMCR_ON, SPURIOUS),
        ([lr(40, 0xA0, flags=0)], VMCR_ON, SPURIOUS),
    ],
)
def test_what_group_1_acknowledges(bench: Bench, lrs: list[int], vmcr: int, first: int) -> None:
    """Priority, group enable, priority mask, state and group decide."""
    for n, value in enumerate(lrs):
        bench.state.ich_lr[n] = value
    bench.state.ich_vmcr = vmcr
    bench.run(ACK + "hvc #0")
    assert bench.state.x[0] == first


@pytest.mark.parametrize(("priority", "preempts"), [(0x80, True), (0xA0, False), (0xC0, False)])
def test_only_a_higher_priority_preempts(bench: Bench, priority: int, preempts: bool) -> None:
    """While an interrupt of priority 0xA0 is active."""
    bench.state.ich_lr[0] = lr(40, 0xA0)
    bench.run(ACK + "hvc #0")
    bench.state.ich_lr[1] = lr(41, priority)
    bench.state.pstate = UNMASKED
    exit_ = bench.run("nop\n nop\n hvc #99")
    assert (exit_.esr & 0xFFFF == IRQ_VECTOR // 0x80) == preempts


def test_group_0_is_an_fiq(bench: Bench) -> None:
    """A group 0 interrupt is taken at the FIQ vector and acknowledged by ICC_IAR0_EL1."""
    bench.state.ich_lr[0] = lr(33, flags=0)
    bench.state.pstate = UNMASKED
    assert vector(bench.run("nop\n nop")) == FIQ_VECTOR
    bench.run("mrs x0, s3_0_c12_c8_0\n hvc #0")
    assert (bench.state.x[0], bench.state.ich_ap0r0) == (33, 1 << (0xA0 >> 3))


def test_split_end_needs_a_deactivation(bench: Bench) -> None:
    """ICC_CTLR_EL1.EOImode = 1: EOIR drops the priority, DIR deactivates."""
    bench.state.ich_lr[0] = lr(40)
    bench.run("mov x3, #2\n msr s3_0_c12_c12_4, x3\n" + ACK + END + "hvc #0")
    assert bench.state.ich_lr[0] & ACTIVE
    assert bench.state.ich_ap1r0 == 0
    bench.run("msr s3_0_c12_c11_1, x0\n hvc #0")
    assert not bench.state.ich_lr[0] & ACTIVE


def test_the_end_of_an_unlisted_interrupt_is_counted(bench: Bench) -> None:
    """EOIcount, and the maintenance interrupt that LRENPIE makes of it."""
    bench.state.ich_ap1r0 = 1 << (0xA0 >> 3)
    bench.state.ich_hcr = EN | 4
    bench.state.x[0] = 40
    exit_ = bench.run(END + "b .")
    assert (exit_.reason, exit_.irq) == (ExitReason.IRQ, IRQ_MAINTENANCE)
    assert bench.state.ich_hcr >> 27 == 1
    assert bench.state.ich_misr == 4


def test_the_end_of_a_level_interrupt_asks_for_maintenance(bench: Bench) -> None:
    """ICH_LR.EOI: an IRQ exit with EISR set."""
    bench.state.ich_lr[2] = lr(40, flags=GROUP1 | EOI)
    exit_ = bench.run(ACK + END + "b .")
    assert (exit_.reason, exit_.irq) == (ExitReason.IRQ, IRQ_MAINTENANCE)
    assert (bench.state.ich_eisr, bench.state.ich_misr, bench.state.ich_elrsr) == (4, 1, 0xB)


def test_underflow_asks_for_maintenance(bench: Bench) -> None:
    """UIE with two interrupts: after the first one is over."""
    bench.state.ich_lr[0], bench.state.ich_lr[1] = lr(40), lr(41)
    bench.state.ich_hcr = EN | 2
    exit_ = bench.run(ACK + END + "b .")
    assert (exit_.irq, bench.state.ich_misr) == (IRQ_MAINTENANCE, 2)


def test_only_a_host_that_enabled_it_hears_of_maintenance(bench: Bench) -> None:
    """A condition of ICH_MISR_EL2 ends no run while PPI 25 is disabled, but is shown."""
    bench.machine.pe(0).set_maintenance(False)
    bench.state.ich_hcr = EN | 2
    assert bench.run("wfe\n hvc #0").reason == ExitReason.SYNC
    assert bench.state.ich_misr == 2
    bench.machine.pe(0).set_maintenance(True)
    assert bench.run("b .").irq == IRQ_MAINTENANCE


def test_sgis_always_trap(bench: Bench) -> None:
    """ICC_SGI1R_EL1 is EL2's business."""
    exit_ = bench.run("msr s3_0_c12_c11_5, x9")
    assert (ec(exit_), exit_.esr >> 5 & 31, bench.state.pc) == (EC_SYSREG, 9, CODE)


@pytest.mark.parametrize(
    ("bit", "text"), [(12, ACK), (11, "mrs x0, s3_0_c12_c8_0"), (10, "mrs x0, s3_0_c4_c6_0")]
)
def test_interface_registers_can_be_trapped(bench: Bench, bit: int, text: str) -> None:
    """ICH_HCR_EL2.TALL1, TALL0 and TC."""
    bench.state.ich_hcr = EN | 1 << bit
    assert ec(bench.run(text)) == EC_SYSREG


def test_binary_points_have_their_minimum_and_common_mode(bench: Bench) -> None:
    """BPR0 >= 2, BPR1 >= 3; with CBPR, BPR1 shows BPR0 + 1."""
    bench.run(
        "msr s3_0_c12_c8_3, xzr\n msr s3_0_c12_c12_3, xzr\n"
        "mrs x0, s3_0_c12_c8_3\n mrs x1, s3_0_c12_c12_3\n"
        "mov x3, #1\n msr s3_0_c12_c12_4, x3\n mov x3, #5\n msr s3_0_c12_c8_3, x3\n"
        "mrs x2, s3_0_c12_c12_3\n hvc #0"
    )
    assert [bench.state.x[n] for n in range(3)] == [2, 3, 6]


VMCR_RESET = 2 << 21 | 3 << 18 | 1 << 3  # the least binary points; FIQs are signalled
VMCR_MAX = 0xF8 << 24 | 7 << 21 | 7 << 18 | 1 << 9 | 1 << 4 | 1 << 3 | 3


def test_what_the_interface_holds_at_reset() -> None:
    """The fields of ICH_VMCR_EL2 have their minimum, and every list register is empty."""
    state = Bench().state
    assert (state.ich_vmcr, state.ich_elrsr, state.ich_misr) == (VMCR_RESET, 0xF, 0)


@pytest.mark.parametrize(
    ("loaded", "held"),
    [(0, VMCR_RESET), (1 << 21 | 4 << 18, 2 << 21 | 4 << 18 | 8), ((1 << 64) - 1, VMCR_MAX)],
)
def test_a_loaded_control_register_keeps_what_it_implements(
    bench: Bench, loaded: int, held: int
) -> None:
    """ICH_VMCR_EL2 as EL2 reads it after it was written and the guest has run."""
    bench.state.ich_vmcr = loaded
    bench.run("mrs x0, s3_0_c12_c8_3\n mrs x1, s3_0_c12_c12_3\n hvc #0")
    assert bench.state.ich_vmcr == held
    assert bench.state.x[0] == held >> 21 & 7
    assert bench.state.x[1] == (held >> 18 & 7 if not held & 1 << 4 else 7)


# --- timer ----------------------------------------------------------------------------------------


def test_the_virtual_clock_counts_instructions(bench: Bench) -> None:
    """Four instructions a tick, repeatably; CNTVOFF_EL2 is taken off."""
    bench.run("mrs x0, cntpct_el0\n" + "nop\n" * 7 + "mrs x1, cntpct_el0\n hvc #0")
    assert bench.state.x[1] - bench.state.x[0] == 2
    bench.state.cntvoff_el2 = 5
    bench.run("mrs x0, cntvct_el0\n mrs x1, cntpct_el0\n hvc #0")
    assert (bench.state.x[0] - bench.state.x[1]) % (1 << 64) in {(1 << 64) - 5, (1 << 64) - 6}


@pytest.mark.parametrize("timer", ["v", "p"])
def test_a_timer_that_fires_ends_the_run(bench: Bench, timer: str) -> None:
    """An IRQ exit with the timer bit and ISTATUS in the context; the caller is told once."""
    start = (
        f"mov x0, #100\n msr cnt{timer}_tval_el0, x0\n mov x0, #1\n msr cnt{timer}_ctl_el0, x0\n"
    )
    exit_ = bench.run(start + "b .", budget=10_000_000)
    assert (exit_.reason, exit_.irq) == (ExitReason.IRQ, IRQ_TIMER)
    assert getattr(bench.state, f"cnt{timer}_ctl") == 5
    assert bench.run(budget=100_000).reason == ExitReason.BUDGET


def test_a_masked_timer_shows_its_status_only(bench: Bench) -> None:
    """IMASK: no exit, ISTATUS reads 1, TVAL is negative."""
    bench.run(
        "mov x0, #3\n msr cntv_cval_el0, xzr\n msr cntv_ctl_el0, x0\n mrs x1, cntv_ctl_el0\n"
        "mrs x2, cntv_tval_el0\n hvc #0"
    )
    assert bench.state.x[1] == 7
    assert (
        bench.state.x[2] == (-(bench.machine.counter())) % (1 << 32)
        or bench.state.x[2] >> 31
        or bench.state.x[2] == 0
    )


def test_wfi_sleeps_until_the_timer(bench: Bench) -> None:
    """With the virtual clock idle time is jumped over."""
    before = bench.machine.counter()
    start = (
        "mov x0, #0x100000\n msr cntv_tval_el0, x0\n mov x0, #1\n msr cntv_ctl_el0, x0\n wfi\n b ."
    )
    exit_ = bench.run(start)
    assert (exit_.reason, exit_.irq) == (ExitReason.IRQ, IRQ_TIMER)
    assert bench.machine.counter() - before >= 0x100000


def test_el2_controls_the_physical_timer(bench: Bench) -> None:
    """CNTHCTL_EL2.EL1PCEN and EL1PCTEN."""
    bench.state.cnthctl_el2 = 0
    assert ec(bench.run("mrs x0, cntpct_el0")) == EC_SYSREG
    assert ec(bench.run("msr cntp_ctl_el0, x0")) == EC_SYSREG
    assert ec(bench.run("mrs x0, cntvct_el0\n hvc #0")) == EC_HVC


def test_the_real_clock_runs_at_its_frequency() -> None:
    """CNTFRQ_EL0 is what the machine says, and the counter moves."""
    bench = Bench(clock=Clock.REAL)
    bench.run("mrs x0, cntfrq_el0\n mrs x1, cntvct_el0\n hvc #0")
    assert bench.state.x[0] == bench.machine.counter_frequency
    assert bench.state.x[1] <= bench.machine.counter()


@pytest.mark.parametrize("clock", Clock)
def test_counter_continues_from_a_value(clock: Clock) -> None:
    """Forwards and backwards, on either clock."""
    machine = Machine(1 << 30, 1 << 21, clock=clock)
    for count in (1 << 40, 5, 1 << 50):
        machine.set_counter(count)
        first = machine.counter()
        assert count <= first < count + 60 * machine.counter_frequency
        assert machine.counter() >= first


def test_context_is_saved_by_name() -> None:
    """All of it but pointers; what does not fit is refused, and changes nothing."""
    machine = Machine(1 << 30, 1 << 21)
    context, other = machine.new_context(), machine.new_context()
    context.x[30], context.v[63], context.ttbr1_el1 = 7, 8, (1 << 64) - 1
    saved = machine.save_context(context)
    assert "debug" not in saved
    machine.load_context(other, saved)
    assert machine.save_context(other) == saved
    impossible: list[dict[str, list[int]]] = [
        {"pc": [1 << 64]},
        {"pc": [-1]},
        {"x": [1]},
        {"none": [1]},
        {"pc": []},
    ]
    for wrong in impossible:
        with pytest.raises(ValueError, match="register"):
            machine.load_context(other, wrong)
    assert machine.save_context(other) == saved


@pytest.mark.parametrize("text", ["b 0", "wfi\n b 0"])
def test_an_alarm_ends_a_run_once(bench: Bench, text: str) -> None:
    """As a kick does; a context that computes or sleeps, without a timer of its own."""
    pe = bench.machine.pe(0)
    deadline = bench.machine.counter() + 100_000
    pe.set_alarm(deadline)
    exit_ = bench.run(text, budget=1_000_000)
    assert (exit_.reason, exit_.irq) == (ExitReason.IRQ, 1)
    assert bench.machine.counter() >= deadline
    assert bench.run("nop\n hvc #0").reason == ExitReason.SYNC
