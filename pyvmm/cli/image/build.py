"""pyvmm image build: build guest images."""

import json
from pathlib import Path

import click

from pyvmm.arch.errors import UserError
from pyvmm.arch.text import printable
from pyvmm.cli.common.images import build_image
from pyvmm.cli.common.instances import parse_variables
from pyvmm.cli.common.say import print_json_text
from pyvmm.vm.images.debian import PROFILES, Recipe
from pyvmm.vm.images.rootfs import EntryPoint, build_rootfs
from pyvmm.vm.images.store import DEBIAN, Store
from pyvmm.vm.option_values import parse_size

_DEBIAN_HELP = """Build a Debian guest.

Its files are a kernel, an initial RAM disk, and a root file system with a shell. They go to the
cache, under a name that `pyvmm run NAME` takes, or to a directory. An image that exists already is
built again only with --force, or from other choices.
"""
_ROOTFS_HELP = """Build a guest that runs one program.

Pack a directory or a container image into a root file system. The directory contains the program,
at the path that --init gives, and its libraries; an image names its program itself. The program
gets ARGS. When it ends, the guest reports its exit status and powers off. Boot it like Debian's
disk, with the kernel and initial RAM disk of `pyvmm image build debian`.
"""


_as_json = click.option("--json", "wants_json", is_flag=True, help="print the paths as JSON")


@click.group(help="Build an image.")
def build() -> None:
    """Group the kinds of images."""


@build.command(help=_DEBIAN_HELP)
@click.option("-t", "--name", help=f"name of the image, for `pyvmm run NAME`  [default: {DEBIAN}]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="put Image, initrd.img and rootfs.img into this directory, without a name",
)
@click.option(
    "--with", "packages", multiple=True, metavar="PACKAGE", help="extra Debian package to include"
)
@click.option(
    "--profile",
    type=click.Choice(PROFILES),
    default=Recipe().profile,
    help="minimal: a shell on the console; full: systemd, apt, gcc, gdb, perf, python3 and strace,"
    " installed in a guest, which takes minutes  [default: minimal]",
)
@click.option(
    "--kernel",
    default=Recipe().kernel,
    metavar="FLAVOUR",
    help="flavour of Debian's kernel: cloud-arm64, or arm64, which has 9P  [default: cloud-arm64]",
)
@click.option(
    "--size",
    help="the disk's size, such as 2G  [default: 512M, or more to leave 256M free]",
)
@click.option("-f", "--force", is_flag=True, help="build it again, from today's packages")
@_as_json
def debian(
    *,
    name: str | None,
    output: Path | None,
    packages: tuple[str, ...],
    profile: str,
    kernel: str,
    size: str | None,
    force: bool,
    wants_json: bool,
) -> None:
    """Build the files of a Debian guest and print their paths."""
    if name is not None and output is not None:
        raise UserError("--name is for images in the cache, and --output for others: give one")
    recipe = Recipe(packages, _disk_size(size), kernel, profile)
    store = Store.of_user()
    made = build_image(output or store.place(name or DEBIAN), store, recipe, force=force)
    paths = {"kernel": made.kernel, "initrd": made.initrd, "rootfs": made.rootfs}
    _print(paths, wants_json=wants_json)


@build.command(help=_ROOTFS_HELP)
@click.option("--from-dir", type=click.Path(path_type=Path), help="directory to pack")
@click.option(
    "--from-oci",
    metavar="IMAGE",
    help="container image to pack, with its entry point, variables, user and working directory:"
    " archive, layout directory, or containers-storage:NAME",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="file to write  [default: the directory's name + .img, here]",
)
@click.option("--size", help="the disk's size, such as 256M  [default: what the files need + 64M]")
@click.option(
    "--initrd",
    type=click.Path(path_type=Path, readable=False),
    help="make no disk but an initial RAM disk, which realms measure, based on Debian's initrd.img",
)
@click.option("--init", metavar="PATH", help="the program  [default: /sbin/init]")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="environment variable")
@_as_json
@click.argument("args", nargs=-1)
def rootfs(
    *,
    from_dir: Path | None,
    from_oci: str | None,
    output: Path | None,
    size: str | None,
    initrd: Path | None,
    init: str | None,
    env: tuple[str, ...],
    args: tuple[str, ...],
    wants_json: bool,
) -> None:
    """Build the file and print its path."""
    parse_variables(env)
    if size is not None and initrd is not None:
        raise UserError("--size is for a disk, and --initrd makes none: give one of them")
    if (from_dir is None) == (from_oci is None):
        raise UserError("give either --from-dir DIR or --from-oci IMAGE")
    disk_size = _disk_size(size)
    if from_dir is not None:
        made = output or Path(f"{from_dir.resolve().name or 'rootfs'}.img")
        build_rootfs(from_dir, made, EntryPoint(init or "", args, env), disk_size, initrd)
    else:
        from pyvmm.vm.images.oci import find_owner, unpacked  # noqa: PLC0415  few are

        assert from_oci is not None  # noqa: S101  one is given
        made = output or Path(f"{Path(from_oci.rpartition(':')[2]).stem or 'rootfs'}.img")
        with unpacked(from_oci) as image:
            entry_point = image.entry_point(init or "", args, env)
            build_rootfs(image.rootfs, made, entry_point, disk_size, initrd, find_owner)
    _print({"rootfs" if initrd is None else "initrd": made}, wants_json=wants_json)


def _disk_size(text: str | None) -> int:
    """Return the size of a disk in bytes; 0 for what its files need."""
    size = parse_size(text, "--size") if text is not None else 0
    if text is not None and not size:
        raise UserError(f"--size {text}: give a size such as 512M, or omit --size")
    return size


def _print(made: dict[str, Path], *, wants_json: bool) -> None:
    """Print the paths of the files; the names in JSON are those of the options of `pyvmm run`."""
    if wants_json:
        print_json_text(
            json.dumps({name: printable(str(path)) for name, path in made.items()}, indent=1)
        )
        return
    for path in made.values():
        click.echo(path)
