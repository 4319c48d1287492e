"""What a verb says to its user; all but a guest's console and the output of `exec` comes here.

Guests, images, tokens and peers have a part in it, and cannot do anything to the terminal with it.
"""

import click

from pyvmm.arch.text import printable, printable_json


def say(line: str) -> None:
    """Say one line on standard error."""
    click.echo(f"pyvmm: {printable(line)}", err=True)


def print_lines(*lines: str) -> None:
    """Print lines on standard output."""
    click.echo("\n".join(map(printable, lines)))


def print_json_text(text: str) -> None:
    """Print JSON."""
    click.echo(printable_json(text))


def say_lines(text: str) -> None:
    """Say several lines on standard error, such as a traceback."""
    click.echo("\n".join(map(printable, f"pyvmm: {text}".splitlines())), err=True)
