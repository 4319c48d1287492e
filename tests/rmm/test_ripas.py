"""RMI_RTT_INIT_RIPAS, RMI_RTT_SET_RIPAS and the realm's side of it, RSI_IPA_STATE_*."""

from typing import Final

import pytest

from pyvmm.arch.rmi import RecEnter, RecEnterFlags, RecExitReason, Ripas, RmiFid
from pyvmm.arch.rsi import RsiFid
from pyvmm.arch.stage2 import ASSIGNED, RIPAS_SHIFT, UNASSIGNED_DESTROYED, UNASSIGNED_RAM
from rmm.granule import GranuleState
from rmm.rtt import ram_entry
from tests.rmm.test_granule import granule_in
from tests.rmm.world import World, smc

INIT, SET = RmiFid.RMI_RTT_INIT_RIPAS, RmiFid.RMI_RTT_SET_RIPAS
STATE_SET, STATE_GET = RsiFid.RSI_IPA_STATE_SET, RsiFid.RSI_IPA_STATE_GET
ERROR_INPUT, ERROR_REALM, ERROR_REC = 1, 2, 3
MIB2: Final = 2 << 20
GIB: Final = 1 << 30
UNPROTECTED: Final = 1 << 32
CHANGE_DESTROYED: Final = 1
BAD_RANGES = [
    (0, 0), (0x1000, 0), (0x800, 0x1000), (0, 0x800), (0, UNPROTECTED + 0x1000),
    (UNPROTECTED, UNPROTECTED + 0x1000), (0, (1 << 64) - 0x1000), ((1 << 64) - 0x1000, 0),
]  # fmt: skip


def error_rtt(level: int) -> int:
    """Return x0 of ERROR_RTT."""
    return 4 | level << 8


def raw(world: World, rd: int, ipa: int) -> int:
    """Read the entry where the walk ends."""
    table, index, _ = world.rmm.realms[rd].rtt.walk(ipa, 3)
    return table.entries[index]


def running_rec(world: World, rd: int) -> int:
    """Create a REC and activate the realm."""
    rec = world.rec(rd)
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    return rec


def ask(world: World, rec: int, base: int, top: int, ripas: int, flags: int = 0) -> None:
    """Make the realm request a change."""
    leave = world.enter(rec, smc(STATE_SET, base, top, ripas, flags))
    assert leave.exit_reason == RecExitReason.RIPAS_CHANGE
    assert (leave.ripas_base, leave.ripas_top, leave.ripas_value) == (base, top, ripas)


# --- INIT -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("base", "top"), BAD_RANGES)
def test_init_ripas_refuses_ranges(world: World, base: int, top: int) -> None:
    """Not empty, aligned, protected."""
    rd = world.realm()
    before = world.snapshot()
    assert world.call(INIT, rd, base, top) == (ERROR_INPUT, 0, 0, 0, 0)
    assert world.snapshot() == before


@pytest.mark.parametrize("state", sorted(set(GranuleState) - {GranuleState.RD}))
def test_ripas_commands_need_a_realm(world: World, state: GranuleState) -> None:
    """Only an RD names a realm, only a REC a REC."""
    bad = granule_in(world, state)
    assert world.call(INIT, bad, 0, 0x1000) == (ERROR_INPUT, 0, 0, 0, 0)
    assert world.call(SET, bad, bad, 0, 0x1000) == (ERROR_INPUT, 0, 0, 0, 0)


def test_init_ripas_checks_the_range_before_the_state(world: World) -> None:
    """ERROR_INPUT comes first, then ERROR_REALM, then ERROR_RTT."""
    rd = world.realm(depth=2)
    assert world.call(INIT, rd, 0x1000, MIB2)[0] == error_rtt(2)
    assert world.call(INIT, rd, 0, 0x1000)[0] == error_rtt(2)
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    assert world.call(INIT, rd, 0, 0)[0] == ERROR_INPUT
    assert world.call(INIT, rd, 0x1000, MIB2)[0] == ERROR_REALM


