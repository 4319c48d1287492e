"""EL3's attestation services, through the shared granule, with a scripted HES."""

import hashlib
from collections.abc import Callable
from threading import Event, Thread

import pytest

from monitor.hes import FirmwareImage
from monitor.monitor import Monitor
from pyvmm.arch import psa
from pyvmm.arch.bits import MASK64
from pyvmm.arch.events import HesCall, Smc
from pyvmm.arch.pas import Pas
from pyvmm.arch.psa import (
    Control,
    DelegatedAttestation,
    ExtendIn,
    MeasuredBoot,
    PsaHandle,
    PsaHash,
    PsaReply,
    PsaRequest,
    PsaStatus,
    Vhuk,
)
from pyvmm.arch.rmmd import (
    HASH_SHA384,
    RmmdError,
    RmmdFid,
    TokenSignOp,
    TokenSignRequest,
    TokenSignResponse,
)
from tests.monitor.conftest import FakeMachine

TOKEN = bytes(range(256)) * 15
PATIENCE = 30.0
ATTEST = PsaHandle.DELEGATED_ATTESTATION
REALM_KEY, PLAT_TOKEN, TOKEN_SIGN, VHUK = (
    RmmdFid.ATTEST_GET_REALM_KEY,
    RmmdFid.ATTEST_GET_PLAT_TOKEN,
    RmmdFid.EL3_TOKEN_SIGN,
    RmmdFid.ISLET_GET_VHUK,
)

Inputs = list[bytes]


class FakeHes:
    """Answers calls by handle and type; records the calls."""

    def __init__(self) -> None:
        self.is_up = True
        self.status = PsaStatus.SUCCESS
        self.calls: list[tuple[int, int, Inputs]] = []
        self.may_sign = Event()
        self.may_sign.set()
        self.distort: Callable[[bytes], bytes] = lambda reply: reply

    def call(self, message: bytes) -> bytes:
        if not self.is_up:
            raise ConnectionError
        head = PsaRequest(message[: PsaRequest.size])
        control = Control(head.ctrl)
        inputs, rest = [], message[PsaRequest.size :]
        for size in head.io_size[: control.IN_LEN]:
            inputs.append(rest[:size])
            rest = rest[size:]
        assert not rest
        self.calls.append((head.handle, control.TYPE, inputs))
        output = b"" if self.status else self.output(head.handle, control.TYPE, inputs)
        reply = PsaReply.of(
            seq_num=head.seq_num, status=self.status, out_size=(len(output), 0, 0, 0)
        )
        return self.distort(bytes(reply) + output)

    def output(self, handle: int, call: int, inputs: Inputs) -> bytes:
        match (handle, call):
            case (PsaHandle.DELEGATED_ATTESTATION, DelegatedAttestation.GET_KEY):
                return b"\x01" * 48
            case (PsaHandle.DELEGATED_ATTESTATION, DelegatedAttestation.GET_PUBLIC_KEY):
                return b"\x04" + b"\x02" * 96
            case (PsaHandle.DELEGATED_ATTESTATION, DelegatedAttestation.GET_TOKEN):
                return TOKEN
            case (PsaHandle.DELEGATED_ATTESTATION, DelegatedAttestation.SIGN_HASH):
                assert self.may_sign.wait(PATIENCE)
                return inputs[1] * 2
            case (PsaHandle.VHUK, Vhuk.GET):
                return inputs[0] * 32
            case _:
                return b""


class Rig:
    """A Monitor with a HES, called as the RMM calls it."""

    def __init__(
        self, machine: FakeMachine, hes: FakeHes | None, *, signs_at_once: bool = False
    ) -> None:
        self.monitor = Monitor(machine, mailbox=hes, signs_at_once=signs_at_once)
        self.shared = self.monitor.layout.shared_pa
        self.memory = machine.memory(Pas.REALM)
        self._el3 = self.monitor.conduit(Pas.REALM)

    def call(self, fid: RmmdFid, *args: int) -> tuple[int, ...]:
        """Call EL3 from the RMM; returns x0 to x3."""
        return self._el3.smc(0, (fid, *args))[:4]

    def push(self, rec: int, ticket: int, digest: bytes) -> tuple[int, ...]:
        """Push a request to sign."""
        request = TokenSignRequest.of(rec=rec, ticket=ticket, hash_alg=HASH_SHA384, hash=digest)
        self.memory.write(self.shared, bytes(request))
        size = TokenSignRequest.size
        return self.call(TOKEN_SIGN, TokenSignOp.PUSH_REQUEST, self.shared, size)

    def pull(self) -> tuple[int, ...]:
        """Pull a response."""
        return self.call(TOKEN_SIGN, TokenSignOp.PULL_RESPONSE, self.shared, 4096)

    def response(self) -> TokenSignResponse:
        """Pull until there is a response."""
        answer = self.pull()
        while answer == error(RmmdError.AGAIN):
            answer = self.pull()
        assert answer == (0, 0, 0, 0)
        return TokenSignResponse(self.memory.read(self.shared, TokenSignResponse.size))


