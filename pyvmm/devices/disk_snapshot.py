"""A disk whose writes are thrown away at the end: they go to a file without a name."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.devices.buffers import split
from pyvmm.devices.disk import RawDisk
from pyvmm.devices.virtio.blk import Disk, OwnedDisk

_BLOCK: Final = 4096  # copied as a whole when a part of it is written
_BLOCKS_PER_MAP: Final = 4096
_NOTHING: Final = bytes(_BLOCKS_PER_MAP)
_DIRECTORY: Final = "/var/tmp"  # noqa: S108  like TMPDIR, but for larger files


class _Map:
    """Which blocks have been written, for each part of the disk that has any."""

    def __init__(self) -> None:
        self._parts: dict[int, bytearray] = {}  # a byte per block: 1 if it is written

    def add(self, first: int, end: int) -> None:
        """Add blocks."""
        for index, start, stop in _parts_of(first, end):
            part = self._parts.setdefault(index, bytearray(_BLOCKS_PER_MAP))
            part[start:stop] = b"\1" * (stop - start)

    def runs(self, first: int, end: int) -> Iterator[tuple[int, bool]]:
        """Divide blocks into written and other ones: yield the end of each run and which it is."""
        for index, start, stop in _parts_of(first, end):
            part, at = self._parts.get(index, _NOTHING), start
            while at < stop:
                is_written = bool(part[at])
                change = part.find(not is_written, at, stop)
                at = stop if change < 0 else change
                yield index * _BLOCKS_PER_MAP + at, is_written


def _parts_of(first: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Divide blocks by maps: yield the number of the map, first and last block within it."""
    while first < end:
        index, start = divmod(first, _BLOCKS_PER_MAP)
        stop = min(_BLOCKS_PER_MAP, start + end - first)
        yield index, start, stop
        first += stop - start


class SnapshotDisk:
    """A writable disk over another one, which is only read.

    What is written takes space in the directory for temporary files, at most as much as the disk
    has; when there is none left, writes fail.

    Args:
        base: the disk to read; closed together with this one.

    Raises:
        UserError: the file cannot be created.
    """

    is_read_only = False

    def __init__(self, base: OwnedDisk) -> None:
        self._base = base
        self.size = base.size
        self._map = _Map()
        self._writing = Lock()  # one write at a time: a block is copied before a part of it changes
        directory = os.environ.get("TMPDIR", _DIRECTORY)
        try:
            with tempfile.TemporaryFile(dir=directory) as file:
                file.truncate(base.size)
                self._own = RawDisk(Path(f"/proc/self/fd/{file.fileno()}"))
        except OSError as error:
            raise UserError(
                f"{directory}: {error.strerror}: snapshot needs a directory in TMPDIR"
            ) from None

    def close(self) -> None:
        """Throw the writes away."""
        self._own.close()
        self._base.close()

    def abandon(self) -> None:
        """Give up requests that do not end."""
        self._own.abandon()
        self._base.abandon()

    def read(self, offset: int, buffers: list[memoryview]) -> None:
        """Fill ``buffers`` from where their blocks are."""
        for disk, start, part in self._places(offset, buffers):
            disk.read(start, part)

    def read_now(self, offset: int, buffers: list[memoryview]) -> bool:
        """Do the same if the host has all of it in memory; otherwise return False."""
        places = self._places(offset, buffers)
        return all(disk.read_now(start, part) for disk, start, part in places)

    def _places(
        self, offset: int, buffers: list[memoryview]
    ) -> Iterator[tuple[Disk, int, list[memoryview]]]:
        """Divide a range by the disks that have its blocks."""
        end = offset + sum(map(len, buffers))
        for block, is_written in self._map.runs(offset // _BLOCK, -(-end // _BLOCK)):
            stop = min(block * _BLOCK, end)
            part, buffers = split(buffers, stop - offset)
            yield self._own if is_written else self._base, offset, part
            offset = stop

    def write(self, offset: int, buffers: list[memoryview]) -> None:
        """Store ``buffers`` in the file."""
        with self._changing(offset, sum(map(len, buffers))):
            self._own.write(offset, buffers)

    def write_zeroes(self, offset: int, size: int, *, may_unmap: bool) -> None:
        """Make the range read as zeros, without taking space for them."""
        del may_unmap
        with self._changing(offset, size):
            self._own.write_zeroes(offset, size, may_unmap=True)

    @contextmanager
    def _changing(self, offset: int, size: int) -> Iterator[None]:
        """Change a range: copy the blocks that change in part before, mark all of them after."""
        end = offset + size
        with self._writing:
            for edge in (offset, end):
                if edge % _BLOCK:
                    self._copy(edge // _BLOCK)
            yield
            self._map.add(offset // _BLOCK, -(-end // _BLOCK))

    def _copy(self, block: int) -> None:
        """Copy a block that is not written yet."""
        ((_, is_written),) = self._map.runs(block, block + 1)
        if not is_written:
            start = block * _BLOCK
            data = [memoryview(bytearray(min(_BLOCK, self.size - start)))]
            self._base.read(start, data)
            self._own.write(start, data)
            self._map.add(block, block + 1)

    def flush(self) -> None:
        """Do nothing: nothing is kept."""

    def discard(self, offset: int, size: int) -> None:
        """Do nothing: the content may stay."""
