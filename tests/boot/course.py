"""The course's documents: links to the lines of definitions, which `make gen` mends; notebooks."""

import ast
import re
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[2]
COURSE = ROOT / "docs" / "course"
#: [`Class.method`](../../path#L12)
LINK = re.compile(r"\[`([\w.]+)`\]\(\.\./\.\./([\w./]+)#L(\d+)\)")
Definition = ast.ClassDef | ast.FunctionDef


class Missing(Exception):
    """A link leads to nothing."""


class Output(msgspec.Struct):
    """What a cell printed."""

    text: list[str]


class Cell(msgspec.Struct):
    """A cell of a notebook."""

    cell_type: str
    source: list[str]
    outputs: list[Output] = []


class Notebook(msgspec.Struct):
    """A notebook, format 4."""

    cells: list[Cell]


def line_of(name: str, path: Path) -> int:
    """Return the line where a file defines a name."""
    text = path.read_text()
    found = in_python(name, text) if path.suffix == ".py" else in_c(name, text)
    if found is None:
        raise Missing(f"{path.relative_to(ROOT)} does not define {name}")
    return found


def in_python(name: str, text: str) -> int | None:
    """Return the line of a class, function or method."""
    scope: ast.Module | Definition = ast.parse(text)
    for part in name.split("."):
        inside = (each for each in scope.body if isinstance(each, Definition))
        found = next((each for each in inside if each.name == part), None)
        if found is None:
            return None
        scope = found
    return scope.lineno if isinstance(scope, Definition) else None


def in_c(name: str, text: str) -> int | None:
    """Return the line where the definition of a function begins."""
    pattern = re.compile(rf"^[a-z].*\b{name}\((?!.*;$)")
    lines = enumerate(text.splitlines(), 1)
    return next((number for number, line in lines if pattern.match(line)), None)


def mended(text: str) -> str:
    """Return a lesson with the right lines."""

    def mend(link: re.Match[str]) -> str:
        name, path, _ = link.groups()
        return f"[`{name}`](../../{path}#L{line_of(name, ROOT / path)})"

    return LINK.sub(mend, text)


def run_cell(source: str, scope: dict[str, object]) -> str:
    """Run a cell of a notebook; return what it prints, and the value of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with redirect_stdout(StringIO()) as output:
        exec(compile(tree, "cell", "exec"), scope)  # noqa: S102  our own notebook
        if last is not None:
            value: object = eval(ast.unparse(last), scope)  # noqa: S307
            if value is not None:
                sys.stdout.write(f"{value!r}\n")
    return output.getvalue()


def text_of(cell: Cell) -> str:
    """Return the output that a notebook has for a cell."""
    return "".join(line for output in cell.outputs for line in output.text)


def main() -> None:
    """Mend the links of all lessons."""
    for lesson in sorted(COURSE.glob("*.md")):
        text = lesson.read_text()
        if (right := mended(text)) != text:
            lesson.write_text(right)


if __name__ == "__main__":
    main()
