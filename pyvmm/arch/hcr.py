"""HCR_EL2: which events EL2 takes or traps from the guest below it.

Spec: Arm ARM DDI 0487, HCR_EL2.
"""

from pyvmm.arch.bits import Field, Register


class HCR_EL2(Register):
    """Hypervisor Configuration Register: the bits that this project sets or reads."""

    VM = Field(0, 0, bool)
    SWIO = Field(1, 1, bool)
    PTW = Field(2, 2, bool)
    FMO = Field(3, 3, bool)
    IMO = Field(4, 4, bool)
    AMO = Field(5, 5, bool)
    VSE = Field(8, 8, bool)
    TWI = Field(13, 13, bool)
    TWE = Field(14, 14, bool)
    TID3 = Field(18, 18, bool)
    TSC = Field(19, 19, bool)
    TIDCP = Field(20, 20, bool)
    TACR = Field(21, 21, bool)
    TGE = Field(27, 27, bool)
    RW = Field(31, 31, bool)
    E2H = Field(34, 34, bool)
    TEA = Field(37, 37, bool)
    APK = Field(40, 40, bool)
    API = Field(41, 41, bool)
    FWB = Field(46, 46, bool)