def error(code: RmmdError) -> tuple[int, ...]:
    """Return an error as it appears in x0."""
    return (code & MASK64, 0, 0, 0)


@pytest.fixture
def hes() -> FakeHes:
    """A HES that answers."""
    return FakeHes()


@pytest.fixture
def rig(machine: FakeMachine, hes: FakeHes) -> Rig:
    """A Monitor with it."""
    return Rig(machine, hes)


#: Each call that needs the HES, with its arguments except the buffer.
WITH_BUFFER = [
    pytest.param(lambda buf, size: (REALM_KEY, buf, size, 0), id="realm key"),
    pytest.param(lambda buf, size: (PLAT_TOKEN, buf, size, 32), id="platform token"),
    *(
        pytest.param(lambda buf, size, op=op: (TOKEN_SIGN, op, buf, size, 0), id=op.name)
        for op in (TokenSignOp.PUSH_REQUEST, TokenSignOp.PULL_RESPONSE, TokenSignOp.GET_RAK_PUBLIC)
    ),
]
Arguments = Callable[[int, int], tuple[RmmdFid, int, int, int]]


def test_other_functions_are_unknown(rig: Rig, hes: FakeHes) -> None:
    """And do not reach the HES."""
    assert rig.call(RmmdFid.UNKNOWN, rig.shared, 4096) == error(RmmdError.UNK)
    assert not hes.calls


# --- keys and tokens -----------------------------------------------------------------------------


def test_realm_key_comes_through_the_shared_buffer(rig: Rig, hes: FakeHes) -> None:
    """x1 is its size; the HES is asked for a P-384 key."""
    assert rig.call(REALM_KEY, rig.shared, 4096, 0) == (0, 48, 0, 0)
    assert rig.memory.read(rig.shared, 49) == b"\x01" * 48 + b"\0"
    curve, bits, algorithm = b"\x12", (384).to_bytes(4, "little"), bytes.fromhex("09000002")
    assert hes.calls == [(ATTEST, DelegatedAttestation.GET_KEY, [curve, bits, algorithm])]


def test_public_key_comes_through_the_shared_buffer(rig: Rig) -> None:
    """A SEC1 point."""
    op = TokenSignOp.GET_RAK_PUBLIC
    assert rig.call(TOKEN_SIGN, op, rig.shared, 4096, 0) == (0, 97, 0, 0)
    assert rig.memory.read(rig.shared, 98) == b"\x04" + b"\x02" * 96 + b"\0"


def test_platform_token_comes_in_parts_until_nothing_remains(rig: Rig, hes: FakeHes) -> None:
    """The first call carries the challenge; the next ones take the rest."""
    rig.memory.write(rig.shared, b"c" * 48)
    got, sizes = b"", []
    answer = rig.call(PLAT_TOKEN, rig.shared, 2048, 48)
    while True:
        assert answer[0] == 0
        got += rig.memory.read(rig.shared, answer[1])
        sizes.append(answer[1:3])
        if answer[2] == 0:
            break
        answer = rig.call(PLAT_TOKEN, rig.shared, 2048, 0)
    assert got == TOKEN
    assert sizes == [(2048, 1792), (1792, 0)]
    assert hes.calls == [(ATTEST, DelegatedAttestation.GET_TOKEN, [b"c" * 48])]
    assert rig.call(PLAT_TOKEN, rig.shared, 4096, 0) == error(RmmdError.INVAL)


def test_new_challenge_begins_a_new_token(rig: Rig) -> None:
    """The rest of the old one is dropped, even if there is no new one."""
    assert rig.call(PLAT_TOKEN, rig.shared, 1024, 32)[2] > 0
    assert rig.call(PLAT_TOKEN, rig.shared, 1024, 32) == (0, 1024, len(TOKEN) - 1024, 0)


