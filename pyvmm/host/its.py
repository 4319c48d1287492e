"""The Interrupt Translation Service: message-signalled interrupts of devices become LPIs.

Its tables are in the guest's memory: the device table has the address of each device's interrupt
translation table (ITT), an entry of which has the LPI and the collection of an event; the
collection table has the CPU of a collection.  The formats are ours, as the architecture allows.  A
guest may write anything to its memory, so every value read from it is checked when it is used; a
table that the host must not access counts as empty.  A command with an error is ignored.

So a guest cannot make the host keep state for it, beside a small cache of routes; whatever changes
a table empties the cache.

Locks: that of the ITS, then the vGIC's.

Spec: Arm IHI 0069, "The ITS", "ITS commands".
"""

from collections.abc import Callable
from contextlib import suppress
from struct import unpack
from threading import Lock
from typing import Final

from pyvmm.arch import its, saved
from pyvmm.arch.bits import replace_bytes
from pyvmm.arch.errors import RepeatAccess
from pyvmm.arch.gic import FIRST_LPI_INTID, GIC_PIDR2, NUM_LPIS, PIDR2_GICV3
from pyvmm.arch.its import BASER, CBASER, ItsCommand, TableType
from pyvmm.arch.pas import GranuleProtectionFault
from pyvmm.arch.saved import State
from pyvmm.host.guest import GuestMemory
from pyvmm.host.lpi import Lpis
from pyvmm.host.vgic import Vgic
from pyvmm.host.vgic_mmio import IIDR

_ENTRY_SIZE: Final = 8  # of all tables
_VALID: Final = 1 << 63
_ITT: Final = 0x000F_FFFF_FFFF_FF00  # in MAPD and in a device's entry
_EVENT_BITS: Final = 0x1F  # minus one, in MAPD and in a device's entry
_COLLECTION_SHIFT: Final = 32  # in an event's entry, above the INTID
_CPU: Final = 0xFFFF  # in a collection's entry
_MAX_EVENT_BITS: Final = 16

_TYPER: Final = its.TYPER.of(
    PHYSICAL=1, ITT_ENTRY_SIZE=_ENTRY_SIZE - 1, ID_BITS=_MAX_EVENT_BITS - 1, DEV_BITS=7
)
_CBASER_WRITABLE: Final = sum(field.mask for field in CBASER.fields())
_BASER_WRITABLE: Final = sum(
    field.mask
    for field in BASER.fields()
    if field not in {BASER.PAGE_SIZE, BASER.ENTRY_SIZE, BASER.TYPE}
)
_TABLES: Final = (TableType.DEVICES, TableType.COLLECTIONS)  # of GITS_BASER<n>

_SAVED: Final = ("_is_enabled", "_cbaser", "_cwriter", "_creadr", "_basers")
_MAX_CACHED: Final = 1024  # routes

Words = tuple[int, int, int, int]  # of a command
Route = tuple[int | None, int | None]  # the LPI and the CPU of an event


