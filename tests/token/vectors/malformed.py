"""Tokens that are malformed, or of a profile that is not supported: exit code 3."""

from collections.abc import Callable

from pyvmm.token.cbor import Tag, Value, encode
from pyvmm.token.claims import PlatformKey as P
from pyvmm.token.claims import RealmKey as R
from pyvmm.token.cose import Algorithm, cose_key
from pyvmm.token.ecdsa import public_point
from pyvmm.token.generations import PLATFORM_TOKEN, REALM_TOKEN, Generation
from tests.token.draft import REMS, Map, same
from tests.token.keys import key
from tests.token.vectors.accepted import DEVICE, DIGEST
from tests.token.vectors.cases import (
    ALL,
    CPAK,
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
    longer_head,
    no_platform_claim,
    no_realm_claim,
    platform,
    platform_claim,
    realm,
    realm_claim,
    whole,
)

RAK = public_point(key("rak"))
PROFILE = "tag:arm.com,2026:cca_platform#2.0.0"


def bad(name: str, generations: tuple[Generation, ...], spoil: Spoil, *failures: str) -> Case:
    """Return a malformed case."""
    return Case(name, generations, spoil, 3, failures, arguments=CPAK)


def entry(number: int, value: Value) -> Spoil:
    """Set an entry of the outermost map."""
    return whole(entries=lambda entries: entries | {number: value})


def no_entry(number: int) -> Spoil:
    """Remove one of the two parts."""
    return whole(entries=lambda entries: {k: v for k, v in entries.items() if k != number})


def key_with(change: Callable[[bytes], bytes] = same, **members: Value) -> Spoil:
    """Change members of the realm's COSE_Key, and then its encoding."""
    labels = {"kty": 1, "alg": 3, "crv": -1, "x": -2, "y": -3, "d": -4}
    value: Map = {1: 2, -1: 2, -2: RAK[1:49], -3: RAK[49:]}
    value |= {labels[name]: member for name, member in members.items()}
    encoded = encode({k: v for k, v in value.items() if v is not None})
    return realm_claim(R.RAK, change(encoded))


def endless(data: bytes) -> bytes:
    """Write a map without its size."""
    return b"\xbf" + data[1:] + b"\xff"


def twice(data: bytes) -> bytes:
    """Give a map its claim 10 a second time."""
    return bytes([data[0] + 1]) + data[1:] + encode(10) + encode(bytes(64))


def twice_in_two_forms(data: bytes) -> bytes:
    """Give a map its claim 10 a second time, with a longer head."""
    return bytes([data[0] + 1]) + data[1:] + b"\x18\x0a" + encode(bytes(64))


def deep(levels: int) -> Value:
    """Return nested arrays."""
    value: Value = 0
    for _ in range(levels):
        value = [value]
    return value


RAK_PATH = "realm.cca-realm-public-key"
REMS_PATH = "realm.cca-realm-extensible-measurements"

ENCODING = [
    bad("trailing-byte", ALL, whole(token=lambda data: data + b"\0"), "token"),
    bad("cut-off", (G0, G2B), whole(token=lambda data: data[:-1]), "token"),
    bad("cut-off-early", (G1,), whole(token=lambda data: data[:2]), "token"),
    bad("endless-map", (G1B,), whole(token=lambda d: d[:3] + endless(d[3:])), "token"),
    bad("endless-claims", (G0, G2), platform(payload=endless), "platform.payload"),
    bad("claim-twice-in-two-forms", (G1, G2), realm(payload=twice_in_two_forms), "realm.payload"),
    bad("byte-after-claims-in-long-form", (G1,), realm(payload=lambda d: longer_head(d) + b"\0"), "realm.payload"),
    bad("byte-after-token-in-long-form", (G2B,), whole(token=lambda d: d[:3] + longer_head(d[3:]) + b"\0"), "token"),
    bad("claim-twice", ALL, realm(payload=twice), "realm.payload"),
    bad("platform-claim-twice", (G2B,), platform(payload=twice), "platform.payload"),
    bad("byte-after-claims", (G0,), realm(payload=lambda d: d + b"\0"), "realm.payload"),
    bad("no-claims", (G1,), realm(payload=lambda _: b""), "realm.payload"),
    bad("claims-in-an-array", (G2,), realm(payload=lambda _: b"\x80"), "realm.payload"),
    bad("deep-claim", (G1,), realm_claim(99999, deep(40)), "realm.payload"),
    bad("text-not-utf-8", (G1,), platform(payload=lambda d: d.replace(b"RMM", b"R\xff\xff")), "platform.payload"),
    bad("undefined-value", (G2,), realm(payload=lambda d: d.replace(b"\x19\xac\xd3\x00", b"\x19\xac\xd3\xf7")), "realm.payload[44243]"),
]  # fmt: skip

