"""The last part of the guest's console output, for any number of readers at their own pace.

A position counts the bytes from the guest's first one on.  The vCPU that writes never waits for a
reader; a slow reader misses what has been overwritten, and the positions show it.
"""

from collections.abc import Callable
from io import SEEK_END, FileIO
from pathlib import Path
from threading import Condition
from typing import Final

#: Number of bytes kept: enough for several screens, a boot log and its panic.
SIZE: Final = 256 << 10
#: Number of bytes after which a file is full, and another one begins.
FILE_SIZE: Final = 1 << 20


class ConsoleFile:
    """A file that gets all output, and a second one with what came before it.

    It is made at the first output.  Without space it ends, and the guest runs on.
    """

    def __init__(self, path: Path, limit: int = FILE_SIZE) -> None:
        self._path = path
        self._limit = limit
        self._file: FileIO | None = None
        self._has_failed = False

    def write(self, data: bytes) -> None:
        """Append output."""
        if self._has_failed:
            return
        try:
            if self._file is None:
                self._file = self._open()
            self._file.write(data)
            if self._file.tell() >= self._limit:
                self._file.close()
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                self._file = None
        except OSError:
            self._has_failed = True

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> FileIO:
        file = FileIO(self._path, "a")
        file.seek(0, SEEK_END)
        return file


class ConsoleLog:
    """A ring buffer that is written until it is closed."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._data = bytearray()
        self._end = 0
        self._is_closed = False
        self._copy: ConsoleFile | None = None
        self._changed = Condition()

    def copy_to(self, file: ConsoleFile) -> None:
        """Also write all output to a file."""
        self._copy = file

    @property
    def end(self) -> int:
        """The position after the last byte: the number of bytes written."""
        return self._end

    @property
    def bounds(self) -> tuple[int, int]:
        """The positions of the first byte kept and after the last byte."""
        with self._changed:
            return self._since(0)[0], self._end

    def write(self, data: bytes) -> None:
        """Append output of the guest."""
        with self._changed:
            self._data += data
            self._end += len(data)
            if self._copy is not None:
                self._copy.write(data)
            if len(self._data) > 2 * self._size:  # move data rarely, not at every write
                del self._data[: -self._size]
            self._changed.notify_all()

    def close(self) -> None:
        """End the log: no more output will come."""
        with self._changed:
            self._is_closed = True
            if self._copy is not None:
                self._copy.close()
            self._changed.notify_all()

    def wake(self) -> None:
        """Make the readers call ``is_leaving`` again."""
        with self._changed:
            self._changed.notify_all()

    def read(self, position: int, is_leaving: Callable[[], bool]) -> tuple[int, bytes]:
        """Wait for output after a position, and return it with its own position.

        Returns: empty bytes once the log is closed, or if ``is_leaving`` returns true; it is
        called after each write and after `wake`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._end > position or self._is_closed or is_leaving())
            return self._since(position)

    def tail(self) -> bytes:
        """Return all bytes kept."""
        with self._changed:
            return self._since(0)[1]

    def _since(self, position: int) -> tuple[int, bytes]:
        kept = min(len(self._data), self._size)
        start = min(max(position, self._end - kept), self._end)
        return start, bytes(self._data[len(self._data) - (self._end - start) :])
