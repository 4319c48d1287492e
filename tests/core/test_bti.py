"""Branch target identification (FEAT_BTI): what an indirect branch may reach in a guarded page.

Spec: DDI 0487, PSTATE.BTYPE, AArch64.ExecuteA64 (BTypeCompatible), "Exception priority".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest

from pyvmm.arch.exits import ExitReason
from pyvmm.arch.sysregs import Feature
from tests.core.debugger import Debugger
from tests.core.program import assemble
from tests.core.system import (
    AF,
    CODE,
    DATA,
    EC_HVC,
    EC_INSTRUCTION_ABORT,
    GUARDED,
    PAGE,
    PXN,
    READ_ONLY,
    SCTLR_ON,
    TABLES,
    USER,
    VECTORS,
    Bench,
    ec,
    guest_ec,
    vector,
)

BRANCH_TARGET, ILLEGAL, SVC, BRK, PC_ALIGNMENT = 0x0D, 0x0E, 0x15, 0x3C, 0x22
EL1H, EL0T, IL = 0x3C5, 0, 1 << 20
BT0, BT1 = 1 << 35, 1 << 36
BTYPE_SHIFT = 10
TARGET = DATA  # the guarded page
END = "hvc #0x42"

#: What stands at the target: word, and the BTYPEs that may reach it, SCTLR_EL1.BT being 0 and 1.
TARGETS: dict[str, tuple[int, set[int], set[int]]] = {
    "bti": (0xD503_241F, set(), set()),
    "bti c": (0xD503_245F, {1, 2}, {1, 2}),
    "bti j": (0xD503_249F, {1, 3}, {1, 3}),
    "bti jc": (0xD503_24DF, {1, 2, 3}, {1, 2, 3}),
    "paciasp": (0xD503_233F, {1, 2, 3}, {1, 2}),
    "pacibsp": (0xD503_237F, {1, 2, 3}, {1, 2}),
    "paciaz": (0xD503_231F, set(), set()),
    "nop": (0xD503_201F, set(), set()),
    "udf": (0x0000_0000, set(), set()),
    "svc": (0xD400_0001, set(), set()),
    "brk": (0xD420_0000, {1, 2, 3}, {1, 2, 3}),
    "hlt": (0xD440_0000, {1, 2, 3}, {1, 2, 3}),
}
#: Branches to X1 (or X16, or X17): the BTYPE that they leave in a page that is guarded, and is not.
BRANCHES = {
    "br x1": (3, 1),
    "br x16": (1, 1),
    "br x17": (1, 1),
    "blr x1": (2, 2),
    "blr x16": (2, 2),
    "ret x1": (0, 0),
    "braaz x1": (3, 1),
    "braaz x17": (1, 1),
    "blraaz x1": (2, 2),
    "retaa": (0, 0),
}
WORDS = {"braaz x1": 0xD61F_083F, "braaz x17": 0xD61F_0A3F, "blraaz x1": 0xD63F_083F,
         "retaa": 0xD65F_0BFF}  # fmt: skip


@dataclass(frozen=True)
class Level:
    """An exception level that code runs at, and its attributes of a page of code."""

    name: str
    pstate: int
    attributes: int
    offset: int  # of the vector


LEVELS = [
    Level("EL0", EL0T, AF | USER | READ_ONLY | PXN, 0x400),
    Level("EL1", EL1H, AF, 0x200),
]


def make_bench(level: Level, *, source: bool, target: bool, features: int = 3) -> Bench:
    """Return a bench whose code at CODE and at TARGET is in guarded pages, or is not."""
    bench = Bench(features=Feature(features))
    bench.mmu_on()
    bench.map(CODE, CODE, level.attributes | (GUARDED if source else 0))
    bench.map(TARGET, TARGET, level.attributes | (GUARDED if target else 0))
    bench.state.pstate = level.pstate
    return bench


def put(bench: Bench, at: int, *words: int) -> None:
    """Write instruction words."""
    bench.memory.write(at, struct.pack(f"<{len(words)}I", *words))


def branch(name: str) -> str:
    """Return a branch as text for the assembler."""
    return f".word {WORDS[name]:#x}" if name in WORDS else name


def jump(bench: Bench, name: str, target: int, level: Level) -> bool:
    """Branch to the target; tell whether it was reached.  A refusal is checked in full."""
    for register in (1, 16, 17, 30):
        bench.state.x[register] = target
    bench.state.pstate, bench.state.esr_el1 = level.pstate, 0
    exit_ = bench.run(branch(name))
    if guest_ec(bench.state) != BRANCH_TARGET:
        return True
    assert vector(exit_) == level.offset
    assert (bench.state.elr_el1, bench.state.pstate) == (target, EL1H)
    return False


def refusal(btype: int) -> int:
    """Return the ESR_EL1 of a Branch Target exception."""
    return BRANCH_TARGET << 26 | 1 << 25 | btype


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize("source", [False, True], ids=["from plain", "from guarded"])
@pytest.mark.parametrize("name", BRANCHES)
def test_what_a_branch_may_reach(level: Level, is_strict: bool, source: bool, name: str) -> None:
    """Every branch to every target, for the first time and again, from each kind of page."""
    bench = make_bench(level, source=source, target=True)
    bench.state.sctlr_el1 = SCTLR_ON | ((BT0 if level.name == "EL0" else BT1) * is_strict)
    btype = BRANCHES[name][0 if source else 1]
    for text, (word, allowed, allowed_strictly) in TARGETS.items():
        put(bench, TARGET, word, *struct.unpack("<I", assemble(END)))
        may = not btype or btype in (allowed_strictly if is_strict else allowed)
        for _ in range(3):  # not decoded, decoded, and once more
            assert jump(bench, name, TARGET, level) == may, text
            if not may:
                assert bench.state.esr_el1 == refusal(btype), text
                assert bench.state.spsr_el1 == level.pstate | btype << BTYPE_SHIFT, text


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize("name", BRANCHES)
def test_a_page_that_is_not_guarded_refuses_nothing(level: Level, name: str) -> None:
    """GP = 0; and GP is RES0 without the feature."""
    for features, is_guarded in ((3, False), (1, True)):
        bench = make_bench(level, source=is_guarded, target=is_guarded, features=features)
        for word, _, _ in TARGETS.values():
            put(bench, TARGET, word, *struct.unpack("<I", assemble(END)))
            assert jump(bench, name, TARGET, level)


def test_a_strict_bit_is_of_one_level() -> None:
    """SCTLR_EL1.BT0 says nothing of EL1, nor BT1 of EL0."""
    for level, other in zip(LEVELS, (BT1, BT0), strict=True):
        bench = make_bench(level, source=True, target=True)
        bench.state.sctlr_el1 = SCTLR_ON | other
        put(bench, TARGET, TARGETS["paciasp"][0])
        assert jump(bench, "br x1", TARGET, level)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_only_indirect_branches_are_checked(level: Level) -> None:
    """B, BL, CBZ, the end of a page and what follows a target land on anything."""
    bench = make_bench(level, source=True, target=True)
    distance = TARGET - CODE
    put(bench, TARGET, 0xD503_201F, *struct.unpack("<I", assemble("svc #1")))
    bench.map(CODE + PAGE, CODE + PAGE, level.attributes | GUARDED)
    put(bench, CODE + PAGE, *struct.unpack("<I", assemble("svc #1")))
    for text in (f"b #{distance:#x}", f"bl #{distance:#x}", "adr x1, #8; nop; nop; svc #1"):
        bench.state.pstate = level.pstate
        bench.run(text)
        assert (guest_ec(bench.state), bench.state.spsr_el1 >> 10 & 3) == (SVC, 0)
    put(bench, CODE + PAGE - 4, 0xD503_201F)
    bench.state.pc, bench.state.pstate = CODE + PAGE - 4, level.pstate
    bench.run()
    assert (guest_ec(bench.state), bench.state.elr_el1) == (SVC, CODE + PAGE + 4)


def test_the_first_instruction_alone_is_checked() -> None:
    """A loop behind a landing place, with a branch back to what is none."""
    bench = make_bench(LEVELS[1], source=True, target=True)
    code = assemble(".word 0xd503245f; mov x2, #50; again: subs x2, x2, #1; b.ne again")
    bench.memory.write(TARGET, code + assemble("hvc #0x42"))
    bench.state.x[1] = TARGET
    assert bench.run("blr x1").esr & 0xFFFF == 0x42
    assert bench.state.pstate >> 10 & 3 == 0


@pytest.mark.parametrize("btype", range(4))
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_an_exception_return_brings_btype_back(level: Level, btype: int) -> None:
    """SPSR_EL1.BTYPE is checked where ELR_EL1 points to, and lasts one instruction."""
    for text, (word, allowed, _) in TARGETS.items():
        bench = make_bench(level, source=False, target=True)
        put(bench, TARGET, word, *struct.unpack("<I", assemble(END)))
        bench.map(VECTORS + PAGE, VECTORS + PAGE, AF)
        bench.load("eret", VECTORS + PAGE)
        bench.state.pstate = EL1H
        bench.state.elr_el1 = TARGET
        bench.state.spsr_el1 = level.pstate | btype << BTYPE_SHIFT
        bench.run()
        may = not btype or btype in allowed
        assert (guest_ec(bench.state) != BRANCH_TARGET) == may, text
        if not may:
            assert bench.state.esr_el1 == refusal(btype)
            assert bench.state.spsr_el1 == level.pstate | btype << BTYPE_SHIFT


@pytest.mark.parametrize("btype", [1, 2, 3])
def test_a_context_keeps_its_btype(btype: int) -> None:
    """An exit before the target was executed, and the next entry: PSTATE says it, and it counts."""
    bench = make_bench(LEVELS[1], source=True, target=True)
    put(bench, TARGET, 0xD503_201F)
    bench.state.x[1] = bench.state.x[16] = TARGET
    name = {1: "br x16", 2: "blr x1", 3: "br x1"}[btype]
    assert bench.run(name, budget=1).reason == ExitReason.BUDGET
    assert (bench.state.pc, bench.state.pstate) == (TARGET, EL1H | btype << BTYPE_SHIFT)
    bench.run()
    assert bench.state.esr_el1 == refusal(btype)


def test_an_interrupt_saves_btype() -> None:
    """One that comes between a branch and its target; what the target left behind has none."""
    for level in LEVELS:
        for budget, btype in ((1, 2), (2, 0)):
            bench = make_bench(level, source=True, target=True)
            put(bench, TARGET, TARGETS["bti c"][0], 0xD503_201F, 0x1400_0000)
            bench.state.x[1] = TARGET
            bench.run("blr x1", budget=budget)
            bench.state.hcr_el2 |= 1 << 4 | 1 << 7  # IMO, VI
            bench.state.pstate &= ~(1 << 7)
            assert vector(bench.run()) == level.offset + 0x80
            assert bench.state.spsr_el1 >> BTYPE_SHIFT & 3 == btype
            assert bench.state.pstate >> BTYPE_SHIFT & 3 == 0


def test_a_breakpoint_instruction_saves_btype() -> None:
    """BRK may stand anywhere; SVC in a page that is not guarded leaves 0, for it is over."""
    for level in LEVELS:
        bench = make_bench(level, source=True, target=True)
        put(bench, TARGET, TARGETS["brk"][0])
        assert jump(bench, "br x1", TARGET, level)
        assert (guest_ec(bench.state), bench.state.spsr_el1 >> 10 & 3) == (BRK, 3)
        bench = make_bench(level, source=True, target=False)
        put(bench, TARGET, TARGETS["svc"][0])
        assert jump(bench, "br x1", TARGET, level)
        assert (guest_ec(bench.state), bench.state.spsr_el1 >> 10 & 3) == (SVC, 0)


# --- priority -------------------------------------------------------------------------------------


def test_a_fetch_that_aborts_comes_first() -> None:
    """An Instruction Abort at the target keeps BTYPE, to stage 1 and to stage 2."""
    bench = make_bench(LEVELS[1], source=True, target=True)
    missing = TARGET + 16 * PAGE
    assert jump(bench, "blr x1", missing, LEVELS[1])
    assert guest_ec(bench.state) == EC_INSTRUCTION_ABORT + 1
    assert bench.state.spsr_el1 == EL1H | 2 << BTYPE_SHIFT
    bench.map(missing, missing, AF | GUARDED)
    bench.stage2_on(identity=False)
    for page in (CODE, VECTORS, *range(TABLES, TABLES + 32 * PAGE, PAGE)):
        bench.map_stage2(page, page)
    bench.state.x[1], bench.state.pstate = missing, EL1H
    exit_ = bench.run("blr x1")
    assert ec(exit_) == EC_INSTRUCTION_ABORT
    assert (bench.state.pc, bench.state.pstate) == (missing, EL1H | 2 << BTYPE_SHIFT)
    bench.map_stage2(missing, missing)
    bench.run()  # as if EL2 had mapped it
    assert bench.state.esr_el1 == refusal(2)


def test_a_misaligned_target_comes_first() -> None:
    """A PC alignment fault, with BTYPE."""
    bench = make_bench(LEVELS[1], source=True, target=True)
    assert jump(bench, "br x1", TARGET + 2, LEVELS[1])
    assert guest_ec(bench.state) == PC_ALIGNMENT
    assert bench.state.spsr_el1 == EL1H | 3 << BTYPE_SHIFT


def test_an_illegal_state_comes_first() -> None:
    """PSTATE.IL and BTYPE in one entry; of all else see test_exception_priority.py."""
    bench = make_bench(LEVELS[1], source=True, target=True)
    put(bench, TARGET, 0xD503_201F)
    bench.state.pc, bench.state.pstate = TARGET, EL1H | IL | 2 << BTYPE_SHIFT
    bench.run()
    assert (guest_ec(bench.state), bench.state.spsr_el1 >> 10 & 3) == (ILLEGAL, 2)


def test_a_debugger_outside_sees_the_target_first() -> None:
    """A breakpoint at a target that is none; the guest's exception comes with the next step."""
    bench = make_bench(LEVELS[1], source=True, target=True)
    put(bench, TARGET, 0xD503_201F)
    bench.state.x[1] = TARGET
    debugger = Debugger(bench.machine, bench.state)
    debugger.break_at(TARGET)
    assert bench.run("blr x1").reason == ExitReason.DEBUG
    assert (bench.state.pc, bench.state.pstate >> 10 & 3) == (TARGET, 2)
    debugger.step()
    assert (bench.state.pc, bench.state.esr_el1) == (VECTORS + 0x200, refusal(2))


