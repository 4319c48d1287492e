"""The guest debugs itself: breakpoint, watchpoint and software step exceptions, and when not.

EL1 is the debugger, EL0 what it debugs: a run begins with EL1's ERET. Every vector is an HVC.
"""

from __future__ import annotations

import pytest

from pyvmm.arch.exits import ExitReason
from pyvmm.arch.pas import Pas
from tests.core.debugger import EC_BREAKPOINT, EC_STEP, EC_WATCHPOINT, FSC_DEBUG, IL, WNR, Debugger
from tests.core.system import (
    AF,
    CODE,
    DATA,
    EC_HVC,
    HCR_IMO,
    PAGE,
    READ_ONLY,
    USER,
    UXN,
    VECTORS,
    Bench,
    ec,
    guest_ec,
    vector,
)

KERNEL = CODE + PAGE  # EL1's code: ERET
SS, KDE, MDE = 1 << 0, 1 << 13, 1 << 15  # MDSCR_EL1
MDCR_TDE = 1 << 8
OSLK = 1 << 1
PSTATE_SS, PSTATE_D, PSTATE_DAIF = 1 << 21, 1 << 9, 0x3C0
EL0T, EL1H = 0, 5
ISV, EX = 1 << 24, 1 << 6
SVC_EC, UNKNOWN, DATA_ABORT_LOWER = 0x15, 0, 0x24
ENABLE, EL1_ONLY, EL0_ONLY, ANY_EL = 1, 1 << 1, 2 << 1, 3 << 1
BAS = 0xF << 5
LINKED_ADDRESS, CONTEXT, LINKED_CONTEXT = 1 << 20, 2 << 20, 3 << 20
LOAD, STORE, ANY_ACCESS = 1 << 3, 2 << 3, 3 << 3
HCR_VI = 1 << 7


@pytest.fixture
def bench() -> Bench:
    """Return a bench whose EL0 has code and a page of data, and whose EL1 has an ERET."""
    bench = Bench()
    bench.mmu_on()
    bench.map(CODE, CODE, AF | USER | READ_ONLY)
    bench.map(KERNEL, KERNEL, AF | UXN)
    bench.map(DATA, DATA, AF | USER | UXN)
    bench.load("eret", KERNEL)
    bench.state.mdscr_el1 = MDE
    return bench


def run_el0(bench: Bench, text: str | None = None, spsr: int = EL0T) -> int:
    """Let EL1 return to EL0 at CODE; return the vector that is taken next."""
    if text is not None:
        bench.load(text)
        bench.state.elr_el1 = CODE
    state = bench.state
    state.spsr_el1 = spsr
    state.pstate = PSTATE_DAIF | EL1H
    state.pc = KERNEL
    return vector(bench.run(budget=100_000))


def taken(bench: Bench, text: str, spsr: int = EL0T) -> tuple[int, int]:
    """Run EL0; return the exception's class and its offset in the code."""
    assert run_el0(bench, text, spsr) == 0x400
    return guest_ec(bench.state), int(bench.state.elr_el1) - CODE


def set_breakpoint(bench: Bench, address: int, control: int = ENABLE | ANY_EL | BAS) -> None:
    """Use breakpoint 0."""
    bench.state.dbgbvr[0], bench.state.dbgbcr[0] = address, control


def set_watchpoint(
    bench: Bench, address: int, control: int = ENABLE | ANY_EL | ANY_ACCESS | 0xFF << 5
) -> None:
    """Use watchpoint 0."""
    bench.state.dbgwvr[0], bench.state.dbgwcr[0] = address, control


# --- breakpoints ----------------------------------------------------------------------------------


def test_a_breakpoint_exception(bench: Bench) -> None:
    """Syndrome, return address, and that the instruction was not executed."""
    set_breakpoint(bench, CODE + 4)
    assert taken(bench, "mov x0, #1\n mov x0, #2\n svc #0") == (EC_BREAKPOINT, 4)
    assert bench.state.esr_el1 == EC_BREAKPOINT << 26 | IL | FSC_DEBUG
    assert (bench.state.x[0], bench.state.spsr_el1) == (1, EL0T)


