"""pyvmm exec: run a command in an instance."""

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Final

import click
import msgspec

from pyvmm.arch.errors import UserError
from pyvmm.arch.system import start_thread
from pyvmm.cli.common.execution import Execution, start_command
from pyvmm.cli.common.instances import complete, directory, parse_variables, print_json
from pyvmm.cli.common.raw import RawTerminal, terminal_size
from pyvmm.cli.common.streams import is_in_background, write_all
from pyvmm.cli.common.units import Seconds
from pyvmm.vm.control.client import connect

_MAX_KEPT: Final = 32 << 20  # bytes of a stream, for one JSON object
_PATIENCE: Final = 10.0
_HELP = """Run a command in an instance, through the agent in its image (see docs/agent.md).

The command uses this standard input, output and error. Ctrl-C interrupts it; a second Ctrl-C kills
it. With -t (or -it) it has a terminal of the size of this one and gets every key, Ctrl-C too.

Exit code: the command's; as in a shell, 126 or 127 if it cannot be run, and 128 + N if signal N
ended it. With a line on standard error: 2 the agent is missing or refuses, 8 the instance is gone,
9 the output cannot be written, 124 --timeout ran out, 130 killed by Ctrl-C.
"""


class Executed(msgspec.Struct, frozen=True):
    """A command that has ended, and its output as text."""

    exit_status: int
    signal: int
    stdout: str
    stderr: str


class _Exec(click.Command):
    """A command whose own options must precede the ``--``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse them; explain an unknown option that may belong to the guest's command."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if "--" in args:
                raise
            ctx.fail(f"{error.message} Put -- before the command: pyvmm exec NAME -- COMMAND")


@click.command("exec", cls=_Exec, help=_HELP)
@click.argument("name", metavar="NAME", shell_complete=complete)
@click.argument("argv", metavar="-- COMMAND [ARG]...", nargs=-1, required=True)
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="environment variable")
@click.option("--cwd", default="", metavar="DIR", help="working directory")
@click.option("-t", "--tty", "has_terminal", is_flag=True, help="give it a terminal")
@click.option("-i", "--interactive", is_flag=True, help="no effect: it has this standard input")
@click.option("--no-input", is_flag=True, help="leave its standard input empty")
@click.option(
    "--wait",
    "patience",
    type=Seconds(),
    default=_PATIENCE,
    show_default=True,
    metavar="SECONDS",
    help="how long to wait for the agent while the booting guest's console is silent",
)
@click.option("--timeout", type=Seconds(), metavar="SECONDS", help="kill the command after SECONDS")
@click.option("--json", "wants_json", is_flag=True, help="print status and output as JSON")
def exec_(
    *,
    name: str,
    argv: tuple[str, ...],
    env: tuple[str, ...],
    cwd: str,
    has_terminal: bool,
    interactive: bool,
    no_input: bool,
    patience: float,
    timeout: float | None,
    wants_json: bool,
) -> int:
    """Run the command; return the exit code."""
    del interactive
    variables = parse_variables(env)
    if has_terminal:
        if no_input or wants_json:
            raise UserError("--tty excludes --no-input and --json: omit it, or them")
        return run_at_terminal(name, argv, variables, cwd, patience, timeout)
    output = Output(is_kept=wants_json)
    with connect(directory(), name) as client:
        client.patience = None
        execution = Execution(client, start_command(client, argv, variables, cwd, patience), output)
        if no_input or is_in_background():
            execution.end_input()
        else:
            start_thread(threading.Thread(target=execution.type, args=(read_input,), daemon=True))
        code = execution.follow(timeout)
    if wants_json:
        print_json(output.executed(*(execution.ended or (0, 0))))
    return code


def run_at_terminal(
    name: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str = "",
    patience: float = _PATIENCE,
    timeout: float | None = None,
) -> int:
    """Run a command that has a terminal, of the size of the user's; return its exit code."""
    variables = {"TERM": os.environ.get("TERM", "dumb"), **env}
    with connect(directory(), name) as client:
        client.patience = None
        number = start_command(client, argv, variables, cwd, patience, terminal_size())
        execution = Execution(client, number, Output(is_kept=False))
        start_thread(threading.Thread(target=execution.type, args=(read_input,), daemon=True))
        with RawTerminal(execution.resize):
            return execution.follow(timeout)


def read_input(size: int) -> bytes:
    """Read standard input."""
    return os.read(0, size)


class Output:
    """The output of a command: printed, or kept for JSON."""

    def __init__(self, *, is_kept: bool) -> None:
        self._kept = {"stdout": bytearray(), "stderr": bytearray()} if is_kept else None

    def __call__(self, stream: str, data: bytes) -> None:
        """Take output.

        Raises:
            UserError: there is too much to keep.
            Failure: it cannot be printed.
        """
        if self._kept is None:
            write_all(2 if stream == "stderr" else 1, data)
            return
        self._kept[stream] += data
        if len(self._kept[stream]) > _MAX_KEPT:
            raise UserError(
                f"--json: the command wrote more than {_MAX_KEPT >> 20} MiB: omit --json"
            )

    def executed(self, status: int, number: int) -> Executed:
        """Return the result of the command."""
        kept = self._kept or {}
        out, err = (kept.get(name, b"").decode(errors="replace") for name in ("stdout", "stderr"))
        return Executed(status, number, out, err)
