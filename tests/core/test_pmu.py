"""The performance monitors, as a guest uses them."""

from __future__ import annotations

import pytest

from pyvmm.arch.engine import Engine
from pyvmm.arch.exits import ExitReason, IrqCause
from pyvmm.arch.pmu import CYCLE_COUNTER, NUM_EVENT_COUNTERS, PMCEID0, PMCEID1, PmuEvent
from pyvmm.arch.sysregs import Feature
from pyvmm.core import Clock
from tests.core.system import (
    AF,
    CODE,
    DATA,
    EC_HVC,
    EC_SYSREG,
    NG,
    USER,
    VECTORS,
    Bench,
    ec,
    guest_ec,
)

E, P, C, LC = 1, 2, 4, 1 << 6
CYCLES = 1 << CYCLE_COUNTER
NOT_EL0, NOT_EL1 = 1 << 30, 1 << 31
UNKNOWN, SVC = 0, 0x15
EN, SW, CR, ER = 1, 2, 4, 8
TPMCR, TPM = 1 << 5, 1 << 6
DATA_VA = CODE + 0x4000
EL1_CODE = VECTORS + 0x900  # EL1 cannot execute what EL0 can write
STOP = "hvc #0\n"


@pytest.fixture
def bench() -> Bench:
    """Return a bench whose PMU counts cycles and instructions (counter 0) at both levels."""
    bench = Bench()
    state = bench.state
    state.pmcr, state.pmcntenset = E, CYCLES | 0x3F
    state.pmevtyper[0] = PmuEvent.INST_RETIRED
    for n in range(1, NUM_EVENT_COUNTERS):
        state.pmevtyper[n] = 0x3FF  # an event that nobody has
    return bench


@pytest.fixture
def user(bench: Bench) -> Bench:
    """Return the same at EL0, with the MMU on and a page of data in x1."""
    bench.mmu_on()
    bench.map(CODE, CODE, AF | USER)
    bench.map(DATA_VA, DATA, AF | USER | NG)
    bench.state.pstate = 0x3C0
    bench.state.x[1] = DATA_VA
    return bench


def count(bench: Bench, event: int, text: str, counter: int = 1) -> int:
    """Return how often an event occurs in some code."""
    bench.state.pmevtyper[counter] = event
    bench.state.pmevcntr[counter] = 0
    bench.run(text)
    return int(bench.state.pmevcntr[counter])


def test_instructions_and_cycles_are_counted_exactly(bench: Bench) -> None:
    """A read does not count itself; an instruction takes one cycle."""
    bench.run(
        "mrs x0, pmccntr_el0\n mrs x1, pmevcntr0_el0\n" + "nop\n" * 7
        + "mrs x2, pmccntr_el0\n mrs x3, pmevcntr0_el0\n" + STOP
    )  # fmt: skip
    assert [bench.state.x[n] for n in range(4)] == [0, 1, 9, 10]
    assert bench.state.pmevcntr[0] == 12  # with the HVC


def test_a_counter_counts_from_its_enable_to_its_disable(bench: Bench) -> None:
    """Both by PMCNTENSET_EL0 and PMCNTENCLR_EL0, and by PMCR_EL0.E."""
    bench.state.pmcntenset, bench.state.x[0], bench.state.x[1] = 0, 1, CYCLES
    bench.run(
        "nop\n msr pmcntenset_el0, x0\n nop\n nop\n msr pmcntenclr_el0, x0\n nop\n"
        "msr pmcntenset_el0, x1\n msr pmcr_el0, xzr\n nop\n msr pmcr_el0, x0\n nop\n" + STOP
    )
    assert bench.state.pmevcntr[0] == 3
    assert bench.state.pmccntr == 3


