"""The framing of the protocol: ``$payload#checksum``, acknowledgements, and the break byte."""

from collections.abc import Iterator
from enum import Enum
from typing import Final

#: The limit announced in ``qSupported``; a larger packet ends the connection.
MAX_PACKET: Final = 0x4000
BREAK_BYTE: Final = 0x03
ESCAPE: Final = ord("}")
ESCAPED: Final = frozenset(b"}$#*")
ESCAPE_MASK: Final = 0x20


class PacketError(Exception):
    """The peer violates the protocol; no answer is possible."""


class Signal(Enum):
    """What arrives outside packets, and a damaged packet."""

    ACK = "+"
    NACK = "-"
    BREAK = "break"
    BROKEN = "broken"


def checksum(body: bytes) -> bytes:
    """Return the two hexadecimal digits after a packet.

    >>> checksum(b"OK")
    b'9a'
    """
    return b"%02x" % (sum(body) & 0xFF)


def encode(payload: bytes) -> bytes:
    r"""Return a whole packet.

    >>> encode(b"m}#")
    b'$m}]}\x03#c7'
    """
    body = bytearray()
    for byte in payload:
        body += bytes((ESCAPE, byte ^ ESCAPE_MASK)) if byte in ESCAPED else bytes((byte,))
    return b"$" + bytes(body) + b"#" + checksum(bytes(body))


def unescape(body: bytes) -> bytes:
    """Undo the escapes of a packet's body; one at its very end stands for nothing.

    >>> unescape(b"X0,2:}]}")
    b'X0,2:}'
    """
    first, *others = body.split(b"}")
    parts = (bytes((part[0] ^ ESCAPE_MASK,)) + part[1:] for part in others if part)
    return first + b"".join(parts)


class Decoder:
    """Cuts what arrives into payloads and signals."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes | Signal]:
        """Take bytes; yield what is whole.

        Raises:
            PacketError: a packet is larger than any may be.
        """
        self._pending += data
        while self._pending:
            if self._pending[0] != ord("$"):
                yield from _signal(self._pending.pop(0))
                continue
            end = self._pending.find(b"#")
            if max(end, len(self._pending) - 3) > MAX_PACKET:
                raise PacketError
            if end < 0 or len(self._pending) < end + 3:
                return
            body, sent = bytes(self._pending[1:end]), bytes(self._pending[end + 1 : end + 3])
            del self._pending[: end + 3]
            yield unescape(body) if sent.lower() == checksum(body) else Signal.BROKEN


def _signal(byte: int) -> Iterator[Signal]:
    """Tell what a byte between packets is; noise is nothing."""
    if byte == BREAK_BYTE:
        yield Signal.BREAK
    elif byte in b"+-":
        yield Signal(chr(byte))
