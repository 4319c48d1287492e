"""What devices get from outside of the guest: time, threads, randomness, and input.

``Outside`` is the host.  ``RepeatableOutside`` gives the same to a guest whose run is recorded or
replayed (ADR 20): time follows the machine's counter, nothing happens on other threads, and input
is delivered between two turns of the vCPUs.
"""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, Protocol

import msgspec

from pyvmm.devices.ioloop import IoLoop, SetTimer
from pyvmm.devices.net_recorded import Abilities, RecordedNet
from pyvmm.devices.virtio.net import NetBackend
from pyvmm.devices.workers import Work, Workers
from pyvmm.host.turns import Turns

#: Takes input; any thread may call it.
Inlet = Callable[[bytes], None]
Draw = Callable[[str, Callable[[], bytes]], bytes]
_TICKS_PER_SECOND: Final = 62_500_000


class DiskWorkers(Protocol):
    """Does what may wait for a disk."""

    def submit(self, work: Work) -> None:
        """Do it."""

    def close(self, patience: float) -> bool:
        """Begin no more work; return whether all is done within ``patience`` seconds."""


class Outside:
    """The host."""

    def start_loop(self, name: str, resources: ExitStack) -> IoLoop:
        """Start an event loop; ``resources`` stops it."""
        loop = IoLoop(name)
        resources.callback(loop.stop)
        loop.start()
        return loop

    def set_timer(self, loop: IoLoop) -> SetTimer:
        """Return the function that sets timers of devices."""
        return loop.set_timer

    def workers(self, name: str) -> DiskWorkers:
        """Return what does the work of a disk."""
        return Workers(name)

    def time(self) -> float:
        """Return the seconds since 1970."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that only increase."""
        return time.monotonic()

    def entropy(self, size: int) -> bytes:
        """Return random bytes."""
        return os.urandom(size)

    def card(self, _index: int, make: Callable[[], NetBackend]) -> NetBackend:
        """Return the backend of a network card."""
        return make()

    def inlet(self, _name: str, deliver: Inlet) -> Inlet:
        """Return the function to call with input for a device."""
        return deliver


class _NoWorkers:
    """Work that is done at once, so that its end is part of the request."""

    def submit(self, work: Work) -> None:
        """Do it."""
        work()

    def close(self, _patience: float) -> bool:
        """Return that all work is done."""
        return True


class RepeatableOutside(Outside):
    """The outside of a guest whose run can be repeated.

    Args:
        turns: of its vCPUs.
        start: the time when it starts, in seconds since 1970.
        draw: returns what a function makes, the same in each run, by a name.
    """

    def __init__(self, turns: Turns, start: float, draw: Draw) -> None:
        self.turns = turns
        self._start = start
        self._draw = draw

    def start_loop(self, name: str, resources: ExitStack) -> IoLoop:
        """Return an event loop, which waits for nothing in a replay without threads."""
        if self.turns.has_thread:
            return super().start_loop(name, resources)
        loop = IoLoop(name)
        resources.callback(loop.stop)
        return loop

    def set_timer(self, _loop: IoLoop) -> SetTimer:
        """Return timers of the machine's time."""
        return self.turns.set_timer

    def workers(self, _name: str) -> DiskWorkers:
        """Return nobody: the vCPUs' thread does the work."""
        return _NoWorkers()

    def time(self) -> float:
        """Return the time of the start, and what has passed on the machine since."""
        return self._start + self.monotonic()

    def monotonic(self) -> float:
        """Return the machine's time."""
        return self.turns.machine.counter() / _TICKS_PER_SECOND

    def entropy(self, size: int) -> bytes:
        """Return random bytes."""
        return self._draw("entropy", lambda: os.urandom(size))

    def card(self, index: int, make: Callable[[], NetBackend]) -> NetBackend:
        """Return a backend whose frames are recorded, or come from the record."""
        made: list[NetBackend] = []

        def open_backend() -> bytes:
            made.append(make())
            return msgspec.msgpack.encode(Abilities.of(made[0]))

        abilities = self._draw(f"network card {index}", open_backend)
        return RecordedNet(
            msgspec.msgpack.decode(abilities, type=Abilities),
            made[0] if made else None,
            lambda deliver: self.inlet(f"net{index}", deliver),
        )

    def inlet(self, name: str, deliver: Inlet) -> Inlet:
        """Return the function that has input delivered between two turns."""
        return self.turns.bind(name, deliver)
