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

_HELP = """Attach this terminal to an instance's console; Ctrl-A x detaches, and the guest runs on.

Earlier output is shown first. Any number of terminals may be attached.

Exit code: 0 detached; if the guest ends, the exit code that `pyvmm run` would return.
"""

_MAX_BACKLOG: Final = 64 << 10  # bytes typed that the guest has not read


@click.command(help=_HELP)
@named
@click.option("--log", "only_log", is_flag=True, help="print the output so far, and exit")
def console(name: str | None, option: str | None, *, only_log: bool) -> int:
    """Attach, until the user detaches or the guest ends."""
    place, name = directory(), instance_name(name, option)

    def attach(client: Client) -> int:
        with Terminal() as terminal:
            attached = Attached(client, terminal)
            return attached.print_log() if only_log else attached.follow()

    def show_rest(status: Status) -> int:
        output = place.console_log(name)
        if output is None:
            say(f"the console output of {name} could not be stored and is lost")
        sys.stdout.buffer.write(output or b"")
        return ExitCode.OK if only_log else status.result

    return by_state(place, name, attach, show_rest)


class Attached:
    """A terminal attached to the console of an instance: its input, output and notifications."""

    def __init__(self, client: Client, terminal: Terminal) -> None:
        self._client = client
        self._terminal = terminal
        self._position = 0
        self._num_typed = self._num_taken = 0
        self._is_closed = self._has_left = False
        self._status: Status | None = None

    def print_log(self) -> int:
        """Print the output so far."""
        place = self._client.api.console_attach()
        self._position = place.position
        while self._position < place.end:
            self._client.listen(self)
        return self._terminal.code

    def follow(self) -> int:
        """Pass output and input on until the user detaches or the guest ends."""
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

        with suppress(Gone):  # `follow` sees it too
            self._client.post(method, params, taken)

    # --- the console, for the terminal --------------------------------------------------------

    @property
    def backlog(self) -> int:
        """How many bytes the guest has not read yet."""
        return self._num_typed - self._num_taken

    def receive(self, data: bytes) -> None:
        """Send input to the guest; discard it if the guest has too much unread input."""
        if self.backlog <= _MAX_BACKLOG:
            self._num_typed += len(data)
            self._post("console_write", data=data)

    # --- notifications of the instance ----------------------------------------------------------

    def state_changed(self, status: Status) -> None:
        """Record the status."""
        self._status = status

    def console_output(self, position: int, data: bytes) -> None:
        """Show output, and report what was skipped before it."""
        if position > self._position:
            lost = plural(position - self._position, "byte")
            say(f"{lost} of output skipped: they came too fast")
        self._position = position + len(data)
        self._terminal.write(data)

    def console_closed(self) -> None:
        """Record that the console is closed."""
        self._is_closed = True
