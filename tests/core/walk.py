"""A read by EL1 translated in plain Python: stage 1, stage 2 and the granule protection check.

The oracle of the walkers in C, with every granule at stage 1 and 4 KB at stage 2.  It reads the
tables in memory and the registers of a context, keeps nothing, and knows nothing of who wrote
them.
Spec: Arm ARM DDI 0487, AArch64.S1Walk, AArch64.S2Walk, "Granule Protection Tables".
"""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.arch.gpt import PPS_BITS
from pyvmm.arch.pas import Pas
from pyvmm.core import Machine, PeContext

TRANSLATION, ACCESS_FLAG, PERMISSION = 0x04, 0x08, 0x0C
EXTERNAL, EXTERNAL_WALK, GPF_WALK, GPF = 0x10, 0x14, 0x24, 0x28
PA_MASK = 0x0000_FFFF_FFFF_F000
GRANULE_BITS = ((12, 16, 14), (12, 14, 12, 16))  # by half and TCR_EL1.TG0, TG1
START_LEVEL = (2, 1, 0, 3)  # of stage 2, by VTCR_EL2.SL0
GPI = {Pas.SECURE: 0x8, Pas.NS: 0x9, Pas.ROOT: 0xA, Pas.REALM: 0xB}
ANY, CONTIGUOUS = 0xF, 1


class Fault(Exception):
    """The access faults; ``is_stage2`` tells who is to know."""

    def __init__(self, fsc: int, *, is_stage2: bool) -> None:
        super().__init__(hex(fsc))
        self.fsc = fsc
        self.is_stage2 = is_stage2


@dataclass(frozen=True)
class Leaf:
    """Where a walk ended: the descriptor, its level and the address it gives."""

    descriptor: int
    level: int
    address: int


