"""A bench for the system architecture: a machine, page tables, a few lines of guest code.

Its memory (Non-secure unless a test says otherwise): code at CODE, vectors at VECTORS where every
vector is ``hvc #(offset / 0x80)``, tables from TABLES on, data from DATA on.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pyvmm.arch.pas import Pas
from pyvmm.arch.sysregs import Feature
from pyvmm.core import Clock
from tests.core.engines import new_machine
from tests.core.program import assemble

if TYPE_CHECKING:
    from pyvmm.arch.engine import Engine
    from pyvmm.core import PeContext, PeExit

BASE = 0x8000_0000
SIZE = 0x200_0000
CODE = BASE
VECTORS = BASE + 0x1_0000
TABLES = BASE + 0x10_0000
STAGE2_TABLES = BASE + 0x20_0000
DATA = BASE + 0x100_0000
PAGE = 0x1000

VALID = 1 << 0
TABLE = 3
PAGE_LEAF = 3
USER = 1 << 6
READ_ONLY = 1 << 7
AF = 1 << 10
NG = 1 << 11
GUARDED = 1 << 50
DBM = 1 << 51
PXN = 1 << 53
UXN = 1 << 54
NORMAL = 0 << 2
DEVICE = 1 << 2
MAIR = 0x00FF  # attribute 0: Normal write-back, 1: Device-nGnRnE

SCTLR_RES1 = 0x30D0_0980
SCTLR_ON = SCTLR_RES1 | 1
TCR_48 = (
    16 | 16 << 16 | 2 << 30 | 5 << 32 | 1 << 36
)  # 48-bit halves of 4 KiB pages, 48-bit output, 16-bit ASID
TCR_HA = 1 << 39
TCR_HD = 1 << 40

HCR_RW = 1 << 31
HCR_VM = 1
HCR_IMO = 1 << 4
HCR_FMO = 1 << 3
S2_READ = 1 << 6
S2_WRITE = 1 << 7
S2_NORMAL = 0xF << 2
VTCR_40 = 24 | 1 << 6 | 5 << 16  # 40-bit IPA, start at level 1 (two tables), 48-bit output

HVC = 0xD400_0002
EC_HVC = 0x16
EC_SYSREG = 0x18
EC_DATA_ABORT = 0x24
EC_INSTRUCTION_ABORT = 0x20


ALL_FEATURES = ~Feature(0)


class Bench:
    """A machine with one context; without an engine, it has that of the command line."""

    def __init__(
        self,
        pas: Pas = Pas.NS,
        num_pes: int = 1,
        clock: Clock = Clock.VIRTUAL,
        features: Feature = ALL_FEATURES,
        engine: Engine | None = None,
        threshold: int = 1,
    ) -> None:
        self.machine = new_machine(
            BASE, SIZE, num_pes, clock, features, engine=engine, threshold=threshold
        )
        self.pas = pas
        self.memory = self.machine.memory(pas)
        self.state = self.machine.new_context()
        self.state.security = int(pas)
        self.state.vbar_el1 = VECTORS
        self.state.mair_el1 = MAIR
        self.state.cpacr_el1 = 3 << 20
        self._next = {TABLES: TABLES + PAGE, STAGE2_TABLES: STAGE2_TABLES + 2 * PAGE}
        for vector in range(16):
            self.memory.write(VECTORS + vector * 0x80, struct.pack("<I", HVC | vector << 5))

    def map(
        self, va: int, pa: int, attributes: int = AF, *, leaf_level: int = 3, root: int = TABLES
    ) -> int:
        """Map a page or block of stage 1 (2: by its root); return where its descriptor is."""
        table = root
        top = 1 if root == STAGE2_TABLES else 0
        bits = 40 if root == STAGE2_TABLES else 48
        for level in range(top, 4):
            shift = 39 - 9 * level
            index = (va & (1 << bits) - 1) >> shift
            entry = table + 8 * (index if level == top else index & 511)
            if level == leaf_level:
                self.memory.write_u64(entry, pa | attributes | (3 if level == 3 else 1))
                return entry
            descriptor = self.memory.read_u64(entry)
            if not descriptor:
                descriptor = self._next[root] | TABLE
                self._next[root] += PAGE
                self.memory.write_u64(entry, descriptor)
            table = descriptor & 0xFFFF_FFFF_F000
        raise AssertionError("unreachable")

    def mmu_on(self, tcr: int = TCR_48, sctlr: int = SCTLR_ON) -> None:
        """Turn stage 1 on, both halves on one table; code and vectors are identity mapped."""
        state = self.state
        state.ttbr0_el1 = state.ttbr1_el1 = TABLES
        state.tcr_el1 = tcr
        state.sctlr_el1 = sctlr
        self.map(CODE, CODE, AF | UXN)
        self.map(VECTORS, VECTORS, AF)

    def stage2_on(self, *, identity: bool = True, vmid: int = 1) -> None:
        """Turn stage 2 on, with DRAM identity mapped in 2 MiB blocks if asked."""
        state = self.state
        state.hcr_el2 |= HCR_VM
        state.vtcr_el2 = VTCR_40
        state.vttbr_el2 = STAGE2_TABLES | vmid << 48
        if identity:
            for pa in range(BASE, BASE + SIZE, 0x20_0000):
                self.map_stage2(pa, pa, leaf_level=2)

    def map_stage2(
        self, ipa: int, pa: int, attributes: int | None = None, *, leaf_level: int = 3
    ) -> int:
        """Map a page or block of stage 2; return where its descriptor is."""
        if attributes is None:
            attributes = AF | S2_READ | S2_WRITE | S2_NORMAL
        return self.map(ipa, pa, attributes, leaf_level=leaf_level, root=STAGE2_TABLES)

    def load(self, text: str, at: int = CODE) -> None:
        """Put code where the context will run."""
        self.memory.write(at, assemble(text))
        self.state.pc = at

    def run(self, text: str | None = None, budget: int = 10_000) -> PeExit:
        """Run the context, from new code if there is some."""
        if text is not None:
            self.load(text)
        return self.machine.pe(0).run(self.state, budget)

    def translate(self, va: int, access: int = 0) -> tuple[int, int]:
        """Return (fault status code or 0, pa)."""
        fault, pa, _, _ = self.machine.pe(0).translate(self.state, va, access)
        return fault, pa

    def write_words(self, pa: int, *words: int) -> None:
        """Write 64-bit words."""
        self.memory.write(pa, struct.pack(f"<{len(words)}Q", *words))


def ec(exit_: PeExit) -> int:
    """Return the exception class of an exit."""
    return exit_.esr >> 26


def vector(exit_: PeExit) -> int:
    """Return the offset of the vector that the guest took (each vector is an HVC)."""
    assert ec(exit_) == EC_HVC, hex(exit_.esr)
    return (exit_.esr & 0xFFFF) * 0x80


def guest_ec(state: PeContext) -> int:
    """Return the exception class in ESR_EL1."""
    return int(state.esr_el1) >> 26


def guest_fsc(state: PeContext) -> int:
    """Return the fault status code in ESR_EL1."""
    return int(state.esr_el1) & 0x3F
