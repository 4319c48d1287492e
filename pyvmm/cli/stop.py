"""pyvmm stop: ask guests to power off, and end those that do not."""

import time
from contextlib import suppress
from typing import Final

import click

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.instances import Chosen, directory, several
from pyvmm.cli.common.units import Seconds
from pyvmm.vm.control.api import State
from pyvmm.vm.control.client import PATIENCE, Gone, NoAnswer, connect
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.exit_code import ExitCode, Failure

#: Seconds for a guest to power off; a distribution may have many services to stop.
TIME_TO_POWER_OFF: Final = 20.0

_HELP = f"""Stop instances: press the guest's power button, and end a guest that does not power off.

A guest that is not running, has no power button, or has no driver for it ends at once, like pulling
the plug; with --force, so does every guest. Disks are flushed in any case. An instance that is shut
off stays listed until `pyvmm destroy`; a guest of `pyvmm run` does not.

--timeout is the time for the guest to power off, {TIME_TO_POWER_OFF:g} s by default, and then for
the instance to end.

Exit code: 0 shut off, 2 no such instance, 8 the instance is dead, 124 --timeout ran out.
"""


@click.command(help=_HELP)
@several
@click.option("--timeout", type=Seconds(), metavar="SECONDS", help="how long to wait")
@click.option("-f", "--force", is_flag=True, help="do not wait for the guest to power off")
def stop(chosen: Chosen, *, timeout: float | None, force: bool) -> int:
    """Press all buttons first: the guests power off at the same time."""
    place, pressed = directory(), set()
    if not force:
        pressed = {name for name in chosen.find(place) if _press(place, name, timeout)}
    deadline = time.monotonic() + (TIME_TO_POWER_OFF if timeout is None else timeout)
    return chosen.each_name(
        lambda place, name: _stop(place, name, timeout, deadline if name in pressed else 0)
    )


def _press(directory: Directory, name: str, timeout: float | None) -> bool:
    """Press the power button of an instance; return whether its guest will notice."""
    with (
        suppress(UserError, Failure),  # to be reported by `_stop`
        connect(directory, name, PATIENCE if timeout is None else timeout) as client,
    ):
        return client.api.press_power_button()
    return False


def _stop(directory: Directory, name: str, timeout: float | None, deadline: float) -> None:
    """End an instance that does not end by itself before a deadline."""
    if directory.find(name).state == State.STOPPED:
        return
    try:
        with connect(directory, name, timeout) as client:
            if not client.process.wait(deadline - time.monotonic()):
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
