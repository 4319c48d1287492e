"""The process of an instance, seen from another one: waited for, and ended by force."""

import os
import select
import signal
import socket
import struct
from contextlib import suppress
from typing import Final, Self

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


def peer(connection: socket.socket) -> tuple[int, int]:
    """Return process and user at the other end of a Unix socket."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


class Process:
    """A process, which has ended when nobody has that number; a context manager."""

    def __init__(self, pid: int) -> None:
        self._fd: int | None = None
        with suppress(OSError):
            self._fd = os.pidfd_open(pid)

    def wait(self, timeout: float | None) -> bool:
        """Wait for its end; tell whether it came in time."""
        if self._fd is None:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(None if timeout is None else max(timeout, 0) * 1000))

    def end(self, patience: float) -> None:
        """Wait for its end; after some seconds, end it by force."""
        if not self.wait(patience) and self._fd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)
            self.wait(None)

    def close(self) -> None:
        """Look at it no more."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
