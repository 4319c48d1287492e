"""Compares the whole state of the RMM on the real machine with its model."""

from collections.abc import Iterable, Sequence
from struct import unpack

from pyvmm.arch.pas import Pas
from pyvmm.core import PeContext
from tests.rmm.core_world import GPF, CoreWorld
from tests.rmm.model import (
    PAGE,
    RAM,
    Assigned,
    AssignedNs,
    Cell,
    Realm,
    Table,
    Unassigned,
    UnassignedNs,
    span,
)
from tests.rmm.model_rec import Model, Rec
from tests.rmm.world import DRAM_BASE, DRAM_SIZE

TRANSLATION = 0x04  # fault status code; the level is added
GPI_NS, GPI_REALM = 0x9, 0xB


def encode(cell: Cell, level: int) -> int:
    """Return the descriptor of an entry."""
    kind = 3 if level == 3 else 1
    match cell:
        case Unassigned(ripas):
            return ripas << 5
        case Assigned(pa, ripas):
            attributes = 1 << 10 | 3 << 8 | 3 << 6 | 6 << 2 | kind
            return pa | (attributes if ripas == RAM else 1 << 2 | ripas << 5)
        case UnassignedNs():
            return 1 << 55
        case AssignedNs(desc):
            return desc | 1 << 55 | 2 << 53 | 1 << 10 | 3 << 8 | kind
        case Table(pa):
            return pa | 3


class Agreement:
    """Compares; skips state that agreed before and has not changed since."""

    def __init__(self, world: CoreWorld, model: Model, offsets: Sequence[int]) -> None:
        """``offsets`` into each half of a realm's IPA space are translated."""
        self._world = world
        self._model = model
        self._offsets = offsets
        self._contexts: dict[Realm, tuple[int, PeContext]] = {}  # a PE of its own, a context
        self._compared: dict[int, tuple[list[Cell], bytes]] = {}

    def check(self, watched: Iterable[int]) -> None:
        """Compare everything."""
        self.check_memory(watched)
        for rec in self._model.recs.values():
            self._check_rec(rec)

    def check_memory(self, watched: Iterable[int]) -> None:
        """Compare granules, realms, tables and what a PE reaches through them."""
        self._check_granules(watched)
        assert self._world.rmm.realms.keys() == self._model.realms.keys()
        assert self._world.rmm.recs.keys() == self._model.recs.keys()
        for realm in self._model.realms.values():
            self._check_realm(realm)
            self._check_walks(realm)

    def _check_granules(self, watched: Iterable[int]) -> None:
        """Each granule has its state, and the GPT agrees."""
        states = self._world.rmm.granules
        assert {pa: states.state(pa).name for pa in watched} == self._model.granules
        for pa, state in self._model.granules.items():
            assert self._world.walker.gpi(pa) == (GPI_NS if state == "UNDELEGATED" else GPI_REALM)

    def _check_realm(self, realm: Realm) -> None:
        real = self._world.rmm.realms[realm.rd]
        assert (real.state.name, real.vmid) == (realm.state, realm.params.vmid)
        assert (real.num_recs, real.num_live_recs) == (realm.num_recs, realm.num_live_recs)
        assert real.measurements.values == realm.measurements
        for table in realm.tables():
            raw = self._world.realm_memory.read(table.pa, PAGE)
            if self._compared.get(table.pa) != (table.cells, raw):
                expected = [encode(cell, table.level) for cell in table.cells]
                assert list(unpack("<512Q", raw)) == expected
                self._compared[table.pa] = list(table.cells), raw

    def _check_rec(self, rec: Rec) -> None:
        """The state of a REC that the host or the realm can observe."""
        real = self._world.rmm.recs[rec.pa]
        assert (real.index, real.runnable, real.running) == (rec.index, rec.runnable, False)
        assert [real.context.x[n] for n in range(4)] == rec.x
        assert real.context.pc == rec.pc
        pending = (real.psci, real.ripas_change, real.host_call_ipa, real.abort)
        assert any(each is not None for each in pending) == (rec.pending is not None)

    def _check_walks(self, realm: Realm) -> None:
        """A PE reaches exactly the addresses of the model."""
        pe, context = self._context_of(realm)
        for base in (0, realm.half):
            for offset in self._offsets:
                ipa = base + offset
                assert self._world.translate(context, ipa, pe) == self._expected(realm, ipa)

    def _context_of(self, realm: Realm) -> tuple[int, PeContext]:
        """Return a PE used for this realm only, so that it keeps its translations."""
        if realm not in self._contexts:
            alive = set(self._model.realms.values())
            self._contexts = {each: kept for each, kept in self._contexts.items() if each in alive}
            used = {pe for pe, _ in self._contexts.values()}
            pe = next(pe for pe in range(self._world.num_translators) if pe not in used)
            self._contexts[realm] = pe, self._world.context_of(self._world.rmm.realms[realm.rd])
        return self._contexts[realm]

    def _expected(self, realm: Realm, ipa: int) -> tuple[int, Pas] | int:
        """Return PA and PAS, or the fault."""
        table, index = realm.walk(ipa, 3)
        inside = ipa % span(table.level)
        cell = table.cells[index]
        if isinstance(cell, Assigned) and cell.ripas == RAM:
            return cell.pa + inside, Pas.REALM
        if isinstance(cell, AssignedNs):
            pa = (cell.desc & -PAGE) + inside
            is_device = pa < DRAM_BASE
            is_ns = is_device or (pa < DRAM_BASE + DRAM_SIZE and not self._world.is_realm(pa))
            return (pa, Pas.NS) if is_ns else GPF
        return TRANSLATION + table.level
