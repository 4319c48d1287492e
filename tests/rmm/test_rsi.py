"""RSI: features, measurements, configuration, host calls."""

from typing import Final

import pytest

from pyvmm.arch.esr import ExceptionClass, hpfar_of
from pyvmm.arch.events import Event
from pyvmm.arch.rmi import RecEnter, RecExit, RecExitReason, RmiFid
from pyvmm.arch.rsi import HostCall, RealmConfig, RsiFid, RsiStatus
from rmm.rsi import REALM_CALLS
from tests.rmm.world import FakeContext, World, smc

ERROR_INPUT: Final = RsiStatus.ERROR_INPUT
UNPROTECTED: Final = 1 << 32
MASK64: Final = (1 << 64) - 1
PAGE_IPA, MISSING_IPA, EMPTY_IPA = 0x1000, 0x2000, 0x5000
BAD_IPAS = (0x1800, 0x1001, UNPROTECTED, 1 << 33, MASK64 & -0x1000, EMPTY_IPA)


class Guest:
    """A realm with one page of RAM, one that is missing, and a REC that makes calls."""

    def __init__(self) -> None:
        """Build and activate it."""
        self.world = World()
        self.rd = self.world.realm(rpv=b"p" * 64)
        self.world.do(RmiFid.RMI_RTT_INIT_RIPAS, self.rd, PAGE_IPA, MISSING_IPA + 0x1000)
        self.page = self.world.delegated()
        self.world.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, self.rd, self.page, PAGE_IPA)
        self.rec = self.world.rec(self.rd)
        self.world.do(RmiFid.RMI_REALM_ACTIVATE, self.rd)
        self.context: FakeContext = self.world.context(self.rec)

    def call(self, *args: int) -> list[int]:
        """Make an RSI call that the RMM answers; returns x0..."""
        pc = self.context.pc
        assert self.exit(*args).exit_reason == RecExitReason.IRQ
        assert self.context.pc == pc + 4
        return self.context.x

    def exit(self, *args: int) -> RecExit:
        """Make an RSI call; returns the exit."""
        return self.world.enter(self.rec, smc(*args))


@pytest.fixture
def guest() -> Guest:
    """A realm that runs."""
    return Guest()


def test_version_and_features(guest: Guest) -> None:
    """Both revisions are always given; features are zero."""
    assert guest.call(RsiFid.RSI_VERSION, 0x1_0000)[:4] == [0, 0x1_0000, 0x1_0000, 0]
    assert guest.call(RsiFid.RSI_VERSION, 0x2_0000)[:4] == [1, 0x1_0000, 0x1_0000, 0]
    assert guest.call(RsiFid.RSI_FEATURES, 3)[:4] == [0, 0, 0, 0]


#: Calls that have results beyond x3, and the last of them.
LAST_RESULTS: Final[dict[int, int]] = {RsiFid.RSI_MEASUREMENT_READ: 8}


@pytest.mark.parametrize("argument", [0, 1, PAGE_IPA, MASK64])
@pytest.mark.parametrize("fid", [*REALM_CALLS, RmiFid.RMI_VERSION])
def test_registers_without_a_result_are_kept_from_x4_on(
    guest: Guest, fid: int, argument: int
) -> None:
    """SMCCC 1.2, of RSI, PSCI and what is neither, whether the call succeeds or not."""
    given = [*range(100, 127)]
    guest.context.x[4:] = given
    guest.exit(fid, argument, argument + 0x1000 & MASK64, 0)
    last = LAST_RESULTS.get(fid, 3)
    assert guest.context.x[last + 1 :] == given[last - 3 :]
    if guest.context.x[0] != 0:  # a call that fails has no results there
        assert guest.context.x[4:] == given


