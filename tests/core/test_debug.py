"""A debugger outside the guest: breakpoints, watchpoints and steps that the guest cannot see."""

from __future__ import annotations

import struct

import pytest

from pyvmm.arch.exits import ExitReason
from pyvmm.core import Clock, Machine
from tests.core import program
from tests.core.debugger import (
    EC_BREAKPOINT,
    EC_WATCHPOINT,
    FSC_DEBUG,
    IL,
    READ,
    WNR,
    WRITE,
    Debugger,
    stops,
)
from tests.core.system import (
    AF,
    CODE,
    DATA,
    EC_DATA_ABORT,
    EC_HVC,
    HCR_IMO,
    PAGE,
    PXN,
    READ_ONLY,
    USER,
    UXN,
    VECTORS,
    Bench,
    ec,
    guest_ec,
)
from tests.core.test_smp import Pair, pair

__all__ = ["pair"]

HCR_VI = 1 << 7
EC_SVC = 0x15
LOOP = "mov x1, #5\n again: sub x1, x1, #1\n nop\n cbnz x1, again\n hvc #0"
BUFFER = DATA + 0x800  # what the access tests touch, in the middle of a page
LSE_ADD = 0xF8200000  # LDADD X0, X0, [X0]


@pytest.fixture
def bench() -> Bench:
    """Return a bench with stage 1 on, and two pages of data."""
    bench = Bench()
    bench.mmu_on()
    for page in range(2):
        bench.map(DATA + page * PAGE, DATA + page * PAGE, AF | UXN | USER)
    return bench


@pytest.fixture
def debugger(bench: Bench) -> Debugger:
    """Return a debugger of the bench."""
    return Debugger(bench.machine, bench.state)


# --- breakpoints ----------------------------------------------------------------------------------


def test_a_breakpoint_stops_before_its_instruction(bench: Bench, debugger: Debugger) -> None:
    """Registers are those before it; the exit says what and how much was done."""
    bench.load("mov x0, #1\n mov x0, #2\n mov x0, #3\n hvc #7")
    debugger.break_at(CODE + 8)
    exit_ = debugger.go()
    assert (exit_.reason, exit_.esr) == (
        ExitReason.DEBUG,
        EC_BREAKPOINT << 26 | IL | FSC_DEBUG,
    )
    assert (bench.state.pc, bench.state.x[0], exit_.instructions) == (CODE + 8, 2, 2)
    assert debugger.go().reason == ExitReason.DEBUG  # it is still there
    debugger.break_at()
    assert (ec(debugger.go()), bench.state.x[0]) == (EC_HVC, 3)


def test_a_breakpoint_in_a_loop_stops_every_turn(bench: Bench, debugger: Debugger) -> None:
    """Five turns, in decoded code as in fresh code, and the loop still does what it did."""
    bench.load(LOOP)
    debugger.break_at(CODE + 8)
    assert [pc for pc, _ in stops(debugger)] == [CODE + 8] * 5
    assert bench.state.x[1] == 0


def test_breakpoints_come_into_code_that_ran_before(bench: Bench, debugger: Debugger) -> None:
    """What was decoded without a mark gets it, and loses it."""
    bench.run(LOOP)
    for breakpoints, expected in (((CODE + 4, CODE + 12), 10), ((), 0), ((CODE,), 1)):
        bench.state.pc = CODE
        debugger.break_at(*breakpoints)
        assert len(list(stops(debugger))) == expected


def test_a_breakpoint_is_an_address_and_not_a_place_in_a_page(
    bench: Bench, debugger: Debugger
) -> None:
    """Neither the same offset of another page nor another mapping of the page stops."""
    alias = CODE + 4 * PAGE
    bench.map(CODE + PAGE, CODE + PAGE, AF | UXN)
    bench.map(alias, CODE, AF | UXN)
    bench.load("mov x2, #1\n hvc #0", CODE + PAGE)
    bench.load("mov x2, #2\n hvc #0")
    debugger.break_at(CODE)
    for start in (CODE + PAGE, alias):
        bench.state.pc = start
        assert ec(debugger.go()) == EC_HVC
    bench.state.pc = CODE
    assert debugger.go().reason == ExitReason.DEBUG


