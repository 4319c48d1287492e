"""How an option is declared: once, as a field of a dataclass.

The type of the field is what the option means to the program; the declaration says how a user
gives it and how its text is read::

    @dataclass(frozen=True, kw_only=True)
    class Options:
        num_cpus: int = option(1, "-c --cpus", "CPUs", read=parse_num_cpus, metavar="N")
        has_rng: bool = switch(False, "--rng", "add an entropy device")

``declared(Options)`` returns the declarations by field.  The command line and the configuration
file derive from them; ``Option.value`` turns what the user gave into the value of the field.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum, auto
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")
Switch = TypeVar("Switch", bound=bool | None)
#: Returns a field's value for the texts that the user gave; raises UserError.
Reader = Callable[[Sequence[str]], object]
_KEY: Final = "option"


class Kind(Enum):
    """What a user gives as the value of an option."""

    TEXT = auto()
    FILE = auto()  # in a configuration, relative to its directory
    FILE_WITH_DETAILS = auto()  # FILE,KEY=VALUE,...; the file is relative to it, too
    DIRECTORY = auto()
    SECONDS = auto()
    SWITCH = auto()  # no value


class Scope(Enum):
    """What an option concerns."""

    GUEST = auto()
    REALM = auto()  # requires --realm
    PLATFORM = auto()  # which exists without a realm, but only a realm can run with the option
    RUN = auto()  # a guest that runs; no effect where a guest is only measured


def _first(texts: Sequence[str]) -> str:
    return texts[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A declaration: the flags, what they mean, and which values they take."""

    flags: tuple[str, ...]
    help: str
    kind: Kind = Kind.TEXT
    scope: Scope = Scope.GUEST
    read: Reader = _first
    plan: Reader | None = None  # replaces `read` for a guest that does not run
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    default_text: str | None = None  # for help
    is_repeatable: bool = False
    is_inverted: bool = False  # a switch that turns something off

    @property
    def flag(self) -> str:
        """The long flag, without the other one of a pair."""
        return next(each for each in self.flags if each.startswith("--")).partition("/")[0]

    def value(self, given: object, *, is_run: bool = True) -> object:
        """Return the value of the field for what the user gave.

        Raises:
            UserError: the option does not accept it.
        """
        if isinstance(given, bool):
            return given != self.is_inverted
        read = self.read if is_run else self.plan or self.read
        texts = given if isinstance(given, tuple) else (given,)
        return read([str(each) for each in texts])


def option(
    default: T,
    flags: str,
    text: str,
    *,
    read: Callable[[str], T],
    plan: Callable[[str], T] | None = None,
    kind: Kind = Kind.TEXT,
    scope: Scope = Scope.GUEST,
    metavar: str | None = None,
    choices: tuple[str, ...] = (),
    default_text: str | None = None,
) -> T:
    """Declare an option with one value.

    Args:
        default: the field's value if the option is not given.
        flags: its names, separated by spaces.
        text: its help.
        read: returns the field's value for a text; raises UserError.
        plan: replaces ``read`` for a guest that is measured, not run.
        kind: what the user gives.
        scope: what the option concerns.
        metavar: the name of its value in the help.
        choices: the values it accepts; none means any.
        default_text: the default as a user would write it, for the help.
    """
    declaration = Option(
        flags=tuple(flags.split()),
        help=text,
        kind=kind,
        scope=scope,
        read=lambda texts: read(_first(texts)),
        plan=None if plan is None else lambda texts: plan(_first(texts)),
        metavar=metavar,
        choices=choices,
        default_text=default_text,
    )
    return _field(default, declaration)


def file(flags: str, text: str, *, scope: Scope = Scope.GUEST) -> Path | None:
    """Declare an option that names a file, to be opened later."""
    return option(None, flags, text, read=Path, kind=Kind.FILE, scope=scope)


def repeatable(
    flags: str,
    text: str,
    *,
    read: Callable[[Sequence[str]], tuple[T, ...]],
    metavar: str,
    kind: Kind = Kind.TEXT,
) -> tuple[T, ...]:
    """Declare an option that may be given several times; ``read`` gets all the texts."""
    declaration = Option(
        flags=tuple(flags.split()),
        help=text,
        kind=kind,
        read=read,
        metavar=metavar,
        is_repeatable=True,
    )
    return _field((), declaration)


def switch(default: Switch, flags: str, text: str, *, scope: Scope = Scope.GUEST) -> Switch:
    """Declare an option without a value, which inverts the default.

    The default of a pair such as "--agent/--no-agent" is None.
    """
    declaration = Option(
        flags=tuple(flags.split()),
        help=text,
        kind=Kind.SWITCH,
        scope=scope,
        is_inverted=default is True,
    )
    return _field(default, declaration)


def declared(kind: type) -> dict[str, Option]:
    """Return the options that a dataclass declares, by field, in their order."""
    return {each.name: each.metadata[_KEY] for each in fields(kind)}


def _field(default: T, declaration: Option) -> T:
    return field(default=default, metadata={_KEY: declaration})
