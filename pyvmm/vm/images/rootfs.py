"""A root file system of one program: a directory, and an init that runs the program.

It is packed into a disk; or, so that a realm measures it, into an initial RAM disk.

The init is the guest agent under another name (`guests/agent/init.c`): it mounts what programs
expect, runs the entry point on the console, tells its status and powers off.
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
from pyvmm.vm.images.ext4 import Entry, Tree, choose_size, make_disk, scan_tree
from pyvmm.vm.images.loader import read_payload
from pyvmm.vm.images.program import ProgramFile

_INIT: Final = "sbin/init"
_OWN: Final = ".pyvmm"
#: What the init mounts something on: their content would only be hidden.
_MOUNTED: Final = {"dev": 0o755, "proc": 0o555, "sys": 0o555, "run": 0o755, "tmp": 0o1777}
#: Bytes for what the program writes.
_ROOM: Final = 64 << 20
_MAX_INITRD: Final = 1 << 30
_IN_INITRD: Final = "rootfs"
_MAX_TEXT: Final = 32767  # of arguments and of variables; init.c has the same


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """What the root file system runs.

    ``program`` is a path in it; empty stands for the /sbin/init that it has already.
    """

    program: str = ""
    arguments: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()


def build_rootfs(
    directory: Path,
    output: Path,
    entry_point: EntryPoint,
    size: int = 0,
    initrd: Path | None = None,
) -> None:
    """Pack a directory into a new disk, or into an initial RAM disk.

    Args:
        directory: the files, as they should be below /.
        output: the file to write.
        entry_point: what it runs.
        size: bytes of the disk; 0 for what the files need and some room.
        initrd: Debian's initial RAM disk, to be continued in place of a disk.

    Raises:
        UserError: no such directory, no program that a guest could run, or no space.
    """
    _check_places(directory, output)
    begin = read_payload(initrd, "initrd", _MAX_INITRD) if initrd is not None else b""
    tree = scan_tree(directory, _newest())
    try:
        with tempfile.TemporaryDirectory(prefix=".build-", dir=output.absolute().parent) as scratch:
            _complete(tree, Path(scratch), entry_point)
            made = Path(scratch, "made")
            if initrd is None:
                size = choose_size(size, tree.needed_size, str(directory), room=_ROOM)
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
    except (OSError, RuntimeError) as error:  # RuntimeError: links that turn in circles
        raise UserError(f"--from-dir {directory} -o {output}: {error}: check the paths") from None
    if not is_directory:
        raise UserError(f"--from-dir {directory}: no such directory: give one with a program in it")
    if is_inside:
        raise UserError(f"{output} is in {directory}, which is to be packed: choose another -o")
    if is_special:  # it would be replaced
        raise UserError(f"{output} is no regular file: choose another -o")


def _archive(tree: Tree) -> bytes:
    """Return the tree below the directory that the initial RAM disk looks for."""
    archive = CpioArchive()
    archive.add_directory(_IN_INITRD)
    for entry in tree.sorted():
        path, mode = f"{_IN_INITRD}/{entry.path}", stat.S_IMODE(entry.mode)
        match entry.kind:
            case stat.S_IFDIR:
                archive.add_directory(path, mode)
            case stat.S_IFLNK:
                archive.add_symlink(path, entry.target)
            case stat.S_IFREG if entry.source is not None:
                archive.add_file(path, entry.source.read_bytes(), mode)
            case _:
                device = entry.device
                archive.add_special(path, entry.mode, os.major(device), os.minor(device))
    return archive.finish()


def _newest() -> int:
    """Return the time that no file may be newer than: what reproducible builds agreed on."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(text) if text.isdecimal() else 0xFFFF_FFFF


def _complete(tree: Tree, scratch: Path, entry_point: EntryPoint) -> None:
    """Add the init and what it runs, where the tree has no init of its own to run."""
    for name, mode in _MOUNTED.items():
        tree.remove_below(name)
        tree.entries[PurePosixPath(name)] = Entry(PurePosixPath(name), stat.S_IFDIR | mode)
    init = tree.resolve(_INIT)
    program = entry_point.program or f"/{_INIT}"
    if tree.resolve(program) is None or tree.resolve(program) not in tree.entries:
        raise UserError(
            f"the directory has no {program}: name the program to run with --init, as it is called"
            " in there"
        )
    ProgramFile(tree, program).check()
    if tree.resolve(program) == init:
        _refuse_arguments(entry_point)
        return
    if init is None:
        raise UserError("sbin in the directory leads nowhere: make it a directory or a link to one")
    for parent in reversed(init.parents[:-1]):
        tree.add_directory(str(parent))
    _add(tree, scratch, str(init), guests.agent(), 0o755)
    tree.add_directory(_OWN)
    words = (program, *entry_point.arguments)
    _add(tree, scratch, f"{_OWN}/entrypoint", _strings(words), 0o644)
    _add(tree, scratch, f"{_OWN}/environment", _strings(entry_point.environment), 0o644)


def _refuse_arguments(entry_point: EntryPoint) -> None:
    if entry_point.arguments or entry_point.environment:
        raise UserError("/sbin/init gets its arguments from the kernel: leave them out here")


def _strings(words: Sequence[str]) -> bytes:
    data = b"".join(os.fsencode(word) + b"\0" for word in words)
    if len(data) > _MAX_TEXT:
        raise UserError(f"arguments and variables may have {_MAX_TEXT} bytes: use a file")
    return data


def _add(tree: Tree, scratch: Path, path: str, content: bytes, mode: int) -> None:
    source = scratch / path.replace("/", "-")
    source.write_bytes(content)
    tree.add_file(path, source, mode)
