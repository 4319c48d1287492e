"""Endorsements: the file for our verifier, and CoRIM as the drafts lay it out."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from cbor2 import CBORTag, loads
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.token.cbor import Tag, Value, decode
from pyvmm.token.ecdsa import public_point
from pyvmm.token.endorse import (
    CorimDraft,
    platform_corim,
    public_pem,
    realm_corim,
    reference_json,
)
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
    """Reading it returns the original values."""
    text = reference_json(PLATFORM, REALM).encode()
    assert ReferenceValues.parse(text, "it") == ReferenceValues(PLATFORM, REALM)
    alone = ReferenceValues.parse(reference_json(PLATFORM).encode(), "it")
    assert alone == ReferenceValues(PLATFORM)


D03, D04 = CorimDraft
PLATFORM_PROFILE = {
    D03: "tag:arm.com,2025:cca_platform#1.0.0",
    D04: "tag:arm.com,2025:endorsements/cca_platform#1.0.0",
}
REALM_PROFILE = {
    D03: "tag:arm.com,2025:cca_realm#1.0.0",
    D04: "tag:arm.com,2025:endorsements/cca_realm#1.0.0",
}
#: The configuration as in draft -04, and as the Veraison verifier reads it in draft -03.
CONFIG: dict[CorimDraft, Value] = {
    D03: {4: Tag(560, b"config"), 5: b"\xff" * 6},
    D04: {4: Tag(563, [b"config", b"\xff" * 6])},
}
DRAFTS = pytest.mark.parametrize("draft", CorimDraft)


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


@DRAFTS
def test_corim_of_a_platform(draft: CorimDraft) -> None:
    """One reference triple of the implementation, one key of the instance."""
    triples = unwrap(platform_corim(PLATFORM, draft), PLATFORM_PROFILE[draft])
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
                    {0: "cca.platform-config", 1: CONFIG[draft]},
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


@DRAFTS
def test_corim_of_a_realm(draft: CorimDraft) -> None:
    """The RIM names it; only known REMs are included."""
    realm = replace(REALM, rems=(b"\x09" * 64, None, None, None))
    triples = unwrap(realm_corim(realm, draft), REALM_PROFILE[draft])
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
    """Other values give another file with other ids."""
    assert platform_corim(PLATFORM, D04) == platform_corim(PLATFORM, D04)
    other = replace(PLATFORM, config=b"another")
    ids = [platform_corim(*said)[:22] for said in ((PLATFORM, D03), (PLATFORM, D04), (other, D04))]
    assert len({*ids}) == len(ids)


# --- the drafts' CDDL, read by cbor2 alone ----------------------------------------------------

HASHES = {"sha-256": 32, "sha-384": 48, "sha-512": 64}
digests = st.sampled_from((32, 48, 64)).flatmap(
    lambda size: st.binary(min_size=size, max_size=size)
)
components = st.builds(ComponentValues, digests, digests, st.none() | st.text(min_size=1))
platforms = st.builds(
    PlatformValues,
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32).map(lambda data: b"\x01" + data),
    st.binary(min_size=1, max_size=64),
    st.lists(components, min_size=1, max_size=4).map(tuple),
    st.just(CPAK),
)
realms = st.sampled_from((32, 48, 64)).flatmap(
    lambda size: st.builds(
        RealmValues,
        st.binary(min_size=size, max_size=size),
        st.tuples(*[st.none() | st.binary(min_size=size, max_size=size)] * 4),
        st.none() | st.binary(min_size=64, max_size=64),
    )
)


def tagged(value: object, number: int) -> object:
    """Return the value inside a tag."""
    assert isinstance(value, CBORTag)
    assert value.tag == number
    return value.value


def members(value: object, must: set[int], may: set[int] | None = None) -> dict[int, object]:
    """Return a map that has these keys, and no other."""
    assert isinstance(value, Mapping)
    assert must <= value.keys() <= must | (may or set())
    return dict(value)


def array(value: object) -> tuple[object, ...]:
    """Return an array's items; inside a tag, cbor2 returns immutable values."""
    assert isinstance(value, list | tuple)
    return tuple(value)


