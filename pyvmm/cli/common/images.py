"""Build images, with a progress bar; find named ones."""

import sys
from collections.abc import Callable
from pathlib import Path

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.progress import Bar
from pyvmm.cli.common.say import say
from pyvmm.vm.images.debian import WAITING, Image, Recipe, build_debian
from pyvmm.vm.images.store import DEBIAN, Store


def build_image(output: Path, store: Store, recipe: Recipe, *, force: bool = False) -> Image:
    """Build Debian in a directory, unless it exists.

    Raises:
        UserError: a package, apt or a tool does not exist, or no space is left.
    """
    with Bar() as bar:
        return build_debian(output, store.cache, _report(bar), recipe=recipe, force=force)


def _report(bar: Bar) -> Callable[[str, float], None]:
    def report(what: str, percent: float) -> None:
        if what == WAITING and not sys.stderr.isatty():
            say(WAITING)
        bar.report(what, percent / 100)

    return report


def is_image(name: str) -> bool:
    """Return whether an image has this name, or can be built when it is used."""
    try:
        return name == DEBIAN or Store.of_user().find(name) is not None
    except UserError:  # it is no name
        return False


def no_image(name: str) -> UserError:
    """Return the error that nothing has this name."""
    return UserError(
        f"{name} is neither an image (pyvmm image list) nor a kernel's file:"
        f" pyvmm image build debian --name {name} builds an image"
    )


def named_image(name: str) -> Image:
    """Return a named image; build Debian's if it does not exist.

    Raises:
        UserError: there is no such image, or Debian's cannot be built.
    """
    store = Store.of_user()
    found = store.find(name)
    if found is not None:
        return found.image
    if name != DEBIAN:
        raise no_image(name)
    say(f"image {DEBIAN} does not exist yet: building it from Debian's packages, once")
    return build_image(store.place(DEBIAN), store, Recipe())
