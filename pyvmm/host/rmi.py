"""The host's calls to RMI; failures are exceptions.

The hot path (REC_ENTER) makes its SMC itself; this is for building, mapping and destroying.
Spec: DEN0137 1.0, "Realm Management Interface".
"""

from collections.abc import Sequence

from pyvmm.arch.islet import IsletRmiFid
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import RmiFid, RmiStatus, status_name, unpack_status
from pyvmm.arch.rmi_debug import DebugRmiFid
from pyvmm.host.machine import Firmware

_SUCCESS = int(RmiStatus.SUCCESS)
_DELEGATE = RmiFid.RMI_GRANULE_DELEGATE
_UNDELEGATE = RmiFid.RMI_GRANULE_UNDELEGATE


class RmiFailed(Exception):
    """An RMI command that the RMM refused; ``status`` and ``index`` are its result.

    ``done`` is how many commands of the same series came before.
    """

    def __init__(
        self,
        fid: RmiFid | IsletRmiFid | DebugRmiFid,
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


class Rmi:
    """The RMM of the platform, called on behalf of one realm."""

    __slots__ = ("_smc_series", "smc")

    def __init__(self, firmware: Firmware) -> None:
        self.smc = firmware.smc
        self._smc_series = firmware.smc_series

    def call(self, pe: int, fid: RmiFid | IsletRmiFid | DebugRmiFid, *args: int) -> tuple[int, ...]:
        """Call on a PE; return x1.. padded to four; RmiFailed unless RMI_SUCCESS."""
        results = self.smc(pe, (fid, *args))
        if results[0] != _SUCCESS:
            raise RmiFailed(fid, args, results[0])
        return (*results[1:], 0, 0, 0, 0)

    def call_series(self, pe: int, count: int, call: Sequence[int], steps: Sequence[int]) -> None:
        """Call ``count`` times, the arguments advancing by ``steps``; RmiFailed when one fails."""
        done, results = self._smc_series(pe, call, (0, *steps), count)
        if done < count:
            args = (arg + step * done for arg, step in zip(call[1:], steps, strict=True))
            raise RmiFailed(RmiFid(call[0]), tuple(args), results[0], done)

    def delegate(self, pe: int, pa: int, count: int = 1) -> None:
        """Delegate granules in a row to the Realm world, all of them or none."""
        try:
            self.call_series(pe, count, (_DELEGATE, pa), (GRANULE_SIZE,))
        except RmiFailed as failure:
            self.undelegate(pe, pa, failure.done)
            raise

    def undelegate(self, pe: int, pa: int, count: int = 1) -> None:
        """Take granules in a row back; they read as zeros."""
        self.call_series(pe, count, (_UNDELEGATE, pa), (GRANULE_SIZE,))
