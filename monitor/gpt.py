"""The granule protection table in Root memory: built, changed, and kept in its shortest form.

The table in memory is the only copy; PEs walk it while this code writes it.  Hence every store is
one aligned 64-bit word, and shattering or fusing a contiguous region changes the *form* of its
entries, never the GPI of any granule: any mixture that a walker reads gives the same GPI.

Invariant (canonical form): a naturally aligned 2 MiB, 32 MiB or 512 MiB region of equal GPIs is
described by the largest contiguous descriptor that fits.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from monitor.layout import DramLayout, num_l1_tables
from pyvmm.arch import gpt
from pyvmm.arch.gpt import Contig, Gpi, contiguous_descriptor, granules_descriptor
from pyvmm.arch.machine import PhysicalMemory
from pyvmm.arch.pas import GRANULE_SHIFT, GRANULE_SIZE

#: How many L1 entries hold the descriptor of a contiguous region, smallest first.
ENTRIES: Final = {size: 1 << shift - gpt.L1_ENTRY_SHIFT for size, shift in gpt.CONTIG_SHIFT.items()}
_SMALLEST: Final = ENTRIES[Contig.MB_2]
ENTRY_REGION: Final = 1 << gpt.L1_ENTRY_SHIFT
GRANULES_AN_ENTRY: Final = ENTRY_REGION // GRANULE_SIZE
ONES: Final = granules_descriptor(1)  # times a GPI: an entry of that GPI


class GranuleProtectionTable:
    """The two-level table for all of DRAM, and for the devices below it."""

    def __init__(self, root: PhysicalMemory, layout: DramLayout) -> None:
        """Build the table: all of DRAM is Non-secure except the reserved regions.

        The devices below DRAM are Non-secure, too.
        """
        self._base = layout.dram_base & -gpt.L0_REGION
        num_l1 = num_l1_tables(layout.dram_base, layout.dram_top)
        # EL3's own granules always stay Root, so this window stays valid.
        window = root.view(layout.root_base, num_l1 * gpt.L1_SIZE)
        self._bytes = window.cast("B")
        self._entries = window.cast("B").cast("Q")
        self._bytes[:] = bytes(len(self._bytes))
        self._fill(layout.dram_base, layout.rmm_base, Gpi.NS)
        self._fill(layout.rmm_base, layout.root_base, Gpi.REALM)
        self._fill(layout.root_base, layout.dram_top & -ENTRY_REGION, Gpi.ROOT)
        self._write_l0(root, layout, num_l1)
        self.base_pa = layout.l0_base
        self.gpccr = gpt.GPCCR_EL3.of(GPC=1, SH=3, ORGN=1, IRGN=1, PPS=layout.pps)

    def _write_l0(self, root: PhysicalMemory, layout: DramLayout, num_l1: int) -> None:
        first = self._base >> gpt.L0_SHIFT
        deny = gpt.L0_BLOCK | Gpi.NO_ACCESS << gpt.L0_BLOCK_GPI_SHIFT
        devices = gpt.L0_BLOCK | Gpi.NS << gpt.L0_BLOCK_GPI_SHIFT
        count = 1 << gpt.PPS_BITS[layout.pps] - gpt.L0_SHIFT
        entries = [devices] * first + [deny] * (count - first)
        for n in range(num_l1):
            entries[first + n] = layout.root_base + n * gpt.L1_SIZE | gpt.L0_TABLE
        root.write(layout.l0_base, b"".join(e.to_bytes(8, "little") for e in entries))

    def _fill(self, start: int, end: int, gpi: Gpi) -> None:
        """Set [start, end), 64 KiB aligned, to one GPI in the canonical form."""
        index = start - self._base >> gpt.L1_ENTRY_SHIFT
        last = end - self._base >> gpt.L1_ENTRY_SHIFT
        while index < last:
            descriptor, count = granules_descriptor(gpi), 1
            for size, entries in ENTRIES.items():
                if index % entries == 0 and index + entries <= last:
                    descriptor, count = contiguous_descriptor(gpi, size), entries
            self._store(index, count, descriptor)
            index += count

    def _store(self, index: int, count: int, descriptor: int) -> None:
        self._bytes[8 * index : 8 * (index + count)] = descriptor.to_bytes(8, "little") * count

    def gpi(self, pa: int) -> Gpi:
        """Return the GPI of the granule at ``pa``, which is in DRAM."""
        entry = self._entries[pa - self._base >> gpt.L1_ENTRY_SHIFT]
        if entry & 0xF == gpt.CONTIGUOUS:
            return Gpi(entry >> gpt.CONTIGUOUS_GPI_SHIFT & 0xF)
        return Gpi(entry >> (pa >> GRANULE_SHIFT - 2 & 0x3C) & 0xF)

    def move(self, pa: int, old: int, new: int) -> bool:
        """Change the GPI of the granule at ``pa``, which is in DRAM, from ``old`` to ``new``.

        Returns False, with nothing changed, if it is not ``old``.
        """
        index = pa - self._base >> gpt.L1_ENTRY_SHIFT
        shift = pa >> GRANULE_SHIFT - 2 & 0x3C
        entry = self._entries[index]
        if entry & 0xF == gpt.CONTIGUOUS:
            if entry >> gpt.CONTIGUOUS_GPI_SHIFT & 0xF != old:
                return False
            entry = self._shatter(index, old, entry)
        elif entry >> shift & 0xF != old:
            return False
        self._entries[index] = entry = entry ^ (old ^ new) << shift
        if entry == new * ONES:
            self._fuse(index, new)
        return True

    def move_row(self, pa: int, old: int, new: int, count: int) -> bool:
        """Move ``count`` granules in a row, all in DRAM, like ``move``.

        Returns False, with nothing changed, if one of them is not ``old``.
        """
        entries, was, change = self._entries, old * ONES, (old ^ new) * ONES
        parts = _parts(pa - self._base >> GRANULE_SHIFT, count)
        for index, mask in parts:
            entry = entries[index]
            if entry & 0xF == gpt.CONTIGUOUS:
                entry = (entry >> gpt.CONTIGUOUS_GPI_SHIFT & 0xF) * ONES
            if (entry ^ was) & mask:
                return False
        for index, mask in parts:
            entry = entries[index]
            if entry & 0xF == gpt.CONTIGUOUS:
                entry = self._shatter(index, old, entry)
            entries[index] = entry ^ change & mask
        for region in {index & -_SMALLEST for index, _ in parts}:
            self._fuse(region, new)
        return True

    def _shatter(self, index: int, gpi: int, entry: int) -> int:
        """Split the contiguous region around an entry, repeatedly, down to single entries."""
        smaller = entry
        for size in range(entry >> gpt.CONTIGUOUS_SIZE_SHIFT & 3, 0, -1):
            count = ENTRIES[Contig(size)]
            if size > Contig.MB_2:
                smaller = contiguous_descriptor(gpi, Contig(size - 1))
            else:
                smaller = granules_descriptor(gpi)
            self._store(index & -count, count, smaller)
        return smaller

    def _fuse(self, index: int, gpi: int) -> None:
        """Join equal neighbours into contiguous regions, as large as possible."""
        same, step = granules_descriptor(gpi), 1
        for size, count in ENTRIES.items():
            first = index & -count
            parts = self._entries[first : first + count : step]  # one of each smaller region
            if parts.tobytes() != same.to_bytes(8, "little") * len(parts):
                return
            same, step = contiguous_descriptor(gpi, size), count
            self._store(first, count, same)

    def count(self) -> Counter[int]:
        """Count the granules of each GPI, by its number, in the whole table."""
        counts = Counter[int]()
        for entry, times in Counter(self._entries).items():
            if entry & 0xF == gpt.CONTIGUOUS:
                counts[entry >> gpt.CONTIGUOUS_GPI_SHIFT & 0xF] += times * GRANULES_AN_ENTRY
            else:
                for shift in range(0, 64, 4):
                    counts[entry >> shift & 0xF] += times
        return counts

    def granules_not(self, gpi: Gpi, start: int, end: int) -> Iterator[int]:
        """Yield the granules of [start, end) with another GPI."""
        plain = {granules_descriptor(gpi)} | {contiguous_descriptor(gpi, s) for s in ENTRIES}
        for region in range(start, end, ENTRY_REGION):
            if self._entries[region - self._base >> gpt.L1_ENTRY_SHIFT] not in plain:
                granules = range(region, min(region + ENTRY_REGION, end), GRANULE_SIZE)
                yield from (pa for pa in granules if self.gpi(pa) != gpi)


def _parts(first: int, count: int) -> list[tuple[int, int]]:
    """Return the L1 entries of granules in a row, by number: each with a mask of their GPIs."""
    parts = []
    while count > 0:
        index, place = divmod(first, GRANULES_AN_ENTRY)
        here = min(GRANULES_AN_ENTRY - place, count)
        parts.append((index, (1 << 4 * here) - 1 << 4 * place))
        first += here
        count -= here
    return parts
