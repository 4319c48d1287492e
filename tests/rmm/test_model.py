"""The RMM on the real machine against its model: the same commands, the same answers and state.

Commands are legal, illegal or nearly legal; realms do things when they are entered.  After each
one the state is compared whole, the invariants are checked, and the walkers in C and in Python
look where the model says that something is.
"""

import random
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.psci import PsciFid
from pyvmm.arch.rmi import EXIT_OFFSET, RealmParams, RecEnter, RecExit, RecParams, RmiFid
from pyvmm.arch.rsi import RsiFid
from rmm.rmi import RMI_1_0
from tests.rmm.agreement import Agreement
from tests.rmm.core_world import CoreWorld
from tests.rmm.invariants import check_invariants
from tests.rmm.model import span
from tests.rmm.model_rec import (
    DENIED,
    HOST_CALL,
    Access,
    Model,
    PsciRequest,
    Rec,
    RipasChange,
    Smc,
)
from tests.rmm.world import DRAM_BASE, Step, World, abort, smc

NUM_USED = 80
PAS = [DRAM_BASE + i * GRANULE_SIZE for i in range(NUM_USED)]
REALM_PARAMS, REC_PARAMS, RUN, SRC = PAS[-4:]  # what the host has to say; may be taken away, too
FIRST_FREE = 8  # before it there is room for start tables that have to be aligned
PAGE, MIB2, GIB = GRANULE_SIZE, 2 << 20, 1 << 30
#: Width of the IPA space, start level, number of start tables.
SHAPES = [(33, 1, 1), (33, 1, 1), (32, 2, 4), (33, 2, 8), (40, 1, 2), (48, 0, 1)]
BAD_SHAPES = [(33, 1, 2), (31, 1, 1), (40, 2, 1)]
OFFSETS = [0, PAGE, 2 * PAGE, 3 * PAGE, MIB2 - PAGE, MIB2, 2 * MIB2, GIB]
LEVELS = [*[3] * 10, *[2] * 6, 1, 1, 0, 4]
LENGTHS = [PAGE, PAGE, 2 * PAGE, 3 * PAGE, MIB2, MIB2 + PAGE, GIB]
OUTPUTS = [PAS[-1], PAS[12], PAS[20], DRAM_BASE, DRAM_BASE + MIB2, GIB, 0]
WRITE_BACK_RW = 6 << 2 | 3 << 6
MASK48 = (1 << 48) - 1
#: FEATURES tells of the machine; REC_ENTER needs to be told what the realm does.
NOT_ANYTHING = {RmiFid.RMI_FEATURES, RmiFid.RMI_REC_ENTER}
TABLE_FIDS = [RmiFid.RMI_RTT_DESTROY, RmiFid.RMI_RTT_FOLD, RmiFid.RMI_RTT_READ_ENTRY]
STEPS = """
none set set set set get call call config access access measure on on info off suspend version
unknown end
"""


