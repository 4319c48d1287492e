"""Dropped memory: it reads as zeros at once, and the host gets it back."""

import os

from monitor.monitor import Monitor
from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.rmmd import RmmdFid
from pyvmm.core import Machine

BASE = 1 << 30
COUNT = 600  # more than are given back together
BLOCKS = GRANULE_SIZE // 512  # of the unit that stat counts in


class Bench:
    """A machine under a Monitor, and the RMM's conduit."""

    def __init__(self) -> None:
        """Build the GPT: everything below is Non-secure."""
        self.machine = Machine(BASE, 64 << 20, 1)
        self.smc = Monitor(self.machine).conduit(Pas.REALM).smc

    def move(self, fid: RmmdFid, granules: range) -> None:
        """Move granules one by one."""
        assert all(self.smc(0, (fid, pa))[0] == 0 for pa in granules)

    def used(self, pas: Pas) -> int:
        """Return how many granules of the host's memory a PAS takes."""
        return os.fstat(self.machine.memfd(pas)).st_blocks // BLOCKS


GRANULES = range(BASE, BASE + COUNT * GRANULE_SIZE, GRANULE_SIZE)


def test_delegated_memory_is_zero_when_it_comes_back() -> None:
    """In both directions, for the side that lost it."""
    bench = Bench()
    for pas, fid, back in (
        (Pas.NS, RmmdFid.GTSI_DELEGATE, RmmdFid.GTSI_UNDELEGATE),
        (Pas.REALM, RmmdFid.GTSI_UNDELEGATE, RmmdFid.GTSI_DELEGATE),
    ):
        for pa in GRANULES:
            bench.machine.memory(pas).write(pa + 8, b"secret")
        bench.move(fid, GRANULES)
        bench.move(back, GRANULES)
        for pa in GRANULES:
            assert bench.machine.memory(pas).read(pa, GRANULE_SIZE) == bytes(GRANULE_SIZE)
        bench.move(fid, GRANULES)


def test_memory_of_the_old_owner_returns_to_the_host() -> None:
    """All but what is still being gathered."""
    bench = Bench()
    for pa in GRANULES:
        bench.machine.memory(Pas.NS).write(pa, b"x")
    before = bench.used(Pas.NS)
    bench.move(RmmdFid.GTSI_DELEGATE, GRANULES)
    assert before >= COUNT
    assert bench.used(Pas.NS) <= 256


def test_what_came_back_and_was_written_survives_the_neighbours_end() -> None:
    """Giving memory back late spares a granule that has an owner again."""
    bench = Bench()
    memory = bench.machine.memory(Pas.NS)
    for pa in GRANULES:
        memory.write(pa, b"x")
    bench.move(RmmdFid.GTSI_DELEGATE, GRANULES[:100])
    bench.move(RmmdFid.GTSI_UNDELEGATE, GRANULES[40:50])
    for pa in GRANULES[40:50]:
        memory.write(pa, b"mine")
    bench.move(RmmdFid.GTSI_DELEGATE, GRANULES[100:])
    assert all(memory.read(pa, 4) == b"mine" for pa in GRANULES[40:50])


def test_zeroing_what_nobody_touched_takes_no_memory() -> None:
    """A page of zeros need not be made to be zero."""
    bench = Bench()
    memory = bench.machine.memory(Pas.NS)
    memory.zero(BASE, 64 * GRANULE_SIZE)
    assert bench.used(Pas.NS) == 0
    memory.write(BASE + GRANULE_SIZE + 5, b"xyz")
    memory.zero(BASE + 6, GRANULE_SIZE)
    assert memory.read(BASE + GRANULE_SIZE + 5, 3) == b"\0yz"
