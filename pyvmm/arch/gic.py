"""GICv3 and its virtual CPU interface: register offsets and fields visible to software.

Affinity routing is on, and there is a single security state; only the registers for this
configuration are listed.  ``its.py`` has the registers of the ITS.  Spec: Arm IHI 0069 (GICv3/v4).
"""

from typing import Final

from pyvmm.arch.bits import Field, Register

# --- interrupt numbers --------------------------------------------------------------------
NUM_SGIS: Final = 16
NUM_PRIVATE: Final = 32  # INTID 0..15 SGIs, 16..31 PPIs
MAX_SPI_INTID: Final = 1019
PPI_PMU: Final = 23
PPI_MAINTENANCE: Final = 25
PPI_HYP_PHYSICAL_TIMER: Final = 26
PPI_VIRTUAL_TIMER: Final = 27
PPI_HYP_VIRTUAL_TIMER: Final = 28
PPI_PHYSICAL_TIMER: Final = 30

# --- frames -------------------------------------------------------------------------------
GICD_SIZE: Final = 0x1_0000
GICR_SIZE: Final = 0x2_0000  # RD frame, then SGI frame
GICR_SGI_FRAME: Final = 0x1_0000

# --- distributor (and, from IGROUPR to ICFGR, the SGI frame) -------------------------------
GICD_CTLR: Final = 0x0000
GICD_TYPER: Final = 0x0004
GICD_IIDR: Final = 0x0008
GICD_IGROUPR: Final = 0x0080
GICD_ISENABLER: Final = 0x0100
GICD_ICENABLER: Final = 0x0180
GICD_ISPENDR: Final = 0x0200
GICD_ICPENDR: Final = 0x0280
GICD_ISACTIVER: Final = 0x0300
GICD_ICACTIVER: Final = 0x0380
GICD_IPRIORITYR: Final = 0x0400
GICD_ITARGETSR: Final = 0x0800  # first offset after IPRIORITYR
GICD_ICFGR: Final = 0x0C00
GICD_IGRPMODR: Final = 0x0D00  # first offset after ICFGR
GICD_IROUTER: Final = 0x6000  # + 8 * INTID
GICD_IROUTER_END: Final = 0x8000
GIC_PIDR2: Final = 0xFFE8  # in the GICD and in the RD frame

GICD_CTLR_GRP0: Final = 1 << 0
GICD_CTLR_GRP1: Final = 1 << 1
GICD_CTLR_ARE: Final = 1 << 4
GICD_CTLR_DS: Final = 1 << 6
GICD_TYPER_LPIS: Final = 1 << 17
GICD_TYPER_ID_BITS_SHIFT: Final = 19  # the number of INTID bits minus one
GICD_TYPER_A3V: Final = 1 << 24
GICD_TYPER_NO1N: Final = 1 << 25
PIDR2_GICV3: Final = 3 << 4

# --- redistributor, RD frame --------------------------------------------------------------
GICR_CTLR: Final = 0x0000
GICR_IIDR: Final = 0x0004
GICR_TYPER: Final = 0x0008  # 64 bits
GICR_WAKER: Final = 0x0014
GICR_PROPBASER: Final = 0x0070  # 64 bits, like the next three
GICR_PENDBASER: Final = 0x0078
GICR_INVLPIR: Final = 0x00A0
GICR_INVALLR: Final = 0x00B0
GICR_SYNCR: Final = 0x00C0

GICR_CTLR_ENABLE_LPIS: Final = 1 << 0
GICR_CTLR_CES: Final = 1 << 1  # EnableLPIs can be cleared
GICR_CTLR_IR: Final = 1 << 2  # INVLPIR, INVALLR and SYNCR exist
GICR_TYPER_PLPIS: Final = 1 << 0
GICR_TYPER_LAST: Final = 1 << 4
GICR_TYPER_NUMBER_SHIFT: Final = 8
GICR_TYPER_AFFINITY_SHIFT: Final = 32


class PROPBASER(Register):
    """GICR_PROPBASER: the LPI configuration table, one byte for each LPI."""

    IDBITS = Field(4, 0, int)  # the number of INTID bits minus one
    INNER_CACHE = Field(9, 7, int)
    SHAREABILITY = Field(11, 10, int)
    ADDRESS = Field(51, 12, int)
    OUTER_CACHE = Field(58, 56, int)


