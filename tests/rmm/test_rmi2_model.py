"""RMI 2.0's operations against a model: a hostile host at every step, and nothing is lost.

After each command, answers agree; now and then the owners of all granules, and the invariants.
"""

from array import array
from random import Random

import pytest

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import RecParams, RmiFid
from pyvmm.arch.rmi2 import Rmi2Fid
from rmm.granule import GranuleState
from tests.rmm.invariants import check_invariants
from tests.rmm.model2 import FREE, HOST, LENT, RD, REC, TABLE, Answer, Model
from tests.rmm.world import DRAM_BASE
from tests.rmm.world2 import CoreWorld2, Host2, World2, desc

PAGE = GRANULE_SIZE
NUM_GRANULES = 24  # few, so that a host comes across what is in use
PAS = [DRAM_BASE + n * PAGE for n in range(NUM_GRANULES)]
PARAMS, LIST = DRAM_BASE + 32 * PAGE, DRAM_BASE + 33 * PAGE  # always the host's
MPIDRS = 3
OWNERS = {
    HOST: GranuleState.UNDELEGATED,
    FREE: GranuleState.DELEGATED,
    LENT: GranuleState.REC_AUX,
    RD: GranuleState.RD,
    REC: GranuleState.REC,
    TABLE: GranuleState.RTT,
}
#: How often a host does what; it begins more than it ends well.
ACTIONS = (
    *["donate"] * 8, *["proceed"] * 6, *["reclaim"] * 5, *["cancel"] * 2, *["create_realm"] * 3,
    *["create_rec"] * 5, *["destroy_rec"] * 4, *["destroy_realm"] * 3, *["terminate"] * 2,
    "activate", *["delegate"] * 3, *["undelegate"] * 2,
)  # fmt: skip


