"""Parse a token: outer form, the two COSE_Sign1, their headers and payloads.

Defects go into a report, mere encoding variants as warnings; the parser reads on as far as it can.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from pyvmm.token.cbor import Malformed, Tag, Tolerate, Value, decode, describe
from pyvmm.token.cose import Algorithm, Sign1
from pyvmm.token.generations import EAT_CWT, PLATFORM_TOKEN, REALM_TOKEN, OuterTag
from pyvmm.token.report import Check, Kind, Payload, Report

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """The platform or the realm token, as far as it could be read."""

    name: str
    encoded: bytes | None = None
    sign1: Sign1 | None = None
    algorithm: Algorithm | None = None
    payload: Payload | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A token, as far as it could be read."""

    outer_tag: OuterTag | None
    platform: Part
    realm: Part


def parse(data: bytes, report: Report) -> Token:
    """Parse a token; add its defects to the report."""
    outer_tag, entries = None, None
    decoded = _attempt(
        report, Check.ENCODING, lambda tolerate: (decode(data, path="token", tolerate=tolerate),)
    )
    if decoded is not None:
        outer_tag, entries = _outer(*decoded, report)
    return Token(
        outer_tag,
        _part("platform", entries, PLATFORM_TOKEN, outer_tag, report),
        _part("realm", entries, REALM_TOKEN, outer_tag, report),
    )


def _attempt(report: Report, check: Check, read: Callable[[Tolerate], T]) -> T | None:
    """Return the result of `read`, or report why there is none; report variants as warnings."""
    try:
        result = read(partial(report.variant, check))
    except Malformed as error:
        report.malformed(check, error)
        return None
    report.passed(check)
    return result


def _outer(value: Value, report: Report) -> tuple[OuterTag | None, Payload | None]:
    """Return the outer tag and the entries inside it."""
    known = " or ".join(str(tag.value) for tag in OuterTag)
    if not isinstance(value, Tag):
        report.add(Check.OUTER_FORM, Kind.MALFORMED, "token", f"CBOR tag {known}", describe(value))
        return None, None
    if value.tag not in list(OuterTag):
        what = f"unsupported profile: tag {value.tag}"
        report.add(Check.OUTER_FORM, Kind.MALFORMED, "token", f"CBOR tag {known}", what)
        return None, None
    if not isinstance(value.value, dict):
        report.add(Check.OUTER_FORM, Kind.MALFORMED, "token", "a map", describe(value.value))
        return OuterTag(value.tag), None
    for key in value.value:
        if key not in {PLATFORM_TOKEN, REALM_TOKEN}:  # it is not signed
            report.add(
                Check.OUTER_FORM, Kind.MALFORMED, f"token[{key!r}]", "absent", "an unknown entry"
            )
    report.passed(Check.OUTER_FORM)
    return OuterTag(value.tag), value.value


def _part(
    name: str, entries: Payload | None, key: int, tag: OuterTag | None, report: Report
) -> Part:
    if entries is None:
        return Part(name)
    encoded = _entry(name, entries, key, tag, report)
    if encoded is None:
        return Part(name)
    sign1 = _attempt(
        report, Check.SIGN1, lambda tolerate: Sign1.parse(encoded, path=name, tolerate=tolerate)
    )
    if sign1 is None:
        return Part(name, encoded)
    algorithm = _attempt(
        report, Check.SIGN1, lambda tolerate: sign1.algorithm(path=name, tolerate=tolerate)
    )
    if algorithm is not None and not sign1.is_plain:
        actual = f"{len(sign1.protected)} bytes {sign1.protected.hex()}"
        report.add(Check.SIGN1, Kind.WARNING, f"{name}.protected", "an algorithm only", actual)
    payload = _attempt(
        report, Check.CLAIMS, lambda tolerate: _payload(name, sign1.payload, tolerate)
    )
    return Part(name, encoded, sign1, algorithm, payload)


def _entry(
    name: str, entries: Payload, key: int, tag: OuterTag | None, report: Report
) -> bytes | None:
    """Return the encoded COSE_Sign1 of an entry."""
    value = entries.get(key)
    if tag is OuterTag.COLLECTION and isinstance(value, bytes):
        return value
    if tag is OuterTag.CMW:
        match value:
            case [int(content_format), bytes(encoded)] if content_format == EAT_CWT:
                return encoded
            case _:
                pass
    expected = "a byte string" if tag is OuterTag.COLLECTION else f"[{EAT_CWT}, a byte string]"
    actual = describe(value) if key in entries else f"unsupported profile: no {name} token ({key})"
    report.add(Check.OUTER_FORM, Kind.MALFORMED, name, expected, actual)
    return None


def _payload(name: str, encoded: bytes, tolerate: Tolerate) -> Payload:
    payload = decode(encoded, path=f"{name}.payload", tolerate=tolerate)
    if not isinstance(payload, dict):
        raise Malformed(f"{name}.payload", f"not a map: {describe(payload)}")
    return payload
