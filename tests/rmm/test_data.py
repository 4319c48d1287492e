"""RMI_DATA_*: pages of a realm."""

from typing import Final

import pytest

from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.rmi import Ripas, RmiFid
from pyvmm.arch.stage2 import ASSIGNED, RIPAS_SHIFT
from rmm.granule import GranuleState
from rmm.rtt import ram_entry
from tests.rmm.test_granule import NOT_GRANULES, granule_in
from tests.rmm.world import DRAM_BASE, World

CREATE, CREATE_UNKNOWN, DESTROY = (
    RmiFid.RMI_DATA_CREATE,
    RmiFid.RMI_DATA_CREATE_UNKNOWN,
    RmiFid.RMI_DATA_DESTROY,
)
ERROR_INPUT, ERROR_REALM, ERROR_RTT = 1, 2, 4
UNPROTECTED: Final = 1 << 32
BAD_IPAS = (1, 0x800, UNPROTECTED, UNPROTECTED + 0x1000, 1 << 33, (1 << 64) - 0x1000)


def entry_of(world: World, rd: int, ipa: int) -> int:
    """Read the raw entry where the walk for an IPA ends."""
    table, index, _ = world.rmm.realms[rd].rtt.walk(ipa, 3)
    return table.entries[index]


def test_data_create_copies_and_maps(world: World) -> None:
    """The realm gets the host's bytes, at an ASSIGNED/RAM entry."""
    rd, data = world.realm(), world.delegated()
    world.do(CREATE, rd, data, 0x3000, world.ns_granule(b"kernel"), 1)
    assert world.rmm.granules.state(data) is GranuleState.DATA
    assert world.realm_memory.read(data, 6) == b"kernel"
    assert entry_of(world, rd, 0x3000) == ram_entry(data, 3)


@pytest.mark.parametrize("flags", [2, 3, 1 << 63])
def test_data_create_refuses_unknown_flags(world: World, flags: int) -> None:
    """Only MEASURE_CONTENT is defined."""
    rd, data, src = world.realm(), world.delegated(), world.ns_granule()
    before = world.snapshot()
    assert world.call(CREATE, rd, data, 0, src, flags)[0] == ERROR_INPUT
    assert world.snapshot() == before


@pytest.mark.parametrize("state", sorted(GranuleState))
def test_data_create_needs_granules_in_their_states(world: World, state: GranuleState) -> None:
    """The source is the host's, data is DELEGATED, rd is an RD; otherwise ERROR_INPUT."""
    bad = granule_in(world, state)
    rd = world.realm(vmid=9)
    data, src = world.delegated(), world.ns_granule()
    before = world.snapshot()
    if state != GranuleState.UNDELEGATED:
        assert world.call(CREATE, rd, data, 0, bad, 0)[0] == ERROR_INPUT
    if state != GranuleState.DELEGATED:
        assert world.call(CREATE, rd, bad, 0, src, 0)[0] == ERROR_INPUT
        assert world.call(CREATE_UNKNOWN, rd, bad, 0)[0] == ERROR_INPUT
    if state != GranuleState.RD:
        assert world.call(CREATE, bad, data, 0, src, 0)[0] == ERROR_INPUT
        assert world.call(CREATE_UNKNOWN, bad, data, 0)[0] == ERROR_INPUT
        assert world.call(DESTROY, bad, 0)[0] == ERROR_INPUT
    for pa in NOT_GRANULES:
        assert world.call(CREATE, rd, pa, 0, src, 0)[0] == ERROR_INPUT
        assert world.call(CREATE, rd, data, 0, pa, 0)[0] == ERROR_INPUT
        assert world.call(CREATE_UNKNOWN, rd, pa, 0)[0] == ERROR_INPUT
    assert world.snapshot() == before


@pytest.mark.parametrize("ipa", BAD_IPAS)
def test_data_commands_need_a_protected_page(world: World, ipa: int) -> None:
    """Unaligned and unprotected IPAs are ERROR_INPUT."""
    rd, data, src = world.realm(), world.delegated(), world.ns_granule()
    before = world.snapshot()
    assert world.call(CREATE, rd, data, ipa, src, 0) == (ERROR_INPUT, 0, 0, 0, 0)
    assert world.call(CREATE_UNKNOWN, rd, data, ipa) == (ERROR_INPUT, 0, 0, 0, 0)
    assert world.call(DESTROY, rd, ipa) == (ERROR_INPUT, 0, 0, 0, 0)
    assert world.snapshot() == before


