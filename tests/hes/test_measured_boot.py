"""The slots: which extensions are allowed, their values, and a complete log."""

import hashlib
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hes.errors import PsaError
from hes.measured_boot import HASHES, MAX_EVENTS, MeasuredBoot, Measurement, Slot
from pyvmm.arch.psa import NUM_SLOTS, PsaHash, PsaStatus

FIRST = Measurement(PsaHash.SHA_256, b"d" * 32, b"s" * 32, "1.0", "RMM")
SECOND = replace(FIRST, digest=b"e" * 32, version="2.0", sw_type="OTHER")


def refusal(boot: MeasuredBoot, index: int, measurement: Measurement) -> PsaStatus:
    """Return why an extension is refused; check that nothing has changed."""
    before = boot.slots, list(boot.events)
    with pytest.raises(PsaError) as error:
        boot.extend(index, measurement, lock=True)
    assert (boot.slots, boot.events) == before
    return error.value.status


@pytest.mark.parametrize("algorithm", list(HASHES))
def test_first_value_is_the_hash_of_zeros_and_the_digest(algorithm: PsaHash) -> None:
    """Reference values are not plain hashes of images."""
    function, boot = HASHES[algorithm], MeasuredBoot()
    size = function().digest_size
    boot.extend(14, replace(FIRST, algorithm=algorithm, digest=b"d" * size), lock=False)
    value = function(bytes(size) + b"d" * size).digest()
    assert boot.slots == [Slot(14, algorithm, value, b"s" * 32, "1.0", "RMM", is_locked=False)]


def test_second_extension_hashes_the_value_so_far() -> None:
    """Version and type described the first measurement only."""
    boot = MeasuredBoot()
    boot.extend(3, FIRST, lock=False)
    boot.extend(3, SECOND, lock=True)
    once = hashlib.sha256(bytes(32) + FIRST.digest).digest()
    twice = hashlib.sha256(once + SECOND.digest).digest()
    assert boot.read(3) == Slot(3, PsaHash.SHA_256, twice, b"s" * 32, "", "", is_locked=True)


def test_locked_slot_stays_as_it_is() -> None:
    """Until reset."""
    boot = MeasuredBoot()
    boot.extend(3, FIRST, lock=True)
    assert refusal(boot, 3, SECOND) is PsaStatus.BAD_STATE


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"signer_id": b"t" * 32}, id="another signer"),
        pytest.param({"signer_id": b"s" * 33}, id="longer signer id"),
        pytest.param({"algorithm": PsaHash.SHA_384, "digest": bytes(48)}, id="another algorithm"),
    ],
)
def test_slot_belongs_to_its_first_signer(change: dict[str, object]) -> None:
    """And to its first algorithm."""
    boot = MeasuredBoot()
    boot.extend(3, FIRST, lock=False)
    assert refusal(boot, 3, replace(SECOND, **change)) is PsaStatus.NOT_PERMITTED  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"algorithm": PsaHash.UNKNOWN}, id="unknown algorithm"),
        pytest.param({"digest": bytes(31)}, id="short digest"),
        pytest.param({"digest": bytes(48)}, id="digest of another algorithm"),
        pytest.param({"signer_id": bytes(31)}, id="short signer id"),
        pytest.param({"signer_id": bytes(65)}, id="long signer id"),
        pytest.param({"version": "1" * 15}, id="long version"),
        pytest.param({"version": "1\n"}, id="version with a control character"),
        pytest.param({"sw_type": "t" * 33}, id="long type"),
        pytest.param({"sw_type": "\0"}, id="type with a control character"),
    ],
)
def test_malformed_measurement_is_refused(change: dict[str, object]) -> None:
    """It would end up in a token."""
    measurement = replace(FIRST, **change)  # type: ignore[arg-type]
    assert refusal(MeasuredBoot(), 3, measurement) is PsaStatus.INVALID_ARGUMENT


@pytest.mark.parametrize("index", [NUM_SLOTS, 255])
def test_there_are_32_slots(index: int) -> None:
    """No others can be extended or read."""
    boot = MeasuredBoot()
    boot.extend(NUM_SLOTS - 1, FIRST, lock=False)
    assert refusal(boot, index, FIRST) is PsaStatus.INVALID_ARGUMENT
    with pytest.raises(PsaError) as error:
        boot.read(index)
    assert error.value.status is PsaStatus.INVALID_ARGUMENT


def test_empty_slot_does_not_exist() -> None:
    """It does not read as zeros."""
    with pytest.raises(PsaError) as error:
        MeasuredBoot().read(0)
    assert error.value.status is PsaStatus.DOES_NOT_EXIST


def test_log_is_bounded() -> None:
    """Endless extensions are refused and take no memory."""
    boot = MeasuredBoot()
    for _ in range(MAX_EVENTS):
        boot.extend(0, FIRST, lock=False)
    assert refusal(boot, 0, FIRST) is PsaStatus.INSUFFICIENT_STORAGE


extensions = st.lists(
    st.tuples(
        st.integers(0, NUM_SLOTS),
        st.builds(
            Measurement,
            st.sampled_from([PsaHash.SHA_256, PsaHash.SHA_384]),
            st.sampled_from([bytes(32), b"d" * 32, bytes(48)]),
            st.sampled_from([b"s" * 32, b"t" * 32]),
            st.sampled_from(["", "1.0"]),
            st.sampled_from(["", "RMM"]),
        ),
        st.booleans(),
    ),
    max_size=40,
)


@given(extensions)
def test_log_replays_to_the_slots(wanted: list[tuple[int, Measurement, bool]]) -> None:
    """Even if other extensions were refused in between."""
    boot = MeasuredBoot()
    for index, measurement, lock in wanted:
        with suppress(PsaError):
            boot.extend(index % 4 if index < NUM_SLOTS else index, measurement, lock=lock)
    values: dict[int, bytes] = {}
    for event in boot.events:
        digest = event.measurement.digest
        old = values.get(event.index, bytes(len(digest)))
        values[event.index] = HASHES[event.measurement.algorithm](old + digest).digest()
        assert values[event.index] == event.value
    assert values == {slot.index: slot.value for slot in boot.slots}
