"""The split virtqueue, device side.

Total over any ring content: a loop, a bad address or an impossible length raises ``QueueFault``
(or ``DmaFault``), which the transport turns into DEVICE_NEEDS_RESET; no other exception occurs.
Each descriptor is read exactly once, so a driver gains nothing by changing it meanwhile.
Spec: virtio 1.2, "Split Virtqueues".
"""

from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from threading import Lock

from pyvmm.arch import saved
from pyvmm.arch.saved import State
from pyvmm.devices.buffers import fill, split
from pyvmm.devices.dma import Dma

_DESC_NEXT, _DESC_WRITE, _DESC_INDIRECT = 1, 2, 4
_DESC_SIZE = 16
_INDICES = ("_available", "_next", "_used", "_published")
_SAVED = (
    *("size", "desc_addr", "driver_addr", "device_addr", "is_ready"),
    *("_has_event_idx", "_has_indirect", *_INDICES),
)
_AVAIL_NO_INTERRUPT = 1
_PAGE = 4096
_read_desc = Struct("<QIHH").unpack_from  # addr, len, flags, next
_read_u16 = Struct("<H").unpack_from
_write_u16 = Struct("<H").pack_into
_write_used = Struct("<II").pack_into  # id, len

#: Longest chain that is walked: the limit of one preadv() (IOV_MAX), so that no request needs two.
MAX_SEGMENTS = 1024
#: Longest chain of a driver in bytes.  Buffers beyond it are cut to ``_REST`` bytes: the device can
#: still answer in the last one, and mapping them costs little.
MAX_CHAIN = 1 << 32
_REST = 4096
MAX_QUEUE_SIZE = 1024


def never() -> bool:
    """Return False: there is no reason to stop early."""
    return False


class QueueFault(Exception):
    """Contents of a queue that the specification forbids."""


class Chain:
    """One request: the buffers to read and those to write, as views of guest memory."""

    __slots__ = ("head", "ranges", "readable", "writable")

    def __init__(self, head: int) -> None:
        self.head = head
        self.ranges: Sequence[tuple[int, int]] = ()  # address and size of what is writable
        self.readable: list[memoryview] = []
        self.writable: list[memoryview] = []

    @property
    def readable_size(self) -> int:
        """Bytes that the device may read."""
        return sum(map(len, self.readable))

    @property
    def writable_size(self) -> int:
        """Bytes that the device may write."""
        return sum(map(len, self.writable))

    def read(self, limit: int) -> bytes:
        """Return the first ``limit`` readable bytes, or all if there are fewer."""
        return b"".join(split(self.readable, limit)[0])

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Fill the writable buffers; return the number of bytes written."""
        return fill(self.writable, data)


class _Rings:
    """Views of a queue's three areas, for one activity."""

    __slots__ = ("avail", "desc", "used")

    def __init__(self, desc: memoryview, avail: memoryview, used: memoryview) -> None:
        self.desc = desc
        self.avail = avail
        self.used = used


