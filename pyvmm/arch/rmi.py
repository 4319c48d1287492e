"""Realm Management Interface 1.0: function ids, statuses, feature register and structures.

Spec: Arm DEN0137 1.0 (RMM); offsets and encodings in its chapter "RMI types".
"""

from enum import IntEnum, IntFlag
from typing import Final

from pyvmm.arch.bits import S64, U8, U16, U32, U64, Bytes, Field, Layout, Register, U64Array
from pyvmm.arch.pas import GRANULE_SIZE

MAX_REC_AUX: Final = 16
REC_CREATE_NUM_GPRS: Final = 8
NUM_LRS: Final = 16  # list registers in the structures; RMI_FEATURES reports how many are used
EXIT_OFFSET: Final = 0x800  # of RmiRecExit in RmiRecRun
RPV_SIZE: Final = 64


class RmiFid(IntEnum):
    """RMI function ids (host to RMM)."""

    RMI_VERSION = 0xC400_0150
    RMI_GRANULE_DELEGATE = 0xC400_0151
    RMI_GRANULE_UNDELEGATE = 0xC400_0152
    RMI_DATA_CREATE = 0xC400_0153
    RMI_DATA_CREATE_UNKNOWN = 0xC400_0154
    RMI_DATA_DESTROY = 0xC400_0155
    RMI_REALM_ACTIVATE = 0xC400_0157
    RMI_REALM_CREATE = 0xC400_0158
    RMI_REALM_DESTROY = 0xC400_0159
    RMI_REC_CREATE = 0xC400_015A
    RMI_REC_DESTROY = 0xC400_015B
    RMI_REC_ENTER = 0xC400_015C
    RMI_RTT_CREATE = 0xC400_015D
    RMI_RTT_DESTROY = 0xC400_015E
    RMI_RTT_MAP_UNPROTECTED = 0xC400_015F
    RMI_RTT_READ_ENTRY = 0xC400_0161
    RMI_RTT_UNMAP_UNPROTECTED = 0xC400_0162
    RMI_PSCI_COMPLETE = 0xC400_0164
    RMI_FEATURES = 0xC400_0165
    RMI_RTT_FOLD = 0xC400_0166
    RMI_REC_AUX_COUNT = 0xC400_0167
    RMI_RTT_INIT_RIPAS = 0xC400_0168
    RMI_RTT_SET_RIPAS = 0xC400_0169


class RmiStatus(IntEnum):
    """Status of an RMI command: x0[7:0]; x0[15:8] is an index.  Those from 5 on are RMI 2.0's."""

    SUCCESS = 0
    ERROR_INPUT = 1
    ERROR_REALM = 2
    ERROR_REC = 3
    ERROR_RTT = 4
    ERROR_NOT_SUPPORTED = 5
    ERROR_DEVICE = 6
    ERROR_RTT_AUX = 7
    ERROR_PSMMU_ST = 8
    ERROR_DPT = 9
    BUSY = 10
    ERROR_GLOBAL = 11
    ERROR_TRACKING = 12
    INCOMPLETE = 13
    BLOCKED = 14
    ERROR_GPT = 15
    ERROR_GRANULE = 16


#: Readable explanations of the failures.  Spec: DEN0137 1.0 and 2.0, "RmiStatusCode type".
STATUS_MEANINGS: Final[dict[int, str]] = {
    RmiStatus.ERROR_INPUT: "an argument is invalid",
    RmiStatus.ERROR_REALM: "the realm's state does not allow it",
    RmiStatus.ERROR_REC: "the REC's state does not allow it",
    RmiStatus.ERROR_RTT: "the realm's tables do not have the required entry",
    RmiStatus.BUSY: "an operation of the host is in progress",
    RmiStatus.ERROR_GLOBAL: "the RMM's state does not allow it",
    RmiStatus.ERROR_TRACKING: "the RMM does not track this memory",
    RmiStatus.INCOMPLETE: "the host has to continue the operation",
    RmiStatus.BLOCKED: "another operation has the object",
    RmiStatus.ERROR_GPT: "the granule protection table does not allow it",
}