@pytest.mark.parametrize(
    ("mdscr", "oslk", "control", "hit"),
    [
        (MDE, 0, ENABLE | ANY_EL | BAS, True),
        (MDE, 0, ENABLE | EL0_ONLY | BAS, True),
        (MDE, 0, ENABLE | EL1_ONLY | BAS, False),
        (MDE, 0, ANY_EL | BAS, False),
        (0, 0, ENABLE | ANY_EL | BAS, False),
        (MDE, OSLK, ENABLE | ANY_EL | BAS, False),
        (MDE, 0, ENABLE | ANY_EL | BAS | 1 << 14, True),  # Non-secure state only
        (MDE, 0, ENABLE | ANY_EL | BAS | 2 << 14, False),  # Secure state only
        (MDE, 0, ENABLE | ANY_EL | BAS | 5 << 20, False),  # a reserved type
    ],
)
def test_when_a_breakpoint_hits(
    bench: Bench, mdscr: int, oslk: int, control: int, hit: bool
) -> None:
    """MDSCR_EL1.MDE, the OS lock, DBGBCR.E, PMC, SSC and BT."""
    bench.state.mdscr_el1, bench.state.oslsr_el1 = mdscr, oslk
    set_breakpoint(bench, CODE + 4, control)
    expected = (EC_BREAKPOINT, 4) if hit else (SVC_EC, 8)
    assert taken(bench, "nop\n svc #0") == expected


@pytest.mark.parametrize(
    ("mdscr", "daif", "hit"), [(MDE | KDE, 0, True), (MDE, 0, False), (MDE | KDE, PSTATE_D, False)]
)
def test_breakpoints_in_el1_need_kde_and_no_mask(
    bench: Bench, mdscr: int, daif: int, hit: bool
) -> None:
    """The EL that takes the exception is the one that runs; its own class is one more."""
    bench.state.mdscr_el1 = mdscr
    bench.state.pstate = daif | EL1H
    set_breakpoint(bench, KERNEL + 4)
    bench.load("nop\n hvc #77", KERNEL)
    exit_ = bench.run()
    assert (exit_.esr & 0xFFFF == 77) != hit
    if hit:
        assert (vector(exit_), guest_ec(bench.state)) == (0x200, EC_BREAKPOINT + 1)
        assert bench.state.elr_el1 == KERNEL + 4


def test_el2_may_want_debug_exceptions(bench: Bench) -> None:
    """MDCR_EL2.TDE: the exit has the syndrome, EL1's registers are untouched, KDE plays no part."""
    bench.state.mdcr_el2 = MDCR_TDE
    bench.state.pstate = PSTATE_DAIF | EL1H
    set_breakpoint(bench, KERNEL)
    exit_ = bench.run("nop")
    bench.state.pc = KERNEL
    exit_ = bench.run()
    assert (exit_.reason, exit_.esr) == (ExitReason.SYNC, EC_BREAKPOINT << 26 | IL | FSC_DEBUG)
    assert (bench.state.pc, bench.state.esr_el1 >> 26) == (KERNEL, UNKNOWN)


@pytest.mark.parametrize(("context", "hit"), [(7, True), (8, False)])
def test_a_linked_breakpoint_is_of_one_context(bench: Bench, context: int, hit: bool) -> None:
    """Breakpoint 0 links to the context breakpoint 5; the latter alone does nothing."""
    state = bench.state
    state.contextidr_el1 = context
    set_breakpoint(bench, CODE, ENABLE | ANY_EL | BAS | LINKED_ADDRESS | 5 << 16)
    state.dbgbvr[5], state.dbgbcr[5] = 7, ENABLE | ANY_EL | BAS | LINKED_CONTEXT
    assert taken(bench, "svc #0") == ((EC_BREAKPOINT, 0) if hit else (SVC_EC, 4))
    state.dbgbcr[5] &= ~ENABLE
    assert taken(bench, "svc #0") == (SVC_EC, 4)


def test_a_context_breakpoint_hits_any_instruction_of_it(bench: Bench) -> None:
    """Unlinked Context ID match."""
    state = bench.state
    state.dbgbvr[4], state.dbgbcr[4] = 7, ENABLE | EL0_ONLY | BAS | CONTEXT
    assert taken(bench, "nop\n svc #0") == (SVC_EC, 8)
    state.contextidr_el1 = 7
    assert taken(bench, "nop\n svc #0") == (EC_BREAKPOINT, 0)


def test_the_guest_sets_its_breakpoints_itself(bench: Bench) -> None:
    """By MSR, to code that is decoded already, after a barrier; and takes them back."""
    text = "nop\n nop\n svc #0"
    assert taken(bench, text) == (SVC_EC, 12)
    state = bench.state
    state.x[0], state.x[1] = CODE + 4, ENABLE | ANY_EL | BAS
    bench.load("msr dbgbvr3_el1, x0\n msr dbgbcr3_el1, x1\n isb\n eret", KERNEL)
    assert taken(bench, text) == (EC_BREAKPOINT, 4)
    state.x[1] = 0
    assert taken(bench, text) == (SVC_EC, 12)
    state.x[1], state.mdscr_el1 = ENABLE | ANY_EL | BAS, 0
    state.x[2] = MDE
    assert taken(bench, text) == (SVC_EC, 12)
    bench.load("msr mdscr_el1, x2\n isb\n eret", KERNEL)
    assert taken(bench, text) == (EC_BREAKPOINT, 4)


