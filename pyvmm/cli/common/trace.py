"""--trace KIND,...[:FILE]: one line per event of the chosen kinds, as text or as JSON."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from threading import local
from typing import Final, TextIO

import msgspec

from pyvmm.arch.errors import UserError
from pyvmm.arch.events import (
    KINDS,
    Event,
    GptChange,
    GranuleTransition,
    HesCall,
    Listener,
    PsciCall,
    RecExit,
    RimExtension,
    RmiCall,
    RsiCall,
    RttChange,
    Smc,
    WorldSwitch,
)
from pyvmm.arch.pas import Pas
from pyvmm.arch.text import printable
from pyvmm.arch.user_file import without_waiting
from pyvmm.cli.common.say import say
from pyvmm.vm.control.api import TracedEvent

ALL: Final = "all"
HELP: Final = "help"
_INDENT: Final = "  "
#: What happens inside what: the host makes an RMI command; in it, the RMM works and the realm runs.
_DEPTHS: Final[dict[type[Event], int]] = {
    WorldSwitch: 1,
    RmiCall: 1,
    GptChange: 2,
    GranuleTransition: 2,
    RttChange: 2,
    RimExtension: 2,
    RsiCall: 2,
    PsciCall: 2,
    RecExit: 2,
    HesCall: 3,
}


def kinds_help() -> Iterator[str]:
    """Yield the lines of --trace help."""
    width = max(map(len, KINDS))
    for name, kind in KINDS.items():
        yield f"{name:{width}}  {kind.meaning}"
    yield f"{ALL:{width}}  all of them"


class _Place(local):
    """Where the PE of a thread is; it ends with the thread, so that no later one inherits it."""

    pe = -1  # has none yet
    is_in_realm_world = False


class Tracer:
    """Gives each event its time, PE and depth.

    The depth is how many of the shown events it happened inside of.  An event is reported when it
    is over, so what is inside comes first.
    """

    def __init__(self, shown: frozenset[type[Event]], clock: Callable[[], float]) -> None:
        self._clock = clock
        self._epoch = clock()
        self._place = _Place()
        self._has_smcs = Smc in shown
        depths = {self._depth(kind) for kind in shown}
        if self._has_smcs:
            depths |= {0, 1, 2}  # calls of the host, and of the RMM
        self._indents = {depth: indent for indent, depth in enumerate(sorted(depths))}

    def stamp(self, event: Event) -> tuple[int, int, int]:
        """Return time (µs), PE and depth of an event that happens now."""
        depth = 0
        if self._place.is_in_realm_world or isinstance(event, WorldSwitch):
            is_of_rmm = isinstance(event, Smc) and event.security is Pas.REALM
            depth = self._indents[2 if is_of_rmm else self._depth(type(event))]
        return round((self._clock() - self._epoch) * 1e6), self._place.pe, depth

    def _depth(self, kind: type[Event]) -> int:
        if kind is GptChange and self._has_smcs:
            return 3  # in the SMC of the RMM that asked for it
        return _DEPTHS.get(kind, 0)

    def follow(self, event: Event) -> None:
        """Take note of where a PE is, before `stamp`."""
        if isinstance(event, Smc | WorldSwitch):
            self._place.pe = event.pe
        if isinstance(event, WorldSwitch):
            self._place.is_in_realm_world = event.new is Pas.REALM


class Trace:
    """Writes the chosen events; a context manager that closes its file.

    Raises:
        UserError: an unknown kind, or a file that cannot be written.
    """

    def __init__(
        self, text: str, style: str = "text", clock: Callable[[], float] = time.monotonic
    ) -> None:
        kinds, _, name = text.partition(":")
        chosen = [*KINDS] if kinds == ALL else kinds.split(",")
        unknown = [kind for kind in chosen if kind not in KINDS]
        if unknown:
            raise UserError(
                f"--trace {unknown[0]}: give {ALL}, {HELP} or some of {','.join(KINDS)}[:FILE]"
            )
        self._shown = frozenset(event for kind in chosen for event in KINDS[kind].events)
        self._tracer = Tracer(self._shown, clock)
        self._line = _json_line if style == "json" else _text_line
        self._has_failed = False
        self._file: AbstractContextManager[TextIO] = (
            _open(Path(name)) if name else nullcontext(sys.stderr)
        )
        # A raw terminal does not return the carriage by itself.
        self._end = "\r\n" if not name and sys.stderr.isatty() else "\n"

    def __enter__(self) -> Listener:
        write, shown, end = self._file.__enter__().write, self._shown, self._end
        tracer, line = self._tracer, self._line

        def listener(event: Event) -> None:
            tracer.follow(event)
            if type(event) in shown and not self._has_failed:
                try:
                    write(line(event, *tracer.stamp(event)) + end)
                except OSError as error:  # the guest continues without a trace
                    self._fail(error)

        return listener

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # after a failure, the file still holds an unwritten line
            self._file.__exit__(None, None, None)

    def _fail(self, error: OSError) -> None:
        self._has_failed = True
        say(f"--trace: {error.strerror}: the rest is lost", "error")


def _text_line(event: Event, time_: int, pe: int, depth: int) -> str:
    who = pe if pe >= 0 else "-"
    return f"{time_ / 1e6:10.6f} {who:>2} {_INDENT * depth}{printable(str(event))}"


def _json_line(event: Event, time_: int, pe: int, depth: int) -> str:
    kind, fields = type(event).__name__, msgspec.Raw(msgspec.json.encode(event))
    traced = TracedEvent(time_, pe, depth, kind, fields, printable(str(event)))
    return msgspec.json.encode(traced).decode()


def _open(path: Path) -> TextIO:
    try:
        # Line-buffered, so that a reader of the file sees every event at once.
        return open(path, "w", buffering=1, opener=without_waiting)
    except OSError as error:
        raise UserError(f"--trace {path}: {error.strerror}: choose another file") from None