def test_a_token_that_fails_leaves_no_old_one_behind(rig: Rig, hes: FakeHes) -> None:
    """Its rest must not be taken for the new token."""
    assert rig.call(PLAT_TOKEN, rig.shared, 1024, 32)[2] > 0
    hes.is_up = False
    assert rig.call(PLAT_TOKEN, rig.shared, 1024, 32) == error(RmmdError.UNK)
    assert rig.call(PLAT_TOKEN, rig.shared, 1024, 0) == error(RmmdError.INVAL)


@pytest.mark.parametrize("which", [1, 2])
def test_virtual_huk_comes_in_registers(rig: Rig, which: int) -> None:
    """32 bytes, the first of them lowest in x1."""
    answer = rig.monitor.conduit(Pas.REALM).smc(0, (VHUK, which))
    assert answer == (0, *[int.from_bytes(bytes([which]) * 8, "little")] * 4)


@pytest.mark.parametrize("high", [0, 1 << 32], ids=["W0 only", "all of X0"])
def test_virtual_huk_is_in_no_trace(rig: Rig, high: int) -> None:
    """A trace contains the call without the key, whatever the upper half of X0 is."""
    events: list[object] = []
    rig.monitor._events.listener = events.append
    fid = high | VHUK
    assert len(rig.monitor.conduit(Pas.REALM).smc(0, (fid, 1))) == 5
    assert events == [HesCall("VHUK.GET", "SUCCESS"), Smc(0, Pas.REALM, (fid, 1), (0,))]


def test_calls_of_the_hes_are_events(rig: Rig, hes: FakeHes) -> None:
    """With their status."""
    events: list[object] = []
    rig.monitor._events.listener = events.append
    hes.status = PsaStatus.BAD_STATE
    rig.call(REALM_KEY, rig.shared, 4096, 0)
    hes.is_up = False
    rig.call(REALM_KEY, rig.shared, 4096, 0)
    told = [event for event in events if isinstance(event, HesCall)]
    name = "DELEGATED_ATTESTATION.GET_KEY"
    assert told == [HesCall(name, "BAD_STATE"), HesCall(name, "")]


# --- bad arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [
        (-1, 4096, RmmdError.BAD_ADDR),
        (4096, 1, RmmdError.BAD_ADDR),
        (0, 4097, RmmdError.INVAL),
        (1, 4096, RmmdError.INVAL),
        (0, 0, RmmdError.INVAL),
        (0, MASK64, RmmdError.INVAL),
    ],
)
@pytest.mark.parametrize("arguments", WITH_BUFFER)
def test_buffer_must_lie_in_the_shared_granule(
    rig: Rig, hes: FakeHes, arguments: Arguments, offset: int, size: int, expected: RmmdError
) -> None:
    """EL3 reads and writes nothing else for the RMM."""
    assert rig.call(*arguments(rig.shared + offset, size)) == error(expected)
    assert hes.calls == []


@pytest.mark.parametrize(
    ("fid", "args"),
    [
        pytest.param(REALM_KEY, (4096, 1), id="unknown curve"),
        pytest.param(REALM_KEY, (47, 0), id="no room for the key"),
        pytest.param(PLAT_TOKEN, (4096, 33), id="odd challenge"),
        pytest.param(PLAT_TOKEN, (32, 48), id="challenge beyond the buffer"),
        pytest.param(PLAT_TOKEN, (4096, 0), id="nothing to continue"),
    ],
)
def test_bad_arguments_are_invalid(rig: Rig, fid: RmmdFid, args: tuple[int, int]) -> None:
    """Every other mistake of the RMM is INVAL."""
    assert rig.call(fid, rig.shared, *args) == error(RmmdError.INVAL)


@pytest.mark.parametrize(
    ("op", "size", "curve"),
    [
        pytest.param(0, 4096, 0, id="no operation"),
        pytest.param(4, 4096, 0, id="unknown operation"),
        pytest.param(TokenSignOp.PUSH_REQUEST, TokenSignRequest.size - 1, 0, id="short request"),
        pytest.param(TokenSignOp.PULL_RESPONSE, TokenSignResponse.size - 1, 0, id="no room"),
        pytest.param(TokenSignOp.GET_RAK_PUBLIC, 4096, 1, id="unknown curve"),
        pytest.param(TokenSignOp.GET_RAK_PUBLIC, 96, 0, id="no room for the key"),
    ],
)
def test_bad_token_sign_arguments_are_invalid(rig: Rig, op: int, size: int, curve: int) -> None:
    """They do not make a request."""
    assert rig.call(TOKEN_SIGN, op, rig.shared, size, curve) == error(RmmdError.INVAL)


