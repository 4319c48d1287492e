"""The result as an EAR: the trustworthiness vectors of each outcome, and their tiers."""

import json
from dataclasses import replace
from typing import Final

import pytest

from pyvmm.token.appraise import Policy
from pyvmm.token.ar4si import VALUES, Category, General, Tier, status_of, tier_of, vector_of
from pyvmm.token.ear import PLATFORM_SUBMOD, REALM_SUBMOD, ear
from pyvmm.token.ecdsa import public_point
from pyvmm.token.generations import Generation
from pyvmm.token.reference import ComponentValues, PlatformValues, RealmValues, ReferenceValues
from pyvmm.token.trust import Anchor, TrustStore
from pyvmm.token.verify import verify
from tests.token.draft import (
    CHALLENGE,
    COMPONENTS,
    CONFIG,
    IMPLEMENTATION_ID,
    REMS,
    RIM,
    RPV,
    Draft,
)
from tests.token.keys import key
from tests.token.vectors.cases import (
    Spoil,
    nothing,
    platform,
    platform_claim,
    realm,
    realm_claim,
)
from tests.token.vectors.refused import flip

TRUST: Final = TrustStore((Anchor(public_point(key("cpak"))),))
PLATFORM: Final = PlatformValues(
    IMPLEMENTATION_ID,
    config=CONFIG,
    components=tuple(ComponentValues(c.measurement, c.signer_id, c.sw_type) for c in COMPONENTS),
)
REALM: Final = RealmValues(RIM, REMS, RPV)
FULL: Final = Policy(CHALLENGE, ReferenceValues(PLATFORM, REALM))
DEBUG: Final = replace(FULL, allow_debug=True)
KEY_ONLY: Final = Policy()
BOOT: Final = Policy(reference=ReferenceValues(realm=RealmValues(RIM)))

NONE = {category.value: 0 for category in Category}


def said(**claims: int) -> dict[str, int]:
    """Return a vector with some claims, by their categories' names."""
    return NONE | {name.replace("_", "-"): value for name, value in claims.items()}


def everywhere(value: int) -> dict[str, int]:
    """Return a vector that says the same of everything."""
    return {category.value: value for category in Category}


KNOWN = said(instance_identity=2)
UNKNOWN = said(instance_identity=97)
GOOD_PLATFORM = said(instance_identity=2, configuration=2, executables=3, hardware=2)
GOOD_REALM = said(instance_identity=2, executables=2)
OTHER_REALM = said(instance_identity=2, executables=33)
CONFIGURED = said(instance_identity=2, configuration=2)
DEBUGGED = platform_claim(2395, 0x4000)
RECONFIGURED = platform_claim(2401, b"x")


@pytest.mark.parametrize(
    ("spoil", "policy", "trust", "platform_vector", "realm_vector"),
    [
        (nothing, FULL, TRUST, GOOD_PLATFORM, GOOD_REALM),
        (nothing, KEY_ONLY, TRUST, KNOWN, KNOWN),
        (nothing, BOOT, TRUST, KNOWN, KNOWN | {"executables": 3}),
        (nothing, FULL, TrustStore(), UNKNOWN, NONE),
        (platform(signature=flip), FULL, TRUST, everywhere(99), NONE),
        (realm(signature=flip), FULL, TRUST, GOOD_PLATFORM, everywhere(99)),
        (platform_claim(10, bytes(32)), FULL, TRUST, GOOD_PLATFORM, UNKNOWN),
        (realm_claim(10, bytes(64)), FULL, TRUST, GOOD_PLATFORM, everywhere(1)),
        (realm_claim(44238, bytes(32)), FULL, TRUST, GOOD_PLATFORM, OTHER_REALM),
        (realm_claim(44239, [RIM] * 4), FULL, TRUST, GOOD_PLATFORM, OTHER_REALM),
        (realm_claim(44239, [RIM] * 3), FULL, TRUST, GOOD_PLATFORM, everywhere(1)),
        (platform_claim(2395, 0x3100), FULL, TRUST, everywhere(1), GOOD_REALM),
        (DEBUGGED, FULL, TRUST, GOOD_PLATFORM | {"hardware": 96}, GOOD_REALM),
        (DEBUGGED, DEBUG, TRUST, GOOD_PLATFORM | {"hardware": 32}, GOOD_REALM),
        (RECONFIGURED, FULL, TRUST, GOOD_PLATFORM | {"configuration": 32}, GOOD_REALM),
        (platform_claim(2396, bytes(32)), FULL, TRUST, UNKNOWN, GOOD_REALM),
        (
            platform_claim(2399, [{2: RIM, 5: RIM}]), FULL, TRUST,
            CONFIGURED | {"executables": 33, "hardware": 97}, GOOD_REALM,
        ),
    ],
)  # fmt: skip
def test_vectors(
    spoil: Spoil,
    policy: Policy,
    trust: TrustStore,
    platform_vector: dict[str, int],
    realm_vector: dict[str, int],
) -> None:
    """What the Veraison verifier says of CCA tokens."""
    draft = Draft.good(Generation.G1)
    spoil(draft)
    report = verify(draft.encode(), trust, policy)
    result = ear(report, policy, now=0, build="test")
    assert isinstance(result, dict)
    submods = result["submods"]
    assert isinstance(submods, dict)
    for name, vector in ((PLATFORM_SUBMOD, platform_vector), (REALM_SUBMOD, realm_vector)):
        submod = submods[name]
        assert isinstance(submod, dict)
        assert submod["ear.trustworthiness-vector"] == vector, name
        worst = max(map(tier_of, vector.values()), key=list(Tier).index)
        assert submod["ear.status"] == worst.value


