"""Random guest programs: branches, loops, calls, accesses of every kind, faults, EL switches.

A program is blocks of random instructions on a few pages of code. Backward branches burn fuel
(X27), so it ends, with ``hvc #0x42``. It runs at EL1 and, through an alias of the same pages, at
EL0; SVC goes from one to the other. A return to the other's alias burns fuel and goes to the own;
every other exception skips its instruction. Several PEs may run one program: they share its code
and its data. Where it runs is ``random_worlds.py``.

=======  ===========================================================================
X0-X16   operands
X17-X19  the exception handlers' and what computed branches use
X20-X24  base addresses: near the end of pages, read-only, not mapped, an alias
X25      the first page of code, mapped to be written
X26      the descriptor of the alias, which EL1 may change
X27      fuel
=======  ===========================================================================
"""

from __future__ import annotations

import itertools
import random
import struct
from dataclasses import dataclass, field
from functools import cache

from pyvmm.core import decode
from pyvmm.core.generate import Row, encodings, load_rows
from tests.core import words
from tests.core.program import assemble
from tests.core.system import DATA, PAGE

NUM_CODE_PAGES = 3
CODE_SIZE = NUM_CODE_PAGES * PAGE
ALIAS = DATA + 0x10_0000  # of the second page of data, or of the first
FUEL = 200
END = 0xD400_0842  # hvc #0x42
SVC = 0xD400_0001
OPERANDS = 16
VOCABULARY = 4  # words of each row
BASES = range(20, 25)
SYSTEM = {"MRS", "MSR", "HINT", "CLREX", "DSB", "DMB", "ISB", "SB", "BTI"}
#: What memory holds depends on keys, which the interpreter and the translator share.
ROWS = encodings(load_rows())
#: Without sizes and registers: LDXR, LDAXR, LDAR, LDAPR, STXR, STLXR, STLR, CAS, SWP, LDADD...
ORDERED = (
    *(0x085F_7C00, 0x085F_FC00, 0x08DF_FC00, 0x38BF_C000),
    *(0x0800_7C00, 0x0800_FC00, 0x089F_FC00),
    *(0x08A0_7C00, 0x08E0_FC00, 0x3820_8000, 0x38E0_8000),
    *(0x3820_0000 | order << 22 | opc << 12 for opc in range(8) for order in (0, 3)),
)
#: With Rt: MRS of CNTVCT, CTR, DCZID, DAIF, TCR, NZCV; IC IVAU, DC CVAU.  Without: DAIFSet,
#: DAIFClr, DSB, SB.
READS = (0xD53B_E040, 0xD53B_0020, 0xD53B_00E0, 0xD53B_4220, 0xD538_2040, 0xD53B_4200)
MAINTENANCE = (0xD50B_7520, 0xD50B_7B20)
STATE_WORDS = (0xD503_42DF, 0xD503_42FF, 0xD503_3B9F, 0xD503_30FF)
#: Without their size and registers: LD1, ST1, LD2, ST4 and LD1R of bytes and words.
STRUCTURES = (0x0C40_7000, 0x0C00_7800, 0x0C40_8800, 0x0C00_0800, 0x0D40_C800)

HANDLER = """
    mrs x18, esr_el1
    lsr x18, x18, #26
    cmp x18, #0x15
    b.eq other_level
    bic x18, x18, #1
    cmp x18, #0x20
    mrs x18, elr_el1
    b.eq lost
    add x18, x18, #4
    msr elr_el1, x18
    eret
lost:
    eor x18, x18, #0x100000000
    msr elr_el1, x18
    subs x27, x27, #1
    b.le end
    eret
end:
    hvc #0x42
other_level:
    mrs x18, elr_el1
    eor x18, x18, #0x100000000
    msr elr_el1, x18
    mrs x18, spsr_el1
    mov x17, #5
    eor x18, x18, x17
    msr spsr_el1, x18
    eret
"""


def _runs_straight(row: Row) -> bool:
    return not (
        words.is_branch(row)
        or row.kind == "sys"
        or row.name in words.EXCLUDED
        or row.name in SYSTEM
        or words.is_memory(row.bits)
    )


