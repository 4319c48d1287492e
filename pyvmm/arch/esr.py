"""ESR_EL2: exception classes, the syndromes of aborts and traps, and how to build them.

Spec: Arm ARM DDI 0487, ESR_EL2 and HPFAR_EL2.
"""

from enum import IntEnum
from typing import Final

from pyvmm.arch.bits import Field, OpenEnum, Register


class ExceptionClass(OpenEnum):
    """ESR_ELx.EC; a reserved encoding reads as UNKNOWN."""

    UNKNOWN = 0x00
    WFX = 0x01
    FP_ACCESS = 0x07
    PAUTH = 0x09
    BRANCH_TARGET = 0x0D
    ILLEGAL_STATE = 0x0E
    SVC64 = 0x15
    HVC64 = 0x16
    SMC64 = 0x17
    SYSREG = 0x18
    SVE_ACCESS = 0x19
    PAC_FAIL = 0x1C
    GPC = 0x1E
    INSTRUCTION_ABORT_LOWER = 0x20
    INSTRUCTION_ABORT_SAME = 0x21
    PC_ALIGNMENT = 0x22
    DATA_ABORT_LOWER = 0x24
    DATA_ABORT_SAME = 0x25
    SP_ALIGNMENT = 0x26
    SERROR = 0x2F
    BREAKPOINT_LOWER = 0x30
    SOFTWARE_STEP_LOWER = 0x32
    WATCHPOINT_LOWER = 0x34
    BRK64 = 0x3C


class FaultStatus(IntEnum):
    """ISS.DFSC/IFSC: the base code of each fault; add the walk level if the fault has one."""

    ADDRESS_SIZE = 0x00
    TRANSLATION = 0x04
    ACCESS_FLAG = 0x08
    PERMISSION = 0x0C
    SYNC_EXTERNAL = 0x10
    SYNC_EXTERNAL_WALK = 0x14
    ALIGNMENT = 0x21
    DEBUG = 0x22
    GPF_WALK = 0x24  # level -1 is 0x23
    GPF = 0x28


class ESR_EL2(Register):
    """Exception Syndrome Register, EL2."""

    ISS2 = Field(55, 32, int)
    EC = Field(31, 26, ExceptionClass)
    IL = Field(25, 25, bool)  # the trapped instruction is 32 bits
    ISS = Field(24, 0, int)


class ESR_ABORT(Register):
    """ESR_EL2 of an instruction or data abort from a lower level."""

    EC = Field(31, 26, ExceptionClass)
    IL = Field(25, 25, bool)
    ISV = Field(24, 24, bool)  # SAS, SSE, SRT and SF are valid: the access can be emulated
    SAS = Field(23, 22, int)  # log2 of the access size in bytes
    SSE = Field(21, 21, bool)  # the load sign-extends
    SRT = Field(20, 16, int)  # register transferred; 31 is XZR
    SF = Field(15, 15, bool)  # the register is 64 bits wide
    AR = Field(14, 14, bool)
    SET = Field(12, 11, int)  # of a synchronous external abort: see SyncErrorType
    FnV = Field(10, 10, bool)  # FAR is not valid
    EA = Field(9, 9, bool)
    CM = Field(8, 8, bool)
    S1PTW = Field(7, 7, bool)  # fault of stage 2 on a stage-1 walk
    WnR = Field(6, 6, bool)
    FSC = Field(5, 0, int)


class SyncErrorType(IntEnum):
    """ISS.SET of a synchronous external abort."""

    UER = 0  # recoverable
    RESERVED = 1
    UC = 2  # uncontainable
    UEO = 3  # restartable


class ESR_SERROR(Register):
    """ESR_EL2 of an SError interrupt (EC 0x2F)."""

    EC = Field(31, 26, ExceptionClass)
    IL = Field(25, 25, bool)
    IDS = Field(24, 24, bool)  # the rest is IMPLEMENTATION DEFINED
    IESB = Field(13, 13, bool)
    AET = Field(12, 10, int)
    EA = Field(9, 9, bool)
    DFSC = Field(5, 0, int)


class ESR_SYSREG(Register):
    """ESR_EL2 of a trapped MSR, MRS or system instruction (EC 0x18)."""

    EC = Field(31, 26, ExceptionClass)
    IL = Field(25, 25, bool)
    OP0 = Field(21, 20, int)
    OP2 = Field(19, 17, int)
    OP1 = Field(16, 14, int)
    CRN = Field(13, 10, int)
    RT = Field(9, 5, int)
    CRM = Field(4, 1, int)
    READ = Field(0, 0, bool)  # Direction: 1 for MRS


