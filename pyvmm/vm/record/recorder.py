"""Recording: input from the host, stamped and written as it is delivered."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

from pyvmm.arch.events import Event
from pyvmm.vm.record.file import Writer
from pyvmm.vm.record.header import Header
from pyvmm.vm.record.items import Kind, State, encode, encode_event

_NS_PER_TICK: Final = 16


class Recorder:
    """An ``Outside`` of turns (`pyvmm.host.turns`) that writes a record.

    Raises:
        UserError: the file cannot be written; also from its methods.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self._writer = Writer(path)
        self._writer.write(header.encode())
        self._queue: SimpleQueue[tuple[str, bytes] | None] = SimpleQueue()
        self._first: tuple[str, bytes] | None = None  # the input that ended a sleep
        self._turn = 0
        self.num_events = 0

    def put(self, target: str, data: bytes) -> None:
        """Add input; any thread."""
        self._queue.put((target, data))

    def take(self, position: int) -> Sequence[tuple[str, bytes]]:
        """Return all input so far."""
        self._turn += 1
        if self._first is None and self._queue.empty():
            return ()
        waiting, self._first = [self._first], None
        while not self._queue.empty():
            waiting.append(self._queue.get())
        taken = [each for each in waiting if each is not None]
        for target, data in taken:
            self._writer.write(encode(Kind.INPUT, self._turn, position, target, data))
        return taken

    def wake(self) -> None:
        """End a sleep."""
        self._queue.put(None)

    def sleep(self, position: int, ticks: int | None) -> int:
        """Wait for input, but not longer than so many ticks; return how many have passed.

        Time that passes without input follows from the guest's state and is not recorded.
        """
        begin = time.monotonic_ns()
        try:
            limit = None if ticks is None else ticks * _NS_PER_TICK / 1e9
            self._first = self._queue.get(timeout=limit)
        except Empty:
            return ticks or 0
        passed = (time.monotonic_ns() - begin) // _NS_PER_TICK
        if ticks is not None:
            passed = min(passed, ticks)
        self._writer.write(encode(Kind.SLEPT, self._turn, position, passed))
        return passed

    def draw(self, what: str, make: Callable[[], bytes]) -> bytes:
        """Return what the machine does not compute."""
        data = make()
        self._writer.write(encode(Kind.DRAWN, what, data))
        return data

    def listen(self, event: Event) -> None:
        """Write an event."""
        item = encode_event(event)
        if item is not None:
            self.num_events += 1
            self._writer.write(item)

    def end(self, state: State) -> None:
        """Complete the record."""
        self._writer.write(encode(Kind.END, state))
        self._writer.close()
