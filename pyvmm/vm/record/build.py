"""Which program made a record: every part of it that can change a run."""

from hashlib import sha256
from pathlib import Path

#: The packages that determine a run.
_PACKAGES = ("pyvmm", "monitor", "rmm")


def build_digest() -> bytes:
    """Return the digest of the installed program."""
    root = Path(__file__).parents[3]
    digest = sha256()
    files = (
        file
        for package in _PACKAGES
        for suffix in ("*.py", "*.so")
        for file in (root / package).rglob(suffix)
    )
    for file in sorted(files):
        digest.update(str(file.relative_to(root)).encode() + b"\0")
        digest.update(sha256(file.read_bytes()).digest())
    return digest.digest()
