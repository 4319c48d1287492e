"""The client of the guest agent: runs commands and gets attestation tokens in the guest.

The guest is not trusted: invalid data from its agent raises an `AgentError`, and its output takes
at most one window of memory per command.  Nor does the guest trust us: see docs/agent.md.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from struct import Struct
from typing import Final, Protocol

from pyvmm.arch import saved
from pyvmm.arch.errors import UserError
from pyvmm.arch.saved import State
from pyvmm.arch.system import NoThreadError, start_thread
from pyvmm.vm.agent.command import (
    NUMBER_PAYLOAD,
    REASONS,
    WINDOW,
    AgentError,
    Command,
    Completed,
    Status,
    collect,
)
from pyvmm.vm.agent.protocol import (
    CHALLENGE_SIZE,
    VERSION,
    Ability,
    Frame,
    FrameError,
    FrameReader,
    Reason,
    Reply,
    Request,
    encode,
    encode_number,
    encode_terminal,
    exec_payload,
)

#: Bytes that may wait for an agent that does not read its port.
MAX_BACKLOG: Final = 1 << 22
MAX_TOKEN: Final = 1 << 16
_NO_LIMIT: Final = 0xFFFF_FFFF
_SETUP_PATIENCE: Final = 60.0  # seconds for output or the end of a command
_hello = Struct("<HHH")  # version, abilities, number of channels


class Port(Protocol):
    """The port as the client uses it."""

    @property
    def backlog(self) -> int:
        """The number of bytes waiting for the guest."""
        ...

    def send(self, data: bytes) -> bool:
        """Send bytes; return False if the port is closed in the guest."""
        ...


_SAVED: Final = ("_num_channels", "_last_channel", "_last_ping", "_last_pong")


class AgentClient:
    """The client of one guest's agent; a `PortUser`.

    Args:
        setup: commands that each agent runs before it counts as ready; if one fails, it never does.
        notify: called with a line for the user if one fails; in a thread of its own.

    Concurrency: any thread.  ``lock`` is never held while sending, because the port calls back
    with its own lock held.
    """

    def __init__(
        self,
        setup: Sequence[Sequence[str]] = (),
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.lock = threading.Lock()
        self._changed = threading.Condition(self.lock)
        self._port: Port | None = None
        self._reader = FrameReader()
        self._abilities: int | None = None  # None: no agent has said hello
        self._problem = ""  # why data from the guest is ignored
        self._num_channels = 0
        self._commands: dict[int, Command] = {}
        self._last_channel = 0
        self._last_ping = 0
        self._last_pong = 0
        self._ended: Status | None = None
        self._has_closed = False
        self._setup = setup
        self._notify = notify
        self._num_setups = 0
        self._is_setting_up = False

    def attach(self, port: Port) -> None:
        """Use this port from now on; called once."""
        self._port = port

    @property
    def is_ready(self) -> bool:
        """Whether an agent has said hello, and the guest is set up."""
        return self._abilities is not None and not self._is_setting_up

    @property
    def is_settled(self) -> bool:
        """Whether waiting is pointless: an agent is ready, has failed, or has no port."""
        return self._port is None or self.is_ready or bool(self._problem)

    @property
    def ended(self) -> Status | None:
        """How the guest's program ended, with a root file system for one program."""
        return self._ended

    def wait_ready(self, timeout: float) -> None:
        """Wait for an agent.

        Raises:
            AgentError: no agent is ready within ``timeout`` seconds.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.is_settled, timeout)
            self._check_ready()

    def start(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        directory: str = "",
        terminal: tuple[int, int] | None = None,
    ) -> Command:
        """Start a command.

        Args:
            argv: the command.
            env: is added to the agent's variables.
            directory: its working directory.
            terminal: columns and rows of the terminal that it gets; None: it gets pipes.

        Raises:
            UserError: the command is invalid or too long.
            AgentError: no agent is ready, or it may not run commands.
        """
        payload = exec_payload(argv, env or {}, directory)
        return self._start(Request.EXEC, payload, Ability.EXEC, terminal)

    def run(
        self,
        argv: Sequence[str],
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Completed:
        """Run a command to its end; ``timeout`` limits the seconds without input or output.

        Raises: see `start` and `Command.read`.
        """
        with self.start(argv, env) as command:
            feeder = threading.Thread(target=_feed, args=(command, stdin, timeout), daemon=True)
            start_thread(feeder)
            return collect(command, timeout)

    def attest(self, challenge: bytes, timeout: float | None = None) -> bytes:
        """Return an attestation token for the challenge, from the guest's Linux.

        Args:
            challenge: 64 bytes.
            timeout: seconds.

        Raises:
            AgentError: no agent is ready, or it returned no token; the message has its reason.
        """
        if len(challenge) != CHALLENGE_SIZE:
            raise UserError(f"the challenge has {len(challenge)} bytes: give {CHALLENGE_SIZE}")
        with self._start(Request.ATTEST, challenge, Ability.ATTEST) as command:
            completed = collect(command, timeout, MAX_TOKEN)
        if completed.status.code or not completed.stdout:
            words = completed.stderr.decode(errors="replace").split()
            raise AgentError(f"no token: {' '.join(words)[:200] or 'the agent gives no reason'}")
        return completed.stdout

    def ping(self, timeout: float) -> float:
        """Return the time until the agent answers, in seconds.

        Raises:
            AgentError: no agent is ready, or it does not answer in time.
        """
        start = time.monotonic()
        with self._changed:
            self._check_ready()
            self._last_ping += 1
            number = self._last_ping
        self.send(encode_number(Request.PING, 0, number))
        with self._changed:
            if not self._changed.wait_for(
                lambda: self._last_pong >= number or not self.is_ready, timeout
            ):
                raise AgentError(f"the guest's agent has not answered for {timeout:g} s")
            self._check_ready()
        return time.monotonic() - start

    def _start(
        self,
        kind: Request,
        payload: bytes,
        ability: Ability,
        terminal: tuple[int, int] | None = None,
        *,
        is_setup: bool = False,
    ) -> Command:
        with self._changed:
            if not (is_setup and self._is_setting_up and self._abilities is not None):
                self._check_ready()
            if not (self._abilities or 0) & ability:
                raise AgentError(REASONS[Reason.NOT_ALLOWED])
            if terminal is not None and not (self._abilities or 0) & Ability.TERMINAL:
                raise AgentError("the guest's agent has no terminals: build its image again")
            if len(self._commands) >= self._num_channels:
                raise AgentError(REASONS[Reason.BUSY])
            channel = self._next_channel()
            size = b"" if terminal is None else encode_terminal(channel, *terminal)
            command = self._commands[channel] = Command(self, channel)
        self.send(size + encode(kind, channel, payload))
        self.send(encode_number(Request.GRANT, channel, WINDOW))
        return command

    def _set_up(self, number: int) -> None:
        """Run the commands of the setup; a thread of its own does."""
        problem = ""
        try:
            for argv in self._setup:
                payload = exec_payload(argv, {}, "")
                with self._start(Request.EXEC, payload, Ability.EXEC, is_setup=True) as command:
                    completed = collect(command, _SETUP_PATIENCE, MAX_TOKEN)
                if completed.status.code:
                    words = completed.stderr.decode(errors="replace").split()
                    problem = f"{' '.join(argv)} failed: {' '.join(words)[:200]}"
                    break
        except UserError as error:
            problem = str(error)
        with self._changed:
            if number != self._num_setups or self._has_closed:
                return  # another agent has opened the port
            self._is_setting_up = False
            self._problem = problem and f"the guest is not set up: {problem}"
            self._changed.notify_all()
        if problem:
            self._notify(problem)

    def send(self, data: bytes) -> None:
        """Send a frame; the lock must not be held."""
        if self._port is not None and self._port.send(data) and self._port.backlog > MAX_BACKLOG:
            with self._changed:
                self._fail("it does not read its input")

    def close(self) -> None:
        """End for good: the guest has ended."""
        with self._changed:
            self._problem = "the guest has ended"
            self._has_closed = True
            self._drop("the guest has ended, and the command with it")

    def save(self) -> State:
        """Return what is known of the guest's agent."""
        with self._changed:
            return saved.save(self, _SAVED) | {"abilities": self._abilities}

    def load(self, state: State) -> None:
        """Continue with an agent that has said hello before the guest was saved; its commands end.

        Raises:
            StateError: it is not the state of an agent.
        """
        with self._changed:
            saved.load(self, _SAVED, state)
            if state.get("abilities") is not None:
                self._abilities = saved.number(state, "abilities", 1 << 32)
            self._changed.notify_all()

    # --- the port's side -------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether it takes no more data; commands bound theirs themselves."""
        return False

    def drained(self) -> None:
        """Do nothing: commands bound what they send."""

    def opened(self) -> None:
        """Start with a new agent."""
        with self._changed:
            self._reader.reset()
            if not self._has_closed:
                self._problem = ""

    def received(self, data: bytes) -> None:
        """Process bytes from the agent."""
        with self._changed:
            if self._problem:
                return
            try:
                for frame in self._reader.feed(data):
                    self._take(frame)
            except FrameError as error:
                self._fail(f"it sent {error}")

    def closed(self) -> None:
        """Fail all commands: the agent is gone."""
        with self._changed:
            self._drop("the guest's agent is gone, and the command with it")

    # --- under the lock --------------------------------------------------------------------------

    def _check_ready(self) -> None:
        if self._port is None:
            raise AgentError("this guest has no port for an agent: start it with --agent")
        if self._problem:
            raise AgentError(self._problem)
        if not self.is_ready:
            raise AgentError(
                "this guest has no agent: wait until it has booted, or build its image with"
                " pyvmm image build"
            )

    def _next_channel(self) -> int:
        while True:
            self._last_channel = self._last_channel % _NO_LIMIT + 1
            if self._last_channel not in self._commands:
                return self._last_channel

    def _take(self, frame: Frame) -> None:
        if frame.type == Reply.HELLO:
            self._greet(*frame.numbers(_hello))
        elif self._abilities is None:
            raise FrameError("no hello")
        elif frame.type == Reply.PONG:
            (number,) = frame.numbers(NUMBER_PAYLOAD)
            self._last_pong = max(self._last_pong, min(number, self._last_ping))
            self._changed.notify_all()
        elif frame.type == Reply.ENDED:
            self._ended = Status(*frame.status())
        else:
            command = self._commands.get(frame.channel)
            if command is not None:  # it may belong to an earlier agent
                command.take(frame)
                if command.has_ended:
                    del self._commands[frame.channel]

    def _greet(self, version: int, abilities: int, num_channels: int) -> None:
        if self._abilities is not None:
            raise FrameError("hello twice")
        if version != VERSION:
            raise FrameError(f"protocol version {version}; this pyvmm speaks {VERSION}")
        self._abilities = abilities
        self._num_channels = num_channels
        if self._setup:
            self._begin_setup()
        self._changed.notify_all()

    def _begin_setup(self) -> None:
        self._num_setups += 1
        self._is_setting_up = True
        number = self._num_setups
        try:
            start_thread(threading.Thread(target=self._set_up, args=(number,), daemon=True))
        except NoThreadError as error:
            self._problem = str(error)

    def _fail(self, problem: str) -> None:
        """Ignore the agent until a new one opens the port."""
        self._problem = f"the guest's agent is not compatible: {problem}"
        self._drop(self._problem)

    def _drop(self, reason: str) -> None:
        self._abilities = None
        for command in self._commands.values():
            command.fail(AgentError(reason))
        self._commands.clear()
        self._changed.notify_all()


def _feed(command: Command, data: bytes, timeout: float | None) -> None:
    with suppress(AgentError):  # the reader gets it too
        command.feed(data, timeout)
        command.end_input()
