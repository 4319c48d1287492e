"""RMI_VERSION and RMI_FEATURES: the capabilities of this RMM."""

from pyvmm.arch.rmi import RmiFid, RmiStatus
from rmm.commands import rmi_command
from rmm.errors import RmiError
from rmm.rmm import Rmm


@rmi_command(RmiFid.RMI_VERSION)
def version(rmm: Rmm, req: int) -> tuple[int, ...]:
    """Choose a revision of the interface; the outputs are the lowest and highest supported.

    Spec: DEN0137 1.0, RMI_VERSION.
    Raises: RmiError(ERROR_INPUT) if ``req`` is not supported, with the same outputs.
    """
    served = min(rmm.revisions), max(rmm.revisions)
    if not rmm.select(req):
        raise RmiError(RmiStatus.ERROR_INPUT, 0, *served)
    return served


@rmi_command(RmiFid.RMI_FEATURES)
def features(rmm: Rmm, index: int) -> tuple[int, ...]:
    """Read a feature register; undefined registers read as zero.

    Spec: DEN0137 1.0, RMI_FEATURES.
    """
    return (int(rmm.feature_register_0) if index == 0 else 0,)
