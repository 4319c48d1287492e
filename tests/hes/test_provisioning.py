"""Provisioning bundles: which are accepted, and when."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from hes.errors import PsaError
from hes.keys import public_bytes
from hes.otp import Otp
from hes.provisioning import (
    BundleKey,
    development_bundles,
    make_bundle,
    make_cm_bundle,
    make_dm_bundle,
    makers_files,
    provision,
)
from pyvmm.arch.psa import MAX_PAYLOAD, HesService, PsaStatus
from pyvmm.token.cbor import Key, Value, decode, encode
from pyvmm.token.claims import LifecycleState
from pyvmm.token.cose import Sign1
from tests.hes.rig import Rig

CM, DM, STRANGER = (ec.derive_private_key(n, ec.SECP384R1()) for n in (1001, 1002, 1003))
ID, GUK, BOOT_HASH = (bytes([n]) * 32 for n in b"IGB")


def cm_bundle(version: int = 1, key: ec.EllipticCurvePrivateKey = CM) -> bytes:
    """Return the chip maker's bundle, which names DM."""
    return make_cm_bundle(
        key,
        version=version,
        implementation_id=ID,
        guk=GUK,
        boot_hash=BOOT_HASH,
        dm_public=public_bytes(DM),
    )


def dm_bundle(
    version: int = 1,
    key: ec.EllipticCurvePrivateKey = DM,
    config: bytes = b"config",
    url: str = "",
    counters: Mapping[Key, Value] | None = None,
) -> bytes:
    """Return the device maker's bundle."""
    return make_dm_bundle(
        key, version=version, config=config, verification_service=url, counters=counters
    )


def refusal(otp: Otp, bundle: bytes) -> tuple[PsaStatus, str]:
    """Return why a bundle is rejected."""
    with pytest.raises(PsaError) as error:
        provision(otp, bundle)
    return error.value.status, error.value.text


BLANK = Otp()
HALF = provision(BLANK, cm_bundle())
DONE = provision(HALF, dm_bundle())


def test_bundles_make_the_platform() -> None:
    """In order; the HUK is generated and in neither."""
    assert (
        Otp(
            lifecycle=LifecycleState.CCA_PLATFORM_ROT_PROVISIONING,
            huk=HALF.huk,
            guk=GUK,
            boot_hash=BOOT_HASH,
            implementation_id=ID,
            cm_rotpk=hashlib.sha256(public_bytes(CM)).digest(),
            dm_rotpk=hashlib.sha256(public_bytes(DM)).digest(),
            counters={"firmware": 0, "cm-bundle": 1, "dm-bundle": 0},
        )
        == HALF
    )
    assert len(HALF.huk) == 32
    assert provision(BLANK, cm_bundle()).huk != HALF.huk
    assert (
        replace(
            HALF,
            lifecycle=LifecycleState.SECURED,
            config=b"config",
            counters={"firmware": 0, "cm-bundle": 1, "dm-bundle": 1},
        )
        == DONE
    )


def test_device_maker_may_update_the_configuration() -> None:
    """With a bundle of the same or a newer version."""
    new = provision(DONE, dm_bundle(5, config=b"new", url="https://v", counters={"firmware": 3}))
    assert new == replace(
        DONE,
        config=b"new",
        verification_service="https://v",
        counters={"firmware": 3, "cm-bundle": 1, "dm-bundle": 5},
    )
    assert provision(new, dm_bundle(5, config=b"again")).config == b"again"
    status, text = refusal(new, dm_bundle(4))
    assert status is PsaStatus.NOT_PERMITTED
    assert text == "counter dm-bundle is at 5 and cannot decrease"


def test_bundle_may_not_decrease_a_counter() -> None:
    """For example, the firmware's."""
    new = provision(DONE, dm_bundle(2, counters={"firmware": 3}))
    status, text = refusal(new, dm_bundle(3, counters={"firmware": 2}))
    assert (status, "firmware" in text) == (PsaStatus.NOT_PERMITTED, True)


