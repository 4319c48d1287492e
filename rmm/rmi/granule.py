"""RMI_GRANULE_*: moves of memory into and out of the Realm PAS."""

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import RmiFid, RmiStatus
from pyvmm.arch.rmmd import RmmdFid
from rmm.commands import rmi_command
from rmm.errors import RmiError
from rmm.granule import DELEGATED, UNDELEGATED
from rmm.rmm import Rmm

_GTSI_DELEGATE = int(RmmdFid.GTSI_DELEGATE)
_GTSI_UNDELEGATE = int(RmmdFid.GTSI_UNDELEGATE)


@rmi_command(RmiFid.RMI_GRANULE_DELEGATE)
def granule_delegate(rmm: Rmm, pe: int, addr: int) -> None:
    """Move a granule from the Non-secure to the Realm PAS, where it reads as zeros.

    Spec: DEN0137 1.0, RMI_GRANULE_DELEGATE.
    Raises: RmiError(ERROR_INPUT) if ``addr`` is not a granule, the granule is not UNDELEGATED, or
    EL3 refuses.
    """
    rmm.granules.require(addr, UNDELEGATED)
    if rmm.el3.smc(pe, (_GTSI_DELEGATE, addr))[0] != 0:
        raise RmiError(RmiStatus.ERROR_INPUT)
    # Each PAS has its own memory: the Realm side of a granule has been zero since it was scrubbed.
    rmm.granules.move(addr, DELEGATED)


@granule_delegate.series(GRANULE_SIZE)
def _delegate(rmm: Rmm, pe: int, count: int, addr: int) -> int:
    return move_several(rmm, pe, addr, rmm.granules.count(addr, UNDELEGATED, count), DELEGATED)


@rmi_command(RmiFid.RMI_GRANULE_UNDELEGATE)
def granule_undelegate(rmm: Rmm, pe: int, addr: int) -> None:
    """Return a granule to the host; DELEGATED granules are zero and need no scrubbing.

    Spec: DEN0137 1.0, RMI_GRANULE_UNDELEGATE.
    Raises: RmiError(ERROR_INPUT) if ``addr`` is not a granule, the granule is not DELEGATED, or
    EL3 refuses.
    """
    rmm.granules.require(addr, DELEGATED)
    if rmm.el3.smc(pe, (_GTSI_UNDELEGATE, addr))[0] != 0:
        raise RmiError(RmiStatus.ERROR_INPUT)
    rmm.granules.move(addr, UNDELEGATED)


@granule_undelegate.series(GRANULE_SIZE)
def _undelegate(rmm: Rmm, pe: int, count: int, addr: int) -> int:
    return move_several(rmm, pe, addr, rmm.granules.count(addr, DELEGATED, count), UNDELEGATED)


def move_several(rmm: Rmm, pe: int, addr: int, count: int, state: int) -> int:
    """Make granules in a row DELEGATED or UNDELEGATED, until EL3 refuses; return how many."""
    fid = _GTSI_DELEGATE if state == DELEGATED else _GTSI_UNDELEGATE
    done, _ = rmm.el3.smc_series(pe, (fid, addr), (0, GRANULE_SIZE), count)
    if done:
        rmm.granules.move_row(addr, state, done)
    return done
