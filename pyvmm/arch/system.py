"""What the operating system may refuse a process: threads, open files, memory, connections."""

import errno
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Final

from pyvmm.arch.errors import UserError

_PACE: Final = 0.01  # seconds until a listener that was busy is tried again
_FILES: Final = 64  # descriptors of a guest with a few disks, its process, and some clients
_SHORTAGES: Final = {
    errno.EMFILE: "this process has too many open files: raise the limit (ulimit -n)",
    errno.ENFILE: "this machine has too many open files: end other programs",
    errno.ENOMEM: "this machine has no memory left: end other programs",
    errno.EAGAIN: "no thread or process to spare: raise the limit (ulimit -u), end other programs",
}


class NoThreadError(UserError):
    """The system has no thread to spare."""


def shortage(error: OSError) -> str | None:
    """Return, in one line, what the system has run out of; None if that is not the error."""
    return _SHORTAGES.get(error.errno or 0)


@contextmanager
def shortages() -> Iterator[None]:
    """Turn a refusal that is nobody's mistake into a line for the user.

    Raises:
        UserError: the system has run out of something.
    """
    try:
        yield
    except OSError as error:
        line = shortage(error)
        if line is None:
            raise
        raise UserError(line) from error
    except MemoryError as error:
        raise UserError(_SHORTAGES[errno.ENOMEM]) from error


def check_open_files() -> None:
    """Find out before a guest is made whether it can have the files that any guest needs.

    Raises:
        UserError: it cannot.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit < _FILES:
        raise UserError(f"at most {limit} open files: a guest needs {_FILES} (ulimit -n {_FILES})")


def start_thread(thread: Thread) -> None:
    """Start a thread.

    Raises:
        NoThreadError: the system has none to spare.
    """
    try:
        thread.start()
    except RuntimeError:
        raise NoThreadError(_SHORTAGES[errno.EAGAIN]) from None


def connect_unix(connection: socket.socket, path: str, patience: float) -> None:
    """Connect to a Unix socket; wait at most some seconds while too many others wait there.

    The kernel itself would wait without end, and Python's timeout does not wait at all.

    Raises:
        TimeoutError: the process there does not take anybody.
        OSError: nobody listens there.
    """
    timeout = connection.gettimeout()
    deadline = time.monotonic() + patience
    connection.setblocking(False)
    while True:
        try:
            connection.connect(path)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError from None
            time.sleep(_PACE)
        else:
            connection.settimeout(timeout)
            return