def test_ear_is_json_with_the_profile_the_nonce_and_the_evidence() -> None:
    """The nonce only when it was the one that was asked for."""
    token = Draft.good(Generation.G2).encode()
    for policy, has_nonce in ((FULL, True), (replace(FULL, challenge=bytes(64)), False)):
        report = verify(token, TRUST, policy)
        result = json.loads(json.dumps(ear(report, policy, now=7, build="1.2")))
        assert result["eat_profile"] == "tag:github.com,2023:veraison/ear"
        assert result["iat"] == 7
        assert result["ear.verifier-id"] == {"developer": "pyvmm", "build": "1.2"}
        assert result["pyvmm.token-profile"] == "g2"
        assert ("eat_nonce" in result) == has_nonce
        evidence = result["submods"][PLATFORM_SUBMOD]["ear.veraison.annotated-evidence"]
        assert evidence["cca-platform-lifecycle"] == 0x3003


def test_ear_of_nothing() -> None:
    """No evidence to annotate."""
    report = verify(b"", TRUST)
    result = json.loads(json.dumps(ear(report, KEY_ONLY, now=0, build="")))
    submod = result["submods"][REALM_SUBMOD]
    assert submod["ear.status"] == "none"
    assert submod["ear.trustworthiness-vector"] == everywhere(1)
    assert "ear.veraison.annotated-evidence" not in submod
    assert result["pyvmm.verdict"] == "malformed"


def test_values_are_those_of_ar4si() -> None:
    """Affirming below 32, warnings from there, contraindications from 96 on."""
    numbers = {category: sorted(kind) for category, kind in VALUES.items()}
    assert numbers == {
        Category.INSTANCE_IDENTITY: [2, 96, 97],
        Category.CONFIGURATION: [2, 3, 32, 36, 96],
        Category.EXECUTABLES: [2, 3, 32, 33, 96],
        Category.FILE_SYSTEM: [2, 32, 96],
        Category.HARDWARE: [2, 32, 96, 97],
        Category.RUNTIME_OPAQUE: [2, 32, 96],
        Category.STORAGE_OPAQUE: [2, 32, 96],
        Category.SOURCED_DATA: [2, 32, 96],
    }
    assert [tier_of(value) for value in (-128, -97, -96, -33, -32, -2, -1, 0, 1, 2, 31)] == [
        *[Tier.CONTRAINDICATED] * 2,
        *[Tier.WARNING] * 2,
        *[Tier.AFFIRMING] * 2,
        *[Tier.NONE] * 3,
        *[Tier.AFFIRMING] * 2,
    ]
    assert [tier_of(value) for value in (32, 95, 96, 127)] == [
        *[Tier.WARNING] * 2,
        *[Tier.CONTRAINDICATED] * 2,
    ]
    assert status_of(vector_of(General.CRYPTO_VALIDATION_FAILED)) is Tier.CONTRAINDICATED
