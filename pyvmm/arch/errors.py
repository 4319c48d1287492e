"""Exceptions used across packages."""

from pyvmm.arch.text import printable


class UserError(Exception):
    """A user's mistake: the text says what is wrong and what to do; exit code 2.

    The text can be printed and sent, whatever bytes the names in it have.
    """

    def __init__(self, line: str) -> None:
        super().__init__(printable(line))


class RepeatAccess(Exception):
    """A device access that its vCPU must repeat because the device has not completed it.

    The device gave up because the vCPU is needed elsewhere: the guest is being stopped, paused or
    debugged.
    """
