"""A model of RMI 2.0's range commands: what each IPA of a few tables maps to.

It predicts x0 to x3 and the list of a command entry by entry, from the rules of a range: it stops
at the end of a table, or where something does not fit, and fails only if that is the first entry.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import Ripas
from tests.rmm.world2 import INPUT, LIST, NONE, RTT, SINGLE, SUCCESS, desc

PAGE, REGION = GRANULE_SIZE, 2 << 20
GIB = 1 << 30
UNPROTECTED = 1 << 32
LIST_ROOM = 512


@dataclass(frozen=True)
class Given:
    """An RmiAddrRangeDesc of a host."""

    pa: int
    count: int
    is_block: bool  # of 2 MB, otherwise pages
    state: int

    @property
    def word(self) -> int:
        """The descriptor."""
        return desc(self.pa, self.count, int(self.is_block), self.state)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * (REGION if self.is_block else PAGE)


@dataclass
class Entry:
    """An entry of a table: a page, or 2 MB where there is no table."""

    ripas: int = Ripas.EMPTY
    pa: int | None = None
    attributes: int = 0  # of shared memory

    def part(self, offset: int) -> "Entry":
        """Return the entry of a table below for a part of it."""
        return Entry(self.ripas, None if self.pa is None else self.pa + offset, self.attributes)


@dataclass
class Answer:
    """The results of a command."""

    results: tuple[int, int, int, int]
    listed: list[int] = field(default_factory=list)


def failure(level: int) -> Answer:
    """Return the answer if something is in the way at once."""
    return Answer((RTT | level << 8, 0, 0, 0))


class Model:
    """One realm's memory: ``entries`` by IPA, one for each 2 MB, or for each page of them."""

    def __init__(self, free: Sequence[int], regions: Sequence[int]) -> None:
        """``free`` is what can become the realm's memory."""
        self.free = set(free)
        self.entries = {region: Entry() for region in regions}
        self.tables: set[int] = set()

    def split(self, region: int) -> None:
        """Create a table for 2 MB."""
        whole = self.entries[region]
        self.tables.add(region)
        for offset in range(0, REGION, PAGE):
            self.entries[region + offset] = whole.part(offset)

    def leaf(self, base: int, top: int) -> tuple[int, int, int]:
        """Return the level of the last table, the size of its entries, and where it ends."""
        region = base & -REGION
        if region in self.tables:
            return 3, PAGE, min(top, region + REGION)
        return 2, REGION, min(top, (base & -GIB) + GIB)

    # --- mapping --------------------------------------------------------------------------

    def map(self, base: int, top: int, given: Sequence[Given], attributes: int) -> Answer:
        """Map memory, which is shared if it has attributes."""
        if not given[0].count or (given[0].state and not attributes):
            return Answer((INPUT, 0, 0, 0))
        level, size, end = self.leaf(base, top)
        if (level == 2 and not given[0].is_block) or base % size or top - base < size:
            return failure(level)
        ipa = base
        for pa in self._offered(given, size, end - base):
            entry = self.entries.get(ipa, Entry())
            if ipa in self.tables and size == REGION:
                break
            is_same = entry.pa == pa and not attributes
            if not is_same and (entry.pa is not None or not self._take(pa, size, attributes)):
                break
            self.entries[ipa] = Entry(entry.ripas, pa, attributes)
            ipa += size
        if ipa > base:
            return Answer((SUCCESS, ipa, 0, 0))
        is_in_way = (size == REGION and base in self.tables) or self.entries[base].pa is not None
        return failure(level) if attributes or is_in_way else Answer((INPUT, 0, 0, 0))

    @staticmethod
    def _offered(given: Sequence[Given], size: int, room: int) -> Iterator[int]:
        """Yield the PA for each entry in a row, as long as there are whole ones."""
        for each in given:
            count = min(each.size, room) // size
            if not count or each.pa % size or each.state != given[0].state:
                return
            yield from range(each.pa, each.pa + count * size, size)
            room -= count * size
            if each.size % size:
                return

    def _take(self, pa: int, size: int, attributes: int) -> bool:
        """Take memory for the realm, if it is all free; what is shared is not taken."""
        wanted = set(range(pa, pa + size, PAGE))
        if attributes:
            return True
        if not wanted <= self.free:
            return False
        self.free -= wanted
        return True

    # --- unmapping ------------------------------------------------------------------------

    def unmap(self, base: int, top: int, kind: int, limit: int) -> Answer:
        """Unmap what there is; ``limit`` is the number of descriptors, 0 for all that fit."""
        level, size, end = self.leaf(base, top)
        limit = {NONE: 1 << 60, SINGLE: 1, LIST: limit or LIST_ROOM}[kind]
        rows: list[tuple[Entry, int]] = []  # the first entry of each, and how many
        ipa, next_ipa = base, -1  # and where the last row goes on
        while ipa < end:
            at = ipa & -size
            entry = self.entries.get(at, Entry())
            if size == REGION and at in self.tables:
                break
            if entry.pa is None:
                ipa = at + size
                continue
            if ipa != at or ipa + size > end:
                break
            first, count = rows[-1] if rows else (Entry(), 0)
            goes_on = ipa == next_ipa and entry == first.part(count * size)
            if not goes_on and len(rows) == limit:
                break
            rows[-1:] = [(first, count + 1)] if goes_on else [*rows[-1:], (entry, 1)]
            self._clear(ipa, entry, size)
            ipa = next_ipa = ipa + size
        ipa = min(ipa, end)
        if ipa == base:
            return failure(level)
        words = [self._word(entry, count, size) for entry, count in rows]
        if kind == NONE:
            return Answer((SUCCESS, ipa, 0, 0))
        if kind == SINGLE:
            return Answer((SUCCESS, ipa, words[0] if words else 0, 0))
        return Answer((SUCCESS, ipa, 0, len(words)), words)

    def _clear(self, ipa: int, entry: Entry, size: int) -> None:
        assert entry.pa is not None
        ripas = entry.ripas
        if not entry.attributes:
            self.free |= set(range(entry.pa, entry.pa + size, PAGE))
            ripas = Ripas.EMPTY if ripas == Ripas.EMPTY else Ripas.DESTROYED
        self.entries[ipa] = Entry(ripas)

    @staticmethod
    def _word(entry: Entry, count: int, size: int) -> int:
        assert entry.pa is not None
        return desc(entry.pa, count, int(size == REGION), int(entry.attributes != 0))
