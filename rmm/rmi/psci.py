"""RMI_PSCI_COMPLETE: the host completes a PSCI call on another REC."""

from pyvmm.arch.psci import AffinityState, PsciReturn
from pyvmm.arch.rmi import RmiFid, RmiStatus
from rmm.commands import rmi_command
from rmm.errors import RmiError
from rmm.rec import Rec, reset
from rmm.rmm import Rmm

_SUCCESS = PsciReturn.SUCCESS.x0
_DENIED = PsciReturn.DENIED.x0


@rmi_command(RmiFid.RMI_PSCI_COMPLETE)
def psci_complete(rmm: Rmm, calling_rec: int, target_rec: int, status: int) -> None:
    """Complete CPU_ON or AFFINITY_INFO: the host gives the target's REC and may deny the call.

    Spec: DEN0137 1.0, RMI_PSCI_COMPLETE.
    Raises: RmiError(ERROR_INPUT) if the RECs are not two RECs of one realm, no request is pending,
    the target is not the requested one, or ``status`` does not fit the request; or if the host
    denies CPU_ON of a REC that is on, in which case the caller still gets ALREADY_ON.
    """
    if calling_rec == target_rec:
        raise RmiError(RmiStatus.ERROR_INPUT)
    calling, target = rmm.rec(calling_rec), rmm.rec(target_rec)
    request = calling.psci
    if request is None or calling.realm is not target.realm or request.target != target.index:
        raise RmiError(RmiStatus.ERROR_INPUT)
    if request.is_cpu_on:
        result = turn_on(calling, target, status)
    elif status == _SUCCESS:
        result = AffinityState.ON if target.runnable else AffinityState.OFF
    else:
        raise RmiError(RmiStatus.ERROR_INPUT)
    calling.psci = None
    calling.reply(result)
    if status == _DENIED and result != _DENIED:  # ADR 9: an error that ends the request
        raise RmiError(RmiStatus.ERROR_INPUT)


def turn_on(calling: Rec, target: Rec, status: int) -> int:
    """Turn on the target unless it is on or the host denies it; return the realm's x0."""
    if status not in (_SUCCESS, _DENIED):
        raise RmiError(RmiStatus.ERROR_INPUT)
    if target.runnable:
        return PsciReturn.ALREADY_ON.x0
    if status == _SUCCESS and calling.psci is not None:
        reset(target, calling.context, calling.psci)
    return status
