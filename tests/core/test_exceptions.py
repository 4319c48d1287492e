"""Exceptions between EL0 and EL1, exits to EL2, and system register access rules."""

from __future__ import annotations

import pytest

from pyvmm.arch.exits import ExitReason
from pyvmm.arch.sysregs import SYSREGS, SysReg, Trap
from tests.core.system import (
    AF,
    CODE,
    EC_HVC,
    EC_SYSREG,
    HCR_IMO,
    SCTLR_RES1,
    TCR_48,
    USER,
    VECTORS,
    Bench,
    ec,
    guest_ec,
    vector,
)

EL0T, EL1T, EL1H = 0, 4, 5
UNKNOWN, ILLEGAL, SVC, SMC, PC_ALIGNMENT, SP_ALIGNMENT, BRK, FP = (
    0,
    0x0E,
    0x15,
    0x17,
    0x22,
    0x26,
    0x3C,
    7,
)
HCR_TVM, HCR_TRVM, HCR_TID3, HCR_TIDCP, HCR_TSC, HCR_HCD = (
    1 << 26,
    1 << 30,
    1 << 18,
    1 << 20,
    1 << 19,
    1 << 29,
)
HCR_VI = 1 << 7
SCTLR_SPAN = 1 << 23


@pytest.fixture
def bench() -> Bench:
    """Return a bench with the MMU off."""
    return Bench()


@pytest.fixture
def user() -> Bench:
    """Return a bench that runs at EL0 with the MMU on."""
    bench = Bench()
    bench.mmu_on()
    bench.map(CODE, CODE, AF | USER | 1 << 7)
    bench.state.pstate = EL0T
    return bench


def mrs(encoding: int, rt: int = 0, *, read: bool = True) -> str:
    """Return MRS or MSR of any encoding as a word."""
    return f".long {0xD5000000 | read << 21 | (encoding & 0xFFFF) << 5 | rt:#x}"


def test_svc_saves_the_state_and_masks(user: Bench) -> None:
    """SPSR_EL1, ELR_EL1, ESR_EL1 and PSTATE after SVC from EL0; SP_EL1 becomes the stack."""
    user.state.pstate = EL0T | 0x6000_0000
    user.state.sp_el0, user.state.sp_el1 = 0x1110, 0x2220
    exit_ = user.run("svc #7")
    assert vector(exit_) == 0x400
    assert user.state.esr_el1 == SVC << 26 | 1 << 25 | 7
    assert (user.state.spsr_el1, user.state.elr_el1) == (EL0T | 0x6000_0000, CODE + 4)
    assert user.state.pstate == 0x6000_03C0 | EL1H
    assert (user.state.sp_el0, user.state.sp_el1) == (0x1110, 0x2220)


def test_pan_is_set_on_entry_unless_span(bench: Bench) -> None:
    """SCTLR_EL1.SPAN = 0 sets PSTATE.PAN."""
    bench.state.sctlr_el1 = SCTLR_RES1 & ~SCTLR_SPAN
    bench.run("svc #0")
    assert bench.state.pstate >> 22 & 1


@pytest.mark.parametrize(("pstate", "offset"), [(0x3C0 | EL1T, 0x000), (0x3C0 | EL1H, 0x200)])
def test_the_vector_depends_on_the_stack_pointer_in_use(
    bench: Bench, pstate: int, offset: int
) -> None:
    """EL1t and EL1h."""
    bench.state.pstate = pstate
    assert vector(bench.run("svc #0")) == offset


def test_eret_goes_back_to_el0(user: Bench) -> None:
    """PSTATE and pc come from SPSR_EL1 and ELR_EL1; the flags too."""
    user.memory.write(VECTORS + 0x400, bytes.fromhex("e0039fd6"))  # eret
    user.run("mov x0, #1\n svc #0\n mov x1, #2\n .long 0\n")
    assert (user.state.x[0], user.state.x[1]) == (1, 2)
    assert guest_ec(user.state) in {SVC, UNKNOWN}


