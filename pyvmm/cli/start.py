"""pyvmm start: start new instances."""

import click

from pyvmm.cli.common.instances import Chosen, several
from pyvmm.vm.control.client import Client

_HELP = """Start new instances; a realm is activated.

With --wait, the command returns when the agent in each guest is ready for `pyvmm exec` and
`pyvmm attest`. If a console is silent for a minute before that, the exit code is 2.
"""


@click.command(help=_HELP)
@several
@click.option("--wait", "waits", is_flag=True, help="wait for the guest's agent")
def start(chosen: Chosen, *, waits: bool) -> int:
    """Start each instance; then wait for the agents of those that started."""
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