def test_measurements(guest: Guest) -> None:
    """The RIM can be read, a REM can be extended, and the padding is zero."""
    measurements = guest.world.rmm.realms[guest.rd].measurements
    rim = guest.call(RsiFid.RSI_MEASUREMENT_READ, 0)[1:9]
    assert b"".join(word.to_bytes(8, "little") for word in rim) == measurements.padded(0)
    data = b"twelve bytes"
    words = [int.from_bytes(data[i : i + 8].ljust(8, b"\xee"), "little") for i in (0, 8)]
    assert guest.call(RsiFid.RSI_MEASUREMENT_EXTEND, 2, len(data), *words)[:4] == [0] * 4
    other = World()
    expected = other.rmm.realms[other.realm(rpv=b"p" * 64)].measurements
    expected.extend_rem(2, data)
    assert measurements.values[1:] == expected.values[1:]
    assert guest.call(RsiFid.RSI_MEASUREMENT_EXTEND, 2, 0)[0] == 0
    assert measurements.values[2] != expected.values[2]


@pytest.mark.parametrize(
    "args",
    [
        (RsiFid.RSI_MEASUREMENT_READ, 5),
        (RsiFid.RSI_MEASUREMENT_READ, MASK64),
        (RsiFid.RSI_MEASUREMENT_EXTEND, 0, 8),
        (RsiFid.RSI_MEASUREMENT_EXTEND, 5, 8),
        (RsiFid.RSI_MEASUREMENT_EXTEND, 1, 65),
        (RsiFid.RSI_MEASUREMENT_EXTEND, 1, MASK64),
        *((RsiFid.RSI_REALM_CONFIG, ipa) for ipa in BAD_IPAS),
        *((RsiFid.RSI_HOST_CALL, ipa) for ipa in (0x1080, *BAD_IPAS[1:])),
        *((RsiFid.RSI_ATTESTATION_TOKEN_CONTINUE, ipa, 0, 8) for ipa in BAD_IPAS[:-1]),
        (RsiFid.RSI_ATTESTATION_TOKEN_CONTINUE, PAGE_IPA, 4096, 0),
        (RsiFid.RSI_ATTESTATION_TOKEN_CONTINUE, PAGE_IPA, 4095, 2),
        (RsiFid.RSI_ATTESTATION_TOKEN_CONTINUE, PAGE_IPA, 8, MASK64),
        (RsiFid.RSI_ATTESTATION_TOKEN_CONTINUE, PAGE_IPA, MASK64, 8),
    ],
)
def test_rsi_refuses(guest: Guest, args: tuple[int, ...]) -> None:
    """Arguments out of range are ERROR_INPUT and change nothing of the realm."""
    page = guest.world.realm_memory.read(guest.page, 4096)
    measurements = list(guest.world.rmm.realms[guest.rd].measurements.values)
    assert guest.call(*args)[:4] == [ERROR_INPUT, 0, 0, 0]
    assert guest.world.realm_memory.read(guest.page, 4096) == page
    assert guest.world.rmm.realms[guest.rd].measurements.values == measurements


def test_realm_config(guest: Guest) -> None:
    """Width, algorithm and personalization value; the rest of the page is zero."""
    guest.world.realm_memory.write(guest.page, b"\xff" * 4096)
    assert guest.call(RsiFid.RSI_REALM_CONFIG, PAGE_IPA)[0] == 0
    expected = RealmConfig.of(ipa_width=33, hash_algo=0, rpv=b"p" * 64)
    assert guest.world.realm_memory.read(guest.page, 4096) == bytes(expected)


@pytest.mark.parametrize(
    "call",
    [
        (RsiFid.RSI_REALM_CONFIG, MISSING_IPA),
        (RsiFid.RSI_HOST_CALL, MISSING_IPA + 0x100),
        (RsiFid.RSI_ATTESTATION_TOKEN_CONTINUE, MISSING_IPA, 0, 8),
    ],
)
def test_rsi_asks_the_host_for_a_missing_page(call: tuple[int, ...]) -> None:
    """RAM without a page: a stage-2 fault for the host, and the SMC is executed again."""
    guest = Guest()
    guest.call(RsiFid.RSI_ATTESTATION_TOKEN_INIT)
    pc = guest.context.pc
    leave = guest.exit(*call)
    assert leave.exit_reason == RecExitReason.SYNC
    assert leave.esr == ExceptionClass.DATA_ABORT_LOWER << 26 | 0b000111
    assert (leave.far, leave.hpfar) == (0, hpfar_of(MISSING_IPA))
    assert guest.context.pc == pc
    data = guest.world.delegated()
    guest.world.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, guest.rd, data, MISSING_IPA)
    guest.exit(*call)
    assert guest.context.pc == pc + 4


