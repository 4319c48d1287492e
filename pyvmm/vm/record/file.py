"""The file of a record.

::

    magic, version | chunk ... | an empty chunk

A chunk is its size and CRC, and a Zstandard frame with an array of items in MessagePack; the first
item is the header.  A record that was cut off lacks the empty chunk at its end.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final
from zlib import crc32

import msgspec
import zstandard

from pyvmm.arch.errors import UserError

VERSION: Final = 1
_MAGIC: Final = b"pyvmm record\r\n\0\0"
_preface = Struct("<16sI")  # magic, version
_chunk = Struct("<II")  # size and CRC
_ROOM: Final = 1 << 20  # bytes of items per chunk
_MAX_CHUNK: Final = 64 << 20
_LEVEL: Final = 3

_array = Struct(">BI")  # MessagePack's header of an array: ARRAY and the number of items
_ARRAY: Final = 0xDD


class Writer:
    """Writes a record; the file is complete after `close`.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._items = bytearray()
        self._num_items = 0
        self._compressor = zstandard.ZstdCompressor(_LEVEL)
        try:
            self._file = open(path, "wb", opener=_private)  # noqa: SIM115  closed by `close`
            self._file.write(_preface.pack(_MAGIC, VERSION))
        except OSError as error:
            raise self._failed(error) from None

    def write(self, item: bytes) -> None:
        """Add an item that is encoded."""
        self._items += item
        self._num_items += 1
        if len(self._items) >= _ROOM:
            self._write_chunk()

    def close(self) -> None:
        """Complete the file."""
        if self._items:
            self._write_chunk()
        self._write_chunk()
        self._file.close()

    def _write_chunk(self) -> None:
        data = b""
        if self._items:
            head = _array.pack(_ARRAY, self._num_items)
            data = self._compressor.compress(head + self._items)
        self._items.clear()
        self._num_items = 0
        try:
            self._file.write(_chunk.pack(len(data), crc32(data)) + data)
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> UserError:
        return UserError(f"--record {self._path}: {error.strerror}: choose another file")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])


class Reader:
    """The items of a record, one after the other.

    Positions are read with ``pread``, so that a process and its forks read independently.

    Raises:
        UserError: the file is no record, damaged, or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._place = _preface.size
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}: check the path") from None
        preface = self._read(0, _preface.size)
        magic, version = _preface.unpack(preface.ljust(_preface.size, b"\0"))
        if magic != _MAGIC:
            raise UserError(f"{path} is no record: give a file of `pyvmm run --record`")
        if version != VERSION:
            raise UserError(
                f"{path} is a record of version {version}; this pyvmm reads {VERSION}: replay it"
                " with the pyvmm that made it"
            )

    def items(self) -> Iterator[bytes]:
        """Yield all items, encoded; UserError where the file is damaged or cut off."""
        while data := self._next_chunk():
            try:
                items = _decoder.decode(data)
            except (msgspec.DecodeError, RecursionError):
                raise self._damaged() from None
            for item in items:
                yield bytes(item)

    def _next_chunk(self) -> bytes:
        header = self._read(self._place, _chunk.size)
        if len(header) < _chunk.size:
            raise self._truncated()
        size, checksum = _chunk.unpack(header)
        packed = self._read(self._place + _chunk.size, size) if size <= _MAX_CHUNK else b""
        if len(packed) < size <= _MAX_CHUNK:
            raise self._truncated()
        if len(packed) != size or crc32(packed) != checksum:
            raise self._damaged()
        self._place += _chunk.size + size
        if not size:
            return b""
        try:
            if not 0 < zstandard.frame_content_size(packed) <= _MAX_CHUNK:
                raise self._damaged()
            return zstandard.ZstdDecompressor().decompress(packed)
        except zstandard.ZstdError:
            raise self._damaged() from None

    def _read(self, place: int, size: int) -> bytes:
        try:
            return os.pread(self._file, size, place)
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}: check the file") from None

    def _truncated(self) -> UserError:
        return UserError(
            f"{self.path} is cut off: its recording did not end properly: record the run again"
        )

    def _damaged(self) -> UserError:
        return UserError(f"{self.path} is damaged: record the run again, or get the file again")
