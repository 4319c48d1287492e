"""pyvmm console: attach this terminal to an instance's console."""

import sys
from contextlib import suppress
from typing import Final

import click

from pyvmm.cli.common.instances import by_state, directory, instance_name, named
from pyvmm.cli.common.say import say
from pyvmm.cli.common.units import plural
from pyvmm.vm.control.api import State, Status
from pyvmm.vm.control.client import Client, Gone
from pyvmm.vm.control.terminal import Terminal
from pyvmm.vm.exit_code import ExitCode

_HELP = """Attach this terminal to an instance's console; Ctrl-A x detaches, and the guest goes on.

What the console said before is shown first. Any number of terminals may be attached.

Exit code: 0 detached; when the guest ends, the exit code that `pyvmm run` would have had.
"""

_TOO_MUCH: Final = 64 << 10  # bytes typed that the guest has not taken


@click.command(help=_HELP)
@named
@click.option("--log", "only_log", is_flag=True, help="show what was said so far, and end")
def console(name: str | None, option: str | None, *, only_log: bool) -> int:
    """Attach, until the user detaches or the guest ends."""
    place, name = directory(), instance_name(name, option)

    def attach(client: Client) -> int:
        with Terminal() as terminal:
            attached = Attached(client, terminal)
            return attached.print_log() if only_log else attached.follow()

    def show_rest(status: Status) -> int:
        said = place.console_log(name)
        if said is None:
            say(f"what {name} said could not be kept, and is lost")
        sys.stdout.buffer.write(said or b"")
        return ExitCode.OK if only_log else status.result

    return by_state(place, name, attach, show_rest)


class Attached:
    """A terminal on the console of an instance: its input and output, and what it is told."""

    def __init__(self, client: Client, terminal: Terminal) -> None:
        self._client = client
        self._terminal = terminal
        self._position = 0
        self._num_typed = self._num_taken = 0
        self._is_closed = self._has_left = False
        self._status: Status | None = None

    def print_log(self) -> int:
        """Show what was said so far."""
        place = self._client.api.console_attach()
        self._position = place.position
        while self._position < place.end:
            self._client.listen(self)
        return self._terminal.code

    def follow(self) -> int:
        """Show what is said, and type what is typed, until the user or the guest ends it."""
        self._status = self._client.api.watch()
        self._position = self._client.api.console_attach().position
        if self._terminal.is_interactive:
            click.echo(f"# {self._client.name}   (Ctrl-A x detaches)", err=True)
            self._terminal.on_resize(self._resize)
            self._resize(*self._terminal.size)
        self._terminal.start(self, self._leave)
        try:
            while not self._is_closed or self._status.state != State.STOPPED:
                self._client.listen(self)
        except Gone:
            if not self._has_left:
                raise
            return ExitCode.OK
        return self._status.result or self._terminal.code

    def _leave(self) -> None:
        self._has_left = True
        self._client.hang_up()

    def _resize(self, columns: int, rows: int) -> None:
        self._post("console_resize", columns=columns, rows=rows)

    def _post(self, method: str, **params: object) -> None:
        size = self._num_typed

        def taken() -> None:
            self._num_taken = max(self._num_taken, size)

        with suppress(Gone):  # seen by who listens
            self._client.post(method, params, taken)

    # --- what the terminal sees: a console ----------------------------------------------------

    @property
    def backlog(self) -> int:
        """How many bytes the guest has not taken."""
        return self._num_typed - self._num_taken

    def receive(self, data: bytes) -> None:
        """Type; nobody waits for a guest that takes nothing, so what is too much is lost."""
        if self.backlog <= _TOO_MUCH:
            self._num_typed += len(data)
            self._post("console_write", data=data)

    # --- what the instance tells ----------------------------------------------------------------

    def state_changed(self, status: Status) -> None:
        """Note how it ends."""
        self._status = status

    def console_output(self, position: int, data: bytes) -> None:
        """Show it."""
        if position > self._position:
            lost = plural(position - self._position, "byte")
            say(f"{lost} came too fast to be shown")
        self._position = position + len(data)
        self._terminal.write(data)

    def console_closed(self) -> None:
        """Note it."""
        self._is_closed = True
