"""Pointer authentication (FEAT_PAuth2, FEAT_FPACCOMBINE): codes, checks, traps, and without it."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from pyvmm.arch.sysregs import PAUTH_KEYS, Feature
from tests.core import pauth
from tests.core.pauth import Regime
from tests.core.system import (
    AF,
    ALL_FEATURES,
    CODE,
    DATA,
    EC_INSTRUCTION_ABORT,
    EC_SYSREG,
    SCTLR_ON,
    SCTLR_RES1,
    TCR_48,
    USER,
    Bench,
    ec,
    guest_ec,
    vector,
)

UNKNOWN, SVC, PAC_FAIL, PAUTH_TRAP = 0x00, 0x15, 0x1C, 0x09
ENABLES = 1 << 31 | 1 << 30 | 1 << 27 | 1 << 13  # EnIA, EnIB, EnDA, EnDB
HCR_APK, HCR_API = 1 << 40, 1 << 41
EL1H, EL0T = 0x3C5, 0
NAMES = ("ia", "ib", "da", "db")
CASES = 12

PACGA = 0x9AC0_3000
REGIMES = [
    Regime(sizes, tbi, tbid)
    for sizes in ((16, 16), (25, 16), (16, 39), (12, 45))
    for tbi in ((0, 0), (1, 0), (0, 1), (1, 1))
    for tbid in ((0, 0), (1, 1), (1, 0))
]


def test_the_model_is_siphash() -> None:
    """SipHash-2-4 by its paper's example; SipHash-1-3 by Python's own hash of bytes, key zero."""
    text = bytes(range(15))
    paper = pauth.siphash(bytes(range(16)), text, c_rounds=2, d_rounds=4)
    assert paper == 0xA129_CA61_49BE_45E5
    if sys.hash_info.algorithm != "siphash13":
        pytest.skip("this Python hashes by another algorithm")
    command = [sys.executable, "-c", "print(*(hash(bytes(range(n))) for n in (15, 16)))"]
    said = subprocess.check_output(command, env=os.environ | {"PYTHONHASHSEED": "0"}, text=True)
    expected = [int(word) & pauth.MASK64 for word in said.split()]
    assert expected == [
        pauth.siphash(bytes(16), bytes(range(n)), c_rounds=1, d_rounds=3) for n in (15, 16)
    ]


def pac(name: str, *, checks: bool, zero: bool = False, rd: int = 0, rn: int = 1) -> str:
    """Return PACxx, or AUTxx, of X0 by X1, as a word."""
    opcode = (8 if zero else 0) | (4 if checks else 0) | NAMES.index(name)
    return f".word {0xDAC1_0000 | opcode << 10 | (31 if zero else rn) << 5 | rd:#x}"


def xpac(*, data: bool) -> str:
    """Return XPACD X0 or XPACI X0."""
    return f".word {0xDAC1_43E0 | data << 10:#x}"


def make_bench(seed: int, features: Feature = ALL_FEATURES) -> Bench:
    """Return a bench with random keys, all of them enabled, and the MMU off."""
    bench = Bench(features=features)
    rng = random.Random(seed)
    for n in range(2 * len(PAUTH_KEYS)):
        bench.state.pauth_keys[n] = rng.getrandbits(64)
    bench.state.sctlr_el1 = SCTLR_RES1 | ENABLES
    return bench


@pytest.fixture
def bench(seed: int) -> Bench:
    """Return a bench with random keys, all of them enabled, and the MMU off."""
    return make_bench(seed)


def algorithm(bench: Bench, key: int) -> pauth.Algorithm:
    """Return the model's algorithm with a key of the bench."""
    return pauth.algorithm(bench.state.pauth_keys[2 * key], bench.state.pauth_keys[2 * key + 1])


