"""A new ext4 disk with a tree of files: the same tree gives the same bytes for every user.

Files belong to root, or to whom the tree says.  Modes and modification times (in seconds) are kept;
hard links become separate files, sockets are left out.  e2fsprogs does the work: mke2fs makes an
empty file system, debugfs writes the files into it one by one, in the order of their names.
"""

import math
import os
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.vm.images.apt import find_tool, require_tools

_UUID: Final = "6d2b6c1e-0000-4000-8000-707976656d6d"
#: The time of everything that has none of its own; seconds.
EPOCH: Final = 1
_BLOCK: Final = 4096
_INODE: Final = 256
_JOURNAL: Final = 4 << 20
_TABLES: Final = 2 << 20
_MIB: Final = 1 << 20
_MIN_SIZE: Final = 16 << 20  # below this, mke2fs finds the journal too large
_BYTES_PER_INODE: Final = 16384
_MIN_INODES: Final = 1024  # besides those of the tree
_MAX_TIME: Final = (1 << 32) - 1
_MADE_BY_MKE2FS: Final = PurePosixPath("lost+found")
_UNWRITABLE: Final = frozenset("\n\r\0")  # debugfs cannot read them in a command


#: Returns the owner that a file of the tree is to have, for its path and status here.
FindOwner = Callable[[Path, os.stat_result], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the tree.

    ``mode`` is st_mode; ``size`` in bytes; ``changed`` in seconds; ``source`` is the file with a
    regular file's content, ``target`` is a symbolic link's; ``owner`` has the numbers of user and
    group.
    """

    path: PurePosixPath
    mode: int
    size: int = 0
    changed: int = EPOCH
    source: Path | None = None
    target: str = ""
    device: int = 0
    owner: tuple[int, int] = (0, 0)

    @property
    def kind(self) -> int:
        """The type: stat.S_IFDIR or another such constant."""
        return stat.S_IFMT(self.mode)


@dataclass(slots=True)
class Tree:
    """Files by path, relative to the root."""

    entries: dict[PurePosixPath, Entry] = field(default_factory=dict)

    def add_directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory, unless the path exists."""
        place = PurePosixPath(path)
        self.entries.setdefault(place, Entry(place, stat.S_IFDIR | mode))

    def add_file(self, path: str, source: Path, mode: int = 0o644) -> None:
        """Add a file; replace what the path had before."""
        place = PurePosixPath(path)
        size = source.stat().st_size
        self.entries[place] = Entry(place, stat.S_IFREG | mode, size, source=source)

    def remove_below(self, path: str) -> None:
        """Empty a directory."""
        place = PurePosixPath(path)
        for found in [found for found in self.entries if place in found.parents]:
            del self.entries[found]

    def resolve(self, path: str) -> PurePosixPath | None:
        """Follow symbolic links inside the tree; return the final path, whether or not it exists.

        Returns: None if links form a loop, or lead through something that is not a directory.
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
        """The smallest size of a disk for the tree, in bytes."""
        blocks = sum(math.ceil(entry.size / _BLOCK) + 1 for entry in self.entries.values())
        inodes = (len(self.entries) + _MIN_INODES) * _INODE
        used = blocks * _BLOCK + inodes + _JOURNAL + _TABLES
        return max(used * 33 // 32, _MIN_SIZE)  # inodes, extents and bitmaps grow with the size


def to_root(_path: Path, _status: os.stat_result) -> tuple[int, int]:
    """Return root, whoever owns the file here."""
    return (0, 0)


def scan_tree(root: Path, newest: int = _MAX_TIME, owner: FindOwner = to_root) -> Tree:
    """Return all files below a directory; no time is later than ``newest``.

    Raises:
        UserError: a file cannot be read, or has a name that cannot be packed.
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
                raise UserError(f"{found}: not readable: change its mode or its owner")
            tree.entries[place] = Entry(
                place,
                status.st_mode,
                status.st_size if is_file else 0,
                min(max(int(status.st_mtime), EPOCH), newest, _MAX_TIME),
                source=found if is_file else None,
                target=str(found.readlink()) if stat.S_ISLNK(status.st_mode) else "",
                device=status.st_rdev,
                owner=owner(found, status),
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


def choose_size(asked: int, needed: int, what: str, *, free_space: int, minimum: int = 0) -> int:
    """Return the size of a disk; all sizes are in bytes.

    Args:
        asked: the user's choice; 0 to choose by the other arguments.
        needed: by the files.
        what: the files, for the error message.
        free_space: for what the guest writes; it takes no space on the host until then.
        minimum: unless the user chooses.

    Raises:
        UserError: the files need more than the user's choice.
    """
    if not asked:
        return max(minimum, -(-(needed + free_space) // _MIB) * _MIB)
    if asked < needed:
        raise UserError(
            f"--size is too small for {what}: give at least {-(-needed // _MIB)}M, or no --size"
        )
    return asked


def make_disk(disk: Path, tree: Tree, size: int, label: str) -> None:
    """Write a tree into a new file with an ext4 file system.

    Args:
        disk: is overwritten.
        tree: missing parent directories are made.
        size: bytes.
        label: at most 16 characters.

    Raises:
        UserError: e2fsprogs is missing, or the disk or the host has no space left.
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
    for entry in reversed(entries):  # adding an entry to a directory changes its time
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
            yield from _own(entry, path)
            return
        case stat.S_IFIFO:
            yield f"mknod {path} p"
        case _:
            kind = "c" if entry.kind == stat.S_IFCHR else "b"
            yield f"mknod {path} {kind} {os.major(entry.device)} {os.minor(entry.device)}"
    yield f"set_inode_field {path} mode 0{entry.mode:o}"
    yield from _own(entry, path)


def _own(entry: Entry, path: str) -> Iterator[str]:
    """Yield the commands that set the owner, unless it is root."""
    for name, number in zip(("uid", "gid"), entry.owner, strict=True):
        if number:
            yield f"set_inode_field {path} {name} {number}"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _call(command: list[str], script: str = "") -> None:
    """Run a tool of e2fsprogs; its exit code alone does not show whether it succeeded."""
    completed = subprocess.run(
        [find_tool(command[0]) or command[0], *command[1:]],
        input=script.encode(errors="surrogateescape"),
        env=os.environ | {"LC_ALL": "C", "E2FSPROGS_FAKE_TIME": str(EPOCH)},
        capture_output=True,
        check=False,
    )
    lines = completed.stderr.decode(errors="replace").splitlines()
    errors = [line for line in lines if line and not line.startswith(f"{command[0]} ")]
    if completed.returncode or errors:
        raise UserError(
            f"{command[0]} failed ({' '.join((errors or ['without a message'])[0].split())}):"
            " check the size of the disk and the free space for it"
        )
