"""The client of the guest agent, against a scripted agent."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from struct import pack, unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.arch.errors import UserError
from pyvmm.vm.agent.client import MAX_BACKLOG, MAX_TOKEN, AgentClient
from pyvmm.vm.agent.command import WINDOW, AgentError, Command, Output, Status, Stream
from pyvmm.vm.agent.protocol import (
    MAX_PAYLOAD,
    VERSION,
    Ability,
    Frame,
    FrameReader,
    Reply,
    Request,
    exec_payload,
)
from tests.waiting import wait_until

BOTH = Ability.ATTEST | Ability.EXEC
SOON = 0.02
PATIENCE = 20.0  # seconds


def frame(kind: int, channel: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return pack("<IHH", channel, kind, len(payload)) + payload


def hello(version: int = VERSION, abilities: int = BOTH, num_channels: int = 4) -> bytes:
    """Return the agent's first frame."""
    return frame(Reply.HELLO, 0, pack("<HHH", version, abilities, num_channels))


class Guest:
    """A port with a scripted agent."""

    def __init__(self, *setup: Sequence[str]) -> None:
        self.complaints: list[str] = []
        self.client = AgentClient(setup, self.complaints.append)
        self.sent: list[Frame] = []
        self.backlog = 0
        self.is_open = False
        self.answer: Callable[[Frame], bytes] = lambda _: b""
        self._reader = FrameReader()
        self.client.attach(self)

    def send(self, data: bytes) -> bool:
        if not self.is_open:
            return False
        for request in self._reader.feed(data):
            self.sent.append(request)
            self.say(self.answer(request))
        return True

    def start(self, first: bytes | None = None) -> "Guest":
        """Open the port and say hello."""
        self.is_open = True
        self.client.opened()
        self.say(hello() if first is None else first)
        return self

    def say(self, data: bytes) -> None:
        """Send bytes."""
        if data:
            self.client.received(data)

    def stop(self) -> None:
        """Close the port."""
        self.is_open = False
        self.client.closed()


@pytest.fixture
def guest() -> Guest:
    """Return a guest whose agent has said hello."""
    return Guest().start()


def start(guest: Guest, *argv: str) -> tuple[Command, int]:
    """Start a command; return its channel too."""
    command = guest.client.start(argv or ("true",))
    return command, guest.sent[-1].channel


def granted(guest: Guest, channel: int) -> int:
    """Return how much output the host has granted."""
    grants = [f for f in guest.sent if (f.type, f.channel) == (Request.GRANT, channel)]
    return sum(unpack("<I", f.payload)[0] for f in grants)


def test_command_passes_argv_env_and_directory(guest: Guest) -> None:
    """They are counts and strings, each terminated by a zero byte; other bytes are allowed."""
    guest.client.start(["cat", "a b", "ü"], {"X": "1=2"}, "/srv")
    request = guest.sent[0]
    assert request.type == Request.EXEC
    assert request.payload == pack("<HH", 3, 1) + "/srv\0cat\0a b\0ü\0X=1=2\0".encode()


@pytest.mark.parametrize(
    ("argv", "env", "complaint"),
    [
        ([], {}, "no command"),
        ([""], {}, "no command"),
        (["a\0b"], {}, "zero byte"),
        (["a"], {"": "x"}, "needs a name"),
        (["a"], {"x=y": "x"}, "needs a name"),
        (["a" * MAX_PAYLOAD], {}, "standard input"),
        (["a"] * 9000, {}, "standard input"),
    ],
)
def test_command_that_cannot_be_passed_on_is_refused(
    argv: list[str], env: dict[str, str], complaint: str
) -> None:
    """The error is one line, and nothing is sent."""
    with pytest.raises(UserError, match=complaint):
        exec_payload(argv, env, "")


def test_streams_are_apart_and_in_order(guest: Guest) -> None:
    """Adjacent output of one stream may be merged; the status comes last."""
    command, channel = start(guest)
    for kind, data in ((2, b"a"), (2, b"b"), (3, b"c"), (2, b"d")):
        guest.say(frame(kind, channel, data))
    guest.say(frame(Reply.EXIT, channel, pack("<HH", 3, 0)))
    read = [command.read(0) for _ in range(5)]
    assert read == [
        Output(Stream.STDOUT, b"ab"),
        Output(Stream.STDERR, b"c"),
        Output(Stream.STDOUT, b"d"),
        Status(3),
        Status(3),
    ]