def test_init_ripas_makes_progress_as_far_as_it_can(world: World) -> None:
    """It stops at top, at the end of a table, at a page, and at an entry that is too large."""
    rd = world.realm()
    assert world.do(INIT, rd, 0x1000, 0x3000)[0] == 0x3000
    assert [raw(world, rd, ipa) for ipa in (0, 0x1000, 0x2000, 0x3000)] == [
        0, UNASSIGNED_RAM, UNASSIGNED_RAM, 0,
    ]  # fmt: skip
    assert world.do(INIT, rd, 0, GIB)[0] == MIB2  # RAM already is RAM; the end of the page table
    assert world.do(INIT, rd, MIB2, 3 * MIB2 + 0x1000)[0] == 3 * MIB2
    world.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, rd, world.delegated(), 0x7000)
    before = world.snapshot()
    assert world.call(INIT, rd, 0x7000, 0x8000)[0] == error_rtt(3)
    assert world.snapshot() == before
    assert world.do(INIT, rd, 0x6000, 0x9000)[0] == 0x7000


def test_init_ripas_up_to_the_last_protected_granule(world: World) -> None:
    """The half ends where the range may end."""
    rd = world.realm(depth=1)
    assert world.do(INIT, rd, UNPROTECTED - GIB, UNPROTECTED)[0] == UNPROTECTED


def test_init_ripas_does_not_undo_destroyed(world: World) -> None:
    """DESTROYED is neither EMPTY nor RAM."""
    rd = world.realm()
    world.page(rd, 0)
    world.do(RmiFid.RMI_DATA_DESTROY, rd, 0)
    assert world.call(INIT, rd, 0, 0x1000)[0] == error_rtt(3)


# --- SET --------------------------------------------------------------------------------------


def test_set_ripas_follows_the_request(world: World) -> None:
    """Only the next part of what the REC asked for, and the realm sees how far it got."""
    rd = world.realm()
    rec = running_rec(world, rd)
    before = world.snapshot()
    assert world.call(SET, rd, rec, 0, 0x1000)[0] == ERROR_INPUT  # nobody asked
    assert world.snapshot() == before
    ask(world, rec, 0x1000, 0x5000, Ripas.RAM)
    before = world.snapshot()
    for base, top in (
        (0, 0x1000),
        (0x2000, 0x3000),
        (0x1000, 0x6000),
        (0x1000, 0x1000),
        (0x1000, 0),
        (0x1000, 0x1800),
    ):
        assert world.call(SET, rd, rec, base, top) == (ERROR_INPUT, 0, 0, 0, 0)
    assert world.snapshot() == before
    assert world.do(SET, rd, rec, 0x1000, 0x2000)[0] == 0x2000
    assert world.call(SET, rd, rec, 0x1000, 0x2000)[0] == ERROR_INPUT
    assert world.do(SET, rd, rec, 0x2000, 0x4000)[0] == 0x4000
    world.enter(rec)
    assert world.context(rec).x[:4] == [0, 0x4000, 0, 0]
    assert world.context(rec).pc == 0x1004
    assert world.call(SET, rd, rec, 0x4000, 0x5000)[0] == ERROR_INPUT
    assert [raw(world, rd, ipa) for ipa in (0, 0x1000, 0x3000, 0x4000)] == [0, 32, 32, 0]


def test_set_ripas_needs_the_realms_own_idle_rec(world: World) -> None:
    """ERROR_REC for the REC of another realm and for one that runs."""
    rd, other = world.realm(), world.realm(vmid=8)
    rec = running_rec(world, rd)
    ask(world, rec, 0, 0x1000, Ripas.RAM)
    assert world.call(SET, other, rec, 0, 0x1000)[0] == ERROR_REC
    assert world.call(SET, rd, rd, 0, 0x1000)[0] == ERROR_INPUT
    world.rmm.recs[rec].running = True
    assert world.call(SET, rd, rec, 0, 0x1000)[0] == ERROR_REC


