"""pyvmm balloon: ask a guest to lend memory to its host."""

import click

from pyvmm.cli.common.instances import directory, instance_name, named, print_json
from pyvmm.cli.common.say import print_lines
from pyvmm.cli.common.units import size
from pyvmm.vm.control.api import Balloon
from pyvmm.vm.control.client import connect

_MIB = 1 << 20
_HELP = """Ask a guest to lend memory to its host, or give some of that back; say how it stands.

The guest decides how much it lends, and when. It needs the device that --balloon gives it. A realm
has none: its memory is not the host's to take.
"""


@click.command(help=_HELP)
@named
@click.option("-i", "--inflate", type=click.IntRange(min=1), metavar="MIB", help="lend more")
@click.option("-d", "--deflate", type=click.IntRange(min=1), metavar="MIB", help="lend less")
@click.option("--json", "wants_json", is_flag=True, help="print JSON")
def balloon(
    name: str | None,
    option: str | None,
    *,
    inflate: int | None,
    deflate: int | None,
    wants_json: bool,
) -> None:
    """Resize it and print how it stands."""
    with connect(directory(), instance_name(name, option)) as client:
        stands = client.api.balloon(((inflate or 0) - (deflate or 0)) * _MIB)
    if wants_json:
        print_json(stands)
    else:
        print_lines(*lines(stands))


def lines(stands: Balloon) -> list[str]:
    """Return a balloon as people read it."""
    said = [f"{'lent':<20} {size(stands.actual)} of {size(stands.target)} asked for"]
    for what, number in stands.statistics.items():
        is_size = what.endswith(("memory", "caches"))
        said.append(f"{what.replace('_', ' '):<20} {size(number) if is_size else number}")
    return said
