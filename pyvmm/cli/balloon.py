"""pyvmm balloon: ask a guest to lend memory to its host."""

import click

from pyvmm.cli.common.instances import directory, instance_name, named, print_json
from pyvmm.cli.common.say import print_lines
from pyvmm.cli.common.units import size
from pyvmm.vm.control.api import Balloon
from pyvmm.vm.control.client import connect

_MIB = 1 << 20
_HELP = """Ask a guest to lend memory to its host, or return some; print how much it has lent.

The guest decides how much it lends, and when. It must have been created with --balloon. A realm has
no balloon, because the host cannot take a realm's memory.
"""


@click.command(help=_HELP)
@named
@click.option(
    "-i", "--inflate", type=click.IntRange(min=1), metavar="MIB", help="ask the guest to lend more"
)
@click.option(
    "-d", "--deflate", type=click.IntRange(min=1), metavar="MIB", help="return memory to the guest"
)
@click.option("--json", "wants_json", is_flag=True, help="print JSON")
def balloon(
    name: str | None,
    option: str | None,
    *,
    inflate: int | None,
    deflate: int | None,
    wants_json: bool,
) -> None:
    """Resize the balloon and print its state."""
    with connect(directory(), instance_name(name, option)) as client:
        state = client.api.balloon(((inflate or 0) - (deflate or 0)) * _MIB)
    if wants_json:
        print_json(state)
    else:
        print_lines(*lines(state))


def lines(state: Balloon) -> list[str]:
    """Return the state of a balloon as text."""
    text = [f"{'lent':<20} {size(state.actual)} of {size(state.target)} requested"]
    for what, number in state.statistics.items():
        is_size = what.endswith(("memory", "caches"))
        text.append(f"{what.replace('_', ' '):<20} {size(number) if is_size else number}")
    return text