def test_the_debugger_outside_comes_first(bench: Bench) -> None:
    """At the same instruction; over it, the guest's own breakpoint hits."""
    bench.load("nop\n svc #0")
    set_breakpoint(bench, CODE)
    debugger = Debugger(bench.machine, bench.state)
    debugger.break_at(CODE)
    bench.state.pc, bench.state.pstate = CODE, EL0T
    assert debugger.go().reason == ExitReason.DEBUG
    assert debugger.step().reason == ExitReason.DEBUG
    assert (bench.state.pc, guest_ec(bench.state)) == (VECTORS + 0x400, EC_BREAKPOINT)


# --- watchpoints ----------------------------------------------------------------------------------


def watched(bench: Bench, text: str) -> int | None:
    """Run an access of EL0 with x0 = DATA; return FAR_EL1 of the watchpoint, or None."""
    bench.state.x[0] = DATA
    found, at = taken(bench, f"{text}\n svc #0")
    if found == SVC_EC:
        return None
    assert (found, at) == (EC_WATCHPOINT, 0)
    return int(bench.state.far_el1)


def test_a_watchpoint_exception(bench: Bench) -> None:
    """Syndrome with WnR, FAR, and that nothing was stored."""
    set_watchpoint(bench, DATA)
    bench.memory.write_u64(DATA, 5)
    assert watched(bench, "str x30, [x0]") == DATA
    assert bench.state.esr_el1 == EC_WATCHPOINT << 26 | IL | FSC_DEBUG | WNR
    assert bench.memory.read_u64(DATA) == 5
    assert watched(bench, "ldr x1, [x0]") == DATA
    assert bench.state.esr_el1 == EC_WATCHPOINT << 26 | IL | FSC_DEBUG


@pytest.mark.parametrize(
    ("address", "byte_select", "hits"),
    [
        (DATA, 0xFF, {0, 1, 3, 4, 5, 7}),
        (DATA, 0x01, {0}),
        (DATA, 0xF0, {4, 5, 7}),
        (DATA, 0x81, {0, 7}),
        (DATA + 4, 0x0F, {4, 5, 7}),
        (DATA + 4, 0xFF, {4, 5, 7}),
        (DATA + 8, 0xFF, set()),
    ],
)
def test_bytes_are_selected(bench: Bench, address: int, byte_select: int, hits: set[int]) -> None:
    """DBGWCR.BAS, of a doubleword, or of a word where DBGWVR[2] is set."""
    set_watchpoint(bench, address, ENABLE | ANY_EL | ANY_ACCESS | byte_select << 5)
    for byte in (0, 1, 3, 4, 5, 7):
        far = watched(bench, f"ldrb w1, [x0, #{byte}]")
        assert far == (DATA + byte if byte in hits else None), byte


@pytest.mark.parametrize(
    ("bits", "first", "last"), [(3, 0x40, 0x47), (6, 0x40, 0x7F), (12, 0, 0xFFF)]
)
def test_a_masked_watchpoint_is_of_a_range(bench: Bench, bits: int, first: int, last: int) -> None:
    """DBGWCR.MASK."""
    set_watchpoint(bench, DATA + first, ENABLE | ANY_EL | ANY_ACCESS | 0xFF << 5 | bits << 24)
    for byte, hit in ((first, True), (last, True), (first - 1, False), (last + 1, False)):
        if 0 <= byte < PAGE:
            assert watched(bench, f"ldrb w1, [x0, #{byte}]") == (DATA + byte if hit else None)


@pytest.mark.parametrize(
    ("control", "text", "hit"),
    [
        (LOAD | ANY_EL, "ldr x1, [x0]", True),
        (LOAD | ANY_EL, "str x1, [x0]", False),
        (STORE | ANY_EL, "ldr x1, [x0]", False),
        (STORE | ANY_EL, "str x1, [x0]", True),
        (STORE | EL1_ONLY, "str x1, [x0]", False),
        (STORE | EL0_ONLY, "str x1, [x0]", True),
        (STORE | ANY_EL | 1 << 20 | 5 << 16, "str x1, [x0]", False),  # links to no breakpoint
    ],
)
def test_when_a_watchpoint_hits(bench: Bench, control: int, text: str, hit: bool) -> None:
    """DBGWCR.LSC, PAC and WT."""
    set_watchpoint(bench, DATA, ENABLE | 0xFF << 5 | control)
    assert (watched(bench, text) is not None) == hit


