"""The calls of the HES: measured boot, delegated attestation, virtual HUKs."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from hes import keys
from hes.hes import CPAK_FILE
from hes.image import SIGNER_ID
from hes.otp import OTP_FILE, Otp
from hes.provisioning import development_bundles
from pyvmm.arch.psa import (
    DelegatedAttestation,
    ExtendIn,
    HesService,
    MeasuredBoot,
    PsaHandle,
    PsaHash,
    PsaStatus,
    ReadIn,
    ReadOut,
    Vhuk,
)
from pyvmm.token import ecdsa
from pyvmm.token.cbor import Key, Value, decode
from pyvmm.token.claims import PlatformKey
from pyvmm.token.cose import Algorithm, cose_key
from pyvmm.token.generations import FORMS, Generation
from pyvmm.token.keys import load_public_key
from pyvmm.token.make import binding
from tests.hes.rig import SIGNER, Rig

P384, BITS, SHA_256 = b"\x12", (384).to_bytes(4, "little"), bytes.fromhex("09000002")
READ = ReadIn.of(index=14, sw_type_size=32, version_size=14)
OWN_PARTS = [(0, "RT_0"), (5, "SYS_CTRL_2"), (11, "SECURE_RT_EL3")]


def claims(rig: Rig, generation: Generation = Generation.G1) -> dict[Key, Value]:
    """Return the claims of the platform token."""
    payload = decode(rig.token(generation).payload)
    assert isinstance(payload, dict)
    return payload


# --- measured boot -------------------------------------------------------------------------------


def test_machine_in_reset_has_empty_slots_and_no_keys(tmp_path: Path) -> None:
    """Calls that need the identity fail until the machine is on."""
    rig = Rig(tmp_path)
    for call in (READ.of(index=n) for n in range(32)):
        answer = rig.call(PsaHandle.MEASURED_BOOT, MeasuredBoot.READ, bytes(call))
        assert answer.status is PsaStatus.DOES_NOT_EXIST
    assert rig.attest(DelegatedAttestation.GET_PUBLIC_KEY).status is PsaStatus.BAD_STATE
    assert rig.attest(DelegatedAttestation.GET_TOKEN, bytes(32)).status is PsaStatus.BAD_STATE
    assert rig.call(PsaHandle.VHUK, Vhuk.GET, b"\1").status is PsaStatus.BAD_STATE


@pytest.mark.parametrize("index", [0, 5, 11, 14])
def test_the_hes_measures_first(tmp_path: Path, index: int) -> None:
    """Otherwise a client could fill and lock the slots of the HES and EL3."""
    rig = Rig(tmp_path)
    assert rig.extend(index, lock=True) is PsaStatus.BAD_STATE
    assert rig.cycle.boot.slots == []
    assert rig.power_on().status is PsaStatus.SUCCESS
    slots = rig.cycle.boot.slots
    assert [(slot.index, slot.sw_type, slot.signer_id) for slot in slots] == [
        (*part, SIGNER_ID) for part in OWN_PARTS
    ]


def test_slot_reads_as_it_was_extended(rig: Rig) -> None:
    """Value, signer, version, type, algorithm and lock."""
    assert rig.extend(14, b"d" * 32, lock=True) is PsaStatus.SUCCESS
    answer = rig.call(PsaHandle.MEASURED_BOOT, MeasuredBoot.READ, bytes(READ))
    head, signer_id, value = answer.outputs
    slot = ReadOut(head)
    assert (slot.is_locked, slot.algorithm) == (1, PsaHash.SHA_256)
    assert slot.sw_type[: slot.sw_type_size] == b"RMM"
    assert slot.version[: slot.version_size] == b"1.0"
    assert signer_id == SIGNER
    assert value == hashlib.sha256(bytes(32) + b"d" * 32).digest()
    assert rig.extend(14) is PsaStatus.BAD_STATE


@pytest.mark.parametrize(
    ("what", "status"),
    [
        (READ.of(index=14, sw_type_size=2, version_size=14), PsaStatus.BUFFER_TOO_SMALL),
        (READ.of(index=14, sw_type_size=32, version_size=2), PsaStatus.BUFFER_TOO_SMALL),
        (READ.of(index=13, sw_type_size=32, version_size=14), PsaStatus.DOES_NOT_EXIST),
        (READ.of(index=32, sw_type_size=32, version_size=14), PsaStatus.INVALID_ARGUMENT),
    ],
)
def test_slot_is_not_read_if_empty_or_beyond_limits(
    rig: Rig, what: ReadIn, status: PsaStatus
) -> None:
    """Nothing is truncated."""
    rig.extend(14)
    answer = rig.call(PsaHandle.MEASURED_BOOT, MeasuredBoot.READ, bytes(what))
    assert answer == (status, ())


@pytest.mark.parametrize(
    ("what", "signer", "version", "digest"),
    [
        pytest.param(ExtendIn.of(sw_type_size=33), SIGNER, b"1", bytes(32), id="long type"),
        pytest.param(ExtendIn.of(algorithm=1), SIGNER, b"1", bytes(32), id="unknown algorithm"),
        pytest.param(ExtendIn.of(), SIGNER, b"\xff", bytes(32), id="version is no text"),
        pytest.param(
            ExtendIn.of(sw_type=b"\xff", sw_type_size=1), SIGNER, b"1", bytes(32), id="type no text"
        ),
        pytest.param(ExtendIn.of(index=32), SIGNER, b"1", bytes(32), id="no such slot"),
    ],
)
def test_bad_extension_is_an_invalid_argument(
    rig: Rig, what: ExtendIn, signer: bytes, version: bytes, digest: bytes
) -> None:
    """And does not change the slots."""
    before = rig.cycle.boot.slots
    what.algorithm = what.algorithm or PsaHash.SHA_256
    inputs = (bytes(what), signer, version, digest)
    answer = rig.call(PsaHandle.MEASURED_BOOT, MeasuredBoot.EXTEND, *inputs)
    assert answer.status is PsaStatus.INVALID_ARGUMENT
    assert rig.cycle.boot.slots == before


def test_hes_measures_itself_the_machine_and_el3(rig: Rig) -> None:
    """Before anybody else can, and locked."""
    slots = rig.cycle.boot.slots
    assert [(slot.index, slot.sw_type) for slot in slots] == OWN_PARTS
    assert {slot.signer_id for slot in slots} == {SIGNER_ID}
    assert all(rig.extend(slot.index) is PsaStatus.BAD_STATE for slot in slots)


# --- the realm attestation key -------------------------------------------------------------------


def test_key_that_is_given_away_is_the_one_that_signs(rig: Rig) -> None:
    """GET_KEY is for an RMM that signs by itself."""
    answer = rig.attest(DelegatedAttestation.GET_KEY, P384, BITS, SHA_256)
    assert answer.status is PsaStatus.SUCCESS
    otp = rig.hes.store.load()
    assert otp is not None
    rak = keys.derive_rak(otp.guk, otp.boot_hash, 0x3000, rig.cycle.boot.slots)
    assert answer.outputs == (rak.private_numbers().private_value.to_bytes(48, "big"),)
    assert rig.rak() == keys.public_bytes(rak)


@pytest.mark.parametrize(
    ("curve", "bits", "algorithm", "status"),
    [
        (b"\x17", BITS, SHA_256, PsaStatus.INVALID_ARGUMENT),
        (P384, (256).to_bytes(4, "little"), SHA_256, PsaStatus.NOT_SUPPORTED),
        (P384, BITS, bytes(4), PsaStatus.INVALID_ARGUMENT),
        (P384 + b"\0", BITS, SHA_256, PsaStatus.PROGRAMMER_ERROR),
        (P384, BITS + b"\0", SHA_256, PsaStatus.PROGRAMMER_ERROR),
        (P384, BITS, b"", PsaStatus.PROGRAMMER_ERROR),
    ],
)
def test_no_other_key_is_given(
    rig: Rig, curve: bytes, bits: bytes, algorithm: bytes, status: PsaStatus
) -> None:
    """Only P-384."""
    answer = rig.attest(DelegatedAttestation.GET_KEY, curve, bits, algorithm)
    assert answer == (status, ())


@pytest.mark.parametrize(
    ("algorithm", "cose"), [(PsaHash.SHA_256, "sha256"), (PsaHash.SHA_384, "sha384")]
)
def test_signature_is_the_public_keys(rig: Rig, algorithm: PsaHash, cose: str) -> None:
    """The values r and s, 48 bytes each."""
    digest = hashlib.new(cose, b"data").digest()
    answer = rig.attest(DelegatedAttestation.SIGN_HASH, algorithm.to_bytes(4, "little"), digest)
    (signature,) = answer.outputs
    assert len(signature) == 96
    is_valid = ecdsa.is_signature(rig.rak(), Algorithm.ES384, b"data", signature)
    assert is_valid is (algorithm is PsaHash.SHA_384)


@pytest.mark.parametrize(
    ("algorithm", "size"), [(PsaHash.SHA_384, 47), (PsaHash.SHA_256, 48), (PsaHash.UNKNOWN, 48)]
)
def test_only_a_digest_is_signed(rig: Rig, algorithm: PsaHash, size: int) -> None:
    """Of the given algorithm's size."""
    answer = rig.attest(
        DelegatedAttestation.SIGN_HASH, algorithm.to_bytes(4, "little"), bytes(size)
    )
    assert answer == (PsaStatus.INVALID_ARGUMENT, ())


