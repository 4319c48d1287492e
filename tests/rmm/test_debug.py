"""Debugging a realm, which must be allowed, and measured, during its construction."""

import hashlib
import random
from collections.abc import Callable
from typing import Final

import pytest

from pyvmm.arch.esr import ESR_ABORT, ExceptionClass
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.rmi import RecEnter, RecEnterFlags, RecExitReason, RmiFid
from pyvmm.arch.rmi_debug import (
    MAX_BREAKPOINTS,
    MAX_WATCHPOINTS,
    DebugPoints,
    DebugRegisters,
    DebugRmiFid,
)
from pyvmm.arch.rsi import RsiFid
from pyvmm.arch.sysregs import SYSREGS
from rmm.realm import RealmState
from tests.rmm.test_granule import NOT_GRANULES
from tests.rmm.world import DRAM_BASE, FakeExit, World, abort, smc

ALLOW = DebugRmiFid.RMI_PYVMM_DEBUG_ALLOW
READ, WRITE = (
    DebugRmiFid.RMI_PYVMM_DEBUG_READ_REGISTERS,
    DebugRmiFid.RMI_PYVMM_DEBUG_WRITE_REGISTERS,
)
READ_MEMORY, WRITE_MEMORY = (
    DebugRmiFid.RMI_PYVMM_DEBUG_READ_MEMORY,
    DebugRmiFid.RMI_PYVMM_DEBUG_WRITE_MEMORY,
)
SET = DebugRmiFid.RMI_PYVMM_DEBUG_SET_POINTS
ERROR_INPUT, ERROR_REALM, ERROR_REC, ERROR_RTT = 1, 2, 3, 4
UNPROTECTED: Final = 1 << 32
VA: Final = 0xFFFF_8000_0000_1000
BREAKPOINT = int(ESR_ABORT.of(EC=ExceptionClass.BREAKPOINT_LOWER, IL=1, FSC=0x22))
STEPPED = int(ESR_ABORT.of(EC=ExceptionClass.SOFTWARE_STEP_LOWER, IL=1, FSC=0x22))

#: Every command on a REC, with valid arguments.
COMMANDS: Final[dict[DebugRmiFid, Callable[[int], tuple[int, ...]]]] = {
    READ: lambda ptr: (ptr,),
    WRITE: lambda ptr: (ptr,),
    READ_MEMORY: lambda ptr: (VA, 8, ptr),
    WRITE_MEMORY: lambda ptr: (VA, 8, ptr),
    SET: lambda ptr: (ptr,),
}


class Debugged:
    """An active realm with one REC, that may be debugged or not."""

    def __init__(self, world: World, *, is_allowed: bool = True) -> None:
        self.world = world
        self.rd = world.realm()
        if is_allowed:
            world.do(ALLOW, self.rd)
        self.page = world.page(self.rd, 0x3000)
        world.do(RmiFid.RMI_RTT_INIT_RIPAS, self.rd, 0x5000, 0x6000)
        self.rec = world.rec(self.rd)
        world.do(RmiFid.RMI_REALM_ACTIVATE, self.rd)
        world.machine.pe(0).translations[VA] = (self.page, Pas.REALM)
        self.ptr = world.ns_granule(DebugRegisters.of(pstate=0x3C5).data)

    def refused(self, fid: int, *args: int) -> tuple[int, ...]:
        """Make a call that fails, and check that nothing has changed."""
        before = self.world.snapshot()
        results = self.world.call(fid, *args)
        assert results[0]
        assert self.world.snapshot() == before
        return results

    def set_points(self, points: DebugPoints) -> None:
        """Set breakpoints, watchpoints and step."""
        self.world.do(SET, self.rec, self.world.ns_granule(points.data))


@pytest.fixture
def debugged(world: World) -> Debugged:
    """Return a realm that may be debugged."""
    return Debugged(world)


# --- permission -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fid", COMMANDS)
def test_a_realm_is_not_debuggable_by_default(world: World, fid: DebugRmiFid) -> None:
    """No command reads or changes its state at any time."""
    closed = Debugged(world, is_allowed=False)
    assert closed.refused(fid, closed.rec, *COMMANDS[fid](closed.ptr))[0] == ERROR_REALM
    assert not world.machine.lent, "nor is a debugger lent to its PE"