def random_pointer(rng: random.Random) -> int:
    """Return a pointer of either half, canonical, tagged or neither."""
    pointer = rng.getrandbits(rng.choice((25, 39, 48, 52)))
    high = rng.randrange(2) * ((1 << 64) - (1 << rng.choice((39, 48, 55, 63))))
    tag = rng.choice((0, 0, rng.getrandbits(8))) << 56
    return (pointer | high) ^ tag


def execute(bench: Bench, x0: int, x1: int, *words: str) -> int:
    """Execute instructions on X0 and X1; return X0."""
    bench.state.pstate = EL1H
    bench.state.x[0], bench.state.x[1] = x0, x1
    bench.run("\n".join((*words, "hvc #99")))
    return int(bench.state.x[0])


@pytest.mark.parametrize("regime", REGIMES, ids=lambda r: f"{r.size_offset}-{r.tbi}-{r.tbid}")
def test_codes_are_where_the_manual_says(bench: Bench, seed: int, regime: Regime) -> None:
    """PAC, AUT and XPAC of random pointers, for each way to lay out a pointer."""
    bench.state.tcr_el1 = regime.tcr
    rng = random.Random(f"{seed} {regime}")
    for _ in range(CASES):
        key, pointer, modifier = rng.randrange(4), random_pointer(rng), rng.getrandbits(64)
        data, name, compute = key >= 2, NAMES[key], algorithm(bench, key)
        signed = regime.add(pointer, modifier, compute, data=data)
        plain = regime.strip(signed, data=data)
        assert execute(bench, pointer, modifier, pac(name, checks=False)) == signed
        assert execute(bench, signed, 0, xpac(data=data)) == plain
        if regime.is_good(signed, modifier, compute, data=data):
            assert execute(bench, signed, modifier, pac(name, checks=True)) == plain
            assert guest_ec(bench.state) != PAC_FAIL
        else:  # its extension bits were not those of its half
            assert regime.strip(pointer, data=data) != pointer
            assert execute(bench, signed, modifier, pac(name, checks=True)) == signed
            assert guest_ec(bench.state) == PAC_FAIL
        bench.state.esr_el1 = 0


@pytest.mark.parametrize("bit", [*range(48, 55), *range(56, 64)])
@pytest.mark.parametrize("key", range(4))
def test_each_bit_of_a_code_is_checked(bench: Bench, key: int, bit: int) -> None:
    """FEAT_FPAC: EC 0x1C says which kind of key and which key; nothing is written."""
    bench.state.tcr_el1 = TCR_48
    signed = execute(bench, DATA, 77, pac(NAMES[key], checks=False)) ^ 1 << bit
    bench.state.x[0] = signed
    bench.state.pstate = EL1H
    exit_ = bench.run(f"nop; {pac(NAMES[key], checks=True)}")
    assert vector(exit_) == 0x200
    assert bench.state.esr_el1 == PAC_FAIL << 26 | 1 << 25 | key
    assert (bench.state.elr_el1, bench.state.x[0]) == (CODE + 4, signed)


def test_another_key_modifier_or_pointer_has_another_code(bench: Bench) -> None:
    """All of them, and every bit of both halves of the key, are in the code."""
    bench.state.tcr_el1 = 39 | 39 << 16  # 30 bits of code and more
    plain = execute(bench, DATA, 1, pac("ia", checks=False))
    seen = {plain, execute(bench, DATA, 2, pac("ia", checks=False))}
    seen |= {execute(bench, DATA, 1, pac(name, checks=False)) for name in NAMES[1:]}
    seen.add(execute(bench, DATA + 4, 1, pac("ia", checks=False)))
    for half in (0, 1):
        for bit in range(64):
            bench.state.pauth_keys[half] ^= 1 << bit
            seen.add(execute(bench, DATA, 1, pac("ia", checks=False)))
            bench.state.pauth_keys[half] ^= 1 << bit
    assert len(seen) == 2 + 3 + 1 + 128


