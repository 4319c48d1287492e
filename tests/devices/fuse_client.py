"""A FUSE client made by hand: a method per request."""

import errno
import os
from collections.abc import Callable
from struct import pack, unpack_from
from typing import Final

from pyvmm.devices.fuse_server import Op

ROOT: Final = 1
UNIQUE: Final = 77


def message(op: int, node: int, body: bytes, uid: int = 0) -> bytes:
    """Return a request."""
    return pack("<IIQQIIII", 40 + len(body), op, UNIQUE, node, uid, 0, 1, 0) + body


class FuseClient:
    """A client of a server.

    Args:
        send: returns the reply to a request.
    """

    def __init__(self, send: Callable[[bytes], bytes]) -> None:
        self._send = send

    def call(self, op: int, node: int, body: bytes = b"") -> bytes:
        """Return the body of a reply.

        Raises: OSError if it is an error.
        """
        answer = self._send(message(op, node, body))
        size, code, unique = unpack_from("<IiQ", answer)
        assert (size, unique) == (len(answer), UNIQUE)
        if code:
            assert len(answer) == 16
            raise OSError(-code, errno.errorcode[-code])
        return answer[16:]

    def start(self) -> None:
        """Begin a session."""
        reply = self.call(Op.INIT, 0, pack("<IIII48x", 7, 45, 1 << 17, 0xFFFFFFFF))
        assert len(reply) == 64
        assert unpack_from("<II", reply) == (7, 31)

    def lookup(self, path: str, node: int = ROOT) -> int:
        """Return the number of a file."""
        for name in filter(None, path.split("/")):
            reply = self.call(Op.LOOKUP, node, os.fsencode(name) + b"\0")
            assert len(reply) == 128
            node = unpack_from("<Q", reply)[0]
        return node

    def open(self, path: str, flags: int = os.O_RDONLY, op: int = Op.OPEN) -> tuple[int, int]:
        """Return the number of a file and its handle."""
        node = self.lookup(path)
        return node, unpack_from("<Q", self.call(op, node, pack("<II", flags, 0)))[0]

    def create(self, name: bytes, node: int = ROOT, mode: int = 0o644) -> tuple[int, int]:
        """Create a file; return its number and its handle."""
        body = pack("<IIII", os.O_RDWR | os.O_CREAT, mode | 0o100000, 0, 0) + name + b"\0"
        reply = self.call(Op.CREATE, node, body)
        return unpack_from("<Q", reply)[0], unpack_from("<Q", reply, 128)[0]

    def read(self, file: tuple[int, int], size: int = 4096, offset: int = 0) -> bytes:
        """Read from an open file."""
        return self.call(Op.READ, file[0], pack("<QQIIQII", file[1], offset, size, 0, 0, 0, 0))

    def write(self, file: tuple[int, int], data: bytes, offset: int = 0) -> int:
        """Write to an open file."""
        body = pack("<QQIIQII", file[1], offset, len(data), 0, 0, 0, 0) + data
        return int(unpack_from("<I", self.call(Op.WRITE, file[0], body))[0])

    def release(self, file: tuple[int, int]) -> None:
        """Close a file."""
        self.call(Op.RELEASE, file[0], pack("<QIIQ", file[1], 0, 0, 0))

    def forget(self, node: int, count: int) -> None:
        """Forget a file; there is no reply."""
        assert self._send(message(Op.FORGET, node, pack("<Q", count))) == b""

    def names(self, file: tuple[int, int], size: int = 4096) -> list[bytes]:
        """List an open directory, some entries at a time."""
        names, offset = [], 0
        body = "<QQIIQII"
        while data := self.call(Op.READDIR, file[0], pack(body, file[1], offset, size, 0, 0, 0, 0)):
            at = 0
            while at < len(data):
                _, offset, length, _ = unpack_from("<QQII", data, at)
                names.append(data[at + 24 : at + 24 + length])
                at += -(-(24 + length) // 8) * 8
        return names

    def attributes(self, node: int) -> tuple[int, int]:
        """Return mode and size."""
        reply = self.call(Op.GETATTR, node, pack("<IIQ", 0, 0, 0))
        assert len(reply) == 104
        return int(unpack_from("<I", reply, 16 + 60)[0]), int(unpack_from("<Q", reply, 24)[0])

    def change(self, node: int, valid: int, *, mode: int = 0, size: int = 0) -> None:
        """Change attributes."""
        body = pack("<IIQQQQQQIIIIIIII", valid, 0, 0, size, 0, 1, 3, 0, 2, 4, 0, mode, 0, 0, 0, 0)
        assert len(body) == 88
        self.call(Op.SETATTR, node, body)
