"""Series of commands: the RMM does several at once, and nobody can tell."""

from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.rmi import RmiFid
from pyvmm.arch.smccc import call_series
from rmm.errors import RmiError
from rmm.granule import DATA, DELEGATED, UNDELEGATED, IllegalMove
from rmm.rmm import MAX_SERIES
from tests.rmm.world import DRAM_BASE, World

PAGE: Final = GRANULE_SIZE
NUM_PAGES: Final = 24
FIRST_IPA: Final = (512 - 16) * PAGE  # 16 pages before the end of its table
COMMANDS: Final = (
    RmiFid.RMI_GRANULE_DELEGATE,
    RmiFid.RMI_GRANULE_UNDELEGATE,
    RmiFid.RMI_DATA_CREATE,
    RmiFid.RMI_DATA_CREATE_UNKNOWN,
    RmiFid.RMI_DATA_DESTROY,
)


class Scene:
    """A realm, rows of granules for its pages, and some of them spoiled."""

    def __init__(
        self, spoiled: Sequence[tuple[str, int]] = (), *, is_mapped: bool = False, num_ram: int = 0
    ) -> None:
        self.world = world = World()
        self.rd = world.realm()
        self.data = world.delegated(NUM_PAGES)
        self.sources = [world.ns_granule(b"page %d" % n) for n in range(NUM_PAGES)]
        for n in range(num_ram):
            self.ram(n)
        if is_mapped:
            for n in range(NUM_PAGES):
                world.call(RmiFid.RMI_DATA_CREATE_UNKNOWN, self.rd, self.data + n * PAGE, ipa_of(n))
        for what, n in spoiled:
            getattr(self, what)(n)
        world.machine.tlbis.clear()

    def taken_back(self, n: int) -> None:
        """The host has undelegated a granule."""
        self.world.call(RmiFid.RMI_GRANULE_UNDELEGATE, self.data + n * PAGE)

    def source_given(self, n: int) -> None:
        """A source is not the host's any more."""
        self.world.call(RmiFid.RMI_GRANULE_DELEGATE, self.sources[n])

    def source_secure(self, n: int) -> None:
        """A source is of a space that neither of them reaches."""
        self.world.machine.gpt[(self.sources[n] - DRAM_BASE) // PAGE] = Pas.SECURE

    def mapped(self, n: int) -> None:
        """The page is there already."""
        self.world.call(RmiFid.RMI_DATA_CREATE_UNKNOWN, self.rd, self.world.delegated(), ipa_of(n))

    def ram(self, n: int) -> None:
        """Its RIPAS is RAM."""
        self.world.call(RmiFid.RMI_RTT_INIT_RIPAS, self.rd, ipa_of(n), ipa_of(n + 1))

    def destroyed(self, n: int) -> None:
        """The page was there, and is DESTROYED."""
        self.world.call(RmiFid.RMI_DATA_DESTROY, self.rd, ipa_of(n))

    def active(self, _n: int) -> None:
        """The realm takes no more measured pages."""
        self.world.call(RmiFid.RMI_REALM_ACTIVATE, self.rd)

    def row(self, fid: int, first: int, flags: int) -> tuple[Sequence[int], Sequence[int]]:
        """Return the arguments of a series that begins at a page, and its steps."""
        data, ipa, source = self.data + first * PAGE, ipa_of(first), self.sources[first]
        match fid:
            case RmiFid.RMI_GRANULE_DELEGATE:
                return (fid, source), (0, PAGE)
            case RmiFid.RMI_GRANULE_UNDELEGATE:
                return (fid, data), (0, PAGE)
            case RmiFid.RMI_DATA_CREATE:
                return (fid, self.rd, data, ipa, source, flags), (0, 0, PAGE, PAGE, PAGE, 0)
            case RmiFid.RMI_DATA_CREATE_UNKNOWN:
                return (fid, self.rd, data, ipa), (0, 0, PAGE, PAGE)
            case _:  # RMI_DATA_DESTROY
                return (fid, self.rd, ipa), (0, 0, PAGE)

    def do(
        self, args: Sequence[int], steps: Sequence[int], count: int, *, at_once: bool
    ) -> tuple[int, tuple[int, ...]]:
        """Make the calls of a series."""
        rmm = self.world.rmm
        several = rmm.handle_series if at_once else None
        return call_series(
            lambda pe, each: rmm.handle(pe, each[0], each[1:]), 0, args, steps, count, several
        )

    def invalidated(self) -> set[int]:
        """Return the pages whose translations were invalidated."""
        return {
            page
            for _, ipa, size in self.world.machine.tlbis
            for page in range(ipa, ipa + size, PAGE)
        }


def ipa_of(n: int) -> int:
    """Return the address of a page."""
    return FIRST_IPA + n * PAGE


SPOILED: Final = st.lists(
    st.tuples(
        st.sampled_from(
            ["taken_back", "source_given", "source_secure", "mapped", "ram", "ram", "destroyed"]
        ),
        st.integers(0, NUM_PAGES - 1),
    ),
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(COMMANDS),
    st.integers(0, NUM_PAGES - 1),
    st.integers(0, NUM_PAGES),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from([0, 7, NUM_PAGES]),
    SPOILED,
)
def test_series_is_its_commands(
    fid: int,
    first: int,
    count: int,
    flags: int,
    is_mapped: bool,
    num_ram: int,
    spoiled: list[tuple[str, int]],
) -> None:
    """Results, memory, tables, measurements and invalidations are those of commands one by one."""
    count = min(count, NUM_PAGES - first)
    scenes = [Scene(spoiled, is_mapped=is_mapped, num_ram=num_ram) for _ in range(2)]
    results = [
        scene.do(*scene.row(fid, first, flags), count, at_once=at_once)
        for scene, at_once in zip(scenes, (True, False), strict=True)
    ]
    assert results[0] == results[1]
    assert scenes[0].world.snapshot() == scenes[1].world.snapshot()
    assert scenes[0].invalidated() == scenes[1].invalidated()


@pytest.mark.parametrize("fid", COMMANDS)
def test_series_that_succeeds_is_done_at_once(fid: int) -> None:
    """Up to the end of a table."""
    scene = Scene(is_mapped=fid == RmiFid.RMI_DATA_DESTROY)
    args, steps = scene.row(fid, 0, 1)
    assert scene.world.rmm.handle_series(0, args, steps, 16) == 16
    assert scene.world.rmm.handle_series(0, args, steps, 16) == 0


def test_series_without_a_short_cut_is_left_to_its_commands() -> None:
    """Other commands, other steps, what the command refuses, and an RMM that has not booted."""
    scene = Scene([("active", 0)])
    rmm = scene.world.rmm
    delegate = (RmiFid.RMI_GRANULE_DELEGATE, scene.sources[0])
    for args, steps in (
        ((RmiFid.RMI_VERSION, 0), (0, 0)),
        ((0xC400_01FF,), (0,)),
        (delegate, (0, 2 * PAGE)),
        (delegate, (0,)),
        scene.row(RmiFid.RMI_DATA_CREATE, 0, 1),
        scene.row(RmiFid.RMI_DATA_DESTROY, 0, 0),
    ):
        before = scene.world.snapshot()
        assert rmm.handle_series(0, args, steps, 2) == 0
        assert scene.world.snapshot() == before


def test_series_is_bounded() -> None:
    """Other PEs wait for the lock no longer than for so many commands."""
    world = World()
    first = world.ns_granule()
    call = (RmiFid.RMI_GRANULE_DELEGATE, first)
    assert world.rmm.handle_series(0, call, (0, PAGE), 1000) == MAX_SERIES


def test_granules_in_a_row_move_together_or_not_at_all() -> None:
    """From one state only."""
    world = World()
    pa = world.delegated(3)
    granules = world.rmm.granules
    assert [granules.count(pa, state, 9) for state in (DELEGATED, UNDELEGATED)] == [3, 0]
    assert [granules.count(each, DELEGATED, 2) for each in (pa, pa + 8, 0)] == [2, 0, 0]
    with pytest.raises(IllegalMove):
        granules.move_row(pa, DATA, 4)
    assert granules.count(pa, DELEGATED, 9) == 3
    granules.move_row(pa, DATA, 3)
    with pytest.raises(RmiError):
        granules.require(pa + 2 * PAGE, DELEGATED)


@pytest.mark.parametrize("what", ["source_given", "source_secure", "taken_back", "mapped"])
def test_series_of_measured_pages_ends_where_a_page_fails(what: str) -> None:
    """The pages before it are there, and measured."""
    scenes = [Scene([(what, 3)]) for _ in range(2)]
    results = [
        scene.do(*scene.row(RmiFid.RMI_DATA_CREATE, 0, 1), 8, at_once=at_once)
        for scene, at_once in zip(scenes, (True, False), strict=True)
    ]
    assert results[0] == results[1]
    assert results[0][0] == 3
    assert scenes[0].world.snapshot() == scenes[1].world.snapshot()
