"""pyvmm stop: stop instances, their disks flushed."""

from contextlib import suppress

import click

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.instances import Chosen, several
from pyvmm.cli.common.units import Seconds
from pyvmm.vm.control.api import State
from pyvmm.vm.control.client import Gone, NoAnswer, connect
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.exit_code import ExitCode, Failure

_HELP = """Stop instances at once, as if the plug were pulled, but with their disks flushed.

What is shut off stays listed until `pyvmm destroy`; only what `pyvmm run` runs leaves nothing.

Exit code: 0 they are shut off, 2 there is no such instance, 8 it is dead, 124 --timeout ran out.
"""


@click.command(help=_HELP)
@several
@click.option("--timeout", type=Seconds(), metavar="SECONDS", help="how long to wait")
def stop(chosen: Chosen, *, timeout: float | None) -> int:
    """Do it with each of them."""
    return chosen.each_name(lambda directory, name: _stop(directory, name, timeout))


def _stop(directory: Directory, name: str, timeout: float | None) -> None:
    if directory.find(name).state == State.STOPPED:
        return
    try:
        with connect(directory, name, timeout) as client:
            with suppress(Gone):
                client.api.stop()
            has_ended = client.process.wait(timeout)
    except NoAnswer:
        has_ended = False
    except Gone:  # just now
        has_ended = True
    if not has_ended:
        line = f"{name} has not ended in time: pyvmm destroy {name} uses force"
        raise Failure(ExitCode.TIMEOUT, line)
    if not _is_well(directory, name):
        raise Failure(ExitCode.UNREACHABLE, f"{name} died: pyvmm destroy {name} cleans up")


def _is_well(directory: Directory, name: str) -> bool:
    """Tell whether an instance that has ended meanwhile ended as it should."""
    try:
        return directory.find(name).state == State.STOPPED
    except UserError:
        return True  # it was that of `pyvmm run`
