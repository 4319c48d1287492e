"""pyvmm exec: run a command in an instance."""

import os
import select
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import click
import msgspec

from pyvmm.arch.errors import UserError
from pyvmm.arch.system import start_thread
from pyvmm.arch.text import is_unicode
from pyvmm.cli.common.instances import complete, directory, parse_variables, print_json
from pyvmm.cli.common.streams import output_failure
from pyvmm.cli.common.units import Seconds
from pyvmm.vm.control.api import MAX_FED
from pyvmm.vm.control.client import Client, Gone, connect
from pyvmm.vm.control.terminal import EndSignals
from pyvmm.vm.exit_code import ExitCode, Failure

_CHUNK: Final = 32 << 10
_MAX_KEPT: Final = 32 << 20  # bytes of a stream, for one JSON object
_HELP = """Run a command in an instance, through the agent in its image (see docs/agent.md).

The command uses this standard input, output and error, but has no terminal. Ctrl-C interrupts it; a
second Ctrl-C kills it.

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
@click.option("--no-input", is_flag=True, help="leave its standard input empty")
@click.option(
    "--wait",
    "patience",
    type=Seconds(),
    default=10,
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
    no_input: bool,
    patience: float,
    timeout: float | None,
    wants_json: bool,
) -> int:
    """Run the command; return the exit code."""
    variables = parse_variables(env)
    with connect(directory(), name) as client:
        client.patience = None
        execution = Execution(client, is_kept=wants_json)
        number = _start(client, argv, variables, cwd, patience)
        if no_input or _is_in_background():
            execution.end_input(number)
        else:
            start_thread(threading.Thread(target=execution.type, args=(number,), daemon=True))
        code = execution.follow(number, timeout)
    if wants_json:
        print_json(execution.executed())
    return code


def _start(
    client: Client, argv: Sequence[str], env: Mapping[str, str], cwd: str, patience: float
) -> int:
    """Start the command, with its arguments byte for byte; return its number."""
    if all(map(is_unicode, (*argv, *env, *env.values(), cwd))):
        return client.api.exec_start([*argv], env={**env}, directory=cwd, patience=patience)
    return client.api.exec_start(
        [*map(_as_bytes, argv)],
        env={_as_bytes(name): _as_bytes(each) for name, each in env.items()},
        directory=_as_bytes(cwd),
        patience=patience,
        encoding="latin-1",
    )


def _as_bytes(text: str) -> str:
    return os.fsencode(text).decode("latin-1")


def _is_in_background() -> bool:
    """Return whether reading would stop this process: it is in a terminal's background."""
    try:
        return os.tcgetpgrp(0) != os.getpgrp()
    except OSError:
        return False


def _write(fd: int, data: bytes) -> None:
    """Write all data, however long it takes.

    Raises:
        Failure: the data cannot be written, or its reader is gone.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])
        except OSError as error:
            raise output_failure(error, "error" if fd == 2 else "output") from None


class Execution:
    """A running command: passes on its input and output, and records its end."""

    def __init__(self, client: Client, *, is_kept: bool) -> None:
        self._client = client
        self._kept = {"stdout": bytearray(), "stderr": bytearray()} if is_kept else None
        self._ended: tuple[int, int] | None = None
        self._num_interrupts = 0
        self._room = threading.Semaphore(MAX_FED // _CHUNK)

    def follow(self, number: int, timeout: float | None) -> int:
        """Follow the command to its end; return its exit code."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            with EndSignals(lambda: self._interrupt(number), (signal.SIGINT,)):
                while self._ended is None:
                    left = None if deadline is None else max(deadline - time.monotonic(), 0)
                    if not self._client.listen(self, left):
                        line = f"the command was killed after {timeout:g} s"
                        raise Failure(ExitCode.TIMEOUT, line)
        except Gone:
            if self._num_interrupts < 2:
                raise
            raise click.Abort from None
        status, number = self._ended
        return 128 + number if number else status

    def _interrupt(self, number: int) -> None:
        """Interrupt the command; at the second Ctrl-C, hang up.  Any thread."""
        self._num_interrupts += 1
        if self._num_interrupts > 1:
            self._client.hang_up()
            return
        with suppress(Gone):  # `follow` sees it too
            self._post("exec_signal", number=number, signal=int(signal.SIGINT))

    def type(self, number: int) -> None:
        """Pass standard input on, to its end, no faster than the command reads it."""
        with suppress(Gone, OSError):  # `follow` sees it too
            while data := os.read(0, _CHUNK):
                self._room.acquire()
                self._post("exec_write", number=number, data=data)
            self.end_input(number)

    def end_input(self, number: int) -> None:
        """Close the command's standard input; the command may have ended already."""
        self._post("exec_end_input", number=number)

    def _post(self, method: str, **params: object) -> None:
        self._client.post(method, params, lambda: None)

    def executed(self) -> Executed:
        """Return the result of the command."""
        status, number = self._ended or (0, 0)
        kept = self._kept or {}
        out, err = (kept.get(name, b"").decode(errors="replace") for name in ("stdout", "stderr"))
        return Executed(status, number, out, err)

    # --- notifications of the instance ----------------------------------------------------------

    def exec_output(self, number: int, stream: str, data: bytes) -> None:
        """Print the output, or keep it for JSON.

        Raises:
            UserError: there is too much output to keep.
        """
        del number
        if self._kept is not None:
            self._kept[stream] += data
            if len(self._kept[stream]) > _MAX_KEPT:
                raise UserError(
                    f"--json: the command wrote more than {_MAX_KEPT >> 20} MiB: omit --json"
                )
            return
        _write(2 if stream == "stderr" else 1, data)

    def exec_taken(self, number: int, size: int) -> None:
        """Allow more input to be sent."""
        del number, size
        self._room.release()

    def exec_ended(self, number: int, exit_status: int, signal: int, error: str) -> None:
        """Record how the command ended.

        Raises:
            UserError: the agent does not know.
        """
        del number
        if error:
            raise UserError(error)
        self._ended = exit_status, signal