def test_key_is_the_same_after_every_boot_of_the_same_firmware(rig: Rig) -> None:
    """It depends on the measurements only."""
    first = rig.rak()
    rig.extend(14)
    second = rig.rak()
    rig.reset()
    rig.power_on()
    assert rig.rak() == first
    rig.extend(14, b"e" * 32)
    assert rig.rak() not in {first, second}
    rig.reset()
    rig.power_on()
    rig.extend(14)
    assert rig.rak() == second


# --- the platform token --------------------------------------------------------------------------


@pytest.mark.parametrize("generation", list(Generation))
def test_token_contains_the_hes_s_state(tmp_path: Path, generation: Generation) -> None:
    """Signed by the platform's key, which its instance id names."""
    rig = Rig(tmp_path)
    rig.power_on(generation)
    rig.extend(14)
    token, said = rig.token(generation), claims(rig, generation)
    otp = rig.hes.store.load()
    assert otp is not None
    cpak = keys.derive_cpak(otp.guk, otp.boot_hash)
    public = keys.public_bytes(cpak)
    assert ecdsa.is_signature(public, Algorithm.ES384, token.to_be_signed, token.signature)
    assert said[PlatformKey.PROFILE] == FORMS[generation].platform
    assert said[PlatformKey.CHALLENGE] == binding(rig.rak(), generation)
    assert said[PlatformKey.INSTANCE_ID] == keys.instance_id(cpak)
    assert said[PlatformKey.IMPLEMENTATION_ID] == otp.implementation_id
    assert said[PlatformKey.CONFIG] == otp.config
    assert said[PlatformKey.LIFECYCLE] == 0x3000
    assert said[PlatformKey.HASH_ALGORITHM] == "sha-256"
    parts = [
        {1: slot.sw_type, 2: slot.value, 4: slot.version, 5: slot.signer_id, 6: "sha-256"}
        for slot in rig.cycle.boot.slots
    ]
    assert said[PlatformKey.SW_COMPONENTS] == parts
    assert [part[1] for part in parts] == [*(name for _, name in OWN_PARTS), "RMM"]


