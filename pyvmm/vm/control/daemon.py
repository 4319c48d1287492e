"""Starts a process of its own from a command, and tells the command how its beginning goes.

The process has its own session and nothing of the command's: no terminal, no descriptor, no
children to wait for it.  Until its beginning is over it is bound to the command by a pipe: if the
command is gone, what it reports has nowhere to go, and it ends.
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
    """One word of the process about its beginning."""

    doing: str = ""  # what, and how much of it is done (0 to 1)
    share: float = 0.0
    notice: str = ""  # what the user should know
    is_ready: bool = False  # the beginning is over, and all is well
    code: int = ExitCode.OK  # not OK: it is over, and this is why
    line: str = ""


#: Tells the command; OSError if it is gone.
Tell = Callable[[Message], None]


def spawn(main: Callable[[Tell], int]) -> Iterator[Message]:
    """Run ``main`` in a process of its own; yield what it tells until its beginning is over.

    The command has one thread, and has shown what it had to show.
    """
    reader, writer = os.pipe()
    middle = os.fork()
    if not middle:
        _become_daemon(writer, main)
    os.close(writer)
    os.waitpid(middle, 0)
    with os.fdopen(reader, "rb") as lines:
        for line in lines:  # it ends when the process closes its end, with or without a word
            yield msgspec.json.decode(line, type=Message)


def redirect(path: str) -> None:
    """Let what this process says from now on go to a file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for each in (sys.stdout, sys.stderr):
        each.flush()
        os.dup2(fd, each.fileno())
    os.close(fd)


def _become_daemon(writer: int, main: Callable[[Tell], int]) -> None:
    """Be the process in the middle, and then the one that stays; never returns."""
    code = int(ExitCode.INTERNAL)
    try:
        os.setsid()
        if os.fork():  # a leader of a session could come by a terminal
            os._exit(0)
        os.umask(_UMASK)
        _close_all_but(writer)
        code = main(Teller(writer).tell)
    except BaseException:  # noqa: BLE001  nobody above may see the command twice
        sys.excepthook(*sys.exc_info())
    finally:
        for each in (sys.stdout, sys.stderr):
            with suppress(OSError):  # nobody is left to be told
                each.flush()
        os._exit(code)


def _close_all_but(kept: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


class Teller:
    """The process's end of the pipe, until the beginning is over."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def tell(self, message: Message) -> None:
        """Tell the command; OSError if it is gone.  Later nobody is there to be told anything."""
        if self._fd is None:
            return
        os.write(self._fd, msgspec.json.encode(message) + b"\n")
        if message.is_ready or message.code:
            os.close(self._fd)
            self._fd = None