@pytest.mark.parametrize("spsr", [0x3C9, 0x3CD, 0x3C1, 0x1D0, 0x3CC])
def test_an_illegal_return_sets_il(bench: Bench, spsr: int) -> None:
    """EL2, EL3, EL0h and AArch32: the next instruction is an Illegal Execution state exception."""
    bench.state.spsr_el1, bench.state.elr_el1 = spsr, CODE + 0x100
    exit_ = bench.run("eret")
    assert vector(exit_) == 0x200
    assert (guest_ec(bench.state), bench.state.elr_el1) == (ILLEGAL, CODE + 0x100)
    assert bench.state.spsr_el1 >> 20 & 1


@pytest.mark.parametrize(
    ("text", "hcr", "outcome"),
    [
        ("hvc #5", 0, EC_HVC),
        ("smc #5", HCR_TSC, SMC),
        ("smc #5", 0, UNKNOWN),
        ("brk #5", 0, BRK),
        (".long 0", 0, UNKNOWN),
    ],
)
def test_calls_and_their_controls(bench: Bench, text: str, hcr: int, outcome: int) -> None:
    """HVC and SMC leave for EL2 or are UNDEFINED; pc is past an HVC and at an SMC."""
    bench.state.hcr_el2 |= hcr
    exit_ = bench.run(text)
    if outcome in (EC_HVC, SMC):
        assert exit_.esr == outcome << 26 | 1 << 25 | 5
        assert bench.state.pc == CODE + (4 if outcome == EC_HVC else 0)
    else:
        assert (vector(exit_), guest_ec(bench.state), bench.state.elr_el1) == (0x200, outcome, CODE)


def test_hvc_can_be_disabled(bench: Bench) -> None:
    """HCR_EL2.HCD: UNDEFINED, also that of the vector."""
    bench.state.hcr_el2 |= HCR_HCD
    assert bench.run("hvc #5", budget=100).reason == ExitReason.BUDGET
    assert (guest_ec(bench.state), bench.state.elr_el1) == (UNKNOWN, VECTORS + 0x200)


@pytest.mark.parametrize(
    "text", ["hvc #0", "smc #0", "eret", "msr spsel, #0", "tlbi vmalle1", "mrs x0, sctlr_el1"]
)
def test_el0_has_no_privileged_instruction(user: Bench, text: str) -> None:
    """UNDEFINED at EL0, whatever EL2 would trap."""
    user.state.hcr_el2 |= HCR_TSC | HCR_TRVM
    assert (vector(user.run(text)), guest_ec(user.state)) == (0x400, UNKNOWN)


def test_misaligned_pc_and_sp_fault(bench: Bench) -> None:
    """PC alignment gives FAR_EL1; SP alignment follows SCTLR_EL1.SA."""
    bench.state.x[1] = CODE + 2
    bench.run("br x1")
    assert (guest_ec(bench.state), bench.state.far_el1, bench.state.elr_el1) == (
        PC_ALIGNMENT,
        CODE + 2,
        CODE + 2,
    )
    bench.state.sctlr_el1 = SCTLR_RES1 | 1 << 3
    bench.state.sp_el1 = CODE + 0x808
    bench.state.pstate = 0x3C5
    bench.run("ldr x0, [sp]")
    assert guest_ec(bench.state) == SP_ALIGNMENT


def test_fp_access_is_trapped_by_cpacr_and_cptr(bench: Bench) -> None:
    """CPACR_EL1.FPEN to EL1, CPTR_EL2.TFP to EL2; FPCR too."""
    bench.state.cpacr_el1 = 0
    bench.run("fmov d0, xzr")
    assert guest_ec(bench.state) == FP
    bench.state.cpacr_el1, bench.state.cptr_el2 = 3 << 20, 1 << 10
    assert ec(bench.run("mrs x0, fpcr")) == FP


