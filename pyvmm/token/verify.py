"""Verify that a token is well formed, authentic, fresh, and as expected.

Every check that has its input is made, and every defect is reported.

Spec: draft-ffm-rats-cca-token, "Verification"; Arm DEN0137, "Realm attestation".
"""

import hmac
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache, partial
from hashlib import new as new_hash
from typing import Final

from pyvmm.token.appraise import Policy, appraise
from pyvmm.token.cbor import Malformed, Tolerate, Value, describe
from pyvmm.token.claims import (
    HASH_SIZES,
    MEC_POLICIES,
    PLATFORM_CLAIMS,
    PLATFORM_PATHS,
    REALM_CLAIMS,
    REALM_PATHS,
    Claim,
    PlatformKey,
    Profile,
    RealmKey,
    check_claims,
)
from pyvmm.token.cose import Algorithm, parse_cose_key
from pyvmm.token.ecdsa import is_signature, load_public
from pyvmm.token.generations import (
    FORMS,
    Generation,
    OuterTag,
    PlatformProfile,
    RealmProfile,
)
from pyvmm.token.parse import Part, Token, parse
from pyvmm.token.report import Check, Kind, Payload, Report
from pyvmm.token.trust import Anchor, TrustStore

_UNSUPPORTED: Final = "unsupported profile: "


def verify(data: bytes, trust: TrustStore, policy: Policy | None = None) -> Report:
    """Verify a token, which may be any bytes; the report lists its defects."""
    report = Report()
    token = parse(data, report)
    report.platform, report.realm = token.platform.payload, token.realm.payload
    anchor = _anchor(report, trust)
    cpak = anchor.public if anchor is not None else None
    platform_profile, realm_profile = _profiles(token, report)
    rak = _rak(report, realm_profile)
    # The two signatures take nearly all of the time, so they are checked in parallel.
    is_platform = _threads().submit(_is_signed, token.platform, cpak, _is_platform_signature)
    is_realm = _is_signed(token.realm, rak, is_signature)
    _claims(report, report.platform, PLATFORM_CLAIMS, platform_profile, "platform")
    _claims(report, report.realm, REALM_CLAIMS, realm_profile, "realm")
    _measurements(report)
    _binding(report)
    appraise(report, policy or Policy())
    _signature(report, Check.PLATFORM_SIGNATURE, token.platform, cpak, is_platform.result())
    _signature(report, Check.REALM_SIGNATURE, token.realm, rak, is_realm)
    report.findings.sort(key=lambda finding: list(Check).index(finding.check))
    return report


# --- profiles ---------------------------------------------------------------------------------


def _profiles(token: Token, report: Report) -> tuple[PlatformProfile | None, RealmProfile | None]:
    """Return the profiles found, and set the report's generation."""
    platform, realm = None, None
    if (payload := token.platform.payload) is not None:
        value = payload.get(PlatformKey.PROFILE)
        if isinstance(value, str) and value in list(PlatformProfile):
            platform = PlatformProfile(value)
        else:
            _unsupported(report, PLATFORM_PATHS[PlatformKey.PROFILE], list(PlatformProfile), value)
    if (payload := token.realm.payload) is not None:
        value = payload.get(RealmKey.PROFILE)
        if RealmKey.PROFILE not in payload:
            realm = RealmProfile.LEGACY
        elif isinstance(value, str) and value and value in list(RealmProfile):
            realm = RealmProfile(value)
        else:
            _unsupported(report, REALM_PATHS[RealmKey.PROFILE], [*RealmProfile][1:], value)
    if platform is not None and realm is not None:
        report.generation = _generation(report, token.outer_tag, platform, realm)
    return platform, realm


def _unsupported(report: Report, path: str, known: list[str], value: Value) -> None:
    actual = _UNSUPPORTED + (describe(value) if value is not None else "absent")
    report.add(Check.PROFILE, Kind.MALFORMED, path, " or ".join(map(repr, known)), actual)


