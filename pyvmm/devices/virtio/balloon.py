"""Memory balloon: the guest lends pages to the host, and reports memory statistics.

Spec: virtio 1.2, "Traditional Memory Balloon Device".  Not implemented: free page hinting and
reporting, page poison; the guest may use lent pages again without asking first.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from struct import Struct, iter_unpack
from threading import Condition
from typing import ClassVar, Final

from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import Chain, VirtQueue

PAGE_SIZE: Final = 4096  # independent of the guest's page size
_INFLATE, _DEFLATE, _STATISTICS = 0, 1, 2
_config = Struct("<II").pack  # num_pages, actual
_ACTUAL_OFFSET: Final = 4
#: Longest list of pages taken from one chain; drivers send 256 at a time.
MAX_LIST: Final = 1 << 16
MAX_STATISTICS: Final = 1 << 10


class BalloonFeature(IntEnum):
    """Offered feature bits."""

    STATS_VQ = 1 << 1
    DEFLATE_ON_OOM = 1 << 2


class Tag(IntEnum):
    """The kind of a statistic; values are bytes or counts."""

    SWAP_IN = 0
    SWAP_OUT = 1
    MAJOR_FAULTS = 2
    MINOR_FAULTS = 3
    FREE_MEMORY = 4
    TOTAL_MEMORY = 5
    AVAILABLE_MEMORY = 6
    DISK_CACHES = 7
    HUGETLB_ALLOCATIONS = 8
    HUGETLB_FAILURES = 9
    OOM_KILLS = 10
    ALLOCATION_STALLS = 11
    ASYNC_SCANS = 12
    DIRECT_SCANS = 13
    ASYNC_RECLAIMS = 14
    DIRECT_RECLAIMS = 15


_NAMES: Final[Mapping[int, str]] = {tag.value: tag.name.lower() for tag in Tag}


class VirtioBalloon(VirtioDevice):
    """Three queues: pages lent, pages taken back, statistics.

    Args:
        release: called with address and size (bytes) of lent memory, whose contents are lost.
            Raises DmaFault if it is not the guest's memory.

    Concurrency: ``resize`` and ``ask`` may be called from any thread.
    """

    device_id = 5
    queue_sizes: tuple[int, ...] = (128, 128, 64)
    counter_names: ClassVar[tuple[str, ...]] = ("inflated_bytes", "deflated_bytes")
    features: int = BalloonFeature.STATS_VQ | BalloonFeature.DEFLATE_ON_OOM

    def __init__(self, release: Callable[[int, int], None]) -> None:
        self._release = release
        self._target = 0  # pages
        self._actual = 0
        self._waiting: Chain | None = None  # the driver's buffer, until the next `ask`
        self._statistics: dict[str, int] = {}
        self._num_answers = 0
        self._answered = Condition()

    @property
    def has_driver(self) -> bool:
        """Whether the guest has a driver for the balloon."""
        return bool(self.queues) and self.queues[_INFLATE].is_ready

    @property
    def target(self) -> int:
        """Bytes requested from the guest."""
        return self._target * PAGE_SIZE

    @property
    def actual(self) -> int:
        """Bytes lent, as the guest reports."""
        return self._actual * PAGE_SIZE

    def resize(self, size: int) -> None:
        """Ask the guest to lend ``size`` bytes, rounded down to pages."""
        with self.transport:
            self._target = size // PAGE_SIZE
            self.transport.config_changed()

    def ask(self, timeout: float) -> dict[str, int]:
        """Return the guest's statistics, new ones if it answers within ``timeout`` seconds."""
        with self._answered:
            before = self._num_answers
        with self.transport:
            if self._waiting is not None:
                self.queues[_STATISTICS].push_used(self._waiting, 0)
                self._waiting = None
        with self._answered:
            self._answered.wait_for(lambda: self._num_answers != before, timeout)
            return dict(self._statistics)

    def config(self) -> bytes:
        """Return the requested and the reported number of pages."""
        return _config(self._target, self._actual)

    def write_config(self, offset: int, data: bytes) -> None:
        """Record how much the guest has lent."""
        if offset == _ACTUAL_OFFSET and len(data) == 4:
            self._actual = int.from_bytes(data, "little")

    def notify(self, queue: VirtQueue) -> None:
        """Process pages or statistics."""
        for chain in queue.available():
            if queue.index == _STATISTICS:
                self._take_statistics(queue, chain)
                continue
            data = chain.read(MAX_LIST)
            if queue.index == _INFLATE:
                for page, count in runs(data):
                    self._release(page * PAGE_SIZE, count * PAGE_SIZE)
            name = "inflated_bytes" if queue.index == _INFLATE else "deflated_bytes"
            self.counters[name] += len(data) // 4 * PAGE_SIZE
            queue.push_used(chain, 0)

    def reset(self) -> None:
        """Forget the driver; the next one may use lent pages again."""
        super().reset()
        self._actual = 0
        self._waiting = None

    def _take_statistics(self, queue: VirtQueue, chain: Chain) -> None:
        """Keep the statistics, and the buffer until the next `ask`."""
        if self._waiting is not None:  # a driver should have one buffer; return the others
            queue.push_used(self._waiting, 0)
        self._waiting = chain
        with self._answered:
            self._statistics = parse_statistics(chain.read(MAX_STATISTICS))
            self._num_answers += 1
            self._answered.notify_all()


def runs(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield runs of adjacent pages in a list of page numbers as (first, count).

    >>> list(runs(bytes.fromhex("05000000 06000000 04000000 09000000 ff")))
    [(4, 3), (9, 1)]
    """
    pages = sorted(page for (page,) in iter_unpack("<I", data[: len(data) & -4]))
    first, count = -1, 0
    for page in pages:
        if page == first + count:
            count += 1
        elif page > first + count or count == 0:
            if count:
                yield first, count
            first, count = page, 1
    if count:
        yield first, count


def parse_statistics(data: bytes) -> dict[str, int]:
    """Return statistics by name, without unknown tags.

    >>> parse_statistics(bytes.fromhex("0400 0010000000000000 6300 0100000000000000 05"))
    {'free_memory': 4096}
    """
    whole = data[: len(data) // 10 * 10]
    return {_NAMES[tag]: value for tag, value in iter_unpack("<HQ", whole) if tag in _NAMES}
