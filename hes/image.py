"""The measured part of an installation: the files that run, packed as one image.

The image contains paths as well as contents, so that no file can replace another.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

#: The signer of our files: releases are not signed yet, so this is a hashed name, not a key.
SIGNER_ID: Final = hashlib.sha256(b"pyvmm development signer").digest()

#: Changes whenever a file changes.
Fingerprint: TypeAlias = tuple[tuple[str, int, int, int, int], ...]

_CHUNK: Final = 1 << 18

#: Files that the interpreter loads.
_SUFFIXES: Final = {".py", ".so"}

#: Firmware: its files, and the files of ours that it uses.
HES_FILES: Final = ("hes", "pyvmm/arch", "pyvmm/token")
MONITOR_FILES: Final = ("monitor", "pyvmm/arch")
RMM_FILES: Final = ("rmm", "pyvmm/arch", "pyvmm/token")
MACHINE_FILES: Final = ("pyvmm/core", "pyvmm/platform.py")


def installation() -> Path:
    """Return the directory that contains our packages."""
    return Path(__file__).resolve().parent.parent


def pack(root: Path, parts: tuple[str, ...]) -> bytes:
    """Return all files below some paths as one image.

    Raises:
        OSError: a path does not exist.
    """
    return b"".join(_pieces(root, parts))


def digest(root: Path, parts: tuple[str, ...]) -> bytes:
    """Return the SHA-256 of an image without building it in memory.

    Raises:
        OSError: a path does not exist.
    """
    image = hashlib.sha256()
    for piece in _pieces(root, parts):
        image.update(piece)
    return image.digest()


def _pieces(root: Path, parts: tuple[str, ...]) -> Iterator[bytes]:
    for path in _all_files(root, parts):
        name = path.relative_to(root).as_posix().encode()
        yield len(name).to_bytes(4, "little") + name
        with path.open("rb", buffering=0) as file:
            yield os.fstat(file.fileno()).st_size.to_bytes(4, "little")
            while chunk := file.read(_CHUNK):
                yield chunk


def fingerprint(root: Path, parts: tuple[str, ...]) -> Fingerprint:
    """Return a value that changes with the image, without reading the files.

    Raises:
        OSError: a path does not exist.
    """
    statuses = ((str(path), path.stat()) for path in _all_files(root, parts))
    return tuple(
        (path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        for path, status in statuses
    )


def _all_files(root: Path, parts: tuple[str, ...]) -> list[Path]:
    return sorted(file for part in parts for file in _files(root / part))


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for entry in path.iterdir():
        if entry.is_dir():
            yield from _files(entry)
        elif entry.suffix in _SUFFIXES:
            yield entry
