"""Code that the verbs for instances share: their arguments, and connections to live instances.

An instance is live until it is shut off or dead.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from typing import Concatenate, Final, ParamSpec, TypeVar

import click
import msgspec
from click.shell_completion import CompletionItem

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.say import print_json_text, say
from pyvmm.vm.control.api import State, Status
from pyvmm.vm.control.client import Client, Gone, connect
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.exit_code import ExitCode, Failure

P = ParamSpec("P")
R = TypeVar("R")

GONE: Final = frozenset({State.STOPPED, State.DEAD})


def directory() -> Directory:
    """Return the user's runtime directory.

    Raises:
        UserError: it cannot be created or used.
    """
    try:
        return Directory.of_user()
    except OSError as error:
        reason = format_os_error(error)
        line = f"no runtime directory ({reason}): set XDG_RUNTIME_DIR to a writable directory"
        raise UserError(line) from error


def format_os_error(error: OSError) -> str:
    """Return the text of an operating system error, with the file it is about.

    >>> format_os_error(FileNotFoundError(2, "No such file or directory", "/tmp/none"))
    '/tmp/none: No such file or directory'
    """
    return ": ".join(filter(None, (error.filename, error.strerror))) or str(error)


def complete(
    _context: click.Context, _parameter: click.Parameter, begun: str
) -> "list[CompletionItem[str]]":
    """Complete the name of an instance."""
    try:
        statuses = directory().statuses()
    except UserError:
        return []
    found = [each for each in statuses if each.name.startswith(begun)]
    return [CompletionItem(each.name, help=str(each.state)) for each in found]


def code_of(error: UserError | Failure) -> ExitCode:
    """Return the exit code of an error."""
    return error.code if isinstance(error, Failure) else ExitCode.BAD_INPUT


def print_json(
    value: msgspec.Struct | Sequence[msgspec.Struct] | Mapping[str, msgspec.Struct],
) -> None:
    """Print structures as JSON."""
    print_json_text(msgspec.json.format(msgspec.json.encode(value).decode(), indent=1))


def parse_variables(env: tuple[str, ...]) -> dict[str, str]:
    """Parse variables of the form NAME=VALUE.

    Raises:
        UserError: a text has another form.
    """
    variables = {}
    for text in env:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UserError(f"--env {text}: give NAME=VALUE")
        variables[name] = value
    return variables


# --- verbs for one instance -----------------------------------------------------------------


def named(verb: Callable[P, R]) -> Callable[P, R]:
    """Give a verb ``name`` and ``option``, two ways to name an instance; see `instance_name`."""
    for option in reversed(_ONE):
        verb = option(verb)
    return verb


def instance_name(name: str | None, option: str | None) -> str:
    """Return the instance's name, given either as argument or as option.

    Raises:
        UserError: neither or both were given.
    """
    if bool(name) == bool(option):
        raise UserError("give the name of one instance (see pyvmm list)")
    return name or option or ""


def by_state(
    place: Directory,
    name: str,
    when_running: Callable[[Client], R],
    when_stopped: Callable[[Status], R],
) -> R:
    """Call one function if the instance's process runs, another if the instance has stopped.

    An instance that stops before it gives the first answer counts as stopped.

    Raises:
        UserError: there is no such instance.
        Failure: it is dead.
    """
    status = place.find(name)
    if status.state != State.STOPPED:
        try:
            with connect(place, name) as client:
                return when_running(client)
        except (Gone, UserError):
            status = place.find(name)
            if status.state != State.STOPPED:
                raise
    return when_stopped(status)


_ALSO: Final = "same as NAME"
_ONE: Final = (
    click.argument("name", metavar="NAME", required=False, shell_complete=complete),
    click.option("-n", "--name", "option", metavar="NAME", shell_complete=complete, help=_ALSO),
)


# --- verbs for any number of them -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chosen:
    """The instances that a verb is for."""

    names: tuple[str, ...]
    every: bool
    gone_too: bool = False

    def each(self, act: Callable[[Client], object]) -> int:
        """Call `act` for each live instance; return the exit code of the first failure."""

        def connected(place: Directory, name: str) -> None:
            with connect(place, name) as client:
                act(client)

        return self.each_name(connected)

    def find(self, place: Directory) -> tuple[str, ...]:
        """Return the names, each once.

        Raises:
            UserError: neither names nor --all were given, or both.
        """
        if self.every == bool(self.names):
            raise UserError("give either names of instances (see pyvmm list) or --all")
        if not self.every:
            return tuple(dict.fromkeys(self.names))
        statuses = place.statuses()
        return tuple(each.name for each in statuses if self.gone_too or each.state not in GONE)

    def each_name(self, act: Callable[[Directory, str], None]) -> int:
        """Call `act` for each name, whatever fails; return the exit code of the first failure."""
        place, code = directory(), ExitCode.OK
        for name in self.find(place):
            try:
                act(place, name)
            except (UserError, Failure) as error:
                code = code or code_of(error)
                say(str(error), "error")
        return code


def several(verb: Callable[Concatenate[Chosen, P], int]) -> Callable[P, int]:
    """Give a verb arguments that name any number of instances; --all means all live ones."""
    return _several(verb, gone_too=False)


def several_or_gone(verb: Callable[Concatenate[Chosen, P], int]) -> Callable[P, int]:
    """Give a verb the same arguments; --all includes those that are shut off or dead."""
    return _several(verb, gone_too=True)


def _several(verb: Callable[Concatenate[Chosen, P], int], *, gone_too: bool) -> Callable[P, int]:
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
        names = _taken(kwargs, "names") + _taken(kwargs, "more")
        return verb(Chosen(names, bool(kwargs.pop("every")), gone_too), *args, **kwargs)

    made: Callable[P, int] = update_wrapper(wrapped, verb)
    for option in (_MORE, _EVERY_ONE if gone_too else _EVERY_LIVE, _NAMES):
        made = option(made)
    return made


def _taken(kwargs: dict[str, object], key: str) -> tuple[str, ...]:
    names = kwargs.pop(key)
    return tuple(map(str, names)) if isinstance(names, tuple) else ()


_NAMES: Final = click.argument("names", metavar="NAME...", nargs=-1, shell_complete=complete)
_EVERY_LIVE: Final = click.option(
    "-a",
    "--all",
    "every",
    is_flag=True,
    help="all instances, except those that are shut off or dead",
)
_EVERY_ONE: Final = click.option(
    "-a",
    "--all",
    "every",
    is_flag=True,
    help="all instances, including those that are shut off or dead",
)
_MORE: Final = click.option(
    "-n", "--name", "more", metavar="NAME", multiple=True, shell_complete=complete, help=_ALSO
)


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts numbers in names by their value.

    >>> sorted(["r10", "r9", "r1"], key=natural)
    ['r1', 'r9', 'r10']
    """
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]
