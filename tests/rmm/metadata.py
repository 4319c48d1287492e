"""Realm metadata, signed by a realm's owner."""

from pyvmm.arch.islet import SIGNED_SIZE, RealmMetadata
from pyvmm.token.cose import Algorithm
from pyvmm.token.ecdsa import public_point, sign
from tests.token.keys import key

OWNER = "the realm's owner"


def realm_metadata(owner: str = OWNER, /, **changes: int | bytes) -> RealmMetadata:
    """Make a block with some members changed, and sign it."""
    point = public_point(key(owner))[1:]
    values: dict[str, int | bytes] = {
        "fmt_version": 1,
        "realm_id": b"org.example.realm",
        "hash_algo": 1,
        "svn": 5,
        "version_major": 1,
        "public_key": point,
    }
    metadata = RealmMetadata.of(**{**values, **changes})
    data = bytes(metadata.data[:SIGNED_SIZE])
    metadata.signature = sign(key(owner), Algorithm.ES384, data)
    return metadata
