"""Decode untrusted JSON to a declared type."""

from typing import TypeVar

import msgspec

T = TypeVar("T")


def decode(text: bytes, kind: type[T]) -> T:
    """Return the value of a JSON text.

    Raises:
        msgspec.DecodeError: it is not JSON, is nested too deeply, or has another type.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (RecursionError, UnicodeDecodeError) as error:
        raise msgspec.DecodeError(str(error)) from None
