"""Key files: public keys as SEC1 points, from PEM, DER or JWK."""

from base64 import urlsafe_b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

from pyvmm.arch import strict_json
from pyvmm.arch.errors import UserError
from pyvmm.arch.strict_json import Json
from pyvmm.arch.user_file import read_file
from pyvmm.token.claims import UEID_RANDOM
from pyvmm.token.cose import SEC1_UNCOMPRESSED, Algorithm
from pyvmm.token.ecdsa import CURVES, load_public, point_of, public_point

#: JWK name of a curve → the algorithm of its keys.
JWK_CURVES: Final = {
    "P-256": Algorithm.ES256,
    "P-384": Algorithm.ES384,
    "P-521": Algorithm.ES512,
}
_MAX_KEY_FILE: Final = 64 << 10
_UNREADABLE: Final = "neither PEM, DER nor JWK, or damaged"


def instance_id_of(public: bytes) -> bytes:
    """Return the instance id of the platform with this CPAK: a UEID of the point's SHA-256."""
    return UEID_RANDOM + sha256(public).digest()


def read_key(path: Path) -> bytes:
    """Return the content of a key file.

    Raises:
        UserError: the file cannot be read, or is too large.
    """
    return read_file(path, "key", _MAX_KEY_FILE, takes_pipe=True, remedy="give a key file")


def load_public_key(data: bytes, source: str) -> bytes:
    """Return the SEC1 point of a public key in PEM, DER or JWK.

    Raises:
        UserError: it is not a public key on a supported curve.
    """
    if b"PRIVATE KEY" in data:
        raise UserError(f"{source} is a private key: give the public one (openssl pkey -pubout)")
    with _one_line(f"{source} is not a public key"):
        return _load(data)


def load_private_key(data: bytes, source: str) -> EllipticCurvePrivateKey:
    """Return the private key in PEM, DER or JWK.

    Raises:
        UserError: it is not a private key on a supported curve, or it is encrypted.
    """
    with _one_line(f"{source} is not a private key"):
        return _load_private(data)


@contextmanager
def _one_line(refusal: str) -> Iterator[None]:
    """Say in one line why a key is refused."""
    try:
        yield
    except (ValueError, KeyError, TypeError, UnsupportedAlgorithm) as error:
        what = " ".join(str(error).split())
        raise UserError(f"{refusal} on P-256, P-384 or P-521: {what}") from None


def _load_private(data: bytes) -> EllipticCurvePrivateKey:
    text = data.lstrip()
    if text.startswith(b"{"):
        return _load_private_jwk(text)
    load = load_pem_private_key if text.startswith(b"-----BEGIN") else load_der_private_key
    try:
        key = load(data, None)
    except ValueError:  # its text is long, and says less
        raise ValueError(_UNREADABLE) from None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ValueError("not an elliptic curve key")  # noqa: TRY004  callers expect one kind of error
    public_point(key)
    return key


def _load(data: bytes) -> bytes:
    text = data.lstrip()
    if text.startswith(b"{"):
        return _load_jwk(text)
    load = load_pem_public_key if text.startswith(b"-----BEGIN") else load_der_public_key
    try:
        key = load(data)
    except ValueError:  # its text is long, and says less
        raise ValueError(_UNREADABLE) from None
    if not isinstance(key, EllipticCurvePublicKey):
        raise ValueError("not an elliptic curve key")  # noqa: TRY004  callers expect one kind of error
    return point_of(key)


def _load_private_jwk(text: bytes) -> EllipticCurvePrivateKey:
    key = _jwk(text)
    return derive_private_key(int.from_bytes(_octets(key, "d"), "big"), CURVES[_algorithm(key)])


def _load_jwk(text: bytes) -> bytes:
    key = _jwk(text)
    if _member(key, "kty") != "EC" or "d" in key:
        raise ValueError("not a public JWK of type EC")
    algorithm = _algorithm(key)
    point = bytes([SEC1_UNCOMPRESSED])
    for name in ("x", "y"):
        coordinate = _octets(key, name)
        if len(coordinate) != algorithm.coordinate_size:
            raise ValueError(f"{name} is not {algorithm.coordinate_size} bytes")
        point += coordinate
    load_public(point)
    return point


def _jwk(text: bytes) -> dict[str, Json]:
    key = strict_json.loads(text)
    if not isinstance(key, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  callers expect one kind of error
    return key


def _algorithm(key: dict[str, Json]) -> Algorithm:
    name = str(_member(key, "crv"))
    if name not in JWK_CURVES:
        raise ValueError(f"a key on {name}, which is not supported")
    return JWK_CURVES[name]


def _member(key: dict[str, Json], name: str) -> Json:
    if name not in key:
        raise ValueError(f"its member {name!r} is missing")
    return key[name]


def _octets(key: dict[str, Json], name: str) -> bytes:
    text = _member(key, name)
    if not isinstance(text, str):
        raise ValueError(f"{name} is not text")  # noqa: TRY004  callers expect one kind of error
    return urlsafe_b64decode(text + "==")
