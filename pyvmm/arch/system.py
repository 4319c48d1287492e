"""Resources that the operating system may refuse: threads, open files, memory, connections."""

import errno
import os
import resource
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Final, Protocol

from pyvmm.arch.errors import UserError

_PACE: Final = 0.01  # seconds between attempts to connect to a busy listener
_FILES: Final = 64  # descriptors for a guest with a few disks, its process, and some clients
MAX_SOCKET_PATH: Final = 107  # bytes, by sockaddr_un
_MANY_FILES: Final = 8192  # descriptors for a guest that shares directories
_SHORTAGES: Final = {
    errno.EMFILE: "this process has too many open files: raise the limit (ulimit -n)",
    errno.ENFILE: "this machine has too many open files: close other programs",
    errno.ENOMEM: "this machine has no memory left: close other programs",
    errno.EAGAIN: "no more threads or processes: raise the limit (ulimit -u), close other programs",
}


class NoThreadError(UserError):
    """The system refused to start a thread."""


def shortage(error: OSError) -> str | None:
    """Return one line that names the exhausted resource; None for other errors."""
    return _SHORTAGES.get(error.errno or 0)


@contextmanager
def shortages() -> Iterator[None]:
    """Convert errors about exhausted resources to one line for the user.

    Raises:
        UserError: a resource is exhausted.
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
    """Check, before creating a guest, that it can open as many files as any guest needs.

    Raises:
        UserError: the limit is too low.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit < _FILES:
        raise UserError(
            f"the limit is {limit} open files; a guest needs {_FILES}: ulimit -n {_FILES}"
        )


def open_file_budget() -> int:
    """Raise the limit of open files as far as it may be; return how many a guest may open.

    Half of the limit remains for pyvmm itself.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, _MANY_FILES) if hard != resource.RLIM_INFINITY else _MANY_FILES
    if soft < wanted and soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted) // 2


def start_thread(thread: Thread) -> None:
    """Start a thread.

    Raises:
        NoThreadError: the system refused.
    """
    try:
        thread.start()
    except RuntimeError:
        raise NoThreadError(_SHORTAGES[errno.EAGAIN]) from None


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Yield a path for a socket that is short enough for an address."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        yield str(path)
        return
    fd = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


def connect_unix(connection: socket.socket, path: str, patience: float) -> None:
    """Connect to a Unix socket; wait up to ``patience`` seconds while its backlog is full.

    The kernel itself would wait forever, and Python's timeout does not wait at all.

    Raises:
        TimeoutError: the process there does not accept connections.
        OSError: nothing listens there.
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


class HasFileno(Protocol):
    """What has a file descriptor."""

    def fileno(self) -> int:
        """Return the file descriptor."""


def wait_for(file: int | HasFileno, events: int, seconds: float | None = None) -> bool:
    """Wait until a file has one of ``select.POLLIN``, ``POLLOUT``, or has ended.

    Unlike select.select, also with a file descriptor above 1023.  Returns False after ``seconds``.
    """
    poll = select.poll()
    poll.register(file, events)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
