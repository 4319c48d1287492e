"""RMI_FEATURES of RMI 2.0."""

from pyvmm.arch.rmi import RmiFid
from pyvmm.arch.rmi2 import Features0, Features1
from rmm.commands import rmi_command
from rmm.rmm import Rmm


@rmi_command(RmiFid.RMI_FEATURES)
def features(rmm: Rmm, index: int) -> tuple[int, ...]:
    """Read a feature register: 2 (devices), 3 (planes), 4 (private MECs) and others are zero.

    Spec: DEN0137 2.0, RMI_FEATURES.
    """
    limits = rmm.limits
    if index == 0:
        pa_bits = limits.s2sz  # an IPA space is as wide as the physical one
        return (
            int(
                Features0.of(
                    S2SZ=limits.s2sz,
                    NUM_BPS=limits.num_bps,
                    NUM_WPS=limits.num_wps,
                    PMU=limits.num_counters > 0,
                    PMU_NUM_CTRS=limits.num_counters,
                    S2OASZ=pa_bits,
                )
            ),
        )
    if index == 1:
        return (
            int(
                Features1.of(
                    GRANULE_4KB=1,
                    HASH_SHA_256=1,
                    HASH_SHA_384=1,
                    HASH_SHA_512=1,
                    MAX_RECS_ORDER=limits.max_recs_order,
                    PPS=limits.pa_range,
                )
            ),
        )
    return (0,)
