"""The user's terminal: keys to the guest, its output to the screen, and the way out.

While a guest has it the terminal is raw, so that every key but Ctrl-A reaches the guest.  Input
that is no terminal (a pipe, a file) is fed to the guest as it is; its end just ends the feeding.
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

from pyvmm.arch.system import NoThreadError, start_thread
from pyvmm.arch.text import printable
from pyvmm.vm.exit_code import ExitCode

_ESCAPE: Final = 0x01  # Ctrl-A
_QUIT: Final = ord("x")
_CHUNK: Final = 4096
_ROOM: Final = 4096  # bytes that a pipe surely takes once it takes any
_END: Final = 0  # no signal's number
_PACE: Final = 0.005  # seconds until a guest that was behind is looked at again


Handler = Callable[[int, FrameType | None], object] | int | None


class Console(Protocol):
    """The guest's end: the serial port or the virtio console."""

    @property
    def backlog(self) -> int:
        """How many bytes wait for the guest."""

    def receive(self, data: bytes) -> None:
        """Take bytes."""


def is_foreground(fd: int) -> bool:
    """Tell whether someone types there: a terminal whose foreground we are in."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False


class Escapes:
    """Finds Ctrl-A x in what is typed; Ctrl-A Ctrl-A is one Ctrl-A for the guest."""

    def __init__(self) -> None:
        self.is_quit = False
        self._is_escaped = False

    def filter(self, data: bytes) -> bytes:
        """Return what is meant for the guest."""
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
    """Standard input and output; a context manager that leaves the terminal as it found it."""

    def __init__(self, in_fd: int = 0, out_fd: int = 1, error_fd: int = 2) -> None:
        self._in_fd = in_fd
        self._out_fd = out_fd
        self._error_fd = error_fd
        self._is_raw = False
        self._saved: list[int | list[bytes | int]] = []
        self._has_reader = True
        self._is_at_start = True  # of a line
        self.code = ExitCode.OK  # of whoever only shows what the guest says
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC)
        self._hurry = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread: threading.Thread | None = None
        self._old_winch: Handler = None

    @property
    def is_interactive(self) -> bool:
        """Whether someone types here."""
        return is_foreground(self._in_fd)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows; (0, 0) if the output is no terminal."""
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
            self.write(b"\r\n")  # what comes next, a shell's prompt, is a line of its own
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
        """Make the terminal raw, and begin to feed a console.

        Args:
            console: where the input goes.
            quit_: called, from another thread, when the user asks to leave.
            is_ready: asked until it once says yes; input waits so long.
        """
        if self.is_interactive:
            self._saved = termios.tcgetattr(self._in_fd)
            self._is_raw = True
            tty.setraw(self._in_fd, termios.TCSADRAIN)
        thread = threading.Thread(
            target=self._feed, args=(console, quit_, is_ready), name="pyvmm-terminal", daemon=True
        )
        start_thread(thread)
        self._thread = thread

    def stop(self) -> None:
        """End the feeding."""
        if self._thread is not None:
            os.eventfd_write(self._wakeup, 1)
            self._thread.join()
            self._thread = None

    def on_resize(self, resize: Callable[[int, int], None]) -> None:
        """Call back with columns and rows when the terminal changes its size; main thread only."""
        self._old_winch = signal.signal(signal.SIGWINCH, lambda *_: resize(*self.size))

    def write(self, data: bytes) -> None:
        """Show what the guest writes; once nobody reads it, it is dropped."""
        view = memoryview(data)
        self._is_at_start = data.endswith(b"\n") if data else self._is_at_start
        while view and self._has_reader and self._wait_room():
            try:
                view = view[os.write(self._out_fd, view[:_ROOM]) :]
            except BlockingIOError:
                pass
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Write no more; say so where that is not the doing of whoever read it."""
        self._has_reader = False
        if error.errno != errno.EPIPE and not os.isatty(self._out_fd):
            self.code = ExitCode.STORAGE
            self.tell(f"standard output: {error.strerror}: what the guest says is lost")

    def tell(self, line: str) -> None:
        """Say something to the user, apart from what the guest writes."""
        text = f"pyvmm: {printable(line)}"
        text = f"\r\n{text}\r\n" if self._is_raw else f"{text}\n"
        with suppress(OSError):
            os.write(self._error_fd, text.encode())

    def hurry(self) -> None:
        """Let nobody wait for a reader any more: what has no room is dropped; any thread."""
        os.eventfd_write(self._hurry, 1)

    def _wait_room(self) -> bool:
        """Return when there is room for output; False if there is none and no time to wait."""
        poll = select.poll()
        poll.register(self._hurry, select.POLLIN)
        poll.register(self._out_fd, select.POLLOUT)
        return any(fd == self._out_fd for fd, _ in poll.poll())

    def _feed(
        self, console: Console, quit_: Callable[[], None], is_ready: Callable[[], bool]
    ) -> None:
        if not self._is_raw and os.isatty(self._in_fd):
            return  # in the background: reading would stop us
        while not self._is_raw and not is_ready():  # who types may want to quit at any time
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
        """Return when there is input and the guest can take it; False to end the feeding."""
        while not self._is_raw and console.backlog >= _CHUNK:
            if self._is_stopped(_PACE):
                return False
        poll = select.poll()  # unlike epoll it takes regular files
        poll.register(self._wakeup, select.POLLIN)
        poll.register(self._in_fd, select.POLLIN)
        return all(fd != self._wakeup for fd, _ in poll.poll())

    def _is_stopped(self, patience: float) -> bool:
        """Wait that many seconds; tell whether the feeding was ended meanwhile."""
        return bool(select.select([self._wakeup], [], [], patience)[0])


class EndSignals:
    """While in force, a signal that would end us asks to quit instead: the terminal comes back.

    It is asked from a thread of its own: a handler would run in the middle of what the main thread
    does, and a wake-up between its look at the state and its going to sleep would be lost.
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
        """Read the numbers of signals, which the interpreter writes as they come."""
        while True:
            select.select([self._reader], [], [])
            numbers = os.read(self._reader, _CHUNK)
            if any(number in self._numbers for number in numbers):
                self._quit()
            if _END in numbers:
                return
