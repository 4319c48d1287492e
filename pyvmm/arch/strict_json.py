"""JSON without its liberties: no member is there twice, and a number is a number.

RFC 8259 leaves open which of two members with one name counts, so two readers of a file may see
different things in it.
"""

import json
from typing import TypeAlias

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


def loads(text: bytes | str) -> Json:
    """Return what a text says.

    >>> loads('{"rim": "00", "rim": "ff"}')
    Traceback (most recent call last):
    ValueError: the member 'rim' is there twice

    Raises:
        ValueError: it is not such JSON; in one line.
    """
    try:
        value: Json = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair is no character") from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    return value


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members: dict[str, Json] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"the member {name!r} is there twice")
        members[name] = value
    return members


def _no_number(name: str) -> Json:
    raise ValueError(f"{name} is not a number")
