"""The host's calls to RMI; failures are exceptions.

The hot path (REC_ENTER) makes its SMC itself; this is for building, mapping and destroying.
Spec: DEN0137 1.0, "Realm Management Interface".
"""

from pyvmm.arch.islet import IsletRmiFid
from pyvmm.arch.rmi import RmiFid, RmiStatus, status_name, unpack_status
from pyvmm.arch.rmi_debug import DebugRmiFid
from pyvmm.host.machine import Firmware

_SUCCESS = int(RmiStatus.SUCCESS)
_DELEGATE = RmiFid.RMI_GRANULE_DELEGATE
_UNDELEGATE = RmiFid.RMI_GRANULE_UNDELEGATE


class RmiFailed(Exception):
    """An RMI command that the RMM refused; ``status`` and ``index`` are its result."""

    def __init__(
        self, fid: RmiFid | IsletRmiFid | DebugRmiFid, args: tuple[int, ...], x0: int
    ) -> None:
        super().__init__(fid, args, x0)
        self.fid = fid
        self.args_given = args
        self.x0 = x0
        self.status, self.index = unpack_status(x0)

    def __str__(self) -> str:
        shown = " ".join(map(hex, self.args_given))
        return f"{self.fid.name} {shown} -> {status_name(self.x0)}"


class Rmi:
    """The RMM of the platform, called on behalf of one realm."""

    __slots__ = ("smc",)

    def __init__(self, firmware: Firmware) -> None:
        self.smc = firmware.smc

    def call(self, pe: int, fid: RmiFid | IsletRmiFid | DebugRmiFid, *args: int) -> tuple[int, ...]:
        """Call on a PE; return x1.. padded to four; RmiFailed unless RMI_SUCCESS."""
        results = self.smc(pe, (fid, *args))
        if results[0] != _SUCCESS:
            raise RmiFailed(fid, args, results[0])
        return (*results[1:], 0, 0, 0, 0)

    def delegate(self, pe: int, pa: int) -> None:
        """Delegate a granule to the Realm world."""
        if self.smc(pe, (_DELEGATE, pa))[0]:
            raise RmiFailed(_DELEGATE, (pa,), RmiStatus.ERROR_INPUT)

    def undelegate(self, pe: int, pa: int) -> None:
        """Take a granule back; it reads as zeros."""
        if self.smc(pe, (_UNDELEGATE, pa))[0]:
            raise RmiFailed(_UNDELEGATE, (pa,), RmiStatus.ERROR_INPUT)
