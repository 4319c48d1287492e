"""Files that a user names: opened without waiting, and read into no more memory than they may take.

A name may lead to anything.  A pipe without a writer, a terminal or an endless device would hold up
whoever opens or reads it, so what is read is a regular file or a block device; and, where a user
may want to write ``<(command)``, a pipe that somebody writes to.
"""

import os
import stat
from pathlib import Path
from typing import Final

from pyvmm.arch.errors import UserError

_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a character device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
_TAKEN: Final = frozenset({stat.S_IFREG, stat.S_IFBLK})
_CHUNK: Final = 1 << 16
_MIB: Final = 1 << 20


def open_file(path: Path, what: str, flags: int = os.O_RDONLY, *, takes_pipe: bool = False) -> int:
    """Open a file that is there; return its descriptor.

    Args:
        path: its name.
        what: what the user has called it, for the line about a mistake.
        flags: of open(2).
        takes_pipe: a pipe will do, too; reading waits only for those who have it open.

    Raises:
        UserError: it is something else.
        OSError: it cannot be opened.
    """
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind not in _TAKEN and not (takes_pipe and kind == stat.S_IFIFO):
        kind_name = _KINDS.get(kind, "no file")
        raise UserError(f"{what} {path} is {kind_name}: give a regular file or a block device")
    return without_waiting(path, flags | os.O_NOCTTY)


def read_file(
    path: Path,
    what: str,
    limit: int,
    *,
    takes_pipe: bool = False,
    remedy: str = "give a smaller one",
) -> bytes:
    """Return all that is in a file of at most ``limit`` bytes.

    Raises:
        UserError: it is something else, cannot be read, or is larger.
    """
    data = read_start(path, what, limit + 1, takes_pipe=takes_pipe)
    if len(data) > limit:
        size = f"{limit // _MIB} MiB" if limit % _MIB == 0 else f"{limit} bytes"
        raise UserError(f"{what} {path} is larger than {size}: {remedy}")
    return data


def read_start(path: Path, what: str, size: int, *, takes_pipe: bool = False) -> bytes:
    """Return the first ``size`` bytes of a file, or all there are.

    Raises:
        UserError: it is something else, cannot be read, or is a pipe without a word in it.
    """
    try:
        with open(open_file(path, what, takes_pipe=takes_pipe), "rb", buffering=0) as file:
            data = _read(file.fileno(), size)
            is_pipe = stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        raise UserError(f"{what} {path}: {error.strerror}: check the path") from None
    if is_pipe and not data:
        raise UserError(f"{what} {path} is a pipe that nobody writes to: start the writer first")
    return data


def _read(fd: int, size: int) -> bytes:
    """Read in one piece what says how long it is, so that it is in memory once."""
    parts, piece = [], os.fstat(fd).st_size + _CHUNK
    while size and (data := os.read(fd, min(piece, size))):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def write_file(path: Path, data: bytes) -> None:
    """Write a file anew.

    Raises:
        OSError: it cannot be written.
    """
    with open(path, "wb", opener=without_waiting) as file:
        file.write(data)


def without_waiting(path: str | Path, flags: int) -> int:
    """Open as open(2) does, but do not wait for the other end of a pipe; an opener for `open`.

    Raises:
        OSError: it cannot be opened; ENXIO for a pipe to write to that nobody reads.
    """
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    os.set_blocking(fd, True)
    return fd
