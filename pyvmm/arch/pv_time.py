"""Paravirtualised time: how long a vCPU was ready but did not run.

Spec: Arm DEN0057A, "Stolen time".
"""

from enum import IntEnum
from typing import Final

from pyvmm.arch.bits import U32, U64, Layout


class PvTimeFid(IntEnum):
    """Hypervisor service calls; only in the 64-bit convention."""

    PV_TIME_FEATURES = 0xC500_0020
    PV_TIME_ST = 0xC500_0021


class StolenTimeRecord(Layout, size=64):
    """What one vCPU reads; it is 64-byte aligned, and revision and attributes are 0."""

    revision = U32(0)
    attributes = U32(4)
    stolen_time = U64(8)  # nanoseconds since the vCPU was created


RECORD_SIZE: Final = StolenTimeRecord.size