def _generation(
    report: Report, tag: OuterTag | None, platform: PlatformProfile, realm: RealmProfile
) -> Generation | None:
    """Return the generation of a pair of profiles; the outer tag decides between two."""
    fitting = [g for g, form in FORMS.items() if (form.platform, form.realm) == (platform, realm)]
    if not fitting:
        expected = f"a realm profile that goes with {platform.value!r}"
        actual = f"{_UNSUPPORTED}{realm.value!r}" if realm else f"{_UNSUPPORTED}absent"
        report.add(Check.PROFILE, Kind.MALFORMED, REALM_PATHS[RealmKey.PROFILE], expected, actual)
        return None
    report.passed(Check.PROFILE)
    exact = [g for g in fitting if FORMS[g].outer_tag is tag]
    if not exact and tag is not None:
        expected = f"tag {FORMS[fitting[0]].outer_tag.value} with these profiles"
        report.add(Check.PROFILE, Kind.WARNING, "token", expected, f"tag {tag.value}")
    return (exact or fitting)[0]


# --- claims -----------------------------------------------------------------------------------


def _claims(
    report: Report,
    payload: Payload | None,
    table: tuple[Claim, ...],
    profile: Profile | None,
    part: str,
) -> None:
    """Check the claims of a part; warn of claims that its profile does not define."""
    if payload is None or profile is None:
        return
    for mismatch in check_claims(payload, table, profile, part):
        kind = Kind.WARNING if mismatch.is_advice else Kind.MALFORMED
        report.add(Check.CLAIMS, kind, mismatch.path, mismatch.expected, mismatch.actual)
    known = {claim.key for claim in table if profile in claim.must | claim.may}
    for key in payload:
        if key not in known:
            actual = describe(payload[key])
            report.add(
                Check.CLAIMS, Kind.WARNING, f"{part}[{key!r}]", "a claim of its profile", actual
            )


def _measurements(report: Report) -> None:
    """Check that the measurements agree with one another and with their hash algorithm."""
    realm = report.realm
    if realm is None:
        return
    rim, rems = realm.get(RealmKey.RIM), realm.get(RealmKey.REMS)
    if isinstance(rim, bytes) and isinstance(rems, list):
        for index, rem in enumerate(rems):
            if isinstance(rem, bytes) and len(rem) != len(rim):
                path = f"{REALM_PATHS[RealmKey.REMS]}[{index}]"
                expected = f"{len(rim)} bytes, the size of the initial measurement"
                report.add(Check.CLAIMS, Kind.MALFORMED, path, expected, describe(rem))
    name = realm.get(RealmKey.HASH_ALGORITHM)
    size = HASH_SIZES.get(name) if isinstance(name, str) else None
    if isinstance(rim, bytes) and size not in {None, len(rim)} and len(rim) in HASH_SIZES.values():
        expected = f"{size} bytes, the size of {name!r}"
        report.add(Check.CLAIMS, Kind.WARNING, REALM_PATHS[RealmKey.RIM], expected, describe(rim))
    if (policy := realm.get(RealmKey.MEC_POLICY)) in MEC_POLICIES:
        path = REALM_PATHS[RealmKey.MEC_POLICY]
        report.add(Check.CLAIMS, Kind.WARNING, path, "an integer", describe(policy))


# --- keys and signatures ----------------------------------------------------------------------


def _anchor(report: Report, trust: TrustStore) -> Anchor | None:
    """Find the key of the platform that the token names."""
    platform = report.platform
    if platform is None:
        return None
    implementation_id = platform.get(PlatformKey.IMPLEMENTATION_ID)
    instance_id = platform.get(PlatformKey.INSTANCE_ID)
    if not isinstance(implementation_id, bytes) or not isinstance(instance_id, bytes):
        return None
    anchor = trust.find(implementation_id, instance_id)
    if anchor is None:
        actual = f"no key for implementation {implementation_id.hex()}"
        path = PLATFORM_PATHS[PlatformKey.INSTANCE_ID]
        expected = "a platform with a trust anchor"
        report.add(
            Check.TRUST_ANCHOR,
            Kind.NOT_AUTHENTIC,
            path,
            expected,
            f"{instance_id.hex()}, {actual}",
        )
    else:
        report.passed(Check.TRUST_ANCHOR)
    return anchor