def test_virtual_irq_is_taken_when_unmasked(bench: Bench) -> None:
    """HCR_EL2.VI: pending while masked, taken after DAIFClr."""
    bench.state.hcr_el2 |= HCR_IMO | HCR_VI
    exit_ = bench.run("mrs x0, isr_el1\n msr daifclr, #2\n nop\n hvc #99")
    assert vector(exit_) == 0x280
    assert (bench.state.x[0], bench.state.elr_el1) == (1 << 7, CODE + 8)


# --- system registers -----------------------------------------------------------------------------


SIDE_EFFECTS = {
    "SCTLR_EL1",
    "TCR_EL1",
    "CNTP_CTL_EL0",
    "CNTV_CTL_EL0",
}  # all ones change what runs, or read differently


@pytest.mark.parametrize("reg", [r for r in SYSREGS if r.access & 4], ids=lambda r: r.name)
def test_every_readable_register_can_be_read_at_el1(bench: Bench, reg: SysReg) -> None:
    """No declared register faults without a trap."""
    bench.state.cnthctl_el2 = 3
    exit_ = bench.run(f"{mrs(reg.encoding)}\n hvc #42")
    assert exit_.esr & 0xFFFF == 42


@pytest.mark.parametrize(
    "reg",
    [r for r in SYSREGS if r.storage and r.access & 8 and r.name not in SIDE_EFFECTS],
    ids=lambda r: r.name,
)
def test_storage_keeps_what_was_written(bench: Bench, reg: SysReg) -> None:
    """Write all ones, read back the mask and what is RES1."""
    encoding, mask, res1 = reg.encoding, reg.mask, reg.res1
    bench.state.x[0] = (1 << 64) - 1
    bench.run(f"{mrs(encoding, 0, read=False)}\n {mrs(encoding, 1)}\n hvc #0")
    assert bench.state.x[1] == mask | res1


@pytest.mark.parametrize("reg", [r for r in SYSREGS if r.access & 8], ids=lambda r: r.name)
def test_no_write_of_el1_hurts(bench: Bench, reg: SysReg) -> None:
    """Any value can be written to any register: the PE goes on, faults, or exits."""
    for value in (0, (1 << 64) - 1, 0x5555_5555_5555_5555):
        bench.state.x[0] = value
        exit_ = bench.run(f"{mrs(reg.encoding, 0, read=False)}\n hvc #0", budget=1000)
        assert exit_.reason in set(ExitReason)


@pytest.mark.parametrize("reg", [r for r in SYSREGS if r.trap is Trap.VM], ids=lambda r: r.name)
@pytest.mark.parametrize("read", [True, False])
def test_virtual_memory_controls_trap(bench: Bench, reg: SysReg, read: bool) -> None:
    """TVM and TRVM: EC 0x18 with the encoding and Rt, pc at the instruction, nothing changed."""
    encoding = reg.encoding
    bench.state.hcr_el2 |= HCR_TRVM if read else HCR_TVM
    exit_ = bench.run(mrs(encoding, 7, read=read))
    op0, op1, crn, crm, op2 = (
        encoding >> 14,
        encoding >> 11 & 7,
        encoding >> 7 & 15,
        encoding >> 3 & 15,
        encoding & 7,
    )
    iss = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | 7 << 5 | crm << 1 | read
    assert (exit_.esr, bench.state.pc) == (EC_SYSREG << 26 | 1 << 25 | iss, CODE)


def test_the_id_space_reads_as_zero_where_it_is_not_allocated(bench: Bench) -> None:
    """Reserved ID registers, and the trap of all of them by TID3."""
    encoding = 3 << 14 | 0 << 7 | 7 << 3 | 7
    bench.state.x[0] = 1
    bench.run(f"{mrs(encoding)}\n hvc #0")
    assert bench.state.x[0] == 0
    bench.state.hcr_el2 |= HCR_TID3
    assert ec(bench.run(mrs(encoding))) == EC_SYSREG


