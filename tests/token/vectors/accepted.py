"""Tokens that a verifier accepts."""

from collections.abc import Callable

from pyvmm.token.cbor import decode, encode
from pyvmm.token.claims import PlatformKey as P
from pyvmm.token.claims import RealmKey as R
from pyvmm.token.cose import Algorithm, cose_key
from pyvmm.token.ecdsa import public_point
from pyvmm.token.generations import REALM_TOKEN
from tests.token.draft import REMS, RIM, RPV, Draft, Map
from tests.token.keys import key
from tests.token.vectors.cases import (
    ALL,
    CPAK,
    EXPECTED,
    G0,
    G1,
    G1B,
    G2,
    G2B,
    PARTS,
    Case,
    both,
    component,
    longer_head,
    no_platform_claim,
    nothing,
    platform,
    platform_claim,
    realm,
    realm_claim,
    whole,
)

DIGEST = bytes(range(32))
DEVICE: Map = {1: "sha-256", 2: DIGEST, 3: DIGEST, 4: True, 5: "spdm-1.2.3", 6: DIGEST}
CXL: Map = {2: DIGEST, 3: DIGEST, 4: False, 5: "pcie", 7: "cxl-type-3", 8: 1}
ROTPK: Map = {1: "CM", 2: 0, 3: 1, 4: DIGEST}

RIM_PATH = "realm.cca-realm-initial-measurement"


def backwards(draft: Draft) -> None:
    """Emit all claims in the opposite order."""
    for part in (draft.platform, draft.realm):
        part.claims = dict(reversed(part.claims.items()))


def described_key(draft: Draft) -> None:
    """Carry the realm's key with its algorithm and an id, in another order."""
    value = decode(cose_key(public_point(draft.realm.key)))
    assert isinstance(value, dict)
    members: Map = {-3: value[-3], 2: b"rak", 3: -35, -2: value[-2], -1: 2, 1: 2}
    draft.realm.claims[int(R.RAK)] = encode(members)


def long_measurements(draft: Draft) -> None:
    """Measure a realm with SHA-512."""
    claims = draft.realm.claims
    claims[int(R.HASH_ALGORITHM)] = "sha-512"
    claims[int(R.RIM)] = b"R" * 64
    claims[int(R.REMS)] = [b"0" * 64, b"1" * 64, bytes(64), bytes(64)]


def all_optional(draft: Draft) -> None:
    """Make every claim that RMM 2.0 allows."""
    draft.platform.claims |= {
        int(P.MANUFACTURING_CONFIG): b"mfg",
        int(P.EXTENSION_DEVICES): [dict(DEVICE), dict(CXL)],
        int(P.TBB_ROTPK): [dict(ROTPK)],
        int(P.PEER_SIGNERS): b"peer",
    }
    components = draft.platform.claims[int(P.SW_COMPONENTS)]
    assert isinstance(components, list)
    for part in components:
        assert isinstance(part, dict)
        part |= {6: "sha-256", 7: False, 8: [DIGEST, bytes(64)]}
    draft.realm.claims |= {int(R.LFA_POLICY): 1, int(R.DEVICES_HASH): DIGEST}


def many_components(draft: Draft) -> None:
    """Measure 32 parts, as many as there are slots."""
    components: list[Map] = [
        {1: f"PART_{number}", 2: bytes([number]) * 32, 4: "1.0", 5: DIGEST, 6: "sha-256"}
        for number in range(32)
    ]
    draft.platform.claims[int(P.SW_COMPONENTS)] = [dict(part) for part in components]


def small_component(draft: Draft) -> None:
    """Measure one part, with the required claims only."""
    draft.platform.claims[int(P.SW_COMPONENTS)] = [{2: b"m" * 48, 5: b"s" * 64}]


def longer(old: str, new: str) -> Callable[[bytes], bytes]:
    """Return a function that writes a head, in hexadecimal, with more bytes than necessary."""

    def change(data: bytes) -> bytes:
        assert bytes.fromhex(old) in data
        return data.replace(bytes.fromhex(old), bytes.fromhex(new))

    return change


def longer_sign1(entries: Map) -> Map:
    """Write the number of the parts of the realm's COSE_Sign1 in two bytes."""
    return {
        k: longer("d284", "d29804")(v) if k == REALM_TOKEN and isinstance(v, bytes) else v
        for k, v in entries.items()
    }


def in_old_form(draft: Draft) -> None:
    """Put byte strings instead of records inside tag 399, as some builds of TF-RMM do."""
    draft.outer_tag = 399
    draft.entries = lambda entries: {k: v[1] for k, v in entries.items() if isinstance(v, list)}


def signed_by(alg: Algorithm) -> Case:
    """Return a token whose platform signs with another algorithm."""

    def spoil(draft: Draft) -> None:
        draft.platform.key, draft.platform.algorithm = key("cpak", alg), alg

    arguments = ("--cpak", f"cpak-{alg.name.lower()}.pem", "--reference", "reference.json")
    return Case(f"platform-{alg.name.lower()}", (G1, G2B), spoil, arguments=arguments)


