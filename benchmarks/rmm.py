"""RMM and Monitor on the real core: the cost of a command as its host sees it, per SMC.

Figures are CPU time, including the kernel's, so that other load on the machine hardly affects them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from keystone import KS_ARCH_ARM64, KS_MODE_LITTLE_ENDIAN, Ks

from benchmarks.result import Result
from monitor.monitor import Monitor
from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.rmi import DataFlags, RealmParams, RecEnterFlags, RecParams, RmiFid
from pyvmm.arch.rmi_revisions import VERSION_1_0, VERSION_2_0
from pyvmm.arch.smccc import call_series
from pyvmm.arch.stage2 import level_size
from pyvmm.core import Machine
from pyvmm.host.allocator import Allocator
from pyvmm.host.guest import GuestConfig, RealmOptions, Segment
from pyvmm.host.machine import Firmware
from pyvmm.host.realm import Realm
from pyvmm.host.vgic import Vgic
from rmm.rmi2 import ALL_REVISIONS
from rmm.rmm import Rmm

DRAM = 1 << 30
DRAM_SIZE = 1 << 30
RAM = 0x8000_0000
RAM_SIZE = 512 << 20
ENTRY = RAM
TABLE_SIZE = level_size(2)  # bytes that one table of pages covers
SHARED = 1 << 32  # the first unprotected IPA of a 33-bit realm
DEVICE = 0x100_0000  # where the guest's device is

BATCH = 1000
ROUNDS = 5  # the fastest counts
PAYLOAD = 10_900  # granules: a kernel and its initrd
LIVE = 20_000  # granules of a realm at its end

#: Stores X2 times to a device, then turns itself off; X1 is the device.
STORES = """
    again: str w3, [x1]; subs x2, x2, #1; b.ne again
    movz x0, #0x8400, lsl #16; movk x0, #8; smc #0
"""
#: Reads one word of X2 pages from X1 on, then turns itself off.
TOUCHES = """
    again: ldr w3, [x1]; add x1, x1, #4096; subs x2, x2, #1; b.ne again
    movz x0, #0x8400, lsl #16; movk x0, #8; smc #0
"""
#: Stores forever.
STORE_LOOP = "again: str w3, [x1]; b again"


def assemble(text: str) -> bytes:
    """Return the machine code."""
    code, _ = Ks(KS_ARCH_ARM64, KS_MODE_LITTLE_ENDIAN).asm(text)
    return bytes(code or b"")


class Device:
    """A bus with one register that ignores writes."""

    def read(self, _addr: int, _size: int) -> int:
        """Read as zero."""
        return 0

    def write(self, _addr: int, _size: int, _value: int) -> None:
        """Ignore the value."""


class SingleSmcs:
    """A conduit that performs a series one call at a time, as PEs do."""

    def __init__(self, conduit: Firmware) -> None:
        self.smc = conduit.smc

    def smc_series(
        self, pe: int, args: Sequence[int], steps: Sequence[int], count: int
    ) -> tuple[int, tuple[int, ...]]:
        """Call until a call fails."""
        return call_series(self.smc, pe, args, steps, count)


class World:
    """A booted platform: the real core, Monitor and RMM, and the host's SMC."""

    def __init__(self, *, has_series: bool = True) -> None:
        self.machine = Machine(DRAM, DRAM_SIZE, 1)
        self.monitor = Monitor(self.machine)
        self.rmm = Rmm(self.machine, self.monitor.conduit(Pas.REALM), ALL_REVISIONS)
        assert self.monitor.boot(self.rmm) == 0
        conduit: Firmware = self.monitor.conduit(Pas.NS)
        self.firmware = conduit if has_series else SingleSmcs(conduit)
        self.ns = self.machine.memory(Pas.NS)
        self.allocator = Allocator(DRAM, self.monitor.layout.ns_size)

    def do(self, fid: int, *args: int) -> None:
        """Issue a command that must succeed."""
        results = self.firmware.smc(0, (fid, *args))
        assert results[0] == 0, (hex(fid), results)

    def granules(self, count: int, *, delegate: bool = False, align: int = GRANULE_SIZE) -> range:
        """Allocate consecutive granules."""
        first = self.allocator.allocate(count * GRANULE_SIZE, align)
        granules = range(first, first + count * GRANULE_SIZE, GRANULE_SIZE)
        for pa in granules if delegate else ():
            self.do(RmiFid.RMI_GRANULE_DELEGATE, pa)
        return granules

    def realm(self, vmid: int) -> int:
        """Create a 33-bit realm with tables for RAM's first pages; return its RD."""
        start, rd, *tables = self.granules(4, delegate=True)
        params = RealmParams.of(s2sz=33, num_bps=1, num_wps=1, vmid=vmid)
        params.rtt_base, params.rtt_level_start, params.rtt_num_start = start, 1, 1
        page = self.allocator.allocate()
        self.ns.write(page, bytes(params))
        self.do(RmiFid.RMI_REALM_CREATE, rd, page)
        for level, pa in zip((2, 3), tables, strict=True):
            self.do(RmiFid.RMI_RTT_CREATE, rd, pa, RAM, level)
        return rd

    def rec(self, rd: int, *gprs: int) -> int:
        """Create the REC of a realm that starts at ENTRY; return its granule."""
        rec, *aux = self.granules(3, delegate=True)
        params = RecParams.of(flags=1, pc=ENTRY, num_aux=2)
        params.aux = (*aux, *[0] * 14)
        params.gprs = (*gprs, *[0] * (8 - len(gprs)))
        page = self.allocator.allocate()
        self.ns.write(page, bytes(params))
        self.do(RmiFid.RMI_REC_CREATE, rd, rec, page)
        return rec

    def guest(self, payload: bytes, *args: int, revision: int = VERSION_1_0) -> Realm:
        """Create a realm as the VMM does, with one device, by a revision of RMI."""
        x = (*args, 0, 0, 0, 0)
        return Realm(
            self.firmware,
            self.ns,
            self.allocator,
            bus=Device(),
            vgic=Vgic(1),
            config=GuestConfig(
                1, RAM, RAM_SIZE, (Segment(ENTRY, payload),), ENTRY, (x[0], x[1], x[2], x[3])
            ),
            kick=lambda cpu: self.machine.pe(cpu).kick(),
            options=RealmOptions(revision=revision),
            interfaces=[self.machine.pe(0).interface] if revision == VERSION_2_0 else (),
        )


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU time, in seconds, that all threads together need for some work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def micros(work: Callable[[], object], count: int = BATCH) -> float:
    """Return the microseconds per operation for work that does ``count`` operations."""
    return min(seconds(work) for _ in range(ROUNDS)) / count * 1e6


