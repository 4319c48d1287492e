"""A FUSE server for one client: requests in, replies out, files of a shared directory.

Total over any bytes: whatever is wrong gets an error.  Nodes, opened files and the size of a
message are bounded.  Requests that Linux can do without, such as extended attributes, get ENOSYS,
after which it does not send them again.

Source: include/uapi/linux/fuse.h of Linux; the structures of version 7.31 and later.
"""

import errno
import os
import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final

from pyvmm.devices.shared_directory import NOW, Changes, Node, SharedDirectory, list_directory

MAX_DATA: Final = 1 << 20  # of a read or a write; 256 pages
MAX_MESSAGE: Final = MAX_DATA + 4096
_MAJOR, _MINOR = 7, 31
_ROOT: Final = 1
_PAGE: Final = 4096
_SECOND: Final = 10**9
_request = Struct("<IIQQIIII")  # size, opcode, unique, nodeid, uid, gid, pid, padding
_reply = Struct("<IiQ").pack
_init = Struct("<IIII")  # major, minor, max_readahead, flags
_init_reply = Struct("<IIIIHHIIHH32x").pack
_attributes = Struct("<QQQQQQIIIIIIIIII").pack
_entry = Struct("<QQQQII").pack  # nodeid, generation, two times in seconds and nanoseconds
_times = Struct("<QII").pack
_changes = Struct("<II QQQ QQQ III I I II I")
_io = Struct("<QQIIQII")  # fh, offset, size, flags, lock_owner, flags, padding
_dirent = Struct("<QQII").pack
_statfs = Struct("<QQQQQIIII24x").pack
_u64 = Struct("<Q")


class Op(IntEnum):
    """Requests that are served."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42


#: Requests without a reply.
_SILENT: Final = frozenset({Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT})


class _Init(IntEnum):
    """Flags of INIT."""

    ASYNC_READ = 1 << 0
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12
    MAX_PAGES = 1 << 22


class _Set(IntEnum):
    """Bits of SETATTR that say which fields count."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8


_KEEP_CACHE: Final = 1 << 1  # of an open file: its pages are valid unless the time has changed


@dataclass(frozen=True, slots=True)
class Request:
    """A request: its header, and the rest."""

    node: int
    uid: int
    gid: int
    body: bytes

    def names(self, skip: int, count: int) -> list[bytes]:
        """Return strings that follow a structure.

        Raises:
            ValueError: there are fewer.
        """
        names = self.body[skip:].split(b"\0")[:-1]
        if len(names) < count:
            raise ValueError
        return names[:count]


@dataclass(slots=True)
class _Known:
    """A file that the client knows, by one of its names, and how often it was told of it."""

    node: Node
    number: int
    identity: tuple[int, int]  # st_dev and st_ino
    num_lookups: int = 0


