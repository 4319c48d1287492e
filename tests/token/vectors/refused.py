"""Well-formed tokens that are not authentic (exit code 1) or not as expected (4)."""

from dataclasses import replace
from hashlib import sha256

from pyvmm.token.cbor import encode
from pyvmm.token.claims import PlatformKey as P
from pyvmm.token.claims import RealmKey as R
from pyvmm.token.cose import Algorithm
from pyvmm.token.generations import Generation
from tests.token.draft import CHALLENGE, Draft
from tests.token.keys import key
from tests.token.vectors.accepted import VARIANTS
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
    Spoil,
    both,
    component,
    nothing,
    platform,
    platform_claim,
    realm,
    realm_claim,
    whole,
)
from tests.token.vectors.malformed import RAK

BINDING = "platform.cca-platform-challenge"


def forged(
    name: str,
    generations: tuple[Generation, ...],
    spoil: Spoil,
    *failures: str,
    arguments: tuple[str, ...] = EXPECTED,
) -> Case:
    """Return a case that is not authentic."""
    return Case(name, generations, spoil, 1, failures, arguments=arguments)


def refused(
    name: str,
    generations: tuple[Generation, ...],
    spoil: Spoil,
    *failures: str,
    arguments: tuple[str, ...] = EXPECTED,
    warnings: tuple[str, ...] = (),
) -> Case:
    """Return a case that is authentic but not as expected."""
    return Case(name, generations, spoil, 4, failures, warnings, arguments)


def flip(data: bytes) -> bytes:
    """Change the last bit."""
    return data[:-1] + bytes([data[-1] ^ 1])


def by_p256(draft: Draft) -> None:
    """Sign the platform token with a key of P-256, and say ES384."""
    draft.platform.key = key("cpak", Algorithm.ES256)
    draft.platform.algorithm = Algorithm.ES256


def other_components(*numbers: int) -> Spoil:
    """Keep only some components."""

    def spoil(draft: Draft) -> None:
        components = draft.platform.claims[int(P.SW_COMPONENTS)]
        assert isinstance(components, list)
        draft.platform.claims[int(P.SW_COMPONENTS)] = [components[n] for n in numbers]

    return spoil


def one_more(draft: Draft) -> None:
    """Measure an unknown part."""
    components = draft.platform.claims[int(P.SW_COMPONENTS)]
    assert isinstance(components, list)
    components.append({1: "ROOTKIT", 2: b"?" * 32, 5: b"s" * 32})


FORGED = [
    forged("platform-signature-flipped", ALL, platform(signature=flip), "platform.signature"),
    forged("realm-signature-flipped", ALL, realm(signature=flip), "realm.signature"),
    forged("platform-signature-zero", (G1,), platform(signature=lambda _: bytes(96)), "platform.signature"),
    forged("realm-signature-zero", (G2,), realm(signature=lambda _: bytes(96)), "realm.signature"),
    forged("platform-signed-by-another", (G1, G2B), platform(key=key("mallory")), "platform.signature"),
    forged("realm-signed-by-another", (G0, G1B), realm(key=key("mallory")), "realm.signature"),
    forged("component-changed-after-signing", (G1,), platform(after=lambda d: d.replace(b"R" * 32, b"Q" * 32)), "platform.signature", f"{PARTS}[2].measurement-value"),
    forged("rim-changed-after-signing", (G2,), realm(after=lambda d: d.replace(b"r" * 32, b"q" * 32)), "realm.signature", "realm.cca-realm-initial-measurement"),
    forged("both-signatures-flipped", (G1,), both(platform(signature=flip), realm(signature=flip)), "platform.signature", "realm.signature"),
    forged("platform-by-p-256", (G1,), by_p256, "platform.protected"),
    forged("realm-says-es256", (G1,), realm(header=encode({1: -7}), signature=lambda s: s[:64]), "realm.protected"),
    forged("platform-of-another", (G1,), nothing, "platform.signature", arguments=("--cpak", "other.pem")),
    forged("platform-nobody-knows", (G0, G2B), nothing, "platform.cca-platform-instance-id", arguments=("--trust-store", "store")),
    forged("binding-of-another-key", ALL, platform_claim(P.CHALLENGE, sha256(b"another").digest()), BINDING),
    forged("binding-of-the-raw-key", (G1, G2), platform_claim(P.CHALLENGE, sha256(RAK).digest()), BINDING),
    forged("binding-by-another-hash", (G1B,), both(realm_claim(R.RAK_HASH_ALGORITHM, "sha-512"), whole(is_bound=False)), BINDING),
    forged("realm-from-another-platform", (G1,), both(realm(key=key("mallory")), realm_claim(R.CHALLENGE, bytes(64)) ), "realm.signature", "realm.cca-realm-challenge"),
]  # fmt: skip

