"""Every shape that a realm's IPA space can have, and the walks through it."""

from typing import Final

import pytest

from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.rmi import RmiFid
from tests.core.walk import TRANSLATION
from tests.rmm.core_world import CoreWorld
from tests.rmm.world import World

PAGE: Final = GRANULE_SIZE
ERROR_INPUT: Final = 1
WRITE_BACK_RW: Final = 6 << 2 | 3 << 6


def legal() -> dict[tuple[int, int], int]:
    """Number of start tables by width and start level, as the specification tabulates it."""
    tables = {}
    for s2sz in range(32, 49):
        for level, least, most in ((0, 40, 48), (1, 31, 43), (2, 22, 34), (3, 13, 25)):
            one_table = 48 - 9 * level  # bits that one table and those below it resolve
            if least <= s2sz <= most:
                tables[s2sz, level] = 1 << max(0, s2sz - one_table)
    return tables


LEGAL: Final = legal()


def test_the_legal_shapes_are_these() -> None:
    """A few that the specification gives as examples; from level 3 on, 32 bits are too many."""
    assert LEGAL[33, 1] == LEGAL[40, 0] == LEGAL[48, 0] == 1
    assert (LEGAL[40, 1], LEGAL[43, 1], LEGAL[33, 2], LEGAL[34, 2]) == (2, 16, 8, 16)
    assert not {level for _, level in LEGAL} - {0, 1, 2}
    assert len(LEGAL) == 9 + 12 + 3


@pytest.mark.parametrize("s2sz", [0, 25, *range(31, 53), 0x121])
def test_realm_create_takes_the_legal_shapes_only(world: World, s2sz: int) -> None:
    """Each width with each start level and number of tables."""
    params = world.realm_params(rtt_num_start=16)
    params.s2sz = s2sz
    rd, pointer = world.delegated(), world.ns_granule()
    created = set()
    for level in range(-2, 6):
        for count in (0, 1, 2, 3, 4, 8, 16):
            params.rtt_level_start, params.rtt_num_start = level, count
            world.ns.write(pointer, params.data)
            before = world.snapshot()
            results = world.call(RmiFid.RMI_REALM_CREATE, rd, pointer)
            if results[0] == 0:
                created.add((level, count))
                world.do(RmiFid.RMI_REALM_DESTROY, rd)
            assert results == (0 if results[0] == 0 else ERROR_INPUT, 0, 0, 0, 0)
            assert world.snapshot() == before
    assert created == {(level, n) for (bits, level), n in LEGAL.items() if bits == s2sz}


@pytest.mark.parametrize(("s2sz", "start_level"), LEGAL)
def test_walks_reach_both_ends_of_both_halves(s2sz: int, start_level: int) -> None:
    """Pages at the first and last IPA of each half, and nothing beside them; in C and in Python."""
    world = CoreWorld()
    rd = world.realm(
        depth=0, s2sz=s2sz, rtt_level_start=start_level, rtt_num_start=LEGAL[s2sz, start_level]
    )
    half = 1 << s2sz - 1
    mapped: dict[int, tuple[int, Pas]] = {}
    for ipa in (0, half - PAGE, half, 2 * half - PAGE):
        reached = world.do(RmiFid.RMI_RTT_READ_ENTRY, rd, ipa, 3)[0]
        world.tables(rd, ipa, range(reached + 1, 4))
        if ipa < half:
            mapped[ipa] = world.page(rd, ipa), Pas.REALM
        else:
            mapped[ipa] = world.ns_granule(), Pas.NS
            desc = mapped[ipa][0] | WRITE_BACK_RW
            world.do(RmiFid.RMI_RTT_MAP_UNPROTECTED, rd, ipa, 3, desc)
    context = world.context_of(world.rmm.realms[rd])
    for ipa, (pa, pas) in mapped.items():
        assert world.translate(context, ipa) == (pa, pas)
        state = (3, 1, pa | (WRITE_BACK_RW if pas is Pas.NS else 0), pas is Pas.REALM)
        assert world.do(RmiFid.RMI_RTT_READ_ENTRY, rd, ipa, 3) == state
    for ipa in (PAGE, half - 2 * PAGE, half + PAGE, 2 * half - 2 * PAGE):
        assert world.translate(context, ipa) == TRANSLATION + 3
    for ipa in {2 * half, 1 << 47} if s2sz < 48 else ():
        assert world.translate(context, ipa) == TRANSLATION  # outside the IPA space
    assert world.call(RmiFid.RMI_RTT_READ_ENTRY, rd, 2 * half, 3)[0] == ERROR_INPUT
    for ipa, (pa, pas) in mapped.items():
        if pas is Pas.REALM:
            assert world.do(RmiFid.RMI_DATA_DESTROY, rd, ipa)[0] == pa
        else:
            world.do(RmiFid.RMI_RTT_UNMAP_UNPROTECTED, rd, ipa, 3)
        assert world.translate(context, ipa) == TRANSLATION + 3
