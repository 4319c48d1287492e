"""Disks on the host: a raw image file or a block device, for the virtio block device."""

import ctypes
import errno
import fcntl
import os
import shlex
from pathlib import Path

from pyvmm.arch.errors import UserError
from pyvmm.arch.user_file import open_file

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10  # fallocate(2) modes
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)
_ZEROS = bytes(1 << 20)
_SECTOR = 512

#: (offset, magic, format): images that are not a plain copy of a disk's content.
_FORMATS = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class RawDisk:
    """A raw image, read and written in place through the host's page cache.

    Locked while open: by one writer, or by any number of readers.  If the file ends inside a
    sector, the guest sees the whole sector: the rest reads as zeros until it is written.

    Raises: UserError if it cannot be opened, is not a file or block device, is empty, in another
    format, or in use.
    """

    def __init__(self, path: str | os.PathLike[str], *, is_read_only: bool = False) -> None:
        self.is_read_only = is_read_only
        name = os.fspath(path)
        try:
            self._fd = open_file(Path(name), "disk", os.O_RDONLY if is_read_only else os.O_RDWR)
        except OSError as error:
            hint = "" if is_read_only else f"; to use it read-only, give {name},ro"
            hint = hint if error.errno in (errno.EACCES, errno.EROFS) else ": check the path"
            raise UserError(f"disk {name}: {error.strerror}{hint}") from None
        try:
            self.size = self._lock_and_measure(name)
        except BaseException:
            os.close(self._fd)
            raise

    def _lock_and_measure(self, name: str) -> int:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_NB | (self._lock_kind()))
        except BlockingIOError:
            raise UserError(f"disk {name}: in use by another instance; stop that first") from None
        self._end = os.lseek(self._fd, 0, os.SEEK_END)
        if not self._end:
            raise UserError(f"disk {name}: is empty; give it a size: truncate -s 1G {name}")
        self._reject_other_formats(name)
        return self._end + -self._end % _SECTOR

    def _reject_other_formats(self, name: str) -> None:
        head = os.pread(self._fd, 512, 0)
        for offset, magic, format_ in _FORMATS:
            if head.startswith(magic, offset):
                raise UserError(
                    f"disk {name}: in {format_} format; convert it to raw:"
                    f" qemu-img convert -O raw {shlex.quote(name)} disk.img"
                )

    def _lock_kind(self) -> int:
        return fcntl.LOCK_SH if self.is_read_only else fcntl.LOCK_EX

    def close(self) -> None:
        """Close the image; unflushed writes stay in the host's page cache."""
        os.close(self._fd)

    def read(self, offset: int, buffers: list[memoryview]) -> None:
        """Fill ``buffers`` from ``offset``."""
        size = sum(map(len, buffers))
        while size:
            done = os.preadv(self._fd, buffers, offset)
            if done == size:
                return
            if not done and offset < self._end:
                raise OSError(errno.EIO, "the image was truncated")
            if not done:  # in the last sector
                for buffer in buffers:
                    buffer[:] = bytes(len(buffer))
                return
            size, offset, buffers = size - done, offset + done, _after(buffers, done)

    def read_now(self, offset: int, buffers: list[memoryview]) -> bool:
        """Fill ``buffers`` if the data is in the host's page cache; otherwise return False."""
        try:
            done = os.preadv(self._fd, buffers, offset, os.RWF_NOWAIT)
        except OSError:  # it would wait, cannot tell, or fails: `read` shows which
            return False
        return done == sum(map(len, buffers))

    def write(self, offset: int, buffers: list[memoryview]) -> None:
        """Store ``buffers`` at ``offset``."""
        size = sum(map(len, buffers))
        while size:
            done = os.pwritev(self._fd, buffers, offset)
            if not done:
                raise OSError(errno.EIO, "the storage accepts no more data")
            size, offset, buffers = size - done, offset + done, _after(buffers, done)

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


def _after(buffers: list[memoryview], size: int) -> list[memoryview]:
    """Return the rest of ``buffers`` after ``size`` bytes."""
    for index, buffer in enumerate(buffers):
        if size < len(buffer):
            return [buffer[size:], *buffers[index + 1 :]]
        size -= len(buffer)
    return []
