"""--trace KIND,...[:FILE]: print one line per event of the requested kinds."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TextIO

from pyvmm.arch.errors import UserError
from pyvmm.arch.events import KINDS, Event
from pyvmm.arch.text import printable
from pyvmm.arch.user_file import without_waiting
from pyvmm.cli.common.say import say


class Trace:
    """Writes the chosen events; a context manager that closes its file.

    Raises:
        UserError: an unknown kind, or a file that cannot be written.
    """

    def __init__(self, text: str) -> None:
        kinds, _, name = text.partition(":")
        unknown = [kind for kind in kinds.split(",") if kind not in KINDS]
        if unknown:
            raise UserError(f"--trace {unknown[0]}: give some of {','.join(KINDS)}[:FILE]")
        chosen = (event for kind in kinds.split(",") for event in KINDS[kind])
        self._shown = frozenset(chosen)
        self._has_failed = False
        self._file: AbstractContextManager[TextIO] = (
            _open(Path(name)) if name else nullcontext(sys.stderr)
        )
        # A raw terminal does not return the carriage by itself.
        self._end = "\r\n" if not name and sys.stderr.isatty() else "\n"

    def __enter__(self) -> Callable[[Event], None]:
        write, shown, end = self._file.__enter__().write, self._shown, self._end

        def listener(event: Event) -> None:
            if type(event) in shown and not self._has_failed:
                try:
                    write(f"{printable(str(event))}{end}")
                except OSError as error:  # the guest continues without a trace
                    self._fail(error)

        return listener

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # after a failure, the file still holds an unwritten line
            self._file.__exit__(None, None, None)

    def _fail(self, error: OSError) -> None:
        self._has_failed = True
        say(f"--trace: {error.strerror}: the rest is lost")


def _open(path: Path) -> TextIO:
    try:
        # Line-buffered, so that a reader of the file sees every event at once.
        return open(path, "w", buffering=1, opener=without_waiting)
    except OSError as error:
        raise UserError(f"--trace {path}: {error.strerror}: choose another file") from None
