"""CBOR without its liberties: one value has one encoding, and nothing else decodes.

Who reads a stranger's token may tolerate variants: heads longer than they need be, and floating
point numbers likewise.  They say the same and endanger no verdict, as signatures are over the bytes
as they are carried.  Whatever leaves room for two meanings is refused always: indefinite lengths,
keys that are there twice (in whatever form), bytes behind the value.

cbor2 refuses indefinite lengths, duplicate keys and deep nesting.  What it does not look at shows
when the value is encoded again.

Spec: RFC 8949, 4.1 "preferred serialization"; the order of a map's keys is free.
draft-ffm-rats-cca-token, "Token Encoding and Signing".
"""

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Final, TypeAlias

import cbor2
from cbor2 import CBORTag as Tag

__all__ = [
    "MAX_DEPTH",
    "MAX_SIZE",
    "Key",
    "Malformed",
    "Tag",
    "Tolerate",
    "Value",
    "decode",
    "describe",
    "encode",
    "ignore",
]

Key: TypeAlias = int | str | bytes
Value: TypeAlias = "int | str | bytes | bool | float | list[Value] | dict[Key, Value] | Tag | None"

MAX_SIZE: Final = 64 * 1024
MAX_DEPTH: Final = 16
_KEYS: Final = frozenset({int, str, bytes})
_LEAVES: Final = _KEYS | {bool, float, type(None)}


class Malformed(Exception):
    """Bytes that are not what they should be; its text is one line.

    Args:
        path: where, as names from the outside in; empty for the whole.
        what: what is wrong there.
    """

    def __init__(self, path: str, what: str) -> None:
        self.path = path
        self.what = " ".join(what.split())
        super().__init__(f"{path}: {self.what}" if path else self.what)


#: Told of a variant that is let pass.
Tolerate: TypeAlias = Callable[[Malformed], None]


def ignore(variant: Malformed) -> None:
    """Let any variant pass."""
    del variant


class _PlainTags(dict[int, cbor2.SemanticDecoderCallback]):
    """Keeps cbor2 from making dates, regular expressions or references out of tags."""

    def __missing__(self, tag: int) -> cbor2.SemanticDecoderCallback:
        return lambda value, _immutable: Tag(tag, value)


_PLAIN_TAGS: Final[Mapping[int, cbor2.SemanticDecoderCallback]] = _PlainTags()


def encode(value: Value) -> bytes:
    """Encode a value: definite lengths, shortest heads, maps in the order given.

    >>> encode({1: -35, -1: [b"x", True]}).hex()
    'a201382220824178f5'
    """
    return cbor2.dumps(value, encoders={float: _encode_float})


def decode(
    data: bytes,
    *,
    path: str = "",
    max_size: int = MAX_SIZE,
    max_depth: int = MAX_DEPTH,
    tolerate: Tolerate | None = None,
) -> Value:
    """Decode exactly one value.

    Args:
        data: all of its encoding.
        path: what the bytes are, for the text of a refusal.
        max_size: in bytes.
        max_depth: arrays, maps and tags inside one another.
        tolerate: told of a variant of the encoding, which is taken then; otherwise it is refused.

    Raises:
        Malformed: the bytes are not the encoding of a value.

    >>> decode(bytes.fromhex("1817"), path="token")
    Traceback (most recent call last):
    pyvmm.token.cbor.Malformed: token: byte 0: not the shortest encoding
    """
    if len(data) > max_size:
        raise Malformed(path, f"{len(data)} bytes, more than {max_size}")
    decoder = cbor2.CBORDecoder(
        BytesIO(data),
        semantic_decoders=_PLAIN_TAGS,
        read_size=1,  # it reads no further than the value goes
        max_depth=max_depth,
        allow_indefinite=False,
        allow_duplicate_keys=False,
    )
    try:
        value: Value = decoder.decode()
    except cbor2.CBORDecodeError as error:
        raise Malformed(path, f"not strict CBOR: {str(error)[:200]}") from None
    _check(value, path)
    if (behind := len(data) - decoder.fp.tell()) > 0:
        raise Malformed(path, f"{behind} bytes follow the value")
    if (again := encode(value)) != data:
        variant = Malformed(path, _difference(again, data))
        if tolerate is None:
            raise variant
        tolerate(variant)
    return value


def describe(value: Value) -> str:
    """Return a value for a line of text, long ones cut."""
    match value:
        case bytes():
            text = value[:16].hex() + ("…" if len(value) > 16 else "")
            return f"{len(value)} bytes {text}".rstrip()
        case None:
            return "null"
        case list() | dict():
            return f"{'array' if isinstance(value, list) else 'map'} of {len(value)}"
        case _:
            text = repr(value)
            return text if len(text) <= 80 else f"{text[:79]}…"


def _encode_float(encoder: cbor2.CBOREncoder, value: float) -> None:
    encoder.write(cbor2.dumps(value, canonical=True))


def _difference(again: bytes, data: bytes) -> str:
    pairs = zip(again, data, strict=False)
    at = next((at for at, (one, other) in enumerate(pairs) if one != other), len(data))
    return f"byte {at}: not the shortest encoding"


def _check(value: object, path: str) -> None:
    """Refuse what has no place in a token: simple values, keys that are not int, text or bytes."""
    match value:
        case list():
            for index, item in enumerate(value):
                if type(item) not in _LEAVES:
                    _check(item, f"{path}[{index}]")
        case dict():
            for key, item in value.items():
                if type(key) not in _KEYS:
                    raise Malformed(path, f"a key of type {type(key).__name__}")
                if type(item) not in _LEAVES:
                    _check(item, f"{path}[{key!r}]")
        case Tag():
            _check(value.value, path)
        case _ if type(value) not in _LEAVES:
            raise Malformed(path, f"a value of type {type(value).__name__}")
        case _:
            pass