def unpack_status(x0: int) -> tuple[int, int]:
    """Split x0 of a result into status and index.

    >>> unpack_status(0x204)
    (4, 2)
    """
    return x0 & 0xFF, x0 >> 8 & 0xFF


def status_name(x0: int) -> str:
    """Return the readable status of a result.

    >>> status_name(0x204), status_name(0), status_name((1 << 64) - 1)
    ('ERROR_RTT:2', 'SUCCESS', 'NOT_SUPPORTED')
    """
    status, index = unpack_status(x0)
    if x0 > 0xFFFF or status > max(RmiStatus):
        return "NOT_SUPPORTED"
    name = RmiStatus(status).name
    return f"{name}:{index}" if index or status == RmiStatus.ERROR_RTT else name


class RmiFeatureRegister0(Register):
    """RMI_FEATURES, index 0."""

    S2SZ = Field(7, 0, int)  # widest IPA space, in bits
    LPA2 = Field(8, 8, bool)
    SVE_EN = Field(9, 9, bool)
    SVE_VL = Field(13, 10, int)  # quadwords of a vector, minus one
    NUM_BPS = Field(19, 14, int)  # breakpoints, minus one
    NUM_WPS = Field(25, 20, int)  # watchpoints, minus one
    PMU_EN = Field(26, 26, bool)
    PMU_NUM_CTRS = Field(31, 27, int)
    HASH_SHA_256 = Field(32, 32, bool)
    HASH_SHA_512 = Field(33, 33, bool)
    GICV3_NUM_LRS = Field(37, 34, int)  # list registers, minus one
    MAX_RECS_ORDER = Field(41, 38, int)  # a realm has up to 2^n - 1 RECs


class HashAlgorithm(IntEnum):
    """RmiHashAlgorithm: the algorithm of a realm's measurements."""

    SHA_256 = 0
    SHA_512 = 1
    SHA_384 = 2  # RMI 2.0


class RealmFlags(IntFlag):
    """RmiRealmFlags."""

    LPA2 = 1
    SVE = 2
    PMU = 4


class DataFlags(IntFlag):
    """RmiDataFlags of RMI_DATA_CREATE."""

    MEASURE_CONTENT = 1


class RecCreateFlags(IntFlag):
    """RmiRecCreateFlags."""

    RUNNABLE = 1


class RecEnterFlags(IntFlag):
    """RmiRecEnterFlags."""

    EMUL_MMIO = 1 << 0
    INJECT_SEA = 1 << 1
    TRAP_WFI = 1 << 2
    TRAP_WFE = 1 << 3
    RIPAS_RESPONSE = 1 << 4  # set: the host rejects the change


class RecExitReason(IntEnum):
    """RmiRecExitReason."""

    SYNC = 0
    IRQ = 1
    FIQ = 2
    PSCI = 3
    RIPAS_CHANGE = 4
    HOST_CALL = 5
    SERROR = 6


class RttEntryState(IntEnum):
    """RmiRttEntryState: the state of RMI_RTT_READ_ENTRY."""

    UNASSIGNED = 0
    ASSIGNED = 1
    TABLE = 2


class Ripas(IntEnum):
    """RmiRipas: the realm's state of an IPA; 3 is reserved."""

    EMPTY = 0
    RAM = 1
    DESTROYED = 2


class RipasResponse(IntEnum):
    """The host's answer to a RIPAS change request, as the realm sees it."""

    ACCEPT = 0
    REJECT = 1


class RealmParams(Layout, size=GRANULE_SIZE):
    """RmiRealmParams: written by the host, read once by RMI_REALM_CREATE."""

    flags = U64(0x000)  # RealmFlags
    s2sz = U32(0x008)  # IPA width in bits
    sve_vl = U32(0x010)
    num_bps = U32(0x018)  # breakpoints, minus one
    num_wps = U32(0x020)
    pmu_num_ctrs = U32(0x028)
    hash_algo = U8(0x030)  # HashAlgorithm
    rpv = Bytes(0x400, RPV_SIZE)  # realm personalization value
    vmid = U16(0x800)
    rtt_base = U64(0x808)
    rtt_level_start = S64(0x810)
    rtt_num_start = U32(0x818)


