"""pyvmm run: run a guest, a normal VM or a realm."""

import gc
from contextlib import ExitStack
from typing import TYPE_CHECKING, Unpack

import click

from pyvmm.arch.events import EventStream
from pyvmm.cli.options import GuestOptions, guest_options, vm_options
from pyvmm.cli.trace import KINDS, Trace
from pyvmm.vm import options as vm
from pyvmm.vm.boot import make_config
from pyvmm.vm.instance import ExitCode, Instance
from pyvmm.vm.options import VmOptions
from pyvmm.vm.terminal import Terminal

if TYPE_CHECKING:
    from pyvmm.root_of_trust import RootOfTrust

_HELP = """Run a guest, a normal VM or a realm, with this terminal as its console; Ctrl-A x quits.

KERNEL is another way to say --kernel. Without a kernel a tiny built-in guest runs.

Exit code: 0 the guest powered off or rebooted, 2 bad input, 3 its kernel panicked, 4 it crashed,
5 it was quit, 124 --timeout ran out.
"""


@click.command(help=_HELP)
@guest_options
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="end it then")
@click.option("--trace", metavar="KIND,...[:FILE]", help=f"print events: {','.join(KINDS)}")
def run(  # noqa: D103  the help says it
    *, timeout: float | None, trace: str | None, **asked: Unpack[GuestOptions]
) -> int:
    return run_instance(vm_options(asked), timeout, trace)


def run_instance(options: VmOptions, timeout: float | None, trace: str | None) -> int:
    """Run a guest to its end; return the exit code.

    Raises:
        UserError: something asked for is wrong; nothing was started then.
    """
    with ExitStack() as stack:
        events = EventStream(stack.enter_context(Trace(trace)) if trace else None)
        for disk in options.disks:
            vm.check_disk(disk)
        root_of_trust = stack.enter_context(_start_hes(options)) if options.has_hes else None
        config = make_config(options)
        from pyvmm.platform import Platform  # noqa: PLC0415  after the input is known to be good

        platform = Platform(options.ram_size, options.num_cpus, events, root_of_trust=root_of_trust)
        if root_of_trust is not None and root_of_trust.notice:
            click.echo(f"pyvmm: {root_of_trust.notice}", err=True)
        terminal = Terminal()
        instance = Instance(options, config, platform, terminal)
        del config  # the payload; the guest has it
        gc.freeze()  # what lives as long as the guest is not looked at again and again
        if terminal.is_interactive:
            _announce(options)
        with terminal:
            code = instance.run(timeout)
    if code is ExitCode.CRASHED:
        click.echo(f"pyvmm: the guest crashed: {instance.crash_reason}", err=True)
    if code is ExitCode.TIMEOUT:
        click.echo(f"pyvmm: stopped after {timeout:g} seconds", err=True)
    return code


def _start_hes(options: VmOptions) -> "RootOfTrust":
    """Start it first: it comes to life while the rest is loaded."""
    from pyvmm.root_of_trust import RootOfTrust  # noqa: PLC0415  a normal VM has none
    from pyvmm.token.generations import Generation  # noqa: PLC0415

    return RootOfTrust(options.hes_directory, Generation(options.token_profile))


def _announce(options: VmOptions) -> None:
    """Say what runs, as kvmtool does, and how to get out."""
    words = ["pyvmm run"]
    words += ["--realm"] if options.realm else []
    words += [f"-k {options.kernel}"] if options.kernel else []
    words += [f"-m {options.ram_size >> 20}", f"-c {options.num_cpus}", f"--name {options.name}"]
    click.echo(f"# {' '.join(words)}   (Ctrl-A x quits)", err=True)
