"""What a killed instance would leave outside of the runtime directory: the socket for a debugger.

It is noted when it is made, so that whoever cleans up knows it from what others have put there.
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
    """A Unix socket: where it is, and which one it is among all that have been there."""

    path: bytes
    device: int
    inode: int
    changed: int  # nanoseconds since 1970: numbers of inodes come again

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return that of the socket at a path.

        Raises:
            OSError: there is none.
        """
        status = path.lstat()
        return cls(os.fsencode(path), status.st_dev, status.st_ino, status.st_ctime_ns)

    def remove(self) -> None:
        """Remove the socket if it is still the same, and nobody listens."""
        path = Path(os.fsdecode(self.path))
        with suppress(OSError):
            if SocketNote.of(path) == self:
                remove_dead(path)


def remove_dead(path: Path) -> None:
    """Remove a socket that nobody listens at any more; leave everything else.

    Raises:
        OSError: there is nothing, or it cannot be removed.
    """
    if stat.S_ISSOCK(path.lstat().st_mode):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)  # somebody may listen, and be too busy to answer
            if probe.connect_ex(os.fspath(path)) == errno.ECONNREFUSED:
                path.unlink()


def remove_noted(file: Path) -> None:
    """Remove the socket that a file has a note of, if it has one."""
    with suppress(OSError, msgspec.DecodeError):
        decode(file.read_bytes(), SocketNote).remove()
