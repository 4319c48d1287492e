"""Physical address spaces, granules, and the fault of an access that the GPT refuses.

Spec: Arm ARM DDI 0487, D8 "Granule Protection Checks"; DDI 0615 (RME).
"""

from enum import IntEnum
from typing import NewType

PhysAddr = NewType("PhysAddr", int)
Ipa = NewType("Ipa", int)
VirtAddr = NewType("VirtAddr", int)

GRANULE_SHIFT = 12
GRANULE_SIZE = 1 << GRANULE_SHIFT
GRANULE_OFFSET = GRANULE_SIZE - 1  # the address bits inside a granule


class Pas(IntEnum):
    """Physical address space of an access; the values are the low bits of a GPI (0x8 | pas)."""

    SECURE = 0
    NS = 1
    ROOT = 2
    REALM = 3


class GranuleProtectionFault(Exception):
    """An access that the granule protection check refused.

    ``pa`` is the address of the first refused byte, ``pas`` the address space of the access.
    """

    def __init__(self, pa: int, pas: Pas) -> None:
        super().__init__(pa, pas)
        self.pa = pa
        self.pas = pas

    def __str__(self) -> str:
        return f"granule protection fault: {self.pas.name} access to {self.pa:#x}"