OUTER = [
    bad("outer-tag-398", (G1,), whole(outer_tag=398), "token"),
    bad("no-outer-tag", (G1,), whole(token=lambda data: data[3:]), "token"),
    bad("tag-around-an-array", (G1,), whole(token=lambda _: bytes.fromhex("d9018f80")), "token"),
    bad("third-entry", ALL, entry(44242, b"x"), "token[44242]"),
    bad("no-realm-token", (G0, G1B), no_entry(REALM_TOKEN), "realm"),
    bad("no-platform-token", (G1, G2B), no_entry(PLATFORM_TOKEN), "platform"),
    bad("direct-variant", (G1,), both(platform_claim(P.PROFILE, PROFILE + ";direct"), whole(entries=lambda e: {PLATFORM_TOKEN: e[PLATFORM_TOKEN], 44242: e[REALM_TOKEN]})), "token[44242]", "realm", "platform.cca-platform-profile"),
    bad("entry-of-text", (G1,), entry(REALM_TOKEN, "realm"), "realm"),
    bad("record-in-old-form", (G1,), entry(REALM_TOKEN, [263, b"x"]), "realm"),
    bad("no-record-in-new-form", (G2,), entry(REALM_TOKEN, b"x"), "realm"),
    bad("record-of-another-format", (G1B,), entry(REALM_TOKEN, [262, b"x"]), "realm"),
    bad("record-too-long", (G2B,), entry(PLATFORM_TOKEN, [263, b"x", 1]), "platform"),
]  # fmt: skip


def sign1(wrap: Callable[[list[Value]], Value]) -> Spoil:
    """Change the COSE_Sign1 of the realm."""
    return realm(wrap=wrap)


SIGN1 = [
    bad("sign1-without-tag", (G0, G2), sign1(lambda parts: parts), "realm"),
    bad("mac0", (G1,), sign1(lambda parts: Tag(17, parts)), "realm"),
    bad("sign1-of-three", (G1,), sign1(lambda parts: Tag(18, parts[:3])), "realm"),
    bad("sign1-of-five", (G2,), sign1(lambda parts: Tag(18, [*parts, b""])), "realm"),
    bad("detached-payload", (G1,), sign1(lambda p: Tag(18, [*p[:2], None, p[3]])), "realm"),
    bad("key-id-of-text", (G1,), realm(unprotected={4: "kid"}), "realm.unprotected"),
    bad("parameter-nobody-signed", (G0, G2B), realm(unprotected={99: 1}), "realm.unprotected"),
    bad("parameter-beside-key-id", (G1,), platform(unprotected={4: b"kid", "x": 1}), "platform.unprotected"),
    bad("critical-parameter-nobody-signed", (G1,), realm(unprotected={2: [4], 4: b"kid"}), "realm.unprotected"),
    bad("endless-header", (G1,), realm(header=bytes.fromhex("bf013822ff")), "realm.protected"),
    bad("algorithm-twice-in-two-forms", (G1,), realm(header=bytes.fromhex("a201382218013822")), "realm.protected"),
    Case("critical-parameter-in-long-form", (G1,), realm(header=bytes.fromhex("a20138221802811863")), 3, ("realm.protected",), ("realm.protected",), CPAK),
    bad("algorithm-only-unprotected", (G1, G2B), realm(header=b"", unprotected={1: -35}), "realm.unprotected"),
    bad("no-algorithm", (G1,), realm(header=b"\xa0"), "realm.protected"),
    bad("empty-header", (G2,), platform(header=b""), "platform.protected"),
    bad("header-no-map", (G1,), realm(header=b"\x80"), "realm.protected"),
    bad("critical-parameter", (G0, G1B), realm(header=encode({1: -35, 2: [99], 99: 1})), "realm.protected"),
    bad("critical-parameter-empty", (G2,), platform(header=encode({1: -35, 2: []})), "platform.protected"),
    bad("algorithm-eddsa", (G1,), realm(header=encode({1: -8})), "realm.protected"),
    bad("algorithm-as-text", (G1,), realm(header=encode({1: "ES384"})), "realm.protected"),
    bad("signature-short", (G1,), realm(signature=lambda s: s[:-1]), "realm.signature"),
    bad("signature-in-der", (G1,), platform(signature=lambda s: b"\x30\x64\x02\x30" + s[:48] + b"\x02\x30" + s[48:]), "platform.signature"),
    bad("no-signature", (G2B,), platform(signature=lambda _: b""), "platform.signature"),
]  # fmt: skip