class Walker:
    """Walks the tables of one machine."""

    def __init__(self, machine: Machine, gptbr: int, gpccr: int) -> None:
        self._base, self._size = machine.dram_base, machine.dram_size
        self._words = {pas: machine.buffer(pas).cast("B").cast("Q") for pas in Pas}
        self._gptbr = gptbr
        self._is_checked = bool(gpccr >> 16 & 1)
        self._pa_bits = PPS_BITS[gpccr & 7]

    def translate(self, context: PeContext, va: int) -> tuple[int, int, Pas, bool]:
        """Return (fault status code or 0, PA, PAS, whether the fault is EL2's)."""
        try:
            ipa = self._stage1(context, va)
            pa, pas = self._stage2(context, ipa)
        except Fault as fault:
            return fault.fsc, 0, Pas.SECURE, fault.is_stage2
        return 0, pa, pas, False

    # --- granule protection ---------------------------------------------------------------

    def gpi(self, pa: int) -> int:
        """Return the GPI of a granule: L0 entry, L1 entry, nibble."""
        l0 = self._word(Pas.ROOT, self._gptbr + (pa >> 30) * 8)
        if l0 & 0xF == CONTIGUOUS:
            return l0 >> 4 & 0xF
        l1 = self._word(Pas.ROOT, (l0 & ~0xFFF) + (pa >> 16 & 0x3FFF) * 8)
        return l1 >> 4 & 0xF if l1 & 0xF == CONTIGUOUS else l1 >> (pa >> 10 & 0x3C) & 0xF

    def _is_refused(self, pas: Pas, pa: int) -> bool:
        if not self._is_checked:
            return False
        if pa >> self._pa_bits:
            return pas is not Pas.NS
        return self.gpi(pa) not in {GPI[pas], ANY}

    def _word(self, pas: Pas, pa: int) -> int:
        return self._words[pas][pa - self._base >> 3]

    def _descriptor(self, pas: Pas, pa: int, level: int) -> int:
        """Read a stage-2 descriptor."""
        if self._is_refused(pas, pa):
            raise Fault(GPF_WALK + level, is_stage2=True)
        if not 0 <= pa - self._base < self._size:
            raise Fault(EXTERNAL_WALK + level, is_stage2=True)
        return self._word(pas, pa)

    # --- stage 2 --------------------------------------------------------------------------

    def _stage2(
        self, context: PeContext, ipa: int, table_level: int | None = None
    ) -> tuple[int, Pas]:
        """Translate an access, or a stage-1 walk's look at a table of ``table_level``."""
        is_walk = table_level is not None
        pas = security = Pas(context.security)
        pa = ipa
        if context.hcr_el2 & 1:
            leaf = self._stage2_leaf(context, ipa, security)
            pa = leaf.address
            if security is Pas.REALM and leaf.descriptor >> 55 & 1:
                pas = Pas.NS
            is_foreign = is_walk and pas is not security
            if is_foreign or not leaf.descriptor >> 6 & 1:
                raise Fault(PERMISSION + leaf.level, is_stage2=True)
        if self._is_refused(pas, pa):
            raise Fault(GPF if table_level is None else GPF_WALK + table_level, is_stage2=True)
        return pa, pas

    def _stage2_leaf(self, context: PeContext, ipa: int, pas: Pas) -> Leaf:
        ipa_bits = 64 - (context.vtcr_el2 & 63)
        if ipa >> ipa_bits:
            raise Fault(TRANSLATION, is_stage2=True)
        table = context.vttbr_el2 & PA_MASK
        for level in range(START_LEVEL[context.vtcr_el2 >> 6 & 3], 4):
            shift = 39 - 9 * level
            descriptor = self._descriptor(pas, table + (ipa >> shift) * 8, level)
            if is_leaf(descriptor, level):
                if not descriptor >> 10 & 1:
                    raise Fault(ACCESS_FLAG + level, is_stage2=True)
                return Leaf(descriptor, level, leaf_address(descriptor, ipa, shift))
            if descriptor & 3 != 3 or level == 3:
                raise Fault(TRANSLATION + level, is_stage2=True)
            table = descriptor & PA_MASK
            ipa &= (1 << shift) - 1
        raise AssertionError("unreachable")

    # --- stage 1 --------------------------------------------------------------------------

    def _stage1(self, context: PeContext, va: int) -> int:
        if not context.sctlr_el1 & 1:
            return va
        leaf = self._stage1_leaf(context, va)
        if not leaf.descriptor >> 10 & 1:
            raise Fault(ACCESS_FLAG + leaf.level, is_stage2=False)
        return leaf.address

    def _stage1_leaf(self, context: PeContext, va: int) -> Leaf:
        is_high = va >> 55 & 1
        va_bits = 64 - (context.tcr_el1 >> 16 * is_high & 63)
        if va >> va_bits != (1 << 64 - va_bits) - 1 if is_high else va >> va_bits:
            raise Fault(TRANSLATION, is_stage2=False)
        granule_bits = GRANULE_BITS[is_high][context.tcr_el1 >> (30 if is_high else 14) & 3]
        stride = granule_bits - 3
        table = (context.ttbr1_el1 if is_high else context.ttbr0_el1) & PA_MASK
        offset = va & (1 << va_bits) - 1
        for level in range(4 - (va_bits - 4) // stride, 4):
            shift = granule_bits + stride * (3 - level)
            pa, pas = self._stage2(context, table + (offset >> shift) * 8, level)
            if not 0 <= pa - self._base < self._size:
                raise Fault(EXTERNAL_WALK + level, is_stage2=False)
            descriptor = self._word(pas, pa)
            if is_leaf(descriptor, level):
                return Leaf(descriptor, level, leaf_address(descriptor, va, shift))
            if descriptor & 3 != 3 or level == 3:
                raise Fault(TRANSLATION + level, is_stage2=False)
            table = descriptor & PA_MASK
            offset &= (1 << shift) - 1
        raise AssertionError("unreachable")


def is_leaf(descriptor: int, level: int) -> bool:
    """Tell whether a descriptor is a page or a block."""
    return descriptor & 3 == (3 if level == 3 else 1) and level > 0


def leaf_address(descriptor: int, address: int, shift: int) -> int:
    """Return the address that a page or block gives for one inside it."""
    inside = (1 << shift) - 1
    return descriptor & PA_MASK & ~inside | address & inside
