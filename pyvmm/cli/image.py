"""pyvmm image: make the files of a guest."""

from pathlib import Path

import click
import platformdirs

from pyvmm.vm.image import Image, build_debian


@click.group(help="Make the files of a guest.")
def image() -> None:
    """Group what there is to do with images."""


@image.command(help="Make one by name: debian.")
@click.argument("name", type=click.Choice(["debian"]))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="directory for Image, initrd.img and rootfs.img  [default: the cache]",
)
@click.option(
    "--with", "packages", multiple=True, metavar="PACKAGE", help="a Debian package more, unpacked"
)
@click.option("-f", "--force", is_flag=True, help="make it anew, from the packages of today")
def build(name: str, output: Path | None, packages: tuple[str, ...], force: bool) -> None:
    """Make a guest's files and say where they are."""
    cache = platformdirs.user_cache_path("pyvmm")
    made = _with_progress(output or cache / name, cache, packages, force=force)
    for path in (made.kernel, made.initrd, made.rootfs):
        click.echo(path)


def _with_progress(output: Path, cache: Path, packages: tuple[str, ...], *, force: bool) -> Image:
    from rich.console import Console  # noqa: PLC0415  slow to import
    from rich.progress import Progress  # noqa: PLC0415

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Debian", total=100)
        return build_debian(
            output,
            cache,
            lambda what, percent: progress.update(task, description=what, completed=percent),
            packages=packages,
            force=force,
        )
