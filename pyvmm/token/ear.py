"""The result of a verification as an EAT attestation result (EAR) with AR4SI vectors.

The vectors follow those of the Veraison verifier for CCA tokens.  They never claim more than the
verdict: a token is one answer to one challenge, so no part of it is affirmed unless the whole token
is authentic and fresh.

Spec: draft-ietf-rats-ear-04; draft-ietf-rats-ar4si; Veraison, "AR4SI for Arm CCA".
"""

from base64 import urlsafe_b64encode
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from pyvmm.arch.strict_json import Json
from pyvmm.token.appraise import Policy
from pyvmm.token.ar4si import (
    Category,
    Configuration,
    Executables,
    General,
    Hardware,
    InstanceIdentity,
    Vector,
    status_of,
    vector_of,
)
from pyvmm.token.claims import PLATFORM_PATHS, PlatformKey
from pyvmm.token.claimset import platform_json, realm_json
from pyvmm.token.cose import Algorithm
from pyvmm.token.ecdsa import public_point
from pyvmm.token.report import Check, Finding, Kind, Outcome, Report

PROFILE: Final = "tag:ietf.org,2026:rats/ear#04"
PLATFORM_SUBMOD: Final = "CCA_SSD_PLATFORM"
REALM_SUBMOD: Final = "CCA_REALM"
POLICY_ID: Final = "pyvmm:arm-cca"
#: The checks that prove that the whole token is this platform's answer to this challenge.
_PROOFS: Final = (
    Check.PLATFORM_SIGNATURE,
    Check.BINDING,
    Check.REALM_SIGNATURE,
    Check.CHALLENGE,
)
_FORM: Final = (Check.ENCODING, Check.OUTER_FORM, Check.SIGN1, Check.CLAIMS, Check.PROFILE)
_VERDICTS: Final = {0: "verified", 1: "not authentic", 3: "malformed", 4: "refused"}


def verdict(report: Report) -> str:
    """Return the result in a word or two."""
    return _VERDICTS[report.exit_code]


def ear(report: Report, policy: Policy, *, now: int, build: str) -> dict[str, Json]:
    """Return the result as JSON.

    Args:
        report: what `verify` returned.
        policy: what `verify` expected.
        now: seconds since 1970.
        build: the version of this verifier.
    """
    vectors = vectors_of(report, policy)
    evidence = {
        PLATFORM_SUBMOD: platform_json(report.platform) if report.platform else None,
        REALM_SUBMOD: realm_json(report.realm) if report.realm else None,
    }
    result: dict[str, Json] = {
        "eat_profile": PROFILE,
        "ear_status": status_of(*vectors.values()).value,
        "iat": now,
        "ear_verifier_id": {"developer": "pyvmm", "build": build},
        "submods": {name: _submod(vectors[name], evidence[name]) for name in vectors},
        "pyvmm_report": {
            "verdict": verdict(report),
            "exit-code": report.exit_code,
            "token-profile": report.generation,
            "checks": {check.value: report.outcomes[check].value for check in Check},
            "findings": [_finding(finding) for finding in report.findings],
        },
    }
    if report.outcomes[Check.CHALLENGE] is Outcome.PASSED and _failure(report) is None:
        result["eat_nonce"] = urlsafe_b64encode(policy.challenge or b"").decode().rstrip("=")
    return result


def signed(result: dict[str, Json], key: EllipticCurvePrivateKey) -> str:
    """Return the result as a JWT, signed with the algorithm of the key's curve.

    Raises:
        ValueError: the key's curve is not supported.
    """
    import jwt  # noqa: PLC0415  few results are signed

    return jwt.encode(result, key, Algorithm.of_public(public_point(key)).name)


def _finding(finding: Finding) -> Json:
    return {
        "check": finding.check.value,
        "kind": finding.kind.name.lower().replace("_", "-"),
        "path": finding.path,
        "expected": finding.expected,
        "actual": finding.actual,
    }