def commands() -> Iterator[Result]:
    """Single RMI commands, in batches."""
    yield Result("delegate+undelegate", delegation(World()), "µs", goal=12)
    yield Result("delegate+undelegate, series", delegation_series(World()), "µs", goal=1)
    yield Result("rtt create+destroy", tables(World()), "µs", goal=25)
    yield Result("init_ripas", ripas(World()), "µs", goal=8)
    yield Result("data_create measured", measured_data(World()), "µs", goal=18)
    yield Result("data unknown+destroy", unknown_data(World()), "µs", goal=20)
    yield Result("data unknown+destroy, series", unknown_data_series(World()), "µs", goal=2)
    yield Result("rec_enter", entries(World()), "µs", goal=10)


def delegation(world: World) -> float:
    """Delegate granules and take them back."""
    smc, granules = world.firmware.smc, world.granules(BATCH)

    def work() -> None:
        for pa in granules:
            smc(0, (RmiFid.RMI_GRANULE_DELEGATE, pa))
        for pa in granules:
            smc(0, (RmiFid.RMI_GRANULE_UNDELEGATE, pa))

    return micros(work)


def delegation_series(world: World) -> float:
    """Delegate granules and take them back, as a realm's host does."""
    series, granules = world.firmware.smc_series, world.granules(BATCH)

    def work() -> None:
        for fid in (RmiFid.RMI_GRANULE_DELEGATE, RmiFid.RMI_GRANULE_UNDELEGATE):
            assert series(0, (fid, granules[0]), (0, GRANULE_SIZE), BATCH)[0] == BATCH

    return micros(work)


def tables(world: World) -> float:
    """Create and destroy one table."""
    smc, rd = world.firmware.smc, world.realm(1)
    (table,) = world.granules(1, delegate=True)
    create = (RmiFid.RMI_RTT_CREATE, rd, table, RAM + TABLE_SIZE, 3)
    destroy = (RmiFid.RMI_RTT_DESTROY, rd, RAM + TABLE_SIZE, 3)

    def work() -> None:
        for _ in range(BATCH):
            smc(0, create)
            smc(0, destroy)

    return micros(work)


def ripas(world: World) -> float:
    """Declare the pages of a table RAM, one by one."""
    smc, pages = world.firmware.smc, range(RAM, RAM + TABLE_SIZE, GRANULE_SIZE)
    realms = iter([world.realm(vmid) for vmid in range(1, ROUNDS + 1)])

    def work() -> None:
        rd = next(realms)
        for ipa in pages:
            smc(0, (RmiFid.RMI_RTT_INIT_RIPAS, rd, ipa, ipa + GRANULE_SIZE))

    return micros(work, len(pages))


