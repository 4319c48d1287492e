"""The broker's protocol: request, challenge, attestation, response.

A client asks for a challenge, answers it with a token, and then requests secrets.  The challenge in
the token is the SHA-384 of the *runtime data*: our nonce and a public key whose private part only
the realm has.  Secrets are encrypted to that key, so it does not matter who else has the session's
id or our result: they get what only the realm can read.

Spec: Confidential Containers, "KBS Attestation Protocol".
"""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha384
from typing import Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from pyvmm.arch.errors import UserError
from pyvmm.arch.strict_json import Json
from pyvmm.kbs.jwe import encrypt, recipient
from pyvmm.kbs.library import Library, Rule
from pyvmm.kbs.messages import Refused, decode_attestation, decode_request, short
from pyvmm.token.appraise import Policy
from pyvmm.token.claims import CHALLENGE_SIZE
from pyvmm.token.cose import Algorithm
from pyvmm.token.ear import ear
from pyvmm.token.ecdsa import public_point
from pyvmm.token.report import Check, Kind, Report
from pyvmm.token.trust import TrustStore
from pyvmm.token.verify import verify

TEE: Final = "cca"
MAX_SESSIONS: Final = 1024
_VERSIONS: Final = ("0.2", "0.3", "0.4")  # of the protocol
_NONCE_SIZE: Final = 32
_ID_SIZE: Final = 32
_HASH: Final = "sha384"
_MAX_REASONS: Final = 8
#: Checks whose result depends on the rule.
_OF_RULE: Final = (
    Check.TRUST_ANCHOR,
    Check.SW_COMPONENTS,
    Check.PLATFORM_VALUES,
    Check.REALM_VALUES,
)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a verified realm may have, and the key that only it has."""

    repositories: frozenset[str]
    tee_pubkey: dict[str, str]
    expires: float


@dataclass(slots=True)
class Session:
    """One client; the nonce is None once it was answered."""

    nonce: str | None
    expires: float
    grant: Grant | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """How a broker verifies, and how long its sessions last."""

    trust: Mapping[Rule, TrustStore]
    signer: EllipticCurvePrivateKey
    build: str
    lifetime: float = 300.0  # seconds
    is_strict: bool = False
    clock: Callable[[], float] = time.time


class Broker:
    """Sessions, and the decisions on them.  A method raises Refused with the reason."""

    def __init__(self, library: Library, settings: Settings) -> None:
        self._library = library
        self._settings = settings
        self._sessions: dict[str, Session] = {}  # in the order in which they expire
        self._algorithm = Algorithm.of_public(public_point(settings.signer)).name

    # --- the three requests -----------------------------------------------------------------------

    def challenge(self, body: bytes) -> tuple[str, dict[str, Json]]:
        """Return the id of a new session, and its challenge."""
        request = decode_request(body)
        if not request.version.startswith(tuple(f"{known}." for known in _VERSIONS)):
            known = ", ".join(f"{version}.x" for version in _VERSIONS)
            raise Refused(401, "version", f"protocol version {short(request.version)}: use {known}")
        if request.tee != TEE:
            raise Refused(401, "tee", f"tee {short(request.tee)}: only {TEE!r} is supported")
        self._forget_expired()
        if len(self._sessions) >= MAX_SESSIONS:
            raise Refused(503, "busy", f"{MAX_SESSIONS} sessions are open: try again later")
        identifier, nonce = secrets.token_hex(_ID_SIZE), secrets.token_urlsafe(_NONCE_SIZE)
        now = self._settings.clock()
        self._sessions[identifier] = Session(nonce, now + self._settings.lifetime)
        return identifier, {"nonce": nonce, "extra-params": {"selected-hash-algorithm": _HASH}}

    def attest(self, identifier: str | None, body: bytes) -> str:
        """Verify the answer to a session's challenge; return the result as a JWT."""
        session = self._session(identifier)
        answer = decode_attestation(body)
        data = answer.runtime_data
        nonce, session.nonce = session.nonce, None  # a challenge has one answer, right or wrong
        if nonce is None:
            raise Refused(401, "replay", "the challenge was answered already: start a new session")
        if not secrets.compare_digest(data.nonce.encode(), nonce.encode()):
            raise Refused(401, "nonce", "runtime-data.nonce is not this session's: use the latest")
        try:
            recipient(data.tee_pubkey)
            token = bytes(answer.tee_evidence.token)
        except ValueError as error:
            raise Refused(400, "malformed", str(error)) from None
        challenge = sha384(data.canonical()).digest().ljust(CHALLENGE_SIZE, b"\0")
        return self._appraise(session, data.tee_pubkey, token, challenge)

    def resource(
        self, identifier: str | None, bearer: str | None, names: tuple[str, str, str]
    ) -> dict[str, str]:
        """Return a secret, encrypted to the realm's key."""
        grant = self._granted(bearer) if bearer is not None else self._session(identifier).grant
        if grant is None:
            raise Refused(401, "unattested", "this session is not attested: POST attest first")
        if names[0] not in grant.repositories:
            raise Refused(403, "forbidden", f"this realm may not have secrets of {short(names[0])}")
        try:
            secret = self._library.read(*names)
        except UserError:
            raise Refused(500, "unreadable", "the secret cannot be read: see the owner") from None
        if secret is None:
            raise Refused(404, "missing", f"no secret {short('/'.join(names))}: check the names")
        return encrypt(recipient(grant.tee_pubkey), secret)

    # --- sessions and grants ----------------------------------------------------------------------

    def _session(self, identifier: str | None) -> Session:
        self._forget_expired()
        session = self._sessions.get(identifier or "")
        if session is None:
            raise Refused(401, "session", "no such session, or it has expired: POST auth first")
        return session

    def _forget_expired(self) -> None:
        now = self._settings.clock()
        while self._sessions:
            identifier, session = next(iter(self._sessions.items()))
            if session.expires > now:
                break
            del self._sessions[identifier]

    def _granted(self, bearer: str) -> Grant:
        """Return the grant in a result that we have signed."""
        try:
            claims = jwt.decode(
                bearer,
                self._settings.signer.public_key(),
                [self._algorithm],
                options={"verify_exp": False, "require": ["exp"]},
            )
            grant = msgspec.convert(claims["kbs"], _Claims)
            expires = msgspec.convert(claims["exp"], int)
        except (jwt.InvalidTokenError, msgspec.ValidationError, KeyError):
            raise Refused(401, "token", "the bearer token is not ours: POST auth first") from None
        if expires <= self._settings.clock():
            raise Refused(401, "expired", "the bearer token has expired: POST auth first")
        return Grant(frozenset(grant.repositories), grant.tee_pubkey, expires)

    # --- appraisal --------------------------------------------------------------------------------

    def _appraise(
        self, session: Session, tee_pubkey: dict[str, str], token: bytes, challenge: bytes
    ) -> str:
        """Verify a token by all rules; grant what those allow that it meets."""
        results = [(rule, *self._verify(rule, token, challenge)) for rule in self._library.rules]
        accepted = [result for result in results if result[1].exit_code == 0]
        if not accepted:
            raise Refused(401, "attestation", _reasons([(r, report) for r, report, _ in results]))
        session.grant = Grant(
            frozenset(rule.repository for rule, _, _ in accepted), tee_pubkey, session.expires
        )
        _, report, policy = accepted[0]
        return self._result(session.grant, report, policy)

    def _verify(self, rule: Rule, token: bytes, challenge: bytes) -> tuple[Report, Policy]:
        policy = Policy(
            challenge=challenge, reference=rule.values, is_strict=self._settings.is_strict
        )
        return verify(token, self._settings.trust[rule], policy), policy

    def _result(self, grant: Grant, report: Report, policy: Policy) -> str:
        now = int(self._settings.clock())
        claims = ear(report, policy, now=now, build=self._settings.build)
        claims["exp"] = int(grant.expires)
        repositories: list[Json] = [*sorted(grant.repositories)]
        claims["kbs"] = {"repositories": repositories, "tee_pubkey": dict(grant.tee_pubkey)}
        return jwt.encode(claims, self._settings.signer, self._algorithm)


class _Claims(msgspec.Struct, frozen=True):
    """Our claims in a result."""

    repositories: list[str]
    tee_pubkey: dict[str, str]


def _reasons(results: list[tuple[Rule, Report]]) -> str:
    """Return why a token meets no rule."""
    if not results:
        return "no realm may have a secret: write reference values"
    reasons = [
        f"{rule.source}: {finding}" if finding.check in _OF_RULE else str(finding)
        for rule, report in results
        for finding in report.findings
        if finding.kind is not Kind.WARNING
    ]
    distinct = list(dict.fromkeys(reasons))
    more = len(distinct) - _MAX_REASONS
    return "; ".join(distinct[:_MAX_REASONS]) + (f"; and {more} more" if more > 0 else "")
