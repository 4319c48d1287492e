"""Replaying: input from a record, and the check that the run is the same."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from pyvmm.arch.events import Event
from pyvmm.vm.record.file import Reader
from pyvmm.vm.record.header import Header
from pyvmm.vm.record.items import Kind, State, decode, describe, encode, encode_event

_STOP: Final = "end"  # the one target that the user of a replay may use


class DivergedError(Exception):
    """The run is not the same as in the record; the text says where, in one line."""


class Replayer:
    """An ``Outside`` of turns (`pyvmm.host.turns`) that reads a record.

    Raises:
        UserError: the record is damaged, also from its methods.
        DivergedError: from its methods: the run differs from the record.
    """

    def __init__(self, reader: Reader) -> None:
        self._items: Iterator[bytes] = reader.items()
        self.header = Header.decode(next(self._items, b""), reader.path)
        self._next = next(self._items, b"")
        self._turn = 0
        self.num_events = 0
        self.is_stopped = False

    def put(self, target: str, data: bytes) -> None:
        """Ignore input, unless it ends the run; any thread."""
        if target == _STOP:
            del data
            self.is_stopped = True

    def take(self, position: int) -> Sequence[tuple[str, bytes]]:
        """Return the input that was delivered here."""
        self._turn += 1
        if self.is_stopped:
            return [(_STOP, b"was stopped")]
        taken: list[tuple[str, bytes]] = []
        while True:
            match self._decoded():
                case [Kind.INPUT, int(turn), int(at), str(target), bytes(data)]:
                    if turn > self._turn and at >= position:
                        return taken
                    self._check(turn == self._turn and at == position, f"turn {self._turn}")
                    taken.append((target, data))
                    self._advance()
                case _:
                    return taken

    def wake(self) -> None:
        """Do nothing: a replay does not sleep."""

    def sleep(self, position: int, ticks: int | None) -> int:
        """Return how many ticks passed here."""
        match self._decoded():
            case [Kind.SLEPT, int(turn), int(at), int(passed)] if turn == self._turn:
                self._check(at == position, f"a sleep at instruction {position}")
                self._advance()
                return passed
            case _:
                pass
        if ticks is None:
            self._check(False, f"a sleep without an end at instruction {position}")
        return ticks or 0

    def draw(self, what: str, make: Callable[[], bytes]) -> bytes:
        """Return what the machine did not compute."""
        del make
        match self._decoded():
            case [Kind.DRAWN, str(drawn), bytes(data)] if drawn == what:
                self._advance()
                return data
            case _:
                raise self._diverged(f"a need of {what}")

    def listen(self, event: Event) -> None:
        """Check an event."""
        item = encode_event(event)
        if item is None:
            return
        if item != self._next:
            raise self._diverged(str(event))
        self.num_events += 1
        self._advance()

    def end(self, state: State) -> None:
        """Check the end."""
        if self.is_stopped or self._next == encode(Kind.END, state):
            return
        match self._decoded():
            case [Kind.END, dict(recorded)]:
                now = msgspec.to_builtins(state, builtin_types=(bytes,))
                names = ", ".join(name for name in now if now[name] != recorded.get(name))
                raise DivergedError(f"the end of the run differs from the record's: {names}")
            case _:
                raise self._diverged("the end")

    def _decoded(self) -> list[object]:
        return decode(self._next) if self._next else []

    def _advance(self) -> None:
        self._next = next(self._items, b"")

    def _check(self, is_same: bool, found: str) -> None:
        if not is_same:
            raise self._diverged(found)

    def _diverged(self, found: str) -> DivergedError:
        recorded = describe(self._next) if self._next else "nothing more"
        return DivergedError(f"event {self.num_events}: recorded was {recorded}; now it is {found}")
