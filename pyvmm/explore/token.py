"""An attestation token for the page: its claims and what they mean, and every check of it."""

from base64 import b64encode
from collections.abc import Iterator
from typing import Final

import msgspec

from pyvmm.scripting.verification import verify
from pyvmm.token.cbor import Value
from pyvmm.token.claims import PLATFORM_CLAIMS, REALM_CLAIMS, Claim
from pyvmm.token.report import Payload, Report

_MEANINGS: Final = {
    "cca-platform-profile": "the format of this part of the token",
    "cca-platform-challenge": "the hash of the realm's public key: it ties the two parts together",
    "cca-platform-implementation-id": "which implementation of the platform this is",
    "cca-platform-instance-id": "which machine this is: derived from its attestation key",
    "cca-platform-config": "how the platform is configured",
    "cca-platform-lifecycle": "whether the platform is secured, or may be debugged",
    "cca-platform-hash-algo-id": "the hash of the platform's measurements",
    "cca-platform-client-id": "who asked the root of trust for this part: EL3",
    "cca-platform-sw-components": "the measured firmware: Monitor, RMM, configuration",
    "cca-platform-service-indicator": "where a verifier may be found",
    "cca-realm-challenge": "what the verifier chose, so that no old token can be replayed",
    "cca-realm-instance-id": "which machine the realm runs on",
    "cca-realm-personalization-value": "what the owner chose to tell realms with one image apart",
    "cca-realm-public-key": "the realm attestation key, which signs this part",
    "cca-realm-hash-algo-id": "the hash of the realm's measurements",
    "cca-realm-public-key-hash-algo-id": "the hash that ties the two parts together",
    "cca-realm-mec-policy": "whether the realm's memory has an encryption key of its own",
    "cca-realm-lfa-policy": "whether firmware may be replaced while the realm runs",
    "cca-realm-profile": "the format of this part of the token",
    "cca-realm-initial-measurement": "the RIM: a hash of how the realm was built",
    "cca-realm-extensible-measurements": "four hashes that the realm itself extends",
}


class ClaimRow(msgspec.Struct, frozen=True):
    """A claim."""

    part: str
    name: str
    value: str
    meaning: str


class CheckRow(msgspec.Struct, frozen=True):
    """A check, and what is wrong."""

    name: str
    outcome: str
    findings: list[str]


class TokenPicture(msgspec.Struct, frozen=True):
    """A token."""

    token: str  # base64
    challenge: str  # hexadecimal, that was chosen here; empty if unknown
    is_verified: bool
    claims: list[ClaimRow]
    checks: list[CheckRow]


def token_picture(token: bytes, challenge: bytes | None, rim: str | None) -> TokenPicture:
    """Verify a token, which may be any bytes.

    Args:
        token: raw, hexadecimal or base64.
        challenge: that it must contain.
        rim: the initial measurement that it must contain, hexadecimal.
    """
    report = verify(token, challenge=challenge, rim=bytes.fromhex(rim) if rim else None)
    return TokenPicture(
        b64encode(token).decode(),
        challenge.hex() if challenge else "",
        report.exit_code == 0,
        [
            *_claims("platform", report.platform, PLATFORM_CLAIMS),
            *_claims("realm", report.realm, REALM_CLAIMS),
        ],
        list(_checks(report)),
    )


def _claims(part: str, payload: Payload | None, claims: tuple[Claim, ...]) -> Iterator[ClaimRow]:
    names = {claim.key: claim.name for claim in claims}
    for key, value in (payload or {}).items():
        name = names.get(key, repr(key)) if isinstance(key, int) else repr(key)
        yield ClaimRow(part, name, _text(value), _MEANINGS.get(name, ""))


def _text(value: Value) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return "\n".join(map(_text, value))
    if isinstance(value, dict):
        return ", ".join(f"{key!r}: {_text(each)}" for key, each in value.items())
    return hex(value) if type(value) is int else str(value)


def _checks(report: Report) -> Iterator[CheckRow]:
    for check, outcome in report.outcomes.items():
        findings = [str(each) for each in report.findings if each.check is check]
        yield CheckRow(check.value, outcome.value, findings)
