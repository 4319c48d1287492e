"""Make the parts of a token; the owners of the keys sign them.

A token is made from the inside out: `rak_encoding` and `binding` return what the platform token
must attest, `platform_payload` and `realm_payload` the payload of each part, `cose.Sign1` holds a
signed part, and `cca_token` joins the two.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from pyvmm.token.cbor import Tag, Value, encode
from pyvmm.token.claims import (
    PLATFORM_CLAIMS,
    REALM_CLAIMS,
    Claim,
    PlatformKey,
    Profile,
    RealmKey,
    SwComponentKey,
    check_claims,
)
from pyvmm.token.cose import Algorithm, cose_key
from pyvmm.token.generations import (
    EAT_CWT,
    FORMS,
    PLATFORM_TOKEN,
    REALM_TOKEN,
    Generation,
    OuterTag,
    RakEncoding,
)

RAK_HASH_ALGORITHM: Final = "sha-256"
CLIENT_ID: Final = 1  # the Realm Management Security Domain


@dataclass(frozen=True, slots=True)
class SwComponent:
    """A measured part of the platform; empty texts are omitted."""

    measurement: bytes
    signer_id: bytes
    sw_type: str = ""
    version: str = ""
    hash_algorithm: str = ""


@dataclass(frozen=True, slots=True)
class PlatformClaims:
    """The claims of the platform token."""

    challenge: bytes  # what `binding` returns
    implementation_id: bytes  # 32 bytes
    instance_id: bytes  # 33 bytes, the first one is 1
    config: bytes
    lifecycle: int
    components: tuple[SwComponent, ...]
    hash_algorithm: str = "sha-256"
    verification_service: str = ""
    manufacturing_config: bytes = b""


@dataclass(frozen=True, slots=True)
class RealmClaims:
    """The claims of the realm token."""

    challenge: bytes  # 64 bytes
    rpv: bytes  # 64 bytes
    hash_algorithm: str  # of the measurements
    rak: bytes  # SEC1 point
    rim: bytes
    rems: tuple[bytes, ...]  # 4, each as long as the RIM
    instance_id: bytes = b""  # 33 bytes, the first one is 1; since G2
    mec_policy: int = 0  # 0 shared, 1 private; since G2


def platform_payload(claims: PlatformClaims, generation: Generation) -> bytes:
    """Return the payload of the platform token.

    Raises:
        ValueError: a claim does not have the shape that the generation requires.
    """
    profile = FORMS[generation].platform
    values: dict[int, Value] = {
        PlatformKey.PROFILE: profile.value,
        PlatformKey.CHALLENGE: claims.challenge,
        PlatformKey.IMPLEMENTATION_ID: claims.implementation_id,
        PlatformKey.INSTANCE_ID: claims.instance_id,
        PlatformKey.CONFIG: claims.config,
        PlatformKey.LIFECYCLE: claims.lifecycle,
        PlatformKey.HASH_ALGORITHM: claims.hash_algorithm,
        PlatformKey.CLIENT_ID: CLIENT_ID,
        PlatformKey.SW_COMPONENTS: [_sw_component(part) for part in claims.components],
    }
    if claims.verification_service:
        values[PlatformKey.VERIFICATION_SERVICE] = claims.verification_service
    if claims.manufacturing_config:
        values[PlatformKey.MANUFACTURING_CONFIG] = claims.manufacturing_config
    return _payload(values, PLATFORM_CLAIMS, profile, "platform")


def realm_payload(claims: RealmClaims, generation: Generation) -> bytes:
    """Return the payload of the realm token.

    Raises:
        ValueError: a claim does not have the shape that the generation requires.
    """
    profile = FORMS[generation].realm
    rems: list[Value] = list(claims.rems)
    if {len(rem) for rem in claims.rems} != {len(claims.rim)}:
        raise ValueError("the REMs do not have the RIM's size")
    values: dict[int, Value] = {
        RealmKey.CHALLENGE: claims.challenge,
        RealmKey.INSTANCE_ID: claims.instance_id,
        RealmKey.RPV: claims.rpv,
        RealmKey.RAK: rak_encoding(claims.rak, generation),
        RealmKey.HASH_ALGORITHM: claims.hash_algorithm,
        RealmKey.RAK_HASH_ALGORITHM: RAK_HASH_ALGORITHM,
        RealmKey.MEC_POLICY: claims.mec_policy,
        RealmKey.PROFILE: profile.value,
        RealmKey.RIM: claims.rim,
        RealmKey.REMS: rems,
    }
    return _payload(values, REALM_CLAIMS, profile, "realm")


def rak_encoding(public_sec1: bytes, generation: Generation) -> bytes:
    """Return the realm attestation key as encoded in the realm token.

    Raises:
        ValueError: the key is not an uncompressed point of P-384.
    """
    if Algorithm.of_public(public_sec1) is not Algorithm.ES384:
        raise ValueError("the realm attestation key is not a point of P-384")
    if FORMS[generation].rak is RakEncoding.SEC1:
        return public_sec1
    return cose_key(public_sec1)


def binding(public_sec1: bytes, generation: Generation) -> bytes:
    """Return the challenge of a platform token that vouches for a realm attestation key."""
    return sha256(rak_encoding(public_sec1, generation)).digest()


def cca_token(platform: bytes, realm: bytes, generation: Generation) -> bytes:
    """Return the whole token, made from the signed platform and realm tokens."""
    tag = FORMS[generation].outer_tag
    parts: dict[int | str | bytes, Value] = {PLATFORM_TOKEN: platform, REALM_TOKEN: realm}
    if tag is OuterTag.CMW:
        parts = {key: [EAT_CWT, part] for key, part in parts.items()}
    return encode(Tag(tag.value, parts))


def _sw_component(part: SwComponent) -> dict[int | str | bytes, Value]:
    values: dict[int | str | bytes, Value] = {
        SwComponentKey.TYPE.value: part.sw_type,
        SwComponentKey.MEASUREMENT.value: part.measurement,
        SwComponentKey.VERSION.value: part.version,
        SwComponentKey.SIGNER_ID.value: part.signer_id,
        SwComponentKey.HASH_ALGORITHM.value: part.hash_algorithm,
    }
    return {key: value for key, value in values.items() if value}


def _payload(
    values: dict[int, Value], table: tuple[Claim, ...], profile: Profile, path: str
) -> bytes:
    """Encode the claims of a profile, in the order of the table."""
    payload: dict[int | str | bytes, Value] = {
        claim.key: values[claim.key]
        for claim in table
        if claim.key in values and profile in claim.must | claim.may
    }
    for mismatch in check_claims(payload, table, profile, path):
        raise ValueError(f"{mismatch.path}: not {mismatch.expected}: {mismatch.actual}")
    return encode(payload)