def test_the_permission_is_measured(world: World) -> None:
    """A descriptor of our own type, 256 bytes with the RIM so far, and nothing else in it."""
    rd = world.realm()
    measurements = world.rmm.realms[rd].measurements
    before = measurements.values[0]
    world.do(ALLOW, rd)
    descriptor = bytes((0x80, *bytes(7))) + (0x100).to_bytes(8, "little") + before.ljust(64, b"\0")
    assert measurements.values[0] == hashlib.sha256(descriptor.ljust(0x100, b"\0")).digest()


def test_the_permission_is_given_once_and_early(world: World) -> None:
    """Only of a new realm without RECs; else ERROR_REALM, and nothing is measured."""
    assert world.call(ALLOW, world.ns_granule())[0] == ERROR_INPUT
    rd = world.realm(vmid=8)
    world.do(ALLOW, rd)
    assert world.call(ALLOW, rd)[0] == ERROR_REALM
    other = Debugged(world, is_allowed=False)
    assert other.refused(ALLOW, other.rd)[0] == ERROR_REALM
    third = world.realm(vmid=9)
    world.rec(third)
    before = world.snapshot()
    assert world.call(ALLOW, third)[0] == ERROR_REALM
    assert world.snapshot() == before


@pytest.mark.parametrize("fid", COMMANDS)
def test_a_rec_must_be_stopped(debugged: Debugged, fid: DebugRmiFid) -> None:
    """Not while it runs, and not while the next entry has to complete an operation."""
    world, rec = debugged.world, debugged.rec
    arguments = COMMANDS[fid](debugged.ptr)
    seen: list[int] = []

    def guest(_context: object) -> FakeExit:
        seen.append(world.call(fid, rec, *arguments)[0])
        return FakeExit()

    world.enter(rec, guest)
    assert seen == [ERROR_REC]
    world.enter(rec, abort(UNPROTECTED, ISV=1))
    assert debugged.refused(fid, rec, *arguments)[0] == ERROR_REC
    world.enter(rec, enter=RecEnter.of(flags=RecEnterFlags.EMUL_MMIO))
    assert world.call(fid, rec, *arguments)[0] == 0


@pytest.mark.parametrize("fid", COMMANDS)
def test_bad_arguments_are_refused(debugged: Debugged, fid: DebugRmiFid) -> None:
    """No REC; and what is not the host's memory."""
    for rec in (debugged.rd, debugged.ptr, 0, (1 << 64) - 1):
        assert debugged.refused(fid, rec, *COMMANDS[fid](debugged.ptr))[0] == ERROR_INPUT
    for ptr in (*NOT_GRANULES, debugged.page, debugged.rec, debugged.ptr + 8):
        assert debugged.refused(fid, debugged.rec, *COMMANDS[fid](ptr))[0] == ERROR_INPUT


# --- registers ------------------------------------------------------------------------------------


def test_registers_are_read_and_written(debugged: Debugged) -> None:
    """All of them, changed or not."""
    world, context = debugged.world, debugged.world.context(debugged.rec)
    context.x[30], context.v[63], context.tpidr_el1 = 30, 63, 77
    world.do(READ, debugged.rec, debugged.ptr)
    shown = DebugRegisters(world.ns.read(debugged.ptr, GRANULE_SIZE))
    assert (shown.pc, shown.x[30], shown.v[63], shown.tpidr_el1) == (0x1000, 30, 63, 77)
    values = {m.name: n for n, m in enumerate(DebugRegisters.members(), 1)}
    given = DebugRegisters.of(
        **{name: value for name, value in values.items() if name not in {"x", "v"}}
    )
    given.x, given.v = tuple(range(31)), tuple(range(64))
    given.pstate = 0x3C4
    given.sctlr_el1 = shown.sctlr_el1
    world.do(WRITE, debugged.rec, world.ns_granule(given.data))
    assert (context.x, context.v) == (list(range(31)), list(range(64)))
    assert (context.pc, context.pstate, context.far_el1) == (values["pc"], 0x3C4, values["far_el1"])


