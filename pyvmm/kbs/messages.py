"""The broker's messages, which come from anybody."""

import json
from typing import Final, TypeVar

import msgspec

from pyvmm.arch import strict_json
from pyvmm.arch.strict_json import Json

_MAX_SHOWN: Final = 60
T = TypeVar("T")


class Refused(Exception):
    """The broker refuses; the text is one line: what is wrong, and what to do.

    Args:
        status: the HTTP status.
        kind: the kind of problem, in a word.
        detail: the text.
    """

    def __init__(self, status: int, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind


class Request(msgspec.Struct, frozen=True):
    """A client wants a challenge; its other members do not matter to us."""

    version: str
    tee: str


class RuntimeData(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """What the challenge in a token binds: the nonce, and the public key of the realm as a JWK."""

    nonce: str
    tee_pubkey: dict[str, str]

    def canonical(self) -> bytes:
        """Return what is hashed: JSON with sorted members and without spaces."""
        value = {"nonce": self.nonce, "tee-pubkey": self.tee_pubkey}
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode()


class Evidence(msgspec.Struct, frozen=True):
    """A CCA token, byte by byte."""

    token: list[int]


class Attestation(msgspec.Struct, frozen=True, rename="kebab"):
    """The answer to a challenge."""

    runtime_data: RuntimeData
    tee_evidence: Evidence


def decode_request(body: bytes) -> Request:
    """Return the message in a body, or raise Refused."""
    return _convert(_loads(body), Request)


def decode_attestation(body: bytes) -> Attestation:
    """Return the message in a body, or raise Refused.

    The evidence may be wrapped, because a guest may have several attesters; a realm has one.
    """
    value = _loads(body)
    if isinstance(value, dict):
        evidence = value.get("tee-evidence")
        if isinstance(evidence, dict) and "primary_evidence" in evidence:
            value["tee-evidence"] = evidence["primary_evidence"]
    return _convert(value, Attestation)


def short(text: str) -> str:
    """Return a text from anybody, quoted and not too long for a message."""
    return repr(text[:_MAX_SHOWN]) + ("…" if len(text) > _MAX_SHOWN else "")


def _loads(body: bytes) -> Json:
    try:
        return strict_json.loads(body)
    except ValueError as error:
        raise Refused(400, "malformed", f"the body is not JSON: {error}") from None


def _convert(value: Json, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise Refused(400, "malformed", f"the body is malformed: {error}") from None
