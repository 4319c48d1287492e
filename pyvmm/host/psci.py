"""The HVC calls of a normal VM: PSCI, SMCCC and stolen time.

Spec: Arm DEN0022 1.1, DEN0028 1.2, DEN0057A.
"""

from collections.abc import Callable, Sequence

from pyvmm.arch.bits import MASK32
from pyvmm.arch.gic import MPIDR_RES1, mpidr_of
from pyvmm.arch.psci import (
    SMC64,
    SYSTEM_WARM_RESET,
    TRUSTED_OS_NOT_PRESENT,
    VERSION_1_1,
    AffinityState,
    PsciFid,
    PsciReturn,
)
from pyvmm.arch.pv_time import PvTimeFid
from pyvmm.arch.smccc import NOT_SUPPORTED, VERSION_1_2, SmcccFid
from pyvmm.host.guest import Outcome
from pyvmm.host.stolen_time import StolenTime
from pyvmm.host.vcpu import Vcpus

FEATURES = frozenset({*PsciFid, SmcccFid.SMCCC_VERSION})
ARCH_FEATURES = frozenset({SmcccFid.SMCCC_VERSION, SmcccFid.SMCCC_ARCH_FEATURES})

#: Sets the registers of a vCPU before its start: cpu, entry point, context (its x0).
Prepare = Callable[[int, int, int], None]


class Psci:
    """Answers one VM's calls."""

    def __init__(
        self,
        vcpus: Vcpus,
        num_cpus: int,
        prepare: Prepare,
        stolen_time: StolenTime | None = None,
    ) -> None:
        self._vcpus = vcpus
        self._stolen_time = stolen_time
        self._prepare = prepare
        self._cpu_of = {mpidr_of(cpu) & ~MPIDR_RES1: cpu for cpu in range(num_cpus)}

    def call(self, cpu: int, fid: int, args: Sequence[int]) -> int:
        """Return x0 of a call with x1..x3 = ``args``; NOT_SUPPORTED for unknown functions."""
        if not fid & SMC64:
            args = [arg & MASK32 for arg in args]
        match fid:
            case PsciFid.PSCI_VERSION:
                return VERSION_1_1
            case PsciFid.PSCI_FEATURES:
                return 0 if args[0] & MASK32 in FEATURES else NOT_SUPPORTED
            case PsciFid.CPU_ON_32 | PsciFid.CPU_ON_64:
                return self._cpu_on(*args[:3])
            case PsciFid.AFFINITY_INFO_32 | PsciFid.AFFINITY_INFO_64:
                return self._affinity_info(args[0], args[1])
            case PsciFid.CPU_OFF:
                self._vcpus.power_off(cpu)
            case PsciFid.SYSTEM_OFF:
                self._vcpus.finish(Outcome.OFF)
            case PsciFid.SYSTEM_RESET:
                self._vcpus.finish(Outcome.RESET)
            case PsciFid.SYSTEM_RESET2_32 | PsciFid.SYSTEM_RESET2_64:
                if args[0] & MASK32 != SYSTEM_WARM_RESET:  # there are no types of a vendor
                    return PsciReturn.INVALID_PARAMETERS.x0
                self._vcpus.finish(Outcome.RESET)
            case PsciFid.CPU_SUSPEND_32 | PsciFid.CPU_SUSPEND_64:
                pass  # a standby state that ends at once
            case PsciFid.MIGRATE_INFO_TYPE:
                return TRUSTED_OS_NOT_PRESENT
            case SmcccFid.SMCCC_VERSION:
                return VERSION_1_2
            case SmcccFid.SMCCC_ARCH_FEATURES:
                return self._arch_features(args[0])
            case PvTimeFid.PV_TIME_FEATURES | PvTimeFid.PV_TIME_ST if self._stolen_time:
                return self._stolen_time.call(cpu, fid, args[0] & MASK32)
            case _:
                return NOT_SUPPORTED
        return PsciReturn.SUCCESS.x0

    def _arch_features(self, fid: int) -> int:
        is_known = fid in ARCH_FEATURES or (
            fid == PvTimeFid.PV_TIME_FEATURES and self._stolen_time is not None
        )
        return 0 if is_known else NOT_SUPPORTED

    def _cpu_on(self, target: int, entry: int, context: int) -> int:
        cpu = self._cpu_of.get(target)
        if cpu is None:
            return PsciReturn.INVALID_PARAMETERS.x0
        if not self._vcpus.power_on(cpu, lambda: self._prepare(cpu, entry, context)):
            return PsciReturn.ALREADY_ON.x0
        return PsciReturn.SUCCESS.x0

    def _affinity_info(self, target: int, level: int) -> int:
        cpu = self._cpu_of.get(target)
        if level or cpu is None:
            return PsciReturn.INVALID_PARAMETERS.x0
        return AffinityState.ON if self._vcpus.is_on(cpu) else AffinityState.OFF
