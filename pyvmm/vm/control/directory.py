"""The runtime directory: the instances, by name, and the remains of those that have ended.

An instance NAME has ``NAME.sock`` while its process runs, ``NAME.d/state`` (its status in JSON,
replaced atomically), ``NAME.d/log`` with the messages of its process, and ``NAME.d/gdb`` if it has
a debugger's socket elsewhere, which is removed with the rest.  Its socket shows whether its process
runs: the kernel refuses a connection if no process listens.

Concurrency: claiming a name and removing the remains of an instance take a lock file, which all
processes of the user share and hold only briefly; listing takes it shared.
"""

import fcntl
import os
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
from pyvmm.arch.system import connect_unix, short_path
from pyvmm.vm.control.api import State, Status
from pyvmm.vm.control.process import Process
from pyvmm.vm.gdb.leftover import SocketNote, remove_noted
from pyvmm.vm.json_text import decode
from pyvmm.vm.name import DEFAULT_NAME, check_name

_STATE_SIZE: Final = 4096  # of the file: fixed, so that it can be overwritten on a full disk
_GDB: Final = "gdb"
_OPTIONS: Final = "options"
#: What a guest writes to its console, and before that; kept when it is started again.
CONSOLE_LOGS: Final = ("console.log", "console.log.1")
_BACKLOG: Final = 64  # connections that may wait to be accepted


