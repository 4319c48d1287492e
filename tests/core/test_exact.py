"""The exact clock: budgets and timers end a run at their very instruction, with any engine."""

from __future__ import annotations

import pytest

from pyvmm.arch.engine import Engine
from pyvmm.arch.exits import ExitReason, IrqCause
from pyvmm.core import Clock
from tests.core.system import Bench

LOOP = "loop: add x0, x0, #1\n mul x1, x0, x0\n eor x2, x2, x1\n tst x0, #7\n b.ne loop\n b loop"
TICK = 4  # instructions


@pytest.fixture(params=[Engine.INTERP, Engine.JIT])
def bench(request: pytest.FixtureRequest) -> Bench:
    """Return a bench with the exact clock."""
    return Bench(clock=Clock.EXACT, engine=request.param)


@pytest.mark.parametrize("budget", [1, 7, 2047, 2049, 100_003])
def test_a_budget_is_met_exactly(bench: Bench, budget: int) -> None:
    """In the middle of a loop's body, too."""
    bench.load(LOOP)
    for _ in range(3):
        exit_ = bench.run(budget=budget)
        assert (exit_.reason, exit_.instructions) == (ExitReason.BUDGET, budget)


def test_pauses_do_not_change_a_run(bench: Bench) -> None:
    """One run, and the same in two hundred parts."""
    bench.load(LOOP)
    whole = bench.machine.copy_context(bench.state)
    bench.machine.pe(0).run(whole, 50_000)
    for _ in range(200):
        bench.run(budget=250)
    assert bench.machine.save_context(bench.state) == bench.machine.save_context(whole)


def test_a_timer_ends_a_run_at_its_instruction(bench: Bench) -> None:
    """And not at the next check; `early` shows that nothing is noticed before."""
    bench.load(LOOP)
    bench.state.cntv_ctl, bench.state.cntv_cval = 1, 10_000
    early = bench.run(budget=10_000 * TICK - 1)
    assert early.reason == ExitReason.BUDGET
    exit_ = bench.run(budget=100_000)
    assert (exit_.reason, exit_.irq, exit_.instructions) == (ExitReason.IRQ, IrqCause.TIMER, 1)


def test_a_timer_that_the_guest_sets_counts_at_once(bench: Bench) -> None:
    """The next stop is computed again when it is written."""
    program = f"mov x3, #25\n msr cntv_cval_el0, x3\n mov x3, #1\n msr cntv_ctl_el0, x3\n {LOOP}"
    exit_ = bench.run(program, budget=100_000)
    assert (exit_.reason, exit_.irq, exit_.instructions) == (
        ExitReason.IRQ,
        IrqCause.TIMER,
        25 * TICK,
    )


def test_wfi_returns_with_the_time_to_wait(bench: Bench) -> None:
    """The caller decides what runs meanwhile, and sets the counter."""
    bench.state.cntv_ctl, bench.state.cntv_cval = 1, 1_000
    exit_ = bench.run("wfi\n" + LOOP)
    assert (exit_.reason, exit_.irq, exit_.instructions) == (ExitReason.IRQ, IrqCause.IDLE, 1)
    assert exit_.far == 1_000
    bench.machine.set_counter(1_000)
    assert bench.run().irq == IrqCause.TIMER


def test_pes_share_one_clock() -> None:
    """What one has executed is time for the other."""
    bench = Bench(num_pes=2, clock=Clock.EXACT, engine=Engine.INTERP)
    bench.load(LOOP)
    bench.run(budget=4_000)
    other = bench.machine.copy_context(bench.state)
    bench.machine.pe(1).run(other, 400)
    assert bench.machine.counter() == 1_100
