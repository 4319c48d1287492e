"""Raw disks on the host: an image file or a block device, for the virtio block device."""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.devices.buffers import after, split
from pyvmm.devices.disk_file import open_disk_file

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10  # fallocate(2) modes
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)
_ZEROS = bytes(1 << 20)
_SECTOR: Final = 512
#: Block sizes for direct I/O that storage may require.
_BLOCK_SIZES: Final = (512, 4096)
_PIECE: Final = 1 << 20  # copied at a time where the guest's buffers are not aligned

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class RawDisk:
    """A raw image or a block device, read and written in place.

    Locked while open: by one writer, or by any number of readers.  If the file ends inside a
    sector, the guest sees the whole sector: the rest reads as zeros until it is written.

    Args:
        path: its name.
        is_read_only: do not write to it.
        is_direct: do not use the host's page cache.

    Raises:
        UserError: it cannot be opened, is not a file or block device, is empty, or is in use.
    """

    def __init__(self, path: Path, *, is_read_only: bool = False, is_direct: bool = False) -> None:
        self.is_read_only = is_read_only
        self._is_direct = is_direct
        self._block_size = 1  # offsets and sizes of transfers must be multiples of it
        self._writing: AbstractContextManager[object] = nullcontext()
        flags = os.O_DIRECT if is_direct else 0
        self._fd = open_disk_file(path, is_read_only=is_read_only, flags=flags)
        try:
            self._end = _size_of(self._fd, path)
            if is_direct:
                self._set_block_size(path)
        except BaseException:
            os.close(self._fd)
            raise
        self.size = self._end + -self._end % _SECTOR

    def _set_block_size(self, path: Path) -> None:
        """Find the block size by trying; where it is not a sector, one write is made at a time."""
        for size in _BLOCK_SIZES:
            try:
                os.preadv(self._fd, [memoryview(mmap.mmap(-1, size))], size)
            except OSError:
                continue
            self._block_size = size
            break
        else:
            raise UserError(f"disk {path}: direct I/O does not work here: omit direct")
        if self._block_size > _SECTOR:
            self._writing = Lock()
            if self._end % self._block_size:
                raise UserError(
                    f"disk {path}: its size is not a multiple of {self._block_size}, which direct"
                    " I/O requires here: omit direct"
                )

    def close(self) -> None:
        """Close the image; unflushed writes stay in the host's page cache."""
        os.close(self._fd)

    def abandon(self) -> None:
        """Leave it open: requests that the host does not end may still use it."""

    def read(self, offset: int, buffers: list[memoryview]) -> None:
        """Fill ``buffers`` from ``offset``."""
        try:
            self._read(offset, buffers)
        except OSError as error:
            if not self._is_direct or error.errno != errno.EINVAL:
                raise
            self._read_unaligned(offset, buffers)

    def _read(self, offset: int, buffers: list[memoryview]) -> None:
        size = sum(map(len, buffers))
        while size:
            if offset >= self._end:  # in the last sector
                for buffer in buffers:
                    buffer[:] = bytes(len(buffer))
                return
            done = os.preadv(self._fd, buffers, offset)
            if done == size:
                return
            if not done:
                raise OSError(errno.EIO, "the image was truncated")
            size, offset, buffers = size - done, offset + done, after(buffers, done)

    def _read_unaligned(self, offset: int, buffers: list[memoryview]) -> None:
        """Read into buffers that direct I/O refuses: whole blocks, through an aligned buffer."""
        for part, start, piece in self._pieces(offset, buffers):
            self._read(start, [piece])
            at = offset - start
            for buffer in part:
                buffer[:] = piece[at : at + len(buffer)]
                at += len(buffer)
            offset = start + at

    def _pieces(
        self, offset: int, buffers: list[memoryview]
    ) -> Iterator[tuple[list[memoryview], int, memoryview]]:
        """Yield buffers, the start of the blocks that they are in, and a buffer for these."""
        while buffers:
            part, buffers = split(buffers, _PIECE)
            end = offset + sum(map(len, part))
            start = offset - offset % self._block_size
            size = end - start + -end % self._block_size
            yield part, start, memoryview(mmap.mmap(-1, size))
            offset = end

    def read_now(self, offset: int, buffers: list[memoryview]) -> bool:
        """Fill ``buffers`` if the data is in the host's page cache; otherwise return False."""
        if self._is_direct:
            return False
        try:
            done = os.preadv(self._fd, buffers, offset, os.RWF_NOWAIT)
        except OSError:  # it would wait, cannot tell, or fails: `read` shows which
            return False
        return done == sum(map(len, buffers))

    def write(self, offset: int, buffers: list[memoryview]) -> None:
        """Store ``buffers`` at ``offset``."""
        if not self._is_direct:
            self._write(offset, buffers)
            return
        with self._writing:
            try:
                self._write(offset, buffers)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._write_unaligned(offset, buffers)

    def _write(self, offset: int, buffers: list[memoryview]) -> None:
        size = sum(map(len, buffers))
        while size:
            done = os.pwritev(self._fd, buffers, offset)
            if not done:
                raise OSError(errno.EIO, "the storage accepts no more data")
            size, offset, buffers = size - done, offset + done, after(buffers, done)
        self._end = max(self._end, offset)

    def _write_unaligned(self, offset: int, buffers: list[memoryview]) -> None:
        """Write buffers that direct I/O refuses, with the rest of their first and last blocks."""
        for part, start, piece in self._pieces(offset, buffers):
            at = offset - start
            if len(piece) != sum(map(len, part)):
                self._read(start, [piece])
            for buffer in part:
                piece[at : at + len(buffer)] = buffer
                at += len(buffer)
            self._write(start, [piece])
            offset = start + at

    def flush(self) -> None:
        """Flush all writes to stable storage."""
        os.fdatasync(self._fd)

    def discard(self, offset: int, size: int) -> None:
        """Punch a hole if the file system supports it; otherwise keep the content."""
        self._fallocate(_PUNCH_HOLE | _KEEP_SIZE, offset, size)

    def write_zeroes(self, offset: int, size: int, *, may_unmap: bool) -> None:
        """Make the range read as zeros."""
        if may_unmap and self._fallocate(_PUNCH_HOLE | _KEEP_SIZE, offset, size):
            return
        if self._fallocate(_ZERO_RANGE | _KEEP_SIZE, offset, size):
            return
        for start in range(offset, offset + size, len(_ZEROS)):
            part = memoryview(_ZEROS)[: min(len(_ZEROS), offset + size - start)]
            self.write(start, [part])

    def _fallocate(self, mode: int, offset: int, size: int) -> bool:
        """Call fallocate(2); return False if the file system does not support it."""
        if not size or not _libc.fallocate(self._fd, mode, offset, size):
            return True
        code = ctypes.get_errno()
        if code in _UNSUPPORTED:
            return False
        raise OSError(code, os.strerror(code))


def _size_of(fd: int, path: Path) -> int:
    size = os.lseek(fd, 0, os.SEEK_END)
    if not size:
        raise UserError(f"disk {path}: is empty; give it a size: truncate -s 1G {path}")
    return size