def test_a_breakpoint_is_not_seen_in_memory(bench: Bench, debugger: Debugger) -> None:
    """The guest reads its own words, and its own new word is what runs."""
    bench.load("ldr w3, target\n mov x0, #0\n target: mov x0, #1\n hvc #0")
    before = bench.memory.read(CODE, 16)
    debugger.break_at(CODE + 8)
    debugger.go()
    assert bench.state.x[3] == struct.unpack_from("<I", before, 8)[0]
    assert bench.memory.read(CODE, 16) == before
    bench.memory.write(CODE + 8, program.assemble("mov x0, #9"))
    assert [pc for pc, _ in stops(debugger)] == [CODE + 8]
    assert bench.state.x[0] == 9


def test_a_breakpoint_survives_a_store_of_the_guest(bench: Bench, debugger: Debugger) -> None:
    """Self-modifying code with IC IVAU: the new word has the breakpoint of the old one."""
    bench.load("str w2, [x1]\n ic ivau, x1\n dsb sy\n isb\n mov x0, #1\n hvc #0")
    bench.state.x[1] = CODE + 16
    bench.state.x[2] = struct.unpack("<I", program.assemble("mov x0, #9"))[0]
    debugger.break_at(CODE + 16)
    assert [pc for pc, _ in stops(debugger)] == [CODE + 16]
    assert bench.state.x[0] == 9


def test_a_breakpoint_at_a_vector_and_on_a_page_boundary(bench: Bench, debugger: Debugger) -> None:
    """Where control comes by an exception, and where it falls into the next page."""
    bench.map(CODE + PAGE, CODE + PAGE, AF | UXN)
    bench.load("nop\n svc #0", CODE + PAGE)
    bench.load("nop", CODE + PAGE - 4)
    debugger.break_at(CODE + PAGE, VECTORS + 0x200)
    bench.state.pc = CODE + PAGE - 4
    assert [pc for pc, _ in stops(debugger)] == [CODE + PAGE, VECTORS + 0x200]


def test_as_many_breakpoints_as_there_is_room_for(bench: Bench, debugger: Debugger) -> None:
    """All 256 of them, in one page."""
    bench.load("\n".join(["nop"] * 600 + ["hvc #0"]))
    debugger.break_at(*(CODE + 4 * n for n in range(256)))
    assert [pc for pc, _ in stops(debugger)] == [CODE + 4 * n for n in range(256)]


def test_the_next_context_has_no_breakpoints(bench: Bench, debugger: Debugger) -> None:
    """A debugger belongs to a context, not to the PE."""
    other = bench.machine.copy_context(bench.state)
    bench.load("mov x0, #1\n hvc #0")
    other.pc = CODE
    debugger.break_at(CODE)
    assert debugger.go().reason == ExitReason.DEBUG
    assert bench.machine.pe(0).run(other, 100).reason == ExitReason.SYNC
    assert debugger.go().reason == ExitReason.DEBUG


# --- watchpoints ----------------------------------------------------------------------------------

LOADS = {
    "ldrb w2, [x0]": 1, "ldrsh x2, [x0]": 2, "ldr w2, [x0]": 4, "ldr x2, [x0]": 8,
    "ldp w2, w3, [x0]": 8, "ldp x2, x3, [x0]": 16, "ldpsw x2, x3, [x0]": 8, "ldnp x2, x3, [x0]": 16,
    "ldr x2, [x0], #8": 8, "ldtr x2, [x0]": 8, "ldxr x2, [x0]": 8, "ldxp x2, x3, [x0]": 16,
    "ldar w2, [x0]": 4, "ldr q2, [x0]": 16, "ldr b2, [x0]": 1, "ldp q2, q3, [x0]": 32,
    "ld1 {v2.16b, v3.16b}, [x0]": 32, "ld2 {v2.4s, v3.4s}, [x0]": 32, "ld1 {v2.s}[1], [x0]": 4,
    "ld1r {v2.8h}, [x0]": 2, "ld4 {v2.8b, v3.8b, v4.8b, v5.8b}, [x0]": 32,
}  # fmt: skip
STORES = {
    "strb w2, [x0]": 1, "strh w2, [x0]": 2, "str w2, [x0]": 4, "str x2, [x0]": 8,
    "stp w2, w3, [x0]": 8, "stp x2, x3, [x0]": 16, "stnp x2, x3, [x0]": 16, "str x2, [x0, #0]!": 8,
    "sttr x2, [x0]": 8, "stlr w2, [x0]": 4, "str q2, [x0]": 16, "stp q2, q3, [x0]": 32,
    "str d2, [x0]": 8, "st1 {v2.16b}, [x0]": 16, "st3 {v2.8b, v3.8b, v4.8b}, [x0]": 24,
    "st1 {v2.h}[3], [x0]": 2, "dc zva, x0": 64,
}  # fmt: skip
BOTH = {
    ".long 0xf8220003": 8,  # ldadd x2, x3, [x0]
    ".long 0xb8228003": 4,  # swp w2, w3, [x0]
    ".long 0xc8a27c03": 8,  # cas x2, x3, [x0]
    ".long 0x48207c04": 16,  # casp x0, x1, x4, x5, [x0]
}
ACCESSES = [
    *((text, size, READ) for text, size in LOADS.items()),
    *((text, size, WRITE) for text, size in STORES.items()),
    *((text, size, READ | WRITE) for text, size in BOTH.items()),
]