class VirtQueue:
    """One queue: the transport configures it, the device pops chains and returns them as used.

    Concurrency: the transport's lock is held.
    """

    __slots__ = (
        "_available",
        "_dma",
        "_fence",
        "_has_event_idx",
        "_has_indirect",
        "_next",
        "_published",
        "_rings",
        "_used",
        "desc_addr",
        "device_addr",
        "driver_addr",
        "generation",
        "index",
        "is_cut",
        "is_ready",
        "keeps_ranges",
        "max_size",
        "must_leave",
        "size",
    )

    def __init__(self, index: int, max_size: int, dma: Dma) -> None:
        self.index = index
        self.max_size = max_size
        self.must_leave: Callable[[], bool] = never  # whether `available` must stop early
        self.generation = 0  # chains of an earlier one are not the driver's any more
        self.keeps_ranges = False  # whether a chain records where its writable buffers are
        self._dma = dma
        self._fence = Lock()
        self.reset()

    def reset(self) -> None:
        """Forget everything the driver set, and the chains that the device still has."""
        self.generation += 1
        self.size = self.max_size
        self.desc_addr = self.driver_addr = self.device_addr = 0
        self.is_ready = False
        self.is_cut = False  # `available` has stopped early
        self._has_event_idx = self._has_indirect = False
        self._available = 0  # avail.idx as last read
        self._next = 0  # next avail entry to pop
        self._used = 0  # next used entry to fill
        self._published = 0  # used.idx as the driver sees it
        self._rings: _Rings | None = None

    def save(self) -> State:
        """Return the state, outside of an activity."""
        return saved.save(self, _SAVED)

    def load(self, state: State) -> None:
        """Set the state.

        Raises:
            StateError: it is not the state of such a queue.
        """
        saved.load(self, _SAVED, state)
        for name in _INDICES:
            setattr(self, name, getattr(self, name) & 0xFFFF)
        if self.is_ready:
            try:
                self.enable(event_idx=self._has_event_idx, indirect=self._has_indirect)
            except QueueFault as fault:
                raise saved.StateError(str(fault)) from None

    def enable(self, *, event_idx: bool, indirect: bool) -> None:
        """Start using the queue as configured.

        Raises: QueueFault if its size or an alignment is not allowed.
        """
        size = self.size
        if not 0 < size <= self.max_size or size & (size - 1):
            raise QueueFault(f"queue {self.index}: size {size}")
        if self.desc_addr % 16 or self.driver_addr % 2 or self.device_addr % 4:
            raise QueueFault(f"queue {self.index}: misaligned")
        self._has_event_idx = event_idx
        self._has_indirect = indirect
        self.is_ready = True

    def available(self) -> Iterator[Chain]:
        """Pop all chains, then ask the driver to notify of the next one.

        A driver may offer chains without end, so this stops early if ``must_leave`` returns true,
        but not before the first chain, so that repeated attempts make progress.
        """
        self.is_cut = False
        while (chain := self.pop()) is not None:
            yield chain
            if self.must_leave():
                self.is_cut = True
                return

    def pop(self) -> Chain | None:
        """Return the next chain; without one, ask the driver to notify and return None."""
        if not self.is_ready:
            return None
        rings = self._rings or self._open()
        if self._next == self._available and not self._check_again(rings):
            return None
        (head,) = _read_u16(rings.avail, 4 + 2 * (self._next & (self.size - 1)))
        chain = self._walk(rings.desc, head)
        self._next = (self._next + 1) & 0xFFFF
        return chain

    def begin_transfer(self) -> int:
        """Keep the buffers popped from now on valid until ``end_transfer`` with the result."""
        return self._dma.begin_transfer()

    def end_transfer(self, transfer: int) -> None:
        """End a transfer: its buffers are not accessed any more."""
        self._dma.end_transfer(transfer)

    def peek(self, limit: int) -> tuple[int, list[Chain]]:
        """Return how many chains wait, and the first ``limit`` of them; pop none."""
        if not self.is_ready:
            return 0, []
        before, rings = self._rings, self._open()
        self._rings = before
        (end,) = _read_u16(rings.avail, 2)
        num_waiting = min((end - self._next) & 0xFFFF, self.size)
        places = range(self._next, self._next + min(num_waiting, limit))
        heads = (_read_u16(rings.avail, 4 + 2 * (at & (self.size - 1)))[0] for at in places)
        return num_waiting, [self._walk(rings.desc, head) for head in heads]

    def unpop(self, num_chains: int = 1) -> None:
        """Put back the last popped chains: the device cannot serve them now."""
        self._next = (self._next - num_chains) & 0xFFFF

    def push_used(self, chain: Chain, written: int) -> None:
        """Return a chain to the driver, with ``written`` bytes (fewer than 4 GiB) filled.

        The driver sees it at the end of the activity, together with the others of that activity.
        """
        rings = self._rings or self._open()
        _write_used(rings.used, 4 + 8 * (self._used & (self.size - 1)), chain.head, written)
        self._used = (self._used + 1) & 0xFFFF

    def publish(self) -> bool:
        """Publish the used buffers of an activity; return whether the driver wants an interrupt."""
        rings = self._rings
        self._rings = None
        old, new = self._published, self._used
        if rings is None or old == new:
            return False
        _write_u16(rings.used, 2, new)
        self._published = new
        self._full_barrier()
        if self._has_event_idx:
            used_event: int = _read_u16(rings.avail, 4 + 2 * self.size)[0]
            return (new - used_event - 1) & 0xFFFF < (new - old) & 0xFFFF
        flags: int = _read_u16(rings.avail, 0)[0]
        return not flags & _AVAIL_NO_INTERRUPT

    def _open(self) -> _Rings:
        size, view, base = self.size, self._dma.view, self.desc_addr
        driver, device = self.driver_addr - base, self.device_addr - base
        sizes = _DESC_SIZE * size, 6 + 2 * size, 6 + 8 * size
        if 0 <= driver - sizes[0] < _PAGE and 0 <= device - driver - sizes[1] < _PAGE:
            whole = view(base, device + sizes[2])  # as Linux places them: in the same pages
            self._rings = rings = _Rings(whole, whole[driver:device], whole[device:])
        else:
            self._rings = rings = _Rings(
                view(base, sizes[0]),
                view(self.driver_addr, sizes[1]),
                view(self.device_addr, sizes[2]),
            )
        return rings

    def _check_again(self, rings: _Rings) -> bool:
        """Read avail.idx; if it has not changed, set avail_event and read it again."""
        if self._read_available(rings):
            return True
        if not self._has_event_idx:
            return False  # used.flags never suppresses a notification
        _write_u16(rings.used, 4 + 8 * self.size, self._next)
        self._full_barrier()
        return self._read_available(rings)

    def _read_available(self, rings: _Rings) -> bool:
        idx: int = _read_u16(rings.avail, 2)[0]
        num_new = (idx - self._next) & 0xFFFF
        if num_new > self.size:
            raise QueueFault(f"queue {self.index}: {num_new} buffers in {self.size} entries")
        self._available = idx
        return num_new != 0

    def _walk(self, table: memoryview, head: int) -> Chain:
        """Collect the buffers of one chain; adjacent ones become one."""
        chain, view = Chain(head), self._dma.view
        ranges: list[tuple[int, int]] | None = None
        if self.keeps_ranges:
            chain.ranges = ranges = []
        elif head < self.size:
            addr, size, flags, _ = _read_desc(table, head * _DESC_SIZE)
            if flags == _DESC_WRITE:  # one buffer to fill, as most of a network card's
                chain.writable.append(view(addr, size))
                return chain
        buffers, start, end = chain.readable, 0, -1  # the last buffer, not mapped yet
        for addr, size, flags in self._descriptors(table, head):
            into = chain.writable if flags & _DESC_WRITE else chain.readable
            if ranges is not None and into is chain.writable:
                ranges.append((addr, size))
            if addr == end and into is buffers:
                end += size
                continue
            if end >= 0:
                buffers.append(view(start, end - start))
            if into is chain.readable and chain.writable:
                raise QueueFault(f"queue {self.index}: chain {head} reads after it writes")
            buffers, start, end = into, addr, addr + size
        buffers.append(view(start, end - start))
        return chain

    def _descriptors(self, table: memoryview, head: int) -> Iterator[tuple[int, int, int]]:
        """Yield address, size and flags along a chain, through its indirect table if it has one."""
        index, num_entries, is_indirect = head, self.size, False
        budget = num_entries  # a longer chain is a loop
        room = MAX_CHAIN
        while True:
            if index >= num_entries or not budget:
                raise QueueFault(f"queue {self.index}: chain {head} loops or leaves its table")
            budget -= 1
            addr, size, flags, index = _read_desc(table, index * _DESC_SIZE)
            if flags & _DESC_INDIRECT:
                if is_indirect or flags & _DESC_NEXT or not self._has_indirect:
                    raise QueueFault(f"queue {self.index}: chain {head} nests tables")
                table, is_indirect, index = self._dma.view(addr, size), True, 0
                num_entries, num_direct = size // _DESC_SIZE, self.size - 1 - budget
                budget = min(num_entries, MAX_SEGMENTS - num_direct)
                continue
            room -= size
            if room < 0:
                size = min(size, max(room + size, _REST))
            yield addr, size, flags
            if not flags & _DESC_NEXT:
                return

    def _full_barrier(self) -> None:
        """Order the preceding store before the following load; the driver does the reverse.

        Otherwise both sides could miss each other's store, and a notification would be lost.
        Taking a lock is an atomic read-modify-write, the only full barrier in Python.
        """
        with self._fence:
            pass
