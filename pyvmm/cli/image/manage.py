"""pyvmm image list, inspect, rm, prune: the images with names."""

import time

import click
import msgspec
from click.shell_completion import CompletionItem

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.instances import print_json
from pyvmm.cli.common.say import print_lines, say
from pyvmm.cli.common.table import table
from pyvmm.cli.common.units import duration, short_size, size
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Recipe
from pyvmm.vm.images.store import NamedImage, Store

_INSPECT_HELP = """Show how an image was built, and its files.

An image is current if this version of pyvmm would build it in the same way.
"""
_RM_HELP = """Remove images.

A guest that runs from one continues.

Exit code: 0 removed, 2 no such image.
"""
_PRUNE_HELP = """Remove what no image needs, and print how much space that frees.

That is the Debian packages that were downloaded for builds, and the remains of interrupted builds.
With --all, also every image.
"""


class Shown(msgspec.Struct, frozen=True):
    """An image, for JSON."""

    name: str
    directory: str
    kernel: str
    built: float  # seconds since 1970
    size: int  # bytes on the disk
    is_current: bool
    recipe: Recipe
    packages: list[str]


def _shown(found: NamedImage) -> Shown:
    manifest = found.manifest
    return Shown(
        found.name,
        str(found.image.directory),
        manifest.kernel,
        manifest.built,
        found.size,
        manifest.is_current,
        manifest.recipe,
        manifest.packages,
    )


def complete_image(
    _context: click.Context, _parameter: click.Parameter, begun: str
) -> "list[CompletionItem[str]]":
    """Complete the name of an image."""
    return [
        CompletionItem(each.name) for each in Store.of_user().all() if each.name.startswith(begun)
    ]


_as_json = click.option("--json", "wants_json", is_flag=True, help="print JSON")


@click.command("list", help="List the images.")
@click.option("-q", "--quiet", "is_quiet", is_flag=True, help="print only the names")
@_as_json
def list_(*, is_quiet: bool, wants_json: bool) -> None:
    """Print one line per image."""
    images = Store.of_user().all()
    if wants_json:
        print_json([_shown(each) for each in images])
    elif is_quiet:
        if images:
            print_lines(*(each.name for each in images))
    else:
        rows = [
            (
                each.name,
                each.manifest.kernel,
                short_size(each.size),
                duration(max(time.time() - each.manifest.built, 0)),
            )
            for each in images
        ]
        print_lines(*table(("NAME", "KERNEL", "SIZE", "AGE"), rows, right={"SIZE", "AGE"}))


@click.command(help=_INSPECT_HELP)
@click.argument("name", metavar="NAME", shell_complete=complete_image)
@_as_json
def inspect(*, name: str, wants_json: bool) -> None:
    """Print what is known about an image."""
    found = _shown(Store.of_user().get(name))
    if wants_json:
        print_json(found)
        return
    recipe = found.recipe
    facts = {
        "directory": found.directory,
        "kernel": f"{found.kernel} ({recipe.kernel})",
        "built": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.built)),
        "current": "yes" if found.is_current else "no: pyvmm image build debian builds it again",
        "size": size(found.size),
        "with": " ".join(recipe.packages) or "-",
        "packages": str(len(found.packages)),
    }
    print_lines(*(f"{what:<10} {text}" for what, text in facts.items()))


@click.command(help=_RM_HELP)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_image)
def rm(*, names: tuple[str, ...]) -> int:
    """Remove each image, whatever fails; return the exit code."""
    store, code = Store.of_user(), ExitCode.OK
    for name in dict.fromkeys(names):
        try:
            store.remove(name)
        except UserError as error:
            say(str(error), "error")
            code = ExitCode.BAD_INPUT
    return code


@click.command(help=_PRUNE_HELP)
@click.option("-a", "--all", "every", is_flag=True, help="remove all images, too")
def prune(*, every: bool) -> None:
    """Free the space and print how much it is."""
    store = Store.of_user()
    freed = sum(store.remove(each.name) for each in store.all()) if every else 0
    print_lines(f"freed {size(freed + store.prune())}")
