"""The host's calls to RMI; failures are exceptions.

``Rmi`` has what both revisions share; ``rmi_1_0.py`` and ``rmi_2_0.py`` are its dialects: the same
steps of a realm's life by the commands of one revision.  The hot path (REC_ENTER) makes its SMC
itself; this is for building, mapping and destroying.
Spec: DEN0137 1.0 and 2.0, "Realm Management Interface".
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from pyvmm.arch.islet import IsletRmiFid
from pyvmm.arch.machine import PhysicalMemory
from pyvmm.arch.rmi import (
    HashAlgorithm,
    RealmParams,
    RecParams,
    RmiFid,
    RmiStatus,
    status_name,
    unpack_status,
)
from pyvmm.arch.rmi2 import Rmi2Fid
from pyvmm.arch.rmi_debug import DebugRmiFid
from pyvmm.host.allocator import Allocator
from pyvmm.host.machine import Firmware

_SUCCESS = int(RmiStatus.SUCCESS)
_SHARED_FIDS = frozenset(RmiFid)

AnyFid = RmiFid | Rmi2Fid | IsletRmiFid | DebugRmiFid


class RmiFailed(Exception):
    """An RMI command that the RMM refused; ``status`` and ``index`` are its result.

    ``done`` is how many commands of the same series, or pages of the same range, came before.
    """

    def __init__(
        self,
        fid: AnyFid,
        args: tuple[int, ...],
        x0: int,
        done: int = 0,
    ) -> None:
        super().__init__(fid, args, x0)
        self.fid = fid
        self.args_given = args
        self.x0 = x0
        self.done = done
        self.status, self.index = unpack_status(x0)

    def __str__(self) -> str:
        shown = " ".join(map(hex, self.args_given))
        return f"{self.fid.name} {shown} -> {status_name(self.x0)}"


class Rmi(ABC):
    """The RMM of the platform, called on behalf of one realm."""

    __slots__ = ("_allocator", "_ns", "_smc_series", "smc")

    hashes: ClassVar[dict[str, HashAlgorithm]]

    def __init__(self, firmware: Firmware, memory: PhysicalMemory, allocator: Allocator) -> None:
        """``memory`` and ``allocator`` are the host's, for what a command needs besides."""
        self.smc = firmware.smc
        self._smc_series = firmware.smc_series
        self._ns = memory
        self._allocator = allocator

    def call(self, pe: int, fid: AnyFid, *args: int) -> tuple[int, ...]:
        """Call on a PE; return x1.. padded to four; RmiFailed unless RMI_SUCCESS."""
        results = self.smc(pe, (fid, *args))
        if results[0] != _SUCCESS:
            raise RmiFailed(fid, args, results[0])
        return (*results[1:], 0, 0, 0, 0)

    def call_with_page(self, page: bytes, fid: AnyFid, *args: int) -> None:
        """Call with a parameter granule as the last argument."""
        pa = self._allocator.allocate()
        try:
            self._ns.write(pa, page)
            self.execute(fid, *args, pa)
        finally:
            self._allocator.free(pa)

    def execute(self, fid: AnyFid, *args: int) -> None:
        """Call, and continue the operation that this begins, if it does."""
        self.call(0, fid, *args)

    def call_series(
        self, pe: int, fid: AnyFid, args: Sequence[int], steps: Sequence[int], count: int
    ) -> None:
        """Call ``count`` times, the arguments advancing by ``steps``; RmiFailed when one fails."""
        done, results = self._smc_series(pe, (fid, *args), (0, *steps), count)
        if done < count:
            failed = (arg + step * done for arg, step in zip(args, steps, strict=True))
            raise RmiFailed(fid, tuple(failed), results[0], done)

    # --- what differs -----------------------------------------------------------------------

    @abstractmethod
    def begin(self) -> tuple[int, int]:
        """Choose the revision; return the width of the widest IPA space, and the PMU counters."""

    @abstractmethod
    def delegate(self, pe: int, pa: int, count: int = 1) -> None:
        """Delegate granules in a row to the Realm world, all of them or none."""

    @abstractmethod
    def undelegate(self, pe: int, pa: int, count: int = 1) -> None:
        """Take granules in a row back; they read as zeros."""

    @abstractmethod
    def create_realm(self, rd: int, params: RealmParams) -> None:
        """Create a realm."""

    @abstractmethod
    def create_rec(self, rd: int, rec: int, params: RecParams) -> None:
        """Create a REC, with memory of its own."""

    @abstractmethod
    def destroy_rec(self, rec: int) -> None:
        """Destroy a REC, and take back what it had."""

    @abstractmethod
    def end_realm(self, rd: int) -> None:
        """Prepare the destruction of a realm none of whose RECs runs."""

    @abstractmethod
    def fill(self, rd: int, ipa: int, data: int, source: int, count: int) -> None:
        """Make delegated granules in a row private pages with measured contents."""

    @abstractmethod
    def back(self, pe: int, rd: int, ipa: int, data: int, count: int) -> None:
        """Make delegated granules in a row private pages."""

    @abstractmethod
    def take(self, pe: int, rd: int, ipa: int, count: int) -> None:
        """Remove private pages in a row; their granules stay delegated."""

    @abstractmethod
    def share(self, pe: int, rd: int, ipa: int, pa: int, level: int) -> None:
        """Map Normal write-back memory of the host at an unprotected IPA, read-write."""

    @abstractmethod
    def unshare(self, pe: int, rd: int, ipa: int, level: int) -> None:
        """Unmap it."""

    @abstractmethod
    def complete_psci(self, pe: int, calling: int, target: int, status: int) -> None:
        """Answer a PSCI call on another REC."""