@pytest.mark.parametrize(("hcr", "outcome"), [(0, EC_HVC), (HCR_TIDCP, EC_SYSREG)])
def test_implementation_defined_space(bench: Bench, hcr: int, outcome: int) -> None:
    """UNDEFINED unless HCR_EL2.TIDCP sends it to EL2."""
    bench.state.hcr_el2 |= hcr
    assert ec(bench.run(mrs(3 << 14 | 15 << 7))) == outcome


@pytest.mark.parametrize(
    "text",
    ["msr cnthctl_el2, x0", "mrs x0, hcr_el2", "msr uao, #1", "mrs x0, sp_el1"],
)
def test_what_is_not_there_is_undefined(bench: Bench, text: str) -> None:
    """EL2's registers, features that are not advertised."""
    if text == "msr uao, #1":
        text = ".long 0xd500417f"
    bench.run(text)
    assert guest_ec(bench.state) == UNKNOWN


@pytest.mark.parametrize("loaded", [0, 0x30C5_0830, (1 << 64) - 1])
def test_sctlr_as_el2_loads_it_has_its_fixed_bits(bench: Bench, loaded: int) -> None:
    """What a guest reads is what it would read after writing the same value."""
    bench.state.sctlr_el1 = loaded & ~1  # the MMU stays off
    bench.run("mrs x0, sctlr_el1\n msr sctlr_el1, x0\n isb\n mrs x1, sctlr_el1\n hvc #0")
    assert bench.state.x[0] == bench.state.x[1] == bench.state.sctlr_el1
    assert bench.state.x[0] & SCTLR_RES1 & ~SCTLR_SPAN == SCTLR_RES1 & ~SCTLR_SPAN


@pytest.mark.parametrize(
    ("text", "sctlr", "taken"),
    [
        ("mrs x0, ctr_el0", 0, EC_SYSREG),
        ("mrs x0, ctr_el0", 1 << 15, None),
        ("msr daifset, #1", 0, EC_SYSREG),
        ("msr daifset, #1", 1 << 9, None),
        ("mov x1, sp\n dc cvac, x1", 0, EC_SYSREG),
        ("dc zva, x2", 0, EC_SYSREG),
        ("mrs x0, cntvct_el0", 0, EC_SYSREG),
        ("mrs x0, tpidr_el0", 0, None),
    ],
)
def test_el1_controls_what_el0_may(user: Bench, text: str, sctlr: int, taken: int | None) -> None:
    """SCTLR_EL1.UCT, UMA, UCI, DZE and CNTKCTL_EL1."""
    user.state.sctlr_el1 |= sctlr
    user.run(f"{text}\n svc #0")
    assert guest_ec(user.state) == (SVC if taken is None else taken)


def test_sp_el0_is_the_banked_one_at_el1h(bench: Bench) -> None:
    """SPSel switches the stack and back; SP_EL0 is UNDEFINED while it is in use."""
    bench.state.sp_el0, bench.state.sp_el1 = 0x100, 0x200
    bench.run(
        "mrs x0, sp_el0\n msr spsel, #0\n mov x1, sp\n"
        "mov x2, #0x300\n mov sp, x2\n msr spsel, #1\n"
        "mov x3, sp\n mrs x4, sp_el0\n msr spsel, #0\n mrs x5, sp_el0"
    )
    assert [bench.state.x[n] for n in (0, 1, 3, 4)] == [0x100, 0x100, 0x200, 0x300]
    assert guest_ec(bench.state) == UNKNOWN


def test_tcr_keeps_only_what_is_advertised(bench: Bench) -> None:
    """Hierarchical permission disables and 52-bit addresses are RES0."""
    bench.state.x[0] = TCR_48 | 3 << 41 | 1 << 59
    bench.run("msr tcr_el1, x0\n mrs x1, tcr_el1\n hvc #0")
    assert bench.state.x[1] == TCR_48


def test_rndr_succeeds(bench: Bench) -> None:
    """NZCV is 0 and two values differ."""
    bench.run(".long 0xd53b2400\n cset x2, ne\n .long 0xd53b2421\n hvc #0")
    assert bench.state.x[2] == 1
    assert bench.state.x[0] != bench.state.x[1]
