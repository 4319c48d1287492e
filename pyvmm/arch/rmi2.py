"""Realm Management Interface 2.0: what ``pyvmm.arch.rmi`` does not have, or has otherwise.

Spec: Arm DEN0137 2.0-bet3 (RMM), as far as it is known: ADR 18.
"""

from enum import IntEnum
from typing import Final

from pyvmm.arch.bits import S64, U8, U64, Bytes, Field, Layout, Register, U64Array
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import EXIT_OFFSET, RPV_SIZE

L0GPT_SHIFT: Final = 30  # what one L0 entry of the GPT describes; FEATURES 1 has it as 0


class Rmi2Fid(IntEnum):
    """RMI function ids that 1.0 does not have, or has for another command."""

    RMI_RTT_DATA_MAP_INIT = 0xC400_0153
    RMI_RMM_CONFIG_SET = 0xC400_016E
    RMI_GRANULE_TRACKING_GET = 0xC400_01E1
    RMI_GRANULE_TRACKING_SET = 0xC400_01E3
    RMI_RMM_CONFIG_GET = 0xC400_01EC
    RMI_RMM_STATE_GET = 0xC400_01EE
    RMI_GRANULE_RANGE_DELEGATE = 0xC400_01F1
    RMI_GRANULE_RANGE_UNDELEGATE = 0xC400_01F2
    RMI_GPT_L1_CREATE = 0xC400_01F3
    RMI_GPT_L1_DESTROY = 0xC400_01F4
    RMI_RTT_DATA_MAP = 0xC400_01F5
    RMI_RTT_DATA_UNMAP = 0xC400_01F6
    RMI_RTT_UNPROT_MAP = 0xC400_01FB
    RMI_RTT_UNPROT_UNMAP = 0xC400_01FC
    RMI_REALM_TERMINATE = 0xC400_0201
    RMI_RMM_ACTIVATE = 0xC400_0202
    RMI_OP_CONTINUE = 0xC400_0203
    RMI_OP_MEM_DONATE = 0xC400_0208
    RMI_OP_MEM_RECLAIM = 0xC400_0209
    RMI_OP_CANCEL = 0xC400_020A
    RMI_RMM_DEACTIVATE = 0xC400_020F
    RMI_GPT_INFO = 0xC400_0211


class RmmState(IntEnum):
    """RmiRmmState: the state of RMI_RMM_STATE_GET."""

    INIT = 0
    INTERMEDIATE = 1
    ACTIVE = 2


class OpMemory(IntEnum):
    """What an incomplete operation expects: x0[9:8]."""

    NONE = 0  # RMI_OP_CONTINUE
    DONATE = 1
    RECLAIM = 2


CAN_CANCEL: Final = 1 << 10  # x0 of an incomplete operation
OP_MEMORY_SHIFT: Final = 8
CONTINUE_FLAGS: Final = 1  # bit 0: stop when the objects have reached their new state


class DonateRequest(Register):
    """RmiOpMemDonateReq: the memory that an operation needs."""

    SIZE = Field(1, 0, int)  # of a block: 0 granule, 1 to 3 block at level 2 to 0
    COUNT = Field(15, 2, int)  # of blocks
    CONTIGUOUS = Field(16, 16, bool)
    STATE = Field(18, 17, int)  # MemoryState


class MemoryState(IntEnum):
    """RmiOpMemState: the state of donated or returned memory."""

    DELEGATED = 0
    UNDELEGATED = 1


class AddressRange(Register):
    """RmiAddrRangeDesc for granules of 4 KB: blocks of one size in a row."""

    SIZE = Field(1, 0, int)  # of a block, as above
    COUNT = Field(11, 2, int)  # of blocks
    ADDRESS = Field(51, 12, int)  # in granules
    RESERVED = Field(61, 52, int)
    STATE = Field(63, 62, int)  # MemoryState


MAX_BLOCKS: Final = 0x3FF  # of an AddressRange


class AddressType(IntEnum):
    """Where a range command has or puts the addresses: bits [1:0] of its flags."""

    NONE = 0
    SINGLE = 1  # one AddressRange in a register
    LIST = 2  # AddressRanges in the host's memory


class MapFlags(Register):
    """Flags of the commands that map or unmap a range."""

    ADDRESS_TYPE = Field(1, 0, int)  # AddressType
    LIST_COUNT = Field(15, 2, int)
    MEMATTR = Field(18, 16, int)  # of RMI_RTT_UNPROT_MAP only, like those below
    WRITE = Field(19, 19, bool)
    READ = Field(20, 20, bool)


