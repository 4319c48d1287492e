"""Prints lines of styled text: in colour on a terminal, plain in a pipe, or as an SVG file."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from pyvmm.arch.errors import UserError

NOTICE: Final = "seen from the machine: no host could see this"
#: One style and one character per GPI: the character alone is enough.
WORLDS: Final = {
    "NS": ("green", "·"),
    "REALM": ("bold blue", "█"),
    "ROOT": ("bold red", "▓"),
    "SECURE": ("yellow", "▒"),
    "ANY": ("white", "+"),
    "NO_ACCESS": ("dim", " "),
}
MIXED: Final = ("magenta", "▚")
HEADING: Final = "bold"
BAD: Final = "bold red"
DIM: Final = "dim"


def line(*parts: str | tuple[str, str]) -> Text:
    """Return a line of texts, each plain or with a style."""
    return Text.assemble(*parts)


def style_of(world: str) -> str:
    """Return the style of a world or physical address space."""
    return WORLDS.get(world, ("", ""))[0]


def show(lines: Iterable[Text]) -> None:
    """Print lines on standard output, after the notice."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(Text(NOTICE, DIM))
    for each in lines:
        console.print(each)


def save(path: Path, title: str, lines: Iterable[Text]) -> None:
    """Write lines as an SVG file.

    Raises:
        UserError: the file cannot be written.
    """
    texts = [Text(NOTICE, DIM), *lines]
    width = max(40, *(each.cell_len for each in texts))
    console = Console(
        record=True, width=width, file=io.StringIO(), force_terminal=True, highlight=False
    )
    for each in texts:
        console.print(each, soft_wrap=True)
    try:
        path.write_text(console.export_svg(title=title))
    except OSError as error:
        raise UserError(f"--svg {path}: {error.strerror}") from None