REFUSED = [
    refused("challenge-of-yesterday", ALL, realm_claim(R.CHALLENGE, bytes(64)), "realm.cca-realm-challenge"),
    refused("challenge-longer-than-asked", (G1,), nothing, "realm.cca-realm-challenge", arguments=(*CPAK, "--challenge", CHALLENGE[:32].hex())),
    refused("another-rim", ALL, realm_claim(R.RIM, b"x" * 32), "realm.cca-realm-initial-measurement"),
    refused("another-rem", (G1, G2), realm_claim(R.REMS, [bytes(32)] * 4), "realm.cca-realm-extensible-measurements[0]", "realm.cca-realm-extensible-measurements[1]"),
    refused("another-rpv", (G2B,), realm_claim(R.RPV, bytes(64)), "realm.cca-realm-personalization-value"),
    refused("another-rim-than-asked", (G1,), nothing, "realm.cca-realm-initial-measurement", arguments=(*CPAK, "--rim", "00" * 32)),
    refused("rim-of-another-size", (G1,), nothing, "realm.cca-realm-initial-measurement", arguments=(*CPAK, "--rim", "00" * 64)),
    refused("another-rem-than-asked", (G0,), nothing, "realm.cca-realm-extensible-measurements[3]", arguments=(*CPAK, "--rem", "3=" + "ff" * 32)),
    *(
        refused(f"lifecycle-0x{value:04x}", (generation,), platform_claim(P.LIFECYCLE, value),
                "platform.cca-platform-lifecycle")
        for generation, value in ((G1, 0x0000), (G1, 0x1001), (G2, 0x2000), (G1, 0x4000),
                                  (G2B, 0x5000), (G0, 0x6000))
    ),
    refused("decommissioned-although-debug-is-allowed", (G1,), platform_claim(P.LIFECYCLE, 0x6000), "platform.cca-platform-lifecycle", arguments=(*EXPECTED, "--allow-debug")),
    refused("another-rmm", (G0, G1, G2B), component(measurement=b"x" * 32), f"{PARTS}[1].measurement-value"),
    refused("another-signer", (G1,), component(signer=b"x" * 32), f"{PARTS}[1].signer-id"),
    refused("another-type", (G1,), component(type="BL31"), f"{PARTS}[1]", PARTS),
    refused("component-missing", (G1, G2B), other_components(0, 1), PARTS),
    refused("one-component-more", (G1,), one_more, f"{PARTS}[3]"),
    refused("another-implementation", (G2,), platform_claim(P.IMPLEMENTATION_ID, bytes(32)), "platform.cca-platform-implementation-id"),
    refused("another-instance", (G1,), platform_claim(P.INSTANCE_ID, b"\x01" + bytes(32)), "platform.cca-platform-instance-id"),
    refused("another-config", (G0,), platform_claim(P.CONFIG, b"\0"), "platform.cca-platform-config"),
    refused("another-profile-than-asked", (G1,), nothing, "token", arguments=(*CPAK, "--profile", "g0", "--profile", "g2b")),
    refused("unknown-claim-and-strict", ALL, realm_claim(99999, 1), "realm[99999]", arguments=(*EXPECTED, "--strict")),
    refused("hash-no-registered-name-and-strict", (G1,), component(algorithm="md5"), f"{PARTS}[1].measurement-description", arguments=(*EXPECTED, "--strict")),
    refused("debug-allowed-and-strict", (G1,), platform_claim(P.LIFECYCLE, 0x4000), "platform.cca-platform-lifecycle", arguments=(*CPAK, "--strict", "--allow-debug")),
    refused("all-wrong", (G1,), both(realm_claim(R.CHALLENGE, bytes(64)), realm_claim(R.RIM, b"x" * 32), platform_claim(P.LIFECYCLE, 0x4000), platform_claim(P.CONFIG, b"\0"), one_more ), "realm.cca-realm-challenge", "platform.cca-platform-lifecycle", f"{PARTS}[3]", "platform.cca-platform-config", "realm.cca-realm-initial-measurement"),
]  # fmt: skip

#: With --strict, a token with a warning is refused.
STRICT = [
    replace(case, name=f"{case.name}-and-strict", generations=case.generations[:1], exit_code=4,
            failures=case.warnings, warnings=(), arguments=(*case.arguments, "--strict"))
    for case in VARIANTS
]  # fmt: skip

CASES = [*FORGED, *REFUSED, *STRICT]
