"""The options that an instance keeps, so that it can be started again after its end."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import msgspec

from pyvmm.arch.errors import UserError
from pyvmm.vm.json_text import decode

Value = str | bool | list[str]
#: JSON has no bytes that are not UTF-8; so each character of a text stands for a byte.
_BYTES: Final = "latin-1"


class KeptOptions(msgspec.Struct, frozen=True):
    """What the user gave, and the directory that relative paths start from."""

    directory: str
    given: dict[str, Value]

    @classmethod
    def of(cls, given: Mapping[str, object]) -> Self:
        """Keep options of a guest, by the names of their fields; its own name can change."""
        kept = {name: _packed(each) for name, each in given.items() if name != "name"}
        return cls(_pack(Path.cwd()), kept)

    @classmethod
    def decode(cls, data: bytes | None, name: str) -> Self:
        """Return the options that an instance has kept.

        Raises:
            UserError: there are none.
        """
        try:
            if data is not None:
                return decode(data, cls)
        except msgspec.DecodeError:
            pass
        raise UserError(f"{name} has no options to start it again: pyvmm destroy {name}, create it")

    def encode(self) -> bytes:
        """Return them as JSON."""
        return msgspec.json.encode(self)

    @property
    def place(self) -> Path:
        """The directory that relative paths start from."""
        return Path(_unpack(self.directory))

    def options(self) -> dict[str, object]:
        """Return what the user gave."""
        return {name: _unpacked(each) for name, each in self.given.items()}


def _packed(value: object) -> Value:
    if isinstance(value, bool):
        return value
    return [_pack(each) for each in value] if isinstance(value, tuple) else _pack(value)


def _unpacked(value: Value) -> object:
    if isinstance(value, bool):
        return value
    return tuple(map(_unpack, value)) if isinstance(value, list) else _unpack(value)


def _pack(value: object) -> str:
    return os.fsencode(str(value)).decode(_BYTES)


def _unpack(text: str) -> str:
    return os.fsdecode(text.encode(_BYTES, errors="replace"))
