"""A root file system for one program: a directory plus an init that runs the program.

It is packed into a disk or, to include it in a realm's measurement, into an initial RAM disk.

The init is the guest agent under another name (`guests/agent/init.c`): it mounts the usual file
systems, runs the entry point on the console, reports its status and powers off.
"""

import os
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.vm import guests
from pyvmm.vm.images.cpio import CpioArchive
from pyvmm.vm.images.ext4 import (
    Entry,
    FindOwner,
    Tree,
    choose_size,
    make_disk,
    scan_tree,
    to_root,
)
from pyvmm.vm.images.loader import read_payload
from pyvmm.vm.images.program import ProgramFile

_INIT: Final = "sbin/init"
_PYVMM: Final = ".pyvmm"
#: Mount points of the init: files below them would be hidden.
_MOUNT_POINTS: Final = {"dev": 0o755, "proc": 0o555, "sys": 0o555, "run": 0o755, "tmp": 0o1777}
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FREE_SPACE: Final = 64 << 20  # bytes, for what the program writes
_MAX_INITRD: Final = 1 << 30
_IN_INITRD: Final = "rootfs"
_MAX_TEXT: Final = 32767  # bytes of arguments, and of variables; init.c has the same limit


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """The program that a root file system runs.

    ``program`` is a path in the file system, or a name to look for in its PATH; empty means its
    existing /sbin/init.  ``user`` has the numbers of a user, a group, and further groups.
    """

    program: str = ""
    arguments: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    directory: str = ""
    user: tuple[int, ...] = ()


def build_rootfs(
    directory: Path,
    output: Path,
    entry_point: EntryPoint,
    size: int = 0,
    initrd: Path | None = None,
    owner: FindOwner = to_root,
) -> None:
    """Pack a directory into a new disk, or into an initial RAM disk.

    Args:
        directory: the root directory of the file system.
        output: the file to write.
        entry_point: the program to run.
        size: bytes of the disk; 0 chooses a size with some free space.
        initrd: Debian's initial RAM disk; append the files to it, and make no disk.
        owner: returns to whom a file is to belong.

    Raises:
        UserError: the directory is missing, a guest cannot run the program, or no space is left.
    """
    _check_places(directory, output)
    begin = read_payload(initrd, "initrd", _MAX_INITRD) if initrd is not None else b""
    tree = scan_tree(directory, _newest(), owner)
    try:
        with tempfile.TemporaryDirectory(prefix=".build-", dir=output.absolute().parent) as scratch:
            _complete(tree, Path(scratch), entry_point)
            made = Path(scratch, "made")
            if initrd is None:
                size = choose_size(size, tree.needed_size, str(directory), free_space=_FREE_SPACE)
                make_disk(made, tree, size, "pyvmm-rootfs")
            else:
                made.write_bytes(begin + bytes(-len(begin) % 4) + _archive(tree))
            made.replace(output)
    except OSError as error:
        where = error.filename or output
        raise UserError(f"{where}: {error.strerror}: choose another -o") from None


def _check_places(directory: Path, output: Path) -> None:
    try:
        is_directory = directory.is_dir()
        is_inside = output.resolve().is_relative_to(directory.resolve())
        is_special = output.exists() and not output.is_file()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise UserError(f"--from-dir {directory} -o {output}: {error}: check the paths") from None
    if not is_directory:
        raise UserError(f"--from-dir {directory}: no such directory: give one with a program in it")
    if is_inside:
        raise UserError(f"{output} is inside {directory}, the directory to pack: choose another -o")
    if is_special:  # it would be replaced
        raise UserError(f"{output} is not a regular file: choose another -o")


def _archive(tree: Tree) -> bytes:
    """Return an archive of the tree, below the directory that the initial RAM disk looks for."""
    archive = CpioArchive()
    archive.add_directory(_IN_INITRD)
    for entry in tree.sorted():
        path, mode = f"{_IN_INITRD}/{entry.path}", stat.S_IMODE(entry.mode)
        match entry.kind:
            case stat.S_IFDIR:
                archive.add_directory(path, mode, entry.owner)
            case stat.S_IFLNK:
                archive.add_symlink(path, entry.target, entry.owner)
            case stat.S_IFREG if entry.source is not None:
                archive.add_file(path, entry.source.read_bytes(), mode, entry.owner)
            case _:
                device = entry.device
                archive.add_special(path, entry.mode, os.major(device), os.minor(device))
    return archive.finish()


def _newest() -> int:
    """Return the latest time that a file may have, from SOURCE_DATE_EPOCH if that is set."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(text) if text.isdecimal() else 0xFFFF_FFFF


def _complete(tree: Tree, scratch: Path, entry_point: EntryPoint) -> None:
    """Add the init and its entry point, unless the program is the tree's own init."""
    for name, mode in _MOUNT_POINTS.items():
        tree.remove_below(name)
        tree.entries[PurePosixPath(name)] = Entry(PurePosixPath(name), stat.S_IFDIR | mode)
    init = tree.resolve(_INIT)
    program = _find_program(tree, entry_point) or f"/{_INIT}"
    if tree.resolve(program) is None or tree.resolve(program) not in tree.entries:
        raise UserError(
            f"the directory does not contain {program}: give the program's path inside the"
            " directory with --init"
        )
    ProgramFile(tree, program).check()
    if tree.resolve(program) == init:
        _refuse_arguments(entry_point)
        return
    if init is None:
        raise UserError("sbin is not a directory: make it a directory or a link to one")
    for parent in reversed(init.parents[:-1]):
        tree.add_directory(str(parent))
    _add(tree, scratch, str(init), guests.agent(), 0o755)
    tree.add_directory(_PYVMM)
    words = (program, *entry_point.arguments)
    _add(tree, scratch, f"{_PYVMM}/entrypoint", _strings(words), 0o644)
    _add(tree, scratch, f"{_PYVMM}/environment", _strings(entry_point.environment), 0o644)
    if entry_point.directory:
        _add(tree, scratch, f"{_PYVMM}/directory", _strings([entry_point.directory]), 0o644)
    if entry_point.user:
        _add(tree, scratch, f"{_PYVMM}/user", _strings([*map(str, entry_point.user)]), 0o644)


def _find_program(tree: Tree, entry_point: EntryPoint) -> str:
    """Return the path of a program that is given by its name; it is relative to its directory."""
    program = entry_point.program
    if not program or program.startswith("/"):
        return program
    if "/" in program:
        return str(PurePosixPath(entry_point.directory or "/", program))
    variables = dict(each.partition("=")[::2] for each in entry_point.environment)
    for directory in variables.get("PATH", _PATH).split(":"):
        path = f"{directory.rstrip('/')}/{program}"
        if tree.resolve(path) in tree.entries:
            return path
    return program


def _refuse_arguments(entry_point: EntryPoint) -> None:
    if entry_point.arguments or entry_point.environment:
        raise UserError("/sbin/init gets its arguments from the kernel: leave them out here")


def _strings(words: Sequence[str]) -> bytes:
    data = b"".join(os.fsencode(word) + b"\0" for word in words)
    if len(data) > _MAX_TEXT:
        raise UserError(
            f"the arguments or variables are {len(data)} bytes; the limit is {_MAX_TEXT}:"
            " use a file"
        )
    return data


def _add(tree: Tree, scratch: Path, path: str, content: bytes, mode: int) -> None:
    source = scratch / path.replace("/", "-")
    source.write_bytes(content)
    tree.add_file(path, source, mode)
