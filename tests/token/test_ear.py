"""The result as an EAR: the trustworthiness vectors of each outcome, and their tiers."""

import json
from base64 import urlsafe_b64decode
from dataclasses import replace
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.errors import BadSignatureError
from joserfc.jwk import ECKey

from pyvmm.token.appraise import Policy
from pyvmm.token.ar4si import VALUES, Category, General, Tier, status_of, tier_of, vector_of
from pyvmm.token.cose import Algorithm
from pyvmm.token.ear import PLATFORM_SUBMOD, REALM_SUBMOD, ear, signed
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
STRICT: Final = replace(FULL, is_strict=True)
STALE: Final = replace(FULL, challenge=bytes(64))
OTHER_PROFILE: Final = replace(FULL, generations=frozenset({Generation.G0}))
OTHER_INSTANCE: Final = Policy(
    CHALLENGE, ReferenceValues(replace(PLATFORM, instance_id=b"\x01" + bytes(32)), REALM)
)
KEY_ONLY: Final = Policy()
BOOT: Final = Policy(reference=ReferenceValues(realm=RealmValues(RIM)))

NONE = {category.value: 0 for category in Category}


def said(**claims: int) -> dict[str, int]:
    """Return a vector with some claims, by their categories' names."""
    return NONE | {name.replace("_", "-"): value for name, value in claims.items()}


def everywhere(value: int) -> dict[str, int]:
    """Return a vector with the same value in every category."""
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
        (platform(signature=flip), FULL, TRUST, everywhere(99), everywhere(99)),
        (realm(signature=flip), FULL, TRUST, everywhere(99), everywhere(99)),
        (platform_claim(10, bytes(32)), FULL, TRUST, everywhere(99), everywhere(99)),
        (realm_claim(10, bytes(64)), FULL, TRUST, everywhere(99), everywhere(99)),
        (nothing, STALE, TRUST, everywhere(99), everywhere(99)),
        (realm(payload=lambda data: data[:-1]), STALE, TRUST, everywhere(1), everywhere(1)),
        (realm_claim(44239, [RIM] * 3), STALE, TRUST, everywhere(99), everywhere(99)),
        (nothing, OTHER_PROFILE, TRUST, everywhere(1), everywhere(1)),
        (realm_claim(99999, 1), FULL, TRUST, GOOD_PLATFORM, GOOD_REALM),
        (realm_claim(99999, 1), STRICT, TRUST, everywhere(1), everywhere(1)),
        (platform(unprotected={4: b"kid"}), FULL, TRUST, GOOD_PLATFORM, GOOD_REALM),
        (platform(unprotected={4: b"kid"}), STRICT, TRUST, everywhere(1), everywhere(1)),
        (realm_claim(44238, bytes(32)), FULL, TRUST, GOOD_PLATFORM, OTHER_REALM),
        (realm_claim(44239, [RIM] * 4), FULL, TRUST, GOOD_PLATFORM, OTHER_REALM),
        (realm_claim(44239, [RIM] * 3), FULL, TRUST, everywhere(1), everywhere(1)),
        (platform_claim(2395, 0x3100), FULL, TRUST, everywhere(1), everywhere(1)),
        (DEBUGGED, FULL, TRUST, GOOD_PLATFORM | {"hardware": 96}, GOOD_REALM),
        (DEBUGGED, DEBUG, TRUST, GOOD_PLATFORM | {"hardware": 32}, GOOD_REALM),
        (RECONFIGURED, FULL, TRUST, GOOD_PLATFORM | {"configuration": 32}, GOOD_REALM),
        (platform_claim(2396, bytes(32)), FULL, TRUST, UNKNOWN, GOOD_REALM),
        (nothing, OTHER_INSTANCE, TRUST, UNKNOWN, GOOD_REALM),
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
    """None claims more than the verdict: a refused token is not affirmed."""
    draft = Draft.good(Generation.G1)
    spoil(draft)
    report = verify(draft.encode(), trust, policy)
    result = json.loads(json.dumps(ear(report, policy, now=0, build="test")))
    submods = result["submods"]
    for name, vector in ((PLATFORM_SUBMOD, platform_vector), (REALM_SUBMOD, realm_vector)):
        submod = submods[name]
        assert submod["ear_trustworthiness_vector"] == vector, name
        worst = max(map(tier_of, vector.values()), key=list(Tier).index)
        assert submod["ear_status"] == worst.value
    statuses = [Tier(submod["ear_status"]) for submod in submods.values()]
    assert result["ear_status"] == max(statuses, key=list(Tier).index)
    assert report.exit_code == 0 or result["ear_status"] != Tier.AFFIRMING


