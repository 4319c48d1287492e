"""A token's claims as JSON, with the names and the base64 of the Veraison tools.

A value that JSON or the claim tables cannot express is an object with one member: `{"base64": …}`,
`{"text": …}`, `{"float": …}`, `{"null": true}`, `{"map": [[key, value], …]}`,
`{"tag": [number, value]}`.  So every payload has a JSON form, which converts back to the payload.
"""

import re
from base64 import b64decode, b64encode
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.arch.strict_json import Json
from pyvmm.token.cbor import Key, Tag, Value
from pyvmm.token.claims import (
    EXTENSION_DEVICE,
    PLATFORM_CLAIMS,
    REALM_CLAIMS,
    Claim,
    ExtensionDevice,
)
from pyvmm.token.report import Payload
from pyvmm.token.shapes import Array, Bytes, Either, Map, Member, Shape, Text

_KEY: Final = re.compile(r"-?[0-9]{1,20}")

PLATFORM_NAME: Final = "cca-platform-token"
REALM_NAME: Final = "cca-realm-delegated-token"


def platform_json(payload: Payload) -> Json:
    """Return the claims of a platform token."""
    return _to_json(payload, _map_of(PLATFORM_CLAIMS))


def realm_json(payload: Payload) -> Json:
    """Return the claims of a realm token."""
    return _to_json(payload, _map_of(REALM_CLAIMS))


def platform_payload(claims: Json) -> Payload:
    """Return the payload of a platform token with any claims.

    Raises:
        UserError: a member is not a claim, or not the JSON form of a value.
    """
    return _payload(claims, PLATFORM_CLAIMS, PLATFORM_NAME)


def realm_payload(claims: Json) -> Payload:
    """Return the payload of a realm token with any claims.

    Raises:
        UserError: a member is not a claim, or not the JSON form of a value.
    """
    return _payload(claims, REALM_CLAIMS, REALM_NAME)


def _map_of(table: tuple[Claim, ...]) -> Map:
    return Map(tuple(Member(claim.key, claim.name, claim.shape) for claim in table))


def _payload(claims: Json, table: tuple[Claim, ...], where: str) -> Payload:
    try:
        payload = _from_json(claims, _map_of(table), where)
    except RecursionError:
        raise UserError(f"{where} is nested too deeply") from None
    if not isinstance(payload, dict):
        raise UserError(f"{where} is not a JSON object")
    return payload


def _shape(shape: Shape | None) -> Shape | None:
    """Return the shape that determines the JSON form of a value."""
    match shape:
        case Either(one=_, other=Text()):
            return Text()
        case ExtensionDevice():
            return EXTENSION_DEVICE
        case _:
            return shape


def _to_json(value: Value, shape: Shape | None) -> Json:
    shape = _shape(shape)
    match value:
        case None:
            return {"null": True}
        case bool():
            return value
        case int():
            return int(value)
        case float():
            return {"float": repr(value)}
        case str():
            return {"text": value} if isinstance(shape, Bytes) else value
        case bytes():
            text = b64encode(value).decode()
            return text if isinstance(shape, Bytes) else {"base64": text}
        case list():
            item = shape.item if isinstance(shape, Array) else None
            return [_to_json(one, item) for one in value]
        case dict():
            return _map_to_json(value, shape)
        case Tag():
            return {"tag": [value.tag, _to_json(value.value, None)]}


def _map_to_json(value: Payload, shape: Shape | None) -> Json:
    if not isinstance(shape, Map) or not all(type(key) is int for key in value):
        return {"map": [[_to_json(k, None), _to_json(v, None)] for k, v in value.items()]}
    members = {member.key: member for member in shape.members}
    return {
        members[key].name if key in members else str(key): _to_json(
            item, members[key].shape if key in members else None
        )
        for key, item in value.items()
        if isinstance(key, int)
    }


def _from_json(json: Json, shape: Shape | None, where: str) -> Value:
    shape = _shape(shape)
    match json:
        case str():
            return _base64(json, where) if isinstance(shape, Bytes) else _text(json, where)
        case bool():
            return json
        case int():
            return _number(json, where)
        case list():
            item = shape.item if isinstance(shape, Array) else None
            return [_from_json(one, item, f"{where}[{n}]") for n, one in enumerate(json)]
        case dict():
            return _object(json, shape, where)
        case _:
            return json


def _object(json: dict[str, Json], shape: Shape | None, where: str) -> Value:
    match json:
        case {"base64": str(text)}:
            return _base64(text, where)
        case {"text": str(text)}:
            return _text(text, where)
        case {"null": True}:
            return None
        case {"float": str(text)}:
            return _float(text, where)
        case {"map": list(pairs)}:
            return _map(pairs, where)
        case {"tag": [int(number), value]} if number >= 0 and not isinstance(number, bool):
            return Tag(_number(number, where), _from_json(value, None, where))
        case _ if isinstance(shape, Map):
            return _members(json, shape, where)
        case _:
            raise UserError(f"{where}: give an object with one member: base64, text, map or tag")


def _members(json: dict[str, Json], shape: Map, where: str) -> Payload:
    by_name = {member.name: member for member in shape.members}
    payload: Payload = {}
    for name, value in json.items():
        member = by_name.get(name)
        if member is None and not _KEY.fullmatch(name):
            raise UserError(f"{where}: {name!r} is neither the name nor the key of a claim")
        key = _number(int(name), where) if member is None else int(member.key)
        if key in payload:
            raise UserError(f"{where}: duplicate claim {name!r}")
        payload[key] = _from_json(value, member.shape if member else None, f"{where}.{name}")
    return payload


def _map(pairs: list[Json], where: str) -> Payload:
    payload: Payload = {}
    for pair in pairs:
        key, value = _pair(pair, where)
        if key in payload:
            raise UserError(f"{where}: duplicate key {key!r}")
        payload[key] = value
    return payload


def _pair(pair: Json, where: str) -> tuple[Key, Value]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise UserError(f"{where}: a map must be an array of [key, value]")
    key = _from_json(pair[0], None, where)
    if not isinstance(key, int | str | bytes):
        raise UserError(f"{where}: a map's key must be an integer, text or bytes")
    return key, _from_json(pair[1], None, where)


def _number(value: int, where: str) -> int:
    if not -(1 << 64) <= value < 1 << 64:
        raise UserError(f"{where}: an integer must fit in 64 bits")
    return value


def _text(value: str, where: str) -> str:
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{where} is not text: it has half a surrogate pair")
    return value


def _base64(text: str, where: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise UserError(f"{where} is not base64") from None


def _float(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{where} is not a number") from None
