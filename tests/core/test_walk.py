"""Random tables: C and the walker in Python translate every address alike, or fault alike."""

from __future__ import annotations

import random

import pytest

from pyvmm.arch.pas import Pas
from tests.core.system import (
    AF,
    BASE,
    DATA,
    HCR_VM,
    MAIR,
    PAGE,
    SCTLR_ON,
    STAGE2_TABLES,
    TABLES,
    TCR_48,
    VTCR_40,
    Bench,
)
from tests.core.test_stage2 import GPCCR, GPI_ANY, GPI_NS, GPI_REALM, Gpt
from tests.core.walk import ACCESS_FLAG, GPF, GPF_WALK, TRANSLATION, Walker

NUM_TABLES = 6  # a level
INDEXES = (0, 1, 2, 511)  # the entries that are in use
NS = 1 << 55


def pool(level: int, root: int) -> list[int]:
    """List the tables of a level."""
    start = root + level * NUM_TABLES * PAGE
    return [start + n * PAGE for n in range(NUM_TABLES)]


class Tables:
    """A bench whose tables hold anything, but mostly what leads on."""

    def __init__(self, seed: int, pas: Pas) -> None:
        self.rng = random.Random(seed)
        self.bench = Bench(pas)
        self.gpt = Gpt(self.bench)
        for root in (TABLES, STAGE2_TABLES):
            for level in range(4):
                for table in pool(level, root):
                    for index in INDEXES:
                        self.bench.memory.write_u64(table + 8 * index, self.entry(level, root))
        state = self.bench.state
        state.sctlr_el1, state.tcr_el1, state.mair_el1 = SCTLR_ON, TCR_48, MAIR
        state.ttbr0_el1, state.ttbr1_el1 = pool(0, TABLES)[0], pool(0, TABLES)[1]
        state.vtcr_el2, state.vttbr_el2 = VTCR_40, pool(1, STAGE2_TABLES)[0] | 1 << 48
        self.walker = Walker(self.bench.machine, Gpt.L0, GPCCR)
        self.own = GPI_REALM if pas is Pas.REALM else GPI_NS

    def entry(self, level: int, root: int) -> int:
        """Return a descriptor."""
        rng, is_stage2 = self.rng, root == STAGE2_TABLES
        kind = rng.randrange(10)
        if kind == 0:
            return rng.getrandbits(64) & ~0x0000_FFFF_F000_0000 | BASE
        if level < 3 and kind < 7:
            return rng.choice(pool(level + 1, root)) | 3
        attributes = AF if rng.randrange(8) else 0
        if is_stage2:
            attributes |= 0xF << 2 | rng.choice((3, 3, 3, 1, 2)) << 6 | rng.choice((0, 0, NS))
        return self.address(level) | attributes | (3 if level == 3 else 1)

    def address(self, level: int) -> int:
        """Return what a leaf maps: mostly tables and data, so that translations nest."""
        if level < 3:
            return BASE
        tables = pool(self.rng.randrange(4), TABLES)
        return self.rng.choice((DATA, DATA, *tables, 0x900_0000))

    def identity(self, root: int) -> None:
        """Let stage 2 map the gigabyte of DRAM to itself, so that a walk of stage 1 gets far."""
        first = pool(1, root)[0] + 8 * (BASE >> 30)
        self.bench.memory.write_u64(first, BASE | AF | 3 << 6 | 0xF << 2 | 1)

    def va(self) -> int:
        """Return an address that uses those entries."""
        choice = self.rng.choice
        va = sum(choice(INDEXES) << shift for shift in (39, 30, 21, 12)) | self.rng.randrange(PAGE)
        return va | 0xFFFF << 48 if va >> 47 or choice((False, True)) else va

    def give_away(self) -> None:
        """Let a granule be another's; translations through it as a table are forgotten, too."""
        pas = [*pool(self.rng.randrange(4), TABLES), *pool(1, STAGE2_TABLES), DATA]
        others = (GPI_ANY, self.own, self.own, GPI_REALM, GPI_NS)
        self.gpt.set(self.rng.choice(pas), self.rng.choice(others))
        self.bench.machine.tlbi_vmid(1)


@pytest.mark.parametrize("pas", [Pas.NS, Pas.REALM])
def test_walks_in_c_and_in_python_agree(seed: int, pas: Pas) -> None:
    """Fault status, who is told, PA and PAS, whatever the tables say."""
    seen = set()
    for turn in range(24):
        tables = Tables(seed + turn, pas)
        state, pe = tables.bench.state, tables.bench.machine.pe(0)
        state.hcr_el2 |= HCR_VM if turn % 3 else 0
        if turn % 3 == 2:
            tables.identity(STAGE2_TABLES)
        for _ in range(200):
            if tables.rng.randrange(8) == 0:
                tables.give_away()
            va = tables.va()
            fault, pa, result_pas, is_stage2 = pe.translate(state, va)
            found = (fault, 0, Pas.SECURE, is_stage2) if fault else (0, pa, result_pas, False)
            assert found == tables.walker.translate(state, va), hex(va)
            seen.add(fault & ~3 if 0 < fault < GPF else fault)
    assert {0, TRANSLATION, ACCESS_FLAG, GPF_WALK, GPF} <= seen
