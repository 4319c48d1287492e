"""The activity of all instances: readings of their statistics, as cells of a table."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Final

import msgspec

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.instances import GONE, natural
from pyvmm.cli.common.units import count, short_size
from pyvmm.vm.control.api import Statistics, Status
from pyvmm.vm.control.client import Client, connect
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.control.rates import Rates
from pyvmm.vm.exit_code import Failure

NAME, REASONS = "NAME", "BY-REASON"
COLUMNS: Final = (
    NAME, "STATE", "KIND", "CPUS", "MIPS", "EXITS/s", REASONS, "NS", "REALM", "DISK/s", "NET/s",
)  # fmt: skip
TEXTS: Final = frozenset({NAME, "STATE", "KIND", REASONS})


class Reading(msgspec.Struct, frozen=True):
    """One instance and its rates per second; None until it has been read twice."""

    status: Status
    statistics: Statistics | None = None
    rates: Rates | None = None


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


def row(reading: Reading) -> tuple[str, ...]:
    """Return the cells of a reading, one for each column."""
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


def sort(readings: Iterable[Reading], column: str, *, is_reversed: bool = False) -> list[Reading]:
    """Return readings in the order of a column: names as a reader counts, numbers from the top."""
    by_name = sorted(readings, key=lambda each: natural(each.status.name))
    if column in _NUMBERS:
        number, is_falling = _NUMBERS[column], not is_reversed
        return sorted(by_name, key=number, reverse=is_falling)
    if column == NAME:
        return by_name[::-1] if is_reversed else by_name
    place = COLUMNS.index(column)
    return sorted(by_name, key=lambda each: row(each)[place], reverse=is_reversed)


def _rate(value: Callable[[Rates], float]) -> Callable[[Reading], float]:
    return lambda reading: -1.0 if reading.rates is None else value(reading.rates)


def _resident(pas: str) -> Callable[[Reading], float]:
    return lambda reading: (
        -1.0 if reading.statistics is None else reading.statistics.memory[pas].resident
    )


_NUMBERS: Final[dict[str, Callable[[Reading], float]]] = {
    "CPUS": lambda reading: reading.status.num_cpus,
    "MIPS": _rate(lambda rates: rates.instructions),
    "EXITS/s": _rate(lambda rates: sum(rates.exits.values())),
    "NS": _resident("ns"),
    "REALM": _resident("realm"),
    "DISK/s": _rate(lambda rates: rates.disk_bytes),
    "NET/s": _rate(lambda rates: rates.network_bytes),
}
