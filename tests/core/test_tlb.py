"""No stale translation, ever: random changes of the tables, each with an invalidation of it.

A guest reads, writes and executes through pages and blocks of one half of the VA space, so that
every TLB holds pieces of them; the walker in Python, which keeps nothing, says what each access
must find.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

import pytest

from pyvmm.arch.exits import ExitReason
from tests.core.program import assemble
from tests.core.system import AF, BASE, CODE, DATA, NG, PAGE, SCTLR_ON, TABLES, USER, VECTORS, Bench
from tests.core.system import ec as class_of
from tests.core.walk import Walker

HIGH = 0xFFFF << 48
TABLE = 3
NUM_PAGES = 2048  # 4 KiB each, from DATA on; each begins with code that returns its number
POOL = BASE + 0x40_0000
LEAF_INDEXES = (0, 1, 37)
#: Regions of a block's size: neighbours, and some that share a bucket or even its bit.
REGIONS = (5, 6, 5 + 64, 5 + 4096)
USER_REGIONS = (1, 3)
TURNS = 300
ACCESSES = 12
VMID = 1

SNIPPETS = {
    "load": "ldr w0, [x1]",
    "store": "str x2, [x1, #8]",
    "fetch": "blr x1",
    "pan load": ".long 0xD500419F\n ldr w0, [x1]",  # MSR PAN, #1
    "user load": "ldtr w0, [x1]",
    "user store": "sttr x2, [x1, #8]",
    "switch": "msr ttbr0_el1, x1\n isb",
    "vae1": "tlbi vae1, x1",
    "vale1is": "tlbi vale1is, x1",
    "vaae1": "tlbi vaae1, x1",
    "rvae1": "sys #0, c8, c6, #1, x1",
    "rvaae1is": "sys #0, c8, c2, #3, x1",
    "aside1": "tlbi aside1, x1",
    "vmalle1": "tlbi vmalle1",
}
SNIPPET_SIZE = 32
MOVZ_X0, RET = 0xD280_0000, 0xD65F_03C0
PRIVILEGED = ("load", "store", "fetch", "pan load")
UNPRIVILEGED = ("load", "store", "user load", "user store")
LOADS = ("load", "fetch", "pan load", "user load")


@dataclass(frozen=True)
class Shape:
    """A granule, the half of the VA space that has it, and the level of the blocks."""

    granule_bits: int
    is_high: bool
    level: int = 2
    is_stage2_on: bool = False

    @property
    def stride(self) -> int:
        """Return the bits of an index."""
        return self.granule_bits - 3

    def shift(self, level: int) -> int:
        """Return log2 of what an entry of a level maps."""
        return self.granule_bits + self.stride * (3 - level)

    @property
    def tg(self) -> int:
        """Return TG0 or TG1 in its place; code is in the other half, of 4 KiB pages."""
        if self.is_high:
            return {12: 2, 14: 1, 16: 3}[self.granule_bits] << 30
        return {12: 0, 14: 2, 16: 1}[self.granule_bits] << 14 | 2 << 30

    def __str__(self) -> str:
        """Name the case."""
        parts = (f"{1 << self.granule_bits - 10}K", "high" if self.is_high else "low")
        return "-".join((*parts, f"level{self.level}", *("stage2",) * self.is_stage2_on))


class Space:
    """An address space: stage-1 tables of any granule."""

    def __init__(self, bench: Bench, shape: Shape, pool: int) -> None:
        self._bench = bench
        self._shape = shape
        self._next = pool
        self.root = self._new_table()

    def _new_table(self) -> int:
        table, self._next = self._next, self._next + (1 << self._shape.granule_bits)
        return table

    def set(self, va: int, level: int, descriptor: int) -> None:
        """Write the entry of an address at a level; tables above it are made."""
        shape, table = self._shape, self.root
        start = 4 - -(-(48 - shape.granule_bits) // shape.stride)
        for at in range(start, level + 1):
            entry = table + 8 * ((va & (1 << 48) - 1) >> shape.shift(at) & (1 << shape.stride) - 1)
            if at == level:
                self._bench.memory.write_u64(entry, descriptor)
                return
            above = self._bench.memory.read_u64(entry)
            if above & 3 != TABLE:
                above = self._new_table() | TABLE
                self._bench.memory.write_u64(entry, above)
            table = above & 0xFFFF_FFFF_F000


class Guest:
    """The guest, its tables and what it may do."""

    def __init__(self, seed: int, shape: Shape) -> None:
        self.rng = random.Random(seed)
        self.shape = shape
        self.bench = Bench()
        self._put_code()
        self._turn_on()
        num_spaces = 1 if shape.is_high else 2
        self.spaces = [Space(self.bench, shape, POOL + n * 0x60_0000) for n in range(num_spaces)]
        self.is_block = [[False] * len(REGIONS) for _ in self.spaces]
        if shape.is_high:
            self.bench.state.ttbr1_el1 = self.spaces[0].root
        self.current = 0
        self.switch(0)
        self.walker = Walker(self.bench.machine, 0, 0)

    def _put_code(self) -> None:
        for n in range(NUM_PAGES):
            code = struct.pack("<II", MOVZ_X0 | n << 5, RET)
            self.bench.memory.write(DATA + n * PAGE, code)
        for n, text in enumerate(SNIPPETS.values()):
            self.bench.memory.write(CODE + n * SNIPPET_SIZE, assemble(f"{text}\n hvc #99"))

    def _turn_on(self) -> None:
        shape, state = self.shape, self.bench.state
        self.origin = 0 if shape.is_high else HIGH  # where the code is
        for page in (CODE, VECTORS):
            self.bench.map(self.origin | page, page, AF)
        state.vbar_el1 = self.origin | VECTORS
        state.ttbr0_el1 = state.ttbr1_el1 = TABLES
        state.tcr_el1 = 16 | 16 << 16 | 5 << 32 | 1 << 36 | shape.tg
        state.sctlr_el1 = SCTLR_ON
        if shape.is_stage2_on:
            self.bench.stage2_on(identity=False)
            for pa in range(BASE, BASE + (1 << 25), 1 << 21):
                if not DATA <= pa < DATA + NUM_PAGES * PAGE:
                    self.bench.map_stage2(pa, pa, leaf_level=2)
            for n in range(NUM_PAGES):
                self.bench.map_stage2(DATA + n * PAGE, DATA + n * PAGE)

    # --- addresses ------------------------------------------------------------------------

    def region(self, index: int) -> int:
        """Return where a region begins."""
        va = REGIONS[index] << self.shape.shift(self.shape.level)
        return va | HIGH if self.shape.is_high else va

    def leaf(self, region: int, index: int) -> int:
        """Return the VA of a page, which is data too where its region is a block."""
        inside = DATA - BASE & (1 << self.shape.shift(self.shape.level)) - 1
        return self.region(region) + inside + (index << self.shape.granule_bits)

    def attributes(self, region: int) -> int:
        """Return those of a leaf."""
        scope = 0 if self.shape.is_high else NG
        return AF | scope | (USER if region in USER_REGIONS else 0)

    # --- the guest at work ----------------------------------------------------------------

    def run(self, snippet: str, x1: int, x2: int = 0) -> bool:
        """Run a snippet; False if it took an exception."""
        state = self.bench.state
        state.pc = self.origin | CODE + list(SNIPPETS).index(snippet) * SNIPPET_SIZE
        state.x[1], state.x[2], state.pstate = x1, x2, 0x3C5
        exit_ = self.bench.run()
        assert (exit_.reason, class_of(exit_)) == (ExitReason.SYNC, 0x16)
        return exit_.esr & 0xFFFF == 99

    def switch(self, space: int) -> None:
        """Use an address space of the low half."""
        self.current = space
        if not self.shape.is_high:
            assert self.run("switch", self.spaces[space].root | space + 1 << 48)

    def access(self) -> None:
        """Do something somewhere; it goes as the tables say."""
        region = self.rng.randrange(len(REGIONS))
        va = self.leaf(region, self.rng.choice(LEAF_INDEXES))
        va += PAGE * self.rng.randrange(1 << self.shape.granule_bits - 12)
        snippet = self.rng.choice(UNPRIVILEGED if region in USER_REGIONS else PRIVILEGED)
        fault, pa, _, _ = self.walker.translate(self.bench.state, va)
        token = self.rng.getrandbits(64)
        assert self.run(snippet, va, token) == (not fault), (snippet, hex(va))
        if fault:
            return
        if snippet not in LOADS:
            assert self.bench.memory.read_u64(pa + 8) == token, (snippet, hex(va))
            return
        found = self.bench.state.x[0]
        number = found if snippet == "fetch" else found >> 5 & 0xFFFF
        assert DATA + number * PAGE == pa, (snippet, hex(va))

    # --- changes --------------------------------------------------------------------------

    def change(self) -> None:
        """Change one thing in the tables, then invalidate it."""
        kind = self.rng.randrange(4)
        space, region = self.rng.randrange(len(self.spaces)), self.rng.randrange(len(REGIONS))
        if self.shape.is_stage2_on and kind == 0:
            self.change_stage2()
        elif kind == 1:
            self.change_region(space, region)
        elif self.is_block[space][region]:
            self.set_block(space, region)
        else:
            self.change_page(space, region)

    def change_stage2(self) -> None:
        """Let an IPA page be another one."""
        ipa = DATA + PAGE * self.rng.randrange(1 << 8)
        self.bench.map_stage2(ipa, DATA + PAGE * self.rng.randrange(NUM_PAGES))
        self.bench.machine.tlbi_ipa(VMID, ipa, PAGE)

    def change_page(self, space: int, region: int) -> None:
        """Map a page to another place, or nowhere."""
        va = self.leaf(region, self.rng.choice(LEAF_INDEXES))
        self.spaces[space].set(va, 3, self.page(region))
        self.invalidate(space, va, 1)

    def page(self, region: int) -> int:
        """Return the descriptor of a page, or none."""
        if self.rng.randrange(5) == 0:
            return 0
        granule = self.shape.granule_bits
        place = self.rng.randrange(NUM_PAGES * PAGE >> granule) << granule
        return DATA + place | self.attributes(region) | 3

    def set_block(self, space: int, region: int) -> None:
        """Map a block to another place, or nowhere; one address is enough to invalidate it."""
        shift = self.shape.shift(self.shape.level)
        pa = DATA + (self.rng.randrange(4) << shift) if shift == 21 else BASE
        descriptor = pa | self.attributes(region) | 1 if self.rng.randrange(4) else 0
        self.spaces[space].set(self.region(region), self.shape.level, descriptor)
        any_page = self.rng.randrange(1 << shift - self.shape.granule_bits)
        self.invalidate(space, self.region(region) + (any_page << self.shape.granule_bits), 1)

    def change_region(self, space: int, region: int) -> None:
        """Turn a region of pages into a block, or the other way round."""
        was_block = self.is_block[space][region]
        self.is_block[space][region] = not was_block
        if not was_block:
            self.invalidate_pages(space, region)
            self.set_block(space, region)
            return
        self.spaces[space].set(self.region(region), self.shape.level, 0)
        for index in LEAF_INDEXES:
            self.spaces[space].set(self.leaf(region, index), 3, self.page(region))
        self.invalidate(space, self.region(region), 1)

    def invalidate_pages(self, space: int, region: int) -> None:
        """Unmap a region's pages, each by itself or all at once."""
        self.spaces[space].set(self.region(region), self.shape.level, 0)
        if self.rng.randrange(2):
            self.invalidate(space, self.leaf(region, 0), max(LEAF_INDEXES) + 1)
            return
        for index in LEAF_INDEXES:
            self.invalidate(space, self.leaf(region, index), 1)

    # --- invalidations --------------------------------------------------------------------

    def invalidate(self, space: int, va: int, num: int) -> None:
        """Invalidate some pages of an address space in one of the ways that there are."""
        asid = space + 1
        ways = ["rvae1", "rvaae1is"] * 3 + ["vmalle1"]
        if num == 1:
            ways += ["vae1", "vale1is", "vaae1"] * 4
        if not self.shape.is_high:
            ways.append("aside1")
        way = self.rng.choice(ways)
        if way.startswith("r"):
            assert self.run(way, self.range_operand(va, num, asid))
        else:
            page = va >> 12 & (1 << 44) - 1
            assert self.run(way, asid << 48 | (0 if way == "aside1" else page))

    def range_operand(self, va: int, num: int, asid: int) -> int:
        """Return TLBI RVAE1's operand: at least so many pages."""
        scale = self.rng.choice([n for n in range(4) if 32 << 5 * n + 1 >= num])
        count = max(-(-num >> 5 * scale + 1) - 1, self.rng.choice((0, 0, 1)))
        tg = {12: 1, 14: 2, 16: 3}[self.shape.granule_bits]
        base = va >> self.shape.granule_bits & (1 << 37) - 1
        return base | count << 39 | scale << 44 | tg << 46 | asid << 48


