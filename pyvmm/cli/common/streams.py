"""Standard input, output and error, whatever the caller has made of them.

One that is closed is /dev/null, so that no file of ours takes its number and is written to.  What
standard output does not take ends the verb with a line and a code; what standard error does not
take is lost, as there is nowhere left to say so.
"""

import codecs
import io
import os
import select
import sys
from typing import IO, TYPE_CHECKING, Final, TextIO, cast

from pyvmm.vm.exit_code import ExitCode, Failure

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_NUMBERS: Final = {"stdin": 0, "stdout": 1, "stderr": 2}
_ANY_TEXT: Final = "pyvmm.any-text"


def guard() -> None:
    """Make the standard streams of this process safe to use; those that are replaced stay so."""
    for name, fd in _NUMBERS.items():
        if not _is_open(fd):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number: this one
            # By lines: an instance's log may take its place.
            setattr(sys, name, open(fd, "w" if fd else "r", 1, closefd=False))  # noqa: SIM115
    if _is_own(sys.stdout, 1):
        sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout)
        codecs.register_error(_ANY_TEXT, _encode_any)
        sys.stdout.reconfigure(errors=_ANY_TEXT)
    if _is_own(sys.stderr, 2):
        sys.stderr = _text(_Errors(2, "w", closefd=False), sys.stderr)


def output_failure(error: OSError, name: str = "output") -> Failure:
    """Return what becomes of a verb whose output is not taken."""
    if isinstance(error, BrokenPipeError):
        return Failure(ExitCode.UNREAD, "")  # who has stopped reading knows
    return Failure(ExitCode.STORAGE, f"standard {name}: {error.strerror}: the rest is lost")


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _is_own(stream: TextIO, fd: int) -> bool:
    """Tell whether a stream is the process's, and not what a test has put there."""
    try:
        return stream.fileno() == fd
    except OSError:
        return False


def _text(raw: "_Stream", like: TextIO) -> io.TextIOWrapper:
    """Return a stream that buffers as much, or as little, as the one in whose place it is."""
    is_unbuffered = isinstance(like, io.TextIOWrapper) and like.write_through
    return io.TextIOWrapper(
        cast("IO[bytes]", raw) if is_unbuffered else io.BufferedWriter(raw),
        encoding=like.encoding,
        errors=like.errors,
        line_buffering=bool(like.line_buffering),
        write_through=is_unbuffered,
    )


def _encode_any(error: UnicodeError) -> tuple[bytes | str, int]:
    """Print a byte of a file's name as it is; write out what the terminal has no character for."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    try:
        return character.encode("ascii", "surrogateescape"), error.start + 1
    except UnicodeEncodeError:
        return ascii(character)[1:-1], error.start + 1


class _Stream(io.FileIO):
    """Takes all that is written, however long that takes."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write all of it: without a buffer nobody would come back with the rest."""
        left = memoryview(data).cast("B")
        size = len(left)
        while left:
            written = super().write(left)
            if written is None:  # somebody made it non-blocking
                select.select([], [self], [])
            else:
                left = left[written:]
        return size


class _Output(_Stream):
    """Says once that it failed; then it takes everything, so that the verb can end."""

    _has_failed = False

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write what can be written."""
        if self._has_failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except OSError as error:
            self._has_failed = True
            raise output_failure(error) from None


class _Errors(_Stream):
    """Takes everything."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write what can be written."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes
