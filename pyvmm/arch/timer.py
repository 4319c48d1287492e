"""The generic timer: its control registers, and EL1's control of EL0.

Spec: Arm ARM DDI 0487, "The Generic Timer in AArch64 state".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pyvmm.arch.bits import Field, Register


class CNT_CTL(Register):
    """CNTV_CTL_EL0 and CNTP_CTL_EL0."""

    ENABLE = Field(0, 0, bool)
    IMASK = Field(1, 1, bool)
    ISTATUS = Field(2, 2, bool)


@dataclass(frozen=True, slots=True)
class SystemCounter:
    """The counter of the machine, as a device on its bus uses it."""

    read: Callable[[], int]
    frequency: int  # ticks per second


CTL_FIELDS: Final = CNT_CTL.ENABLE.mask | CNT_CTL.IMASK.mask | CNT_CTL.ISTATUS.mask
#: Enabled, not masked, condition met: the output is high.
CTL_ASSERTED: Final = CNT_CTL.ENABLE.mask | CNT_CTL.ISTATUS.mask


class CNTKCTL_EL1(Register):
    """Counter-timer Kernel Control Register."""

    EL0PCTEN = Field(0, 0, bool)  # EL0 may read the physical counter
    EL0VCTEN = Field(1, 1, bool)  # EL0 may read the virtual counter
    EL0VTEN = Field(8, 8, bool)  # EL0 may use the virtual timer
    EL0PTEN = Field(9, 9, bool)  # EL0 may use the physical timer
