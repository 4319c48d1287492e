"""Random words of a decode row, with the register values that keep them inside the scratch window.

What a case needs is told by the encoding itself (the Arm ARM's "Loads and Stores" table), not by
the row's name, so a new row is fuzzed without a word here.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from pyvmm.core.generate import Row
from tests.core import program
from tests.core.values import RECORD_SIZE

#: Rows that no EL0 case can show, with the reason.  Each has its own test elsewhere.
EXCLUDED = {
    "ERET": "UNDEFINED at EL0: asm/eret.s",
    "ERETA": "UNDEFINED at EL0: test_pauth.py",
    "PACGA": "the algorithm is our own: test_pauth.py",
    "XPAC": "QEMU strips nothing while no key is enabled: test_pauth.py",
    "XPACLRI": "QEMU strips nothing while no key is enabled: test_pauth.py",
    "SVC": "traps: asm/svc.s",
    "HVC": "UNDEFINED at EL0: asm/hvc.s",
    "SMC": "UNDEFINED at EL0: asm/smc.s",
    "BRK": "traps: asm/brk.s",
    "MSR_imm": "traps at EL0, but for fields that QEMU's model lacks: asm/msr_imm.s",
    "SYS": "cache, TLB and address translation, whose traps Unicorn does not model: asm/dc_zva.s",
    "SYSL": "no SYSL instruction is advertised: asm/sysl.s",
}

#: System registers that EL0 may use in both engines: (o0, op1, CRn, CRm, op2).
NZCV = (1, 3, 4, 2, 0)
FPCR = (1, 3, 4, 4, 0)
FPSR = (1, 3, 4, 4, 1)
TPIDR_EL0 = (1, 3, 13, 0, 2)
SYSTEM_REGISTERS = {"MRS": (NZCV, FPCR, FPSR, TPIDR_EL0), "MSR": (NZCV, TPIDR_EL0)}
#: HINT #imm that cannot run: WFE and WFI wait.
HINTS_NOT_RUN = {2, 3}

#: "Should be" bits that we ignore and QEMU takes for another encoding: row to (mask, value).
SHOULD_BE = {"CFINV": (0xF00, 0), "LDAPR": (31 << 16, 31 << 16)}

WINDOW = program.SCRATCH + program.SCRATCH_SIZE // 2
BRANCH_ZONE = 0x6000  # bytes around a branch that its target may lie in: TBZ reaches 32 KiB


@dataclass
class Case:
    """One instruction to execute: the word, what runs before it, and register values it needs."""

    word: int
    prefix: int = program.NOP
    registers: dict[int, int] = field(default_factory=dict)
    """General register number (31 = SP) to value."""


def bits(word: int, lsb: int, width: int) -> int:
    """Return a bit field of a word."""
    return word >> lsb & ((1 << width) - 1)


def is_authenticated_load(word: int) -> bool:
    """Tell whether the word is LDRAA or LDRAB."""
    return is_single(word, indexed=True) and bits(word, 10, 1) == 1


def is_branch(row: Row) -> bool:
    """Tell whether the row is of the Branches, Exception and System class and changes the PC."""
    return row.kind in {"branch", "indirect"}


def is_memory(word: int) -> bool:
    """Tell whether the word is of the Loads and Stores class."""
    return bits(word, 25, 4) & 0b0101 == 0b0100


def is_literal(word: int) -> bool:
    """Tell whether the word is a load (literal) or a prefetch (literal)."""
    return bits(word, 27, 3) == 0b011 and bits(word, 24, 2) == 0b00


def is_exclusive(word: int) -> bool:
    """Tell whether the word is a load or store exclusive, ordered, or compare and swap."""
    return bits(word, 24, 6) == 0b001000


def is_compare_and_swap(word: int) -> bool:
    """Tell whether the word is CAS, which shares the class of the exclusives."""
    return is_exclusive(word) and bits(word, 23, 1) == bits(word, 21, 1) == 1


def is_compare_and_swap_pair(word: int) -> bool:
    """Tell whether the word is CASP, which shares the class of the exclusives."""
    return (
        is_exclusive(word)
        and bits(word, 31, 1) == bits(word, 23, 1) == 0
        and bits(word, 21, 1) == 1
    )


def is_pair(word: int) -> bool:
    """Tell whether the word loads or stores a pair (not exclusive)."""
    return bits(word, 27, 3) == 0b101


def is_single(word: int, *, indexed: bool) -> bool:
    """Tell whether the word is a single load or store: register offset or atomic, or imm9."""
    return bits(word, 27, 3) == 0b111 and bits(word, 24, 2) == 0 and bits(word, 21, 1) == indexed


def is_register_offset(word: int) -> bool:
    """Tell whether the address is a base plus an extended register."""
    return is_single(word, indexed=True) and bits(word, 10, 2) == 0b10


def needs_alignment(word: int) -> bool:
    """Tell whether an unaligned address faults whatever SCTLR says: exclusive, ordered, atomic."""
    atomic = is_single(word, indexed=True) and bits(word, 10, 2) == 0
    ordered_unscaled = bits(word, 24, 6) == 0b011001
    return is_exclusive(word) or atomic or ordered_unscaled


def is_store(word: int) -> bool:
    """Tell whether a load or store stores; an atomic or a compare and swap does."""
    kind, opc = bits(word, 27, 3), bits(word, 22, 2)
    if is_literal(word) or is_authenticated_load(word):
        return False
    if is_single(word, indexed=True) and bits(word, 10, 2) == 0:
        return bits(word, 12, 4) != 0b1100  # LDAPR
    if is_compare_and_swap_pair(word) or is_compare_and_swap(word):
        return True
    if kind == 0b111:
        return opc & 1 == 0 if bits(word, 26, 1) else opc == 0
    return opc & 1 == 0


def is_unpredictable(word: int) -> bool:
    """Tell whether a register overlap is CONSTRAINED UNPREDICTABLE, or breaks the window."""
    rt, rn, rt2, rs = bits(word, 0, 5), bits(word, 5, 5), bits(word, 10, 5), bits(word, 16, 5)
    vector, load = bits(word, 26, 1) == 1, bits(word, 22, 1) == 1
    if is_exclusive(word):
        if bits(word, 23, 1) or is_compare_and_swap_pair(word):
            return False
        pair = bits(word, 21, 1) == 1
        return pair and rt == rt2 if load else rs in {rt, rn, rt2 if pair else rt}
    if is_pair(word):
        writeback = bits(word, 23, 1) and not vector and rn != 31
        return bool((load and rt == rt2) or (writeback and rn in {rt, rt2}))
    if is_single(word, indexed=False) and bits(word, 10, 1):
        return not vector and rn != 31 and rn == rt
    if is_authenticated_load(word):
        return bits(word, 11, 1) == 1 and rn != 31 and rn == rt
    return is_register_offset(word) and rs == rn


def is_narrow_signed_extreme(word: int) -> bool:
    """Tell whether the word is LDSMAX or LDSMIN of less than 64 bits: QEMU 5 compares unsigned.

    The tests in asm/ldsm*.s stand in.
    """
    atomic = is_single(word, indexed=True) and bits(word, 10, 2) == 0 and not bits(word, 26, 1)
    return atomic and bits(word, 12, 4) in {0b0100, 0b0101} and bits(word, 30, 2) != 3


def field_values(rng: random.Random, name: str, width: int) -> list[int]:
    """Return values of an encoding field to choose from, its ends more often than the rest."""
    if name.startswith("R") and width == 5:
        return [*range(32), *[31] * 12, *[0] * 4]
    top = (1 << width) - 1
    values = range(top + 1) if width <= 7 else [rng.getrandbits(width) for _ in range(512)]
    return [*values, *[0, 1, top, 1 << (width - 1)] * (len(values) // 16)]


def word_stream(rng: random.Random, row: Row) -> Iterator[int]:
    """Yield random words of a row for ever."""
    while True:
        yield from random_words(rng, row, 1024)


def random_words(rng: random.Random, row: Row, count: int) -> list[int]:
    """Return ``count`` random words of a row."""
    mask, value = SHOULD_BE.get(row.name, (0, 0))
    ignored = 0xFFFF_FFFF & ~row.mask & ~mask
    columns = []
    for name, (lsb, width) in row.fields.items():
        shifted = [field << lsb for field in field_values(rng, name, width)]
        ignored &= ~(((1 << width) - 1) << lsb)
        columns.append(rng.choices(shifted, k=count))
    columns.append([rng.getrandbits(32) & ignored | row.bits for _ in range(count)])
    return [sum(parts) & ~mask | value for parts in zip(*columns, strict=True)]


def with_system_register(rng: random.Random, row: Row, word: int) -> int:
    """Return the MRS or MSR word with a system register that EL0 may use."""
    for name, value in zip(
        ("o0", "op1", "CRn", "CRm", "op2"), rng.choice(SYSTEM_REGISTERS[row.name]), strict=True
    ):
        lsb, width = row.fields[name]
        word = word & ~(((1 << width) - 1) << lsb) | value << lsb
    return word


def base_address(rng: random.Random, word: int) -> int:
    """Return an address in the middle of the scratch window, as aligned as the word needs."""
    offset = rng.choice((0, 16 * rng.randrange(256), 4096 - rng.randrange(40), rng.randrange(4096)))
    return WINDOW + (offset & ~15 if needs_alignment(word) else offset)


def index_value(rng: random.Random, word: int) -> int:
    """Return an offset register that stays in the window, junk above bit 31 where it is ignored."""
    extend = bits(word, 13, 3)
    value = rng.randrange(2040)
    if extend & 0b100 or extend == 0b011:
        value = rng.choice((value, -value))
    if not extend & 1:
        value = value & 0xFFFF_FFFF | rng.getrandbits(32) << 32
    return value & 0xFFFF_FFFF_FFFF_FFFF


def exclusive_prefix(rng: random.Random, word: int) -> int:
    """Return the load exclusive that lets a store exclusive succeed, or a NOP one time in four."""
    store = is_exclusive(word) and not bits(word, 23, 1) and not bits(word, 22, 1)
    if not store or is_compare_and_swap_pair(word) or rng.randrange(4) == 0:
        return program.NOP
    rn = bits(word, 5, 5)
    rt, rt2 = rng.sample([n for n in range(31) if n != rn], 2)
    load = word & ~(31 << 16 | 31 << 10 | 31) | 1 << 22 | 31 << 16 | rt
    return load | (rt2 if bits(word, 21, 1) else 31) << 10


def memory_case(rng: random.Random, word: int, pc: int) -> Case:
    """Return the case of a load or store with its addresses in the window."""
    if is_literal(word):
        distance = (WINDOW + 4 * rng.randrange(1024) - pc) >> 2
        return Case(word & ~(0x7FFFF << 5) | (distance & 0x7FFFF) << 5)
    if bits(word, 24, 6) == 0b011001:  # unscaled and ordered: keep the sum aligned
        word &= ~(15 << 12)
    case = Case(word, exclusive_prefix(rng, word))
    case.registers[bits(word, 5, 5)] = base_address(rng, word)
    if is_register_offset(word) and bits(word, 16, 5) != 31:
        case.registers[bits(word, 16, 5)] = index_value(rng, word)
    return case


def case_of(rng: random.Random, row: Row, word: int, pc: int) -> Case | None:
    """Return the case that executes a word at ``pc``, or None if it cannot be run."""
    if row.name in SYSTEM_REGISTERS:
        word = with_system_register(rng, row, word)
    if row.name == "HINT" and bits(word, 5, 7) in HINTS_NOT_RUN:
        return None
    if not is_memory(word):
        return Case(word)
    if is_unpredictable(word) or is_narrow_signed_extreme(word):
        return None
    return memory_case(rng, word, pc)


def register_files(records: bytes, cases: list[Case]) -> bytearray:
    """Return a register file for each case: the given ones, but for the registers it needs."""
    files = bytearray(records[: len(cases) * RECORD_SIZE])
    for index, case in enumerate(cases):
        for register, value in case.registers.items():
            struct.pack_into("<Q", files, index * RECORD_SIZE + 8 * register, value)
    return files


def branch_case(rng: random.Random, row: Row, word: int, pc: int) -> Case:
    """Return the branch at ``pc`` with a target near it."""
    target = rng.choice(
        (-1, 1, rng.randrange(1, BRANCH_ZONE // 4), -rng.randrange(1, BRANCH_ZONE // 4))
    )
    for name in ("imm26", "imm19", "imm14"):
        if name in row.fields:
            lsb, width = row.fields[name]
            mask = (1 << width) - 1
            return Case(word & ~(mask << lsb) | (target & mask) << lsb)
    return Case(word, registers={bits(word, 5, 5): pc + 4 * target})


def shadowed_by(row: Row, rows: list[Row]) -> list[Row]:
    """Return the rows that are tried before this one and overlap it."""
    ahead = rows[: rows.index(row)]
    return [other for other in ahead if other.overlaps(row)]