def run_access(bench: Bench, debugger: Debugger, text: str) -> int | None:
    """Run one access to BUFFER; return the address that a watchpoint told, or None."""
    bench.load(f"{text}\n hvc #0")
    state = bench.state
    before = {n: n << 40 | 0x77 for n in range(1, 31)}
    state.x[0] = BUFFER
    for n, value in before.items():
        state.x[n] = value
    content = bytes(range(1, 255))
    bench.memory.write(BUFFER, content)
    exit_ = debugger.go()
    if exit_.reason == ExitReason.SYNC:
        assert ec(exit_) == EC_HVC, (text, hex(exit_.esr), hex(state.esr_el1), guest_ec(state))
        return None
    assert (exit_.reason, exit_.esr >> 26, state.pc) == (ExitReason.DEBUG, EC_WATCHPOINT, CODE)
    assert exit_.instructions == 0
    assert bench.memory.read(BUFFER, len(content)) == content, "nothing was stored"
    assert all(state.x[n] == value for n, value in before.items()), "nothing was loaded"
    assert state.x[0] == BUFFER, "the base has not moved"
    return int(exit_.far)


@pytest.mark.parametrize(("text", "size", "access"), ACCESSES, ids=[a[0] for a in ACCESSES])
def test_a_watchpoint_stops_before_exactly_its_accesses(
    bench: Bench, debugger: Debugger, text: str, size: int, access: int
) -> None:
    """First byte, last byte, the bytes next to them; reads or writes; one byte, and all around."""
    cases = {
        (BUFFER, 1): BUFFER,
        (BUFFER + size - 1, 1): BUFFER + size - 1,
        (BUFFER - 1, 1): None,
        (BUFFER + size, 1): None,
        (BUFFER - 8, 200): BUFFER,
        (BUFFER - 0x800, 0x2000): BUFFER,
    }
    stores_in_parts = text.startswith(("stp", "stnp", "st3"))  # the part before it may be done
    for (start, length), expected in cases.items():
        if stores_in_parts and start == BUFFER + size - 1:
            continue
        for wanted in (READ, WRITE, READ | WRITE):
            debugger.watch((start, length, wanted))
            told = run_access(bench, debugger, text)
            assert told == (expected if wanted & access else None), (start, length, wanted)


def test_the_syndrome_of_a_watchpoint_tells_read_from_write(
    bench: Bench, debugger: Debugger
) -> None:
    """ESR.WnR."""
    debugger.watch((BUFFER, 8, READ | WRITE))
    bench.state.x[0] = BUFFER
    bench.load("ldr x1, [x0]")
    assert not debugger.go().esr & WNR
    bench.load("str x1, [x0]")
    assert debugger.go().esr & WNR
    for wanted, told in ((READ | WRITE, 0), (READ, 0), (WRITE, WNR)):  # an atomic does both
        debugger.watch((BUFFER, 8, wanted))
        bench.load(".long 0xf8220003")  # ldadd x2, x3, [x0]
        assert debugger.go().esr & WNR == told


