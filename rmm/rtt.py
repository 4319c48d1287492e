"""Realm translation tables: a realm's stage 2, in Realm memory, walked by the PEs in C.

The tables in memory are the only copy; for each one the RMM keeps a view and the number of its live
entries.  ``pyvmm.arch.stage2`` defines the encoding of the entries.

A live entry contains an address; a live table points to granules that the RMM manages.  So shared
memory, which is the host's, makes its entry live but not its table.  Spec: DEN0137 1.0, "RTTE
liveness and RTT liveness".
"""

from array import array
from typing import Final

from pyvmm.arch.events import EventStream, RttChange
from pyvmm.arch.machine import PhysicalMemory
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import Ripas
from pyvmm.arch.rsi import RsiStatus
from pyvmm.arch.stage2 import (
    ADDRESS_MASK,
    ASSIGNED,
    BLOCK_TYPE,
    LIVE,
    NS,
    PAGE_LEVEL,
    RAM_ATTRIBUTES,
    RIPAS_SHIFT,
    TABLE_ENTRIES,
    TABLE_TYPE,
    UNASSIGNED_NS,
    VALID,
    block_or_page,
    is_table,
    level_shift,
    level_size,
)
from rmm.errors import RealmPageMissing, RsiError
from rmm.protocols import Machine

_INDEX_MASK: Final = TABLE_ENTRIES - 1
_TYPE_MASK: Final = 0b11
_ENTRY_SIZE: Final = GRANULE_SIZE // TABLE_ENTRIES
#: 1 for each low byte of a live entry: finding a live entry is one search for a byte.
_IS_LIVE: Final = bytes(int(low & LIVE != 0) for low in range(256))


class Rtt:
    """A table: its address, views of its 512 entries, and its numbers of live and shared entries.

    The view stays valid between commands: an RTT granule stays in the Realm PAS until the RMM
    undelegates it after destroying the table.
    """

    __slots__ = ("entries", "live", "pa", "shared")

    def __init__(self, pa: int, memory: PhysicalMemory) -> None:
        self.pa = pa
        self.entries = memory.view(pa, GRANULE_SIZE).cast("Q")
        self.live = 0
        self.shared = 0  # live entries that are ASSIGNED_NS

    @property
    def is_live(self) -> bool:
        """Whether an entry is ASSIGNED or a TABLE."""
        return self.live != self.shared

    def first_live(self, index: int) -> int:
        """Return the index of the first live entry from ``index`` on; 512 if there is none."""
        if not self.live:
            return TABLE_ENTRIES
        low_bytes = self.entries[index:].tobytes()[::_ENTRY_SIZE]
        return index + (low_bytes.translate(_IS_LIVE) + b"\1").index(1)

    def count_like(self, index: int, expected: "array[int]") -> int:
        """Return how many entries from ``index`` on are those expected, up to the first other."""
        here = self.entries[index : index + len(expected)].tobytes()
        found, wanted = (
            int.from_bytes(each, "little") for each in (here, expected.tobytes()[: len(here)])
        )
        different = found ^ wanted
        last = (different & -different).bit_length() - 1 if different else 8 * len(here)
        return last // (8 * _ENTRY_SIZE)

    def fill(self, entry: int, level: int) -> None:
        """Set the entries, at ``level``, to the equivalent of ``entry`` one level above."""
        self.entries[:] = memoryview(children_of(entry, level))
        self.live = TABLE_ENTRIES if entry & LIVE else 0
        self.shared = self.live if entry & NS else 0


#: The end of a walk: a table, the index of an entry in it, and the table's level.
Walk = tuple[Rtt, int, int]