class RmmAgainstModel(RuleBasedStateMachine):
    """Both get the same commands; most of them near something that exists."""

    def __init__(self) -> None:
        super().__init__()
        self.world = CoreWorld()
        self.model = Model(dict.fromkeys(PAS, "UNDELEGATED"), self.read)
        self.rng = Random(0)
        self.agreement = Agreement(self.world, self.model, OFFSETS)

    def read(self, pa: int) -> bytes:
        """Return what is in a granule of the host."""
        return self.world.ns.read(pa, PAGE)

    def write(self, pa: int, data: bytes | bytearray) -> None:
        """Write to a granule, if it is still the host's."""
        if self.model.granules[pa] == "UNDELEGATED":
            self.world.ns.write(pa, bytes(data).ljust(PAGE, b"\0"))

    def both(self, fid: int, *args: int) -> int:
        """Issue a command to both; return the status."""
        note(f"{RmiFid(fid).name} {' '.join(map(hex, args))}")
        expected = self.model.call(fid, *args)
        assert self.world.call(fid, *args) == expected
        return expected[0]

    def waits(self, *kinds: type) -> bool:
        """Return whether a REC waits for something."""
        return any(isinstance(rec.pending, kinds) for rec in self.model.recs.values())

    # --- choices --------------------------------------------------------------------------

    def rd(self, rng: Random, state: str = "") -> int:
        """Choose a realm, if possible in a given state; sometimes something else."""
        fit = [rd for rd, realm in self.model.realms.items() if realm.state == state]
        choices = fit or list(self.model.realms) or PAS
        return rng.choice(choices if rng.randrange(16) else PAS)

    def rec(self, rng: Random, is_fit: Callable[[Rec], bool]) -> int:
        """Choose a REC, usually a suitable one; sometimes something else."""
        fit = [pa for pa, rec in self.model.recs.items() if is_fit(rec)]
        choices = fit if fit and rng.randrange(5) else list(self.model.recs)
        return rng.choice(choices or PAS) if rng.randrange(16) else rng.choice(PAS)

    def granule(self, rng: Random) -> int:
        """Choose a granule; most times one that is DELEGATED."""
        free = [pa for pa in PAS[FIRST_FREE:] if self.model.granules[pa] == "DELEGATED"]
        return rng.choice(free or PAS) if rng.randrange(12) else rng.choice((*PAS, PAS[0] + 8, 0))

    def ipa(self, rng: Random, rd: int, half: int) -> int:
        """Return an IPA in a half of a realm; seldom in the other one or outside."""
        realm = self.model.realms.get(rd)
        half = half if rng.randrange(12) else rng.randrange(3)
        offset = rng.choice((*OFFSETS, *OFFSETS[:4])) if rng.randrange(20) else 0x800
        return half * (realm.half if realm else 1 << 32) + offset

    def table_ipa(self, rng: Random, rd: int, above: int) -> tuple[int, int]:
        """Return an IPA and a level, most times aligned to ``above`` levels above it."""
        level = rng.choice(LEVELS)
        ipa = self.ipa(rng, rd, rng.randrange(2))
        is_aligned = 0 <= level - above <= 3 and rng.randrange(12)
        return ipa & -span(level - above) if is_aligned else ipa, level

    # --- realms ---------------------------------------------------------------------------

    @initialize(
        seed=st.integers(0, (1 << 32) - 1),
        shape=st.sampled_from(SHAPES),
        is_active=st.sampled_from([True, True, False]),
        hash_algo=st.integers(0, 1),
    )
    def start(
        self, seed: int, shape: tuple[int, int, int], hash_algo: int, *, is_active: bool
    ) -> None:
        """Begin with a realm that has some tables, some pages and two RECs.

        Hypothesis chooses the rules, this seed their details: its own choices favour the odd.
        """
        self.rng = Random(seed)
        for pa in PAS[:-10]:
            self.both(RmiFid.RMI_GRANULE_DELEGATE, pa)
        rd, rtts = PAS[FIRST_FREE], iter(PAS[FIRST_FREE + 1 :])
        assert self.create(rd, PAS[0], shape, vmid=1, hash_algo=hash_algo) == 0
        half = self.model.realms[rd].half
        for base in (0, half):
            for level in range(shape[1] + 1, 4):
                self.both(RmiFid.RMI_RTT_CREATE, rd, next(rtts), base, level)
        for index in range(2):
            rec, *aux = next(rtts), next(rtts), next(rtts)
            self.create_rec(rd, rec, aux, index, flags=1 - index)
        self.both(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0, 3 * PAGE)
        for ipa in range(0, 4 * PAGE, PAGE):
            self.both(RmiFid.RMI_DATA_CREATE_UNKNOWN, rd, next(rtts), ipa)
        if is_active:
            self.both(RmiFid.RMI_REALM_ACTIVATE, rd)

    def create(
        self, rd: int, rtt: int, shape: tuple[int, int, int], vmid: int, hash_algo: int
    ) -> int:
        """Create a realm with both."""
        params = RealmParams.of(s2sz=shape[0], num_bps=1, num_wps=1, rtt_base=rtt, vmid=vmid)
        params.rtt_level_start, params.rtt_num_start, params.hash_algo = *shape[1:], hash_algo
        self.write(REALM_PARAMS, params.data)
        return self.both(RmiFid.RMI_REALM_CREATE, rd, REALM_PARAMS)

    def realm_create(self) -> None:
        """Create a realm."""
        rng = self.rng
        shape = rng.choice(SHAPES if rng.randrange(8) else BAD_SHAPES)
        rtt = PAS[0] if shape[2] > 1 else self.granule(rng)
        vmid, hash_algo = rng.randrange(1, 5), rng.choice((0, 1, 0, 1, 2))
        self.create(self.granule(rng), rtt, shape, vmid, hash_algo)

    def realm_life(self) -> None:
        """Activate or destroy a realm, or ask about it."""
        rng = self.rng
        rd = self.rd(rng, rng.choice(("NEW", "SYSTEM_OFF", "")))
        fid = rng.choice((RmiFid.RMI_REALM_ACTIVATE, RmiFid.RMI_REALM_DESTROY))
        self.both(fid if rng.randrange(4) else RmiFid.RMI_REC_AUX_COUNT, rd)

    def delegate(self) -> None:
        """Move a granule, more often to the realm world than back."""
        rng = self.rng
        if rng.randrange(3):
            pas = PAS[:-4] if rng.randrange(12) else (*PAS, PAS[0] + 8)
            self.both(RmiFid.RMI_GRANULE_DELEGATE, rng.choice(pas))
        else:
            self.both(RmiFid.RMI_GRANULE_UNDELEGATE, self.granule(rng))

    # --- tables and memory ----------------------------------------------------------------

    def rtt_create(self) -> None:
        """Create a table."""
        rng = self.rng
        rd = self.rd(rng)
        self.both(RmiFid.RMI_RTT_CREATE, rd, self.granule(rng), *self.table_ipa(rng, rd, 1))

    def rtt_others(self) -> None:
        """Destroy, fold or read a table."""
        rng = self.rng
        fid, rd = rng.choice(TABLE_FIDS), self.rd(rng)
        above = int(fid != RmiFid.RMI_RTT_READ_ENTRY)
        self.both(fid, rd, *self.table_ipa(rng, rd, above))

    def init_ripas(self) -> None:
        """Make RAM."""
        rng = self.rng
        rd = self.rd(rng, rng.choice(("NEW", "NEW", "")))
        base = self.ipa(rng, rd, 0)
        self.both(RmiFid.RMI_RTT_INIT_RIPAS, rd, base, base + rng.choice((*LENGTHS, 0)))

    def data_create(self) -> None:
        """Give a page with content."""
        rng = self.rng
        rd = self.rd(rng, rng.choice(("NEW", "NEW", "")))
        src = SRC if rng.randrange(12) else rng.choice(PAS)
        self.write(SRC, bytes([rng.randrange(256)]) * PAGE)
        flags = rng.choice((0, 1, 0, 1, 0, 1, 2))
        self.both(RmiFid.RMI_DATA_CREATE, rd, self.granule(rng), self.ipa(rng, rd, 0), src, flags)

    def data_create_unknown(self) -> None:
        """Give a page of zeros, in which the realm then writes."""
        rng = self.rng
        rd, pa = self.rd(rng), self.granule(rng)
        if self.both(RmiFid.RMI_DATA_CREATE_UNKNOWN, rd, pa, self.ipa(rng, rd, 0)) == 0:
            assert self.world.realm_memory.read(pa, PAGE) == bytes(PAGE)
            self.world.realm_memory.write(pa, b"secret of the realm")

    def data_destroy(self) -> None:
        """Take a page."""
        rng = self.rng
        rd = self.rd(rng)
        self.both(RmiFid.RMI_DATA_DESTROY, rd, self.ipa(rng, rd, 0))

    def unprotected(self) -> None:
        """Share or unshare memory."""
        rng = self.rng
        rd, level = self.rd(rng), rng.choice(LEVELS)
        ipa = self.ipa(rng, rd, 1)
        ipa &= -span(level) if level < 4 and rng.randrange(12) else -1
        if rng.randrange(2):
            desc = rng.choice(OUTPUTS) | WRITE_BACK_RW
            self.both(RmiFid.RMI_RTT_MAP_UNPROTECTED, rd, ipa, level, desc)
        else:
            self.both(RmiFid.RMI_RTT_UNMAP_UNPROTECTED, rd, ipa, level)

    # --- RECs -----------------------------------------------------------------------------

    def create_rec(self, rd: int, rec: int, aux: list[int], index: int, flags: int) -> int:
        """Create a REC with both."""
        params = RecParams.of(flags=flags, mpidr=index, num_aux=len(aux), pc=0x1000 * index)
        params.aux = (*aux, *[0] * (16 - len(aux)))
        params.gprs = (index, *range(1, 8))
        self.write(REC_PARAMS, params.data)
        return self.both(RmiFid.RMI_REC_CREATE, rd, rec, REC_PARAMS)

    def rec_life(self) -> None:
        """Create the next REC, or another; destroy one."""
        rng = self.rng
        if rng.randrange(4) == 0:
            self.both(RmiFid.RMI_REC_DESTROY, self.rec(rng, lambda _: True))
            return
        rd = self.rd(rng, "NEW")
        realm = self.model.realms.get(rd)
        index = (realm.num_recs if realm else 0) + (rng.randrange(12) == 0)
        aux = [self.granule(rng) for _ in range(rng.choice((2, 2, 2, 2, 2, 1, 3)))]
        self.create_rec(rd, self.granule(rng), aux, index, rng.randrange(2))

    def rec_enter(self) -> None:
        """Make a realm do something; without one, activate one or do something else."""
        rng = self.rng
        if rng.randrange(4) and not any(map(is_ready, self.model.recs.values())):
            rng.choice((self.realm_life, self.rec_life, self.psci_complete))()
            return
        self.enter(rng, self.rec(rng, lambda rec: is_ready(rec) and rec.pending is None))

    def rec_enter_again(self) -> None:
        """Complete what a realm waits for, or not, and let it do something."""
        rng = self.rng
        self.enter(rng, self.rec(rng, lambda rec: is_ready(rec) and rec.pending is not None))

    def enter(self, rng: Random, pa: int) -> None:
        """Enter a REC with both, and compare the exits."""
        rec = self.model.recs.get(pa)
        ipa = self.ipa(rng, rec.realm.rd if rec else 0, rng.choice((0, 0, 0, 1)))
        pe = rng.randrange(2)
        scripted, self.model.step = step_of(rng, ipa)
        self.world.pes[pe].steps[:] = [scripted] if scripted else []
        self.model.exit = None
        run = RUN if rng.randrange(16) else rng.choice(PAS)
        self.write(RUN, bytes(self.entry(rng, rec)) + b"\xa5" * 0x800)
        note(f"RMI_REC_ENTER {pa:#x} {run:#x}: {self.model.step}")
        expected = self.model.call(RmiFid.RMI_REC_ENTER, pa, run)
        assert self.world.call(RmiFid.RMI_REC_ENTER, pa, run, pe=pe) == expected
        if expected[0] == 0:
            self.check_exit(RecExit(self.world.ns.read(run + EXIT_OFFSET, RecExit.size)))

    def entry(self, rng: Random, rec: Rec | None) -> RecEnter:
        """Return the host's input; sometimes forbidden values."""
        flags = rng.choice((0, 16))
        if (rec and isinstance(rec.pending, Access)) or rng.randrange(16) == 0:
            flags = rng.choice((0, 1, 1, 2, 3))
        lr = rng.choice((0, 1 << 62 | 27, 1)) if rng.randrange(12) else 1 << 62 | 1 << 61
        gpr = rng.getrandbits(64)
        return RecEnter.of(flags=flags, gprs=(gpr, *[7] * 30), gicv3_lrs=(lr, *[0] * 15))

    def check_exit(self, record: RecExit) -> None:
        """Compare what the host sees with what the model says; all else is zero."""
        seen = self.model.exit
        assert seen is not None
        assert (record.exit_reason, record.hpfar) == (seen.reason, seen.hpfar)
        ripas = record.ripas_base, record.ripas_top, record.ripas_value
        assert ripas == seen.ripas
        if seen.reason != HOST_CALL:  # those are the realm's own
            assert record.gprs == (*seen.gprs, *[0] * 31)[:31]

    def set_ripas(self) -> None:
        """Perform a part of a REC's request."""
        rng = self.rng
        pa = self.rec(rng, lambda rec: isinstance(rec.pending, RipasChange))
        rec = self.model.recs.get(pa)
        rd = rec.realm.rd if rec and rng.randrange(12) else self.rd(rng)
        base, top = 0, rng.choice(LENGTHS)
        if rec and isinstance(rec.pending, RipasChange):
            base = rec.pending.base + (PAGE if rng.randrange(12) == 0 else 0)
            top = base + rng.choice((*LENGTHS, 0))
            top = min(top, rec.pending.top) if rng.randrange(8) else top
        self.both(RmiFid.RMI_RTT_SET_RIPAS, rd, pa, base, top)

    def psci_complete(self) -> None:
        """Give the REC that the realm named, or another."""
        rng = self.rng
        pa = self.rec(rng, lambda rec: isinstance(rec.pending, PsciRequest))
        rec = self.model.recs.get(pa)
        named = self.rec(rng, lambda each: wants(rec, each))
        status = rng.choice((0, 0, 0, DENIED, 1))
        self.both(RmiFid.RMI_PSCI_COMPLETE, pa, named, status)

    def anything(self) -> None:
        """Issue any command with values that are meaningful elsewhere."""
        rng = self.rng
        values = [*self.model.realms, *self.model.recs, *PAS[::5], 0, 1, 2, 3, PAGE, 1 << 32, GIB]
        values += [0x1_0000, DENIED, (1 << 64) - 1, (1 << 64) - PAGE, PAS[0] + 8, 1 << 63]
        fid = rng.choice([fid for fid in RmiFid if fid not in NOT_ANYTHING])
        args = [rng.choice(values) for _ in RMI_1_0[fid].parameters]
        if fid == RmiFid.RMI_RTT_MAP_UNPROTECTED:
            args[3] = args[3] & -PAGE & MASK48 | WRITE_BACK_RW  # the model knows no others
        self.both(fid, *args)

    # --- rules: few, so that Hypothesis chooses from each part as often ----------------------

    @rule()
    def realms_and_granules(self) -> None:
        """Make, change and end what the rest is about."""
        self.rng.choice((self.delegate, self.delegate, self.realm_create, self.realm_life))()

    @rule()
    def tables(self) -> None:
        """Change the tables."""
        self.rng.choice((self.rtt_create, self.rtt_create, self.rtt_others, self.unprotected))()

    @rule()
    def memory(self) -> None:
        """Change what is in them."""
        data = (self.data_create, self.data_create_unknown, self.data_create_unknown)
        self.rng.choice((*data, self.data_destroy, self.init_ripas))()

    @rule()
    def recs(self) -> None:
        """Make RECs, and enter them."""
        self.rng.choice((self.rec_life, self.rec_enter, self.rec_enter, self.rec_enter))()

    @rule()
    def answers(self) -> None:
        """Do what a REC waits for, if one does."""
        if self.waits(RipasChange) and self.rng.randrange(3):
            self.set_ripas()
        elif self.waits(PsciRequest) and self.rng.randrange(3):
            self.psci_complete()
        else:
            self.rec_enter_again()

    @rule()
    def odds(self) -> None:
        """Issue meaningless commands."""
        self.rng.choice((self.anything, self.anything, self.set_ripas, self.psci_complete))()

    # --- afterwards -----------------------------------------------------------------------

    @invariant()
    def state_agrees(self) -> None:
        """The whole state agrees with the model."""
        self.agreement.check(PAS)

    @invariant()
    def always(self) -> None:
        """What must hold after every command."""
        check_invariants(self.world.rmm, self.world.is_realm, PAS)


