"""A 9P2000.L client made by hand: a method per request."""

import errno
import os
from collections.abc import Callable
from struct import pack, unpack_from
from typing import Final

from pyvmm.devices.p9_messages import Type

ROOT: Final = 0
TAG: Final = 7


def text(data: bytes) -> bytes:
    """Return a string as in a message."""
    return pack("<H", len(data)) + data


def message(kind: int, body: bytes, tag: int = TAG) -> bytes:
    """Return a request."""
    return pack("<IBH", 7 + len(body), kind, tag) + body


class P9Client:
    """A client of a server.

    Args:
        send: returns the reply to a request.
    """

    def __init__(self, send: Callable[[bytes], bytes]) -> None:
        self._send = send
        self._last_fid = ROOT

    def call(self, kind: int, body: bytes) -> bytes:
        """Return the body of a reply.

        Raises: OSError if it is an Rlerror.
        """
        answer = self._send(message(kind, body))
        size, answered, tag = unpack_from("<IBH", answer)
        assert (size, tag) == (len(answer), TAG)
        if answered == Type.LERROR + 1:
            (code,) = unpack_from("<I", answer, 7)
            raise OSError(code, errno.errorcode[code])
        assert answered == kind + 1
        return answer[7:]

    def start(self, msize: int = 1 << 20) -> int:
        """Begin a session; return the agreed size of a message."""
        body = self.call(Type.VERSION, pack("<I", msize) + text(b"9P2000.L"))
        assert body[4:] == text(b"9P2000.L")
        self.attach(ROOT)
        return int(unpack_from("<I", body)[0])

    def attach(self, fid: int, uid: int = 0) -> None:
        """Let a fid be the root."""
        self.call(Type.ATTACH, pack("<II", fid, 0xFFFFFFFF) + text(b"") * 2 + pack("<I", uid))

    def walk(self, path: str | bytes, fid: int = ROOT) -> int:
        """Return a new fid for a path of at most 16 names."""
        raw = os.fsencode(path)
        names = raw.split(b"/") if raw else []
        self._last_fid += 1
        body = pack("<IIH", fid, self._last_fid, len(names)) + b"".join(map(text, names))
        count = unpack_from("<H", self.call(Type.WALK, body))[0]
        if count < len(names):
            raise OSError(errno.ENOENT, "walked partly")
        return self._last_fid

    def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        """Return an opened fid."""
        fid = self.walk(path)
        self.call(Type.LOPEN, pack("<II", fid, flags))
        return fid

    def create(
        self, name: bytes, flags: int = os.O_RDWR, mode: int = 0o644, directory: str = ""
    ) -> int:
        """Create a file; return its opened fid."""
        fid = self.walk(directory)
        self.call(Type.LCREATE, pack("<I", fid) + text(name) + pack("<III", flags, mode, 0))
        return fid

    def read(self, fid: int, count: int = 4096, offset: int = 0) -> bytes:
        """Read from an opened fid."""
        return self.call(Type.READ, pack("<IQI", fid, offset, count))[4:]

    def write(self, fid: int, data: bytes, offset: int = 0) -> int:
        """Write to an opened fid."""
        body = self.call(Type.WRITE, pack("<IQI", fid, offset, len(data)) + data)
        return int(unpack_from("<I", body)[0])

    def clunk(self, fid: int) -> None:
        """Forget a fid."""
        self.call(Type.CLUNK, pack("<I", fid))

    def names(self, fid: int, count: int = 4096) -> list[bytes]:
        """List an opened directory, some entries at a time."""
        names, offset = [], 0
        while data := self.call(Type.READDIR, pack("<IQI", fid, offset, count))[4:]:
            at = 0
            while at < len(data):
                offset, _, size = unpack_from("<QBH", data, at + 13)
                names.append(data[at + 24 : at + 24 + size])
                at += 24 + size
        return names

    def attributes(self, fid: int) -> tuple[int, int, int, int]:
        """Return mode, uid, gid and size."""
        body = self.call(Type.GETATTR, pack("<IQ", fid, 0x7FF))
        mode, uid, gid, _, _, size = unpack_from("<IIIQQQ", body, 21)
        return mode, uid, gid, size

    def change(self, fid: int, valid: int, *, mode: int = 0, uid: int = 0, size: int = 0) -> None:
        """Change attributes."""
        body = pack("<IIIIIQQQQQ", fid, valid, mode, uid, 0, size, 1, 2, 3, 4)
        self.call(Type.SETATTR, body)

    def rename(self, directory: int, name: bytes, new_directory: int, new_name: bytes) -> None:
        """Rename an entry."""
        body = pack("<I", directory) + text(name) + pack("<I", new_directory) + text(new_name)
        self.call(Type.RENAMEAT, body)

    def unlink(self, directory: int, name: bytes, flags: int = 0) -> None:
        """Remove an entry."""
        self.call(Type.UNLINKAT, pack("<I", directory) + text(name) + pack("<I", flags))