def _submod(vector: Vector, evidence: Json) -> Json:
    submod: dict[str, Json] = {
        "ear_status": status_of(vector).value,
        "ear_trustworthiness_vector": {c.value: v.value for c, v in vector.items()},
        "ear_appraisal_policy_ids": [POLICY_ID],
    }
    return submod | ({"ear_attester_claims": evidence} if evidence else {})


# --- vectors ----------------------------------------------------------------------------------


def vectors_of(report: Report, policy: Policy) -> dict[str, Vector]:
    """Return the vectors of the platform and of the realm, by submodule name."""
    if (failure := _failure(report)) is not None:
        return {name: vector_of(failure) for name in (PLATFORM_SUBMOD, REALM_SUBMOD)}
    return {
        PLATFORM_SUBMOD: _platform_vector(report, policy),
        REALM_SUBMOD: _realm_vector(report, policy),
    }


def _failure(report: Report) -> General | None:
    """Return the value for every category if the token as a whole is unusable."""
    if any(report.outcomes[check] is Outcome.FAILED for check in _PROOFS):
        return General.CRYPTO_VALIDATION_FAILED
    if report.kinds(*_FORM) & {Kind.MALFORMED, Kind.REFUSED}:
        return General.UNEXPECTED_EVIDENCE
    return None


def _platform_vector(report: Report, policy: Policy) -> Vector:
    vector = vector_of(General.NO_CLAIM)
    refused = {f.path for f in report.findings if f.kind is Kind.REFUSED}
    ids = {PLATFORM_PATHS[key] for key in (PlatformKey.IMPLEMENTATION_ID, PlatformKey.INSTANCE_ID)}
    if report.outcomes[Check.TRUST_ANCHOR] is not Outcome.PASSED or ids & refused:
        vector[Category.INSTANCE_IDENTITY] = InstanceIdentity.UNRECOGNIZED
        return vector
    vector[Category.INSTANCE_IDENTITY] = InstanceIdentity.TRUSTWORTHY
    if policy.reference.platform.config is not None:
        is_approved = PLATFORM_PATHS[PlatformKey.CONFIG] not in refused
        vector[Category.CONFIGURATION] = (
            Configuration.APPROVED if is_approved else Configuration.UNSAFE
        )
    _firmware(report, vector)
    return vector


def _firmware(report: Report, vector: Vector) -> None:
    """Set the categories that follow from the components and the lifecycle."""
    if report.outcomes[Check.SW_COMPONENTS] is Outcome.PASSED:
        vector[Category.EXECUTABLES] = Executables.APPROVED_BOOT
        vector[Category.HARDWARE] = Hardware.GENUINE
    elif report.outcomes[Check.SW_COMPONENTS] is Outcome.FAILED:
        vector[Category.EXECUTABLES] = Executables.UNRECOGNIZED_RUNTIME
        vector[Category.HARDWARE] = Hardware.UNRECOGNIZED
    if Kind.REFUSED in report.kinds(Check.LIFECYCLE):
        vector[Category.HARDWARE] = Hardware.CONTRAINDICATED
    elif Kind.WARNING in report.kinds(Check.LIFECYCLE):
        vector[Category.HARDWARE] = Hardware.UNSAFE


def _realm_vector(report: Report, policy: Policy) -> Vector:
    """Return the realm's vector; without claims if the platform is not authentic."""
    vector = vector_of(General.NO_CLAIM)
    if report.outcomes[Check.PLATFORM_SIGNATURE] is not Outcome.PASSED:
        return vector
    vector[Category.INSTANCE_IDENTITY] = InstanceIdentity.TRUSTWORTHY
    values = policy.reference.realm
    if report.outcomes[Check.REALM_VALUES] is Outcome.FAILED:
        vector[Category.EXECUTABLES] = Executables.UNRECOGNIZED_RUNTIME
    elif values.rim is not None:
        vector[Category.EXECUTABLES] = (
            Executables.APPROVED_BOOT if None in values.rems else Executables.APPROVED_RUNTIME
        )
    return vector
