"""Unpack a tar stream that is not trusted: it writes below one directory, whatever it says.

Every directory is opened relative to its parent, and no symbolic link is followed, so a link in the
stream is only text.  Special bits of modes are cleared; devices, FIFOs and sockets are left out.
"""

import os
import shutil
import stat
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK: Final = 1 << 20
_MAX_DEPTH: Final = 512

Parts = Sequence[str]


def unpack(stream: IO[bytes], top: str, target: Path) -> None:
    """Unpack a stream, all of whose members are ``top`` or below it, as ``target``.

    Raises:
        tarfile.TarError: the stream is invalid.
        OSError: a file cannot be written.
    """
    unpacker = _Unpacker(target)
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK) as tar:
            for member in tar:
                unpacker.take(tar, member, _below(member.name, top))
        unpacker.finish()
    finally:
        unpacker.close()


def _below(name: str, top: str) -> Parts:
    """Return the components of a member's name below the top.

    Raises:
        tarfile.TarError: it is not below it.
    """
    parts, first = PurePosixPath(name).parts, PurePosixPath(top).parts
    if parts[: len(first)] != first or ".." in parts or "/" in parts or len(parts) > _MAX_DEPTH:
        raise tarfile.TarError(f"{name!r} is not below {top!r}")
    return parts[len(first) :]


class _Unpacker:
    """Writes members below a directory."""

    def __init__(self, target: Path) -> None:
        self._name = target.name
        self._base = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._directories: dict[tuple[str, ...], tarfile.TarInfo] = {}

    def close(self) -> None:
        """Release the directory."""
        os.close(self._base)

    def take(self, tar: tarfile.TarFile, member: tarfile.TarInfo, below: Parts) -> None:
        """Write one member."""
        parts = (self._name, *below)
        with self._open(parts[:-1]) as parent:
            if member.isdir():
                self._make_directory(parent, parts[-1])
                self._directories[parts] = member
                return
            if not (member.isreg() or member.issym() or member.islnk()):
                return
            with suppress(FileNotFoundError):
                os.unlink(parts[-1], dir_fd=parent)
            if member.issym():
                os.symlink(member.linkname, parts[-1], dir_fd=parent)
            elif member.islnk():
                self._link(member, parts, parent)
            else:
                self._write(tar, member, parts[-1], parent)

    def finish(self) -> None:
        """Set modes and times of the directories, which were writable until now."""
        for parts, member in reversed(self._directories.items()):
            with self._open(parts) as directory:
                _set_attributes(directory, member)

    @contextmanager
    def _open(self, parts: Parts) -> Iterator[int]:
        """Open a directory, one component after the other."""
        fd = os.dup(self._base)
        try:
            for part in parts:
                inner = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    @staticmethod
    def _make_directory(parent: int, name: str) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                raise

    def _link(self, member: tarfile.TarInfo, parts: Parts, parent: int) -> None:
        source = (self._name, *_below(member.linkname, self._top_of(member, parts)))
        with self._open(source[:-1]) as directory:
            os.link(
                source[-1], parts[-1],
                src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False,
            )  # fmt: skip

    @staticmethod
    def _top_of(member: tarfile.TarInfo, parts: Parts) -> str:
        """Return the top of the stream: what is above the components below the target."""
        whole = PurePosixPath(member.name).parts
        return str(PurePosixPath(*whole[: len(whole) - len(parts) + 1]))

    @staticmethod
    def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, parent: int) -> None:
        content = tar.extractfile(member)
        if content is None:
            raise tarfile.TarError(f"{member.name!r} has no content")
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        with os.fdopen(fd, "wb", buffering=0) as file:
            shutil.copyfileobj(content, file, _CHUNK)
            _set_attributes(fd, member)


def _set_attributes(fd: int, member: tarfile.TarInfo) -> None:
    os.fchmod(fd, member.mode & 0o777)
    with suppress(OverflowError, ValueError):  # a time that no file can have
        os.utime(fd, (member.mtime, member.mtime))
