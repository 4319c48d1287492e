"""A reference model of the RMM: granules and realms as dictionaries and lists, nothing clever.

Every command returns what the host must get, as a tuple x0..x4, and changes the model only if
that is SUCCESS.  It models realms of 33 bits of IPA whose tables start at level 1.
"""

from dataclasses import dataclass, field

from pyvmm.arch.rmi import RmiFid

INPUT, REALM, RTT = 1, 2, 4
EMPTY, RAM, DESTROYED = range(3)
PAGE = 4096
IPA_BITS = 33
START_LEVEL = 1
FIRST_UNPROTECTED = 1 << IPA_BITS - 1


def span(level: int) -> int:
    """Return how many bytes one entry covers."""
    return PAGE << 9 * (3 - level)


@dataclass(frozen=True)
class Unassigned:
    """Protected, without a page."""

    ripas: int = EMPTY


@dataclass(frozen=True)
class Assigned:
    """Protected, with memory at ``pa``."""

    pa: int
    ripas: int


@dataclass(frozen=True)
class UnassignedNs:
    """Unprotected, not mapped."""


@dataclass(frozen=True)
class AssignedNs:
    """Unprotected, mapped as the host said."""

    desc: int


@dataclass
class Table:
    """512 entries, some of which may be tables."""

    pa: int
    level: int
    cells: list["Cell"]


Cell = Unassigned | Assigned | UnassignedNs | AssignedNs | Table


