"""The result of a verification as an EAT attestation result (EAR) with AR4SI vectors.

The vectors follow what the Veraison verifier says of CCA tokens.  An EAR is signed by who issues
it; this one is not, it is for the reader on this machine.

Spec: draft-fv-rats-ear; draft-ietf-rats-ar4si; Veraison, "AR4SI for Arm CCA".
"""

from base64 import urlsafe_b64encode
from typing import Final

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
from pyvmm.token.report import Check, Finding, Kind, Outcome, Report

PROFILE: Final = "tag:github.com,2023:veraison/ear"
PLATFORM_SUBMOD: Final = "CCA_SSD_PLATFORM"
REALM_SUBMOD: Final = "CCA_REALM"
POLICY_ID: Final = "pyvmm:arm-cca"
_VERDICTS: Final = {0: "verified", 1: "not authentic", 3: "malformed", 4: "refused"}


def verdict(report: Report) -> str:
    """Return the result in a word or two."""
    return _VERDICTS[report.exit_code]


def ear(report: Report, policy: Policy, *, now: int, build: str) -> Json:
    """Return the result as JSON.

    Args:
        report: what `verify` returned.
        policy: what it was asked to expect.
        now: seconds since 1970.
        build: the version of this verifier.
    """
    platform, realm = report.platform, report.realm
    result: dict[str, Json] = {
        "eat_profile": PROFILE,
        "iat": now,
        "ear.verifier-id": {"developer": "pyvmm", "build": build},
        "submods": {
            PLATFORM_SUBMOD: _submod(
                platform_vector(report, policy),
                platform_json(platform) if platform is not None else None,
            ),
            REALM_SUBMOD: _submod(
                realm_vector(report, policy), realm_json(realm) if realm is not None else None
            ),
        },
        "pyvmm.verdict": verdict(report),
        "pyvmm.exit-code": report.exit_code,
        "pyvmm.token-profile": report.generation,
        "pyvmm.checks": {check.value: report.outcomes[check].value for check in Check},
        "pyvmm.findings": [_finding(finding) for finding in report.findings],
    }
    if report.outcomes[Check.CHALLENGE] is Outcome.PASSED and policy.challenge is not None:
        result["eat_nonce"] = urlsafe_b64encode(policy.challenge).decode().rstrip("=")
    return result


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
        "ear.status": status_of(vector).value,
        "ear.trustworthiness-vector": {c.value: v.value for c, v in vector.items()},
        "ear.appraisal-policy-id": POLICY_ID,
    }
    return submod | ({"ear.veraison.annotated-evidence": evidence} if evidence else {})


# --- vectors ----------------------------------------------------------------------------------


def platform_vector(report: Report, policy: Policy) -> Vector:
    """Return what can be said of the platform."""
    if _is_malformed(report, "platform"):
        return vector_of(General.UNEXPECTED_EVIDENCE)
    if report.outcomes[Check.PLATFORM_SIGNATURE] is Outcome.FAILED:
        return vector_of(General.CRYPTO_VALIDATION_FAILED)
    vector = vector_of(General.NO_CLAIM)
    refused = {f.path for f in report.findings if f.kind is Kind.REFUSED}
    is_known = (
        report.outcomes[Check.TRUST_ANCHOR] is Outcome.PASSED
        and PLATFORM_PATHS[PlatformKey.IMPLEMENTATION_ID] not in refused
    )
    if not is_known:
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
    """Set what the components and the lifecycle say."""
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


def realm_vector(report: Report, policy: Policy) -> Vector:
    """Return what can be said of the realm; nothing, if the platform may be any."""
    if _is_malformed(report, "realm"):
        return vector_of(General.UNEXPECTED_EVIDENCE)
    if report.outcomes[Check.REALM_SIGNATURE] is Outcome.FAILED:
        return vector_of(General.CRYPTO_VALIDATION_FAILED)
    if report.outcomes[Check.CHALLENGE] is Outcome.FAILED:
        return vector_of(General.UNEXPECTED_EVIDENCE)  # the answer to another question
    vector = vector_of(General.NO_CLAIM)
    if report.outcomes[Check.PLATFORM_SIGNATURE] is not Outcome.PASSED:
        return vector
    if report.outcomes[Check.BINDING] is not Outcome.PASSED:
        vector[Category.INSTANCE_IDENTITY] = InstanceIdentity.UNRECOGNIZED
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


def _is_malformed(report: Report, part: str) -> bool:
    """Tell whether a part, or what is around it, could not be read."""
    return any(
        finding.kind is Kind.MALFORMED and finding.path.startswith((part, "token"))
        for finding in report.findings
    )