@pytest.mark.parametrize(("sig_alg", "hash_alg"), [(1, HASH_SHA384), (0, 0), (0, 2)])
def test_only_p384_with_sha384_is_signed(rig: Rig, sig_alg: int, hash_alg: int) -> None:
    """The realm attestation key supports nothing else."""
    request = TokenSignRequest.of(sig_alg=sig_alg, hash_alg=hash_alg)
    rig.memory.write(rig.shared, bytes(request))
    answer = rig.call(TOKEN_SIGN, TokenSignOp.PUSH_REQUEST, rig.shared, request.size)
    assert answer == error(RmmdError.INVAL)


@pytest.mark.parametrize("which", [0, 3, MASK64])
def test_unknown_virtual_huk_is_invalid(rig: Rig, which: int) -> None:
    """There are two."""
    assert rig.call(VHUK, which) == error(RmmdError.INVAL)


# --- realm tokens, signed elsewhere ---------------------------------------------------------------


def test_requests_of_several_recs_are_signed_while_el3_serves(rig: Rig, hes: FakeHes) -> None:
    """Pull returns AGAIN until there is a signature; rec and ticket identify the request."""
    hes.may_sign.clear()
    wanted = {(rec, ticket): bytes([ticket]) * 48 for rec in (0x1000, 0x2000) for ticket in (1, 2)}
    for (rec, ticket), digest in wanted.items():
        assert rig.push(rec, ticket, digest) == (0, 0, 0, 0)
    assert rig.pull() == error(RmmdError.AGAIN)
    assert rig.call(RmmdFid.EL3_FEATURES, 0) == (0, 1, 0, 0)
    hes.may_sign.set()
    responses = [rig.response() for _ in wanted]
    got = {(one.rec, one.ticket): one.signature[: one.sig_size] for one in responses}
    assert got == {key: digest * 2 for key, digest in wanted.items()}
    assert rig.pull() == error(RmmdError.AGAIN)


def test_a_run_that_can_be_repeated_is_signed_at_once(machine: FakeMachine, hes: FakeHes) -> None:
    """While the request is pushed, so that the first pull always has the response."""
    rig = Rig(machine, hes, signs_at_once=True)
    assert rig.push(0x1000, 1, bytes(48)) == (0, 0, 0, 0)
    assert rig.pull() == (0, 0, 0, 0)


def test_too_many_requests_get_again(rig: Rig, hes: FakeHes) -> None:
    """Memory and threads are limited; pulling a response makes room."""
    hes.may_sign.clear()
    count = 0
    while (answer := rig.push(0, count, bytes(48))) == (0, 0, 0, 0):
        count += 1
    assert answer == error(RmmdError.AGAIN)
    assert count == 64
    hes.may_sign.set()
    rig.response()
    assert rig.push(0, count, bytes(48)) == (0, 0, 0, 0)
    assert {rig.response().ticket for _ in range(64)} <= set(range(65))


def test_host_without_threads_gets_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of times: a failed request does not count."""

    def no_thread(_thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(Thread, "start", no_thread)
        for ticket in range(100):
            assert rig.push(0, ticket, bytes(48)) == error(RmmdError.AGAIN)
    assert rig.push(0, 100, bytes(48)) == (0, 0, 0, 0)
    assert rig.response().ticket == 100


@pytest.mark.parametrize("status", [PsaStatus.SUCCESS, PsaStatus.GENERIC_ERROR])
def test_signing_that_fails_gives_an_empty_signature(
    rig: Rig, hes: FakeHes, status: PsaStatus
) -> None:
    """So that no REC waits forever when the HES has ended or refuses."""
    hes.status = status
    hes.is_up = bool(status)
    assert rig.push(7, 8, bytes(48)) == (0, 0, 0, 0)
    response = rig.response()
    assert (response.rec, response.ticket, response.sig_size) == (7, 8, 0)


# --- without a HES, or with one that fails --------------------------------------------------------


@pytest.mark.parametrize("arguments", WITH_BUFFER)
def test_calls_are_unknown_without_a_hes(machine: FakeMachine, arguments: Arguments) -> None:
    """The feature register agrees."""
    rig = Rig(machine, None)
    assert rig.call(*arguments(rig.shared, 4096)) == error(RmmdError.UNK)
    assert rig.call(VHUK, 1) == error(RmmdError.UNK)
    assert rig.call(RmmdFid.EL3_FEATURES, 0) == (0, 0, 0, 0)


@pytest.mark.parametrize("index", [1, MASK64])
def test_there_is_one_feature_register(rig: Rig, index: int) -> None:
    """The others are invalid."""
    assert rig.call(RmmdFid.EL3_FEATURES, index) == error(RmmdError.INVAL)


def need_answer(rig: Rig) -> list[tuple[int, ...]]:
    """Make the calls that wait for the HES's answer."""
    return [
        rig.call(REALM_KEY, rig.shared, 4096, 0),
        rig.call(PLAT_TOKEN, rig.shared, 4096, 32),
        rig.call(TOKEN_SIGN, TokenSignOp.GET_RAK_PUBLIC, rig.shared, 4096, 0),
        rig.call(VHUK, 1),
    ]


