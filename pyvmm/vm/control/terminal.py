"""The user's terminal: keys to the guest, its output to the screen, and Ctrl-A x to leave.

The terminal is raw while a guest uses it, so that every key except Ctrl-A reaches the guest.  Input
that is not a terminal (a pipe, a file) is passed to the guest unchanged; its end only ends the
input.
"""

import errno
import fcntl
import os
import select
import signal
import struct
import termios
import threading
import tty
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final, Protocol, Self

from pyvmm.arch.system import NoThreadError, start_thread, wait_for
from pyvmm.arch.text import printable
from pyvmm.vm.exit_code import ExitCode

_ESCAPE: Final = 0x01  # Ctrl-A
_QUIT: Final = ord("x")
_CHUNK: Final = 4096
_MAX_WRITE: Final = 4096  # bytes that a writable pipe always accepts
_END: Final = 0  # not the number of a signal
_PACE: Final = 0.005  # seconds between two checks whether the guest has read its input


Handler = Callable[[int, FrameType | None], object] | int | None


class Console(Protocol):
    """The guest's end: the serial port or the virtio console."""

    @property
    def backlog(self) -> int:
        """The number of bytes waiting for the guest."""

    def receive(self, data: bytes) -> None:
        """Accept input."""


def is_foreground(fd: int) -> bool:
    """Check whether a user types there: whether it is a terminal with us in the foreground."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False


class Escapes:
    """Finds Ctrl-A x in typed input; Ctrl-A Ctrl-A is one Ctrl-A for the guest."""

    def __init__(self) -> None:
        self.is_quit = False
        self._is_escaped = False

    def filter(self, data: bytes) -> bytes:
        """Return the input for the guest."""
        out = bytearray()
        for byte in data:
            if not self._is_escaped:
                self._is_escaped = byte == _ESCAPE
                if not self._is_escaped:
                    out.append(byte)
                continue
            self._is_escaped = False
            if byte == _QUIT:
                self.is_quit = True
                break
            out += bytes((byte,)) if byte == _ESCAPE else bytes((_ESCAPE, byte))
        return bytes(out)


class Terminal:
    """Standard input and output; a context manager that restores the terminal's settings."""

    def __init__(self, in_fd: int = 0, out_fd: int = 1, error_fd: int = 2) -> None:
        self._in_fd = in_fd
        self._out_fd = out_fd
        self._error_fd = error_fd
        self._is_raw = False
        self._saved: list[int | list[bytes | int]] = []
        self._has_reader = True
        self._is_at_start = True  # of a line
        self.code = ExitCode.OK  # STORAGE if output was lost
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC)
        self._hurry = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread: threading.Thread | None = None
        self._old_winch: Handler = None

    @property
    def is_interactive(self) -> bool:
        """Whether a user types here."""
        return is_foreground(self._in_fd)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows; (0, 0) if the output is not a terminal."""
        try:
            rows, columns = struct.unpack(
                "HH4x", fcntl.ioctl(self._out_fd, termios.TIOCGWINSZ, bytes(8))
            )
        except OSError:
            return (0, 0)
        return (columns, rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._is_raw and not self._is_at_start and os.isatty(self._out_fd):
            self.write(b"\r\n")  # the shell's prompt starts a new line
        os.close(self._wakeup)
        os.close(self._hurry)
        if self._old_winch is not None:
            signal.signal(signal.SIGWINCH, self._old_winch)
        if self._is_raw:
            self._is_raw = False
            with suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(self._in_fd, termios.TCSADRAIN, self._saved)

    def start(
        self,
        console: Console,
        quit_: Callable[[], None],
        is_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """Make the terminal raw, and start to pass input to a console; again after `stop`.

        Args:
            console: gets the input.
            quit_: called, from another thread, when the user types Ctrl-A x.
            is_ready: input waits until this returns true once.
        """
        if self.is_interactive and not self._is_raw:
            self._saved = termios.tcgetattr(self._in_fd)
            self._is_raw = True
            tty.setraw(self._in_fd, termios.TCSADRAIN)
        thread = threading.Thread(
            target=self._feed, args=(console, quit_, is_ready), name="pyvmm-terminal", daemon=True
        )
        start_thread(thread)
        self._thread = thread

    def stop(self) -> None:
        """Stop passing input."""
        if self._thread is not None:
            os.eventfd_write(self._wakeup, 1)
            self._thread.join()
            self._thread = None
            os.eventfd_read(self._wakeup)

    def on_resize(self, resize: Callable[[int, int], None]) -> None:
        """Call ``resize`` with columns and rows when the terminal's size changes; main thread."""
        old = signal.signal(signal.SIGWINCH, lambda *_: resize(*self.size))
        self._old_winch = self._old_winch or old

    def write(self, data: bytes) -> None:
        """Write the guest's output; drop it once the reader is gone."""
        view = memoryview(data)
        self._is_at_start = data.endswith(b"\n") if data else self._is_at_start
        while view and self._has_reader and self._wait_writable():
            try:
                view = view[os.write(self._out_fd, view[:_MAX_WRITE]) :]
            except BlockingIOError:
                pass
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Stop writing; report an error unless the reader has just gone away."""
        self._has_reader = False
        if error.errno != errno.EPIPE and not os.isatty(self._out_fd):
            self.code = ExitCode.STORAGE
            self.tell(f"standard output: {error.strerror}: the guest's output is lost")

    def tell(self, line: str) -> None:
        """Print a message to the user on standard error."""
        text = f"pyvmm: {printable(line)}"
        text = f"\r\n{text}\r\n" if self._is_raw else f"{text}\n"
        with suppress(OSError):
            os.write(self._error_fd, text.encode())

    def hurry(self) -> None:
        """Make writers stop waiting for the reader and drop their output; any thread."""
        os.eventfd_write(self._hurry, 1)

    def _wait_writable(self) -> bool:
        """Wait until output can be written; return False if it cannot and `hurry` was called."""
        poll = select.poll()
        poll.register(self._hurry, select.POLLIN)
        poll.register(self._out_fd, select.POLLOUT)
        return any(fd == self._out_fd for fd, _ in poll.poll())

    def _feed(
        self, console: Console, quit_: Callable[[], None], is_ready: Callable[[], bool]
    ) -> None:
        if not self._is_raw and os.isatty(self._in_fd):
            return  # in the background: reading would stop us
        while not self._is_raw and not is_ready():  # a terminal is read at once, for Ctrl-A x
            if self._is_stopped(_PACE):
                return
        escapes = Escapes()
        while self._wait_input(console):
            try:
                data = os.read(self._in_fd, _CHUNK)
            except OSError:
                return
            if not data:
                return
            console.receive(escapes.filter(data) if self._is_raw else data)
            if escapes.is_quit:
                quit_()
                return

    def _wait_input(self, console: Console) -> bool:
        """Wait for input that the guest can take; return False when `stop` was called."""
        while not self._is_raw and console.backlog >= _CHUNK:
            if self._is_stopped(_PACE):
                return False
        poll = select.poll()  # unlike epoll, it accepts regular files
        poll.register(self._wakeup, select.POLLIN)
        poll.register(self._in_fd, select.POLLIN)
        return all(fd != self._wakeup for fd, _ in poll.poll())

    def _is_stopped(self, patience: float) -> bool:
        """Wait for some seconds; return True if `stop` was called meanwhile."""
        return wait_for(self._wakeup, select.POLLIN, patience)


class EndSignals:
    """A context in which a signal that would kill us calls ``quit_``, to restore the terminal.

    A separate thread calls it: a signal handler would interrupt the main thread anywhere, and a
    wake-up between its check of the state and its wait would be lost.
    """

    NUMBERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(
        self, quit_: Callable[[], None], numbers: tuple[signal.Signals, ...] = NUMBERS
    ) -> None:
        self._quit = quit_
        self._numbers = numbers
        self._old: dict[int, Handler] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._listen, name="pyvmm-signals", daemon=True)
        try:
            start_thread(self._thread)
        except NoThreadError:
            os.close(self._reader)
            os.close(self._writer)
            raise
        self._old_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in self._numbers:
            self._old[number] = signal.signal(number, lambda *_: None)

    def __exit__(self, *_: object) -> None:
        if not self._old:
            return
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.write(self._writer, bytes((_END,)))
        self._thread.join()
        os.close(self._reader)
        os.close(self._writer)

    def _listen(self) -> None:
        """Read signal numbers, which the interpreter writes as signals arrive."""
        while True:
            wait_for(self._reader, select.POLLIN)
            numbers = os.read(self._reader, _CHUNK)
            if any(number in self._numbers for number in numbers):
                self._quit()
            if _END in numbers:
                return
