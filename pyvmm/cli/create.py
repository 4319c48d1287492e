"""pyvmm create: create an instance without starting it."""

from pathlib import Path

import click

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.creation import create_instance
from pyvmm.cli.common.instances import directory, print_json
from pyvmm.cli.common.kept import KeptOptions
from pyvmm.cli.common.options import GuestCommand, given_options, guest_options, virtual_machine
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.name import check_name

_HELP = """Create an instance in its own process; `pyvmm start` starts it.

When the command returns, the state of the instance is NEW: a realm is built and measured, a normal
VM is loaded. KERNEL is the same as --kernel. Without a kernel, it is a tiny built-in guest.

Exit code: 0 created, 2 bad input, 6 the guest could not be created.
"""


@click.command(cls=GuestCommand, help=_HELP)
@click.argument("instance", metavar="NAME")
@guest_options
@click.option("--json", "wants_json", is_flag=True, help="print the instance's status as JSON")
def create(  # noqa: D103  the help says it
    *, instance: str, positional: Path | None, wants_json: bool, **asked: object
) -> int:
    if asked["name"] not in {None, instance}:
        raise UserError(f"two names given, {instance} and {asked['name']}: give one")
    place, given = directory(), given_options(positional, asked)
    options = virtual_machine({**given, "name": check_name(instance)})
    create_instance(options, place, KeptOptions.of(given))
    if wants_json:
        print_json(place.find(instance))
    return ExitCode.OK