class ESR_WFX(Register):
    """ESR_EL2 of a trapped WFI or WFE (EC 0x01)."""

    EC = Field(31, 26, ExceptionClass)
    IL = Field(25, 25, bool)
    CV = Field(24, 24, bool)
    COND = Field(23, 20, int)
    TI = Field(1, 0, int)  # 0 WFI, 1 WFE, 2 WFIT, 3 WFET


#: ISS of a trapped instruction that has no condition: it was always to be executed.
COND_ALWAYS: Final = int(ESR_WFX.of(CV=1, COND=0xE))


class ESR_STEP(Register):
    """ESR_ELx of a software step exception."""

    EC = Field(31, 26, ExceptionClass)
    IL = Field(25, 25, bool)
    ISV = Field(24, 24, bool)  # EX is valid
    EX = Field(6, 6, bool)  # the instruction was a load exclusive
    IFSC = Field(5, 0, int)


class HPFAR_EL2(Register):
    """Hypervisor IPA Fault Address Register."""

    NS = Field(63, 63, bool)
    FIPA = Field(43, 4, int)  # IPA[51:12]


_CLASS_NAMES: Final[dict[int, str]] = {
    ExceptionClass.UNKNOWN: "an undefined instruction",
    ExceptionClass.WFX: "a wait for an event or interrupt",
    ExceptionClass.FP_ACCESS: "a floating-point instruction that is trapped",
    ExceptionClass.PAUTH: "a pointer authentication instruction that is trapped",
    ExceptionClass.BRANCH_TARGET: "a branch to a location that is not a branch target (BTI)",
    ExceptionClass.ILLEGAL_STATE: "an illegal execution state",
    ExceptionClass.SVC64: "an SVC",
    ExceptionClass.HVC64: "an HVC",
    ExceptionClass.SMC64: "an SMC",
    ExceptionClass.SYSREG: "an access to a trapped system register",
    ExceptionClass.SVE_ACCESS: "an SVE instruction that is trapped",
    ExceptionClass.PAC_FAIL: "a failed pointer authentication",
    ExceptionClass.GPC: "a granule protection exception",
    ExceptionClass.INSTRUCTION_ABORT_LOWER: "an instruction abort from a lower level",
    ExceptionClass.INSTRUCTION_ABORT_SAME: "an instruction abort",
    ExceptionClass.PC_ALIGNMENT: "a misaligned PC",
    ExceptionClass.DATA_ABORT_LOWER: "a data abort from a lower level",
    ExceptionClass.DATA_ABORT_SAME: "a data abort",
    ExceptionClass.SP_ALIGNMENT: "a misaligned SP",
    ExceptionClass.SERROR: "an SError",
    ExceptionClass.BREAKPOINT_LOWER: "a breakpoint",
    ExceptionClass.SOFTWARE_STEP_LOWER: "a software step",
    ExceptionClass.WATCHPOINT_LOWER: "a watchpoint",
    ExceptionClass.BRK64: "a BRK",
}
ABORTS: Final = frozenset(
    {
        ExceptionClass.INSTRUCTION_ABORT_LOWER,
        ExceptionClass.INSTRUCTION_ABORT_SAME,
        ExceptionClass.DATA_ABORT_LOWER,
        ExceptionClass.DATA_ABORT_SAME,
    }
)
_LEVELLED_FAULTS: Final = {
    FaultStatus.ADDRESS_SIZE: "address size fault",
    FaultStatus.TRANSLATION: "translation fault",
    FaultStatus.ACCESS_FLAG: "access flag fault",
    FaultStatus.PERMISSION: "permission fault",
    FaultStatus.SYNC_EXTERNAL_WALK: "external abort on a table walk",
    FaultStatus.GPF_WALK: "granule protection fault on a table walk",
}
_FAULTS: Final = {
    FaultStatus.SYNC_EXTERNAL: "external abort",
    FaultStatus.ALIGNMENT: "alignment fault",
    FaultStatus.GPF: "granule protection fault",
}
EC_SHIFT: Final = ESR_EL2.EC.low
IL: Final = ESR_EL2.IL.mask
_FIPA_MASK: Final = HPFAR_EL2.FIPA.mask


