"""Standard input, output and error, in whatever state the caller leaves them.

A closed one becomes /dev/null, so that no other file gets its number and is written to.  A failure
to write standard output ends the verb with an error line and an exit code; a failure to write
standard error is ignored, because there is nowhere left to report it.
"""

import codecs
import io
import os
import select
import sys
from typing import IO, TYPE_CHECKING, Final, TextIO, cast

from pyvmm.arch.system import wait_for
from pyvmm.vm.exit_code import ExitCode, Failure

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_NUMBERS: Final = {"stdin": 0, "stdout": 1, "stderr": 2}
_ANY_TEXT: Final = "pyvmm.any-text"


def guard() -> None:
    """Make the standard streams of this process safe to use; leave replaced ones alone."""
    for name, fd in _NUMBERS.items():
        if not _is_open(fd):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number: fd
            # Line-buffered: an instance's log may replace it.
            setattr(sys, name, open(fd, "w" if fd else "r", 1, closefd=False))  # noqa: SIM115
    if _is_own(sys.stdout, 1):
        sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout)
        codecs.register_error(_ANY_TEXT, _encode_any)
        sys.stdout.reconfigure(errors=_ANY_TEXT)
    if _is_own(sys.stderr, 2):
        sys.stderr = _text(_Errors(2, "w", closefd=False), sys.stderr)


def is_in_background() -> bool:
    """Return whether reading would stop this process: it is in a terminal's background."""
    try:
        return os.tcgetpgrp(0) != os.getpgrp()
    except OSError:
        return False


def write_all(fd: int, data: bytes) -> None:
    """Write all data, however long it takes.

    Raises:
        Failure: the data cannot be written, or its reader is gone.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            wait_for(fd, select.POLLOUT)
        except OSError as error:
            raise output_failure(error, "error" if fd == 2 else "output") from None


def output_failure(error: OSError, name: str = "output") -> Failure:
    """Return the failure of a verb whose output cannot be written."""
    if isinstance(error, BrokenPipeError):
        return Failure(ExitCode.UNREAD, "")  # the reader closed it: no message
    return Failure(ExitCode.STORAGE, f"standard {name}: {error.strerror}: the rest is lost")


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _is_own(stream: TextIO, fd: int) -> bool:
    """Return whether a stream is the process's own, and not a test's replacement."""
    try:
        return stream.fileno() == fd
    except OSError:
        return False


def _text(raw: "_Stream", like: TextIO) -> io.TextIOWrapper:
    """Return a text stream on `raw` with the buffering of the stream that it replaces."""
    is_unbuffered = isinstance(like, io.TextIOWrapper) and like.write_through
    return io.TextIOWrapper(
        cast("IO[bytes]", raw) if is_unbuffered else io.BufferedWriter(raw),
        encoding=like.encoding,
        errors=like.errors,
        line_buffering=bool(like.line_buffering),
        write_through=is_unbuffered,
    )


def _encode_any(error: UnicodeError) -> tuple[bytes | str, int]:
    """Encode a file name's undecodable byte as it is; escape what the encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    try:
        return character.encode("ascii", "surrogateescape"), error.start + 1
    except UnicodeEncodeError:
        return ascii(character)[1:-1], error.start + 1


class _Stream(io.FileIO):
    """A raw stream that writes everything, however long that takes."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write all data: an unbuffered caller does not retry a partial write."""
        left = memoryview(data).cast("B")
        size = len(left)
        while left:
            written = super().write(left)
            if written is None:  # another process made it non-blocking
                wait_for(self, select.POLLOUT)
            else:
                left = left[written:]
        return size


class _Output(_Stream):
    """Standard output: raises its first failure, then discards data so that the verb can end."""

    _has_failed = False

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write as much as possible."""
        if self._has_failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except OSError as error:
            self._has_failed = True
            raise output_failure(error) from None


class _Errors(_Stream):
    """Standard error: ignores failures."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write as much as possible."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes
