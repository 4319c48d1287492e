"""The broken platforms: firmware composed with one check replaced.

Nothing here changes the trusted code.  A broken RMM is the installed one with another machine,
another table of commands, or other books; each of those is a few lines below.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType, SimpleNamespace
from typing import Final

from monitor.monitor import Monitor
from pyvmm.arch.machine import PeContext, PhysicalMemory
from pyvmm.arch.pas import GRANULE_OFFSET, GRANULE_SHIFT, GRANULE_SIZE, Pas
from pyvmm.arch.rmi import RecEnter, RecExitReason, Ripas, RmiFid
from pyvmm.arch.rmi2 import Rmi2Fid
from pyvmm.arch.rmi_debug import DebugRmiFid
from pyvmm.arch.rmi_revisions import VERSION_1_0, VERSION_2_0
from pyvmm.arch.stage2 import UNASSIGNED_RAM
from pyvmm.core import Machine
from pyvmm.lab.attack import Break
from rmm import protocols, run, vgic
from rmm.commands import RmiCommand, rmi_command
from rmm.exit_record import ExitRecord
from rmm.granule import DELEGATED, UNDELEGATED, GranuleTable
from rmm.realm import Realm, RealmState
from rmm.rec import HostExit, RipasChange
from rmm.rmi2 import ALL_REVISIONS
from rmm.rmm import Rmm

_NUM_GPRS: Final = 31
_PAGE_LEVEL: Final = 3
_COMMANDS: Final = ALL_REVISIONS[VERSION_1_0]
_COMMANDS_2: Final = ALL_REVISIONS[VERSION_2_0]
#: The GPI of a granule, as a PAS: all that the lab's machine uses.
_PAS_OF_GPI: Final = {0x8 | pas: pas for pas in Pas}

#: Makes an RMM of a class, on a machine, with the commands of each revision.
MakeRmm = Callable[[type[Rmm], protocols.Machine, Mapping[int, Mapping[int, RmiCommand]]], Rmm]
_Enter = Callable[[Rmm, int, int, int], object]


def build_rmm(machine: protocols.Machine, make: MakeRmm, broken: Collection[Break]) -> Rmm:
    """Have ``make(kind, machine, revisions)`` build an RMM without some checks."""
    revisions = {revision: dict(commands) for revision, commands in ALL_REVISIONS.items()}
    for each in broken:
        for revision, replaced in _REPLACED.get(each, {}).items():
            revisions[revision] |= replaced
    seen = _DeafMachine(machine) if Break.TLBI in broken else machine
    return make(_UncleanRmm if Break.SCRUB in broken else Rmm, seen, revisions)


def after_boot(rmm: Rmm, broken: Collection[Break]) -> None:
    """Replace what the RMM makes when it boots."""
    if Break.GRANULE_STATE in broken:
        books = rmm.granules
        rmm.granules = _CarelessBooks([(books.base, books.end - books.base)], rmm.events)
    if Break.REGISTERS in broken:
        rmm.exit_record = _TalkativeExitRecord(rmm.machine)
        rmm.exit_record_2 = _TalkativeExitRecord(rmm.machine, shows_interrupts=False)


# --- gpc --------------------------------------------------------------------------------------


class UncheckedMemory:
    """DRAM behind a bus without the check: each granule as its owner left it.

    pyvmm keeps the physical address spaces apart, in a file each; so this asks the table which of
    them has the granule, as DRAM that is shared by all of them would.
    """

    def __init__(self, machine: Machine, monitor: Monitor) -> None:
        self._machine = machine
        self._monitor = monitor

    def _memory(self, pa: int) -> PhysicalMemory:
        """Return the memory that has a granule; Non-secure memory faults outside DRAM."""
        if not self._machine.dram_base <= pa < self._machine.dram_base + self._machine.dram_size:
            return self._machine.memory(Pas.NS)
        return self._machine.memory(_PAS_OF_GPI[self._monitor.gpi(pa)])

    def read(self, pa: int, size: int) -> bytes:
        """Return bytes."""
        return b"".join(self._memory(at).read(at, count) for at, count in _pieces(pa, size))

    def write(self, pa: int, data: bytes | bytearray | memoryview) -> None:
        """Store bytes."""
        for at, count in _pieces(pa, len(data)):
            self._memory(at).write(at, bytes(data[at - pa : at - pa + count]))

    def zero(self, pa: int, size: int) -> None:
        """Store zeros."""
        for at, count in _pieces(pa, size):
            self._memory(at).zero(at, count)

    def view(self, pa: int, size: int) -> memoryview:
        """Return a window: one granule's, or a stretch of the same address space."""
        return self._memory(pa).view(pa, size)


def _pieces(pa: int, size: int) -> Iterator[tuple[int, int]]:
    """Divide a range by granules: yield address and size of each part."""
    end = pa + size
    while pa < end:
        stop = min(end, (pa | GRANULE_OFFSET) + 1)
        yield pa, stop - pa
        pa = stop


# --- granule-state ----------------------------------------------------------------------------


class _CarelessBooks(GranuleTable):
    """Accepts any granule of DRAM for any use."""

    __slots__ = ()

    def require(self, pa: int, state: int) -> None:
        """Check only that there is such a granule."""
        if pa & GRANULE_OFFSET or not self.base <= pa < self.end:
            super().require(pa, state)

    def count(self, pa: int, state: int, limit: int) -> int:
        """Take all granules that are not the host's for DELEGATED ones."""
        if state != DELEGATED or pa & GRANULE_OFFSET or not self.base <= pa < self.end:
            return super().count(pa, state, limit)
        first = (pa - self.base) >> GRANULE_SHIFT
        states = self.states[first : first + limit]
        return (states + bytes((UNDELEGATED,))).index(UNDELEGATED)

    def move(self, pa: int, state: int) -> None:
        """Record the new use, whatever the old one was."""
        self.states[(pa - self.base) >> GRANULE_SHIFT] = state

    def move_row(self, pa: int, state: int, count: int) -> None:
        """Record the new use of several."""
        for each in range(pa, pa + (count << GRANULE_SHIFT), GRANULE_SIZE):
            self.move(each, state)


# --- tlbi -------------------------------------------------------------------------------------


class _DeafMachine:
    """A machine that ignores the RMM's invalidations."""

    def __init__(self, machine: protocols.Machine) -> None:
        self.memory = machine.memory
        self.new_context = machine.new_context
        self.new_debug = machine.new_debug
        self.new_record = machine.new_record
        self.lend_debug = machine.lend_debug
        self.list_registers = machine.list_registers
        self.copy_interface = machine.copy_interface
        self.id_register = machine.id_register
        self.pe = machine.pe

    def tlbi_ipa(self, vmid: int, ipa: int, size: int, /) -> None:
        """Do nothing."""

    def tlbi_vmid(self, vmid: int, /) -> None:
        """Do nothing."""


# --- scrub ------------------------------------------------------------------------------------


class _UncleanRmm(Rmm):
    """Leaves the content of a granule that it releases."""

    class _Untouched:
        def zero(self, _pa: int, _size: int) -> None:
            """Do nothing."""

    def release(self, pa: int) -> None:
        """Release a granule as it is."""
        self.release_row(pa, 1)

    def release_row(self, pa: int, count: int) -> None:
        """Release granules as they are."""
        memory = self.memory
        self.memory = self._Untouched()  # type: ignore[assignment]
        try:
            super().release_row(pa, count)
        finally:
            self.memory = memory


# --- registers --------------------------------------------------------------------------------


class _TalkativeExitRecord(ExitRecord):
    """Shows the host all general-purpose registers when it interrupts the realm."""

    __slots__ = ()

    def write(self, run_pa: int, context: PeContext, leave: HostExit) -> None:
        """Write the record, after an interrupt with X0 to X30."""
        if leave.reason == RecExitReason.IRQ:
            leave = HostExit(leave.reason, gprs=tuple(context.x[n] for n in range(_NUM_GPRS)))
        super().write(run_pa, context, leave)


def _take_registers(rmm: Rmm, rec: int, run_ptr: int) -> None:
    """Take X1 to X30 of the realm from the host."""
    entry = RecEnter(rmm.read_ns(run_ptr, RecEnter.size))
    context = rmm.rec(rec).context
    for n, value in enumerate(entry.gprs):
        if value and n:
            context.x[n] = value


@rmi_command(RmiFid.RMI_REC_ENTER)
def _enter_with_registers(rmm: Rmm, pe: int, rec: int, run_ptr: int) -> None:
    """Enter with registers of the host."""
    _take_registers(rmm, rec, run_ptr)
    run.enter(rmm, pe, rec, run_ptr)


@rmi_command(RmiFid.RMI_REC_ENTER)
def _enter_2_with_registers(rmm: Rmm, pe: int, rec: int, run_ptr: int) -> None:
    """Enter with registers of the host, in RMI 2.0."""
    _take_registers(rmm, rec, run_ptr)
    _COMMANDS_2[RmiFid.RMI_REC_ENTER].function(rmm, pe, rec, run_ptr)


# --- lr-check ---------------------------------------------------------------------------------


def _rebound(function: _Enter, **names: object) -> _Enter:
    """Return a copy of a function that finds other things under some global names."""
    assert isinstance(function, FunctionType)  # noqa: S101  for the type checker
    return FunctionType(function.__code__, function.__globals__ | names, function.__name__)


def _accept_list_registers(_hcr: int, _lrs: bytes) -> None:
    """Check nothing."""


_enter_unchecked = _rebound(
    run.enter, vgic=SimpleNamespace(check=_accept_list_registers, load=vgic.load)
)


@rmi_command(RmiFid.RMI_REC_ENTER)
def _enter_with_any_lr(rmm: Rmm, pe: int, rec: int, run_ptr: int) -> None:
    """Enter without a look at the list registers."""
    _enter_unchecked(rmm, pe, rec, run_ptr)


_enter_2_unchecked = _rebound(
    _COMMANDS_2[RmiFid.RMI_REC_ENTER].function, _are_legal=lambda _lrs: True
)


@rmi_command(RmiFid.RMI_REC_ENTER)
def _enter_2_with_any_lr(rmm: Rmm, pe: int, rec: int, run_ptr: int) -> None:
    """Enter without a look at the list registers, in RMI 2.0."""
    _enter_2_unchecked(rmm, pe, rec, run_ptr)


# --- ripas ------------------------------------------------------------------------------------


@rmi_command(RmiFid.RMI_DATA_DESTROY)
def _destroy_and_forget(rmm: Rmm, rd: int, ipa: int) -> tuple[int, ...] | None:
    """Destroy a page, and leave the RIPAS at RAM, as if nothing had been there."""
    outputs = _COMMANDS[RmiFid.RMI_DATA_DESTROY].function(rmm, rd, ipa)
    tree = rmm.realm(rd).rtt
    tree.set_entry(tree.walk(ipa, _PAGE_LEVEL), ipa, UNASSIGNED_RAM)
    return outputs


@rmi_command(Rmi2Fid.RMI_RTT_DATA_UNMAP)
def _unmap_and_forget(
    rmm: Rmm, rd: int, base: int, top: int, flags: int, oaddr: int
) -> tuple[int, ...] | None:
    """Unmap pages, and leave their RIPAS at RAM."""
    command = _COMMANDS_2[Rmi2Fid.RMI_RTT_DATA_UNMAP]
    outputs = command.function(rmm, rd, base, top, flags, oaddr)
    tree = rmm.realm(rd).rtt
    for ipa in range(base, outputs[0] if outputs else base, GRANULE_SIZE):
        tree.set_entry(tree.walk(ipa, _PAGE_LEVEL), ipa, UNASSIGNED_RAM)
    return outputs


