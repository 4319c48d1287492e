"""Encrypt a secret to a realm's key: JSON Web Encryption, in the flattened form.

Spec: RFC 7516; RFC 7518, "ECDH-ES" and "AES GCM"; NIST SP 800-38D; RFC 3394.
"""

import json
import os
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from pyvmm.arch.errors import UserError
from pyvmm.token.cose import Algorithm
from pyvmm.token.ecdsa import load_public, point_of
from pyvmm.token.keys import load_public_key

ALGORITHM: Final = "ECDH-ES+A256KW"
ENCRYPTION: Final = "A256GCM"
_KEY_SIZE: Final = 32
_IV_SIZE: Final = 12
_TAG_SIZE: Final = 16


def recipient(jwk: Mapping[str, str]) -> ec.EllipticCurvePublicKey:
    """Return the public key of a realm.

    Raises:
        ValueError: it is not a key for our algorithm; the text is one line.
    """
    if jwk.get("alg") != ALGORITHM or jwk.get("crv") != "P-256":
        raise ValueError(f"tee-pubkey is not a JWK on P-256 with alg {ALGORITHM}")
    try:
        return load_public(load_public_key(json.dumps(dict(jwk)).encode(), "tee-pubkey"))
    except UserError as error:
        raise ValueError(str(error)) from None


def encrypt(key: ec.EllipticCurvePublicKey, secret: bytes) -> dict[str, str]:
    """Return a JWE that only the owner of the private key can read."""
    ephemeral = ec.generate_private_key(key.curve)
    wrapping_key = _agreed(ephemeral.exchange(ec.ECDH(), key))
    content_key, iv = os.urandom(_KEY_SIZE), os.urandom(_IV_SIZE)
    header = {"alg": ALGORITHM, "enc": ENCRYPTION, "epk": _jwk(ephemeral.public_key())}
    protected = octets_text(json.dumps(header, separators=(",", ":")).encode())
    sealed = AESGCM(content_key).encrypt(iv, secret, protected.encode())
    return {
        "protected": protected,
        "encrypted_key": octets_text(aes_key_wrap(wrapping_key, content_key)),
        "iv": octets_text(iv),
        "ciphertext": octets_text(sealed[:-_TAG_SIZE]),
        "tag": octets_text(sealed[-_TAG_SIZE:]),
    }


def octets_text(data: bytes) -> str:
    """Return bytes as text: base64url without padding."""
    return urlsafe_b64encode(data).decode().rstrip("=")


def _agreed(shared: bytes) -> bytes:
    """Return the key that both sides derive from their shared secret."""
    party = bytes(4)  # neither has a name
    info = len(ALGORITHM).to_bytes(4, "big") + ALGORITHM.encode() + 2 * party
    bits = (8 * _KEY_SIZE).to_bytes(4, "big")
    return ConcatKDFHash(SHA256(), _KEY_SIZE, info + bits).derive(shared)


def _jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    point = point_of(key)
    size = Algorithm.of_public(point).coordinate_size
    x, y = point[1 : 1 + size], point[1 + size :]
    return {"crv": "P-256", "kty": "EC", "x": octets_text(x), "y": octets_text(y)}
