"""Islet's extensions to the RMM's interfaces: realm metadata and sealing keys.

Spec: Islet, "Realm metadata" and "Sealing Key Derivation".
"""

from enum import IntEnum, IntFlag
from typing import Final

from pyvmm.arch.bits import U64, Bytes, Layout
from pyvmm.arch.pas import GRANULE_SIZE

METADATA_FORMAT: Final = 1
REALM_ID_SIZE: Final = 128
POINT_SIZE: Final = 96  # P-384: x and y, or r and s
SIGNED_SIZE: Final = 0x150  # signed bytes of a RealmMetadata
METADATA_SIZE: Final = SIGNED_SIZE + POINT_SIZE  # the rest of the granule is unused
SEALING_KEY_SIZE: Final = 32


class IsletRmiFid(IntEnum):
    """Vendor specific function ids of the host's commands."""

    RMI_ISLET_REALM_SET_METADATA = 0xC700_0150


class IsletRsiFid(IntEnum):
    """Vendor specific function ids of a realm's calls."""

    RSI_ISLET_REALM_SEALING_KEY = 0xC700_0191


class MetadataHash(IntEnum):
    """hash_algo of a RealmMetadata; not the encoding of RmiHashAlgorithm."""

    SHA_256 = 1
    SHA_512 = 2


class SealingFlags(IntFlag):
    """RsiIsletSealingFlags: the values that a sealing key is bound to."""

    VHUK_M = 1 << 0  # exactly this firmware; otherwise any of the same signers
    RIM = 1 << 1
    REALM_ID = 1 << 2
    SVN = 1 << 3


class VhukId(IntEnum):
    """The virtual hardware unique keys."""

    VHUK_A = 1  # derived from the firmware's signers
    VHUK_M = 2  # derived from the firmware's measurements


class RealmMetadata(Layout, size=GRANULE_SIZE):
    """RmiIsletRealmMetadata: the signed metadata from a realm's owner."""

    fmt_version = U64(0x000)
    realm_id = Bytes(0x008, REALM_ID_SIZE)  # printable ASCII, NUL terminated
    rim = Bytes(0x088, 64)
    hash_algo = U64(0x0C8)  # MetadataHash
    svn = U64(0x0D0)
    version_major = U64(0x0D8)
    version_minor = U64(0x0E0)
    version_patch = U64(0x0E8)
    public_key = Bytes(0x0F0, POINT_SIZE)
    signature = Bytes(0x150, POINT_SIZE)  # ECDSA with SHA-384, over all fields above
