"""The process of a replay that a debugger drives, and its checkpoints.

A checkpoint is a fork of the process: it has everything, the machine's memory, the state of RMM and
Monitor, the devices and the place in the record, and waits to be forked again.  The processes have
one thread each; the debugger's process talks to them through sockets.

Each request gets one answer.
"""

import gc
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

from pyvmm.arch.errors import UserError
from pyvmm.vm.record.replayer import DivergedError

MAX_MESSAGE: Final = 1 << 16


class Hit(Protocol):
    """A breakpoint or watchpoint that was hit."""

    @property
    def position(self) -> int:
        """The number of instructions before it."""

    @property
    def cpu(self) -> int:
        """The vCPU."""

    @property
    def is_watch(self) -> bool:
        """Whether it is a watchpoint."""

    @property
    def address(self) -> int:
        """The address of the access."""

    @property
    def is_write(self) -> bool:
        """Whether the access writes."""


class Pauses(Protocol):
    """Where the machine pauses; see `pyvmm.core.pauses`."""

    pause: Callable[[int], None]
    target: int
    stops: bool

    @property
    def last(self) -> Hit | None:
        """The last hit."""

    def forget(self) -> None:
        """Forget the last hit."""

    def set_points(
        self, breakpoints: Sequence[int], watchpoints: Sequence[tuple[int, int, int]], /
    ) -> None:
        """Replace the breakpoints and watchpoints."""


class Probe(Protocol):
    """Looks into the machine."""

    def registers(self, cpu: int, /) -> dict[str, list[int]]:
        """Return all registers of a vCPU by name."""

    def read(self, cpu: int, va: int, size: int, /) -> bytes:
        """Read memory as a vCPU sees it."""


#: Address, size and access (bits as in `pyvmm.host.debug.Access`) of a watchpoint.
Watchpoint = tuple[int, int, int]


class Run(msgspec.Struct, tag=True):
    """Run to a position, or to a hit if it ``stops`` there; otherwise return the last hit."""

    target: int
    stops: bool
    breakpoints: list[int]
    watchpoints: list[Watchpoint]


class Registers(msgspec.Struct, tag=True):
    """Return the registers of a vCPU."""

    cpu: int


class Read(msgspec.Struct, tag=True):
    """Return memory as a vCPU sees it."""

    cpu: int
    va: int
    size: int


class Fork(msgspec.Struct, tag=True):
    """Make a copy of the process, and return a socket to it."""


Request = Run | Registers | Read | Fork


class Answer(msgspec.Struct):
    """What a request returns."""

    position: int = 0
    cpu: int = 0
    has_ended: bool = False
    hit: tuple[int, int, bool, int, bool] | None = None
    registers: dict[str, list[int]] = {}
    data: bytes = b""
    problem: str = ""


class MachineProcess:
    """Serves requests whenever the machine pauses.

    Args:
        channel: to the debugger's process.
        pauses: of the machine.
        probe: into the machine.
        position: returns the number of instructions executed.
    """

    def __init__(
        self,
        channel: socket.socket,
        pauses: Pauses,
        probe: Probe,
        position: Callable[[], int],
    ) -> None:
        self._channel = channel
        self._pauses = pauses
        self._probe = probe
        self._position = position
        self._must_report = False  # the last request was to run
        self._cpu = 0

    def run(self, take_turns: Callable[[], None]) -> None:
        """Replay to the end, as the debugger wants; does not return."""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the copies
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the debugger's process
        self._pauses.pause = self._serve
        problem = ""
        try:
            take_turns()
        except (DivergedError, UserError) as error:
            problem = f"the run differs from the record: {error}"
        while True:
            self._report(has_ended=True, problem=problem)
            self._serve(self._cpu)

    def _serve(self, cpu: int) -> None:
        """Answer requests until one is to run."""
        self._cpu = cpu
        if self._must_report:
            self._report()
        while not self._answer():
            pass

    def _report(self, *, has_ended: bool = False, problem: str = "") -> None:
        self._must_report = False
        answer = Answer(self._position(), self._cpu, has_ended, problem=problem)
        if (hit := self._pauses.last) is not None:
            answer.hit = hit.position, hit.cpu, hit.is_watch, hit.address, hit.is_write
        self._send(answer)

    def _answer(self) -> bool:
        """Answer one request; return whether it is to run."""
        match self._receive():
            case Run() as run:
                self._pauses.target, self._pauses.stops = run.target, run.stops
                self._pauses.forget()
                self._pauses.set_points(run.breakpoints, run.watchpoints)
                self._must_report = True
                return True
            case Registers(cpu):
                self._send(Answer(registers=self._probe.registers(cpu)))
            case Read(cpu, va, size):
                self._send(Answer(data=self._probe.read(cpu, va, size)))
            case Fork():
                self._fork()
            case None:
                os._exit(0)  # the debugger's process has ended
        return False

    def _fork(self) -> None:
        """Make a copy of this process; the debugger's process gets a socket to it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gc.freeze()  # the collector would write to pages that the copies share
        if os.fork() == 0:
            theirs.close()
            self._channel.close()
            self._channel = ours
            return
        ours.close()
        socket.send_fds(self._channel, [msgspec.msgpack.encode(Answer())], [theirs.fileno()])
        theirs.close()

    def _receive(self) -> Request | None:
        try:
            data = self._channel.recv(MAX_MESSAGE)
        except OSError:
            return None
        return msgspec.msgpack.decode(data, type=Request) if data else None

    def _send(self, answer: Answer) -> None:
        try:
            self._channel.send(msgspec.msgpack.encode(answer))
        except OSError:
            os._exit(0)
