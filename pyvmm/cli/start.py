"""pyvmm start: start instances."""

import click

from pyvmm.cli.common.instances import Chosen, several
from pyvmm.cli.common.starting import begin, wait_ready
from pyvmm.vm.control.directory import Directory

_HELP = """Start instances; a realm is activated.

An instance that is shut off or dead starts again with the options that it was created with, from
the files that its options name, as they are now.

With --wait, the command returns when the agent in each guest is ready for `pyvmm exec` and
`pyvmm attest`. If a console is silent for a minute before that, the exit code is 2.
"""


@click.command(help=_HELP)
@several
@click.option("--wait", "waits", is_flag=True, help="wait for the guest's agent")
def start(chosen: Chosen, *, waits: bool) -> int:
    """Start each instance; then wait for the agents of those that started."""
    started: list[str] = []

    def start_one(place: Directory, name: str) -> None:
        begin(place, name)
        started.append(name)

    code = chosen.each_name(start_one)
    if waits and started:
        code = Chosen(tuple(started), every=False).each_name(wait_ready) or code
    return code
