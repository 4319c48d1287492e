"""Sockets that a service manager has opened for this process: sd_listen_fds(3)."""

import os
import socket

from pyvmm.arch.errors import UserError

_FIRST = 3


def inherited() -> list[socket.socket]:
    """Return them, once: child processes do not get them.

    Raises:
        UserError: one of them is no stream socket that listens.
    """
    if os.environ.pop("LISTEN_PID", None) != str(os.getpid()):
        return []
    count = os.environ.pop("LISTEN_FDS", "0")
    os.environ.pop("LISTEN_FDNAMES", None)
    if not count.isdecimal():
        raise UserError(f"LISTEN_FDS={count}: a service manager gives the number of sockets")
    return [_listener(fd) for fd in range(_FIRST, _FIRST + int(count))]


def _listener(fd: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        listener = socket.socket(fileno=fd)
        if listener.type == socket.SOCK_STREAM and _is_listening(listener):
            return listener
        listener.detach()
    except OSError:
        pass
    raise UserError(
        f"file descriptor {fd} from the service manager is no listening stream socket: use"
        " ListenStream= and Accept=no"
    )


def _is_listening(listener: socket.socket) -> bool:
    return bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
