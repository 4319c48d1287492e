"""What an exercise of the course is: a function to write, and cases to try it with."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import cleandoc
from types import ModuleType
from typing import NamedTuple

from pyvmm.arch.errors import UserError

_LONGEST = 60  # characters of a value in a report


class Case(NamedTuple):
    """One case: what a solution should give, and what it gave, both as text."""

    what: str
    expected: str
    found: str

    @property
    def is_right(self) -> bool:
        """Whether the solution gave what it should."""
        return self.expected == self.found


#: Tries a solution, a student's module.
Cases = Callable[[ModuleType], Iterator[Case]]


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        lesson: the number of the lesson that it belongs to.
        name: as the command line has it.
        task: what to write; the first line says it in short.
        template: the file to start from, without the task.
        cases: tries a solution.
    """

    lesson: int
    name: str
    task: str
    template: str
    cases: Cases

    @property
    def summary(self) -> str:
        """The first line of the task."""
        return self.task.partition("\n")[0]


def exercise(lesson: int, template: str) -> Callable[[Cases], Exercise]:
    """Make an exercise of ``function(module)``, whose docstring is the task."""

    def declare(cases: Cases) -> Exercise:
        name = cases.__name__.replace("_", "-")
        return Exercise(lesson, name, cleandoc(cases.__doc__ or ""), template, cases)

    return declare


def wanted(module: ModuleType, name: str) -> object:
    """Return what a solution must define.

    Raises: UserError if it does not.
    """
    found = vars(module).get(name)
    if not callable(found):
        raise UserError(f"{module.__file__} does not define {name}: see the task at its beginning")
    return found


def case(what: str, expected: object, call: Callable[[], object]) -> Case:
    """Try one case; an exception of the solution is what it gave."""
    try:
        found = show(call())
    except Exception as error:  # noqa: BLE001  a student's code may raise anything
        found = f"{type(error).__name__}: {error}"[:_LONGEST]
    return Case(what, show(expected), found)


def show(value: object) -> str:
    """Return a value as text: numbers in hexadecimal."""
    if isinstance(value, int) and not isinstance(value, bool):
        return hex(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, (bytes, bytearray)):
        return value.hex() if len(value) > _LONGEST // 2 else repr(bytes(value))
    return repr(value) if not isinstance(value, str) else value
