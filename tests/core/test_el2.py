"""A context with EL2: its exceptions, its regime, what it traps, and the guest below it."""

from __future__ import annotations

import pytest

from pyvmm.arch.exits import ExitReason
from tests.core.program import assemble
from tests.core.system import (
    AF,
    BASE,
    CODE,
    DATA,
    EC_HVC,
    MAIR,
    PAGE,
    S2_NORMAL,
    S2_READ,
    S2_WRITE,
    STAGE2_TABLES,
    TABLES,
    TCR_48,
    USER,
    UXN,
    VTCR_40,
    Bench,
)

EC_SMC, EC_UNKNOWN, EC_SYSREG, EC_SVC = 0x17, 0x00, 0x18, 0x15
EC_ABORT_LOWER, EC_ABORT_SAME = 0x24, 0x25
EL0T, EL1H, EL2H = 0, 5, 9
MASKED = 0x3C0
RW, E2H, TGE, VM, IMO, FMO, TSC, TVM, HCD = (
    1 << 31, 1 << 34, 1 << 27, 1, 1 << 4, 1 << 3, 1 << 19, 1 << 26, 1 << 29,
)  # fmt: skip
EL2_VECTORS = BASE + 0x2_0000
UART = 0x0900_0000
SMC = 0xD400_0003


class El2Bench(Bench):
    """A bench whose context starts at EL2; its EL2 vectors are SMCs, which end a run."""

    def __init__(self, hcr: int = RW) -> None:
        super().__init__()
        old, self.state = self.state, self.machine.new_context_with_el2()
        for name in ("security", "vbar_el1", "mair_el1", "cpacr_el1"):
            setattr(self.state, name, getattr(old, name))
        self.state.hcr_el2 = hcr
        self.state.vbar_el2 = EL2_VECTORS
        self.state.mair_el2 = MAIR
        self.state.cptr_el2 = 3 << 20 if hcr & E2H else 0
        for vector in range(16):
            self.memory.write(
                EL2_VECTORS + vector * 0x80, (SMC | vector << 5).to_bytes(4, "little")
            )

    def el1(self, mode: int = EL1H) -> None:
        """Start at EL1 or EL0 instead."""
        self.state.pstate = mode | MASKED


def el2_vector(bench: El2Bench) -> int:
    """Return the offset of the EL2 vector at which the run has ended."""
    assert EL2_VECTORS <= bench.state.pc < EL2_VECTORS + 0x800, hex(bench.state.pc)
    return int(bench.state.pc) - EL2_VECTORS


def el2_ec(bench: El2Bench) -> int:
    """Return the exception class in ESR_EL2."""
    return int(bench.state.esr_el2) >> 26


def test_an_smc_of_el2_is_an_exit() -> None:
    """At the SMC, as a trapped one."""
    bench = El2Bench()
    exit_ = bench.run("mov x0, #5\n smc #3")
    assert (exit_.reason, exit_.esr >> 26, exit_.esr & 0xFFFF) == (ExitReason.SYNC, EC_SMC, 3)
    assert (bench.state.pc, bench.state.x[0]) == (CODE + 4, 5)
    assert bench.state.pstate & 0x1F == EL2H


@pytest.mark.parametrize("hcr", [RW, RW | E2H, RW | E2H | TGE])
def test_el2_takes_its_own_exceptions(hcr: int) -> None:
    """An HVC at EL2: vector of the current level, SPSR, ELR, ESR."""
    bench = El2Bench(hcr)
    bench.run("hvc #7")
    state = bench.state
    assert (el2_vector(bench), el2_ec(bench), state.esr_el2 & 0xFFFF) == (0x200, EC_HVC, 7)
    assert (state.elr_el2, state.spsr_el2 & 0x1F) == (CODE + 4, EL2H)


def test_el2_reads_its_level_and_its_registers() -> None:
    """CurrentEL; TPIDR_EL2 is another register than TPIDR_EL1; the ID registers show EL2."""
    bench = El2Bench()
    bench.run("""
        mrs x0, CurrentEL
        mov x1, #11
        msr tpidr_el2, x1
        mov x1, #12
        msr tpidr_el1, x1
        mrs x2, tpidr_el2
        mrs x3, id_aa64pfr0_el1
        mrs x4, id_aa64mmfr1_el1
        smc #0""")
    assert list(bench.state.x[0:3]) == [8, 12, 11]
    assert bench.state.x[3] >> 8 & 0xF == 1
    assert bench.state.x[4] >> 8 & 0xF == 1
    assert (bench.state.tpidr_el2, bench.state.tpidr_el1) == (11, 12)


