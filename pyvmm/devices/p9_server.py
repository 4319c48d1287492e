"""A 9P2000.L server for one client: requests in, replies out, files of a shared directory.

Total over any bytes: whatever is wrong gets an Rlerror.  Fids, opened files and the size of a
message are bounded.  Not implemented, and refused: extended attributes, authentication, "..", and
Tremove and Trename, for which Linux has Tunlinkat and Trenameat.

Locks always succeed: the guest's kernel arbitrates among its own processes before it asks here, and
a lock does not extend to the host or to other guests.
"""

import errno
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Final

from pyvmm.devices.p9_messages import (
    HEADER_SIZE,
    IO_HEADER_SIZE,
    NO_TAG,
    Fields,
    Malformed,
    QidKind,
    Type,
    error_reply,
    pack_qid,
    pack_text,
    parse_header,
    reply,
)
from pyvmm.devices.shared_directory import NOW, Changes, Node, SharedDirectory, list_directory

VERSION: Final = b"9P2000.L"
MIN_MSIZE: Final = 4096
#: Linux's limit for virtio: a chain of 125 pages beside the headers.
MAX_MSIZE: Final = 500 << 10
MAX_FIDS: Final = 1 << 18
_MAX_WALK: Final = 16
_FILE_SYSTEM: Final = 0x0102_1997  # V9FS_MAGIC
_BASIC: Final = 0x7FF  # the attributes that stat(2) has
_REMOVE_DIRECTORY: Final = 0x200
_UNLOCKED, _LOCK_GRANTED = 2, 0
_u32 = Struct("<I").pack
_statfs = Struct("<IIQQQQQQI").pack
_attributes = Struct("<Q13sIIIQQQQQQQQQQQQQQQ").pack
_entry = Struct("<13sQB").pack
_ENTRY_SIZE: Final = 24  # without the name
_SECOND: Final = 10**9
_KINDS: Final = {stat.S_IFDIR: QidKind.DIRECTORY, stat.S_IFLNK: QidKind.SYMLINK}


class _Set:
    """Bits of Tsetattr that say which fields count."""

    MODE = 1
    UID = 2
    GID = 4
    SIZE = 8
    ATIME = 0x10
    MTIME = 0x20
    ATIME_SET = 0x80
    MTIME_SET = 0x100


@dataclass(slots=True)
class Fid:
    """A file as the client refers to it; ``fd`` is its content, once opened."""

    node: Node
    uid: int
    fd: int | None = None


