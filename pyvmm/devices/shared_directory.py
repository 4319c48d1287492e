"""A directory of the host that a guest shares: every operation stays below it.

A guest names files by single components.  Each component is opened relative to the descriptor of
its parent, without following a symbolic link, so neither "..", nor a link, nor a race with a rename
leads out of the directory.  Such a descriptor (O_PATH) only identifies a file.  Content is opened
through it, and only if it is a regular file or a directory: a FIFO would block, and a device is not
the guest's.

Every method raises OSError with the errno for the guest.
"""

import ctypes
import errno
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final

from pyvmm.arch.errors import UserError

_CREATE: Final = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_IDENTIFY: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
#: What a guest may ask for when it opens a file.  Not O_APPEND: a guest's writes have offsets.
_OPEN_FLAGS: Final = os.O_ACCMODE | os.O_TRUNC | os.O_DSYNC | os.O_SYNC
_WRITE_FLAGS: Final = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
_KEPT_MODE: Final = 0o1777  # no set-user-ID or set-group-ID: on the host they give our rights away
_MADE_KINDS: Final = frozenset({stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK})
MAX_DEPTH: Final = 512
MAX_NODES: Final = 1 << 19  # some hundred bytes each
ROOT_ID: Final = 0
NOW: Final = -1  # a time
NOBODY: Final = 65534
_dirent = Struct("<QqHB")  # ino, offset of the next, size, type; the name follows
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.getdents64.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_libc.getdents64.restype = ctypes.c_ssize_t


class Node:
    """A file by its place in the directory; its descriptor is opened when it is needed.

    It lives while it has users or children.  It is detached (no parent) when its name is removed;
    then only a descriptor that is still open leads to the file.
    """

    __slots__ = ("children", "name", "num_users", "parent")

    def __init__(self, parent: "Node | None", name: bytes) -> None:
        self.parent = parent
        self.name = name
        self.num_users = 0
        self.children: dict[bytes, Node] = {}


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a directory; ``offset`` is where the next one begins, ``kind`` a DT_* number."""

    inode: int
    offset: int
    kind: int
    name: bytes


@dataclass(frozen=True, slots=True)
class Changes:
    """New attributes of a file; None keeps the old one.  Times are in nanoseconds."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    accessed: int | None = None
    modified: int | None = None


