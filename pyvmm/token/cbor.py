"""Strict CBOR: each value has exactly one encoding; anything else is rejected.

A reader of foreign tokens may tolerate variants: heads and floating point numbers that are longer
than necessary.  They mean the same and cannot change a verdict, because signatures cover the bytes
as transmitted.  Anything ambiguous is always rejected: indefinite lengths, duplicate keys (in any
encoding), bytes after the value.

cbor2 rejects indefinite lengths, duplicate keys and deep nesting.  Encoding the value again and
comparing finds the rest.

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
    """Bytes that do not have the expected form; the text is one line.

    Args:
        path: names from the outside in; empty for the whole value.
        what: the defect.
    """

    def __init__(self, path: str, what: str) -> None:
        self.path = path
        self.what = " ".join(what.split())
        super().__init__(f"{path}: {self.what}" if path else self.what)


#: Called with each variant that is accepted.
Tolerate: TypeAlias = Callable[[Malformed], None]


def ignore(variant: Malformed) -> None:
    """Accept any variant."""
    del variant


class _PlainTags(dict[int, cbor2.SemanticDecoderCallback]):
    """Prevents cbor2 from converting tags to dates, regular expressions or references."""

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
        data: the complete encoding.
        path: a name for the bytes, for the error text.
        max_size: limit in bytes.
        max_depth: limit for nested arrays, maps and tags.
        tolerate: called with a variant of the encoding, which is then accepted; without it,
            variants are rejected.

    Raises:
        Malformed: the bytes are not the encoding of a value.

    >>> decode(bytes.fromhex("1817"), path="token")
    Traceback (most recent call last):
    pyvmm.token.cbor.Malformed: token: byte 0: not the shortest encoding
    """
    if len(data) > max_size:
        raise Malformed(path, f"{len(data)} bytes; the limit is {max_size}")
    decoder = cbor2.CBORDecoder(
        BytesIO(data),
        semantic_decoders=_PLAIN_TAGS,
        read_size=1,  # do not read beyond the value
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
    """Return a value as one line of text, shortened if long."""
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
    """Reject what a token must not contain: simple values, keys that are not int, text or bytes."""
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
