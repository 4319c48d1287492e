"""pyvmm resume: resume paused instances."""

import click

from pyvmm.cli.common.instances import Chosen, several


@click.command(help="Resume paused instances.")
@several
def resume(chosen: Chosen) -> int:
    """Resume each instance."""
    return chosen.each(lambda client: client.api.resume())
