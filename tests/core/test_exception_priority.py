"""Which of several synchronous exceptions of one instruction is taken.

The causes stand in the order of DDI 0487, "Prioritization of Synchronous exceptions taken to
AArch64 state", with its numbers; those of 44 and 45 in that of "MMU fault prioritization from a
single address translation stage". Each is tried alone and with each that comes after it. Illegal
Execution state has the later of the two places that the manual allows. What this machine has not is
not here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

import pytest

from tests.core.system import (
    AF,
    BASE,
    CODE,
    DATA,
    DEVICE,
    EC_HVC,
    GUARDED,
    PAGE,
    PXN,
    READ_ONLY,
    S2_NORMAL,
    S2_READ,
    S2_WRITE,
    SCTLR_ON,
    SIZE,
    TCR_48,
    USER,
    UXN,
    VALID,
    Bench,
    ec,
    guest_ec,
    guest_fsc,
)
from tests.core.test_stage2 import GPI_REALM, Gpt

MDSCR_SS, MDSCR_KDE, MDSCR_MDE = 1 << 0, 1 << 13, 1 << 15
SCTLR_A, SCTLR_SA = 1 << 1, 1 << 3
HCR_TWI, HCR_TID2, HCR_TSC, HCR_TIDCP = 1 << 13, 1 << 17, 1 << 19, 1 << 20
HCR_TSW, HCR_TPCP, HCR_TTLB, HCR_TDZ, HCR_TRVM = 1 << 22, 1 << 23, 1 << 25, 1 << 28, 1 << 30
CPTR_TFP = 1 << 10
TCR_IPS = 7 << 32
EL0T, EL1T, EL1H = 0, 0x1C4, 0x1C5  # no debug exception is masked
IL = 1 << 20
BTYPE_CALL = 2 << 10  # as BLR leaves it
BREAKPOINT_ON = 1 | 3 << 1 | 0xF << 5
WATCHPOINT_ON = 1 | 3 << 1 | 3 << 3 | 0xFF << 5
S2_PAGES = 1 << 30  # IPAs that no block maps
STACK = DATA + 0x108  # misaligned for SP, and for a register of 16 bytes
STORE = "str q0, [sp]"
SYS_RESERVED = "sys #0, c11, c0, #0"
MRS_RESERVED = ".long 0xd538b000"  # mrs x0, s3_0_c11_c0_0
FP_TRAP, SYSREG, SVC, BRK, ILLEGAL, SP_ALIGNMENT = 0x07, 0x18, 0x15, 0x3C, 0x0E, 0x26
ABORTS = {0x20, 0x21, 0x24, 0x25}

Outcome = tuple[int, int, int]
"""The EL that takes the exception, its class, and the fault status code of an abort."""


@dataclass
class Scene:
    """What is so when the instruction is executed; 0 where nothing is wrong."""

    bench: Bench = field(default_factory=Bench)
    text: str = ""
    pc: int = CODE
    code: int = AF | UXN  # attributes of the page of the instruction, and of that of STORE
    page: int = AF | UXN
    ipa: int = S2_PAGES + PAGE
    sctlr: int = SCTLR_ON
    fp_disabled: int = 0
    breakpoint_on: int = 0
    watchpoint_on: int = 0
    no_flag: int = 0
    no_page: int = 0
    no_stage2: int = 0
    no_memory: int = 0
    protected: int = 0
    protected_walk: int = 0
    small_ips: int = 0

    def __post_init__(self) -> None:
        """Unmask debug exceptions."""
        self.bench.state.pstate = EL1H


class Cause:
    """What brings an exception about: bits to set in the scene or, by its names, in the context."""

    def __init__(self, place: str, outcome: Outcome, text: str = "", **bits: int) -> None:
        self.name = f"{place} {text}".strip()
        self.outcome = outcome
        self.text = text
        self._bits = bits

    def arrange(self, scene: Scene) -> None:
        """Add the cause to those of the scene."""
        scene.text = self.text or scene.text
        for name, value in self._bits.items():
            target = scene if hasattr(scene, name) else scene.bench.state
            setattr(target, name, getattr(target, name) | value)


BEFORE = [
    Cause("4 software step", (1, 0x33, 0), mdscr_el1=MDSCR_SS | MDSCR_KDE),
    Cause("7 PC alignment", (1, 0x22, 0), pc=2),
    Cause("9 instruction abort", (1, 0x21, 0xF), code=PXN),
    Cause("10 breakpoint", (1, 0x31, 0), breakpoint_on=1),
    Cause("11 illegal state", (1, ILLEGAL, 0), pstate=IL),
]
INSTRUCTIONS = [
    Cause("13", (1, BRK, 0), "brk #1"),
    Cause("branch target", (1, 0x0D, 0), code=GUARDED, pstate=BTYPE_CALL),
    Cause("18", (2, SYSREG, 0), MRS_RESERVED, hcr_el2=HCR_TIDCP),
    Cause("18", (2, SYSREG, 0), SYS_RESERVED, hcr_el2=HCR_TIDCP),
    Cause("19", (1, 0, 0), ".long 0"),
    Cause("19", (1, 0, 0), MRS_RESERVED),
    Cause("19", (1, 0, 0), SYS_RESERVED),
    Cause("21 CPACR_EL1", (1, FP_TRAP, 0), STORE, fp_disabled=1),
    Cause("24 CPTR_EL2", (2, FP_TRAP, 0), STORE, cptr_el2=CPTR_TFP),
    Cause("25 HCR_EL2", (2, SYSREG, 0), "mrs x0, sctlr_el1", hcr_el2=HCR_TRVM),
    Cause("28", (1, SVC, 0), "svc #0"),
    Cause("28", (2, EC_HVC, 0), "hvc #0x42"),
    Cause("41 SP alignment", (1, SP_ALIGNMENT, 0), STORE, sctlr=SCTLR_SA),
    Cause("44 alignment", (1, 0x25, 0x21), STORE, sctlr=SCTLR_A),
    Cause("44 GPF on a walk", (2, 0x24, 0x27), STORE, protected_walk=1),
    Cause("44 translation", (1, 0x25, 0x7), STORE, no_page=1),
    Cause("44 address size", (1, 0x25, 0x3), STORE, small_ips=1, ipa=1 << 33),
    Cause("44 access flag", (1, 0x25, 0xB), STORE, no_flag=1),
    Cause("44 alignment of Device memory", (1, 0x25, 0x21), STORE, page=DEVICE),
    Cause("44 permission", (1, 0x25, 0xF), STORE, page=READ_ONLY),
    Cause("44 stage 2", (2, 0x24, 0x7), STORE, no_stage2=1),
    Cause("45 GPF", (2, 0x24, 0x28), STORE, protected=1),
    Cause("45 external abort", (1, 0x25, 0x10), STORE, no_memory=1),
    Cause("46 watchpoint", (1, 0x35, 0), STORE, watchpoint_on=1),
]
CAUSES = BEFORE + INSTRUCTIONS
PAIRS = [(a, b) for a, b in combinations(CAUSES, 2) if not a.text or a.text == b.text]


def build(scene: Scene) -> None:
    """Make tables and registers of the scene."""
    bench = scene.bench
    state = bench.state
    pa = BASE + SIZE if scene.no_memory else DATA
    bench.mmu_on(TCR_48 & ~TCR_IPS if scene.small_ips else TCR_48, scene.sctlr)
    bench.map(CODE, CODE, scene.code)
    page = scene.page & ~AF if scene.no_flag else scene.page
    descriptor = bench.map(DATA, scene.ipa, page)
    if scene.no_page:
        bench.memory.write_u64(descriptor, bench.memory.read_u64(descriptor) & ~VALID)
    bench.stage2_on()
    bench.map_stage2(S2_PAGES, DATA)  # makes the table of level 3 that a fault is of
    if not scene.no_stage2:
        bench.map_stage2(scene.ipa, pa, AF | S2_READ | S2_WRITE | S2_NORMAL)
    if scene.protected or scene.protected_walk:
        gpt = Gpt(bench)
        for granule in [DATA] * scene.protected + [descriptor & ~0xFFF] * scene.protected_walk:
            gpt.set(granule, GPI_REALM)
    if scene.fp_disabled:
        state.cpacr_el1 = 0
    if scene.breakpoint_on:
        state.mdscr_el1 |= MDSCR_MDE | MDSCR_KDE
        state.dbgbvr[0], state.dbgbcr[0] = CODE, BREAKPOINT_ON
    if scene.watchpoint_on:
        state.mdscr_el1 |= MDSCR_MDE | MDSCR_KDE
        state.dbgwvr[0], state.dbgwcr[0] = STACK, WATCHPOINT_ON


def outcome(scene: Scene) -> Outcome:
    """Run the instruction and tell what it came to."""
    state = scene.bench.state
    state.sp_el1 = STACK
    build(scene)
    scene.bench.load(scene.text or "hvc #0x42")
    state.pc = scene.pc
    exit_ = scene.bench.run(budget=100)
    if ec(exit_) == EC_HVC and exit_.esr & 0xFFFF < 0x10:
        return 1, guest_ec(state), guest_fsc(state) if guest_ec(state) in ABORTS else 0
    return 2, ec(exit_), exit_.esr & 0x3F if ec(exit_) in ABORTS else 0


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_each_cause_has_its_exception(cause: Cause) -> None:
    """Alone."""
    scene = Scene()
    cause.arrange(scene)
    assert outcome(scene) == cause.outcome


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=lambda cause: cause.name)
def test_the_first_of_two_causes_is_taken(first: Cause, second: Cause) -> None:
    """Each with each that comes after it."""
    scene = Scene()
    first.arrange(scene)
    second.arrange(scene)
    assert outcome(scene) == first.outcome


def test_illegal_state_waits_for_the_fetch_of_a_return() -> None:
    """An illegal ERET to a page that cannot be fetched: the abort, and IL in SPSR_EL1."""
    bench = Bench()
    bench.mmu_on()
    bench.state.elr_el1, bench.state.spsr_el1 = DATA, 0x3CD
    bench.state.pstate = EL1H
    bench.run("eret")
    assert (guest_ec(bench.state), bench.state.elr_el1) == (0x21, DATA)
    assert bench.state.spsr_el1 & IL


@pytest.mark.parametrize(
    ("text", "pstate", "hcr", "taken"),
    [
        (".long 0x1ee0f000", EL0T, 0, 0),  # an unallocated encoding of floating point: 19, not 21
        ("mrs x0, sctlr_el1", EL0T, HCR_TRVM, 0),  # 19, not 25
        ("tlbi vmalle1", EL0T, HCR_TTLB, 0),
        ("dc isw, x0", EL0T, HCR_TSW, 0),
        ("smc #0", EL0T, HCR_TSC, 0),
        ("hvc #0", EL0T, 0, 0),  # 19, not 28
        ("mrs x0, sp_el0", EL1T, 0, 0),
        ("wfi", EL0T, HCR_TWI, 1),  # 21, not 25
        ("mrs x0, ctr_el0", EL0T, HCR_TID2, SYSREG),
        ("dc cvac, x0", EL0T, HCR_TPCP, SYSREG),
        ("dc zva, x0", EL0T, HCR_TDZ, SYSREG),
        ("mrs x0, cntpct_el0", EL0T, 0, SYSREG),
        ("fmov d0, xzr", EL0T, 0, FP_TRAP),
    ],
)
def test_undefined_comes_before_traps_and_el1_before_el2(
    text: str, pstate: int, hcr: int, taken: int
) -> None:
    """Each instruction has a reason to go to EL2 as well, and that comes later."""
    bench = Bench()
    bench.mmu_on()
    bench.map(CODE, CODE, AF | USER | READ_ONLY)
    state = bench.state
    state.hcr_el2 |= hcr
    state.cpacr_el1, state.cptr_el2, state.cnthctl_el2 = 0, CPTR_TFP, 0
    state.pstate = pstate
    exit_ = bench.run(text)
    assert (ec(exit_), guest_ec(state)) == (EC_HVC, taken)


@pytest.mark.parametrize("text", ["ldxr x0, [x9]", "stlr x0, [x9]", ".long 0xf8200120"])
def test_alignment_that_is_always_asked_comes_before_the_translation(text: str) -> None:
    """Exclusives, ordered accesses and atomics (LDADD) at an address that is not mapped."""
    bench = Bench()
    bench.mmu_on()
    bench.state.x[9] = DATA + 4
    bench.run(text)
    assert (guest_ec(bench.state), guest_fsc(bench.state)) == (0x25, 0x21)
