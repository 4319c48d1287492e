"""PSCI and the Arm Architecture Service for software of the normal world that calls by SMC.

Spec: Arm DEN0022 (PSCI) 1.1, DEN0028 (SMCCC) 1.2.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from monitor.attestation import Answer
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
from pyvmm.arch.smccc import NOT_SUPPORTED, SOC_ID, VERSION_1_2, SmcccFid

FEATURES: Final = frozenset({*PsciFid, SmcccFid.SMCCC_VERSION})


class Power(Protocol):
    """The power of the PEs, and of the machine."""

    def power_on(self, cpu: int, entry: int, argument: int, /) -> bool:
        """Start a PE at an address with x0 = ``argument``; return False if it is on."""

    def power_off(self, cpu: int, /) -> None:
        """Turn a PE off."""

    def is_on(self, cpu: int, /) -> bool:
        """Check whether a PE is on."""

    def end(self, *, is_reset: bool) -> None:
        """Turn the machine off, or reset it."""


class Psci:
    """Answers the calls of one machine's normal world."""

    def __init__(self, power: Power, num_cpus: int, is_memory: Callable[[int], bool]) -> None:
        """``is_memory`` tells whether a PE can start at an address."""
        self._power = power
        self._is_memory = is_memory
        self._cpu_of = {mpidr_of(cpu) & ~MPIDR_RES1: cpu for cpu in range(num_cpus)}

    @property
    def services(self) -> Mapping[int, Callable[[int, int, Sequence[int]], Answer]]:
        """What EL3 serves, by function id."""
        return dict.fromkeys((*PsciFid, *SmcccFid), partial(Psci._serve, self))

    def _serve(self, cpu: int, fid: int, args: Sequence[int]) -> Answer:
        values = [*args[1:4], 0, 0, 0][:3]
        if not fid & SMC64:
            values = [value & MASK32 for value in values]
        return (self._call(cpu, fid, values),)

    def _call(self, cpu: int, fid: int, args: Sequence[int]) -> int:
        match fid:
            case PsciFid.PSCI_VERSION:
                return VERSION_1_1
            case PsciFid.PSCI_FEATURES:
                return 0 if args[0] & MASK32 in FEATURES else NOT_SUPPORTED
            case PsciFid.CPU_ON_32 | PsciFid.CPU_ON_64:
                return self._cpu_on(*args)
            case PsciFid.AFFINITY_INFO_32 | PsciFid.AFFINITY_INFO_64:
                return self._affinity_info(args[0], args[1])
            case PsciFid.CPU_OFF:
                self._power.power_off(cpu)
            case PsciFid.SYSTEM_OFF:
                self._power.end(is_reset=False)
            case PsciFid.SYSTEM_RESET:
                self._power.end(is_reset=True)
            case PsciFid.SYSTEM_RESET2_32 | PsciFid.SYSTEM_RESET2_64:
                if args[0] & MASK32 != SYSTEM_WARM_RESET:  # there are no types of a vendor
                    return PsciReturn.INVALID_PARAMETERS.x0
                self._power.end(is_reset=True)
            case PsciFid.MIGRATE_INFO_TYPE:
                return TRUSTED_OS_NOT_PRESENT
            case SmcccFid.SMCCC_ARCH_FEATURES:
                return 0 if args[0] & MASK32 in set(SmcccFid) else NOT_SUPPORTED
            case SmcccFid.SMCCC_ARCH_SOC_ID:
                index = args[0] & MASK32
                return SOC_ID[index] if index < len(SOC_ID) else PsciReturn.INVALID_PARAMETERS.x0
            case SmcccFid.SMCCC_VERSION:
                return VERSION_1_2
            case _:  # CPU_SUSPEND: a standby state that ends at once
                pass
        return PsciReturn.SUCCESS.x0

    def _cpu_on(self, target: int, entry: int, argument: int) -> int:
        cpu = self._cpu_of.get(target)
        if cpu is None:
            return PsciReturn.INVALID_PARAMETERS.x0
        if entry & 3 or not self._is_memory(entry):
            return PsciReturn.INVALID_ADDRESS.x0
        if not self._power.power_on(cpu, entry, argument):
            return PsciReturn.ALREADY_ON.x0
        return PsciReturn.SUCCESS.x0

    def _affinity_info(self, target: int, level: int) -> int:
        cpu = self._cpu_of.get(target)
        if level or cpu is None:
            return PsciReturn.INVALID_PARAMETERS.x0
        return AffinityState.ON if self._power.is_on(cpu) else AffinityState.OFF
