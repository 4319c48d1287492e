"""Sockets outside the runtime directory, which a killed instance leaves behind.

The instance records the socket when it makes it, so that a cleanup removes only that socket and
nothing that others have put there.
"""

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

from pyvmm.vm.json_text import decode


class SocketNote(msgspec.Struct, frozen=True):
    """A Unix socket: its path, and its identity, as another one may take its place."""

    path: bytes
    device: int
    inode: int
    changed: int  # nanoseconds since 1970: inode numbers are reused

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return a note of the socket at a path.

        Raises:
            OSError: it does not exist.
        """
        status = path.lstat()
        return cls(os.fsencode(path), status.st_dev, status.st_ino, status.st_ctime_ns)

    def remove(self) -> None:
        """Remove the socket if it is still the same and nobody listens."""
        with suppress(OSError):
            if self._is_there:
                remove_dead(Path(os.fsdecode(self.path)))

    def remove_own(self) -> None:
        """Remove the socket, on which this process has listened, if it is still the same."""
        with suppress(OSError):
            if self._is_there:
                Path(os.fsdecode(self.path)).unlink()

    @property
    def _is_there(self) -> bool:
        return SocketNote.of(Path(os.fsdecode(self.path))) == self


def remove_dead(path: Path) -> None:
    """Remove a socket on which nobody listens; keep anything else.

    Raises:
        OSError: the path does not exist, or cannot be removed.
    """
    if stat.S_ISSOCK(path.lstat().st_mode):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)  # a listener may be too busy to answer
            if probe.connect_ex(os.fspath(path)) == errno.ECONNREFUSED:
                path.unlink()


def listen_unix(path: Path) -> socket.socket:
    """Listen on a Unix socket that only its owner can use; replace a dead one.

    Raises:
        OSError: the path cannot be used.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        with suppress(OSError):  # bind() reports the reason
            remove_dead(path)
        listener.bind(str(path))
        path.chmod(0o600)  # before listen(): nobody can connect yet
        listener.listen(1)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def remove_noted(file: Path) -> None:
    """Remove the socket noted in a file, if there is one."""
    with suppress(OSError, msgspec.DecodeError):
        decode(file.read_bytes(), SocketNote).remove()
