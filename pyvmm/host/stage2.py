"""Stage 2 of a normal VM: tables in Non-secure memory that map its RAM, its ROM and nothing else.

The RAM is one contiguous range, mapped when the VM is made, with the largest blocks that the
alignment of both addresses allows.  An access to any other address exits to the host.
"""

from typing import Final

from pyvmm.arch.machine import PhysicalMemory
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.stage2 import (
    ADDRESS_MASK,
    PAGE_LEVEL,
    RAM_ATTRIBUTES,
    S2_DESCRIPTOR,
    TABLE_ENTRIES,
    TABLE_TYPE,
    VALID,
    VTTBR_VMID_SHIFT,
    block_or_page,
    level_shift,
    level_size,
    vtcr,
)
from pyvmm.host.allocator import Allocator

IPA_BITS: Final = 39  # one start table at level 1
START_LEVEL: Final = 1
BLOCK_LEVEL: Final = 2  # of blocks of 2 MiB
ROM_ATTRIBUTES: Final = RAM_ATTRIBUTES & ~S2_DESCRIPTOR.S2AP.mask | S2_DESCRIPTOR.S2AP.encode(1)
PA_RANGE: Final = 2  # 40 bits, as ID_AA64MMFR0_EL1.PARange


class Stage2:
    """The translation tables of one VM."""

    def __init__(self, memory: PhysicalMemory, allocator: Allocator, vmid: int) -> None:
        self._memory = memory
        self._allocator = allocator
        self._tables: list[int] = []
        self._root = self._new_table()
        self.vtcr = int(vtcr(IPA_BITS, START_LEVEL, PA_RANGE))
        self.vttbr = self._root | vmid << VTTBR_VMID_SHIFT

    def map(self, ipa: int, pa: int, size: int, attributes: int = RAM_ATTRIBUTES) -> None:
        """Map unmapped memory; whole granules inside the IPA space."""
        end = ipa + size
        while ipa < end:
            level = next(
                level
                for level in range(START_LEVEL, PAGE_LEVEL + 1)
                if not (ipa | pa) & level_size(level) - 1 and ipa + level_size(level) <= end
            )
            leaf = pa | attributes | block_or_page(level)
            self._memory.write(self._entry_pa(ipa, level), leaf.to_bytes(8, "little"))
            ipa += level_size(level)
            pa += level_size(level)

    def unmap(self, ipa: int, size: int) -> None:
        """Unmap blocks of `BLOCK_LEVEL`; the caller invalidates the TLBs."""
        for block in range(ipa, ipa + size, level_size(BLOCK_LEVEL)):
            self._memory.write(self._entry_pa(block, BLOCK_LEVEL), bytes(8))

    def close(self) -> None:
        """Free the tables."""
        for table in self._tables:
            self._allocator.free(table)
        self._tables.clear()

    def _entry_pa(self, ipa: int, level: int) -> int:
        """Return the address of the entry for ``ipa`` at ``level``; create missing tables."""
        table = self._root
        for above in range(START_LEVEL, level):
            entry_pa = table + 8 * _index(ipa, above)
            entry = int.from_bytes(self._memory.read(entry_pa, 8), "little")
            if not entry & VALID:
                entry = self._new_table() | TABLE_TYPE
                self._memory.write(entry_pa, entry.to_bytes(8, "little"))
            table = entry & ADDRESS_MASK
        return table + 8 * _index(ipa, level)

    def _new_table(self) -> int:
        pa = self._allocator.allocate()
        self._memory.zero(pa, GRANULE_SIZE)
        self._tables.append(pa)
        return pa


def _index(ipa: int, level: int) -> int:
    return ipa >> level_shift(level) & TABLE_ENTRIES - 1
