"""Where translated code could go wrong without a difference in one instruction.

Self-modification, breakpoints, steps, several PEs, memory that is full, and the slot of the TLB
that each access predicts. Random programs against the interpreter are in ``test_translation.py``.
"""

from __future__ import annotations

import threading

import pytest

from pyvmm.arch.engine import DEFAULT_ENGINE, Engine
from pyvmm.arch.errors import UserError
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.gic import ICH_HCR_EN
from pyvmm.arch.pas import Pas
from pyvmm.core import Clock, Machine
from tests.core.debugger import Debugger
from tests.core.engines import forbid_generated_code
from tests.core.program import assemble
from tests.core.system import (
    AF,
    CODE,
    DATA,
    EC_DATA_ABORT,
    EC_INSTRUCTION_ABORT,
    EC_SYSREG,
    GUARDED,
    HCR_FMO,
    HCR_IMO,
    PAGE,
    READ_ONLY,
    S2_NORMAL,
    S2_READ,
    S2_WRITE,
    SCTLR_ON,
    TABLES,
    TCR_48,
    USER,
    UXN,
    VECTORS,
    Bench,
    guest_ec,
    vector,
)
from tests.core.test_gic_timer import IRQ_VECTOR, VMCR_ON, lr

ENGINES = (Engine.JIT, Engine.CHECK)
HOT = 100  # turns that make a loop hot
SITE_MISSES = 1024  # of translation.h
EC_BRANCH_TARGET = 0x0D
FPSR_IXC, FPSR_UFC = 1 << 4, 1 << 3
EN_IA, TBI0 = 1 << 31, 1 << 37
EC_PERMISSION = 0x24  # a data abort from EL0
EL0_CODE = CODE + (1 << 32)


@pytest.fixture(params=ENGINES)
def bench(request: pytest.FixtureRequest) -> Bench:
    """Return a machine that translates what is executed twice."""
    return Bench(engine=request.param, threshold=2)


def test_a_loop_is_translated_and_counted(bench: Bench) -> None:
    """Only what was executed is; the count is that of the architecture."""
    exit_ = bench.run(f"mov x0, #{HOT}; again: subs x0, x0, #1; b.ne again; hvc #1; nop")
    assert exit_.instructions == 2 + 2 * HOT
    assert bench.machine.num_translated == 1


def test_the_interpreter_translates_nothing() -> None:
    """Whatever is hot."""
    bench = Bench(engine=Engine.INTERP)
    bench.run(f"mov x0, #{HOT}; again: subs x0, x0, #1; b.ne again; hvc #1")
    assert bench.machine.num_translated == 0


def test_the_default_engine_is_the_fastest_of_the_host() -> None:
    """The core knows on which hosts it translates."""
    translates = True
    try:
        Machine(0, PAGE, engine=Engine.JIT)
    except UserError:
        translates = False
    assert (DEFAULT_ENGINE is Engine.JIT) is translates


def test_a_host_may_forbid_generated_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """As SELinux or the sysctl vm.memfd_noexec does."""
    forbid_generated_code(monkeypatch)
    with pytest.raises(UserError, match="give --engine interp"):
        Machine(0, PAGE, engine=Engine.JIT)


def test_check_is_for_one_cpu() -> None:
    """Another one would change memory between the two executions."""
    with pytest.raises(UserError, match="give -c 1"):
        Machine(0, PAGE, 2, engine=Engine.CHECK)


@pytest.mark.parametrize("budget", [1, 2, 50, 51])
def test_a_budget_ends_at_the_same_instruction(bench: Bench, budget: int) -> None:
    """At the first branch back at which it is spent."""
    text = "again: add x1, x1, #1; add x2, x2, #2; b again"
    reference = Bench(engine=Engine.INTERP)
    for each in (bench, reference):
        each.load(text)
    for _ in range(20):
        found, expected = (each.run(budget=budget).instructions for each in (bench, reference))
        assert found == expected
        assert bench.state.pc == reference.state.pc


