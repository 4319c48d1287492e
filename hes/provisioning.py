"""Provisioning of the HES by the chip maker (CM), then by the device maker (DM).

A bundle is a COSE_Sign1 (ES384) over a CBOR map that contains its maker's public key.  The HES does
not know the chip maker's key in advance, so it trusts the first valid bundle and stores the hash of
its key.  That bundle names the device maker's key, and from then on the HES accepts only bundles
signed with it.  No bundle contains the HUK: the HES generates it.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from enum import IntEnum
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from hes.errors import PsaError
from hes.keys import KEY_SIZE, public_bytes
from hes.otp import COUNTERS, MAX_COUNTER, Otp
from pyvmm.arch.psa import PsaStatus
from pyvmm.token import ecdsa
from pyvmm.token.cbor import Key, Malformed, Value, decode, encode
from pyvmm.token.claims import LifecycleState
from pyvmm.token.cose import Algorithm, Sign1, protected

MAX_CONFIG: Final = 64  # bytes
MAX_URL: Final = 256  # bytes
_CM, _DM = "cm", "dm"

#: For the makers that we simulate.
_IMPLEMENTATION_ID: Final = b"pyvmm".ljust(32, b"\0")
_CONFIG: Final = b"development"


class BundleKey(IntEnum):
    """Keys of a bundle's map."""

    KIND = 1  # "cm" or "dm"
    VERSION = 2  # rejected below the counter of its kind
    PUBLIC_KEY = 3  # of the maker, SEC1
    IMPLEMENTATION_ID = 4  # CM
    GUK = 5  # CM
    BOOT_HASH = 6  # CM
    DM_ROTPK = 7  # CM: SHA-256 of the device maker's key
    CONFIG = 8  # DM
    VERIFICATION_SERVICE = 9  # DM, optional
    COUNTERS = 10  # DM, optional: lowest accepted versions


_CM_KEYS: Final = frozenset(
    {
        BundleKey.KIND,
        BundleKey.VERSION,
        BundleKey.PUBLIC_KEY,
        BundleKey.IMPLEMENTATION_ID,
        BundleKey.GUK,
        BundleKey.BOOT_HASH,
        BundleKey.DM_ROTPK,
    }
)
_DM_KEYS: Final = frozenset(
    {BundleKey.KIND, BundleKey.VERSION, BundleKey.PUBLIC_KEY, BundleKey.CONFIG}
)
_DM_OPTIONAL: Final = frozenset({BundleKey.VERIFICATION_SERVICE, BundleKey.COUNTERS})

Fields = Mapping[Key, Value]
T = TypeVar("T", bytes, str)


# --- make bundles ------------------------------------------------------------------------------


def make_bundle(fields: Mapping[BundleKey, Value], key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a bundle with these fields and the maker's public key, signed by the maker."""
    values: dict[Key, Value] = {key.value: value for key, value in fields.items()}
    values[BundleKey.PUBLIC_KEY.value] = public_bytes(key)
    header, payload = protected(Algorithm.ES384), encode(values)
    unsigned = Sign1(header, payload, b"")
    return replace(
        unsigned, signature=ecdsa.sign(key, Algorithm.ES384, unsigned.to_be_signed)
    ).encode()


def make_cm_bundle(
    key: ec.EllipticCurvePrivateKey,
    *,
    version: int,
    implementation_id: bytes,
    guk: bytes,
    boot_hash: bytes,
    dm_public: bytes,
) -> bytes:
    """Return a chip maker's bundle."""
    return make_bundle(
        {
            BundleKey.KIND: _CM,
            BundleKey.VERSION: version,
            BundleKey.IMPLEMENTATION_ID: implementation_id,
            BundleKey.GUK: guk,
            BundleKey.BOOT_HASH: boot_hash,
            BundleKey.DM_ROTPK: hashlib.sha256(dm_public).digest(),
        },
        key,
    )


def make_dm_bundle(
    key: ec.EllipticCurvePrivateKey,
    *,
    version: int,
    config: bytes,
    verification_service: str = "",
    counters: Mapping[Key, Value] | None = None,
) -> bytes:
    """Return a device maker's bundle."""
    fields: dict[BundleKey, Value] = {
        BundleKey.KIND: _DM,
        BundleKey.VERSION: version,
        BundleKey.CONFIG: config,
    }
    if verification_service:
        fields[BundleKey.VERIFICATION_SERVICE] = verification_service
    if counters:
        fields[BundleKey.COUNTERS] = dict(counters)
    return make_bundle(fields, key)


def development_bundles() -> tuple[bytes, bytes]:
    """Return bundles of two makers whose random keys are not kept."""
    return _bundles(*_new_keys())


def makers_files() -> dict[str, bytes]:
    """Return the files of two makers with random keys: the keys, and a bundle of each."""
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415  slow to import
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    makers = _new_keys()
    bundles = zip(("cm.bundle", "dm.bundle"), _bundles(*makers), strict=True)
    pems = (key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) for key in makers)
    return {**dict(zip(("cm-key.pem", "dm-key.pem"), pems, strict=True)), **dict(bundles)}


def _new_keys() -> tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePrivateKey]:
    curve = ec.SECP384R1()
    return ec.generate_private_key(curve), ec.generate_private_key(curve)


def _bundles(
    cm_key: ec.EllipticCurvePrivateKey, dm_key: ec.EllipticCurvePrivateKey
) -> tuple[bytes, bytes]:
    cm_bundle = make_cm_bundle(
        cm_key,
        version=1,
        implementation_id=_IMPLEMENTATION_ID,
        guk=os.urandom(KEY_SIZE),
        boot_hash=os.urandom(KEY_SIZE),
        dm_public=public_bytes(dm_key),
    )
    return cm_bundle, make_dm_bundle(dm_key, version=1, config=_CONFIG)


