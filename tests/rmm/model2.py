"""A model of RMI 2.0's memory: who has each granule, and what operations are in progress.

It predicts x0 to x2 of the commands that move memory, from their meaning rather than as the RMM
does: granules are names of owners, and an operation is what it holds.
"""

from dataclasses import dataclass, field

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import RmiFid
from pyvmm.arch.rmi2 import Rmi2Fid
from tests.rmm.world2 import (
    BLOCKED,
    CAN_CANCEL,
    DONATE,
    DONATION,
    INCOMPLETE,
    INPUT,
    REALM,
    RECLAIM,
    SUCCESS,
)

PAGE = GRANULE_SIZE
HOST, FREE, LENT, RD, REC, TABLE = "host", "free", "lent", "rd", "rec", "table"
Answer = tuple[int, int, int]


@dataclass
class Realm:
    """A realm that exists."""

    table: int
    state: str = "new"
    recs: dict[int, int] = field(default_factory=dict)  # granule by MPIDR
    lent: list[int] = field(default_factory=list)


@dataclass
class Operation:
    """What an operation holds and waits for; ``makes`` is what becomes of its granule."""

    makes: str  # RD, REC, or "" if something was destroyed
    step: str = "donate"
    lent: list[int] = field(default_factory=list)
    realm: Realm | None = None  # of the REC
    mpidr: int = 0
    table: int = 0
    error: int = 0

    @property
    def x0(self) -> int:
        """The answer of a step."""
        memory = {"donate": DONATE, "reclaim": RECLAIM, "continue": 0}[self.step]
        return INCOMPLETE | memory | (CAN_CANCEL if self.makes and not self.error else 0)

    @property
    def missing(self) -> int:
        """How many granules it asks for."""
        return DONATION - len(self.lent) if self.step == "donate" else 0

    def give_up(self, error: int) -> None:
        """Return what there is, then fail."""
        self.error = error
        self.step = "reclaim" if self.lent else "continue"