def is_ready(rec: Rec) -> bool:
    """Return whether a REC can be entered."""
    waits = isinstance(rec.pending, PsciRequest)
    return rec.runnable and not waits and rec.realm.state == "ACTIVE"


def wants(rec: Rec | None, other: Rec) -> bool:
    """Return whether a REC has requested another one from the host."""
    return (
        rec is not None
        and isinstance(rec.pending, PsciRequest)
        and (rec.realm, rec.pending.target) == (other.realm, other.index)
    )


def step_of(rng: Random, ipa: int) -> tuple[Step | None, Smc | Access | None]:
    """Return what a realm does, for the PE and for the model."""
    what, top, bits = rng.choice(STEPS.split()), ipa + rng.choice((*LENGTHS, 0)), rng.getrandbits(5)
    if what == "none":
        return None, None
    if what == "access":
        access = Access(ipa, isv=bool(bits & 3), is_write=bool(bits & 4))
        fields = {"ISV": int(access.isv), "SAS": 2, "SRT": 3, "WnR": int(access.is_write)}
        return abort(ipa, **fields), access
    args: tuple[int, ...] = {
        "set": (RsiFid.RSI_IPA_STATE_SET, ipa, top, bits & 1 if bits < 30 else 2, bits >> 1 & 1),
        "get": (RsiFid.RSI_IPA_STATE_GET, ipa, top),
        "call": (RsiFid.RSI_HOST_CALL, ipa),
        "config": (RsiFid.RSI_REALM_CONFIG, ipa),
        "measure": (RsiFid.RSI_MEASUREMENT_EXTEND, bits % 6, rng.randrange(70), *range(8)),
        "on": (PsciFid.CPU_ON_64, bits % 4, ipa, bits),
        "info": (PsciFid.AFFINITY_INFO_64, bits % 4, bits >> 4),
        "off": (PsciFid.CPU_OFF if bits < 8 else RsiFid.RSI_FEATURES, 0),
        "suspend": (PsciFid.CPU_SUSPEND_64, 1, 2, 3),
        "version": (RsiFid.RSI_VERSION, 0x1_0000 + (bits & 1)),
        "unknown": (RmiFid.RMI_VERSION, 0x1_0000),
        "end": (PsciFid.SYSTEM_OFF if bits < 2 else RsiFid.RSI_MEASUREMENT_READ, bits % 6),
    }[what]
    return smc(*args), Smc(args)


SETTINGS = settings(
    stateful_step_count=200,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)


def test_rmm_against_model() -> None:
    """A few sequences of up to 200 commands."""
    run_state_machine_as_test(RmmAgainstModel, settings=settings(SETTINGS, max_examples=20))


@pytest.mark.slow
def test_rmm_against_model_for_long() -> None:
    """The same, a thousand times."""
    run_state_machine_as_test(RmmAgainstModel, settings=settings(SETTINGS, max_examples=1000))


def test_hostile_host() -> None:
    """Any values in any registers of any command: no exception, and the invariants hold."""
    generator = random.Random(3)
    world = World()
    rd = world.realm()
    rec = world.rec(rd)
    world.page(rd, 0)
    interesting = [
        0, 1, 3, 0x1000, 1 << 32, 1 << 33, rd, rec, *world.rmm.realms[rd].rtt.tables,
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
