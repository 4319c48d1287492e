"""PSCI of the Monitor, for software that has the normal world."""

import pytest

from monitor.monitor import Monitor
from monitor.psci import Psci
from pyvmm.arch.pas import Pas
from pyvmm.arch.psci import (
    SYSTEM_WARM_RESET,
    TRUSTED_OS_NOT_PRESENT,
    VERSION_1_1,
    AffinityState,
    PsciFid,
    PsciReturn,
)
from pyvmm.arch.smccc import NOT_SUPPORTED, VERSION_1_2, SmcccFid
from tests.monitor.conftest import DRAM_BASE

MEMORY = range(0x4000_0000, 0x5000_0000)


class Switches:
    """The power of two PEs."""

    def __init__(self) -> None:
        self.on = [True, False]
        self.started: list[tuple[int, int, int]] = []
        self.ends: list[bool] = []

    def power_on(self, cpu: int, entry: int, argument: int) -> bool:
        """Start one."""
        if self.on[cpu]:
            return False
        self.on[cpu] = True
        self.started.append((cpu, entry, argument))
        return True

    def power_off(self, cpu: int) -> None:
        """Stop one."""
        self.on[cpu] = False

    def is_on(self, cpu: int) -> bool:
        """Check one."""
        return self.on[cpu]

    def end(self, *, is_reset: bool) -> None:
        """Record it."""
        self.ends.append(is_reset)


@pytest.fixture
def switches() -> Switches:
    """Return them with PE 0 on."""
    return Switches()


def call(switches: Switches, fid: int, *args: int) -> int:
    """Return x0."""
    services = Psci(switches, 2, MEMORY.__contains__).services
    return services[fid](0, fid, (fid, *args))[0]


def test_cpu_on_starts_a_pe_once(switches: Switches) -> None:
    """At the address, with the argument; bad targets and addresses are refused."""
    entry = 0x4000_1000
    assert call(switches, PsciFid.CPU_ON_64, 1, entry, 7) == 0
    assert switches.started == [(1, entry, 7)]
    assert call(switches, PsciFid.CPU_ON_64, 1, entry, 7) == PsciReturn.ALREADY_ON.x0
    assert call(switches, PsciFid.CPU_ON_64, 2, entry, 7) == PsciReturn.INVALID_PARAMETERS.x0
    for bad in (0x4000_1002, 0x3FFF_F000, (1 << 64) - 4):
        assert call(switches, PsciFid.CPU_ON_64, 1, bad) == PsciReturn.INVALID_ADDRESS.x0


def test_power_off_reset_and_the_rest(switches: Switches) -> None:
    """What has no answer of its own succeeds, or does not exist."""
    assert call(switches, PsciFid.AFFINITY_INFO_64, 1) == 1
    assert call(switches, PsciFid.CPU_OFF) == 0
    assert not switches.on[0]
    call(switches, PsciFid.SYSTEM_OFF)
    call(switches, PsciFid.SYSTEM_RESET)
    assert switches.ends == [False, True]
    assert call(switches, PsciFid.SYSTEM_RESET2_64, 1) == PsciReturn.INVALID_PARAMETERS.x0
    assert call(switches, PsciFid.PSCI_FEATURES, 0xC400_0099) == NOT_SUPPORTED
    assert call(switches, PsciFid.PSCI_FEATURES, PsciFid.CPU_ON_64) == 0


@pytest.mark.parametrize(
    ("fid", "args", "expected"),
    [
        (PsciFid.PSCI_VERSION, (), VERSION_1_1),
        (SmcccFid.SMCCC_VERSION, (), VERSION_1_2),
        (PsciFid.MIGRATE_INFO_TYPE, (), TRUSTED_OS_NOT_PRESENT),
        (SmcccFid.SMCCC_ARCH_FEATURES, (SmcccFid.SMCCC_VERSION,), 0),
        (SmcccFid.SMCCC_ARCH_FEATURES, (0x8000_8000,), NOT_SUPPORTED),
        (PsciFid.CPU_SUSPEND_64, (0, 0x4000_0000, 0), 0),
        (PsciFid.AFFINITY_INFO_64, (0, 0), AffinityState.ON),
        (PsciFid.AFFINITY_INFO_64, (0, 1), PsciReturn.INVALID_PARAMETERS.x0),
        (PsciFid.AFFINITY_INFO_64, (2, 0), PsciReturn.INVALID_PARAMETERS.x0),
    ],
)
def test_what_changes_nothing(
    switches: Switches, fid: int, args: tuple[int, ...], expected: int
) -> None:
    """The call has a result, and no effect."""
    assert call(switches, fid, *args) == expected
    assert (switches.on, switches.started, switches.ends) == ([True, False], [], [])


@pytest.mark.parametrize("fid", [PsciFid.SYSTEM_RESET2_32, PsciFid.SYSTEM_RESET2_64])
def test_a_warm_reset_is_a_reset(switches: Switches, fid: int) -> None:
    """It has no types of a vendor."""
    call(switches, fid, SYSTEM_WARM_RESET)
    assert switches.ends == [True]


def test_a_32_bit_call_has_32_bit_arguments(switches: Switches) -> None:
    """The high halves of the registers are not part of it."""
    assert call(switches, PsciFid.CPU_ON_32, 1 << 32 | 1, 1 << 40 | 0x4000_1000, 1 << 63 | 7) == 0
    assert switches.started == [(1, 0x4000_1000, 7)]


def test_the_monitor_serves_psci_to_the_normal_world(monitor: Monitor, switches: Switches) -> None:
    """A PE starts in Non-secure memory only, and no other world can start one."""
    monitor.connect_power(switches)
    host, end = monitor.conduit(Pas.NS), monitor.layout.dram_base + monitor.layout.ns_size
    for entry in (DRAM_BASE - 4, end):
        answer = host.smc(0, (PsciFid.CPU_ON_64, 1, entry, 7))
        assert answer[0] == PsciReturn.INVALID_ADDRESS.x0
    assert host.smc(0, (PsciFid.CPU_ON_64, 1, end - 4, 7)) == (0, 0, 0, 0)
    assert switches.started == [(1, end - 4, 7)]
    assert monitor.conduit(Pas.REALM).smc(0, (PsciFid.SYSTEM_OFF,))[0] == NOT_SUPPORTED
    assert switches.ends == []


def test_the_identity_of_the_chip(switches: Switches) -> None:
    """Version and revision, which SMCCC_ARCH_FEATURES announces; nothing else."""
    soc_id = SmcccFid.SMCCC_ARCH_SOC_ID
    assert call(switches, SmcccFid.SMCCC_ARCH_FEATURES, soc_id) == 0
    assert [call(switches, soc_id, index) for index in (0, 1)] == [0x0C0A, 0]
    assert call(switches, soc_id, 2) == PsciReturn.INVALID_PARAMETERS.x0
