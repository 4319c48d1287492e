"""--config FILE.toml: options from a file, by their long names.

An option on the command line overrides the one in the file.  Names of files are relative to the
directory of the configuration.
"""

import tomllib
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import click

from pyvmm.arch.errors import UserError
from pyvmm.arch.user_file import read_file

P = ParamSpec("P")
R = TypeVar("R")
Value = str | int | float | bool | list[str]
_MAX_FILE: Final = 64 << 10


def config_option(verb: Callable[P, R]) -> Callable[P, R]:
    """Give a verb the option, which click processes before all others."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path, readable=False),
        is_eager=True,
        expose_value=False,
        callback=_load,
        metavar="FILE",
        help="take options from this TOML file: kernel = 'Image', mem = '1G', realm = true",
    )(verb)


def named_options(command: click.Command) -> dict[str, click.Option]:
    """Return the options that a configuration may contain, by their long names."""
    options = [each for each in command.params if isinstance(each, click.Option)]
    return {
        long_name(each): each
        for each in options
        if each.name not in {"config", "help", "wants_json"}
    }


def long_name(option: click.Option) -> str:
    """Return the name of an option in a configuration.

    >>> long_name(click.Option(["-k", "--kernel"])), long_name(click.Option(["--agent/--no-agent"]))
    ('kernel', 'agent')
    """
    return next(each for each in option.opts if each.startswith("--")).removeprefix("--")


def _load(context: click.Context, _option: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    known = named_options(context.command)
    defaults: dict[str, Value] = {}
    for name, value in _read(path).items():
        option = known.get(name)
        if option is None:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"the options are {', '.join(known)}"
            raise UserError(f"--config {path}: unknown option {name}: {hint}")
        defaults[option.name or ""] = _value(path, name, option, value)
    context.default_map = {**(context.default_map or {}), **defaults}


def _read(path: Path) -> dict[str, object]:
    data = read_file(path, "--config", _MAX_FILE, takes_pipe=True)
    try:
        return tomllib.loads(data.decode())
    except RecursionError:
        raise UserError(f"--config {path}: not TOML: nested too deeply") from None
    except ValueError as error:  # also a number with too many digits, and text that is not UTF-8
        raise UserError(f"--config {path}: not TOML: {error}") from None


def _value(path: Path, name: str, option: click.Option, value: object) -> Value:
    """Return a value of TOML as click accepts it."""
    is_file = isinstance(option.type, click.Path)

    def text(each: object) -> str:
        if isinstance(each, bool) or not isinstance(each, str | int | float):
            kind = "a list of strings" if option.multiple else "a string"
            raise UserError(f"--config {path}: {name} = {each!r}: give {kind}")
        if "\0" in str(each):
            raise UserError(f"--config {path}: {name} = {each!r}: remove the NUL character")
        return str(path.parent / str(each)) if is_file else str(each)

    if option.is_flag:
        if not isinstance(value, bool):
            raise UserError(f"--config {path}: {name} = {value!r}: give true or false")
        return value
    if option.multiple:
        return [text(each) for each in value] if isinstance(value, list) else [text(value)]
    return text(value)