class Its:
    """An ITS, an MMIO device; it gives the CPUs of ``vgic`` their LPIs.

    Args:
        memory: the guest's memory as devices see it.
        is_halting: returns whether vCPUs must stop; a series of commands then ends early.
    """

    def __init__(self, vgic: Vgic, memory: GuestMemory, is_halting: Callable[[], bool]) -> None:
        self._vgic = vgic
        self._memory = memory
        self._is_halting = is_halting
        self._lock = Lock()
        self._lpis = Lpis(vgic, memory)
        self._is_enabled = False
        self._cbaser = 0
        self._cwriter = self._creadr = 0
        self._cache: dict[tuple[int, int], Route] = {}  # by device and event
        self._basers = [
            BASER.TYPE.encode(kind) | BASER.ENTRY_SIZE.encode(_ENTRY_SIZE - 1) for kind in _TABLES
        ]
        self._commands: dict[int, Callable[[Words], None]] = {
            ItsCommand.MOVI: self._movi,
            ItsCommand.INT: self._int,
            ItsCommand.CLEAR: self._clear,
            ItsCommand.MAPD: self._mapd,
            ItsCommand.MAPC: self._mapc,
            ItsCommand.MAPTI: self._mapti,
            ItsCommand.MAPI: self._mapi,
            ItsCommand.INV: self._inv,
            ItsCommand.INVALL: self._invall,
            ItsCommand.MOVALL: self._movall,
            ItsCommand.DISCARD: self._discard,
        }  # SYNC has nothing to wait for

    def signal(self, device: int, event: int) -> None:
        """Deliver an event of a device: the data of a message to GITS_TRANSLATER."""
        with self._lock:
            if not self._is_enabled:
                return
            route = self._cache.get((device, event))
            if route is None:
                route = self._route(self._place_of_event(device, event))
                if route[1] is not None and len(self._cache) < _MAX_CACHED:
                    self._cache[device, event] = route
            self._deliver(*route)

    # --- a snapshot ---------------------------------------------------------------------------

    def save(self) -> State:
        """Return the registers: the tables are in the guest's memory, LPIs are the vGIC's."""
        with self._lock:
            return saved.save(self, _SAVED)

    def load(self, state: State) -> None:
        """Set the registers; StateError if they are not those of an ITS."""
        with self._lock:
            fixed = [baser & ~_BASER_WRITABLE for baser in self._basers]
            saved.load(self, _SAVED, state)
            self._basers = [
                baser & _BASER_WRITABLE | kind
                for baser, kind in zip(self._basers, fixed, strict=True)
            ]
            self._cbaser &= _CBASER_WRITABLE
            if max(self._cwriter, self._creadr) >= self._queue_size():
                raise saved.StateError("a queue of commands is too short")
            self._cwriter &= its.QUEUE_OFFSET
            self._creadr &= its.QUEUE_OFFSET

    # --- registers ----------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Return the value of a register, or of a part of it."""
        with self._lock:
            register = self._register(offset & ~7)
        return register >> 8 * (offset & 7) & (1 << 8 * size) - 1

    def _register(self, offset: int) -> int:
        """Return the 8 bytes at an offset."""
        match offset:
            case its.GITS_CTLR:
                is_enabled = its.GITS_CTLR_ENABLED if self._is_enabled else its.GITS_CTLR_QUIESCENT
                return is_enabled | IIDR << 32
            case its.GITS_TYPER:
                return _TYPER
            case its.GITS_CBASER:
                return self._cbaser
            case its.GITS_CWRITER:
                return self._cwriter
            case its.GITS_CREADR:
                return self._creadr
            case _ if offset == GIC_PIDR2:
                return PIDR2_GICV3
        index = offset - its.GITS_BASER >> 3
        return self._basers[index] if 0 <= index < len(_TABLES) else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register, or a part of it.

        Raises:
            RepeatAccess: some commands are not executed yet, because vCPUs must stop.
        """
        if size < 4:
            return
        with self._lock:
            self._write(offset & ~7, offset & 7, size, value)

    def _write(self, offset: int, part: int, size: int, value: int) -> None:
        index = offset - its.GITS_BASER >> 3
        if offset == its.GITS_CWRITER:
            value = replace_bytes(self._cwriter, part, size, value) & its.QUEUE_OFFSET
            if value < self._queue_size():
                self._cwriter = value
                self._execute()
        elif offset == its.GITS_CTLR and not part:
            self._cache.clear()
            self._is_enabled = bool(value & its.GITS_CTLR_ENABLED)
            self._execute()
        elif self._is_enabled:
            return  # the guest must not move a table in use
        elif offset == its.GITS_CBASER:
            self._cbaser = replace_bytes(self._cbaser, part, size, value) & _CBASER_WRITABLE
            self._creadr = self._cwriter = 0
        elif 0 <= index < len(_TABLES):
            old = self._basers[index]
            new = replace_bytes(old, part, size, value)
            self._basers[index] = old & ~_BASER_WRITABLE | new & _BASER_WRITABLE

    # --- the command queue --------------------------------------------------------------------

    def _queue_size(self) -> int:
        return (CBASER.SIZE.decode(self._cbaser) + 1) * its.PAGE_SIZE

    def _execute(self) -> None:
        """Execute the commands up to GITS_CWRITER; a queue without memory makes no progress."""
        if not self._cbaser & CBASER.VALID.mask:
            return
        base = self._cbaser & CBASER.ADDRESS.mask
        while self._is_enabled and self._creadr != self._cwriter:
            try:
                data = self._memory.read(base + self._creadr, its.COMMAND_SIZE)
            except GranuleProtectionFault:
                return
            words: Words = unpack("<4Q", data)
            command = self._commands.get(words[0] & 0xFF)
            if command is not None:
                command(words)
            self._creadr = (self._creadr + its.COMMAND_SIZE) % self._queue_size()
            if self._is_halting():
                raise RepeatAccess

    def _mapd(self, words: Words) -> None:
        """Give a device its ITT, or take it away."""
        bits = words[1] & _EVENT_BITS
        if words[2] & _VALID and bits >= _MAX_EVENT_BITS:
            return
        entry = _VALID | words[2] & _ITT | bits if words[2] & _VALID else 0
        self._store(self._entry(TableType.DEVICES, words[0] >> 32), entry)

    def _mapc(self, words: Words) -> None:
        """Give a collection its CPU, or take it away."""
        cpu = _cpu_of(words[2])
        is_valid = bool(words[2] & _VALID)
        if cpu < len(self._vgic.cpus) or not is_valid:
            entry = _VALID | cpu if is_valid else 0
            self._store(self._entry(TableType.COLLECTIONS, words[2] & 0xFFFF), entry)

    def _mapti(self, words: Words) -> None:
        """Give an event its LPI and its collection."""
        self._map(words, words[1] >> 32)

    def _mapi(self, words: Words) -> None:
        """Give an event the LPI of the same number, and its collection."""
        self._map(words, words[1] & 0xFFFF_FFFF)

    def _map(self, words: Words, intid: int) -> None:
        if not 0 <= intid - FIRST_LPI_INTID < NUM_LPIS:
            return
        collection = words[2] & 0xFFFF
        if self._entry(TableType.COLLECTIONS, collection) is None:
            return
        entry = _VALID | collection << _COLLECTION_SHIFT | intid
        if self._store(self._event_entry(words), entry):
            with self._vgic.lock:
                self._lpis.reload(intid)

    def _movi(self, words: Words) -> None:
        """Give an event another collection, and move its pending state."""
        place = self._event_entry(words)
        intid, _ = self._route(place)
        collection = words[2] & 0xFFFF
        cpu = self._cpu_of_collection(collection)
        if intid is None or cpu is None:
            return
        if self._store(place, _VALID | collection << _COLLECTION_SHIFT | intid):
            with self._vgic.lock:
                self._lpis.move(intid, cpu)

    def _discard(self, words: Words) -> None:
        """Take an event's LPI away; it is not pending any more."""
        self._clear(words)
        self._store(self._event_entry(words), 0)

    def _int(self, words: Words) -> None:
        """Deliver an event as if the device had signalled it."""
        self._deliver(*self._route(self._event_entry(words)))

    def _clear(self, words: Words) -> None:
        """Make an event's LPI not pending."""
        intid, _ = self._route(self._event_entry(words))
        if intid is not None:
            with self._vgic.lock:
                self._lpis.clear(intid)

    def _inv(self, words: Words) -> None:
        """Read the configuration of an event's LPI again."""
        intid, _ = self._route(self._event_entry(words))
        if intid is not None:
            with self._vgic.lock:
                self._lpis.reload(intid)

    def _invall(self, words: Words) -> None:
        """Read the configuration of a collection's LPIs again; here, of all LPIs."""
        if self._cpu_of_collection(words[2] & 0xFFFF) is not None:
            with self._vgic.lock:
                self._lpis.reload_all()

    def _movall(self, words: Words) -> None:
        """Move the pending states of all LPIs of a CPU to another CPU."""
        source, target = _cpu_of(words[2]), _cpu_of(words[3])
        if max(source, target) < len(self._vgic.cpus):
            with self._vgic.lock:
                self._lpis.move_all(source, target)

    # --- translation --------------------------------------------------------------------------

    def _deliver(self, intid: int | None, cpu: int | None) -> None:
        if intid is not None and cpu is not None:
            with self._vgic.lock:
                self._lpis.pend(intid, cpu)

    def _route(self, place: int | None) -> Route:
        """Return the LPI and the CPU of the event whose entry is at an address."""
        entry = self._load(place)
        intid = entry & 0xFFFF_FFFF
        if not entry & _VALID or not 0 <= intid - FIRST_LPI_INTID < NUM_LPIS:
            return None, None
        return intid, self._cpu_of_collection(entry >> _COLLECTION_SHIFT & 0xFFFF)

    def _cpu_of_collection(self, collection: int) -> int | None:
        entry = self._load(self._entry(TableType.COLLECTIONS, collection))
        cpu = entry & _CPU
        return cpu if entry & _VALID and cpu < len(self._vgic.cpus) else None

    def _event_entry(self, words: Words) -> int | None:
        """Return the address of the entry of the event that a command names."""
        return self._place_of_event(words[0] >> 32, words[1] & 0xFFFF_FFFF)

    def _place_of_event(self, device: int, event: int) -> int | None:
        entry = self._load(self._entry(TableType.DEVICES, device))
        if not entry & _VALID or event >> (entry & _EVENT_BITS) + 1:
            return None
        return (entry & _ITT) + event * _ENTRY_SIZE

    # --- tables -------------------------------------------------------------------------------

    def _entry(self, table: TableType, index: int) -> int | None:
        """Return the address of an entry of a table; None if the table is too short."""
        baser = self._basers[_TABLES.index(table)]
        size = (BASER.SIZE.decode(baser) + 1) * its.PAGE_SIZE
        if not baser & BASER.VALID.mask or index >= size // _ENTRY_SIZE:
            return None
        return (baser & BASER.ADDRESS.mask) + index * _ENTRY_SIZE

    def _load(self, place: int | None) -> int:
        """Return the entry at an address; 0 if there is none."""
        if place is not None:
            with suppress(GranuleProtectionFault):
                return int.from_bytes(self._memory.read(place, _ENTRY_SIZE), "little")
        return 0

    def _store(self, place: int | None, entry: int) -> bool:
        """Store an entry at an address; return whether that was possible."""
        self._cache.clear()
        if place is not None:
            with suppress(GranuleProtectionFault):
                self._memory.write(place, entry.to_bytes(_ENTRY_SIZE, "little"))
                return True
        return False


def _cpu_of(word: int) -> int:
    """Return the CPU that a command names by its processor number."""
    return word >> 16 & 0x7_FFFF_FFFF
