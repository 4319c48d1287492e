"""The control registers of EL1: SCTLR_EL1, TCR_EL1, CPACR_EL1.

A write keeps the fields that are listed here (``sysregs.py``), as far as the machine has them.
Spec: Arm ARM DDI 0487, "AArch64 System Register Descriptions".
"""

from typing import Final

from pyvmm.arch.bits import Field, Register


class SCTLR_EL1(Register):
    """System Control Register: the fields that some machine of ours has."""

    M = Field(0, 0, bool)  # stage 1 is on
    A = Field(1, 1, bool)  # accesses must be aligned
    C = Field(2, 2, bool)
    SA = Field(3, 3, bool)  # SP must be aligned, at EL1
    SA0 = Field(4, 4, bool)  # and at EL0
    UMA = Field(9, 9, bool)
    I = Field(12, 12, bool)  # noqa: E741  Arm's spelling
    EnDB = Field(13, 13, bool)  # with FEAT_PAuth
    DZE = Field(14, 14, bool)
    UCT = Field(15, 15, bool)
    nTWI = Field(16, 16, bool)
    nTWE = Field(18, 18, bool)
    WXN = Field(19, 19, bool)
    SPAN = Field(23, 23, bool)  # 1: an exception leaves PSTATE.PAN as it is
    EE = Field(25, 25, bool)  # RES0 here: big-endian data
    UCI = Field(26, 26, bool)
    EnDA = Field(27, 27, bool)  # with FEAT_PAuth
    EnIB = Field(30, 30, bool)  # with FEAT_PAuth
    EnIA = Field(31, 31, bool)  # with FEAT_PAuth
    BT0 = Field(35, 35, bool)  # with FEAT_BTI
    BT1 = Field(36, 36, bool)  # with FEAT_BTI
    DSSBS = Field(44, 44, bool)  # PSTATE.SSBS of an exception


#: Bits that are one whatever is written: EOS, EIS and those that have no function in AArch64.
SCTLR_RES1: Final = 1 << 7 | 1 << 8 | 1 << 11 | 1 << 20 | 1 << 22 | 1 << 28 | 1 << 29
#: MMU and caches off.
SCTLR_RESET: Final = SCTLR_RES1 | SCTLR_EL1.SPAN.mask


class TCR_EL1(Register):
    """Translation Control Register of stage 1."""

    T0SZ = Field(5, 0, int)  # 64 - bits of the lower half of the VA space
    EPD0 = Field(7, 7, bool)
    IRGN0 = Field(9, 8, int)
    ORGN0 = Field(11, 10, int)
    SH0 = Field(13, 12, int)
    TG0 = Field(15, 14, int)  # 0: 4 KB, 1: 64 KB, 2: 16 KB
    T1SZ = Field(21, 16, int)
    A1 = Field(22, 22, bool)  # the ASID is TTBR1_EL1's
    EPD1 = Field(23, 23, bool)
    IRGN1 = Field(25, 24, int)
    ORGN1 = Field(27, 26, int)
    SH1 = Field(29, 28, int)
    TG1 = Field(31, 30, int)  # 1: 16 KB, 2: 4 KB, 3: 64 KB
    IPS = Field(34, 32, int)
    AS = Field(36, 36, bool)  # 16-bit ASIDs
    TBI0 = Field(37, 37, bool)
    TBI1 = Field(38, 38, bool)
    HA = Field(39, 39, bool)
    HD = Field(40, 40, bool)
    TBID0 = Field(51, 51, bool)  # with FEAT_PAuth
    TBID1 = Field(52, 52, bool)  # with FEAT_PAuth
    E0PD0 = Field(55, 55, bool)
    E0PD1 = Field(56, 56, bool)


#: TCR_EL1.TnSZ outside this range counts as the nearest value in it.
MIN_TNSZ: Final = 16
MAX_TNSZ: Final = 39


class CPACR_EL1(Register):
    """Architectural Feature Access Control Register."""

    FPEN = Field(21, 20, int)  # 3: nothing traps; 1: EL0 traps; else both do
