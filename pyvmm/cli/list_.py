"""pyvmm list: show the instances."""

import click

from pyvmm.cli.common.instances import GONE, directory, print_json
from pyvmm.cli.common.say import print_lines
from pyvmm.vm.control.api import Status


@click.command("list", help="List all instances, including those that are shut off or dead.")
@click.option("-i", "--run", "running", is_flag=True, help="omit those that are shut off or dead")
@click.option("--json", "wants_json", is_flag=True, help="print JSON")
def list_(*, running: bool, wants_json: bool) -> None:
    """Print one line per instance."""
    statuses = [
        status for status in directory().statuses() if not running or status.state not in GONE
    ]
    if wants_json:
        print_json(statuses)
        return
    rows = [("PID", "NAME", "STATE", "KIND"), *map(_row, statuses)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for pid, *rest in rows:
        cells = [pid.rjust(widths[0])]
        cells += [cell.ljust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print_lines("  ".join(cells).rstrip())


def _row(status: Status) -> tuple[str, str, str, str]:
    state = str(status.state)
    if status.exit_code is not None:
        state += f" ({status.exit_code})"
    return str(status.pid or "-"), status.name, state, status.kind