def test_ear_is_json_with_the_profile_the_nonce_and_the_evidence() -> None:
    """The nonce is present only if it is the requested one."""
    token = Draft.good(Generation.G2).encode()
    for policy, has_nonce in ((FULL, True), (replace(FULL, challenge=bytes(64)), False)):
        report = verify(token, TRUST, policy)
        result = json.loads(json.dumps(ear(report, policy, now=7, build="1.2")))
        assert result["eat_profile"] == "tag:ietf.org,2026:rats/ear#04"
        assert result["iat"] == 7
        assert result["ear_verifier_id"] == {"developer": "pyvmm", "build": "1.2"}
        assert result["pyvmm_report"]["token-profile"] == "g2"
        assert ("eat_nonce" in result) == has_nonce
        assert result["submods"][REALM_SUBMOD]["ear_appraisal_policy_ids"] == ["pyvmm:arm-cca"]
        evidence = result["submods"][PLATFORM_SUBMOD]["ear_attester_claims"]
        assert evidence["cca-platform-lifecycle"] == 0x3003


def test_ear_has_the_members_of_its_profile_and_one_map_of_ours() -> None:
    """An extension is a map, and times are integers."""
    report = verify(Draft.good(Generation.G1).encode(), TRUST, FULL)
    result = ear(report, FULL, now=7, build="1.2")
    assert set(result) == {
        *("eat_profile", "ear_status", "iat", "ear_verifier_id", "submods", "eat_nonce"),
        "pyvmm_report",
    }
    assert type(result["iat"]) is int
    ours = result["pyvmm_report"]
    assert isinstance(ours, dict)
    assert set(ours) == {"verdict", "exit-code", "token-profile", "checks", "findings"}
    nonce = result["eat_nonce"]
    assert isinstance(nonce, str)
    assert urlsafe_b64decode(nonce + "==") == CHALLENGE


@pytest.mark.parametrize("alg", Algorithm)
def test_signed_ear_is_a_jwt_that_another_library_verifies(alg: Algorithm) -> None:
    """With the algorithm of the key's curve, and by that key only."""
    report = verify(Draft.good(Generation.G1).encode(), TRUST, STALE)
    result = ear(report, STALE, now=7, build="1.2")
    token = signed(result, key("verifier", alg))
    public = ECKey.import_key(pem(key("verifier", alg)))
    decoded = jwt.decode(token, public, algorithms=[alg.name])
    assert decoded.header == {"alg": alg.name, "typ": "JWT"}
    assert decoded.claims == result
    with pytest.raises(BadSignatureError):
        jwt.decode(token, ECKey.import_key(pem(key("another", alg))), algorithms=[alg.name])
    head, payload, signature = token.split(".")
    with pytest.raises(BadSignatureError):
        jwt.decode(f"{head}.{payload[:-4]}AAAA.{signature}", public, algorithms=[alg.name])


def pem(private: EllipticCurvePrivateKey) -> bytes:
    """Return a key's public part."""
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_ear_of_nothing() -> None:
    """No evidence to annotate."""
    report = verify(b"", TRUST)
    result = json.loads(json.dumps(ear(report, KEY_ONLY, now=0, build="")))
    submod = result["submods"][REALM_SUBMOD]
    assert submod["ear_status"] == "none"
    assert submod["ear_trustworthiness_vector"] == everywhere(1)
    assert "ear_attester_claims" not in submod
    assert result["pyvmm_report"]["verdict"] == "malformed"


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
