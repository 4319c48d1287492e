"""What reads a stranger's token, and a user's keys and reference values."""

from __future__ import annotations

import json
from base64 import b64decode
from contextlib import suppress
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pyvmm.arch.errors import UserError
from pyvmm.token.appraise import Policy
from pyvmm.token.cbor import Malformed, decode, encode, ignore
from pyvmm.token.claimset import platform_json, platform_payload, realm_json, realm_payload
from pyvmm.token.cose import Sign1
from pyvmm.token.diag import diagnose
from pyvmm.token.ear import ear
from pyvmm.token.ecdsa import public_point
from pyvmm.token.generations import Generation
from pyvmm.token.intake import token_bytes
from pyvmm.token.keys import load_private_key, load_public_key
from pyvmm.token.parse import parse
from pyvmm.token.reference import ReferenceValues
from pyvmm.token.report import Kind, Report
from pyvmm.token.trust import Anchor, TrustStore
from pyvmm.token.verify import verify
from tests.token.keys import key
from tests.token.vectors.make import HERE

TRUST: Final = TrustStore((Anchor(public_point(key("cpak"))),))
POLICY: Final = Policy()


def token_seeds() -> list[bytes]:
    """Return the tokens of the test vectors."""
    return [
        b64decode(vector["token"])
        for generation in Generation
        for vector in json.loads((HERE / f"{generation}.json").read_bytes())
    ]


def signed(data: bytes) -> set[Sign1]:
    """Return the parts of a token, as they are signed."""
    parts = parse(data, Report())
    return {part.sign1 for part in (parts.platform, parts.realm) if part.sign1 is not None}


SEEDS: Final = frozenset(token_seeds())
SIGNED: Final = frozenset().union(*map(signed, SEEDS))  # all that there are signatures for


def token(data: bytes) -> None:
    """Read a token: only Malformed is raised, and only what was signed verifies."""
    with suppress(Malformed):
        data = token_bytes(data)
    with suppress(Malformed):
        assert encode(decode(data)) == data
    with suppress(Malformed):
        strict = encode(decode(data, tolerate=ignore))
        assert len(strict) <= len(data)
        assert encode(decode(strict)) == strict
        assert diagnose(data)
    report = verify(data, TRUST, POLICY)
    if report.exit_code == 0:
        assert signed(data) <= SIGNED
        assert data in SEEDS or Kind.WARNING in report.kinds()
    assert ear(report, POLICY, now=0, build="")
    if report.platform is not None:
        assert encode(platform_payload(platform_json(report.platform))) == encode(report.platform)
    if report.realm is not None:
        assert encode(realm_payload(realm_json(report.realm))) == encode(report.realm)


def user_file(data: bytes) -> None:
    """Read a key file and reference values: each is taken, or refused in one line."""
    for read in (load_public_key, load_private_key, ReferenceValues.parse):
        text = "FILE"
        try:
            read(data, "FILE")
        except UserError as error:
            text = str(error)
        assert text.startswith("FILE")
        assert "\n" not in text


def user_file_seeds() -> list[bytes]:
    """Return the keys and the reference values of the test vectors, and a private key."""
    names = ("cpak.pem", "cpak.der", "cpak.jwk", "cpak-es512.pem", "reference.json")
    private = key("cpak").private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return [private, *((HERE / name).read_bytes() for name in names)]
