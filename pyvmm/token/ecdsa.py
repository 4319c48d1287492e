"""ECDSA for tokens: signatures are r || s, keys are SEC1 points."""

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pyvmm.token.cose import Algorithm

CURVES: Final[dict[Algorithm, ec.EllipticCurve]] = {
    Algorithm.ES256: ec.SECP256R1(),
    Algorithm.ES384: ec.SECP384R1(),
    Algorithm.ES512: ec.SECP521R1(),
}
_CURVE_NAMES: Final = frozenset(curve.name for curve in CURVES.values())
_SCHEMES: Final = {
    Algorithm.ES256: ec.ECDSA(SHA256()),
    Algorithm.ES384: ec.ECDSA(SHA384()),
    Algorithm.ES512: ec.ECDSA(SHA512()),
}


def load_public(public: bytes) -> ec.EllipticCurvePublicKey:
    """Return the key at a SEC1 point.

    Raises:
        ValueError: it is not an uncompressed point on a curve.
    """
    curve = CURVES[Algorithm.of_public(public)]
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, public)


def point_of(public: ec.EllipticCurvePublicKey) -> bytes:
    """Return the SEC1 point of a key.

    Raises:
        ValueError: its curve is not supported; other curves have points of the same size.
    """
    if public.curve.name not in _CURVE_NAMES:
        raise ValueError(f"a key on {public.curve.name}, which is not supported")
    return public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def public_point(private: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the SEC1 point of a key's public part.

    Raises:
        ValueError: the key's curve is not supported.
    """
    return point_of(private.public_key())


def sign(private: ec.EllipticCurvePrivateKey, alg: Algorithm, data: bytes) -> bytes:
    """Return the signature of data as r || s."""
    r, s = decode_dss_signature(private.sign(data, _SCHEMES[alg]))
    size = alg.coordinate_size
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def is_signature(public: bytes, alg: Algorithm, data: bytes, signature: bytes) -> bool:
    """Check whether r || s is the key's signature of data; False for a key of another curve.

    Raises:
        ValueError: the key is not a point on its curve.
    """
    size = alg.coordinate_size
    if Algorithm.of_public(public) is not alg or len(signature) != 2 * size:
        return False
    der = encode_dss_signature(
        int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
    )
    try:
        load_public(public).verify(der, data, _SCHEMES[alg])
    except InvalidSignature:
        return False
    return True
