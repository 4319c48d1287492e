"""A first-fit allocator of Non-secure DRAM, in granules."""

from bisect import bisect_left
from threading import Lock

from pyvmm.arch.pas import GRANULE_SIZE


class Allocator:
    """Allocates ranges of physical memory; sizes and alignments are bytes, whole granules.

    Single granules are reused in last-in-first-out order: the last one is warm in the cache.
    """

    def __init__(self, base: int, size: int) -> None:
        self._free = [(base, base + size)]  # ascending, not adjacent, [start, end)
        self._granules: list[int] = []  # freed single granules
        self._lock = Lock()

    def allocate(self, size: int = GRANULE_SIZE, align: int = GRANULE_SIZE) -> int:
        """Return the address of a free range; MemoryError if there is none.

        ``align`` is a power of two.
        """
        with self._lock:
            if self._granules and size == align == GRANULE_SIZE:
                return self._granules.pop()
            pa = self._carve(size, align)
            if pa is None and self._granules:
                self._merge_granules()
                pa = self._carve(size, align)
            if pa is None:
                raise MemoryError(f"no {size:#x} bytes of free DRAM")
            return pa

    def free(self, pa: int, size: int = GRANULE_SIZE) -> None:
        """Free a range."""
        with self._lock:
            if size == GRANULE_SIZE:
                self._granules.append(pa)
            else:
                self._insert(pa, pa + size)

    @property
    def free_size(self) -> int:
        """The number of free bytes, in all ranges."""
        with self._lock:
            ranges = sum(end - start for start, end in self._free)
            return ranges + len(self._granules) * GRANULE_SIZE

    def _carve(self, size: int, align: int) -> int | None:
        for n, (start, end) in enumerate(self._free):
            pa = (start + align - 1) & -align
            if pa + size <= end:
                rest = [(start, pa), (pa + size, end)]
                self._free[n : n + 1] = [(low, high) for low, high in rest if low < high]
                return pa
        return None

    def _merge_granules(self) -> None:
        for pa in self._granules:
            self._insert(pa, pa + GRANULE_SIZE)
        self._granules.clear()

    def _insert(self, start: int, end: int) -> None:
        n = bisect_left(self._free, (start, end))
        if n < len(self._free) and self._free[n][0] == end:
            end = self._free.pop(n)[1]
        if n and self._free[n - 1][1] == start:
            n -= 1
            start = self._free.pop(n)[0]
        self._free.insert(n, (start, end))
