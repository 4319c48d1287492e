"""The claims of the platform and the realm token, in the order in which makers emit them.

The names come from the drafts' CDDL and from the JSON of other verifiers.

Spec: Arm DEN0137 (RMM), "Attestation token format"; draft-ffm-rats-cca-token.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pyvmm.token.cbor import Value, describe
from pyvmm.token.generations import PlatformProfile, RealmProfile
from pyvmm.token.shapes import (
    AdvisedText,
    Array,
    Bool,
    Bytes,
    Either,
    Map,
    Member,
    Mismatch,
    Shape,
    Text,
    Uint,
)

Profile = PlatformProfile | RealmProfile

HASH_SIZES: Final = {"sha-256": 32, "sha-384": 48, "sha-512": 64}
MEC_POLICIES: Final = ("shared", "private")  # 0, 1
NUM_REMS: Final = 4
CHALLENGE_SIZE: Final = 64
RPV_SIZE: Final = 64
UEID_RANDOM: Final = b"\x01"  # type byte of a UEID


class PlatformKey(IntEnum):
    """Keys of the platform claims."""

    CHALLENGE = 10
    INSTANCE_ID = 256
    PROFILE = 265
    CLIENT_ID = 2394
    LIFECYCLE = 2395
    IMPLEMENTATION_ID = 2396
    SW_COMPONENTS = 2399
    VERIFICATION_SERVICE = 2400
    CONFIG = 2401
    HASH_ALGORITHM = 2402
    MANUFACTURING_CONFIG = 2403
    EXTENSION_DEVICES = 2404
    TBB_ROTPK = 2405
    PEER_SIGNERS = 2406


class RealmKey(IntEnum):
    """Keys of the realm claims."""

    CHALLENGE = 10
    INSTANCE_ID = 256
    PROFILE = 265
    RPV = 44235
    HASH_ALGORITHM = 44236
    RAK = 44237
    RIM = 44238
    REMS = 44239
    RAK_HASH_ALGORITHM = 44240
    MEC_POLICY = 44243
    LFA_POLICY = 44244
    DEVICES_HASH = 44257


class SwComponentKey(IntEnum):
    """Keys of a software component."""

    TYPE = 1
    MEASUREMENT = 2
    VERSION = 4
    SIGNER_ID = 5
    HASH_ALGORITHM = 6
    LIVE_ACTIVATION = 7
    COUNTERSIGNERS = 8


class LifecycleState(IntEnum):
    """Bits 15:8 of the lifecycle claim; bits 7:0 are implementation defined."""

    UNKNOWN = 0x00
    ASSEMBLY_AND_TEST = 0x10
    CCA_PLATFORM_ROT_PROVISIONING = 0x20
    SECURED = 0x30
    NON_CCA_PLATFORM_ROT_DEBUG = 0x40
    RECOVERABLE_CCA_PLATFORM_ROT_DEBUG = 0x50
    DECOMMISSIONED = 0x60


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The shape of the lifecycle claim."""

    def check(self, value: Value, path: str) -> Iterator[Mismatch]:
        """Yield what is wrong with a value."""
        if type(value) is not int or value < 0 or value >> 8 not in list(LifecycleState):
            actual = hex(value) if type(value) is int else describe(value)
            yield Mismatch(path, str(self), actual)

    def __str__(self) -> str:
        return " or ".join(f"0x{state:02x}xx" for state in LifecycleState)


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim: its key, name and shape, and the profiles that require or allow it."""

    key: int
    name: str
    shape: Shape
    must: frozenset[Profile]
    may: frozenset[Profile] = frozenset()


_DIGEST: Final = Bytes(sizes=(32, 48, 64))
#: The drafts only recommend the hash names of IANA's registry of named information.
_HASH_NAME: Final = AdvisedText(
    frozenset(
        {
            *HASH_SIZES,
            *(f"sha-256-{bits}" for bits in (128, 120, 96, 64, 32)),
            *(f"sha3-{bits}" for bits in (224, 256, 384, 512)),
            "blake2s-256",
            "blake2b-256",
            "blake2b-512",
            "k12-256",
            "k12-512",
        }
    ),
    "a hash name registered with IANA",
)
#: The hash that binds the two tokens: one that a verifier can compute.
_BINDING_HASH: Final = Text(values=tuple(HASH_SIZES))
_UEID: Final = Bytes(sizes=(33,), prefix=UEID_RANDOM)

#: Members added by RMM 2.0 are allowed in all profiles: older tokens do not contain them.
SW_COMPONENT: Final = Map(
    (
        Member(SwComponentKey.TYPE, "measurement-type", Text()),
        Member(SwComponentKey.MEASUREMENT, "measurement-value", _DIGEST, is_required=True),
        Member(SwComponentKey.VERSION, "version", Text()),
        Member(SwComponentKey.SIGNER_ID, "signer-id", _DIGEST, is_required=True),
        Member(SwComponentKey.HASH_ALGORITHM, "measurement-description", _HASH_NAME),
        Member(SwComponentKey.LIVE_ACTIVATION, "live-activation", Bool()),
        Member(SwComponentKey.COUNTERSIGNERS, "countersigners", Array(_DIGEST)),
    )
)

EXTENSION_DEVICE: Final = Map(
    (
        Member(1, "hash-algo-id", _HASH_NAME),
        Member(2, "device-measurements-digest", _DIGEST, is_required=True),
        Member(3, "certificate-chain-digest", _DIGEST, is_required=True),
        Member(4, "uses-ide", Bool(), is_required=True),
        Member(5, "protocol", Text(), is_required=True),
        Member(6, "vca-digest", _DIGEST),
        Member(7, "device-type", Text()),
        Member(8, "encryption-type", Uint((0, 1, 2))),
    )
)

#: Protocols whose devices need a VCA digest.
_SPDM: Final = (
    *(f"spdm-1.2.{patch}" for patch in range(4)),
    *(f"spdm-1.3.{patch}" for patch in range(3)),
    "spdm-1.4.0",
)


@dataclass(frozen=True, slots=True)
class ExtensionDevice:
    """The shape of a device added to the platform at run time."""

    def check(self, value: Value, path: str) -> Iterator[Mismatch]:
        """Yield what is wrong with a value."""
        yield from EXTENSION_DEVICE.check(value, path)
        if isinstance(value, dict) and value.get(5) in _SPDM and 6 not in value:
            yield Mismatch(f"{path}.vca-digest", f"{_DIGEST}, for {value[5]!r}", "absent")

    def __str__(self) -> str:
        return "map"


ROTPK: Final = Map(
    (
        Member(1, "description", Text(), is_required=True),
        Member(2, "active-array-index", Uint(), is_required=True),
        Member(3, "index", Uint(), is_required=True),
        Member(4, "hash", _DIGEST, is_required=True),
    )
)

_PLATFORM: Final[frozenset[Profile]] = frozenset(PlatformProfile)
_PLATFORM_V2: Final[frozenset[Profile]] = frozenset({PlatformProfile.V2})
_REALM: Final[frozenset[Profile]] = frozenset(RealmProfile)
_REALM_V2: Final[frozenset[Profile]] = frozenset({RealmProfile.V2})
_REALM_NAMED: Final = _REALM - {RealmProfile.LEGACY}
_NONE: Final[frozenset[Profile]] = frozenset()

PLATFORM_CLAIMS: Final = (
    Claim(PlatformKey.PROFILE, "cca-platform-profile", Text(), _PLATFORM),
    Claim(PlatformKey.CHALLENGE, "cca-platform-challenge", _DIGEST, _PLATFORM),
    Claim(PlatformKey.IMPLEMENTATION_ID, "cca-platform-implementation-id", Bytes((32,)), _PLATFORM),
    Claim(PlatformKey.INSTANCE_ID, "cca-platform-instance-id", _UEID, _PLATFORM),
    Claim(PlatformKey.CONFIG, "cca-platform-config", Bytes(), _PLATFORM),
    Claim(PlatformKey.LIFECYCLE, "cca-platform-lifecycle", Lifecycle(), _PLATFORM),
    Claim(PlatformKey.HASH_ALGORITHM, "cca-platform-hash-algo-id", _HASH_NAME, _PLATFORM),
    Claim(PlatformKey.CLIENT_ID, "cca-platform-client-id", Uint((1,)), _PLATFORM_V2),
    Claim(PlatformKey.SW_COMPONENTS, "cca-platform-sw-components", Array(SW_COMPONENT), _PLATFORM),
    Claim(
        PlatformKey.VERIFICATION_SERVICE,
        "cca-platform-service-indicator",
        Text(),
        _NONE,
        _PLATFORM,
    ),
    Claim(
        PlatformKey.MANUFACTURING_CONFIG,
        "cca-platform-manufacturing-config",
        Bytes(),
        _NONE,
        _PLATFORM_V2,
    ),
    Claim(
        PlatformKey.EXTENSION_DEVICES,
        "cca-platform-extension",
        Array(ExtensionDevice()),
        _NONE,
        _PLATFORM_V2,
    ),
    Claim(PlatformKey.TBB_ROTPK, "cca-platform-tbb-rotpk", Array(ROTPK), _NONE, _PLATFORM_V2),
    Claim(PlatformKey.PEER_SIGNERS, "cca-platform-peer-signers", Bytes(), _NONE, _PLATFORM_V2),
)

REALM_CLAIMS: Final = (
    Claim(RealmKey.CHALLENGE, "cca-realm-challenge", Bytes((CHALLENGE_SIZE,)), _REALM),
    Claim(RealmKey.INSTANCE_ID, "cca-realm-instance-id", _UEID, _REALM_V2),
    Claim(RealmKey.RPV, "cca-realm-personalization-value", Bytes((RPV_SIZE,)), _REALM),
    Claim(RealmKey.RAK, "cca-realm-public-key", Bytes(), _REALM),
    Claim(RealmKey.HASH_ALGORITHM, "cca-realm-hash-algo-id", _HASH_NAME, _REALM),
    Claim(RealmKey.RAK_HASH_ALGORITHM, "cca-realm-public-key-hash-algo-id", _BINDING_HASH, _REALM),
    Claim(
        RealmKey.MEC_POLICY,
        "cca-realm-mec-policy",
        Either(Uint((0, 1)), Text(MEC_POLICIES)),  # number: RMM specification, text: drafts
        _REALM_V2,
    ),
    Claim(RealmKey.LFA_POLICY, "cca-realm-lfa-policy", Uint((0, 1)), _NONE, _REALM_V2),
    Claim(RealmKey.PROFILE, "cca-realm-profile", Text(), _REALM_NAMED),
    Claim(RealmKey.RIM, "cca-realm-initial-measurement", _DIGEST, _REALM),
    Claim(RealmKey.REMS, "cca-realm-extensible-measurements", Array(_DIGEST, NUM_REMS), _REALM),
    Claim(RealmKey.DEVICES_HASH, "cca-realm-devices-token-hash", _DIGEST, _NONE, _REALM_V2),
)

PLATFORM_PATHS: Final = {
    PlatformKey(claim.key): f"platform.{claim.name}" for claim in PLATFORM_CLAIMS
}
REALM_PATHS: Final = {RealmKey(claim.key): f"realm.{claim.name}" for claim in REALM_CLAIMS}


def check_claims(
    payload: dict[int | str | bytes, Value], table: tuple[Claim, ...], profile: Profile, path: str
) -> Iterator[Mismatch]:
    """Yield what is wrong with the claims of a payload under a profile."""
    for claim in table:
        if profile not in claim.must | claim.may:
            continue
        if claim.key in payload:
            yield from claim.shape.check(payload[claim.key], f"{path}.{claim.name}")
        elif profile in claim.must:
            yield Mismatch(f"{path}.{claim.name}", str(claim.shape), "absent")
