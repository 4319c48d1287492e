"""pyvmm restart: stop instances and start them again."""

import time

import click

from pyvmm.cli.common.instances import GONE, Chosen, directory, several
from pyvmm.cli.common.starting import begin, wait_ready
from pyvmm.cli.common.stopping import TIME_TO_POWER_OFF, end, press
from pyvmm.cli.common.units import Seconds
from pyvmm.vm.control.directory import Directory

_HELP = f"""Stop instances as `pyvmm stop` does, and start them again with the same options.

Instances that are shut off or dead only start. --timeout is the time for the guest to power off,
{TIME_TO_POWER_OFF:g} s by default, and then for the instance to end.

Exit code: 0 started, 2 no such instance, 8 the instance is gone, 124 --timeout ran out.
"""


@click.command(help=_HELP)
@several
@click.option("--timeout", type=Seconds(), metavar="SECONDS", help="how long to wait")
@click.option("-f", "--force", is_flag=True, help="do not wait for the guest to power off")
@click.option("--wait", "waits", is_flag=True, help="wait for the guest's agent")
def restart(chosen: Chosen, *, timeout: float | None, force: bool, waits: bool) -> int:
    """Stop and start one instance after the other; return the exit code."""
    limit = TIME_TO_POWER_OFF if timeout is None else timeout

    def restart_one(place: Directory, name: str) -> None:
        if place.find(name).state not in GONE:
            is_pressed = not force and press(place, name, timeout)
            end(place, name, timeout, time.monotonic() + limit if is_pressed else 0)
        begin(place, name)
        if waits:
            wait_ready(place, name)

    names = chosen.find(directory())
    return Chosen(names, every=False).each_name(restart_one)
