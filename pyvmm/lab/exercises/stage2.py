"""Lesson 2: the second stage of translation."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Final, cast

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.stage2 import (
    PAGE_LEVEL,
    RAM_ATTRIBUTES,
    TABLE_TYPE,
    VALID,
    block_or_page,
    level_size,
)
from pyvmm.lab.bare import Bare
from pyvmm.lab.exercise import Case, case, exercise, wanted

_AF: Final = 1 << 10
_PAGE: Final = 0b10  # of bits [1:0]: not a block

TEMPLATE: Final = '''
def translate(read, table, ipa):
    """Return the physical address, or None for a fault."""
    level = 1
    return None
'''

Translate = Callable[[Callable[[int], int], int, int], int | None]


@exercise(2, TEMPLATE)
def stage2(module: ModuleType) -> Iterator[Case]:
    """Walk stage-2 tables: translate an IPA to a PA.

    Define translate(read, table, ipa).  `read(pa)` returns the 64-bit entry at a physical address,
    `table` is the PA of the start table, which is at level 1.  Granules are 4 KiB, so each table
    has 512 entries, an entry of level 1 covers 1 GiB, of level 2 2 MiB, of level 3 4 KiB.

    An entry with bit 0 clear is invalid.  With bits [1:0] = 0b11 it is a table at levels 1 and 2, a
    page at level 3; with 0b01 it is a block at levels 1 and 2, and invalid at level 3.  Bits
    [47:12] hold the address: of the next table, or of the block or page, whose low bits come from
    the IPA.  A block or page whose Access flag (bit 10) is clear faults.

    The answers are those of the machine's own walker, which is in C: `pyvmm/core/mmu.c`.
    """
    translate = cast("Translate", wanted(module, "translate"))
    tables = _Tables(random.Random(2))  # noqa: S311  not for cryptography
    for ipa in tables.addresses:
        pa = tables.translate(ipa)
        yield case(f"translate {ipa:#x}", pa, partial(translate, tables.read, tables.root, ipa))


class _Tables:
    """Tables with entries of all kinds, and a PE that uses them."""

    def __init__(self, chance: random.Random) -> None:
        self._bare = Bare("")
        self.root, middle, last = (self._bare.page() for _ in range(3))
        self._bare.context.vttbr_el2 = self.root
        base = chance.randrange(1, 512) * level_size(1)
        block = self._bare.ram_pa | RAM_ATTRIBUTES | block_or_page(2)
        page = self._bare.ram_pa | RAM_ATTRIBUTES | block_or_page(PAGE_LEVEL)
        pages = [page + n * GRANULE_SIZE for n in chance.sample(range(512), 4)]
        self._fill(self.root, base // level_size(1), middle | TABLE_TYPE)
        self._fill(middle, 0, last | TABLE_TYPE, block, block & ~_AF, block & ~VALID)
        self._fill(last, 0, *pages, page & ~_AF, page & ~_PAGE, page & ~VALID)
        self.addresses = [
            base + n * size + chance.randrange(0, size, 8)
            for size, numbers in ((GRANULE_SIZE, range(8)), (level_size(2), range(1, 5)))
            for n in numbers
        ]
        self.addresses.append(base ^ level_size(1))

    def _fill(self, table: int, index: int, *entries: int) -> None:
        data = b"".join(entry.to_bytes(8, "little") for entry in entries)
        self._bare.memory.write(table + 8 * index, data)

    def read(self, pa: int) -> int:
        """Return an entry."""
        return int.from_bytes(self._bare.memory.read(pa, 8), "little")

    def translate(self, ipa: int) -> int | None:
        """Return what the machine's walker finds."""
        fault, pa, *_ = self._bare.pe.translate(self._bare.context, ipa)
        return None if fault else pa
