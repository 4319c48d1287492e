"""The options that say what a guest is: the same ones for every verb that makes a guest.

A verb takes them as one dictionary, and the virtual machine that they mean from ``vm_options``::

    @click.command()
    @guest_options
    def run(**asked: Unpack[GuestOptions]) -> int:
        options = vm_options(asked)
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, ParamSpec, TypedDict, TypeVar

import click

from pyvmm.arch.errors import UserError
from pyvmm.arch.events import KINDS
from pyvmm.arch.sysregs import DEFAULT_FEATURES
from pyvmm.cli.common.configuration import config_option
from pyvmm.cli.common.units import Seconds
from pyvmm.token.generations import Generation
from pyvmm.vm import options as vm
from pyvmm.vm.name import check_name
from pyvmm.vm.options import VmOptions

P = ParamSpec("P")
R = TypeVar("R")

FILE: Final = click.Path(path_type=Path, readable=False)  # who opens it says what to do

_OPTIONS: Final = (
    click.argument("positional", metavar="[KERNEL]", type=FILE, required=False),
    click.option(
        "-k", "--kernel", type=FILE, help="arm64 Image, Image.gz, ELF file or flat binary"
    ),
    click.option("-i", "--initrd", type=FILE, help="initial RAM disk"),
    click.option(
        "-d",
        "--disk",
        "disks",
        multiple=True,
        metavar="FILE[,ro][,serial=TEXT]",
        help="raw disk image or block device",
    ),
    click.option("-m", "--mem", default="512M", metavar="SIZE", show_default=True, help="memory"),
    click.option("-c", "--cpus", default="1", metavar="N", show_default=True, help="CPUs"),
    click.option(
        "--cpu-features",
        metavar="+NAME|-NAME,...",
        help="what the CPUs have and lack: pauth, bti  [default: +pauth,+bti]",
    ),
    click.option(
        "-p", "--params", help="kernel parameters: after the default ones, or, in a realm, instead"
    ),
    click.option(
        "--console",
        type=click.Choice(vm.CONSOLES),
        default="serial",
        show_default=True,
        help="device",
    ),
    click.option("--dtb", type=FILE, help="device tree in place of ours"),
    click.option("--dump-dtb", type=FILE, help="write the device tree to this file"),
    click.option("--nodefaults", is_flag=True, help="no default kernel parameters"),
    click.option(
        "-n",
        "--network",
        metavar="KEY=VALUE,...",
        help="network card: mode=user|tap|none, tapif=NAME, backend=passt|slirp, guest_mac=MAC,"
        " hostfwd=tcp:8080-:80",
    ),
    click.option("--rng", is_flag=True, help="entropy device"),
    click.option("--balloon", is_flag=True, help="memory balloon device, of a normal VM"),
    click.option(
        "--agent/--no-agent",
        default=None,
        help="a port for the agent of the guest's image  [default: where there is a disk]",
    ),
    click.option("--realm", is_flag=True, help="run the guest in a realm"),
    click.option(
        "--measurement-algo",
        type=click.Choice(vm.MEASUREMENT_ALGOS),
        help="hash that measures the realm  [default: sha256]",
    ),
    click.option("--realm-pv", help="realm personalization value, at most 64 bytes"),
    click.option("--realm-debug", is_flag=True, help="let the host debug the realm; measured"),
    click.option("--metadata", type=FILE, help="what the realm's owner says of it, signed"),
    click.option(
        "--token-profile",
        type=click.Choice([generation.value for generation in Generation]),
        help="generation of the realm's attestation tokens  [default: g1]",
    ),
    click.option("--no-hes", is_flag=True, help="a realm without root of trust: it cannot attest"),
    click.option(
        "--hes-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="state of the root of trust  [default: $PYVMM_HES_DIR, or the user's]",
    ),
    click.option("--name", help="name of what `run` runs  [default: guest-PID]"),
)


_LIFE_OPTIONS: Final = (
    click.option(
        "--timeout",
        type=Seconds(),
        metavar="SECONDS",
        help="stop the guest so long after its start",
    ),
    click.option("--trace", metavar="KIND,...[:FILE]", help=f"print events: {','.join(KINDS)}"),
    click.option(
        "--gdb", metavar="PORT|SOCKET", help="let GDB debug it, at a loopback port or Unix socket"
    ),
    click.option("--gdb-wait", is_flag=True, help="start only when GDB says so"),
    click.option(
        "--vmlinux", type=FILE, help="ELF file that names the functions of a guest that fails"
    ),
)


class GuestOptions(TypedDict):
    """What the user said, by click's names of the options."""

    positional: Path | None
    kernel: Path | None
    initrd: Path | None
    disks: tuple[str, ...]
    mem: str
    cpus: str
    cpu_features: str | None
    params: str | None
    console: str
    dtb: Path | None
    dump_dtb: Path | None
    nodefaults: bool
    network: str | None
    rng: bool
    balloon: bool
    agent: bool | None
    realm: bool
    measurement_algo: str | None
    realm_pv: str | None
    realm_debug: bool
    metadata: Path | None
    token_profile: str | None
    no_hes: bool
    hes_dir: Path | None
    name: str | None


