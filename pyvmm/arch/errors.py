"""The one exception that is shown to a user as a line instead of a traceback."""


class UserError(Exception):
    """A user's mistake: its text says what is wrong and what to do; exit code 2."""
