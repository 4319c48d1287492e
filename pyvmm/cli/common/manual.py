"""The man pages, generated from the commands.

`python -m pyvmm.cli.common.manual DIRECTORY` writes pyvmm.1 and one page for each command below it.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click

from pyvmm.cli import cli
from pyvmm.vm.exit_code import MEANINGS

_ABOUT: Final = f'"pyvmm {version("pyvmm")}" "pyvmm manual"'


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each page."""
    names = cli.context_settings["help_option_names"]
    yield from _pages(click.Context(cli, info_name="pyvmm", help_option_names=names))


def _pages(context: click.Context) -> Iterator[tuple[str, str]]:
    yield context.command_path.replace(" ", "-"), _page(context)
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            if command is not None and not command.hidden:
                yield from _pages(click.Context(command, info_name=name, parent=context))


def _page(context: click.Context) -> str:
    """Return a page in the man macros."""
    command, name = context.command, context.command_path.replace(" ", "-")
    usage = " ".join(command.collect_usage_pieces(context))
    paragraphs = [each.strip() for each in (command.help or "").split("\n\n")]
    summary = paragraphs[0].split(". ")[0].rstrip(".")
    lines = [
        f'.TH {name.upper()} 1 "" {_ABOUT}',
        ".SH NAME",
        f"{_roff(name)} \\- {_roff(summary)}",
        ".SH SYNOPSIS",
        f".B {_roff(context.command_path)}",
        _roff(usage),
        ".SH DESCRIPTION",
        *_paragraphs(each for each in paragraphs if not each.startswith("Exit code:")),
        *_options(context),
        *_commands(context),
        *_exit_status(context, paragraphs),
        *_see_also(context),
    ]
    return "\n".join(lines) + "\n"


def _paragraphs(texts: Iterator[str]) -> Iterator[str]:
    for text in texts:
        if text.startswith("\b"):
            yield from (".PP", ".nf", *map(_roff, text.splitlines()[1:]), ".fi")
        else:
            yield from (".PP", _roff(" ".join(text.split())))


def _options(context: click.Context) -> Iterator[str]:
    options = [e for e in context.command.get_params(context) if isinstance(e, click.Option)]
    records = [each.get_help_record(context) for each in options]
    shown = [each for each in records if each is not None]
    if shown:
        yield ".SH OPTIONS"
    for names, text in shown:
        yield from (".TP", f".B {_roff(names)}", _roff(text))


def _commands(context: click.Context) -> Iterator[str]:
    command = context.command
    if not isinstance(command, click.Group):
        return
    yield ".SH COMMANDS"
    for name in command.list_commands(context):
        each = command.get_command(context, name)
        if each is not None and not each.hidden:
            page = f"{context.command_path} {name}".replace(" ", "-")
            yield from (".TP", f".BR {_roff(page)} (1)", _roff(each.get_short_help_str(200)))


def _exit_status(context: click.Context, paragraphs: list[str]) -> Iterator[str]:
    yield ".SH EXIT STATUS"
    own = [each for each in paragraphs if each.startswith("Exit code:")]
    yield from _paragraphs(each.removeprefix("Exit code:") for each in own)
    if context.parent is None:
        for code, meaning in MEANINGS.items():
            yield from (".TP", f".B {int(code)}", _roff(meaning))
    elif not own:
        yield from (".PP", "As in", ".BR pyvmm (1).")


def _see_also(context: click.Context) -> Iterator[str]:
    if context.parent is not None:
        parent = context.parent.command_path.replace(" ", "-")
        yield from (".SH SEE ALSO", f".BR {_roff(parent)} (1)")


def _roff(text: str) -> str:
    """Return text that roff prints as it is, without requests or escapes."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", escaped, flags=re.MULTILINE)


def main() -> None:
    """Write the pages."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages():
        (directory / f"{name}.1").write_text(text)


if __name__ == "__main__":
    main()
