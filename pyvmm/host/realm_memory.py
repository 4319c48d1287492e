"""The memory of a realm as its host manages it: tables, private pages, shared pages.

The realm's RAM is backed by one contiguous physical range: IPA ram_base + n is always the granule
at pa + n, whether the realm keeps it private (then the granule is delegated) or shares it (then it
is Non-secure and mapped at the unprotected alias).  So adjacent pages stay adjacent, a large shared
area can be one block, and private pages are protected from devices twice: by the record of shared
pages here and by the GPT.

Each page of RAM is in one of these states::

    UNBACKED --fault--> PRIVATE --the realm sets EMPTY--> SHARED
    UNBACKED --the realm sets EMPTY, or accesses the alias--> SHARED --it sets RAM--> HELD
    HELD --no device transfers to or from it any more--> UNBACKED

Concurrency: one lock guards everything; the RMM has its own.
"""

from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import partial
from threading import RLock
from typing import Final

from pyvmm.arch.machine import PhysicalMemory
from pyvmm.arch.pas import GRANULE_SHIFT
from pyvmm.arch.rmi import Ripas, RmiFid, RmiStatus, unpack_status
from pyvmm.arch.stage2 import PAGE_LEVEL, level_size
from pyvmm.host.allocator import Allocator
from pyvmm.host.dma import SharedMemory
from pyvmm.host.rmi import Rmi, RmiFailed

FAULT_AROUND: Final = 64  # granules mapped together at a fault
#: Bytes whose RIPAS changes in one step; the realm then asks for the rest, so it can be stopped.
RIPAS_STEP: Final = 16 << 20
BLOCK_LEVEL: Final = 2
BLOCK_SIZE: Final = level_size(BLOCK_LEVEL)
BLOCK_PAGES: Final = BLOCK_SIZE >> GRANULE_SHIFT


class PageState(IntEnum):
    """The state of a page of RAM."""

    UNBACKED = 0
    PRIVATE = 1
    SHARED = 2
    HELD = 3


UNBACKED: Final = int(PageState.UNBACKED)
PRIVATE: Final = int(PageState.PRIVATE)
SHARED: Final = int(PageState.SHARED)
HELD: Final = int(PageState.HELD)


