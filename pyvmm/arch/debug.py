"""Self-hosted debug: its control registers, breakpoints and watchpoints.

Spec: Arm ARM DDI 0487, "AArch64 Self-hosted Debug".
"""

from pyvmm.arch.bits import Field, OpenEnum, Register


class MDSCR_EL1(Register):
    """Monitor Debug System Control Register."""

    SS = Field(0, 0, bool)  # software step
    TDCC = Field(12, 12, bool)
    KDE = Field(13, 13, bool)  # debug exceptions from the level that takes them
    MDE = Field(15, 15, bool)  # breakpoints and watchpoints


class OSLSR_EL1(Register):
    """OS Lock Status Register."""

    OSLK = Field(1, 1, bool)  # locked: no debug exceptions but BRK
    OSLM1 = Field(3, 3, bool)  # with OSLM0 = 0: there is an OS Lock


class BreakpointType(OpenEnum):
    """DBGBCR<n>_EL1.BT: what the breakpoint is compared with."""

    OTHER = -1
    ADDRESS = 0
    LINKED_ADDRESS = 1
    CONTEXT = 2
    LINKED_CONTEXT = 3


class DBGBCR_EL1(Register):
    """Debug Breakpoint Control Register."""

    E = Field(0, 0, bool)
    PMC = Field(2, 1, int)
    SSC = Field(15, 14, int)
    LBN = Field(19, 16, int)
    BT = Field(23, 20, BreakpointType)


class DBGWCR_EL1(Register):
    """Debug Watchpoint Control Register."""

    E = Field(0, 0, bool)
    PAC = Field(2, 1, int)
    LSC = Field(4, 3, int)  # 1: loads, 2: stores
    BAS = Field(12, 5, int)
    SSC = Field(15, 14, int)
    LBN = Field(19, 16, int)
    WT = Field(20, 20, bool)
    MASK = Field(28, 24, int)