class PENDBASER(Register):
    """GICR_PENDBASER: the LPI pending table, one bit for each INTID."""

    INNER_CACHE = Field(9, 7, int)
    SHAREABILITY = Field(11, 10, int)
    ADDRESS = Field(51, 16, int)
    OUTER_CACHE = Field(58, 56, int)
    PTZ = Field(62, 62, bool)  # the table is zero; reads as zero


#: A byte of the LPI configuration table.
LPI_ENABLED: Final = 1 << 0
LPI_PRIORITY_MASK: Final = 0xFC

# --- ICC_SGI1R_EL1 ------------------------------------------------------------------------
SGI_INTID_SHIFT: Final = 24
SGI_AFF1_SHIFT: Final = 16
SGI_AFF2_SHIFT: Final = 32
SGI_AFF3_SHIFT: Final = 48
SGI_RS_SHIFT: Final = 44
SGI_IRM: Final = 1 << 40  # 1: every PE but the sender

# --- ICH_LR<n>_EL2, ICH_HCR_EL2 -----------------------------------------------------------
NUM_LRS: Final = 4
ICH_LR_INTID_MASK: Final = 0xFFFF_FFFF
ICH_LR_EOI: Final = 1 << 41  # HW = 0: maintenance interrupt at the EOI
ICH_LR_PRIORITY_SHIFT: Final = 48
ICH_LR_PINTID_SHIFT: Final = 32  # HW = 1: the physical interrupt
ICH_LR_PINTID_MASK: Final = 0x1FFF
ICH_LR_GROUP1: Final = 1 << 60
ICH_LR_HW: Final = 1 << 61
ICH_LR_PENDING: Final = 1 << 62
ICH_LR_ACTIVE: Final = 1 << 63

ICH_HCR_EN: Final = 1 << 0
ICH_HCR_UIE: Final = 1 << 1  # maintenance interrupt when at most one list register is in use
ICH_HCR_TC: Final = 1 << 10
ICH_HCR_TALL0: Final = 1 << 11
ICH_HCR_TALL1: Final = 1 << 12
ICH_HCR_TDIR: Final = 1 << 14
ICH_HCR_EOICOUNT_SHIFT: Final = 27

PRIORITY_BITS: Final = 5
PRIORITY_MASK: Final = 0xF8  # of them


class ICH_VMCR_EL2(Register):
    """Interrupt Controller Virtual Machine Control Register."""

    VENG0 = Field(0, 0, bool)
    VENG1 = Field(1, 1, bool)
    VFIQEN = Field(3, 3, bool)
    VCBPR = Field(4, 4, bool)
    VEOIM = Field(9, 9, bool)
    VBPR1 = Field(20, 18, int)
    VBPR0 = Field(23, 21, int)
    VPMR = Field(31, 24, int)


class ICH_MISR_EL2(Register):
    """Maintenance Interrupt State Register; ICH_HCR_EL2 enables U to VGRP1D, bit by bit."""

    EOI = Field(0, 0, bool)
    U = Field(1, 1, bool)
    LRENP = Field(2, 2, bool)
    NP = Field(3, 3, bool)
    VGRP0E = Field(4, 4, bool)
    VGRP0D = Field(5, 5, bool)
    VGRP1E = Field(6, 6, bool)
    VGRP1D = Field(7, 7, bool)


# --- INTIDs with a meaning of their own ---------------------------------------------------
FIRST_SPECIAL_INTID: Final = 1020
SPURIOUS_INTID: Final = 1023
FIRST_LPI_INTID: Final = 8192
LPI_ID_BITS: Final = 14  # of an INTID, with an ITS; 10 without
NUM_LPIS: Final = (1 << LPI_ID_BITS) - FIRST_LPI_INTID

MPIDR_RES1: Final = 1 << 31


def affinity_of(cpu: int) -> int:
    """Return the affinity (Aff3.Aff2.Aff1.Aff0 in 32 bits) of a CPU; 16 CPUs share an Aff1.

    >>> hex(affinity_of(17))
    '0x101'
    """
    return cpu & 0xF | (cpu >> 4 & 0xFF) << 8 | (cpu >> 12 & 0xFF) << 16 | (cpu >> 20 & 0xFF) << 24


def mpidr_of(cpu: int) -> int:
    """Return MPIDR_EL1 of a CPU: its affinity in register layout, with RES1 bit 31.

    >>> hex(mpidr_of(17))
    '0x80000101'
    """
    affinity = affinity_of(cpu)
    return affinity & 0xFF_FFFF | MPIDR_RES1 | (affinity >> 24) << 32
