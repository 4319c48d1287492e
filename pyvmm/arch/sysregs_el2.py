"""System registers of EL2, and those of EL1 as EL2 names them.

Only a context with EL2 has them, and only while it is at EL2.  Then the core's registers of EL1 are
EL2's, and those of EL1 are in the places of EL2's (``core/el2.c``), which is why the ``storage`` of
a pair is exchanged here.

Spec: Arm DDI 0487, "AArch64 System Register Encoding", "The Virtualization Host Extensions".
"""

from dataclasses import replace
from typing import Final

from pyvmm.arch.gic import NUM_LRS, PRIORITY_BITS
from pyvmm.arch.hcr import CNTHCTL_EL2, CPTR_EL2, HCR_EL2, MDCR_EL2
from pyvmm.arch.sysregs import (
    EL2_RW,
    SYSREGS,
    SysReg,
    bit_range,
    mask_of,
)
from pyvmm.arch.timer import CNT_CTL

#: Registers that EL1 and EL2 both have, and their number of EL2, if it is not that of EL1.
_PAIRS: Final = {
    "TTBR0": True,  # whether a write does more than to store
    "TTBR1": True,
    "SPSR": False,
    "ELR": False,
    "AFSR0": False,
    "AFSR1": False,
    "ESR": False,
    "FAR": False,
    "MAIR": True,
    "AMAIR": False,
    "VBAR": False,
    "CONTEXTIDR": False,
}
_EL1: Final = {row.name: row for row in SYSREGS}
_VTR: Final = (
    NUM_LRS - 1
    | 1 << 19  # TDS: ICH_HCR_EL2.TDIR exists
    | 1 << 20  # nV4: no direct injection
    | 1 << 21  # A3V
    | (PRIORITY_BITS - 1) << 26
    | (PRIORITY_BITS - 1) << 29
)
_TIMER_MASK: Final = CNT_CTL.ENABLE.mask | CNT_CTL.IMASK.mask


def _at_el2(name: str, *, has_writer: bool) -> SysReg:
    """Return the row of EL2's own register of a pair."""
    row = _EL1[f"{name}_EL1"]
    return replace(
        row, name=f"{name}_EL2", op1=4, access=EL2_RW, trap=type(row.trap)(0), writer=has_writer
    )


def _el12(name: str, storage: str) -> SysReg:
    """Return the row by which EL2 accesses the register of EL1."""
    row = _EL1[f"{name}_EL1"]
    return replace(
        row,
        name=f"{name}_EL12",
        op1=5,
        access=EL2_RW,
        storage=storage,
        trap=type(row.trap)(0),
        reader=False,
        writer=False,
    )


def _timer(name: str, suffix: str, op1: int, crm: int) -> tuple[SysReg, ...]:
    """Return the rows of one timer."""
    return tuple(
        SysReg(
            f"{name}_{part}_{suffix}",
            3,
            op1,
            14,
            crm,
            op2,
            EL2_RW,
            mask=_TIMER_MASK if part == "CTL" else bit_range(63, 0),
            reader=True,
            writer=True,
        )
        for op2, part in enumerate(("TVAL", "CTL", "CVAL"))
    )


def _control(
    name: str, crm: int, op2: int, mask: int, crn: int = 1, storage: str = "", res1: int = 0
) -> SysReg:
    """Return the row of a control register; without storage it has functions."""
    has_functions = not storage
    return SysReg(
        name,
        3,
        4,
        crn,
        crm,
        op2,
        EL2_RW,
        storage,
        mask=mask,
        res1=res1,
        reader=has_functions,
        writer=has_functions,
    )


EL2_SYSREGS: Final = (
    _control("VPIDR_EL2", 0, 0, bit_range(31, 0), crn=0, storage="st.vpidr_el2"),
    _control("VMPIDR_EL2", 0, 5, bit_range(63, 0), crn=0, storage="st.vmpidr_el2"),
    _control("SCTLR_EL2", 0, 0, bit_range(63, 0)),
    SysReg("ACTLR_EL2", 3, 4, 1, 0, 1, EL2_RW),
    _control("HCR_EL2", 1, 0, mask_of(HCR_EL2)),
    _control("MDCR_EL2", 1, 1, mask_of(MDCR_EL2)),
    _control("CPTR_EL2", 1, 2, mask_of(CPTR_EL2)),
    SysReg("HSTR_EL2", 3, 4, 1, 1, 3, EL2_RW),
    SysReg("HACR_EL2", 3, 4, 1, 1, 7, EL2_RW),
    _control("TCR_EL2", 0, 2, bit_range(63, 0), crn=2),
    _control("VTTBR_EL2", 1, 0, bit_range(63, 0), crn=2, storage="st.vttbr_el2"),
    _control("VTCR_EL2", 1, 2, bit_range(30, 0), crn=2, storage="st.vtcr_el2", res1=1 << 31),
    SysReg("SP_EL1", 3, 4, 4, 1, 0, EL2_RW, "st.sp_el2"),
    SysReg("HPFAR_EL2", 3, 4, 6, 0, 4, EL2_RW, "st.hpfar_el2"),
    SysReg("TPIDR_EL2", 3, 4, 13, 0, 2, EL2_RW, "st.tpidr_el2"),
    *(_at_el2(name, has_writer=has_writer) for name, has_writer in _PAIRS.items()),
    *(_el12(name, f"st.{name.lower()}_el2") for name in (*_PAIRS, "SCTLR", "TCR")),
    _el12("CPACR", "el2.cpacr"),
    _el12("CNTKCTL", "el2.cntkctl"),
    SysReg("CNTVOFF_EL2", 3, 4, 14, 0, 3, EL2_RW, "st.cntvoff_el2", writer=True),
    _control("CNTHCTL_EL2", 1, 0, mask_of(CNTHCTL_EL2), crn=14),
    *_timer("CNTHP", "EL2", 4, 2),
    *_timer("CNTHV", "EL2", 4, 3),
    *_timer("CNTP", "EL02", 5, 2),
    *_timer("CNTV", "EL02", 5, 3),
    SysReg("ICC_SRE_EL2", 3, 4, 12, 9, 5, EL2_RW, value=0xF),
    SysReg("ICH_AP0R0_EL2", 3, 4, 12, 8, 0, EL2_RW, "st.icc_ap0r0", mask=bit_range(31, 0)),
    SysReg("ICH_AP1R0_EL2", 3, 4, 12, 9, 0, EL2_RW, "st.icc_ap1r0", mask=bit_range(31, 0)),
    SysReg(
        "ICH_HCR_EL2", 3, 4, 12, 11, 0, EL2_RW, "st.icc_hcr", mask=bit_range(31, 0), writer=True
    ),
    SysReg("ICH_VTR_EL2", 3, 4, 12, 11, 1, EL2_RW, value=_VTR),
    SysReg("ICH_MISR_EL2", 3, 4, 12, 11, 2, EL2_RW, reader=True),
    SysReg("ICH_EISR_EL2", 3, 4, 12, 11, 3, EL2_RW, reader=True),
    SysReg("ICH_ELRSR_EL2", 3, 4, 12, 11, 5, EL2_RW, reader=True),
    SysReg("ICH_VMCR_EL2", 3, 4, 12, 11, 7, EL2_RW, "st.icc_vmcr", writer=True),
    *(SysReg(f"ICH_LR{n}_EL2", 3, 4, 12, 12, n, EL2_RW, f"st.icc_lr[{n}]") for n in range(NUM_LRS)),
)