@dataclass
class Realm:
    """A realm: its tables."""

    root: Table
    is_new: bool = True

    def walk(self, ipa: int, level: int) -> tuple[Table, int]:
        """Find the table and the index where a walk ends."""
        table = self.root
        while table.level < level:
            cell = table.cells[ipa // span(table.level) % 512]
            if not isinstance(cell, Table):
                break
            table = cell
        return table, ipa // span(table.level) % 512


def is_live(cell: Cell) -> bool:
    """Tell whether an entry holds anything."""
    return isinstance(cell, Assigned | AssignedNs | Table)


def next_live(table: Table, index: int, ipa: int) -> int:
    """Skip entries that hold nothing."""
    if is_live(table.cells[index]):
        return ipa
    end = next((i for i in range(index, 512) if is_live(table.cells[i])), 512)
    return ipa // span(table.level) * span(table.level) + (end - index) * span(table.level)


def split(cell: Cell, level: int) -> list[Cell]:
    """Say the same with 512 entries at ``level``."""
    if isinstance(cell, Assigned):
        return [Assigned(cell.pa + i * span(level), cell.ripas) for i in range(512)]
    if isinstance(cell, AssignedNs):
        return [AssignedNs(cell.desc + i * span(level)) for i in range(512)]
    return [cell] * 512


def fold(table: Table) -> Cell | None:
    """Say the same with one entry, if there is one that does."""
    first = table.cells[0]
    if isinstance(first, Table) or split(first, table.level) != table.cells:
        return None
    value = first.pa if isinstance(first, Assigned) else 0
    value = first.desc & -PAGE if isinstance(first, AssignedNs) else value
    return None if value % span(table.level - 1) else first


@dataclass
class Model:
    """What the host and its granules have become."""

    granules: dict[int, str]  # state by PA; all that exist
    realms: dict[int, Realm] = field(default_factory=dict)

    def call(self, fid: int, *args: int) -> tuple[int, ...]:
        """Do a command."""
        results = getattr(self, RmiFid(fid).name[4:].lower())(*args)
        return (*results, 0, 0, 0, 0, 0)[:5]

    def granule_delegate(self, pa: int) -> tuple[int, ...]:
        """NS to DELEGATED."""
        if self.granules.get(pa) != "UNDELEGATED":
            return (INPUT,)
        self.granules[pa] = "DELEGATED"
        return (0,)

    def granule_undelegate(self, pa: int) -> tuple[int, ...]:
        """DELEGATED to NS."""
        if self.granules.get(pa) != "DELEGATED":
            return (INPUT,)
        self.granules[pa] = "UNDELEGATED"
        return (0,)

    def create_realm(self, rd: int, rtt: int) -> tuple[int, ...]:
        """REALM_CREATE with legal parameters and a VMID of its own."""
        states = (self.granules.get(rd), self.granules.get(rtt))
        if rd == rtt or states != ("DELEGATED", "DELEGATED"):
            return (INPUT,)
        self.granules[rd], self.granules[rtt] = "RD", "RTT"
        cells: list[Cell] = [Unassigned()] * 512
        cells[4:8] = [UnassignedNs()] * 4
        self.realms[rd] = Realm(Table(rtt, START_LEVEL, cells))
        return (0,)

    def realm_destroy(self, rd: int) -> tuple[int, ...]:
        """Only without live entries."""
        realm = self.realms.get(rd)
        if realm is None:
            return (INPUT,)
        if any(map(is_live, realm.root.cells)):
            return (REALM,)
        self.granules[rd] = self.granules[realm.root.pa] = "DELEGATED"
        del self.realms[rd]
        return (0,)

    def realm_activate(self, rd: int) -> tuple[int, ...]:
        """NEW to ACTIVE."""
        realm = self.realms.get(rd)
        if realm is None:
            return (INPUT,)
        if not realm.is_new:
            return (REALM,)
        realm.is_new = False
        return (0,)

    # --- tables -------------------------------------------------------------------------------

    def rtt_create(self, rd: int, rtt: int, ipa: int, level: int) -> tuple[int, ...]:
        """Split an entry."""
        realm = self.realms.get(rd)
        if realm is None or self.granules.get(rtt) != "DELEGATED" or bad_table(ipa, level):
            return (INPUT,)
        table, index = realm.walk(ipa, level - 1)
        cell = table.cells[index]
        if table.level != level - 1 or isinstance(cell, Table):
            return (RTT | table.level << 8,)
        self.granules[rtt] = "RTT"
        table.cells[index] = Table(rtt, level, split(cell, level))
        return (0,)

    def rtt_destroy(self, rd: int, ipa: int, level: int) -> tuple[int, ...]:
        """Drop a table that holds nothing."""
        realm = self.realms.get(rd)
        if realm is None or bad_table(ipa, level):
            return (INPUT,)
        table, index = realm.walk(ipa, level - 1)
        child = table.cells[index]
        if table.level != level - 1 or not isinstance(child, Table):
            return RTT | table.level << 8, 0, next_live(table, index, ipa)
        if any(map(is_live, child.cells)):
            return RTT | level << 8, 0, ipa
        self.granules[child.pa] = "DELEGATED"
        is_protected = ipa < FIRST_UNPROTECTED
        table.cells[index] = Unassigned(DESTROYED) if is_protected else UnassignedNs()
        return 0, child.pa, next_live(table, index, ipa)

    def rtt_fold(self, rd: int, ipa: int, level: int) -> tuple[int, ...]:
        """Replace a table by what it says."""
        realm = self.realms.get(rd)
        if realm is None or bad_table(ipa, level):
            return (INPUT,)
        table, index = realm.walk(ipa, level - 1)
        child = table.cells[index]
        if table.level != level - 1 or not isinstance(child, Table):
            return (RTT | table.level << 8,)
        cell = fold(child)
        if cell is None:
            return (RTT | level << 8,)
        self.granules[child.pa] = "DELEGATED"
        table.cells[index] = cell
        return 0, child.pa

    def rtt_read_entry(self, rd: int, ipa: int, level: int) -> tuple[int, ...]:
        """Look."""
        realm = self.realms.get(rd)
        if realm is None or not START_LEVEL <= level <= 3 or ipa % span(level) or ipa >> IPA_BITS:
            return (INPUT,)
        table, index = realm.walk(ipa, level)
        match table.cells[index]:
            case Table(pa=pa):
                return 0, table.level, 2, pa, 0
            case Unassigned(ripas):
                return 0, table.level, 0, 0, ripas
            case Assigned(pa, ripas):
                return 0, table.level, 1, 0 if ripas == DESTROYED else pa, ripas
            case UnassignedNs():
                return 0, table.level, 0, 0, 0
            case AssignedNs(desc):
                return 0, table.level, 1, desc, 0

    # --- memory -------------------------------------------------------------------------------

    def data_create(self, rd: int, data: int, ipa: int, src: int, flags: int) -> tuple[int, ...]:
        """A page with content, for a new realm."""
        realm = self.realms.get(rd)
        if flags > 1 or self.granules.get(src) != "UNDELEGATED":
            return (INPUT,)
        if realm is None or self.granules.get(data) != "DELEGATED":
            return (INPUT,)
        return self._assign(realm, data, ipa, RAM) if realm.is_new else (REALM,)

    def data_create_unknown(self, rd: int, data: int, ipa: int) -> tuple[int, ...]:
        """A page of zeros."""
        realm = self.realms.get(rd)
        if realm is None or self.granules.get(data) != "DELEGATED":
            return (INPUT,)
        return self._assign(realm, data, ipa, None)

    def _assign(self, realm: Realm, data: int, ipa: int, ripas: int | None) -> tuple[int, ...]:
        if ipa % PAGE or ipa >= FIRST_UNPROTECTED:
            return (INPUT,)
        table, index = realm.walk(ipa, 3)
        cell = table.cells[index]
        if table.level != 3 or not isinstance(cell, Unassigned):
            return (RTT | table.level << 8,)
        self.granules[data] = "DATA"
        table.cells[index] = Assigned(data, cell.ripas if ripas is None else ripas)
        return (0,)

    def data_destroy(self, rd: int, ipa: int) -> tuple[int, ...]:
        """Take a page back."""
        realm = self.realms.get(rd)
        if realm is None or ipa % PAGE or ipa >= FIRST_UNPROTECTED:
            return (INPUT,)
        table, index = realm.walk(ipa, 3)
        cell = table.cells[index]
        if table.level != 3 or not isinstance(cell, Assigned):
            return RTT | table.level << 8, 0, next_live(table, index, ipa)
        self.granules[cell.pa] = "DELEGATED"
        table.cells[index] = Unassigned(EMPTY if cell.ripas == EMPTY else DESTROYED)
        return 0, cell.pa, next_live(table, index, ipa)

    def rtt_init_ripas(self, rd: int, base: int, top: int) -> tuple[int, ...]:
        """EMPTY to RAM, as far as possible."""
        realm = self.realms.get(rd)
        if realm is None or base >= top or base % PAGE or top % PAGE or top > FIRST_UNPROTECTED:
            return (INPUT,)
        if not realm.is_new:
            return (REALM,)
        table, index = realm.walk(base, 3)
        size, ipa = span(table.level), base
        while base % size == 0 and index < 512 and ipa + size <= top:
            if table.cells[index] not in (Unassigned(EMPTY), Unassigned(RAM)):
                break
            table.cells[index] = Unassigned(RAM)
            index, ipa = index + 1, ipa + size
        return (0, ipa) if ipa > base else (RTT | table.level << 8,)

    def rtt_map_unprotected(self, rd: int, ipa: int, level: int, desc: int) -> tuple[int, ...]:
        """Map shared memory; the tests give only good attributes."""
        realm = self.realms.get(rd)
        if realm is None or bad_unprotected(ipa, level) or (desc & -PAGE) % span(level):
            return (INPUT,)
        table, index = realm.walk(ipa, level)
        if table.level != level or not isinstance(table.cells[index], UnassignedNs):
            return (RTT | table.level << 8,)
        table.cells[index] = AssignedNs(desc)
        return (0,)

    def rtt_unmap_unprotected(self, rd: int, ipa: int, level: int) -> tuple[int, ...]:
        """Unmap shared memory."""
        realm = self.realms.get(rd)
        if realm is None or bad_unprotected(ipa, level):
            return (INPUT,)
        table, index = realm.walk(ipa, level)
        if table.level != level or not isinstance(table.cells[index], AssignedNs):
            return RTT | table.level << 8, next_live(table, index, ipa)
        table.cells[index] = UnassignedNs()
        return 0, next_live(table, index, ipa)


def bad_table(ipa: int, level: int) -> bool:
    """Tell whether no table at this level can begin there."""
    return not START_LEVEL < level <= 3 or ipa % span(level - 1) != 0 or ipa >> IPA_BITS != 0


def bad_unprotected(ipa: int, level: int) -> bool:
    """Tell whether no unprotected entry at this level can be there."""
    if not START_LEVEL <= level <= 3:
        return True
    return ipa % span(level) != 0 or not FIRST_UNPROTECTED <= ipa < 1 << IPA_BITS
