"""A solution of exercise rim."""

import hashlib
from struct import pack


def extend(rim: bytes, ipa: int, content: bytes) -> bytes:
    """Extend it."""
    digest = hashlib.sha256(content).digest()
    descriptor = pack("<B7xQ64sQQ64s", 0, 0x100, rim, ipa, 1, digest)
    return hashlib.sha256(descriptor.ljust(0x100, b"\0")).digest()
