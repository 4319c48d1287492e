"""RMI_VERSION and RMI_FEATURES: what this RMM is."""

from typing import TYPE_CHECKING

from pyvmm.arch.rmi import VERSION_1_0, RmiFid, RmiStatus
from rmm.commands import rmi_command
from rmm.errors import RmiError

if TYPE_CHECKING:
    from rmm.rmm import Rmm


@rmi_command(RmiFid.RMI_VERSION)
def version(_rmm: "Rmm", req: int) -> tuple[int, ...]:
    """Tell the lowest and the highest revision of the interface, and whether ``req`` is served.

    Spec: DEN0137 1.0, RMI_VERSION.
    Raises: RmiError(ERROR_INPUT) if ``req`` is not supported; the outputs are filled then too.
    """
    if req != VERSION_1_0:
        raise RmiError(RmiStatus.ERROR_INPUT, 0, VERSION_1_0, VERSION_1_0)
    return VERSION_1_0, VERSION_1_0


@rmi_command(RmiFid.RMI_FEATURES)
def features(rmm: "Rmm", index: int) -> tuple[int, ...]:
    """Read a feature register; those that do not exist read as zero.

    Spec: DEN0137 1.0, RMI_FEATURES.
    """
    return (int(rmm.feature_register_0) if index == 0 else 0,)
