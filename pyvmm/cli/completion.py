"""pyvmm completion: print a script that completes commands, options and instances."""

import click
from click.shell_completion import get_completion_class

from pyvmm.cli import cli

_HELP = """Print the script that completes pyvmm's commands in a shell.

\b
bash:  pyvmm completion bash >~/.local/share/bash-completion/completions/pyvmm
zsh:   pyvmm completion zsh >~/.zfunc/_pyvmm
fish:  pyvmm completion fish >~/.config/fish/completions/pyvmm.fish
"""


@click.command(help=_HELP)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101  click supports all three
    click.echo(kind(cli, {}, "pyvmm", "_PYVMM_COMPLETE").source())
