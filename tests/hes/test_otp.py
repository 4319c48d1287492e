"""The stored state: the file is always whole, and a damaged one never counts as a new one."""

import hashlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hes.errors import PsaError
from hes.otp import COUNTERS, OTP_FILE, Otp, Store, decode_otp, encode_otp
from pyvmm.arch.psa import HesService, PsaStatus
from pyvmm.token.cbor import Malformed, decode, encode
from pyvmm.token.claims import LifecycleState
from tests.hes.rig import Rig

FULL = Otp(
    lifecycle=LifecycleState.SECURED,
    huk=b"h" * 32,
    guk=b"g" * 32,
    boot_hash=b"b" * 32,
    implementation_id=b"i" * 32,
    cm_rotpk=b"c" * 32,
    dm_rotpk=b"d" * 32,
    config=b"config",
    verification_service="https://v",
    counters=dict.fromkeys(COUNTERS, 7),
)

#: Advances a counter endlessly, and prints each value.
WRITER = """
import sys
import time
from pathlib import Path
from dataclasses import replace
from hes.otp import Otp, Store
store = Store(Path(sys.argv[1]))
while True:
    otp = store.update(
        lambda otp: replace(
            otp or Otp(), counters={n: v + 1 for n, v in (otp or Otp()).counters.items()}
        )
    )
    print(otp.counters["firmware"], flush=True)
"""
NUM_KILLS, NUM_SOAK_KILLS = 8, 300


@pytest.mark.parametrize("otp", [Otp(), FULL])
def test_content_is_read_as_it_was_written(tmp_path: Path, otp: Otp) -> None:
    """Empty or full."""
    store = Store(tmp_path)
    assert store.load() is None
    assert store.update(lambda old: otp if old is None else old) == otp
    assert store.load() == otp


def test_keys_are_not_shown() -> None:
    """Not in repr() either."""
    assert "hhh" not in repr(FULL)
    assert "ggg" not in repr(FULL)


def test_refused_change_changes_nothing(tmp_path: Path) -> None:
    """And releases the lock."""
    store = Store(tmp_path)
    store.update(lambda _: FULL)

    def refuse(_otp: Otp | None) -> Otp:
        raise PsaError(PsaStatus.NOT_PERMITTED)

    with pytest.raises(PsaError):
        store.update(refuse)
    assert store.update(lambda otp: otp or Otp()) == FULL


def damages() -> list[bytes]:
    """Return damaged files: truncated anywhere, with any bit changed, longer."""
    data = encode_otp(FULL)
    cut = [data[:size] for size in range(len(data))]
    flipped = []
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        flipped.append(bytes(changed))
    return [*cut, *flipped, data + b"\0"]


def test_damage_is_detected() -> None:
    """In every case."""
    for data in damages():
        with pytest.raises(Malformed):
            decode_otp(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_damage(data: bytes) -> None:
    """With a correct hash in front or not."""
    for file in (data, hashlib.sha256(data).digest() + data):
        with pytest.raises(Malformed):
            decode_otp(file)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda otp: replace(otp, huk=bytes(31)), id="short key"),
        pytest.param(lambda otp: replace(otp, counters={**otp.counters, "firmware": -1}), id="-1"),
        pytest.param(
            lambda otp: replace(otp, counters={**otp.counters, "firmware": 1 << 32}), id="huge"
        ),
    ],
)
def test_impossible_content_is_damage(change: Callable[[Otp], Otp]) -> None:
    """Even with a correct hash."""
    with pytest.raises(Malformed):
        decode_otp(encode_otp(change(FULL)))


@pytest.mark.parametrize("index", [0, 1])
def test_boolean_is_not_a_number(index: int) -> None:
    """Although True equals 1 and False equals 0 in Python."""
    body = decode(encode_otp(replace(Otp(), lifecycle=LifecycleState.UNKNOWN))[32:])
    assert isinstance(body, list)
    body[index] = bool(body[index])
    data = encode(body)
    with pytest.raises(Malformed):
        decode_otp(hashlib.sha256(data).digest() + data)


