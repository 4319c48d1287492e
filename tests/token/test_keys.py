"""Key files, reference values and the trust store: what they accept, and one line otherwise."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pyvmm.arch.errors import UserError
from pyvmm.token.cose import Algorithm
from pyvmm.token.ecdsa import public_point
from pyvmm.token.keys import instance_id_of, load_private_key, load_public_key
from pyvmm.token.reference import ReferenceValues
from pyvmm.token.trust import HES_KEY, Anchor, TrustStore, anchor_of, hes_anchors
from tests.token.draft import COMPONENTS, CONFIG, IMPLEMENTATION_ID, INSTANCE_ID, REMS, RIM
from tests.token.keys import key
from tests.token.vectors.make import HERE

SCHEMA = Draft202012Validator(
    json.loads((Path(__file__).parents[2] / "docs/reference-values.schema.json").read_text())
)
CPAK = key("cpak")
POINT = public_point(CPAK)
PEM = CPAK.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private(
    encoding: Encoding = Encoding.PEM,
    form: PrivateFormat = PrivateFormat.PKCS8,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    """Return the private key as the content of a file."""
    return CPAK.private_bytes(encoding, form, encryption or NoEncryption())


def jwk(**members: object) -> bytes:
    """Return the key as a JWK with other members."""
    x, y = (urlsafe_b64encode(c).decode().rstrip("=") for c in (POINT[1:49], POINT[49:]))
    return json.dumps({"kty": "EC", "crv": "P-384", "x": x, "y": y} | members).encode()


# --- key files --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cpak.pem", "cpak.der", "cpak.jwk"])
def test_public_key_is_taken_in_each_form(name: str) -> None:
    """PEM, DER and JWK."""
    assert load_public_key((HERE / name).read_bytes(), name) == POINT


@pytest.mark.parametrize("alg", Algorithm)
def test_public_key_is_taken_on_each_curve(alg: Algorithm) -> None:
    """P-256, P-384 and P-521."""
    public = key("someone", alg).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert Algorithm.of_public(load_public_key(pem, "key")) is alg


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (
            b"",
            "is not a public key on P-256, P-384 or P-521: neither PEM, DER nor JWK, or damaged$",
        ),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "is not a public key"),
        (private(), "is a private key: give the public one"),
        (private(form=PrivateFormat.TraditionalOpenSSL), "is a private key"),
        (private(Encoding.DER), "is not a public key"),
        (b"{}", "is not a public key on .*: its member 'kty' is missing$"),
        (b"[" * 100_000, "is not a public key"),
        (b'{"a":' * 100_000, "is not a public key"),
        (jwk(d="AA"), "not a public JWK"),
        (jwk(kty="RSA"), "not a public JWK"),
        (jwk(crv="secp256k1"), "a key on secp256k1, which is not supported"),
        (jwk().replace(b"{", b'{"crv": "P-256", '), "duplicate member 'crv'"),
        (jwk(x="AAAA"), "x is not 48 bytes"),
        (jwk(x=5), "is not a public key"),
        (jwk(y=urlsafe_b64encode(bytes(48)).decode()), "is not a public key"),
    ],
)
def test_other_data_than_a_public_key_is_one_line(data: bytes, what: str) -> None:
    """With the file's name."""
    with pytest.raises(UserError, match=what) as error:
        load_public_key(data, "FILE")
    assert str(error.value).startswith("FILE")
    assert "\n" not in str(error.value)


def test_rsa_key_is_refused() -> None:
    """Also one that is well formed."""
    rsa = generate_private_key(65537, 2048).public_key()
    pem = rsa.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(UserError, match="not an elliptic curve key"):
        load_public_key(pem, "FILE")


#: Unsupported curves; the first three have keys of the same sizes as the supported ones.
FOREIGN = (ec.SECP256K1(), ec.BrainpoolP256R1(), ec.BrainpoolP384R1(), ec.BrainpoolP512R1())


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
@pytest.mark.parametrize("curve", FOREIGN, ids=lambda curve: curve.name)
def test_key_on_a_foreign_curve_is_refused(curve: ec.EllipticCurve, encoding: Encoding) -> None:
    """Because of its curve: its size would be valid."""
    foreign = ec.generate_private_key(curve)
    private_key = foreign.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(UserError, match=f"FILE is not a private key on P-256.*{curve.name}"):
        load_private_key(private_key, "FILE")
    public_key = foreign.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(UserError, match=f"FILE is not a public key on P-256.*{curve.name}"):
        load_public_key(public_key, "FILE")


