"""The options of a guest on the command line, as `pyvmm.vm.options` declares them.

A verb takes what the user gave as one dictionary, by the names of the fields of ``VmOptions``, and
gets the virtual machine from ``vm_options``::

    @click.command(cls=GuestCommand)
    @guest_options
    def run(positional: Path | None, **asked: object) -> int:
        options = vm_options(positional, asked)
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import click
from click.core import ParameterSource

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.configuration import config_option
from pyvmm.cli.common.say import print_lines
from pyvmm.cli.common.trace import HELP, kinds_help
from pyvmm.cli.common.units import Seconds
from pyvmm.vm.declare import Kind, Option, Scope
from pyvmm.vm.machine.kernel_tree import KernelTree, num_host_cpus
from pyvmm.vm.machine.root import complete_shares
from pyvmm.vm.name import DEFAULT_NAME
from pyvmm.vm.network_options import is_forward, with_forwards
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


class GuestCommand(click.Command):
    """A command with options of a guest, of which -p is two."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse them; -p is --publish for a port as docker writes it, and else --params."""
        if f"--trace={HELP}" in args or ("--trace", HELP) in pairwise(args):
            print_lines(*kinds_help())
            ctx.exit()
        return super().parse_args(ctx, _split_p(container_words(args)))


def container_words(args: list[str]) -> list[str]:
    """Return arguments in which the words after -- are those of the container of --oci.

    >>> container_words(["--oci", "app.tar", "--", "sh", "-c"])
    ['--oci', 'app.tar', '--oci-arg=sh', '--oci-arg=-c']
    >>> container_words(["debian", "--", "ls"])
    ['debian', '--', 'ls']
    """
    at = args.index("--") if "--" in args else len(args)
    if not any(arg == "--oci" or arg.startswith("--oci=") for arg in args[:at]):
        return args
    return [*args[:at], *(f"--oci-arg={word}" for word in args[at + 1 :])]


def _split_p(args: Sequence[str]) -> list[str]:
    """Return arguments with -p PORT:PORT replaced.

    >>> _split_p(["-p", "8080:80", "-p8081:81", "-p", "quiet"])
    ['--publish', '8080:80', '--publish', '8081:81', '-p', 'quiet']
    """
    done: list[str] = []
    for arg in args:
        if done[-1:] == ["-p"] and is_forward(arg):
            done[-1:] = ["--publish", arg]
        elif arg.startswith("-p") and is_forward(arg[2:]):
            done += ["--publish", arg[2:]]
        else:
            done.append(arg)
    return done


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
    kernel = click.argument("positional", metavar="[KERNEL|IMAGE]", type=FILE, required=False)
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
    return virtual_machine(given_options(positional, asked), is_run=is_run)


def given_options(positional: Path | None, asked: Mapping[str, object]) -> dict[str, object]:
    """Return what the user gave, on the command line or in a file, without any default.

    Raises:
        UserError: the same is given twice.
    """
    context = click.get_current_context(silent=True)
    given = {
        name: each
        for name, each in asked.items()
        if context is None or context.get_parameter_source(name) != ParameterSource.DEFAULT
    }
    given = {name: each for name, each in given.items() if each is not None and each != ()}
    if positional is not None:
        kind = kind_of(positional)
        if kind == "kernel" and _is_missing(positional):
            from pyvmm.cli.common.images import no_image  # noqa: PLC0415  slow to import

            raise no_image(str(positional))
        chosen = given.setdefault(kind, positional)
        if chosen is not positional:
            raise UserError(f"two {kind}s, {chosen} and {positional}: give one")
    return given


def virtual_machine(given: Mapping[str, object], *, is_run: bool = True) -> VmOptions:
    """Return the virtual machine for what the user gave; see `vm_options`."""
    options = read_options(
        {"name": DEFAULT_NAME.format(pid=os.getpid())} | {**given}, is_run=is_run
    )
    if options.restore is not None:
        return _restored(options, options.restore)
    if options.oci is not None:
        from pyvmm.cli.common.oci import use_oci  # noqa: PLC0415  slow to import

        options = use_oci(options, has_size="ram_size" in given)
    elif options.oci_words:
        raise UserError("--oci-arg is for the command of a container: add --oci IMAGE")
    else:
        options = _complete_image(_complete_kernel(options, given), given)
    networks = with_forwards(options.networks, options.forwards)
    return complete_shares(replace(options, networks=networks))


def kind_of(positional: Path) -> str:
    """Return the option that an argument is: "image" for the name of one, unless a file has it."""
    if not _is_missing(positional):
        return "kernel"
    from pyvmm.cli.common.images import is_image  # noqa: PLC0415  slow to import

    return "image" if is_image(str(positional)) else "kernel"


def _is_missing(positional: Path) -> bool:
    """Return whether an argument is a mere name, but no file has it."""
    try:
        exists = positional.exists() and not positional.is_dir()
        return len(positional.parts) == 1 and not exists
    except OSError:
        return False


def _complete_kernel(options: VmOptions, given: Collection[str]) -> VmOptions:
    """Return options with the kernel of the tree that is the current directory, if none is given.

    Its root file system is Debian's image, unless the user gives a disk or a directory.
    """
    if options.kernel is not None or options.image is not None:
        return options
    tree = KernelTree.find(Path())
    if tree is None:
        return options
    has_root = bool(options.disks) or options.rootfs is not None
    return replace(
        options,
        kernel=tree.kernel,
        vmlinux=options.vmlinux or tree.vmlinux,
        image=None if has_root else "debian",
        num_cpus=options.num_cpus if "num_cpus" in given else num_host_cpus(),
    )


def _complete_image(options: VmOptions, given: Collection[str]) -> VmOptions:
    if options.image is None:
        return options
    from pyvmm.cli.common.images import named_image  # noqa: PLC0415  slow to import
    from pyvmm.vm.machine.image import use_image  # noqa: PLC0415

    return use_image(options, named_image(options.image), given)


def _restored(options: VmOptions, path: Path) -> VmOptions:
    from pyvmm.vm.snapshot import Snapshot  # noqa: PLC0415  few guests are restored

    return Snapshot(path).options(options)