@pytest.mark.parametrize("engine", Engine)
def test_an_interrupt_is_taken_at_the_instruction_that_unmasks_it(engine: Engine) -> None:
    """In the middle of a region, whatever it does afterwards."""
    bench = Bench(engine=engine, threshold=2)
    bench.load(
        f"""
        mov x0, #{HOT}
        again: mrs x1, daif
        add x2, x2, #1
        msr daifclr, #2
        add x3, x3, #1
        msr daifset, #2
        subs x0, x0, #1
        b.ne again
        hvc #0xfff
        """
    )
    bench.state.hcr_el2 |= HCR_IMO | HCR_FMO
    bench.state.ich_hcr, bench.state.ich_vmcr = ICH_HCR_EN, VMCR_ON
    bench.run(budget=100)
    bench.state.ich_lr[0] = lr(40)
    assert vector(bench.run()) == IRQ_VECTOR
    assert bench.state.x[2] == bench.state.x[3] + 1


@pytest.mark.parametrize("engine", Engine)
def test_what_follows_a_full_region_is_translated_too(engine: Engine) -> None:
    """A loop that is longer than a region may be."""
    bench = Bench(engine=engine, threshold=2)
    body = "; ".join(["add x1, x1, #1"] * 400)
    exit_ = bench.run(f"mov x0, #9; again: {body}; subs x0, x0, #1; b.ne again; hvc #1")
    assert exit_.instructions == 2 + 9 * 402
    assert bench.state.x[1] == 9 * 400
    if engine is not Engine.INTERP:
        assert bench.machine.num_translated >= 3


def test_zeroing_obeys_its_controls_in_hot_code(bench: Bench) -> None:
    """DC ZVA at EL1, then at EL0 without SCTLR_EL1.DZE."""
    bench.mmu_on()
    bench.map(DATA, DATA, AF | USER | UXN)
    bench.map(EL0_CODE, CODE, AF | USER | READ_ONLY)
    bench.memory.write(DATA, b"\xff" * 256)
    bench.state.x[9], bench.state.x[0] = DATA + 70, HOT
    text = "again: dc zva, x9; subs x0, x0, #1; b.ne again; hvc #1"
    assert bench.run(text).esr & 0xFFFF == 1
    assert bench.memory.read(DATA, 256) == b"\xff" * 64 + bytes(64) + b"\xff" * 128
    bench.state.pc, bench.state.x[0], bench.state.pstate = EL0_CODE, HOT, 0
    assert vector(bench.run()) == 0x400
    assert guest_ec(bench.state) == EC_SYSREG


def test_a_signed_pointer_is_not_remembered_under_another_configuration(bench: Bench) -> None:
    """With the key disabled, or with tags, PACIASP gives another result."""
    bench.mmu_on(sctlr=SCTLR_ON | EN_IA)
    sign = "mov x30, x1; hint #25; mov x2, x30; hint #29; mov x4, x30"  # paciasp, autiasp
    loop = f"again: {sign}; subs x0, x0, #1; b.ne again"
    results = []
    for tcr, sctlr in ((TCR_48, EN_IA), (TCR_48 | TBI0, EN_IA), (TCR_48, 0), (TCR_48, EN_IA)):
        bench.state.tcr_el1, bench.state.sctlr_el1 = tcr, SCTLR_ON | sctlr
        bench.state.x[0], bench.state.x[1] = HOT, DATA
        assert bench.run(f"{loop}; hvc #1").esr & 0xFFFF == 1
        assert bench.state.x[4] == DATA
        results.append(int(bench.state.x[2]))
    signed, tagged, plain, again = results
    assert signed == again
    assert signed & ~(0xFF << 56) == tagged
    assert plain == DATA != tagged


# ---- self-modification ---------------------------------------------------------------------------


