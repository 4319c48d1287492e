"""A new ext4 disk with a tree of files: the same tree gives the same bytes, whoever packs it.

Everything belongs to root.  Modes and the time of the last change are the files' own, down to the
second; hard links become files of their own, sockets are left out.  e2fsprogs does the work:
mke2fs an empty file system, debugfs one file after the other, in the order of their names.
"""

import math
import os
import stat
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.vm.images.apt import find_tool, require_tools

_UUID: Final = "6d2b6c1e-0000-4000-8000-707976656d6d"
#: Of whatever has no time of its own; seconds.
EPOCH: Final = 1
_BLOCK: Final = 4096
_INODE: Final = 256
_JOURNAL: Final = 4 << 20
_TABLES: Final = 2 << 20
_MIB: Final = 1 << 20
_MIN_SIZE: Final = 16 << 20  # or mke2fs finds the journal too large
_BYTES_PER_INODE: Final = 16384
_MIN_INODES: Final = 1024  # besides those of the tree
_MAX_TIME: Final = (1 << 32) - 1
_MADE_BY_MKE2FS: Final = PurePosixPath("lost+found")
_UNWRITABLE: Final = frozenset("\n\r\0")  # a line of debugfs's cannot hold them


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the tree.

    ``mode`` is st_mode; ``size`` in bytes; ``changed`` in seconds; ``source`` has a regular file's
    content, ``target`` a symbolic link's.
    """

    path: PurePosixPath
    mode: int
    size: int = 0
    changed: int = EPOCH
    source: Path | None = None
    target: str = ""
    device: int = 0

    @property
    def kind(self) -> int:
        """The type, as stat.S_IFDIR and the like."""
        return stat.S_IFMT(self.mode)


@dataclass(slots=True)
class Tree:
    """Files by their path, which is relative to the root."""

    entries: dict[PurePosixPath, Entry] = field(default_factory=dict)

    def add_directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory, unless something is there."""
        place = PurePosixPath(path)
        self.entries.setdefault(place, Entry(place, stat.S_IFDIR | mode))

    def add_file(self, path: str, source: Path, mode: int = 0o644) -> None:
        """Add a file, or put it in the place of what is there."""
        place = PurePosixPath(path)
        size = source.stat().st_size
        self.entries[place] = Entry(place, stat.S_IFREG | mode, size, source=source)

    def remove_below(self, path: str) -> None:
        """Empty a directory."""
        place = PurePosixPath(path)
        for found in [found for found in self.entries if place in found.parents]:
            del self.entries[found]

    def resolve(self, path: str) -> PurePosixPath | None:
        """Follow symbolic links inside the tree; return what is there, or would be.

        Returns: None if a link turns in circles, or leads through what is no directory.
        """
        place, left = PurePosixPath(), list(reversed(PurePosixPath(path.lstrip("/")).parts))
        for _ in range(256):
            if not left:
                return place
            part = left.pop()
            here = place.parent if part == ".." else place / part
            entry = self.entries.get(here)
            if entry is not None and entry.kind == stat.S_IFLNK:
                target = PurePosixPath(entry.target)
                place = PurePosixPath() if target.is_absolute() else place
                left += reversed(
                    target.relative_to("/").parts if target.is_absolute() else target.parts
                )
                continue
            if entry is not None and left and entry.kind != stat.S_IFDIR:
                return None
            place = here
        return None

    def sorted(self) -> list[Entry]:
        """Return the files, parents first."""
        return [self.entries[path] for path in sorted(self.entries, key=lambda path: path.parts)]

    @property
    def needed_size(self) -> int:
        """How many bytes a disk for it needs at least."""
        blocks = sum(math.ceil(entry.size / _BLOCK) + 1 for entry in self.entries.values())
        inodes = (len(self.entries) + _MIN_INODES) * _INODE
        used = blocks * _BLOCK + inodes + _JOURNAL + _TABLES
        return max(used * 33 // 32, _MIN_SIZE)  # more inodes, extents and bitmaps the larger it is


def scan_tree(root: Path, newest: int = _MAX_TIME) -> Tree:
    """Look at all files below a directory; those changed after ``newest`` count as of then.

    Raises:
        UserError: one cannot be read, or has a name that cannot be packed.
    """
    tree = Tree()
    try:
        for found in _walk(root):
            place = PurePosixPath(found.relative_to(root))
            status = found.lstat()
            if stat.S_ISSOCK(status.st_mode) or place == _MADE_BY_MKE2FS:
                continue
            if _UNWRITABLE & set(str(place)):
                raise UserError(f"{str(found)!r}: a name with a line break cannot be packed")
            is_file = stat.S_ISREG(status.st_mode)
            if is_file and not os.access(found, os.R_OK):
                raise UserError(f"{found}: not readable: change its mode, or be its owner")
            tree.entries[place] = Entry(
                place,
                status.st_mode,
                status.st_size if is_file else 0,
                min(max(int(status.st_mtime), EPOCH), newest, _MAX_TIME),
                source=found if is_file else None,
                target=str(found.readlink()) if stat.S_ISLNK(status.st_mode) else "",
                device=status.st_rdev,
            )
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}: it cannot be packed") from None
    return tree


