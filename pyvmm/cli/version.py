"""pyvmm version: print the version."""

from importlib.metadata import version as installed_version

import click


@click.command(help="Print the version.")
@click.option(
    "--json", "wants_json", is_flag=True, help="print the versions of pyvmm and of its API as JSON"
)
def version(*, wants_json: bool) -> None:
    """Print the version."""
    if wants_json:
        from pyvmm.cli.common.instances import print_json  # noqa: PLC0415  slow to import
        from pyvmm.vm.control.api import API_VERSION, Version  # noqa: PLC0415

        print_json(Version(API_VERSION, installed_version("pyvmm")))
    else:
        click.echo(f"pyvmm {installed_version('pyvmm')}")