#: Accepted with a warning: variants of an encoding, and names of the signing key.
VARIANTS = [
    Case("long-head", (G1, G2B), whole(token=lambda d: d[:3] + longer_head(d[3:])), warnings=("token",)),
    Case("long-tag", (G1,), whole(token=lambda d: b"\xda\0\0" + d[1:]), warnings=("token",)),
    Case("long-sign1", (G0, G1), whole(entries=longer_sign1), warnings=("realm",)),
    Case("long-head-in-claims", (G1, G2), realm(payload=longer_head), warnings=("realm.payload",)),
    Case("long-integer", (G0, G1, G2B), platform(payload=longer("193003", "1a00003003")), warnings=("platform.payload",)),
    Case("long-claim-key", (G1,), platform(payload=longer("19095b", "1b000000000000095b")), warnings=("platform.payload",)),
    Case("long-byte-strings", (G1, G2B), realm(payload=longer("5820", "5a00000020")), warnings=("realm.payload",)),
    Case("long-text", (G1,), realm(payload=longer("677368612d", "78077368612d")), warnings=("realm.payload",)),
    Case("long-array", (G1,), realm(payload=longer("19accf84", "19accf9804")), warnings=("realm.payload",)),
    Case("long-float", (G1,), both(realm_claim(99999, 1.5), realm(payload=longer("f93e00", "fb3ff8000000000000"))), warnings=("realm.payload", "realm[99999]")),
    Case("header-in-long-form", (G1,), realm(header=bytes.fromhex("a101390022")), warnings=("realm.protected",)),
    Case("key-in-long-form", (G1, G2B), realm_claim(R.RAK, longer_head(cose_key(public_point(key("rak"))))), warnings=("realm.cca-realm-public-key",)),
    Case("key-id-nobody-signed", ALL, both(platform(unprotected={4: b"cpak"}), realm(unprotected={4: b"rak"})), warnings=("platform.unprotected", "realm.unprotected")),
    Case("certificate-nobody-signed", (G1,), platform(unprotected={33: b"x5chain", 34: [-16, b"x5t"]}), warnings=("platform.unprotected",)),
]  # fmt: skip

CASES = [
    *VARIANTS,
    Case("good", ALL, nothing),
    Case("good-with-jwk-key", (G2,), nothing, arguments=("--cpak", "cpak.jwk")),
    Case("good-with-der-key", (G1,), nothing, arguments=("--cpak", "cpak.der")),
    Case("good-by-options", (G0, G1), nothing, arguments=(*CPAK, "--strict", "--rim", RIM.hex(), "--rpv", RPV.rstrip(b"\0").hex(), "--rem", f"0={REMS[0].hex()}", "--rem", f"1={REMS[1].hex()}")),
    Case("backwards", (G0, G1, G2B), backwards),
    Case("long-measurements", (G0, G2), long_measurements, arguments=CPAK),
    Case("binding-by-sha-512", (G0, G1B), realm_claim(R.RAK_HASH_ALGORITHM, "sha-512")),
    Case("binding-by-sha-384", (G2,), realm_claim(R.RAK_HASH_ALGORITHM, "sha-384")),
    Case("key-with-algorithm-and-id", (G1, G2), described_key),
    Case("all-optional-claims", (G2B,), all_optional),
    Case("many-components", (G1,), many_components, arguments=CPAK),
    Case("small-component", (G0, G1), small_component, arguments=CPAK),
    Case("no-verification-service", (G1,), no_platform_claim(P.VERIFICATION_SERVICE)),
    Case("lifecycle-with-details", (G1,), platform_claim(P.LIFECYCLE, 0x30FF)),
    Case("debugged-and-allowed", (G1, G2B), platform_claim(P.LIFECYCLE, 0x4002), warnings=("platform.cca-platform-lifecycle",), arguments=(*EXPECTED, "--allow-debug")),
    Case("rot-debugged-and-allowed", (G2,), platform_claim(P.LIFECYCLE, 0x5000), warnings=("platform.cca-platform-lifecycle",), arguments=(*EXPECTED, "--allow-debug")),
    Case("unknown-claims", (G0, G2B), both(platform_claim(99999, [1, {"a": b"b"}]), realm_claim("name", None)), warnings=("platform[99999]", "realm['name']")),
    Case("mec-policy-before-its-time", (G1,), realm_claim(R.MEC_POLICY, 0), warnings=("realm[44243]",)),
    Case("mec-policy-as-text", (G2, G2B), realm_claim(R.MEC_POLICY, "shared"), warnings=("realm.cca-realm-mec-policy",)),
    Case("mec-policy-private", (G2,), realm_claim(R.MEC_POLICY, 1)),
    Case("component-hash-no-registered-name", (G0, G1, G2B), component(algorithm="SHA256"), warnings=(f"{PARTS}[1].measurement-description",)),
    Case("component-hash-name-empty", (G1,), component(algorithm=""), warnings=(f"{PARTS}[1].measurement-description",)),
    Case("component-hash-registered", (G1,), component(algorithm="sha3-384")),
    Case("platform-hash-no-registered-name", (G1, G2B), platform_claim(P.HASH_ALGORITHM, "md5"), warnings=("platform.cca-platform-hash-algo-id",)),
    Case("realm-hash-no-registered-name", (G0, G2), realm_claim(R.HASH_ALGORITHM, "sha256"), warnings=("realm.cca-realm-hash-algo-id",)),
    Case("measured-by-no-name", (G1,), realm_claim(R.HASH_ALGORITHM, "sha-512"), warnings=(RIM_PATH,)),
    Case("old-claims-in-new-form", (G0,), whole(outer_tag=907, entries=lambda e: {k: [263, v] for k, v in e.items()}), warnings=("token",)),
    Case("new-claims-in-old-form", (G2, G2B), in_old_form, warnings=("token",)),
    Case("header-with-content-type", (G0, G2), platform(header=encode({1: -35, 3: 60})), warnings=("platform.protected",)),
    *map(signed_by, (Algorithm.ES256, Algorithm.ES512)),
]  # fmt: skip
