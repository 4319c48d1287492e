"""A hostile host on the real core, under the real Monitor, while its realm runs hostile code."""

import logging
import random
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Self

import pytest

from pyvmm.arch.esr import ipa_of
from pyvmm.arch.gpt import Gpi
from pyvmm.arch.pas import GRANULE_SIZE, GranuleProtectionFault, Pas
from pyvmm.arch.rmi import (
    EXIT_OFFSET,
    RealmParams,
    RecEnter,
    RecEnterFlags,
    RecExit,
    RecExitReason,
    RecParams,
    RmiFid,
    rec_mpidr,
)
from pyvmm.arch.rmi_debug import DebugPoints, DebugRegisters, DebugRmiFid
from pyvmm.arch.stage2 import level_size
from pyvmm.core import Machine
from rmm.granule import GranuleState
from tests.hostile import DATA, RAM_BASE, Generator
from tests.rmm.core_world import boot
from tests.rmm.invariants import check_invariants
from tests.rmm.teardown import tear_down

LOG = logging.getLogger(__name__)  # shown when a test fails
DRAM_BASE = 0x4000_0000
DRAM_SIZE = 8 << 20
NUM_PES = 4  # the last two belong to the threads that run the realm and debug it
RUNNER, DEBUGGER = NUM_PES - 2, NUM_PES - 1
UNPROTECTED = 1 << 32
NUM_PLAYED = 48  # granules that the commands are about
BATCH = 2500  # calls to one machine
CHECKED_EVERY = 250
KICK_PERIOD = 0.002  # seconds
HANGING = 30  # seconds after which a command is taken not to return
FIDS: list[RmiFid | DebugRmiFid] = [*RmiFid, *DebugRmiFid]
RARE = {
    RmiFid.RMI_REC_DESTROY,
    RmiFid.RMI_REALM_DESTROY,
    RmiFid.RMI_REALM_ACTIVATE,
}  # else there is soon nothing to attack
WEIGHTS = [1 if fid in RARE else 30 for fid in FIDS]
OF_TABLES = {RmiFid.RMI_RTT_CREATE, RmiFid.RMI_RTT_DESTROY, RmiFid.RMI_RTT_FOLD}
LEVELS = (1, 2, 2, 3, 3, 3, 0, 4, (1 << 64) - 1)


