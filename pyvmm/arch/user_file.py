"""Files named by a user: opened without waiting, and read with a limit on their size.

A name may refer to anything.  A pipe without a writer, a terminal or an endless device would block
the reader, so only regular files and block devices are read; and, where a user may want
``<(command)``, a pipe that has a writer.
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
    """Open an existing file; return its descriptor.

    Args:
        path: its name.
        what: the kind of file or the option, for the error text.
        flags: flags of open(2).
        takes_pipe: also accept a pipe; reading waits only for its current writers.

    Raises:
        UserError: it is another kind of file.
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
    """Return the content of a file of at most ``limit`` bytes.

    Raises:
        UserError: it is another kind of file, cannot be read, or is larger.
    """
    data = read_start(path, what, limit + 1, takes_pipe=takes_pipe)
    if len(data) > limit:
        size = f"{limit // _MIB} MiB" if limit % _MIB == 0 else f"{limit} bytes"
        raise UserError(f"{what} {path} is larger than {size}: {remedy}")
    return data


def read_start(path: Path, what: str, size: int, *, takes_pipe: bool = False) -> bytes:
    """Return the first ``size`` bytes of a file, or the whole file if it is shorter.

    Raises:
        UserError: it is another kind of file, cannot be read, or is an empty pipe without a writer.
    """
    try:
        with open(open_file(path, what, takes_pipe=takes_pipe), "rb", buffering=0) as file:
            data = _read(file.fileno(), size)
            is_pipe = stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        raise UserError(f"{what} {path}: {error.strerror}: check the path") from None
    if is_pipe and not data:
        raise UserError(f"{what} {path} is a pipe without a writer: start the writer first")
    return data


def _read(fd: int, size: int) -> bytes:
    """Read a file of known size in one piece, so that it is in memory only once."""
    parts, piece = [], os.fstat(fd).st_size + _CHUNK
    while size and (data := os.read(fd, min(piece, size))):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def write_file(path: Path, data: bytes) -> None:
    """Write a file, replacing its content.

    Raises:
        OSError: it cannot be written.
    """
    with open(path, "wb", opener=without_waiting) as file:
        file.write(data)


def without_waiting(path: str | Path, flags: int) -> int:
    """Open as open(2) does, but do not wait for the other end of a pipe; an opener for `open`.

    Raises:
        OSError: it cannot be opened; ENXIO for a pipe opened for writing without a reader.
    """
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    os.set_blocking(fd, True)
    return fd
