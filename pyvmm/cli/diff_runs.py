"""pyvmm diff-runs: compare two recorded runs."""

from pathlib import Path

import click

from pyvmm.cli.common.options import FILE
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.record.difference import first_difference
from pyvmm.vm.record.file import Reader

_HELP = """Print the first event in which two recorded runs differ, and those before it.

An event is what --trace prints, such as an RMI or RSI command, an exit or a device access.

Exit code: 0 all events are the same, 1 they differ.
"""


@click.command(help=_HELP)
@click.argument("first", type=FILE)
@click.argument("second", type=FILE)
def diff_runs(first: Path, second: Path) -> int:  # noqa: D103  the help says it
    difference = first_difference(Reader(first), Reader(second))
    if difference is None:
        click.echo("all events are the same")
        return ExitCode.OK
    count = len(difference.before)
    for number, event in enumerate(difference.before, difference.number - count):
        click.echo(f"  {number}  {event}")
    click.echo(f"< {difference.number}  {difference.first}")
    click.echo(f"> {difference.number}  {difference.second}")
    return ExitCode.DIFFERENT