def test_a_region_that_changes_itself_goes_on_with_the_new_code(bench: Bench) -> None:
    """Each turn stores a new `add x2, x2, #n` over the next instruction."""
    exit_ = bench.run(
        f"""
        mov x0, #{HOT}
        mov x2, #0
        adr x3, changed
        ldr w4, changed
        again:
        add w4, w4, #0x400
        str w4, [x3]
        changed: add x2, x2, #0
        subs x0, x0, #1
        b.ne again
        hvc #1
        """
    )
    assert exit_.reason == ExitReason.SYNC
    assert bench.state.x[2] == HOT * (HOT + 1) // 2


def test_a_write_beside_a_region_does_not_end_it(bench: Bench) -> None:
    """Data in the page of the code, in a slot that no region covers."""
    bench.state.x[0], bench.state.x[3] = HOT, CODE + 0x800
    bench.run(
        """
        again: str x0, [x3]
        subs x0, x0, #1
        b.ne again
        hvc #1
        """
    )
    assert bench.memory.read_u64(CODE + 0x800) == 1
    assert bench.machine.num_translated <= HOT // 32 + 2  # the page is given up after 32 stores


def test_the_host_changes_hot_code(bench: Bench) -> None:
    """A write from outside is seen at once."""
    bench.load("again: add x1, x1, #1; nop; b again")
    bench.run(budget=1000)
    bench.memory.write(CODE + 4, assemble("hvc #2"))
    assert bench.run(budget=1000).esr & 0xFFFF == 2


def test_another_pe_changes_hot_code() -> None:
    """After IC IVAU and DSB of the other PE."""
    bench = Bench(num_pes=2, clock=Clock.REAL, engine=Engine.JIT, threshold=2)
    bench.load("again: add x1, x1, #1; nop; b again")
    other = bench.machine.new_context()
    other.security, other.pc = Pas.NS, CODE + PAGE
    other.x[0], other.x[1] = CODE, int.from_bytes(assemble("hvc #2"), "little")
    bench.memory.write(CODE + PAGE, assemble("str w1, [x0, #4]; ic ivau, x0; dsb ish; hvc #1"))
    exits = []
    runner = threading.Thread(
        target=lambda: exits.append(bench.machine.pe(0).run(bench.state, 1 << 40).esr)
    )
    runner.start()
    while bench.machine.pe(0).instructions < 1_000_000:
        pass
    bench.machine.pe(1).run(other, 1000)
    runner.join(20)
    assert [esr & 0xFFFF for esr in exits] == [2]


def test_code_that_changes_for_ever_takes_bounded_memory() -> None:
    """When the memory for code is full, all regions go and it begins anew."""
    turns = 20_000
    bench = Bench(engine=Engine.JIT, threshold=1)
    body = "; ".join(f"ldr x{n % 8 + 8}, [x20, #{8 * n}]" for n in range(120))
    bench.memory.write(CODE + PAGE, assemble(f"add x1, x1, #0; {body}; ret"))
    bench.state.x[19], bench.state.x[20] = turns, CODE + PAGE
    exit_ = bench.run(
        """
        again:
        ldr w21, [x20]
        eor w21, w21, #0x400
        str w21, [x20]
        blr x20
        subs x19, x19, #1
        b.ne again
        hvc #1
        """,
        budget=1 << 40,
    )
    assert exit_.esr & 0xFFFF == 1
    assert bench.machine.num_translated > turns // 2


# ---- debugging -----------------------------------------------------------------------------------


def test_a_breakpoint_in_hot_code_is_hit(bench: Bench) -> None:
    """In the middle of a region; and without it the region is translated again."""
    bench.load("again: add x1, x1, #1; add x2, x2, #1; b again")
    bench.run(budget=1000)
    debug = bench.machine.new_debug()
    debug.num_breakpoints, debug.breakpoints[0] = 1, CODE + 4
    bench.machine.lend_debug(bench.state, debug)
    assert bench.run(budget=1000).reason == ExitReason.DEBUG
    assert (bench.state.pc, bench.state.x[1]) == (CODE + 4, bench.state.x[2] + 1)
    bench.machine.lend_debug(bench.state, None)
    assert bench.run(budget=1000).reason == ExitReason.BUDGET