def test_status_code_is_a_shell_s() -> None:
    """For a signal it is 128 plus the signal's number."""
    assert (Status(3).code, Status(0, 9).code) == (3, 137)


def test_reader_grants_what_it_has_read(guest: Guest) -> None:
    """At most a window is in transit; the reader grants again after half a window."""
    command, channel = start(guest)
    assert granted(guest, channel) == WINDOW
    for _ in range(WINDOW // 2**15):
        guest.say(frame(Reply.STDOUT, channel, bytes(2**15)))
    assert isinstance(command.read(0), Output)
    assert granted(guest, channel) == 2 * WINDOW
    guest.say(frame(Reply.STDERR, channel, bytes(2**15)))
    assert isinstance(command.read(0), Output)
    assert granted(guest, channel) == 2 * WINDOW


def test_more_output_than_granted_ends_the_agent(guest: Guest) -> None:
    """So a guest cannot fill the host's memory."""
    command, channel = start(guest)
    for _ in range(WINDOW // 2**15):
        guest.say(frame(Reply.STDOUT, channel, bytes(2**15)))
    guest.say(frame(Reply.STDOUT, channel, b"x"))
    assert isinstance(command.read(0), Output)
    with pytest.raises(AgentError, match="more output"):
        command.read(0)
    with pytest.raises(AgentError, match="more output"):
        guest.client.start(["true"])


def test_single_bytes_cost_no_more_than_blocks(guest: Guest) -> None:
    """Alternating streams are kept in few pieces; no byte is lost."""
    command, channel = start(guest)
    pair = frame(Reply.STDOUT, channel, b"o") + frame(Reply.STDERR, channel, b"e")
    guest.say(pair * 2000)
    guest.say(frame(Reply.EXIT, channel, pack("<HH", 0, 0)))
    pieces = []
    while isinstance(output := command.read(0), Output):
        pieces.append(output)
    assert len(pieces) <= 256
    for stream, byte in ((Stream.STDOUT, b"o"), (Stream.STDERR, b"e")):
        assert b"".join(p.data for p in pieces if p.stream is stream) == byte * 2000


def test_input_waits_for_the_guest(guest: Guest) -> None:
    """Only granted input is sent; a waiting feeder continues with the next grant."""
    command, channel = start(guest, "cat")
    with pytest.raises(AgentError, match="read nothing"):
        command.feed(b"x", SOON)
    guest.say(frame(Reply.GRANTED, channel, pack("<I", 3)))
    feeder = threading.Thread(target=command.feed, args=(b"abcdef", 10))
    feeder.start()
    guest.say(frame(Reply.GRANTED, channel, pack("<I", 100)))
    feeder.join(10)
    command.end_input()
    inputs = [f.payload for f in guest.sent if f.type == Request.STDIN]
    assert (b"".join(inputs), inputs[-1]) == (b"abcdef", b"")


def test_input_of_a_command_that_has_ended_is_dropped(guest: Guest) -> None:
    """This is like input for a closed pipe."""
    command, channel = start(guest)
    guest.say(frame(Reply.EXIT, channel, pack("<HH", 0, 0)))
    command.feed(b"x" * 100, 0)
    assert not [f for f in guest.sent if f.type == Request.STDIN]


def test_leaving_a_command_kills_it(guest: Guest) -> None:
    """Later output is dropped, and waiting threads get an error."""
    command, channel = start(guest)
    with command:
        pass
    kinds = [f.type for f in guest.sent if f.channel == channel]
    assert kinds == [Request.EXEC, Request.GRANT, Request.SIGNAL, Request.GRANT]
    for _ in range(2 * WINDOW // 2**15):
        guest.say(frame(Reply.STDOUT, channel, bytes(2**15)))
    with pytest.raises(AgentError, match="abandoned"):
        command.read(0)
    guest.say(frame(Reply.EXIT, channel, pack("<HH", 0, 9)))
    assert guest.client.is_ready


def test_run_collects_a_command(guest: Guest) -> None:
    """It sends input and returns both streams and the status."""

    def answer(request: Frame) -> bytes:
        if request.type == Request.EXEC:
            return frame(Reply.GRANTED, request.channel, pack("<I", 100))
        if request.type != Request.STDIN or not request.payload:
            return b""
        return (
            frame(Reply.STDOUT, request.channel, request.payload.upper())
            + frame(Reply.STDERR, request.channel, b"!")
            + frame(Reply.EXIT, request.channel, pack("<HH", 0, 0))
        )

    guest.answer = answer
    done = guest.client.run(["tr"], stdin=b"abc", timeout=10)
    assert (done.stdout, done.stderr, done.status) == (b"ABC", b"!", Status(0))


@pytest.mark.parametrize(
    ("reason", "complaint"),
    [
        (1, "limit of commands"),
        (2, r"pyvmm\.agent=exec"),
        (3, "image again"),
        (9, "unknown reason 9"),
    ],
)
def test_refusal_says_why(guest: Guest, reason: int, complaint: str) -> None:
    """Each reason has its own message; the next command may succeed."""
    command, channel = start(guest)
    guest.say(frame(Reply.REFUSED, channel, pack("<I", reason)))
    with pytest.raises(AgentError, match=complaint):
        command.read(0)
    guest.client.start(["true"])


def test_number_of_commands_is_the_agent_s(guest: Guest) -> None:
    """The limit is the number of channels; a command that ends frees one."""
    channels = [start(guest)[1] for _ in range(4)]
    assert len(set(channels)) == 4
    with pytest.raises(AgentError, match="limit of commands"):
        guest.client.start(["true"])
    guest.say(frame(Reply.EXIT, channels[1], pack("<HH", 0, 0)))
    guest.client.start(["true"])


def test_abilities_are_the_guest_s() -> None:
    """Requests without the ability are not sent."""
    guest = Guest().start(hello(abilities=Ability.ATTEST))
    with pytest.raises(AgentError, match=r"pyvmm\.agent=exec"):
        guest.client.start(["true"])
    assert guest.sent == []


def test_attest_returns_the_token(guest: Guest) -> None:
    """The token is the report's standard output; the reason of a failure its standard error."""
    challenge = bytes(range(64))
    replies = [frame(Reply.STDOUT, 1, b"to"), frame(Reply.STDOUT, 1, b"ken")]
    replies += [frame(Reply.EXIT, 1, pack("<HH", 0, 0))]
    guest.answer = lambda request: b"".join(replies) if request.type == Request.ATTEST else b""
    assert guest.client.attest(challenge) == b"token"
    assert guest.sent[0] == Frame(Request.ATTEST, 1, challenge)
    failure = frame(Reply.STDERR, 2, b"no\nrealm") + frame(Reply.EXIT, 2, pack("<HH", 1, 0))
    guest.answer = lambda request: failure if request.type == Request.ATTEST else b""
    with pytest.raises(AgentError, match=r"^no token: no realm$"):
        guest.client.attest(challenge)
    with pytest.raises(UserError, match="has 63 bytes: give 64"):
        guest.client.attest(challenge[1:])


def test_attest_takes_no_endless_token(guest: Guest) -> None:
    """An answer longer than any token is rejected."""
    chunk = frame(Reply.STDOUT, 1, bytes(MAX_PAYLOAD))
    guest.answer = lambda request: chunk * 2 if request.type == Request.ATTEST else b""
    with pytest.raises(AgentError, match=f"limit is {MAX_TOKEN}"):
        guest.client.attest(bytes(64))


def test_ping_waits_for_its_own_answer(guest: Guest) -> None:
    """Unexpected answers have no effect."""
    guest.answer = lambda request: frame(Reply.PONG, 0, request.payload)
    assert guest.client.ping(10) < 10
    guest.answer = lambda _: frame(Reply.PONG, 0, pack("<I", 1))
    with pytest.raises(AgentError, match="has not answered"):
        guest.client.ping(SOON)


def test_program_s_end_is_noted(guest: Guest) -> None:
    """The init of a root file system for one program sends it."""
    assert guest.client.ended is None
    guest.say(frame(Reply.ENDED, 0, pack("<HH", 7, 0)))
    assert guest.client.ended == Status(7)


def test_without_an_agent_the_line_says_what_to_do() -> None:
    """The guest has no port, or has not opened it."""
    with pytest.raises(AgentError, match="--agent"):
        AgentClient().wait_ready(10)
    with pytest.raises(AgentError, match="pyvmm image build"):
        Guest().client.wait_ready(SOON)


def test_wait_ready_returns_with_the_hello() -> None:
    """Waiting threads are woken."""
    guest = Guest()
    waiter = threading.Thread(target=guest.client.wait_ready, args=(10,))
    waiter.start()
    guest.start()
    waiter.join(10)
    assert not waiter.is_alive()


def test_agent_that_goes_takes_its_commands_along(guest: Guest) -> None:
    """The next agent starts afresh; an incomplete frame of the first one is discarded."""
    command, _ = start(guest)
    guest.say(frame(Reply.STDOUT, 1, b"abc")[:5])
    guest.stop()
    with pytest.raises(AgentError, match="is gone"):
        command.read(0)
    with pytest.raises(AgentError, match="no agent"):
        guest.client.start(["true"])
    guest.start()
    guest.client.start(["true"])


def test_agent_that_reads_nothing_is_given_up(guest: Guest) -> None:
    """The data waiting for it is bounded."""
    guest.backlog = MAX_BACKLOG + 1
    command, _ = start(guest)
    with pytest.raises(AgentError, match="does not read"):
        command.read(0)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (frame(Reply.PONG, 0, bytes(4)), "no hello"),
        (hello(version=2), "version 2"),
        (hello() + hello(), "hello twice"),
        (frame(Reply.HELLO, 0, b"x"), "1 bytes"),
        (hello() + frame(Reply.ENDED, 0), "0 bytes"),
        (hello() + frame(Reply.ENDED, 0, pack("<HH", 256, 0)), "exit status 256"),
        (hello() + frame(Reply.ENDED, 0, pack("<HH", 0, 65)), "signal 65"),
    ],
)
def test_what_is_no_agent_is_not_listened_to(data: bytes, complaint: str) -> None:
    """It is ignored until the port is opened again."""
    guest = Guest().start(data + hello())
    with pytest.raises(AgentError, match=complaint):
        guest.client.wait_ready(0)
    guest.stop()
    guest.start()
    guest.client.wait_ready(0)


PAYLOADS = st.one_of(st.binary(max_size=9), st.just(b"\1\0\0\0"))
FRAMES = st.builds(frame, st.integers(0, 12), st.integers(0, 4), PAYLOADS)
CHUNKS = st.lists(st.one_of(FRAMES, st.binary(max_size=20)), max_size=20)


@given(chunks=CHUNKS, split=st.integers(1, 50))
def test_client_is_total_over_any_bytes(chunks: list[bytes], split: int) -> None:
    """With frames or noise in pieces of any size, commands get output, then their end."""
    guest = Guest().start()
    commands = [guest.client.start(["true"]) for _ in range(3)]
    data = b"".join(chunks)
    for at in range(0, len(data), split):
        guest.say(data[at : at + split])
    guest.stop()
    for command in commands:
        with suppress(AgentError):
            while isinstance(command.read(0), Output):
                pass
        assert command.has_ended


def ending(code: int, errors: bytes = b"") -> Callable[[Frame], bytes]:
    """Return an agent whose commands end at once."""

    def answer(request: Frame) -> bytes:
        if request.type != Request.EXEC:
            return b""
        said = frame(Reply.STDERR, request.channel, errors) if errors else b""
        return said + frame(Reply.EXIT, request.channel, pack("<HH", code, 0))

    return answer


def test_agent_is_ready_after_the_setup() -> None:
    """Its commands run one after the other, before any other; each agent runs them again."""
    guest = Guest(["mount", "a"], ["mount", "b"])
    guest.answer = ending(0)
    guest.start(hello())
    guest.client.wait_ready(PATIENCE)
    assert guest.client.run(["true"]).status.code == 0
    guest.client.closed()
    guest.start(hello())
    guest.client.wait_ready(PATIENCE)
    words = [each.payload[5:].split(b"\0")[:-1] for each in guest.sent if each.type == Request.EXEC]
    setup = [[b"mount", b"a"], [b"mount", b"b"]]
    assert words == [*setup, [b"true"], *setup]
    assert not guest.complaints


def test_agent_is_not_ready_if_the_setup_fails() -> None:
    """Every request tells why, and so does a line; a new agent has another chance."""
    guest = Guest(["mount", "a"], ["mount", "b"])
    guest.answer = ending(32, b"no such\n device")
    guest.start(hello())
    with pytest.raises(AgentError, match="the guest is not set up: mount a failed: no such device"):
        guest.client.wait_ready(PATIENCE)
    wait_until(lambda: bool(guest.complaints), PATIENCE)
    assert guest.complaints == ["mount a failed: no such device"]
    guest.client.closed()
    guest.answer = ending(0)
    guest.start(hello())
    guest.client.wait_ready(PATIENCE)


def test_agent_that_may_not_run_commands_cannot_set_up() -> None:
    """The reason is the agent's."""
    guest = Guest(["mount", "a"]).start(hello(abilities=Ability.ATTEST))
    with pytest.raises(AgentError, match="not set up: this guest does not allow its host"):
        guest.client.wait_ready(PATIENCE)
