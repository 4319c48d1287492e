"""RMI_RMM_*: the state and configuration of the RMM.

Before the activation, the RMM serves the commands here and few others; ``Rmm.set_active`` chooses.
"""

from pyvmm.arch.rmi import RmiStatus
from pyvmm.arch.rmi2 import NUM_TRACKING_SIZES, Rmi2Fid, RmmConfig, RmmState
from rmm.commands import rmi_command
from rmm.errors import RmiError
from rmm.rmm import Rmm


@rmi_command(Rmi2Fid.RMI_RMM_CONFIG_GET)
def rmm_config_get(rmm: Rmm, cfg: int) -> None:
    """Write RmiRmmConfig to the host's granule at ``cfg``.

    Spec: DEN0137 2.0, RMI_RMM_CONFIG_GET.
    Raises: RmiError(ERROR_INPUT) if ``cfg`` is not a granule of the host.
    """
    rmm.read_ns(cfg, 1)
    rmm.ns.write(cfg, RmmConfig.of(tracking_region_size=rmm.tracking_size).data)


@rmi_command(Rmi2Fid.RMI_RMM_CONFIG_SET)
def rmm_config_set(rmm: Rmm, cfg: int) -> None:
    """Configure the RMM before it is activated: granules of 4 KB, regions of 1 GB or 2 MB.

    Spec: DEN0137 2.0, RMI_RMM_CONFIG_SET.
    Raises: RmiError(ERROR_GLOBAL) if the RMM is active; (ERROR_INPUT) if ``cfg`` is not a granule
    of the host, or a value is not supported.
    """
    if rmm.is_active:
        raise RmiError(RmiStatus.ERROR_GLOBAL)
    config = RmmConfig(rmm.read_ns(cfg, RmmConfig.size))
    supported = RmmConfig.of(tracking_region_size=config.tracking_region_size)
    if config.tracking_region_size >= NUM_TRACKING_SIZES or config.data != supported.data:
        raise RmiError(RmiStatus.ERROR_INPUT)
    rmm.tracking_size = config.tracking_region_size


@rmi_command(Rmi2Fid.RMI_RMM_STATE_GET)
def rmm_state_get(rmm: Rmm) -> tuple[int, ...]:
    """Return the state of the RMM: 0 before it is activated, then 2.

    Spec: DEN0137 2.0, RMI_RMM_STATE_GET.
    """
    return (RmmState.ACTIVE if rmm.is_active else RmmState.INIT,)


@rmi_command(Rmi2Fid.RMI_RMM_ACTIVATE)
def rmm_activate(rmm: Rmm) -> None:
    """Begin to serve all commands.

    Spec: DEN0137 2.0, RMI_RMM_ACTIVATE.
    Raises: RmiError(ERROR_GLOBAL) if the RMM is active.
    """
    if rmm.is_active:
        raise RmiError(RmiStatus.ERROR_GLOBAL)
    rmm.set_active(True)


@rmi_command(Rmi2Fid.RMI_RMM_DEACTIVATE)
def rmm_deactivate(rmm: Rmm) -> None:
    """Return to the state before the activation; the configuration stays.

    Spec: DEN0137 2.0, RMI_RMM_DEACTIVATE.
    Raises: RmiError(BUSY) if an operation is in progress; (ERROR_GLOBAL) if the RMM is not active
    or a granule is not UNDELEGATED.
    """
    if rmm.operations:
        raise RmiError(RmiStatus.BUSY)
    if not rmm.granules.is_unused:
        raise RmiError(RmiStatus.ERROR_GLOBAL)
    rmm.set_active(False)
