"""Stage 2 with the 4 KB granule: descriptors, geometry and VTCR_EL2.

A realm translation table (RTT) is a stage-2 table whose invalid entries carry the RMM's own
state in the bits that the architecture reserves for software:

====================  ==========================================  ==============
entry                 encoding                                    live
====================  ==========================================  ==============
UNASSIGNED            RIPAS << 5                                  no
UNASSIGNED_NS         NS                                          no
ASSIGNED, not RAM     PA | HIPAS 1 << 2 | RIPAS << 5              yes
ASSIGNED, RAM         PA | attributes | page or block             yes
ASSIGNED_NS           PA | attributes | NS | page or block        yes
TABLE                 PA | 3                                      yes
====================  ==========================================  ==============

An entry is live exactly if ``entry & LIVE`` is not zero.
Spec: Arm ARM DDI 0487, D8 (VMSAv8-64 translation table formats); DEN0137 1.0, "RTT entry".
"""

from enum import IntEnum
from typing import Final

from pyvmm.arch.bits import Field, Register
from pyvmm.arch.rmi import Ripas

PAGE_LEVEL: Final = 3
TABLE_BITS: Final = 9
TABLE_ENTRIES: Final = 1 << TABLE_BITS
MIN_BLOCK_LEVEL: Final = 1
MAX_CONCATENATED_BITS: Final = 4  # up to 16 start tables


class S2_DESCRIPTOR(Register):
    """A stage-2 descriptor of a page or block, or an invalid one as described in the module."""

    TYPE = Field(1, 0, int)
    MEMATTR = Field(4, 2, int)  # with FEAT_S2FWB
    S2AP = Field(7, 6, int)
    SH = Field(9, 8, int)
    AF = Field(10, 10, bool)
    OA = Field(47, 12, int)
    XN = Field(54, 53, int)
    NS = Field(55, 55, bool)

    HIPAS = Field(4, 2, int)  # of an invalid entry
    RIPAS = Field(6, 5, int)  # of an invalid entry


class Hipas(IntEnum):
    """HIPAS of an invalid entry: whether the host backs the IPA."""

    UNASSIGNED = 0
    ASSIGNED = 1


VALID: Final = 0b01
TABLE_TYPE: Final = 0b11  # below the page level
PAGE_TYPE: Final = 0b11  # at the page level
BLOCK_TYPE: Final = 0b01
ADDRESS_MASK: Final = S2_DESCRIPTOR.OA.mask
NS: Final = S2_DESCRIPTOR.NS.mask

ASSIGNED: Final = S2_DESCRIPTOR.HIPAS.encode(Hipas.ASSIGNED)
LIVE: Final = VALID | ASSIGNED
RIPAS_SHIFT: Final = S2_DESCRIPTOR.RIPAS.low

UNASSIGNED_EMPTY: Final = Ripas.EMPTY << RIPAS_SHIFT
UNASSIGNED_RAM: Final = Ripas.RAM << RIPAS_SHIFT
UNASSIGNED_DESTROYED: Final = Ripas.DESTROYED << RIPAS_SHIFT
UNASSIGNED_NS: Final = NS

#: Normal write-back regardless of stage 1, inner shareable, read-write, accessed.
RAM_ATTRIBUTES: Final = int(S2_DESCRIPTOR.of(MEMATTR=6, S2AP=3, SH=3, AF=1))
#: Bits that the RMM adds to a host's descriptor: a realm never executes shared memory.
NS_ATTRIBUTES: Final = int(S2_DESCRIPTOR.of(SH=3, AF=1, XN=2, NS=1))


def level_shift(level: int) -> int:
    """Return log2 of the bytes that one entry at ``level`` covers.

    >>> [level_shift(level) for level in (0, 1, 2, 3)]
    [39, 30, 21, 12]
    """
    return 12 + TABLE_BITS * (PAGE_LEVEL - level)


def level_size(level: int) -> int:
    """Return the bytes that one entry at ``level`` covers."""
    return 1 << 12 + TABLE_BITS * (PAGE_LEVEL - level)


def num_start_tables(ipa_bits: int, start_level: int) -> int:
    """Return how many concatenated start tables resolve ``ipa_bits`` from ``start_level``.

    Zero if the combination is not legal (4 KB granule, without FEAT_LPA2).

    >>> [num_start_tables(bits, level) for bits, level in ((39, 1), (40, 1), (33, 2), (48, 0))]
    [1, 2, 8, 1]
    >>> [num_start_tables(bits, level) for bits, level in ((39, 0), (44, 1), (48, -1))]
    [0, 0, 0]
    """
    if not 0 <= start_level <= PAGE_LEVEL:
        return 0
    one_table = level_shift(start_level) + TABLE_BITS
    most = one_table + (MAX_CONCATENATED_BITS if start_level > 0 else 0)
    if not level_shift(start_level) < ipa_bits <= most:
        return 0
    return 1 << max(0, ipa_bits - one_table)


def block_or_page(level: int) -> int:
    """Return the type bits of a leaf at ``level``."""
    return PAGE_TYPE if level == PAGE_LEVEL else BLOCK_TYPE


def is_table(entry: int, level: int) -> bool:
    """Check whether an entry at ``level`` points to a table of the next level."""
    return entry & 0b11 == TABLE_TYPE and level < PAGE_LEVEL


class VTCR_EL2(Register):
    """Virtualization Translation Control Register."""

    T0SZ = Field(5, 0, int)  # 64 - IPA bits
    SL0 = Field(7, 6, int)
    IRGN0 = Field(9, 8, int)
    ORGN0 = Field(11, 10, int)
    SH0 = Field(13, 12, int)
    TG0 = Field(15, 14, int)  # 0: 4 KB
    PS = Field(18, 16, int)
    VS = Field(19, 19, bool)  # 16-bit VMIDs
    HA = Field(21, 21, bool)
    NSA = Field(30, 30, bool)
    RES1 = Field(31, 31, bool)


START_LEVEL_SL0: Final = (2, 1, 0, 3)  # VTCR_EL2.SL0 by start level
VTTBR_VMID_SHIFT: Final = 48


def vtcr(ipa_bits: int, start_level: int, pa_range: int, *, vmid16: bool = True) -> VTCR_EL2:
    """Build VTCR_EL2 for write-back inner-shareable tables; ``pa_range`` as in ID_AA64MMFR0_EL1.

    >>> print(hex(vtcr(40, 1, 5)))
    0xc00d3558
    """
    return VTCR_EL2.of(
        T0SZ=64 - ipa_bits,
        SL0=START_LEVEL_SL0[start_level],
        IRGN0=1,
        ORGN0=1,
        SH0=3,
        PS=pa_range,
        VS=vmid16,
        NSA=1,
        RES1=1,
    )
