"""What reads a stranger's token: intake, CBOR, verifier, diagnostic notation, JSON."""

from __future__ import annotations

import json
from base64 import b64decode
from contextlib import suppress
from typing import Final

from pyvmm.token.appraise import Policy
from pyvmm.token.cbor import Malformed, decode, encode
from pyvmm.token.claimset import platform_json, platform_payload, realm_json, realm_payload
from pyvmm.token.diag import diagnose
from pyvmm.token.ear import ear
from pyvmm.token.ecdsa import public_point
from pyvmm.token.generations import Generation
from pyvmm.token.intake import token_bytes
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


SIGNED: Final = frozenset(token_seeds())  # the only tokens that there are signatures for


def token(data: bytes) -> None:
    """Read a token: only Malformed is raised, and only what was signed verifies."""
    with suppress(Malformed):
        data = token_bytes(data)
    with suppress(Malformed):
        assert encode(decode(data)) == data
        assert diagnose(data)
    report = verify(data, TRUST, POLICY)
    assert report.exit_code != 0 or data in SIGNED
    assert ear(report, POLICY, now=0, build="")
    if report.platform is not None:
        assert encode(platform_payload(platform_json(report.platform))) == encode(report.platform)
    if report.realm is not None:
        assert encode(realm_payload(realm_json(report.realm))) == encode(report.realm)