def test_without_e2h_the_names_of_el1_are_el1s() -> None:
    """Plain registers and others; EL2's own keep their values."""
    bench = El2Bench()
    bench.run("""
        mov x0, #0x1000
        msr elr_el1, x0
        msr vbar_el1, x0
        mov x0, #0x2000
        msr elr_el2, x0
        mrs x1, elr_el1
        mrs x2, elr_el2
        mov x0, #0x30000
        msr spsr_el1, x0
        mrs x3, spsr_el1
        mov x0, #3
        msr sp_el1, x0
        smc #0""")
    state = bench.state
    assert list(state.x[1:4]) == [0x1000, 0x2000, 0x30000]
    assert (state.elr_el1, state.elr_el2, state.vbar_el1, state.sp_el1) == (
        0x1000,
        0x2000,
        0x1000,
        3,
    )
    assert state.vbar_el2 == EL2_VECTORS


def test_with_e2h_the_names_of_el1_are_el2s() -> None:
    """And _EL12 are EL1's."""
    bench = El2Bench(RW | E2H)
    bench.run(f"""
        mov x0, #0x1000
        msr elr_el1, x0
        mov x0, #0x2000
        msr {sysreg(3, 5, 4, 0, 1)}, x0
        mrs x1, elr_el2
        mrs x2, {sysreg(3, 5, 4, 0, 1)}
        mov x0, #0x300000
        msr cpacr_el1, x0
        mov x0, #0
        msr {sysreg(3, 5, 1, 0, 2)}, x0
        fmov d0, #1.0
        smc #0""")
    state = bench.state
    assert list(state.x[1:3]) == [0x1000, 0x2000]
    assert (state.elr_el1, state.elr_el2) == (0x2000, 0x1000)
    assert (state.cptr_el2, state.cpacr_el1) == (3 << 20, 0)


def sysreg(op0: int, op1: int, crn: int, crm: int, op2: int) -> str:
    """Return the name of a register that the assembler may not know."""
    return f"s{op0}_{op1}_c{crn}_c{crm}_{op2}"


def test_without_e2h_el12_is_undefined() -> None:
    """The names exist with E2H only."""
    bench = El2Bench()
    bench.run(f"mrs x0, {sysreg(3, 5, 4, 0, 1)}")
    assert (el2_vector(bench), el2_ec(bench)) == (0x200, EC_UNKNOWN)


@pytest.mark.parametrize("text", ["mrs x0, elr_el2", "mrs x0, hcr_el2", "msr tpidr_el2, x0"])
@pytest.mark.parametrize("mode", [EL1H, EL0T])
def test_lower_levels_have_no_registers_of_el2(text: str, mode: int) -> None:
    """UNDEFINED, at EL1's vector."""
    bench = El2Bench()
    bench.el1(mode)
    bench.run(text)
    assert el2_vector(bench) == 0x400  # the HVC of EL1's vector
    assert bench.state.esr_el1 >> 26 == EC_UNKNOWN


def test_el2_enters_el1_and_gets_an_hvc_back() -> None:
    """ERET to EL1 with its own stack; HVC to the vector of a lower level; the SPs are banked."""
    bench = El2Bench()
    bench.memory.write(DATA, assemble("mrs x1, CurrentEL\n mov x2, sp\n hvc #1"))
    bench.run(f"""
        mov x0, #{EL1H | MASKED}
        msr spsr_el2, x0
        mov x0, #{DATA & 0xFFFF0000}
        msr elr_el2, x0
        mov x0, #0x4000
        msr sp_el1, x0
        mov sp, x0
        add sp, sp, #64
        eret""")
    state = bench.state
    assert (el2_vector(bench), el2_ec(bench)) == (0x400, EC_HVC)
    assert list(state.x[1:3]) == [4, 0x4000]
    assert (state.sp_el1, state.sp_el2) == (0x4000, 0x4040)
    assert state.spsr_el2 & 0x1F == EL1H


def test_the_guest_of_el2_has_its_own_stage2() -> None:
    """An IPA elsewhere; what is not mapped is an abort at EL2 with the IPA."""
    bench = El2Bench(RW | VM)
    state = bench.state
    state.vtcr_el2, state.vttbr_el2 = VTCR_40, STAGE2_TABLES | 1 << 48
    bench.map_stage2(0x1000, CODE)
    bench.map_stage2(0x2000, DATA, AF | S2_READ | S2_WRITE | S2_NORMAL)
    bench.memory.write_u64(DATA, 77)
    bench.load("mov x1, #0x2000\n ldr x0, [x1]\n mov x1, #0x3000\n str x0, [x1]")
    bench.el1()
    state.pc = 0x1000
    bench.run()
    assert state.x[0] == 77
    assert (el2_vector(bench), el2_ec(bench)) == (0x400, EC_ABORT_LOWER)
    assert (state.far_el2, state.hpfar_el2, state.elr_el2) == (0x3000, 0x3000 >> 8, 0x100C)
    assert state.esr_el2 >> 24 & 1  # the syndrome is valid


