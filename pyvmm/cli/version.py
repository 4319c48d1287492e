"""pyvmm version: say which version this is."""

from importlib.metadata import version as installed_version

import click


@click.command(help="Say which version this is.")
def version() -> None:
    """Print the version."""
    click.echo(f"pyvmm {installed_version('pyvmm')}")
