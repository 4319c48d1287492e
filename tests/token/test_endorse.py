"""Endorsements: the file for our verifier, and CoRIM as the drafts lay it out."""

from dataclasses import replace

import pytest

from pyvmm.token.cbor import Tag, Value, decode
from pyvmm.token.ecdsa import public_point
from pyvmm.token.endorse import platform_corim, public_pem, realm_corim, reference_json
from pyvmm.token.reference import ComponentValues, PlatformValues, RealmValues, ReferenceValues
from tests.token.keys import key

CPAK = public_point(key("cpak"))
COMPONENTS = (
    ComponentValues(b"\x01" * 32, b"\x02" * 32, "RMM"),
    ComponentValues(b"\x03" * 48, b"\x04" * 64),
)
PLATFORM = PlatformValues(b"\x05" * 32, b"\x01" + b"\x06" * 32, b"config", COMPONENTS, CPAK)
REALM = RealmValues(rim=b"\x07" * 64, rpv=b"\x08" * 64)


def test_file_for_our_verifier_says_the_same() -> None:
    """It is read as what it was made of."""
    text = reference_json(PLATFORM, REALM).encode()
    assert ReferenceValues.parse(text, "it") == ReferenceValues(PLATFORM, REALM)
    alone = ReferenceValues.parse(reference_json(PLATFORM).encode(), "it")
    assert alone == ReferenceValues(PLATFORM)


def unwrap(corim: bytes, profile: str) -> Value:
    """Return the triples of the one CoMID in a CoRIM."""
    match decode(corim):
        case Tag(
            tag=501, value={0: bytes(corim_id), 1: [Tag(tag=506, value=bytes(comid))], 3: uri}
        ):
            assert (len(corim_id), uri) == (16, Tag(32, profile))
        case other:
            pytest.fail(f"no CoRIM: {other!r}")
    match decode(comid):
        case {1: {0: bytes(tag_id)}, 4: triples, **more}:
            assert (len(tag_id), more) == (16, {})
            assert tag_id != corim_id
            return triples
        case other:
            pytest.fail(f"no CoMID: {other!r}")


def test_corim_of_a_platform() -> None:
    """One reference triple of the implementation, one key of the instance."""
    triples = unwrap(platform_corim(PLATFORM), "tag:arm.com,2025:endorsements/cca_platform#1.0.0")
    implementation: Value = {0: Tag(560, b"\x05" * 32)}
    rmm: Value = {
        2: [["sha-256", b"\x01" * 32]],
        11: "RMM",
        13: [Tag(560, b"\x02" * 32)],
    }
    nameless: Value = {2: [["sha-384", b"\x03" * 48]], 13: [Tag(560, b"\x04" * 64)]}
    assert triples == {
        0: [
            [
                {0: implementation},
                [
                    {0: "cca.software-component", 1: rmm},
                    {0: "cca.software-component", 1: nameless},
                    {0: "cca.platform-config", 1: {4: Tag(563, [b"config", b"\xff" * 6])}},
                ],
            ]
        ],
        3: [
            [
                {0: implementation, 1: Tag(550, b"\x01" + b"\x06" * 32)},
                [Tag(554, public_pem(CPAK))],
            ]
        ],
    }


def test_corim_of_a_realm() -> None:
    """The RIM names it; of the REMs there are those that are known."""
    realm = replace(REALM, rems=(b"\x09" * 64, None, None, None))
    triples = unwrap(realm_corim(realm), "tag:arm.com,2025:endorsements/cca_realm#1.0.0")
    assert triples == {
        0: [
            [
                {0: {0: Tag(560, b"\x07" * 64)}},
                [
                    {0: "cca.rim", 1: {2: [["sha-512", b"\x07" * 64]]}},
                    {0: "cca.rem0", 1: {2: [["sha-512", b"\x09" * 64]]}},
                    {0: "cca.rpv", 1: {4: Tag(560, b"\x08" * 64)}},
                ],
            ]
        ]
    }


def test_same_values_are_the_same_file() -> None:
    """And others another one, with other ids."""
    assert platform_corim(PLATFORM) == platform_corim(PLATFORM)
    other = replace(PLATFORM, config=b"another")
    assert platform_corim(other)[:20] != platform_corim(PLATFORM)[:20]


@pytest.mark.parametrize(
    "incomplete",
    [
        replace(PLATFORM, implementation_id=None),
        replace(PLATFORM, instance_id=None),
        replace(PLATFORM, config=None),
        replace(PLATFORM, cpak=None),
    ],
)
def test_incomplete_platform_is_not_endorsed(incomplete: PlatformValues) -> None:
    """A verifier could not find it."""
    with pytest.raises(ValueError, match="without its"):
        platform_corim(incomplete)
    with pytest.raises(ValueError, match="without its"):
        realm_corim(RealmValues())
