"""Images with names: directories below the user's cache, one per name."""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pyvmm.arch.errors import UserError
from pyvmm.vm.images.debian import Image, Manifest
from pyvmm.vm.images.lock import building
from pyvmm.vm.name import check_name

#: The image that is built when it is first used.
DEBIAN: Final = "debian"


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image with a name, and the record of what it was built from."""

    name: str
    image: Image
    manifest: Manifest

    @property
    def size(self) -> int:
        """The bytes that its files take on the disk."""
        return size_of(self.image.directory)


class Store:
    """The images of a user.

    Args:
        cache: pyvmm's directory in the user's cache.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self._home = cache / "images"

    @classmethod
    def of_user(cls) -> Self:
        """Return the images in the user's cache ($XDG_CACHE_HOME)."""
        import platformdirs  # noqa: PLC0415  slow to import, rarely needed

        return cls(platformdirs.user_cache_path("pyvmm"))

    def place(self, name: str) -> Path:
        """Return the directory of an image, whether or not it exists.

        Raises:
            UserError: the name is invalid.
        """
        return self._home / check_name(name)

    def all(self) -> list[NamedImage]:
        """Return the images, by name."""
        try:
            names = sorted(each.name for each in self._home.iterdir())
        except OSError:
            return []
        found = (self._look(name) for name in names if not name.startswith("."))
        return [each for each in found if each is not None]

    def find(self, name: str) -> NamedImage | None:
        """Return an image; None if it does not exist or is incomplete.

        Raises:
            UserError: the name is invalid.
        """
        return self._look(check_name(name))

    def get(self, name: str) -> NamedImage:
        """Return an image.

        Raises:
            UserError: it does not exist, or the name is invalid.
        """
        found = self.find(name)
        if found is None:
            raise UserError(f"no image {name}: pyvmm image list shows all images")
        return found

    def remove(self, name: str) -> int:
        """Remove an image; return how many bytes that frees.  A guest that runs from it continues.

        Raises:
            UserError: it does not exist, or cannot be removed.
        """
        found = self.get(name)
        size = found.size
        _remove(found.image.directory)
        return size

    def prune(self) -> int:
        """Remove what no image needs; return how many bytes that frees.

        That is downloaded packages, and the remains of builds that were interrupted.

        Raises:
            UserError: something cannot be removed.
        """
        freed = 0
        with building(self.cache):
            for path in (*self.cache.glob("apt-*"), *self._home.glob("*/.build-*")):
                freed += size_of(path)
                _remove(path)
        return freed

    def _look(self, name: str) -> NamedImage | None:
        image = Image(self._home / name)
        manifest = image.read_manifest()
        return None if manifest is None else NamedImage(name, image, manifest)


def size_of(path: Path) -> int:
    """Return the bytes that a directory takes on the disk; holes take none."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):  # it was removed meanwhile
                total += os.lstat(Path(directory, name)).st_blocks * 512
    return total


def _remove(path: Path) -> None:
    try:
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}: it could not be removed") from None