@pytest.mark.parametrize("name", ["sha256", "sha384", "sha512"])
def test_token_binds_the_key_by_any_of_three_hashes(rig: Rig, name: str) -> None:
    """The interface of EL3 allows their sizes."""
    challenge = hashlib.new(name, cose_key(rig.rak())).digest()
    assert rig.attest(DelegatedAttestation.GET_TOKEN, challenge).status is PsaStatus.SUCCESS


def test_token_keeps_to_the_hash_that_was_named_with_the_key(rig: Rig) -> None:
    """GET_KEY chooses it."""
    rig.attest(DelegatedAttestation.GET_KEY, P384, BITS, SHA_256)
    encoded = cose_key(rig.rak())
    long = rig.attest(DelegatedAttestation.GET_TOKEN, hashlib.sha512(encoded).digest())
    assert long == (PsaStatus.INVALID_ARGUMENT, ())
    right = rig.attest(DelegatedAttestation.GET_TOKEN, hashlib.sha256(encoded).digest())
    assert right.status is PsaStatus.SUCCESS


@pytest.mark.parametrize("challenge", [b"", bytes(32), bytes(64), bytes(4096)])
def test_token_vouches_for_no_other_key(rig: Rig, challenge: bytes) -> None:
    """The HES computes the hash itself."""
    rig.rak()
    answer = rig.attest(DelegatedAttestation.GET_TOKEN, challenge)
    assert answer == (PsaStatus.INVALID_ARGUMENT, ())


