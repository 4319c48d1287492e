"""Sealing keys: a realm gets the same key as long as the values it is bound to stay the same.

The key is derived from a virtual hardware unique key (VHUK) of the platform, the signer of the
realm's metadata, and other values that the realm chooses.  Spec: Islet, "Sealing Key Derivation".
"""

from dataclasses import dataclass
from struct import Struct
from typing import Final

from pyvmm.arch.islet import (
    METADATA_FORMAT,
    SEALING_KEY_SIZE,
    SIGNED_SIZE,
    MetadataHash,
    RealmMetadata,
    SealingFlags,
    VhukId,
)
from pyvmm.arch.rmi import HashAlgorithm
from rmm.el3 import El3Refused, El3Services
from rmm.realm import Realm

#: Signer, realm id, RPV, flags, RIM, hash algorithm and SVN; zero if not chosen.
_INFO: Final = Struct("<96s128s64sQ64sBQ")
_SALT: Final = bytes.fromhex("d5775f524ace3221ce771ed274bb74a460ce3fb9749ce37d0ae6d2e907f8b54b")
_HASHES: Final = {
    MetadataHash.SHA_256: HashAlgorithm.SHA_256,
    MetadataHash.SHA_512: HashAlgorithm.SHA_512,
}
_UNCOMPRESSED: Final = b"\x04"  # before a point, in SEC1


@dataclass(frozen=True, slots=True)
class SealingKeys:
    """The virtual hardware unique keys of a power cycle."""

    vhuk_a: bytes
    vhuk_m: bytes

    @classmethod
    def boot(cls, el3: El3Services, pe: int) -> "SealingKeys | None":
        """Fetch the keys; None if EL3 does not provide them."""
        try:
            return cls(el3.vhuk(pe, VhukId.VHUK_A), el3.vhuk(pe, VhukId.VHUK_M))
        except El3Refused:
            return None

    def derive(self, realm: Realm, flags: int, svn: int) -> bytes:
        """Derive a realm's key; ValueError if the realm may not use ``svn``."""
        metadata = realm.metadata
        signer, realm_id, mixed_svn = b"", b"", 0
        if metadata is not None:
            signer = metadata.public_key
            realm_id = metadata.realm_id if flags & SealingFlags.REALM_ID else b""
            if flags & SealingFlags.SVN:
                if not 0 < svn <= metadata.svn:
                    raise ValueError(f"SVN {svn} is not between 1 and {metadata.svn}")
                mixed_svn = svn
        rim, hash_algo = b"", 0
        if flags & SealingFlags.RIM or metadata is None:
            rim, hash_algo = realm.measurements.values[0], realm.hash_algo
        info = _INFO.pack(signer, realm_id, realm.rpv, flags, rim, hash_algo, mixed_svn)
        return _hkdf(self.vhuk_m if flags & SealingFlags.VHUK_M else self.vhuk_a, info)


def _hkdf(key: bytes, info: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415  slow, seldom needed
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

    return HKDF(SHA256(), SEALING_KEY_SIZE, _SALT, info).derive(key)


# --- metadata ---------------------------------------------------------------------------------


def is_valid(metadata: RealmMetadata) -> bool:
    """Check whether a block is well formed and signed with the key in it."""
    name, terminator, _ = metadata.realm_id.partition(b"\0")
    return (
        metadata.fmt_version == METADATA_FORMAT
        and metadata.hash_algo in list(MetadataHash)
        and metadata.svn > 0
        and bool(name and terminator)
        and all(0x20 <= character < 0x7F for character in name)
        and _is_signed(metadata)
    )


def _is_signed(metadata: RealmMetadata) -> bool:
    from pyvmm.token.cose import Algorithm  # noqa: PLC0415  slow with its dependencies
    from pyvmm.token.ecdsa import is_signature  # noqa: PLC0415

    key, data = _UNCOMPRESSED + metadata.public_key, bytes(metadata.data[:SIGNED_SIZE])
    try:
        return is_signature(key, Algorithm.ES384, data, metadata.signature)
    except ValueError:  # not a point of the curve
        return False


def matches_realm(metadata: RealmMetadata, realm: Realm) -> bool:
    """Check whether a valid block describes the realm as it was built."""
    return _HASHES[
        MetadataHash(metadata.hash_algo)
    ] == realm.hash_algo and metadata.rim == realm.measurements.padded(0)
