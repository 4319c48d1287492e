"""Invalidation by VA: the cost of invalidating a page or a block and using it again.

Each iteration does TLBI VAE1 of an address and a load from it.  The code is in the high half of the
VA space, in a block with 4 KiB granules; the address is in the low half, with the tested granule.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

from keystone import KS_ARCH_ARM64, KS_MODE_LITTLE_ENDIAN, Ks

from benchmarks.baremetal import NORMAL_BLOCK, RAM, RAM_SIZE, SCTLR_MMU_CACHES
from benchmarks.result import Result
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.pas import Pas
from pyvmm.core import Machine

TURNS = 500_000
CODE = RAM
HIGH_TABLE = RAM + 0x1_0000
LOW_TABLES = RAM + 0x10_0000
DATA = RAM + 0x80_0000
CODE_VA = 0xFFFF_FF80_0000_0000 | CODE  # the last 39 bits of the VA space
VA = 0x1234_4000_0000
TABLE, PAGE = 3, NORMAL_BLOCK | 3
TG0 = {12: 0, 14: 2, 16: 1}
TCR = 16 | 25 << 16 | 2 << 30 | 2 << 32 | 1 << 36

LOOP = """
    again: tlbi vae1, x3; dsb nsh; isb; ldr x2, [x1]
    subs x0, x0, #1; b.ne again
    hvc #0
"""
#: Name, log2 of the granule, level of the leaf, limit for an iteration (ns).
CASES = (
    ("tlbi-4k", 12, 3, 600),
    ("tlbi-16k", 14, 3, 800),
    ("tlbi-64k", 16, 3, 1500),
    ("tlbi-2m-block", 12, 2, 900),
    ("tlbi-32m-block", 14, 2, 900),
)


def map_leaf(machine: Machine, granule_bits: int, leaf_level: int) -> None:
    """Write the tables of the low half: one leaf, at VA."""
    memory, stride, table = machine.memory(Pas.NS), granule_bits - 3, LOW_TABLES
    for level in range(4 - -(-(48 - granule_bits) // stride), leaf_level + 1):
        shift = granule_bits + stride * (3 - level)
        below = table + (1 << granule_bits)
        page = PAGE if level == 3 else NORMAL_BLOCK
        leaf = DATA & -(1 << shift) | page
        entry = table + 8 * (VA >> shift & (1 << stride) - 1)
        memory.write_u64(entry, leaf if level == leaf_level else below | TABLE)
        table = below


def nanoseconds(granule_bits: int, leaf_level: int) -> float:
    """Return the nanoseconds per iteration."""
    machine = Machine(dram_base=RAM, dram_size=RAM_SIZE, num_pes=1)
    code, _ = Ks(KS_ARCH_ARM64, KS_MODE_LITTLE_ENDIAN).asm(LOOP)
    machine.memory(Pas.NS).write(CODE, bytes(code or b""))
    machine.memory(Pas.NS).write(HIGH_TABLE + 8, struct.pack("<Q", RAM | NORMAL_BLOCK))
    map_leaf(machine, granule_bits, leaf_level)
    context = machine.new_context()
    context.mair_el1, context.tcr_el1 = 0xFF, TCR | TG0[granule_bits] << 14
    context.ttbr0_el1, context.ttbr1_el1 = LOW_TABLES, HIGH_TABLE
    context.sctlr_el1 |= SCTLR_MMU_CACHES
    context.pc = CODE_VA
    context.x[0], context.x[1], context.x[3] = TURNS, VA, VA >> 12
    start = time.perf_counter()
    result = machine.pe(0).run(context, 1 << 62)
    elapsed = time.perf_counter() - start
    if result.reason != ExitReason.SYNC or result.esr >> 26 != 0x16:
        raise RuntimeError(f"the benchmark stopped at {context.pc:#x}, ESR {result.esr:#x}")
    return elapsed / TURNS * 1e9


def tlbi() -> Iterator[Result]:
    """TLBI by VA and a load, for each granule and for blocks."""
    for name, granule_bits, leaf_level, goal in CASES:
        best = min(nanoseconds(granule_bits, leaf_level) for _ in range(3))
        yield Result(name, best, "ns", goal=goal)