FIXED = {
    # hint: key, whether it checks, pointer, modifier (31: SP, None: zero)
    8: (0, False, 17, 16), 10: (1, False, 17, 16), 12: (0, True, 17, 16), 14: (1, True, 17, 16),
    24: (0, False, 30, None), 25: (0, False, 30, 31), 26: (1, False, 30, None),
    27: (1, False, 30, 31), 28: (0, True, 30, None), 29: (0, True, 30, 31),
    30: (1, True, 30, None), 31: (1, True, 30, 31),
}  # fmt: skip


@pytest.mark.parametrize("hint", FIXED)
def test_the_hint_space_has_them_on_fixed_registers(bench: Bench, hint: int) -> None:
    """PACIASP, AUTIB1716 and the like are PACIA and AUTIB of LR or X17."""
    key, checks, register, modifier = FIXED[hint]
    bench.state.tcr_el1 = TCR_48
    bench.state.sp_el1, bench.state.x[16] = 0x1110, 0x2220
    value = 0 if modifier is None else 0x1110 if modifier == 31 else 0x2220
    signed = pauth_of(bench, key, DATA, value)
    bench.state.x[register] = signed if checks else DATA
    bench.run(f"hint #{hint}; hvc #99")
    assert bench.state.x[register] == (DATA if checks else signed)
    assert bench.state.pc == CODE + 8


def pauth_of(bench: Bench, key: int, pointer: int, modifier: int) -> int:
    """Return what the model says of a pointer under TCR_48."""
    regime = Regime((16, 16), (0, 0), (0, 0))
    return regime.add(pointer, modifier, algorithm(bench, key), data=key >= 2)


@pytest.mark.parametrize("key", range(4))
def test_forms_without_modifier_take_zero(bench: Bench, key: int) -> None:
    """PACIZA X0 is PACIA X0, XZR; XPACLRI is XPACI X30."""
    bench.state.tcr_el1 = TCR_48
    signed = pauth_of(bench, key, DATA, 0)
    name = NAMES[key]
    assert execute(bench, DATA, 5, pac(name, checks=False, zero=True)) == signed
    assert execute(bench, signed, 5, pac(name, checks=True, zero=True)) == DATA
    bench.state.x[30] = signed
    execute(bench, 0, 0, "hint #7")
    assert bench.state.x[30] == DATA


def test_generic_code_is_the_upper_half(bench: Bench) -> None:
    """PACGA X0, X0, X1 and X0, XZR, SP; it has no enable."""
    bench.state.sctlr_el1 = SCTLR_RES1
    compute = algorithm(bench, 4)
    upper = 0xFFFF_FFFF << 32
    assert execute(bench, 5, 6, f".word {PACGA | 1 << 16:#x}") == compute(5, 6) & upper
    bench.state.sp_el1 = 0x40
    assert (
        execute(bench, 5, 6, f".word {PACGA | 31 << 16 | 31 << 5:#x}") == compute(0, 0x40) & upper
    )


# --- branches and loads ---------------------------------------------------------------------------