def test_a_watchpoint_sees_an_access_that_crosses_into_its_page(
    bench: Bench, debugger: Debugger
) -> None:
    """Unaligned, from the page before; and nothing of it was stored."""
    debugger.watch((DATA + PAGE, 1, WRITE))
    bench.state.x[0] = DATA + PAGE - 4
    bench.state.x[1] = 0xFFFF_FFFF_FFFF_FFFF
    bench.load("str x1, [x0]\n hvc #0")
    assert [far for _, far in stops(debugger)] == [DATA + PAGE]
    assert bench.memory.read_u64(DATA + PAGE - 4) == 0xFFFF_FFFF_FFFF_FFFF


def test_watchpoints_come_and_go(bench: Bench, debugger: Debugger) -> None:
    """A page that the TLB holds is watched at once, and is fast again afterwards."""
    bench.state.x[0] = BUFFER
    for watched in (False, True, False, True):
        bench.load("str x1, [x0]\n hvc #0")
        debugger.watch(*[(BUFFER + 4, 4, WRITE)] * watched)
        assert (debugger.go().reason == ExitReason.DEBUG) == watched


def test_a_fault_comes_before_a_watchpoint(bench: Bench, debugger: Debugger) -> None:
    """An access that is not allowed is not made."""
    bench.map(DATA + 2 * PAGE, DATA + 2 * PAGE, AF | UXN | READ_ONLY)
    debugger.watch((DATA + 2 * PAGE, 8, READ | WRITE))
    bench.state.x[0] = DATA + 2 * PAGE
    assert ec(bench.run("str x1, [x0]")) == EC_HVC
    assert guest_ec(bench.state) == EC_DATA_ABORT + 1


def test_table_walks_are_not_watched(bench: Bench, debugger: Debugger) -> None:
    """Only what the program asks for is an access."""
    bench.map(TABLES_VA, bench.state.ttbr0_el1, AF | UXN)
    debugger.watch((TABLES_VA, PAGE, READ | WRITE))
    bench.load("tlbi vmalle1\n dsb sy\n isb\n ldr x1, [x0]\n hvc #0")
    bench.state.x[0] = BUFFER
    assert ec(debugger.go()) == EC_HVC


TABLES_VA = 0xFFFF_0000_0000_0000


def test_a_store_exclusive_is_watched_and_then_succeeds(bench: Bench, debugger: Debugger) -> None:
    """The monitor stays open over the stop, else the loop would never end."""
    bench.load(
        "again: ldxr x1, [x0]\n add x1, x1, #1\n stxr w2, x1, [x0]\n cbnz w2, again\n hvc #0"
    )
    bench.state.x[0] = BUFFER
    bench.memory.write_u64(BUFFER, 41)
    debugger.watch((BUFFER, 8, WRITE))
    assert list(stops(debugger)) == [(CODE + 8, BUFFER)]
    assert bench.memory.read_u64(BUFFER) == 42
    bench.state.pc = CODE
    debugger.watch((BUFFER, 8, READ))
    assert list(stops(debugger)) == [(CODE, BUFFER)]


# --- steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("nop", 4),
        ("b . + 0x10", 0x10),
        ("b .", 0),
        ("b . + 0x3000", 0x3000),
        ("bl . + 8", 8),
        ("cbz x30, . + 8", 8),
        ("cbnz x30, . + 8", 4),
        ("br x29", 0x2000),
        ("ret x28", 0x20),
        ("ldr x0, [x27]", 4),
        ("wfi", 4),
        ("wfe", 4),
        ("isb", 4),
        ("dsb sy", 4),
        ("msr spsel, #0", 4),
        (".long 0xd500419f", 4),  # msr pan, #1
        ("mrs x0, cntvct_el0", 4),
        ("svc #0", VECTORS + 0x200 - CODE),
        ("brk #0", VECTORS + 0x200 - CODE),
        (".long 0", VECTORS + 0x200 - CODE),
        ("ldr x0, [x30]", VECTORS + 0x200 - CODE),
        ("eret", 0x40),
        ("msr ttbr0_el1, x26", 4),
    ],
)
def test_a_step_does_one_instruction(
    bench: Bench, debugger: Debugger, text: str, offset: int
) -> None:
    """Whatever kind it is, and twice over: fresh, and in code that has run."""
    state = bench.state
    for _ in range(2):
        bench.load(text)
        state.x[26], state.x[27], state.x[28] = state.ttbr0_el1, BUFFER, CODE + 0x20
        state.x[29], state.x[30] = CODE + 0x2000, 0
        state.spsr_el1, state.elr_el1, state.pstate = 0x3C5, CODE + 0x40, 0x3C5
        exit_ = debugger.step()
        assert (exit_.reason, exit_.instructions) == (ExitReason.DEBUG, 1)
        assert state.pc == CODE + offset


