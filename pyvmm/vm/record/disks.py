"""The content of disks, which a record names by its digest."""

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.vm.option_values import DiskOptions

_CHUNK: Final = 1 << 20


def disk_digests(disks: Sequence[DiskOptions]) -> list[bytes]:
    """Return the digest of each disk's file.

    Raises:
        UserError: one cannot be read.
    """
    return [_digest(disk.path) for disk in disks]


def _digest(path: Path) -> bytes:
    """Return the digest of a file; holes count by their place only, so they cost no time."""
    digest = sha256()
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size, at = os.lseek(file, 0, os.SEEK_END), 0
            digest.update(size.to_bytes(8, "little"))
            while at < size:
                at = _next_data(file, at, size)
                data = os.pread(file, _CHUNK - at % _CHUNK, at)
                if not data:
                    break
                if data.strip(b"\0"):
                    digest.update(at.to_bytes(8, "little") + data)
                at += len(data)
        finally:
            os.close(file)
    except OSError as error:
        raise UserError(f"disk {path}: {error.strerror}: check the path") from None
    return digest.digest()


def _next_data(file: int, at: int, size: int) -> int:
    """Return where data begins, rounded down to whole chunks, so that holes do not matter."""
    try:
        return max(os.lseek(file, at, os.SEEK_DATA) // _CHUNK * _CHUNK, at)
    except OSError:  # ENXIO: only a hole follows
        return size
