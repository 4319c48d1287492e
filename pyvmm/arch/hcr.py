"""HCR_EL2 and its like: which events EL2 takes or traps from the guest below it.

Spec: Arm ARM DDI 0487, HCR_EL2, CPTR_EL2, MDCR_EL2, CNTHCTL_EL2.
"""

from typing import Final

from pyvmm.arch.bits import Field, Register


class HCR_EL2(Register):
    """Hypervisor Configuration Register: the bits that this project sets or reads."""

    VM = Field(0, 0, bool)
    SWIO = Field(1, 1, bool)
    PTW = Field(2, 2, bool)
    FMO = Field(3, 3, bool)
    IMO = Field(4, 4, bool)
    AMO = Field(5, 5, bool)
    VF = Field(6, 6, bool)
    VI = Field(7, 7, bool)
    VSE = Field(8, 8, bool)
    FB = Field(9, 9, bool)
    DC = Field(12, 12, bool)
    TWI = Field(13, 13, bool)
    TWE = Field(14, 14, bool)
    TID1 = Field(16, 16, bool)
    TID2 = Field(17, 17, bool)
    TID3 = Field(18, 18, bool)
    TSC = Field(19, 19, bool)
    TIDCP = Field(20, 20, bool)
    TACR = Field(21, 21, bool)
    TSW = Field(22, 22, bool)
    TPCP = Field(23, 23, bool)
    TPU = Field(24, 24, bool)
    TTLB = Field(25, 25, bool)
    TVM = Field(26, 26, bool)
    TGE = Field(27, 27, bool)
    TDZ = Field(28, 28, bool)
    HCD = Field(29, 29, bool)
    TRVM = Field(30, 30, bool)
    RW = Field(31, 31, bool)
    E2H = Field(34, 34, bool)
    TEA = Field(37, 37, bool)
    APK = Field(40, 40, bool)
    API = Field(41, 41, bool)
    FWB = Field(46, 46, bool)
    GPF = Field(48, 48, bool)  # granule protection faults of EL1 go to EL2


class CPTR_EL2(Register):
    """Architectural Feature Trap Register."""

    TFP = Field(10, 10, bool)
    FPEN = Field(21, 20, int)  # with E2H
    TCPAC = Field(31, 31, bool)


class MDCR_EL2(Register):
    """Monitor Debug Configuration Register."""

    HPMN = Field(4, 0, int)  # event counters of EL1 and EL0
    TPMCR = Field(5, 5, bool)
    TPM = Field(6, 6, bool)
    TDE = Field(8, 8, bool)
    TDA = Field(9, 9, bool)
    TDOSA = Field(10, 10, bool)
    TDRA = Field(11, 11, bool)


#: MDCR_EL2 of a guest without performance monitors.
MDCR_NO_PMU: Final = int(MDCR_EL2.of(TPM=1, TPMCR=1))


class CNTHCTL_EL2(Register):
    """Counter-timer Hypervisor Control Register."""

    EL1PCTEN = Field(0, 0, bool)  # EL1 may read the physical counter
    EL1PCEN = Field(1, 1, bool)  # EL1 may use the physical timer
    EL0 = Field(9, 2, int)  # with E2H, as in CNTKCTL_EL1
    EL1PCTEN_E2H = Field(10, 10, bool)  # the same with E2H
    EL1PTEN_E2H = Field(11, 11, bool)


class TCR_EL2(Register):
    """Translation Control Register of EL2 without E2H, where it differs from TCR_EL1."""

    PS = Field(18, 16, int)
    TBI = Field(20, 20, bool)
    HA = Field(21, 21, bool)
    HD = Field(22, 22, bool)
    TBID = Field(29, 29, bool)


#: Bits that are one without E2H.
CPTR_EL2_RES1: Final = 0x33FF
SCTLR_EL2_RES1: Final = 0x30C5_0830
TCR_EL2_RES1: Final = 1 << 31 | 1 << 23
