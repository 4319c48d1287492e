"""pyvmm wait: wait for an instance's state or for console output."""

import os
import re
import time
from typing import Final

import click
import msgspec

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.instances import by_state, directory, instance_name, named, print_json
from pyvmm.cli.common.units import Seconds
from pyvmm.vm.control.api import State, Status
from pyvmm.vm.control.client import Client
from pyvmm.vm.exit_code import ExitCode, Failure

_STATES: Final = {
    "building": State.BUILDING,
    "new": State.NEW,
    "running": State.RUNNING,
    "paused": State.PAUSED,
    "stopped": State.STOPPED,
}
#: How far back in the console's output a match may begin, in bytes.
_WINDOW: Final = 64 << 10
_HELP = """Wait until an instance is in a state, or until its console shows a text.

Earlier console output counts too, unless --new is given.

Exit code: 0 success, or for state:stopped the exit code that `pyvmm run` would return; 7 the guest
ended before the awaited event; 8 the instance died; 124 --timeout ran out.
"""


class Matched(msgspec.Struct, frozen=True):
    """The console output that matched."""

    text: str
    groups: list[str | None]


@click.command(help=_HELP)
@named
@click.option(
    "--for",
    "goal",
    metavar="console:REGEX|state:STATE",
    default="state:stopped",
    show_default=True,
    help=f"what to wait for; a state is one of {', '.join(_STATES)}",
)
@click.option("--new", "only_new", is_flag=True, help="ignore earlier console output")
@click.option("--timeout", type=Seconds(), metavar="SECONDS", help="give up after SECONDS")
@click.option("--json", "wants_json", is_flag=True, help="print the status, or the match, as JSON")
def wait(
    name: str | None,
    option: str | None,
    *,
    goal: str,
    only_new: bool,
    timeout: float | None,
    wants_json: bool,
) -> int:
    """Wait; return the exit code."""
    waiter = _parse(goal)
    place, name = directory(), instance_name(name, option)

    def wait_for_it(client: Client) -> None:
        waiter.begin(client, scrollback=not only_new)
        if not waiter.listen(client, timeout):
            raise Failure(ExitCode.TIMEOUT, f"{name}: {goal} did not occur within {timeout:g} s")

    def look_back(status: Status) -> None:
        waiter.state_changed(status)
        waiter.console_output(0, b"" if only_new else place.console_log(name) or b"")
        waiter.console_closed()

    by_state(place, name, wait_for_it, look_back)
    if waiter.result is None:
        raise Failure(ExitCode.ENDED, f"{name} ended before {goal} occurred")
    if wants_json:
        print_json(waiter.result)
    return waiter.code


class Waiter:
    """Receives an instance's notifications until the awaited event occurs or cannot occur."""

    def __init__(self) -> None:
        self.is_over = False
        self.result: msgspec.Struct | None = None
        self.code = int(ExitCode.OK)

    def begin(self, client: Client, *, scrollback: bool) -> None:
        """Subscribe to the notifications."""
        raise NotImplementedError

    def listen(self, client: Client, timeout: float | None) -> bool:
        """Listen until the result is certain; return False if the time runs out."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.is_over:
            left = None if deadline is None else deadline - time.monotonic()
            if not client.listen(self, left):
                return False
        return True

    def state_changed(self, status: Status) -> None:
        """Handle a new state."""

    def console_output(self, position: int, data: bytes) -> None:
        """Handle output."""

    def console_closed(self) -> None:
        """Handle the end of the output."""


class StateWaiter(Waiter):
    """Waits for a state."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state

    def begin(self, client: Client, *, scrollback: bool) -> None:
        """Subscribe to the states."""
        del scrollback
        self.state_changed(client.api.watch())

    def state_changed(self, status: Status) -> None:
        """Check for the awaited state; the last state ends the wait."""
        if status.state == self._state:
            self.result = status
        if status.state == self._state == State.STOPPED:
            self.code = status.result
        self.is_over |= status.state in {self._state, State.STOPPED}


class ConsoleWaiter(Waiter):
    """Waits for a text on the console."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        super().__init__()
        self._pattern = pattern
        self._recent = b""

    def begin(self, client: Client, *, scrollback: bool) -> None:
        """Subscribe to the output."""
        client.api.console_attach(scrollback=scrollback)

    def console_output(self, position: int, data: bytes) -> None:
        """Search the recent output."""
        del position
        self._recent = (self._recent + data)[-(_WINDOW + len(data)) :]
        match = self._pattern.search(self._recent)
        if match is not None:
            groups = [None if each is None else _text(each) for each in match.groups()]
            self.result = Matched(_text(match[0]), groups)
            self.is_over = True

    def console_closed(self) -> None:
        """End the wait."""
        self.is_over = True


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _parse(goal: str) -> Waiter:
    kind, _, what = goal.partition(":")
    if kind == "state" and what.lower() in _STATES:
        return StateWaiter(_STATES[what.lower()])
    if kind != "console" or not what:
        raise UserError(f"--for {goal}: give console:REGEX or state:{'|'.join(_STATES)}")
    try:
        return ConsoleWaiter(re.compile(os.fsencode(what)))
    except re.error as error:
        raise UserError(f"--for {goal}: not a regular expression: {error}") from None
