"""The whole of a replay, for a debugger: any position of it can be reached, forwards or backwards.

Checkpoints (`machine_process`) are made while a position is reached for the first time.  To reach
an earlier one, the last checkpoint before it is forked and runs up to it.
"""

import socket
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from pyvmm.vm.record.machine_process import MAX_MESSAGE, Answer, Fork, Request, Run, Watchpoint

#: Instructions between two checkpoints: some tenths of a second of interpretation.
INTERVAL: Final = 1 << 24
#: Above this number, every other one is given up.
MAX_CHECKPOINTS: Final = 64
END: Final = 1 << 62  # a position that no run reaches


class MachineGoneError(Exception):
    """A process of the replay has ended; its errors are on standard error."""


class Points(msgspec.Struct, frozen=True):
    """What a debugger stops at."""

    breakpoints: Sequence[int] = ()
    watchpoints: Sequence[Watchpoint] = ()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.breakpoints or self.watchpoints)


class Channel:
    """A process of the replay, which stands still between two requests."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream

    def ask(self, request: Request) -> Answer:
        """Make a request."""
        self._stream.send(msgspec.msgpack.encode(request))
        return self._decode(self._stream.recv(MAX_MESSAGE))

    def fork(self) -> "Channel":
        """Return a copy of the process."""
        self._stream.send(msgspec.msgpack.encode(Fork()))
        data, fds, _, _ = socket.recv_fds(self._stream, MAX_MESSAGE, 1)
        self._decode(data)
        return Channel(socket.socket(fileno=fds[0]))

    def close(self) -> None:
        """End the process."""
        self._stream.close()

    def _decode(self, data: bytes) -> Answer:
        if not data:
            raise MachineGoneError
        return msgspec.msgpack.decode(data, type=Answer)


class History:
    """A replay that stands still at one position.

    Args:
        machine: the process, at the start.
        is_interrupted: returns whether to stop as soon as possible.
    """

    def __init__(self, machine: Channel, is_interrupted: Callable[[], bool]) -> None:
        self._machine = machine
        self._is_interrupted = is_interrupted
        self._interval = INTERVAL
        self._places = [0]
        self._checkpoints = [machine.fork()]
        self.now = Answer()

    @property
    def position(self) -> int:
        """The number of instructions executed."""
        return self.now.position

    def ask(self, request: Request) -> Answer:
        """Ask the current process."""
        return self._machine.ask(request)

    def forward(self, target: int, points: Points) -> None:
        """Run until a hit, the position, or the end."""
        while self.position < target and not self.now.has_ended:
            boundary = (self.position // self._interval + 1) * self._interval
            self._run(min(boundary, target), points, stops=True)
            if self.now.hit is not None or self._is_interrupted():
                return
            self._keep()

    def go(self, target: int) -> None:
        """Go to a position, from the nearest state before it."""
        place = self._before(target)
        if not self._places[place] <= self.position <= target or self.now.has_ended:
            self._restore(place)
        self.forward(target, Points())

    def backward(self, points: Points) -> bool:
        """Go back to the last hit; False if there is none: then to the start."""
        end = self.position
        for place in range(self._before(end - 1), -1, -1):
            self._restore(place)
            self._run(end, points, stops=False)
            if self.now.hit is not None:
                position, _, is_watch, _, _ = hit = self.now.hit
                # GDB looks at a watched value after the access, and before it.
                self.go(min(position + is_watch, end))
                self.now.hit = hit
                return True
            if self._is_interrupted():
                return True
            end = self._places[place]
        self._restore(0)
        return False

    def close(self) -> None:
        """End all processes."""
        for each in (self._machine, *self._checkpoints):
            each.close()

    def _run(self, target: int, points: Points, *, stops: bool) -> None:
        run = Run(target, stops, list(points.breakpoints), list(points.watchpoints))
        self.now = self._machine.ask(run)

    def _before(self, position: int) -> int:
        """Return the index of the last checkpoint that is not after a position."""
        return max(bisect_right(self._places, position) - 1, 0)

    def _restore(self, place: int) -> None:
        self._machine.close()
        self._machine = self._checkpoints[place].fork()
        self.now = Answer(position=self._places[place])

    def _keep(self) -> None:
        """Make a checkpoint here, if one is due."""
        is_due = not self.position % self._interval and not self.now.has_ended
        if not is_due or self.position <= self._places[-1]:
            return
        self._places.append(self.position)
        self._checkpoints.append(self._machine.fork())
        if len(self._places) > MAX_CHECKPOINTS:
            self._interval *= 2
            for place in range(len(self._places) - 1, 0, -1):
                if self._places[place] % self._interval:
                    del self._places[place]
                    self._checkpoints.pop(place).close()
