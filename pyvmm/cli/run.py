"""pyvmm run: run a guest, a normal VM or a realm."""

import gc
import os
from contextlib import ExitStack
from pathlib import Path

import click

from pyvmm.arch.errors import UserError
from pyvmm.arch.events import EventStream
from pyvmm.cli.trace import KINDS, Trace
from pyvmm.vm import options as vm
from pyvmm.vm.boot import make_config
from pyvmm.vm.instance import ExitCode, Instance
from pyvmm.vm.options import VmOptions
from pyvmm.vm.terminal import Terminal

_FILE = click.Path(path_type=Path, readable=False)  # who opens it says what to do
_HELP = """Run a guest, a normal VM or a realm, with this terminal as its console; Ctrl-A x quits.

KERNEL is another way to say --kernel. Without a kernel a tiny built-in guest runs.

Exit code: 0 the guest powered off or rebooted, 2 bad input, 3 its kernel panicked, 4 it crashed,
5 it was quit, 124 --timeout ran out.
"""


@click.command(help=_HELP)
@click.argument("positional", metavar="[KERNEL]", type=_FILE, required=False)
@click.option("-k", "--kernel", type=_FILE, help="arm64 Image, Image.gz, ELF file or flat binary")
@click.option("-i", "--initrd", type=_FILE, help="initial RAM disk")
@click.option("-d", "--disk", "disks", multiple=True, metavar="FILE[,ro]", help="raw disk image")
@click.option("-m", "--mem", default="512M", metavar="SIZE", show_default=True, help="guest memory")
@click.option("-c", "--cpus", default="1", metavar="N", show_default=True, help="number of CPUs")
@click.option(
    "-p", "--params", help="kernel parameters: after the default ones, or, in a realm, instead"
)
@click.option(
    "--console", type=click.Choice(vm.CONSOLES), default="serial", show_default=True, help="device"
)
@click.option("--dtb", type=_FILE, help="device tree in place of ours")
@click.option("--dump-dtb", type=_FILE, help="write the device tree to this file")
@click.option("--nodefaults", is_flag=True, help="no default kernel parameters")
@click.option(
    "-n",
    "--network",
    metavar="KEY=VALUE,...",
    help="network card: mode=user|tap, tapif=NAME, guest_mac=MAC, hostfwd=tcp:8080-:80",
)
@click.option("--rng", is_flag=True, help="entropy device")
@click.option("--realm", is_flag=True, help="run the guest in a realm")
@click.option(
    "--measurement-algo",
    type=click.Choice(vm.MEASUREMENT_ALGOS),
    help="hash that measures the realm  [default: sha256]",
)
@click.option("--realm-pv", help="realm personalization value, at most 64 bytes")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="end it then")
@click.option("--trace", metavar="KIND,...[:FILE]", help=f"print events: {','.join(KINDS)}")
@click.option("--name", help="what to call it  [default: guest-PID]")
def run(  # noqa: D103  the help says it
    *,
    positional: Path | None,
    kernel: Path | None,
    initrd: Path | None,
    disks: tuple[str, ...],
    mem: str,
    cpus: str,
    params: str | None,
    console: str,
    dtb: Path | None,
    dump_dtb: Path | None,
    nodefaults: bool,
    network: str | None,
    rng: bool,
    realm: bool,
    measurement_algo: str | None,
    realm_pv: str | None,
    timeout: float | None,
    trace: str | None,
    name: str | None,
) -> int:
    if kernel is not None and positional is not None:
        raise UserError(f"two kernels, {kernel} and {positional}: give one")
    if not realm and (measurement_algo or realm_pv):
        raise UserError("--measurement-algo and --realm-pv are for realms: add --realm")
    options = VmOptions(
        name=name or f"guest-{os.getpid()}",
        kernel=kernel or positional,
        initrd=initrd,
        disks=tuple(map(vm.parse_disk, disks)),
        ram_size=vm.parse_ram_size(mem),
        num_cpus=vm.parse_num_cpus(cpus),
        params=params,
        console=console,
        dtb=dtb,
        dump_dtb=dump_dtb,
        has_defaults=not nodefaults,
        network=vm.parse_network(network) if network is not None else None,
        has_rng=rng,
        realm=vm.parse_realm(measurement_algo or "sha256", realm_pv or "") if realm else None,
    )
    return run_instance(options, timeout, trace)


def run_instance(options: VmOptions, timeout: float | None, trace: str | None) -> int:
    """Run a guest to its end; return the exit code.

    Raises:
        UserError: something asked for is wrong; nothing was started then.
    """
    with ExitStack() as stack:
        events = EventStream(stack.enter_context(Trace(trace)) if trace else None)
        for disk in options.disks:
            vm.check_disk(disk)
        config = make_config(options)
        from pyvmm.platform import Platform  # noqa: PLC0415  after the input is known to be good

        platform = Platform(options.ram_size, options.num_cpus, events)
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


def _announce(options: VmOptions) -> None:
    """Say what runs, as kvmtool does, and how to get out."""
    words = ["pyvmm run"]
    words += ["--realm"] if options.realm else []
    words += [f"-k {options.kernel}"] if options.kernel else []
    words += [f"-m {options.ram_size >> 20}", f"-c {options.num_cpus}", f"--name {options.name}"]
    click.echo(f"# {' '.join(words)}   (Ctrl-A x quits)", err=True)