class MemoryCategory(IntEnum):
    """RmiMemCategory."""

    CONVENTIONAL = 0
    DEVICE_NON_COHERENT = 1
    DEVICE_COHERENT = 2
    NONE = 3


class Tracking(IntEnum):
    """RmiTrackingState: how the RMM tracks a region."""

    RESERVED = 0
    NONE = 1
    FINE = 2  # each granule has its own state
    COARSE = 3


class GptPar(IntEnum):
    """RmiGptParState: who manages the part of the GPT of a region."""

    RESERVED = 0
    PLATFORM = 1


class RttEntryState2(IntEnum):
    """RmiRttEntryState: the state of RMI_RTT_READ_ENTRY."""

    VOID = 0
    DATA = 1
    TABLE = 2


class Features0(Register):
    """RMI_FEATURES, index 0."""

    S2SZ = Field(7, 0, int)  # widest IPA space, in bits
    NUM_BPS = Field(19, 14, int)  # breakpoints, minus one
    NUM_WPS = Field(25, 20, int)  # watchpoints, minus one
    PMU = Field(26, 26, bool)
    PMU_NUM_CTRS = Field(31, 27, int)
    S2OASZ = Field(40, 33, int)  # widest physical address, in bits


class Features1(Register):
    """RMI_FEATURES, index 1."""

    GRANULE_4KB = Field(0, 0, bool)
    HASH_SHA_256 = Field(3, 3, bool)
    HASH_SHA_384 = Field(4, 4, bool)
    HASH_SHA_512 = Field(5, 5, bool)
    MAX_RECS_ORDER = Field(9, 6, int)  # a realm has up to 2^n - 1 RECs
    L0GPTSZ = Field(13, 10, int)
    PPS = Field(16, 14, int)


NUM_FEATURE_REGISTERS: Final = 5  # planes, devices and memory encryption contexts: all zero


class RmmConfig(Layout, size=GRANULE_SIZE):
    """RmiRmmConfig."""

    tracking_region_size = U64(0x000)  # 0: 1 GB, 1: 2 MB
    rmi_granule_size = U64(0x008)  # 0: 4 KB


NUM_TRACKING_SIZES: Final = 2


class RealmFlags2(Register):
    """RmiRealmFlags0."""

    LPA2 = Field(0, 0, bool)
    SVE = Field(1, 1, bool)
    PMU = Field(2, 2, bool)
    DA = Field(3, 3, bool)
    LFA_POLICY = Field(6, 5, int)  # 0: no live activation of firmware, 1: allowed
    MEC_POLICY = Field(8, 7, int)  # 0: shared, 1: private


class RealmParams2(Layout, size=GRANULE_SIZE):
    """RmiRealmParams: written by the host, read once by RMI_REALM_CREATE."""

    flags = U64(0x000)  # RealmFlags2
    s2sz = U64(0x008)  # IPA width in bits
    sve_vl = U64(0x010)
    num_bps = U64(0x018)  # breakpoints, minus one
    num_wps = U64(0x020)
    pmu_num_ctrs = U64(0x028)
    hash_algo = U64(0x030)  # HashAlgorithm
    num_aux_planes = U64(0x038)
    rpv = Bytes(0x400, RPV_SIZE)  # realm personalization value
    ats_plane = U64(0x440)
    rtt_base = U64(0x808)
    rtt_level_start = S64(0x810)
    rtt_num_start = U64(0x818)
    flags1 = U64(0x820)
    max_num_vdevs = U64(0x828)


class RecEnter2(Layout, size=EXIT_OFFSET):
    """RmiRecEnter: the first half of RmiRecRun, from the host."""

    flags = U64(0x000)  # RecEnterFlags
    gprs = U64Array(0x200, 31)


class RecExit2(Layout, size=GRANULE_SIZE - EXIT_OFFSET):
    """RmiRecExit: the second half of RmiRecRun, written completely at every exit."""

    exit_reason = U8(0x000)  # RecExitReason
    esr = U64(0x100)
    far = U64(0x108)
    hpfar = U64(0x110)
    rtt_tree = U64(0x118)  # 0: the primary one
    gprs = U64Array(0x200, 31)
    cntp_ctl = U64(0x400)
    cntp_cval = U64(0x408)
    cntv_ctl = U64(0x410)
    cntv_cval = U64(0x418)
    ripas_base = U64(0x500)
    ripas_top = U64(0x508)
    ripas_value = U8(0x510)
    imm = U64(0x600)
    plane = U64(0x608)
    pmu_ovf_status = U8(0x700)