@rmi_command(RmiFid.RMI_RTT_SET_RIPAS)
def _set_ripas_unasked(rmm: Rmm, rd: int, rec: int, base: int, top: int) -> tuple[int, ...] | None:
    """Change a range to EMPTY although the realm has not asked."""
    asking = rmm.rec(rec)
    asking.ripas_change = RipasChange(base, top, Ripas.EMPTY, change_destroyed=True)
    try:
        return _COMMANDS[RmiFid.RMI_RTT_SET_RIPAS].function(rmm, rd, rec, base, top)
    finally:
        asking.ripas_change = None


# --- measure ----------------------------------------------------------------------------------


@contextmanager
def _as_new(realm: Realm) -> Iterator[None]:
    """Treat an active realm like a new one, but do not measure what happens."""
    state, rim = realm.state, realm.measurements.values[0]
    realm.state = RealmState.NEW
    try:
        yield
    finally:
        realm.state = state
        if state is not RealmState.NEW:
            realm.measurements.values[0] = rim


@rmi_command(RmiFid.RMI_DATA_CREATE)
def _create_at_any_time(rmm: Rmm, rd: int, data: int, ipa: int, src: int, flags: int) -> None:
    """Add a page to an active realm, too, and then do not measure it."""
    with _as_new(rmm.realm(rd)):
        _COMMANDS[RmiFid.RMI_DATA_CREATE].function(rmm, rd, data, ipa, src, flags)


@rmi_command(Rmi2Fid.RMI_RTT_DATA_MAP_INIT)
def _init_at_any_time(rmm: Rmm, rd: int, data: int, ipa: int, src: int, flags: int) -> None:
    """Do the same in RMI 2.0."""
    with _as_new(rmm.realm(rd)):
        _COMMANDS_2[Rmi2Fid.RMI_RTT_DATA_MAP_INIT].function(rmm, rd, data, ipa, src, flags)


# --- debug ------------------------------------------------------------------------------------


@rmi_command(DebugRmiFid.RMI_PYVMM_DEBUG_READ_MEMORY)
def _read_memory_of_any(rmm: Rmm, pe: int, rec: int, va: int, size: int, ptr: int) -> None:
    """Read the memory of a realm that allows no debugging."""
    realm = rmm.rec(rec).realm
    is_debuggable, realm.is_debuggable = realm.is_debuggable, True
    try:
        command = _COMMANDS[DebugRmiFid.RMI_PYVMM_DEBUG_READ_MEMORY]
        command.function(rmm, pe, rec, va, size, ptr)
    finally:
        realm.is_debuggable = is_debuggable


def _by_fid(*commands: RmiCommand) -> dict[int, RmiCommand]:
    return {int(command.fid): command for command in commands}


#: By revision.
_REPLACED: Final[dict[Break, dict[int, dict[int, RmiCommand]]]] = {
    Break.REGISTERS: {
        VERSION_1_0: _by_fid(_enter_with_registers),
        VERSION_2_0: _by_fid(_enter_2_with_registers),
    },
    Break.LR_CHECK: {
        VERSION_1_0: _by_fid(_enter_with_any_lr),
        VERSION_2_0: _by_fid(_enter_2_with_any_lr),
    },
    Break.RIPAS: {
        VERSION_1_0: _by_fid(_destroy_and_forget, _set_ripas_unasked),
        VERSION_2_0: _by_fid(_unmap_and_forget, _set_ripas_unasked),
    },
    Break.MEASURE: {
        VERSION_1_0: _by_fid(_create_at_any_time),
        VERSION_2_0: _by_fid(_init_at_any_time),
    },
    Break.DEBUG: dict.fromkeys(ALL_REVISIONS, _by_fid(_read_memory_of_any)),
}
