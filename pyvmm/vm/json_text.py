"""JSON that came from somewhere else, as a declared type."""

from typing import TypeVar

import msgspec

T = TypeVar("T")


def decode(text: bytes, kind: type[T]) -> T:
    """Return what JSON says.

    Raises:
        msgspec.DecodeError: it is not JSON, nested too deep, or nothing of that kind.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (RecursionError, UnicodeDecodeError) as error:
        raise msgspec.DecodeError(str(error)) from None
