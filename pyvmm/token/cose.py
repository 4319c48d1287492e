"""COSE_Sign1 and COSE_Key as CCA tokens use them; no cryptography here.

Headers contain only the signature's algorithm.  A reader that tolerates variants also accepts an
unprotected header that names the signing key: the header is ignored, so it does no harm.

Spec: RFC 9052, 4.2 and 4.4; RFC 9053, 2.1 and 7.1.1.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from pyvmm.token.cbor import Key, Malformed, Tag, Tolerate, Value, decode, describe, encode, ignore

COSE_SIGN1: Final = 18  # CBOR tag
SEC1_UNCOMPRESSED: Final = 0x04


class Algorithm(IntEnum):
    """COSE algorithm of a signature."""

    ES256 = -7
    ES384 = -35
    ES512 = -36

    @property
    def coordinate_size(self) -> int:
        """Size in bytes of a coordinate of its curve, and of r and s."""
        return _COORDINATE_SIZE[self]

    @property
    def curve(self) -> "Curve":
        """The curve of a token's key for this algorithm."""
        return Curve[self.name]

    @classmethod
    def of_public(cls, public: bytes) -> Self:
        """Return the algorithm for which a SEC1 point is a key.

        Raises:
            ValueError: the point is compressed, or fits no curve.
        """
        for algorithm in cls:
            if len(public) == 1 + 2 * algorithm.coordinate_size:
                break
        else:
            raise ValueError(f"a key of {len(public)} bytes")
        if public[0] != SEC1_UNCOMPRESSED:
            raise ValueError("not an uncompressed point")
        return algorithm


class Curve(IntEnum):
    """COSE elliptic curve, named by the algorithm that uses it."""

    ES256 = 1  # P-256
    ES384 = 2  # P-384
    ES512 = 3  # P-521


_COORDINATE_SIZE: Final = {Algorithm.ES256: 32, Algorithm.ES384: 48, Algorithm.ES512: 66}


class HeaderLabel(IntEnum):
    """COSE header parameters."""

    ALG = 1
    CRIT = 2
    KID = 4
    X5BAG = 32
    X5CHAIN = 33
    X5T = 34
    X5U = 35


#: Parameters that name the signing key.
_KEY_NAMES: Final = frozenset(HeaderLabel) - {HeaderLabel.ALG, HeaderLabel.CRIT}


class KeyLabel(IntEnum):
    """COSE_Key parameters of an elliptic curve key."""

    KTY = 1
    ALG = 3
    CRV = -1
    X = -2
    Y = -3
    D = -4


KTY_EC2: Final = 2


def protected(alg: Algorithm) -> bytes:
    """Return the protected header of a token signed with an algorithm.

    >>> protected(Algorithm.ES384).hex()
    'a1013822'
    """
    return encode({HeaderLabel.ALG.value: alg.value})


def sig_structure(protected: bytes, payload: bytes) -> bytes:
    """Return the bytes that a COSE_Sign1's signature covers."""
    return encode(["Signature1", protected, b"", payload])


@dataclass(frozen=True, slots=True)
class Sign1:
    """A COSE_Sign1, without its unprotected header; the signature is r || s."""

    protected: bytes
    payload: bytes
    signature: bytes

    def encode(self) -> bytes:
        """Encode with the tag and an empty unprotected header."""
        return encode(Tag(COSE_SIGN1, [self.protected, {}, self.payload, self.signature]))

    @property
    def to_be_signed(self) -> bytes:
        """The bytes that the signature covers."""
        return sig_structure(self.protected, self.payload)

    @classmethod
    def parse(cls, data: bytes, *, path: str = "", tolerate: Tolerate | None = None) -> Self:
        """Decode a COSE_Sign1; the protected header and the payload stay encoded.

        Raises:
            Malformed: the bytes are not a tagged COSE_Sign1, or the unprotected header contains
                more than is tolerated.
        """
        value = decode(data, path=path, tolerate=tolerate)
        if not isinstance(value, Tag) or value.tag != COSE_SIGN1:
            raise Malformed(path, "not a COSE_Sign1: tag 18 is missing")
        match value.value:
            case [bytes(protected), dict(unprotected), bytes(payload), bytes(signature)]:
                if unprotected:
                    _check_unprotected(unprotected, f"{path}.unprotected", tolerate)
                return cls(protected, payload, signature)
            case _:
                what = "not a COSE_Sign1: not [protected, unprotected, payload, signature]"
                raise Malformed(path, what)

    def algorithm(self, *, path: str = "", tolerate: Tolerate | None = None) -> Algorithm:
        """Return the algorithm in the protected header.

        Raises:
            Malformed: the algorithm is missing or not supported, the header has critical
                parameters, or the signature does not have the algorithm's size.
        """
        algorithm = _algorithm_of(self.protected, f"{path}.protected", tolerate)
        size = 2 * algorithm.coordinate_size
        if len(self.signature) != size:
            what = f"{len(self.signature)} bytes, not the {size} of {algorithm.name}"
            raise Malformed(f"{path}.signature", what)
        return algorithm

    @property
    def is_plain(self) -> bool:
        """Whether the protected header, already checked, contains only an algorithm."""
        if self.protected in _PLAIN_HEADERS:
            return True
        header = decode(self.protected, tolerate=ignore)
        return isinstance(header, dict) and header.keys() == {HeaderLabel.ALG}