def test_pmcr_resets_the_counters(bench: Bench) -> None:
    """P the event counters, C the cycle counter; neither bit stays."""
    state = bench.state
    state.pmevcntr[0] = state.pmevcntr[5] = state.pmccntr = 1000
    state.x[0] = P
    bench.run("msr pmcr_el0, x0\n mrs x1, pmcr_el0\n" + STOP)
    assert (state.pmevcntr[0], state.pmevcntr[5], state.pmccntr) == (0, 0, 1001)
    assert state.x[1] == LC | NUM_EVENT_COUNTERS << 11
    state.x[0] = C
    bench.run("msr pmcr_el0, x0\n" + STOP)
    assert (state.pmccntr, state.pmcr) == (0, 0)


LOOP = "mov x2, #10\n again: nop\n subs x2, x2, #1\n b.ne again\n"
#: LDADD, STADD, SWP, CAS and CASP at x1.
ATOMICS = "".join(
    f".long {word:#x}\n" for word in (0xF8230024, 0xF823003F, 0xF8238024, 0xC8A37C24, 0x48247C26)
)
LOADS = (
    "ldr x3, [x1]\n ldrsb w3, [x1, #1]\n ldp x3, x4, [x1]\n ldr q3, [x1]\n ldxr x3, [x1]\n"
    "ldar x3, [x1]\n .long 0xf8bfc023\n ldpsw x3, x4, [x1]\n ld1 {v0.16b}, [x1]\n ldtr x3, [x1]\n"
    "ldr x3, [x1, x10]\n ldur d3, [x1, #3]\n ldxp x3, x4, [x1]\n ldr x3, 0\n ldr s3, 0\n"
    "ldrsw x3, [x1]\n ldr x3, [x1], #0\n ld1r {v1.4s}, [x1]\n ldnp x3, x4, [x1]\n"
)
STORES = (
    "str x3, [x1]\n strb w3, [x1]\n stp x3, x4, [x1]\n str q3, [x1]\n stlr x3, [x1]\n"
    "st1 {v0.16b}, [x1]\n sttr x3, [x1]\n stxr w5, x3, [x1]\n stur q3, [x1, #16]\n"
    "str d3, [x1, x10]\n stlxp w5, x3, x4, [x1]\n st2 {v0.b, v1.b}[1], [x1]\n"
)
NEITHER = "prfm pldl1keep, [x1]\n prfum pldl1keep, [x1]\n prfm pldl1keep, 0\n add x3, x3, #1\n"
MEMORY = LOADS + STORES + ATOMICS + NEITHER
NUM_LOADS, NUM_STORES, NUM_ATOMICS = LOADS.count("\n"), STORES.count("\n"), ATOMICS.count("\n")
CALLS = "bl f\n b g\n f: ret\n g: adr x3, h\n br x3\n h: adr x3, k\n blr x3\n k: cbz x3, g\n"
CALLS += "tbnz x3, #63, g\n b.vs g\n"


@pytest.mark.parametrize(
    ("event", "text", "times"),
    [
        (PmuEvent.INST_RETIRED, LOOP, 31),
        (PmuEvent.CPU_CYCLES, LOOP, 31),
        (PmuEvent.BR_RETIRED, LOOP, 10),
        (PmuEvent.BR_IMMED_RETIRED, LOOP, 10),
        (PmuEvent.BR_RETIRED, CALLS, 8),
        (PmuEvent.BR_IMMED_RETIRED, CALLS, 5),
        (PmuEvent.BR_RETURN_RETIRED, CALLS, 1),
        (PmuEvent.LD_RETIRED, MEMORY, NUM_LOADS + NUM_ATOMICS),
        (PmuEvent.ST_RETIRED, MEMORY, NUM_STORES + NUM_ATOMICS),
        (PmuEvent.MEM_ACCESS, MEMORY, NUM_LOADS + NUM_STORES + NUM_ATOMICS),
        (PmuEvent.LD_RETIRED, LOOP, 0),
        (PmuEvent.SW_INCR, "mov x3, #6\n msr pmswinc_el0, x3\n msr pmswinc_el0, x3\n", 2),
        (PmuEvent.SW_INCR, "mov x3, #4\n msr pmswinc_el0, x3\n", 0),
        (0x3C, LOOP, 0),  # STALL, which is not implemented
    ],
)
def test_what_is_counted(bench: Bench, event: int, text: str, times: int) -> None:
    """Each event in some code, without the HVC at its end."""
    bench.mmu_on()
    bench.map(DATA_VA, DATA, AF | USER)
    bench.state.x[1] = DATA_VA
    expected = times + (event in {PmuEvent.INST_RETIRED, PmuEvent.CPU_CYCLES})
    assert count(bench, event, text + STOP) == expected


