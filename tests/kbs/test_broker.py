"""The broker's decisions, on tokens made here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pyvmm.arch.errors import UserError
from pyvmm.kbs.broker import MAX_SESSIONS, Broker, Settings
from pyvmm.kbs.library import MAX_SECRET, Library
from pyvmm.kbs.messages import Refused
from pyvmm.scripting.verification import trust_for
from pyvmm.token.claims import PlatformKey
from tests.kbs.realm import (
    NAME,
    REQUEST,
    SECRET,
    Json,
    Realm,
    make_library,
    public_jwk,
    reference,
)
from tests.token.keys import key

NAMES = ("default", "key", "signing")
P = ParamSpec("P")


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def broker_of(root: Path, clock: Clock | None = None) -> Broker:
    """Return the broker of a library."""
    library = Library.load(root)
    trust = {rule: trust_for(None, (), rule.values) for rule in library.rules}
    signer = ec.generate_private_key(ec.SECP256R1())
    return Broker(library, Settings(trust, signer, "1", clock=clock or Clock()))


@pytest.fixture
def clock() -> Clock:
    """Return the broker's clock."""
    return Clock()


@pytest.fixture
def broker(tmp_path: Path, clock: Clock) -> Broker:
    """Return a broker with one secret."""
    return broker_of(make_library(tmp_path), clock)


def challenged(broker: Broker) -> tuple[str, str]:
    """Return a new session and its nonce."""
    session, challenge = broker.challenge(REQUEST)
    return session, str(challenge["nonce"])


def attested(broker: Broker, realm: Realm) -> tuple[str, str]:
    """Attest a realm; return its session and the result."""
    session, nonce = challenged(broker)
    return session, broker.attest(session, realm.answer(nonce))


def refusal(action: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> tuple[int, str]:
    """Return the status and the text of a refusal, which is one line."""
    with pytest.raises(Refused) as raised:
        action(*args, **kwargs)
    assert "\n" not in str(raised.value)
    return raised.value.status, str(raised.value)


@pytest.mark.parametrize("wrapped", [False, True])
def test_expected_realm_gets_the_secret(broker: Broker, *, wrapped: bool) -> None:
    """Only its key reads the response, by cookie or by bearer token."""
    realm = Realm()
    session, nonce = challenged(broker)
    result = broker.attest(session, realm.answer(nonce, wrapped=wrapped))
    for secret in (broker.resource(session, None, NAMES), broker.resource(None, result, NAMES)):
        assert realm.read(secret) == SECRET
        with pytest.raises(Exception, match=r"(?i)decrypt|unwrap|key|integrity"):
            Realm().read(secret)


def test_result_is_an_ear_that_expires(broker: Broker, clock: Clock) -> None:
    """A relying party can see what was verified, for which key, and until when."""
    realm = Realm()
    claims = jwt.decode(attested(broker, realm)[1], options={"verify_signature": False})
    assert claims["ear_status"] == "affirming"
    assert claims["exp"] == int(clock.now) + 300
    assert claims["kbs"] == {
        "repositories": ["default"],
        "tee_pubkey": public_jwk(realm.private),
    }


def test_any_rule_of_a_repository_suffices(tmp_path: Path) -> None:
    """While a new release replaces an old one, both get the secret."""
    rules = {"new": reference(b"n" * 32), "old": reference()}
    broker, realm = broker_of(make_library(tmp_path, rules)), Realm()
    session, _ = attested(broker, realm)
    assert realm.read(broker.resource(session, None, NAMES)) == SECRET


def test_realm_gets_no_secret_of_another_repository(tmp_path: Path) -> None:
    """Whether it exists or not."""
    root = make_library(tmp_path)
    (root / "policy/other").mkdir()
    (root / "policy/other/other.json").write_text(json.dumps(reference(b"o" * 32)))
    broker = broker_of(root)
    session, _ = attested(broker, Realm())
    for repository in ("other", "unknown", "..", ""):
        wanted = (repository, "key", "signing")
        status, why = refusal(broker.resource, session, None, wanted)
        assert (status, "may not have secrets" in why) == (403, True)


def spoilt(change: Callable[[Realm], None]) -> Realm:
    """Return a realm whose token is changed before it is signed."""
    realm = Realm()
    change(realm)
    return realm


def debug_platform(realm: Realm) -> None:
    """Put the platform into a debug state."""
    realm.token.platform.claims[int(PlatformKey.LIFECYCLE)] = 0x4003


def other_firmware(realm: Realm) -> None:
    """Replace the RMM."""
    components = realm.token.platform.claims[int(PlatformKey.SW_COMPONENTS)]
    assert isinstance(components, list)
    assert isinstance(components[2], dict)
    components[2][2] = b"Q" * 32


def other_platform(realm: Realm) -> None:
    """Sign with a key that no platform has."""
    realm.token.platform.key = key("impostor")


def unsigned_claims(realm: Realm) -> None:
    """Change the realm's claims after they were signed."""
    realm.token.realm.after = lambda payload: payload.replace(b"r" * 32, b"s" * 32)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (debug_platform, "expected 0x30xx (secured), found 0x4003"),
        (other_firmware, "default/web.json: platform.cca-platform-sw-components[2]"),
        (other_platform, "platform.signature: expected a signature by the key"),
        (unsigned_claims, "realm.signature: expected a signature by the key"),
    ],
)
def test_other_platforms_are_refused(
    broker: Broker, change: Callable[[Realm], None], reason: str
) -> None:
    """The reason says what was expected and what was found; there is no grant."""
    session, nonce = challenged(broker)
    realm = spoilt(change)
    status, why = refusal(broker.attest, session, realm.answer(nonce))
    assert status == 401
    assert reason in why
    assert "is not attested" in refusal(broker.resource, session, None, NAMES)[1]


