"""pyvmm top: watch the activity of all instances."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import click
import msgspec

from pyvmm.cli.common.activity import COLUMNS, NAME, Observer, Reading, row, sort
from pyvmm.cli.common.instances import directory
from pyvmm.cli.common.say import print_json_text, print_lines
from pyvmm.cli.common.units import Seconds

_HELP = """Watch the activity of all instances: instructions, exits by reason, memory, I/O.

On a terminal, the table is redrawn until q or Ctrl-C; s or a click on a heading sorts, r reverses.
In a pipe, each reading is printed.
"""


@click.command(help=_HELP)
@click.option(
    "-d",
    "--delay",
    type=Seconds(least=0.05),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="time between readings",
)
@click.option(
    "-n", "--count", "limit", type=click.IntRange(min=1), metavar="N", help="exit after N readings"
)
@click.option(
    "--sort",
    "column",
    type=click.Choice(COLUMNS, case_sensitive=False),
    default=NAME,
    show_default=True,
    metavar="COLUMN",
    help="sort by this column, numbers from the top",
)
@click.option("--json", "wants_json", is_flag=True, help="print each reading as a line of JSON")
def top(delay: float, limit: int | None, column: str, *, wants_json: bool) -> None:
    """Read and show all instances, until the user quits or the limit is reached."""
    with ExitStack() as stack, suppress(KeyboardInterrupt):  # a way to quit
        observer = Observer(directory(), stack)

        def read(wants_to_quit: Callable[[float], bool]) -> Iterator[list[Reading]]:
            return _readings(observer, wants_to_quit, delay, limit)

        if sys.stdout.isatty() and not wants_json:
            from pyvmm.cli.common.screen import Screen  # noqa: PLC0415  slow to import

            Screen(read, column).run()
            return
        for readings in read(_sleep):
            ordered = sort(readings, column)
            if wants_json:
                print_json_text(msgspec.json.encode(ordered).decode())
            else:
                print_lines(*(" ".join(each) for each in (COLUMNS, *map(row, ordered))))


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _readings(
    observer: Observer, wants_to_quit: Callable[[float], bool], delay: float, limit: int | None
) -> Iterator[list[Reading]]:
    """Read all instances repeatedly, until the user quits or the limit is reached."""
    observer.read()  # so that the next reading has rates
    number = 0
    while (limit is None or number < limit) and not wants_to_quit(delay):
        yield observer.read()
        number += 1