class RttTree:
    """All tables of one realm.

    Concurrency: the caller holds the RMM's lock; PEs may walk the tables meanwhile.
    """

    __slots__ = (
        "_events", "_machine", "_start_shift", "ipa_bits", "protected_bits", "rd", "start",
        "start_level", "tables", "vmid",
    )  # fmt: skip

    def __init__(
        self,
        machine: Machine,
        events: EventStream,
        *,
        rd: int,
        vmid: int,
        ipa_bits: int,
        start_level: int,
        start: list[Rtt],
    ) -> None:
        self._machine = machine
        self._events = events
        self.rd = rd
        self.vmid = vmid
        self.ipa_bits = ipa_bits
        self.protected_bits = ipa_bits - 1
        self.start_level = start_level
        self._start_shift = level_shift(start_level)
        self.start = start
        self.tables: dict[int, Rtt] = {}  # without the start tables
        self._mark_unprotected_half()

    def _mark_unprotected_half(self) -> None:
        shift = self._start_shift
        for index in range(1 << (self.protected_bits - shift), 1 << (self.ipa_bits - shift)):
            self.start[index >> 9].entries[index & _INDEX_MASK] = UNASSIGNED_NS

    @property
    def is_live(self) -> bool:
        """Whether any start-level table is live."""
        return any(table.is_live for table in self.start)

    def is_protected(self, ipa: int) -> bool:
        """Check whether ``ipa`` is in the lower half of the IPA space."""
        return not ipa >> self.protected_bits

    def walk(self, ipa: int, level: int) -> Walk:
        """Walk down to ``level``, or to the last table; ``ipa`` must be in the IPA space."""
        reached = self.start_level
        shift = self._start_shift
        index = ipa >> shift
        table = self.start[index >> 9]
        index &= _INDEX_MASK
        while reached < level:
            entry = table.entries[index]
            if entry & _TYPE_MASK != TABLE_TYPE:
                break
            table = self.tables[entry & ADDRESS_MASK]
            reached += 1
            shift -= 9
            index = ipa >> shift & _INDEX_MASK
        return table, index, reached

    def set_entry(self, walk: Walk, ipa: int, entry: int) -> None:
        """Replace the entry at the end of a walk; no PE uses a valid one after the return."""
        table, index, level = walk
        old = table.entries[index]
        table.entries[index] = entry
        if old & LIVE:
            table.live -= 1
            table.shared -= old & NS != 0
        if entry & LIVE:
            table.live += 1
            table.shared += entry & NS != 0
        if old & VALID:
            size = level_size(level)
            self._machine.tlbi_ipa(self.vmid, ipa & -size, size)
        if self._events.listener is not None:
            self._events.listener(RttChange(self.rd, ipa, level, old, entry))

    def set_entries(self, walk: Walk, ipa: int, entries: "array[int]") -> None:
        """Replace entries in a row, alike but for their addresses, by others that are alike."""
        table, index, level = walk
        count, old, new = len(entries), table.entries[index], entries[0]
        if self._events.listener is not None:
            for n, entry in enumerate(entries):
                self.set_entry((table, index + n, level), ipa + n * level_size(level), entry)
            return
        table.entries[index : index + count] = memoryview(entries)
        is_live, was_live = new & LIVE != 0, old & LIVE != 0
        table.live += count * (is_live - was_live)
        table.shared += count * ((is_live and new & NS != 0) - (was_live and old & NS != 0))
        if old & VALID:
            self._machine.tlbi_ipa(self.vmid, ipa, count * level_size(level))

    def next_live(self, walk: Walk, ipa: int) -> int:
        """Return ``ipa`` if its entry is live, otherwise the end of the run of non-live entries.

        The run ends at the next live entry or at the end of the table.  Spec: DEN0137 1.0,
        RttSkipNonLiveEntries.
        """
        table, index, level = walk
        if table.entries[index] & LIVE:
            return ipa
        size = level_size(level)
        return (ipa & -size) + (table.first_live(index) - index) * size

    def ram_page(self, ipa: int) -> int:
        """Return the PA behind a protected IPA, for the RMM's own access on the realm's behalf.

        Raises: RsiError(ERROR_INPUT) if its RIPAS is EMPTY; RealmPageMissing if the host must
        provide the page first.
        """
        table, index, level = self.walk(ipa, PAGE_LEVEL)
        entry = table.entries[index]
        if entry & VALID:
            offset_mask = level_size(level) - 1
            return entry & ADDRESS_MASK & ~offset_mask | ipa & offset_mask
        if ripas_of(entry) == Ripas.EMPTY:
            raise RsiError(RsiStatus.ERROR_INPUT)
        raise RealmPageMissing(ipa, level)


def ripas_of(entry: int) -> int:
    """Return the RIPAS of an entry that is not a table; EMPTY for unprotected ones."""
    if entry & NS:
        return Ripas.EMPTY
    return Ripas.RAM if entry & VALID else entry >> RIPAS_SHIFT & 0b11


def ram_entry(pa: int, level: int) -> int:
    """Return an ASSIGNED/RAM entry."""
    return pa | RAM_ATTRIBUTES | block_or_page(level)


def assigned_entry(pa: int, ripas: int, level: int) -> int:
    """Return an ASSIGNED entry with any RIPAS; the realm can access it only if it is RAM."""
    if ripas == Ripas.RAM:
        return ram_entry(pa, level)
    return pa | ASSIGNED | ripas << RIPAS_SHIFT


def unassigned_entry(ripas: int) -> int:
    """Return an UNASSIGNED entry."""
    return ripas << RIPAS_SHIFT


def children_of(entry: int, level: int) -> "array[int]":
    """Return the 512 entries at ``level`` that are equivalent to ``entry`` one level above."""
    if not entry & LIVE:
        return array("Q", (entry,)) * TABLE_ENTRIES
    first = entry & ~_TYPE_MASK | block_or_page(level) if entry & VALID else entry
    return _contiguous(first, level)


def folded(entries: memoryview, level: int) -> int | None:
    """Return the entry one level above that is equivalent to a whole table at ``level``.

    None if the entries differ, are tables, or do not form an aligned block.
    """
    first = entries[0]
    if not first & LIVE:
        same = array("Q", (first,)) * TABLE_ENTRIES
        return first if entries.tobytes() == same.tobytes() else None
    if is_table(first, level) or (first & ADDRESS_MASK) % level_size(level - 1):
        return None
    if entries.tobytes() != _contiguous(first, level).tobytes():
        return None
    return first & ~_TYPE_MASK | BLOCK_TYPE if first & VALID else first


def _contiguous(first: int, level: int) -> "array[int]":
    return in_a_row(first, TABLE_ENTRIES, level_size(level))


def in_a_row(first: int, count: int, step: int) -> "array[int]":
    """Return ``count`` entries like the first, each with an address ``step`` higher."""
    return array("Q", range(first, first + count * step, step) if step else (first,) * count)
