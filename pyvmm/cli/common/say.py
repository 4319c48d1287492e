"""All output of a verb, except a guest's console and the output of `exec`.

Control characters are escaped, so that text from guests, images, tokens and peers cannot affect the
terminal.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, Literal

import click

from pyvmm.arch.text import printable, printable_json

Level = Literal["info", "error"]
TEXT: Final = "text"
JSON: Final = "json"
#: The choices of --log-format.
LOG_FORMATS: Final = (TEXT, JSON)


class _Messages:
    """How messages on standard error are written."""

    log_format = TEXT


def set_log_format(name: str) -> None:
    """Write messages as text, or each as a JSON object with time, level and message."""
    _Messages.log_format = name


def say(line: str, level: Level = "info") -> None:
    """Print a message of one line on standard error."""
    _say([f"pyvmm: {printable(line)}"], line, level)


def print_lines(*lines: str) -> None:
    """Print lines on standard output."""
    click.echo("\n".join(map(printable, lines)))


def print_json_text(text: str) -> None:
    """Print JSON on standard output."""
    click.echo(printable_json(text))


def say_lines(text: str) -> None:
    """Print several lines on standard error, such as a traceback."""
    _say(map(printable, f"pyvmm: {text}".splitlines()), text, "error")


def _say(lines: Iterable[str], message: str, level: Level) -> None:
    if _Messages.log_format == JSON:
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        fields = {"time": now, "level": level, "message": message}
        lines = [printable_json(json.dumps(fields))]
    click.echo("\n".join(lines), err=True)
