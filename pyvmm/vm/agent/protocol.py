"""The frames on the guest agent's port; the other end is `guests/agent/serve.c`.

A frame is a header (channel, type, size of the payload) and the payload, all little-endian.  A
channel is one process in the guest, numbered by the host; 0 is the agent itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final

from pyvmm.arch.errors import UserError

PORT_NAME: Final = "org.pyvmm.agent.0"
VERSION: Final = 1
CHALLENGE_SIZE: Final = 64
MAX_PAYLOAD: Final = 0xFFFF
_MAX_STRINGS: Final = 8000  # arguments and variables, with room for those that the agent adds

_header = Struct("<IHH")
_counts = Struct("<HH")
_number = Struct("<I")
_size = Struct("<HH")  # columns, rows
_status = Struct("<HH")  # exit status, signal
_MAX_STATUS: Final = 255
MAX_SIGNAL: Final = 64
_MAX_SIDE: Final = 0xFFFF  # of a terminal, columns or rows


class Request(IntEnum):
    """Frames from the host."""

    EXEC = 1
    ATTEST = 2
    STDIN = 3
    SIGNAL = 4
    GRANT = 5
    PING = 6
    TERMINAL = 7


class Reply(IntEnum):
    """Frames from the agent."""

    HELLO = 1
    STDOUT = 2
    STDERR = 3
    EXIT = 4
    GRANTED = 5
    PONG = 6
    REFUSED = 7
    ENDED = 8


class Ability(IntEnum):
    """Bits for what an agent may do for the host."""

    ATTEST = 1
    EXEC = 2
    TERMINAL = 4


class Reason(IntEnum):
    """Why the agent refuses a request."""

    BUSY = 1
    NOT_ALLOWED = 2
    MALFORMED = 3


class FrameError(Exception):
    """Invalid data from the guest."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame from the guest."""

    type: int
    channel: int
    payload: bytes

    def numbers(self, layout: Struct) -> tuple[int, ...]:
        """Return the payload's numbers.

        Raises:
            FrameError: the payload has another size.
        """
        if len(self.payload) != layout.size:
            raise FrameError(f"a frame of type {self.type} with {len(self.payload)} bytes")
        return layout.unpack(self.payload)

    def status(self) -> tuple[int, int]:
        """Return the exit status and the signal in the payload.

        Raises:
            FrameError: the status or the signal does not exist in Linux.
        """
        status, signal = self.numbers(_status)
        if status > _MAX_STATUS or signal > MAX_SIGNAL:
            raise FrameError(f"exit status {status}, signal {signal}")
        return status, signal


class FrameReader:
    """Splits a stream into frames; buffers less than one frame."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Add bytes; yield the complete frames."""
        self._data += data
        at = 0
        while len(self._data) - at >= _header.size:
            channel, kind, size = _header.unpack_from(self._data, at)
            end = at + _header.size + size
            if end > len(self._data):
                break
            yield Frame(kind, channel, bytes(self._data[at + _header.size : end]))
            at = end
        del self._data[:at]

    def reset(self) -> None:
        """Discard an incomplete frame."""
        self._data.clear()


def encode(kind: Request, channel: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return _header.pack(channel, kind, len(payload)) + payload


def encode_number(kind: Request, channel: int, number: int) -> bytes:
    """Return a frame with a number."""
    return encode(kind, channel, _number.pack(number))


def encode_terminal(channel: int, columns: int, rows: int) -> bytes:
    """Return a frame with the size of a terminal.

    Raises:
        UserError: no terminal can have that size.
    """
    if not 0 < columns <= _MAX_SIDE or not 0 < rows <= _MAX_SIDE:
        raise UserError(f"a terminal of {columns} by {rows}: give 1 to {_MAX_SIDE} for each")
    return encode(Request.TERMINAL, channel, _size.pack(columns, rows))


def exec_payload(argv: Sequence[str], env: Mapping[str, str], directory: str) -> bytes:
    """Return the payload of a request to run a program.

    Raises:
        UserError: the program is missing, a string contains a zero byte, or it is too long.
    """
    if not argv or not argv[0]:
        raise UserError("no command: give the program and its arguments after --")
    strings = [directory, *argv, *(f"{name}={value}" for name, value in env.items())]
    if any("\0" in text for text in strings):
        raise UserError("an argument contains a zero byte: pass such data on standard input")
    if any(not name or "=" in name for name in env):
        raise UserError("an environment variable needs a name without =: give NAME=VALUE")
    encoded = (text.encode(errors="surrogateescape") + b"\0" for text in strings)
    payload = _counts.pack(len(argv) & 0xFFFF, len(env) & 0xFFFF) + b"".join(encoded)
    if len(payload) > MAX_PAYLOAD or len(strings) > _MAX_STRINGS:
        raise UserError(
            f"the command has {len(strings)} strings and {len(payload)} bytes; the limits are"
            f" {_MAX_STRINGS} and {MAX_PAYLOAD}: pass data on standard input"
        )
    return payload
