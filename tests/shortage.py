"""A system that has run out of something, as a test wants it."""

import errno
import os
import socket
import threading

import pytest


def refuse_threads(patch: pytest.MonkeyPatch, prefix: str = "", spare: int = 0) -> None:
    """Have few threads to spare for those whose name begins so."""
    start, left = threading.Thread.start, [spare]

    def refusing(thread: threading.Thread) -> None:
        if thread.name.startswith(prefix):
            if not left[0]:
                raise RuntimeError("can't start new thread")
            left[0] -= 1
        start(thread)

    patch.setattr(threading.Thread, "start", refusing)


class BusyListener:
    """A listener that first fails in some ways, as `accept` may."""

    def __init__(self, listener: socket.socket, *failures: int) -> None:
        self.failures = list(failures)
        self._listener = listener

    def fileno(self) -> int:
        """Say that somebody waits, when somebody does."""
        return self._listener.fileno()

    def accept(self) -> tuple[socket.socket, str]:
        """Fail, as long as there are failures."""
        if self.failures:
            number = self.failures.pop(0)
            raise OSError(number, os.strerror(number))
        return self._listener.accept()

    def close(self) -> None:
        """Close it."""
        self._listener.close()


ACCEPT_FAILURES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ECONNABORTED)
