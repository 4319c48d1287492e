"""How a command fails, and how an RSI call stops halfway.

- ``RmiError``: an RMI command failed; the host sees the status, and nothing changed.
- ``RsiError``: an RSI command failed; the realm sees the status.
- ``RealmPageMissing``: an RSI command needs a page that the host has yet to provide; the host
  sees a stage-2 fault, and the realm executes the SMC again.
"""

from pyvmm.arch.rmi import RmiStatus
from pyvmm.arch.rsi import RsiStatus


class RmiError(Exception):
    """The result of a failed RMI command: a status, its index, and x1.. if it has outputs."""

    def __init__(self, status: RmiStatus, index: int = 0, *outputs: int) -> None:
        super().__init__(status, index)
        self.results = (status | index << 8, *outputs)


class RsiError(Exception):
    """The result of a failed RSI command."""

    def __init__(self, status: RsiStatus) -> None:
        super().__init__(status)
        self.results = (int(status),)


class RealmPageMissing(Exception):
    """A protected IPA without a page; ``level`` is where the RTT walk ended."""

    def __init__(self, ipa: int, level: int) -> None:
        super().__init__(ipa, level)
        self.ipa = ipa
        self.level = level