def test_set_ripas_of_pages(world: World) -> None:
    """RAM to EMPTY takes the mapping but keeps the page; EMPTY to RAM gives it back."""
    rd = world.realm()
    page = world.page(rd, 0)
    rec = running_rec(world, rd)
    ask(world, rec, 0, 0x2000, Ripas.EMPTY)
    assert world.do(SET, rd, rec, 0, 0x2000)[0] == 0x2000
    assert raw(world, rd, 0) == page | ASSIGNED
    assert world.machine.tlbis == [(7, 0, 0x1000)]
    ask(world, rec, 0, 0x1000, Ripas.RAM)
    world.do(SET, rd, rec, 0, 0x1000)
    assert raw(world, rd, 0) == ram_entry(page, 3)


@pytest.mark.parametrize("ripas", [Ripas.EMPTY, Ripas.RAM])
@pytest.mark.parametrize("num_steps", [1, 3, 12])
def test_set_ripas_of_unlike_pages(world: World, ripas: Ripas, num_steps: int) -> None:
    """Entries in a row may differ in state, RIPAS and address; each keeps what it has."""
    rd = world.realm()
    world.do(INIT, rd, 0, 0x6000)
    pages = world.delegated(5)
    places = {0: 0, 0x1000: 1, 0x2000: 4, 0x3000: 2, 0x8000: 3}  # the last one is EMPTY
    backing = {ipa: pages + n * 0x1000 for ipa, n in places.items()}
    for ipa, pa in backing.items():
        world.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, rd, pa, ipa)
    rec = running_rec(world, rd)
    ask(world, rec, 0, 0xC000, ripas)
    for step in range(num_steps):
        base, top = (0xC000 // num_steps * n for n in (step, step + 1))
        assert world.do(SET, rd, rec, base, top)[0] == top
    for ipa in range(0, 0xC000, 0x1000):
        expected = ripas << RIPAS_SHIFT
        if ipa in backing:
            is_ram = ripas == Ripas.RAM
            expected = ram_entry(backing[ipa], 3) if is_ram else backing[ipa] | ASSIGNED
        assert raw(world, rd, ipa) == expected, hex(ipa)
    table, _, _ = world.rmm.realms[rd].rtt.walk(0, 3)
    assert (table.live, table.shared) == (len(backing), 0)
    assert raw(world, rd, 0xC000) == 0


@pytest.mark.parametrize("flags", [0, CHANGE_DESTROYED])
@pytest.mark.parametrize("assigned", [False, True])
def test_set_ripas_stops_at_destroyed_by_default(
    world: World, flags: int, *, assigned: bool
) -> None:
    """A realm that did not ask to change DESTROYED must learn what it lost."""
    rd = world.realm()
    world.page(rd, 0x1000)
    world.do(RmiFid.RMI_DATA_DESTROY, rd, 0x1000)
    assert raw(world, rd, 0x1000) == UNASSIGNED_DESTROYED
    page = world.delegated()
    if assigned:
        world.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, rd, page, 0x1000)
    rec = running_rec(world, rd)
    ask(world, rec, 0, 0x2000, Ripas.RAM, flags)
    if flags:
        assert world.do(SET, rd, rec, 0, 0x2000)[0] == 0x2000
        assert raw(world, rd, 0x1000) == (ram_entry(page, 3) if assigned else UNASSIGNED_RAM)
    else:
        assert world.do(SET, rd, rec, 0, 0x2000)[0] == 0x1000
        assert world.call(SET, rd, rec, 0x1000, 0x2000)[0] == error_rtt(3)


