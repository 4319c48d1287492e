"""pyvmm snapshot: save a running guest to a file."""

from pathlib import Path

import click

from pyvmm.cli.common.instances import directory
from pyvmm.vm.control.client import Gone, connect

_HELP = """Save a running normal VM to a file, from which `pyvmm run --restore FILE` continues.

The guest is paused meanwhile. The file has its memory and the state of its CPUs and devices, but
not its disks: with --stop, they stay as they are when it is saved.

A realm cannot be saved, because its memory and registers are hidden from its host.
"""


@click.command(help=_HELP)
@click.argument("name", metavar="NAME")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--stop", is_flag=True, help="end the guest once it is saved")
def snapshot(name: str, file: Path, *, stop: bool) -> None:
    """Save one instance."""
    from pyvmm.vm.snapshot import new_file  # noqa: PLC0415  the help does not need it

    with connect(directory(), name, None) as client, new_file(file) as saved:
        client.enclose(saved.fileno())
        try:
            client.api.snapshot(stop=stop)
        except Gone:
            if not stop:
                raise
        if stop:
            client.process.wait(None)
