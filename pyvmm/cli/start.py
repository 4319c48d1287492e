"""pyvmm start: start instances that are new; a realm is activated."""

import click

from pyvmm.cli.instances import Chosen, several


@click.command(help="Start instances that are new; a realm is activated.")
@several
def start(chosen: Chosen) -> int:
    """Do it with each of them."""
    return chosen.each(lambda client: client.api.start())