class FuseServer:
    """Serves one client, in the order of its requests.

    Args:
        directory: the files.
        lifetime: seconds for which the client may keep attributes and names.
        max_open: limit of files that are open at a time.
        max_nodes: limit of files that the client knows.

    Concurrency: one thread at a time.
    """

    max_message = MAX_MESSAGE

    def __init__(
        self,
        directory: SharedDirectory,
        *,
        lifetime: int = 1,
        max_open: int = 256,
        max_nodes: int = 1 << 18,
    ) -> None:
        self._directory = directory
        self._lifetime = lifetime
        self._max_open = max_open
        self._max_nodes = max_nodes
        self._files: dict[int, int] = {}  # by handle
        self._by_number: dict[int, _Known] = {}
        self._by_identity: dict[tuple[int, int], _Known] = {}
        self._last_number = _ROOT
        self._last_handle = 0
        self._handlers: Final[Mapping[int, Callable[[Request], bytes]]] = {
            Op.LOOKUP: self._lookup,
            Op.FORGET: self._forget,
            Op.GETATTR: self._get_attributes,
            Op.SETATTR: self._change,
            Op.READLINK: self._read_link,
            Op.SYMLINK: self._make_link,
            Op.MKNOD: self._make_special,
            Op.MKDIR: self._make_directory,
            Op.UNLINK: self._unlink,
            Op.RMDIR: self._remove_directory,
            Op.RENAME: self._rename,
            Op.LINK: self._link,
            Op.OPEN: self._open,
            Op.READ: self._read,
            Op.WRITE: self._write,
            Op.STATFS: self._file_system,
            Op.RELEASE: self._release,
            Op.FSYNC: self._sync,
            Op.FLUSH: self._nothing,
            Op.INIT: self._init,
            Op.OPENDIR: self._open_directory,
            Op.READDIR: self._list,
            Op.RELEASEDIR: self._release,
            Op.FSYNCDIR: self._sync,
            Op.CREATE: self._create,
            Op.INTERRUPT: self._nothing,
            Op.DESTROY: self._destroy,
            Op.BATCH_FORGET: self._forget_many,
        }

    def handle(self, message: bytes) -> bytes:
        """Return the reply to a request; nothing if it gets none."""
        if len(message) < _request.size:
            return b""
        size, op, unique, node, uid, gid, _, _ = _request.unpack_from(message)
        handler = self._handlers.get(op)
        code, body = 0, b""
        if handler is None:
            code = errno.ENOSYS
        elif not _request.size <= size <= len(message):
            code = errno.EINVAL
        else:
            try:
                body = handler(Request(node, uid, gid, message[_request.size : size]))
            except (struct.error, OverflowError, ValueError):  # short, or no file has such a value
                code = errno.EINVAL
            except OSError as error:
                code = error.errno or errno.EIO
        if op in _SILENT:
            return b""
        return _reply(16 + len(body), -code, unique) + body

    def reset(self) -> None:
        """Forget the client and close its files."""
        while self._files:
            os.close(self._files.popitem()[1])
        for known in self._by_number.values():
            self._directory.release(known.node)
        self._by_number.clear()
        self._by_identity.clear()

    # --- nodes and files --------------------------------------------------------------------------

    def _node(self, number: int) -> Node:
        if number == _ROOT:
            return self._directory.root
        try:
            return self._by_number[number].node
        except KeyError:
            raise OSError(errno.ESTALE, "no such node") from None

    def _tell(self, node: Node) -> bytes:
        """Return the entry of a held node, which the client knows from now on."""
        try:
            status = self._directory.status(node)
            known = self._know(node, (status.st_dev, status.st_ino))
        except BaseException:
            self._directory.release(node)
            raise
        known.num_lookups += 1
        times = self._lifetime, self._lifetime, 0, 0
        return _entry(known.number, 0, *times) + self._pack(status)

    def _know(self, node: Node, identity: tuple[int, int]) -> _Known:
        """Return as what the client knows the file of a held node; its names share a number."""
        known = self._by_identity.get(identity)
        if known is not None and not self._directory.is_lost(known.node):
            self._directory.release(known.node)
            known.node = node  # the latest name of the file
            return known
        if len(self._by_number) >= self._max_nodes:
            raise OSError(errno.ENFILE, "too many files in use")
        self._last_number += 1
        known = _Known(node, self._last_number, identity)
        self._by_number[known.number] = self._by_identity[identity] = known
        return known

    def _lose(self, number: int, count: int) -> None:
        """Process that the client has forgotten a node ``count`` times."""
        known = self._by_number.get(number)
        if known is None:
            return
        known.num_lookups -= min(count, known.num_lookups)
        if not known.num_lookups:
            del self._by_number[number]
            if self._by_identity.get(known.identity) is known:
                del self._by_identity[known.identity]
            self._directory.release(known.node)

    def _check_room(self) -> None:
        if len(self._files) >= self._max_open:
            raise OSError(errno.EMFILE, "too many open files")

    def _tell_opened(self, fd: int) -> bytes:
        """Return what opens an open file for the client."""
        self._last_handle += 1
        self._files[self._last_handle] = fd
        return struct.pack("<QII", self._last_handle, _KEEP_CACHE, 0)

    def _file(self, handle: int) -> int:
        try:
            return self._files[handle]
        except KeyError:
            raise OSError(errno.EBADF, "the file is not open") from None

    def _pack(self, status: os.stat_result) -> bytes:
        uid, gid = self._directory.owner(status)
        stamps = [
            divmod(max(time, 0), _SECOND)
            for time in (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
        ]
        return _attributes(
            self._directory.identity(status), status.st_size, status.st_blocks,
            *(seconds for seconds, _ in stamps), *(rest for _, rest in stamps),
            status.st_mode, status.st_nlink, uid, gid, status.st_rdev & 0xFFFF_FFFF,
            status.st_blksize, 0,
        )  # fmt: skip

    def _owner(self, request: Request) -> tuple[int, int]:
        """Return the owner and the group of a new file."""
        parent = self._directory.status(self._node(request.node))
        gid = self._directory.owner(parent)[1] if parent.st_mode & stat.S_ISGID else request.gid
        return request.uid, gid

    # --- session ----------------------------------------------------------------------------------

    def _nothing(self, _request: Request) -> bytes:
        return b""

    def _init(self, request: Request) -> bytes:
        major, minor, readahead, flags = _init.unpack_from(request.body)
        if (major, minor) < (_MAJOR, _MINOR):
            raise OSError(errno.EPROTO, "an old kernel")
        self.reset()
        wanted = _Init.ASYNC_READ | _Init.BIG_WRITES | _Init.AUTO_INVAL_DATA | _Init.MAX_PAGES
        return _init_reply(
            _MAJOR, _MINOR, readahead, flags & wanted, 16, 12, MAX_DATA, 1, MAX_DATA // _PAGE, 0
        )

    def _destroy(self, _request: Request) -> bytes:
        self.reset()
        return b""

    def _lookup(self, request: Request) -> bytes:
        (name,) = request.names(0, 1)
        return self._tell(self._directory.lookup(self._node(request.node), name))

    def _forget(self, request: Request) -> bytes:
        self._lose(request.node, _u64.unpack_from(request.body)[0])
        return b""

    def _forget_many(self, request: Request) -> bytes:
        data = request.body[8:]
        for number, count in struct.iter_unpack("<QQ", data[: len(data) // 16 * 16]):
            self._lose(number, count)
        return b""

    # --- attributes -------------------------------------------------------------------------------

    def _get_attributes(self, request: Request) -> bytes:
        has_file, _, handle = struct.unpack_from("<IIQ", request.body)
        if has_file & 1:
            status = os.fstat(self._file(handle))
        else:
            status = self._directory.status(self._node(request.node))
        return _times(self._lifetime, 0, 0) + self._pack(status)

    def _change(self, request: Request) -> bytes:
        fields = _changes.unpack_from(request.body)
        valid, _, handle, size, _, accessed, modified, _, *rest = fields
        accessed_ns, modified_ns, _, mode, _, uid, gid, _ = rest
        changes = Changes(
            mode=mode if valid & _Set.MODE else None,
            uid=uid if valid & _Set.UID else None,
            gid=gid if valid & _Set.GID else None,
            size=size if valid & _Set.SIZE else None,
            accessed=_time(valid, _Set.ATIME, _Set.ATIME_NOW, accessed, accessed_ns),
            modified=_time(valid, _Set.MTIME, _Set.MTIME_NOW, modified, modified_ns),
        )
        node = self._node(request.node)
        fd = self._file(handle) if valid & _Set.FH else None
        self._directory.change(node, changes, fd)
        status = self._directory.status(node) if fd is None else os.fstat(fd)
        return _times(self._lifetime, 0, 0) + self._pack(status)

    def _read_link(self, request: Request) -> bytes:
        return self._directory.read_link(self._node(request.node))

    def _file_system(self, request: Request) -> bytes:
        found = self._directory.file_system(self._node(request.node))
        return _statfs(
            found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree,
            found.f_bsize, found.f_namemax, found.f_frsize, 0,
        )  # fmt: skip

    # --- names ------------------------------------------------------------------------------------

    def _make_link(self, request: Request) -> bytes:
        name, target = request.names(0, 2)
        parent, owner = self._node(request.node), self._owner(request)
        return self._tell(self._directory.make_link(parent, name, target, owner))

    def _make_special(self, request: Request) -> bytes:
        (mode,), (name,) = struct.unpack_from("<I12x", request.body), request.names(16, 1)
        parent, owner = self._node(request.node), self._owner(request)
        return self._tell(self._directory.make_special(parent, name, mode, owner))

    def _make_directory(self, request: Request) -> bytes:
        (mode,), (name,) = struct.unpack_from("<I4x", request.body), request.names(8, 1)
        parent, owner = self._node(request.node), self._owner(request)
        return self._tell(self._directory.make_directory(parent, name, mode, owner))

    def _unlink(self, request: Request) -> bytes:
        (name,) = request.names(0, 1)
        self._directory.unlink(self._node(request.node), name, is_directory=False)
        return b""

    def _remove_directory(self, request: Request) -> bytes:
        (name,) = request.names(0, 1)
        self._directory.unlink(self._node(request.node), name, is_directory=True)
        return b""

    def _rename(self, request: Request) -> bytes:
        (parent,), names = _u64.unpack_from(request.body), request.names(8, 2)
        old, new = self._node(request.node), self._node(parent)
        self._directory.rename(old, names[0], new, names[1])
        return b""

    def _link(self, request: Request) -> bytes:
        (number,), (name,) = _u64.unpack_from(request.body), request.names(8, 1)
        parent = self._node(request.node)
        self._directory.link(parent, name, self._node(number))
        return self._tell(self._directory.lookup(parent, name))

    # --- content ----------------------------------------------------------------------------------

    def _create(self, request: Request) -> bytes:
        flags, mode = struct.unpack_from("<II8x", request.body)
        (name,) = request.names(16, 1)
        self._check_room()
        parent, owner = self._node(request.node), self._owner(request)
        node, fd = self._directory.create(parent, name, flags, mode, owner)
        try:
            entry = self._tell(node)
        except BaseException:
            os.close(fd)
            raise
        return entry + self._tell_opened(fd)

    def _open(self, request: Request) -> bytes:
        (flags,) = struct.unpack_from("<I4x", request.body)
        self._check_room()
        return self._tell_opened(self._directory.open(self._node(request.node), flags))

    def _open_directory(self, request: Request) -> bytes:
        self._check_room()
        return self._tell_opened(self._directory.open(self._node(request.node), os.O_RDONLY))

    def _release(self, request: Request) -> bytes:
        (handle,) = _u64.unpack_from(request.body)
        os.close(self._file(handle))
        del self._files[handle]
        return b""

    def _read(self, request: Request) -> bytes:
        handle, offset, size, *_ = _io.unpack_from(request.body)
        return os.pread(self._file(handle), min(size, MAX_DATA), offset)

    def _write(self, request: Request) -> bytes:
        handle, offset, size, *_ = _io.unpack_from(request.body)
        data = request.body[_io.size : _io.size + size]
        if len(data) != size:
            raise ValueError
        return struct.pack("<II", os.pwrite(self._file(handle), data, offset), 0)

    def _sync(self, request: Request) -> bytes:
        handle, is_data_only = struct.unpack_from("<QI4x", request.body)
        (os.fdatasync if is_data_only & 1 else os.fsync)(self._file(handle))
        return b""

    def _list(self, request: Request) -> bytes:
        handle, offset, size, *_ = _io.unpack_from(request.body)
        room, entries = min(size, MAX_DATA), []
        for entry in list_directory(self._file(handle), offset, room):
            data = _dirent(entry.inode, entry.offset, len(entry.name), entry.kind) + entry.name
            data += bytes(-len(data) % 8)
            if len(data) > room:
                break
            room -= len(data)
            entries.append(data)
        return b"".join(entries)


def _time(valid: int, is_set: int, is_now: int, seconds: int, rest: int) -> int | None:
    if valid & is_now:
        return NOW
    if not valid & is_set:
        return None
    return (seconds - (seconds >> 63 << 64)) * _SECOND + rest
