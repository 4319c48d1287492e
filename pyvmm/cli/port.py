"""pyvmm port: show the ports of the host that reach a guest."""

import click

from pyvmm.cli.common.instances import complete, directory, print_json
from pyvmm.cli.common.say import print_lines

_HELP = """Show the forwarded ports of an instance: the guest's, and the host's that lead there."""


@click.command(help=_HELP)
@click.argument("name", metavar="NAME", shell_complete=complete)
@click.option("--json", "wants_json", is_flag=True, help="print JSON")
def port(*, name: str, wants_json: bool) -> None:
    """Print one line per port."""
    ports = directory().find(name).ports
    if wants_json:
        print_json(ports)
    elif ports:
        print_lines(*(f"{each.guest_port}/{each.protocol} -> {each.host}" for each in ports))
