"""pyvmm resume: let paused instances go on."""

import click

from pyvmm.cli.common.instances import Chosen, several


@click.command(help="Let paused instances go on.")
@several
def resume(chosen: Chosen) -> int:
    """Do it with each of them."""
    return chosen.each(lambda client: client.api.resume())