def _walk(directory: Path) -> Iterator[Path]:
    with os.scandir(directory) as found:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    for name, is_directory in names:
        yield directory / name
        if is_directory:
            yield from _walk(directory / name)


def choose_size(asked: int, needed: int, what: str, *, room: int, least: int = 0) -> int:
    """Return the size of a disk, in bytes.

    Args:
        asked: what the user wants; 0 for what is needed, and some room.
        needed: what the files need.
        what: they are.
        room: for what the guest writes; it costs nothing until then.
        least: that the disk has, where nothing is asked for.

    Raises:
        UserError: the files need more than was asked for.
    """
    if not asked:
        return max(least, -(-(needed + room) // _MIB) * _MIB)
    if asked < needed:
        raise UserError(
            f"--size: {what} needs {-(-needed // _MIB)}M: give at least that, or no size"
        )
    return asked


def make_disk(disk: Path, tree: Tree, size: int, label: str) -> None:
    """Write a tree into a new file with an ext4 file system.

    Args:
        disk: is written over.
        tree: its parents are made as they are needed.
        size: bytes.
        label: at most 16 characters.

    Raises:
        UserError: no e2fsprogs, or no room on either side.
    """
    require_tools(mke2fs="e2fsprogs", debugfs="e2fsprogs")
    with disk.open("wb") as file:
        file.truncate(size)
    num_inodes = len(tree.entries) + max(_MIN_INODES, size // _BYTES_PER_INODE)
    extended = f"lazy_itable_init=0,lazy_journal_init=0,hash_seed={_UUID},root_owner=0:0"
    _call(
        [
            *("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(_BLOCK), "-N", str(num_inodes)),
            *("-m", "0", "-L", label, "-U", _UUID, "-J", f"size={_JOURNAL >> 20}", "-E", extended),
            str(disk),
        ]
    )
    lines = (f"{line}\n" for line in _script(tree))
    _call(["debugfs", "-w", "-f", "-", str(disk)], "".join(lines))


def _script(tree: Tree) -> Iterator[str]:
    """Yield the commands that make the files, parents first."""
    yield f"set_current_time @{EPOCH}"
    entries = tree.sorted()
    for entry in entries:
        yield from _make(entry, _quoted(str(entry.path)))
    for entry in reversed(entries):  # a directory changes when something is put into it
        if entry.kind != stat.S_IFLNK:
            yield f"set_inode_field {_quoted(str(entry.path))} mtime @{entry.changed}"


def _make(entry: Entry, path: str) -> Iterable[str]:
    match entry.kind:
        case stat.S_IFDIR:
            yield f"mkdir {path}"
        case stat.S_IFREG:
            yield f"write {_quoted(str(entry.source))} {path}"
        case stat.S_IFLNK:
            yield f"symlink {path} {_quoted(entry.target)}"
            return
        case stat.S_IFIFO:
            yield f"mknod {path} p"
        case _:
            kind = "c" if entry.kind == stat.S_IFCHR else "b"
            yield f"mknod {path} {kind} {os.major(entry.device)} {os.minor(entry.device)}"
    yield f"set_inode_field {path} mode 0{entry.mode:o}"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _call(command: list[str], script: str = "") -> None:
    """Run a tool of e2fsprogs, whose exit code does not tell whether all went well."""
    done = subprocess.run(
        [find_tool(command[0]) or command[0], *command[1:]],
        input=script.encode(errors="surrogateescape"),
        env=os.environ | {"LC_ALL": "C", "E2FSPROGS_FAKE_TIME": str(EPOCH)},
        capture_output=True,
        check=False,
    )
    said = done.stderr.decode(errors="replace").splitlines()
    complaints = [line for line in said if line and not line.startswith(f"{command[0]} ")]
    if done.returncode or complaints:
        raise UserError(
            f"{command[0]} failed ({' '.join((complaints or ['no word'])[0].split())}):"
            " is the disk large enough, and is there space for it?"
        )
