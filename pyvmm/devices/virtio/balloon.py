"""Memory balloon: the guest lends pages to the host, and reports free pages and statistics.

Lent pages are lost until the guest takes them back, which it may do without asking first.  Free
pages remain the guest's: the host only drops their contents.

Spec: virtio 1.2, "Traditional Memory Balloon Device".  Not implemented: free page hinting, page
poison (a driver that depends on the contents of free pages then does not report them).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import IntEnum
from struct import Struct, iter_unpack
from threading import Condition
from typing import ClassVar, Final

from pyvmm.arch import saved
from pyvmm.arch.bits import MASK32
from pyvmm.arch.saved import State
from pyvmm.devices.virtio.device import Transport, VirtioDevice
from pyvmm.devices.virtio.queue import Chain, VirtQueue

PAGE_SIZE: Final = 4096  # independent of the guest's page size
_config = Struct("<II").pack  # num_pages, actual
_ACTUAL_OFFSET: Final = 4
#: Longest list of pages taken from one chain; drivers send 256 at a time.
MAX_LIST: Final = 1 << 16
MAX_STATISTICS: Final = 1 << 10


class _Queue(IntEnum):
    INFLATE = 0
    DEFLATE = 1
    STATISTICS = 2
    REPORTS = 3


class BalloonFeature(IntEnum):
    """Offered feature bits."""

    STATS_VQ = 1 << 1
    DEFLATE_ON_OOM = 1 << 2
    REPORTING = 1 << 5


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
    """Four queues: pages lent, pages taken back, statistics, free pages.

    Args:
        release: called with address and size (bytes) of memory whose contents are to be dropped.
            Raises DmaFault if it is not the guest's memory.

    Concurrency: ``resize`` and ``ask`` may be called from any thread.
    """

    device_id = 5
    queue_sizes: tuple[int, ...] = (128, 128, 64, 64)
    counter_names: ClassVar[tuple[str, ...]] = (
        *("inflated_bytes", "deflated_bytes", "reported_bytes"),
    )
    features: int = (
        BalloonFeature.STATS_VQ | BalloonFeature.DEFLATE_ON_OOM | BalloonFeature.REPORTING
    )

    def __init__(self, release: Callable[[int, int], None]) -> None:
        self._release = release
        self._target = 0  # pages
        self._actual = 0
        self._waiting: Chain | None = None  # the driver's buffer, until the next `ask`
        self._statistics: dict[str, int] = {}
        self._num_answers = 0
        self._answered = Condition()

    def attach(self, transport: Transport, queues: Sequence[VirtQueue]) -> None:
        """Connect the device to its transport."""
        super().attach(transport, queues)
        queues[_Queue.REPORTS].keeps_ranges = True

    @property
    def has_driver(self) -> bool:
        """Whether the guest has a driver for the balloon."""
        return bool(self.queues) and self.queues[_Queue.INFLATE].is_ready

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
                self.queues[_Queue.STATISTICS].push_used(self._waiting, 0)
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
            match queue.index:
                case _Queue.STATISTICS:
                    self._take_statistics(queue, chain)
                    continue
                case _Queue.REPORTS:
                    self._drop_free_pages(chain)
                case _:
                    self._take_list(queue.index, chain.read(MAX_LIST))
            queue.push_used(chain, 0)

    def save(self) -> State:
        """Return the sizes, and the buffer that waits for the next request of statistics."""
        waiting = -1 if self._waiting is None else self._waiting.head
        return saved.save(self, ("_target", "_actual")) | {"waiting": waiting}

    def load(self, state: State) -> None:
        """Set them."""
        saved.load(self, ("_target", "_actual"), state)
        self._target &= MASK32
        self._actual &= MASK32
        if state.get("waiting") != -1:
            self._waiting = Chain(saved.number(state, "waiting", 1 << 16))

    def reset(self) -> None:
        """Forget the driver; the next one may use lent pages again."""
        super().reset()
        self._actual = 0
        self._waiting = None

    def _take_list(self, index: int, data: bytes) -> None:
        """Process a list of the numbers of pages that are lent or taken back."""
        if index == _Queue.INFLATE:
            for page, count in runs(data):
                self._release(page * PAGE_SIZE, count * PAGE_SIZE)
        name = "inflated_bytes" if index == _Queue.INFLATE else "deflated_bytes"
        self.counters[name] += len(data) // 4 * PAGE_SIZE

    def _drop_free_pages(self, chain: Chain) -> None:
        """Give the host the memory of whole pages, which the guest does not use now."""
        if not self.acked_features & BalloonFeature.REPORTING:
            return  # this driver does not know what it loses
        for addr, size in chain.ranges:
            first, end = -(-addr // PAGE_SIZE) * PAGE_SIZE, (addr + size) // PAGE_SIZE * PAGE_SIZE
            if first < end:
                self._release(first, end - first)
                self.counters["reported_bytes"] += end - first

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
