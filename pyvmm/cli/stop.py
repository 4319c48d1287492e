"""pyvmm stop: ask guests to power off, and end those that do not."""

import time

import click

from pyvmm.cli.common.instances import Chosen, directory, several
from pyvmm.cli.common.stopping import TIME_TO_POWER_OFF, end, press
from pyvmm.cli.common.units import Seconds

_HELP = f"""Stop instances: press the guest's power button, and end a guest that does not power off.

A guest that is not running, has no power button, or has no driver for it ends at once, like pulling
the plug; with --force, so does every guest. Disks are flushed in any case. An instance that is shut
off stays listed, and can be started again, until `pyvmm destroy`; a guest of `pyvmm run` does not.

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
        pressed = {name for name in chosen.find(place) if press(place, name, timeout)}
    deadline = time.monotonic() + (TIME_TO_POWER_OFF if timeout is None else timeout)
    return chosen.each_name(
        lambda place, name: end(place, name, timeout, deadline if name in pressed else 0)
    )