@pytest.mark.parametrize("hcr", [RW, RW | E2H])
def test_el2_translates_by_its_own_tables(hcr: int) -> None:
    """Stage 1 of EL2 in both formats; EL1's registers do not matter."""
    bench = El2Bench(hcr)
    state = bench.state
    state.ttbr0_el2 = TABLES
    if hcr & E2H:
        state.tcr_el2 = TCR_48 | 1 << 23
    else:
        state.tcr_el2 = 16 | 5 << 16 | 1 << 31 | 1 << 23
    state.sctlr_el2 |= 1
    bench.map(CODE, CODE, AF)
    bench.map(EL2_VECTORS, EL2_VECTORS, AF)
    bench.map(0x4000_0000, DATA, AF | UXN)
    bench.memory.write_u64(DATA, 99)
    state.x[1] = 0x4000_0000
    bench.run("ldr x0, [x1]\n add x1, x1, #1, lsl #12\n ldr x2, [x1]")
    assert state.x[0] == 99
    assert (el2_vector(bench), el2_ec(bench)) == (0x200, EC_ABORT_SAME)
    assert state.far_el2 == 0x4000_1000


def test_execute_never_is_the_bit_of_el0_at_el2_alone() -> None:
    """Without E2H, bit 54 is XN."""
    bench = El2Bench()
    state = bench.state
    state.ttbr0_el2 = TABLES
    state.tcr_el2 = 16 | 5 << 16 | 1 << 31 | 1 << 23
    state.sctlr_el2 |= 1
    bench.map(CODE, CODE, AF | USER)  # bit 6 is RES1 and means nothing
    bench.map(EL2_VECTORS, EL2_VECTORS, AF)
    bench.map(0x4000_0000, DATA, AF | UXN)
    state.x[1] = 0x4000_0000
    bench.run("br x1")
    assert (el2_ec(bench), state.elr_el2) == (0x21, 0x4000_0000)


def test_with_tge_el0_belongs_to_el2() -> None:
    """SVC from EL0 comes to EL2, as from a lower level."""
    bench = El2Bench(RW | E2H | TGE)
    bench.el1(EL0T)
    bench.run("svc #2")
    assert (el2_vector(bench), el2_ec(bench)) == (0x400, EC_SVC)


def test_el2_traps_what_it_asks_for() -> None:
    """TVM and TSC; an SMC without TSC is an exit at EL1."""
    bench = El2Bench(RW | TVM | TSC)
    bench.el1()
    bench.run("msr ttbr0_el1, x0")
    assert (el2_vector(bench), el2_ec(bench)) == (0x400, EC_SYSREG)
    bench.el1()
    bench.run("smc #1")
    assert (el2_vector(bench), el2_ec(bench), bench.state.elr_el2) == (0x400, EC_SMC, CODE)
    bench.state.hcr_el2 = RW
    bench.el1()
    exit_ = bench.run("smc #1")
    assert (exit_.esr >> 26, bench.state.pc, bench.state.pstate & 0x1F) == (EC_SMC, CODE, EL1H)


def test_an_access_outside_dram_is_an_exit() -> None:
    """With the syndrome and the physical address, from EL2 and from EL1 under stage 2."""
    bench = El2Bench()
    bench.state.x[1] = UART
    exit_ = bench.run("strb w0, [x1, #8]")
    assert (exit_.reason, exit_.esr >> 26) == (ExitReason.SYNC, EC_ABORT_LOWER)
    assert (exit_.hpfar, exit_.far & (PAGE - 1)) == (UART >> 8, 8)
    assert exit_.esr >> 24 & 1
    assert bench.state.pc == CODE


def test_an_illegal_return_sets_il() -> None:
    """To EL1 with TGE: PSTATE.IL, and the next instruction is an illegal state."""
    bench = El2Bench(RW | E2H | TGE)
    bench.run(f"""
        mov x0, #{EL1H | MASKED}
        msr spsr_el2, x0
        adr x0, next
        msr elr_el2, x0
        eret
        next: nop""")
    assert (el2_vector(bench), el2_ec(bench)) == (0x200, 0x0E)


def test_address_translation_for_the_guest() -> None:
    """AT S12E1R: both stages; AT S1E1R: only the first; a fault of stage 2 is in PAR_EL1."""
    bench = El2Bench(RW | VM)
    state = bench.state
    state.vtcr_el2, state.vttbr_el2 = VTCR_40, STAGE2_TABLES
    bench.map_stage2(0x2000, DATA)
    bench.run("""
        mov x1, #0x2000
        at s12e1r, x1
        mrs x2, par_el1
        at s1e1r, x1
        mrs x3, par_el1
        mov x1, #0x3000
        at s12e1r, x1
        mrs x4, par_el1
        at s1e2r, x1
        mrs x5, par_el1
        smc #0""")
    address = 0xFFFF_FFFF_F000
    assert (state.x[2] & address, state.x[3] & address) == (DATA, 0x2000)
    assert state.x[4] & 1
    assert state.x[4] >> 9 & 1
    assert state.x[5] & address == 0x3000


