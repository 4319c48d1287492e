"""PSCI of the Monitor, for software that has the normal world."""

import pytest

from monitor.psci import Psci
from pyvmm.arch.psci import PsciFid, PsciReturn
from pyvmm.arch.smccc import NOT_SUPPORTED

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