class RealmMemory:
    """Everything that belongs to one realm descriptor except the RECs."""

    def __init__(
        self,
        rmi: Rmi,
        memory: PhysicalMemory,
        allocator: Allocator,
        *,
        ram_base: int,
        ram_size: int,
        alias: int,
        start_level: int,
    ) -> None:
        """Reserve the physical range; MemoryError if there is not enough DRAM.

        ``ram_base`` is a multiple of 2 MiB, so that blocks can map shared memory.
        """
        self._rmi = rmi
        self._allocator = allocator
        self._base = ram_base
        self._size = ram_size
        self._alias = alias
        self._start_level = start_level
        self._pa = allocator.allocate(ram_size, BLOCK_SIZE)
        self._lock = RLock()
        self._rd = 0
        self._tables: dict[tuple[int, int], int] = {}  # (IPA, level) -> granule
        self._state = bytearray(ram_size >> GRANULE_SHIFT)
        self._holds: dict[int, object] = {}  # by page number: its last change to HELD
        self._mapped_pages: set[int] = set()  # page numbers mapped at the alias
        self._mapped_blocks: set[int] = set()  # first page numbers of blocks mapped there
        self.dma = SharedMemory(memory, ram_base, ram_size, self._pa, alias)

    def attach(self, rd: int) -> None:
        """Set the realm that owns this memory."""
        self._rd = rd

    def is_ram(self, ipa: int) -> bool:
        """Check whether a (protected) IPA is in RAM."""
        return self._base <= ipa < self._base + self._size

    # --- building -------------------------------------------------------------------------

    def init_ripas(self, top: int) -> None:
        """Declare everything up to ``top`` as RAM, measured, with the largest table entries.

        A realm that never runs may declare more RAM than it has memory.
        """
        base = self._base
        while base < top:
            base = self._change_ripas(0, (RmiFid.RMI_RTT_INIT_RIPAS, self._rd, base, top))

    def create_data(self, ipa: int, source_pa: int, count: int) -> None:
        """Make private pages in a row with the measured contents of Non-secure granules in a row.

        Raises: ValueError if a page is not in RAM.
        """
        if not self.is_ram(ipa) or not self.is_ram(ipa + (count << GRANULE_SHIFT) - 1):
            raise ValueError(f"payload at {ipa:#x} is outside RAM")
        for page, here in self._rows(ipa, count):
            self._make_tables(0, page, PAGE_LEVEL)
            source = source_pa + page - ipa
            fill = partial(self._rmi.fill, self._rd, page, self._pa_of(page), source, here)
            self._give(0, page, here, fill)

    def _pa_of(self, ipa: int) -> int:
        return self._pa + ipa - self._base

    def _rows(self, ipa: int, count: int) -> Iterator[tuple[int, int]]:
        """Divide pages in a row by tables: yield the first IPA of each part and its pages."""
        end = ipa + (count << GRANULE_SHIFT)
        while ipa < end:
            next_ipa = min(end, (ipa | BLOCK_SIZE - 1) + 1)
            yield ipa, next_ipa - ipa >> GRANULE_SHIFT
            ipa = next_ipa

    def _give(self, pe: int, ipa: int, count: int, create: Callable[[], None]) -> None:
        """Delegate granules in a row and make pages of them; take back what the RMM refuses."""
        data, given = self._pa_of(ipa), count
        self._rmi.delegate(pe, data, count)
        try:
            create()
        except RmiFailed as failure:
            given = failure.done
            self._rmi.undelegate(pe, data + (given << GRANULE_SHIFT), count - given)
            raise
        finally:
            self._set_state(ipa, given, PRIVATE)

    def _set_state(self, ipa: int, count: int, state: int) -> None:
        first = ipa - self._base >> GRANULE_SHIFT
        self._state[first : first + count] = bytes((state,)) * count

    # --- faults ---------------------------------------------------------------------------

    def back(self, pe: int, ipa: int) -> None:
        """Back the private page that the realm accessed, and unbacked ones around it.

        A page that is held stays as it is: the realm repeats its access until it is not.
        """
        page = ipa - self._base >> GRANULE_SHIFT
        with self._lock:
            if self._state[page] == SHARED:
                self._unshare(pe, page)
            first = page - page % FAULT_AROUND
            self._make_tables(pe, ipa, PAGE_LEVEL)
            for start, count in self._runs(first, first + FAULT_AROUND, UNBACKED):
                self._back_pages(pe, start, count)

    def _back_pages(self, pe: int, page: int, count: int) -> None:
        ipa = self._base + (page << GRANULE_SHIFT)
        back = partial(self._rmi.back, pe, self._rd, ipa, self._pa_of(ipa), count)
        self._give(pe, ipa, count, back)

    def share(self, pe: int, ipa: int) -> bool:
        """Map the page at its alias because the realm accessed it there.

        Returns: False if the realm keeps the page private; its data would be lost.
        """
        page = ipa - self._base >> GRANULE_SHIFT
        with self._lock:
            if self._state[page] == PRIVATE:
                return False
            self._set_shared(ipa, ipa + 1)
            first = page - page % BLOCK_PAGES
            if page in self._mapped_pages or first in self._mapped_blocks:
                return True  # another vCPU has done it already
            if self._is_shared_block(first):
                self._map_shared(pe, first, BLOCK_LEVEL)
                self._mapped_blocks.add(first)
            else:
                self._map_shared(pe, page, PAGE_LEVEL)
                self._mapped_pages.add(page)
            return True

    def _is_shared_block(self, first: int) -> bool:
        """Check whether one block descriptor can map the 2 MiB from a page on."""
        alias = self._base + (first << GRANULE_SHIFT) | self._alias
        if alias & BLOCK_SIZE - 1 or (alias, PAGE_LEVEL) in self._tables:
            return False
        return self._state[first : first + BLOCK_PAGES] == bytes([SHARED]) * BLOCK_PAGES

    def _map_shared(self, pe: int, page: int, level: int) -> None:
        offset = page << GRANULE_SHIFT
        alias = self._base + offset | self._alias
        self._make_tables(pe, alias, level)
        self._rmi.share(pe, self._rd, alias, self._pa + offset, level)

    def _set_shared(self, base: int, top: int) -> None:
        """Mark the pages of [base, top) as shared with devices."""
        first = base - self._base >> GRANULE_SHIFT
        end = (top - 1 - self._base >> GRANULE_SHIFT) + 1
        self._state[first:end] = bytes([SHARED]) * (end - first)
        self.dma.is_shared[first:end] = b"\1" * (end - first)

    def _unshare(self, pe: int, page: int) -> None:
        """Hold a shared page, and unmap it, or the block that contains it."""
        first = page - page % BLOCK_PAGES
        if first in self._mapped_blocks:
            self._mapped_blocks.remove(first)
            self._unmap_shared(pe, first, BLOCK_LEVEL)
        elif page in self._mapped_pages:
            self._mapped_pages.remove(page)
            self._unmap_shared(pe, page, PAGE_LEVEL)
        self._state[page] = HELD
        self._holds[page] = hold = object()
        self.dma.is_shared[page] = 0
        self.dma.transfers.after(partial(self._let_go, page, hold))

    def _let_go(self, page: int, hold: object) -> None:
        """Make a page unbacked, unless it has been shared or held again meanwhile."""
        with self._lock:
            if self._holds.get(page) is hold:
                del self._holds[page]
                if self._state[page] == HELD:
                    self._state[page] = UNBACKED

    def _unmap_shared(self, pe: int, page: int, level: int) -> None:
        alias = self._base + (page << GRANULE_SHIFT) | self._alias
        self._rmi.unshare(pe, self._rd, alias, level)

    # --- RIPAS changes --------------------------------------------------------------------

    def change_ripas(self, pe: int, rec: int, base: int, top: int, ripas: int) -> bool:
        """Change the first part of [base, top) as the realm requested; return False to refuse."""
        end = min(top, self._base + self._size, (base & -RIPAS_STEP) + RIPAS_STEP)
        if not self.is_ram(base):
            return False
        with self._lock:
            if ripas == Ripas.RAM:
                for page in self._pages(base, end, SHARED):
                    self._unshare(pe, page)
            reached = self._set_ripas(pe, rec, base, end)
            if ripas == Ripas.EMPTY:
                self._destroy_pages(pe, base, reached)
                self._set_shared(base, reached)
        return True

    def _set_ripas(self, pe: int, rec: int, base: int, top: int) -> int:
        """Change entry by entry; return the end of the range that the RMM changed."""
        while base < top:
            reached = self._change_ripas(pe, (RmiFid.RMI_RTT_SET_RIPAS, self._rd, rec, base, top))
            if reached <= base:
                break
            base = reached
        return base

    def _change_ripas(self, pe: int, call: tuple[int, ...]) -> int:
        """Do one step of INIT_RIPAS or SET_RIPAS, splitting an entry that is too large."""
        base, result, reached = call[-2], 0, 0
        for _ in range(PAGE_LEVEL + 1):
            result, reached, *_ = (*self._rmi.smc(pe, call), 0)
            status, level = unpack_status(result)
            if status == RmiStatus.SUCCESS:
                return reached
            if status != RmiStatus.ERROR_RTT or level >= PAGE_LEVEL:
                break
            self._make_tables(pe, base, level + 1)
        raise RmiFailed(RmiFid(call[0]), call[1:], result)

    def _pages(self, base: int, top: int, state: int) -> Iterator[int]:
        """Yield the pages of a range that are in a state; they may be changed on the way."""
        page, end = base - self._base >> GRANULE_SHIFT, top - self._base >> GRANULE_SHIFT
        while (page := self._state.find(state, page, end)) >= 0:
            yield page
            page += 1

    def _runs(self, first: int, end: int, state: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of pages in a state, by number: the first one and how many there are."""
        rest = self._state[first:end]
        while rest.count(state):
            skipped = rest.index(state)
            count = len(rest) - skipped - len(rest[skipped:].lstrip(bytes((state,))))
            yield first + skipped, count
            first += skipped + count
            rest = rest[skipped + count :]

    def _destroy_pages(self, pe: int, base: int, top: int) -> None:
        """Destroy the private pages of a range."""
        first, end = base - self._base >> GRANULE_SHIFT, top - self._base >> GRANULE_SHIFT
        for start, count in self._runs(first, end, PRIVATE):
            ipa = self._base + (start << GRANULE_SHIFT)
            self._rmi.take(pe, self._rd, ipa, count)
            self._rmi.undelegate(pe, self._pa_of(ipa), count)
            self._set_state(ipa, count, UNBACKED)

    # --- tables ---------------------------------------------------------------------------

    def _make_tables(self, pe: int, ipa: int, level: int) -> None:
        """Create the missing tables, so that an entry for ``ipa`` at ``level`` exists."""
        if (ipa & -level_size(level - 1), level) in self._tables:
            return
        for each in range(self._start_level + 1, level + 1):
            start = ipa & -level_size(each - 1)
            if (start, each) not in self._tables:
                table = self._allocator.allocate()
                self._rmi.delegate(pe, table)
                try:
                    self._rmi.call(pe, RmiFid.RMI_RTT_CREATE, self._rd, table, start, each)
                except RmiFailed:
                    self._rmi.undelegate(pe, table)
                    self._allocator.free(table)
                    raise
                self._tables[start, each] = table

    # --- the end --------------------------------------------------------------------------

    def destroy(self) -> None:
        """Take every page and table back from the realm, which must not run any longer."""
        end = self._base + self._size
        self._destroy_pages(0, self._base, end)
        self._unshare_all()
        for start, level in sorted(self._tables, key=lambda key: -key[1]):
            self._rmi.call(0, RmiFid.RMI_RTT_DESTROY, self._rd, start, level)
            table = self._tables.pop((start, level))
            self._rmi.undelegate(0, table)
            self._allocator.free(table)

    def _unshare_all(self) -> None:
        """Take all shared memory back for good: no page of it becomes private again."""
        for first in self._mapped_blocks:
            self._unmap_shared(0, first, BLOCK_LEVEL)
        for page in self._mapped_pages:
            self._unmap_shared(0, page, PAGE_LEVEL)
        self._mapped_blocks.clear()
        self._mapped_pages.clear()
        self._state[:] = bytes((UNBACKED,)) * len(self._state)
        self.dma.is_shared[:] = bytes(len(self._state))

    def close(self) -> None:
        """Free the physical range."""
        self._allocator.free(self._pa, self._size)
