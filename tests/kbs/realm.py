"""What a realm and its owner do with a key broker; JWEs are read by joserfc."""

import json
from dataclasses import dataclass, field
from hashlib import sha384
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwe
from joserfc.jwk import ECKey

from pyvmm.token.claims import PlatformKey, RealmKey
from pyvmm.token.generations import Generation
from tests.token.draft import COMPONENTS, RIM, Draft
from tests.token.keys import key

SECRET = b"the secret \0\xff\n" * 5
NAME = "default/key/signing"
REQUEST = b'{"version":"0.4.0","tee":"cca","extra-params":{}}'

Json = dict[str, object]


def reference(rim: bytes = RIM) -> Json:
    """Return the reference values of the drafts' platform and of a realm."""
    pem = key("cpak").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    platform = Draft.good(Generation.G1).platform.claims
    components = [
        {
            "measurement-type": part.sw_type,
            "measurement-value": part.measurement.hex(),
            "signer-id": part.signer_id.hex(),
        }
        for part in COMPONENTS
    ]
    ids = {
        "implementation-id": PlatformKey.IMPLEMENTATION_ID,
        "instance-id": PlatformKey.INSTANCE_ID,
    }
    values = {name: platform[int(claim)] for name, claim in ids.items()}
    texts = {name: value.hex() for name, value in values.items() if isinstance(value, bytes)}
    about = {**texts, "cpak": pem.decode(), "sw-components": components}
    return {"version": 1, "platform": about, "realm": {"rim": rim.hex()}}


def make_library(root: Path, rules: dict[str, Json] | None = None) -> Path:
    """Make a directory with one secret and the rules for its repository."""
    secret = root / "resource" / NAME
    secret.parent.mkdir(parents=True)
    (root / "resource").chmod(0o700)
    secret.write_bytes(SECRET)
    policy = root / "policy/default"
    policy.mkdir(parents=True)
    for name, values in ({"web": reference()} if rules is None else rules).items():
        (policy / f"{name}.json").write_text(json.dumps(values))
    return root


def public_jwk(private: ECKey) -> dict[str, str]:
    """Return the public key as a client sends it."""
    members = private.as_dict(private=False)
    names = ("crv", "kty", "x", "y")
    return {name: str(members[name]) for name in names} | {"alg": "ECDH-ES+A256KW"}


def canonical(value: object) -> bytes:
    """Return JSON with sorted members and without spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@dataclass
class Realm:
    """A realm with an ephemeral key; ``token`` is a draft that tests may spoil."""

    private: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256"))
    token: Draft = field(default_factory=lambda: Draft.good(Generation.G1))

    def answer(self, nonce: str, *, bound: str | None = None, wrapped: bool = False) -> bytes:
        """Return the answer to a challenge; ``bound`` is the nonce in the token."""
        jwk = public_jwk(self.private)
        data = canonical({"nonce": bound if bound is not None else nonce, "tee-pubkey": jwk})
        self.token.realm.claims[int(RealmKey.CHALLENGE)] = sha384(data).digest().ljust(64, b"\0")
        evidence: Json = {"token": list(self.token.encode())}
        if wrapped:
            evidence = {"primary_evidence": evidence, "additional_evidence": ""}
        runtime = {"tee-pubkey": jwk, "nonce": nonce}
        return json.dumps({"runtime-data": runtime, "tee-evidence": evidence}).encode()

    def read(self, secret: object) -> bytes:
        """Decrypt a response."""
        algorithms = ["ECDH-ES+A256KW", "A256GCM"]
        plain = jwe.decrypt_json(secret, self.private, algorithms).plaintext  # type: ignore[arg-type]
        assert plain is not None
        return plain