def sysreg_key(op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
    """Return the ISS bits that identify a system register, for ``esr & SYSREG_MASK``.

    >>> esr = ESR_SYSREG.of(EC=ExceptionClass.SYSREG, OP0=3, CRN=12, CRM=11, OP2=5, RT=3)
    >>> esr & SYSREG_MASK == sysreg_key(3, 0, 12, 11, 5)
    True
    """
    return int(ESR_SYSREG.of(OP0=op0, OP1=op1, CRN=crn, CRM=crm, OP2=op2))


SYSREG_MASK: Final = sysreg_key(3, 7, 15, 15, 7)
_ID_SPACE_MASK: Final = sysreg_key(3, 7, 15, 0, 0)
_ID_SPACE: Final = sysreg_key(3, 0, 0, 0, 0)


def is_id_register(key: int) -> bool:
    """Check whether HCR_EL2.TID3 and its like trap reads of a register: op1 = 0 and CRn = 0.

    >>> is_id_register(sysreg_key(3, 0, 0, 5, 0)), is_id_register(sysreg_key(3, 3, 9, 12, 0))
    (True, False)
    """
    return key & _ID_SPACE_MASK == _ID_SPACE


def hpfar_of(ipa: int) -> int:
    """Return HPFAR_EL2 for a fault at ``ipa``."""
    return ipa >> 12 << 4


def ipa_of(hpfar: int) -> int:
    """Return the address of the page that HPFAR_EL2 reports."""
    return (hpfar & _FIPA_MASK) << 8


def translation_fault(level: int, *, write: bool = False) -> int:
    """Return the ESR_EL2 of a data abort from EL1: translation fault of stage 2 at ``level``."""
    return int(
        ESR_ABORT.of(
            EC=ExceptionClass.DATA_ABORT_LOWER,
            IL=1,
            WnR=write,
            FSC=FaultStatus.TRANSLATION + level,
        )
    )


def describe_syndrome(esr: int) -> str:
    """Return a syndrome in words.

    >>> describe_syndrome(translation_fault(3, write=True))
    'a data abort from a lower level (write, translation fault at level 3, ESR 0x92000047)'
    >>> describe_syndrome(0x0200_0000)
    'an undefined instruction (ESR 0x2000000)'
    """
    syndrome = ESR_ABORT(esr)
    words = [f"ESR {esr:#x}"]
    if syndrome.EC in ABORTS:
        words.insert(0, describe_fault(syndrome.FSC))
    if syndrome.EC in {ExceptionClass.DATA_ABORT_LOWER, ExceptionClass.DATA_ABORT_SAME}:
        words.insert(0, "write" if syndrome.WnR else "read")
    code = esr >> EC_SHIFT & 0x3F
    return f"{_CLASS_NAMES.get(code, f'exception class {code:#x}')} ({', '.join(words)})"


def name_syndrome(esr: int) -> str:
    """Return the class of a syndrome by its name, and what kind of access it was.

    >>> name_syndrome(translation_fault(3, write=True))
    'DATA_ABORT_LOWER write, translation fault at level 3'
    >>> name_syndrome(0x6232_D929), name_syndrome(0x5A00_0004), name_syndrome(0xFC00_0000)
    ('SYSREG read S3_3_C6_C4_1', 'HVC64', 'EC_0x3f')
    """
    code, syndrome = esr >> EC_SHIFT & 0x3F, ESR_ABORT(esr)
    name = ExceptionClass(code).name if code in _CLASS_NAMES else f"EC_{code:#x}"
    if syndrome.EC in {ExceptionClass.DATA_ABORT_LOWER, ExceptionClass.DATA_ABORT_SAME}:
        return f"{name} {'write' if syndrome.WnR else 'read'}, {describe_fault(syndrome.FSC)}"
    if syndrome.EC in ABORTS:
        return f"{name} {describe_fault(syndrome.FSC)}"
    if syndrome.EC == ExceptionClass.SYSREG:
        access = ESR_SYSREG(esr)
        register = f"S{access.OP0}_{access.OP1}_C{access.CRN}_C{access.CRM}_{access.OP2}"
        return f"{name} {'read' if access.READ else 'write'} {register}"
    return name


def describe_fault(code: int) -> str:
    """Return a fault status code (DFSC or IFSC) in words."""
    if code in _FAULTS:
        return _FAULTS[FaultStatus(code)]
    if code & ~3 in _LEVELLED_FAULTS:
        return f"{_LEVELLED_FAULTS[FaultStatus(code & ~3)]} at level {code & 3}"
    return f"fault status {code:#x}"
