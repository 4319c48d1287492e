"""What the guest's console said: the last part of it, for any number of readers at their own pace.

A position counts the bytes from the guest's first one on.  The vCPU that writes never waits for a
reader; who is too slow misses what has been overwritten, and can tell by the positions.
"""

from collections.abc import Callable
from threading import Condition
from typing import Final

#: Bytes that are kept: several screens of scrollback, a boot log and its panic.
SIZE: Final = 256 << 10


class ConsoleLog:
    """A ring of bytes that is written until it is closed."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._data = bytearray()
        self._end = 0
        self._is_closed = False
        self._changed = Condition()

    @property
    def end(self) -> int:
        """The position after the last byte: how many were written."""
        return self._end

    @property
    def bounds(self) -> tuple[int, int]:
        """The positions of the first byte that is kept, and after the last."""
        with self._changed:
            return self._since(0)[0], self._end

    def write(self, data: bytes) -> None:
        """Append what the guest said."""
        with self._changed:
            self._data += data
            self._end += len(data)
            if len(self._data) > 2 * self._size:  # moved rarely, not at every write
                del self._data[: -self._size]
            self._changed.notify_all()

    def close(self) -> None:
        """Say that nothing more will come."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Make the readers look again whether they are still to wait."""
        with self._changed:
            self._changed.notify_all()

    def read(self, position: int, is_leaving: Callable[[], bool]) -> tuple[int, bytes]:
        """Wait until there is something after a position, and return it with its own position.

        Returns: nothing (empty bytes) once the log is closed, or ``is_leaving`` says so; that is
        asked when something was written and after `wake`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._end > position or self._is_closed or is_leaving())
            return self._since(position)

    def tail(self) -> bytes:
        """Return all that is kept."""
        with self._changed:
            return self._since(0)[1]

    def _since(self, position: int) -> tuple[int, bytes]:
        kept = min(len(self._data), self._size)
        start = min(max(position, self._end - kept), self._end)
        return start, bytes(self._data[len(self._data) - (self._end - start) :])
