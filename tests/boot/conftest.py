"""Debian's guest, built once, and guests that many tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.root_of_trust import RootOfTrust
from pyvmm.vm.images.debian import Image
from tests.boot.command import BUILT_IMAGE, Running, build_image, copy_disk, guest_options


@pytest.fixture(scope="session", autouse=True)
def hes(hes_directory: Path) -> Iterator[None]:
    """Create an identity, and keep one HES running for all guests."""
    with RootOfTrust(hes_directory) as root_of_trust:
        root_of_trust.power_on()
        yield


@pytest.fixture(scope="session")
def debian() -> Image:
    """Build the guest as `make run` does, unless it exists."""
    return build_image(BUILT_IMAGE.name)


@pytest.fixture(scope="session")
def image_with_9p() -> Image:
    """Build a guest whose kernel has 9P, unless it exists."""
    return build_image("debian-9p", "--kernel", "arm64")


@pytest.fixture(scope="module")
def disk(debian: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a writable disk."""
    return copy_disk(debian, tmp_path_factory.mktemp("disk"))


@pytest.fixture
def small(debian: Image) -> Iterator[Running]:
    """Return a guest without a disk, in the shell of its initial RAM disk."""
    with Running("run", *guest_options(debian, None)) as guest:
        guest.shell.log_in()
        yield guest
