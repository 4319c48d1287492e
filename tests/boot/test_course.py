"""The course: every command of every lesson is run, and prints what the lesson shows."""

import re
from pathlib import Path

import msgspec
import pytest

from pyvmm.lab.check import all_exercises
from tests.boot import course
from tests.boot.transcript import differences, steps

pytestmark = pytest.mark.boot

LESSONS = sorted(course.COURSE.glob("[0-9]*.md"))
NOTEBOOKS = sorted((course.COURSE / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize(
    "lesson", [course.COURSE / "README.md", *LESSONS], ids=lambda lesson: lesson.stem
)
def test_commands_of_a_lesson(lesson: Path, tmp_path: Path) -> None:
    """In order, in one shell, in an empty directory."""
    different = differences(lesson, tmp_path)
    assert not different, "\n".join(different)


def test_each_lesson_has_reading_commands_and_its_exercise() -> None:
    """And the table of the first page leads to all of them."""
    index = (course.COURSE / "README.md").read_text()
    assert len(LESSONS) == 10
    for lesson, exercise in zip(LESSONS, all_exercises().values(), strict=True):
        text = lesson.read_text()
        assert re.findall("^## (.*)", text, re.MULTILINE) == ["Read", "Run", "Write"]
        assert len(course.LINK.findall(text)) >= 3
        assert f"pyvmm lab begin {exercise.name}" in [step.command for step in steps(lesson)]
        assert f"({lesson.name}) | `{exercise.name}`" in index


def test_links_lead_to_the_lines_of_definitions() -> None:
    """`make gen` mends them."""
    for lesson in LESSONS:
        assert course.mended(lesson.read_text()) == lesson.read_text(), lesson.name


def test_link_to_nothing_is_found() -> None:
    """A renamed function cannot go unnoticed."""
    with pytest.raises(course.Missing, match=r"zebra"):
        course.mended("[`Bare.zebra`](../../pyvmm/lab/bare.py#L1)")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebook_shows_what_its_code_gives(notebook: Path) -> None:
    """Each cell is run, in order; the last expression of a cell is its output."""
    scope: dict[str, object] = {}
    cells = msgspec.json.decode(notebook.read_bytes(), type=course.Notebook).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert code
    for cell in code:
        assert course.run_cell("".join(cell.source), scope) == course.text_of(cell), cell.source
