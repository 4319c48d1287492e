"""pyvmm stop: stop instances after flushing their disks."""

from contextlib import suppress

import click

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.instances import Chosen, several
from pyvmm.cli.common.units import Seconds
from pyvmm.vm.control.api import State
from pyvmm.vm.control.client import Gone, NoAnswer, connect
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.exit_code import ExitCode, Failure

_HELP = """Stop instances at once, like pulling the plug, but after flushing their disks.

An instance that is shut off stays listed until `pyvmm destroy`; a guest of `pyvmm run` does not.

Exit code: 0 shut off, 2 no such instance, 8 the instance is dead, 124 --timeout ran out.
"""


@click.command(help=_HELP)
@several
@click.option("--timeout", type=Seconds(), metavar="SECONDS", help="how long to wait")
def stop(chosen: Chosen, *, timeout: float | None) -> int:
    """Stop each instance."""
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
    except Gone:  # it ended meanwhile
        has_ended = True
    if not has_ended:
        line = f"{name} did not stop in time: pyvmm destroy {name} kills it"
        raise Failure(ExitCode.TIMEOUT, line)
    if not _has_ended_well(directory, name):
        raise Failure(ExitCode.UNREACHABLE, f"{name} died: pyvmm destroy {name} cleans up")


def _has_ended_well(directory: Directory, name: str) -> bool:
    """Return whether an instance that has ended recorded its end."""
    try:
        return directory.find(name).state == State.STOPPED
    except UserError:
        return True  # it was a guest of `pyvmm run`
