"""The exit codes of every verb, and the failure that carries one.

`docs/exit-codes.md` shows this table to users.
"""

from enum import IntEnum
from typing import Final

from pyvmm.arch.text import printable


class ExitCode(IntEnum):
    """The exit code of a verb or an instance; part of the public interface."""

    OK = 0
    DIFFERENT = 1
    BAD_INPUT = 2
    PANIC = 3
    CRASHED = 4
    QUIT = 5
    REFUSED = 6
    ENDED = 7
    UNREACHABLE = 8
    STORAGE = 9
    WATCHDOG = 10
    INTERNAL = 70
    TIMEOUT = 124
    INTERRUPTED = 130
    UNREAD = 141


MEANINGS: Final = {
    ExitCode.OK: "success; for a guest: it powered off or requested a reset",
    ExitCode.DIFFERENT: "the inputs compared are different",
    ExitCode.BAD_INPUT: "the request is invalid or not possible now; nothing was done",
    ExitCode.PANIC: "the guest's console showed a kernel panic",
    ExitCode.CRASHED: "the guest failed unrecoverably",
    ExitCode.QUIT: "the guest was stopped: Ctrl-A x, a signal, `pyvmm stop`, `pyvmm destroy`",
    ExitCode.REFUSED: "the RMM or the host refused to create or start the guest",
    ExitCode.ENDED: "the guest ended before the awaited event",
    ExitCode.UNREACHABLE: "the instance died or does not answer",
    ExitCode.STORAGE: "the host's storage failed: the latest writes may be lost",
    ExitCode.WATCHDOG: "the guest's watchdog expired",
    ExitCode.INTERNAL: "a defect in pyvmm; a traceback shows where",
    ExitCode.TIMEOUT: "the time given by --timeout ran out, as with timeout(1)",
    ExitCode.INTERRUPTED: "the verb was interrupted by Ctrl-C",
    ExitCode.UNREAD: "the reader of the output is gone, as when SIGPIPE ends a program",
}


class Failure(Exception):
    """A failure: one line that says what failed, and the exit code.

    The traceback of a defect has more lines.
    """

    def __init__(self, code: ExitCode, line: str) -> None:
        lines = line.splitlines() if code is ExitCode.INTERNAL else [line]
        super().__init__("\n".join(map(printable, lines)))
        self.code = code
