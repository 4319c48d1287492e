"""A reference model of the RMM: granules and realms as dictionaries and lists, nothing clever.

Every command returns what the host must get, as a tuple x0.., and changes the model only if that
is SUCCESS.  This file has granules, realms and tables; RECs are in ``model_rec.py``.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from struct import pack

from pyvmm.arch.rmi import RealmParams

INPUT, REALM, REC, RTT = 1, 2, 3, 4
EMPTY, RAM, DESTROYED = range(3)
PAGE = 4096
VERSION = 0x1_0000
MAX_BREAKPOINTS, MAX_WATCHPOINTS = 5, 3  # minus one, of the machine
MAX_COUNTERS = 6

Results = tuple[int, ...]


def span(level: int) -> int:
    """Return how many bytes one entry covers."""
    return PAGE << 9 * (3 - level)


def error_rtt(level: int) -> int:
    """Return x0 of ERROR_RTT."""
    return RTT | level << 8


# --- entries ----------------------------------------------------------------------------------


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


@dataclass(eq=False)
class Table:
    """512 entries, some of which may be tables."""

    pa: int
    level: int
    cells: list["Cell"]


Cell = Unassigned | Assigned | UnassignedNs | AssignedNs | Table


def is_live(cell: Cell) -> bool:
    """Check whether an entry is live."""
    return isinstance(cell, Assigned | AssignedNs | Table)


def keeps_table(cell: Cell) -> bool:
    """Check whether an entry holds a granule of the Realm world."""
    return isinstance(cell, Assigned | Table)


def ripas_of(cell: Cell) -> int:
    """Return the RIPAS of an entry."""
    return cell.ripas if isinstance(cell, Unassigned | Assigned) else EMPTY


def next_live(table: Table, index: int, ipa: int) -> int:
    """Skip entries that are not live."""
    if is_live(table.cells[index]):
        return ipa
    end = next((i for i in range(index, 512) if is_live(table.cells[i])), 512)
    return ipa // span(table.level) * span(table.level) + (end - index) * span(table.level)


def split(cell: Cell, level: int) -> list[Cell]:
    """Return the equivalent 512 entries at ``level``."""
    if isinstance(cell, Assigned):
        return [Assigned(cell.pa + i * span(level), cell.ripas) for i in range(512)]
    if isinstance(cell, AssignedNs):
        return [AssignedNs(cell.desc + i * span(level)) for i in range(512)]
    return [cell] * 512


def fold(table: Table) -> Cell | None:
    """Return the equivalent single entry, if there is one."""
    first = table.cells[0]
    if isinstance(first, Table) or split(first, table.level) != table.cells:
        return None
    value = first.pa if isinstance(first, Assigned) else 0
    value = first.desc & -PAGE if isinstance(first, AssignedNs) else value
    return None if value % span(table.level - 1) else first


# --- realms -----------------------------------------------------------------------------------


def is_supported(params: RealmParams) -> bool:
    """Check whether the host's parameters are valid."""
    bits, level, count = params.s2sz, params.rtt_level_start, params.rtt_num_start
    one_table = 48 - 9 * level  # bits that one start table and those below it resolve
    return (
        32 <= bits <= 48
        and 0 <= level <= 3
        and one_table - 8 <= bits <= one_table + 4 * (level > 0)
        and count == 1 << max(0, bits - one_table)
        and params.rtt_base % (count * PAGE) == 0
        and not params.flags & 3
        and (not params.flags & 4 or 0 < params.pmu_num_ctrs <= MAX_COUNTERS)
        and 0 < params.num_bps <= MAX_BREAKPOINTS
        and 0 < params.num_wps <= MAX_WATCHPOINTS
        and params.hash_algo < 2
    )