def measured_data(world: World) -> float:
    """Fill a table with measured pages; their delegation is not counted."""
    smc, pages = world.firmware.smc, range(RAM, RAM + TABLE_SIZE, GRANULE_SIZE)
    (source,) = world.granules(1)
    world.ns.write(source, bytes(range(256)) * 16)
    realms = iter([world.realm(vmid) for vmid in range(1, ROUNDS + 1)])
    data = iter([world.granules(len(pages), delegate=True) for _ in range(ROUNDS)])

    def work() -> None:
        rd = next(realms)
        for pa, ipa in zip(next(data), pages, strict=True):
            smc(0, (RmiFid.RMI_DATA_CREATE, rd, pa, ipa, source, DataFlags.MEASURE_CONTENT))

    return micros(work, len(pages))


def unknown_data(world: World) -> float:
    """Give a realm pages and take them back."""
    smc, rd = world.firmware.smc, world.realm(1)
    pages = range(RAM, RAM + TABLE_SIZE, GRANULE_SIZE)
    data = world.granules(len(pages), delegate=True)

    def work() -> None:
        for pa, ipa in zip(data, pages, strict=True):
            smc(0, (RmiFid.RMI_DATA_CREATE_UNKNOWN, rd, pa, ipa))
            smc(0, (RmiFid.RMI_DATA_DESTROY, rd, ipa))

    return micros(work, len(pages))


def unknown_data_series(world: World) -> float:
    """Give a realm pages and take them back, as its host does."""
    series, rd = world.firmware.smc_series, world.realm(1)
    count = TABLE_SIZE // GRANULE_SIZE
    data = world.granules(count, delegate=True)
    create = (RmiFid.RMI_DATA_CREATE_UNKNOWN, rd, data[0], RAM)

    def work() -> None:
        assert series(0, create, (0, 0, GRANULE_SIZE, GRANULE_SIZE), count)[0] == count
        destroy = (RmiFid.RMI_DATA_DESTROY, rd, RAM)
        assert series(0, destroy, (0, 0, GRANULE_SIZE), count)[0] == count

    return micros(work, count)


def entries(world: World) -> float:
    """Enter a REC that stores to a device at once; the host has nothing to do."""
    smc, rd = world.firmware.smc, world.realm(1)
    source, run = world.granules(2)
    (data,) = world.granules(1, delegate=True)
    world.ns.write(source, assemble(STORE_LOOP))
    world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, RAM, RAM + GRANULE_SIZE)
    world.do(RmiFid.RMI_DATA_CREATE, rd, data, ENTRY, source, 0)
    call = (RmiFid.RMI_REC_ENTER, world.rec(rd, 0, SHARED + DEVICE), run)
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    world.do(*call)
    world.ns.write_u64(run, RecEnterFlags.EMUL_MMIO)

    def work() -> None:
        for _ in range(BATCH):
            smc(0, call)

    return micros(work)


@dataclass(frozen=True)
class Lifetime:
    """The times of the phases of a realm's life, in seconds."""

    build: float
    run: float
    destroy: float

    @property
    def ends(self) -> float:
        """All but the run."""
        return self.build + self.destroy


def run_realm(
    payload: bytes, *args: int, revision: int = VERSION_1_0, has_series: bool = True
) -> Lifetime:
    """Build a realm, run it until it turns itself off, destroy it."""
    world = World(has_series=has_series)
    guest = world.guest(payload, *args, revision=revision)
    build = seconds(guest.start)
    run = seconds(guest.wait)
    return Lifetime(build, run, seconds(guest.close))


def realm_lifetimes() -> Iterator[Result]:
    """Whole realms, as the VMM creates them."""
    payload = assemble(TOUCHES).ljust(PAYLOAD * GRANULE_SIZE, b"\x5a")
    touched = LIVE - PAYLOAD
    lifetime = run_realm(payload, 0, ENTRY + len(payload), touched)
    newer = run_realm(payload, 0, ENTRY + len(payload), touched, revision=VERSION_2_0)
    yield Result("build, 10 900 granules", lifetime.build, "s", goal=0.15)
    yield Result("first touch", lifetime.run / touched * 1e6, "µs", goal=8)
    yield Result("destroy, 20 000 granules", lifetime.destroy, "s", goal=0.1)
    yield Result("build, RMI 2.0", newer.build, "s", goal=0.1)
    yield Result("first touch, RMI 2.0", newer.run / touched * 1e6, "µs", goal=8)
    yield Result("destroy, RMI 2.0", newer.destroy, "s", goal=0.05)
    yield Result("build and destroy, 1.0 / 2.0", lifetime.ends / newer.ends, "x")
    old, new = (
        run_realm(payload, 0, ENTRY + len(payload), touched, revision=each, has_series=False)
        for each in (VERSION_1_0, VERSION_2_0)
    )
    yield Result("build and destroy, single SMCs, 1.0 / 2.0", old.ends / new.ends, "x", goal=2)
    count = 20_000
    stores = run_realm(assemble(STORES), 0, SHARED + DEVICE, count)
    yield Result("device access of a realm", stores.run / count * 1e6, "µs", goal=14)


def rmm() -> Iterator[Result]:
    """The RMM's commands and a realm's life."""
    yield from commands()
    yield from realm_lifetimes()
