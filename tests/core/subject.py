"""The core as the instruction fuzz sees it: one PE at EL0 with the fuzz program's memory.

The MMU is on, because with it off all memory is Device memory, where unaligned accesses fault. DRAM
is mapped twice: for EL0 where Unicorn has it, and for the EL1 vectors, which EL1 could not execute
from memory that EL0 may write.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pyvmm.arch.engine import Engine
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.pas import Pas
from pyvmm.core import decode
from tests.core import program
from tests.core.engines import new_machine
from tests.core.values import NUM_X, NZCV_OFFSET, SP_OFFSET

if TYPE_CHECKING:
    from pyvmm.core import PeContext

TABLE = program.END
VECTORS = program.END + 0x1000
DRAM_SIZE = 0x80_0000
GIB = 1 << 30
EL1_ALIAS = 2 * GIB  # where EL1 sees DRAM

BLOCK = 1 << 10 | 3 << 8 | 1  # AF, inner shareable, block
BLOCK_EL0 = BLOCK | 1 << 6  # EL0 may read, write and execute
BLOCK_EL1 = BLOCK | 1 << 54  # UXN
TCR = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 2 << 32  # 39-bit VA, 4 KiB, cacheable, EPD1
SCTLR = 1 | 1 << 2 | 1 << 12 | 1 << 14 | 1 << 15 | 1 << 23 | 1 << 26  # M C I DZE UCT SPAN UCI
RW = 1 << 31  # HCR_EL2: EL1 is AArch64

HVC = 0xD4000002
NUM_VECTORS = 16
VECTOR_SIZE = 0x80
EC_HVC = 0x16
EC_SVC = 0x15
BUDGET = 10_000_000
UNDEFINED = "UNDEFINED"


def decodes(word: int) -> bool:
    """Tell whether the core has an instruction for the word."""
    return decode(word) != UNDEFINED


class Subject:
    """Our core with the fuzz program's memory; what it translates, it does at once."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine = engine
        self._machine = new_machine(program.BASE, DRAM_SIZE, engine=engine)
        self._memory = self._machine.memory(Pas.NS)
        blocks = struct.pack("<3Q", 0, program.BASE | BLOCK_EL0, program.BASE | BLOCK_EL1)
        self._memory.write(TABLE, blocks)
        for vector in range(NUM_VECTORS):
            self._memory.write(VECTORS + VECTOR_SIZE * vector, struct.pack("<I", HVC | vector << 5))

    def write(self, va: int, data: bytes | bytearray) -> None:
        """Write guest memory, code included."""
        self._memory.write(va, data)

    def read(self, va: int, size: int) -> bytes:
        """Read guest memory."""
        return self._memory.read(va, size)

    def run(self) -> int | None:
        """Run the fuzz program to its end.  Returns the PC of a case that trapped, or None."""
        context = self.context(program.DRIVER)
        self.finish(context)
        if context.esr_el1 >> 26 == EC_SVC:
            return None
        return int(context.elr_el1)

    def step_branch(self, pc: int, record: bytes) -> tuple[int, int]:
        """Execute the branch at ``pc``, whose targets all hold SVC.  Returns next PC and X30."""
        context = self.context(pc)
        for index, value in enumerate(struct.unpack_from(f"<{NUM_X}Q", record)):
            context.x[index] = value
        context.sp_el0 = struct.unpack_from("<Q", record, SP_OFFSET)[0]
        context.pstate |= struct.unpack_from("<Q", record, NZCV_OFFSET)[0]
        self.finish(context)
        taken_svc = context.esr_el1 >> 26 == EC_SVC
        return int(context.elr_el1) - (4 if taken_svc else 0), int(context.x[30])

    def finish(self, context: PeContext) -> None:
        """Run until an exception reaches the EL1 vectors."""
        result = self._machine.pe(0).run(context, BUDGET)
        if result.reason != ExitReason.SYNC or result.esr >> 26 != EC_HVC:
            raise AssertionError(
                f"left EL1/EL0: {result.reason=} {result.esr=:#x} {context.pc=:#x}"
            )

    def context(self, pc: int) -> PeContext:
        """Return a context at EL0 that executes at ``pc``, MMU on."""
        context = self._machine.new_context()
        context.hcr_el2 = RW
        context.security = Pas.NS
        context.pc = pc
        context.pstate = 0x3C0
        context.sctlr_el1 = SCTLR
        context.tcr_el1 = TCR
        context.ttbr0_el1 = TABLE
        context.mair_el1 = 0xFF
        context.cpacr_el1 = 3 << 20
        context.vbar_el1 = VECTORS - program.BASE + EL1_ALIAS
        return context