def absent(generation: Generation, number: int, name: str) -> Case:
    """Return a token without a required claim."""
    part, _, claim = name.partition(".")
    leave_out = no_platform_claim if part == "platform" else no_realm_claim
    return bad(f"no-{claim}", (generation,), leave_out(number), name)


ABSENT = [
    absent(generation, number, name)
    for generation, number, name in (
        (G0, P.CHALLENGE, "platform.cca-platform-challenge"),
        (G1, P.IMPLEMENTATION_ID, "platform.cca-platform-implementation-id"),
        (G2B, P.INSTANCE_ID, "platform.cca-platform-instance-id"),
        (G1, P.CONFIG, "platform.cca-platform-config"),
        (G1, P.LIFECYCLE, "platform.cca-platform-lifecycle"),
        (G2, P.HASH_ALGORITHM, "platform.cca-platform-hash-algo-id"),
        (G1B, P.SW_COMPONENTS, "platform.cca-platform-sw-components"),
        (G2B, P.CLIENT_ID, "platform.cca-platform-client-id"),
        (G0, R.CHALLENGE, "realm.cca-realm-challenge"),
        (G1, R.RPV, "realm.cca-realm-personalization-value"),
        (G1, R.HASH_ALGORITHM, "realm.cca-realm-hash-algo-id"),
        (G1, R.RAK, "realm.cca-realm-public-key"),
        (G1, R.RIM, "realm.cca-realm-initial-measurement"),
        (G1, R.REMS, "realm.cca-realm-extensible-measurements"),
        (G1, R.RAK_HASH_ALGORITHM, "realm.cca-realm-public-key-hash-algo-id"),
        (G2, R.INSTANCE_ID, "realm.cca-realm-instance-id"),
        (G2B, R.MEC_POLICY, "realm.cca-realm-mec-policy"),
    )
]

