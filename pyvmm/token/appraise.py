"""Appraise a token's claims against the expectations: a policy and reference values."""

import hmac
from dataclasses import dataclass, field
from typing import Final

from pyvmm.token.cbor import Value, describe
from pyvmm.token.claims import (
    PLATFORM_PATHS,
    REALM_PATHS,
    LifecycleState,
    PlatformKey,
    RealmKey,
    SwComponentKey,
)
from pyvmm.token.generations import Generation
from pyvmm.token.reference import ComponentValues, ReferenceValues
from pyvmm.token.report import Check, Kind, Payload, Report

_DEBUG: Final = (
    LifecycleState.NON_CCA_PLATFORM_ROT_DEBUG,
    LifecycleState.RECOVERABLE_CCA_PLATFORM_ROT_DEBUG,
)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a relying party expects of a token; a value that is not given is not checked."""

    challenge: bytes | None = None  # 64 bytes
    reference: ReferenceValues = field(default_factory=ReferenceValues)
    generations: frozenset[Generation] = frozenset(Generation)
    is_strict: bool = False  # reject a token that gives a warning
    allow_debug: bool = False


def appraise(report: Report, policy: Policy) -> None:
    """Check a token's claims; report every deviation from the policy."""
    _generation(report, policy)
    if report.realm is not None:
        _challenge(report, report.realm, policy)
        _realm_values(report, report.realm, policy)
    if report.platform is not None:
        _lifecycle(report, report.platform, policy)
        _sw_components(report, report.platform, policy)
        _platform_values(report, report.platform, policy)
    if policy.is_strict:
        report.refuse_warnings()


def _refuse(report: Report, check: Check, path: str, expected: str, actual: str) -> None:
    report.add(check, Kind.REFUSED, path, expected, actual)


def _generation(report: Report, policy: Policy) -> None:
    if report.generation is not None and report.generation not in policy.generations:
        expected = " or ".join(sorted(policy.generations))
        _refuse(report, Check.PROFILE, "token", f"a token of {expected}", report.generation)


def _compare(
    report: Report, check: Check, path: str, expected: bytes | None, actual: Value
) -> None:
    """Check a claim against an expected value, if given."""
    if expected is None:
        return
    if not isinstance(actual, bytes) or not hmac.compare_digest(expected, actual):
        _refuse(report, check, path, expected.hex(), _text(actual))
    report.passed(check)


def _text(value: Value) -> str:
    if value is None:
        return "absent"
    return value.hex() if isinstance(value, bytes) else describe(value)


def _challenge(report: Report, realm: Payload, policy: Policy) -> None:
    key = RealmKey.CHALLENGE
    _compare(report, Check.CHALLENGE, REALM_PATHS[key], policy.challenge, realm.get(key))


def _realm_values(report: Report, realm: Payload, policy: Policy) -> None:
    values = policy.reference.realm
    for key, expected in ((RealmKey.RIM, values.rim), (RealmKey.RPV, values.rpv)):
        _compare(report, Check.REALM_VALUES, REALM_PATHS[key], expected, realm.get(key))
    rems = realm.get(RealmKey.REMS)
    for index, rem in enumerate(values.rems):
        actual = rems[index] if isinstance(rems, list) and index < len(rems) else None
        _compare(report, Check.REALM_VALUES, f"{REALM_PATHS[RealmKey.REMS]}[{index}]", rem, actual)


def _lifecycle(report: Report, platform: Payload, policy: Policy) -> None:
    value = platform.get(PlatformKey.LIFECYCLE)
    if type(value) is not int or value >> 8 not in list(LifecycleState):
        return  # malformed, and reported as such
    state = LifecycleState(value >> 8)
    path = PLATFORM_PATHS[PlatformKey.LIFECYCLE]
    actual = f"0x{value:04x} ({state.name.lower()})"
    if state in _DEBUG:
        kind = Kind.WARNING if policy.allow_debug else Kind.REFUSED
        report.add(Check.LIFECYCLE, kind, path, "0x30xx (secured)", f"{actual}: debug state")
    elif state is not LifecycleState.SECURED:
        _refuse(report, Check.LIFECYCLE, path, "0x30xx (secured)", actual)
    report.passed(Check.LIFECYCLE)


def _platform_values(report: Report, platform: Payload, policy: Policy) -> None:
    values = policy.reference.platform
    for key, expected in (
        (PlatformKey.IMPLEMENTATION_ID, values.implementation_id),
        (PlatformKey.INSTANCE_ID, values.instance_id),
        (PlatformKey.CONFIG, values.config),
    ):
        _compare(report, Check.PLATFORM_VALUES, PLATFORM_PATHS[key], expected, platform.get(key))


def _sw_components(report: Report, platform: Payload, policy: Policy) -> None:
    """Require a reference value for each component, and a component for each reference value."""
    expected = policy.reference.platform.components
    path = PLATFORM_PATHS[PlatformKey.SW_COMPONENTS]
    value = platform.get(PlatformKey.SW_COMPONENTS)
    if not expected or not isinstance(value, list):
        return
    components = [component for component in value if isinstance(component, dict)]
    for index, component in enumerate(components):
        if not any(_matches(component, candidate) for candidate in expected):
            _sw_component(report, component, expected, f"{path}[{index}]")
    types = {_type(component) for component in components}
    for candidate in expected:
        is_there = candidate.sw_type is not None and candidate.sw_type in types
        if not is_there and not any(_matches(component, candidate) for component in components):
            types.add(candidate.sw_type)  # do not report its alternatives as well
            _refuse(report, Check.SW_COMPONENTS, path, _name(candidate), "absent")
    report.passed(Check.SW_COMPONENTS)


def _type(component: Payload) -> str | None:
    sw_type = component.get(SwComponentKey.TYPE)
    return sw_type if isinstance(sw_type, str) else None


def _name(candidate: ComponentValues) -> str:
    return f"{candidate.sw_type or 'a component'} {candidate.measurement.hex()}"


def _matches(component: Payload, candidate: ComponentValues) -> bool:
    return (
        candidate.sw_type in {None, _type(component)}
        and candidate.measurement == component.get(SwComponentKey.MEASUREMENT)
        and candidate.signer_id == component.get(SwComponentKey.SIGNER_ID)
    )


def _sw_component(
    report: Report, component: Payload, expected: tuple[ComponentValues, ...], path: str
) -> None:
    """Report how a component differs from the reference values of its type."""
    check = Check.SW_COMPONENTS
    measurement = component.get(SwComponentKey.MEASUREMENT)
    signer_id = component.get(SwComponentKey.SIGNER_ID)
    candidates = [v for v in expected if v.sw_type in {None, _type(component)}]
    if not candidates:
        actual = f"{describe(_type(component))} {_text(measurement)}"
        _refuse(report, check, path, "a component with a reference value", actual)
        return
    measured = [v for v in candidates if v.measurement == measurement]
    if not measured:
        wanted = " or ".join(v.measurement.hex() for v in candidates)
        _refuse(report, check, f"{path}.measurement-value", wanted, _text(measurement))
    signers = {v.signer_id for v in measured or candidates}
    if signer_id not in signers:
        wanted = " or ".join(sorted(signer.hex() for signer in signers))
        _refuse(report, check, f"{path}.signer-id", wanted, _text(signer_id))
