"""A hostile realm: random code, calls and tables on the real core affect nobody else."""

import logging
import random
import zlib
from dataclasses import dataclass
from time import monotonic

import pytest

from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.rmi import RmiFid
from pyvmm.core import Machine
from pyvmm.host.allocator import Allocator
from pyvmm.host.guest import RealmOptions
from pyvmm.host.realm import Realm
from pyvmm.host.vgic import Vgic
from tests.hostile import CURSOR, RAM_BASE, Generator
from tests.rmm.core_world import boot

LOG = logging.getLogger(__name__)  # shown when a test fails
DRAM_BASE = 0x4000_0000
DRAM_SIZE = 32 << 20
HOST_SIZE = 16 << 20  # from DRAM_BASE on; the Non-secure rest is somebody's who is to be left alone
NUM_CPUS = 2
SLICE = 0.015  # seconds of a realm's life
VICTIM_GRANULES = 64  # delegated, of the rest
CHECKED_EVERY = 10


@dataclass
class RandomBus:
    """Devices that answer anything."""

    rng: random.Random
    accesses: int = 0

    def read(self, _addr: int, size: int) -> int:
        self.accesses += 1
        return self.rng.getrandbits(8 * size)

    def write(self, _addr: int, size: int, value: int) -> None:
        assert not value >> 8 * size
        self.accesses += 1


class Rig:
    """A machine whose memory, but the host's part, has a pattern that must stay."""

    def __init__(self, seed: int) -> None:
        self.machine = Machine(DRAM_BASE, DRAM_SIZE, NUM_CPUS)
        self.monitor, self.rmm = boot(self.machine)
        self.firmware = self.monitor.conduit(Pas.NS)
        self.allocator = Allocator(DRAM_BASE, HOST_SIZE)
        self.bus = RandomBus(random.Random(seed))
        self.victims = [DRAM_BASE + HOST_SIZE + n * GRANULE_SIZE for n in range(VICTIM_GRANULES)]
        for pa in self.victims:
            assert self.firmware.smc(0, (RmiFid.RMI_GRANULE_DELEGATE, pa))[0] == 0
        pattern = random.Random(seed).randbytes(1 << 20)
        ns_end = self.monitor.layout.ns_size
        for pas, start, end in (
            (Pas.NS, HOST_SIZE, ns_end),
            (Pas.REALM, HOST_SIZE, ns_end),
            (Pas.SECURE, 0, 1 << 20),
            (Pas.ROOT, 0, 1 << 20),
        ):
            for offset in range(start, end, len(pattern)):
                size = min(len(pattern), end - offset)
                self.machine.buffer(pas)[offset : offset + size] = pattern[:size]
        self.before = self.canary()

    def canary(self) -> list[int]:
        """Sum up all memory that is not for the host, while it has no realm."""
        rest = [self.machine.buffer(pas)[HOST_SIZE:] for pas in (Pas.NS, Pas.REALM, Pas.ROOT)]
        low = [self.machine.buffer(pas)[: 1 << 20] for pas in (Pas.SECURE, Pas.ROOT)]
        return [zlib.crc32(part) for part in (*rest, *low)]

    def run_realm(self, generator: Generator, vmid: int) -> int:
        """Run a realm for a moment; return how many chunks it began."""
        vgic = Vgic(NUM_CPUS)
        realm = Realm(
            self.firmware,
            self.machine.memory(Pas.NS),
            self.allocator,
            bus=self.bus,
            vgic=vgic,
            config=generator.config(NUM_CPUS),
            kick=lambda cpu: self.machine.pe(cpu).kick(),
            options=RealmOptions("sha256"),
            vmid=vmid,
        )
        pa = realm.dma._pa + CURSOR - RAM_BASE
        realm.build()
        realm.start()
        try:
            realm.wait(SLICE)  # raises what a handler raised
        finally:
            begun = self.machine.buffer(Pas.REALM)[pa - DRAM_BASE :][0]
            realm.close()
        assert (
            "outside its RAM" in realm.reason or not realm.reason
        )  # the only crash that is its own
        return begun

    def check(self) -> None:
        """Nothing is left of the realm, and nothing else is touched."""
        assert self.monitor.leak_check() == self.victims
        assert self.allocator.free_size == HOST_SIZE
        assert not self.rmm.realms
        assert not self.rmm.recs
        for pa in range(0, HOST_SIZE, 1 << 20):  # its secrets are gone with it
            assert not any(self.machine.buffer(Pas.REALM)[pa : pa + (1 << 20)].tobytes())
        assert self.canary() == self.before


def harass(seed: int, seconds: float) -> tuple[int, int, int]:
    """Run realms one after another, three at least; return their number, chunks and accesses."""
    rig, generator = Rig(seed), Generator(seed)
    lives = chunks = 0
    until = monotonic() + seconds
    while lives < 3 or monotonic() < until:
        LOG.warning("seed %d, life %d", seed, lives)
        chunks += rig.run_realm(generator, 1 + lives % 100)
        lives += 1
        if lives % CHECKED_EVERY == 0:
            rig.check()
    rig.check()
    return lives, chunks, rig.bus.accesses


def test_hostile_realm(seed: int) -> None:
    """A few dozen realms of random code harm nobody, and can be destroyed."""
    lives, chunks, accesses = harass(seed, 3)
    assert chunks > lives  # most of them get somewhere
    assert accesses


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(20))
def test_hostile_realm_for_long(seed: int, turn: int) -> None:
    """The same for ten minutes, half a minute a seed."""
    harass(seed + 1 + turn, 30)