CLAIMS = [
    bad("platform-challenge-short", (G1,), platform_claim(P.CHALLENGE, bytes(31)), "platform.cca-platform-challenge", "platform.cca-platform-challenge"),
    bad("implementation-id-short", ALL, platform_claim(P.IMPLEMENTATION_ID, bytes(31)), "platform.cca-platform-implementation-id"),
    bad("instance-id-short", (G0, G2), platform_claim(P.INSTANCE_ID, b"\x01" + bytes(31)), "platform.cca-platform-instance-id"),
    bad("instance-id-of-another-type", (G1,), platform_claim(P.INSTANCE_ID, b"\x02" + bytes(32)), "platform.cca-platform-instance-id"),
    bad("config-empty", (G1,), platform_claim(P.CONFIG, b""), "platform.cca-platform-config"),
    *(
        bad(f"lifecycle-{name}", (G1,), platform_claim(P.LIFECYCLE, value),
            "platform.cca-platform-lifecycle")
        for name, value in (("0x3100", 0x3100), ("0x7000", 0x7000), ("0x13000", 0x13000),
                            ("negative", -1), ("text", "secured"), ("true", True))
    ),
    bad("lifecycle-as-bignum", (G1,), platform_claim(P.LIFECYCLE, Tag(2, b"\x30\x03")), "platform.cca-platform-lifecycle"),
    bad("lifecycle-as-float", (G1,), platform_claim(P.LIFECYCLE, 12291.0), "platform.cca-platform-lifecycle"),
    bad("platform-hash-number", (G1,), platform_claim(P.HASH_ALGORITHM, -16), "platform.cca-platform-hash-algo-id"),
    bad("realm-hash-in-bytes", (G2,), realm_claim(R.HASH_ALGORITHM, b"sha-256"), "realm.cca-realm-hash-algo-id"),
    bad("binding-by-md5", (G1, G2B), realm_claim(R.RAK_HASH_ALGORITHM, "md5"), "realm.cca-realm-public-key-hash-algo-id"),
    bad("component-hash-number", (G0, G2B), component(algorithm=-16), f"{PARTS}[1].measurement-description"),
    bad("no-components", (G1,), platform_claim(P.SW_COMPONENTS, []), PARTS),
    bad("components-in-a-map", (G2,), platform_claim(P.SW_COMPONENTS, {}), PARTS),
    bad("component-no-map", (G1,), platform_claim(P.SW_COMPONENTS, [b"RMM"]), f"{PARTS}[0]"),
    bad("component-not-measured", (G0, G1), component(measurement=None), f"{PARTS}[1].measurement-value"),
    bad("component-measurement-short", (G1,), component(measurement=bytes(20)), f"{PARTS}[1].measurement-value"),
    bad("component-signer-short", (G2B,), component(signer=bytes(31)), f"{PARTS}[1].signer-id"),
    bad("component-type-in-bytes", (G1,), component(type=b"BL31"), f"{PARTS}[1].measurement-type"),
    bad("component-counters-empty", (G2B,), component(counter=[]), f"{PARTS}[1].countersigners"),
    bad("client-id-2", (G2B,), platform_claim(P.CLIENT_ID, 2), "platform.cca-platform-client-id"),
    bad("service-in-bytes", (G1,), platform_claim(P.VERIFICATION_SERVICE, b"https"), "platform.cca-platform-service-indicator"),
    bad("device-without-vca", (G2B,), platform_claim(P.EXTENSION_DEVICES, [{k: v for k, v in DEVICE.items() if k != 6}]), "platform.cca-platform-extension[0].vca-digest"),
    bad("challenge-short", (G1B,), realm_claim(R.CHALLENGE, bytes(32)), "realm.cca-realm-challenge"),
    bad("challenge-in-an-array", (G1,), realm_claim(R.CHALLENGE, [bytes(64)]), "realm.cca-realm-challenge"),
    bad("rpv-short", (G1,), realm_claim(R.RPV, bytes(32)), "realm.cca-realm-personalization-value"),
    bad("rim-short", (G1,), realm_claim(R.RIM, bytes(20)), "realm.cca-realm-initial-measurement", *(f"{REMS_PATH}[{index}]" for index in range(4))),
    bad("three-rems", ALL, realm_claim(R.REMS, [*REMS[:3]]), REMS_PATH),
    bad("five-rems", (G2,), realm_claim(R.REMS, [*REMS, bytes(32)]), REMS_PATH),
    bad("rem-longer-than-rim", (G1,), realm_claim(R.REMS, [*REMS[:3], bytes(48)]), f"{REMS_PATH}[3]"),
    bad("realm-instance-id-short", (G2,), realm_claim(R.INSTANCE_ID, b"\x01" + bytes(15)), "realm.cca-realm-instance-id"),
    bad("mec-policy-2", (G2,), realm_claim(R.MEC_POLICY, 2), "realm.cca-realm-mec-policy"),
    bad("mec-policy-other-text", (G2B,), realm_claim(R.MEC_POLICY, "none"), "realm.cca-realm-mec-policy"),
    bad("devices-hash-short", (G2,), realm_claim(R.DEVICES_HASH, DIGEST[:31]), "realm.cca-realm-devices-token-hash"),
    bad("two-claims-wrong", (G1,), both(platform_claim(P.LIFECYCLE, 0x3100), realm_claim(R.CHALLENGE, bytes(63)) ), "platform.cca-platform-lifecycle", "realm.cca-realm-challenge"),
]  # fmt: skip