def test_what_faults_is_not_retired(user: Bench) -> None:
    """A load that takes an exception counts neither as an instruction nor as a load."""
    for event in (PmuEvent.INST_RETIRED, PmuEvent.LD_RETIRED, PmuEvent.MEM_ACCESS):
        user.state.pstate = 0x3C0
        times = count(user, event | NOT_EL1, "ldr x3, [x1]\n ldr x3, [x1]\n .long 0xf94000c3")
        assert times == 2
    user.state.pstate = 0x3C0
    assert count(user, PmuEvent.INST_RETIRED | NOT_EL1, "nop\n svc #0") == 2


def test_translations_that_are_missing_are_counted(user: Bench) -> None:
    """The refills of the first-level TLBs, and the walks; the second access has both."""
    text = "ldr x3, [x1]\n ldr x3, [x1]\n str x3, [x1]\n svc #0"
    for event, times in (
        (PmuEvent.L1D_TLB_REFILL, 1),
        (PmuEvent.DTLB_WALK, 1),
        (PmuEvent.L1I_TLB_REFILL, 1),
        (PmuEvent.ITLB_WALK, 1),
    ):
        user.state.pstate = 0x3C0
        user.machine.tlbi_vmid(0)
        assert count(user, event | NOT_EL1, text) == times, event.name


def test_exceptions_and_returns_are_counted_where_they_come_from(user: Bench) -> None:
    """EXC_TAKEN of an SVC belongs to EL0, EXC_RETURN to EL1."""
    user.state.pmevtyper[2] = PmuEvent.EXC_TAKEN | NOT_EL0
    user.state.pmevtyper[3] = PmuEvent.EXC_RETURN | NOT_EL0
    assert count(user, PmuEvent.EXC_TAKEN | NOT_EL1, "svc #0") == 1
    user.load("eret", EL1_CODE)
    user.run()
    assert [user.state.pmevcntr[n] for n in (1, 2, 3)] == [2, 0, 1]


def test_filters_choose_the_exception_levels(user: Bench) -> None:
    """PMEVTYPER<n>_EL0.P and U, and PMCCFILTR_EL0's: two instructions at EL0, one at EL1."""
    state = user.state
    for n, bits in enumerate((0, NOT_EL0, NOT_EL1, NOT_EL0 | NOT_EL1)):
        state.pmevtyper[n] = PmuEvent.INST_RETIRED | bits
    state.pmccfiltr = NOT_EL1
    user.run("nop\n svc #0")
    assert [state.pmevcntr[n] for n in range(4)] == [3, 1, 2, 0]
    assert state.pmccntr == 2


# --- overflow -------------------------------------------------------------------------------------


def test_an_overflow_ends_the_run_once(bench: Bench) -> None:
    """At the first poll after it; the level is in the context until the flag is cleared."""
    state = bench.state
    state.pmevcntr[0], state.pmintenset = (1 << 32) - 1000, 1
    exit_ = bench.run("b .")
    assert (exit_.reason, exit_.irq, exit_.instructions) == (ExitReason.IRQ, IrqCause.PMU, 1000)
    assert (state.pmovsset, state.pmevcntr[0], state.pmu_overflow) == (1, 0, 1)
    assert bench.run().reason == ExitReason.BUDGET
    state.x[0] = 1
    bench.run("msr pmovsclr_el0, x0\n mrs x1, pmovsset_el0\n" + STOP)
    assert (state.x[1], state.pmovsset, state.pmu_overflow) == (0, 0, 0)