BRANCHES = {
    # word of the branch on X1 (modifier X2 or SP or zero), key, modifier, whether it links
    "braa": (0xD71F_0800 | 1 << 5 | 2, 0, 0x777, False),
    "brab sp": (0xD71F_0C00 | 1 << 5 | 31, 1, 0x1230, False),
    "braaz": (0xD61F_0800 | 1 << 5 | 31, 0, 0, False),
    "brabz": (0xD61F_0C00 | 1 << 5 | 31, 1, 0, False),
    "blraa": (0xD73F_0800 | 1 << 5 | 2, 0, 0x777, True),
    "blrab": (0xD73F_0C00 | 1 << 5 | 2, 1, 0x777, True),
    "blraaz": (0xD63F_0800 | 1 << 5 | 31, 0, 0, True),
    "blrabz": (0xD63F_0C00 | 1 << 5 | 31, 1, 0, True),
    "retaa": (0xD65F_0BFF, 0, 0x1230, False),
    "retab": (0xD65F_0FFF, 1, 0x1230, False),
}


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("target", [CODE + 0x40, CODE + 0x2040], ids=["near", "far"])
@pytest.mark.parametrize("is_good", [True, False])
def test_a_branch_checks_its_target(bench: Bench, name: str, target: int, is_good: bool) -> None:
    """It goes there, or raises with nothing done: LR is not linked."""
    word, key, modifier, links = BRANCHES[name]
    bench.state.tcr_el1 = TCR_48
    bench.state.sp_el1, bench.state.x[2], bench.state.x[30] = 0x1230, 0x777, 0x99
    register = 30 if name.startswith("ret") else 1
    bench.memory.write(target, bytes.fromhex("420080d2420c00d4"))  # mov x2, #2; hvc #0x62
    bench.state.x[register] = signed = pauth_of(bench, key, target, modifier) ^ (not is_good) << 50
    bench.run(f".word {word:#x}")
    if is_good:
        assert (bench.state.x[2], bench.state.pc) == (2, target + 8)
        assert bench.state.x[30] == (CODE + 4 if links else 0x99 if register == 1 else signed)
    else:
        assert bench.state.esr_el1 == PAC_FAIL << 26 | 1 << 25 | key
        assert (bench.state.elr_el1, bench.state.x[2]) == (CODE, 0x777)
        assert bench.state.x[30] == (0x99 if register == 1 else signed)


@pytest.mark.parametrize(("word", "key"), [(0xD69F_0BFF, 0), (0xD69F_0FFF, 1)])
@pytest.mark.parametrize("is_good", [True, False])
def test_an_exception_return_checks_its_target(
    bench: Bench, word: int, key: int, is_good: bool
) -> None:
    """ERETAA and ERETAB: ELR_EL1 by the stack pointer; ELR_EL1 itself stays."""
    bench.state.tcr_el1 = TCR_48
    bench.state.sp_el1 = 0x1230
    bench.memory.write(CODE + 0x80, bytes.fromhex("420c00d4"))  # hvc #0x62
    elr = pauth_of(bench, key, CODE + 0x80, 0x1230) ^ (not is_good) << 50
    bench.state.elr_el1, bench.state.spsr_el1 = elr, EL1H | 1 << 28
    bench.run(f".word {word:#x}")
    if is_good:
        assert (bench.state.elr_el1, bench.state.pc) == (elr, CODE + 0x84)
        assert bench.state.pstate == EL1H | 1 << 28
    else:
        assert bench.state.esr_el1 == PAC_FAIL << 26 | 1 << 25 | key


def test_an_exception_return_is_undefined_at_el0(bench: Bench) -> None:
    """Before the code is looked at."""
    bench.mmu_on()
    bench.state.sctlr_el1 |= ENABLES
    bench.map(CODE, CODE, AF | USER | 1 << 7)
    bench.state.pstate, bench.state.elr_el1 = EL0T, 1 << 60
    assert vector(bench.run(".word 0xd69f0bff")) == 0x400
    assert guest_ec(bench.state) == UNKNOWN


@pytest.mark.parametrize("key", [2, 3])
@pytest.mark.parametrize("writes_back", [False, True])
@pytest.mark.parametrize("offset", [0, 8, -8, 4088, -4096])
def test_a_load_checks_its_base(bench: Bench, key: int, writes_back: bool, offset: int) -> None:
    """LDRAA and LDRAB: modifier zero, a scaled offset, the base written back without its code."""
    bench.state.tcr_el1 = TCR_48
    imm10 = offset // 8 & 0x3FF
    word = 0xF820_0400 | (key - 2) << 23 | (imm10 >> 9) << 22 | (imm10 & 0x1FF) << 12
    word |= writes_back << 11 | 1 << 5
    bench.memory.write_u64(DATA + offset, 0x1122_3344_5566_7788)
    signed = pauth_of(bench, key, DATA, 0)
    bench.state.x[1] = signed
    bench.run(f".word {word:#x}; hvc #99")
    assert bench.state.x[0] == 0x1122_3344_5566_7788
    assert bench.state.x[1] == (DATA + offset if writes_back else signed)
    bench.state.x[0], bench.state.x[1] = 1, signed ^ 1 << 60
    bench.run()
    bench.state.pc = CODE
    bench.run()
    assert bench.state.esr_el1 == PAC_FAIL << 26 | 1 << 25 | key
    assert bench.state.x[0] == 1