def test_ended_hes_is_an_unknown_error(rig: Rig, hes: FakeHes) -> None:
    """Its process may die at any time."""
    hes.is_up = False
    assert need_answer(rig) == [error(RmmdError.UNK)] * 4


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (PsaStatus.INVALID_ARGUMENT, RmmdError.INVAL),
        (PsaStatus.BAD_STATE, RmmdError.UNK),
        (PsaStatus.GENERIC_ERROR, RmmdError.UNK),
    ],
)
def test_refusal_of_the_hes_is_an_error(
    rig: Rig, hes: FakeHes, status: PsaStatus, expected: RmmdError
) -> None:
    """INVAL for the RMM's arguments, UNK otherwise; the buffer is unchanged."""
    hes.status = status
    assert need_answer(rig) == [error(expected)] * 4
    assert rig.memory.read(rig.shared, 4096) == bytes(4096)


@pytest.mark.parametrize(
    "distort",
    [
        pytest.param(lambda _reply: b"", id="nothing"),
        pytest.param(lambda reply: reply[:-1], id="cut"),
        pytest.param(lambda reply: reply + b"\0", id="a byte more"),
        pytest.param(lambda reply: reply[:8], id="half a head"),
        pytest.param(lambda reply: b"\1" + reply[1:], id="another version"),
        pytest.param(lambda reply: reply[:1] + bytes([reply[1] ^ 1]) + reply[2:], id="another's"),
        pytest.param(lambda reply: reply[:10] + b"\1" + reply[11:], id="two outputs"),
        pytest.param(lambda reply: reply[:8] + b"\xff\xff" + bytes(6 + 0xFFFF), id="too much"),
    ],
)
def test_invalid_reply_of_the_hes_is_an_unknown_error(
    rig: Rig, hes: FakeHes, distort: Callable[[bytes], bytes]
) -> None:
    """EL3 rejects replies that do not match the request."""
    hes.distort = distort
    assert need_answer(rig) == [error(RmmdError.UNK)] * 4


@pytest.mark.parametrize("size", [0, 31, 33])
def test_virtual_huk_of_another_size_is_an_unknown_error(
    rig: Rig, hes: FakeHes, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Four registers take 32 bytes."""
    monkeypatch.setattr(hes, "output", lambda *_: bytes(size))
    assert rig.call(VHUK, 1) == error(RmmdError.UNK)


# --- measured boot --------------------------------------------------------------------------------


def test_images_are_measured_and_locked(rig: Rig, hes: FakeHes) -> None:
    """The HES gets the hash and the signer."""
    rig.monitor.measure([FirmwareImage(14, "RMM", "1.2.3", b"s" * 32, b"image")])
    what = ExtendIn.of(index=14, lock=1, algorithm=PsaHash.SHA_256, sw_type=b"RMM", sw_type_size=3)
    inputs = [bytes(what), b"s" * 32, b"1.2.3", hashlib.sha256(b"image").digest()]
    assert hes.calls == [(PsaHandle.MEASURED_BOOT, MeasuredBoot.EXTEND, inputs)]
    assert psa.NUM_SLOTS == 32


def test_failed_measurement_is_an_error(rig: Rig, hes: FakeHes) -> None:
    """The caller decides what to do: the RMM has not been entered yet."""
    hes.status = PsaStatus.BAD_STATE
    with pytest.raises(OSError, match="BAD_STATE"):
        rig.monitor.measure([FirmwareImage(14, "RMM", "1", b"s" * 32, b"")])
