"""The generations of the CCA attestation token: a maker picks one, a verifier accepts all.

Spec: Arm DEN0137 (RMM), "Realm attestation"; draft-ffm-rats-cca-token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum
from typing import Final


class Generation(StrEnum):
    """A generation, as `--token-profile` names it."""

    G0 = "g0"  # before RMM 1.0
    G1 = "g1"  # RMM 1.0
    G1B = "g1b"  # the claims of G1 in the outer form of G2
    G2 = "g2"  # the realm claims of RMM 2.0, the platform claims of G1
    G2B = "g2b"  # RMM 2.0


class OuterTag(IntEnum):
    """CBOR tag around the whole token; it determines the form of the two entries."""

    COLLECTION = 399  # entries are byte strings
    CMW = 907  # entries are records [content format, byte string]


class PlatformProfile(StrEnum):
    """Profile of the platform token (claim 265)."""

    LEGACY = "http://arm.com/CCA-SSD/1.0.0"
    V1 = "tag:arm.com,2023:cca_platform#1.0.0"
    V2 = "tag:arm.com,2024:cca_platform#2.0.0"


class RealmProfile(StrEnum):
    """Profile of the realm token (claim 265)."""

    LEGACY = ""  # the claim is absent
    V1 = "tag:arm.com,2023:realm#1.0.0"
    V2 = "tag:arm.com,2024:realm#2.0.0"


class RakEncoding(Enum):
    """How the realm token carries the realm attestation key."""

    SEC1 = "SEC1"  # the uncompressed point
    COSE_KEY = "COSE_Key"


@dataclass(frozen=True, slots=True)
class Form:
    """What differs between generations; the claims differ by profile."""

    outer_tag: OuterTag
    platform: PlatformProfile
    realm: RealmProfile
    rak: RakEncoding


FORMS: Final[Mapping[Generation, Form]] = {
    Generation.G0: Form(
        OuterTag.COLLECTION, PlatformProfile.LEGACY, RealmProfile.LEGACY, RakEncoding.SEC1
    ),
    Generation.G1: Form(
        OuterTag.COLLECTION, PlatformProfile.V1, RealmProfile.V1, RakEncoding.COSE_KEY
    ),
    Generation.G1B: Form(OuterTag.CMW, PlatformProfile.V1, RealmProfile.V1, RakEncoding.COSE_KEY),
    Generation.G2: Form(OuterTag.CMW, PlatformProfile.V1, RealmProfile.V2, RakEncoding.COSE_KEY),
    Generation.G2B: Form(OuterTag.CMW, PlatformProfile.V2, RealmProfile.V2, RakEncoding.COSE_KEY),
}

#: Keys of the token's map.
PLATFORM_TOKEN: Final = 44234
REALM_TOKEN: Final = 44241

#: CoAP content format of application/eat+cwt, in the records of OuterTag.CMW.
EAT_CWT: Final = 263
