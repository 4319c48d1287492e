"""RMI_PSCI_COMPLETE of RMI 2.0: the RMM knows the target itself."""

from typing import Final

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.psci import AffinityState, PsciReturn
from pyvmm.arch.rmi import RmiFid, RmiStatus
from rmm.commands import rmi_command
from rmm.errors import RmiError
from rmm.rec import Rec
from rmm.rmi.psci import turn_on
from rmm.rmm import Rmm

_SUCCESS: Final = PsciReturn.SUCCESS.x0
_DENIED: Final = PsciReturn.DENIED.x0


@rmi_command(RmiFid.RMI_PSCI_COMPLETE)
def psci_complete(rmm: Rmm, calling_rec: int, status: int, old_status: int) -> None:
    """Complete CPU_ON or AFFINITY_INFO: the host may deny the call.

    Hosts of the first betas give the target's granule, and the status after it; they are served,
    too: no status is a granule's address.
    Spec: DEN0137 2.0, RMI_PSCI_COMPLETE.
    Raises: RmiError(ERROR_INPUT) if ``calling_rec`` is not a REC, runs, or has no request pending,
    the target given is not the requested one, the target does not exist any more and ``status`` is
    not DENIED, or ``status`` does not fit the request; (BLOCKED) if an operation has the REC.
    """
    calling = rmm.rec(calling_rec)
    request = calling.psci
    if request is None:
        raise RmiError(RmiStatus.ERROR_INPUT)
    target_pa = calling.realm.recs.get(request.target)
    if status >= GRANULE_SIZE and status != _DENIED:
        if target_pa != status:
            raise RmiError(RmiStatus.ERROR_INPUT)
        status = old_status
    target = rmm.recs[target_pa] if target_pa is not None else None
    result = _result(calling, target, status, is_cpu_on=request.is_cpu_on)
    calling.psci = None
    calling.reply(result)


def _result(calling: Rec, target: Rec | None, status: int, *, is_cpu_on: bool) -> int:
    """Perform the request; return the realm's x0."""
    if target is None:
        if status != _DENIED:
            raise RmiError(RmiStatus.ERROR_INPUT)
        return _DENIED
    if is_cpu_on:
        return turn_on(calling, target, status)
    if status != _SUCCESS:
        raise RmiError(RmiStatus.ERROR_INPUT)
    return AffinityState.ON if target.runnable else AffinityState.OFF
