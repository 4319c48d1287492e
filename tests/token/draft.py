"""A draft of a token: valid unless a test spoils one of its parts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import new as new_hash

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from pyvmm.token.cbor import Key, Tag, Value, decode, encode
from pyvmm.token.claims import HASH_SIZES, PlatformKey, RealmKey
from pyvmm.token.cose import Algorithm, protected, sig_structure
from pyvmm.token.ecdsa import public_point
from pyvmm.token.generations import (
    EAT_CWT,
    FORMS,
    PLATFORM_TOKEN,
    REALM_TOKEN,
    Generation,
    OuterTag,
)
from pyvmm.token.make import (
    PlatformClaims,
    RealmClaims,
    SwComponent,
    binding,
    platform_payload,
    realm_payload,
)
from tests.token.keys import key, sign

Map = dict[Key, Value]

CHALLENGE = bytes(range(64))
IMPLEMENTATION_ID = bytes.fromhex("0f") * 32
INSTANCE_ID = b"\x01" + bytes.fromhex("1d") * 32
CONFIG = bytes.fromhex("cfcfcfcf")
SIGNER = b"s" * 32
COMPONENTS = (
    SwComponent(b"2" * 32, SIGNER, "BL_2", "2.12"),
    SwComponent(b"3" * 32, SIGNER, "SECURE_RT_EL3", "2.12"),
    SwComponent(b"R" * 32, SIGNER, "RMM", "0.8"),
)
RIM = b"r" * 32
REMS = (b"0" * 32, b"1" * 32, bytes(32), bytes(32))
RPV = b"rpv".ljust(64, b"\0")


def same(data: bytes) -> bytes:
    """Return the argument."""
    return data


@dataclass
class Part:
    """The platform or the realm token."""

    claims: Map
    key: EllipticCurvePrivateKey
    algorithm: Algorithm = Algorithm.ES384  # signs
    header: bytes | None = None  # protected; None: derived from the algorithm
    unprotected: Value = field(default_factory=dict)
    payload: Callable[[bytes], bytes] = same  # before it is signed
    after: Callable[[bytes], bytes] = same  # the payload after it was signed
    signature: Callable[[bytes], bytes] = same
    wrap: Callable[[list[Value]], Value] = lambda parts: Tag(18, parts)

    def encode(self) -> bytes:
        """Return the signed part."""
        header = protected(self.algorithm) if self.header is None else self.header
        payload = self.payload(encode(self.claims))
        signature = sign(self.key, self.algorithm, sig_structure(header, payload))
        parts: list[Value] = [
            header,
            self.unprotected,
            self.after(payload),
            self.signature(signature),
        ]
        return encode(self.wrap(parts))


@dataclass
class Draft:
    """The whole token."""

    generation: Generation
    platform: Part
    realm: Part
    outer_tag: int
    is_bound: bool = True  # finally set the platform's challenge to bind the realm's key
    entries: Callable[[Map], Map] = lambda entries: entries
    token: Callable[[bytes], bytes] = same

    @classmethod
    def good(cls, generation: Generation) -> "Draft":
        """Return a valid token."""
        rak = key("rak")
        point = public_point(rak)
        platform = PlatformClaims(
            challenge=binding(point, generation),
            implementation_id=IMPLEMENTATION_ID,
            instance_id=INSTANCE_ID,
            config=CONFIG,
            lifecycle=0x3003,
            components=COMPONENTS,
            verification_service="https://verifier.example",
        )
        realm = RealmClaims(
            challenge=CHALLENGE,
            rpv=RPV,
            hash_algorithm="sha-256",
            rak=point,
            rim=RIM,
            rems=REMS,
            instance_id=b"\x01" + b"x" * 32,
        )
        return cls(
            generation,
            Part(_claims(platform_payload(platform, generation)), key("cpak")),
            Part(_claims(realm_payload(realm, generation)), rak),
            FORMS[generation].outer_tag.value,
        )

    def encode(self) -> bytes:
        """Return the token."""
        if self.is_bound:
            self.bind()
        entries: Map = {
            PLATFORM_TOKEN: self.platform.encode(),
            REALM_TOKEN: self.realm.encode(),
        }
        if FORMS[self.generation].outer_tag is OuterTag.CMW:
            entries = {number: [EAT_CWT, part] for number, part in entries.items()}
        return self.token(encode(Tag(self.outer_tag, self.entries(entries))))

    def bind(self) -> None:
        """Make the platform vouch for the key in the realm token."""
        name = self.realm.claims.get(int(RealmKey.RAK_HASH_ALGORITHM))
        carried = self.realm.claims.get(int(RealmKey.RAK))
        if isinstance(carried, bytes) and isinstance(name, str) and name in HASH_SIZES:
            digest = new_hash(name.replace("-", ""), carried).digest()
            if PlatformKey.CHALLENGE in self.platform.claims:
                self.platform.claims[int(PlatformKey.CHALLENGE)] = digest


def _claims(payload: bytes) -> Map:
    value = decode(payload)
    assert isinstance(value, dict)
    return value