def test_a_tag_of_an_instruction_address_may_count(bench: Bench) -> None:
    """TCR_EL1.TBID0: a tagged address is still one of data, but cannot be executed."""
    bench.mmu_on(TCR_48 | 1 << 37)
    bench.map(DATA, DATA, AF)
    tag = 0x5A << 56
    bench.memory.write(DATA, bytes.fromhex("620c00d4"))  # hvc #0x63
    bench.state.x[1] = DATA | tag
    assert bench.run("ldr x0, [x1]; br x1").esr & 0xFFFF == 0x63
    assert bench.state.pc == DATA + 4
    bench.state.tcr_el1 |= 1 << 51
    bench.state.x[1] = DATA | tag
    bench.run("ldr x0, [x1]; br x1")
    assert guest_ec(bench.state) == EC_INSTRUCTION_ABORT + 1
    assert bench.state.far_el1 == bench.state.elr_el1 == DATA | tag
    assert bench.translate(DATA | tag)[0] == 0
    assert bench.translate(DATA | tag, 2)[0] != 0


# --- controls -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", range(4))
def test_a_key_that_is_not_enabled_leaves_the_pointer(bench: Bench, key: int) -> None:
    """SCTLR_EL1.EnIA, EnIB, EnDA, EnDB, each for its own key; nothing traps then."""
    bit = (31, 30, 27, 13)[key]
    bench.state.sctlr_el1 = SCTLR_RES1 | ENABLES & ~(1 << bit)
    bench.state.hcr_el2 &= ~HCR_API
    for checks in (False, True):
        assert execute(bench, 0x55 << 56, 1, pac(NAMES[key], checks=checks)) == 0x55 << 56
        assert bench.state.pc == CODE + 8
    other = NAMES[key ^ 1]
    bench.state.pstate = EL1H
    assert ec(bench.run(pac(other, checks=False))) == PAUTH_TRAP


TRAPPED = [
    *(pac(name, checks=checks) for name in NAMES for checks in (False, True)),
    "hint #25", "hint #29", "hint #8", "hint #14",
    *(f".word {word:#x}" for word in (PACGA, 0xD69F_0BFF, 0xF820_0400)),
    *(f".word {word:#x}" for word, *_ in BRANCHES.values()),
]  # fmt: skip


@pytest.mark.parametrize("text", TRAPPED)
def test_el2_can_trap_pointer_authentication(bench: Bench, text: str) -> None:
    """HCR_EL2.API = 0: EC 0x09 at the instruction."""
    bench.state.hcr_el2 &= ~HCR_API
    exit_ = bench.run(f"nop; {text}")
    assert (exit_.esr, bench.state.pc) == (PAUTH_TRAP << 26 | 1 << 25, CODE + 4)


def test_stripping_is_never_trapped(bench: Bench) -> None:
    """XPACI, XPACD and XPACLRI use no key."""
    bench.state.hcr_el2 &= ~HCR_API
    bench.state.tcr_el1 = TCR_48
    assert execute(bench, DATA | 0x55 << 56, 0, xpac(data=True)) == DATA


def key_access(name: str, half: int, *, read: bool) -> str:
    """Return MRS X0 or MSR of a half of a key."""
    crm, op2 = PAUTH_KEYS[name]
    return f".word {0xD518_0000 | read << 21 | 2 << 12 | crm << 8 | op2 + half << 5:#x}"


