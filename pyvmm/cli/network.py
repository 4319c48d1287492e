"""pyvmm network: show a guest's network cards, and unplug their cables."""

import click

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.instances import directory, instance_name, named, print_json
from pyvmm.cli.common.say import print_lines
from pyvmm.vm.control.client import connect

_HELP = """Show a guest's network cards: name, address, MTU, pairs of queues in use, link.

--unplug takes the link of a card down: the guest sees it, and frames in both directions are lost.
--plug takes it up again.
"""


@click.command(help=_HELP)
@named
@click.option("--unplug", metavar="CARD", help="take the link of a card down")
@click.option("--plug", metavar="CARD", help="take the link of a card up again")
@click.option("--json", "wants_json", is_flag=True, help="print JSON")
def network(
    name: str | None,
    option: str | None,
    *,
    unplug: str | None,
    plug: str | None,
    wants_json: bool,
) -> None:
    """Change a link if asked to, and print the state of all cards."""
    if unplug is not None and plug is not None:
        raise UserError("--plug and --unplug exclude each other: give one")
    with connect(directory(), instance_name(name, option)) as client:
        cards = client.api.network(unplug or plug or "", is_plugged=unplug is None)
    if wants_json:
        print_json(cards)
        return
    for card in cards:
        details = f"mtu {card.mtu}  queue pairs {card.queue_pairs}"
        link = "up" if card.is_up else "down"
        print_lines(f"{card.name:<8} {card.mac}  {details}  link {link}")
