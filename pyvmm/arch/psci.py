"""Power State Coordination Interface: function ids and results.

Spec: Arm DEN0022 (PSCI) 1.1.
"""

from enum import IntEnum
from typing import Final

from pyvmm.arch.bits import MASK64

VERSION_1_1: Final = 0x1_0001
SMC64: Final = 1 << 30  # set in the function ids of the 64-bit calls
SYSTEM_WARM_RESET: Final = 0  # the only architectural type of SYSTEM_RESET2
TRUSTED_OS_NOT_PRESENT: Final = 2  # MIGRATE_INFO_TYPE: nothing to migrate


class PsciFid(IntEnum):
    """PSCI function ids; those that take addresses exist in both widths."""

    PSCI_VERSION = 0x8400_0000
    CPU_SUSPEND_32 = 0x8400_0001
    CPU_OFF = 0x8400_0002
    CPU_ON_32 = 0x8400_0003
    AFFINITY_INFO_32 = 0x8400_0004
    MIGRATE_INFO_TYPE = 0x8400_0006
    SYSTEM_OFF = 0x8400_0008
    SYSTEM_RESET = 0x8400_0009
    PSCI_FEATURES = 0x8400_000A
    SYSTEM_RESET2_32 = 0x8400_0012
    CPU_SUSPEND_64 = 0xC400_0001
    CPU_ON_64 = 0xC400_0003
    AFFINITY_INFO_64 = 0xC400_0004
    SYSTEM_RESET2_64 = 0xC400_0012


class PsciReturn(IntEnum):
    """PSCI results as signed numbers; ``x0`` converts to the register value."""

    SUCCESS = 0
    NOT_SUPPORTED = -1
    INVALID_PARAMETERS = -2
    DENIED = -3
    ALREADY_ON = -4
    ON_PENDING = -5
    INTERNAL_FAILURE = -6
    NOT_PRESENT = -7
    DISABLED = -8
    INVALID_ADDRESS = -9

    @property
    def x0(self) -> int:
        """The result as a register value."""
        return int(self) & MASK64


class AffinityState(IntEnum):
    """Results of AFFINITY_INFO."""

    ON = 0
    OFF = 1
    ON_PENDING = 2
