"""What goes wrong: the exceptions of the command line, which prints them as one line.

``UserError`` is a request that is invalid or not possible now (exit code 2).  ``Failure`` has the
exit code of everything else as its ``code``; docs/exit-codes.md lists them.
"""

from typing import NoReturn

from pyvmm.arch.errors import UserError
from pyvmm.vm.exit_code import ExitCode, Failure

__all__ = ["ExitCode", "Failure", "UserError", "fail"]


def fail(code: int, errors: str) -> NoReturn:
    """Raise what a verb that ended with ``code`` has printed."""
    line = errors.strip().splitlines()[-1].removeprefix("pyvmm: ") if errors.strip() else ""
    if code == ExitCode.BAD_INPUT:
        raise UserError(line)
    known = ExitCode(code) if code in set(ExitCode) else ExitCode.INTERNAL
    raise Failure(known, line or f"pyvmm ended with code {code}")
