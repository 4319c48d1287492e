"""pyvmm destroy: stop instances, by force if necessary, and remove all their files."""

import time
from contextlib import suppress

import click

from pyvmm.cli.common.instances import Chosen, several_or_gone
from pyvmm.cli.common.units import Seconds
from pyvmm.vm.control.client import Client
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.exit_code import Failure

_HELP = """Stop instances and remove all that is left of them: processes, sockets, memory and files.

An instance that does not stop in time is killed; its guest loses what it has not written yet.
Instances that are shut off or dead are removed as well.
"""


@click.command(help=_HELP)
@several_or_gone
@click.option(
    "--timeout",
    type=Seconds(),
    metavar="SECONDS",
    default=10,
    show_default=True,
    help="how long to wait before killing an instance",
)
def destroy(chosen: Chosen, *, timeout: float) -> int:
    """Destroy each instance."""
    return chosen.each_name(lambda directory, name: _destroy(directory, name, timeout))


def _destroy(directory: Directory, name: str, timeout: float) -> None:
    directory.find(name)
    deadline = time.monotonic() + timeout
    try:
        connection = directory.connect(name, timeout)
    except TimeoutError:
        process = directory.process(name)
        if process is not None:
            with process:
                process.end(0)
    except OSError:
        pass  # it is dead
    else:
        with Client(connection, name, max(deadline - time.monotonic(), 0)) as client:
            with suppress(Failure):  # it is ending, or hangs
                client.api.destroy()
            client.process.end(deadline - time.monotonic())
    directory.clean_up(name)
