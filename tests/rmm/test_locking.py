"""A change of tables or of the GPT reaches the PEs before the command returns, on the real machine.

A REC stores to one page without end on a PE of its own; another thread of the host takes the page
away.  Once that command has returned, no store lands any more.
"""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import pytest

from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.rmi import RecExit, RecExitReason, Ripas, RmiFid
from pyvmm.arch.rsi import RsiFid
from tests.core.program import assemble
from tests.rmm.core_world import CoreWorld
from tests.rmm.world import DRAM_BASE
from tests.waiting import wait_until

PAGE: Final = GRANULE_SIZE
UNPROTECTED: Final = 1 << 32
CODE, STORED = 0x1000, 0x3000
ROUNDS: Final = 12
TIMEOUT: Final = 30  # seconds
A_MOMENT: Final = 0.002
WRITER, HOST = 1, 0  # PEs
#: X1 is the page; an exception ends it, as seen by the host.
STORES: Final = """
    mov  x2, #0x1800
    msr  vbar_el1, x2
next:
    add  x5, x5, #1
    str  x5, [x1]
    b    next
"""
#: X1 to X4 are the arguments.
ASKS: Final = f"""
    ldr  x0, ={int(RsiFid.RSI_IPA_STATE_SET):#x}
    smc  #0
"""
ENDS: Final = "movz x0, #0x8400, lsl #16; mov x1, #0; mov x2, #0; movk x0, #2; smc #0"  # CPU_OFF


class Rig:
    """A realm with a REC that stores and one that asks for a change of RIPAS."""

    def __init__(self, address: int, ripas: int = Ripas.EMPTY) -> None:
        self.world = CoreWorld(is_scripted=False)
        world = self.world
        self.rd = world.realm()
        code = assemble(STORES).ljust(0xA00, b"\0") + assemble(ENDS)
        for ipa, content in ((CODE, code), (2 * CODE, assemble(ASKS))):
            data, source = world.delegated(), world.ns_granule(content)
            world.do(RmiFid.RMI_DATA_CREATE, self.rd, data, ipa, source, 0)
        world.do(RmiFid.RMI_RTT_INIT_RIPAS, self.rd, STORED, STORED + PAGE)
        self.page = world.delegated()
        self.writer = world.rec(self.rd, pc=CODE, gprs=(0, address, *[0] * 6))
        asked = (0, STORED, STORED + PAGE, ripas, 0, 0, 0, 0)
        self.asker = world.rec(self.rd, pc=2 * CODE, mpidr=1, gprs=asked)
        world.do(RmiFid.RMI_REALM_ACTIVATE, self.rd)
        self.run_pa = world.ns_granule()

    def share(self, pa: int) -> None:
        """Map a granule of the host at the first unprotected IPA."""
        desc = pa | 6 << 2 | 3 << 6
        self.world.do(RmiFid.RMI_RTT_MAP_UNPROTECTED, self.rd, UNPROTECTED, 3, desc)

    def enter(self) -> RecExit:
        """Let the writer run until something takes its page away."""
        self.world.do(RmiFid.RMI_REC_ENTER, self.writer, self.run_pa, pe=WRITER)
        return RecExit(self.world.ns.read(self.run_pa + 0x800, RecExit.size))

    def raw(self, pas: Pas, pa: int) -> bytes:
        """Read memory, whoever may access it."""
        return bytes(self.world.core.buffer(pas)[pa - DRAM_BASE :][:8])


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Return a thread for the writer; the host thread waits as little as possible for the GIL."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    with ThreadPoolExecutor(1) as pool:
        yield pool
    sys.setswitchinterval(interval)


def take_away(
    threads: ThreadPoolExecutor, rig: Rig, where: tuple[Pas, int], command: Callable[[], object]
) -> RecExit:
    """Run the writer, issue a command meanwhile, and check that nothing is stored afterwards."""
    running: Future[RecExit] = threads.submit(rig.enter)
    try:
        wait_for_store(rig, where)
        command()
        before = rig.raw(*where)
        time.sleep(A_MOMENT)
        assert rig.raw(*where) == before
        return running.result(TIMEOUT)
    finally:
        if not running.done():
            rig.world.core.pe(WRITER).kick()


def wait_for_store(rig: Rig, where: tuple[Pas, int]) -> None:
    """Wait until the word has changed."""
    first = rig.raw(*where)
    wait_until(lambda: rig.raw(*where) != first)


