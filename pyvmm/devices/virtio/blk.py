"""Block device: translates requests to reads and writes of an injected disk.

A request that the host can serve at once, from memory, is answered before the notification returns;
the others are handed to an executor and answered when they are done, in any order.  A flush begins
when all changes that the driver requested before it are done.

Spec: virtio 1.2, "Block Device".  Not implemented: multi-queue, zoned storage, secure erase,
lifetime.
"""

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from struct import Struct
from threading import Condition
from typing import ClassVar, Protocol

from pyvmm.arch.errors import UserError
from pyvmm.arch.saved import State
from pyvmm.devices.buffers import fill, split
from pyvmm.devices.virtio import bounce
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import Chain, VirtQueue, never
from pyvmm.devices.workers import Executor

SECTOR_SIZE = 512
_HEADER_SIZE = 16
_ID_SIZE = 20
_read_header = Struct("<IIQ").unpack_from  # type, reserved, sector
_segments = Struct("<QII")  # sector, num_sectors, flags
_UNMAP = 1  # the one flag of a segment

_OK, _IOERR, _UNSUPP = 0, 1, 2

QUEUE_SIZE = 512  # with one page more than 1 MiB has, a request of that size is one chain
MAX_DATA_SEGMENTS = QUEUE_SIZE - 2  # a direct chain also needs the header and the status
MAX_SEGMENT_SIZE = 4 << 20
#: Bytes of one request: the maximum within the limits above.  Buffers may overlap, so the size of
#: guest memory is not a limit.
MAX_REQUEST = 1 << 30
#: Requests handed to the executor and not answered: a driver may offer buffers again and again.
MAX_OUTSTANDING = 256
#: The longest read that a vCPU's thread copies itself if the host has the data in memory.
MAX_IMMEDIATE = 64 << 10
#: Bytes transferred, or erased, between two checks whether the guest has ended.
STEP = 8 << 20
ERASE_STEP = 64 << 20
#: Seconds that a reset waits for running transfers before the driver has to repeat it.
RESET_PATIENCE = 0.02
MAX_DISCARD_SECTORS = 1 << 22  # 2 GiB per segment: few segments, but each returns soon
MAX_DISCARD = MAX_DISCARD_SECTORS * SECTOR_SIZE
MAX_DISCARD_SEGMENTS = 64

_config = Struct("<QII4xI BBHI Bx2x III II Bxxx").pack
#: Reads or writes at an offset.
Move = Callable[[int, list[memoryview]], None]


class BlkFeature(IntEnum):
    """Offered feature bits."""

    SIZE_MAX = 1 << 1
    SEG_MAX = 1 << 2
    RO = 1 << 5
    BLK_SIZE = 1 << 6
    FLUSH = 1 << 9
    TOPOLOGY = 1 << 10
    DISCARD = 1 << 13
    WRITE_ZEROES = 1 << 14


class Request(IntEnum):
    """Supported request types."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


class Disk(Protocol):
    """The host side: a persistent array of bytes; any thread may call.

    Offsets and sizes are bytes inside the disk.  Every method raises OSError if the host's
    storage fails.
    """

    @property
    def size(self) -> int:
        """Capacity, bytes."""
        ...

    @property
    def is_read_only(self) -> bool:
        """Whether writes are refused."""
        ...

    def read(self, offset: int, buffers: list[memoryview]) -> None:
        """Fill ``buffers``, one after the other."""
        ...

    def read_now(self, offset: int, buffers: list[memoryview]) -> bool:
        """Do the same if the host has the data in memory; otherwise return False."""
        ...

    def write(self, offset: int, buffers: list[memoryview]) -> None:
        """Store ``buffers``, one after the other."""
        ...

    def flush(self) -> None:
        """Flush all writes to stable storage."""
        ...

    def discard(self, offset: int, size: int) -> None:
        """Free the space if the storage can; the content is undefined afterwards."""
        ...

    def write_zeroes(self, offset: int, size: int, *, may_unmap: bool) -> None:
        """Make the range read as zeros; free its space if ``may_unmap``."""
        ...


class OwnedDisk(Disk, Protocol):
    """A disk as whoever has opened it sees it."""

    def close(self) -> None:
        """Close it; no request is under way."""
        ...

    def abandon(self) -> None:
        """Give up requests under way that do not end: they may fail, or stay behind."""
        ...


class _Refused(Exception):
    """A request that gets an error status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Request:
    """A request of the driver, until it is answered."""

    __slots__ = (
        "chain", "data", "generation", "into", "kind", "number", "offset", "segments", "size",
        "status", "transfer",
    )  # fmt: skip

    def __init__(self, chain: Chain, size: int, generation: int, transfer: int) -> None:
        self.chain = chain
        self.into, (self.status, *_) = split(chain.writable, size)
        self.size = size  # of the data, either way
        self.generation = generation  # of the queue
        self.transfer = transfer  # keeps the buffers valid
        self.number = 0  # by age
        self.kind = -1
        self.data: list[memoryview] = []
        self.offset = 0
        self.segments: list[tuple[int, int, int]] = []

    @property
    def is_change(self) -> bool:
        """Whether a later flush must wait for it."""
        return self.kind in _CHANGES