def test_a_debugger_sets_no_bit_that_the_realm_could_not(debugged: Debugged) -> None:
    """Reserved bits of system registers stay as they are; EL2, EL3, AArch32 are refused."""
    world, context = debugged.world, debugged.world.context(debugged.rec)
    given = DebugRegisters(b"\xff" * GRANULE_SIZE)
    given.pstate = 0x3C5
    world.do(WRITE, debugged.rec, world.ns_granule(given.data))
    assert context.tcr_el1 != (1 << 64) - 1
    assert (context.cntv_ctl, context.fpcr, context.fpsr) == (3, 0x07C0_0000, 0x0800_009F)
    for pstate in (0x3C9, 0x3CD, 0x3C1, 0x1D3, 1 << 32 | 0x3C5):
        given.pstate = pstate
        ptr = world.ns_granule(given.data)
        assert debugged.refused(WRITE, debugged.rec, ptr)[0] == ERROR_INPUT


def test_the_hypervisor_s_own_registers_are_not_shown(debugged: Debugged) -> None:
    """Neither the tables of stage 2 nor a control of EL2."""
    names = {member.name for member in DebugRegisters.members()}
    assert not [name for name in names if name.endswith("_el2") or name.startswith("ich")]
    assert "vttbr_el2" in vars(debugged.world.context(debugged.rec))


# --- memory ---------------------------------------------------------------------------------------


def test_memory_is_read_and_written_within_a_page(debugged: Debugged) -> None:
    """Private memory and shared memory, whichever the realm's tables say."""
    world = debugged.world
    shared = world.ns_granule(b"shared")
    world.machine.pe(2).translations = {
        VA: (debugged.page, Pas.REALM),
        VA + GRANULE_SIZE: (shared, Pas.NS),
    }
    world.realm_memory.write(debugged.page + 0xFF0, b"0123456789abcdef")
    world.do(READ_MEMORY, debugged.rec, VA + 0xFF0, 16, debugged.ptr, pe=2)
    assert world.ns.read(debugged.ptr, 16) == b"0123456789abcdef"
    world.do(READ_MEMORY, debugged.rec, VA + GRANULE_SIZE, 6, debugged.ptr, pe=2)
    assert world.ns.read(debugged.ptr, 6) == b"shared"
    world.do(WRITE_MEMORY, debugged.rec, VA, 5, world.ns_granule(b"hello!"), pe=2)
    assert world.realm_memory.read(debugged.page, 6) == b"hello\0"
    world.do(WRITE_MEMORY, debugged.rec, VA + GRANULE_SIZE, 6, world.ns_granule(b"SHARED"), pe=2)
    assert world.ns.read(shared, 6) == b"SHARED"


@pytest.mark.parametrize("fid", [READ_MEMORY, WRITE_MEMORY])
@pytest.mark.parametrize(
    ("va", "size", "status"),
    [
        (VA, 0, ERROR_INPUT),
        (VA, GRANULE_SIZE + 1, ERROR_INPUT),
        (VA + 1, GRANULE_SIZE, ERROR_INPUT),
        (VA, (1 << 64) - 1, ERROR_INPUT),
        (VA - 8, 8, ERROR_RTT),
        ((1 << 64) - 1, 1, ERROR_RTT),
    ],
)
def test_memory_that_is_not_mapped(
    debugged: Debugged, fid: DebugRmiFid, va: int, size: int, status: int
) -> None:
    """Not within a page, or no page."""
    assert debugged.refused(fid, debugged.rec, va, size, debugged.ptr)[0] == status


@pytest.mark.parametrize("fid", [READ_MEMORY, WRITE_MEMORY])
def test_shared_memory_that_is_not_the_host_s(debugged: Debugged, fid: DebugRmiFid) -> None:
    """A host may map anything: no memory, or memory that it delegated later."""
    for pa in (DRAM_BASE - GRANULE_SIZE, (1 << 48) - GRANULE_SIZE, debugged.page):
        debugged.world.machine.pe(0).translations[VA] = (pa, Pas.NS)
        refused = debugged.refused(fid, debugged.rec, VA, 8, debugged.ptr)
        assert refused[0] == ERROR_RTT


# --- stops ----------------------------------------------------------------------------------------


