"""The verifier as a function: total, fast, and not fooled by any change of a token."""

import os
import signal
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyvmm.token.appraise import Policy
from pyvmm.token.cbor import Tag, Value, decode, encode
from pyvmm.token.claims import PlatformKey, RealmKey
from pyvmm.token.cose import Algorithm, cose_key
from pyvmm.token.ecdsa import public_point
from pyvmm.token.generations import PLATFORM_TOKEN, REALM_TOKEN, Generation
from pyvmm.token.parse import parse
from pyvmm.token.reference import RealmValues, ReferenceValues
from pyvmm.token.report import Check, Kind, Outcome, Report
from pyvmm.token.trust import Anchor, TrustStore
from pyvmm.token.verify import verify
from tests.token.draft import CHALLENGE, RIM, Draft
from tests.token.keys import key
from tests.token.strategies import changed, values

TRUST = TrustStore((Anchor(public_point(key("cpak"))),))
POLICY = Policy(CHALLENGE, ReferenceValues(realm=RealmValues(rim=RIM)))
TOKENS = {generation: Draft.good(generation).encode() for generation in Generation}
generations = st.sampled_from(Generation)


def accepted_flips(token: bytes, trust: TrustStore) -> list[int]:
    """Return the bits that can be flipped while the token stays authentic."""
    return [
        bit for bit in range(8 * len(token)) if verify(flipped(token, bit), trust).exit_code == 0
    ]


def signed_parts(token: bytes) -> list[tuple[bytes, bytes] | None]:
    """Return what is signed in a token."""
    parts = parse(token, Report())
    signs = (parts.platform.sign1, parts.realm.sign1)
    return [(sign1.protected, sign1.payload) if sign1 is not None else None for sign1 in signs]


def flipped(token: bytes, bit: int) -> bytes:
    """Return a token with one bit changed."""
    data = bytearray(token)
    data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def test_every_flip_of_a_bit_is_refused() -> None:
    """All bits of a token of RMM 1.0, on the quickest curve; nothing but its key is expected."""
    draft = Draft.good(Generation.G1)
    for part, name in ((draft.platform, "cpak"), (draft.realm, "rak")):
        part.key, part.algorithm = key(name, Algorithm.ES256), Algorithm.ES256
    draft.realm.claims[int(RealmKey.RAK)] = cose_key(public_point(draft.realm.key))
    token, trust = draft.encode(), TrustStore((Anchor(public_point(draft.platform.key)),))
    assert verify(token, trust).exit_code == 0
    assert not accepted_flips(token, trust)


@pytest.mark.slow
@pytest.mark.parametrize("generation", Generation)
def test_every_flip_of_a_bit_is_refused_in_all_generations(generation: Generation) -> None:
    """On the curve that firmware uses."""
    assert not accepted_flips(TOKENS[generation], TRUST)


def test_every_truncation_is_refused() -> None:
    """A token that ends early, at any byte."""
    token = TOKENS[Generation.G1]
    for size in range(len(token)):
        assert verify(token[:size], TRUST).exit_code == Kind.MALFORMED


@given(st.binary(max_size=300))
@example(encode(None))
@settings(deadline=timedelta(milliseconds=500))
def test_any_bytes_are_malformed(data: bytes) -> None:
    """And raise nothing."""
    assert verify(data, TRUST, POLICY).exit_code == Kind.MALFORMED


@given(generations.flatmap(lambda g: st.tuples(st.just(TOKENS[g]), changed(TOKENS[g]))))
@settings(deadline=timedelta(milliseconds=500))
def test_no_change_is_accepted(tokens: tuple[bytes, bytes]) -> None:
    """Bytes removed, inserted or overwritten: an accepted token means the same; strict: none is."""
    good, bad = tokens
    report = verify(bad, TRUST, POLICY)
    if report.exit_code == 0 and bad != good:
        assert report.findings
        assert signed_parts(bad) == signed_parts(good)
    strict = verify(bad, TRUST, replace(POLICY, is_strict=True))
    assert (strict.exit_code == 0) == (bad == good)


def longer_heads(data: bytes) -> bytes:
    """Write the outer heads of a G1 token with as many bytes as possible."""
    value = decode(data)
    assert isinstance(value, Tag)
    entries = b"".join(
        b"\x1b" + number.to_bytes(8) + b"\x5b" + len(part).to_bytes(8) + part
        for number, part in value.value.items()
    )
    return b"\xdb" + value.tag.to_bytes(8) + b"\xbb" + (2).to_bytes(8) + entries


