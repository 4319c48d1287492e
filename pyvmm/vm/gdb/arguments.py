"""Parse the hexadecimal arguments of commands, and format values for the answers."""

import re
from typing import Final

from pyvmm.host.registers import Register
from pyvmm.vm.gdb.target import REGISTERS, register_size

_HEX: Final = re.compile(rb"[0-9a-fA-F]{1,16}")


class BadCommandError(Exception):
    """A command with invalid arguments."""


def numbers(text: bytes, count: int) -> list[int]:
    """Parse ``count`` numbers separated by commas."""
    parts = text.split(b",")
    if len(parts) != count or not all(map(_HEX.fullmatch, parts)):
        raise BadCommandError
    return [int(part, 16) for part in parts]


def number(text: bytes) -> int:
    """Parse one number."""
    return numbers(text, 1)[0]


def from_hex(text: bytes) -> bytes:
    """Parse bytes, two digits each."""
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise BadCommandError from None


def to_hex(data: bytes) -> bytes:
    """Format bytes.

    >>> to_hex(b"OK")
    b'4f4b'
    """
    return data.hex().encode()


def register_hex(register: Register, value: int) -> bytes:
    """Format a register's value, in the target's byte order."""
    return to_hex(value.to_bytes(register_size(register), "little"))


def register_of(text: bytes) -> Register:
    """Return the register with a number."""
    index = number(text)
    if index >= len(REGISTERS):
        raise BadCommandError
    return REGISTERS[index]
