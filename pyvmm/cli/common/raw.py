"""The user's terminal for a command that has a terminal of its own in a guest."""

import os
import signal
import termios
import tty
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final, Self

from pyvmm.vm.control.api import TerminalSize
from pyvmm.vm.control.terminal import is_foreground

_DEFAULT: Final = TerminalSize(80, 24)


def terminal_size() -> TerminalSize:
    """Return the size of the terminal that is standard output or input, or the usual one."""
    for fd in (1, 0):
        with suppress(OSError):
            columns, rows = os.get_terminal_size(fd)
            if columns and rows:
                return TerminalSize(columns, rows)
    return _DEFAULT


class RawTerminal:
    """Passes every key on, Ctrl-C too, and reports new sizes; a context manager.

    Without a terminal it does nothing.
    """

    def __init__(self, resize: Callable[[TerminalSize], None]) -> None:
        self._resize = resize
        self._saved: list[int | list[bytes | int]] | None = None

    def __enter__(self) -> Self:
        if is_foreground(0):
            self._saved = termios.tcgetattr(0)
            tty.setraw(0)
            signal.signal(signal.SIGWINCH, self._report)
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is None:
            return
        signal.signal(signal.SIGWINCH, signal.SIG_DFL)
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)

    def _report(self, _number: int, _frame: FrameType | None) -> None:
        self._resize(terminal_size())
