"""The RECs of the reference model: their states, the realm's requests, and their completion.

What a realm does when one of its RECs is entered is the model's ``step``: nothing, an SMC, or an
access that faults at stage 2.  After whatever the RMM answers itself there is an interrupt.
"""

from dataclasses import dataclass, field
from struct import pack, unpack_from

from pyvmm.arch.psci import PsciFid
from pyvmm.arch.rmi import RecEnter, RecParams, RmiFid
from pyvmm.arch.rsi import RsiFid
from tests.rmm.model import (
    DESTROYED,
    EMPTY,
    INPUT,
    PAGE,
    RAM,
    REALM,
    REC,
    VERSION,
    Assigned,
    Cell,
    Realm,
    Results,
    RttModel,
    Table,
    Unassigned,
    error_rtt,
    ripas_of,
    span,
)

SYNC, IRQ, PSCI, RIPAS_CHANGE, HOST_CALL = 0, 1, 3, 4, 5
EMUL_MMIO, INJECT_SEA, RIPAS_RESPONSE = 1, 2, 16
DENIED, ALREADY_ON, INVALID_PARAMETERS, INVALID_ADDRESS, NOT_SUPPORTED = (
    (1 << 64) - n for n in (3, 4, 2, 9, 1)
)
VECTOR = 0x200  # of a synchronous exception, with VBAR_EL1 = 0
REC_AUX_COUNT, MAX_AUX, NUM_LRS = 2, 16, 4
TRANSFERRED = 3  # the register of every access
LEGAL_HCR = 0x40FE
CPU_ON = {PsciFid.CPU_ON_64}
TARGETED = {PsciFid.CPU_ON_64, PsciFid.AFFINITY_INFO_64}


@dataclass(frozen=True)
class Smc:
    """The realm calls the RMM with x0..; there is one argument at least."""

    args: tuple[int, ...]


@dataclass(frozen=True)
class Access:
    """The realm loads or stores 32 bits, and stage 2 says no."""

    ipa: int
    isv: bool
    is_write: bool


Step = Smc | Access | None


@dataclass(frozen=True)
class Exit:
    """The host's view of an exit."""

    reason: int
    hpfar: int = 0
    gprs: tuple[int, ...] = ()
    ripas: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class PsciRequest:
    """The host has to give the target; ``entry`` is None for AFFINITY_INFO."""

    target: int
    entry: int | None
    context_id: int


@dataclass
class RipasChange:
    """The host performs it from ``base`` upwards."""

    base: int
    top: int
    ripas: int
    change_destroyed: bool


@dataclass(frozen=True)
class HostCall:
    """The host's answer goes there."""

    ipa: int


@dataclass(eq=False)
class Rec:
    """A REC: registers that the RMM accesses, and its pending operation."""

    pa: int
    realm: Realm
    index: int
    aux: list[int]
    runnable: bool
    pc: int
    x: list[int]
    pending: PsciRequest | RipasChange | HostCall | Access | None = None

    def reply(self, *results: int) -> None:
        """Return from an SMC."""
        self.x = [*results, 0, 0, 0, 0][:4]
        self.pc += 4


class PageMissing(Exception):
    """A protected IPA without memory, which the host has to provide."""


class PageEmpty(Exception):
    """A protected IPA whose RIPAS is EMPTY."""


def is_legal_gic(enter: RecEnter) -> bool:
    """Check whether the host may use these values for the virtual CPU interface."""
    lrs = [lr for lr in enter.gicv3_lrs[:NUM_LRS] if lr >> 62]
    intids = [lr & 0xFFFF_FFFF for lr in lrs]
    return (
        not enter.gicv3_hcr & ~LEGAL_HCR
        and len(set(intids)) == len(intids)
        and all(intid < 1020 or 8192 <= intid < 1 << 16 for intid in intids)
        and not any(lr >> 61 & 1 or lr >> 48 & 7 or lr >> 32 & 0x1FFF & ~(1 << 9) for lr in lrs)
    )