def test_a_step_from_the_last_slot_of_a_page(bench: Bench, debugger: Debugger) -> None:
    """Into a page that is there, and into one that is not: a fault is a step of its own."""
    bench.load("nop", CODE + PAGE - 4)
    debugger.step()
    assert bench.state.pc == CODE + PAGE
    assert debugger.step().reason == ExitReason.DEBUG
    assert bench.state.pc == VECTORS + 0x200


def test_a_step_ignores_breakpoints_at_its_instruction_alone(
    bench: Bench, debugger: Debugger
) -> None:
    """So that one goes on from where a breakpoint stopped."""
    bench.load(LOOP)
    debugger.break_at(CODE, CODE + 4)
    debugger.step()
    assert bench.state.pc == CODE + 4
    exit_ = debugger.go()
    assert (exit_.esr >> 26, bench.state.pc) == (EC_BREAKPOINT, CODE + 4)


def test_a_step_stops_at_a_watchpoint_of_its_own(bench: Bench, debugger: Debugger) -> None:
    """The instruction is not done then."""
    bench.state.x[0] = BUFFER
    bench.load("str x1, [x0]")
    debugger.watch((BUFFER, 1, WRITE))
    exit_ = debugger.step()
    assert (exit_.esr >> 26, exit_.instructions, bench.state.pc) == (EC_WATCHPOINT, 0, CODE)


def test_steps_hold_interrupts_back(bench: Bench, debugger: Debugger) -> None:
    """A pending interrupt waits for the guest to run freely, also one that a step unmasks."""
    bench.state.hcr_el2 |= HCR_IMO | HCR_VI
    bench.load("msr daifclr, #2\n wfi\n nop\n nop\n hvc #0")
    for _ in range(3):
        debugger.step()
    assert bench.state.pc == CODE + 12
    assert (ec(debugger.go()), bench.state.elr_el1) == (EC_HVC, CODE + 12)


def test_an_exit_is_a_step_of_its_own(bench: Bench, debugger: Debugger) -> None:
    """HVC leaves for EL2 with the PC behind it; the debugger hears nothing of it."""
    bench.load("hvc #3\n nop")
    exit_ = debugger.step()
    assert (exit_.reason, ec(exit_), bench.state.pc) == (ExitReason.SYNC, EC_HVC, CODE + 4)


def test_a_kick_before_a_step_leaves_it_undone(bench: Bench, debugger: Debugger) -> None:
    """The exit says that nothing was executed."""
    bench.load("nop")
    bench.machine.pe(0).kick()
    exit_ = debugger.step()
    assert (exit_.reason, exit_.instructions, bench.state.pc) == (ExitReason.IRQ, 0, CODE)
    assert (debugger.step().reason, bench.state.pc) == (ExitReason.DEBUG, CODE + 4)


def test_exclusives_can_be_stepped_through(bench: Bench, debugger: Debugger) -> None:
    """A stop is no exception return: the monitor stays as it was."""
    bench.load(
        "again: ldxr x1, [x0]\n add x1, x1, #1\n stxr w2, x1, [x0]\n cbnz w2, again\n hvc #0"
    )
    bench.state.x[0] = BUFFER
    _, count = debugger.step_to_exit()
    assert (count, bench.memory.read_u64(BUFFER)) == (4, 1)


def test_stepping_is_over_when_it_is_over(bench: Bench, debugger: Debugger) -> None:
    """The loop after a step runs at full length, and is as fast as before."""
    bench.load(LOOP)
    debugger.step()
    exit_ = debugger.go()
    assert (ec(exit_), exit_.instructions) == (EC_HVC, 16)


# --- several PEs ----------------------------------------------------------------------------------


