"""System registers of EL1 and EL0, one row each: encoding, access, storage and trap.

The core's table is generated from these rows; tools use the names.  A register that is not listed
and not in the ID register space (whose reserved encodings read as zero) is UNDEFINED.  The ID
registers list exactly what the core implements: an instruction or a control bit that they do not
advertise is UNDEFINED or RES0.  Absent: MTE, SVE, SME, FP16, RAS, SPE, AMU, MPAM.  A
machine may also lack any ``Feature``.

Spec: Arm DDI 0487, "AArch64 System Register Encoding".
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import reduce
from operator import or_
from typing import Final

from pyvmm.arch.bits import Register
from pyvmm.arch.el1 import CPACR_EL1, SCTLR_EL1, SCTLR_RES1, TCR_EL1
from pyvmm.arch.fp import FPCR, FPSR
from pyvmm.arch.pmu import (
    COUNTERS,
    NUM_EVENT_COUNTERS,
    PMCEID0,
    PMCEID1,
    PMCR_EL0,
    PMEVTYPER_EL0,
    PMUSERENR_EL0,
)
from pyvmm.arch.pstate import SPSR_EL1
from pyvmm.arch.timer import CNT_CTL

EL0_READ: Final = 1
EL0_WRITE: Final = 2
EL1_READ: Final = 4
EL1_WRITE: Final = 8
EL2_READ: Final = 16  # only at EL2: ``sysregs_el2.py``
EL2_WRITE: Final = 32
RW: Final = EL1_READ | EL1_WRITE
RO: Final = EL1_READ
WO: Final = EL1_WRITE
EL2_RW: Final = EL2_READ | EL2_WRITE
EL0_RW: Final = RW | EL0_READ | EL0_WRITE
EL0_RO: Final = RO | EL0_READ

ALL_BITS: Final = (1 << 64) - 1


class Feature(IntFlag):
    """Features that the creator of a machine can enable or disable."""

    PAUTH = 1  # FEAT_PAuth2, FEAT_FPACCOMBINE and FEAT_PACIMP
    BTI = 2  # FEAT_BTI
    PMU = 4  # FEAT_PMUv3


#: The features of a machine by default.
DEFAULT_FEATURES: Final = Feature.PAUTH | Feature.BTI | Feature.PMU


class Trap(IntEnum):
    """The controls that may trap an access to EL2, or an access from EL0 to EL1."""

    NONE = 0
    VM = 1  # HCR_EL2.TVM, TRVM
    ID1 = 2  # HCR_EL2.TID1
    ID2 = 3  # HCR_EL2.TID2
    ID3 = 4  # HCR_EL2.TID3
    CTR = 5  # SCTLR_EL1.UCT, HCR_EL2.TID2
    ACTLR = 6  # HCR_EL2.TACR
    CPACR = 7  # CPTR_EL2.TCPAC
    FP = 8  # CPACR_EL1.FPEN, CPTR_EL2.TFP
    DAIF = 9  # SCTLR_EL1.UMA
    DEBUG = 10  # MDCR_EL2.TDA
    DEBUG_OS = 11  # MDCR_EL2.TDOSA
    DEBUG_ROM = 12  # MDCR_EL2.TDRA
    DCC = 13  # MDSCR_EL1.TDCC, MDCR_EL2.TDA
    CNTFRQ = 14  # CNTKCTL_EL1.EL0PCTEN, EL0VCTEN
    CNTVCT = 15  # CNTKCTL_EL1.EL0VCTEN
    CNTPCT = 16  # CNTKCTL_EL1.EL0PCTEN, CNTHCTL_EL2.EL1PCTEN
    CNTV = 17  # CNTKCTL_EL1.EL0VTEN
    CNTP = 18  # CNTKCTL_EL1.EL0PTEN, CNTHCTL_EL2.EL1PCEN
    GIC_COMMON = 19  # ICH_HCR_EL2.TC
    GIC_GROUP0 = 20  # ICH_HCR_EL2.TALL0
    GIC_GROUP1 = 21  # ICH_HCR_EL2.TALL1
    GIC_DIR = 22  # ICH_HCR_EL2.TC, TDIR
    GIC_SGI = 23  # always: the distributor is EL2's
    APK = 24  # HCR_EL2.APK
    PMU = 25  # PMUSERENR_EL0.EN, MDCR_EL2.TPM, as for all of the PMU
    PMU_CONTROL = 26  # MDCR_EL2.TPMCR
    PMU_SWINC = 27  # PMUSERENR_EL0.SW
    PMU_SELECT = 28  # PMUSERENR_EL0.ER
    PMU_CYCLES = 29  # PMUSERENR_EL0.CR for reads
    PMU_COUNTER = 30  # PMUSERENR_EL0.ER for reads
    PMU_USER = 31  # no control of EL0


@dataclass(frozen=True)
class SysReg:
    """One register.

    ``storage`` is its member of the core's ``struct cpu``; a register without storage reads as
    ``value`` and ignores writes.  A write keeps the bits of ``mask`` and sets those of ``res1``.
    ``pauth``, ``bti`` and ``pmu`` are further bits of ``mask``, or of ``value``, of a machine with
    that feature, and ``el2`` of a context with EL2; a machine without ``feature`` lacks the
    register.  ``reader`` and ``writer`` mean that the core has a function for it, ``read_<name>``
    or ``write_<name>``.
    """

    name: str
    op0: int
    op1: int
    crn: int
    crm: int
    op2: int
    access: int
    storage: str = ""
    trap: Trap = Trap.NONE
    mask: int = ALL_BITS
    res1: int = 0
    value: int = 0
    reader: bool = False
    writer: bool = False
    feature: Feature | None = None
    pauth: int = 0
    bti: int = 0
    pmu: int = 0
    el2: int = 0

    @property
    def writable(self) -> int:
        """Return the bits that a write keeps on a machine with all features."""
        return self.mask | self.pauth | self.bti | self.pmu

    @property
    def encoding(self) -> int:
        """Return op0<<14 | op1<<11 | CRn<<7 | CRm<<3 | op2, the core's index of the register.

        >>> hex(SYSREGS[0].encoding)
        '0xc000'
        """
        return self.op0 << 14 | self.op1 << 11 | self.crn << 7 | self.crm << 3 | self.op2

    @property
    def saved(self) -> str | None:
        """Its member of a context, if that is all there is to it; None otherwise."""
        is_saved = self.storage.startswith("st.") and "[" not in self.storage
        return self.storage[3:] if is_saved and "ich_" not in self.storage else None


def bit_range(high: int, low: int) -> int:
    """Return a mask of bits ``high`` to ``low``.

    >>> hex(bit_range(7, 4))
    '0xf0'
    """
    return (1 << high + 1) - (1 << low)


def mask_of(register: type[Register]) -> int:
    """Return the bits of all fields of a register.

    >>> hex(mask_of(CPACR_EL1))
    '0x300000'
    """
    return reduce(or_, (field.mask for field in register.fields()))


def fields(**values: int) -> int:
    """Return an ID register from ``F<lsb>=value`` for its four-bit fields.

    >>> hex(fields(F0=5, F4=2))
    '0x25'
    """
    return sum(value << int(name[1:]) for name, value in values.items())


NUM_BREAKPOINTS: Final = 6
NUM_WATCHPOINTS: Final = 4

MIDR: Final = 0x000F_C0A0  # implementer 0: reserved for software; our part and revision
CTR: Final = (
    1 << 31 | 1 << 28 | 4 << 24 | 4 << 20 | 4 << 16 | 3 << 14 | 4
)  # IDC, 64-byte lines, PIPT
CLIDR: Final = 2 << 24 | 4 << 3 | 3  # L1 instruction and data, L2 unified

PFR0: Final = fields(F0=1, F4=1, F24=1, F48=1, F56=1, F60=1)  # EL0, EL1, GIC, DIT, CSV2, CSV3
PFR1: Final = fields(F4=2)  # SSBS
DFR0: Final = fields(F0=6, F12=NUM_BREAKPOINTS - 1, F20=NUM_WATCHPOINTS - 1, F28=1, F36=15)
ISAR0: Final = fields(F4=2, F8=1, F12=2, F16=1, F20=2, F28=1, F32=1, F44=1, F52=1, F56=2, F60=1)
"""AES+PMULL, SHA1/2/512/3, CRC32, LSE, RDM, DotProd, FlagM, TLBIOS+TLBIRANGE, RNDR."""
ISAR1: Final = fields(F0=1, F20=1, F36=1)  # DPB, LRCPC, SB
MMFR0: Final = fields(
    F0=5, F4=2, F20=1
)  # 48-bit PA, 16-bit ASID; granules of 16 KB and (TGran4, TGran64 = 0) 4 and 64 KB
MMFR1: Final = fields(F0=2, F20=2)  # HAFDBS, PAN2
MMFR2: Final = fields(F0=1, F60=1)  # CnP, E0PD

SCTLR_PAUTH: Final = int(SCTLR_EL1.of(EnIA=1, EnIB=1, EnDA=1, EnDB=1))
SCTLR_BTI: Final = int(SCTLR_EL1.of(BT1=1, BT0=1))
SCTLR_MASK: Final = mask_of(SCTLR_EL1) & ~(SCTLR_PAUTH | SCTLR_BTI | SCTLR_EL1.EE.mask)
TCR_PAUTH: Final = int(TCR_EL1.of(TBID1=1, TBID0=1))
TCR_MASK: Final = mask_of(TCR_EL1) & ~TCR_PAUTH
ISAR1_PAUTH: Final = fields(F8=5, F28=1)  # API: PAuth2, FPACCOMBINE; GPI
PFR0_EL2: Final = fields(F8=1, F12=1)  # EL2, EL3
MMFR1_EL2: Final = fields(F4=2, F8=1, F28=1)  # 16-bit VMID, VHE, XNX
MMFR2_EL2: Final = fields(F40=1)  # FWB
PFR1_BTI: Final = fields(F0=1)  # BT
DFR0_PMU: Final = fields(F8=1)  # PMUVer: PMUv3
PMCCFILTR: Final = PMEVTYPER_EL0.P.mask | PMEVTYPER_EL0.U.mask
PMEVTYPER: Final = PMCCFILTR | PMEVTYPER_EL0.EVENT.mask

_ID: Final = (
    SysReg("MIDR_EL1", 3, 0, 0, 0, 0, RO, value=MIDR, reader=True),
    SysReg("MPIDR_EL1", 3, 0, 0, 0, 5, RO, reader=True),
    SysReg("REVIDR_EL1", 3, 0, 0, 0, 6, RO, trap=Trap.ID1),
    SysReg("ID_AA64PFR0_EL1", 3, 0, 0, 4, 0, RO, trap=Trap.ID3, value=PFR0, el2=PFR0_EL2),
    SysReg("ID_AA64PFR1_EL1", 3, 0, 0, 4, 1, RO, trap=Trap.ID3, value=PFR1, bti=PFR1_BTI),
    SysReg("ID_AA64DFR0_EL1", 3, 0, 0, 5, 0, RO, trap=Trap.ID3, value=DFR0, pmu=DFR0_PMU),
    SysReg("ID_AA64ISAR0_EL1", 3, 0, 0, 6, 0, RO, trap=Trap.ID3, value=ISAR0),
    SysReg("ID_AA64ISAR1_EL1", 3, 0, 0, 6, 1, RO, trap=Trap.ID3, value=ISAR1, pauth=ISAR1_PAUTH),
    SysReg("ID_AA64MMFR0_EL1", 3, 0, 0, 7, 0, RO, trap=Trap.ID3, value=MMFR0),
    SysReg("ID_AA64MMFR1_EL1", 3, 0, 0, 7, 1, RO, trap=Trap.ID3, value=MMFR1, el2=MMFR1_EL2),
    SysReg("ID_AA64MMFR2_EL1", 3, 0, 0, 7, 2, RO, trap=Trap.ID3, value=MMFR2, el2=MMFR2_EL2),
    SysReg("CCSIDR_EL1", 3, 1, 0, 0, 0, RO, trap=Trap.ID2, reader=True),
    SysReg("CLIDR_EL1", 3, 1, 0, 0, 1, RO, trap=Trap.ID2, value=CLIDR),
    SysReg("AIDR_EL1", 3, 1, 0, 0, 7, RO, trap=Trap.ID1),
    SysReg("CSSELR_EL1", 3, 2, 0, 0, 0, RW, "st.csselr_el1", Trap.ID2, mask=0xF),
    SysReg("CTR_EL0", 3, 3, 0, 0, 1, EL0_RO, trap=Trap.CTR, value=CTR),
    SysReg("DCZID_EL0", 3, 3, 0, 0, 7, EL0_RO, reader=True),
)

_CONTROL: Final = (
    SysReg(
        "SCTLR_EL1",
        3,
        0,
        1,
        0,
        0,
        RW,
        "st.sctlr_el1",
        Trap.VM,
        SCTLR_MASK,
        SCTLR_RES1,
        writer=True,
        pauth=SCTLR_PAUTH,
        bti=SCTLR_BTI,
    ),
    SysReg("ACTLR_EL1", 3, 0, 1, 0, 1, RW, trap=Trap.ACTLR),
    SysReg(
        "CPACR_EL1",
        3,
        0,
        1,
        0,
        2,
        RW,
        "st.cpacr_el1",
        Trap.CPACR,
        mask=mask_of(CPACR_EL1),
        writer=True,
    ),
    SysReg("TTBR0_EL1", 3, 0, 2, 0, 0, RW, "st.ttbr0_el1", Trap.VM, writer=True),
    SysReg("TTBR1_EL1", 3, 0, 2, 0, 1, RW, "st.ttbr1_el1", Trap.VM, writer=True),
    SysReg(
        "TCR_EL1",
        3,
        0,
        2,
        0,
        2,
        RW,
        "st.tcr_el1",
        Trap.VM,
        mask=TCR_MASK,
        writer=True,
        pauth=TCR_PAUTH,
    ),
    SysReg("SPSR_EL1", 3, 0, 4, 0, 0, RW, "st.spsr_el1"),
    SysReg("ELR_EL1", 3, 0, 4, 0, 1, RW, "st.elr_el1"),
    SysReg("SP_EL0", 3, 0, 4, 1, 0, RW, "st.sp_el0"),
    SysReg("AFSR0_EL1", 3, 0, 5, 1, 0, RW, "st.afsr0_el1", Trap.VM),
    SysReg("AFSR1_EL1", 3, 0, 5, 1, 1, RW, "st.afsr1_el1", Trap.VM),
    SysReg("ESR_EL1", 3, 0, 5, 2, 0, RW, "st.esr_el1", Trap.VM),
    SysReg("FAR_EL1", 3, 0, 6, 0, 0, RW, "st.far_el1", Trap.VM),
    SysReg("PAR_EL1", 3, 0, 7, 4, 0, RW, "st.par_el1"),
    SysReg("MAIR_EL1", 3, 0, 10, 2, 0, RW, "st.mair_el1", Trap.VM, writer=True),
    SysReg("AMAIR_EL1", 3, 0, 10, 3, 0, RW, "st.amair_el1", Trap.VM),
    SysReg("VBAR_EL1", 3, 0, 12, 0, 0, RW, "st.vbar_el1", mask=ALL_BITS ^ 0x7FF),
    SysReg("ISR_EL1", 3, 0, 12, 1, 0, RO, reader=True),
    SysReg(
        "CONTEXTIDR_EL1", 3, 0, 13, 0, 1, RW, "st.contextidr_el1", Trap.VM, mask=bit_range(31, 0)
    ),
    SysReg("TPIDR_EL1", 3, 0, 13, 0, 4, RW, "st.tpidr_el1"),
    SysReg("TPIDR_EL0", 3, 3, 13, 0, 2, EL0_RW, "st.tpidr_el0"),
    SysReg("TPIDRRO_EL0", 3, 3, 13, 0, 3, RW | EL0_READ, "st.tpidrro_el0"),
    SysReg("RNDR", 3, 3, 2, 4, 0, EL0_RO, reader=True),
    SysReg("RNDRRS", 3, 3, 2, 4, 1, EL0_RO, reader=True),
)

#: Name of a key to CRm and op2 of its low half; in the order of the core's ``enum pauth_key``.
PAUTH_KEYS: Final = {"APIA": (1, 0), "APIB": (1, 2), "APDA": (2, 0), "APDB": (2, 2), "APGA": (3, 0)}
_KEYS: Final = tuple(
    SysReg(
        f"{key}Key{half}_EL1",
        3,
        0,
        2,
        crm,
        op2 + high,
        RW,
        f"st.pauth_keys[{2 * number + high}]",
        Trap.APK,
        feature=Feature.PAUTH,
    )
    for number, (key, (crm, op2)) in enumerate(PAUTH_KEYS.items())
    for high, half in enumerate(("Lo", "Hi"))
)

_PSTATE: Final = (
    SysReg("SPSel", 3, 0, 4, 2, 0, RW, reader=True, writer=True, mask=1),
    SysReg("CurrentEL", 3, 0, 4, 2, 2, RO, reader=True),
    SysReg("PAN", 3, 0, 4, 2, 3, RW, reader=True, writer=True, mask=SPSR_EL1.PAN.mask),
    SysReg("NZCV", 3, 3, 4, 2, 0, EL0_RW, reader=True, writer=True, mask=SPSR_EL1.NZCV.mask),
    SysReg(
        "DAIF",
        3,
        3,
        4,
        2,
        1,
        EL0_RW,
        trap=Trap.DAIF,
        reader=True,
        writer=True,
        mask=SPSR_EL1.DAIF.mask,
    ),
    SysReg("DIT", 3, 3, 4, 2, 5, EL0_RW, reader=True, writer=True, mask=SPSR_EL1.DIT.mask),
    SysReg("SSBS", 3, 3, 4, 2, 6, EL0_RW, reader=True, writer=True, mask=SPSR_EL1.SSBS.mask),
    SysReg(
        "FPCR", 3, 3, 4, 4, 0, EL0_RW, trap=Trap.FP, reader=True, writer=True, mask=mask_of(FPCR)
    ),
    SysReg(
        "FPSR",
        3,
        3,
        4,
        4,
        1,
        EL0_RW,
        trap=Trap.FP,
        reader=True,
        writer=True,
        mask=mask_of(FPSR),
    ),
)

_TIMER: Final = (
    SysReg("CNTKCTL_EL1", 3, 0, 14, 1, 0, RW, "st.cntkctl_el1", mask=0x3FF),
    SysReg("CNTFRQ_EL0", 3, 3, 14, 0, 0, EL0_RO, trap=Trap.CNTFRQ, reader=True),
    SysReg("CNTPCT_EL0", 3, 3, 14, 0, 1, EL0_RO, trap=Trap.CNTPCT, reader=True),
    SysReg("CNTVCT_EL0", 3, 3, 14, 0, 2, EL0_RO, trap=Trap.CNTVCT, reader=True),
    SysReg("CNTP_TVAL_EL0", 3, 3, 14, 2, 0, EL0_RW, trap=Trap.CNTP, reader=True, writer=True),
    SysReg(
        "CNTP_CTL_EL0",
        3,
        3,
        14,
        2,
        1,
        EL0_RW,
        "st.cntp_ctl",
        Trap.CNTP,
        mask=CNT_CTL.ENABLE.mask | CNT_CTL.IMASK.mask,
        reader=True,
        writer=True,
    ),
    SysReg(
        "CNTP_CVAL_EL0", 3, 3, 14, 2, 2, EL0_RW, "st.cntp_cval", Trap.CNTP, reader=True, writer=True
    ),
    SysReg("CNTV_TVAL_EL0", 3, 3, 14, 3, 0, EL0_RW, trap=Trap.CNTV, reader=True, writer=True),
    SysReg(
        "CNTV_CTL_EL0",
        3,
        3,
        14,
        3,
        1,
        EL0_RW,
        "st.cntv_ctl",
        Trap.CNTV,
        mask=CNT_CTL.ENABLE.mask | CNT_CTL.IMASK.mask,
        reader=True,
        writer=True,
    ),
    SysReg(
        "CNTV_CVAL_EL0", 3, 3, 14, 3, 2, EL0_RW, "st.cntv_cval", Trap.CNTV, reader=True, writer=True
    ),
)

_GIC: Final = (
    SysReg(
        "ICC_PMR_EL1", 3, 0, 4, 6, 0, RW, trap=Trap.GIC_COMMON, reader=True, writer=True, mask=0xF8
    ),
    SysReg("ICC_IAR0_EL1", 3, 0, 12, 8, 0, RO, trap=Trap.GIC_GROUP0, reader=True),
    SysReg("ICC_EOIR0_EL1", 3, 0, 12, 8, 1, WO, trap=Trap.GIC_GROUP0, writer=True, mask=0xFF_FFFF),
    SysReg("ICC_HPPIR0_EL1", 3, 0, 12, 8, 2, RO, trap=Trap.GIC_GROUP0, reader=True),
    SysReg(
        "ICC_BPR0_EL1", 3, 0, 12, 8, 3, RW, trap=Trap.GIC_GROUP0, reader=True, writer=True, mask=7
    ),
    SysReg(
        "ICC_AP0R0_EL1",
        3,
        0,
        12,
        8,
        4,
        RW,
        "st.ich_ap0r0",
        Trap.GIC_GROUP0,
        bit_range(31, 0),
        writer=True,
    ),
    SysReg(
        "ICC_AP1R0_EL1",
        3,
        0,
        12,
        9,
        0,
        RW,
        "st.ich_ap1r0",
        Trap.GIC_GROUP1,
        bit_range(31, 0),
        writer=True,
    ),
    SysReg("ICC_DIR_EL1", 3, 0, 12, 11, 1, WO, trap=Trap.GIC_DIR, writer=True, mask=0xFF_FFFF),
    SysReg("ICC_RPR_EL1", 3, 0, 12, 11, 3, RO, trap=Trap.GIC_COMMON, reader=True),
    SysReg("ICC_SGI1R_EL1", 3, 0, 12, 11, 5, WO, trap=Trap.GIC_SGI),
    SysReg("ICC_ASGI1R_EL1", 3, 0, 12, 11, 6, WO, trap=Trap.GIC_SGI),
    SysReg("ICC_SGI0R_EL1", 3, 0, 12, 11, 7, WO, trap=Trap.GIC_SGI),
    SysReg("ICC_IAR1_EL1", 3, 0, 12, 12, 0, RO, trap=Trap.GIC_GROUP1, reader=True),
    SysReg("ICC_EOIR1_EL1", 3, 0, 12, 12, 1, WO, trap=Trap.GIC_GROUP1, writer=True, mask=0xFF_FFFF),
    SysReg("ICC_HPPIR1_EL1", 3, 0, 12, 12, 2, RO, trap=Trap.GIC_GROUP1, reader=True),
    SysReg(
        "ICC_BPR1_EL1", 3, 0, 12, 12, 3, RW, trap=Trap.GIC_GROUP1, reader=True, writer=True, mask=7
    ),
    SysReg(
        "ICC_CTLR_EL1", 3, 0, 12, 12, 4, RW, trap=Trap.GIC_COMMON, reader=True, writer=True, mask=3
    ),
    SysReg("ICC_SRE_EL1", 3, 0, 12, 12, 5, RW, value=7),
    SysReg(
        "ICC_IGRPEN0_EL1",
        3,
        0,
        12,
        12,
        6,
        RW,
        trap=Trap.GIC_GROUP0,
        reader=True,
        writer=True,
        mask=1,
    ),
    SysReg(
        "ICC_IGRPEN1_EL1",
        3,
        0,
        12,
        12,
        7,
        RW,
        trap=Trap.GIC_GROUP1,
        reader=True,
        writer=True,
        mask=1,
    ),
)

_DEBUG: Final = (
    SysReg("OSDTRRX_EL1", 2, 0, 0, 0, 2, RW, trap=Trap.DEBUG),
    SysReg("MDCCINT_EL1", 2, 0, 0, 2, 0, RW, trap=Trap.DEBUG),
    SysReg("MDSCR_EL1", 2, 0, 0, 2, 2, RW, "st.mdscr_el1", Trap.DEBUG, mask=bit_range(31, 0)),
    SysReg("OSDTRTX_EL1", 2, 0, 0, 3, 2, RW, trap=Trap.DEBUG),
    SysReg("OSECCR_EL1", 2, 0, 0, 6, 2, RW, trap=Trap.DEBUG),
    SysReg("MDRAR_EL1", 2, 0, 1, 0, 0, RO, trap=Trap.DEBUG_ROM),
    SysReg("OSLAR_EL1", 2, 0, 1, 0, 4, WO, trap=Trap.DEBUG_OS, writer=True, mask=1),
    SysReg("OSLSR_EL1", 2, 0, 1, 1, 4, RO, trap=Trap.DEBUG_OS, reader=True),
    SysReg("OSDLR_EL1", 2, 0, 1, 3, 4, RW, trap=Trap.DEBUG_OS),
    SysReg("DBGPRCR_EL1", 2, 0, 1, 4, 4, RW, trap=Trap.DEBUG_OS),
    SysReg("DBGCLAIMSET_EL1", 2, 0, 7, 8, 6, RW, trap=Trap.DEBUG, value=0xFF),
    SysReg("DBGCLAIMCLR_EL1", 2, 0, 7, 9, 6, RW, trap=Trap.DEBUG),
    SysReg("DBGAUTHSTATUS_EL1", 2, 0, 7, 14, 6, RO, trap=Trap.DEBUG),
    SysReg("MDCCSR_EL0", 2, 3, 0, 1, 0, EL0_RO, trap=Trap.DCC),
    SysReg("DBGDTR_EL0", 2, 3, 0, 4, 0, EL0_RW, trap=Trap.DCC),
    SysReg("DBGDTRRX_EL0", 2, 3, 0, 5, 0, EL0_RW, trap=Trap.DCC),
    *(
        SysReg(f"DBGBVR{n}_EL1", 2, 0, 0, n, 4, RW, f"st.dbgbvr[{n}]", Trap.DEBUG)
        for n in range(NUM_BREAKPOINTS)
    ),
    *(
        SysReg(f"DBGBCR{n}_EL1", 2, 0, 0, n, 5, RW, f"st.dbgbcr[{n}]", Trap.DEBUG)
        for n in range(NUM_BREAKPOINTS)
    ),
    *(
        SysReg(f"DBGWVR{n}_EL1", 2, 0, 0, n, 6, RW, f"st.dbgwvr[{n}]", Trap.DEBUG)
        for n in range(NUM_WATCHPOINTS)
    ),
    *(
        SysReg(f"DBGWCR{n}_EL1", 2, 0, 0, n, 7, RW, f"st.dbgwcr[{n}]", Trap.DEBUG)
        for n in range(NUM_WATCHPOINTS)
    ),
)

_PMU: Final = (
    SysReg(
        "PMCR_EL0",
        3,
        3,
        9,
        12,
        0,
        EL0_RW,
        trap=Trap.PMU_CONTROL,
        mask=mask_of(PMCR_EL0) & ~(PMCR_EL0.D.mask | PMCR_EL0.LC.mask | PMCR_EL0.N.mask),
        value=int(PMCR_EL0.of(N=NUM_EVENT_COUNTERS)),  # as EL2 reads it
        reader=True,
        writer=True,
        feature=Feature.PMU,
    ),
    *(
        SysReg(
            name,
            3,
            op1,
            9,
            crm,
            op2,
            RW if name.endswith("_EL1") else EL0_RW,
            trap=Trap.PMU,
            mask=COUNTERS,
            reader=True,
            writer=True,
            feature=Feature.PMU,
        )
        for name, op1, crm, op2 in (
            ("PMCNTENSET_EL0", 3, 12, 1),
            ("PMCNTENCLR_EL0", 3, 12, 2),
            ("PMOVSCLR_EL0", 3, 12, 3),
            ("PMOVSSET_EL0", 3, 14, 3),
            ("PMINTENSET_EL1", 0, 14, 1),
            ("PMINTENCLR_EL1", 0, 14, 2),
        )
    ),
    SysReg(
        "PMSWINC_EL0",
        3,
        3,
        9,
        12,
        4,
        WO | EL0_WRITE,
        trap=Trap.PMU_SWINC,
        mask=COUNTERS,
        writer=True,
        feature=Feature.PMU,
    ),
    SysReg(
        "PMSELR_EL0",
        3,
        3,
        9,
        12,
        5,
        EL0_RW,
        "st.pmselr",
        Trap.PMU_SELECT,
        mask=0x1F,
        feature=Feature.PMU,
    ),
    SysReg(
        "PMCEID0_EL0",
        3,
        3,
        9,
        12,
        6,
        EL0_RO,
        trap=Trap.PMU,
        value=PMCEID0,
        feature=Feature.PMU,
    ),
    SysReg(
        "PMCEID1_EL0",
        3,
        3,
        9,
        12,
        7,
        EL0_RO,
        trap=Trap.PMU,
        value=PMCEID1,
        feature=Feature.PMU,
    ),
    SysReg(
        "PMUSERENR_EL0",
        3,
        3,
        9,
        14,
        0,
        RW | EL0_READ,
        "st.pmuserenr",
        Trap.PMU_USER,
        mask=mask_of(PMUSERENR_EL0),
        feature=Feature.PMU,
    ),
    *(
        SysReg(
            name,
            3,
            3,
            crn,
            crm,
            op2,
            EL0_RW,
            trap=trap,
            mask=mask,
            reader=True,
            writer=True,
            feature=Feature.PMU,
        )
        for name, crn, crm, op2, trap, mask in (
            ("PMCCNTR_EL0", 9, 13, 0, Trap.PMU_CYCLES, ALL_BITS),
            ("PMXEVTYPER_EL0", 9, 13, 1, Trap.PMU, PMEVTYPER),
            ("PMXEVCNTR_EL0", 9, 13, 2, Trap.PMU_COUNTER, bit_range(31, 0)),
            ("PMCCFILTR_EL0", 14, 15, 7, Trap.PMU, PMCCFILTR),
            *(
                (f"PMEVCNTR{n}_EL0", 14, 8, n, Trap.PMU_COUNTER, bit_range(31, 0))
                for n in range(NUM_EVENT_COUNTERS)
            ),
            *(
                (f"PMEVTYPER{n}_EL0", 14, 12, n, Trap.PMU, PMEVTYPER)
                for n in range(NUM_EVENT_COUNTERS)
            ),
        )
    ),
)

SYSREGS: Final = (*_ID, *_CONTROL, *_KEYS, *_PSTATE, *_TIMER, *_GIC, *_DEBUG, *_PMU)
