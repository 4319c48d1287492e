"""Finds the course's exercises and checks solutions of them."""

import pkgutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.lab import exercises
from pyvmm.lab.exercise import Case, Exercise
from pyvmm.lab.files import load_module

_PATIENCE: Final = 60.0  # seconds for all cases of an exercise


def all_exercises() -> dict[str, Exercise]:
    """Return the exercises by name, in the order of the lessons."""
    names = (module.name for module in pkgutil.iter_modules(exercises.__path__))
    modules = (import_module(f"{exercises.__name__}.{name}") for name in names)
    found = [each for module in modules for each in vars(module).values()]
    each = sorted((e for e in found if isinstance(e, Exercise)), key=lambda e: e.lesson)
    return {exercise.name: exercise for exercise in each}


def find_exercise(name: str) -> Exercise:
    """Return the exercise of a name.

    Raises: UserError if there is none.
    """
    found = all_exercises().get(name)
    if found is None:
        raise UserError(f"no exercise {name!r}: `pyvmm lab exercises` shows all")
    return found


def check(exercise: Exercise, path: Path) -> list[Case]:
    """Try the solution in a user's file.

    Raises: UserError if the file is not a solution.
    """
    cases: list[Case] = []
    try:
        with _alarm(_PATIENCE):
            module = load_module(path, f"`pyvmm lab begin {exercise.name}` writes one")
            cases.extend(exercise.cases(module))
    except TimeoutError as late:  # it came between two cases
        cases.append(Case("the other cases", "an answer in time", str(late)))
    return cases


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Interrupt a solution that does not return, again and again."""

    def late(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"no answer within {seconds:.0f} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