class RecParams(Layout, size=GRANULE_SIZE):
    """RmiRecParams: written by the host, read once by RMI_REC_CREATE."""

    flags = U64(0x000)  # RecCreateFlags
    mpidr = U64(0x100)  # RmiRecMpidr
    pc = U64(0x200)
    gprs = U64Array(0x300, REC_CREATE_NUM_GPRS)
    num_aux = U64(0x800)
    aux = U64Array(0x808, MAX_REC_AUX)


class RecEnter(Layout, size=EXIT_OFFSET):
    """RmiRecEnter: the first half of RmiRecRun, from the host."""

    flags = U64(0x000)  # RecEnterFlags
    gprs = U64Array(0x200, 31)
    gicv3_hcr = U64(0x300)
    gicv3_lrs = U64Array(0x308, NUM_LRS)


class RecExit(Layout, size=GRANULE_SIZE - EXIT_OFFSET):
    """RmiRecExit: the second half of RmiRecRun, written completely at every exit."""

    exit_reason = U64(0x000)  # RecExitReason
    esr = U64(0x100)
    far = U64(0x108)
    hpfar = U64(0x110)
    gprs = U64Array(0x200, 31)
    gicv3_hcr = U64(0x300)
    gicv3_lrs = U64Array(0x308, NUM_LRS)
    gicv3_misr = U64(0x388)
    gicv3_vmcr = U64(0x390)
    cntp_ctl = U64(0x400)
    cntp_cval = U64(0x408)
    cntv_ctl = U64(0x410)
    cntv_cval = U64(0x418)
    ripas_base = U64(0x500)
    ripas_top = U64(0x508)
    ripas_value = U64(0x510)
    imm = U64(0x600)
    pmu_ovf_status = U64(0x700)


class RmiRecMpidr(Register):
    """The affinities of a REC; not the layout of MPIDR_EL1."""

    AFF0 = Field(3, 0, int)
    AFF1 = Field(15, 8, int)
    AFF2 = Field(23, 16, int)
    AFF3 = Field(31, 24, int)


REC_MPIDR_MASK: Final = 0xFFFF_FF0F


def rec_index(mpidr: int) -> int:
    """Return the linear index of a REC's ``RmiRecMpidr``.

    >>> rec_index(0x100), rec_index(0x100_000F)
    (16, 1048591)
    """
    aff0_2 = mpidr & 0xF | (mpidr >> 8 & 0xFF) << 4 | (mpidr >> 16 & 0xFF) << 12
    return aff0_2 | (mpidr >> 24 & 0xFF) << 20


def rec_mpidr(index: int) -> int:
    """Return the ``RmiRecMpidr`` of the REC at a linear index; the inverse of ``rec_index``.

    >>> hex(rec_mpidr(17))
    '0x101'
    """
    aff0_2 = index & 0xF | (index >> 4 & 0xFF) << 8 | (index >> 12 & 0xFF) << 16
    return aff0_2 | (index >> 20 & 0xFF) << 24


#: The bits that the host may choose in RMI_RTT_MAP_UNPROTECTED: OA, MemAttr[4:2], S2AP[7:6].
HOST_DESCRIPTOR_OA: Final = 0x0000_FFFF_FFFF_F000
HOST_DESCRIPTOR_MEMATTR: Final = 0x7 << 2
HOST_DESCRIPTOR_S2AP: Final = 0x3 << 6
HOST_DESCRIPTOR_MASK: Final = HOST_DESCRIPTOR_OA | HOST_DESCRIPTOR_MEMATTR | HOST_DESCRIPTOR_S2AP
MEMATTR_RESERVED: Final = 0x4 << 2  # with FEAT_S2FWB, MemAttr 0b100 is reserved
