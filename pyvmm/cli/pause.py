"""pyvmm pause: hold every vCPU of instances; their clocks go on."""

import click

from pyvmm.cli.common.instances import Chosen, several


@click.command(help="Hold every vCPU of instances; their clocks go on.")
@several
def pause(chosen: Chosen) -> int:
    """Do it with each of them."""
    return chosen.each(lambda client: client.api.pause())
