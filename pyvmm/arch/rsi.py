"""Realm Services Interface 1.0: function ids, statuses and structures.

Spec: Arm DEN0137 1.0 (RMM), chapter "Realm Services Interface".
"""

from enum import IntEnum, IntFlag
from typing import Final

from pyvmm.arch.bits import U8, U32, U64, Bytes, Layout, U64Array
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import RPV_SIZE

VERSION_1_0: Final = 0x1_0000
NUM_MEASUREMENTS: Final = 5  # index 0 is the RIM, 1 to 4 are the REMs
MEASUREMENT_SIZE: Final = 64  # a measurement in registers or a descriptor, zero padded
CHALLENGE_SIZE: Final = 64
HOST_CALL_ALIGNMENT: Final = 0x100


class RsiFid(IntEnum):
    """RSI function ids (realm to RMM)."""

    RSI_VERSION = 0xC400_0190
    RSI_FEATURES = 0xC400_0191
    RSI_MEASUREMENT_READ = 0xC400_0192
    RSI_MEASUREMENT_EXTEND = 0xC400_0193
    RSI_ATTESTATION_TOKEN_INIT = 0xC400_0194
    RSI_ATTESTATION_TOKEN_CONTINUE = 0xC400_0195
    RSI_REALM_CONFIG = 0xC400_0196
    RSI_IPA_STATE_SET = 0xC400_0197
    RSI_IPA_STATE_GET = 0xC400_0198
    RSI_HOST_CALL = 0xC400_0199


class RsiStatus(IntEnum):
    """Status of an RSI command, x0."""

    SUCCESS = 0
    ERROR_INPUT = 1
    ERROR_STATE = 2
    INCOMPLETE = 3
    ERROR_UNKNOWN = 4


def status_name(x0: int) -> str:
    """Return the readable status of a result.

    >>> status_name(3), status_name((1 << 64) - 1)
    ('INCOMPLETE', 'NOT_SUPPORTED')
    """
    return RsiStatus(x0).name if x0 <= max(RsiStatus) else "NOT_SUPPORTED"


class RipasChangeFlags(IntFlag):
    """RsiRipasChangeFlags of RSI_IPA_STATE_SET."""

    CHANGE_DESTROYED = 1


class RealmConfig(Layout, size=GRANULE_SIZE):
    """RsiRealmConfig: written by RSI_REALM_CONFIG."""

    ipa_width = U64(0x000)
    hash_algo = U8(0x008)
    rpv = Bytes(0x200, RPV_SIZE)


class HostCall(Layout, size=0x100):
    """RsiHostCall: a realm's call to its host, and the host's answer."""

    imm = U32(0x000)  # only the low 16 bits are used
    gprs = U64Array(0x008, 31)
