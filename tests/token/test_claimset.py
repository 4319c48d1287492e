"""Claims as JSON and back, and the same in diagnostic notation."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.arch.errors import UserError
from pyvmm.token.cbor import Key, Value, decode, encode
from pyvmm.token.claims import PLATFORM_CLAIMS, REALM_CLAIMS
from pyvmm.token.claimset import (
    PLATFORM_NAME,
    REALM_NAME,
    platform_json,
    platform_payload,
    realm_json,
    realm_payload,
)
from pyvmm.token.compile import PROFILE_NAME, compile_token
from pyvmm.token.diag import diagnose
from pyvmm.token.generations import Generation
from pyvmm.token.parse import parse
from pyvmm.token.report import Report
from pyvmm.token.trust import TrustStore
from pyvmm.token.verify import verify
from tests.token.draft import Draft
from tests.token.keys import key
from tests.token.strategies import keys, values
from tests.token.vectors.accepted import all_optional

GENERATIONS = pytest.mark.parametrize("generation", Generation)
_numbers = [claim.key for claim in (*PLATFORM_CLAIMS, *REALM_CLAIMS)]
payloads = st.dictionaries(st.one_of(st.sampled_from(_numbers), keys), values, max_size=8)


def full(generation: Generation) -> bytes:
    """Return a token with all the claims that its generation has."""
    draft = Draft.good(generation)
    if generation is Generation.G2B:
        all_optional(draft)
    return draft.encode()


@given(payloads)
def test_payload_survives_json(payload: dict[Key, Value]) -> None:
    """Any payload, also one that no profile allows."""
    for to_json, from_json in ((platform_json, platform_payload), (realm_json, realm_payload)):
        text = json.dumps(to_json(payload), allow_nan=False)
        assert encode(from_json(json.loads(text))) == encode(payload)


@GENERATIONS
def test_claims_have_the_names_of_the_veraison_tools(generation: Generation) -> None:
    """Byte strings are base64, components have their members' names."""
    report = verify(full(generation), TrustStore())
    assert report.platform is not None
    assert report.realm is not None
    platform, realm = platform_json(report.platform), realm_json(report.realm)
    assert isinstance(platform, dict)
    assert isinstance(realm, dict)
    assert platform["cca-platform-config"] == "z8/Pzw=="
    assert platform["cca-platform-lifecycle"] == 0x3003
    components = platform["cca-platform-sw-components"]
    assert isinstance(components, list)
    assert isinstance(components[0], dict)
    assert components[0]["measurement-type"] == "BL_2"
    assert all(name.startswith("cca-") for name in (*platform, *realm))


@GENERATIONS
def test_compile_makes_the_same_claims_again(generation: Generation) -> None:
    """Compile accepts what show prints."""
    token = full(generation)
    before = verify(token, TrustStore())
    assert before.platform is not None
    assert before.realm is not None
    claims = {
        PROFILE_NAME: generation.value,
        PLATFORM_NAME: platform_json(before.platform),
        REALM_NAME: realm_json(before.realm),
    }
    again = compile_token(json.loads(json.dumps(claims)), key("cpak"), key("rak"))
    one, other = parse(token, Report()), parse(again, Report())
    assert one.outer_tag is other.outer_tag
    for mine, theirs in ((one.platform, other.platform), (one.realm, other.realm)):
        assert mine.sign1 is not None
        assert theirs.sign1 is not None
        assert mine.sign1.payload == theirs.sign1.payload
        assert mine.sign1.protected == theirs.sign1.protected


def test_compile_fills_in_missing_claims_and_omits_null_ones() -> None:
    """The key, its hash, the binding and the profiles."""
    claims: dict[str, object] = {PLATFORM_NAME: {}, REALM_NAME: {"cca-realm-profile": None}}
    token = compile_token(json.loads(json.dumps(claims)), key("cpak"), key("rak"), Generation.G2)
    report = verify(token, TrustStore())
    assert report.platform is not None
    assert report.realm is not None
    assert sorted(map(str, report.platform)) == ["10", "265"]
    assert sorted(map(str, report.realm)) == ["44237", "44240"]


