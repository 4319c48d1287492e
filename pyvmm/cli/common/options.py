"""The options of a guest on the command line, as `pyvmm.vm.options` declares them.

A verb takes what the user gave as one dictionary, by the names of the fields of ``VmOptions``, and
gets the virtual machine from ``vm_options``::

    @click.command()
    @guest_options
    def run(positional: Path | None, **asked: object) -> int:
        options = vm_options(positional, asked)
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import click

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.configuration import config_option
from pyvmm.cli.common.units import Seconds
from pyvmm.vm.declare import Kind, Option, Scope
from pyvmm.vm.machine.root import complete_root
from pyvmm.vm.options import OPTIONS, VmOptions, read_options

P = ParamSpec("P")
R = TypeVar("R")

FILE: Final = click.Path(path_type=Path, readable=False)  # opening it gives a better error

_TYPES: Final = {
    Kind.TEXT: click.STRING,
    Kind.FILE: FILE,
    Kind.FILE_WITH_DETAILS: click.Path(readable=False),
    Kind.DIRECTORY: click.Path(path_type=Path, file_okay=False),
    Kind.SECONDS: Seconds(),
}


def guest_options(verb: Callable[P, R]) -> Callable[P, R]:
    """Give a verb the options of a guest, and the file that may contain them."""
    for name, option in reversed(OPTIONS.items()):
        verb = _declare(verb, name, option)
    return _declare_others(verb)


def plan_options(verb: Callable[P, R]) -> Callable[P, R]:
    """Give a verb that runs no guest the same options; those of a run have no effect."""
    for name, option in reversed(OPTIONS.items()):
        is_ignored = option.scope is Scope.RUN
        verb = (_ignore if is_ignored else _declare)(verb, name, option)
    return _declare_others(verb)


def _declare(verb: Callable[P, R], name: str, option: Option) -> Callable[P, R]:
    if option.kind is Kind.SWITCH:
        is_pair = "/" in option.flags[-1]
        default = None if is_pair else False
        decorate = click.option(
            *option.flags, name, is_flag=True, default=default, help=option.help
        )
        return decorate(verb)
    return click.option(
        *option.flags,
        name,
        type=click.Choice(option.choices) if option.choices else _TYPES[option.kind],
        multiple=option.is_repeatable,
        metavar=option.metavar,
        default=option.default_text,
        show_default=option.default_text is not None,
        help=option.help,
    )(verb)


def _ignore(verb: Callable[P, R], name: str, option: Option) -> Callable[P, R]:
    return click.option(
        *option.flags,
        name,
        is_flag=option.kind is Kind.SWITCH,
        multiple=option.is_repeatable,
        hidden=True,
        expose_value=False,
    )(verb)


def _declare_others(verb: Callable[P, R]) -> Callable[P, R]:
    kernel = click.argument("positional", metavar="[KERNEL]", type=FILE, required=False)
    return config_option(kernel(verb))


def vm_options(
    positional: Path | None, asked: Mapping[str, object], *, is_run: bool = True
) -> VmOptions:
    """Return the virtual machine that the user asked for.

    Args:
        positional: the kernel, if it was given without --kernel.
        asked: the other options.
        is_run: the machine is to run here; otherwise it is only measured.

    Raises:
        UserError: a value is invalid, or two options exclude each other.
    """
    asked = {"name": f"guest-{os.getpid()}"} | {k: v for k, v in asked.items() if v is not None}
    if positional is not None:
        kernel = asked.setdefault("kernel", positional)
        if kernel is not positional:
            raise UserError(f"two kernels, {kernel} and {positional}: give one")
    options = read_options(asked, is_run=is_run)
    if options.restore is None:
        return complete_root(options)
    return _restored(options, options.restore)


def _restored(options: VmOptions, path: Path) -> VmOptions:
    from pyvmm.vm.snapshot import Snapshot  # noqa: PLC0415  few guests are restored

    return Snapshot(path).options(options)
