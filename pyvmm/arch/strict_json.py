"""Strict JSON: no duplicate members, and no NaN or infinity.

RFC 8259 leaves open which of two members with the same name counts, so two readers of a file could
disagree about its content.
"""

import json
from typing import TypeAlias

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


def loads(text: bytes | str) -> Json:
    """Parse a text.

    >>> loads('{"rim": "00", "rim": "ff"}')
    Traceback (most recent call last):
    ValueError: duplicate member 'rim'

    Raises:
        ValueError: it is not strict JSON; the text is one line.
    """
    try:
        value: Json = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair is not a character") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members: dict[str, Json] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"duplicate member {name!r}")
        members[name] = value
    return members


def _no_number(name: str) -> Json:
    raise ValueError(f"{name} is not a number")