def _rak(report: Report, profile: RealmProfile | None) -> bytes | None:
    """Return the SEC1 point of the realm attestation key."""
    encoded = report.realm.get(RealmKey.RAK) if report.realm is not None else None
    if profile is None or not isinstance(encoded, bytes):
        return None
    path = REALM_PATHS[RealmKey.RAK]
    try:
        return _point(encoded, profile, path, partial(report.variant, Check.CLAIMS))
    except Malformed as error:
        report.malformed(Check.CLAIMS, error)
        return None


def _point(encoded: bytes, profile: RealmProfile, path: str, tolerate: Tolerate) -> bytes:
    is_raw = profile is RealmProfile.LEGACY
    point = encoded if is_raw else parse_cose_key(encoded, path=path, tolerate=tolerate)
    try:
        load_public(point)
    except ValueError as error:
        raise Malformed(path, f"not a point on its curve: {error}") from None
    if is_raw and Algorithm.of_public(point) is not Algorithm.ES384:
        raise Malformed(path, f"{len(point)} bytes, not a point of P-384")
    return point


#: All tokens of a machine contain the same platform token until it is switched off.
_is_platform_signature: Final = lru_cache(maxsize=64)(is_signature)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="verify")


os.register_at_fork(after_in_child=_threads.cache_clear)  # threads do not survive a fork


def _is_signed(
    part: Part, public: bytes | None, is_valid: Callable[[bytes, Algorithm, bytes, bytes], bool]
) -> bool | None:
    """Check whether a part is signed with a key; None if the key or the part is missing."""
    if part.sign1 is None or part.algorithm is None or public is None:
        return None
    return is_valid(public, part.algorithm, part.sign1.to_be_signed, part.sign1.signature)


def _signature(
    report: Report, check: Check, part: Part, public: bytes | None, is_signed: bool | None
) -> None:
    """Report the result for the signature of a part."""
    if is_signed is None or part.algorithm is None or public is None:
        return
    fitting = Algorithm.of_public(public)
    if part.algorithm is not fitting:
        path, expected = f"{part.name}.protected", f"{fitting.name}, for the key's curve"
        report.add(check, Kind.NOT_AUTHENTIC, path, expected, part.algorithm.name)
    elif not is_signed:
        expected = f"a signature by the key {public[1:9].hex()}…"
        report.add(check, Kind.NOT_AUTHENTIC, f"{part.name}.signature", expected, "another one")
    report.passed(check)


def _binding(report: Report) -> None:
    """Check that the platform vouches for the realm attestation key, as encoded in the token."""
    if report.platform is None or report.realm is None:
        return
    challenge = report.platform.get(PlatformKey.CHALLENGE)
    rak, name = report.realm.get(RealmKey.RAK), report.realm.get(RealmKey.RAK_HASH_ALGORITHM)
    if (
        not isinstance(challenge, bytes)
        or not isinstance(rak, bytes)
        or not isinstance(name, str)
        or name not in HASH_SIZES
    ):
        return
    digest = new_hash(name.replace("-", ""), rak).digest()
    if not hmac.compare_digest(digest, challenge):
        path = PLATFORM_PATHS[PlatformKey.CHALLENGE]
        report.add(
            Check.BINDING,
            Kind.NOT_AUTHENTIC,
            path,
            f"{digest.hex()} ({name} of the realm's key)",
            challenge.hex(),
        )
    report.passed(Check.BINDING)