def test_token_vouches_for_the_key_in_the_form_of_its_generation(rig: Rig) -> None:
    """G0 hashes the raw point; this is G1."""
    answer = rig.attest(DelegatedAttestation.GET_TOKEN, hashlib.sha256(rig.rak()).digest())
    assert answer == (PsaStatus.INVALID_ARGUMENT, ())


def test_no_token_before_the_key_was_requested(rig: Rig) -> None:
    """Or after a measurement has changed it."""
    challenge = binding(rig.rak(), Generation.G1)
    assert rig.attest(DelegatedAttestation.GET_TOKEN, challenge).status is PsaStatus.SUCCESS
    rig.extend(14)
    assert rig.attest(DelegatedAttestation.GET_TOKEN, challenge).status is PsaStatus.BAD_STATE


def test_token_names_the_verification_service(rig: Rig) -> None:
    """If the device maker has one."""
    url = "https://verifier.example"
    rig.hes.store.update(lambda otp: replace(otp or Otp(), verification_service=url))
    assert PlatformKey.VERIFICATION_SERVICE not in claims(rig)  # as at reset
    rig.reset()
    rig.power_on()
    assert claims(rig)[PlatformKey.VERIFICATION_SERVICE] == url


# --- virtual HUKs --------------------------------------------------------------------------------


def test_virtual_huks_are_those_of_the_measurements(rig: Rig) -> None:
    """One by the signers, one by the values."""
    otp = rig.hes.store.load()
    assert otp is not None
    slots = rig.cycle.boot.slots
    wanted = [
        keys.derive_vhuk_a(otp.huk, 0x3000, slots),
        keys.derive_vhuk_m(otp.huk, 0x3000, slots),
    ]
    got = [rig.call(PsaHandle.VHUK, Vhuk.GET, which).outputs[0] for which in (b"\1", b"\2")]
    assert got == wanted


@pytest.mark.parametrize(
    ("which", "status"),
    [
        (b"\0", PsaStatus.INVALID_ARGUMENT),
        (b"\3", PsaStatus.INVALID_ARGUMENT),
        (b"", PsaStatus.PROGRAMMER_ERROR),
        (b"\1\0", PsaStatus.PROGRAMMER_ERROR),
    ],
)
def test_there_are_two_virtual_huks(rig: Rig, which: bytes, status: PsaStatus) -> None:
    """And no others."""
    assert rig.call(PsaHandle.VHUK, Vhuk.GET, which) == (status, ())


# --- the HES itself ------------------------------------------------------------------------------


def test_first_use_makes_an_identity_and_reports_it_once(tmp_path: Path) -> None:
    """Random, secured, with its public key published."""
    rig = Rig(tmp_path)
    assert str(tmp_path) in rig.power_on().text
    rig.reset()
    assert rig.power_on() == (PsaStatus.SUCCESS, ())
    status = json.loads(rig.ask(HesService.STATUS).text)
    assert status["lifecycle"] == "secured"
    assert "BEGIN PUBLIC KEY" in (tmp_path / "cpak.pem").read_text()
    others = tmp_path / "others"
    others.mkdir()
    other = Rig(others)
    other.power_on()
    assert json.loads(other.ask(HesService.STATUS).text)["instance_id"] != status["instance_id"]


