"""Stolen time of a normal VM: the host's scheduler statistics, in a page that the guest reads.

A realm does not have it: RMM 1.0 answers a realm's calls itself and does not forward these, and a
realm could not trust a page of the host.

Spec: Arm DEN0057A, "Stolen time".
"""

import os
import time
from typing import Final

from pyvmm.arch.machine import PhysicalMemory
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.pv_time import RECORD_SIZE, PvTimeFid, StolenTimeRecord
from pyvmm.arch.smccc import NOT_SUPPORTED
from pyvmm.host.allocator import Allocator
from pyvmm.host.stage2 import Stage2

#: Seconds between two updates of a record: a guest reads it at each timer tick.
PERIOD: Final = 0.004
#: For the thread that opens it: nanoseconds running, nanoseconds waiting to run, time slices.
_SCHEDSTAT: Final = "/proc/thread-self/schedstat"
_MAX_LINE: Final = 64
_NEVER: Final = float("inf")


class StolenTime:
    """The records of one VM's vCPUs, at ``base`` (IPA) in a separate page.

    Concurrency: only a vCPU's own thread updates its record.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        allocator: Allocator,
        stage2: Stage2,
        base: int,
        num_cpus: int,
    ) -> None:
        """Allocate a page and map it; MemoryError if none is free."""
        self._memory = memory
        self._allocator = allocator
        self._base = base
        self._pa = allocator.allocate()
        memory.zero(self._pa, GRANULE_SIZE)
        stage2.map(base, self._pa, GRANULE_SIZE)
        self._next = [_NEVER] * num_cpus  # when to update a record
        self._files: list[int | None] = [None] * num_cpus

    def call(self, cpu: int, fid: int, argument: int) -> int:
        """Return x0 of a PV_TIME call of a vCPU, on its thread."""
        if fid == PvTimeFid.PV_TIME_ST:
            return self._begin(cpu)
        is_known = argument in set(PvTimeFid) and os.access(_SCHEDSTAT, os.R_OK)
        return 0 if is_known else NOT_SUPPORTED

    def _begin(self, cpu: int) -> int:
        """Update the record of a vCPU from now on; return its address."""
        if self._files[cpu] is None:
            try:
                self._files[cpu] = os.open(_SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return NOT_SUPPORTED
            self._next[cpu] = 0
        return self._base + cpu * RECORD_SIZE

    def is_used(self, cpu: int) -> bool:
        """Return whether the record of a vCPU is in use."""
        return self._files[cpu] is not None

    def update(self, cpu: int) -> None:
        """Update the record of a vCPU, if it is in use and the period is over."""
        if (now := time.monotonic()) < self._next[cpu]:
            return
        self._next[cpu] = now + PERIOD
        file = self._files[cpu]
        if file is not None:
            waited = int(os.pread(file, _MAX_LINE, 0).split()[1])
            offset = cpu * RECORD_SIZE + StolenTimeRecord.stolen_time.offset
            self._memory.write(self._pa + offset, waited.to_bytes(8, "little"))

    def close(self) -> None:
        """Free the page; no vCPU may be running."""
        for file in self._files:
            if file is not None:
                os.close(file)
        self._files = [None] * len(self._files)
        self._memory.zero(self._pa, GRANULE_SIZE)
        self._allocator.free(self._pa)