def test_a_token_with_the_longest_heads_is_accepted() -> None:
    """Signatures are checked over the received bytes; nothing is encoded again."""
    token = TOKENS[Generation.G1]
    report = verify(longer_heads(token), TRUST, POLICY)
    assert report.exit_code == 0
    assert [(f.check, f.kind) for f in report.findings] == [(Check.ENCODING, Kind.WARNING)]
    assert signed_parts(longer_heads(token)) == signed_parts(token)


@given(generations, st.sampled_from(PlatformKey), st.sampled_from(RealmKey), values, values)
@settings(deadline=timedelta(milliseconds=500), max_examples=50)
def test_claims_of_any_value_are_judged(
    generation: Generation, platform: PlatformKey, realm: RealmKey, one: Value, other: Value
) -> None:
    """Signed by the right keys: no value raises, and every defect is found."""
    draft = Draft.good(generation)
    before = dict(draft.realm.claims)
    draft.platform.claims[int(platform)] = one
    draft.realm.claims[int(realm)] = other
    report = verify(draft.encode(), TRUST, POLICY)
    assert report.exit_code in {0, 1, 3, 4}
    if report.exit_code == 0:
        assert draft.realm.claims[int(RealmKey.RIM)] == before[int(RealmKey.RIM)]


@given(st.dictionaries(st.sampled_from((PLATFORM_TOKEN, REALM_TOKEN, 1)), values))
def test_any_entries_are_malformed(entries: dict[int, Value]) -> None:
    """Any CBOR inside the right tag."""
    for tag in (399, 907):
        token = encode(Tag(tag, {int(key): value for key, value in entries.items()}))
        assert verify(token, TRUST).exit_code == Kind.MALFORMED


def test_parts_of_two_tokens_do_not_make_one() -> None:
    """A realm token belongs to the platform token that vouches for its key."""
    other = Draft.good(Generation.G1)
    other.realm.key = key("rak of another boot")
    point = public_point(other.realm.key)
    other.realm.claims[int(RealmKey.RAK)] = cose_key(point)
    assert verify(other.encode(), TRUST).exit_code == 0
    first, second = decode(TOKENS[Generation.G1]), decode(other.encode())
    assert isinstance(first, Tag)
    assert isinstance(second, Tag)
    entries = {**first.value, REALM_TOKEN: second.value[REALM_TOKEN]}
    report = verify(encode(Tag(399, entries)), TRUST)
    assert [f.check for f in report.findings] == [Check.BINDING]
    assert report.exit_code == Kind.NOT_AUTHENTIC


def test_a_platform_token_seen_before_gets_the_same_result() -> None:
    """Good and bad, by the right key and by another."""
    bad = Draft.good(Generation.G2)
    bad.platform.key = key("mallory")
    other = TrustStore((Anchor(public_point(key("mallory"))),))
    for trust, codes in ((TRUST, (0, 1)), (other, (1, 0))):
        for token, code in zip((TOKENS[Generation.G2], bad.encode()), codes, strict=True):
            assert [verify(token, trust).exit_code for _ in range(3)] == [code] * 3


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_server_that_forks_can_still_verify() -> None:
    """The thread that checks one of the signatures stays with the parent."""
    assert verify(TOKENS[Generation.G1], TRUST).exit_code == 0
    child = os.fork()
    if not child:
        signal.alarm(10)
        os._exit(verify(TOKENS[Generation.G1], TRUST).exit_code)
    assert os.waitpid(child, 0) == (child, 0)


def test_findings_come_in_the_order_of_the_checks() -> None:
    """Whatever was checked first."""
    bad = Draft.good(Generation.G1)
    bad.realm.key = bad.platform.key = key("mallory")
    bad.realm.claims[int(RealmKey.RIM)] = b"short"
    report = verify(bad.encode(), TRUST, Policy(challenge=bytes(64)))
    assert list(dict.fromkeys(finding.check for finding in report.findings)) == [
        Check.CLAIMS,
        Check.PLATFORM_SIGNATURE,
        Check.REALM_SIGNATURE,
        Check.CHALLENGE,
    ]


def test_a_skipped_check_is_not_a_success() -> None:
    """An empty report is not authentic."""
    report = Report()
    assert not report.is_authentic
    assert report.exit_code == Kind.NOT_AUTHENTIC
    for check in Check:
        report.passed(check)
    assert report.exit_code == 0
    report.outcomes[Check.BINDING] = Outcome.SKIPPED
    assert report.exit_code == Kind.NOT_AUTHENTIC
