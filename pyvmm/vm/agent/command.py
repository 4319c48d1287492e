"""A command that runs in a guest."""

import sys
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from struct import Struct
from typing import Final, Protocol, Self

from pyvmm.arch.errors import UserError
from pyvmm.vm.agent.protocol import (
    MAX_PAYLOAD,
    Frame,
    FrameError,
    Reason,
    Reply,
    Request,
    encode,
    encode_number,
    encode_terminal,
)

#: Bytes of output that a command may be ahead of its reader.
WINDOW: Final = 1 << 18
#: Limit for the pieces that buffered output is kept in, so that single bytes do not cost more.
_MAX_PIECES: Final = 256
_NO_LIMIT: Final = 0xFFFF_FFFF
_SIGKILL: Final = 9
NUMBER_PAYLOAD: Final = Struct("<I")

REASONS: Final[Mapping[int, str]] = {
    Reason.BUSY: "the guest's agent has reached its limit of commands: wait for one to end",
    Reason.NOT_ALLOWED: (
        "this guest does not allow its host to do that: its kernel parameters can, with"
        " pyvmm.agent=exec or pyvmm.agent=attest"
    ),
    Reason.MALFORMED: "the guest's agent rejected the request as malformed: build its image again",
}


class AgentError(UserError):
    """A request to the guest's agent failed; the guest continues."""


class Sender(Protocol):
    """The client of the agent, as its commands use it."""

    @property
    def lock(self) -> threading.Lock:
        """Guards the commands; not held while sending."""
        ...

    def send(self, data: bytes) -> None:
        """Send a frame."""
        ...


class Stream(Enum):
    """The stream that a command wrote to."""

    STDOUT = Reply.STDOUT
    STDERR = Reply.STDERR


@dataclass(frozen=True, slots=True)
class Output:
    """Output of a command."""

    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class Status:
    """How a program ended: its exit status, or the signal that ended it."""

    exit_status: int = 0
    signal: int = 0

    @property
    def code(self) -> int:
        """The value of $? in a shell."""
        return 128 + self.signal if self.signal else self.exit_status


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that has ended."""

    status: Status
    stdout: bytes
    stderr: bytes


class Command:
    """One command in the guest; a context manager that kills it at the end if it still runs.

    One thread may read while another feeds.
    """

    def __init__(self, client: Sender, channel: int) -> None:
        self._client = client
        self._channel = channel
        self._changed = threading.Condition(client.lock)
        self._output: deque[tuple[Stream, bytearray]] = deque()
        self._held = 0  # bytes received and not granted again yet
        self._consumed = 0  # those of them that were read
        self._credit = 0  # bytes of input that the guest accepts now
        self._status: Status | None = None
        self._error: AgentError | None = None
        self._is_closed = False

    def read(self, timeout: float | None = None) -> Output | Status:
        """Return the next output; after all output, the status.

        Raises:
            AgentError: nothing arrived in time (seconds), or the agent is gone.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._output or self._is_over, timeout):
                raise AgentError(f"the command has written nothing for {timeout:g} s")
            if not self._output:
                return self._outcome()
            stream, data = self._output.popleft()
            output = Output(stream, bytes(data))
            self._consumed += len(output.data)
            due = self._consumed if self._consumed >= WINDOW // 2 else 0
            self._consumed -= due
            self._held -= due
        if due:
            self._client.send(encode_number(Request.GRANT, self._channel, due))
        return output

    def feed(self, data: bytes, timeout: float | None = None) -> None:
        """Send input; return when all of it is sent.

        Input for a command that has closed its standard input is dropped.

        Raises:
            AgentError: it did not read in time (seconds), or the agent is gone.
        """
        left = memoryview(data)
        while left:
            with self._changed:
                if not self._changed.wait_for(lambda: self._credit or self._is_over, timeout):
                    raise AgentError(f"the command has read nothing for {timeout:g} s")
                if self._is_over:
                    self._outcome()
                    return
                size = min(self._credit, MAX_PAYLOAD)
                part, left = bytes(left[:size]), left[size:]
                self._credit -= len(part)
            self._client.send(encode(Request.STDIN, self._channel, part))

    def end_input(self) -> None:
        """Close its standard input."""
        self._client.send(encode(Request.STDIN, self._channel))

    def signal(self, number: int) -> None:
        """Send a signal to the command and its children."""
        self._client.send(encode_number(Request.SIGNAL, self._channel, number))

    def resize(self, columns: int, rows: int) -> None:
        """Give its terminal another size; without effect if it has none.

        Raises:
            UserError: no terminal can have that size.
        """
        self._client.send(encode_terminal(self._channel, columns, rows))

    def close(self) -> None:
        """Kill the command if it still runs, and drop further output."""
        with self._changed:
            has_ended = self.has_ended
            self._is_closed = True
            self._output.clear()
            self._changed.notify_all()
        if not has_ended:
            self.signal(_SIGKILL)
            self._client.send(encode_number(Request.GRANT, self._channel, _NO_LIMIT))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _is_over(self) -> bool:
        return self.has_ended or self._is_closed

    def _outcome(self) -> Status:
        if self._error is not None:
            raise self._error
        if self._status is None:
            raise AgentError("the command was abandoned")
        return self._status

    # --- for the client, which holds the lock ----------------------------------------------------

    def take(self, frame: Frame) -> None:
        """Process a frame of this channel.

        Raises:
            FrameError: it is not valid now.
        """
        match frame.type:
            case Reply.STDOUT | Reply.STDERR:
                self._take_output(Stream(frame.type), frame.payload)
            case Reply.GRANTED:
                self._credit = min(self._credit + frame.numbers(NUMBER_PAYLOAD)[0], _NO_LIMIT)
            case Reply.EXIT:
                self._status = Status(*frame.status())
            case Reply.REFUSED:
                (reason,) = frame.numbers(NUMBER_PAYLOAD)
                self._error = AgentError(
                    REASONS.get(
                        reason, f"the guest's agent refused for the unknown reason {reason}"
                    )
                )
            case _:
                raise FrameError(f"a frame of type {frame.type}")
        self._changed.notify_all()

    def _take_output(self, stream: Stream, data: bytes) -> None:
        if self._is_closed:
            return
        self._held += len(data)
        if self._held > WINDOW:
            raise FrameError("more output than was granted")
        # Neighbours belong to different streams; with too many pieces, their order is lost.
        near = [self._output[-n] for n in (1, 2) if n <= len(self._output)]
        if len(self._output) < _MAX_PIECES:
            near = near[:1]
        for known, piece in near:
            if known is stream:
                piece.extend(data)
                return
        self._output.append((stream, bytearray(data)))

    def fail(self, error: AgentError) -> None:
        """End the command without a status."""
        self._error = error
        self._changed.notify_all()

    @property
    def has_ended(self) -> bool:
        """Whether the channel is closed: no more frames may come."""
        return self._status is not None or self._error is not None


def collect(command: Command, timeout: float | None, limit: int = sys.maxsize) -> Completed:
    """Read a command to its end."""
    streams = {stream: bytearray() for stream in Stream}
    while isinstance(output := command.read(timeout), Output):
        streams[output.stream] += output.data
        if len(streams[output.stream]) > limit:
            raise AgentError(f"the guest's answer is too long; the limit is {limit} bytes")
    return Completed(output, bytes(streams[Stream.STDOUT]), bytes(streams[Stream.STDERR]))
