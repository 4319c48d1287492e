"""pyvmm list: show the instances."""

import time

import click

from pyvmm.cli.common.instances import GONE, directory, natural, print_json
from pyvmm.cli.common.say import print_lines
from pyvmm.cli.common.table import table
from pyvmm.cli.common.units import duration, short_size
from pyvmm.vm.control.api import Status

#: The last column is there only if an instance has forwarded ports.
_HEADINGS = ("PID", "NAME", "STATE", "KIND", "CPUS", "MEM", "UP", "PORTS")
_RIGHT = frozenset({"PID", "CPUS", "MEM", "UP"})


@click.command("list", help="List all instances, including those that are shut off or dead.")
@click.option("-i", "--run", "running", is_flag=True, help="omit those that are shut off or dead")
@click.option("-q", "--quiet", "is_quiet", is_flag=True, help="print only the names")
@click.option("--json", "wants_json", is_flag=True, help="print JSON")
def list_(*, running: bool, is_quiet: bool, wants_json: bool) -> None:
    """Print one line per instance."""
    statuses = sorted(
        (each for each in directory().statuses() if not running or each.state not in GONE),
        key=lambda each: natural(each.name),
    )
    if wants_json:
        print_json(statuses)
    elif is_quiet:
        if statuses:
            print_lines(*(each.name for each in statuses))
    else:
        rows = [*map(_row, statuses)]
        used = len(_HEADINGS) if any(row[-1] for row in rows) else len(_HEADINGS) - 1
        print_lines(*table(_HEADINGS[:used], [row[:used] for row in rows], right=_RIGHT))


def _row(status: Status) -> tuple[str, ...]:
    state = str(status.state)
    if status.exit_code is not None:
        state += f" ({status.exit_code})"
    return (
        str(status.pid or "-"),
        status.name,
        state,
        status.kind,
        str(status.num_cpus),
        short_size(status.ram_size),
        _uptime(status),
        " ".join(f"{each.host}->{each.guest_port}/{each.protocol}" for each in status.ports),
    )


def _uptime(status: Status) -> str:
    """Return how long it has run, or ran."""
    if status.started is None:
        return "-"
    end = status.ended
    if end is None:
        end = status.started if status.state in GONE else time.time()  # nobody noted when it died
    return duration(max(end - status.started, 0)) if end > status.started else "-"
