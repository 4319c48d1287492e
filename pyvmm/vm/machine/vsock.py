"""The addresses of guests' vsocks: the sockets that stand for them, and which CID is whose.

The runtime directory of a user has a directory ``vsock`` with a symbolic link for each CID, to the
socket of its guest.  Guests of one user reach each other through it.  A link whose socket nobody
listens on is a killed instance's, and may be replaced.

Concurrency: claiming takes a lock file, which all processes of the user share and hold briefly.
"""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.arch.system import short_path
from pyvmm.devices.virtio.vsock import FIRST_GUEST_CID, HOST_CID
from pyvmm.vm.gdb.leftover import remove_dead
from pyvmm.vm.option_values import VsockOptions

_DIRECTORY: Final = "vsock"
_SOCKET: Final = "vsock"
_BACKLOG: Final = 32
_MAX_AUTOMATIC: Final = FIRST_GUEST_CID + 4096


class VsockEndpoint:
    """A guest's CID and the socket on which its host side listens.

    Args:
        options: the user's choice.
        home: the instance's directory, in the runtime directory of the user.

    Raises:
        UserError: the CID or the socket is in use, or the socket cannot be made.
    """

    def __init__(self, options: VsockOptions, home: Path) -> None:
        self.path = (options.socket or home / _SOCKET).absolute()
        self._directory = home.parent / _DIRECTORY
        self.listener = self._listen()
        try:
            self.cid = self._claim(options.cid)
        except BaseException:
            self.listener.close()
            self.path.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Give the CID back and remove the socket; its listener may be closed already."""
        with suppress(OSError), self._locked():
            if self._link(self.cid).readlink() == self.path:
                self._link(self.cid).unlink()
        with suppress(OSError):
            self.path.unlink()
        self.listener.close()

    def connect(self, cid: int, port: int) -> socket.socket:
        """Connect to a program of the host, or to the socket of another guest; do not wait.

        Raises:
            OSError: nobody listens there.
        """
        path = self._link(cid)
        if cid == HOST_CID:
            path = self.path.with_name(f"{self.path.name}_{port}")
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.setblocking(False)
            with short_path(path) as name:
                stream.connect(name)
        except BaseException:
            stream.close()
            raise
        return stream

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        try:
            with suppress(OSError):  # bind() reports the reason
                remove_dead(self.path)
            with short_path(self.path) as name:
                listener.bind(name)
            self.path.chmod(0o600)  # before listen(): nobody can connect yet
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise UserError(
                f"--vsock: socket {self.path}: {error.strerror}: choose another with uds=PATH"
            ) from None
        return listener

    def _claim(self, cid: int | None) -> int:
        """Take a CID, or the first free one."""
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            with self._locked():
                if cid is not None:
                    if not self._take(cid):
                        raise UserError(f"--vsock {cid}: another guest has this CID: give auto")
                    return cid
                return next(filter(self._take, range(FIRST_GUEST_CID, _MAX_AUTOMATIC)))
        except OSError as error:
            raise UserError(
                f"--vsock: {error.filename or self._directory}: {error.strerror}"
            ) from None
        except StopIteration:
            raise UserError("--vsock auto: all CIDs are in use: stop a guest") from None

    def _take(self, cid: int) -> bool:
        """Take a CID; return False if the socket that it leads to listens and is not ours."""
        link = self._link(cid)
        if link.is_symlink():
            if link.readlink() != self.path and self._is_alive(cid):
                return False
            link.unlink()
        link.symlink_to(self.path)
        return True

    def _is_alive(self, cid: int) -> bool:
        try:
            self.connect(cid, 0).close()
        except OSError as error:
            return error.errno == errno.EAGAIN  # it is too busy to accept
        return True

    def _link(self, cid: int) -> Path:
        return self._directory / str(cid)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self._directory / ".lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
