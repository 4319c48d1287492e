"""pyvmm boot: run software that owns the machine, at EL2 or EL1."""

from pathlib import Path

import click

from pyvmm.cli.common.options import (
    GuestCommand,
    given_options,
    guest_options,
    virtual_machine,
)
from pyvmm.cli.run import run_instance

_HELP = """Boot software that owns the machine: a hypervisor, or a kernel with KVM.

It starts at EL2, or with --el1 at EL1, on --machine virt unless another one is given. It calls
firmware by SMC: PSCI, and the Realm Management Interface, so that it may run realms of its own. The
other verbs treat it as a guest.

Exit code: as for `pyvmm run`.
"""


@click.command(cls=GuestCommand, help=_HELP)
@guest_options
def boot(  # noqa: D103  the help says it
    *, positional: Path | None, **asked: object
) -> int:
    given = {"machine": "virt"} | given_options(positional, asked)
    return run_instance(virtual_machine(given if "is_el1" in given else given | {"is_el2": True}))
