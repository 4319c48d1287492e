"""The Monitor's end of the mailbox, and the start of the HES process.

This module contains no key, and does not interpret the messages.

The first machine that needs a HES starts one under a lock, so that one process serves all machines
of a user and an installation.  It ends when its last mailbox is closed.  A mailbox opened at that
moment reads the end of the stream before its machine is on; the machine then tries again.
"""

import fcntl
import hashlib
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Final, Self

from hes import image
from pyvmm.arch.psa import (
    MAX_MESSAGE,
    MAX_PAYLOAD,
    MAX_VECTORS,
    Control,
    HesService,
    PsaHandle,
    PsaReply,
    PsaRequest,
    PsaStatus,
)
from pyvmm.arch.system import NoThreadError, connect_unix, start_thread

TIMEOUT: Final = 30.0  # seconds; the HES answers in milliseconds unless something has stopped it
_SIZE: Final = struct.Struct("<I")
_BACKLOG: Final = 128
_LOCK_FILE: Final = "start.lock"
ERROR_FILE: Final = "errors"


class HesError(OSError):
    """The HES is missing, or refuses a call; the text is one line."""

    def __str__(self) -> str:
        return str(self.args[0])


class Mailbox:
    """A connection to the HES: one power cycle of a machine, beginning at reset.

    Every method may be called from any thread.

    Raises:
        HesError: no HES is running, and none could be started.
    """

    def __init__(self, directory: Path) -> None:
        self._errors = directory / ERROR_FILE
        self._lock = Lock()
        self._stream = _connect(directory)

    def call(self, message: bytes) -> bytes:
        """Send a request and return the reply.

        Raises:
            HesError: the HES has ended, or does not answer; the mailbox is closed.
        """
        with self._lock:
            try:
                return _exchange(self._stream, message)
            except TimeoutError:
                self._stream.close()
                raise _timeout_error() from None
            except OSError:
                self._stream.close()
                raise HesError(f"the HES has ended (its errors are in {self._errors})") from None
            except BaseException:
                self._stream.close()  # the late reply would be taken for the next one
                raise

    def ask(self, service: HesService, *inputs: bytes) -> str:
        """Call the HES service; return its text.

        Raises:
            HesError: it refuses, with the reason, or has ended.
        """
        control = Control.of(TYPE=service, IN_LEN=len(inputs), OUT_LEN=1)
        sizes = (*map(len, inputs), MAX_PAYLOAD, *(0,) * (MAX_VECTORS - 1 - len(inputs)))
        request = PsaRequest.of(handle=PsaHandle.HES, ctrl=control, io_size=sizes)
        reply = self.call(bytes(request) + b"".join(inputs))
        text = reply[PsaReply.size :].decode(errors="surrogateescape")
        status = PsaStatus(PsaReply(reply[: PsaReply.size]).status)
        if status is not PsaStatus.SUCCESS:
            raise HesError(text or f"the HES answered {status.name}")
        return text

    def close(self) -> None:
        """Switch the machine off."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _timeout_error() -> HesError:
    return HesError(f"the HES has not answered for {TIMEOUT:g} seconds")


def _exchange(stream: socket.socket, message: bytes) -> bytes:
    stream.sendall(_SIZE.pack(len(message)) + message)
    (size,) = _SIZE.unpack(_receive(stream, _SIZE.size))
    if not PsaReply.size <= size <= MAX_MESSAGE:
        raise ConnectionError
    return _receive(stream, size)


def _receive(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = stream.recv(size - len(data))
        if not part:
            raise ConnectionError
        data += part
    return data


# --- find or start a HES -------------------------------------------------------------------------


def _connect(directory: Path) -> socket.socket:
    """Return a connection that the HES has accepted, so that the HES does not end."""
    try:
        _prepare(directory)
        address = directory / _address()
        while True:
            stream = _open(address)
            if stream is None:
                with _locked(directory / _LOCK_FILE):
                    stream = _open(address)
                    if stream is None:
                        return _start(directory, address)
            if _is_served(stream):
                return stream
    except HesError:
        raise
    except OSError as error:
        raise HesError(f"{error.filename or directory}: {error.strerror}") from None


def _prepare(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise HesError(
            f"{directory} must be accessible only to you: chmod 700, or choose another directory"
        )


def _address() -> str:
    """Return the socket's name: it differs between installations and HES versions."""
    root = image.installation()
    own = hashlib.sha256(str(root).encode() + b"\0" + image.digest(root, image.HES_FILES))
    return f"{own.hexdigest()[:16]}.socket"


@contextmanager
def _short_path(address: Path) -> Iterator[str]:
    """Provide a path to the address that is short enough for a socket."""
    parent = os.open(address.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{parent}/{address.name}"
    finally:
        os.close(parent)


def _open(address: Path) -> socket.socket | None:
    """Connect; return None if no HES listens."""
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(TIMEOUT)
    try:
        with _short_path(address) as path:
            connect_unix(stream, path, TIMEOUT)
    except (FileNotFoundError, ConnectionRefusedError):
        stream.close()
        return None
    except TimeoutError:
        stream.close()
        raise _timeout_error() from None
    except BaseException:
        stream.close()
        raise
    return stream


def _is_served(stream: socket.socket) -> bool:
    """Check whether the HES answers a request; if not, close the connection."""
    try:
        _exchange(stream, bytes(PsaRequest()))
    except TimeoutError:
        stream.close()
        raise _timeout_error() from None
    except ConnectionError:
        stream.close()
        return False
    except BaseException:
        stream.close()
        raise
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _start(directory: Path, address: Path) -> socket.socket:
    """Start a HES with this process as its first client; return the mailbox."""
    with socket.socket(socket.AF_UNIX) as listener:
        address.unlink(missing_ok=True)  # left by a killed HES
        with _short_path(address) as path:
            listener.bind(path)
        listener.listen(_BACKLOG)
        ours, theirs = socket.socketpair()
        try:
            process = _spawn(directory, address, listener, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
    ours.settimeout(TIMEOUT)
    # The HES may outlive this machine to serve others; the thread only prevents a zombie.
    with suppress(NoThreadError):
        start_thread(Thread(target=process.wait, name="hes", daemon=True))
    return ours


def _spawn(
    directory: Path, address: Path, listener: socket.socket, first: socket.socket
) -> "subprocess.Popen[bytes]":
    ends = listener.fileno(), first.fileno()
    with (directory / ERROR_FILE).open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "hes", str(directory), str(address), *map(str, ends)],
            pass_fds=ends,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd="/",
            start_new_session=True,
        )
