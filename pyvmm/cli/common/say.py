"""All output of a verb, except a guest's console and the output of `exec`.

Control characters are escaped, so that text from guests, images, tokens and peers cannot affect the
terminal.
"""

import click

from pyvmm.arch.text import printable, printable_json


def say(line: str) -> None:
    """Print one line on standard error."""
    click.echo(f"pyvmm: {printable(line)}", err=True)


def print_lines(*lines: str) -> None:
    """Print lines on standard output."""
    click.echo("\n".join(map(printable, lines)))


def print_json_text(text: str) -> None:
    """Print JSON on standard output."""
    click.echo(printable_json(text))


def say_lines(text: str) -> None:
    """Print several lines on standard error, such as a traceback."""
    click.echo("\n".join(map(printable, f"pyvmm: {text}".splitlines())), err=True)