def test_key_on_a_foreign_curve_is_refused_in_other_files(tmp_path: Path) -> None:
    """In a trust store and in reference values."""
    foreign = ec.generate_private_key(ec.BrainpoolP384R1()).public_key()
    pem = foreign.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    root = json.dumps(changed("platform.cpak", pem.decode())).encode()
    with pytest.raises(UserError, match=r"FILE: platform: cpak is not a public key.*brainpool"):
        ReferenceValues.parse(root, "FILE")
    (tmp_path / "foreign.pem").write_bytes(pem)
    with pytest.raises(UserError, match=r"foreign\.pem is not a public key.*brainpool"):
        TrustStore.load([tmp_path])


@pytest.mark.parametrize("load", [load_public_key, load_private_key])
@given(data=st.binary(max_size=100))
def test_any_bytes_are_no_key(load: Callable[[bytes, str], object], data: bytes) -> None:
    """And raise nothing else."""
    with pytest.raises(UserError):
        load(data, "FILE")


def test_private_key_is_taken_in_each_form() -> None:
    """PEM and DER of both kinds, and JWK."""
    scalar = CPAK.private_numbers().private_value.to_bytes(48, "big")
    forms = [
        private(),
        private(Encoding.DER),
        private(form=PrivateFormat.TraditionalOpenSSL),
        jwk(d=urlsafe_b64encode(scalar).decode()),
    ]
    for form in forms:
        assert public_point(load_private_key(form, "key")) == POINT


def test_private_key_with_a_duplicate_member_is_refused() -> None:
    """Because it is ambiguous."""
    twice = jwk(d="AA").replace(b"{", b'{"d": "AQ", ')
    with pytest.raises(UserError, match=r"is not a private key.*duplicate member 'd'"):
        load_private_key(twice, "FILE")


def test_encrypted_private_key_is_refused() -> None:
    """There is no prompt for a password."""
    with pytest.raises(UserError, match=r"is not a private key.* is encrypted"):
        load_private_key(private(encryption=BestAvailableEncryption(b"secret")), "FILE")


# --- reference values -------------------------------------------------------------------------

REFERENCE = json.loads((HERE / "reference.json").read_text())


def changed(path: str, value: object) -> dict[str, object]:
    """Return the reference values with a member set."""
    root: dict[str, object] = json.loads(json.dumps(REFERENCE))
    *parents, last = path.split(".")
    target = root
    for name in parents:
        inner = target[name]
        assert isinstance(inner, dict)
        target = inner
    target[last] = value
    return root


def test_reference_values_say_what_the_file_says() -> None:
    """All values are read, and the schema agrees."""
    values = ReferenceValues.parse(
        json.dumps(REFERENCE | changed("platform.cpak", PEM.decode())).encode(), "FILE"
    )
    platform, realm = values.platform, values.realm
    assert platform.implementation_id == IMPLEMENTATION_ID
    assert platform.instance_id == INSTANCE_ID
    assert platform.config == CONFIG
    assert platform.cpak == POINT
    found = [(c.sw_type, c.measurement, c.signer_id) for c in platform.components]
    assert found == [(c.sw_type, c.measurement, c.signer_id) for c in COMPONENTS]
    assert realm.rim == RIM
    assert realm.rems == (REMS[0], REMS[1], None, None)
    SCHEMA.validate(changed("platform.cpak", PEM.decode()))


@pytest.mark.parametrize("root", [{"version": 1}, {"version": 1, "realm": {}}])
def test_missing_values_are_not_expected(root: dict[str, object]) -> None:
    """Every part may be left out."""
    assert ReferenceValues.parse(json.dumps(root).encode(), "FILE") == ReferenceValues()
    SCHEMA.validate(root)


