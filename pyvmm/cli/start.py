"""pyvmm start: start instances that are new; a realm is activated."""

import click

from pyvmm.cli.common.instances import Chosen, several
from pyvmm.vm.control.client import Client

_HELP = """Start instances that are new; a realm is activated.

With --wait it ends when the agent in each of them is there, so that `pyvmm exec` and `pyvmm attest`
find it; or with exit code 2 if there is none once the console has said nothing for a minute.
"""


@click.command(help=_HELP)
@several
@click.option("--wait", "waits", is_flag=True, help="wait for the guest's agent")
def start(chosen: Chosen, *, waits: bool) -> int:
    """Do it with each of them, and then wait for each that has started."""
    started: list[str] = []

    def begin(client: Client) -> None:
        client.api.start()
        started.append(client.name)

    code = chosen.each(begin)
    if waits and started:
        code = Chosen(tuple(started), every=False).each(_wait) or code
    return code


def _wait(client: Client) -> None:
    client.patience = None
    client.api.wait_agent()
