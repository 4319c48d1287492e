"""pyvmm pause: pause instances."""

import click

from pyvmm.cli.common.instances import Chosen, several


@click.command(help="Pause instances: stop every vCPU. Their clocks continue.")
@several
def pause(chosen: Chosen) -> int:
    """Pause each instance."""
    return chosen.each(lambda client: client.api.pause())