@dataclass
class Model(RttModel):
    """The whole RMM."""

    recs: dict[int, Rec] = field(default_factory=dict)
    step: Step = None
    exit: Exit | None = None  # of the last entry that succeeded

    def call(self, fid: int, *args: int) -> Results:
        """Perform a command; return x0..x4, where x4 is the caller's unless it is a result."""
        results: Results = getattr(self, RmiFid(fid).name[4:].lower())(*args)
        kept = results[4:5] or args[3:4] or (0,)
        return (*results, 0, 0, 0)[:4] + kept

    # --- life -----------------------------------------------------------------------------

    def rec_aux_count(self, rd: int) -> Results:
        """Two."""
        return (0, REC_AUX_COUNT) if rd in self.realms else (INPUT,)

    def rec_create(self, rd: int, rec: int, params_ptr: int) -> Results:
        """Granules, then the realm's state, then the MPIDR, then the number of granules."""
        if self.granules.get(params_ptr) != "UNDELEGATED":
            return (INPUT,)
        params = RecParams(self.read(params_ptr))
        if params.num_aux > MAX_AUX:
            return (INPUT,)
        aux = list(params.aux[: params.num_aux])
        realm = self.realms.get(rd)
        is_free = all(self.granules.get(pa) == "DELEGATED" for pa in (rec, *aux))
        if realm is None or not is_free or len({rec, *aux}) <= len(aux):
            return (INPUT,)
        if realm.state != "NEW":
            return (REALM,)
        mpidr = realm.num_recs & 0xF | realm.num_recs >> 4 << 8
        if params.mpidr != mpidr or len(aux) != REC_AUX_COUNT:
            return (INPUT,)
        is_runnable = bool(params.flags & 1)
        x = list(params.gprs[:4])
        self.recs[rec] = Rec(rec, realm, realm.num_recs, aux, is_runnable, params.pc, x)
        realm.num_recs += 1
        realm.num_live_recs += 1
        self.granules |= {rec: "REC"} | dict.fromkeys(aux, "REC_AUX")
        if is_runnable:
            page = bytearray(PAGE)
            page[0x000:0x008], page[0x200:0x208] = pack("<Q", params.flags), pack("<Q", params.pc)
            page[0x300:0x340] = pack("<8Q", *params.gprs)
            realm.measure(1, realm.hash(bytes(page)).ljust(64, b"\0"))
        return (0,)

    def rec_destroy(self, rec: int) -> Results:
        """It never runs when the model is called."""
        each = self.recs.pop(rec, None)
        if each is None:
            return (INPUT,)
        each.realm.num_live_recs -= 1
        self.granules |= dict.fromkeys((rec, *each.aux), "DELEGATED")
        return (0,)

    # --- entry ----------------------------------------------------------------------------

    def rec_enter(self, rec: int, run_ptr: int) -> Results:
        """Check in order, complete what is pending, do the step."""
        each = self.recs.get(rec)
        if self.granules.get(run_ptr) != "UNDELEGATED" or each is None:
            return (INPUT,)
        if each.realm.state != "ACTIVE":
            return (REALM | (each.realm.state == "SYSTEM_OFF") << 8,)
        enter = RecEnter(self.read(run_ptr)[:0x800])
        abort = each.pending if isinstance(each.pending, Access) else None
        if (
            not each.runnable
            or isinstance(each.pending, PsciRequest)
            or not is_legal_gic(enter)
            or (enter.flags & INJECT_SEA and abort is None)
            or (enter.flags & EMUL_MMIO and (abort is None or not abort.isv))
        ):
            return (REC,)
        self.exit = self._complete(each, enter) or self._run(each) or Exit(IRQ)
        return (0,)

    def _complete(self, rec: Rec, enter: RecEnter) -> Exit | None:
        pending, rec.pending = rec.pending, None
        match pending:
            case None | PsciRequest():
                pass
            case Access() if enter.flags & INJECT_SEA:
                rec.pc = VECTOR
            case Access() if enter.flags & EMUL_MMIO:
                rec.pc += 4
                if not pending.is_write:
                    rec.x[TRANSFERRED] = enter.gprs[0] & 0xFFFF_FFFF
            case Access():
                pass  # it is executed again
            case RipasChange():
                is_open = pending.ripas == RAM and pending.base != pending.top
                is_rejected = is_open and bool(enter.flags & RIPAS_RESPONSE)
                rec.x[:4] = [0, pending.base, int(is_rejected), 0]
            case HostCall():
                try:
                    self._page(rec.realm, pending.ipa)
                except PageMissing:
                    rec.pending = pending
                    return Exit(SYNC, hpfar=pending.ipa >> 12 << 4)
                except PageEmpty:
                    rec.x = [INPUT, 0, 0, 0]
                else:
                    rec.x = [0, 0, 0, 0]
        return None

    def _run(self, rec: Rec) -> Exit | None:
        """Do the step; None if it does not exit to the host."""
        match self.step:
            case Smc(args):
                rec.x[: len(args[:4])] = args[:4]
                return self._smc(rec, *args)
            case Access(ipa):
                return self._access(rec, self.step, ipa)
            case None:
                return None

    def _access(self, rec: Rec, access: Access, ipa: int) -> Exit | None:
        realm = rec.realm
        hpfar = ipa >> 12 << 4
        if realm.half <= ipa < 2 * realm.half:
            rec.pending = access
            value = rec.x[TRANSFERRED] & 0xFFFF_FFFF
            return Exit(SYNC, hpfar, (value,) if access.isv and access.is_write else ())
        try:
            self._page(realm, ipa)
        except PageEmpty:
            rec.pc = VECTOR
        except PageMissing:
            return Exit(SYNC, hpfar)
        return None  # by now it is there

    def _page(self, realm: Realm, ipa: int) -> None:
        """Find the memory of an IPA; outside the IPA space there is none."""
        if ipa >= realm.half:
            raise PageEmpty
        table, index = realm.walk(ipa, 3)
        cell = table.cells[index]
        if ripas_of(cell) == EMPTY:
            raise PageEmpty
        if not isinstance(cell, Assigned) or cell.ripas == DESTROYED:
            raise PageMissing

    # --- what a realm calls ---------------------------------------------------------------

    def _smc(self, rec: Rec, fid: int, *args: int) -> Exit | None:
        a, b, c, d = (*args, 0, 0, 0, 0)[:4]
        match fid:
            case RsiFid.RSI_VERSION:
                rec.reply(int(a != VERSION), VERSION, VERSION)
            case RsiFid.RSI_FEATURES:
                rec.reply(0)
            case RsiFid.RSI_IPA_STATE_SET:
                return self._ipa_state_set(rec, a, b, c, d)
            case RsiFid.RSI_IPA_STATE_GET:
                self._ipa_state_get(rec, a, b)
            case RsiFid.RSI_HOST_CALL | RsiFid.RSI_REALM_CONFIG:
                return self._with_page(rec, fid, a)
            case RsiFid.RSI_MEASUREMENT_READ:
                self._measurement_read(rec, a)
            case RsiFid.RSI_MEASUREMENT_EXTEND:
                self._measurement_extend(rec, a, b, args[2:])
            case PsciFid.SYSTEM_OFF | PsciFid.CPU_OFF | PsciFid.CPU_SUSPEND_64:
                return self._psci(rec, fid, args)
            case _ if fid in TARGETED:
                return self._psci_of_another(rec, fid, a, b, c)
            case _:
                rec.reply(NOT_SUPPORTED)
        return None

    def _bad_range(self, realm: Realm, base: int, top: int) -> bool:
        return base >= top or bool(base % PAGE or top % PAGE) or top > realm.half

    def _ipa_state_set(self, rec: Rec, base: int, top: int, ripas: int, flags: int) -> Exit | None:
        if self._bad_range(rec.realm, base, top) or ripas > RAM:
            rec.reply(INPUT)
            return None
        rec.pending = RipasChange(base, top, ripas, bool(flags & 1))
        rec.reply(0, top)
        return Exit(RIPAS_CHANGE, ripas=(base, top, ripas))

    def _ipa_state_get(self, rec: Rec, start: int, end: int) -> None:
        if self._bad_range(rec.realm, start, end):
            rec.reply(INPUT)
            return
        table, index = rec.realm.walk(start, 3)
        size, ripas = span(table.level), ripas_of(table.cells[index])
        top = start // size * size + size
        for cell in table.cells[index + 1 :]:
            if isinstance(cell, Table) or ripas_of(cell) != ripas:
                break
            top += size
        rec.reply(0, min(top, end), ripas)

    def _with_page(self, rec: Rec, fid: int, ipa: int) -> Exit | None:
        alignment = 0x100 if fid == RsiFid.RSI_HOST_CALL else PAGE
        try:
            self._page(rec.realm, ipa if ipa % alignment == 0 else rec.realm.half)
        except PageEmpty:
            rec.reply(INPUT)
            return None
        except PageMissing:
            return Exit(SYNC, hpfar=ipa >> 12 << 4)  # and the SMC is executed again
        rec.reply(0)
        if fid == RsiFid.RSI_REALM_CONFIG:
            return None
        rec.pending = HostCall(ipa)
        return Exit(HOST_CALL)

    def _measurement_read(self, rec: Rec, index: int) -> None:
        if index > 4:
            rec.reply(INPUT)
            return
        rec.reply(0, *unpack_from("<3Q", rec.realm.measurements[index]))

    def _measurement_extend(self, rec: Rec, index: int, size: int, values: tuple[int, ...]) -> None:
        if not 1 <= index <= 4 or size > 64:
            rec.reply(INPUT)
            return
        data = pack("<8Q", *values)[:size]
        rems = rec.realm.measurements
        rems[index] = rec.realm.hash(rems[index] + data)
        rec.reply(0)

    # --- PSCI -----------------------------------------------------------------------------

    def _psci(self, rec: Rec, fid: int, args: tuple[int, ...]) -> Exit:
        rec.pc += 4
        if fid == PsciFid.SYSTEM_OFF:
            rec.realm.state = "SYSTEM_OFF"
        elif fid == PsciFid.CPU_OFF:
            rec.runnable = False
        else:
            rec.x = [0, 0, 0, 0]
            return Exit(PSCI, gprs=(fid, *(*args, 0, 0, 0)[:3]))
        return Exit(PSCI, gprs=(fid,))

    def _psci_of_another(self, rec: Rec, fid: int, target: int, b: int, c: int) -> Exit | None:
        index = target & 0xF | (target >> 8 & 0xFF) << 4
        is_cpu_on = fid in CPU_ON
        if is_cpu_on and b >= rec.realm.half:
            rec.reply(INVALID_ADDRESS)
        elif index >= rec.realm.num_recs or (not is_cpu_on and b):
            rec.reply(INVALID_PARAMETERS)
        elif index == rec.index:
            rec.reply(ALREADY_ON if is_cpu_on else 0)
        else:
            rec.pending = PsciRequest(index, b if is_cpu_on else None, c)
            rec.pc += 4
            return Exit(PSCI, gprs=(fid, target))
        return None

    def psci_complete(self, calling_rec: int, target_rec: int, status: int) -> Results:
        """The host gives the REC that the realm named."""
        calling, target = self.recs.get(calling_rec), self.recs.get(target_rec)
        if calling is None or target is None or calling is target:
            return (INPUT,)
        request = calling.pending
        if (
            not isinstance(request, PsciRequest)
            or calling.realm is not target.realm
            or request.target != target.index
        ):
            return (INPUT,)
        is_cpu_on = request.entry is not None
        if status not in ((0, DENIED) if is_cpu_on else (0,)):
            return (INPUT,)
        result = status if is_cpu_on else int(not target.runnable)
        if is_cpu_on and target.runnable:
            result = ALREADY_ON
        elif request.entry is not None and status == 0:
            target.runnable, target.pc = True, request.entry
            target.x = [request.context_id, 0, 0, 0]
        calling.pending = None
        calling.x = [result, 0, 0, 0]
        return (INPUT if (status, result) == (DENIED, ALREADY_ON) else 0,)

    # --- RIPAS ----------------------------------------------------------------------------

    def rtt_set_ripas(self, rd: int, rec: int, base: int, top: int) -> Results:
        """Perform the next part of a REC's request."""
        realm, each = self.realms.get(rd), self.recs.get(rec)
        if base >= top or realm is None or each is None:
            return (INPUT,)
        if each.realm is not realm:
            return (REC,)
        change = each.pending
        if not isinstance(change, RipasChange) or base != change.base:
            return (INPUT,)
        if top > change.top or top % PAGE:
            return (INPUT,)
        table, index = realm.walk(base, 3)
        size, ipa = span(table.level), base
        while base % size == 0 and index < 512 and ipa + size <= top:
            cell = self._changed(table.cells[index], change)
            if cell is None:
                break
            table.cells[index] = cell
            index, ipa = index + 1, ipa + size
        change.base = ipa
        return (0, ipa) if ipa > base else (error_rtt(table.level),)

    def _changed(self, cell: Cell, change: RipasChange) -> Cell | None:
        """Return an entry with the RIPAS that the realm wants; None if it keeps its own."""
        if not isinstance(cell, Unassigned | Assigned):
            return None
        if cell.ripas == DESTROYED and not change.change_destroyed:
            return None
        if isinstance(cell, Assigned):
            return Assigned(cell.pa, change.ripas)
        return Unassigned(change.ripas)
