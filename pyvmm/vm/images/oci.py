"""Images of containers, in the formats of OCI and docker: their files, and what they run.

skopeo chooses the image for arm64 and converts it, umoci unpacks its layers.  Neither runs anything
of the image, and nothing needs root: without it, umoci notes the owners of files in an attribute.
"""

import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from pyvmm.arch.errors import UserError
from pyvmm.arch.text import printable
from pyvmm.vm.images.apt import require_tools
from pyvmm.vm.images.rootfs import EntryPoint

T = TypeVar("T")
_ARCHITECTURE: Final = "arm64"
_STORAGE: Final = "containers-storage:"
_MAX_ID: Final = (1 << 32) - 1
_OWNER: Final = "user.rootlesscontainers"  # a protocol buffer: 1 is the user, 2 the group


class _Descriptor(msgspec.Struct):
    digest: str


class _Index(msgspec.Struct):
    manifests: list[_Descriptor]


class _Manifest(msgspec.Struct):
    config: _Descriptor


class _Settings(msgspec.Struct):
    """What the image's author has chosen to run."""

    entrypoint: list[str] | None = msgspec.field(default=None, name="Entrypoint")
    cmd: list[str] | None = msgspec.field(default=None, name="Cmd")


class _Config(msgspec.Struct):
    architecture: str = ""
    config: _Settings | None = None


class _User(msgspec.Struct):
    uid: int
    gid: int
    groups: list[int] = msgspec.field(default_factory=list, name="additionalGids")


class _Process(msgspec.Struct):
    user: _User
    env: list[str]
    cwd: str


class _Bundle(msgspec.Struct):
    """The runtime configuration that umoci derives from the image."""

    process: _Process


@dataclass(frozen=True, slots=True)
class OciImage:
    """An unpacked image.

    ``words`` are the program and arguments of its author, of which a user's replace those after
    ``entry``.
    """

    rootfs: Path
    entry: tuple[str, ...]
    words: tuple[str, ...]
    environment: tuple[str, ...]
    directory: str
    user: tuple[int, ...]

    def entry_point(
        self, program: str = "", words: Sequence[str] = (), environment: Sequence[str] = ()
    ) -> EntryPoint:
        """Return what a guest runs; arguments and variables of the user come before the image's.

        Raises:
            UserError: neither the image nor the user says what.
        """
        run = [program, *words] if program else [*self.entry, *(words or self.words)]
        if not run:
            raise UserError("the image names no program: give one after --")
        names = {each.partition("=")[0] for each in environment}
        kept = (each for each in self.environment if each.partition("=")[0] not in names)
        user = self.user if any(self.user) else ()
        return EntryPoint(run[0], tuple(run[1:]), (*environment, *kept), self.directory, user)


@contextmanager
def unpacked(source: str) -> Iterator[OciImage]:
    """Unpack an image for arm64; remove the files at the end.

    Args:
        source: a file or directory, or ``containers-storage:NAME``.

    Raises:
        UserError: it is none, is for another architecture, or a tool is missing.
    """
    require_tools(skopeo="skopeo", umoci="umoci")
    reference = _reference(source)
    with tempfile.TemporaryDirectory(prefix="pyvmm-oci-") as scratch:
        layout, bundle = Path(scratch, "layout"), Path(scratch, "bundle")
        _copy(source, reference, layout)
        config = _read_config(source, layout)
        rootless = ("--rootless",) if os.geteuid() else ()
        _run(source, "umoci", "unpack", *rootless, "--image", f"{layout}:image", str(bundle))
        process = _read(source, bundle / "config.json", _Bundle).process
        settings = config.config or _Settings()
        yield OciImage(
            bundle / "rootfs",
            tuple(settings.entrypoint or ()),
            tuple(settings.cmd or ()),
            tuple(process.env),
            process.cwd,
            (process.user.uid, process.user.gid, *process.user.groups),
        )


def _reference(source: str) -> str:
    """Return the image as skopeo names it."""
    if source.startswith(_STORAGE):
        return source
    path, _, tag = source.partition(":")
    if Path(path).is_dir():
        return f"oci:{path}:{tag}" if tag else f"oci:{path}"
    if not Path(path).is_file():
        raise UserError(
            f"--oci {source}: no such file or directory: give an archive, a layout, or"
            f" {_STORAGE}NAME"
        )
    kind = "oci-archive" if _has(Path(path), "oci-layout") else "docker-archive"
    return f"{kind}:{source}"


def _has(archive: Path, name: str) -> bool:
    try:
        with tarfile.open(archive) as files:
            return any(member.name.removeprefix("./") == name for member in files)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"--oci {archive}: not an image: {error}") from None


def _copy(source: str, reference: str, layout: Path) -> None:
    """Convert the image for arm64 to a layout of its own."""
    choice = ("--override-arch", _ARCHITECTURE, "--override-os", "linux")
    words = ("copy", "--quiet", "--insecure-policy", *choice, reference, f"oci:{layout}:image")
    _run(source, "skopeo", *words)


def _read_config(source: str, layout: Path) -> _Config:
    index = _read(source, layout / "index.json", _Index)
    manifest = _read(source, _blob(layout, index.manifests[0]), _Manifest)
    config = _read(source, _blob(layout, manifest.config), _Config)
    if config.architecture != _ARCHITECTURE:
        raise _wrong_architecture(source, config.architecture)
    return config


def _wrong_architecture(source: str, architecture: str) -> UserError:
    return UserError(
        f"--oci {source}: its programs are for {printable(architecture) or 'an unknown machine'},"
        f" and guests have {_ARCHITECTURE} CPUs: pull or build it with --platform"
        f" linux/{_ARCHITECTURE}"
    )


def _blob(layout: Path, descriptor: _Descriptor) -> Path:
    kind, _, digest = descriptor.digest.partition(":")
    return layout / "blobs" / kind / digest


def _read(source: str, path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise UserError(f"--oci {source}: not a complete image: {printable(str(error))}") from None


def _run(source: str, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    if not done.returncode:
        return
    found = re.search(r"no image found in .* for architecture", done.stderr)
    if found:
        raise _wrong_architecture(source, "other machines only")
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    reason = re.sub(r'^time="[^"]*" level=\w+ msg=', "", lines[-1])
    raise UserError(f"--oci {source}: {command[0]}: {printable(reason)}")


def find_owner(path: Path, status: os.stat_result) -> tuple[int, int]:
    """Return the owner of an unpacked file, in the image."""
    if not os.geteuid():
        return status.st_uid, status.st_gid
    with suppress(OSError, ValueError):
        return _decode_owner(os.getxattr(path, _OWNER, follow_symlinks=False))
    return 0, 0


def _decode_owner(data: bytes) -> tuple[int, int]:
    """Return both numbers of a protocol buffer; ValueError if it is none.

    >>> _decode_owner(bytes.fromhex("08e807 10e907"))
    (1000, 1001)
    """
    numbers, at = {1: 0, 2: 0}, 0
    while at < len(data):
        key, at = _varint(data, at)
        value, at = _varint(data, at)
        if key & 7 or key >> 3 not in numbers or value > _MAX_ID:
            raise ValueError
        numbers[key >> 3] = value
    return numbers[1], numbers[2]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise ValueError