class Model:
    """The granules of a machine."""

    def __init__(self, pas: list[int]) -> None:
        """All are the host's."""
        self.owner = dict.fromkeys(pas, HOST)
        self.realms: dict[int, Realm] = {}
        self.recs: dict[int, Realm] = {}
        self.lent_to_rec: dict[int, list[int]] = {}
        self.operations: dict[int, Operation] = {}

    def set(self, owner: str, *pas: int) -> None:
        """Give granules to an owner."""
        self.owner.update(dict.fromkeys(pas, owner))

    # --- ranges ---------------------------------------------------------------------------

    def move(self, fid: int, base: int, top: int) -> Answer:
        """Delegate or undelegate."""
        source, target = (HOST, FREE) if fid == Rmi2Fid.RMI_GRANULE_RANGE_DELEGATE else (FREE, HOST)
        if base >= top:
            return INPUT, 0, 0
        pa = base
        while pa < top and self.owner[pa] in {source, target}:
            self.owner[pa] = target
            pa += PAGE
        if pa == base:
            return (BLOCKED if base in self.operations else INPUT), 0, 0
        return SUCCESS, pa, 0

    # --- realms and RECs ------------------------------------------------------------------

    def begin(self, pa: int, operation: Operation, *reserved: int) -> Answer:
        """Begin an operation."""
        self.set(LENT, pa, *reserved)
        self.operations[pa] = operation
        return operation.x0, pa, operation.missing << 2

    def unusable(self, *pas: int) -> int:
        """Return why granules cannot become an object; 0 if they can."""
        for pa in pas:
            if pa in self.operations:
                return BLOCKED
            if self.owner[pa] != FREE:
                return INPUT
        return 0

    def create_realm(self, rd: int, table: int) -> Answer:
        """Begin a realm."""
        error = self.unusable(rd, table) or (INPUT if rd == table else 0)
        if error:
            return error, 0, 0
        return self.begin(rd, Operation(RD, table=table), table)

    def missing_object(self, pa: int) -> Answer:
        """Answer for an RD or REC that does not exist."""
        return (BLOCKED if pa in self.operations else INPUT), 0, 0

    def change_realm(self, fid: int, rd: int) -> Answer:
        """Activate, terminate or destroy a realm."""
        realm = self.realms.get(rd)
        if realm is None:
            return self.missing_object(rd)
        if fid == Rmi2Fid.RMI_REALM_TERMINATE:
            realm.state = "zombie"
            return SUCCESS, 0, 0
        if fid == RmiFid.RMI_REALM_ACTIVATE:
            if realm.state != "new":
                return REALM, 0, 0
            realm.state = "active"
            return SUCCESS, 0, 0
        if realm.state != "zombie" or realm.recs:
            return REALM, 0, 0
        del self.realms[rd]
        self.set(FREE, realm.table)
        return self.begin(rd, Operation("", "reclaim", realm.lent))

    def create_rec(self, rd: int, rec: int, mpidr: int) -> Answer:
        """Begin a REC."""
        error = self.unusable(rec)
        if error:
            return error, 0, 0
        realm = self.realms.get(rd)
        if realm is None:
            return self.missing_object(rd)
        if mpidr in realm.recs:
            return INPUT, 0, 0
        if realm.state != "new":
            return REALM, 0, 0
        return self.begin(rec, Operation(REC, realm=realm, mpidr=mpidr))

    def destroy_rec(self, rec: int) -> Answer:
        """Begin the end of a REC."""
        realm = self.recs.pop(rec, None)
        if realm is None:
            return self.missing_object(rec)
        mpidr = next(each for each, pa in realm.recs.items() if pa == rec)
        del realm.recs[mpidr]
        return self.begin(rec, Operation("", "reclaim", self.lent_to_rec.pop(rec)))

    # --- operations -----------------------------------------------------------------------

    def donate(self, handle: int, *pas: int) -> Answer:
        """Lend granules, all or none."""
        operation = self.operations.get(handle)
        if operation is None or operation.step != "donate":
            return INPUT, 0, 0
        are_free = all(self.owner.get(pa) == FREE for pa in pas)
        if not are_free or len(set(pas)) != len(pas) or len(pas) > operation.missing:
            return INPUT, 0, 0
        self.set(LENT, *pas)
        operation.lent += pas
        if len(operation.lent) == DONATION:
            operation.step = "continue"
        return operation.x0, len(pas), operation.missing << 2

    def reclaim(self, handle: int, count: int) -> tuple[Answer, list[int]]:
        """Take back up to ``count`` rows of granules; return them, too."""
        operation = self.operations.get(handle)
        if operation is None or operation.step != "reclaim":
            return (INPUT, 0, 0), []
        rows: list[list[int]] = []
        for pa in operation.lent:
            if rows and pa == rows[-1][-1] + PAGE:
                rows[-1].append(pa)
            else:
                rows.append([pa])
        returned = [pa for row in rows[:count] for pa in row]
        self.set(FREE, *returned)
        operation.lent = operation.lent[len(returned) :]
        if not operation.lent:
            operation.step = "continue"
        return (operation.x0, min(count, len(rows)), 0), returned

    def cancel(self, handle: int) -> Answer:
        """Give up."""
        operation = self.operations.get(handle)
        if operation is None or not operation.makes or operation.error:
            return INPUT, 0, 0
        operation.give_up(INPUT)
        return operation.x0, 0, 0

    def proceed(self, handle: int) -> Answer:
        """Finish."""
        operation = self.operations.get(handle)
        if operation is None or operation.step != "continue":
            return INPUT, 0, 0
        if operation.makes == REC and not operation.error:
            realm = operation.realm
            assert realm is not None
            error = INPUT if operation.mpidr in realm.recs else 0
            error = error or (REALM if realm.state != "new" else 0)
            if error:
                operation.give_up(error)
                return operation.x0, 0, 0
        del self.operations[handle]
        if operation.error or not operation.makes:
            self.set(FREE, handle, *([operation.table] if operation.table else ()))
            return operation.error, 0, 0
        self.set(operation.makes, handle)
        if operation.makes == RD:
            self.set(TABLE, operation.table)
            self.realms[handle] = Realm(operation.table, lent=operation.lent)
        elif operation.realm is not None:
            operation.realm.recs[operation.mpidr] = handle
            self.recs[handle] = operation.realm
            self.lent_to_rec[handle] = operation.lent
        return SUCCESS, 0, 0