def test_two_pes_stop_each_at_their_own(pair: Pair) -> None:
    """A breakpoint of one context is none of the other; both run at once."""
    debuggers = [Debugger(pair.bench.machine, pair.contexts[pe], pe) for pe in range(2)]
    debuggers[0].break_at(CODE + 4)
    debuggers[1].break_at(CODE + 0x800)
    runs = [pair.start(pe, "mov x1, #1\n mov x2, #2\n hvc #0") for pe in range(2)]
    assert [run.result()[0] for run in runs] == [ExitReason.DEBUG] * 2
    assert [int(context.pc) for context in pair.contexts] == [CODE + 4, CODE + 0x800]


def test_one_pe_counts_the_stores_of_the_other_to_a_watched_word(pair: Pair) -> None:
    """A watchpoint that both have stops whoever stores, and only then."""
    debuggers = [Debugger(pair.bench.machine, pair.contexts[pe], pe) for pe in range(2)]
    for debugger in debuggers:
        debugger.watch((DATA + 8, 4, WRITE))
    run = pair.start(0, "ldr x1, [x0, #8]\n str x1, [x0]\n str x1, [x0, #16]\n hvc #0")
    assert run.result()[0] == ExitReason.SYNC
    run = pair.start(1, "str x1, [x0, #16]\n strb w1, [x0, #11]\n hvc #0")
    assert run.result()[0] == ExitReason.DEBUG
    assert pair.contexts[1].pc == CODE + 0x804


def test_code_that_another_pe_changes_keeps_its_breakpoint(pair: Pair) -> None:
    """INVAL_CODE_PAGE drops decoded code, marks and all; the mark comes back with the code."""
    debugger = Debugger(pair.bench.machine, pair.contexts[0], 0)
    debugger.break_at(CODE + 8)
    spin = "mov x1, #0\n again: ldr x2, [x0]\n add x1, x1, #1\n cbz x2, again\n hvc #0"
    turns = 0
    pair.start(1, "again: add x3, x3, #1\n str w3, [x4]\n cmp x3, x5\n b.ne again\n hvc #0")
    pair.contexts[1].x[4] = CODE + 0x100
    first = pair.start(0, spin)
    assert first.result()[0] == ExitReason.DEBUG
    while turns < 20:
        assert debugger.go().reason == ExitReason.DEBUG
        assert pair.contexts[0].pc == CODE + 8
        debugger.step()
        turns += 1


# --- translation for a debugger -------------------------------------------------------------------


@pytest.mark.parametrize("attributes", [AF | UXN | READ_ONLY, AF | USER | PXN, UXN, AF | UXN])
def test_a_debugger_may_reach_what_is_mapped(bench: Bench, attributes: int) -> None:
    """Permissions, PAN and the access flag are not asked, and no descriptor changes."""
    descriptor = bench.map(DATA + 3 * PAGE, DATA + 5 * PAGE, attributes)
    bench.state.pstate |= 1 << 22
    before = bench.memory.read_u64(descriptor)
    assert bench.translate(DATA + 3 * PAGE + 8, 3) == (0, DATA + 5 * PAGE + 8)
    assert bench.memory.read_u64(descriptor) == before
    assert bench.translate(DATA + 6 * PAGE, 3)[0] != 0
    bench.state.sctlr_el1 &= ~1
    assert bench.translate((1 << 64) - 8, 3)[0] != 0, "an address size fault is one too"


def test_a_debugged_machine_counts_as_an_undebugged_one() -> None:
    """The virtual clock of a run with stops is that of a run without."""
    counts = []
    for breakpoints in ((), (CODE + 8, CODE + 12)):
        bench = Bench(clock=Clock.VIRTUAL)
        bench.load(LOOP)
        debugger = Debugger(bench.machine, bench.state)
        debugger.break_at(*breakpoints)
        list(stops(debugger))
        counts.append(bench.machine.counter())
    assert counts[0] == counts[1]


def test_machines_do_not_share_debuggers() -> None:
    """No global state."""
    one, other = Bench(), Bench()
    for bench in (one, other):
        bench.load("nop\n hvc #0")
    Debugger(one.machine, one.state).break_at(CODE)
    assert one.run().reason == ExitReason.DEBUG
    assert other.run().reason == ExitReason.SYNC


def test_new_debug_asks_for_nothing() -> None:
    """It can be lent to a context as it is."""
    machine = Machine(0, PAGE)
    debug = machine.new_debug()
    assert (debug.step, debug.num_breakpoints, debug.num_watchpoints) == (0, 0, 0)