def octets(value: object, *sizes: int) -> bytes:
    """Return a byte string of one of some sizes."""
    assert isinstance(value, bytes)
    assert not sizes or len(value) in sizes
    return value


def one_digest(value: object) -> None:
    """digests: an array of one [alg: text, val: bytes]."""
    [digest] = array(value)
    name, data = array(digest)
    octets(data, HASHES[str(name)])


def triples_of(corim: bytes, profile: str) -> dict[int, object]:
    """corim-map with one concise-mid-tag; the reference triples are non-empty."""
    corim_map = members(tagged(loads(corim), 501), {0, 1, 3})
    octets(corim_map[0], 16)
    assert tagged(corim_map[3], 32) == profile
    [tag] = array(corim_map[1])
    comid = members(loads(octets(tagged(tag, 506))), {1, 4})
    octets(members(comid[1], {0})[0], 16)
    return members(comid[4], {0}, {3})


def measurements_of(triples: dict[int, object], *id_sizes: int) -> list[tuple[str, object]]:
    """The one reference triple: a class by its id in tagged-bytes, and named measurements."""
    [reference] = array(triples[0])
    environment, measurements = array(reference)
    octets(tagged(members(members(environment, {0})[0], {0})[0], 560), *id_sizes)
    named = [members(each, {0, 1}) for each in array(measurements)]
    return [(str(each[0]), each[1]) for each in named]


@DRAFTS
@given(platform=platforms)
def test_platform_fits_the_cddl(draft: CorimDraft, platform: PlatformValues) -> None:
    """Including the Veraison profiles' checks: one config, one signer, one key of the instance."""
    triples = triples_of(platform_corim(platform, draft), PLATFORM_PROFILE[draft])
    found = measurements_of(triples, 32)
    assert [name for name, _ in found].count("cca.platform-config") == 1
    for name, value in found:
        if name == "cca.platform-config" and draft is D03:
            config = members(value, {4, 5})
            assert len(octets(tagged(config[4], 560))) == len(octets(config[5]))
        elif name == "cca.platform-config":
            config_value, mask = array(tagged(members(value, {4})[4], 563))
            assert len(octets(config_value)) == len(octets(mask))
        else:
            assert name == "cca.software-component"
            component = members(value, {2, 13}, {11})
            one_digest(component[2])
            [signer] = array(component[13])
            octets(tagged(signer, 560), 32, 48, 64)
            assert isinstance(component.get(11, ""), str)
    [attest_key] = array(triples[3])
    environment, keys = array(attest_key)
    [pem] = array(keys)
    instance = members(environment, {0, 1})
    octets(tagged(members(instance[0], {0})[0], 560), 32)
    assert octets(tagged(instance[1], 550), 33)[0] == 1
    assert tagged(pem, 554) == public_pem(CPAK)


@DRAFTS
@given(realm=realms)
def test_realm_fits_the_cddl(draft: CorimDraft, realm: RealmValues) -> None:
    """The RIM names the class and is the first of the measurements."""
    triples = triples_of(realm_corim(realm, draft), REALM_PROFILE[draft])
    assert triples.keys() == {0}
    found = dict(measurements_of(triples, 32, 48, 64))
    assert found.keys() <= {"cca.rim", "cca.rpv", *(f"cca.rem{number}" for number in range(4))}
    assert "cca.rim" in found
    for name, value in found.items():
        if name == "cca.rpv":
            octets(tagged(members(value, {4})[4], 560), 64)
        else:
            one_digest(members(value, {2})[2])


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
    with pytest.raises(ValueError, match="the platform has no"):
        platform_corim(incomplete, D03)
    with pytest.raises(ValueError, match="the realm has no"):
        realm_corim(RealmValues(), D03)
