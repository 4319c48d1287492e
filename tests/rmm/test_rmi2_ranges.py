"""RMI 2.0's range commands against a model: hostile ranges, and lists with bad descriptors."""

from array import array
from random import Random

import pytest

from pyvmm.arch.rmi import RmiFid
from pyvmm.arch.rmi2 import Rmi2Fid
from rmm.granule import GranuleState
from tests.rmm.invariants import check_invariants
from tests.rmm.model_ranges import PAGE, REGION, UNPROTECTED, Answer, Given, Model
from tests.rmm.world import DRAM_BASE, DRAM_SIZE
from tests.rmm.world2 import LIST, NONE, RTT, SINGLE, World2

POOL = range(DRAM_BASE + REGION, DRAM_BASE + DRAM_SIZE, PAGE)  # one aligned block
REGIONS = (0, REGION, 2 * REGION)
ATTRIBUTES = tuple(memattr << 16 | s2ap << 19 for memattr in (0, 6) for s2ap in (1, 2, 3))
ACTIONS = (*["map"] * 6, *["unmap"] * 5, *["share"] * 4, *["unshare"] * 4, "split")


class Fuzz:
    """A host with one realm, and the model."""

    def __init__(self, seed: int) -> None:
        """Make a realm with a table for the first 2 MB of each half, where the RIPAS is RAM."""
        self.rng = Random(seed)
        self.world = world = World2()
        self.rd = world.realm(depth=2)
        self.buffer, self.spare = world.ns_granule(), world.delegated(8)
        world.do(Rmi2Fid.RMI_GRANULE_RANGE_DELEGATE, POOL[0], POOL[-1] + PAGE)
        regions = [half + each for half in (0, UNPROTECTED) for each in REGIONS]
        self.model = Model(POOL, regions)
        for half in (0, UNPROTECTED):
            self._make_table(half)
        world.do(RmiFid.RMI_RTT_INIT_RIPAS, self.rd, 0, REGION // 2)
        for ipa in range(0, REGION // 2, PAGE):
            self.model.entries[ipa].ripas = 1

    def step(self) -> None:
        """Do something."""
        getattr(self, self.rng.choice(ACTIONS))()

    # --- arguments ------------------------------------------------------------------------

    def range(self, half: int) -> tuple[int, int]:
        """Choose a range: of a few pages, to the end of a table, or of some tables."""
        rng = self.rng
        base = rng.choice(REGIONS) + PAGE * rng.choice((0, 0, 0, 1, 5, 256, rng.randrange(512)))
        sizes = (PAGE, 2 * PAGE, PAGE * rng.randrange(1, 600), REGION, 2 * REGION)
        return half + base, half + base + rng.choice(sizes)

    def given(self, *, is_shared: bool) -> Given:
        """Choose a descriptor of the host's."""
        rng, is_block = self.rng, not self.rng.randrange(4)
        pa = POOL[0] if is_block else rng.choice((POOL[0], rng.choice(POOL)))
        count = rng.choice((1, 1, 1, 2, 0) if is_block else (1, 2, 8, 200, 512, 1023, 0))
        return Given(pa, count, is_block, int(is_shared != (not rng.randrange(16))))

    # --- commands -------------------------------------------------------------------------

    def map(self) -> None:
        """Give the realm memory."""
        self._map(Rmi2Fid.RMI_RTT_DATA_MAP, 0, 0)

    def share(self) -> None:
        """Share memory with it, whatever that is."""
        attributes = self.rng.choice(ATTRIBUTES)
        self._map(Rmi2Fid.RMI_RTT_UNPROT_MAP, UNPROTECTED, attributes)

    def _map(self, fid: Rmi2Fid, half: int, attributes: int) -> None:
        base, top = self.range(half)
        number = self.rng.choice((1, 1, 2, 3, 9))
        given = [self.given(is_shared=bool(half)) for _ in range(number)]
        where, flags = given[0].word, SINGLE
        if number > 1:
            where, flags = self.buffer, LIST | number << 2
            self.world.ns.write(where, array("Q", [each.word for each in given]).tobytes())
        expected = self.model.map(base, top, given, attributes)
        self.same(fid, (self.rd, base, top, flags | attributes, where), expected)

    def unmap(self) -> None:
        """Take memory back."""
        self._unmap(Rmi2Fid.RMI_RTT_DATA_UNMAP, 0)

    def unshare(self) -> None:
        """Unmap shared memory."""
        self._unmap(Rmi2Fid.RMI_RTT_UNPROT_UNMAP, UNPROTECTED)

    def _unmap(self, fid: Rmi2Fid, half: int) -> None:
        base, top = self.range(half)
        kind = self.rng.choice((NONE, SINGLE, LIST, LIST))
        limit = self.rng.choice((0, 1, 2, 40)) if kind == LIST else 0
        where = self.buffer if kind == LIST else 0
        expected = self.model.unmap(base, top, kind, limit)
        self.same(fid, (self.rd, base, top, kind | limit << 2, where), expected)
        listed = array("Q", self.world.ns.read(self.buffer, 8 * len(expected.listed)))
        assert listed.tolist() == expected.listed

    def split(self) -> None:
        """Create a table below an entry of 2 MB, mapped or not."""
        region = self.rng.choice(REGIONS) + self.rng.choice((0, UNPROTECTED))
        if region in self.model.tables:
            args = (self.rd, self.spare, region, 3)
            assert self.world.call(RmiFid.RMI_RTT_CREATE, *args)[0] == RTT | 2 << 8
        else:
            self._make_table(region)

    def _make_table(self, region: int) -> None:
        self.world.do(RmiFid.RMI_RTT_CREATE, self.rd, self.spare, region, 3)
        self.spare += PAGE
        self.model.split(region)

    def same(self, fid: Rmi2Fid, args: tuple[int, ...], expected: Answer) -> None:
        """Issue a command, and compare the answer."""
        answer = self.world.call(fid, *args)
        assert answer[:4] == expected.results, (fid.name, args, answer, expected)

    # --- checks ---------------------------------------------------------------------------

    def check(self) -> None:
        """Compare all entries and the states of all memory; check the invariants."""
        world, model = self.world, self.model
        for ipa, entry in model.entries.items():
            level = 3 if ipa & -REGION in model.tables else 2
            if entry.pa is not None or not self.rng.randrange(8):
                found = world.do(RmiFid.RMI_RTT_READ_ENTRY, self.rd, ipa, level)[:4]
                shown = found[2] & -PAGE & (1 << 48) - 1
                is_live = entry.pa is not None
                assert (found[0], found[1], shown) == (level, int(is_live), entry.pa or 0), hex(ipa)
                assert found[3] == (0 if ipa >= UNPROTECTED else entry.ripas)
        state = world.rmm.granules.state
        assert {pa for pa in POOL if state(pa) is GranuleState.DELEGATED} == model.free
        check_invariants(world.rmm, world.is_realm, ())


def sequences(seed: int, rounds: int, steps: int) -> None:
    """Make realms, and attack the ranges of each."""
    for number in range(rounds):
        fuzz = Fuzz(seed + number)
        for _ in range(steps):
            fuzz.step()
        fuzz.check()


def test_hostile_ranges(seed: int) -> None:
    """A few realms."""
    sequences(seed, 6, 60)


@pytest.mark.slow
def test_many_hostile_ranges(seed: int) -> None:
    """A hundred thousand commands."""
    sequences(seed, 1000, 100)
