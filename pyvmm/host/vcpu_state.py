"""The host's knowledge of a vCPU, for the report about the guest's end."""

from collections.abc import Sequence
from dataclasses import dataclass

from pyvmm.arch.machine import GuestRegisters


class LastExit:
    """The last exit that a vCPU caused; interrupts of the host are not recorded.

    It is written at every exit, so it is a plain object with slots.
    """

    __slots__ = ("call", "esr", "ipa")

    def __init__(self) -> None:
        self.esr: int | None = None  # ESR_EL2 of the last synchronous exit
        self.ipa = 0  # of the last abort; without the alias bit of a realm
        self.call: int | None = None  # function id of the last PSCI or RSI call


@dataclass(frozen=True, slots=True)
class VcpuState:
    """The state of a vCPU that stands still."""

    is_on: bool
    exits: Sequence[int]  # by ExitKind
    last: LastExit
    registers: GuestRegisters | None = None  # None: a realm hides them
