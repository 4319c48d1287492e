"""Translation walks, each table entry by itself: stage 1, then stage 2, then the protection check.

The machine's own walker decides what an access would do; this module only shows the way.
Spec: Arm ARM DDI 0487, D8 (VMSAv8-64 translation).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pyvmm.arch.el1 import MAX_TNSZ, MIN_TNSZ, SCTLR_EL1, TCR_EL1
from pyvmm.arch.hcr import HCR_EL2
from pyvmm.arch.machine import PeContext
from pyvmm.arch.pas import Pas
from pyvmm.arch.pictures import Step
from pyvmm.arch.stage1 import S1_DESCRIPTOR
from pyvmm.arch.stage2 import (
    NS,
    PAGE_LEVEL,
    S2_DESCRIPTOR,
    START_LEVEL_SL0,
    TABLE_BITS,
    VTCR_EL2,
    level_shift,
)
from pyvmm.observe.memory import Dram

_ENTRY: Final = 8  # bytes
_ENTRY_BITS: Final = 3
_VALID, _TABLE = 0b01, 0b11
_BADDR: Final = (1 << 48) - 2  # of VTTBR_EL2
_ADDRESS: Final = S1_DESCRIPTOR.OA.mask
#: log2 of the granule by TCR_EL1.TG0 and TG1, whose encodings differ; reserved ones count as 4 KB.
_TG0: Final = {0: 12, 1: 16, 2: 14}
_TG1: Final = {1: 14, 2: 12, 3: 16}


@dataclass(slots=True)
class Walk:
    """The entries that a walk has read so far, and its results: None where it ended before."""

    steps: list[Step] = field(default_factory=list)
    ipa: int | None = None
    pa: int | None = None
    pas: Pas | None = None


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a table divides addresses, as TCR_EL1 or VTCR_EL2 says."""

    granule_bits: int
    address_bits: int

    @property
    def index_bits(self) -> int:
        """Bits of the address that one level translates."""
        return self.granule_bits - _ENTRY_BITS

    @property
    def start_level(self) -> int:
        """The level at which a walk begins."""
        return PAGE_LEVEL + 1 - -(-(self.address_bits - self.granule_bits) // self.index_bits)

    def shift(self, level: int) -> int:
        """Return log2 of the bytes that one entry covers."""
        return self.granule_bits + self.index_bits * (PAGE_LEVEL - level)


def walk_va(dram: Dram, context: PeContext, va: int) -> Walk:
    """Walk a virtual address with the tables of a context, which no PE runs."""
    walk = Walk()
    if not context.sctlr_el1 & SCTLR_EL1.M.mask:
        walk.ipa = va & (1 << 48) - 1
    else:
        walk.ipa = _stage_1(dram, context, va, walk)
    if walk.ipa is not None:
        walk.pa, walk.pas = _stage_2(dram, context, walk.ipa, walk.steps.append)
    return walk


def walk_ipa(dram: Dram, context: PeContext, ipa: int) -> Walk:
    """Walk an intermediate physical address with the tables of a context."""
    walk = Walk(ipa=ipa)
    walk.pa, walk.pas = _stage_2(dram, context, ipa, walk.steps.append)
    return walk


@dataclass(frozen=True, slots=True)
class Half:
    """One half of the virtual addresses: the tables of TTBR0_EL1 or of TTBR1_EL1."""

    is_high: bool
    geometry: Geometry
    table: int  # the IPA of the first one


def half_of(context: PeContext, va: int) -> Half | None:
    """Return the half with an address; None if no table translates it."""
    tcr, is_high = TCR_EL1(context.tcr_el1), bool(va >> 55 & 1)
    size_offset = min(max(tcr.T1SZ if is_high else tcr.T0SZ, MIN_TNSZ), MAX_TNSZ)
    granule = _TG1.get(tcr.TG1, 12) if is_high else _TG0.get(tcr.TG0, 12)
    geometry = Geometry(granule, 64 - size_offset)
    if _is_outside(va, geometry.address_bits, ignores_top=tcr.TBI1 if is_high else tcr.TBI0):
        return None
    if tcr.EPD1 if is_high else tcr.EPD0:
        return None
    table = (context.ttbr1_el1 if is_high else context.ttbr0_el1) & _ADDRESS & ~1
    return Half(is_high, geometry, table)


def _stage_1(dram: Dram, context: PeContext, va: int, walk: Walk) -> int | None:
    half = half_of(context, va)
    if half is None:
        return None
    geometry, table = half.geometry, half.table
    granule = geometry.granule_bits
    bits = geometry.address_bits
    for level in range(geometry.start_level, PAGE_LEVEL + 1):
        shift = geometry.shift(level)
        index = (va & (1 << bits) - 1) >> shift
        bits = shift
        pa, pas = _stage_2(dram, context, table + index * _ENTRY, None)
        descriptor = None if pa is None or pas is None else dram.word(pas, pa)
        if pa is None or pas is None or descriptor is None:
            return None
        kind = kind_of(descriptor, level)
        output = descriptor & _ADDRESS & -(1 << (granule if kind == "table" else shift))
        walk.steps.append(_step(1, level, pa, pas, index, descriptor, kind, output))
        if kind == "invalid":
            return None
        if kind != "table":
            return output | va & (1 << shift) - 1
        table = output
    return None


def _is_outside(va: int, bits: int, *, ignores_top: bool) -> bool:
    """Check whether the bits above the translated ones are not all alike."""
    top = 56 if ignores_top else 64
    upper = (va & (1 << top) - 1) >> bits
    return upper not in {0, (1 << top - bits) - 1}


def _stage_2(
    dram: Dram, context: PeContext, ipa: int, report: Callable[[Step], None] | None
) -> tuple[int | None, Pas | None]:
    """Return the physical address and its address space; None if there is no translation."""
    vtcr, pas = VTCR_EL2(context.vtcr_el2), Pas(context.security)
    if not context.hcr_el2 & HCR_EL2.VM.mask:
        return ipa, pas
    bits = 64 - vtcr.T0SZ
    if ipa >> bits:
        return None, None
    table, level = context.vttbr_el2 & _BADDR, START_LEVEL_SL0.index(vtcr.SL0)
    index = ipa >> level_shift(level)  # of concatenated tables
    while True:
        pa = table + index * _ENTRY
        descriptor = dram.word(pas, pa)
        if descriptor is None:
            return None, None
        kind, shift = kind_of(descriptor, level), level_shift(level)
        output = descriptor & S2_DESCRIPTOR.OA.mask
        if report is not None:
            report(_step(2, level, pa, pas, index, descriptor, kind, output))
        if kind == "invalid":
            return None, None
        if kind != "table":
            is_ns = pas is Pas.REALM and descriptor & NS
            return output & -(1 << shift) | ipa & (1 << shift) - 1, Pas.NS if is_ns else pas
        table, level = output, level + 1
        index = ipa >> level_shift(level) & (1 << TABLE_BITS) - 1


def kind_of(descriptor: int, level: int) -> str:
    """Return what a descriptor is at a level."""
    if not descriptor & _VALID:
        return "invalid"
    if descriptor & _TABLE == _TABLE:
        return "page" if level == PAGE_LEVEL else "table"
    return "invalid" if level == PAGE_LEVEL else "block"


def _step(
    stage: int, level: int, pa: int, pas: Pas, index: int, descriptor: int, kind: str, output: int
) -> Step:
    return Step(
        stage=stage,
        level=level,
        address=hex(pa),
        pas=pas.name,
        index=index,
        descriptor=f"{descriptor:#018x}",
        kind=kind,
        output=hex(output) if kind != "invalid" else "",
        fields=fields_of(stage, descriptor, kind),
    )


_OF_LEAF: Final = {
    1: ("ATTR_INDEX", "AP1", "AP2", "SH", "AF", "NG", "GP", "DBM", "PXN", "UXN"),
    2: ("MEMATTR", "S2AP", "SH", "AF", "XN", "NS"),
}
_OF_TABLE: Final = {1: ("PXN_TABLE", "UXN_TABLE", "NO_EL0_TABLE", "READ_ONLY_TABLE"), 2: ()}


def fields_of(stage: int, descriptor: int, kind: str) -> dict[str, str]:
    """Return the fields that mean something in such an entry."""
    register = S1_DESCRIPTOR if stage == 1 else S2_DESCRIPTOR
    names = {"table": _OF_TABLE[stage], "invalid": ()}.get(kind, _OF_LEAF[stage])
    if kind == "invalid" and stage == 2:
        names = ("HIPAS", "RIPAS", "NS")  # the RMM's own state
    return {
        each.name: str(int(each.decode(descriptor)))
        for each in register.fields()
        if each.name in names
    }
