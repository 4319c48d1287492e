"""The runtime directory: which instances there are, under which names, and what is left of them.

An instance NAME has three things there: ``NAME.sock`` while its process lives, ``NAME.d/state``
(its status, JSON, replaced atomically), and ``NAME.d/log`` with what its process had to say; and
``NAME.d/gdb``, where it has a socket for a debugger elsewhere, which goes with the rest.
Whether it lives is asked of its socket: the kernel refuses a connection when nobody listens.

Concurrency: claiming a name and removing what is left of one are made one at a time by a lock file
that all processes of the user share, and that is held for moments only; who lists takes it shared.
"""

import fcntl
import os
import shutil
import socket
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from pyvmm.arch.errors import UserError
from pyvmm.arch.system import connect_unix
from pyvmm.vm.control.api import State, Status
from pyvmm.vm.control.process import Process
from pyvmm.vm.gdb.leftover import SocketNote, remove_noted
from pyvmm.vm.json_text import decode
from pyvmm.vm.name import check_name

_MAX_SOCKET_PATH: Final = 107  # bytes, by sockaddr_un
_STATE_SIZE: Final = 4096  # the file's, so that it can be replaced in place on a full disk
_GDB: Final = "gdb"
_BACKLOG: Final = 64  # connections that may wait to be accepted


class Claim:
    """A name that belongs to this process until it is released; its socket listens already."""

    def __init__(self, directory: "Directory", name: str, listener: socket.socket) -> None:
        self._directory = directory
        self._name = name
        self.listener = listener

    @property
    def log(self) -> Path:
        """Where the process says what is for nobody at the moment."""
        return self._directory.home(self._name) / "log"

    @property
    def console_log(self) -> Path:
        """Where the last that the console said is kept for later."""
        return self._directory.home(self._name) / "console"

    def note_gdb(self, socket_: Path) -> None:
        """Let whoever cleans up after us remove the socket for a debugger, too.

        Raises:
            OSError: there is no room for that, or the socket has gone.
        """
        data = msgspec.json.encode(SocketNote.of(socket_))
        (self._directory.home(self._name) / _GDB).write_bytes(data)

    def write(self, status: Status) -> None:
        """Let everybody know the status; once there was one, a full disk is no obstacle."""
        self._directory.write(self._name, status)

    def release(self, *, keep: bool) -> None:
        """Give the socket up; keep the rest, as of an instance that is shut off, or nothing.

        Raises:
            OSError: something stays that should not.
        """
        with self._directory.locked():
            try:
                if not keep:
                    self._directory.remove(self._name)
                self._directory.socket_path(self._name).unlink(missing_ok=True)
            finally:
                self.listener.close()