class HostileHost:
    """A hostile host with one running realm."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.machine = Machine(DRAM_BASE, DRAM_SIZE, NUM_PES)
        self.monitor, self.rmm = boot(self.machine)
        self.conduit = self.monitor.conduit(Pas.NS)
        self.ns = self.machine.memory(Pas.NS)
        self.statuses = Counter[tuple[str, int]]()
        self.next = DRAM_BASE
        self.realms: list[int] = []
        self.recs: list[int] = []
        self.build(Generator(seed), vmid=9)
        self.new_realm(0, vmid=10)
        self.params = [self.granule() for _ in range(4)]
        self.runs = [self.granule() for _ in range(3)]
        self.free = [self.granule() for _ in range(NUM_PLAYED)]
        for pa in self.free[::2]:
            self.do(RmiFid.RMI_GRANULE_DELEGATE, pa)
        layout = self.monitor.layout
        self.odd = [
            0, 1, GRANULE_SIZE, layout.rmm_base, layout.root_base, layout.dram_top, 1 << 63,
            (1 << 64) - GRANULE_SIZE, (1 << 64) - 1, DRAM_BASE - GRANULE_SIZE, self.free[0] + 8,
        ]  # fmt: skip

    # --- a running realm --------------------------------------------------------------------

    def smc(self, fid: int, *args: int, pe: int = 0) -> tuple[int, ...]:
        """Call, and look at the form of the answer."""
        results = self.conduit.smc(pe, (fid, *args))
        assert all(0 <= x < 1 << 64 for x in results)
        return (*results, 0, 0, 0, 0)

    def do(self, fid: int, *args: int) -> tuple[int, ...]:
        """Issue a command that must succeed."""
        results = self.smc(fid, *args)
        assert results[0] == 0, f"{fid:#x}: {results}"
        return results[1:]

    def granule(self, data: bytes = b"") -> int:
        """Allocate a granule of the host."""
        pa, self.next = self.next, self.next + GRANULE_SIZE
        self.ns.write(pa, data)
        return pa

    def delegated(self) -> int:
        """Allocate a granule and delegate it."""
        pa = self.granule()
        self.do(RmiFid.RMI_GRANULE_DELEGATE, pa)
        return pa

    def realm_params(self, rtt: int, vmid: int) -> bytearray:
        """Make good parameters of a realm."""
        params = RealmParams.of(s2sz=33, num_bps=1, num_wps=1, rtt_base=rtt, rtt_level_start=1)
        params.rtt_num_start, params.vmid = 1, vmid
        return params.data

    def rec_params(self, index: int, aux: list[int]) -> bytearray:
        """Make good parameters of a REC."""
        all_aux = (*aux, *[0] * (16 - len(aux)))
        params = RecParams.of(flags=1, pc=RAM_BASE, num_aux=len(aux), aux=all_aux)
        params.mpidr = rec_mpidr(index)
        return params.data

    def new_realm(self, base: int, vmid: int) -> int:
        """Make a realm with tables for the 2 MiB at ``base`` and at its alias."""
        rd, params = self.delegated(), self.realm_params(self.delegated(), vmid)
        self.do(RmiFid.RMI_REALM_CREATE, rd, self.granule(bytes(params)))
        for ipa in (base, base | UNPROTECTED):
            for level in (2, 3):
                start = ipa & -level_size(level - 1)
                self.do(RmiFid.RMI_RTT_CREATE, rd, self.delegated(), start, level)
        self.do(DebugRmiFid.RMI_PYVMM_DEBUG_ALLOW, rd)
        self.realms.append(rd)
        return rd

    def build(self, generator: Generator, vmid: int) -> None:
        """Make a realm of random code with two RECs, and activate it."""
        rd, staging = self.new_realm(RAM_BASE, vmid), self.granule()
        self.do(RmiFid.RMI_RTT_CREATE, rd, self.delegated(), DATA, 3)
        for base in (RAM_BASE, DATA):
            self.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, base, base + level_size(2))
        for segment in generator.image():
            for offset in range(0, len(segment.data), GRANULE_SIZE):
                self.ns.write(staging, segment.data[offset : offset + GRANULE_SIZE])
                ipa = segment.ipa + offset
                self.do(RmiFid.RMI_DATA_CREATE, rd, self.delegated(), ipa, staging, 0)
        for index in range(2):
            rec = self.delegated()
            aux = [self.delegated() for _ in range(self.do(RmiFid.RMI_REC_AUX_COUNT, rd)[0])]
            params = self.granule(bytes(self.rec_params(index, aux)))
            self.do(RmiFid.RMI_REC_CREATE, rd, rec, params)
            self.recs.append(rec)
        self.do(RmiFid.RMI_REALM_ACTIVATE, rd)

    # --- calls ------------------------------------------------------------------------------

    def granules(self) -> int:
        """Return some granule: of any state, or none at all."""
        rng = self.rng
        match rng.randrange(10):
            case 0 | 1 | 2:
                return rng.choice(self.unused())
            case 3 | 4:
                return rng.choice(self.free)
            case 5 | 6:
                return DRAM_BASE + rng.randrange(self.next - DRAM_BASE >> 12) * GRANULE_SIZE
            case 7:
                return rng.choice(self.params + self.runs if rng.randrange(20) == 0 else self.odd)
            case 8:
                return rng.choice(self.odd)
            case _:
                return rng.getrandbits(64)

    def unused(self) -> list[int]:
        """List the delegated granules, which most commands want; some others if there are none."""
        state = self.rmm.granules.state
        return [pa for pa in self.free if state(pa) is GranuleState.DELEGATED] or self.free

    def realm(self) -> int:
        """Return the RD of a realm, most times."""
        known = [*self.realms, *self.rmm.realms]
        return self.rng.choice(known) if self.rng.randrange(8) else self.granules()

    def rec(self) -> int:
        """Return a REC, most times."""
        known = [*self.recs, *self.rmm.recs]
        return self.rng.choice(known) if self.rng.randrange(8) else self.granules()

    def ipa(self) -> int:
        """Return an IPA near something mapped."""
        rng = self.rng
        base = rng.choice((0, RAM_BASE, RAM_BASE, 1 << 30, UNPROTECTED, RAM_BASE | UNPROTECTED))
        offset = rng.choice((0, 0, 1, 2, 3, 4, 511, 512, 513, 1024)) * GRANULE_SIZE
        return base + offset if rng.randrange(30) else rng.getrandbits(64)

    def level(self) -> int:
        """Return a level."""
        return self.rng.choice(LEVELS)

    def va(self) -> int:
        """Return a virtual address near where there is something; realms begin with stage 1 off."""
        rng = self.rng
        ipa = self.unprotected_ipa() if rng.randrange(2) else self.ipa()
        return ipa + rng.choice((0, 0, 8, GRANULE_SIZE - 8, rng.getrandbits(12)))

    def unprotected_ipa(self) -> int:
        """Return one of a few IPAs where something may be mapped."""
        return UNPROTECTED | RAM_BASE + self.rng.randrange(8) * GRANULE_SIZE

    def arguments(self, fid: RmiFid | DebugRmiFid) -> list[int]:
        """Return arguments of the right kinds."""
        rng, kinds = self.rng, ARGUMENTS.get(fid, ())
        args = [kind(self) for kind in kinds]
        if rng.randrange(4):
            self.improve(fid, args)
        if rng.randrange(6) == 0:
            args += [rng.getrandbits(64) for _ in range(6 - len(args))]
            args[rng.randrange(6)] = rng.choice((*self.odd, self.granules(), rng.getrandbits(64)))
        return args

    def improve(self, fid: RmiFid | DebugRmiFid, args: list[int]) -> None:
        """Make arguments consistent."""
        for at, kind in enumerate(ARGUMENTS[fid]):
            if kind is LEVEL and 0 < args[at] < 4:
                above = fid in OF_TABLES
                ipa_at = 2 if fid is RmiFid.RMI_RTT_CREATE else 1
                args[ipa_at] &= -level_size(args[at] - above)
        if fid is RmiFid.RMI_RTT_MAP_UNPROTECTED:
            if self.rng.randrange(2):
                args[:3] = self.realms[0], self.unprotected_ipa(), 3
            args[1] |= UNPROTECTED
            args[3] &= -level_size(args[2]) | 0xFFF if 0 < args[2] < 4 else -1
        elif fid is RmiFid.RMI_RTT_UNMAP_UNPROTECTED:
            args[1] |= UNPROTECTED
        elif fid is RmiFid.RMI_DATA_CREATE:
            args[3] = self.rng.choice(self.params)
        if fid is RmiFid.RMI_RTT_INIT_RIPAS:
            args[2] = args[1] + self.rng.randrange(1, 1024) * GRANULE_SIZE
        for rec in list(self.rmm.recs.values()):  # what one of them waits for
            if fid is RmiFid.RMI_RTT_SET_RIPAS and (change := rec.ripas_change) is not None:
                args[:] = rec.realm.rd, rec.pa, change.base, change.top
            elif fid is RmiFid.RMI_PSCI_COMPLETE and (request := rec.psci) is not None:
                args[:] = rec.pa, self.recs[request.target % len(self.recs)], args[2]

    def descriptor(self) -> int:
        """Return a descriptor that a host may want to map."""
        bits = 6 << 2 | 3 << 6 if self.rng.randrange(4) else self.rng.getrandbits(12)
        return self.granules() & -GRANULE_SIZE | bits

    def write_params(self) -> None:
        """Write parameters: valid, nearly valid, or random."""
        rng, pa = self.rng, self.rng.choice(self.params)
        if rng.randrange(2):
            data = self.realm_params(rng.choice(self.unused()), rng.randrange(1, 6))
        else:
            count = rng.choice((2, 2, 2, self.rmm.limits.rec_aux_count, rng.randrange(17)))
            data = self.rec_params(rng.choice((0, 0, 1, 2)), rng.choices(self.unused(), k=count))
        for _ in range(rng.choice((0, 0, 1, 1, 20))):
            struct.pack_into("<Q", data, 8 * rng.randrange(len(data) // 8), rng.getrandbits(64))
        self.write(pa, bytes(data))

    def write_run(self) -> None:
        """Write flags, registers and list registers of an entry."""
        rng, pa = self.rng, self.rng.choice(self.runs)
        words = [rng.choice((0, 0, 1, 2, 4, 8, 16, rng.getrandbits(64)))] + [0] * 127
        for _ in range(rng.choice((0, 1, 8))):
            words[rng.randrange(128)] = rng.getrandbits(64)
        self.write(pa, struct.pack("<128Q", *words))

    def write_debug(self) -> None:
        """Write registers or points of a debugger: valid, nearly valid, or random."""
        rng, pa = self.rng, self.rng.choice(self.params)
        page = bytearray(rng.randbytes(GRANULE_SIZE) if rng.randrange(2) else GRANULE_SIZE)
        if rng.randrange(2):
            registers = DebugRegisters(page)
            registers.pstate = rng.choice((0x3C5, 0, 4, 5, 0x3C5 | 1 << 21, rng.getrandbits(32)))
            registers.pc = rng.choice((RAM_BASE, RAM_BASE, registers.pc))
            self.write(pa, registers.data)
            return
        points = DebugPoints(page)
        points.step = rng.randrange(2)
        points.num_breakpoints = rng.choice((0, 1, 2, 256, 257, rng.getrandbits(64)))
        points.num_watchpoints = rng.choice((0, 1, 16, 17, rng.getrandbits(64)))
        where = [RAM_BASE + 4 * rng.randrange(1024) for _ in range(16)]
        points.breakpoints = (*where, *points.breakpoints[16:])
        points.watchpoints = (DATA, rng.getrandbits(12), 3, *points.watchpoints[3:])
        self.write(pa, points.data)

    def write(self, pa: int, data: bytes | bytearray) -> None:
        """Write to a granule that a command may have taken away."""
        with suppress(GranuleProtectionFault):
            self.ns.write(pa, data)

    def call(self) -> None:
        """Change what the next command may look at; issue a command."""
        rng = self.rng
        if rng.randrange(3) == 0:
            rng.choice((self.write_params, self.write_run, self.write_debug))()
        fid = rng.choices(FIDS, WEIGHTS)[0]
        args = self.arguments(fid)
        rec = self.rmm.recs.get(args[0]) if fid is RmiFid.RMI_REC_DESTROY else None
        results = self.smc(fid, *args, pe=rng.randrange(RUNNER))
        if rec is not None and results[0] == 0:
            assert not rec.running  # and never again
        self.statuses[fid.name, results[0]] += 1

    # --- afterwards -------------------------------------------------------------------------

    def check(self) -> None:
        """The invariants hold, at a moment when no command is under way."""
        with self.rmm.lock:
            watched = range(DRAM_BASE, self.next, GRANULE_SIZE)
            check_invariants(self.rmm, lambda pa: self.monitor.gpi(pa) is Gpi.REALM, watched)

    def destroy(self) -> None:
        """Take everything apart by commands; nothing may be left."""
        tear_down(self.do, self.rmm, self.monitor)
        buffer = self.machine.buffer(Pas.REALM)[: self.next - DRAM_BASE]
        assert buffer.tobytes() == bytes(len(buffer))


Argument = Callable[[HostileHost], int]
RD, REC, PA, IPA, LEVEL, VA = (
    HostileHost.realm, HostileHost.rec, HostileHost.granules, HostileHost.ipa, HostileHost.level,
    HostileHost.va,
)  # fmt: skip


def params(host: HostileHost) -> int:
    """Return a granule with parameters."""
    return host.rng.choice(host.params)


def run(host: HostileHost) -> int:
    """Return a granule to enter with."""
    return host.rng.choice(host.runs)


def small(host: HostileHost) -> int:
    """Return flags, an index or a status."""
    return host.rng.choice((0, 0, 0, 1, 2, 0x1_0000, (1 << 64) - 3))


def length(host: HostileHost) -> int:
    """Return how many bytes to read or write."""
    return host.rng.choice(
        (1, 8, 8, 8, GRANULE_SIZE, 0, GRANULE_SIZE + 1, host.rng.getrandbits(64))
    )


ARGUMENTS: dict[RmiFid | DebugRmiFid, tuple[Argument, ...]] = {
    RmiFid.RMI_VERSION: (small,),
    RmiFid.RMI_GRANULE_DELEGATE: (PA,),
    RmiFid.RMI_GRANULE_UNDELEGATE: (PA,),
    RmiFid.RMI_DATA_CREATE: (RD, PA, IPA, PA, small),
    RmiFid.RMI_DATA_CREATE_UNKNOWN: (RD, PA, IPA),
    RmiFid.RMI_DATA_DESTROY: (RD, IPA),
    RmiFid.RMI_REALM_ACTIVATE: (RD,),
    RmiFid.RMI_REALM_CREATE: (PA, params),
    RmiFid.RMI_REALM_DESTROY: (RD,),
    RmiFid.RMI_REC_CREATE: (RD, PA, params),
    RmiFid.RMI_REC_DESTROY: (REC,),
    RmiFid.RMI_REC_ENTER: (REC, run),
    RmiFid.RMI_RTT_CREATE: (RD, PA, IPA, LEVEL),
    RmiFid.RMI_RTT_DESTROY: (RD, IPA, LEVEL),
    RmiFid.RMI_RTT_MAP_UNPROTECTED: (RD, IPA, LEVEL, HostileHost.descriptor),
    RmiFid.RMI_RTT_READ_ENTRY: (RD, IPA, LEVEL),
    RmiFid.RMI_RTT_UNMAP_UNPROTECTED: (RD, IPA, LEVEL),
    RmiFid.RMI_PSCI_COMPLETE: (REC, REC, small),
    RmiFid.RMI_FEATURES: (small,),
    RmiFid.RMI_RTT_FOLD: (RD, IPA, LEVEL),
    RmiFid.RMI_REC_AUX_COUNT: (RD,),
    RmiFid.RMI_RTT_INIT_RIPAS: (RD, IPA, IPA),
    RmiFid.RMI_RTT_SET_RIPAS: (RD, REC, IPA, IPA),
    DebugRmiFid.RMI_PYVMM_DEBUG_ALLOW: (RD,),
    DebugRmiFid.RMI_PYVMM_DEBUG_READ_REGISTERS: (REC, params),
    DebugRmiFid.RMI_PYVMM_DEBUG_WRITE_REGISTERS: (REC, params),
    DebugRmiFid.RMI_PYVMM_DEBUG_READ_MEMORY: (REC, VA, length, params),
    DebugRmiFid.RMI_PYVMM_DEBUG_WRITE_MEMORY: (REC, VA, length, params),
    DebugRmiFid.RMI_PYVMM_DEBUG_SET_POINTS: (REC, params),
}


class Helpers:
    """Threads beside the host's: RECs run, are debugged, are kicked while structures change."""

    def __init__(self, host: HostileHost) -> None:
        self.host = host
        self.failures: list[BaseException] = []
        self.entries = self.debugged = 0
        self._rng = random.Random(host.next)
        own = host.monitor.layout.rmm_base  # granules that the host leaves alone
        self._run, *self._pages = (own - n * GRANULE_SIZE for n in range(1, NUM_PLAYED))
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._guard, args=(each,), daemon=True)
            for each in (self._enter, self._debug, self._kick)
        ]

    def __enter__(self) -> Self:
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-4)  # so that the REC runs most of the time
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self.host.machine.pe(RUNNER).kick()
        for thread in self._threads:
            thread.join(HANGING)
        sys.setswitchinterval(self._interval)
        assert not any(thread.is_alive() for thread in self._threads)

    def _guard(self, step: Callable[[], None]) -> None:
        try:
            while not self._is_over.is_set():
                step()
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.failures.append(error)

    def _enter(self) -> None:
        """Run a REC, and answer its exit with a page or a fault."""
        host, rng = self.host, self._rng
        rec = rng.choice(host.recs)
        flags = rng.choice((0, RecEnterFlags.INJECT_SEA, RecEnterFlags.EMUL_MMIO))
        host.ns.write(self._run, RecEnter.of(flags=flags).data)
        if host.smc(RmiFid.RMI_REC_ENTER, rec, self._run, pe=RUNNER)[0] == 0:
            self.entries += 1
            leave = RecExit(host.ns.read(self._run + EXIT_OFFSET, RecExit.size))
            if leave.exit_reason == RecExitReason.SYNC and self._pages:
                ipa, page = ipa_of(leave.hpfar), self._pages.pop()
                host.smc(RmiFid.RMI_GRANULE_DELEGATE, page, pe=RUNNER)
                args = host.realms[0], page, ipa
                if host.smc(RmiFid.RMI_DATA_CREATE_UNKNOWN, *args, pe=RUNNER)[0] != 0:
                    host.smc(RmiFid.RMI_GRANULE_UNDELEGATE, page, pe=RUNNER)
                    self._pages.append(page)
        if rng.randrange(4) == 0:
            self._is_over.wait(KICK_PERIOD)  # in which what it waits for can be answered

    def _debug(self) -> None:
        """Issue a debugger's command, with arguments that fit most times."""
        host = self.host
        host.write_debug()
        fid = random.choice(tuple(DebugRmiFid))
        status, *_ = host.smc(fid, *host.arguments(fid), pe=DEBUGGER)
        self.debugged += status == 0

    def _kick(self) -> None:
        self._is_over.wait(KICK_PERIOD)
        for pe in range(NUM_PES):
            self.host.machine.pe(pe).kick()
        pa = random.choice((*self.host.params, *self.host.runs))
        self.host.write(pa + 8 * random.randrange(512), random.randbytes(8))


def attack(seed: int, calls: int) -> Counter[tuple[str, int]]:
    """Issue calls, every batch on a new machine; count the results."""
    statuses, entries, debugged = Counter[tuple[str, int]](), 0, 0
    for batch in range(-(-calls // BATCH)):
        LOG.warning("seed %d", seed + batch)
        host = HostileHost(seed + batch)
        with Helpers(host) as helpers:
            for n in range(BATCH):
                host.call()
                if n % CHECKED_EVERY == 0:
                    host.check()
        assert helpers.failures == []
        host.check()
        host.destroy()
        statuses += host.statuses
        entries += helpers.entries
        debugged += helpers.debugged
    assert entries
    assert debugged
    return statuses


def test_hostile_host(seed: int) -> None:
    """No call raises, hangs or breaks an invariant, and everything can be destroyed afterwards."""
    statuses = attack(seed, 20_000)
    succeeded = {name for name, status in statuses if status == 0}
    assert len(succeeded) >= 15  # the calls are not only refused


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(40))
def test_hostile_host_for_long(seed: int, turn: int) -> None:
    """The same with a million calls in all."""
    attack(seed + 100 * (turn + 1), 25_000)