SHAPES = [
    *(Shape(bits, is_high) for bits in (12, 14, 16) for is_high in (False, True)),
    Shape(12, is_high=False, level=1),
    Shape(12, is_high=False, is_stage2_on=True),
    Shape(14, is_high=True, is_stage2_on=True),
]


@pytest.mark.parametrize("shape", SHAPES, ids=map(str, SHAPES))
def test_no_access_finds_a_stale_translation(seed: int, shape: Shape) -> None:
    """Every change of a page or block is seen by the first access after its invalidation."""
    guest = Guest(seed, shape)
    for turn in range(TURNS):
        guest.change()
        for _ in range(ACCESSES):
            guest.access()
        if turn % 3 == 0:
            guest.switch(guest.rng.randrange(len(guest.spaces)))


def test_a_piece_that_only_the_second_level_kept_is_found_again(seed: int) -> None:
    """Another block of its bucket was invalidated meanwhile, which let go of the first level."""
    guest = Guest(seed, Shape(12, is_high=False))
    space, block = guest.spaces[0], DATA | AF | NG | 1
    for region in (0, 2):
        space.set(guest.region(region), 2, block)
        assert guest.run("load", guest.leaf(region, 1))
    space.set(guest.region(2), 2, 0)
    assert guest.run("vae1", 1 << 48 | guest.region(2) >> 12)
    assert guest.run("load", guest.leaf(0, 1))
    space.set(guest.region(0), 2, 0)
    assert guest.run("vae1", 1 << 48 | guest.region(0) >> 12)
    assert not guest.run("load", guest.leaf(0, 1))
