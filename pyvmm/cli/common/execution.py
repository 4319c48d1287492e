"""A command that runs in an instance, through the instance's API."""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import click

from pyvmm.arch.errors import UserError
from pyvmm.arch.text import is_unicode
from pyvmm.vm.control.api import MAX_FED, TerminalSize
from pyvmm.vm.control.client import Client, Gone
from pyvmm.vm.control.terminal import EndSignals
from pyvmm.vm.exit_code import ExitCode, Failure

#: Bytes of input that are sent at once.
CHUNK: Final = 32 << 10

#: Is called with the name of a stream and output of it.
Output = Callable[[str, bytes], None]


def start_command(
    client: Client,
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    patience: float,
    terminal: TerminalSize | None = None,
) -> int:
    """Start a command, with its arguments byte for byte; return its number."""
    if all(map(is_unicode, (*argv, *env, *env.values(), cwd))):
        return client.api.exec_start(
            [*argv], env={**env}, directory=cwd, patience=patience, terminal=terminal
        )
    return client.api.exec_start(
        [*map(_as_bytes, argv)],
        env={_as_bytes(name): _as_bytes(each) for name, each in env.items()},
        directory=_as_bytes(cwd),
        patience=patience,
        encoding="latin-1",
        terminal=terminal,
    )


def _as_bytes(text: str) -> str:
    return os.fsencode(text).decode("latin-1")


class Execution:
    """A running command: passes on its input and output, and records its end."""

    def __init__(self, client: Client, number: int, output: Output) -> None:
        self._client = client
        self._number = number
        self._output = output
        self._num_interrupts = 0
        self._room = threading.Semaphore(MAX_FED // CHUNK)
        self.ended: tuple[int, int] | None = None  # exit status and signal

    def follow(self, timeout: float | None = None) -> int:
        """Follow the command to its end; return its exit code.

        Raises:
            UserError: the agent does not know how it ended.
            Failure: the time is up, or the instance is gone.
            click.Abort: it was interrupted twice.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            with EndSignals(self._interrupt, (signal.SIGINT,)):
                while self.ended is None:
                    left = None if deadline is None else max(deadline - time.monotonic(), 0)
                    if not self._client.listen(self, left):
                        line = f"the command was killed after {timeout:g} s"
                        raise Failure(ExitCode.TIMEOUT, line)
        except Gone:
            if self._num_interrupts < 2:
                raise
            raise click.Abort from None
        status, number = self.ended
        return 128 + number if number else status

    def _interrupt(self) -> None:
        """Interrupt the command; at the second Ctrl-C, hang up.  Any thread."""
        self._num_interrupts += 1
        if self._num_interrupts > 1:
            self._client.hang_up()
            return
        with suppress(Gone):  # `follow` sees it too
            self.post("exec_signal", signal=int(signal.SIGINT))

    def type(self, read: Callable[[int], bytes]) -> None:
        """Pass input on, to its end, no faster than the command reads it; in another thread."""
        with suppress(Gone, OSError):  # `follow` sees it too
            while data := read(CHUNK):
                self.write(data)
            self.end_input()

    def write(self, data: bytes) -> None:
        """Send at most `CHUNK` bytes of input when there is room for them; in another thread."""
        self._room.acquire()
        self.post("exec_write", data=data)

    def end_input(self) -> None:
        """Close the command's standard input; the command may have ended already."""
        self.post("exec_end_input")

    def resize(self, size: TerminalSize) -> None:
        """Report the size of the user's terminal."""
        with suppress(Gone):  # `follow` sees it too
            self.post("exec_resize", columns=size.columns, rows=size.rows)

    def post(self, method: str, **params: object) -> None:
        """Call a method for this command without waiting for the answer."""
        self._client.post(method, {"number": self._number, **params}, lambda: None)

    # --- notifications of the instance ----------------------------------------------------------

    def exec_output(self, number: int, stream: str, data: bytes) -> None:
        """Pass output on."""
        del number
        self._output(stream, data)

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
        self.ended = exit_status, signal