@cache
def straight_words(seed: int) -> list[int]:
    """Return random words of data processing; general-purpose ones count more."""
    rng = random.Random(seed)
    rows = [row for row in ROWS if _runs_straight(row)]
    general = [row for row in rows if row.unit == "base"]
    found = []
    for row in (*rows, *general * (2 * len(rows) // len(general))):
        for word in itertools.islice(words.word_stream(rng, row), VOCABULARY):
            changed = word & ~0x1F | rng.randrange(OPERANDS)
            if row.matches(changed) and decode(changed) != "UNDEFINED":
                found.append(changed)
    return found


def move(rd: int, value: int) -> list[int]:
    """Return the words that put a constant into a register."""
    parts = [(shift, value >> 16 * shift & 0xFFFF) for shift in range(4)]
    movz, *movks = [part for part in parts if part[1]] or [(0, 0)]
    return [
        0xD280_0000 | movz[0] << 21 | movz[1] << 5 | rd,
        *(0xF280_0000 | shift << 21 | part << 5 | rd for shift, part in movks),
    ]


@dataclass
class Program:
    """The words of a program, page by page, and what it needs to be patched."""

    rng: random.Random
    vocabulary: list[int]
    patches_itself: bool = True
    code: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    fixups: list[tuple[int, int, str]] = field(default_factory=list)
    patchable: list[int] = field(default_factory=list)

    def word(self, word: int) -> None:
        """Append an instruction."""
        self.code.append(word)

    # ---- instructions ----

    def straight(self) -> int:
        """Return a data-processing instruction on operands."""
        return self.rng.choice(self.vocabulary)

    def access(self) -> int:
        """Return an access near one of the bases, of any size and alignment."""
        rng = self.rng
        rt, rt2 = rng.sample(range(OPERANDS), 2)
        base = rng.choice(BASES) << 5
        match rng.randrange(12):
            case 0 | 1 | 2 | 3 | 4:
                return self._single() | base | rt
            case 5 | 6 | 7:
                return self._pair() | rt2 << 10 | base | rt
            case 8 | 9:
                return rng.choice(ORDERED) | rng.randrange(4) << 30 | rt2 << 16 | base | rt
            case 10:
                return rng.choice(STRUCTURES) | rng.randrange(2) << 30 | base | rt
            case _:
                return 0xD50B_7420 | base >> 5  # dc zva

    def system(self) -> int:
        """Return an instruction on the state of the system that changes little of it."""
        rng = self.rng
        match rng.randrange(4):
            case 0 | 1:
                return rng.choice(READS) | rng.randrange(OPERANDS)
            case 2:
                return rng.choice(MAINTENANCE) | rng.choice(BASES)
            case _:
                return rng.choice(STATE_WORDS)

    def _single(self) -> int:
        """Return a load or store of one register, without its registers."""
        rng = self.rng
        size, opc, v = rng.randrange(4), rng.randrange(4), rng.randrange(4) == 0
        if v and opc > 1:
            size = 0
        if not v and ((size == 3 and opc > 1) or (size == 2 and opc == 3)):
            opc &= 1
        single = size << 30 | 0x3800_0000 | v << 26 | opc << 22
        match rng.randrange(5):
            case 0 | 1:
                return single | 0x0100_0000 | rng.randrange(4) << 10
            case 2:
                return single | rng.randrange(512) << 12  # unscaled
            case 3:
                offset = rng.choice((1, 8, 16, 500, 504, 511)) << 12
                return single | offset | rng.choice((0x400, 0xC00))
            case _:
                option = rng.choice((2, 3, 6, 7)) << 13
                return single | 0x0020_0800 | option | rng.randrange(2) << 12 | 16 << 16

    def _pair(self) -> int:
        """Return a load or store of two registers, without its registers."""
        rng = self.rng
        v = rng.randrange(4) == 0
        opc = rng.randrange(3) if v else rng.choice((0, 1, 2))
        load = 1 if opc == 1 and not v else rng.randrange(2)  # ldpsw
        kind = rng.choice((0x2900_0000, 0x2900_0000, 0x2880_0000, 0x2980_0000))
        imm7 = rng.choice((0, 0, 1, 2, 126, 127)) << 15
        return opc << 30 | kind | v << 26 | load << 22 | imm7

    def rebase(self) -> None:
        """Put an address into one of the bases."""
        register = self.rng.choice(BASES)
        near = self.rng.choice(
            (DATA, DATA + PAGE, DATA + 2 * PAGE, DATA + 3 * PAGE, ALIAS, DATA + 0x900)
        )
        self.code += move(register, near + self.rng.randrange(-40, 40))

    def patch(self) -> None:
        """Store another instruction over one that may be replaced."""
        if self.patches_itself and self.patchable:
            at = self.rng.choice(self.patchable)
            self.code += move(15, self.straight())
            self.word(0xB900_0000 | at % 1024 << 10 | 25 << 5 | 15)  # str w15, [x25, ...]

    def remap(self) -> None:
        """Give the alias another page, as far as EL1 may."""
        self.code += struct.unpack(
            "<7I",
            assemble(
                "ldr x14, [x26]; eor x14, x14, #0x1000; str x14, [x26]; dsb ish;"
                " tlbi vmalle1; dsb ish; isb"
            ),
        )

    def filler(self) -> None:
        """Append one random thing that is no branch."""
        match self.rng.randrange(40):
            case 0 | 1:
                self.rebase()
            case 2:
                self.patch()
            case 3:
                self.remap()
            case 4:
                self.word(0x1200_1000 | 16 << 5 | 16)  # and w16, w16, #0x1f
            case 5:
                self.word(SVC)
            case 6:
                self.word(self.system())
            case n if n < 18:
                self.word(self.access())
            case _:
                if len(self.code) < PAGE // 4:  # within reach of one STR
                    self.patchable.append(len(self.code))
                self.word(self.straight())

    # ---- branches ----

    def branch(self, word: int, block: int, kind: str) -> None:
        """Append a branch to the start of a block."""
        self.fixups.append((len(self.code), block, kind))
        self.word(word)

    def end_block(self, index: int, count: int, functions: list[int]) -> None:
        """Append how a block ends."""
        rng = self.rng
        ahead = rng.randrange(index + 1, count + 1)
        match rng.randrange(9):
            case 0 | 1:
                self.branch(0x5400_0000 | rng.randrange(16), ahead, "imm19")
            case 2:
                self.branch(
                    rng.choice((0x34, 0x35, 0xB4, 0xB5)) << 24 | rng.randrange(16), ahead, "imm19"
                )
            case 3:
                bit = rng.randrange(64)
                word = 0x3600_0000 | rng.randrange(2) << 24 | bit >> 5 << 31 | (bit & 31) << 19
                self.branch(word | rng.randrange(16), ahead, "imm14")
            case 4 | 5:
                self.word(0xF100_077B)  # subs x27, x27, #1
                self.branch(
                    0x5400_000C, rng.randrange(max(0, index - 3), index + 1), "imm19"
                )  # b.gt
            case 6:
                self.branch(0x9400_0000, rng.choice(functions), "imm26")  # bl
            case 7:
                self.branch(0x1000_0011, rng.choice(functions), "adr")  # adr x17
                self.word(0xD63F_0220)  # blr x17
            case _:
                self.branch(0x1000_0011, ahead, "adr")
                self.word(0xD61F_0220)  # br x17

    def fix(self) -> None:
        """Fill in the distances of branches."""
        for at, block, kind in self.fixups:
            distance = self.starts[block] - at
            self.code[at] |= {
                "imm14": (distance & 0x3FFF) << 5,
                "imm19": (distance & 0x7FFFF) << 5,
                "imm26": distance & 0x3FF_FFFF,
                "adr": (distance & 0x7FFFF) << 5,
            }[kind]


def make_program(
    rng: random.Random, vocabulary: list[int], *, patches_itself: bool = True
) -> Program:
    """Return a random program of at most CODE_SIZE bytes."""
    program = Program(rng, vocabulary, patches_itself)
    num_blocks, num_functions = rng.randrange(3, 24), 4
    functions = [num_blocks + 1 + k for k in range(num_functions)]
    for base in (DATA + 0xFF8, DATA + 0x1FF0, DATA + 0x2FF8, ALIAS + 8, DATA + 0x800):
        program.code += move(20 + len(program.starts), base)
        program.starts.append(0)
    program.starts.clear()
    for index in range(num_blocks):
        program.starts.append(len(program.code))
        for _ in range(rng.randrange(1, 10)):
            program.filler()
        program.end_block(index, num_blocks, functions)
    program.starts.append(len(program.code))
    for word in (END, SVC, 0x17FF_FFFE):  # at EL0 first go to EL1
        program.word(word)
    for _ in functions:
        if rng.randrange(2):  # on another page
            program.code += [END] * (-len(program.code) % (PAGE // 4))
        program.starts.append(len(program.code))
        for _ in range(rng.randrange(1, 8)):
            program.filler()
        program.word(0xD65F_03C0)  # ret
    program.fix()
    return program
