"""The exercises of the course: solutions are right, templates and common mistakes are not."""

from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.lab import check as checks
from pyvmm.lab.check import all_exercises, check, find_exercise
from pyvmm.lab.exercise import Exercise

SOLUTIONS = Path(__file__).parent / "solutions"
EXERCISES = all_exercises()
#: A mistake in a solution: what is replaced, and by what.
MISTAKES = [
    ("serial", "0x80 |", "0 |"),
    ("serial", "value & 0xFF", "value >> 8 & 0xFF"),
    ("serial", "offset == DATA:\n            self.output", "offset < 64:\n            self.output"),
    ("serial", "self.typed[1:]", "self.typed"),
    ("stage2", " or not entry & ACCESS_FLAG", ""),
    ("stage2", "0b11 if level == 3 else 0b01", "0b11"),
    ("stage2", "ipa & size - 1", "ipa & 0xFFF"),
    ("exit-loop", "context.pc += 4", "context.pc += 0"),
    ("exit-loop", "leave.reason == BUDGET", "leave.reason == 99"),
    ("exit-loop", "0 if register == 31 else context.x[register]", "context.x[register % 31]"),
    ("exit-loop", "64 if esr >> 15 & 1 else 32", "64"),
    ("exit-loop", "esr >> 21 & 1 and", "False and"),
    ("exit-loop", " and leave.esr >> 24 & 1", ""),
    ("chain", "index >= size or ", ""),
    ("chain", " or len(buffers) == size", " or len(buffers) == size - 1"),
    ("chain", "flags & INDIRECT or ", ""),
    ("chain", "and not is_writable", "and False"),
    ("protection", "& 0x3FFF", "& 0xFFF"),
    ("protection", "entry >> 4 * (pa >> 12 & 0xF) & 0xF", "entry & 0xF"),
    ("teardown", "    realm.remove_rec()\n", ""),
    ("teardown", "(3, 2)", "(2, 3)"),
    ("teardown", "*realm.tables, ", ""),
    ("rim", "0x100, rim", "0x60, rim"),
    ("rim", "ipa, 1, digest", "ipa, 0, digest"),
    ("rim", 'ljust(0x100, b"\\0")', 'ljust(0xA0, b"\\0")'),
    ("list-registers", "1 << 60 | ", ""),
    ("list-registers", "1 << 62 | ", ""),
    ("list-registers", "(priority, intid)", "(-priority, intid)"),
    ("list-registers", "[:count]", ""),
    ("break-in", "Break.GRANULE_STATE", "Break.LR_CHECK"),
    ("break-in", "victim.secret, ", "host.delegated(), "),
    ("blocks", "and not word >> 4 & 1", "and word >> 4 & 1"),
    ("blocks", " or n == len(words)", ""),
    ("blocks", "or word >> 24 == 0xD4", ""),
]


def solution(exercise: Exercise) -> Path:
    """Return the file with a solution."""
    return SOLUTIONS / f"{exercise.name.replace('-', '_')}.py"


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_solution_is_right(exercise: Exercise) -> None:
    """In each case."""
    assert not [case for case in check(exercise, solution(exercise)) if not case.is_right]


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_template_runs_and_is_wrong(exercise: Exercise, tmp_path: Path) -> None:
    """It defines what the task names; and there is something left to do."""
    path = tmp_path / "template.py"
    path.write_text(exercise.template)
    assert not all(case.is_right for case in check(exercise, path))


@pytest.mark.parametrize(("name", "right", "wrong"), MISTAKES)
def test_mistake_is_found(
    name: str, right: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mistake makes at least one case wrong."""
    monkeypatch.setattr(checks, "_PATIENCE", 3.0)  # some do not return
    exercise = EXERCISES[name]
    text = solution(exercise).read_text()
    assert right in text
    path = tmp_path / "mistake.py"
    path.write_text(text.replace(right, wrong))
    assert not all(case.is_right for case in check(exercise, path))


def test_each_lesson_has_an_exercise() -> None:
    """In their order."""
    assert [each.lesson for each in EXERCISES.values()] == list(range(1, 11))
    assert {each.name for each in EXERCISES.values() if not each.task} == set()


def test_exception_of_a_solution_is_what_it_gave(tmp_path: Path) -> None:
    """It ends no other case."""
    path = tmp_path / "raises.py"
    path.write_text("def extend(rim, ipa, content):\n    return {}['\\x1b[2J']\n")
    cases = check(EXERCISES["rim"], path)
    assert len(cases) == 3
    assert all(case.found.startswith("KeyError") for case in cases)


def test_solution_that_does_not_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is interrupted, in each case."""
    monkeypatch.setattr(checks, "_PATIENCE", 0.2)
    path = tmp_path / "loops.py"
    path.write_text("def extend(rim, ipa, content):\n    while True: pass\n")
    cases = check(EXERCISES["rim"], path)
    assert [case.found for case in cases] == ["TimeoutError: no answer within 0 seconds"] * 3


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, "is not a file: `pyvmm lab begin rim` writes one"),
        ("extend = 1\n", "does not define extend"),
        ("def extend(:\n", "SyntaxError"),
        ("raise ValueError('no')\n", "ValueError: no"),
    ],
)
def test_file_that_is_no_solution(text: str | None, error: str, tmp_path: Path) -> None:
    """One line says what to do."""
    path = tmp_path / "solution.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=error):
        check(EXERCISES["rim"], path)


def test_unknown_exercise() -> None:
    """One line says where the names are."""
    with pytest.raises(UserError, match="pyvmm lab exercises"):
        find_exercise("nothing")
