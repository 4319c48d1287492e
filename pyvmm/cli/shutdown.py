"""pyvmm shutdown: ask guests to power off."""

import time
from typing import Final

import click

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.execution import Execution, start_command
from pyvmm.cli.common.instances import Chosen, several
from pyvmm.cli.common.units import Seconds
from pyvmm.vm.control.client import Client, Gone, connect
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.exit_code import ExitCode, Failure

_TIMEOUT: Final = 60.0
_HELP = f"""Ask guests to power off, and wait until they have.

The guest gets the press of its power button or, if it has no button or no driver for it, as in a
realm, the command poweroff through its agent. Unlike `pyvmm stop`, this never ends a guest that
does not power off.

Exit code: 0 shut off, 2 the guest cannot be asked, 8 the instance is gone, 124 it has not powered
off within --timeout, {_TIMEOUT:g} s by default.
"""


@click.command(help=_HELP)
@several
@click.option(
    "--timeout", type=Seconds(), default=_TIMEOUT, metavar="SECONDS", help="how long to wait"
)
@click.option("--no-wait", is_flag=True, help="do not wait for the end")
def shutdown(chosen: Chosen, *, timeout: float, no_wait: bool) -> int:
    """Ask all guests first: they power off at the same time."""
    asked: list[str] = []

    def ask(client: Client) -> None:
        if not client.api.press_power_button():
            _call_poweroff(client)
        asked.append(client.name)

    code = chosen.each(ask)
    if no_wait or not asked:
        return code
    deadline = time.monotonic() + timeout
    waited = Chosen(tuple(asked), every=False).each_name(
        lambda place, name: _wait(place, name, deadline)
    )
    return code or waited


def _call_poweroff(client: Client) -> None:
    try:
        number = start_command(client, ("poweroff",), {}, "", 0)
        execution = Execution(client, number, lambda _stream, _data: None)
        execution.end_input()
        execution.follow()
    except Gone:
        pass  # it was fast
    except UserError as error:
        if not client.process.wait(0):
            raise UserError(f"{client.name} has no power button, and no agent: {error}") from None


def _wait(place: Directory, name: str, deadline: float) -> None:
    try:
        with connect(place, name) as client:
            has_ended = client.process.wait(deadline - time.monotonic())
    except (Gone, UserError):
        return
    if not has_ended:
        raise Failure(ExitCode.TIMEOUT, f"{name} has not powered off: pyvmm stop {name} ends it")