def test_host_call(guest: Guest) -> None:
    """The host sees immediate and registers; its answer is in the structure at the next entry."""
    asked = HostCall.of(imm=0xA_BCDE, gprs=tuple(range(31)))
    guest.world.realm_memory.write(guest.page + 0x300, asked.data)
    leave = guest.exit(RsiFid.RSI_HOST_CALL, PAGE_IPA + 0x300)
    assert (leave.exit_reason, leave.imm) == (RecExitReason.HOST_CALL, 0xBCDE)
    assert leave.gprs == tuple(range(31))
    answer = tuple(range(100, 131))
    guest.world.enter(guest.rec, enter=RecEnter.of(gprs=answer))
    stored = HostCall(guest.world.realm_memory.read(guest.page + 0x300, 0x100))
    assert (stored.imm, stored.gprs) == (0xA_BCDE, answer)
    assert guest.context.x[:4] == [0, 0, 0, 0]
    assert guest.context.pc == 0x1004
    guest.world.enter(guest.rec)
    stored = HostCall(guest.world.realm_memory.read(guest.page + 0x300, 0x100))
    assert stored.gprs == answer


def test_host_call_whose_page_vanished(guest: Guest) -> None:
    """The entry returns at once with a stage-2 fault, and is completed when the page is back."""
    guest.exit(RsiFid.RSI_HOST_CALL, PAGE_IPA)
    world = guest.world
    world.do(RmiFid.RMI_DATA_DESTROY, guest.rd, PAGE_IPA)
    leave = world.enter(guest.rec, smc(RsiFid.RSI_VERSION, 0x1_0000))
    assert (leave.exit_reason, leave.hpfar) == (RecExitReason.SYNC, hpfar_of(PAGE_IPA))
    assert world.machine.pe(0).steps  # the realm did not run
    world.machine.pe(0).steps.clear()
    # DESTROYED: the realm cannot get it back.  As RAM it can.
    realm = world.rmm.realms[guest.rd]
    table, index, _ = realm.rtt.walk(PAGE_IPA, 3)
    table.entries[index] = 0x20
    data = world.delegated()
    world.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, guest.rd, data, PAGE_IPA)
    world.enter(guest.rec, enter=RecEnter.of(gprs=(5,) * 31))
    assert HostCall(world.realm_memory.read(data, 0x100)).gprs == (5,) * 31


def test_host_call_whose_page_became_empty(guest: Guest) -> None:
    """Another REC of the realm gave it up: the call fails with ERROR_INPUT."""
    guest.exit(RsiFid.RSI_HOST_CALL, PAGE_IPA)
    table, index, _ = guest.world.rmm.realms[guest.rd].rtt.walk(PAGE_IPA, 3)
    table.entries[index] = guest.page | 4
    guest.world.enter(guest.rec)
    assert guest.context.x[0] == ERROR_INPUT


def test_calls_are_events(guest: Guest) -> None:
    """RSI with its parameters, PSCI with its arguments."""
    seen: list[Event] = []
    guest.world.rmm.events.listener = seen.append
    guest.call(RsiFid.RSI_VERSION, 0x1_0000)
    guest.call(0x8400_0000)
    guest.exit(RsiFid.RSI_IPA_STATE_SET, 0x1000, 0x2000, 1, 0)
    lines = [str(event) for event in seen]
    rec = f"rec={guest.rec:#x}"
    assert f"RSI_VERSION {rec} req=0x10000 -> SUCCESS 0x10000 0x10000" in lines
    assert f"PSCI_VERSION {rec} -> 0x10001" in lines
    line = f"RSI_IPA_STATE_SET {rec} base=0x1000 top=0x2000 ripas=1 flags=0x0 -> exit"
    assert line in lines