@pytest.mark.parametrize("name", PAUTH_KEYS)
@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("read", [True, False])
def test_keys_are_registers_of_el1(bench: Bench, name: str, half: int, read: bool) -> None:
    """Stored where the instructions look; UNDEFINED at EL0; EL2 traps them by HCR_EL2.APK = 0."""
    index = 2 * list(PAUTH_KEYS).index(name) + half
    text = key_access(name, half, read=read)
    result = execute(bench, 0x123, 0, text)
    assert bench.state.pauth_keys[index] == result
    assert read == (result != 0x123)
    bench.state.hcr_el2 &= ~HCR_APK
    bench.state.pstate = EL1H
    exit_ = bench.run(text)
    assert (ec(exit_), exit_.esr & 1, bench.state.pc) == (EC_SYSREG, read, CODE)
    bench.mmu_on()
    bench.map(CODE, CODE, AF | USER | 1 << 7)
    bench.state.pstate = EL0T
    assert vector(bench.run(text)) == 0x400
    assert guest_ec(bench.state) == UNKNOWN


# --- a machine without it -------------------------------------------------------------------------

BOTH = [(one, other) for one in (False, True) for other in (False, True)]
ABSENT = [
    *(pac(name, checks=checks, zero=zero) for name in NAMES for checks, zero in BOTH),
    xpac(data=False), xpac(data=True),
    *(f".word {word:#x}" for word in (PACGA, 0xD69F_0BFF, 0xF820_0400)),
    *(f".word {word:#x}" for word, *_ in BRANCHES.values()),
    *(key_access(name, half, read=bool(read)) for name in PAUTH_KEYS for half, read in BOTH),
]  # fmt: skip


@pytest.mark.parametrize("text", ABSENT)
def test_without_the_feature_it_is_undefined(seed: int, text: str) -> None:
    """Every instruction and register, whatever EL2 would trap."""
    bench = make_bench(seed, Feature.BTI)
    bench.state.hcr_el2 &= ~(HCR_API | HCR_APK)
    assert vector(bench.run(text)) == 0x200
    assert (guest_ec(bench.state), bench.state.elr_el1) == (UNKNOWN, CODE)


@pytest.mark.parametrize("hint", [7, *FIXED])
def test_without_the_feature_hints_do_nothing(seed: int, hint: int) -> None:
    """The hint space is for programs that run anywhere."""
    bench = make_bench(seed, Feature.BTI)
    bench.state.x[17] = bench.state.x[30] = 0x55 << 56 | DATA
    bench.run(f"hint #{hint}; hvc #99")
    assert bench.state.x[17] == bench.state.x[30] == 0x55 << 56 | DATA
    assert bench.state.pc == CODE + 8


@pytest.mark.parametrize("has_it", [False, True])
def test_registers_say_whether_it_is_there(seed: int, has_it: bool) -> None:
    """ID_AA64ISAR1_EL1.API and GPI; the controls are RES0 without it."""
    bench = make_bench(seed, Feature.PAUTH if has_it else Feature(0))
    isar1 = execute(bench, 0, 0, "mrs x0, id_aa64isar1_el1")
    assert isar1 == bench.machine.id_register(3, 0, 0, 6, 1)
    assert (isar1 >> 8 & 15, isar1 >> 28 & 15) == ((5, 1) if has_it else (0, 0))
    assert isar1 >> 4 & 15 == isar1 >> 24 & 15 == 0  # APA, GPA
    bench.mmu_on()
    bench.state.sctlr_el1 = SCTLR_ON
    sctlr = execute(bench, SCTLR_ON | ENABLES, 0, "msr sctlr_el1, x0", "mrs x0, sctlr_el1")
    assert sctlr & ENABLES == (ENABLES if has_it else 0)
    tbid = 3 << 51
    tcr = execute(bench, TCR_48 | tbid, 0, "msr tcr_el1, x0", "mrs x0, tcr_el1")
    assert tcr == TCR_48 | (tbid if has_it else 0)
