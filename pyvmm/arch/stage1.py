"""Stage-1 descriptors, and what AT reports of stage 1.

Spec: Arm ARM DDI 0487, D8 (VMSAv8-64 translation table formats), PAR_EL1.
"""

from pyvmm.arch.bits import Field, Register


class S1_DESCRIPTOR(Register):
    """A stage-1 descriptor of the EL1&0 regime: page, block or table."""

    VALID = Field(0, 0, bool)
    TYPE = Field(1, 0, int)
    ATTR_INDEX = Field(4, 2, int)  # of MAIR_EL1
    AP1 = Field(6, 6, bool)  # EL0 may access
    AP2 = Field(7, 7, bool)  # read-only
    SH = Field(9, 8, int)
    AF = Field(10, 10, bool)
    NG = Field(11, 11, bool)
    OA = Field(47, 12, int)
    GP = Field(50, 50, bool)  # guarded: FEAT_BTI
    DBM = Field(51, 51, bool)
    PXN = Field(53, 53, bool)
    UXN = Field(54, 54, bool)

    PXN_TABLE = Field(59, 59, bool)  # of a table
    UXN_TABLE = Field(60, 60, bool)  # of a table
    NO_EL0_TABLE = Field(61, 61, bool)  # of a table: APTable[0]
    READ_ONLY_TABLE = Field(62, 62, bool)  # of a table: APTable[1]


class PAR_EL1(Register):
    """Physical Address Register: the result of an address translation instruction."""

    F = Field(0, 0, bool)  # it failed
    FST = Field(6, 1, int)  # with F: the fault status
    SH = Field(8, 7, int)
    PTW = Field(8, 8, bool)  # with F: stage 2 on a stage-1 walk
    S = Field(9, 9, bool)  # with F: of stage 2
    RES1 = Field(11, 11, bool)
    PA = Field(47, 12, int)
    ATTR = Field(63, 56, int)
