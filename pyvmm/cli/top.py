"""pyvmm top: watch the activity of all instances."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress

import click
import msgspec

from pyvmm.arch.errors import UserError
from pyvmm.arch.text import printable
from pyvmm.cli.common.instances import GONE, directory
from pyvmm.cli.common.say import print_json_text, print_lines
from pyvmm.cli.common.screen import COLUMNS, Keys, layout
from pyvmm.cli.common.units import Seconds, count, plural, short_size
from pyvmm.vm.control.api import Statistics, Status
from pyvmm.vm.control.client import Client, connect
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.control.rates import Rates
from pyvmm.vm.exit_code import Failure

_HELP = """Watch the activity of all instances: instructions, exits by reason, memory, I/O.

On a terminal, the table is redrawn until q or Ctrl-C; in a pipe, each reading is printed.
"""


class Reading(msgspec.Struct, frozen=True):
    """One instance and its rates per second; None until it has been read twice."""

    status: Status
    statistics: Statistics | None = None
    rates: Rates | None = None


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
@click.option("--json", "wants_json", is_flag=True, help="print each reading as a line of JSON")
def top(delay: float, limit: int | None, *, wants_json: bool) -> None:
    """Read and show all instances, until the user quits or the limit is reached."""
    with ExitStack() as stack, suppress(KeyboardInterrupt):  # a way to quit
        keys = stack.enter_context(Keys())
        readings = _readings(Observer(directory(), stack), keys.wants_to_quit, delay, limit)
        if wants_json:
            for reading in readings:
                print_json_text(msgspec.json.encode(reading).decode())
        elif sys.stdout.isatty():
            _draw(readings)
        else:
            for reading in readings:
                print_lines(*(" ".join(row) for row in (COLUMNS, *map(_row, reading))))


def _readings(
    observer: "Observer", wants_to_quit: Callable[[float], bool], delay: float, limit: int | None
) -> Iterator[list[Reading]]:
    """Read all instances repeatedly, until the user quits or the limit is reached."""
    observer.read()  # so that the next reading has rates
    number = 0
    while (limit is None or number < limit) and not wants_to_quit(delay):
        yield observer.read()
        number += 1


class Observer:
    """Reads all instances, and keeps each one's last statistics to compute rates."""

    def __init__(self, place: Directory, connections: ExitStack) -> None:
        self._place = place
        self._connections = connections
        self._clients: dict[str, Client] = {}
        self._seen: dict[int, Statistics] = {}

    def read(self) -> list[Reading]:
        """Read all instances."""
        return [self._read(status) for status in self._place.statuses()]

    def _read(self, status: Status) -> Reading:
        if status.state in GONE:
            return Reading(status)
        try:
            if status.name not in self._clients:
                client = self._connections.enter_context(connect(self._place, status.name))
                self._clients[status.name] = client
            now = self._clients[status.name].api.statistics()
        except Failure:  # it is ending; another may take its name
            if status.name in self._clients:
                self._clients.pop(status.name).close()
            return Reading(status)
        except UserError:  # it is not complete yet
            return Reading(status)
        before = self._seen.get(status.pid)
        self._seen[status.pid] = now
        return Reading(status, now, Rates.of(before, now) if before else None)


def _row(reading: Reading) -> tuple[str, ...]:
    status, statistics, rates = reading.status, reading.statistics, reading.rates
    what = (status.name, str(status.state).replace(" ", "-"), status.kind, str(status.num_cpus))
    if statistics is None:
        return (*what, *["-"] * 7)
    memory = [short_size(statistics.memory[pas].resident) for pas in ("ns", "realm")]
    if rates is None:
        return (*what, "-", "-", "-", *memory, "-", "-")
    most = [f"{kind}:{count(number)}" for kind, number in rates.exits.items() if number >= 1]
    return (
        *what,
        f"{rates.instructions / 1e6:.1f}",
        count(sum(rates.exits.values())),
        ",".join(most[:3]) or "-",
        *memory,
        short_size(rates.disk_bytes),
        short_size(rates.network_bytes),
    )


def _draw(readings: Iterator[list[Reading]]) -> None:
    from rich.live import Live  # noqa: PLC0415  slow to import
    from rich.text import Text  # noqa: PLC0415

    with Live(auto_refresh=False, screen=True) as live:
        for reading in readings:
            text = Text(no_wrap=True, overflow="crop")
            for line, style in _screen(reading, live.console.width):
                text.append(f"{printable(line)}\n", style)
            live.update(text, refresh=True)


def _screen(readings: Sequence[Reading], width: int) -> Iterator[tuple[str, str]]:
    """Yield the lines of a screen, and the style of each."""
    yield f"pyvmm top: {plural(len(readings), 'instance')}   (q quits)", ""
    header, *rows = layout([_row(reading) for reading in readings], width)
    yield header, "bold"
    for reading, row in zip(readings, rows, strict=True):
        yield row, "dim" if reading.status.state in GONE else ""