class Fuzz:
    """A host, its RMM and the model."""

    def __init__(self, world: Host2, seed: int) -> None:
        """Begin with nothing."""
        self.world = world
        self.rng = Random(seed)
        self.model = Model(PAS)
        self.params = world.params2(rtt_base=0)

    def pa(self, *owners: str) -> int:
        """Choose a granule, mostly of an owner."""
        rng = self.rng
        if owners and rng.randrange(12):
            fit = [pa for pa, owner in self.model.owner.items() if owner in owners]
            if fit:
                return rng.choice(fit)
        return rng.choice(PAS)

    def handle(self, step: str) -> int:
        """Choose an operation, mostly one that waits for a step."""
        rng, operations = self.rng, self.model.operations
        fit = [pa for pa, each in operations.items() if each.step == step]
        if fit and rng.randrange(8):
            return rng.choice(fit)
        return rng.choice([*operations, *self.model.realms, self.pa(), 0])

    def step(self) -> None:
        """Do something."""
        action = self.rng.choice(ACTIONS)
        getattr(self, action)()

    def same(self, fid: int, args: tuple[int, ...], expected: Answer) -> None:
        """Issue a command on any PE, and compare the answer."""
        answer = self.world.call(fid, *args, pe=self.rng.randrange(4))
        assert answer[:3] == expected, (fid, args, answer, expected)

    # --- memory -----------------------------------------------------------------------------

    def delegate(self) -> None:
        """Delegate some memory."""
        self._move(Rmi2Fid.RMI_GRANULE_RANGE_DELEGATE, HOST)

    def undelegate(self) -> None:
        """Take some memory back."""
        self._move(Rmi2Fid.RMI_GRANULE_RANGE_UNDELEGATE, FREE)

    def _move(self, fid: int, owner: str) -> None:
        base = self.pa(owner)
        top = min(base + self.rng.randrange(5) * PAGE, PAS[-1] + PAGE)
        self.same(fid, (base, top), self.model.move(fid, base, top))

    # --- realms and RECs --------------------------------------------------------------------

    def create_realm(self) -> None:
        """Begin a realm."""
        rd, table = self.pa(FREE), self.pa(FREE)
        self.params.rtt_base = table
        self.world.ns.write(PARAMS, self.params.data)
        expected = self.model.create_realm(rd, table)
        self.same(RmiFid.RMI_REALM_CREATE, (rd, PARAMS), expected)

    def create_rec(self) -> None:
        """Begin a REC."""
        rd, rec, mpidr = self.pa(RD), self.pa(FREE), self.rng.randrange(MPIDRS)
        self.world.ns.write(PARAMS, RecParams.of(mpidr=mpidr, flags=1).data)
        expected = self.model.create_rec(rd, rec, mpidr)
        self.same(RmiFid.RMI_REC_CREATE, (rd, rec, PARAMS), expected)

    def destroy_rec(self) -> None:
        """Begin the end of a REC."""
        rec = self.pa(REC)
        self.same(RmiFid.RMI_REC_DESTROY, (rec,), self.model.destroy_rec(rec))

    def destroy_realm(self) -> None:
        """Begin the end of a realm."""
        self._change(RmiFid.RMI_REALM_DESTROY)

    def terminate(self) -> None:
        """Terminate a realm."""
        self._change(Rmi2Fid.RMI_REALM_TERMINATE)

    def activate(self) -> None:
        """Activate a realm."""
        self._change(RmiFid.RMI_REALM_ACTIVATE)

    def _change(self, fid: int) -> None:
        rd = self.pa(RD)
        self.same(fid, (rd,), self.model.change_realm(fid, rd))

    # --- operations -------------------------------------------------------------------------

    def donate(self) -> None:
        """Lend memory: the right amount, too much, none, the same twice, or another's."""
        handle = self.handle("donate")
        pas = [self.pa(FREE) for _ in range(self.rng.choice((0, 1, 1, 1, 2, 2, 3)))]
        self.world.ns.write(LIST, array("Q", map(desc, pas)).tobytes())
        args = (handle, LIST, len(pas), 0)
        self.same(Rmi2Fid.RMI_OP_MEM_DONATE, args, self.model.donate(handle, *pas))

    def reclaim(self) -> None:
        """Take memory back, sometimes bit by bit."""
        handle, count = self.handle("reclaim"), self.rng.choice((0, 1, 512))
        expected, returned = self.model.reclaim(handle, count)
        self.same(Rmi2Fid.RMI_OP_MEM_RECLAIM, (handle, LIST, count), expected)
        found = array("Q", self.world.ns.read(LIST, 8 * expected[1])).tolist()
        pas = [(word & -PAGE) + n * PAGE for word in found for n in range(word >> 2 & 0x3FF)]
        assert pas == returned

    def proceed(self) -> None:
        """Continue an operation."""
        handle = self.handle("continue")
        args = (handle, self.rng.randrange(2))
        self.same(Rmi2Fid.RMI_OP_CONTINUE, args, self.model.proceed(handle))

    def cancel(self) -> None:
        """Give up an operation."""
        handle = self.handle("donate")
        self.same(Rmi2Fid.RMI_OP_CANCEL, (handle,), self.model.cancel(handle))

    # --- checks -----------------------------------------------------------------------------

    def check(self) -> None:
        """Compare the owners of all granules, and check the invariants."""
        granules = self.world.rmm.granules
        assert {pa: OWNERS[owner] for pa, owner in self.model.owner.items()} == {
            pa: granules.state(pa) for pa in PAS
        }
        assert set(self.world.rmm.operations) == set(self.model.operations)
        check_invariants(self.world.rmm, self.world.is_realm, PAS)

    def end(self) -> None:
        """Be a good host at last: everything comes back."""
        model = self.model
        while model.operations or model.realms:
            for handle, operation in list(model.operations.items()):
                self._finish(handle, operation.step)
            for rec in list(model.recs):
                self.same(RmiFid.RMI_REC_DESTROY, (rec,), model.destroy_rec(rec))
            for rd in list(model.realms):
                for fid in (Rmi2Fid.RMI_REALM_TERMINATE, RmiFid.RMI_REALM_DESTROY):
                    self.same(fid, (rd,), model.change_realm(fid, rd))
        fid = Rmi2Fid.RMI_GRANULE_RANGE_UNDELEGATE
        self.same(fid, (PAS[0], PAS[-1] + PAGE), model.move(fid, PAS[0], PAS[-1] + PAGE))
        assert set(model.owner.values()) == {HOST}
        self.check()
        assert self.world.rmm.granules.is_unused

    def _finish(self, handle: int, step: str) -> None:
        if step == "donate":
            self.same(Rmi2Fid.RMI_OP_CANCEL, (handle,), self.model.cancel(handle))
        elif step == "reclaim":
            expected, _ = self.model.reclaim(handle, 512)
            self.same(Rmi2Fid.RMI_OP_MEM_RECLAIM, (handle, LIST, 512), expected)
        else:
            self.same(Rmi2Fid.RMI_OP_CONTINUE, (handle, 0), self.model.proceed(handle))


def sequences(world: Host2, seed: int, count: int, length: int, checked: int) -> None:
    """Do many sequences of commands, each from where the last one ended; check every so often."""
    fuzz = Fuzz(world, seed)
    for number in range(count):
        for _ in range(length):
            fuzz.step()
        if number % checked == 0:
            fuzz.check()
        if number % (64 * checked) == 0:
            fuzz.end()
    fuzz.end()


@pytest.mark.parametrize("make", [World2, CoreWorld2], ids=["fake", "core"])
def test_hostile_sequences(make: type[Host2], seed: int) -> None:
    """A few thousand, checked often."""
    sequences(make(), seed, 1500, 5, 10)


@pytest.mark.slow
def test_a_million_hostile_sequences(seed: int) -> None:
    """On the machine without a CPU: the RMM is the same."""
    sequences(World2(), seed, 1_000_000, 5, 1000)