@pytest.mark.parametrize(("control", "text", "hit"), [(EL0_ONLY, "ldtr", 1), (EL0_ONLY, "ldr", 0)])
def test_an_unprivileged_access_is_one_of_el0(
    bench: Bench, control: int, text: str, hit: int
) -> None:
    """LDTR at EL1, with KDE."""
    bench.state.mdscr_el1, bench.state.pstate = MDE | KDE, EL1H
    set_watchpoint(bench, DATA, ENABLE | ANY_ACCESS | 0xFF << 5 | control)
    bench.load(f"{text} x1, [x0]\n hvc #77", KERNEL)
    bench.state.x[0] = DATA
    exit_ = bench.run()
    assert (exit_.esr & 0xFFFF == 77) != hit
    assert not hit or guest_ec(bench.state) == EC_WATCHPOINT + 1


def test_the_guest_sets_its_watchpoints_itself(bench: Bench) -> None:
    """By MSR, on a page that the TLB holds."""
    state = bench.state
    state.x[1], state.x[2] = DATA, ENABLE | ANY_EL | STORE | 0xFF << 5
    assert watched(bench, "str x9, [x0]") is None
    bench.load("msr dbgwvr1_el1, x1\n msr dbgwcr1_el1, x2\n isb\n eret", KERNEL)
    assert watched(bench, "str x9, [x0]") == DATA
    state.x[2] = 0
    assert watched(bench, "str x9, [x0]") is None


# --- software step --------------------------------------------------------------------------------


def stepped(bench: Bench, text: str | None = None) -> tuple[int, int]:
    """Return to EL0 with SPSR.SS; return the class and ELR of what comes."""
    run_el0(bench, text, EL0T | PSTATE_SS)
    return guest_ec(bench.state), int(bench.state.elr_el1) - CODE


@pytest.fixture
def stepping(bench: Bench) -> Bench:
    """Return the bench with software step enabled."""
    bench.state.mdscr_el1 = SS
    return bench


def test_a_software_step(stepping: Bench) -> None:
    """One instruction, then the exception, with ISV; again and again to the end."""
    state = stepping.state
    state.x[0] = 0
    assert stepped(stepping, "add x0, x0, #1\n b . + 8\n nop\n add x0, x0, #1\n svc #0") == (
        EC_STEP,
        4,
    )
    assert state.esr_el1 == EC_STEP << 26 | IL | ISV | FSC_DEBUG
    assert (state.x[0], state.spsr_el1) == (1, EL0T)
    assert stepped(stepping) == (EC_STEP, 12)
    assert stepped(stepping) == (EC_STEP, 16)
    assert state.x[0] == 2


def test_no_step_is_due_without_the_bit_in_spsr(stepping: Bench) -> None:
    """SPSR.SS = 0: the exception comes at once, and does not say what was stepped (ISV)."""
    assert taken(stepping, "add x0, x0, #1") == (EC_STEP, 0)
    assert stepping.state.esr_el1 == EC_STEP << 26 | IL | FSC_DEBUG


def test_software_step_is_off_without_mdscr(stepping: Bench) -> None:
    """SPSR.SS means nothing then, and PSTATE.SS is not set by it."""
    stepping.state.mdscr_el1 = 0
    assert stepped(stepping, "nop\n svc #0") == (SVC_EC, 8)
    assert not stepping.state.spsr_el1 & PSTATE_SS


def test_a_stepped_load_exclusive_is_told(stepping: Bench) -> None:
    """ISS.EX."""
    stepping.state.x[0] = DATA
    assert stepped(stepping, "ldxr x1, [x0]\n stxr w2, x1, [x0]") == (EC_STEP, 4)
    assert stepping.state.esr_el1 == EC_STEP << 26 | IL | ISV | EX | FSC_DEBUG
    stepped(stepping)
    assert stepping.state.esr_el1 == EC_STEP << 26 | IL | ISV | FSC_DEBUG
    assert stepping.state.x[2] == 1, "the exception return cleared the monitor"


@pytest.mark.parametrize(
    ("text", "exception", "offset", "spsr_ss"),
    [
        ("svc #0", SVC_EC, 4, 0),
        ("ldr x0, [xzr]", DATA_ABORT_LOWER, 0, PSTATE_SS),
        (".long 0", UNKNOWN, 0, PSTATE_SS),
        ("brk #1", 0x3C, 0, PSTATE_SS),
    ],
)
def test_an_exception_during_a_step(
    stepping: Bench, text: str, exception: int, offset: int, spsr_ss: int
) -> None:
    """SPSR.SS tells whether the instruction is still to be stepped."""
    text = text.replace("[xzr]", "[x5]")
    stepping.state.x[5] = 0
    assert stepped(stepping, text) == (exception, offset)
    assert stepping.state.spsr_el1 == EL0T | spsr_ss