def test_published_key_is_that_of_the_identity(rig: Rig, tmp_path: Path) -> None:
    """Also of a new one and of a provisioned one."""
    path = tmp_path / "cpak.pem"
    first = path.read_text()
    (tmp_path / "otp").unlink()
    rig.reset()
    rig.power_on()
    second = path.read_text()
    assert second != first
    path.unlink()
    rig.reset()
    rig.power_on()
    assert path.read_text() == second
    (tmp_path / "otp").unlink()
    for bundle in development_bundles():
        assert rig.ask(HesService.PROVISION, bundle).status is PsaStatus.SUCCESS
    assert path.read_text() not in {first, second}


def test_published_key_is_never_that_of_an_older_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the HES is killed between writing the identity and the key."""
    old, new = Rig(tmp_path / "old"), Rig(tmp_path / "new")
    for rig in (old, new):
        rig.hes.store.directory.mkdir()
    bundles = development_bundles()
    old.power_on()
    published = (tmp_path / "old" / CPAK_FILE).read_bytes()
    (tmp_path / "new" / CPAK_FILE).write_bytes(published)
    with monkeypatch.context() as patch:
        patch.setattr(new.hes, "_publish", _die)
        with pytest.raises(KeyboardInterrupt):
            new.power_on()
        (tmp_path / "old" / OTP_FILE).unlink()
        old.ask(HesService.PROVISION, bundles[0])
        patch.setattr(old.hes, "_publish", _die)
        with pytest.raises(KeyboardInterrupt):
            old.ask(HesService.PROVISION, bundles[1])
    for rig in (old, new):
        rig.reset()
        assert rig.power_on().status is PsaStatus.SUCCESS
        pem = (rig.hes.store.directory / CPAK_FILE).read_bytes()
        public = load_public_key(pem, CPAK_FILE)
        assert json.loads(rig.ask(HesService.STATUS).text)["cpak"] == public.hex()


def _die(_otp: Otp) -> None:
    raise KeyboardInterrupt


def test_files_are_accessible_to_the_user_only(rig: Rig, tmp_path: Path) -> None:
    """Except the public key, which verifiers read."""
    del rig
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"otp": 0o600, "otp.lock": 0o600, "cpak.pem": 0o644}


def test_machine_leaves_reset_once(rig: Rig) -> None:
    """The next power cycle is another connection."""
    assert rig.power_on().status is PsaStatus.BAD_STATE


@pytest.mark.parametrize("name", [b"g3", b"", b"\xff"])
def test_unknown_token_profile_is_refused(tmp_path: Path, name: bytes) -> None:
    """The machine stays in reset."""
    rig = Rig(tmp_path)
    assert rig.ask(HesService.POWER_ON, name).status is PsaStatus.INVALID_ARGUMENT
    assert not rig.cycle.is_on


def test_log_comes_in_parts_and_replays(rig: Rig) -> None:
    """However long it is."""
    for n in range(100):
        assert rig.extend(14, bytes([n]) * 32) is PsaStatus.SUCCESS
    events: list[dict[str, object]] = []
    while True:
        answer = rig.ask(HesService.LOG, bytes(4), len(events).to_bytes(4, "little"))
        part = json.loads(answer.text)
        if not part:
            break
        events += part
    assert len(events) == len(OWN_PARTS) + 100
    assert [event["slot"] for event in events[: len(OWN_PARTS)]] == [0, 5, 11]
    assert events[-1]["value"] == rig.cycle.boot.read(14).value.hex()
    assert events[-1]["digest"] == bytes([99] * 32).hex()


def test_status_and_log_know_the_other_machines(rig: Rig) -> None:
    """If they are on."""
    other = rig.hes.connect(pid=77)
    wanted = (77).to_bytes(4, "little")
    assert rig.ask(HesService.LOG, wanted, bytes(4)).status is PsaStatus.DOES_NOT_EXIST
    assert json.loads(rig.ask(HesService.STATUS).text)["machines"] == [1]
    rig.hes.power_on(other, Generation.G1)
    assert json.loads(rig.ask(HesService.STATUS).text)["machines"] == [1, 77]
    assert len(json.loads(rig.ask(HesService.LOG, wanted, bytes(4)).text)) == len(OWN_PARTS)
