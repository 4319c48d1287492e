"""Keys that sign the tests' tokens: derived from a name, so that a run repeats."""

from functools import cache
from hashlib import sha512

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pyvmm.token.cose import Algorithm, Sign1, protected, sig_structure
from pyvmm.token.ecdsa import sign

CURVES: dict[Algorithm, ec.EllipticCurve] = {
    Algorithm.ES256: ec.SECP256R1(),
    Algorithm.ES384: ec.SECP384R1(),
    Algorithm.ES512: ec.SECP521R1(),
}


@cache
def key(name: str, alg: Algorithm = Algorithm.ES384) -> ec.EllipticCurvePrivateKey:
    """Return the key of a name."""
    scalar = int.from_bytes(sha512(name.encode()).digest()[:31], "big")
    return ec.derive_private_key(scalar, CURVES[alg])


def public(private: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a key's public part, a SEC1 point."""
    return private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def signed(
    private: ec.EllipticCurvePrivateKey, payload: bytes, alg: Algorithm = Algorithm.ES384
) -> bytes:
    """Return a payload as a signed part of a token."""
    header = protected(alg)
    return Sign1(header, payload, sign(private, alg, sig_structure(header, payload))).encode()
