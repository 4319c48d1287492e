"""A machine for the Monitor: memory without granule checks, and a log of EL3's operations."""

from collections.abc import Sequence

import pytest

from monitor.monitor import Monitor
from pyvmm.arch.pas import Pas
from tests.memory import ViewedMemory

DRAM_BASE = 0x8000_0000
DRAM_SIZE = 6 << 20


class FakeMemory(ViewedMemory):
    """One physical address space."""

    def __init__(self) -> None:
        self.data = bytearray(DRAM_SIZE)

    def view(self, pa: int, size: int) -> memoryview:
        """Return a window."""
        return memoryview(self.data)[pa - DRAM_BASE : pa - DRAM_BASE + size]


class FakeMachine:
    """Logs punches and invalidations in order."""

    dram_base = DRAM_BASE
    dram_size = DRAM_SIZE
    num_pes = 2

    def __init__(self) -> None:
        self.memories = {Pas.ROOT: FakeMemory(), Pas.REALM: FakeMemory()}
        self.log: list[tuple[str, int, int]] = []
        self.gpt = (0, 0)

    def memory(self, pas: Pas) -> FakeMemory:
        """Return one space."""
        return self.memories[pas]

    def set_gpt(self, gptbr_pa: int, gpccr: int) -> None:
        """Record the registers."""
        self.gpt = (gptbr_pa, gpccr)

    def punch(self, pas: Pas, pa: int, size: int) -> None:
        """Log the operation."""
        self.log.append((f"punch {pas.name}", pa, size))

    def tlbi_pa(self, pa: int, size: int) -> None:
        """Log the operation."""
        self.log.append(("tlbi", pa, size))


class FakeRmm:
    """Boots with a given status and echoes RMI calls."""

    def __init__(self, status: int = 0, num_results: int = 18) -> None:
        self.status = status
        self.num_results = num_results
        self.boots: list[tuple[int, int, int, int]] = []

    def boot(self, cpu: int, version: int, num_cpus: int, shared_pa: int) -> int:
        """Log the boot and return the status."""
        self.boots.append((cpu, version, num_cpus, shared_pa))
        return self.status

    def handle(self, pe: int, fid: int, args: Sequence[int]) -> tuple[int, ...]:
        """Echo."""
        return (0, pe, fid, *args)[: self.num_results]

    def handle_series(
        self, _pe: int, _args: Sequence[int], _steps: Sequence[int], _count: int
    ) -> int:
        """Leave them to ``handle``."""
        return 0


@pytest.fixture
def machine() -> FakeMachine:
    """6 MiB of DRAM, two PEs."""
    return FakeMachine()


@pytest.fixture
def monitor(machine: FakeMachine) -> Monitor:
    """A Monitor without RMM and HES."""
    return Monitor(machine)
