"""The encoding of 9P2000.L messages, as the Linux client sends and expects them.

A message is its size (32 bits), type (8) and tag (16), then its fields, all little-endian; a string
is its size (16 bits) and its bytes.
"""

from enum import IntEnum
from struct import Struct
from typing import Final

_u16 = Struct("<H")
_u32 = Struct("<I")
_u64 = Struct("<Q")
_header = Struct("<IBH")  # size, type, tag
_qid = Struct("<BIQ")  # kind, version, identity
HEADER_SIZE: Final = _header.size
#: Bytes before the data of a read's or write's message, rounded up as clients do.
IO_HEADER_SIZE: Final = 24
NO_TAG: Final = 0xFFFF


class Type(IntEnum):
    """Types of requests; the type of a reply is one more."""

    LERROR = 6  # only as a reply: LERROR + 1
    STATFS = 8
    LOPEN = 12
    LCREATE = 14
    SYMLINK = 16
    MKNOD = 18
    READLINK = 22
    GETATTR = 24
    SETATTR = 26
    READDIR = 40
    FSYNC = 50
    LOCK = 52
    GETLOCK = 54
    LINK = 70
    MKDIR = 72
    RENAMEAT = 74
    UNLINKAT = 76
    VERSION = 100
    ATTACH = 104
    FLUSH = 108
    WALK = 110
    READ = 116
    WRITE = 118
    CLUNK = 120
    REMOVE = 122


class QidKind(IntEnum):
    """The kind of a file in its qid."""

    FILE = 0x00
    SYMLINK = 0x02
    DIRECTORY = 0x80


class Malformed(Exception):
    """A message that ends early, or with bytes left over."""


class Fields:
    """The fields of a request, read in their order."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def u8(self) -> int:
        """Read 8 bits."""
        return self.raw(1)[0]

    def u16(self) -> int:
        """Read 16 bits."""
        return int(_u16.unpack(self.raw(2))[0])

    def u32(self) -> int:
        """Read 32 bits."""
        return int(_u32.unpack(self.raw(4))[0])

    def u64(self) -> int:
        """Read 64 bits."""
        return int(_u64.unpack(self.raw(8))[0])

    def text(self) -> bytes:
        """Read a string."""
        return self.raw(self.u16())

    def raw(self, size: int) -> bytes:
        """Read bytes."""
        end = self._at + size
        if end > len(self._data):
            raise Malformed
        data = self._data[self._at : end]
        self._at = end
        return data

    def end(self) -> None:
        """Check that nothing is left."""
        if self._at != len(self._data):
            raise Malformed


def parse_header(message: bytes) -> tuple[int, int, int] | None:
    """Return size, type and tag of a message; None if it is too short."""
    if len(message) < HEADER_SIZE:
        return None
    size, kind, tag = _header.unpack_from(message)
    return size, kind, tag


def reply(kind: int, tag: int, body: bytes) -> bytes:
    """Return the reply to a request of a type."""
    return _header.pack(HEADER_SIZE + len(body), kind + 1 & 0xFF, tag) + body


def error_reply(tag: int, code: int) -> bytes:
    """Return the reply to a request that failed."""
    return reply(Type.LERROR, tag, _u32.pack(code))


def pack_qid(kind: int, identity: int) -> bytes:
    """Return the identity of a file; the version is unused."""
    return _qid.pack(kind, 0, identity)


def pack_text(text: bytes) -> bytes:
    """Return a string of at most 65535 bytes."""
    return _u16.pack(len(text)) + text
