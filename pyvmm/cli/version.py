"""pyvmm version: print the version."""

import click

from pyvmm import __version__


@click.command(help="Print the version.")
@click.option(
    "--json", "wants_json", is_flag=True, help="print the versions of pyvmm and of its API as JSON"
)
def version(*, wants_json: bool) -> None:
    """Print the version."""
    if wants_json:
        from pyvmm.cli.common.instances import print_json  # noqa: PLC0415  slow to import
        from pyvmm.vm.control.api import API_VERSION, Version  # noqa: PLC0415

        print_json(Version(API_VERSION, __version__))
    else:
        click.echo(f"pyvmm {__version__}")
