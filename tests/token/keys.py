"""Keys that sign the tests' tokens: derived from a name, with deterministic signatures."""

from functools import cache
from hashlib import sha512

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from pyvmm.token.cose import Algorithm, Sign1, protected, sig_structure
from pyvmm.token.ecdsa import CURVES, public_point

HASHES: dict[Algorithm, HashAlgorithm] = {
    Algorithm.ES256: SHA256(),
    Algorithm.ES384: SHA384(),
    Algorithm.ES512: SHA512(),
}

public = public_point


@cache
def key(name: str, alg: Algorithm = Algorithm.ES384) -> ec.EllipticCurvePrivateKey:
    """Return the key of a name."""
    scalar = int.from_bytes(sha512(name.encode()).digest()[:31], "big")
    return ec.derive_private_key(scalar, CURVES[alg])


def sign(private: ec.EllipticCurvePrivateKey, alg: Algorithm, data: bytes) -> bytes:
    """Return r || s by RFC 6979."""
    scheme = ec.ECDSA(HASHES[alg], deterministic_signing=True)
    r, s = decode_dss_signature(private.sign(data, scheme))
    size = (private.curve.key_size + 7) // 8
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def signed(
    private: ec.EllipticCurvePrivateKey, payload: bytes, alg: Algorithm = Algorithm.ES384
) -> bytes:
    """Return a payload as a signed part of a token."""
    header = protected(alg)
    return Sign1(header, payload, sign(private, alg, sig_structure(header, payload))).encode()