def test_damaged_file_is_reported_and_kept(tmp_path: Path) -> None:
    """No new identity replaces it."""
    rig = Rig(tmp_path)
    rig.power_on()
    path = tmp_path / OTP_FILE
    damaged = path.read_bytes()[:-1]
    path.write_bytes(damaged)
    rig.reset()
    for answer in (
        rig.power_on(),
        rig.ask(HesService.STATUS),
        rig.ask(HesService.SET_LIFECYCLE, b"decommissioned"),
        rig.ask(HesService.ADVANCE_COUNTER, b"firmware", bytes(4)),
    ):
        assert answer.status is PsaStatus.BAD_STATE
        assert f"{path} is damaged" in answer.text
    assert path.read_bytes() == damaged


def test_unreadable_file_is_reported(tmp_path: Path) -> None:
    """With the reason."""
    (tmp_path / OTP_FILE).mkdir()
    answer = Rig(tmp_path).power_on()
    assert answer.status is PsaStatus.BAD_STATE
    assert answer.text == f"{tmp_path / OTP_FILE}: Is a directory"


def test_missing_directory_is_reported(tmp_path: Path) -> None:
    """Nothing is written elsewhere."""
    directory = tmp_path / "hes"
    directory.mkdir()
    rig = Rig(directory)
    directory.rmdir()
    answer = rig.power_on()
    assert answer.status is PsaStatus.BAD_STATE
    assert "No such file or directory" in answer.text


@pytest.mark.parametrize("count", [NUM_KILLS, pytest.param(NUM_SOAK_KILLS, marks=pytest.mark.slow)])
def test_kill_at_any_moment_loses_nothing(tmp_path: Path, seed: int, count: int) -> None:
    """Every completed write is there, and the file is whole."""
    rng = random.Random(seed)
    store, said = Store(tmp_path), 0
    for _ in range(count):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(rng.randrange(1, 30)):
                said = int(writer.stdout.readline())
            time.sleep(rng.random() / 500)  # somewhere inside an update
            writer.send_signal(signal.SIGKILL)
            said = max([said, *map(int, writer.stdout.read().splitlines())])
        otp = store.load()
        assert otp is not None
        assert said <= otp.counters["firmware"] <= said + 1
    assert {path.name for path in tmp_path.iterdir()} <= {"otp", "otp.lock", "otp.new"}


# --- counters ------------------------------------------------------------------------------------


def advance(rig: Rig, name: bytes, value: int) -> PsaStatus:
    """Advance a counter."""
    return rig.ask(HesService.ADVANCE_COUNTER, name, value.to_bytes(4, "little")).status


def test_counters_never_decrease(rig: Rig) -> None:
    """Each independently."""
    assert advance(rig, b"firmware", 5) is PsaStatus.SUCCESS
    assert advance(rig, b"firmware", 5) is PsaStatus.SUCCESS
    assert advance(rig, b"firmware", 4) is PsaStatus.NOT_PERMITTED
    assert advance(rig, b"dm-bundle", 4) is PsaStatus.SUCCESS
    assert advance(rig, b"none", 4) is PsaStatus.INVALID_ARGUMENT
    otp = rig.hes.store.load()
    assert otp is not None
    assert otp.counters == {"firmware": 5, "cm-bundle": 1, "dm-bundle": 4}


def test_older_firmware_is_refused_once_a_newer_one_has_run(tmp_path: Path) -> None:
    """Anti-rollback: the counter follows the newest version that has run."""
    assert Rig(tmp_path, security_version=1).power_on().status is PsaStatus.SUCCESS
    assert Rig(tmp_path, security_version=3).power_on().status is PsaStatus.SUCCESS
    answer = Rig(tmp_path, security_version=2).power_on()
    assert answer.status is PsaStatus.BAD_STATE
    assert "security version 2, but version 3 has run before" in answer.text
    assert Rig(tmp_path, security_version=3).power_on().status is PsaStatus.SUCCESS
