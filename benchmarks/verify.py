"""The time to verify a token, for a service that verifies one token after the other."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from os import urandom

from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.result import Result
from pyvmm.token.appraise import Policy
from pyvmm.token.cose import Algorithm, Sign1, protected, sig_structure
from pyvmm.token.ecdsa import public_point, sign
from pyvmm.token.generations import Generation
from pyvmm.token.make import (
    PlatformClaims,
    RealmClaims,
    SwComponent,
    binding,
    cca_token,
    platform_payload,
    realm_payload,
)
from pyvmm.token.reference import ComponentValues, PlatformValues, RealmValues, ReferenceValues
from pyvmm.token.trust import Anchor, TrustStore
from pyvmm.token.verify import verify

ROUNDS = 300  # the fastest counts
PARTS = tuple(
    SwComponent(bytes([number]) * 32, b"s" * 32, f"PART_{number}", "1.0") for number in range(8)
)
RIM = b"r" * 32


def signed(key: ec.EllipticCurvePrivateKey, payload: bytes) -> bytes:
    """Return a part of a token, signed."""
    header = protected(Algorithm.ES384)
    signature = sign(key, Algorithm.ES384, sig_structure(header, payload))
    return Sign1(header, payload, signature).encode()


class Platform:
    """A machine's keys from one power cycle, and its platform token."""

    def __init__(self, cpak: ec.EllipticCurvePrivateKey) -> None:
        self.rak = ec.generate_private_key(ec.SECP384R1())
        challenge = binding(public_point(self.rak), Generation.G1)
        ids = (bytes(32), b"\x01" + bytes(32))
        claims = PlatformClaims(challenge, *ids, b"config", 0x3000, PARTS)
        self.token = signed(cpak, platform_payload(claims, Generation.G1))

    def cca_token(self, challenge: bytes) -> bytes:
        """Return a realm's token of RMM 1.0."""
        rak, rems = public_point(self.rak), (bytes(32),) * 4
        claims = RealmClaims(challenge, bytes(64), "sha-256", rak, RIM, rems)
        realm = signed(self.rak, realm_payload(claims, Generation.G1))
        return cca_token(self.token, realm, Generation.G1)


def verification() -> Iterator[Result]:
    """Verification of a token: signatures, claims, eight software components."""
    cpak = ec.generate_private_key(ec.SECP384R1())
    trust = TrustStore((Anchor(public_point(cpak)),))
    components = tuple(ComponentValues(p.measurement, p.signer_id, p.sw_type) for p in PARTS)
    reference = ReferenceValues(PlatformValues(components=components), RealmValues(RIM))

    def fastest(platforms: Iterable[Platform]) -> float:
        """Return the least time, in microseconds, for a new token of each platform."""
        times = []
        for platform in platforms:
            challenge = urandom(64)
            data = platform.cca_token(challenge)
            start = time.perf_counter()
            report = verify(data, trust, Policy(challenge, reference))
            times.append(time.perf_counter() - start)
            assert report.exit_code == 0
        return min(times) * 1e6

    known = Platform(cpak)
    yield Result("verify", fastest(known for _ in range(ROUNDS)), "µs", goal=1000)
    new = fastest(Platform(cpak) for _ in range(ROUNDS))
    yield Result("verify, platform's first", new, "µs", goal=1000)