def test_the_cycle_counter_overflows_at_64_bits(bench: Bench) -> None:
    """PMCR_EL0.LC is one; only what PMINTENSET_EL1 says ends the run."""
    bench.state.pmccntr = (1 << 64) - 100
    assert bench.run("b .").reason == ExitReason.BUDGET
    assert (bench.state.pmovsset, bench.state.pmu_overflow) == (CYCLES, 0)
    bench.state.pmccntr, bench.state.pmovsset = (1 << 64) - 100, 0
    bench.state.pmintenset = CYCLES
    assert bench.run("b .").irq == IrqCause.PMU


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (PmuEvent.MEM_ACCESS, "again: ldr x3, [x1]\n b again"),
        (PmuEvent.BR_RETIRED, "b ."),
        (PmuEvent.SW_INCR, "mov x3, #2\n again: msr pmswinc_el0, x3\n b again"),
    ],
)
def test_every_event_can_overflow(bench: Bench, event: int, text: str) -> None:
    """And the counter goes on from zero."""
    bench.state.x[1], bench.state.pmintenset = DATA, 2
    bench.state.pmevtyper[1], bench.state.pmevcntr[1] = event, (1 << 32) - 50
    assert bench.run(text).irq == IrqCause.PMU
    assert bench.state.pmevcntr[1] < 2


def test_a_counter_of_the_other_level_overflows_in_time(user: Bench) -> None:
    """The distance to the overflow is known again after a return to EL0."""
    state = user.state
    state.pmevtyper[0], state.pmevcntr[0] = PmuEvent.INST_RETIRED | NOT_EL1, (1 << 32) - 1000
    state.pmintenset, state.pstate = 1, 0x3C5
    state.elr_el1, state.spsr_el1 = CODE + 4, 0x3C0
    user.load("nop\n b .")
    user.load("eret", EL1_CODE)
    exit_ = user.run(budget=100_000)
    assert (exit_.irq, exit_.instructions) == (IrqCause.PMU, 1001)


def test_an_odd_counter_counts_the_overflows_of_the_even_one(bench: Bench) -> None:
    """CHAIN: a counter of 64 bits."""
    state = bench.state
    state.pmevtyper[1] = PmuEvent.CHAIN
    state.pmevcntr[0], state.pmevcntr[1] = (1 << 32) - 5, (1 << 32) - 1
    bench.run("nop\n" * 9 + STOP)
    assert (state.pmevcntr[0], state.pmevcntr[1], state.pmovsset) == (5, 0, 3)
    state.pmevtyper[2], state.pmevcntr[1], state.pmevcntr[2] = 0x1E, 0, 0
    state.pmevcntr[0] = (1 << 32) - 1
    state.pmcntenset &= ~2
    bench.run("nop\n" + STOP)
    assert (state.pmevcntr[1], state.pmevcntr[2]) == (0, 0)


@pytest.mark.parametrize("engine", [Engine.INTERP, Engine.JIT])
def test_an_exact_clock_stops_at_the_overflow(engine: Engine) -> None:
    """Not at the next branch, so that a replay with another engine is the same."""
    bench = Bench(clock=Clock.EXACT, engine=engine)
    state = bench.state
    state.pmcr, state.pmcntenset, state.pmintenset = E, 1, 1
    state.pmevtyper[0], state.pmevcntr[0] = PmuEvent.INST_RETIRED, (1 << 32) - 5003
    exit_ = bench.run("again:\n" + "nop\n" * 6 + "b again", budget=100_000)
    assert (exit_.irq, exit_.instructions, state.pmevcntr[0]) == (IrqCause.PMU, 5003, 0)


# --- access ---------------------------------------------------------------------------------------


