"""Exceptions that cross packages."""

from pyvmm.arch.text import printable


class UserError(Exception):
    """A user's mistake: its text says what is wrong and what to do; exit code 2.

    The text can be printed and sent, whatever bytes the names in it have.
    """

    def __init__(self, line: str) -> None:
        super().__init__(printable(line))


class RepeatAccess(Exception):
    """A device access that its vCPU has to make once more: the device was not done.

    It gave way because the vCPU is wanted elsewhere: the guest is stopped, paused or debugged.
    """
