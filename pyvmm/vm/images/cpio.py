"""The newc cpio archive that Linux unpacks as its initial RAM file system.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of Linux.
"""

import os
import stat
from dataclasses import dataclass, field
from typing import Final

_MAGIC = b"070701"
_END = "TRAILER!!!"
#: Numbers of a user and a group.
Owner = tuple[int, int]
_ROOT: Final = (0, 0)


@dataclass(slots=True)
class CpioArchive:
    """An archive under construction: parents first, no timestamps; root owns what is not told."""

    _data: bytearray = field(default_factory=bytearray)
    _num_entries: int = 0

    def add_directory(self, path: str, mode: int = 0o755, owner: Owner = _ROOT) -> None:
        """Add a directory."""
        self._add(path, stat.S_IFDIR | mode, b"", owner=owner)

    def add_file(self, path: str, content: bytes, mode: int = 0o644, owner: Owner = _ROOT) -> None:
        """Add a regular file."""
        self._add(path, stat.S_IFREG | mode, content, owner=owner)

    def add_symlink(self, path: str, target: str, owner: Owner = _ROOT) -> None:
        """Add a symbolic link."""
        self._add(path, stat.S_IFLNK | 0o777, os.fsencode(target), owner=owner)

    def add_char_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device."""
        self._add(path, stat.S_IFCHR | mode, b"", (major, minor))

    def add_special(self, path: str, mode: int, major: int = 0, minor: int = 0) -> None:
        """Add a device or a named pipe; ``mode`` includes the type."""
        self._add(path, mode, b"", (major, minor))

    def finish(self) -> bytes:
        """Close the archive and return its bytes."""
        self._add(_END, 0, b"")
        return bytes(self._data)

    def _add(
        self,
        path: str,
        mode: int,
        content: bytes,
        device: tuple[int, int] = (0, 0),
        owner: Owner = _ROOT,
    ) -> None:
        name = os.fsencode(path) + b"\0"
        self._num_entries += 1
        fields = (
            self._num_entries,  # inode
            mode,
            *owner,
            1,  # links
            0,  # mtime
            len(content),
            0,  # device of the file, major and minor
            0,
            *device,
            len(name),
            0,  # checksum: unused in this format
        )
        self._data += _MAGIC + b"".join(b"%08x" % value for value in fields) + name
        self._pad()
        self._data += content
        self._pad()

    def _pad(self) -> None:
        self._data += bytes(-len(self._data) % 4)
