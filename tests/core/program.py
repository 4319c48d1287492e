"""A guest program that executes thousands of one-instruction cases in one go, at EL0.

For each case it loads every register from a record, jumps to the case's slot, and stores every
register to an output record::

    slot:   ldp x29, x30, [x30, ...]     the last two registers of the record
            prefix                       a NOP, or the load exclusive before a store exclusive
            instruction
            b   done

so both engines run the same bytes, and a batch is compared by comparing memory. TPIDR_EL0 holds the
record's address before the case and X30 after it. PC is not observed: branches are stepped singly.
"""

from __future__ import annotations

import struct
from functools import cache

from keystone import KS_ARCH_ARM64, KS_MODE_LITTLE_ENDIAN, Ks

from tests.core.values import (
    FPCR_OFFSET,
    FPSR_OFFSET,
    NZCV_OFFSET,
    RECORD_SIZE,
    SLOT_OFFSET,
    SP_OFFSET,
    V_OFFSET,
)

MAX_CASES = 2048
SLOT_SIZE = 16
INSTRUCTION_OFFSET = 8

#: Virtual addresses; the slots reach the scratch window with a literal load (1 MiB).
BASE = 0x4000_0000
DRIVER = BASE
CURSOR = BASE + 0x1000  # input record of this case, and where the records end
SLOTS = BASE + 0x2000
SCRATCH = BASE + 0x1_0000
SCRATCH_SIZE = 0x3_0000
INPUT = BASE + 0x10_0000
OUTPUT = BASE + 0x30_0000
END = BASE + 0x50_0000

NOP = 0xD503201F
SPECIAL = (("nzcv", NZCV_OFFSET), ("fpcr", FPCR_OFFSET), ("fpsr", FPSR_OFFSET))


@cache
def assembler() -> Ks:
    """Return the assembler, made once."""
    return Ks(KS_ARCH_ARM64, KS_MODE_LITTLE_ENDIAN)


def assemble(text: str) -> bytes:
    """Assemble A64 text; plain numbers in PC-relative places count from its start."""
    code, _ = assembler().asm(text)
    return bytes(code or b"")


def enter_text() -> str:
    """Return the first half of the driver: load a record, go to its slot."""
    return "\n".join((
        "next:",
        f"ldr x30, {CURSOR - DRIVER:#x}; msr tpidr_el0, x30",
        *(f"ldr x0, [x30, #{offset}]; msr {name}, x0" for name, offset in SPECIAL),
        f"ldr x0, [x30, #{SP_OFFSET}]; mov sp, x0",
        *(f"ldp q{n}, q{n + 1}, [x30, #{V_OFFSET + 16 * n}]" for n in range(0, 32, 2)),
        *(f"ldp x{n}, x{n + 1}, [x30, #{8 * n}]" for n in range(0, 28, 2)),
        f"ldr x28, [x30, #{8 * 28}]; ldr x29, [x30, #{SLOT_OFFSET}]",
        "br x29",
    ))  # fmt: skip


def leave_text() -> str:
    """Return the second half: store the outcome, go to the next record or stop."""
    return "\n".join((
        f"msr tpidr_el0, x30; ldr x30, {CURSOR - DRIVER:#x}",
        f"add x30, x30, #{(OUTPUT - INPUT) >> 12:#x}, lsl #12",
        *(f"stp x{n}, x{n + 1}, [x30, #{8 * n}]" for n in range(0, 30, 2)),
        f"mrs x0, tpidr_el0; str x0, [x30, #{8 * 30}]; mov x0, sp; str x0, [x30, #{SP_OFFSET}]",
        *(f"mrs x0, {name}; str x0, [x30, #{offset}]" for name, offset in SPECIAL),
        *(f"stp q{n}, q{n + 1}, [x30, #{V_OFFSET + 16 * n}]" for n in range(0, 32, 2)),
        f"movz x2, #{CURSOR >> 16:#x}, lsl #16; movk x2, #{CURSOR & 0xFFFF:#x}",
        f"ldp x0, x1, [x2]; add x0, x0, #{RECORD_SIZE}; str x0, [x2]",
        "cmp x0, x1; b.ne next",
        "svc #0",
    ))  # fmt: skip


@cache
def driver() -> tuple[bytes, int, int]:
    """Return the driver's code, the address where slots return to and that of the final SVC."""
    enter = assemble(enter_text())
    code = assemble(f"{enter_text()}\n{leave_text()}")
    return code, DRIVER + len(enter), DRIVER + len(code) - 4


def branch(source: int, target: int) -> int:
    """Return the word of ``b target`` at ``source``."""
    return 0x14000000 | ((target - source) >> 2) & 0x03FF_FFFF


def slot_address(index: int) -> int:
    """Return where the case's slot begins."""
    return SLOTS + SLOT_SIZE * index


def instruction_address(index: int) -> int:
    """Return the PC at which the case's instruction executes."""
    return slot_address(index) + INSTRUCTION_OFFSET


def slots(instructions: list[tuple[int, int]]) -> bytes:
    """Return the slots of (prefix word, instruction word) cases."""
    enter = struct.unpack("<I", assemble(f"ldp x29, x30, [x30, #{8 * 29}]"))[0]
    _, done, _ = driver()
    words: list[int] = []
    for index, (prefix, instruction) in enumerate(instructions):
        words += (enter, prefix, instruction, branch(slot_address(index) + 12, done))
    return struct.pack(f"<{len(words)}I", *words)


def cursor(count: int) -> bytes:
    """Return the cursor for ``count`` records."""
    return struct.pack("<QQ", INPUT, INPUT + count * RECORD_SIZE)
