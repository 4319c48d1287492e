"""An attacker's tools for tokens: take one apart, change it, sign with other keys."""

from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from pyvmm.token.cbor import Value, decode, encode
from pyvmm.token.claims import PlatformKey, RealmKey
from pyvmm.token.cose import Algorithm, Sign1
from pyvmm.token.ecdsa import public_point, sign
from pyvmm.token.generations import Generation
from pyvmm.token.make import binding, cca_token, rak_encoding
from pyvmm.token.parse import parse
from pyvmm.token.report import Report

_CURVES: Final = {
    Algorithm.ES256: ec.SECP256R1(),
    Algorithm.ES384: ec.SECP384R1(),
    Algorithm.ES512: ec.SECP521R1(),
}


def split(token: bytes) -> tuple[Sign1, Sign1]:
    """Return the platform's and the realm's part of a genuine token."""
    parts = parse(token, Report())
    if parts.platform.sign1 is None or parts.realm.sign1 is None:
        raise ValueError("not a token")
    return parts.platform.sign1, parts.realm.sign1


def join(platform: Sign1, realm: Sign1) -> bytes:
    """Return the token with these parts."""
    return cca_token(platform.encode(), realm.encode(), Generation.G1)


def changed(part: Sign1, **claims: Value) -> Sign1:
    """Return a realm's part with other claims, named as in ``RealmKey``, and the old signature."""
    payload = decode(part.payload)
    assert isinstance(payload, dict)  # noqa: S101  of a genuine token
    payload |= {RealmKey[name.upper()].value: value for name, value in claims.items()}
    return Sign1(part.protected, encode(payload), part.signature)


def new_key(part: Sign1) -> EllipticCurvePrivateKey:
    """Return a new key that fits a part's algorithm."""
    return ec.generate_private_key(_CURVES[part.algorithm()])


def signed(part: Sign1, key: EllipticCurvePrivateKey) -> Sign1:
    """Return a part with the attacker's signature."""
    signature = sign(key, part.algorithm(), part.to_be_signed)
    return Sign1(part.protected, part.payload, signature)


def as_rak(key: EllipticCurvePrivateKey) -> bytes:
    """Return the public key as a realm's token has it."""
    return rak_encoding(public_point(key), Generation.G1)


def bound_to(platform: Sign1, key: EllipticCurvePrivateKey) -> Sign1:
    """Return a platform's part that vouches for the attacker's key, with the old signature."""
    payload = decode(platform.payload)
    assert isinstance(payload, dict)  # noqa: S101  of a genuine token
    payload[PlatformKey.CHALLENGE.value] = binding(public_point(key), Generation.G1)
    return Sign1(platform.protected, encode(payload), platform.signature)