def test_an_invalidation_by_ipa_is_seen_by_the_guest() -> None:
    """The guest's page moves; after TLBI IPAS2E1 the guest sees the new one."""
    bench = El2Bench(RW | VM)
    state = bench.state
    state.vtcr_el2, state.vttbr_el2 = VTCR_40, STAGE2_TABLES
    guest_code = DATA + 2 * PAGE
    bench.map_stage2(0x1000, guest_code)
    entry = bench.map_stage2(0x2000, DATA)
    bench.memory.write_u64(DATA, 1)
    bench.memory.write_u64(DATA + PAGE, 2)
    bench.load("mov x1, #0x2000\n ldr x0, [x1]\n hvc #0\n ldr x0, [x1]\n hvc #1", at=guest_code)
    bench.el1()
    state.pc = 0x1000
    bench.run()
    assert state.x[0] == 1
    guest = state.elr_el2
    bench.memory.write_u64(entry, bench.memory.read_u64(entry) + PAGE)
    bench.run("mov x2, #0x2\n tlbi ipas2e1is, x2\n dsb ish\n tlbi vmalle1\n eret")
    assert (state.x[0], state.elr_el2) == (2, guest + 8)


def test_timers_of_el2() -> None:
    """CNTHP and CNTHV; with E2H by EL1's names, and EL1's by _EL02."""
    bench = El2Bench(RW | E2H)
    bench.run(f"""
        mov x0, #1000
        msr cntp_cval_el0, x0
        mov x0, #2000
        msr {sysreg(3, 5, 14, 2, 2)}, x0
        mov x0, #3000
        msr cntv_cval_el0, x0
        smc #0""")
    state = bench.state
    assert (state.cnthp_cval, state.cntp_cval, state.cnthv_cval) == (1000, 2000, 3000)


PENDING, GROUP1 = 1 << 62, 1 << 60


@pytest.mark.parametrize(("hcr", "mode", "vector"), [
    (RW | IMO | FMO, EL2H, 0x280),
    (RW | E2H | TGE, EL2H, 0x280),
    (RW | E2H | TGE, EL0T, 0x480),
    (RW | IMO | FMO, EL1H, 0x480),
])  # fmt: skip
def test_a_physical_interrupt_goes_to_el2(hcr: int, mode: int, vector: int) -> None:
    """From EL1 even if it is masked there."""
    bench = El2Bench(hcr)
    state = bench.state
    state.pstate = mode | (MASKED if mode == EL1H else 0)
    state.icc_vmcr = 0xF0 << 24 | 2
    state.icc_lr[0] = PENDING | GROUP1 | 0x80 << 48 | 30
    bench.run("nop\n b #0", budget=100)
    assert el2_vector(bench) == vector
    bench.state.pstate = EL2H | MASKED
    bench.run(f"mrs x0, {sysreg(3, 0, 12, 12, 0)}\n smc #0")
    assert state.x[0] == 30


def test_a_virtual_interrupt_of_el2_goes_to_the_guest() -> None:
    """By ICH_LR0_EL2; the guest acknowledges it, and its end deactivates the physical one."""
    bench = El2Bench(RW | IMO | FMO)
    state = bench.state
    state.icc_vmcr = state.ich_vmcr = 0xF0 << 24 | 2
    state.icc_lr[0] = 1 << 63 | GROUP1 | 0x80 << 48 | 27  # the physical one is active
    bench.run(f"""
        mov x0, #1
        msr {sysreg(3, 4, 12, 11, 0)}, x0
        mov x0, #{0x80 << 48}
        orr x0, x0, #{PENDING}
        orr x0, x0, #{GROUP1}
        orr x0, x0, #{1 << 61}
        movk x0, #27, lsl #32
        movk x0, #27
        msr {sysreg(3, 4, 12, 12, 0)}, x0
        smc #0""")
    assert state.ich_hcr & 1
    assert state.ich_lr[0] >> 62 == 1
    state.pstate = EL1H
    bench.run("b #0", budget=100)
    assert state.pc == state.vbar_el1 + 0x280 or el2_vector(bench) == 0x400
    bench.el1()
    bench.run(f"mrs x0, {sysreg(3, 0, 12, 12, 0)}\n msr {sysreg(3, 0, 12, 12, 1)}, x0\n hvc #0")
    assert state.x[0] == 27
    assert (state.ich_lr[0] >> 62, state.icc_lr[0] >> 62) == (0, 0)