def test_the_registers_keep_what_is_implemented(bench: Bench) -> None:
    """All ones in every register."""
    names = ("pmcntenset_el0", "pmovsset_el0", "pmovsclr_el0", "pmselr_el0", "pmuserenr_el0")
    bench.state.x[9] = (1 << 64) - 1
    bench.run(
        "".join(f"msr {name}, x9\n mrs x{n}, {name}\n" for n, name in enumerate(names))
        + "msr pmccfiltr_el0, x9\n mrs x5, pmccfiltr_el0\n"
        "msr pmevtyper5_el0, x9\n mrs x6, pmevtyper5_el0\n mrs x7, pmceid0_el0\n"
        "mrs x8, pmceid1_el0\n msr pmxevtyper_el0, xzr\n mrs x10, pmccfiltr_el0\n" + STOP
    )
    every = CYCLES | 0x3F
    values = [bench.state.x[n] for n in range(9)]
    both = NOT_EL0 | NOT_EL1
    assert values == [every, every, 0, 31, 15, both, both | 0x3FF, PMCEID0, PMCEID1]
    assert bench.state.x[10] == 0


def test_selected_counters(bench: Bench) -> None:
    """PMXEVTYPER_EL0 and PMXEVCNTR_EL0; what does not exist reads as zero."""
    state = bench.state
    state.x[3], state.x[4], state.x[5] = 3, 77, NUM_EVENT_COUNTERS
    bench.run(
        "msr pmselr_el0, x3\n msr pmxevcntr_el0, x4\n msr pmxevtyper_el0, x4\n"
        "msr pmselr_el0, x5\n msr pmxevcntr_el0, x4\n mrs x0, pmxevcntr_el0\n" + STOP
    )
    assert (state.pmevcntr[3], state.pmevtyper[3], state.x[0]) == (77, 77, 0)


def test_hpmn_takes_counters_from_el1(bench: Bench) -> None:
    """MDCR_EL2.HPMN: the others are absent, and do not count."""
    bench.state.mdcr_el2 = 4
    for n in range(6):
        bench.state.pmevtyper[n] = PmuEvent.INST_RETIRED
    bench.state.x[9] = CYCLES | 0x3F
    bench.run("mrs x0, pmcr_el0\n mrs x1, pmcntenset_el0\n nop\n" + STOP)
    assert (bench.state.x[0] >> 11 & 31, bench.state.x[1]) == (4, CYCLES | 0xF)
    assert [bool(bench.state.pmevcntr[n]) for n in range(6)] == [True] * 4 + [False] * 2
    for text in ("mrs x0, pmevcntr4_el0", "msr pmevtyper5_el0, x0"):
        bench.state.esr_el1 = -1 & (1 << 64) - 1
        assert ec(bench.run(text)) == EC_HVC
        assert guest_ec(bench.state) == UNKNOWN


@pytest.mark.parametrize(
    ("text", "enables"),
    [
        ("mrs x0, pmcr_el0", EN),
        ("msr pmcntenset_el0, x0", EN),
        ("mrs x0, pmccntr_el0", EN | CR),
        ("msr pmccntr_el0, x0", EN),
        ("mrs x0, pmevcntr2_el0", EN | ER),
        ("msr pmevcntr2_el0, x0", EN),
        ("mrs x0, pmxevcntr_el0", EN | ER),
        ("msr pmselr_el0, x0", EN | ER),
        ("msr pmswinc_el0, x0", EN | SW),
        ("mrs x0, pmceid0_el0", EN),
        ("msr pmevtyper2_el0, x0", EN),
        ("msr pmccfiltr_el0, x0", EN),
        ("mrs x0, pmuserenr_el0", 0xF),
    ],
)
def test_what_el0_may_access(user: Bench, text: str, enables: int) -> None:
    """By PMUSERENR_EL0; what it may not access traps to EL1."""
    for bit in (EN, SW, CR, ER):
        user.state.pstate = 0x3C0
        user.state.pmuserenr = bit
        user.run(f"{text}\n svc #0")
        assert guest_ec(user.state) == (SVC if enables & bit else EC_SYSREG)
    if enables != 0xF:
        user.state.pstate, user.state.pmuserenr = 0x3C0, 0
        user.run(f"{text}\n svc #0")
        assert guest_ec(user.state) == EC_SYSREG


