"""The control and status registers of floating point.

Spec: Arm ARM DDI 0487, FPCR, FPSR.
"""

from pyvmm.arch.bits import Field, Register


class FPCR(Register):
    """Floating-point Control Register: what there is without FEAT_FP16 and trapped exceptions."""

    RMODE = Field(23, 22, int)
    FZ = Field(24, 24, bool)
    DN = Field(25, 25, bool)
    AHP = Field(26, 26, bool)


class FPSR(Register):
    """Floating-point Status Register."""

    IOC = Field(0, 0, bool)
    DZC = Field(1, 1, bool)
    OFC = Field(2, 2, bool)
    UFC = Field(3, 3, bool)
    IXC = Field(4, 4, bool)
    IDC = Field(7, 7, bool)
    QC = Field(27, 27, bool)  # an integer operation saturated
