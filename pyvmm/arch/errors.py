"""Exceptions that cross packages."""


class UserError(Exception):
    """A user's mistake: its text says what is wrong and what to do; exit code 2."""


class RepeatAccess(Exception):
    """A device access that its vCPU has to make once more: the device was not done.

    It gave way because the vCPU is wanted elsewhere: the guest is stopped, paused or debugged.
    """
