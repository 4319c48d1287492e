"""The granule protection table as it is in Root memory, read level by level.

Spec: Arm ARM DDI 0487, D9 "Granule Protection Check Mechanism".
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Final, NamedTuple

from pyvmm.arch import gpt
from pyvmm.arch.gpt import GPCCR_EL3, Contig, Gpi
from pyvmm.arch.pas import GRANULE_SHIFT, GRANULE_SIZE, Pas
from pyvmm.observe.memory import Dram

_ENTRY: Final = 8  # bytes
_BLOCK, _GRANULES = "block", "granules"
_CONTIGUOUS: Final = {Contig.MB_2: "2 MiB", Contig.MB_32: "32 MiB", Contig.MB_512: "512 MiB"}


class Entry(NamedTuple):
    """The entry that describes a granule."""

    pa: int  # in Root memory
    value: int
    gpi: Gpi
    form: str


class Run(NamedTuple):
    """Granules in a row that are described alike."""

    base: int
    size: int
    gpi: Gpi
    form: str


class Gpt:
    """Reads the table at GPTBR_EL3."""

    def __init__(self, dram: Dram, base_pa: int, gpccr: int) -> None:
        self._dram = dram
        self.base_pa = base_pa
        self.gpccr = GPCCR_EL3(gpccr)

    def entry(self, pa: int) -> Entry:
        """Return the entry that describes the granule at ``pa``."""
        l0_pa = self.base_pa + (pa >> gpt.L0_SHIFT) * _ENTRY
        l0 = self._word(l0_pa)
        if l0 & 0xF != gpt.L0_TABLE:
            is_block = l0 & 0xF == gpt.L0_BLOCK
            gpi = Gpi(l0 >> gpt.L0_BLOCK_GPI_SHIFT & 0xF) if is_block else Gpi.NO_ACCESS
            return Entry(l0_pa, l0, gpi, _BLOCK)
        index = (pa & gpt.L0_REGION - 1) >> gpt.L1_ENTRY_SHIFT
        l1_pa = (l0 & -gpt.L1_SIZE) + index * _ENTRY
        return Entry(l1_pa, l1 := self._word(l1_pa), _gpi(l1, pa), _form(l1))

    def runs(self) -> Iterator[Run]:
        """Yield all of DRAM."""
        end = self._dram.base + self._dram.size
        for (gpi, form), parts in groupby(self._parts(self._dram.base, end), lambda part: part[2:]):
            first, *others = parts
            yield Run(first.base, first.size + sum(other.size for other in others), gpi, form)

    def _parts(self, start: int, end: int) -> Iterator[Run]:
        """Yield the runs of each entry, one after the other."""
        pa = start
        while pa < end:
            region_end = min((pa | gpt.L0_REGION - 1) + 1, end)
            l0 = self._word(self.base_pa + (pa >> gpt.L0_SHIFT) * _ENTRY)
            if l0 & 0xF == gpt.L0_TABLE:
                yield from self._level_1(l0 & -gpt.L1_SIZE, pa, region_end)
            else:
                yield Run(pa, region_end - pa, self.entry(pa).gpi, _BLOCK)
            pa = region_end

    def _level_1(self, table: int, start: int, end: int) -> Iterator[Run]:
        first = (start & gpt.L0_REGION - 1) >> gpt.L1_ENTRY_SHIFT
        count = end - start >> gpt.L1_ENTRY_SHIFT
        data = self._dram.read(Pas.ROOT, table + first * _ENTRY, count * _ENTRY)
        size = 1 << gpt.L1_ENTRY_SHIFT
        for index, entry in enumerate(memoryview(data).cast("Q")):
            base = start + index * size
            if entry & 0xF == gpt.CONTIGUOUS or entry == gpt.granules_descriptor(entry & 0xF):
                yield Run(base, size, _gpi(entry, base), _form(entry))
                continue
            for pa in range(base, base + size, GRANULE_SIZE):
                yield Run(pa, GRANULE_SIZE, _gpi(entry, pa), _GRANULES)

    def _word(self, pa: int) -> int:
        return self._dram.word(Pas.ROOT, pa) or 0


def _gpi(entry: int, pa: int) -> Gpi:
    if entry & 0xF == gpt.CONTIGUOUS:
        return Gpi(entry >> gpt.CONTIGUOUS_GPI_SHIFT & 0xF)
    return Gpi(entry >> (pa >> GRANULE_SHIFT - 2 & 0x3C) & 0xF)


def _form(entry: int) -> str:
    if entry & 0xF != gpt.CONTIGUOUS:
        return _GRANULES
    return _CONTIGUOUS.get(Contig(entry >> gpt.CONTIGUOUS_SIZE_SHIFT & 3), "reserved")
