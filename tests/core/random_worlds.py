"""Machines that run a random program, and what their host changes between two slices of it.

Two PEs run one program in turn: they share its code, which both patch, and its data. The host
changes the tables of both stages, the GPT, the code and controls of the context, and it repairs
what a PE has left for, so that the program goes on.
"""

from __future__ import annotations

import random
import struct

from pyvmm.arch.engine import Engine
from pyvmm.arch.exits import ExitReason
from pyvmm.core import PeContext, PeExit
from pyvmm.core.machine import PeDebug
from tests.core.program import assemble
from tests.core.random_programs import ALIAS, CODE_SIZE, FUEL, HANDLER, OPERANDS, Program
from tests.core.system import (
    AF,
    BASE,
    CODE,
    DATA,
    EC_HVC,
    NG,
    NORMAL,
    PAGE,
    READ_ONLY,
    S2_NORMAL,
    S2_READ,
    S2_WRITE,
    SIZE,
    USER,
    UXN,
    VECTORS,
    Bench,
)
from tests.core.test_stage2 import GPI_ANY, GPI_REALM, Gpt

NUM_PES = 2
NUM_DATA_PAGES = 4  # read-write twice, read-only, not mapped
EL0_ALIAS = 1 << 32  # of the code, executable at EL0
WRITABLE_ALIAS = 1 << 33  # of the code, to be written
SECOND_ALIAS = 1 << 34  # of all that is executable
BLOCK_SIZE = 0x20_0000
DATA_PAGES = range(DATA - PAGE, DATA + NUM_DATA_PAGES * PAGE, PAGE)
CODE_PAGES = range(CODE, CODE + CODE_SIZE, PAGE)
STAGE2_PAGE = AF | S2_NORMAL | S2_READ | 3
ALIGNMENT_CHECK, SP_CHECKS, PAUTH_KEYS = 1 << 1, 3 << 3, 1 << 31 | 1 << 30 | 1 << 27 | 1 << 13
NO_FP = 3 << 20  # CPACR_EL1.FPEN
HCR_PAUTH = 3 << 40
HANDLED = (0x200, 0x400)  # vectors: an exception from EL1, from EL0
REWRITER = VECTORS + 0x800  # where no vector is
REWRITE = """
    all: mov x0, x25
    mov x2, #0x800
    again: ldr w1, [x0]
    str w1, [x0], #4
    subs x2, x2, #1
    b.ne again
    tlbi vmalle1is
    dsb ish
    b all
"""
FOR_EVER = 1 << 60  # instructions