_CHANGES = (Request.OUT, Request.DISCARD, Request.WRITE_ZEROES)


class _Order:
    """The requests under way, by age, and the flushes that wait for older changes."""

    def __init__(self) -> None:
        self._num_requests = 0
        self._changes: dict[int, None] = {}
        self._flushes: deque[_Request] = deque()

    def admit(self, request: _Request) -> bool:
        """Add a request; return whether it may begin."""
        self._num_requests += 1
        request.number = self._num_requests
        if request.is_change:
            self._changes[request.number] = None
        elif request.kind == Request.FLUSH and self._changes:
            self._flushes.append(request)
            return False
        return True

    def done(self, request: _Request) -> list[_Request]:
        """Remove a request that is done; return the flushes that may begin now."""
        if not request.is_change:
            return []
        del self._changes[request.number]
        oldest = next(iter(self._changes), self._num_requests + 1)
        ready = []
        while self._flushes and self._flushes[0].number < oldest:
            ready.append(self._flushes.popleft())
        return ready


class VirtioBlk(VirtioDevice):
    """One queue of requests.

    Args:
        disk: the host side.
        executor: does what the host cannot do at once.
        serial: the answer to GET_ID, at most 20 bytes.
        pool_size: returns the size of the driver's bounce pool in bytes; None: it has none.
        is_write_through: a change is answered when it is on stable storage.
        on_failure: called when the host's storage fails, which the guest sees as an I/O error.
        is_over: returns whether the guest has ended; its requests are abandoned then.
    """

    device_id = 2
    queue_sizes: tuple[int, ...] = (QUEUE_SIZE,)
    counter_names: ClassVar[tuple[str, ...]] = (
        "reads", "read_bytes", "writes", "written_bytes", "flushes", "errors",
    )  # fmt: skip
    saved_names: ClassVar[tuple[str, ...] | None] = ()

    def __init__(
        self,
        disk: Disk,
        executor: Executor,
        serial: bytes = b"",
        *,
        pool_size: Callable[[], int] | None = None,
        is_write_through: bool = False,
        on_failure: Callable[[OSError], None] = lambda _: None,
        is_over: Callable[[], bool] = never,
    ) -> None:
        self._disk = disk
        self._executor = executor
        self._pool_size = pool_size
        self._is_over = is_over
        self._on_failure = on_failure
        self._serial = serial[:_ID_SIZE].ljust(_ID_SIZE, b"\0")
        self._num_sectors = disk.size // SECTOR_SIZE
        self._order = _Order()
        self._num_outstanding = 0
        self._transferring = Condition()  # guards the next one; taken inside the transport's lock
        self._num_transferring = 0  # requests in the hands of the disk
        self.features = BlkFeature.SIZE_MAX | BlkFeature.SEG_MAX
        self.features |= BlkFeature.BLK_SIZE | BlkFeature.TOPOLOGY
        if disk.is_read_only:
            self.features |= BlkFeature.RO
        else:
            self.features |= BlkFeature.DISCARD | BlkFeature.WRITE_ZEROES
            self.features |= 0 if is_write_through else BlkFeature.FLUSH

    def config(self) -> bytes:
        """Return capacity and limits; blocks have 512 bytes, best written eight at a time."""
        limits = MAX_SEGMENT_SIZE, MAX_DATA_SEGMENTS
        if self._pool_size is not None:
            limits = bounce.request_limits(self._pool_size())
        return _config(
            self._num_sectors, *limits, SECTOR_SIZE,
            3, 0, 8, 0,  # physical_block_exp, alignment_offset, min_io_size, opt_io_size
            1,  # writeback
            MAX_DISCARD_SECTORS, MAX_DISCARD_SEGMENTS, 8,  # discard_sector_alignment
            MAX_DISCARD_SECTORS, MAX_DISCARD_SEGMENTS, 1,  # write_zeroes_may_unmap
        )  # fmt: skip

    def save(self) -> State:
        """Return nothing but what all devices have: the host's files have the rest now.

        Raises:
            UserError: the host's storage fails.
        """
        if not self._disk.is_read_only:
            try:
                self._disk.flush()  # an image with metadata may not have them in its file yet
            except OSError as error:
                raise UserError(f"a disk cannot be flushed ({error.strerror}): try again") from None
        return super().save()

    @property
    def is_idle(self) -> bool:
        """Whether no request is outstanding."""
        return not self._num_outstanding

    def settle(self) -> bool:
        """Wait for the transfers of forgotten requests."""
        with self._transferring:
            return self._transferring.wait_for(lambda: not self._num_transferring, RESET_PATIENCE)

    # --- taking requests ----------------------------------------------------------------------

    def notify(self, queue: VirtQueue) -> None:
        """Take the available requests, as many as may be outstanding."""
        transfer = queue.begin_transfer()
        try:
            for chain in queue.available():
                if self._take(chain, transfer):
                    transfer = queue.begin_transfer()
                if self._num_outstanding >= MAX_OUTSTANDING:
                    break
        finally:
            queue.end_transfer(transfer)

    def _take(self, chain: Chain, transfer: int) -> bool:
        """Take one request; return False if it is answered already."""
        (queue,) = self.queues
        size = chain.writable_size - 1
        if size < 0:  # no room for the status
            queue.push_used(chain, 0)
            return False
        request = _Request(chain, size, queue.generation, transfer)
        try:
            self._read(request)
        except _Refused as refused:
            self._answer(request, refused.status)
            return False
        if self._is_served_now(request):
            self._answer(request, _OK)
            return False
        self._num_outstanding += 1
        if self._order.admit(request):
            self._executor.submit(partial(self._work, request))
        return True

    def _read(self, request: _Request) -> None:
        """Read and check what the driver requests."""
        out = request.chain.readable
        if out and len(out[0]) == _HEADER_SIZE:
            header: bytes | memoryview = out[0]
            request.data = out[1:]
        else:  # the driver chooses the layout of the buffers
            parts, request.data = split(out, _HEADER_SIZE)
            header = b"".join(parts)
            if len(header) < _HEADER_SIZE:
                raise _Refused(_IOERR)
        request.kind, _, sector = _read_header(header)
        match request.kind:
            case Request.IN:
                request.offset = self._offset(sector, request.size, MAX_REQUEST)
            case Request.OUT:
                request.size = sum(map(len, request.data))
                self._check_writable()
                request.offset = self._offset(sector, request.size, MAX_REQUEST)
            case Request.DISCARD | Request.WRITE_ZEROES:
                self._check_writable()
                request.segments = self._read_segments(request)
            case Request.FLUSH | Request.GET_ID:
                pass
            case _:
                raise _Refused(_UNSUPP)

    def _check_writable(self) -> None:
        if self._disk.is_read_only:
            raise _Refused(_IOERR)

    def _read_segments(self, request: _Request) -> list[tuple[int, int, int]]:
        """Return offset, size and flags of what to discard or zero, all of them checked."""
        raw = b"".join(split(request.data, MAX_DISCARD_SEGMENTS * _segments.size + 1)[0])
        if not raw or len(raw) % _segments.size:
            raise _Refused(_IOERR)  # more segments than the limit are not a multiple either
        allowed_flags = _UNMAP if request.kind == Request.WRITE_ZEROES else 0
        segments: list[tuple[int, int, int]] = []
        for sector, num_sectors, flags in _segments.iter_unpack(raw):
            if flags & ~allowed_flags:
                raise _Refused(_UNSUPP)
            size = num_sectors * SECTOR_SIZE
            segments.append((self._offset(sector, size, MAX_DISCARD), size, flags))
        return segments

    def _offset(self, sector: int, size: int, limit: int) -> int:
        """Return the byte offset of an access; it must cover whole sectors inside the disk."""
        if size > limit or size % SECTOR_SIZE:
            raise _Refused(_IOERR)
        if sector + size // SECTOR_SIZE > self._num_sectors:
            raise _Refused(_IOERR)
        return sector * SECTOR_SIZE

    def _is_served_now(self, request: _Request) -> bool:
        """Serve a request if that needs no waiting."""
        if request.kind == Request.IN:
            is_short = request.size <= MAX_IMMEDIATE
            return is_short and self._disk.read_now(request.offset, request.into)
        if request.kind == Request.GET_ID:
            request.size = fill(request.into, self._serial)
            return True
        return request.kind == Request.FLUSH and self._disk.is_read_only

    # --- serving requests: on the executor's threads --------------------------------------------

    def _work(self, request: _Request) -> None:
        """Serve a request and answer it, unless the driver has reset the device."""
        code, failure = _OK, None
        with self._transferring:
            is_wanted = self._is_wanted(request)
            self._num_transferring += is_wanted
        if is_wanted:
            try:
                self._perform(request)
            except _Refused as refused:
                code = refused.status
            except OSError as error:
                code, failure = _IOERR, error
            finally:
                with self._transferring:
                    self._num_transferring -= 1
                    self._transferring.notify_all()
        with self.transport:
            self._finish(request, code, failure)

    def _is_wanted(self, request: _Request) -> bool:
        return request.generation == self.queues[0].generation and not self._is_over()

    def _perform(self, request: _Request) -> None:
        match request.kind:
            case Request.IN:
                self._move(self._disk.read, request, request.into)
            case Request.OUT:
                self._move(self._disk.write, request, request.data)
            case Request.FLUSH:
                self._disk.flush()
            case _:
                self._erase(request)
        if request.is_change and not self.acked_features & BlkFeature.FLUSH:
            self._disk.flush()  # without flush requests, the driver relies on every write

    def _move(self, move: Move, request: _Request, buffers: list[memoryview]) -> None:
        """Read or write in steps."""
        offset, size = request.offset, request.size
        while size > STEP:
            part, buffers = split(buffers, STEP)
            move(offset, part)
            offset, size = offset + STEP, size - STEP
            self._check_wanted(request)
        move(offset, buffers)

    def _erase(self, request: _Request) -> None:
        """Discard or zero in steps."""
        for offset, size, flags in request.segments:
            for start in range(offset, offset + size, ERASE_STEP):
                self._check_wanted(request)
                part = min(ERASE_STEP, offset + size - start)
                if request.kind == Request.DISCARD:
                    self._disk.discard(start, part)
                else:
                    self._disk.write_zeroes(start, part, may_unmap=bool(flags))

    def _check_wanted(self, request: _Request) -> None:
        """Abandon a request if the guest has ended, or has reset the device."""
        if not self._is_wanted(request):
            raise _Refused(_IOERR)

    # --- answering ----------------------------------------------------------------------------

    def _finish(self, request: _Request, code: int, failure: OSError | None) -> None:
        """Answer a request, and start what waited for it; inside an activity."""
        (queue,) = self.queues
        was_full = self._num_outstanding >= MAX_OUTSTANDING
        self._num_outstanding -= 1
        for flush in self._order.done(request):
            self._executor.submit(partial(self._work, flush))
        if failure is not None:
            self._on_failure(failure)
        try:
            if request.generation == queue.generation:
                self._answer(request, code)
        finally:
            queue.end_transfer(request.transfer)
        if was_full:
            self.notify(queue)

    def _answer(self, request: _Request, code: int) -> None:
        """Count a request and return it to the driver."""
        written = 0
        if code != _OK:
            self.counters["errors"] += 1
        elif request.kind == Request.IN:
            self.counters["reads"] += 1
            self.counters["read_bytes"] += request.size
            written = request.size
        elif request.kind == Request.OUT:
            self.counters["writes"] += 1
            self.counters["written_bytes"] += request.size
        elif request.kind == Request.FLUSH:
            self.counters["flushes"] += 1
        elif request.kind == Request.GET_ID:
            written = request.size
        request.status[0] = code
        self.queues[0].push_used(request.chain, written + 1)