class Directory:
    """The instances of one user."""

    def __init__(self, path: Path) -> None:
        """Take a directory that is this user's alone, made if it is not there.

        Raises:
            UserError: it is somebody else's, or open to others.
            OSError: it cannot be made, or takes no file.
        """
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for each in (path, path.parent):  # who owns the parent can exchange its child
            if os.geteuid() and each.lstat().st_uid not in {os.geteuid(), 0}:
                raise UserError(f"{each} is another user's: set XDG_RUNTIME_DIR to one of yours")
        mode = path.parent.lstat().st_mode
        if mode & 0o022 and not mode & stat.S_ISVTX:
            raise UserError(f"{path.parent} is open to other users: chmod go-w {path.parent}")
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o077:
            raise UserError(f"{path} is open to other users: chmod 700 {path}")
        self.path = path
        os.close(self._open_lock())

    @classmethod
    def of_user(cls) -> "Directory":
        """Return the one in $XDG_RUNTIME_DIR, or where the platform's custom has it.

        Raises:
            UserError: it is open to others.
            OSError: it cannot be made, or takes no file.
        """
        chosen = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
        if chosen.is_absolute():  # the only one, whatever it is like: others look there
            return cls(chosen / "pyvmm")
        import platformdirs  # noqa: PLC0415  only whoever looks for instances pays for it

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without XDG_RUNTIME_DIR: Directory checks whose it is
            path = platformdirs.user_runtime_path("pyvmm")
        return cls(path)

    # --- places -----------------------------------------------------------------------------

    def home(self, name: str) -> Path:
        """Return the directory of an instance."""
        return self.path / f"{name}.d"

    def socket_path(self, name: str) -> Path:
        """Return the socket of an instance."""
        return self.path / f"{name}.sock"

    # --- one's own --------------------------------------------------------------------------

    def claim(self, status: Status) -> Claim:
        """Take a name; what a dead instance has left under it goes.

        Raises:
            UserError: the name is taken, or none.
            OSError: there is no room for it.
        """
        name = check_name(status.name)
        with self.locked():
            old = self._look(name)
            if old is not None and old.state == State.STOPPED:
                raise UserError(f"{name} is shut off: pyvmm destroy {name} first")
            if old is not None and old.state != State.DEAD:
                raise UserError(f"{name} is {old.state} already: choose another name")
            self.remove(name)
            self.home(name).mkdir(mode=0o700)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._listen(listener, name)
                self.write(name, status)
            except BaseException:
                listener.close()
                with suppress(OSError):  # the first of two is told
                    self.remove(name)
                raise
        return Claim(self, name, listener)

    def _listen(self, listener: socket.socket, name: str) -> None:
        with _short(self.socket_path(name)) as path:
            listener.bind(path)
        self.socket_path(name).chmod(0o600)
        listener.listen(_BACKLOG)

    def write(self, name: str, status: Status) -> None:
        """Replace the state file: by a new one, or in place if there is no room for one."""
        path = self.home(name) / "state"
        data = msgspec.json.encode(status).ljust(_STATE_SIZE)
        new = path.with_suffix(".new")
        try:
            new.write_bytes(data)
            new.replace(path)
        except OSError:
            new.unlink(missing_ok=True)
            if not path.exists():
                raise
            with path.open("r+b") as file:
                file.write(data)

    # --- others' ----------------------------------------------------------------------------

    def statuses(self) -> list[Status]:
        """Return the status of every instance, by name."""
        with self.locked(shared=True):
            stems = {each.stem for each in self.path.iterdir() if each.suffix in {".d", ".sock"}}
            found = map(self._look, sorted(stems))
            return [status for status in found if status is not None]

    def find(self, name: str) -> Status:
        """Return the status of one instance.

        Raises:
            UserError: there is none of that name.
        """
        check_name(name)
        with self.locked(shared=True):
            status = self._look(name)
        if status is None:
            raise UserError(f"no instance {name}: pyvmm list shows what there is")
        return status

    def console_log(self, name: str) -> bytes | None:
        """Return the last that the console of an instance that is shut off said; None if lost."""
        try:
            return (self.home(name) / "console").read_bytes()
        except OSError:
            return None

    def connect(self, name: str, patience: float) -> socket.socket:
        """Connect to an instance.

        Raises:
            TimeoutError: it lives, and has not taken anybody for so many seconds.
            OSError: it does not live.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connect(connection, name, patience)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self, connection: socket.socket, name: str, patience: float) -> None:
        with _short(self.socket_path(name)) as path:
            connect_unix(connection, path, patience)

    def process(self, name: str) -> Process | None:
        """Return the process of an instance, by its state file; None if it does not live."""
        process = Process(self.find(name).pid)
        if self._lives(name):  # so nobody else can have got the number before we had the process
            return process
        process.close()
        return None

    def clean_up(self, name: str) -> None:
        """Remove what is left of an instance whose process has ended.

        Raises:
            UserError: it lives, or not all of it can be removed.
        """
        with self.locked():
            if self._lives(name):
                raise UserError(f"{name} is there again: somebody else was faster")
            try:
                self.remove(name)
            except OSError as error:
                line = f"{error.filename}: {error.strerror}: {name} is still there"
                raise UserError(line) from None

    def remove(self, name: str) -> None:
        """Remove everything of an instance; the lock is held.

        Raises:
            OSError: something stays.
        """
        remove_noted(self.home(name) / _GDB)
        with suppress(FileNotFoundError):
            shutil.rmtree(self.home(name))
        self.socket_path(name).unlink(missing_ok=True)

    def _look(self, name: str) -> Status | None:
        """Return what there is under a name; the lock is held."""
        lives = self._lives(name)
        try:
            data = (self.home(name) / "state").read_bytes()
            status = decode(data, Status)
        except (OSError, msgspec.DecodeError):
            if not self.home(name).exists() and not self.socket_path(name).exists():
                return None
            status = _unknown(name, State.RUNNING if lives else State.DEAD)
        if lives or status.state == State.STOPPED:
            return status
        return replace(status, state=State.DEAD)

    def _lives(self, name: str) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                self._connect(connection, name, 0)
            except TimeoutError:
                return True  # it listens, and is too busy to answer
            except OSError:
                return False
            return True

    @contextmanager
    def locked(self, *, shared: bool = False) -> Iterator[None]:
        """Hold the lock of the directory."""
        fd = self._open_lock()
        try:
            fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _open_lock(self) -> int:
        return os.open(self.path / ".lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _unknown(name: str, state: State) -> Status:
    """Return the status of something that has left none, or one of another version."""
    return Status(name=name, state=state, pid=0, kind="?", num_cpus=0, ram_size=0, created=0)


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield a name of a socket's path that fits into an address."""
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        yield str(path)
        return
    fd = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)