@pytest.mark.parametrize(
    ("otp", "bundle", "status"),
    [
        pytest.param(BLANK, dm_bundle(), PsaStatus.BAD_STATE, id="device maker first"),
        pytest.param(HALF, cm_bundle(), PsaStatus.BAD_STATE, id="chip maker again"),
        pytest.param(DONE, cm_bundle(9), PsaStatus.BAD_STATE, id="chip maker at the end"),
        pytest.param(HALF, dm_bundle(key=STRANGER), PsaStatus.NOT_PERMITTED, id="a stranger"),
        pytest.param(HALF, dm_bundle(key=CM), PsaStatus.NOT_PERMITTED, id="the wrong maker"),
        *(
            pytest.param(replace(DONE, lifecycle=state), dm_bundle(2), PsaStatus.BAD_STATE, id=name)
            for name, state in [
                ("debug", LifecycleState.NON_CCA_PLATFORM_ROT_DEBUG),
                ("rot debug", LifecycleState.RECOVERABLE_CCA_PLATFORM_ROT_DEBUG),
                ("decommissioned", LifecycleState.DECOMMISSIONED),
            ]
        ),
    ],
)
def test_bundle_out_of_order_is_refused(otp: Otp, bundle: bytes, status: PsaStatus) -> None:
    """Even if correctly signed."""
    assert refusal(otp, bundle)[0] is status


CM_FIELDS: Mapping[BundleKey, Value] = {
    BundleKey.KIND: "cm",
    BundleKey.VERSION: 1,
    BundleKey.IMPLEMENTATION_ID: ID,
    BundleKey.GUK: GUK,
    BundleKey.BOOT_HASH: BOOT_HASH,
    BundleKey.DM_ROTPK: bytes(32),
}
DM_FIELDS: Mapping[BundleKey, Value] = {
    BundleKey.KIND: "dm",
    BundleKey.VERSION: 1,
    BundleKey.CONFIG: b"config",
}


def without(fields: Mapping[BundleKey, Value], key: BundleKey) -> Mapping[BundleKey, Value]:
    """Return the other fields."""
    return {other: value for other, value in fields.items() if other is not key}


@pytest.mark.parametrize(
    "fields",
    [
        *(pytest.param(without(CM_FIELDS, key), id=f"no {key.name}") for key in CM_FIELDS),
        pytest.param({**CM_FIELDS, BundleKey.CONFIG: b"c"}, id="a field of the other's"),
        pytest.param({**CM_FIELDS, BundleKey.KIND: "xm"}, id="another kind"),
        pytest.param({**CM_FIELDS, BundleKey.KIND: ["cm"]}, id="kind is no text"),
        pytest.param({**CM_FIELDS, BundleKey.GUK: bytes(31)}, id="short GUK"),
        pytest.param({**CM_FIELDS, BundleKey.GUK: "g" * 32}, id="GUK is text"),
        pytest.param({**CM_FIELDS, BundleKey.VERSION: -1}, id="negative version"),
        pytest.param({**CM_FIELDS, BundleKey.VERSION: 1 << 32}, id="huge version"),
        pytest.param({**CM_FIELDS, BundleKey.VERSION: True}, id="version is a boolean"),
        pytest.param({**CM_FIELDS, BundleKey.VERSION: "1"}, id="version is text"),
    ],
)
def test_malformed_chip_makers_bundle_is_refused(fields: Mapping[BundleKey, Value]) -> None:
    """Even if its maker has signed it."""
    assert refusal(BLANK, make_bundle(fields, CM))[0] is PsaStatus.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "fields",
    [
        *(pytest.param(without(DM_FIELDS, key), id=f"no {key.name}") for key in DM_FIELDS),
        pytest.param({**DM_FIELDS, BundleKey.GUK: GUK}, id="a field of the other's"),
        pytest.param({**DM_FIELDS, BundleKey.CONFIG: b""}, id="empty configuration"),
        pytest.param({**DM_FIELDS, BundleKey.CONFIG: bytes(65)}, id="long configuration"),
        pytest.param({**DM_FIELDS, BundleKey.VERIFICATION_SERVICE: "u" * 257}, id="long URL"),
        pytest.param({**DM_FIELDS, BundleKey.VERIFICATION_SERVICE: b"u"}, id="URL is no text"),
        pytest.param({**DM_FIELDS, BundleKey.COUNTERS: {"other": 1}}, id="unknown counter"),
        pytest.param({**DM_FIELDS, BundleKey.COUNTERS: {"firmware": -1}}, id="negative counter"),
        pytest.param({**DM_FIELDS, BundleKey.COUNTERS: ["firmware"]}, id="counters are a list"),
    ],
)
def test_malformed_device_makers_bundle_is_refused(fields: Mapping[BundleKey, Value]) -> None:
    """Even if its maker has signed it."""
    assert refusal(HALF, make_bundle(fields, DM))[0] is PsaStatus.INVALID_ARGUMENT


