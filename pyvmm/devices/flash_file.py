"""The file of the host that keeps the content of a flash bank."""

import fcntl
import os
from pathlib import Path
from typing import Self

from pyvmm.arch.errors import UserError
from pyvmm.arch.user_file import open_file


class FlashFile:
    """A file of exactly the bank's size, locked while it is open; a context manager.

    If it does not exist, it is created: it has holes, which read as zeros.

    Raises:
        UserError: it cannot be opened, has another size, or is in use.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        try:
            self._fd = _open(path)
        except OSError as error:
            raise UserError(f"--flash {path}: {error.strerror}: check the path") from None
        try:
            self._lock()
            self._check_size()
        except BaseException:
            os.close(self._fd)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_NB | fcntl.LOCK_EX)
        except BlockingIOError:
            raise UserError(
                f"--flash {self._path}: in use by another instance; stop that first"
            ) from None

    def _check_size(self) -> None:
        """Give a new file its size, and refuse another size."""
        found = os.lseek(self._fd, 0, os.SEEK_END)
        if found == 0:
            try:
                os.ftruncate(self._fd, self._size)
            except OSError as error:
                raise UserError(f"--flash {self._path}: {error.strerror}") from None
        elif found != self._size:
            raise UserError(
                f"--flash {self._path} has {found} bytes: give a file of {self._size >> 20} MiB, or"
                " a name that does not exist yet"
            )

    def read(self) -> bytes:
        """Return the content without the zeros at its end.

        Raises:
            UserError: it cannot be read.
        """
        try:
            os.lseek(self._fd, 0, os.SEEK_SET)
            with open(self._fd, "rb", closefd=False) as file:
                return file.read(self._size).rstrip(b"\0")
        except OSError as error:
            raise UserError(f"--flash {self._path}: {error.strerror}") from None

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes; OSError if the storage fails."""
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, offset)
            view, offset = view[done:], offset + done

    def close(self) -> None:
        """Close the file; its content is on stable storage afterwards.

        Raises:
            OSError: the storage fails.
        """
        try:
            os.fdatasync(self._fd)
        finally:
            os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        return open_file(path, "--flash", flags)
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