@pytest.mark.parametrize("text", ["msr pmuserenr_el0, x0", "mrs x0, pmintenset_el1"])
def test_what_el0_may_never_access(user: Bench, text: str) -> None:
    """It is UNDEFINED."""
    user.state.pmuserenr, user.state.esr_el1 = 0xF, (1 << 64) - 1
    user.run(f"{text}\n svc #0")
    assert guest_ec(user.state) == UNKNOWN


@pytest.mark.parametrize(
    ("mdcr", "text", "is_trapped"),
    [
        (TPM, "mrs x0, pmcr_el0", True),
        (TPM, "msr pmuserenr_el0, x0", True),
        (TPM, "mrs x0, pmevcntr0_el0", True),
        (TPM, "msr pmintenclr_el1, x0", True),
        (TPMCR, "mrs x0, pmcr_el0", True),
        (TPMCR, "mrs x0, pmccntr_el0", False),
        (0, "mrs x0, pmcr_el0", False),
    ],
)
def test_el2_can_trap_the_registers(bench: Bench, mdcr: int, text: str, is_trapped: bool) -> None:
    """MDCR_EL2.TPM and TPMCR; even if there are no counters."""
    bench.state.mdcr_el2 = mdcr | (0 if mdcr == TPM else NUM_EVENT_COUNTERS)
    assert ec(bench.run(f"{text}\n hvc #0")) == (EC_SYSREG if is_trapped else EC_HVC)


@pytest.mark.parametrize("text", ["mrs x0, pmcr_el0", "msr pmswinc_el0, x0", "mrs x0, pmccntr_el0"])
def test_a_machine_can_lack_it(text: str) -> None:
    """The registers are UNDEFINED then, and ID_AA64DFR0_EL1.PMUVer is 0."""
    bench = Bench(features=~Feature.PMU)
    bench.state.esr_el1 = (1 << 64) - 1
    bench.run(f"{text}\n hvc #0")
    assert guest_ec(bench.state) == UNKNOWN
    bench.run("mrs x0, id_aa64dfr0_el1\n hvc #0")
    assert bench.state.x[0] >> 8 & 0xF == 0
    bench = Bench()
    bench.run("mrs x0, id_aa64dfr0_el1\n hvc #0")
    assert bench.state.x[0] >> 8 & 0xF == 1


# --- engines --------------------------------------------------------------------------------------


def counts(engine: Engine, events: tuple[int, ...], text: str) -> list[int]:
    """Return the counters after a program that begins and ends counting itself."""
    bench = Bench(engine=engine)
    state = bench.state
    state.x[1], state.x[9] = DATA, 0x3F | CYCLES
    for n, event in enumerate(events):
        state.pmevtyper[n] = event
    state.pmcr = E
    bench.run(
        f"mov x7, #9\n all: cmp x7, #6\n b.ne on\n msr pmcntenset_el0, x9\n on: cmp x7, #3\n"
        f"b.ne off\n msr pmcntenclr_el0, x9\n off:\n{text}\n subs x7, x7, #1\n b.ne all\n{STOP}",
        budget=100_000,
    )
    return [*state.pmevcntr, state.pmccntr]


@pytest.mark.parametrize("text", [LOOP, CALLS, MEMORY], ids=["loop", "calls", "memory"])
def test_translated_code_counts_the_same(text: str) -> None:
    """Code that was translated before counting, and is again afterwards."""
    plain = (PmuEvent.INST_RETIRED, PmuEvent.CPU_CYCLES)
    steps = (PmuEvent.LD_RETIRED, PmuEvent.ST_RETIRED, PmuEvent.BR_RETIRED, PmuEvent.MEM_ACCESS)
    if text == MEMORY:  # with the MMU off, some of it would fault
        text = LOADS.partition("ldr q3")[0] + "str x3, [x1]\n"
    for events in (plain, steps, plain + steps):
        expected = counts(Engine.INTERP, events, text)
        assert any(expected)
        assert counts(Engine.JIT, events, text) == expected
