"""Block device: translates requests to reads and writes of an injected disk.

Spec: virtio 1.2, "Block Device".  Not implemented: multi-queue, zoned storage, secure erase,
lifetime.
"""

from collections.abc import Callable
from enum import IntEnum
from struct import Struct
from typing import ClassVar, Protocol

from pyvmm.devices.virtio import bounce
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import Chain, VirtQueue, fill, never, split

SECTOR_SIZE = 512
_HEADER_SIZE = 16
_ID_SIZE = 20
_read_header = Struct("<IIQ").unpack_from  # type, reserved, sector
_segments = Struct("<QII")  # sector, num_sectors, flags
_UNMAP = 1  # the one flag of a segment

_OK, _IOERR, _UNSUPP = 0, 1, 2

QUEUE_SIZE = 256
MAX_DATA_SEGMENTS = QUEUE_SIZE - 2  # a direct chain also needs the header and the status
MAX_SEGMENT_SIZE = 4 << 20
#: Bytes of one request: the maximum within the limits above.  Buffers may overlap, so the size of
#: guest memory is not a limit.
MAX_REQUEST = 1 << 30
#: Bytes transferred, or erased, between two checks whether the guest has ended.
STEP = 8 << 20
ERASE_STEP = 64 << 20
MAX_DISCARD_SECTORS = 1 << 22  # 2 GiB per segment: few segments, but each returns soon
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
    """The host side: a persistent array of bytes.

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


class _Refused(Exception):
    """A request that gets an error status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class VirtioBlk(VirtioDevice):
    """One queue of requests, served in order and completed before the notification returns.

    Args:
        disk: the host side.
        serial: the answer to GET_ID, at most 20 bytes.
        is_bounced: the driver has a small bounce pool.
        on_failure: called when the host's storage fails, which the guest sees as an I/O error; on
            the thread of the vCPU.
        is_over: returns whether the guest has ended; its last request is abandoned then.
    """

    device_id = 2
    queue_sizes: tuple[int, ...] = (QUEUE_SIZE,)
    counter_names: ClassVar[tuple[str, ...]] = (
        "reads", "read_bytes", "writes", "written_bytes", "flushes", "errors",
    )  # fmt: skip

    def __init__(
        self,
        disk: Disk,
        serial: bytes = b"",
        *,
        is_bounced: bool = False,
        on_failure: Callable[[OSError], None] = lambda _: None,
        is_over: Callable[[], bool] = never,
    ) -> None:
        self._disk = disk
        self._limits = MAX_SEGMENT_SIZE, MAX_DATA_SEGMENTS
        if is_bounced:
            self._limits = bounce.SEGMENT_SIZE, bounce.NUM_SEGMENTS
        self._is_over = is_over
        self._on_failure = on_failure
        self._serial = serial[:_ID_SIZE].ljust(_ID_SIZE, b"\0")
        self._num_sectors = disk.size // SECTOR_SIZE
        self.features = BlkFeature.SIZE_MAX | BlkFeature.SEG_MAX
        self.features |= BlkFeature.BLK_SIZE | BlkFeature.TOPOLOGY
        if disk.is_read_only:
            self.features |= BlkFeature.RO
        else:
            self.features |= BlkFeature.FLUSH | BlkFeature.DISCARD | BlkFeature.WRITE_ZEROES

    def config(self) -> bytes:
        """Return capacity and limits; blocks have 512 bytes, best written eight at a time."""
        return _config(
            self._num_sectors, *self._limits, SECTOR_SIZE,
            3, 0, 8, 0,  # physical_block_exp, alignment_offset, min_io_size, opt_io_size
            1,  # writeback
            MAX_DISCARD_SECTORS, MAX_DISCARD_SEGMENTS, 8,  # discard_sector_alignment
            MAX_DISCARD_SECTORS, MAX_DISCARD_SEGMENTS, 1,  # write_zeroes_may_unmap
        )  # fmt: skip

    def notify(self, queue: VirtQueue) -> None:
        """Serve all available requests."""
        for chain in queue.available():
            queue.push_used(chain, self._serve(chain))

    def _serve(self, chain: Chain) -> int:
        """Serve one request; return the number of bytes for the guest, with the status."""
        data_size = chain.writable_size - 1
        if data_size < 0:
            return 0  # no room for the status: the request is not served
        into, status = split(chain.writable, data_size)
        try:
            written = self._execute(chain.readable, into, data_size)
        except _Refused as refused:
            written, code = 0, refused.status
            self.counters["errors"] += 1
        except OSError as error:
            self._on_failure(error)
            written, code = 0, _IOERR
            self.counters["errors"] += 1
        else:
            code = _OK
        status[0][0] = code
        return written + 1

    def _execute(self, out: list[memoryview], into: list[memoryview], into_size: int) -> int:
        """Execute one request; return the number of data bytes for the guest."""
        if out and len(out[0]) == _HEADER_SIZE:
            header: bytes | memoryview = out[0]
            data = out[1:]
        else:  # the driver chooses the layout of the buffers
            parts, data = split(out, _HEADER_SIZE)
            header = b"".join(parts)
            if len(header) < _HEADER_SIZE:
                raise _Refused(_IOERR)
        kind, _, sector = _read_header(header)
        if kind == Request.IN:
            self._move(self._disk.read, sector, into, into_size)
            self.counters["reads"] += 1
            self.counters["read_bytes"] += into_size
            return into_size
        if kind == Request.GET_ID:
            return fill(into, self._serial)
        self._change(kind, sector, data)
        return 0

    def _change(self, kind: int, sector: int, data: list[memoryview]) -> None:
        if kind not in (Request.OUT, Request.FLUSH, Request.DISCARD, Request.WRITE_ZEROES):
            raise _Refused(_UNSUPP)
        if kind == Request.FLUSH:
            if not self._disk.is_read_only:
                self._disk.flush()
            self.counters["flushes"] += 1
            return
        if self._disk.is_read_only:
            raise _Refused(_IOERR)
        if kind == Request.OUT:
            size = sum(map(len, data))
            self._move(self._disk.write, sector, data, size)
            self.counters["writes"] += 1
            self.counters["written_bytes"] += size
        else:
            self._erase(kind, data)
        if not self.acked_features & BlkFeature.FLUSH:
            self._disk.flush()  # without flush requests, the driver relies on every write

    def _erase(self, kind: int, data: list[memoryview]) -> None:
        """Discard or zero the segments after checking all of them."""
        raw = b"".join(split(data, MAX_DISCARD_SEGMENTS * _segments.size + 1)[0])
        if not raw or len(raw) % _segments.size:
            raise _Refused(_IOERR)  # more segments than the limit are not a multiple either
        allowed_flags = _UNMAP if kind == Request.WRITE_ZEROES else 0
        segments: list[tuple[int, int, int]] = []
        for sector, num_sectors, flags in _segments.iter_unpack(raw):
            if flags & ~allowed_flags:
                raise _Refused(_UNSUPP)
            if num_sectors > MAX_DISCARD_SECTORS:
                raise _Refused(_IOERR)
            size = num_sectors * SECTOR_SIZE
            segments.append((self._offset(sector, size), size, flags))
        for offset, size, flags in segments:
            for start in range(offset, offset + size, ERASE_STEP):
                self._check_not_over()
                part = min(ERASE_STEP, offset + size - start)
                if kind == Request.DISCARD:
                    self._disk.discard(start, part)
                else:
                    self._disk.write_zeroes(start, part, may_unmap=bool(flags))

    def _move(self, move: Move, sector: int, buffers: list[memoryview], size: int) -> None:
        """Read or write in steps."""
        if size > MAX_REQUEST:
            raise _Refused(_IOERR)
        offset = self._offset(sector, size)
        while size > STEP:
            self._check_not_over()
            part, buffers = split(buffers, STEP)
            move(offset, part)
            offset, size = offset + STEP, size - STEP
        move(offset, buffers)

    def _check_not_over(self) -> None:
        """Abandon the request if the guest has ended."""
        if self._is_over():
            raise _Refused(_IOERR)

    def _offset(self, sector: int, size: int) -> int:
        """Return the byte offset of an access; it must cover whole sectors inside the disk."""
        if size % SECTOR_SIZE or sector + size // SECTOR_SIZE > self._num_sectors:
            raise _Refused(_IOERR)
        return sector * SECTOR_SIZE