KEYS = [
    bad("key-with-its-private-part", (G1, G2B), key_with(d=bytes(48)), RAK_PATH),
    Case("key-with-its-private-part-in-long-form", (G1,), key_with(d=bytes(48), change=longer_head), 3, (RAK_PATH,), (RAK_PATH,), CPAK),
    bad("key-type-as-float", (G1,), key_with(kty=2.0), RAK_PATH),
    bad("key-algorithm-as-float", (G1,), key_with(alg=-35.0), RAK_PATH),
    bad("endless-key", (G2,), key_with(change=endless), RAK_PATH),
    bad("key-of-another-type", (G1,), key_with(kty=1), RAK_PATH),
    bad("key-on-no-curve-of-ours", (G1,), key_with(crv=6), RAK_PATH),
    bad("key-of-another-curve-s-size", (G2,), key_with(crv=1), RAK_PATH),
    bad("key-without-y", (G1,), key_with(y=None), RAK_PATH),
    bad("key-compressed", (G1,), key_with(y=True), RAK_PATH),
    bad("key-off-its-curve", (G1, G2B), key_with(x=bytes(48)), RAK_PATH),
    bad("key-for-another-algorithm", (G1,), key_with(alg=-7), RAK_PATH),
    bad("key-raw-in-new-form", (G1,), realm_claim(R.RAK, RAK), RAK_PATH),
    bad("key-encoded-in-old-form", (G0,), realm_claim(R.RAK, cose_key(RAK)), RAK_PATH),
    bad("key-compressed-in-old-form", (G0,), realm_claim(R.RAK, b"\x02" + RAK[1:49]), RAK_PATH),
    bad("key-off-its-curve-in-old-form", (G0,), realm_claim(R.RAK, RAK[:96] + b"\0"), RAK_PATH),
    bad("key-on-p-256-in-old-form", (G0,), realm_claim(R.RAK, public_point(key("rak", Algorithm.ES256))), RAK_PATH),
]  # fmt: skip

PROFILES = [
    bad("g3-platform", (G2B,), platform_claim(P.PROFILE, PROFILE), "platform.cca-platform-profile"),
    bad("g3-delegated", (G2B,), both(platform_claim(P.PROFILE, PROFILE + ";delegated"), realm_claim(R.PROFILE, "tag:arm.com,2026:realm#2.0.0") ), "platform.cca-platform-profile", "realm.cca-realm-profile"),
    bad("psa-profile", (G1,), platform_claim(P.PROFILE, "http://arm.com/psa/2.0.0"), "platform.cca-platform-profile"),
    bad("no-platform-profile", ALL, no_platform_claim(P.PROFILE), "platform.cca-platform-profile"),
    bad("profile-in-bytes", (G1,), realm_claim(R.PROFILE, b"realm"), "realm.cca-realm-profile"),
    bad("profile-empty", (G1,), realm_claim(R.PROFILE, ""), "realm.cca-realm-profile"),
    bad("realm-profile-with-old-platform", (G0,), realm_claim(R.PROFILE, "tag:arm.com,2023:realm#1.0.0"), RAK_PATH, "realm.cca-realm-profile"),
    Case("old-realm-with-new-platform", (G2B,), realm_claim(R.PROFILE, "tag:arm.com,2023:realm#1.0.0"), 3, ("realm.cca-realm-profile",), ("realm[256]", "realm[44243]"), CPAK),
]  # fmt: skip

CASES = [*ENCODING, *OUTER, *SIGN1, *ABSENT, *CLAIMS, *KEYS, *PROFILES]
