"""A table of instances on a terminal of any width, and the key that quits it."""

import os
import select
import termios
import time
import tty
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Self

from pyvmm.arch.system import wait_for
from pyvmm.vm.control.terminal import is_foreground

NAME, REASONS = "NAME", "BY-REASON"
COLUMNS: Final = (
    NAME, "STATE", "KIND", "CPUS", "MIPS", "EXITS/s", REASONS, "NS", "REALM", "DISK/s", "NET/s",
)  # fmt: skip
_TEXTS: Final = frozenset({NAME, "STATE", "KIND", REASONS})
#: Columns that a narrow terminal omits, in this order; no number is ever cut.
_EXPENDABLE: Final = (
    REASONS, "KIND", "CPUS", "NET/s", "DISK/s", "EXITS/s", "NS", "REALM", "MIPS", "STATE",
)  # fmt: skip
_MIN_NAME: Final = 8
_MIN_REASONS: Final = 12  # "sysreg:12.3k"
_QUIT: Final = b"q"


def layout(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the lines of a table that fits into `width` characters, headings first.

    A row has a cell for each column; reasons are separated by commas.
    """
    table = [dict(zip(COLUMNS, row, strict=True)) for row in (COLUMNS, *rows)]
    widths = {column: max(len(row[column]) for row in table) for column in COLUMNS}
    wanted = {column: widths[column] for column in (NAME, REASONS)}
    widths[NAME] = min(wanted[NAME], _MIN_NAME)
    widths[REASONS] = min(wanted[REASONS], _MIN_REASONS)
    for column in _EXPENDABLE:
        if _total(widths) <= width:
            break
        del widths[column]
    for column in (NAME, REASONS):
        if column in widths:
            widths[column] += min(wanted[column] - widths[column], max(width - _total(widths), 0))
    lines = (" ".join(_cell(c, row[c], size) for c, size in widths.items()) for row in table)
    return [line.rstrip() for line in lines]


def _total(widths: dict[str, int]) -> int:
    return sum(widths.values()) + len(widths) - 1


def _cell(column: str, text: str, width: int) -> str:
    if column == REASONS:
        while len(text) > width and text:
            text = text.rpartition(",")[0]  # one whole reason at a time
    if len(text) > width:
        text = f"{text[: width - 1]}~"
    return text.ljust(width) if column in _TEXTS else text.rjust(width)


class Keys:
    """The keys typed meanwhile, if a user has the terminal; a context manager."""

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._saved: list[int | list[bytes | int]] | None = None

    def __enter__(self) -> Self:
        if is_foreground(self._fd):
            self._saved = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd, termios.TCSADRAIN)
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            with suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)

    def wants_to_quit(self, seconds: float) -> bool:
        """Wait that long; return True at once if the user quits."""
        deadline = time.monotonic() + seconds
        if self._saved is None:
            time.sleep(seconds)
            return False
        while wait_for(self._fd, select.POLLIN, max(deadline - time.monotonic(), 0)):
            typed = os.read(self._fd, 64)
            if not typed or _QUIT in typed.lower():
                return True
        return False
