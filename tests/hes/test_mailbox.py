"""The mailbox: any bytes get one reply, and only a valid call changes anything."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hes.errors import PsaError
from hes.mailbox import Call, answer
from pyvmm.arch.psa import (
    MAX_PAYLOAD,
    MAX_VECTORS,
    DelegatedAttestation,
    HesService,
    MeasuredBoot,
    PsaHandle,
    PsaReply,
    PsaRequest,
    PsaStatus,
    Vhuk,
)
from tests.hes.rig import Rig, parse_reply, request

ECHO = 7


def serve(call: Call) -> tuple[bytes, ...]:
    """Return the inputs."""
    if call.type != ECHO:
        raise PsaError(PsaStatus.NOT_SUPPORTED, "this only echoes")
    return call.inputs


@pytest.mark.parametrize("inputs", [(), (b"a",), (b"", b"bc"), (b"a" * MAX_PAYLOAD,)])
def test_call_carries_its_vectors(inputs: tuple[bytes, ...]) -> None:
    """In order and of any size, including zero."""
    message = request(1, ECHO, inputs, tuple(map(len, inputs)), seq_num=9)
    reply = answer(message, serve)
    assert parse_reply(reply) == (PsaStatus.SUCCESS, inputs)
    assert reply[:4] == message[:4]


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        ((1,), PsaStatus.BUFFER_TOO_SMALL),
        ((), PsaStatus.PROGRAMMER_ERROR),
        ((2, 0), PsaStatus.SUCCESS),
    ],
)
def test_output_must_fit_the_limits(limits: tuple[int, ...], status: PsaStatus) -> None:
    """The caller sets them."""
    assert parse_reply(answer(request(1, ECHO, (b"ab",), limits), serve)).status is status


def test_refusal_may_carry_a_line() -> None:
    """Cut to the caller's limit."""
    assert parse_reply(answer(request(1, 0, (), (100,)), serve)).text == "this only echoes"
    assert parse_reply(answer(request(1, 0, (), (4,)), serve)).text == "this"
    assert parse_reply(answer(request(1, 0, (), ()), serve)).text == ""


GOOD = request(1, ECHO, (b"ab", b"c"), (2, 1))


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(GOOD[:19], id="half a head"),
        pytest.param(GOOD[:-1], id="inputs cut"),
        pytest.param(GOOD + b"\0", id="a byte more"),
        pytest.param(b"\1" + GOOD[1:], id="another version"),
        pytest.param(GOOD[:10] + b"\x0a" + GOOD[11:], id="reserved bits"),
        pytest.param(GOOD[:11] + b"\x04" + GOOD[12:], id="too many vectors"),
        pytest.param(GOOD[:10] + b"\x01" + GOOD[11:], id="size without a vector"),
    ],
)
def test_malformed_message_is_a_programmer_error(message: bytes) -> None:
    """The reply repeats the head as far as possible."""
    reply = answer(message, serve)
    assert parse_reply(reply) == (PsaStatus.PROGRAMMER_ERROR, ())
    if len(message) >= PsaRequest.size:
        assert reply[:4] == message[:4]


@given(st.binary(max_size=PsaRequest.size + 64))
@example(bytes(PsaRequest.size))
def test_any_bytes_get_a_reply(message: bytes) -> None:
    """A complete one."""
    parse_reply(answer(message, serve))


# --- the same with the real services -------------------------------------------------------------


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One HES for all examples: no example may affect the next one."""
    rig = Rig(tmp_path_factory.mktemp("hes"))
    rig.power_on()
    yield rig
    rig.token()


calls = st.sampled_from(
    [
        *((PsaHandle.MEASURED_BOOT, call) for call in MeasuredBoot),
        *((PsaHandle.DELEGATED_ATTESTATION, call) for call in DelegatedAttestation),
        *((PsaHandle.VHUK, call) for call in Vhuk),
        *((PsaHandle.HES, call) for call in HesService if call is not HesService.SET_LIFECYCLE),
    ]
)
vectors = st.lists(
    st.one_of(
        st.binary(max_size=64),
        st.sampled_from([1, 3, 4, 32, 44, 48]).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
    ),
    max_size=MAX_VECTORS,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls, vectors, st.integers(0, MAX_VECTORS), st.integers(0, MAX_PAYLOAD))
def test_any_inputs_of_any_call_have_a_reply(
    machine: Rig, what: tuple[PsaHandle, int], inputs: list[bytes], num_limits: int, limit: int
) -> None:
    """And do not change the identity."""
    before = machine.hes.store.load()
    limits = (limit,) * min(num_limits, MAX_VECTORS - len(inputs))
    reply = machine.send(request(*what, tuple(inputs), limits))
    parse_reply(reply)
    assert len(reply) <= PsaReply.size + MAX_PAYLOAD
    after = machine.hes.store.load()
    assert before is not None
    assert after is not None
    assert (after.huk, after.guk, after.lifecycle) == (before.huk, before.guk, before.lifecycle)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_have_a_reply_of_the_services(machine: Rig, message: bytes) -> None:
    """Well formed or not."""
    parse_reply(machine.send(message))


def test_unknown_calls_are_not_supported(tmp_path: Path) -> None:
    """Of a known handle or not."""
    rig = Rig(tmp_path)
    assert rig.call(PsaHandle.VHUK, 1001).status is PsaStatus.NOT_SUPPORTED
    assert rig.call(PsaHandle.UNKNOWN, 1001).status is PsaStatus.NOT_SUPPORTED
