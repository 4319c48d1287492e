"""The memory of EL3 and the RMM: carved from the top of DRAM; the rest is the normal world's.

::

    dram_base                    rmm_base        root_base              top of DRAM
    | Non-secure, delegable ...  | Realm: RMM    | Root: L1 tables, L0  |
"""

from dataclasses import dataclass
from typing import Final, Self

from pyvmm.arch import gpt

ALIGNMENT: Final = 2 << 20  # so that no border splits a contiguous descriptor below 32 MiB
RMM_SIZE: Final = ALIGNMENT


@dataclass(frozen=True, slots=True)
class DramLayout:
    """Physical addresses and sizes (bytes) of the regions of DRAM."""

    dram_base: int
    dram_top: int
    rmm_base: int
    root_base: int
    l0_base: int
    pps: int  # GPCCR_EL3.PPS

    @classmethod
    def of(cls, dram_base: int, dram_size: int) -> Self:
        """Carve the reserved regions; ValueError if DRAM is too small for them."""
        dram_top = dram_base + dram_size
        pps = next(n for n, bits in enumerate(gpt.PPS_BITS) if dram_top <= 1 << bits)
        l1_size = gpt.L1_SIZE * num_l1_tables(dram_base, dram_top)
        l0_size = 8 << gpt.PPS_BITS[pps] - gpt.L0_SHIFT
        root_base = (dram_top - l1_size - l0_size) & -ALIGNMENT
        rmm_base = root_base - RMM_SIZE
        if rmm_base <= dram_base or l0_size > gpt.L1_SIZE:
            raise ValueError(f"DRAM of {dram_size:#x} bytes at {dram_base:#x}: no room for EL3")
        return cls(dram_base, dram_top, rmm_base, root_base, root_base + l1_size, pps)

    @property
    def shared_pa(self) -> int:
        """The granule that EL3 and the RMM share."""
        return self.rmm_base

    @property
    def ns_size(self) -> int:
        """Bytes from ``dram_base`` on that are initially Non-secure and may be delegated."""
        return self.rmm_base - self.dram_base


def num_l1_tables(base: int, top: int) -> int:
    """Return how many L1 tables (1 GiB each) cover [base, top)."""
    return (top - 1 >> gpt.L0_SHIFT) - (base >> gpt.L0_SHIFT) + 1
