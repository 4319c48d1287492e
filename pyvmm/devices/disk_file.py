"""The files of disks on the host: opened and locked, and their formats."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.arch.user_file import open_file

#: (offset, magic, format): images that are not a plain copy of a disk's content.
_FORMATS: Final = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
)


def open_disk_file(path: Path, *, is_read_only: bool, flags: int = 0) -> int:
    """Open an image or a block device for one writer, or for any number of readers.

    Args:
        path: its name.
        is_read_only: open it for reading.
        flags: further flags of open(2).

    Raises:
        UserError: it cannot be opened, is another kind of file, or is in use.
    """
    try:
        fd = open_file(path, "disk", (os.O_RDONLY if is_read_only else os.O_RDWR) | flags)
    except OSError as error:
        hint = "" if is_read_only else f"; to use it read-only, give {path},ro"
        hint = hint if error.errno in (errno.EACCES, errno.EROFS) else ": check the path"
        if error.errno == errno.EINVAL and flags & os.O_DIRECT:
            hint = ": its file system has no direct I/O: omit direct"
        raise UserError(f"disk {path}: {error.strerror}{hint}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_NB | (fcntl.LOCK_SH if is_read_only else fcntl.LOCK_EX))
    except BlockingIOError:
        os.close(fd)
        raise UserError(f"disk {path}: in use by another instance; stop that first") from None
    return fd


def detect_format(path: Path) -> str:
    """Return the format of an image by its content: "raw" if that is nothing known.

    A guest chooses the content of its raw disk, so the result may only refuse an image.

    Raises:
        UserError: it cannot be opened.
    """
    fd = open_disk_file(path, is_read_only=True)
    try:
        head = os.pread(fd, 512, 0)
    finally:
        os.close(fd)
    return next((name for at, magic, name in _FORMATS if head.startswith(magic, at)), "raw")
