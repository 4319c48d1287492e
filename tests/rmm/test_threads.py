"""Several host threads work on one running realm: nothing is lost, and nobody waits forever.

Four threads issue commands while two RECs of the realm run and a third one repairs what the host
destroys.  Every command notes when it held the RMM's lock; now and then all stop, the model does
the same commands in that order, and answers and state have to agree.
"""

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Self

import pytest

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import EXIT_OFFSET, RecEnter, RecExit, RecExitReason, Ripas, RmiFid
from pyvmm.arch.rsi import RsiFid
from tests.core.program import assemble
from tests.rmm.agreement import Agreement
from tests.rmm.core_world import CoreWorld
from tests.rmm.invariants import check_invariants
from tests.rmm.model import REC, Results
from tests.rmm.model_rec import Model, RipasChange
from tests.rmm.teardown import tear_down
from tests.rmm.world import DRAM_BASE, NUM_GRANULES

PAGE, MIB2 = GRANULE_SIZE, 2 << 20
UNPROTECTED: Final = 1 << 32
REGION: Final = MIB2  # IPA; the code is below
NUM_PAGES: Final = 64  # that the realm uses: half of them in each of two tables
SECOND: Final = NUM_PAGES // 2
BESIDE: Final = 8 * MIB2  # IPA that the realm does not use
NUM_HOSTS, NUM_WORKERS = 4, 2
NUM_POOL: Final = 120  # granules that the host's threads fight for
PERIOD: Final = 0.3  # seconds between two looks
KICK_PERIOD: Final = 0.001  # seconds
HANGING: Final = 120  # seconds
ERROR_RTT: Final = 4
PAS: Final = range(DRAM_BASE, DRAM_BASE + NUM_GRANULES * GRANULE_SIZE, GRANULE_SIZE)
CHANGE_DESTROYED: Final = 1
WRITE_BACK_RW: Final = 6 << 2 | 3 << 6


def ipa_of(page: int) -> int:
    """Return where a page of the realm is."""
    return REGION + (MIB2 if page >= SECOND else 0) + page % SECOND * PAGE


#: X0 begins a sequence of random numbers, X1 is this REC's mark.  A page holds zeros, or the mark
#: of either REC with the page's own address; all else is reported with a call that nobody answers.
WORKER: Final = f"""
    mov  x19, x0
    mov  x21, x1
    mov  x0, #0x1800
    msr  vbar_el1, x0
    ldr  x22, =0x5851f42d4c957f2d
again:
    mul  x19, x19, x22
    add  x19, x19, #1
    lsr  x1, x19, #40
    and  x2, x1, #{SECOND - 1}
    lsl  x2, x2, #12
    mov  x3, #{REGION:#x}
    add  x2, x2, x3
    tst  x1, #{SECOND}
    b.eq first
    add  x2, x2, x3
first:
    mov  x4, #0
    ldr  x4, [x2]
    cbz  x4, fine
    eor  x5, x4, x2
    lsr  x5, x5, #12
    cbnz x5, wrong
fine:
    orr  x6, x2, x21
    str  x6, [x2]
    ands xzr, x1, #0x3c0
    b.ne again
    ands xzr, x1, #0x400
    b.ne share
    ldr  x0, ={int(RsiFid.RSI_IPA_STATE_SET):#x}
    mov  x1, x2
    add  x2, x2, #{PAGE}
    mov  x3, #0
    mov  x4, #0
    smc  #0
    b    again
share:
    mov  x7, #{UNPROTECTED:#x}
    orr  x7, x7, x2
    ldr  x8, [x7]
    str  x6, [x7]
    b    again
wrong:
    ldr  x0, ={int(RsiFid.RSI_HOST_CALL):#x}
    mov  x1, #0x1f00
    smc  #0
    b    again
"""
SKIP: Final = "mrs x9, elr_el1; add x9, x9, #4; msr elr_el1, x9; eret"
#: Wants all pages to be RAM, whatever they are, again and again.
JANITOR: Final = f"""
again:
    ldr  x20, ={REGION:#x}
next:
    ldr  x0, ={int(RsiFid.RSI_IPA_STATE_SET):#x}
    mov  x1, x20
    add  x2, x20, #{SECOND * PAGE:#x}
    mov  x3, #1
    mov  x4, #{CHANGE_DESTROYED}
    smc  #0
    add  x20, x20, #{MIB2:#x}
    tst  x20, #{2 * MIB2:#x}
    b.eq next
    b    again
"""
WORKER_CODE, JANITOR_CODE = 0x1000, 0x2000
CODES: Final = (*[WORKER_CODE] * NUM_WORKERS, JANITOR_CODE)
#: The weights of the host threads' actions.
WEIGHTS: Final[dict[int, int]] = {
    RmiFid.RMI_GRANULE_DELEGATE: 10,
    RmiFid.RMI_GRANULE_UNDELEGATE: 10,
    RmiFid.RMI_DATA_CREATE_UNKNOWN: 20,
    RmiFid.RMI_DATA_DESTROY: 15,
    RmiFid.RMI_RTT_CREATE: 5,
    RmiFid.RMI_RTT_DESTROY: 5,
    RmiFid.RMI_RTT_FOLD: 3,
    RmiFid.RMI_RTT_READ_ENTRY: 5,
    RmiFid.RMI_RTT_MAP_UNPROTECTED: 5,
    RmiFid.RMI_RTT_UNMAP_UNPROTECTED: 10,
    RmiFid.RMI_RTT_SET_RIPAS: 5,
    RmiFid.RMI_REC_ENTER: 3,
    RmiFid.RMI_REALM_DESTROY: 1,
    RmiFid.RMI_REALM_ACTIVATE: 1,
    RmiFid.RMI_REC_AUX_COUNT: 1,
}