# --- accept bundles ----------------------------------------------------------------------------


def provision(otp: Otp, bundle: bytes) -> Otp:
    """Return the memory after a bundle.

    Raises: PsaError(INVALID_ARGUMENT) if it is not a bundle, (NOT_PERMITTED) if its maker or
    version is rejected, (BAD_STATE) if the lifecycle state does not allow it.
    """
    try:
        fields = _authentic(bundle)
        kind = fields.get(BundleKey.KIND)
        if kind == _CM:
            return _provision_cm(otp, fields)
        if kind == _DM:
            return _provision_dm(otp, fields)
    except Malformed as error:
        raise PsaError(PsaStatus.INVALID_ARGUMENT, f"invalid {error}") from None
    raise PsaError(PsaStatus.INVALID_ARGUMENT, f"the bundle's kind is {kind!r}, not cm or dm")


def _authentic(bundle: bytes) -> Fields:
    """Return a bundle's fields after verifying it with its own key."""
    sign1 = Sign1.parse(bundle, path="bundle")
    if sign1.algorithm(path="bundle") is not Algorithm.ES384:
        raise Malformed("bundle", "not signed with ES384")
    fields = decode(sign1.payload, path="bundle")
    if not isinstance(fields, dict):
        raise Malformed("bundle", "not a map")
    public = _field(fields, BundleKey.PUBLIC_KEY, bytes)
    try:
        is_authentic = ecdsa.is_signature(
            public, Algorithm.ES384, sign1.to_be_signed, sign1.signature
        )
    except ValueError:
        raise Malformed("bundle", "its key is not a point of P-384") from None
    if not is_authentic:
        raise PsaError(PsaStatus.NOT_PERMITTED, "the bundle's signature is not its maker's")
    return fields


def _provision_cm(otp: Otp, fields: Fields) -> Otp:
    _check_keys(fields, _CM_KEYS)
    if otp.lifecycle is not LifecycleState.ASSEMBLY_AND_TEST:
        raise PsaError(PsaStatus.BAD_STATE, "the HES already has a chip maker's bundle")
    return replace(
        otp,
        lifecycle=LifecycleState.CCA_PLATFORM_ROT_PROVISIONING,
        huk=os.urandom(KEY_SIZE),
        guk=_key(fields, BundleKey.GUK),
        boot_hash=_key(fields, BundleKey.BOOT_HASH),
        implementation_id=_key(fields, BundleKey.IMPLEMENTATION_ID),
        dm_rotpk=_key(fields, BundleKey.DM_ROTPK),
        cm_rotpk=_rotpk(fields),
        counters=otp.advanced("cm-bundle", _version(fields)),
    )


def _provision_dm(otp: Otp, fields: Fields) -> Otp:
    """Accept a device maker's bundle; in the secured state, it updates the configuration."""
    _check_keys(fields, _DM_KEYS, _DM_OPTIONAL)
    if otp.lifecycle not in {
        LifecycleState.CCA_PLATFORM_ROT_PROVISIONING,
        LifecycleState.SECURED,
    }:
        raise PsaError(PsaStatus.BAD_STATE, "this state accepts no device maker's bundle")
    if _rotpk(fields) != otp.dm_rotpk:
        raise PsaError(PsaStatus.NOT_PERMITTED, "the bundle comes from another device maker")
    counters = otp.advanced("dm-bundle", _version(fields))
    for name, value in _counters(fields).items():
        counters = replace(otp, counters=counters).advanced(name, value)
    config = _field(fields, BundleKey.CONFIG, bytes)
    url = ""
    if BundleKey.VERIFICATION_SERVICE in fields:
        url = _field(fields, BundleKey.VERIFICATION_SERVICE, str)
    if not 0 < len(config) <= MAX_CONFIG or len(url.encode()) > MAX_URL:
        raise Malformed("bundle", f"not config of 1 to {MAX_CONFIG} bytes, URL of up to {MAX_URL}")
    return replace(
        otp,
        lifecycle=LifecycleState.SECURED,
        config=config,
        verification_service=url,
        counters=counters,
    )


def _check_keys(
    fields: Fields, must: frozenset[BundleKey], may: frozenset[BundleKey] = frozenset()
) -> None:
    if not must <= fields.keys() <= must | may:
        raise Malformed("bundle", "a field is missing or unknown")


def _field(fields: Fields, key: BundleKey, kind: type[T]) -> T:
    value = fields.get(key)
    if not isinstance(value, kind):
        raise Malformed(f"bundle.{key.name.lower()}", f"not of type {kind.__name__}")
    return value


def _key(fields: Fields, key: BundleKey) -> bytes:
    value = _field(fields, key, bytes)
    if len(value) != KEY_SIZE:
        raise Malformed(f"bundle.{key.name.lower()}", f"{len(value)} bytes, not {KEY_SIZE}")
    return value


def _rotpk(fields: Fields) -> bytes:
    return hashlib.sha256(_field(fields, BundleKey.PUBLIC_KEY, bytes)).digest()


def _version(fields: Fields) -> int:
    return _counter(fields[BundleKey.VERSION], "version")


def _counter(value: Value, name: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNTER:
        raise Malformed(f"bundle.{name}", f"not a number from 0 to {MAX_COUNTER}")
    return value


def _counters(fields: Fields) -> Mapping[str, int]:
    if BundleKey.COUNTERS not in fields:
        return {}
    counters = fields[BundleKey.COUNTERS]
    if not isinstance(counters, dict) or not counters.keys() <= set(COUNTERS):
        raise Malformed("bundle.counters", f"not a map of {', '.join(COUNTERS)}")
    return {str(name): _counter(value, str(name)) for name, value in counters.items()}
