"""End instances in order: press the power button, wait, and then end those that are left."""

import time
from contextlib import suppress
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.vm.control.api import State
from pyvmm.vm.control.client import PATIENCE, Gone, NoAnswer, connect
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.exit_code import ExitCode, Failure

#: Seconds for a guest to power off; a distribution may have many services to stop.
TIME_TO_POWER_OFF: Final = 20.0


def press(directory: Directory, name: str, timeout: float | None) -> bool:
    """Press the power button of an instance; return whether its guest will notice."""
    with (
        suppress(UserError, Failure),  # to be reported by `end`
        connect(directory, name, PATIENCE if timeout is None else timeout) as client,
    ):
        return client.api.press_power_button()
    return False


def end(directory: Directory, name: str, timeout: float | None, deadline: float) -> None:
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
