"""The granule protection table: its encodings, and the registers that control it.

It has two levels.  An L0 entry covers 1 GiB: a *block* gives it one GPI, a *table* points to an L1
table.  An L1 entry covers 16 granules (64 KiB): one GPI per nibble, or, as a *contiguous
descriptor*, one GPI for the whole 2 MiB, 32 MiB or 512 MiB around it; every entry of that region
then contains the same descriptor.

Spec: Arm ARM DDI 0487, D9 "Granule Protection Check Mechanism".
"""

from typing import Final

from pyvmm.arch.bits import Field, OpenEnum, Register
from pyvmm.arch.pas import GRANULE_SHIFT, Pas


class Gpi(OpenEnum):
    """Granule protection information: a nibble of the table; reserved values deny access."""

    NO_ACCESS = 0x0
    SECURE = 0x8
    NS = 0x9
    ROOT = 0xA
    REALM = 0xB
    ANY = 0xF


def gpi_of(pas: Pas) -> Gpi:
    """Return the GPI of a granule that belongs to ``pas``."""
    return Gpi(0x8 | pas)


L0_SHIFT: Final = 30  # GPCCR_EL3.L0GPTSZ = 0: an L0 entry is 1 GiB
L0_REGION: Final = 1 << L0_SHIFT
L0_BLOCK: Final = 1
L0_TABLE: Final = 3
L0_BLOCK_GPI_SHIFT: Final = 4

GRANULES_PER_ENTRY: Final = 16
L1_ENTRY_SHIFT: Final = GRANULE_SHIFT + 4
L1_ENTRIES: Final = L0_REGION >> L1_ENTRY_SHIFT
L1_SIZE: Final = 8 * L1_ENTRIES  # 128 KiB, and aligned to it

CONTIGUOUS: Final = 1  # bits[3:0] of a contiguous descriptor
CONTIGUOUS_GPI_SHIFT: Final = 4
CONTIGUOUS_SIZE_SHIFT: Final = 8


class Contig(OpenEnum):
    """Size field of a contiguous descriptor."""

    RESERVED = 0
    MB_2 = 1
    MB_32 = 2
    MB_512 = 3


#: log2 of the bytes that a contiguous descriptor covers.
CONTIG_SHIFT: Final = {Contig.MB_2: 21, Contig.MB_32: 25, Contig.MB_512: 29}


def granules_descriptor(gpi: int) -> int:
    """Return the L1 entry whose 16 granules all have ``gpi``.

    >>> hex(granules_descriptor(Gpi.REALM))
    '0xbbbbbbbbbbbbbbbb'
    """
    return gpi * 0x1111_1111_1111_1111


def contiguous_descriptor(gpi: int, size: Contig) -> int:
    """Return the L1 entry of a contiguous region.

    >>> hex(contiguous_descriptor(Gpi.NS, Contig.MB_512))
    '0x391'
    """
    return CONTIGUOUS | gpi << CONTIGUOUS_GPI_SHIFT | size << CONTIGUOUS_SIZE_SHIFT


class GPCCR_EL3(Register):
    """Granule Protection Check Control Register."""

    L0GPTSZ = Field(23, 20, int)  # 0: 1 GiB
    GPCP = Field(17, 17, bool)
    GPC = Field(16, 16, bool)  # the check is on
    PGS = Field(15, 14, int)  # 0: 4 KiB; 0b10 is 16 KiB: not a typo
    SH = Field(13, 12, int)
    ORGN = Field(11, 10, int)
    IRGN = Field(9, 8, int)
    PPS = Field(2, 0, int)  # index into PPS_BITS


#: log2 of the protected physical address space by GPCCR_EL3.PPS.
PPS_BITS: Final = (32, 36, 40, 42, 44, 48, 52)
GPTBR_SHIFT: Final = 12  # GPTBR_EL3.BADDR is the address of the L0 table, shifted by this
