"""pyvmm shell: open a shell in an instance."""

from typing import Final

import click

from pyvmm.cli.common.instances import complete
from pyvmm.cli.exec import run_at_terminal

_SCRIPT: Final = "cd; command -v bash >/dev/null && exec bash -l; exec sh -l"
_HELP = """Open a shell in an instance: `pyvmm exec -t` with bash or, if the guest has none, sh.

Exit code: the shell's, as for `pyvmm exec`.
"""


@click.command(help=_HELP)
@click.argument("name", metavar="NAME", shell_complete=complete)
def shell(*, name: str) -> int:
    """Run the shell; return its exit code."""
    return run_at_terminal(name, ("sh", "-c", _SCRIPT), {})
