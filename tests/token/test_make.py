"""Makers: the exact bytes of the formats, and no token that violates them."""

from dataclasses import replace
from hashlib import sha256

import pytest

from pyvmm.token.cbor import Tag, decode
from pyvmm.token.claims import PlatformKey
from pyvmm.token.cose import Algorithm, Sign1, cose_key, parse_cose_key
from pyvmm.token.ecdsa import is_signature, public_point
from pyvmm.token.generations import FORMS, Generation
from pyvmm.token.make import (
    PlatformClaims,
    RealmClaims,
    SwComponent,
    binding,
    cca_token,
    platform_payload,
    rak_encoding,
    realm_payload,
)
from tests.token.keys import key, signed

RAK = public_point(key("rak"))


def platform_claims(generation: Generation) -> PlatformClaims:
    """Return claims of a platform that vouches for RAK."""
    return PlatformClaims(
        challenge=binding(RAK, generation),
        implementation_id=b"i" * 32,
        instance_id=b"\x01" + b"u" * 32,
        config=b"\xcf" * 4,
        lifecycle=0x3003,
        components=(SwComponent(b"m" * 32, b"s" * 32, "RMM", "1.0"),),
    )


REALM = RealmClaims(
    challenge=b"c" * 64,
    rpv=bytes(64),
    hash_algorithm="sha-256",
    rak=RAK,
    rim=b"r" * 32,
    rems=(bytes(32),) * 4,
    instance_id=b"\x01" + b"x" * 32,
)


def keys_of(payload: bytes) -> list[object]:
    """Return a payload's keys, in order."""
    value = decode(payload)
    assert isinstance(value, dict)
    return list(value)


def test_cose_key_has_the_bytes_that_firmware_writes() -> None:
    """107 bytes, members in the order kty, crv, x, y."""
    encoded = cose_key(RAK)
    assert encoded.hex() == "a40102200221" + "5830" + RAK[1:49].hex() + "225830" + RAK[49:].hex()
    assert len(encoded) == 107
    assert parse_cose_key(encoded) == RAK


@pytest.mark.parametrize("generation", Generation)
def test_binding_hashes_the_key_as_carried(generation: Generation) -> None:
    """The raw point in G0, the COSE_Key after."""
    encoded = rak_encoding(RAK, generation)
    assert encoded == (RAK if generation is Generation.G0 else cose_key(RAK))
    assert binding(RAK, generation) == sha256(encoded).digest()


@pytest.mark.parametrize("generation", Generation)
def test_payloads_have_the_claims_of_the_generation_in_firmware_order(
    generation: Generation,
) -> None:
    """TF-M writes the platform claims in this order, TF-RMM the realm claims."""
    client_id = [PlatformKey.CLIENT_ID] if generation is Generation.G2B else []
    assert keys_of(platform_payload(platform_claims(generation), generation)) == [
        265, 10, 2396, 256, 2401, 2395, 2402, *client_id, 2399,
    ]  # fmt: skip
    realm = keys_of(realm_payload(REALM, generation))
    is_v2 = generation in {Generation.G2, Generation.G2B}
    assert realm == [
        key
        for key in (10, 256, 44235, 44237, 44236, 44240, 44243, 265, 44238, 44239)
        if (is_v2 or key not in {256, 44243}) and (generation is not Generation.G0 or key != 265)
    ]


@pytest.mark.parametrize(
    ("generation", "head"),
    [
        (Generation.G0, "d9018fa219acca59"),
        (Generation.G1, "d9018fa219acca59"),
        (Generation.G1B, "d9038ba219acca8219010759"),
        (Generation.G2, "d9038ba219acca8219010759"),
        (Generation.G2B, "d9038ba219acca8219010759"),
    ],
)
def test_token_starts_as_the_generation_says(generation: Generation, head: str) -> None:
    """Outer tag, platform entry first, record or bare byte string."""
    platform = signed(key("cpak"), platform_payload(platform_claims(generation), generation))
    realm = signed(key("rak"), realm_payload(REALM, generation))
    token = cca_token(platform, realm, generation)
    assert token.hex().startswith(head)
    value = decode(token)
    assert isinstance(value, Tag)
    assert value.tag == FORMS[generation].outer_tag
    part = Sign1.parse(realm)
    assert part.protected.hex() == "a1013822"
    assert is_signature(RAK, Algorithm.ES384, part.to_be_signed, part.signature)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"lifecycle": 0x3100}, "platform.cca-platform-lifecycle"),
        ({"challenge": b"short"}, "platform.cca-platform-challenge"),
        ({"config": b""}, "platform.cca-platform-config"),
        ({"instance_id": b"\x02" + bytes(32)}, "platform.cca-platform-instance-id"),
        ({"components": ()}, "platform.cca-platform-sw-components"),
        (
            {"components": (SwComponent(b"m" * 31, b"s" * 32),)},
            "platform.cca-platform-sw-components[0].measurement-value",
        ),
    ],
)
def test_platform_payload_refuses_claims_that_no_verifier_takes(
    change: dict[str, object], path: str
) -> None:
    """A maker names the claim that is wrong."""
    claims = replace(platform_claims(Generation.G1), **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=path.replace("[", r"\[")):
        platform_payload(claims, Generation.G1)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"rems": (bytes(32),) * 3}, "extensible-measurements: not array of 4"),
        ({"rems": (bytes(64),) * 4}, "not have the RIM"),
        ({"challenge": bytes(32)}, "challenge: not 64 bytes"),
        ({"rak": public_point(key("rak", Algorithm.ES256))}, "a point of P-384"),
        ({"rak": b"\x02" + RAK[1:]}, "not an uncompressed point"),
        ({"instance_id": b""}, "instance-id: not 33 bytes starting with 01: 0 bytes"),
    ],
)
def test_realm_payload_refuses_claims_that_no_verifier_takes(
    change: dict[str, object], what: str
) -> None:
    """A maker names the claim that is wrong."""
    claims = replace(REALM, **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=what):
        realm_payload(claims, Generation.G2)