def test_hot_code_is_stepped(bench: Bench) -> None:
    """One instruction per step."""
    bench.load("again: add x1, x1, #1; add x2, x2, #1; cbnz x1, again; hvc #1")
    bench.run(budget=999)
    pcs = []
    debugger = Debugger(bench.machine, bench.state)
    for _ in range(6):
        debugger.step()
        pcs.append((int(bench.state.pc) - CODE) // 4)
    assert pcs in ([1, 2, 0, 1, 2, 0], [2, 0, 1, 2, 0, 1], [0, 1, 2, 0, 1, 2])


# ---- the predicted slot --------------------------------------------------------------------------


def walk_over(bench: Bench, access: str, step: int, count: int) -> None:
    """Run one access over a range of two pages that are not neighbours in memory."""
    bench.mmu_on()
    for page, target in enumerate((3, 1)):
        bench.map(DATA + page * PAGE, DATA + target * PAGE, AF | UXN)
    bench.memory.write(DATA, bytes(n * 7 & 0xFF for n in range(4 * PAGE)))
    bench.state.x[0], bench.state.x[9] = count, DATA + PAGE - count * step // 2
    bench.run(
        f"""
        again: {access}
        add x10, x10, x1
        eor x10, x10, x2, ror #7
        add x9, x9, #{step}
        subs x0, x0, #1
        b.ne again
        hvc #1
        """,
        budget=1 << 30,
    )


@pytest.mark.parametrize("step", [1, 3, 8])
@pytest.mark.parametrize(
    "access",
    [
        "ldrb w1, [x9]",
        "ldrh w1, [x9]",
        "ldr w1, [x9]",
        "ldr x1, [x9]",
        "ldp w1, w2, [x9]",
        "ldp x1, x2, [x9]",
        "str x0, [x9]; ldr x1, [x9]",
        "stp x0, x10, [x9]; ldp x1, x2, [x9]",
        "ldr q1, [x9]; fmov x1, d1; fmov x2, v1.d[1]",
        "ldp q1, q2, [x9]; fmov x1, d2; fmov x2, v1.d[1]",
        "str q1, [x9]; ldr x1, [x9]",
        "ldp d1, d2, [x9]; fmov x1, d1; fmov x2, d2",
    ],
)
def test_accesses_across_a_page_agree(bench: Bench, access: str, step: int) -> None:
    """The pages on both sides are not neighbours in memory, so a wrong slot is a wrong value."""
    reference = Bench(engine=Engine.INTERP)
    for each in (bench, reference):
        walk_over(each, access, step, 60)
    assert bench.state.x[10] == reference.state.x[10]
    assert bench.memory.read(DATA, 4 * PAGE) == reference.memory.read(DATA, 4 * PAGE)


@pytest.mark.parametrize("address", [*range(16), 0x7FF, 0x800, 0x801, 0xFFF])
@pytest.mark.parametrize(
    "access", ["ldrh w1, [x9]", "ldr x1, [x9]", "ldp q1, q2, [x9]", "str w1, [x9]"]
)
def test_an_empty_slot_holds_no_address(access: str, address: int) -> None:
    """Page 0 is not mapped, and what marks an empty entry of the TLB is no address in it."""
    bench = Bench(engine=Engine.JIT, threshold=1)
    bench.mmu_on()
    bench.state.x[9] = address
    bench.memory.write(VECTORS + 0x200, assemble("hvc #5"))
    assert bench.run(f"{access}; hvc #1").esr & 0xFFFF == 5
    assert guest_ec(bench.state) == EC_DATA_ABORT + 1
    assert bench.machine.num_translated


def wander(bench: Bench, access: str, count: int) -> None:
    """Run one access, each time in another one of four pages, until it faults."""
    bench.mmu_on()
    for page, target in enumerate((3, 1, 0, 2)):
        bench.map(DATA + page * PAGE, DATA + target * PAGE, AF | UXN)
    bench.memory.write(DATA, bytes(n * 7 & 0xFF for n in range(4 * PAGE)))
    bench.memory.write(VECTORS + 0x200, assemble("hvc #5"))
    bench.state.x[0], bench.state.x[8] = count, DATA
    exit_ = bench.run(
        f"""
        again: add x7, x7, #0x400, lsl #12
        add x7, x7, #0x1000
        add x7, x7, #0x28
        and x9, x7, #0x3ff8
        add x9, x8, x9
        {access}
        add x10, x10, x1
        eor x10, x10, x2, ror #7
        subs x0, x0, #1
        b.ne again
        add x8, x8, #16, lsl #12
        mov x0, #1
        b again
        """,
        budget=1 << 30,
    )
    assert exit_.esr & 0xFFFF == 5
    assert guest_ec(bench.state) == EC_DATA_ABORT + 1


@pytest.mark.parametrize(
    "access",
    ["ldrb w1, [x9]", "ldr x1, [x9, #3]", "ldp x1, x2, [x9]", "str x10, [x9]", "stp q1, q2, [x9]"],
)
def test_an_access_that_wanders_agrees(bench: Bench, access: str) -> None:
    """It is translated again, without a predicted slot; then its page is not mapped."""
    reference = Bench(engine=Engine.INTERP)
    for each in (bench, reference):
        wander(each, access, 4 * SITE_MISSES)
    assert bench.state.x[10] == reference.state.x[10]
    assert bench.state.far_el1 == reference.state.far_el1
    assert bench.state.elr_el1 == reference.state.elr_el1
    assert bench.memory.read(DATA, 4 * PAGE) == reference.memory.read(DATA, 4 * PAGE)


@pytest.mark.parametrize(("count", "num_translated"), [(SITE_MISSES, 1), (SITE_MISSES + HOT, 2)])
def test_an_access_that_wanders_is_translated_again_once(count: int, num_translated: int) -> None:
    """After a number of misses, and never again."""
    bench = Bench(engine=Engine.JIT, threshold=2)
    wander(bench, "ldr x1, [x9]", count)
    assert bench.machine.num_translated == num_translated


def test_a_barrier_does_not_end_a_region(bench: Bench) -> None:
    """ISB fetches what follows again only if its page is another one by now."""
    exit_ = bench.run(f"mov x0, #{HOT}; again: isb; subs x0, x0, #1; b.ne again; hvc #1")
    assert exit_.instructions == 2 + 3 * HOT
    assert bench.machine.num_translated == 1


def entry_of(bench: Bench, va: int) -> int:
    """Return the address of the descriptor that maps a page."""
    table = TABLES
    for shift in (39, 30, 21):
        table = bench.memory.read_u64(table + 8 * (va >> shift & 511)) & 0xFFFF_FFFF_F000
    return table + 8 * (va >> 12 & 511)


def test_after_a_barrier_a_page_is_fetched_as_it_is_mapped(bench: Bench) -> None:
    """A hot loop that unmaps itself in its last turn faults behind its ISB."""
    bench.mmu_on()
    bench.memory.write(VECTORS + 0x200, assemble("hvc #5"))
    entry = entry_of(bench, CODE)
    bench.map(DATA, entry & -PAGE, AF | UXN)
    bench.state.x[0], bench.state.x[4] = HOT, bench.memory.read_u64(entry)
    bench.state.x[9] = DATA + entry % PAGE
    exit_ = bench.run(
        """
        again: subs x0, x0, #1
        csel x5, xzr, x4, eq
        str x5, [x9]
        tlbi vmalle1
        dsb sy
        isb
        b.ne again
        hvc #1
        """
    )
    assert exit_.esr & 0xFFFF == 5
    assert guest_ec(bench.state) == EC_INSTRUCTION_ABORT + 1
    assert bench.state.elr_el1 == CODE + 6 * 4


def test_el0_does_not_use_what_el1_found(bench: Bench) -> None:
    """The same code at the same data address, at EL1 and then at EL0, which may not read it."""
    bench.mmu_on()
    bench.map(EL0_CODE, CODE, AF | USER)
    bench.map(DATA, DATA, AF | UXN)
    bench.memory.write(VECTORS + 0x400, assemble("hvc #5"))
    bench.state.x[0], bench.state.x[9] = HOT, DATA
    exit_ = bench.run(
        """
        again: ldr x1, [x9]
        subs x0, x0, #1
        b.ne again
        cbnz x8, again
        mov x8, #1
        adr x2, again
        orr x2, x2, #0x100000000
        msr elr_el1, x2
        mov x2, #0x3c0
        msr spsr_el1, x2
        eret
        """
    )
    assert exit_.esr & 0xFFFF == 5
    assert guest_ec(bench.state) == EC_PERMISSION


# ---- indirect branches, atomics, floating point --------------------------------------------------

CALL = """
    again: blr x9
    adr x10, over
    br x10
    nop
    over: subs x0, x0, #1
    b.ne again
    hvc #1
"""


def test_calls_through_registers_agree(bench: Bench) -> None:
    """To another page, which a branch to a register leaves again."""
    reference = Bench(engine=Engine.INTERP)
    exits = []
    for each in (bench, reference):
        each.memory.write(CODE + PAGE, assemble("add x1, x1, #3; ret"))
        each.state.x[0], each.state.x[9] = HOT, CODE + PAGE
        exits.append(each.run(CALL).instructions)
    assert exits[0] == exits[1]
    assert list(bench.state.x) == list(reference.state.x)


def test_a_hot_call_to_a_page_that_becomes_guarded_faults(bench: Bench) -> None:
    """Its target is no BTI."""
    bench.mmu_on()
    bench.map(DATA, DATA, AF | UXN)
    bench.memory.write(DATA, assemble("ret"))
    bench.state.x[0], bench.state.x[9] = HOT, DATA
    assert bench.run(CALL).esr & 0xFFFF == 1
    bench.map(DATA, DATA, AF | UXN | GUARDED)
    bench.machine.tlbi_vmid(0)
    bench.state.x[0] = HOT
    bench.run(CALL)
    assert guest_ec(bench.state) == EC_BRANCH_TARGET


@pytest.mark.parametrize(
    "access",
    [
        ".long 0xf8210122",  # ldadd x1, x2, [x9]
        ".long 0xf8218122",  # swp x1, x2, [x9]
        ".long 0xc8a17d22",  # cas x1, x2, [x9]
        "ldar x1, [x9]",
        "stlr x1, [x9]",
    ],
)
@pytest.mark.parametrize("rights", [S2_WRITE, S2_READ, S2_READ | S2_WRITE])
@pytest.mark.parametrize("offset", [0, 4])
def test_atomics_need_their_rights_and_alignment(access: str, rights: int, offset: int) -> None:
    """Hot from a page with all rights, then at the page of these rights."""
    outcomes = []
    for engine in (Engine.INTERP, Engine.JIT):
        bench = Bench(engine=engine)
        bench.stage2_on(identity=False)
        bench.map_stage2(CODE, CODE, leaf_level=2)
        bench.map_stage2(DATA, DATA)
        bench.map_stage2(DATA + PAGE, DATA + PAGE, AF | S2_NORMAL | rights)
        bench.mmu_on()
        for page in (DATA, DATA + PAGE):
            bench.map(page, page, AF | UXN)
        bench.memory.write(VECTORS + 0x200, assemble("hvc #5"))
        bench.state.x[0], bench.state.x[9], bench.state.x[10] = HOT, DATA, DATA + PAGE + offset
        text = f"again: {access}; subs x0, x0, #1; csel x9, x9, x10, ne; b.pl again; hvc #1"
        exit_ = bench.run(text)
        outcomes.append((exit_.esr, exit_.far, bench.state.pc, bench.state.x[2]))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("size", range(4))
@pytest.mark.parametrize("word", [0x3821_0122, 0x3821_8122, 0x08A1_7D22, 0x08DF_FD22, 0x089F_FD21])
def test_atomics_of_every_size_agree(bench: Bench, word: int, size: int) -> None:
    """LDADD, SWP, CAS, LDAR and STLR of X1 and X2, whose high halves are not zero."""
    reference = Bench(engine=Engine.INTERP)
    text = f"""
        again: .long {word | size << 30}
        eor x3, x2, x3, ror #7
        eor x3, x1, x3, ror #9
        add x1, x1, x4
        ror x1, x1, #1
        subs x0, x0, #1
        b.ne again
        hvc #1
    """
    for each in (bench, reference):
        each.mmu_on()
        each.map(DATA, DATA, AF | UXN)
        each.state.x[0], each.state.x[9] = HOT, DATA
        each.state.x[1], each.state.x[4] = 0xF0E1_D2C3_B4A5_9687, 0x0123_4567_89AB_CDEF
        each.run(text)
    assert list(bench.state.x) == list(reference.state.x)
    assert bench.memory.read(DATA, 16) == reference.memory.read(DATA, 16)


@pytest.mark.parametrize("inexact", ["", "fdiv d9, d4, d5"])
def test_floating_point_agrees(bench: Bench, inexact: str) -> None:
    """Before Inexact was signalled and after it, into infinities and below the normal numbers."""
    reference = Bench(engine=Engine.INTERP)
    for each in (bench, reference):
        each.run(
            f"""
            mov x0, #1500
            fmov d1, #1.5
            fmov d4, #1.0
            fmov d5, #3.0
            fmov s6, #-0.5
            fmov s7, #2.0
            {inexact}
            again: fmul d1, d1, d1
            fdiv d4, d4, d5
            fadd d2, d2, d4
            fsub s3, s3, s6
            fmul s7, s7, s6
            fcvt d8, s7
            fcvt s10, d4
            fcmp d2, d4
            cset x1, gt
            cinc x2, x2, mi
            fcvtzs x3, d8
            fcvtzs w4, s3
            scvtf d11, x3
            scvtf s12, w4
            fcsel d13, d11, d4, le
            fabs d14, d8
            fneg s15, s3
            fcmpe s15, #0.0
            cinc x5, x5, lo
            eor v16.16b, v16.16b, v13.16b
            eor v16.16b, v16.16b, v12.16b
            subs x0, x0, #1
            b.ne again
            hvc #1
            """,
            budget=1 << 20,
        )
    assert list(bench.state.x) == list(reference.state.x)
    assert list(bench.state.v) == list(reference.state.v)
    assert bench.state.fpsr == reference.state.fpsr


@pytest.mark.parametrize(
    ("operation", "a", "b"),
    [
        ("fmul d3, d1, d2", 0x3FEF_FFFF_FFFF_FFFF, 0x0010_0000_0000_0000),
        ("fmul s3, s1, s2", 0x3F7F_FFFF, 0x0080_0000),
        ("fcvt s3, d1", 0x380F_FFFF_FFFF_FFFF, 0),
    ],
)
def test_what_only_rounding_makes_normal_is_tiny(
    bench: Bench, operation: str, a: int, b: int
) -> None:
    """Underflow is detected before rounding: the lowest normal number as a result is not enough."""
    bench.state.v[2], bench.state.v[4], bench.state.x[0] = a, b, HOT
    bench.state.x[1], bench.state.x[3] = FPSR_IXC, FPSR_IXC | FPSR_UFC
    bench.run(
        f"""
        again: msr fpsr, x1
        {operation}
        mrs x2, fpsr
        and x3, x3, x2
        subs x0, x0, #1
        b.ne again
        hvc #1
        """
    )
    assert bench.state.x[3] == FPSR_IXC | FPSR_UFC