@pytest.mark.parametrize(
    "root",
    [
        [],
        {},
        changed("version", 2),
        changed("version", True),
        changed("version", "1"),
        changed("misspelt", {}),
        changed("platform", []),
        changed("platform.implementation-id", "00" * 31),
        changed("platform.implementation-id", "xy" * 32),
        changed("platform.implementation-id", 7),
        changed("platform.instance-id", "00" * 32),
        changed("platform.config", ""),
        changed("platform.cofnig", "00"),
        changed("platform.cpak", 1),
        changed("platform.sw-components", {}),
        changed("platform.sw-components", [{"measurement-value": "00" * 32}]),
        changed(
            "platform.sw-components", [{"measurement-value": "00" * 20, "signer-id": "00" * 32}]
        ),
        changed("realm.rim", "00" * 20),
        changed("realm.rems", ["00" * 32] * 3),
        changed("realm.rems", [1] * 4),
        changed("realm.rpv", "00"),
        changed("realm.rem", []),
    ],
)
def test_other_reference_values_are_one_line(root: object) -> None:
    """The schema rejects what the reader rejects."""
    with pytest.raises(UserError) as error:
        ReferenceValues.parse(json.dumps(root).encode(), "FILE")
    assert str(error.value).startswith("FILE")
    assert "\n" not in str(error.value)
    assert not SCHEMA.is_valid(root)


@pytest.mark.parametrize(
    "text",
    [
        '{"version": 1, "version": 1}',
        '{"version": 1, "realm": {"rim": "%s", "rim": "%s"}}' % ("00" * 32, "11" * 32),  # noqa: UP031
        '{"version": 1, "platform": {"sw-components": [{"signer-id": "", "signer-id": ""}]}}',
    ],
)
def test_a_duplicate_member_is_one_line(text: str) -> None:
    """Readers differ in which of the two they use."""
    with pytest.raises(UserError, match=r"^FILE is not JSON: duplicate member '.*'$"):
        ReferenceValues.parse(text.encode(), "FILE")


@given(st.binary(max_size=60))
def test_any_bytes_are_no_reference_values(data: bytes) -> None:
    """And raise nothing else."""
    with pytest.raises(UserError):
        ReferenceValues.parse(data, "FILE")


# --- trust store ------------------------------------------------------------------------------


def test_a_key_signs_for_the_instance_of_its_hash(tmp_path: Path) -> None:
    """And for no other; files of other kinds are ignored."""
    (tmp_path / "one.pem").write_bytes(PEM)
    (tmp_path / "README").write_text("keys")
    store = TrustStore.load([tmp_path])
    assert store.find(bytes(32), instance_id_of(POINT)) == Anchor(
        POINT, instance_id=instance_id_of(POINT)
    )
    assert store.find(bytes(32), INSTANCE_ID) is None


def test_reference_values_with_a_key_are_an_anchor(tmp_path: Path) -> None:
    """For the implementation and the instance that they name."""
    (tmp_path / "platform.json").write_text(json.dumps(changed("platform.cpak", PEM.decode())))
    (tmp_path / "keyless.json").write_text(json.dumps(REFERENCE))
    store = TrustStore.load([tmp_path])
    assert len(store.anchors) == 1
    assert store.find(IMPLEMENTATION_ID, INSTANCE_ID) is not None
    assert store.find(bytes(32), INSTANCE_ID) is None
    assert store.find(IMPLEMENTATION_ID, instance_id_of(POINT)) is None


def test_reference_values_without_an_instance_sign_for_their_key_s() -> None:
    """As a bare key does."""
    root = json.dumps({"version": 1, "platform": {"cpak": PEM.decode()}}).encode()
    assert anchor_of(ReferenceValues.parse(root, "FILE")) == Anchor(
        POINT, None, instance_id_of(POINT)
    )


def test_a_bad_key_in_the_store_is_named(tmp_path: Path) -> None:
    """Ignoring it would leave the user wondering why the key is not found."""
    (tmp_path / "broken.pem").write_text("nothing")
    with pytest.raises(UserError, match=r"broken\.pem is not a public key"):
        TrustStore.load([tmp_path])


def test_hes_anchors_are_its_keys(tmp_path: Path) -> None:
    """That of the directory, and those of its subdirectories; no other file is read."""
    assert hes_anchors(tmp_path / "absent") == TrustStore()
    for name in ("", "one"):
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        (directory / HES_KEY).write_bytes(PEM)
        (directory / "otp.json").write_text("state")
    assert [anchor.public for anchor in hes_anchors(tmp_path).anchors] == [POINT, POINT]