def test_other_realm_is_refused(tmp_path: Path) -> None:
    """Its platform is genuine, its measurement is another."""
    broker = broker_of(make_library(tmp_path, {"a": reference(b"a" * 32)}))
    session, nonce = challenged(broker)
    status, why = refusal(broker.attest, session, Realm().answer(nonce))
    assert status == 401
    assert "default/a.json: realm.cca-realm-initial-measurement: expected 6161" in why


def test_token_of_another_session_is_refused(broker: Broker) -> None:
    """A token is the answer to one nonce and one key, wherever the old one comes from."""
    _, old = challenged(broker)
    realm, (session, nonce) = Realm(), challenged(broker)
    status, why = refusal(broker.attest, session, realm.answer(nonce, bound=old))
    assert (status, "realm.cca-realm-challenge: expected" in why) == (401, True)

    session, nonce = challenged(broker)
    why = refusal(broker.attest, session, realm.answer(old))[1]
    assert "runtime-data.nonce is not this session's" in why

    session, nonce = challenged(broker)
    answer = json.loads(realm.answer(nonce))
    answer["runtime-data"]["tee-pubkey"] = public_jwk(Realm().private)  # the host's
    why = refusal(broker.attest, session, json.dumps(answer).encode())[1]
    assert "realm.cca-realm-challenge: expected" in why


def test_challenge_has_one_answer(broker: Broker) -> None:
    """The same answer again is a replay, and so is one after a wrong answer."""
    session, nonce = challenged(broker)
    answer = Realm().answer(nonce)
    broker.attest(session, answer)
    again = (401, "the challenge was answered already: start a new session")
    assert refusal(broker.attest, session, answer) == again
    session, nonce = challenged(broker)
    refusal(broker.attest, session, answer)
    assert refusal(broker.attest, session, Realm().answer(nonce)) == again


def test_sessions_and_results_expire(broker: Broker, clock: Clock) -> None:
    """After their time, neither a challenge nor a grant is worth anything."""
    session, result = attested(broker, Realm())
    late, nonce = challenged(broker)
    clock.now += 300
    gone = (401, "no such session, or it has expired: POST auth first")
    assert refusal(broker.resource, session, None, NAMES) == gone
    assert refusal(broker.attest, late, Realm().answer(nonce)) == gone
    expired = (401, "the bearer token has expired: POST auth first")
    assert refusal(broker.resource, None, result, NAMES) == expired


def test_sessions_are_limited(broker: Broker, clock: Clock) -> None:
    """A flood of requests does not fill the memory; it ends when the sessions expire."""
    for _ in range(MAX_SESSIONS):
        broker.challenge(REQUEST)
    assert refusal(broker.challenge, REQUEST)[0] == 503
    clock.now += 300
    broker.challenge(REQUEST)