def resigned(payload: bytes, key: ec.EllipticCurvePrivateKey = CM) -> bytes:
    """Return the chip maker's bundle with another payload, correctly signed."""
    sign1 = Sign1.parse(make_bundle(CM_FIELDS, key))
    return replace(sign1, payload=payload).encode()


@pytest.mark.parametrize(
    "bundle",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(encode(1), id="a number"),
        pytest.param(cm_bundle() + b"\0", id="a byte more"),
        pytest.param(resigned(encode([1])), id="not a map"),
        pytest.param(resigned(encode({})), id="no key"),
        pytest.param(resigned(encode({3: bytes(97)})), id="key is no point"),
        pytest.param(resigned(encode({3: b"\4" + bytes(96)})), id="point not on the curve"),
    ],
)
def test_other_data_than_a_bundle_is_refused(bundle: bytes) -> None:
    """With one line."""
    status, text = refusal(BLANK, bundle)
    assert status is PsaStatus.INVALID_ARGUMENT
    assert "\n" not in text


@pytest.mark.parametrize(("otp", "bundle"), [(BLANK, cm_bundle()), (HALF, dm_bundle())])
def test_any_changed_bit_is_refused(otp: Otp, bundle: bytes) -> None:
    """The signature covers everything relevant."""
    for bit in range(8 * len(bundle)):
        changed = bytearray(bundle)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PsaError):
            provision(otp, bytes(changed))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_a_status(data: bytes) -> None:
    """And never raise anything else."""
    with pytest.raises(PsaError):
        provision(BLANK, data)


numbers = st.integers(-(1 << 64), (1 << 64) - 1)
texts = st.sampled_from(["", "cm", "dm", "firmware", "\0", "\n"])
values = st.recursive(
    st.none() | st.booleans() | numbers | st.binary(max_size=98) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(numbers | texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*CM_FIELDS, *DM_FIELDS]), values))
def test_any_fields_are_refused_with_a_status(changes: dict[BundleKey, Value]) -> None:
    """Or accepted if valid."""
    for otp, fields, key in ((BLANK, CM_FIELDS, CM), (HALF, DM_FIELDS, DM)):
        try:
            provision(otp, make_bundle({**fields, **changes}, key))
        except PsaError as error:
            assert "\n" not in error.text  # noqa: PT017  it need not be refused


def test_bundles_come_through_the_mailbox(tmp_path: Path) -> None:
    """They fit in a message; a refused one changes nothing."""
    rig = Rig(tmp_path)
    bundles = development_bundles()
    assert max(map(len, bundles)) <= MAX_PAYLOAD
    assert rig.ask(HesService.PROVISION, bundles[1]).status is PsaStatus.BAD_STATE
    assert rig.hes.store.load() is None
    texts = [rig.ask(HesService.PROVISION, bundle).text for bundle in bundles]
    assert texts == ["cca-platform-rot-provisioning", "secured"]
    assert rig.power_on() == (PsaStatus.SUCCESS, ())


def test_half_provisioned_platform_is_not_given_a_development_identity(tmp_path: Path) -> None:
    """It waits for its device maker."""
    rig = Rig(tmp_path)
    rig.ask(HesService.PROVISION, cm_bundle())
    answer = rig.power_on()
    assert answer.status is PsaStatus.BAD_STATE
    assert "device maker's bundle" in answer.text


def test_makers_files_are_a_pair_of_makers() -> None:
    """Their bundles are accepted, and their keys can sign more of them."""
    files = makers_files()
    otp = provision(provision(BLANK, files["cm.bundle"]), files["dm.bundle"])
    key = load_pem_private_key(files["dm-key.pem"], None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert provision(otp, dm_bundle(2, key, b"mine")).config == b"mine"
    payload = decode(Sign1.parse(files["cm.bundle"]).payload)
    assert isinstance(payload, dict)
    assert otp.guk == payload[BundleKey.GUK]