def nested(depth: int) -> list[object]:
    """Return nested arrays."""
    value: list[object] = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("claims", "what"),
    [
        ([], "not a JSON object"),
        ({}, "cca-realm-delegated-token|cca-platform-token"),
        ({PLATFORM_NAME: {}, REALM_NAME: []}, "cca-realm-delegated-token is not"),
        ({PROFILE_NAME: "g9", PLATFORM_NAME: {}, REALM_NAME: {}}, "not one of g0"),
        ({PROFILE_NAME: [], PLATFORM_NAME: {}, REALM_NAME: {}}, "not one of g0"),
        ({PLATFORM_NAME: {"cca-platform-lifecyle": 1}, REALM_NAME: {}}, "neither the name nor"),
        ({PLATFORM_NAME: {"cca-platform-config": "*"}, REALM_NAME: {}}, "is not base64"),
        ({PLATFORM_NAME: {"1": {"map": [1]}}, REALM_NAME: {}}, r"array of \[key, value\]"),
        ({PLATFORM_NAME: {"1": {"map": [[[], 1]]}}, REALM_NAME: {}}, "a map.s key must be"),
        ({PLATFORM_NAME: {"1": {"float": "x"}}, REALM_NAME: {}}, "is not a number"),
        ({PLATFORM_NAME: {"1": {"bytes": "x"}}, REALM_NAME: {}}, "object with one member"),
        ({PLATFORM_NAME: {"1": 1 << 64}, REALM_NAME: {}}, "64 bits"),
        ({PLATFORM_NAME: {"1": "\ud800"}, REALM_NAME: {}}, "is not text"),
        ({PLATFORM_NAME: {str(1 << 64): 1}, REALM_NAME: {}}, "64 bits"),
        ({PLATFORM_NAME: {"1": {"tag": [1 << 64, 1]}}, REALM_NAME: {}}, "64 bits"),
        ({PLATFORM_NAME: {"1": {"tag": [True, 1]}}, REALM_NAME: {}}, "object with one member"),
        ({PLATFORM_NAME: {"1": 1, "01": 1}, REALM_NAME: {}}, "duplicate claim '01'"),
        (
            {PLATFORM_NAME: {"cca-platform-config": "", "2401": ""}, REALM_NAME: {}},
            "duplicate claim '2401'",
        ),
        ({PLATFORM_NAME: {"1": {"map": [[7, 1], [7, 2]]}}, REALM_NAME: {}}, "duplicate key 7"),
        ({PLATFORM_NAME: {}, REALM_NAME: {"1": nested(900)}}, "nested too deeply"),
    ],
)
def test_compile_reports_bad_claims(claims: object, what: str) -> None:
    """In one line."""
    with pytest.raises(UserError, match=what) as error:
        compile_token(json.loads(json.dumps(claims)), key("cpak"), key("rak"))
    assert "\n" not in str(error.value)


# --- diagnostic notation ----------------------------------------------------------------------


@GENERATIONS
def test_diagnostic_notation_names_all_claims_and_opens_all_parts(generation: Generation) -> None:
    """Including the encoded key; no value is omitted."""
    token = full(generation)
    text = diagnose(token)
    report = verify(token, TrustStore())
    assert report.platform is not None
    assert report.realm is not None
    for claim in PLATFORM_CLAIMS:
        assert (f"/ {claim.name} / {claim.key:d}: " in text) == (claim.key in report.platform)
    assert ("/ kty / 1: 2" in text) == (generation is not Generation.G0)
    assert text.count("<< 18([") == 2
    assert all(line.isprintable() for line in text.splitlines())
    assert re.search(r"44238: h'7272", text)


@given(values)
def test_diagnostic_notation_is_text_for_any_value(value: Value) -> None:
    """Printable, on any number of lines."""
    text = diagnose(encode(value))
    assert all(line.isprintable() and line.isascii() for line in text.splitlines())
    assert decode(encode(value)) == value
