"""A token in CBOR diagnostic notation, with the claims' names as comments.

Byte strings that contain CBOR are shown as `<< … >>`.

Spec: RFC 8949, 8; RFC 8610, appendix G.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from pyvmm.token.cbor import Malformed, Tag, Value, decode, ignore
from pyvmm.token.claims import (
    EXTENSION_DEVICE,
    PLATFORM_CLAIMS,
    REALM_CLAIMS,
    ROTPK,
    SW_COMPONENT,
    Claim,
    PlatformKey,
    RealmKey,
)
from pyvmm.token.cose import COSE_SIGN1
from pyvmm.token.generations import PLATFORM_TOKEN, REALM_TOKEN
from pyvmm.token.shapes import Map

_INDENT: Final = "  "


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a map's keys, and those inside its values."""

    names: Mapping[int, str]
    inner: Mapping[int, "Names"]
    embedded: frozenset[int] = frozenset()  # keys whose byte strings contain CBOR


_NOTHING: Final = Names({}, {})
_Embedded: TypeAlias = frozenset[int]


def _names_of(shape: Map) -> Names:
    return Names({member.key: member.name for member in shape.members}, {})


def _claims(
    table: tuple[Claim, ...], inner: Mapping[int, Names], embedded: _Embedded = frozenset()
) -> Names:
    return Names({claim.key: claim.name for claim in table}, inner, embedded)


_HEADER: Final = Names({1: "alg", 2: "crit", 4: "kid"}, {})
_COSE_KEY: Final = Names({1: "kty", 3: "alg", -1: "crv", -2: "x", -3: "y", -4: "d"}, {})
_PAYLOADS: Final = {
    PLATFORM_TOKEN: _claims(
        PLATFORM_CLAIMS,
        {
            PlatformKey.SW_COMPONENTS: _names_of(SW_COMPONENT),
            PlatformKey.EXTENSION_DEVICES: _names_of(EXTENSION_DEVICE),
            PlatformKey.TBB_ROTPK: _names_of(ROTPK),
        },
    ),
    REALM_TOKEN: _claims(REALM_CLAIMS, {RealmKey.RAK: _COSE_KEY}, frozenset({RealmKey.RAK})),
}
_TOKEN: Final = Names(
    {PLATFORM_TOKEN: "cca-platform-token", REALM_TOKEN: "cca-realm-delegated-token"},
    _PAYLOADS,
    frozenset(_PAYLOADS),
)


def diagnose(data: bytes) -> str:
    """Return a token in diagnostic notation, on several lines.

    Raises:
        Malformed: it is not CBOR with definite lengths and unique keys.
    """
    return _value(decode(data, path="token", tolerate=ignore), _TOKEN, "", is_embedded=False)


def _value(value: Value, names: Names, indent: str, *, is_embedded: bool) -> str:
    """Return a value; decode a byte string that should contain CBOR, and does."""
    match value:
        case bytes():
            return _bytes(value, names, indent, is_embedded=is_embedded)
        case list():
            items = [
                _value(item, names, indent + _INDENT, is_embedded=is_embedded) for item in value
            ]
            return _lines("[", items, "]", indent)
        case dict():
            return _map(value, names, indent)
        case Tag() if value.tag == COSE_SIGN1 and isinstance(value.value, list):
            return f"{value.tag}({_sign1(value.value, names, indent)})"
        case Tag():
            return f"{value.tag}({_value(value.value, names, indent, is_embedded=False)})"
        case _:
            return _scalar(value)


def _sign1(parts: list[Value], names: Names, indent: str) -> str:
    opened = {0: _HEADER, 1: _HEADER, 2: names}
    items = [
        _value(part, opened.get(index, _NOTHING), indent + _INDENT, is_embedded=index in {0, 2})
        for index, part in enumerate(parts)
    ]
    return _lines("[", items, "]", indent)


def _map(value: dict[int | str | bytes, Value], names: Names, indent: str) -> str:
    items = []
    for key, item in value.items():
        number = key if isinstance(key, int) else 0  # no known key is 0
        comment = f"/ {names.names[number]} / " if number in names.names else ""
        inner = names.inner.get(number, _NOTHING)
        text = _value(item, inner, indent + _INDENT, is_embedded=number in names.embedded)
        items.append(f"{comment}{_scalar(key)}: {text}")
    return _lines("{", items, "}", indent)


def _lines(start: str, items: list[str], end: str, indent: str) -> str:
    if not items:
        return start + end
    body = ",\n".join(f"{indent}{_INDENT}{item}" for item in items)
    return f"{start}\n{body}\n{indent}{end}"


def _bytes(value: bytes, names: Names, indent: str, *, is_embedded: bool) -> str:
    if is_embedded:
        try:
            inner = decode(value, tolerate=ignore)
        except Malformed:
            return _scalar(value)
        if isinstance(inner, dict | Tag):  # a raw key may look like a number
            return f"<< {_value(inner, names, indent, is_embedded=False)} >>"
    return _scalar(value)


def _scalar(value: Value) -> str:
    match value:
        case bytes():
            return f"h'{value.hex()}'"
        case float() if math.isnan(value):
            return "NaN"
        case float() if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        case _:
            return json.dumps(value)