class SharedDirectory:
    """The files below a directory.

    Owners: if this process is root, the guest sees and sets the files' real owners.  Otherwise the
    user's own files belong to root in the guest, and all others to nobody.

    Args:
        path: the directory.
        is_read_only: refuse changes.
        max_handles: descriptors that are kept to identify files; at least 8.

    Raises:
        UserError: it is not a directory, or cannot be opened.

    Concurrency: one thread at a time.
    """

    def __init__(self, path: Path, *, is_read_only: bool = False, max_handles: int = 256) -> None:
        self.is_read_only = is_read_only
        self._max_handles = max_handles
        self._is_root = os.geteuid() == ROOT_ID
        self._groups = {os.getegid(), *os.getgroups()}
        self._handles: OrderedDict[Node, int] = OrderedDict()  # the most recently used is last
        self._num_nodes = 0
        try:
            self._root_fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"directory {path}: {error.strerror}: check the path") from None
        self.root = Node(None, b"")
        self._device = os.fstat(self._root_fd).st_dev

    def close(self) -> None:
        """Close all descriptors that identify files; those of opened files are the caller's."""
        self.forget()
        os.close(self._root_fd)

    def forget(self) -> None:
        """Close the descriptors that are only kept to save time."""
        for fd in self._handles.values():
            os.close(fd)
        self._handles.clear()

    # --- nodes ----------------------------------------------------------------------------------

    def lookup(self, parent: Node, name: bytes) -> Node:
        """Return an entry of a directory, held."""
        _check_name(name)
        child = parent.children.get(name)
        try:
            fd = os.open(name, _IDENTIFY, dir_fd=self._handle(parent))
        except FileNotFoundError:
            if child is not None:
                self._detach(child)
            raise
        try:
            if child is not None and not self._identifies(child, fd):
                self._detach(child)  # the host has replaced the file
                child = None
            child = child or self._attach(parent, name)
        except BaseException:
            os.close(fd)
            raise
        self._keep(child, fd)
        return self.hold(child)

    def hold(self, node: Node) -> Node:
        """Count one more user of the node, which must `release` it."""
        node.num_users += 1
        return node

    def release(self, node: Node) -> None:
        """Count one user less."""
        node.num_users -= 1
        self._prune(node)

    def is_lost(self, node: Node) -> bool:
        """Check whether nothing leads to the node's file any more, so that it may be deleted."""
        return node.parent is None and node is not self.root and node not in self._handles

    def _attach(self, parent: Node, name: bytes) -> Node:
        depth, above = 0, parent.parent
        while above is not None:
            depth, above = depth + 1, above.parent
        if depth >= MAX_DEPTH:
            raise OSError(errno.ENAMETOOLONG, "the directories are nested too deeply")
        if self._num_nodes >= MAX_NODES:
            raise OSError(errno.ENFILE, "too many files in use")
        self._num_nodes += 1
        node = parent.children[name] = Node(parent, name)
        return node

    def _detach(self, node: Node) -> None:
        """Separate a node from its name, which is gone."""
        parent, node.parent = node.parent, None
        if parent is not None:
            del parent.children[node.name]
            self._prune(parent)
        self._prune(node)

    def _prune(self, node: Node | None) -> None:
        """Remove a node that nothing refers to, and then its parent if the same is true for it."""
        while node is not None and node is not self.root:
            if node.num_users or node.children:
                return
            fd = self._handles.pop(node, None)
            if fd is not None:
                os.close(fd)
            self._num_nodes -= 1
            parent = node.parent
            if parent is not None:
                del parent.children[node.name]
            node = parent

    def _handle(self, node: Node) -> int:
        """Return a descriptor that identifies the node's file; use it before the next call."""
        missing: list[Node] = []
        fd = self._kept_handle(node)
        while fd is None:
            missing.append(node)
            if node.parent is None:
                raise OSError(errno.ESTALE, "the file was removed")
            if len(missing) > 2 * MAX_DEPTH:  # by renames
                raise OSError(errno.ENAMETOOLONG, "the directories are nested too deeply")
            node = node.parent
            fd = self._kept_handle(node)
        for each in reversed(missing):
            fd = os.open(each.name, _IDENTIFY, dir_fd=fd)
            self._keep(each, fd)
        return fd

    def _kept_handle(self, node: Node) -> int | None:
        if node is self.root:
            return self._root_fd
        fd = self._handles.get(node)
        if fd is not None:
            self._handles.move_to_end(node)
        return fd

    def _keep(self, node: Node, fd: int) -> None:
        """Keep a node's descriptor; close the least recently used one if there are too many."""
        old = self._handles.pop(node, None)
        if old is not None:
            os.close(old)
        self._handles[node] = fd
        if len(self._handles) > self._max_handles:
            os.close(self._handles.popitem(last=False)[1])

    def _identifies(self, node: Node, fd: int) -> bool:
        """Check that a descriptor is of the node's file; by its name if nothing else is known."""
        kept = self._handles.get(node)
        return kept is None or os.path.samestat(os.fstat(kept), os.fstat(fd))

    # --- reading --------------------------------------------------------------------------------

    def status(self, node: Node) -> os.stat_result:
        """Return the attributes of a file."""
        return os.fstat(self._handle(node))

    def identity(self, status: os.stat_result) -> int:
        """Return a number of 64 bits that no other file below the directory has."""
        if status.st_dev == self._device:
            return status.st_ino
        return hash((status.st_dev, status.st_ino)) & (1 << 64) - 1  # another file system in it

    def owner(self, status: os.stat_result) -> tuple[int, int]:
        """Return the owner and the group that the guest sees."""
        if self._is_root:
            return status.st_uid, status.st_gid
        return (
            ROOT_ID if status.st_uid == os.geteuid() else NOBODY,
            ROOT_ID if status.st_gid in self._groups else NOBODY,
        )

    def read_link(self, node: Node) -> bytes:
        """Return the target of a symbolic link; nothing here follows it."""
        return os.readlink(b"", dir_fd=self._handle(node))

    def file_system(self, node: Node) -> os.statvfs_result:
        """Return the attributes of a file's file system."""
        return os.fstatvfs(self._handle(node))

    def open(self, node: Node, flags: int) -> int:
        """Open a regular file or a directory; return a descriptor, which the caller closes."""
        if self.is_read_only and flags & _WRITE_FLAGS:
            raise OSError(errno.EROFS, "shared read-only")
        fd = self._handle(node)
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        if kind == stat.S_IFLNK:
            raise OSError(errno.ELOOP, "a symbolic link")
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise OSError(errno.ENXIO, "not a regular file or a directory")
        return _reopen(fd, flags)

    # --- changes --------------------------------------------------------------------------------

    def create(
        self, parent: Node, name: bytes, flags: int, mode: int, owner: tuple[int, int]
    ) -> tuple[Node, int]:
        """Create and open a regular file; return its node and a descriptor.

        If the name exists, it must be a regular file and ``flags`` must not contain O_EXCL.
        """
        directory = self._parent(parent, name)
        try:
            fd = os.open(name, flags & _OPEN_FLAGS | _CREATE, 0o600, dir_fd=directory)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            node = self.lookup(parent, name)
            try:
                return node, self.open(node, flags)
            except BaseException:
                self.release(node)
                raise
        try:
            self._complete(fd, stat.S_IFREG, mode, owner)
            return self.lookup(parent, name), fd
        except BaseException:
            os.close(fd)
            raise

    def make_directory(self, parent: Node, name: bytes, mode: int, owner: tuple[int, int]) -> Node:
        """Make a directory; return it, held."""
        os.mkdir(name, 0o700, dir_fd=self._parent(parent, name))
        return self._made(parent, name, stat.S_IFDIR, mode, owner)

    def make_link(self, parent: Node, name: bytes, target: bytes, owner: tuple[int, int]) -> Node:
        """Make a symbolic link, whose target is only text here; return it, held."""
        os.symlink(target, name, dir_fd=self._parent(parent, name))
        return self._made(parent, name, stat.S_IFLNK, None, owner)

    def make_special(self, parent: Node, name: bytes, mode: int, owner: tuple[int, int]) -> Node:
        """Make a regular file, a FIFO or a socket, but no device; return it, held."""
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        if kind not in _MADE_KINDS:
            raise OSError(errno.EPERM, "a device would be one of the host")
        os.mknod(name, kind | 0o600, dir_fd=self._parent(parent, name))
        return self._made(parent, name, kind, mode, owner)

    def link(self, parent: Node, name: bytes, node: Node) -> None:
        """Give a file another name."""
        directory = self._parent(parent, name)
        os.link(_path(self._handle(node)), name, dst_dir_fd=directory, follow_symlinks=True)

    def rename(self, parent: Node, name: bytes, new_parent: Node, new_name: bytes) -> None:
        """Move an entry; it replaces an entry of the new name, as in POSIX."""
        old, new = self._parent(parent, name), self._parent(new_parent, new_name)
        os.rename(name, new_name, src_dir_fd=old, dst_dir_fd=new)
        node, replaced = parent.children.get(name), new_parent.children.get(new_name)
        if node is replaced:
            return
        if replaced is not None:
            self._detach(replaced)
        if node is not None:
            del parent.children[name]
            node.parent, node.name = new_parent, new_name
            new_parent.children[new_name] = node

    def unlink(self, parent: Node, name: bytes, *, is_directory: bool) -> None:
        """Remove an entry."""
        remove = os.rmdir if is_directory else os.unlink
        remove(name, dir_fd=self._parent(parent, name))
        node = parent.children.get(name)
        if node is not None:
            self._detach(node)

    def change(self, node: Node, changes: Changes, fd: int | None = None) -> None:
        """Change attributes of a file, through a descriptor of it if it is open."""
        self._check_writable()
        fd = self._handle(node) if fd is None else fd
        status = os.fstat(fd)
        if changes.uid is not None or changes.gid is not None:
            self._change_owner(fd, status, changes)
        if changes.mode is not None:
            _set_mode(fd, changes.mode)
        if changes.size is not None:
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "only a regular file has a size to set")
            os.truncate(_path(fd), changes.size)
        if changes.accessed is not None or changes.modified is not None:
            _set_times(fd, status, changes)

    def _change_owner(self, fd: int, status: os.stat_result, changes: Changes) -> None:
        if self._is_root:
            uid = -1 if changes.uid is None else changes.uid
            os.chown(_path(fd), uid, -1 if changes.gid is None else changes.gid)
            return
        uid, gid = self.owner(status)
        if changes.uid not in (None, uid) or changes.gid not in (None, gid):
            raise OSError(errno.EPERM, "only root can change owners")

    def _parent(self, node: Node, name: bytes) -> int:
        """Return the descriptor of a directory in which ``name`` is to be changed."""
        _check_name(name)
        self._check_writable()
        return self._handle(node)

    def _check_writable(self) -> None:
        if self.is_read_only:
            raise OSError(errno.EROFS, "shared read-only")

    def _made(
        self, parent: Node, name: bytes, kind: int, mode: int | None, owner: tuple[int, int]
    ) -> Node:
        """Return the node of an entry that was just made, held, and set owner and mode."""
        node = self.lookup(parent, name)
        try:
            self._complete(self._handle(node), kind, mode, owner)
        except BaseException:
            self.release(node)
            raise
        return node

    def _complete(self, fd: int, kind: int, mode: int | None, owner: tuple[int, int]) -> None:
        """Set owner and mode of a new file; this process's umask does not apply."""
        status = os.fstat(fd)
        is_ours = kind == stat.S_IFMT(status.st_mode) and (
            kind == stat.S_IFDIR or status.st_nlink == 1
        )
        if not is_ours:  # somebody on the host has put another file in its place
            raise OSError(errno.ESTALE, "the file was replaced")
        if self._is_root:
            os.chown(_path(fd), *owner)
        if mode is not None:
            _set_mode(fd, mode)


