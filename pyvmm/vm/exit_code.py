"""The exit codes of every verb, and the failure that carries one.

`docs/exit-codes.md` is this table for readers.
"""

from enum import IntEnum
from typing import Final

from pyvmm.arch.text import printable


class ExitCode(IntEnum):
    """What a verb, and with it an instance, ends with; part of its interface."""

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
    INTERNAL = 70
    TIMEOUT = 124
    INTERRUPTED = 130
    UNREAD = 141


MEANINGS: Final = {
    ExitCode.OK: "done; of a guest: it powered off, or asked for a reset",
    ExitCode.DIFFERENT: "what was compared is not the same",
    ExitCode.BAD_INPUT: "something asked for is wrong, or not possible now; nothing was done",
    ExitCode.PANIC: "the guest's console showed a kernel panic",
    ExitCode.CRASHED: "the guest did what no guest can go on after",
    ExitCode.QUIT: "the guest was stopped: Ctrl-A x, a signal, `pyvmm stop`, `pyvmm destroy`",
    ExitCode.REFUSED: "the RMM or the host refused to make or start the guest",
    ExitCode.ENDED: "the guest ended before what was waited for came",
    ExitCode.UNREACHABLE: "the instance died, or does not answer",
    ExitCode.STORAGE: "the host's storage failed: what was written last may be lost",
    ExitCode.INTERNAL: "a defect of pyvmm itself; a traceback tells where",
    ExitCode.TIMEOUT: "the time given by --timeout ran out, as timeout(1) says it",
    ExitCode.INTERRUPTED: "the verb was interrupted by Ctrl-C",
    ExitCode.UNREAD: "nobody reads what the verb prints, as of a program that SIGPIPE ends",
}


class Failure(Exception):
    """What could not be done, in one line, and the exit code that says so.

    Of a defect there may be more lines, of a traceback.
    """

    def __init__(self, code: ExitCode, line: str) -> None:
        lines = line.splitlines() if code is ExitCode.INTERNAL else [line]
        super().__init__("\n".join(map(printable, lines)))
        self.code = code
