"""The process of an instance, as another process sees it: wait for its end, or kill it."""

import os
import select
import signal
import socket
import struct
from contextlib import suppress
from typing import Final, Self

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


def peer(connection: socket.socket) -> tuple[int, int]:
    """Return the process and user IDs of the other end of a Unix socket."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


class Process:
    """A process; a context manager.  A process ID that does not exist counts as ended."""

    def __init__(self, pid: int) -> None:
        self._fd: int | None = None
        with suppress(OSError):
            self._fd = os.pidfd_open(pid)

    def wait(self, timeout: float | None) -> bool:
        """Wait for its end; return False if it does not end in time (seconds)."""
        if self._fd is None:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(None if timeout is None else max(timeout, 0) * 1000))

    def end(self, patience: float) -> None:
        """Wait for its end; after ``patience`` seconds, kill it."""
        if not self.wait(patience) and self._fd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)
            self.wait(None)

    def close(self) -> None:
        """Release the process descriptor."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