def test_an_interrupt_comes_before_the_step(stepping: Bench) -> None:
    """It is taken in the active-not-pending state, with SPSR.SS set."""
    stepping.state.hcr_el2 |= HCR_IMO | HCR_VI
    assert run_el0(stepping, "nop", EL0T | PSTATE_SS) == 0x480
    assert (stepping.state.elr_el1, stepping.state.spsr_el1) == (CODE, EL0T | PSTATE_SS)


def test_an_exit_to_el2_during_a_step(stepping: Bench) -> None:
    """A trapped instruction is still to be stepped; an HVC of EL1 has been."""
    state = stepping.state
    state.hcr_el2 |= 1 << 13  # TWI
    state.sctlr_el1 |= 1 << 16
    stepping.load("wfi")
    state.pc, state.pstate = CODE, EL0T | PSTATE_SS
    assert ec(stepping.run()) == 0x01
    assert (state.pc, state.pstate) == (CODE, EL0T | PSTATE_SS)
    state.mdscr_el1 = SS | KDE
    stepping.load("hvc #9", KERNEL)
    state.pc, state.pstate = KERNEL, EL1H | PSTATE_SS
    exit_ = stepping.run()
    assert (ec(exit_), exit_.esr & 0xFFFF, state.pstate) == (EC_HVC, 9, EL1H)


def test_el1_steps_itself(stepping: Bench) -> None:
    """With KDE, from where PSTATE.D is cleared: that instruction is the first of the pending."""
    state = stepping.state
    state.mdscr_el1 = SS | KDE
    stepping.load("msr daifclr, #8\n nop", KERNEL)
    state.pc, state.pstate = KERNEL, PSTATE_DAIF | EL1H
    assert vector(stepping.run()) == 0x200
    assert (guest_ec(state), state.elr_el1) == (EC_STEP + 1, KERNEL + 4)


def test_an_eret_that_is_stepped_sets_no_step(stepping: Bench) -> None:
    """DebugExceptionReturnSS: where steps were enabled at the source, PSTATE.SS becomes 0."""
    state = stepping.state
    state.mdscr_el1 = SS | KDE
    stepping.load("nop")
    state.elr_el1, state.spsr_el1 = CODE, EL0T | PSTATE_SS
    state.pc, state.pstate = KERNEL, EL1H | PSTATE_SS
    assert vector(stepping.run()) == 0x400
    assert (guest_ec(state), state.elr_el1) == (EC_STEP, CODE)


def test_a_breakpoint_at_a_stepped_instruction(stepping: Bench) -> None:
    """It is the exception that is taken, and the step is still to be done."""
    stepping.state.mdscr_el1 = SS | MDE
    set_breakpoint(stepping, CODE)
    assert stepped(stepping, "nop") == (EC_BREAKPOINT, 0)
    assert stepping.state.spsr_el1 == EL0T | PSTATE_SS


def test_a_long_program_is_stepped_to_its_end(stepping: Bench) -> None:
    """EL1 handles each step itself: as many of them as there are instructions before the SVC."""
    stepping.load("mov x1, #50\n again: sub x1, x1, #1\n cbnz x1, again\n svc #0")
    handler = """
        mrs x10, esr_el1
        lsr x10, x10, #26
        cmp x10, #0x32
        b.ne done
        add x11, x11, #1
        mrs x10, spsr_el1
        orr x10, x10, #0x200000
        msr spsr_el1, x10
        eret
        done: hvc #0x21
    """
    stepping.load(handler, VECTORS + 0x400)
    stepping.state.elr_el1 = CODE
    stepping.state.x[11] = 0
    assert run_el0(stepping, spsr=EL0T | PSTATE_SS) == 0x21 * 0x80
    assert (stepping.state.x[11], guest_ec(stepping.state)) == (101, SVC_EC)


def test_realm_state_is_not_non_secure_state() -> None:
    """SSC = 1 does not match in a realm."""
    bench = Bench(Pas.REALM)
    bench.state.mdscr_el1, bench.state.pstate = MDE | KDE, EL1H
    bench.load("nop\n hvc #77")
    set_breakpoint(bench, CODE, ENABLE | ANY_EL | BAS | 1 << 14)
    assert bench.run().esr & 0xFFFF == 77
    bench.state.pc = CODE
    set_breakpoint(bench, CODE)
    assert vector(bench.run()) == 0x200
