"""EL3's attestation services, through the shared granule."""

import pytest

from monitor.monitor import Monitor
from pyvmm.arch.bits import MASK64
from pyvmm.arch.pas import Pas
from pyvmm.arch.rmmd import RmmdError, RmmdFid
from tests.monitor.conftest import FakeMachine

TOKEN = bytes(range(256)) * 20


class FakeHes:
    """A HES that is there or not."""

    def __init__(self) -> None:
        self.is_up = True
        self.challenges: list[bytes] = []

    def realm_key(self, curve: int) -> bytes:
        """Return a key."""
        self._check()
        return bytes([curve + 1]) * 48

    def platform_token(self, challenge: bytes) -> bytes:
        """Return the token."""
        self._check()
        self.challenges.append(challenge)
        return TOKEN

    def _check(self) -> None:
        if not self.is_up:
            raise ConnectionError


class Rig:
    """A Monitor with a HES, called as the RMM calls it."""

    def __init__(self, machine: FakeMachine, hes: FakeHes | None) -> None:
        monitor = Monitor(machine, hes=hes)
        self.shared = monitor.layout.shared_pa
        self.memory = machine.memory(Pas.REALM)
        self._el3 = monitor.conduit(Pas.REALM)

    def call(self, fid: RmmdFid, *args: int) -> tuple[int, ...]:
        """Call EL3 from the RMM."""
        return self._el3.smc(0, (fid, *args))


def error(code: RmmdError) -> tuple[int, ...]:
    """Return an error as x0 shows it."""
    return (code & MASK64,)


@pytest.fixture
def hes() -> FakeHes:
    """A HES that answers."""
    return FakeHes()


@pytest.fixture
def rig(machine: FakeMachine, hes: FakeHes) -> Rig:
    """A Monitor with it."""
    return Rig(machine, hes)


def test_realm_key_comes_through_the_shared_buffer(rig: Rig) -> None:
    """x1 is its size."""
    assert rig.call(RmmdFid.ATTEST_GET_REALM_KEY, rig.shared, 4096, 0) == (0, 48)
    assert rig.memory.read(rig.shared, 49) == b"\x01" * 48 + b"\0"


def test_platform_token_comes_in_parts_until_nothing_remains(rig: Rig, hes: FakeHes) -> None:
    """The first call carries the challenge; the next ones take the rest."""
    rig.memory.write(rig.shared, b"c" * 48)
    got, sizes = b"", []
    answer = rig.call(RmmdFid.ATTEST_GET_PLAT_TOKEN, rig.shared, 4096, 48)
    while True:
        assert answer[0] == 0
        got += rig.memory.read(rig.shared, answer[1])
        sizes.append(answer[1:])
        if answer[2] == 0:
            break
        answer = rig.call(RmmdFid.ATTEST_GET_PLAT_TOKEN, rig.shared, 4096, 0)
    assert got == TOKEN
    assert sizes == [(4096, 1024), (1024, 0)]
    assert hes.challenges == [b"c" * 48]
    answer = rig.call(RmmdFid.ATTEST_GET_PLAT_TOKEN, rig.shared, 4096, 0)
    assert answer == error(RmmdError.INVAL)


@pytest.mark.parametrize(
    ("offset", "size"), [(-1, 4096), (4096, 1), (0, 4097), (1, 4096), (0, 0), (0, MASK64)]
)
@pytest.mark.parametrize("fid", [RmmdFid.ATTEST_GET_REALM_KEY, RmmdFid.ATTEST_GET_PLAT_TOKEN])
def test_buffer_must_lie_in_the_shared_granule(
    rig: Rig, fid: RmmdFid, offset: int, size: int
) -> None:
    """EL3 writes nowhere else on the RMM's word."""
    third = 0 if fid is RmmdFid.ATTEST_GET_REALM_KEY else 32
    assert rig.call(fid, rig.shared + offset, size, third) == error(RmmdError.BAD_ADDR)


@pytest.mark.parametrize(
    ("fid", "size", "third"),
    [
        pytest.param(RmmdFid.ATTEST_GET_REALM_KEY, 4096, 1, id="unknown curve"),
        pytest.param(RmmdFid.ATTEST_GET_REALM_KEY, 47, 0, id="buffer too small"),
        pytest.param(RmmdFid.ATTEST_GET_PLAT_TOKEN, 4096, 33, id="odd challenge"),
        pytest.param(RmmdFid.ATTEST_GET_PLAT_TOKEN, 4096, 0, id="nothing to continue"),
    ],
)
def test_bad_arguments_are_invalid(rig: Rig, fid: RmmdFid, size: int, third: int) -> None:
    """Everything else the RMM gets wrong is INVAL."""
    assert rig.call(fid, rig.shared, size, third) == error(RmmdError.INVAL)


@pytest.mark.parametrize("fid", [RmmdFid.ATTEST_GET_REALM_KEY, RmmdFid.ATTEST_GET_PLAT_TOKEN])
def test_calls_are_unknown_without_a_hes_that_answers(
    machine: FakeMachine, rig: Rig, hes: FakeHes, fid: RmmdFid
) -> None:
    """No HES attached, or one that has died."""
    third = 0 if fid is RmmdFid.ATTEST_GET_REALM_KEY else 32
    hes.is_up = False
    assert rig.call(fid, rig.shared, 4096, third) == error(RmmdError.UNK)
    assert Rig(machine, None).call(fid, rig.shared, 4096, third) == error(RmmdError.UNK)