def test_points_reach_the_pe(debugged: Debugged) -> None:
    """Breakpoints and watchpoints of the REC's own debugger; too many are refused."""
    debug = debugged.world.rmm.recs[debugged.rec].debug
    points = DebugPoints.of(num_breakpoints=2, num_watchpoints=1)
    points.breakpoints = (VA, VA + 4, *(0,) * (MAX_BREAKPOINTS - 2))
    points.watchpoints = (VA, 8, 3, *(0,) * (3 * MAX_WATCHPOINTS - 3))
    debugged.set_points(points)
    assert (debug.num_breakpoints, debug.breakpoints[1]) == (2, VA + 4)
    watchpoint = debug.watchpoints[0]
    assert (debug.num_watchpoints, watchpoint.addr, watchpoint.size) == (1, VA, 8)
    assert (watchpoint.access, debug.step) == (3, 0)
    for wrong in (
        DebugPoints.of(num_breakpoints=MAX_BREAKPOINTS + 1),
        DebugPoints.of(num_watchpoints=(1 << 64) - 1),
    ):
        ptr = debugged.world.ns_granule(wrong.data)
        assert debugged.refused(SET, debugged.rec, ptr)[0] == ERROR_INPUT
        assert debug.num_breakpoints == 2


def test_the_host_sees_a_debug_exception(debugged: Debugged) -> None:
    """Syndrome and address, and not one register."""
    world = debugged.world
    leave = world.enter(debugged.rec, lambda _: FakeExit(ExitReason.DEBUG, BREAKPOINT, VA))
    assert (leave.exit_reason, leave.esr, leave.far) == (RecExitReason.SYNC, BREAKPOINT, VA)
    assert leave.gprs == (0,) * 31


def test_what_the_rmm_does_for_the_realm_is_a_step(debugged: Debugged) -> None:
    """An RSI call: the realm does not execute the next instruction."""
    world = debugged.world
    debugged.set_points(DebugPoints.of(step=1))
    leave = world.enter(debugged.rec, smc(RsiFid.RSI_VERSION, 0x1_0000))
    assert (leave.exit_reason, leave.esr) == (RecExitReason.SYNC, STEPPED)
    assert world.context(debugged.rec).pc == 0x1004
    assert world.enter(debugged.rec).esr == STEPPED, "until the debugger says otherwise"
    debugged.set_points(DebugPoints())
    assert world.enter(debugged.rec).exit_reason == RecExitReason.IRQ


def test_what_the_host_does_for_the_realm_is_a_step(debugged: Debugged) -> None:
    """The next entry completes a device access, and with it the step."""
    world = debugged.world
    debugged.set_points(DebugPoints.of(step=1))
    leave = world.enter(debugged.rec, abort(UNPROTECTED, ISV=1, SRT=3))
    assert leave.hpfar
    enter = RecEnter.of(flags=RecEnterFlags.EMUL_MMIO, gprs=(5,) * 31)
    assert world.enter(debugged.rec, enter=enter).esr == STEPPED
    assert (world.context(debugged.rec).pc, world.context(debugged.rec).x[3]) == (0x1004, 5)


def test_a_fault_is_not_a_step(debugged: Debugged) -> None:
    """The step completes only after the host has provided the page."""
    world = debugged.world
    debugged.set_points(DebugPoints.of(step=1))
    assert world.enter(debugged.rec, abort(0x5000)).esr != STEPPED
    leave = world.enter(debugged.rec, lambda _: FakeExit(ExitReason.DEBUG, STEPPED))
    assert leave.esr == STEPPED


def test_a_realm_that_is_off_can_still_be_inspected(debugged: Debugged) -> None:
    """A post-mortem."""
    debugged.world.rmm.realms[debugged.rd].state = RealmState.SYSTEM_OFF
    debugged.world.do(READ, debugged.rec, debugged.ptr)


def test_any_arguments_are_answered(debugged: Debugged, seed: int) -> None:
    """Any arguments give an RMI status, and the RMM continues."""
    rng, world = random.Random(seed), debugged.world
    places = (debugged.rec, debugged.rd, debugged.ptr, debugged.page, VA, 0, (1 << 64) - 1)
    for _ in range(3000):
        fid = rng.choice([*DebugRmiFid])
        args = [rng.choice((*places, rng.getrandbits(64))) for _ in range(4)]
        if rng.randrange(2):
            args[0] = debugged.rec
        assert world.call(fid, *args)[0] & 0xFF <= ERROR_RTT
    assert world.enter(debugged.rec).exit_reason in {RecExitReason.IRQ, RecExitReason.SYNC}


def test_a_debugger_sees_every_saved_register() -> None:
    """Those of the table of system registers, each under the name that it has in a context."""
    members = {member.name for member in DebugRegisters.members()}
    assert not {row.saved for row in SYSREGS if row.saved} - members