class Claim:
    """A name that this process holds until it releases it; its socket is already listening."""

    def __init__(self, directory: "Directory", name: str, listener: socket.socket) -> None:
        self._directory = directory
        self._name = name
        self.listener = listener

    @property
    def home(self) -> Path:
        """The directory of the instance."""
        return self._directory.home(self._name)

    @property
    def log(self) -> Path:
        """The log file of the process."""
        return self._directory.home(self._name) / "log"

    @property
    def console_log(self) -> Path:
        """The file that keeps the last console output after the end."""
        return self._directory.home(self._name) / "console"

    @property
    def console_copy(self) -> Path:
        """The file for all console output."""
        return self._directory.home(self._name) / CONSOLE_LOGS[0]

    def keep_options(self, data: bytes) -> None:
        """Keep what is needed to start the instance again after its end.

        Raises:
            OSError: no space is left.
        """
        (self._directory.home(self._name) / _OPTIONS).write_bytes(data)

    def note_gdb(self, socket_: Path) -> None:
        """Record the debugger's socket, so that a cleanup removes it too.

        Raises:
            OSError: no space is left, or the socket does not exist.
        """
        data = msgspec.json.encode(SocketNote.of(socket_))
        (self._directory.home(self._name) / _GDB).write_bytes(data)

    def write(self, status: Status) -> None:
        """Publish the status; after the first one, this works on a full disk too."""
        self._directory.write(self._name, status)

    def release(self, *, keep: bool) -> None:
        """Remove the socket, and everything else unless it is kept for a shut-off instance.

        Raises:
            OSError: something could not be removed.
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
        """Use a directory that only this user can access; create it if it does not exist.

        Raises:
            UserError: it belongs to another user, or is open to others.
            OSError: it cannot be created, or no file can be created in it.
        """
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for each in (path, path.parent):  # the owner of the parent can replace its child
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
        """Return the directory in $XDG_RUNTIME_DIR, or in the platform's default place.

        Raises:
            UserError: it is open to others.
            OSError: it cannot be created, or no file can be created in it.
        """
        chosen = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
        if chosen.is_absolute():  # no fallback: other processes look there
            return cls(chosen / "pyvmm")
        import platformdirs  # noqa: PLC0415  slow to import, rarely needed

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no XDG_RUNTIME_DIR; Directory checks the owner
            path = platformdirs.user_runtime_path("pyvmm")
        return cls(path)

    # --- places -----------------------------------------------------------------------------

    def home(self, name: str) -> Path:
        """Return the directory of an instance."""
        return self.path / f"{name}.d"

    def socket_path(self, name: str) -> Path:
        """Return the socket of an instance."""
        return self.path / f"{name}.sock"

    # --- this process's instance ------------------------------------------------------------

    def claim(self, status: Status, *, replaces: bool = False) -> Claim:
        """Take a name; remove the remains of dead instances of that name or without a given one.

        Args:
            status: of the new instance.
            replaces: it is the successor of one that has ended, whose console logs it keeps.

        Raises:
            UserError: the name is taken or invalid, or there is nothing to replace.
            OSError: no space is left.
        """
        name = check_name(status.name)
        with self.locked():
            old = self._look(name)
            if old is None and replaces:
                raise UserError(f"no instance {name}: pyvmm list shows all instances")
            if old is not None and old.state == State.STOPPED and not replaces:
                raise UserError(f"{name} is shut off: pyvmm destroy {name} first")
            if old is not None and old.state not in {State.DEAD, State.STOPPED}:
                raise UserError(f"{name} exists and is {old.state}: choose another name")
            self._remove_dead_runs()
            self.remove(name, keeps_logs=replaces)
            self.home(name).mkdir(mode=0o700, exist_ok=replaces)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._listen(listener, name)
                self.write(name, status)
            except BaseException:
                listener.close()
                with suppress(OSError):  # the first error is reported
                    self.remove(name)
                raise
        return Claim(self, name, listener)

    def _remove_dead_runs(self) -> None:
        """Remove what killed processes of `pyvmm run` left, unless the user named the instance."""
        for home in self.path.glob(DEFAULT_NAME.format(pid="*") + ".d"):
            status = self._look(home.stem)
            if status is None or status.name != DEFAULT_NAME.format(pid=status.pid):
                continue
            if status.state == State.DEAD:
                with suppress(OSError):  # it stays, and `list` shows it
                    self.remove(status.name)

    def _listen(self, listener: socket.socket, name: str) -> None:
        with short_path(self.socket_path(name)) as path:
            listener.bind(path)
        self.socket_path(name).chmod(0o600)
        listener.listen(_BACKLOG)

    def write(self, name: str, status: Status) -> None:
        """Replace the state file with a new one; overwrite it if no space is left for one."""
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

    # --- all instances ----------------------------------------------------------------------

    def statuses(self) -> list[Status]:
        """Return the status of every instance, by name."""
        with self.locked(shared=True):
            stems = {each.stem for each in self.path.iterdir() if each.suffix in {".d", ".sock"}}
            found = map(self._look, sorted(stems))
            return [status for status in found if status is not None]

    def find(self, name: str) -> Status:
        """Return the status of one instance.

        Raises:
            UserError: it does not exist.
        """
        check_name(name)
        with self.locked(shared=True):
            status = self._look(name)
        if status is None:
            raise UserError(f"no instance {name}: pyvmm list shows all instances")
        return status

    def options(self, name: str) -> bytes | None:
        """Return what an instance has kept to be started again; None if there is nothing."""
        try:
            return (self.home(name) / _OPTIONS).read_bytes()
        except OSError:
            return None

    def rename(self, old: str, new: str) -> None:
        """Give an instance that has ended another name.

        Raises:
            UserError: it runs or does not exist, or the new name is taken or invalid.
            OSError: the directory cannot be written.
        """
        check_name(new)
        status = self.find(old)
        with self.locked():
            if self._is_running(old):
                raise UserError(f"{old} is {status.state}: stop it before you rename it")
            if self._look(new) is not None:
                raise UserError(f"{new} exists: choose another name")
            self.socket_path(old).unlink(missing_ok=True)
            self.home(old).rename(self.home(new))
            self.write(new, replace(status, name=new))

    def console_log(self, name: str) -> bytes | None:
        """Return the last console output of an instance that is shut off; None if lost."""
        try:
            return (self.home(name) / "console").read_bytes()
        except OSError:
            return None

    def connect(self, name: str, patience: float) -> socket.socket:
        """Connect to an instance.

        Raises:
            TimeoutError: it runs but does not accept the connection within ``patience`` seconds.
            OSError: it does not run.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connect(connection, name, patience)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self, connection: socket.socket, name: str, patience: float) -> None:
        with short_path(self.socket_path(name)) as path:
            connect_unix(connection, path, patience)

    def process(self, name: str) -> Process | None:
        """Return the process of an instance, by its state file; None if it does not run."""
        process = Process(self.find(name).pid)
        if self._is_running(name):  # then its ID was not reused before we had a descriptor of it
            return process
        process.close()
        return None

    def clean_up(self, name: str) -> None:
        """Remove the remains of an instance whose process has ended.

        Raises:
            UserError: it runs, or something cannot be removed.
        """
        with self.locked():
            if self._is_running(name):
                raise UserError(f"{name} runs again: another process has started it")
            try:
                self.remove(name)
            except OSError as error:
                line = f"{error.filename}: {error.strerror}: {name} could not be removed"
                raise UserError(line) from None

    def remove(self, name: str, *, keeps_logs: bool = False) -> None:
        """Remove all files of an instance, or all but its console logs; the lock is held.

        Raises:
            OSError: something could not be removed.
        """
        remove_noted(self.home(name) / _GDB)
        with suppress(FileNotFoundError):
            if keeps_logs:
                self._remove_all_but_logs(name)
            else:
                _remove_tree(self.home(name))
        self.socket_path(name).unlink(missing_ok=True)

    def _remove_all_but_logs(self, name: str) -> None:
        for path in self.home(name).iterdir():
            if path.is_dir() and not path.is_symlink():
                _remove_tree(path)
            elif path.name not in CONSOLE_LOGS:
                path.unlink()

    def _look(self, name: str) -> Status | None:
        """Return the status of a name, or None; the lock is held."""
        is_running = self._is_running(name)
        try:
            data = (self.home(name) / "state").read_bytes()
            status = decode(data, Status)
        except (OSError, msgspec.DecodeError):
            if not self.home(name).exists() and not self.socket_path(name).exists():
                return None
            status = _unknown(name, State.RUNNING if is_running else State.DEAD)
        if is_running or status.state == State.STOPPED:
            return status
        return replace(status, state=State.DEAD)

    def _is_running(self, name: str) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                self._connect(connection, name, 0)
            except TimeoutError:
                return True  # it listens, but is too busy to answer
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
    """Return the status of an instance without a readable state file."""
    return Status(name=name, state=state, pid=0, kind="?", num_cpus=0, ram_size=0, created=0)


def _remove_tree(path: Path) -> None:
    from shutil import rmtree  # noqa: PLC0415  slow to import, and `list` removes nothing

    rmtree(path)