def guest_options(verb: Callable[P, R]) -> Callable[P, R]:
    """Give a verb the options of a guest, and the file that they may be in."""
    for option in reversed(_OPTIONS):
        verb = option(verb)
    return config_option(verb)


def life_options(verb: Callable[P, R]) -> Callable[P, R]:
    """Give a verb the options that say what happens to a guest that runs."""
    for option in reversed(_LIFE_OPTIONS):
        verb = option(verb)
    return verb


def no_life_options(verb: Callable[P, R]) -> Callable[P, R]:
    """Let a verb pass over those options: it has the configuration of a guest that runs."""
    for name in ("--timeout", "--trace", "--gdb", "--vmlinux"):
        verb = click.option(name, hidden=True, expose_value=False)(verb)
    return click.option("--gdb-wait", is_flag=True, hidden=True, expose_value=False)(verb)


def vm_options(asked: GuestOptions, *, is_run: bool = True) -> VmOptions:
    """Return the virtual machine that is asked for, to be run here or only to be looked at.

    Raises:
        UserError: an option has no such value, or two do not go together.
    """
    kernel, positional = asked["kernel"], asked["positional"]
    if kernel is not None and positional is not None:
        raise UserError(f"two kernels, {kernel} and {positional}: give one")
    realm_only: dict[str, object] = {
        "--measurement-algo": asked["measurement_algo"],
        "--realm-pv": asked["realm_pv"],
        "--realm-debug": asked["realm_debug"],
        "--metadata": asked["metadata"],
    }
    if is_run:  # else they may be about the platform
        realm_only["--token-profile"] = asked["token_profile"]
        realm_only["--no-hes"] = asked["no_hes"]
        realm_only["--hes-dir"] = asked["hes_dir"]
    for option, value in realm_only.items():
        if value and not asked["realm"]:
            raise UserError(f"{option} is for realms: add --realm")
    if asked["balloon"] and asked["realm"]:
        raise UserError("--balloon is not for realms: their memory is not the host's to take")
    profile, hes_dir = asked["token_profile"], asked["hes_dir"]
    if asked["no_hes"] and (profile or hes_dir):
        raise UserError("--no-hes: there is no root of trust for --token-profile or --hes-dir")
    network, cpu_features = asked["network"], asked["cpu_features"]
    return VmOptions(
        name=f"guest-{os.getpid()}" if asked["name"] is None else check_name(asked["name"]),
        kernel=kernel or positional,
        initrd=asked["initrd"],
        disks=vm.parse_disks(asked["disks"]),
        ram_size=vm.parse_ram_size(asked["mem"], is_run=is_run),
        num_cpus=vm.parse_num_cpus(asked["cpus"]),
        cpu_features=DEFAULT_FEATURES
        if cpu_features is None
        else vm.parse_cpu_features(cpu_features),
        params=asked["params"],
        console=asked["console"],
        dtb=asked["dtb"],
        dump_dtb=asked["dump_dtb"],
        has_defaults=not asked["nodefaults"],
        network=vm.parse_network(network) if network is not None else None,
        has_rng=asked["rng"],
        has_balloon=asked["balloon"],
        has_agent=bool(asked["disks"]) if asked["agent"] is None else asked["agent"],
        realm=vm.parse_realm(
            asked["measurement_algo"],
            asked["realm_pv"],
            asked["metadata"],
            is_debuggable=asked["realm_debug"],
        )
        if asked["realm"]
        else None,
        token_profile=profile or Generation.G1.value,
        has_hes=asked["realm"] and not asked["no_hes"],
        hes_directory=hes_dir,
    )
