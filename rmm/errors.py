"""The failures of commands, and the exception that suspends an RSI call.

- ``RmiError``: an RMI command failed; the host gets the status, and nothing has changed.
- ``Incomplete``: an RMI command has begun an operation, which the host has to continue.
- ``RsiError``: an RSI command failed; the realm gets the status.
- ``RealmPageMissing``: an RSI command needs a page that the host has not provided yet; the host
  gets a stage-2 fault, and the realm executes the SMC again.
"""

from pyvmm.arch.rmi import RmiStatus
from pyvmm.arch.rmi2 import CAN_CANCEL, OP_MEMORY_SHIFT, OpMemory
from pyvmm.arch.rsi import RsiStatus


class RmiError(Exception):
    """The result of a failed RMI command: a status, its index, and x1.. if it has outputs."""

    def __init__(self, status: RmiStatus, index: int = 0, *outputs: int) -> None:
        super().__init__(status, index)
        self.results = (status | index << 8, *outputs)


class Incomplete(RmiError):
    """The result of an operation that expects something of the host; then x1.. ."""

    def __init__(self, memory: OpMemory, *outputs: int, can_cancel: bool) -> None:
        super().__init__(RmiStatus.INCOMPLETE)
        x0 = RmiStatus.INCOMPLETE | memory << OP_MEMORY_SHIFT
        self.results = (x0 | CAN_CANCEL if can_cancel else x0, *outputs)


class RsiError(Exception):
    """The result of a failed RSI command."""

    def __init__(self, status: RsiStatus) -> None:
        super().__init__(status)
        self.results = (int(status),)


class RealmPageMissing(Exception):
    """A protected IPA without a page; the RTT walk ended at ``level``."""

    def __init__(self, ipa: int, level: int) -> None:
        super().__init__(ipa, level)
        self.ipa = ipa
        self.level = level