@dataclass(eq=False)
class Realm:
    """A realm: its tables, its state and its measurements."""

    rd: int
    params: RealmParams
    start: list[Table]
    state: str = "NEW"
    num_recs: int = 0  # ever created
    num_live_recs: int = 0
    measurements: list[bytes] = field(default_factory=list)

    @property
    def half(self) -> int:
        """The first unprotected IPA."""
        return 1 << self.params.s2sz - 1

    def walk(self, ipa: int, level: int) -> tuple[Table, int]:
        """Find the table and the index where a walk ends."""
        index = ipa // span(self.params.rtt_level_start)
        table, index = self.start[index // 512], index % 512
        while table.level < level:
            cell = table.cells[index]
            if not isinstance(cell, Table):
                break
            table, index = cell, ipa // span(cell.level) % 512
        return table, index

    def find(self, ipa: int, level: int) -> tuple[Table, int, Table | None]:
        """Find the table at a level; return where the walk above ends, and the table if any."""
        above, index = self.walk(ipa, level - 1)
        cell = above.cells[index]
        if above.level != level - 1 or not isinstance(cell, Table):
            return above, index, None
        return above, index, cell

    def tables(self) -> list[Table]:
        """List all tables."""
        found = list(self.start)
        for table in found:
            found += [cell for cell in table.cells if isinstance(cell, Table)]
        return found

    # --- measurement ----------------------------------------------------------------------

    def hash(self, data: bytes) -> bytes:
        """Hash with the realm's algorithm."""
        return hashlib.new("sha512" if self.params.hash_algo else "sha256", data).digest()

    def begin_measurement(self) -> None:
        """Measure the parameters; the REMs are zero."""
        page = bytearray(PAGE)
        params = self.params
        for at, value in (
            (0x000, params.flags),
            (0x008, params.s2sz),
            (0x010, params.sve_vl),
            (0x018, params.num_bps),
            (0x020, params.num_wps),
            (0x028, params.pmu_num_ctrs),
            (0x030, params.hash_algo),
        ):
            page[at : at + 8] = pack("<Q", value)
        rim = self.hash(bytes(page))
        self.measurements = [rim, *[bytes(len(rim))] * 4]

    def measure(self, kind: int, body: bytes) -> None:
        """Extend the RIM with a step of the construction."""
        descriptor = pack("<QQ64s", kind, 0x100, self.measurements[0]) + body
        self.measurements[0] = self.hash(descriptor.ljust(0x100, b"\0"))

    # --- checks of levels and IPAs ---------------------------------------------------------

    def has_no_table(self, ipa: int, level: int) -> bool:
        """Check whether no table at this level can begin there."""
        is_level = self.params.rtt_level_start < level <= 3
        return not is_level or ipa % span(level - 1) != 0 or ipa >> self.params.s2sz != 0

    def has_no_unprotected(self, ipa: int, level: int) -> bool:
        """Check whether no unprotected entry at this level can be there."""
        if not max(1, self.params.rtt_level_start) <= level <= 3:
            return True
        return ipa % span(level) != 0 or not self.half <= ipa < 2 * self.half

    def has_no_page(self, ipa: int) -> bool:
        """Check whether no protected page can be there."""
        return ipa % PAGE != 0 or ipa >= self.half


@dataclass
class RttModel:
    """The state of granules and realms, without RECs."""

    granules: dict[int, str]  # state by PA; all that exist
    read: Callable[[int], bytes]  # what is in a granule of the host
    realms: dict[int, Realm] = field(default_factory=dict)

    def version(self, req: int) -> Results:
        """Only 1.0."""
        return int(req != VERSION), VERSION, VERSION

    def granule_delegate(self, pa: int) -> Results:
        """NS to DELEGATED."""
        if self.granules.get(pa) != "UNDELEGATED":
            return (INPUT,)
        self.granules[pa] = "DELEGATED"
        return (0,)

    def granule_undelegate(self, pa: int) -> Results:
        """DELEGATED to NS."""
        if self.granules.get(pa) != "DELEGATED":
            return (INPUT,)
        self.granules[pa] = "UNDELEGATED"
        return (0,)

    def realm_create(self, rd: int, params_ptr: int) -> Results:
        """Use the RD and the start tables, with an unused VMID."""
        if self.granules.get(params_ptr) != "UNDELEGATED":
            return (INPUT,)
        params = RealmParams(self.read(params_ptr))
        if not is_supported(params):
            return (INPUT,)
        pas = [params.rtt_base + n * PAGE for n in range(params.rtt_num_start)]
        states = {self.granules.get(pa) for pa in (rd, *pas)}
        vmids = {realm.params.vmid for realm in self.realms.values()}
        if states != {"DELEGATED"} or rd in pas or params.vmid in vmids:
            return (INPUT,)
        half, size = 1 << params.s2sz - 1, span(params.rtt_level_start)
        cells: list[Cell] = [Unassigned()] * (512 * len(pas))
        cells[half // size : 2 * half // size] = [UnassignedNs()] * (half // size)
        start = [
            Table(pa, params.rtt_level_start, cells[n * 512 : (n + 1) * 512])
            for n, pa in enumerate(pas)
        ]
        self.granules |= {rd: "RD"} | dict.fromkeys(pas, "RTT")
        self.realms[rd] = Realm(rd, params, start)
        self.realms[rd].begin_measurement()
        return (0,)

    def realm_destroy(self, rd: int) -> Results:
        """Only without RECs, tables and pages."""
        realm = self.realms.get(rd)
        if realm is None:
            return (INPUT,)
        if realm.num_live_recs or any(
            keeps_table(cell) for table in realm.start for cell in table.cells
        ):
            return (REALM,)
        self.granules |= dict.fromkeys((rd, *(table.pa for table in realm.start)), "DELEGATED")
        del self.realms[rd]
        return (0,)

    def realm_activate(self, rd: int) -> Results:
        """NEW to ACTIVE."""
        realm = self.realms.get(rd)
        if realm is None:
            return (INPUT,)
        if realm.state != "NEW":
            return (REALM,)
        realm.state = "ACTIVE"
        return (0,)

    # --- tables -------------------------------------------------------------------------------

    def rtt_create(self, rd: int, rtt: int, ipa: int, level: int) -> Results:
        """Split an entry."""
        realm = self.realms.get(rd)
        if realm is None or self.granules.get(rtt) != "DELEGATED" or realm.has_no_table(ipa, level):
            return (INPUT,)
        table, index = realm.walk(ipa, level - 1)
        cell = table.cells[index]
        if table.level != level - 1 or isinstance(cell, Table):
            return (error_rtt(table.level),)
        self.granules[rtt] = "RTT"
        table.cells[index] = Table(rtt, level, split(cell, level))
        return (0,)

    def rtt_destroy(self, rd: int, ipa: int, level: int) -> Results:
        """Remove a table that maps at most shared memory."""
        realm = self.realms.get(rd)
        if realm is None or realm.has_no_table(ipa, level):
            return (INPUT,)
        table, index, child = realm.find(ipa, level)
        if child is None:
            return error_rtt(table.level), 0, next_live(table, index, ipa)
        if any(map(keeps_table, child.cells)):
            return error_rtt(level), 0, ipa
        self.granules[child.pa] = "DELEGATED"
        table.cells[index] = Unassigned(DESTROYED) if ipa < realm.half else UnassignedNs()
        return 0, child.pa, next_live(table, index, ipa)

    def rtt_fold(self, rd: int, ipa: int, level: int) -> Results:
        """Replace a table by an equivalent entry; there are no blocks at level 0."""
        realm = self.realms.get(rd)
        if realm is None or realm.has_no_table(ipa, level):
            return (INPUT,)
        table, index, child = realm.find(ipa, level)
        if child is None:
            return (error_rtt(table.level),)
        if level == 1 and all(map(is_live, child.cells)):
            return (error_rtt(0),)
        cell = fold(child)
        if cell is None:
            return (error_rtt(level),)
        self.granules[child.pa] = "DELEGATED"
        table.cells[index] = cell
        return 0, child.pa

    def rtt_read_entry(self, rd: int, ipa: int, level: int) -> Results:
        """Look."""
        realm = self.realms.get(rd)
        if (
            realm is None
            or not realm.params.rtt_level_start <= level <= 3
            or ipa % span(level)
            or ipa >= 2 * realm.half
        ):
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

    def data_create(self, rd: int, data: int, ipa: int, src: int, flags: int) -> Results:
        """A page with content, for a new realm."""
        realm = self.realms.get(rd)
        if flags > 1 or self.granules.get(src) != "UNDELEGATED":
            return (INPUT,)
        if realm is None or self.granules.get(data) != "DELEGATED":
            return (INPUT,)
        if realm.state != "NEW":
            return (REALM,)
        results = self._assign(realm, data, ipa, RAM)
        if results == (0,):
            digest = realm.hash(self.read(src)) if flags else b""
            realm.measure(0, pack("<QQ64s", ipa, flags, digest))
        return results

    def data_create_unknown(self, rd: int, data: int, ipa: int) -> Results:
        """A page of zeros."""
        realm = self.realms.get(rd)
        if realm is None or self.granules.get(data) != "DELEGATED":
            return (INPUT,)
        return self._assign(realm, data, ipa, None)

    def _assign(self, realm: Realm, data: int, ipa: int, ripas: int | None) -> Results:
        if realm.has_no_page(ipa):
            return (INPUT,)
        table, index = realm.walk(ipa, 3)
        cell = table.cells[index]
        if table.level != 3 or not isinstance(cell, Unassigned):
            return (error_rtt(table.level),)
        self.granules[data] = "DATA"
        table.cells[index] = Assigned(data, cell.ripas if ripas is None else ripas)
        return (0,)

    def data_destroy(self, rd: int, ipa: int) -> Results:
        """Take a page back."""
        realm = self.realms.get(rd)
        if realm is None or realm.has_no_page(ipa):
            return (INPUT,)
        table, index = realm.walk(ipa, 3)
        cell = table.cells[index]
        if table.level != 3 or not isinstance(cell, Assigned):
            return error_rtt(table.level), 0, next_live(table, index, ipa)
        self.granules[cell.pa] = "DELEGATED"
        table.cells[index] = Unassigned(EMPTY if cell.ripas == EMPTY else DESTROYED)
        return 0, cell.pa, next_live(table, index, ipa)

    def rtt_init_ripas(self, rd: int, base: int, top: int) -> Results:
        """EMPTY to RAM, as far as possible; each entry is measured."""
        realm = self.realms.get(rd)
        if realm is None or base >= top or base % PAGE or top % PAGE or top > realm.half:
            return (INPUT,)
        if realm.state != "NEW":
            return (REALM,)
        table, index = realm.walk(base, 3)
        size, ipa = span(table.level), base
        while base % size == 0 and index < 512 and ipa + size <= top:
            if table.cells[index] not in (Unassigned(EMPTY), Unassigned(RAM)):
                break
            table.cells[index] = Unassigned(RAM)
            realm.measure(2, pack("<QQ", ipa, ipa + size))
            index, ipa = index + 1, ipa + size
        return (0, ipa) if ipa > base else (error_rtt(table.level),)

    def rtt_map_unprotected(self, rd: int, ipa: int, level: int, desc: int) -> Results:
        """Map shared memory; the tests give only good attributes."""
        realm = self.realms.get(rd)
        if realm is None or realm.has_no_unprotected(ipa, level) or (desc & -PAGE) % span(level):
            return (INPUT,)
        table, index = realm.walk(ipa, level)
        if table.level != level or not isinstance(table.cells[index], UnassignedNs):
            return (error_rtt(table.level),)
        table.cells[index] = AssignedNs(desc)
        return (0,)

    def rtt_unmap_unprotected(self, rd: int, ipa: int, level: int) -> Results:
        """Unmap shared memory."""
        realm = self.realms.get(rd)
        if realm is None or realm.has_no_unprotected(ipa, level):
            return (INPUT,)
        table, index = realm.walk(ipa, level)
        if table.level != level or not isinstance(table.cells[index], AssignedNs):
            return error_rtt(table.level), next_live(table, index, ipa)
        table.cells[index] = UnassignedNs()
        return 0, next_live(table, index, ipa)
