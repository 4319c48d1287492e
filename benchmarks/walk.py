"""Translation: the cost of a TLB miss in C and in plain Python, and the cost of a hit.

A realm maps more pages than its PE can cache, each by its own page at stage 1 and at stage 2, and
reads a word from one after the other.  Every read misses both levels of the TLB and the stage-2
cache, so it takes four levels of stage 1, three of stage 2, and the granule protection check of the
result.  The time of the loop is included.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterator

from benchmarks import baremetal
from benchmarks.result import Result
from benchmarks.rmm import ENTRY, RAM, World, assemble, seconds
from pyvmm.arch.engine import Engine
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.core import PeContext
from pyvmm.host.realm import Realm
from tests.core.walk import Walker

PAGES = 8192  # the TLB's second level holds 4096, the stage-2 cache 2048
STRIDE = GRANULE_SIZE + 64  # so that the words do not all belong to one set of the host's caches
ROUNDS = 300
IN_PYTHON = 2000

TABLES = ENTRY + 0x1_0000
DATA = RAM + (64 << 20)
VA = 1 << 39  # entry 1 of the level 0 table
NUM_LEAVES = PAGES * STRIDE // GRANULE_SIZE // 512 + 2
TABLE, PAGE, BLOCK = 3, 3 | 1 << 10 | 3 << 8, 1 | 1 << 10 | 3 << 8
TCR = 16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 5 << 32

#: X0 rounds over the pages, after turning stage 1 on; then the realm turns itself off.
PROGRAM = f"""
    {baremetal.put("x5", 0xFF)}; msr mair_el1, x5
    {baremetal.put("x5", TCR)}; msr tcr_el1, x5
    {baremetal.put("x5", TABLES)}; msr ttbr0_el1, x5; isb
    {baremetal.put("x5", 0x30D0_0800 | baremetal.SCTLR_MMU_CACHES)}; msr sctlr_el1, x5; isb
    {baremetal.put("x4", STRIDE)}
    round: {baremetal.put("x1", VA)}; {baremetal.put("x2", PAGES)}
    again: ldr w3, [x1]; add x1, x1, x4; subs x2, x2, #1; b.ne again
    subs x0, x0, #1; b.ne round
    movz x0, #0x8400, lsl #16; movk x0, #8; smc #0
"""

#: Loads that hit.
LOADS = "ldr x2, [x1]; ldr x3, [x1, #8]; ldr x4, [x1, #16]; ldr x5, [x1, #24]; ldr x6, [x1, #32]\n"
LOADS += (
    "ldr x7, [x1, #40]; ldr x8, [x1, #48]; ldr x9, [x1, #56]; ldr x10, [x1, #64]; ldr x11, [x1]"
)
HITS = 10
LOADED = 30_000_000


def payload() -> bytes:
    """Return the program and its stage-1 tables, which map the program and the pages at VA."""
    level0, level1, of_va, level2, *leaves = (
        TABLES + n * GRANULE_SIZE for n in range(4 + NUM_LEAVES)
    )
    tables = [[0] * 512 for _ in range(4 + NUM_LEAVES)]
    tables[0][0], tables[0][1] = level1 | TABLE, of_va | TABLE
    tables[1][RAM >> 30] = RAM | BLOCK
    tables[2][0] = level2 | TABLE
    tables[3][: len(leaves)] = [leaf | TABLE for leaf in leaves]
    for n in range(NUM_LEAVES):
        tables[4 + n] = [DATA + (512 * n + k) * GRANULE_SIZE | PAGE for k in range(512)]
    assert level0 == TABLES
    code = assemble(PROGRAM).ljust(TABLES - ENTRY, b"\0")
    return code + b"".join(struct.pack("<512Q", *table) for table in tables)


class Misses:
    """A realm that has read its pages a number of times."""

    def __init__(self, rounds: int) -> None:
        self.world = World()
        self.guest: Realm = self.world.guest(payload(), rounds)
        self.guest.start()
        self.seconds = seconds(self.guest.wait)

    @property
    def context(self) -> PeContext:
        """The registers of its REC."""
        (rec,) = self.world.rmm.recs.values()
        return rec.context


def in_python(misses: Misses) -> float:
    """Return millions of walks per second in Python, of the same tables."""
    gpt = misses.world.monitor.gpt
    walker = Walker(misses.world.machine, gpt.base_pa, int(gpt.gpccr))
    vas = [VA + random.randrange(PAGES) * STRIDE for _ in range(IN_PYTHON)]
    context = misses.context
    start = time.process_time()
    faults = [va for va in vas if walker.translate(context, va)[0]]
    elapsed = time.process_time() - start
    assert not faults
    return IN_PYTHON / elapsed / 1e6


def hit() -> float:
    """Return the nanoseconds for a load whose page is in the TLB."""
    return (time_loop(LOADS) - time_loop("nop")) / LOADED * 1e9


def time_loop(body: str) -> float:
    """Return the seconds of CPU time for a loop body."""
    return min(
        seconds(lambda: baremetal.time_core(body, LOADED // HITS, Engine.INTERP)) for _ in range(5)
    )


def walk() -> Iterator[Result]:
    """Stage 1, stage 2 and granule protection: a TLB miss, the same in Python, a TLB hit."""
    few, many = Misses(1), Misses(1 + ROUNDS)
    rate = ROUNDS * PAGES / (many.seconds - few.seconds) / 1e6
    slow = in_python(few)
    for each in (few, many):
        each.guest.close()
    yield Result("walk: stage 1, 2, GPC", rate, "M/s", goal=5)
    yield Result("walk in Python", slow, "M/s")
    yield Result("TLB hit", hit(), "ns", goal=2)