class OrderedLock:
    """The RMM's lock; it notes for each thread the numbers of its holds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._mine = threading.local()

    def acquire(self) -> None:
        """Wait for it."""
        self._lock.acquire()
        self._count += 1
        self._mine.holds.append(self._count)

    def release(self) -> None:
        """Let others have it."""
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    @contextmanager
    def noted(self) -> Iterator[list[int]]:
        """Give the numbers of the holds of this thread from here on."""
        self._mine.holds = []
        yield self._mine.holds


@dataclass
class ThreadModel(Model):
    """The model, in which RECs run for a while."""

    running: set[int] = field(default_factory=set)

    def rec_enter(self, rec: int, run_ptr: int) -> Results:
        """A REC that runs is busy; what one does that begins to run is told by its exit."""
        if rec in self.running:
            return (REC,)
        results = super().rec_enter(rec, run_ptr)
        if results == (0,):
            self.running.add(rec)
        return results

    def left(self, rec: int, leave: RecExit) -> None:
        """The REC left the realm: of all exits only a change of RIPAS concerns the tables."""
        self.running.remove(rec)
        if leave.exit_reason == RecExitReason.RIPAS_CHANGE:
            base, top, ripas = leave.ripas_base, leave.ripas_top, leave.ripas_value
            is_janitor = ripas == Ripas.RAM
            self.recs[rec].pending = RipasChange(base, top, ripas, change_destroyed=is_janitor)

    def rtt_set_ripas(self, rd: int, rec: int, base: int, top: int) -> Results:
        """Not while it runs."""
        if base < top and rd in self.realms and rec in self.running:
            return (REC,)
        return super().rtt_set_ripas(rd, rec, base, top)


class MirroredWorld(CoreWorld):
    """The real machine, and the model that gets the same commands while there is one thread."""

    def __init__(self, num_pes: int) -> None:
        super().__init__(is_scripted=False, num_pes=num_pes)
        self.model = ThreadModel(dict.fromkeys(PAS, "UNDELEGATED"), self.read)

    def read(self, pa: int) -> bytes:
        """Return what is in a granule of the host."""
        return self.ns.read(pa, PAGE)

    def call(self, fid: int, *args: int, pe: int = 0) -> Results:
        """Issue a command to both."""
        expected = self.model.call(fid, *args)
        results = super().call(fid, *args, pe=pe)
        assert results == expected
        return results


@dataclass(frozen=True)
class Done:
    """A command at its place in the order; with ``leave`` it is the end of a REC_ENTER."""

    hold: int
    args: tuple[int, ...]
    results: Results
    leave: RecExit | None = None


class Host:
    """The threads of a host, and the realm that they work on."""

    def __init__(self, seed: int) -> None:
        self.world = MirroredWorld(NUM_HOSTS + len(CODES))
        self.model = self.world.model
        self.rd, self.recs = self.build()
        self.runs = [self.world.ns_granule() for _ in range(NUM_HOSTS + len(CODES))]
        self.shared = self.world.ns_granule()
        self.pool = [self.world.ns_granule() for _ in range(NUM_POOL)]
        self.model.read = lambda _: bytes(PAGE)  # how a REC is entered does not concern the tables
        self.lock = OrderedLock()
        self.world.rmm.lock = self.lock  # type: ignore[assignment]
        self.agreement = Agreement(self.world, self.model, [*map(ipa_of, range(0, NUM_PAGES, 7))])
        self.log: list[Done] = []
        self.failures: list[BaseException] = []
        self.seen = Counter[str]()
        self._is_over, self._is_paused = threading.Event(), threading.Event()
        self._barrier = threading.Barrier(len(self.runs) + 1, timeout=HANGING)
        self._threads = [
            threading.Thread(target=self._loop, args=(pe, random.Random(seed + pe)), daemon=True)
            for pe in range(len(self.runs))
        ]

    def build(self) -> tuple[int, list[int]]:
        """Build and activate a realm; return its RD and its RECs."""
        world = self.world
        rd = world.realm(depth=2)
        for base in (0, UNPROTECTED):
            for n in range(3):
                world.tables(rd, base + n * MIB2, (3,))
        worker = assemble(WORKER).ljust(0xA00, b"\0") + assemble(SKIP)
        for ipa, code in ((WORKER_CODE, worker), (JANITOR_CODE, assemble(JANITOR))):
            assert len(code) <= PAGE
            data, source = world.delegated(), world.ns_granule(code)
            world.do(RmiFid.RMI_DATA_CREATE, rd, data, ipa, source, 0)
        recs = [
            world.rec(rd, pc=pc, mpidr=n, gprs=(n, 0x10 << n, *[0] * 6))
            for n, pc in enumerate(CODES)
        ]
        world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
        return rd, recs

    # --- threads --------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-4)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._barrier.abort()
        for thread in self._threads:
            while thread.is_alive():
                self._kick()
                thread.join(KICK_PERIOD)
        sys.setswitchinterval(self._interval)

    def _kick(self) -> None:
        for pe in range(len(self.runs)):
            self.world.core.pe(pe).kick()

    def _loop(self, pe: int, rng: random.Random) -> None:
        try:
            while not self._is_over.is_set():
                if self._is_paused.is_set():
                    self._barrier.wait()  # all stand still
                    self._barrier.wait()  # and go on
                if pe < NUM_HOSTS:
                    self.work(pe, rng)
                else:
                    self.run(pe, self.recs[pe - NUM_HOSTS], rng)
        except threading.BrokenBarrierError:
            pass  # another thread has failed, or it is over
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.failures.append(error)
            self._barrier.abort()

    def smc(self, pe: int, fid: int, *args: int) -> Results:
        """Issue a command and note it."""
        with self.lock.noted() as holds:
            results = CoreWorld.call(self.world, fid, *args, pe=pe)
        self.log.append(Done(holds[0], (fid, *args), results))
        if len(holds) > 1:  # a REC ran meanwhile
            record = self.world.ns.read(args[1] + EXIT_OFFSET, RecExit.size)
            self.log.append(Done(holds[-1], (fid, *args), results, RecExit(record)))
        self.seen[f"{RmiFid(fid).name} {results[0] & 0xFF}"] += 1
        return results

    # --- what RECs do ---------------------------------------------------------------------

    def run(self, pe: int, rec: int, rng: random.Random, flags: int = 0) -> None:
        """Enter a REC once, and give it what it wants."""
        run_pa = self.runs[pe]
        self.world.ns.write(run_pa, RecEnter.of(flags=flags).data)
        if self.smc(pe, RmiFid.RMI_REC_ENTER, rec, run_pa)[0] != 0:
            return
        leave = RecExit(self.world.ns.read(run_pa + EXIT_OFFSET, RecExit.size))
        self.seen[RecExitReason(leave.exit_reason).name] += 1
        assert leave.exit_reason != RecExitReason.HOST_CALL, "a page holds what it should not"
        if leave.exit_reason == RecExitReason.RIPAS_CHANGE:
            self.change(pe, rec, leave, rng)
        elif leave.exit_reason == RecExitReason.SYNC:
            self.give(pe, leave.hpfar << 8, rng)

    def give(self, pe: int, ipa: int, rng: random.Random) -> None:
        """Give memory, or share some, or make the table for it."""
        table = ipa & -MIB2
        if self.smc(pe, RmiFid.RMI_RTT_READ_ENTRY, self.rd, ipa, 3)[1] < 3:
            self.smc(pe, RmiFid.RMI_RTT_CREATE, self.rd, self.taken(pe, rng), table, 3)
        elif ipa & UNPROTECTED:
            desc = self.shared | WRITE_BACK_RW
            self.smc(pe, RmiFid.RMI_RTT_MAP_UNPROTECTED, self.rd, ipa, 3, desc)
        else:
            self.smc(pe, RmiFid.RMI_DATA_CREATE_UNKNOWN, self.rd, self.taken(pe, rng), ipa)

    def taken(self, pe: int, rng: random.Random) -> int:
        """Choose a granule and delegate it, if that is not done."""
        pa = rng.choice(self.pool)
        self.smc(pe, RmiFid.RMI_GRANULE_DELEGATE, pa)
        return pa

    def change(self, pe: int, rec: int, leave: RecExit, rng: random.Random) -> None:
        """Change RIPAS as the realm wants it; tables may vanish meanwhile."""
        base = leave.ripas_base
        for _ in range(4):
            results = self.smc(pe, RmiFid.RMI_RTT_SET_RIPAS, self.rd, rec, base, leave.ripas_top)
            if results[0] & 0xFF == ERROR_RTT:
                self.give(pe, base, rng)
            elif results[0] != 0 or results[1] == leave.ripas_top:
                break
            base = results[1] or base

    # --- what the host does ---------------------------------------------------------------

    def work(self, pe: int, rng: random.Random) -> None:
        """Issue one command."""
        page = ipa_of(rng.randrange(NUM_PAGES))
        pa, shared = rng.choice(self.pool), page | UNPROTECTED
        table = rng.choice((page & -MIB2, shared & -MIB2, BESIDE, UNPROTECTED + BESIDE))
        fid = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        desc = self.shared | WRITE_BACK_RW
        args: dict[int, tuple[int, ...]] = {
            RmiFid.RMI_GRANULE_DELEGATE: (pa,),
            RmiFid.RMI_GRANULE_UNDELEGATE: (pa,),
            RmiFid.RMI_DATA_CREATE_UNKNOWN: (self.rd, pa, page),
            RmiFid.RMI_DATA_DESTROY: (self.rd, page),
            RmiFid.RMI_RTT_CREATE: (self.rd, pa, table, 3),
            RmiFid.RMI_RTT_DESTROY: (self.rd, table, 3),
            RmiFid.RMI_RTT_FOLD: (self.rd, table, 3),
            RmiFid.RMI_RTT_READ_ENTRY: (self.rd, page, 3),
            RmiFid.RMI_RTT_MAP_UNPROTECTED: (self.rd, shared, 3, desc),
            RmiFid.RMI_RTT_UNMAP_UNPROTECTED: (self.rd, shared, 3),
            RmiFid.RMI_RTT_SET_RIPAS: (self.rd, rng.choice(self.recs), page, page + PAGE),
            RmiFid.RMI_REC_ENTER: (rng.choice(self.recs), self.runs[pe]),
            RmiFid.RMI_REALM_DESTROY: (self.rd,),
            RmiFid.RMI_REALM_ACTIVATE: (self.rd,),
            RmiFid.RMI_REC_AUX_COUNT: (self.rd,),
        }
        self.smc(pe, fid, *args[fid])

    # --- looks ----------------------------------------------------------------------------

    def look(self) -> int:
        """Stop all threads, replay, compare; return the number of commands."""
        self._is_paused.set()
        while self._barrier.n_waiting < len(self._threads) and not self._barrier.broken:
            self._kick()
            time.sleep(KICK_PERIOD)
        assert self.failures == []
        self._barrier.wait()
        commands = self.replay()
        self._is_paused.clear()
        self._barrier.wait()
        return commands

    def replay(self) -> int:
        """Do with the model what was done since the last time, and compare."""
        done, self.log = sorted(self.log, key=lambda each: each.hold), []
        for each in done:
            if each.leave is not None:
                self.model.left(each.args[1], each.leave)
            else:
                assert self.model.call(*each.args) == each.results, each
        self.agreement.check_memory(PAS)
        check_invariants(self.world.rmm, self.world.is_realm, PAS)
        return len(done)


def harass(seed: int, seconds: float) -> Counter[str]:
    """Work for a while; return the counts of the results."""
    host, until, commands = Host(seed), time.monotonic() + seconds, 0
    with host:
        while time.monotonic() < until:
            time.sleep(PERIOD)
            commands += host.look()
    assert host.failures == []
    host.replay()
    with host.lock.noted():
        tear_down(host.world.do, host.world.rmm, host.world.monitor)
    assert commands
    return host.seen


def test_threads_at_one_realm(seed: int) -> None:
    """For a moment; some commands succeed, and the realm makes progress."""
    seen = harass(seed, 2)
    succeeded = {fid for fid in WEIGHTS if seen[f"{RmiFid(fid).name} 0"]}
    assert len(succeeded) > 8
    assert seen["SYNC"]
    assert seen["RIPAS_CHANGE"]


@pytest.mark.slow
def test_threads_at_one_realm_for_long(seed: int) -> None:
    """For a minute."""
    harass(seed + 1, 60)
