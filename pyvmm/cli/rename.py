"""pyvmm rename: give an instance another name."""

import click

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.instances import complete, directory, format_os_error

_HELP = """Give an instance that is shut off or dead another name.

It keeps its options and its logs.
"""


@click.command(help=_HELP)
@click.argument("old", metavar="NAME", shell_complete=complete)
@click.argument("new", metavar="NEW_NAME")
def rename(*, old: str, new: str) -> None:
    """Rename it."""
    try:
        directory().rename(old, new)
    except OSError as error:
        raise UserError(f"{format_os_error(error)}: {old} keeps its name") from None
