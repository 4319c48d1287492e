"""pyvmm config: show the effective configuration."""

import json
from pathlib import Path

import click
import tomli_w
from click.core import ParameterSource

from pyvmm.arch.errors import UserError
from pyvmm.arch.text import is_unicode
from pyvmm.cli.common.configuration import Value, long_name, named_options
from pyvmm.cli.common.options import GuestCommand, guest_options, kind_of
from pyvmm.cli.common.say import print_json_text


@click.group(help="Show the effective configuration.")
def config() -> None:
    """Group the commands for configurations."""


_SHOW_HELP = """Print the effective configuration as TOML.

It combines the options of the command line, the file of --config and the defaults.
"""


@config.command(cls=GuestCommand, help=_SHOW_HELP)
@guest_options
@click.option("--set", "only_set", is_flag=True, help="omit the defaults")
@click.option("--json", "wants_json", is_flag=True, help="print JSON")
@click.pass_context
def show(context: click.Context, /, only_set: bool, wants_json: bool, **asked: object) -> None:
    """Print the configuration; the TOML form is a valid --config file."""
    effective: dict[str, Value] = {}
    for option in named_options(context.command).values():
        name = option.name or ""
        value = asked.get(name)
        is_default = context.get_parameter_source(name) == ParameterSource.DEFAULT
        if value is None or value == () or name == "only_set" or (is_default and only_set):
            continue
        effective[long_name(option)] = _plain(value)
    positional = asked["positional"]
    if isinstance(positional, Path):
        effective[kind_of(positional)] = str(positional)
    for name, value in effective.items():
        if not is_unicode(str(value)):
            raise UserError(
                f"{name} = {value}: TOML and JSON cannot contain bytes that are not UTF-8"
            )
    if wants_json:
        print_json_text(json.dumps(effective, indent=1))
    else:
        click.echo(tomli_w.dumps(effective), nl=False)


def _plain(value: object) -> Value:
    if isinstance(value, tuple):
        return [str(each) for each in value]
    return value if isinstance(value, bool | int | float) else str(value)
