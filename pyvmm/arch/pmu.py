"""The performance monitors (FEAT_PMUv3): registers, and the events that the core counts.

Spec: Arm ARM DDI 0487, "The Performance Monitors Extension".
"""

from enum import IntEnum
from typing import Final

from pyvmm.arch.bits import Field, Register

NUM_EVENT_COUNTERS: Final = 6  # of the machine; a hypervisor may show a guest fewer
CYCLE_COUNTER: Final = 31  # its number, and its bit in PMCNTENSET_EL0 and the like
COUNTERS: Final = 1 << CYCLE_COUNTER | (1 << NUM_EVENT_COUNTERS) - 1


class PmuEvent(IntEnum):
    """The events that the core counts: PMCEID0_EL0 and PMCEID1_EL0 report these."""

    SW_INCR = 0x00
    L1I_TLB_REFILL = 0x02
    L1D_TLB_REFILL = 0x05
    LD_RETIRED = 0x06
    ST_RETIRED = 0x07
    INST_RETIRED = 0x08
    EXC_TAKEN = 0x09
    EXC_RETURN = 0x0A
    BR_IMMED_RETIRED = 0x0D
    BR_RETURN_RETIRED = 0x0E
    CPU_CYCLES = 0x11
    MEM_ACCESS = 0x13
    CHAIN = 0x1E
    BR_RETIRED = 0x21
    DTLB_WALK = 0x34
    ITLB_WALK = 0x35


class PMCR_EL0(Register):
    """Performance Monitors Control Register."""

    E = Field(0, 0, bool)  # the counters are enabled
    P = Field(1, 1, bool)  # reset the event counters
    C = Field(2, 2, bool)  # reset the cycle counter
    D = Field(3, 3, bool)  # RES0 without AArch32
    X = Field(4, 4, bool)
    DP = Field(5, 5, bool)
    LC = Field(6, 6, bool)  # the cycle counter overflows at 64 bits; RES1 without AArch32
    N = Field(15, 11, int)  # event counters


class PMEVTYPER_EL0(Register):
    """PMEVTYPER<n>_EL0, and PMCCFILTR_EL0, which has no event."""

    EVENT = Field(9, 0, int)
    U = Field(30, 30, bool)  # do not count at EL0
    P = Field(31, 31, bool)  # do not count at EL1


class PMUSERENR_EL0(Register):
    """What EL0 may access."""

    EN = Field(0, 0, bool)  # everything
    SW = Field(1, 1, bool)  # PMSWINC_EL0, writes
    CR = Field(2, 2, bool)  # PMCCNTR_EL0, reads
    ER = Field(3, 3, bool)  # the event counters, reads, and PMSELR_EL0


def event_mask() -> int:
    """Return the events as a bit map.

    >>> event_mask() >> 0x11 & 1
    1
    """
    return sum(1 << event for event in PmuEvent)


#: PMCEID0_EL0 and PMCEID1_EL0: the common events 0x00 to 0x1F and 0x20 to 0x3F.
PMCEID0: Final = event_mask() & 0xFFFF_FFFF
PMCEID1: Final = event_mask() >> 32
