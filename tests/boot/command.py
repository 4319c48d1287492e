"""Run the command pyvmm as a user runs it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pyvmm.vm.images.debian import Image
from tests.boot.shell import PATIENCE, Piped

PYVMM = str(Path(sys.executable).parent / "pyvmm")
BUILT_IMAGE = Path("build/debian")
#: Generous: packages come over the network.
DOWNLOAD_PATIENCE = 900.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    output: str
    errors: str
    cpu_time: float  # seconds that it computed


def pyvmm(*arguments: str | Path, typed: str = "", env: Mapping[str, str] | None = None) -> Ended:
    """Run pyvmm to its end, with ``typed`` as its standard input and ``env`` changed."""
    return call(PYVMM, *arguments, typed=typed, env=env)


def call(
    *command: str | Path,
    typed: str = "",
    env: Mapping[str, str] | None = None,
    patience: float = PATIENCE,
) -> Ended:
    """Run a command to its end."""
    before = os.times()
    done = subprocess.run(
        command,
        input=typed.encode(),
        capture_output=True,
        timeout=patience,
        check=False,
        env=os.environ | (env or {}),
    )
    after = os.times()
    return Ended(
        done.returncode,
        done.stdout.decode(errors="replace"),
        done.stderr.decode(errors="replace"),
        after.children_user + after.children_system - before.children_user - before.children_system,
    )


class Running(Piped):
    """A running pyvmm with a guest's shell; a context manager that ends it."""

    def __init__(self, *arguments: str | Path) -> None:
        super().__init__(PYVMM, *arguments)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def wait(self) -> int:
        """Return the exit code."""
        return self._process.wait(PATIENCE)


def build_image(name: str, *options: str, patience: float = DOWNLOAD_PATIENCE) -> Image:
    """Build a Debian guest, unless it exists."""
    output = BUILT_IMAGE.with_name(name)
    made = call(PYVMM, "image", "build", "debian", *options, "--output", output, patience=patience)
    assert made.code == 0, made.errors
    return Image(output)


def guest_options(image: Image, disk: Path | None) -> list[str | Path]:
    """Return the options that boot Debian, on a disk or in its initial RAM disk alone.

    It starts faster with little memory; another ``-m`` behind these options counts.
    """
    options: list[str | Path] = ["-m", "256M", "--kernel", image.kernel, "--initrd", image.initrd]
    return [*options, "--disk", disk] if disk else options


def copy_disk(image: Image, directory: Path) -> Path:
    """Return a writable copy of the disk."""
    return copy_file(image.rootfs, directory / "rootfs.img")


def copy_file(path: Path, copy: Path) -> Path:
    """Copy a disk, without its holes."""
    copied = call("cp", "--sparse=always", "--reflink=auto", path, copy)
    assert copied.code == 0, copied.errors
    return copy


def is_clean(disk: Path) -> bool:
    """Return whether e2fsck finds no errors."""
    return call(sbin("e2fsck"), "-fn", disk).code == 0


def recover(disk: Path) -> None:
    """Replay the journal, as the next mount does."""
    recovered = call(sbin("e2fsck"), "-fp", disk)
    assert recovered.code in {0, 1}, recovered.output


def read_from(disk: Path, path: str) -> str:
    """Return a file of an ext4 image, without mounting it."""
    return call(sbin("debugfs"), "-R", f"cat {path}", disk).output


def sbin(tool: str) -> str:
    """Return the path of a system administrator's tool."""
    path = shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin")
    assert path, f"{tool} is not installed: it comes with e2fsprogs"
    return path