def test_set_ripas_needs_tables_fine_enough(world: World) -> None:
    """(ERROR_RTT, level) if the entry covers more than is asked for."""
    rd = world.realm(depth=2)
    rec = running_rec(world, rd)
    ask(world, rec, 0x1000, MIB2 + 0x1000, Ripas.RAM)
    assert world.call(SET, rd, rec, 0x1000, MIB2)[0] == error_rtt(2)
    ask(world, rec, 0, MIB2 + 0x1000, Ripas.RAM)
    assert world.do(SET, rd, rec, 0, MIB2 + 0x1000)[0] == MIB2
    assert world.call(SET, rd, rec, MIB2, MIB2 + 0x1000)[0] == error_rtt(2)


def test_ripas_commands_stop_at_a_table(world: World) -> None:
    """A block beside a table: the run ends where the walk would go deeper, the table stays."""
    rd = world.realm(depth=2)
    world.tables(rd, MIB2, [3])
    assert world.do(INIT, rd, 0, GIB)[0] == MIB2
    rec = running_rec(world, rd)
    ask(world, rec, 0, GIB, Ripas.EMPTY)
    before = list(world.rmm.realms[rd].rtt.tables)
    assert world.do(SET, rd, rec, 0, GIB)[0] == MIB2
    assert world.do(SET, rd, rec, MIB2, GIB)[0] == 2 * MIB2
    assert world.do(RmiFid.RMI_RTT_READ_ENTRY, rd, MIB2, 2)[1] == 2
    assert list(world.rmm.realms[rd].rtt.tables) == before
    world.enter(rec, smc(STATE_GET, 0, GIB))
    assert world.context(rec).x[:3] == [0, MIB2, Ripas.EMPTY]


@pytest.mark.parametrize("ripas", [Ripas.EMPTY, Ripas.RAM])
@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("rejects", [False, True])
def test_response_to_the_realm(world: World, ripas: Ripas, *, done: bool, rejects: bool) -> None:
    """Only an unfinished change to RAM can be rejected."""
    rd = world.realm()
    rec = running_rec(world, rd)
    ask(world, rec, 0, 0x2000, ripas)
    if done:
        world.do(SET, rd, rec, 0, 0x2000)
    world.enter(rec, enter=RecEnter.of(flags=RecEnterFlags.RIPAS_RESPONSE * rejects))
    is_rejected = rejects and not done and ripas is Ripas.RAM
    assert world.context(rec).x[:3] == [0, 0x2000 if done else 0, int(is_rejected)]


# --- RSI --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        *((STATE_SET, base, top, 1, 0) for base, top in BAD_RANGES),
        *((STATE_GET, base, top) for base, top in BAD_RANGES),
        (STATE_SET, 0, 0x1000, 2, 0),
        (STATE_SET, 0, 0x1000, 1 << 32 | 1, 0),
    ],
)
def test_ipa_state_commands_refuse(world: World, args: tuple[int, ...]) -> None:
    """Bad ranges and a RIPAS that a realm cannot ask for are ERROR_INPUT, without an exit."""
    rec = running_rec(world, world.realm())
    assert world.enter(rec, smc(*args)).exit_reason == RecExitReason.IRQ
    assert world.context(rec).x[:4] == [ERROR_INPUT, 0, 0, 0]


def test_ipa_state_get_returns_ranges(world: World) -> None:
    """The RIPAS, and the end of the run inside the table, at most the end asked for."""
    rd = world.realm()
    world.do(INIT, rd, 0x1000, 0x4000)
    world.page(rd, 0x2000)
    rec = running_rec(world, rd)
    for args, expected in (
        ((0, 0x10_0000), (0x1000, Ripas.EMPTY)),
        ((0x1000, 0x10_0000), (0x4000, Ripas.RAM)),
        ((0x1000, 0x3000), (0x3000, Ripas.RAM)),
        ((0x4000, GIB), (MIB2, Ripas.EMPTY)),
        ((GIB, UNPROTECTED), (UNPROTECTED, Ripas.EMPTY)),
        ((GIB + 0x1000, GIB + 0x2000), (GIB + 0x2000, Ripas.EMPTY)),
    ):
        world.enter(rec, smc(STATE_GET, *args))
        assert world.context(rec).x[:4] == [0, *expected, 0]