# --- the tables change ----------------------------------------------------------------------------


@pytest.mark.parametrize("leaf_level", [1, 2, 3])
def test_a_block_is_guarded_as_a_page_is(leaf_level: int) -> None:
    """GP is of every leaf."""
    bench = make_bench(LEVELS[1], source=False, target=False)
    va = 1 << 40
    block = TARGET & -(1 << 39 - 9 * leaf_level)
    bench.map(va, block, AF | GUARDED, leaf_level=leaf_level)
    put(bench, TARGET, 0xD503_201F)
    assert not jump(bench, "blr x1", va + TARGET - block, LEVELS[1])


def test_two_mappings_of_a_page_may_differ() -> None:
    """Decoded once, guarded in one place and not in the other."""
    bench = make_bench(LEVELS[1], source=False, target=True)
    other = TARGET + 64 * PAGE
    bench.map(other, TARGET, AF)
    put(bench, TARGET, 0xD503_201F, *struct.unpack("<I", assemble(END)))
    for _ in range(3):
        assert jump(bench, "blr x1", other, LEVELS[1])
        assert not jump(bench, "blr x1", TARGET, LEVELS[1])


def test_guarding_a_page_needs_an_invalidation() -> None:
    """The TLB holds the attribute, as it may, until TLBI."""
    bench = make_bench(LEVELS[1], source=False, target=False)
    put(bench, TARGET, 0xD65F_03C0)  # ret
    entry = bench.map(TARGET, TARGET, AF)
    text = f"""
        blr x1
        str x3, [x2]
        dsb sy
        tlbi vmalle1
        dsb sy
        isb
        blr x1
        {END}"""
    tables = entry & -PAGE
    bench.map(tables, tables, AF | PXN)
    bench.state.x[1], bench.state.x[2] = TARGET, entry
    bench.state.x[3] = TARGET | AF | GUARDED | 3
    bench.run(text)
    assert (bench.state.esr_el1, bench.state.elr_el1) == (refusal(2), TARGET)
    assert bench.state.x[30] == CODE + 7 * 4


@pytest.mark.parametrize("has_it", [False, True])
def test_registers_say_whether_it_is_there(has_it: bool) -> None:
    """ID_AA64PFR1_EL1.BT; SCTLR_EL1.BT0 and BT1 and SPSR_EL1.BTYPE without it."""
    bench = make_bench(LEVELS[1], source=False, target=False, features=2 if has_it else 1)
    bench.state.x[0] = SCTLR_ON | BT0 | BT1
    exit_ = bench.run(f"msr sctlr_el1, x0; mrs x0, sctlr_el1; mrs x1, id_aa64pfr1_el1; {END}")
    assert ec(exit_) == EC_HVC
    assert bench.state.x[0] & (BT0 | BT1) == (BT0 | BT1 if has_it else 0)
    assert bench.state.x[1] & 15 == has_it
    assert bench.machine.id_register(3, 0, 0, 4, 1) == bench.state.x[1]
    bench.state.pstate = EL1H | 2 << BTYPE_SHIFT
    bench.run("svc #0")
    bench.state.x[1] = CODE + 2
    bench.run("blr x1")
    assert bench.state.spsr_el1 >> BTYPE_SHIFT & 3 == (2 if has_it else 0)
