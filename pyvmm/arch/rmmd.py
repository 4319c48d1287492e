"""The interface between the RMM and the Monitor: calls, errors and the boot manifest.

Spec: TF-A, "RMM-EL3 communication interface", 0.4 with boot manifest 0.3; Islet's vendor calls.
"""

from typing import Final

from pyvmm.arch.bits import U16, U32, U64, Bytes, Layout, OpenEnum
from pyvmm.arch.pas import GRANULE_SIZE


class RmmdFid(OpenEnum):
    """Function ids of the SMCs from R-EL2 to EL3."""

    UNKNOWN = 0
    REQ_COMPLETE = 0xC400_018F
    GTSI_DELEGATE = 0xC400_01B0
    GTSI_UNDELEGATE = 0xC400_01B1
    ATTEST_GET_REALM_KEY = 0xC400_01B2
    ATTEST_GET_PLAT_TOKEN = 0xC400_01B3
    EL3_FEATURES = 0xC400_01B4
    EL3_TOKEN_SIGN = 0xC400_01B5
    BOOT_COMPLETE = 0xC400_01CF
    ISLET_GET_VHUK = 0xC700_01B0


class RmmdError(OpenEnum):
    """x0 of EL3's results to the RMM."""

    UNK = -1
    OK = 0
    BAD_ADDR = -2
    BAD_PAS = -3
    NOMEM = -4
    INVAL = -5
    AGAIN = -6
    FAULT = -7
    IN_PROGRESS = -8


class BootError(OpenEnum):
    """The RMM's status after booting."""

    UNKNOWN = -1
    OK = 0
    VERSION_MISMATCH = -2
    CPUS_OUT_OF_RANGE = -3
    CPU_ID_OUT_OF_RANGE = -4
    INVALID_SHARED_BUFFER = -5
    MANIFEST_VERSION = -6
    MANIFEST_DATA = -7


CURVE_P384: Final = 0
CHALLENGE_SIZES: Final = (32, 48, 64)

#: EL3_FEATURES, register 0, bit 0: EL3 can have realm tokens signed.
FEATURE_TOKEN_SIGN: Final = 1


class TokenSignOp(OpenEnum):
    """x1 of EL3_TOKEN_SIGN."""

    UNKNOWN = 0
    PUSH_REQUEST = 1
    PULL_RESPONSE = 2
    GET_RAK_PUBLIC = 3


HASH_SHA384: Final = 1  # hash_alg of a TokenSignRequest


class TokenSignRequest(Layout, size=0x60):
    """A hash to sign with the realm attestation key; the response repeats REC and ticket."""

    sig_alg = U32(0x00)  # a curve
    rec = U64(0x08)
    ticket = U64(0x10)
    hash_alg = U32(0x18)
    hash = Bytes(0x20, 64)


class TokenSignResponse(Layout, size=0x218):
    """A signature, r and s, each as wide as the curve's order."""

    rec = U64(0x00)
    ticket = U64(0x08)
    sig_size = U16(0x10)
    signature = Bytes(0x12, 512)


INTERFACE_VERSION: Final = 0 << 16 | 4
MANIFEST_VERSION: Final = 0 << 16 | 3


class BootManifest(Layout, size=GRANULE_SIZE):
    """The start of the shared page of EL3 and the RMM when the RMM boots.

    The sum of each group (count, pointer, checksum) and the words of its array is zero modulo
    2**64.
    """

    version = U32(0x00)
    plat_data = U64(0x08)
    dram_num_banks = U64(0x10)
    dram_banks = U64(0x18)  # physical address of the array
    dram_checksum = U64(0x20)
    num_consoles = U64(0x28)
    consoles = U64(0x30)
    console_checksum = U64(0x38)


class DramBank(Layout, size=16):
    """One entry of the array of DRAM banks: ascending, granule-aligned, disjoint."""

    base = U64(0x0)
    bank_size = U64(0x8)


class ConsoleInfo(Layout, size=48):
    """One entry of the array of consoles."""

    base = U64(0x00)
    map_pages = U64(0x08)
    name = Bytes(0x10, 8)
    clk_in_hz = U64(0x18)
    baud_rate = U64(0x20)
    flags = U64(0x28)


BANKS_OFFSET: Final = BootManifest.console_checksum.offset + 8  # right after the manifest