def test_bearer_token_of_others_is_refused(broker: Broker) -> None:
    """Signed by another key, or by none."""
    claims: Json = {"exp": 2_000_000, "kbs": {"repositories": ["default"], "tee_pubkey": {}}}
    other = ec.generate_private_key(ec.SECP256R1())
    forged = [jwt.encode(claims, other, "ES256"), jwt.encode(claims, "", "none"), "x", ""]
    for bearer in forged:
        status, why = refusal(broker.resource, None, bearer, NAMES)
        assert (status, why) == (401, "the bearer token is not ours: POST auth first")


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "the body is not JSON"),
        (b"[" * 100_000, 400, "the body is not JSON: nested too deeply"),
        (b'{"tee":"cca","tee":"sample","version":"0.4.0"}', 400, "duplicate member 'tee'"),
        (b'{"tee":"cca"}', 400, "missing required field `version`"),
        (b'{"tee":1,"version":"0.4.0"}', 400, "Expected `str`, got `int` - at `$.tee`"),
        (b'{"tee":"sample","version":"0.4.0"}', 401, "tee 'sample': only 'cca' is supported"),
        (b'{"tee":"cca","version":"9.0.0"}', 401, "protocol version '9.0.0': use 0.2.x, 0.3.x"),
    ],
)
def test_bad_request_is_refused(broker: Broker, body: bytes, status: int, reason: str) -> None:
    """In one line."""
    found, why = refusal(broker.challenge, body)
    assert (found, reason in why) == (status, True), why


@pytest.mark.parametrize(
    ("member", "value", "reason"),
    [
        ("tee-evidence", {"token": [256]}, "bytes must be in range(0, 256)"),
        ("tee-evidence", {"token": "AA"}, "Expected `array`, got `str`"),
        ("tee-evidence", {"token": []}, "token: "),
        ("tee-evidence", {}, "missing required field `token`"),
        ("tee-pubkey", {"kty": "RSA", "alg": "RSA-OAEP-256"}, "tee-pubkey is not a JWK on P-256"),
        ("x", "AAAA", "x is not 32 bytes"),
        ("x", "A" * 43, "tee-pubkey is not a public key"),  # not on the curve
        ("d", "AAAA", "not a public JWK"),
    ],
)
def test_bad_answer_is_refused(broker: Broker, member: str, value: object, reason: str) -> None:
    """In one line, and the challenge is spent."""
    session, nonce = challenged(broker)
    answer = json.loads(Realm().answer(nonce))
    if member == "tee-evidence":
        answer[member] = value
    elif member == "tee-pubkey":
        answer["runtime-data"][member] = value
    else:
        answer["runtime-data"]["tee-pubkey"][member] = value
    status, why = refusal(broker.attest, session, json.dumps(answer).encode())
    assert status in {400, 401}
    assert reason in why


def test_missing_and_unreadable_secrets(broker: Broker, tmp_path: Path) -> None:
    """404 for a secret that is not there, 500 for one that cannot be read; no path leaks."""
    session, _ = attested(broker, Realm())
    for names in (("default", "key", "x"), ("default", "..", "web"), ("default", "key", ".")):
        assert refusal(broker.resource, session, None, names)[0] == 404
    (tmp_path / "resource" / NAME).write_bytes(bytes(MAX_SECRET + 1))
    status, why = refusal(broker.resource, session, None, NAMES)
    assert (status, str(tmp_path) in why) == (500, False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda root: (root / "resource").chmod(0o755), "other users may enter"),
        (lambda root: (root / "resource/lonely").mkdir(), "no realm may have"),
        (lambda root: (root / "policy/default/web.json").write_text("{"), "is not JSON"),
        (
            lambda root: (root / "policy/default/web.json").write_text('{"version":1}'),
            "has no RIM, so any realm would get the secrets",
        ),
        (lambda root: (root / "policy").rename(root / "p"), "policy is not a directory"),
    ],
)
def test_library_that_protects_nothing_is_refused(
    tmp_path: Path, change: Callable[[Path], object], reason: str
) -> None:
    """When the broker starts."""
    root = make_library(tmp_path)
    change(root)
    with pytest.raises(UserError, match=reason):
        Library.load(root)
