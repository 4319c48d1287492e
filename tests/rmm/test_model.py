"""The RMM against its model: random commands, the same answers, and what must always hold."""

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import RmiFid
from rmm.granule import GranuleState
from tests.rmm.invariants import check_invariants
from tests.rmm.model import FIRST_UNPROTECTED, Model
from tests.rmm.world import DRAM_BASE, NUM_GRANULES, World

NUM_USED = 20
PAS = [DRAM_BASE + i * GRANULE_SIZE for i in range(NUM_USED)]
MIB2, GIB = 2 << 20, 1 << 30

granules = st.sampled_from([*PAS, DRAM_BASE + 8, 0])
levels = st.sampled_from([1, 2, 2, 3, 3, 3, 0, 4])
offsets = st.sampled_from([0, 0x1000, 0x2000, 0x3000, MIB2 - 0x1000, MIB2, 2 * MIB2, GIB, 0x800])
protected = offsets
unprotected = offsets.map(lambda offset: FIRST_UNPROTECTED + offset)
ipas = st.one_of(protected, unprotected)
descriptors = st.sampled_from([0, 0x1000, MIB2, GIB]).map(lambda oa: oa | 6 << 2 | 3 << 6)


class RmmAgainstModel(RuleBasedStateMachine):
    """Both get the same commands; most of them near something that exists."""

    def __init__(self) -> None:
        """Boot both."""
        super().__init__()
        self.world = World()
        self.model = Model(dict.fromkeys(PAS, "UNDELEGATED"))
        self.params = DRAM_BASE + (NUM_GRANULES - 1) * GRANULE_SIZE
        self.vmid = 0

    def both(self, fid: int, *args: int) -> None:
        """Issue a command to both."""
        expected = self.model.call(fid, *args)
        assert self.world.call(fid, *args) == expected, RmiFid(fid).name

    def create(self, rd: int, rtt: int) -> None:
        """Create a realm with both."""
        self.vmid += 1
        params = self.world.realm_params(rtt_base=rtt, vmid=self.vmid)
        self.world.ns.write(self.params, params.data)
        results = self.world.call(RmiFid.RMI_REALM_CREATE, rd, self.params)
        assert results == (*self.model.create_realm(rd, rtt), 0, 0, 0, 0)

    def realms(self, choice: int) -> int:
        """Choose a realm, or something that is none."""
        choices = [*self.model.realms, *self.model.realms, *self.model.realms, PAS[0]]
        return choices[choice % len(choices)]

    @initialize()
    def start(self) -> None:
        """Begin with a realm that has some tables."""
        for pa in PAS[:12]:
            self.both(RmiFid.RMI_GRANULE_DELEGATE, pa)
        self.create(PAS[0], PAS[1])
        for i, (ipa, level) in enumerate(((0, 2), (0, 3), (FIRST_UNPROTECTED, 2))):
            self.both(RmiFid.RMI_RTT_CREATE, PAS[0], PAS[2 + i], ipa, level)

    @rule(pa=granules, back=st.booleans())
    def delegate(self, pa: int, *, back: bool) -> None:
        """Move a granule."""
        fid = RmiFid.RMI_GRANULE_UNDELEGATE if back else RmiFid.RMI_GRANULE_DELEGATE
        self.both(fid, pa)

    @rule(rd=granules, rtt=st.sampled_from(PAS))
    def realm_create(self, rd: int, rtt: int) -> None:
        """Create a realm."""
        self.create(rd, rtt)

    @rule(choice=st.integers(0, 20), destroy=st.integers(0, 3))
    def realm_end(self, choice: int, destroy: int) -> None:
        """Activate or destroy a realm."""
        fid = RmiFid.RMI_REALM_ACTIVATE if destroy == 0 else RmiFid.RMI_REALM_DESTROY
        self.both(fid, self.realms(choice))

    @rule(choice=st.integers(0, 20), rtt=granules, ipa=ipas, level=levels)
    def rtt_create(self, choice: int, rtt: int, ipa: int, level: int) -> None:
        """Create a table."""
        self.both(RmiFid.RMI_RTT_CREATE, self.realms(choice), rtt, ipa, level)

    @rule(
        fid=st.sampled_from(
            [RmiFid.RMI_RTT_DESTROY, RmiFid.RMI_RTT_FOLD, RmiFid.RMI_RTT_READ_ENTRY]
        ),
        choice=st.integers(0, 20),
        ipa=ipas,
        level=levels,
    )
    def rtt_others(self, fid: int, choice: int, ipa: int, level: int) -> None:
        """Destroy, fold or read a table."""
        self.both(fid, self.realms(choice), ipa, level)

    @rule(choice=st.integers(0, 20), ipa=protected, count=st.integers(0, 600))
    def init_ripas(self, choice: int, ipa: int, count: int) -> None:
        """Make RAM."""
        self.both(RmiFid.RMI_RTT_INIT_RIPAS, self.realms(choice), ipa, ipa + count * 0x1000)

    @rule(choice=st.integers(0, 20), data=granules, ipa=ipas, src=granules, flags=st.integers(0, 2))
    def data_create(self, choice: int, data: int, ipa: int, src: int, flags: int) -> None:
        """Give a page with content."""
        self.both(RmiFid.RMI_DATA_CREATE, self.realms(choice), data, ipa, src, flags)

    @rule(choice=st.integers(0, 20), data=granules, ipa=protected)
    def data_create_unknown(self, choice: int, data: int, ipa: int) -> None:
        """Give a page of zeros, in which the realm then writes."""
        self.both(RmiFid.RMI_DATA_CREATE_UNKNOWN, self.realms(choice), data, ipa)
        if self.world.rmm.granules.state(data) is GranuleState.DATA and not data % GRANULE_SIZE:
            self.world.realm_memory.write(data, b"secret of the realm")

    @rule(choice=st.integers(0, 20), ipa=ipas)
    def data_destroy(self, choice: int, ipa: int) -> None:
        """Take a page."""
        self.both(RmiFid.RMI_DATA_DESTROY, self.realms(choice), ipa)

    @rule(choice=st.integers(0, 20), ipa=ipas, level=levels, desc=descriptors)
    def map_unprotected(self, choice: int, ipa: int, level: int, desc: int) -> None:
        """Share memory."""
        self.both(RmiFid.RMI_RTT_MAP_UNPROTECTED, self.realms(choice), ipa, level, desc)

    @rule(choice=st.integers(0, 20), ipa=ipas, level=levels)
    def unmap_unprotected(self, choice: int, ipa: int, level: int) -> None:
        """Share it no more."""
        self.both(RmiFid.RMI_RTT_UNMAP_UNPROTECTED, self.realms(choice), ipa, level)

    @invariant()
    def states_agree(self) -> None:
        """Each granule is what the model says."""
        states = self.world.rmm.granules
        assert {pa: states.state(pa).name for pa in PAS} == self.model.granules

    @invariant()
    def always(self) -> None:
        """What must hold after every command."""
        check_invariants(self.world.rmm, self.world.is_realm, PAS)


TestRmmAgainstModel = RmmAgainstModel.TestCase
TestRmmAgainstModel.settings = settings(max_examples=12, stateful_step_count=40, deadline=None)


def test_hostile_host() -> None:
    """Any values in any registers of any command: no exception, and the invariants hold."""
    generator = random.Random(3)
    world = World()
    rd = world.realm()
    rec = world.rec(rd)
    world.page(rd, 0)
    interesting = [
        0, 1, 3, 0x1000, FIRST_UNPROTECTED, 1 << 33, rd, rec, *world.rmm.realms[rd].rtt.tables,
        world.delegated(), world.delegated(), world.ns_granule(), world.ns_granule(), 1 << 63,
        (1 << 64) - 1, (1 << 64) - 0x1000, DRAM_BASE, DRAM_BASE + (4 << 20),
    ]  # fmt: skip
    for step in range(6000):
        args = [
            generator.choice(interesting)
            if generator.random() < 0.95
            else generator.getrandbits(64)
            for _ in range(6)
        ]
        world.call(generator.choice(list(RmiFid)), *args, pe=generator.randrange(4))
        if step % 500 == 0:
            check_invariants(world.rmm, world.is_realm, PAS)
    check_invariants(world.rmm, world.is_realm, PAS)