def list_directory(fd: int, offset: int, size: int) -> Iterator[Entry]:
    """Yield entries of an open directory from an offset on, at most ``size`` bytes of them."""
    buffer = ctypes.create_string_buffer(size)
    os.lseek(fd, offset, os.SEEK_SET)
    filled = _libc.getdents64(fd, buffer, size)
    if filled < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    data, start = buffer.raw[:filled], 0
    while start < filled:
        inode, next_offset, entry_size, kind = _dirent.unpack_from(data, start)
        name = data[start + _dirent.size : start + entry_size].split(b"\0", 1)[0]
        yield Entry(inode, next_offset, kind, name)
        start += entry_size


def _check_name(name: bytes) -> None:
    if name in {b"", b".", b".."} or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, "not the name of an entry")


def _path(fd: int) -> str:
    """Return a path that leads to exactly the file of a descriptor."""
    return f"/proc/self/fd/{fd}"


def _reopen(fd: int, flags: int) -> int:
    """Open the content of a file, which is regular or a directory."""
    return os.open(_path(fd), flags & _OPEN_FLAGS | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)


def _set_mode(fd: int, mode: int) -> None:
    if stat.S_ISLNK(os.fstat(fd).st_mode):
        raise OSError(errno.EOPNOTSUPP, "a symbolic link has no mode")
    Path(_path(fd)).chmod(mode & _KEPT_MODE)


def _set_times(fd: int, status: os.stat_result, changes: Changes) -> None:
    if changes.accessed == changes.modified == NOW:
        os.utime(_path(fd))  # needs only permission to write
        return
    now = time.time_ns()
    accessed, modified = (
        old if new is None else now if new == NOW else new
        for new, old in (
            (changes.accessed, status.st_atime_ns),
            (changes.modified, status.st_mtime_ns),
        )
    )
    os.utime(_path(fd), ns=(accessed, modified))
