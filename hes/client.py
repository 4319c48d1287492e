"""The Monitor's end of the mailbox, and how the HES comes to life.

Knows no key and nothing of what the messages mean, but that a machine leaves reset with one.

The first machine that needs a HES starts one and holds a lock meanwhile, so that there is one
process for all machines of a user and an installation.  It ends by itself when its last mailbox
is closed.  A mailbox that was opened in that very moment meets the end of the stream before its
machine is on; then the machine looks for a HES once more.
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
from types import TracebackType
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

TIMEOUT: Final = 30.0  # seconds: the HES answers in milliseconds, or something has stopped it
_SIZE: Final = struct.Struct("<I")
_BACKLOG: Final = 128
_LOCK_FILE: Final = "start.lock"
ERROR_FILE: Final = "errors"


class HesError(OSError):
    """There is no HES, or it refuses; the text is one line."""

    def __str__(self) -> str:
        return str(self.args[0])


class Mailbox:
    """A connection to the HES: a machine's power cycle, from reset on.

    Every method may be called from any thread.

    Raises:
        HesError: there is no HES, and none could be started.
    """

    def __init__(self, directory: Path) -> None:
        self._errors = directory / ERROR_FILE
        self._lock = Lock()
        self._stream = _connect(directory)

    def call(self, message: bytes) -> bytes:
        """Send a request and return the reply.

        Raises:
            HesError: the HES is gone, or does not answer; it never will then.
        """
        with self._lock:
            try:
                return _exchange(self._stream, message)
            except TimeoutError:
                self._stream.close()
                raise _no_answer() from None
            except OSError:
                self._stream.close()
                raise HesError(f"the HES is gone (its last words are in {self._errors})") from None
            except BaseException:
                self._stream.close()  # the reply would be taken for the next one's
                raise

    def ask(self, service: HesService, *inputs: bytes) -> str:
        """Call the HES about itself; return its text.

        Raises:
            HesError: it refuses, and says why; or it is gone.
        """
        control = Control.of(TYPE=service, IN_LEN=len(inputs), OUT_LEN=1)
        sizes = (*map(len, inputs), MAX_PAYLOAD, *(0,) * (MAX_VECTORS - 1 - len(inputs)))
        request = PsaRequest.of(handle=PsaHandle.HES, ctrl=control, io_size=sizes)
        reply = self.call(bytes(request) + b"".join(inputs))
        text = reply[PsaReply.size :].decode(errors="surrogateescape")
        status = PsaStatus(PsaReply(reply[: PsaReply.size]).status)
        if status is not PsaStatus.SUCCESS:
            raise HesError(text or f"the HES answers {status.name}")
        return text

    def close(self) -> None:
        """Switch the machine off."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()


def _no_answer() -> HesError:
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


# --- finding one, or starting one ----------------------------------------------------------------


def _connect(directory: Path) -> socket.socket:
    """Return a connection to a HES that knows of it, and so will not end."""
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
        raise HesError(f"{directory} must be yours alone: chmod 700, or choose another directory")


def _address() -> str:
    """Return the name of the socket: another installation has another, and so has another HES."""
    root = image.installation()
    own = hashlib.sha256(str(root).encode() + b"\0" + image.digest(root, image.HES_FILES))
    return f"{own.hexdigest()[:16]}.socket"


@contextmanager
def _short(address: Path) -> Iterator[str]:
    """Give the address by a path that is short enough for a socket."""
    parent = os.open(address.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{parent}/{address.name}"
    finally:
        os.close(parent)


def _open(address: Path) -> socket.socket | None:
    """Connect; None if nobody is there."""
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(TIMEOUT)
    try:
        with _short(address) as path:
            connect_unix(stream, path, TIMEOUT)
    except (FileNotFoundError, ConnectionRefusedError):
        stream.close()
        return None
    except TimeoutError:
        stream.close()
        raise _no_answer() from None
    except BaseException:
        stream.close()
        raise
    return stream


def _is_served(stream: socket.socket) -> bool:
    """Tell whether the HES answers: any request will do.  If not, the connection is closed."""
    try:
        _exchange(stream, bytes(PsaRequest()))
    except TimeoutError:
        stream.close()
        raise _no_answer() from None
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
    """Start a HES with us as its first client; return our mailbox."""
    with socket.socket(socket.AF_UNIX) as listener:
        address.unlink(missing_ok=True)  # of one that was killed
        with _short(address) as path:
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
    # It may outlive this machine, for others; while we live, it leaves no zombie.
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
