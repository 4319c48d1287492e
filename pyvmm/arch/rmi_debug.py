"""Vendor commands of our RMM for the host to debug a realm that allows it.

A measured command during a realm's construction allows it; the commands are refused for all other
realms.  Spec: docs/debugging.md, "Realms".
"""

from enum import IntEnum
from typing import Final

from pyvmm.arch.bits import U64, Layout, U64Array
from pyvmm.arch.pas import GRANULE_SIZE

MAX_BREAKPOINTS: Final = 256
MAX_WATCHPOINTS: Final = 16
WATCHPOINT_WORDS: Final = 3  # address, size, access: 1 reads, 2 writes
RIM_TYPE: Final = 0x80  # type of the measurement descriptor; RMM 1.0 uses 0 to 2


class DebugRmiFid(IntEnum):
    """Vendor specific function ids of the host's commands."""

    RMI_PYVMM_DEBUG_ALLOW = 0xC700_01A0
    RMI_PYVMM_DEBUG_READ_REGISTERS = 0xC700_01A1
    RMI_PYVMM_DEBUG_WRITE_REGISTERS = 0xC700_01A2
    RMI_PYVMM_DEBUG_READ_MEMORY = 0xC700_01A3
    RMI_PYVMM_DEBUG_WRITE_MEMORY = 0xC700_01A4
    RMI_PYVMM_DEBUG_SET_POINTS = 0xC700_01A5


class DebugRegisters(Layout, size=GRANULE_SIZE):
    """The registers of a REC."""

    x = U64Array(0x000, 31)
    pc = U64(0x0F8)
    pstate = U64(0x100)
    sp_el0 = U64(0x108)
    sp_el1 = U64(0x110)
    fpcr = U64(0x118)
    fpsr = U64(0x120)
    v = U64Array(0x200, 64)
    csselr_el1 = U64(0x400)
    sctlr_el1 = U64(0x408)
    cpacr_el1 = U64(0x410)
    ttbr0_el1 = U64(0x418)
    ttbr1_el1 = U64(0x420)
    tcr_el1 = U64(0x428)
    spsr_el1 = U64(0x430)
    elr_el1 = U64(0x438)
    afsr0_el1 = U64(0x440)
    afsr1_el1 = U64(0x448)
    esr_el1 = U64(0x450)
    far_el1 = U64(0x458)
    par_el1 = U64(0x460)
    mair_el1 = U64(0x468)
    amair_el1 = U64(0x470)
    vbar_el1 = U64(0x478)
    contextidr_el1 = U64(0x480)
    tpidr_el1 = U64(0x488)
    tpidr_el0 = U64(0x490)
    tpidrro_el0 = U64(0x498)
    cntkctl_el1 = U64(0x4A0)
    cntp_ctl = U64(0x4A8)
    cntp_cval = U64(0x4B0)
    cntv_ctl = U64(0x4B8)
    cntv_cval = U64(0x4C0)
    mdscr_el1 = U64(0x4C8)
    pmselr = U64(0x4D0)
    pmuserenr = U64(0x4D8)


class DebugPoints(Layout, size=GRANULE_SIZE):
    """The points at which a REC stops; addresses are virtual."""

    step = U64(0x000)  # 1: after one instruction
    num_breakpoints = U64(0x008)
    num_watchpoints = U64(0x010)
    watchpoints = U64Array(0x100, WATCHPOINT_WORDS * MAX_WATCHPOINTS)
    breakpoints = U64Array(0x800, MAX_BREAKPOINTS)