def test_data_destroy(threads: ThreadPoolExecutor) -> None:
    """The page is scrubbed after the last store, and the realm faults for the host to see."""
    rig = Rig(STORED)
    world, where = rig.world, (Pas.REALM, rig.page)
    for _ in range(ROUNDS):
        world.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, rig.rd, rig.page, STORED)
        leave = take_away(
            threads, rig, where, lambda: world.do(RmiFid.RMI_DATA_DESTROY, rig.rd, STORED)
        )
        assert (leave.exit_reason, leave.hpfar << 8) == (RecExitReason.SYNC, STORED)
        assert rig.raw(*where) == bytes(8)
        table, index, _ = world.rmm.realms[rig.rd].rtt.walk(STORED, 3)
        table.entries[index] = Ripas.RAM << 5  # what it was, for the next round


def test_rtt_unmap_unprotected(threads: ThreadPoolExecutor) -> None:
    """Only the host can access the memory at once."""
    rig = Rig(UNPROTECTED)
    world, shared = rig.world, rig.world.ns_granule()
    for _ in range(ROUNDS):
        rig.share(shared)
        leave = take_away(
            threads,
            rig,
            (Pas.NS, shared),
            lambda: world.do(RmiFid.RMI_RTT_UNMAP_UNPROTECTED, rig.rd, UNPROTECTED, 3),
        )
        assert (leave.exit_reason, leave.hpfar << 8) == (RecExitReason.SYNC, UNPROTECTED)


def test_granule_delegate(threads: ThreadPoolExecutor) -> None:
    """Shared memory that is delegated: its old side is dropped after the last store."""
    for _ in range(ROUNDS // 4):
        rig = Rig(UNPROTECTED)
        world, shared = rig.world, rig.world.ns_granule()
        rig.share(shared)
        leave = take_away(
            threads,
            rig,
            (Pas.NS, shared),
            lambda world=world, shared=shared: world.do(RmiFid.RMI_GRANULE_DELEGATE, shared),  # type: ignore[misc]
        )
        assert leave.exit_reason == RecExitReason.PSCI  # its handler turned it off
        context = world.rmm.recs[rig.writer].context
        assert context.esr_el1 == 0x25 << 26 | 1 << 25 | 1 << 6 | 0x28
        assert context.far_el1 == UNPROTECTED
        assert rig.raw(Pas.NS, shared) == rig.raw(Pas.REALM, shared) == bytes(8)


def test_rtt_set_ripas(threads: ThreadPoolExecutor) -> None:
    """One REC gives up a page that another one stores to, which then takes an abort."""
    for _ in range(ROUNDS // 4):
        rig = Rig(STORED)
        world = rig.world
        world.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, rig.rd, rig.page, STORED)
        asked = world.enter(rig.asker, pe=HOST)
        assert asked.exit_reason == RecExitReason.RIPAS_CHANGE
        args = (rig.rd, rig.asker, STORED, STORED + PAGE)
        leave = take_away(
            threads,
            rig,
            (Pas.REALM, rig.page),
            lambda world=world, args=args: world.do(RmiFid.RMI_RTT_SET_RIPAS, *args),  # type: ignore[misc]
        )
        assert leave.exit_reason == RecExitReason.PSCI  # its handler turned it off
        context = world.rmm.recs[rig.writer].context
        assert context.esr_el1 == 0x25 << 26 | 1 << 25 | 1 << 9 | 1 << 6 | 0x10
        assert context.far_el1 == STORED


def test_rtt_destroy_and_create_under_a_running_rec(threads: ThreadPoolExecutor) -> None:
    """Tables come and go beside the page that is stored to: the REC notices nothing."""
    rig = Rig(STORED)
    world, where = rig.world, (Pas.REALM, rig.page)
    world.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, rig.rd, rig.page, STORED)
    table = world.delegated()

    def change() -> None:
        for _ in range(200):
            world.do(RmiFid.RMI_RTT_CREATE, rig.rd, table, 2 << 20, 3)
            world.do(RmiFid.RMI_RTT_FOLD, rig.rd, 2 << 20, 3)
            world.do(RmiFid.RMI_RTT_CREATE, rig.rd, table, 2 << 20, 3)
            world.do(RmiFid.RMI_RTT_DESTROY, rig.rd, 2 << 20, 3)
            world.do(RmiFid.RMI_RTT_CREATE, rig.rd, table, 4 << 20, 3)
            world.do(RmiFid.RMI_RTT_DESTROY, rig.rd, 4 << 20, 3)
        wait_for_store(rig, where)
        world.do(RmiFid.RMI_DATA_DESTROY, rig.rd, STORED)

    leave = take_away(threads, rig, where, change)
    assert (leave.exit_reason, leave.hpfar << 8) == (RecExitReason.SYNC, STORED)