def test_data_create_checks_in_order(world: World) -> None:
    """Granules first, then the realm's state, then the IPA, then the tables."""
    rd, data, src = world.realm(), world.delegated(), world.ns_granule()
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    assert world.call(CREATE, rd, src, UNPROTECTED, src, 0)[0] == ERROR_INPUT
    assert world.call(CREATE, rd, data, UNPROTECTED, src, 0)[0] == ERROR_REALM
    assert world.call(CREATE_UNKNOWN, rd, data, UNPROTECTED)[0] == ERROR_INPUT
    assert world.call(CREATE_UNKNOWN, rd, data, 1 << 30)[0] == ERROR_RTT | 1 << 8
    world.do(CREATE_UNKNOWN, rd, data, 0)


@pytest.mark.parametrize("depth", [1, 2])
def test_data_commands_need_a_page_table(world: World, depth: int) -> None:
    """(ERROR_RTT, level) says where the host has to build tables."""
    rd, data, src = world.realm(depth=depth), world.delegated(), world.ns_granule()
    before = world.snapshot()
    error = ERROR_RTT | depth << 8
    assert world.call(CREATE, rd, data, 0x1000, src, 0)[0] == error
    assert world.call(CREATE_UNKNOWN, rd, data, 0x1000)[0] == error
    end = 1 << 39 if depth == 1 else 1 << 30  # of the table, not of the IPA space
    assert world.call(DESTROY, rd, 0x1000) == (error, 0, end, 0, 0)
    assert world.snapshot() == before


def test_data_create_needs_an_unassigned_entry(world: World) -> None:
    """(ERROR_RTT, 3) if there is already a page."""
    rd, data, src = world.realm(), world.delegated(), world.ns_granule()
    world.page(rd, 0)
    before = world.snapshot()
    assert world.call(CREATE, rd, data, 0, src, 0)[0] == ERROR_RTT | 3 << 8
    assert world.call(CREATE_UNKNOWN, rd, data, 0)[0] == ERROR_RTT | 3 << 8
    assert world.snapshot() == before


def test_data_create_changes_nothing_when_the_source_cannot_be_read(world: World) -> None:
    """The granule may be the Secure world's although the RMM does not own it."""
    rd, data, src = world.realm(), world.delegated(), world.ns_granule()
    world.machine.gpt[(src - DRAM_BASE) // GRANULE_SIZE] = Pas.SECURE
    before = world.snapshot()
    assert world.call(CREATE, rd, data, 0, src, 0)[0] == ERROR_INPUT
    assert world.snapshot() == before


@pytest.mark.parametrize("ripas", list(Ripas))
def test_data_create_unknown_keeps_the_ripas(world: World, ripas: Ripas) -> None:
    """UNASSIGNED/x becomes ASSIGNED/x; only RAM is mapped; the page is zero."""
    rd, data = world.realm(), world.delegated()
    if ripas is Ripas.RAM:
        world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0, 0x1000)
    elif ripas is Ripas.DESTROYED:
        world.page(rd, 0)
        world.do(DESTROY, rd, 0)
    world.do(CREATE_UNKNOWN, rd, data, 0)
    expected = data | ASSIGNED | ripas << RIPAS_SHIFT
    assert entry_of(world, rd, 0) == (ram_entry(data, 3) if ripas is Ripas.RAM else expected)
    assert not any(world.realm_memory.read(data, GRANULE_SIZE))
    state = world.do(RmiFid.RMI_RTT_READ_ENTRY, rd, 0, 3)
    assert state == (3, 1, 0 if ripas is Ripas.DESTROYED else data, ripas)
    after = Ripas.EMPTY if ripas is Ripas.EMPTY else Ripas.DESTROYED
    assert world.do(DESTROY, rd, 0)[0] == data
    assert entry_of(world, rd, 0) == after << RIPAS_SHIFT


def test_data_destroy_scrubs_invalidates_and_finds_the_next(world: World) -> None:
    """The page returns zeroed, no PE can reach it, and the host learns where to continue."""
    rd = world.realm()
    data = world.page(rd, 0x2000)
    world.page(rd, 0x9000)
    world.realm_memory.write(data, b"secret")
    assert world.do(DESTROY, rd, 0x2000) == (data, 0x9000, 0, 0)
    assert world.machine.tlbis == [(7, 0x2000, GRANULE_SIZE)]
    assert world.rmm.granules.state(data) is GranuleState.DELEGATED
    assert not any(world.realm_memory.read(data, GRANULE_SIZE))
    assert world.call(DESTROY, rd, 0x2000) == (ERROR_RTT | 3 << 8, 0, 0x9000, 0, 0)
    assert world.do(DESTROY, rd, 0x9000)[1] == 0x20_0000