class World:
    """A machine, a context for each PE, and the tables that its host changes."""

    def __init__(
        self,
        program: Program,
        contents: int,
        engine: Engine,
        threshold: int = 1,
        num_pes: int = NUM_PES,
    ) -> None:
        self.bench = Bench(num_pes=num_pes, engine=engine, threshold=threshold)
        self.memory = self.bench.memory
        self._rng = rng = random.Random(contents)
        self._gpt = Gpt(self.bench)
        self._stage2_tables = self._map_stage2()
        descriptor = self._map_stage1()
        for vector in HANDLED:
            self.memory.write(VECTORS + vector, assemble(HANDLER))
        code = struct.pack(f"<{len(program.code)}I", *program.code)
        self.memory.write(CODE, code.ljust(CODE_SIZE, b"\0"))
        self.memory.write(DATA, rng.randbytes(NUM_DATA_PAGES * PAGE))
        self._vocabulary = program.vocabulary
        self._patchable = program.patchable or [0]
        copies = [self.bench.machine.copy_context(self.bench.state) for _ in range(1, num_pes)]
        self.states: list[PeContext] = [self.bench.state, *copies]
        self._debugs: list[PeDebug] = [self.bench.machine.new_debug() for _ in self.states]
        for state in self.states:
            self._fill(state, descriptor)

    def _map_stage1(self) -> int:
        """Map code and data; return where the descriptor is that EL1 may change."""
        bench = self.bench
        bench.mmu_on()
        for page in CODE_PAGES:
            bench.map(page, page, AF | NORMAL | UXN)
            bench.map(SECOND_ALIAS + page, page, AF | NORMAL | UXN)
            bench.map(EL0_ALIAS + page, page, AF | NORMAL | USER)
            bench.map(SECOND_ALIAS + EL0_ALIAS + page, page, AF | NORMAL | USER)
            bench.map(WRITABLE_ALIAS + page, page, AF | NORMAL | USER | UXN)
        for page in DATA_PAGES[:-1]:
            access = READ_ONLY if page == DATA_PAGES[-2] else 0
            bench.map(page, page, AF | NORMAL | USER | UXN | access)
        bench.map(ALIAS - PAGE, DATA, AF | NG | NORMAL | USER | UXN)
        descriptor = bench.map(ALIAS, DATA + PAGE, AF | NG | NORMAL | USER | UXN)
        bench.map(descriptor & -PAGE, descriptor & -PAGE, AF | NORMAL | UXN)
        return descriptor

    def _map_stage2(self) -> dict[int, int]:
        """Map all memory to itself: blocks, but pages where code and data are."""
        bench = self.bench
        bench.stage2_on(identity=False)
        tables = {}
        for block in range(BASE, BASE + SIZE, BLOCK_SIZE):
            if block in {CODE, DATA}:
                tables[block] = bench.map_stage2(block, block)
                pages = range(block, block + BLOCK_SIZE, PAGE)
                leaves = (page | STAGE2_PAGE | S2_WRITE for page in pages)
                bench.write_words(tables[block], *leaves)
            else:
                bench.map_stage2(block, block, leaf_level=2)
        return tables

    def _fill(self, state: PeContext, descriptor: int) -> None:
        """Put random values into the registers of a context."""
        rng = self._rng
        state.pc = CODE
        state.hcr_el2 |= HCR_PAUTH
        for register in range(OPERANDS + 1):
            state.x[register] = rng.getrandbits(64) >> rng.randrange(64)
        state.x[25], state.x[26], state.x[27] = CODE + WRITABLE_ALIAS, descriptor, FUEL
        state.sp_el0 = state.sp_el1 = DATA + 0x700
        for half in range(64):
            state.v[half] = rng.getrandbits(64)
        for half in range(10):
            state.pauth_keys[half] = rng.getrandbits(64)

    # ---- running ----

    def run(self, pe: int, budget: int) -> PeExit:
        """Run a slice of a PE's program."""
        return self.bench.machine.pe(pe).run(self.states[pe], budget)

    def contents(self) -> bytes:
        """Return the memory that a program may change, and take back what was given away."""
        for page in (*CODE_PAGES, *DATA_PAGES):
            self._gpt.set(page, GPI_ANY)
        return self.memory.read(CODE, CODE_SIZE) + self.memory.read(DATA, NUM_DATA_PAGES * PAGE)

    def rewrite(self, pe: int) -> None:
        """Let a PE store the words of the code again and again until it is kicked."""
        self.memory.write(REWRITER, assemble(REWRITE))
        self.states[pe].pc = REWRITER
        self.bench.machine.pe(pe).run(self.states[pe], FOR_EVER)

    # ---- the host ----

    def _set_stage2(self, page: int, leaf: int) -> None:
        block = page & -BLOCK_SIZE
        if block in self._stage2_tables:
            self.memory.write_u64(self._stage2_tables[block] + (page - block) // PAGE * 8, leaf)
            self.bench.machine.tlbi_ipa(1, page, PAGE)

    def _set_debug(self, rng: random.Random, pe: int) -> None:
        """Let a debugger step once, or stop at an instruction."""
        debug = self._debugs[pe]
        debug.step = rng.randrange(2)
        debug.num_breakpoints = 1
        debug.breakpoints[0] = CODE + 4 * rng.choice(self._patchable)
        self.bench.machine.lend_debug(self.states[pe], debug)

    def _set_page(self, rng: random.Random) -> None:
        """Change the tables, for a page of code or data."""
        pages = rng.choice((DATA_PAGES[1:], CODE_PAGES))
        page = rng.choice(pages)
        match rng.randrange(4):
            case 0:
                self._gpt.set(page, GPI_REALM)
            case 1:
                self._set_stage2(page, 0)
            case 2:
                self._set_stage2(page, page | STAGE2_PAGE)  # read-only
            case _:
                self._set_stage2(page, rng.choice(pages) | STAGE2_PAGE | S2_WRITE)

    def change(self, rng: random.Random) -> None:
        """Change one thing at random."""
        pe = rng.randrange(len(self.states))
        state = self.states[pe]
        match rng.randrange(12):
            case 0:
                self.bench.machine.tlbi_vmid(1)
            case 1:
                state.sctlr_el1 ^= rng.choice((ALIGNMENT_CHECK, SP_CHECKS, PAUTH_KEYS))
            case 2:
                state.cpacr_el1 ^= NO_FP
            case 3:
                state.fpcr = rng.choice((0, 1 << 24, 1 << 25, rng.randrange(4) << 22))
            case 4:
                state.ttbr0_el1 ^= 1 << 48  # another ASID
            case 5:
                at = CODE + 4 * rng.choice(self._patchable)
                self._gpt.set(at & -PAGE, GPI_ANY)
                self.memory.write(at, struct.pack("<I", rng.choice(self._vocabulary)))
            case 6 if (state.pc & ~(EL0_ALIAS | SECOND_ALIAS)) // PAGE * PAGE in CODE_PAGES:
                state.pc ^= SECOND_ALIAS
            case 7:
                self._set_debug(rng, pe)
            case _:
                self._set_page(rng)

    def repair(self, pe: int, exit_: PeExit) -> bool:
        """Undo what a PE has left for; return whether its program goes on."""
        if exit_.reason == ExitReason.DEBUG:
            self.bench.machine.lend_debug(self.states[pe], None)
        if exit_.reason != ExitReason.SYNC:
            return True
        if exit_.esr >> 26 == EC_HVC:
            return False
        page = exit_.hpfar << 8 & -PAGE
        if page not in {*CODE_PAGES, *DATA_PAGES}:  # it wrote over what EL1 may map
            return False
        self._gpt.set(page, GPI_ANY)
        self._set_stage2(page, page | STAGE2_PAGE | S2_WRITE)
        return True