_PLAIN_HEADERS: Final = {protected(algorithm): algorithm for algorithm in Algorithm}


def _check_unprotected(header: dict[Key, Value], path: str, tolerate: Tolerate | None) -> None:
    """Reject a header that is not empty, unless it only names the signing key."""
    if tolerate is None or not header.keys() <= _KEY_NAMES:
        raise Malformed(path, "not empty, although not signed")
    if not isinstance(header.get(HeaderLabel.KID, b""), bytes):
        raise Malformed(path, f"the key id is not a byte string: {describe(header[4])}")
    tolerate(Malformed(path, "an unsigned key name"))


def _algorithm_of(encoded: bytes, path: str, tolerate: Tolerate | None) -> Algorithm:
    if encoded in _PLAIN_HEADERS:
        return _PLAIN_HEADERS[encoded]
    header = decode(encoded, path=path, tolerate=tolerate)
    if not isinstance(header, dict):
        raise Malformed(path, "not a map")
    if HeaderLabel.CRIT in header:
        what = describe(header[HeaderLabel.CRIT])
        raise Malformed(path, f"critical parameters are not understood: {what}")
    alg = header.get(HeaderLabel.ALG)
    if type(alg) is not int or alg not in list(Algorithm):
        raise Malformed(path, f"algorithm {describe(alg)}, not ES256, ES384 or ES512")
    return Algorithm(alg)


def cose_key(public: bytes) -> bytes:
    """Return the COSE_Key of a SEC1 point: 107 bytes for P-384.

    Raises:
        ValueError: the key is not an uncompressed point.
    """
    algorithm = Algorithm.of_public(public)
    x, y = public[1 : 1 + algorithm.coordinate_size], public[1 + algorithm.coordinate_size :]
    return encode(
        {
            KeyLabel.KTY.value: KTY_EC2,
            KeyLabel.CRV.value: algorithm.curve.value,
            KeyLabel.X.value: x,
            KeyLabel.Y.value: y,
        }
    )


def parse_cose_key(data: bytes, *, path: str = "", tolerate: Tolerate | None = None) -> bytes:
    """Return the SEC1 point of a COSE_Key, which may contain other members.

    Raises:
        Malformed: it is not a public elliptic curve key, or contains the private part.
    """
    key = decode(data, path=path, tolerate=tolerate)
    if not isinstance(key, dict):
        raise Malformed(path, "not a COSE_Key: not a map")
    if KeyLabel.D in key:
        raise Malformed(path, "contains a private key")
    kty = key.get(KeyLabel.KTY)
    if type(kty) is not int or kty != KTY_EC2:
        raise Malformed(path, f"key type {describe(kty)}, not 2 (EC2)")
    algorithm = _key_algorithm(key, path)
    point = bytes([SEC1_UNCOMPRESSED])
    for label in (KeyLabel.X, KeyLabel.Y):
        coordinate = key.get(label)
        if not isinstance(coordinate, bytes) or len(coordinate) != algorithm.coordinate_size:
            size = algorithm.coordinate_size
            raise Malformed(path, f"{label.name.lower()} is not a byte string of {size} bytes")
        point += coordinate
    return point


def _key_algorithm(key: dict[Key, Value], path: str) -> Algorithm:
    crv = key.get(KeyLabel.CRV)
    if type(crv) is not int or crv not in list(Curve):
        raise Malformed(path, f"curve {describe(crv)}, not P-256, P-384 or P-521")
    algorithm = Algorithm[Curve(crv).name]
    alg = key.get(KeyLabel.ALG, algorithm.value)
    if type(alg) is not int or alg != algorithm.value:
        raise Malformed(path, f"algorithm {describe(alg)} does not fit its curve")
    return algorithm