class P9Server:
    """Serves one client, in the order of its requests.

    Args:
        directory: the files.
        max_msize: limit of a message in bytes.
        max_open: limit of files that are open at a time.

    Concurrency: one thread at a time.
    """

    def __init__(
        self, directory: SharedDirectory, *, max_msize: int = MAX_MSIZE, max_open: int = 256
    ) -> None:
        self.max_message = max_msize
        self._directory = directory
        self._max_open = max_open
        self._msize = max_msize
        self._fids: dict[int, Fid] = {}
        self._num_open = 0
        self._handlers: Final[Mapping[int, Callable[[Fields], bytes]]] = {
            Type.STATFS: self._statfs,
            Type.LOPEN: self._open,
            Type.LCREATE: self._create,
            Type.SYMLINK: self._make_link,
            Type.MKNOD: self._make_special,
            Type.READLINK: self._read_link,
            Type.GETATTR: self._attributes,
            Type.SETATTR: self._change,
            Type.READDIR: self._list,
            Type.FSYNC: self._sync,
            Type.LOCK: self._lock,
            Type.GETLOCK: self._get_lock,
            Type.LINK: self._link,
            Type.MKDIR: self._make_directory,
            Type.RENAMEAT: self._rename,
            Type.UNLINKAT: self._unlink,
            Type.VERSION: self._version,
            Type.ATTACH: self._attach,
            Type.FLUSH: self._flush,
            Type.WALK: self._walk,
            Type.READ: self._read,
            Type.WRITE: self._write,
            Type.CLUNK: self._clunk,
            Type.REMOVE: self._remove,
        }

    def handle(self, message: bytes) -> bytes:
        """Return the reply to a request."""
        header = parse_header(message)
        if header is None:
            return error_reply(NO_TAG, errno.EINVAL)
        size, kind, tag = header
        handler = self._handlers.get(kind)
        if handler is None:
            return error_reply(tag, errno.EOPNOTSUPP)
        if not HEADER_SIZE <= size <= min(len(message), self._msize):
            return error_reply(tag, errno.EINVAL)
        try:
            return reply(kind, tag, handler(Fields(message[HEADER_SIZE:size])))
        except (Malformed, OverflowError, ValueError):  # a number or a name that no file has
            return error_reply(tag, errno.EINVAL)
        except OSError as error:
            return error_reply(tag, error.errno or errno.EIO)

    def reset(self) -> None:
        """Forget the client and close its files."""
        while self._fids:
            self._close(self._fids.popitem()[1])

    # --- fids -------------------------------------------------------------------------------------

    def _fid(self, number: int) -> Fid:
        try:
            return self._fids[number]
        except KeyError:
            raise OSError(errno.EBADF, "no such fid") from None

    def _opened(self, number: int) -> int:
        """Return the descriptor of a fid that is open."""
        fd = self._fid(number).fd
        if fd is None:
            raise OSError(errno.EBADF, "the fid is not open")
        return fd

    def _check_new(self, number: int) -> None:
        if number in self._fids:
            raise OSError(errno.EBADF, "the fid is in use")
        if len(self._fids) >= MAX_FIDS:
            raise OSError(errno.ENFILE, "too many fids")

    def _check_openable(self, fid: Fid) -> None:
        if fid.fd is not None:
            raise OSError(errno.EBADF, "the fid is open")
        if self._num_open >= self._max_open:
            raise OSError(errno.EMFILE, "too many open files")

    def _close(self, fid: Fid) -> None:
        if fid.fd is not None:
            os.close(fid.fd)
            self._num_open -= 1
        self._directory.release(fid.node)

    def _qid(self, status: os.stat_result) -> bytes:
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), QidKind.FILE)
        return pack_qid(kind, self._directory.identity(status))

    def _qid_of_made(self, node: Node) -> bytes:
        """Return the qid of a new file, and release its node."""
        try:
            return self._qid(self._directory.status(node))
        finally:
            self._directory.release(node)

    def _status(self, fid: Fid) -> os.stat_result:
        return self._directory.status(fid.node) if fid.fd is None else os.fstat(fid.fd)

    # --- session ----------------------------------------------------------------------------------

    def _version(self, fields: Fields) -> bytes:
        msize, version = fields.u32(), fields.text()
        fields.end()
        if msize < MIN_MSIZE:
            raise OSError(errno.EINVAL, "the messages are too small")
        self.reset()
        self._msize = min(msize, self.max_message)
        return _u32(self._msize) + pack_text(VERSION if version == VERSION else b"unknown")

    def _attach(self, fields: Fields) -> bytes:
        number, _afid, _uname, _aname = fields.u32(), fields.u32(), fields.text(), fields.text()
        uid = fields.u32()
        fields.end()
        self._check_new(number)
        root = self._directory.root
        qid = self._qid(self._directory.status(root))
        self._fids[number] = Fid(self._directory.hold(root), uid)
        return qid

    def _flush(self, fields: Fields) -> bytes:
        """Do nothing: the request to cancel was served before this one."""
        fields.u16()
        fields.end()
        return b""

    def _clunk(self, fields: Fields) -> bytes:
        number = fields.u32()
        fields.end()
        self._close(self._fid(number))
        del self._fids[number]
        return b""

    def _remove(self, fields: Fields) -> bytes:
        """Only clunk, as the protocol requires if a removal fails."""
        self._clunk(fields)
        raise OSError(errno.EOPNOTSUPP, "use Tunlinkat")

    def _walk(self, fields: Fields) -> bytes:
        number, new_number, count = fields.u32(), fields.u32(), fields.u16()
        if count > _MAX_WALK:
            raise Malformed
        names = [fields.text() for _ in range(count)]
        fields.end()
        fid = self._fid(number)
        if new_number != number:
            self._check_new(new_number)
        elif fid.fd is not None:
            raise OSError(errno.EBADF, "the fid is open")
        directory, qids = self._directory, []
        node = directory.hold(fid.node)
        try:
            for name in names:
                child = directory.lookup(node, name)
                directory.release(node)
                node = child
                qids.append(self._qid(directory.status(node)))
        except OSError:
            directory.release(node)
            if not qids:
                raise
            return len(qids).to_bytes(2, "little") + b"".join(qids)  # new_number stays unused
        if new_number == number:
            directory.release(fid.node)
        self._fids[new_number] = Fid(node, fid.uid)
        return len(qids).to_bytes(2, "little") + b"".join(qids)

    # --- content ----------------------------------------------------------------------------------

    def _open(self, fields: Fields) -> bytes:
        number, flags = fields.u32(), fields.u32()
        fields.end()
        fid = self._fid(number)
        self._check_openable(fid)
        fid.fd = self._directory.open(fid.node, flags)
        self._num_open += 1
        return self._qid(os.fstat(fid.fd)) + _u32(0)

    def _create(self, fields: Fields) -> bytes:
        number, name, flags = fields.u32(), fields.text(), fields.u32()
        mode, gid = fields.u32(), fields.u32()
        fields.end()
        fid = self._fid(number)
        self._check_openable(fid)
        node, fd = self._directory.create(fid.node, name, flags, mode, (fid.uid, gid))
        self._directory.release(fid.node)
        fid.node, fid.fd = node, fd
        self._num_open += 1
        return self._qid(os.fstat(fd)) + _u32(0)

    def _read(self, fields: Fields) -> bytes:
        number, offset, count = fields.u32(), fields.u64(), fields.u32()
        fields.end()
        data = os.pread(self._opened(number), min(count, self._msize - IO_HEADER_SIZE), offset)
        return _u32(len(data)) + data

    def _write(self, fields: Fields) -> bytes:
        number, offset, count = fields.u32(), fields.u64(), fields.u32()
        data = fields.raw(count)
        fields.end()
        return _u32(os.pwrite(self._opened(number), data, offset))

    def _list(self, fields: Fields) -> bytes:
        number, offset, count = fields.u32(), fields.u64(), fields.u32()
        fields.end()
        room = min(count, self._msize - IO_HEADER_SIZE)
        entries = []
        for entry in list_directory(self._opened(number), offset, room):
            size = _ENTRY_SIZE + len(entry.name)
            if size > room:
                break
            room -= size
            kind = _KINDS.get(entry.kind << 12, QidKind.FILE)  # a DT_* is the kind's bits of a mode
            qid = pack_qid(kind, entry.inode)
            entries.append(_entry(qid, entry.offset, entry.kind) + pack_text(entry.name))
        data = b"".join(entries)
        return _u32(len(data)) + data

    def _sync(self, fields: Fields) -> bytes:
        number, is_data_only = fields.u32(), fields.u32()
        fields.end()
        (os.fdatasync if is_data_only else os.fsync)(self._opened(number))
        return b""

    def _lock(self, fields: Fields) -> bytes:
        number, _kind, _flags = fields.u32(), fields.u8(), fields.u32()
        _start, _size, _process, _client = fields.u64(), fields.u64(), fields.u32(), fields.text()
        fields.end()
        self._opened(number)
        return bytes([_LOCK_GRANTED])

    def _get_lock(self, fields: Fields) -> bytes:
        number, _kind = fields.u32(), fields.u8()
        rest = fields.raw(20)  # start, size, process
        client = fields.text()
        fields.end()
        self._opened(number)
        return bytes([_UNLOCKED]) + rest + pack_text(client)

    # --- attributes -------------------------------------------------------------------------------

    def _statfs(self, fields: Fields) -> bytes:
        fid = self._fid(fields.u32())
        fields.end()
        found = self._directory.file_system(fid.node)
        return _statfs(
            _FILE_SYSTEM, found.f_bsize, found.f_blocks, found.f_bfree, found.f_bavail,
            found.f_files, found.f_ffree, found.f_fsid & (1 << 64) - 1, found.f_namemax,
        )  # fmt: skip

    def _attributes(self, fields: Fields) -> bytes:
        fid, _mask = self._fid(fields.u32()), fields.u64()
        fields.end()
        status = self._status(fid)
        uid, gid = self._directory.owner(status)
        times = [
            part & (1 << 64) - 1
            for time in (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
            for part in divmod(time, _SECOND)
        ]
        return _attributes(
            _BASIC, self._qid(status), status.st_mode, uid, gid, status.st_nlink, status.st_rdev,
            status.st_size, status.st_blksize, status.st_blocks, *times,
            0, 0, 0, 0,  # birth, generation, version: not valid
        )  # fmt: skip

    def _change(self, fields: Fields) -> bytes:
        fid, valid = self._fid(fields.u32()), fields.u32()
        mode, uid, gid, size = fields.u32(), fields.u32(), fields.u32(), fields.u64()
        accessed, modified = _time(fields), _time(fields)
        fields.end()
        changes = Changes(
            mode=mode if valid & _Set.MODE else None,
            uid=uid if valid & _Set.UID else None,
            gid=gid if valid & _Set.GID else None,
            size=size if valid & _Set.SIZE else None,
            accessed=_chosen(valid, _Set.ATIME, _Set.ATIME_SET, accessed),
            modified=_chosen(valid, _Set.MTIME, _Set.MTIME_SET, modified),
        )
        self._directory.change(fid.node, changes, fid.fd)
        return b""

    def _read_link(self, fields: Fields) -> bytes:
        fid = self._fid(fields.u32())
        fields.end()
        return pack_text(self._directory.read_link(fid.node))

    # --- names ------------------------------------------------------------------------------------

    def _make_directory(self, fields: Fields) -> bytes:
        fid, name, mode, gid = self._fid(fields.u32()), fields.text(), fields.u32(), fields.u32()
        fields.end()
        made = self._directory.make_directory(fid.node, name, mode, (fid.uid, gid))
        return self._qid_of_made(made)

    def _make_link(self, fields: Fields) -> bytes:
        fid, name, target, gid = self._fid(fields.u32()), fields.text(), fields.text(), fields.u32()
        fields.end()
        made = self._directory.make_link(fid.node, name, target, (fid.uid, gid))
        return self._qid_of_made(made)

    def _make_special(self, fields: Fields) -> bytes:
        fid, name, mode = self._fid(fields.u32()), fields.text(), fields.u32()
        _major, _minor, gid = fields.u32(), fields.u32(), fields.u32()
        fields.end()
        made = self._directory.make_special(fid.node, name, mode, (fid.uid, gid))
        return self._qid_of_made(made)

    def _link(self, fields: Fields) -> bytes:
        parent, fid, name = self._fid(fields.u32()), self._fid(fields.u32()), fields.text()
        fields.end()
        self._directory.link(parent.node, name, fid.node)
        return b""

    def _rename(self, fields: Fields) -> bytes:
        old, name = self._fid(fields.u32()), fields.text()
        new, new_name = self._fid(fields.u32()), fields.text()
        fields.end()
        self._directory.rename(old.node, name, new.node, new_name)
        return b""

    def _unlink(self, fields: Fields) -> bytes:
        fid, name, flags = self._fid(fields.u32()), fields.text(), fields.u32()
        fields.end()
        self._directory.unlink(fid.node, name, is_directory=bool(flags & _REMOVE_DIRECTORY))
        return b""


def _time(fields: Fields) -> int:
    """Read seconds, which may be negative, and nanoseconds; return nanoseconds."""
    seconds = fields.u64()
    return (seconds - (seconds >> 63 << 64)) * _SECOND + fields.u64()


def _chosen(valid: int, is_set: int, is_given: int, time: int) -> int | None:
    if not valid & is_set:
        return None
    return time if valid & is_given else NOW
