"""Start a daemon from a command, and report its startup to the command.

The daemon has its own session and shares nothing with the command: no terminal, no descriptor, and
it is not its child.  During startup a pipe connects it to the command: if the command is gone, the
daemon cannot report and ends.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import msgspec

from pyvmm.vm.exit_code import ExitCode

_UMASK: Final = 0o077


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A report of the daemon about its startup."""

    doing: str = ""  # the current step
    share: float = 0.0  # of the step that is done, 0 to 1
    notice: str = ""  # for the user
    is_ready: bool = False  # startup has succeeded
    code: int = ExitCode.OK  # otherwise startup has failed
    line: str = ""  # why it failed


#: Sends a message to the command; OSError if it is gone.
Tell = Callable[[Message], None]


def spawn(main: Callable[[Tell], int]) -> Iterator[Message]:
    """Run ``main`` in a daemon; yield its messages until startup is over.

    The command must have only one thread, and must have flushed its output.
    """
    reader, writer = os.pipe()
    middle = os.fork()
    if not middle:
        _become_daemon(writer, main)
    os.close(writer)
    os.waitpid(middle, 0)
    with os.fdopen(reader, "rb") as lines:
        for line in lines:  # ends when the daemon closes its end, after a last message or without
            yield msgspec.json.decode(line, type=Message)


def redirect(path: str) -> None:
    """Redirect this process's output and errors to a file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for each in (sys.stdout, sys.stderr):
        each.flush()
        os.dup2(fd, each.fileno())
    os.close(fd)


def _become_daemon(writer: int, main: Callable[[Tell], int]) -> None:
    """Run as the intermediate process, then as the daemon; never returns."""
    code = int(ExitCode.INTERNAL)
    try:
        os.setsid()
        if os.fork():  # a session leader could acquire a controlling terminal
            os._exit(0)
        os.umask(_UMASK)
        _close_all_but(writer)
        code = main(Teller(writer).tell)
    except BaseException:  # noqa: BLE001  the callers' code must not run twice
        sys.excepthook(*sys.exc_info())
    finally:
        for each in (sys.stdout, sys.stderr):
            with suppress(OSError):  # no one left to report to
                each.flush()
        os._exit(code)


def _close_all_but(kept: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


class Teller:
    """The daemon's end of the pipe, until startup is over."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def tell(self, message: Message) -> None:
        """Send a message to the command; OSError if it is gone.  Does nothing after startup."""
        if self._fd is None:
            return
        os.write(self._fd, msgspec.json.encode(message) + b"\n")
        if message.is_ready or message.code:
            os.close(self._fd)
            self._fd = None
