"""The LPIs of a guest: their tables in its memory, and the registers of a redistributor for them.

The guest gives one configuration table for all CPUs and one pending table per CPU.  The first is
cached until the guest invalidates an entry, as in hardware.  A CPU's pending table is read when its
LPIs are enabled and written when they are disabled; in between, the vGIC has the pending bits.  A
table that the host must not access counts as zeros.

Spec: Arm IHI 0069, "LPI Configuration table", "LPI Pending table".
"""

from contextlib import suppress
from typing import Final

from pyvmm.arch import gic, saved
from pyvmm.arch.bits import replace_bytes
from pyvmm.arch.pas import GranuleProtectionFault
from pyvmm.arch.saved import State
from pyvmm.host.guest import GuestMemory
from pyvmm.host.vgic import FIRST_LPI_BIT, Bank, Vgic

FIRST: Final = gic.FIRST_LPI_INTID
NUM: Final = gic.NUM_LPIS
LPI_MASK: Final = (1 << NUM) - 1 << FIRST_LPI_BIT
_OFFSET: Final = FIRST - FIRST_LPI_BIT  # from the bit of an LPI to its INTID

_PROP: Final = gic.PROPBASER
_PROP_WRITABLE: Final = (
    _PROP.IDBITS.mask
    | _PROP.INNER_CACHE.mask
    | _PROP.SHAREABILITY.mask
    | _PROP.ADDRESS.mask
    | _PROP.OUTER_CACHE.mask
)
_PEND: Final = gic.PENDBASER
_PEND_WRITABLE: Final = (
    _PEND.INNER_CACHE.mask
    | _PEND.SHAREABILITY.mask
    | _PEND.ADDRESS.mask
    | _PEND.OUTER_CACHE.mask
    | _PEND.PTZ.mask
)
_PENDING_OFFSET: Final = FIRST // 8  # of the first LPI in a pending table
#: The meaning of a byte of the configuration table: the enable bit, as a digit; the priority.
_ENABLED_DIGIT: Final = bytes(b"01"[byte & gic.LPI_ENABLED] for byte in range(256))
_PRIORITY: Final = bytes(byte & gic.LPI_PRIORITY_MASK for byte in range(256))


_SAVED: Final = ("_propbaser", "_pendbaser", "_is_enabled")


def _packed(bits: int) -> bytes:
    """Return a bitmap of LPIs as bytes."""
    return (bits >> FIRST_LPI_BIT).to_bytes(NUM // 8, "little")


class Lpis:
    """The LPIs of all CPUs; the vGIC's lock is held in every method.

    A new one gives the CPUs of ``vgic`` their LPIs.
    """

    def __init__(self, vgic: Vgic, memory: GuestMemory) -> None:
        self._vgic = vgic
        self._memory = memory
        self._propbaser = 0
        self._pendbaser = [0] * len(vgic.cpus)
        self._is_enabled = [False] * len(vgic.cpus)
        priority = bytearray(FIRST_LPI_BIT + NUM)
        for cpu in vgic.cpus:
            cpu.lpis = Bank(LPI_MASK, fixed_edge=LPI_MASK)
            cpu.lpis.priority = priority
        vgic.lpis = self

    # --- a snapshot ---------------------------------------------------------------------------

    def save(self) -> State:
        """Return the state, while no CPU has an LPI listed."""
        bank = self._vgic.cpus[0].lpis  # all CPUs have the same configuration
        return saved.save(self, _SAVED) | {
            "pending": [_packed(cpu.lpis.latch) for cpu in self._vgic.cpus],
            "enabled": _packed(bank.enabled),
            "priority": bytes(bank.priority),
        }

    def load(self, state: State) -> None:
        """Set the state.

        Raises:
            StateError: it is not the state of so many LPIs.
        """
        saved.load(self, _SAVED, state)
        self._propbaser &= _PROP_WRITABLE
        self._pendbaser = [each & _PEND_WRITABLE for each in self._pendbaser]
        cpus, priority = self._vgic.cpus, state.get("priority")
        pending = saved.items(state, "pending", len(cpus))
        if not isinstance(priority, bytes) or len(priority) != len(cpus[0].lpis.priority):
            raise saved.StateError("the priorities of LPIs have another size")
        cpus[0].lpis.priority[:] = priority.translate(_PRIORITY)  # shared
        for cpu, each in zip(cpus, pending, strict=True):
            cpu.lpis.enabled = saved.bits(state, "enabled") << FIRST_LPI_BIT & LPI_MASK
            cpu.lpis.latch = saved.bits({"pending": each}, "pending") << FIRST_LPI_BIT & LPI_MASK

    # --- for the ITS --------------------------------------------------------------------------

    def pend(self, intid: int, cpu: int) -> None:
        """Make an LPI pending at a CPU, if the CPU's LPIs are enabled."""
        if self._is_enabled[cpu]:
            self._vgic.cpus[cpu].lpis.latch |= 1 << intid - _OFFSET
            self._vgic.notify(cpu)

    def clear(self, intid: int) -> None:
        """Make an LPI not pending."""
        self._vgic.retarget_lpi(intid - _OFFSET, None)

    def move(self, intid: int, cpu: int) -> None:
        """Move an LPI's pending state to a CPU."""
        self._vgic.retarget_lpi(intid - _OFFSET, cpu if self._is_enabled[cpu] else None)

    def move_all(self, source: int, target: int) -> None:
        """Move the pending states of all LPIs of one CPU to another CPU."""
        vgic = self._vgic
        if source == target:
            return
        for number in vgic.cpus[source].listed:
            if number >= FIRST_LPI_BIT:
                self.move(number + _OFFSET, target)
        bank = vgic.cpus[source].lpis
        moved, bank.latch = bank.latch, 0
        if self._is_enabled[target]:
            vgic.cpus[target].lpis.latch |= moved
            vgic.notify(target)

    def reload(self, intid: int) -> None:
        """Read an LPI's configuration again."""
        if FIRST <= intid < FIRST + self._table_size():
            self._configure(intid - _OFFSET, self._read(self._table() + intid - FIRST, 1))
            self._vgic.notify_all()

    def reload_all(self) -> None:
        """Read the whole configuration again."""
        self._configure(FIRST_LPI_BIT, self._read(self._table(), self._table_size()))
        self._vgic.notify_all()

    # --- tables -------------------------------------------------------------------------------

    def _table(self) -> int:
        return self._propbaser & _PROP.ADDRESS.mask

    def _num_intids(self) -> int:
        """Return the number of INTIDs for which the guest has given tables."""
        return 1 << min(_PROP.IDBITS.decode(self._propbaser) + 1, gic.LPI_ID_BITS)

    def _table_size(self) -> int:
        return max(0, self._num_intids() - FIRST) if any(self._is_enabled) else 0

    def _read(self, addr: int, size: int) -> bytes:
        try:
            return self._memory.read(addr, size)
        except GranuleProtectionFault:
            return bytes(size)

    def _configure(self, first: int, table: bytes) -> None:
        """Use the configurations of LPIs from the bit ``first`` on."""
        window = (1 << len(table)) - 1 << first
        enabled = int(b"0" + table[::-1].translate(_ENABLED_DIGIT), 2) << first
        priorities = table.translate(_PRIORITY)
        for cpu in self._vgic.cpus:
            cpu.lpis.enabled = cpu.lpis.enabled & ~window | enabled
        self._vgic.cpus[0].lpis.priority[first : first + len(table)] = priorities  # shared

    def _load_pending(self, cpu: int) -> int:
        """Return the pending LPIs of a CPU's table."""
        base = self._pendbaser[cpu]
        if base & _PEND.PTZ.mask:
            return 0
        table = self._read((base & _PEND.ADDRESS.mask) + _PENDING_OFFSET, NUM // 8)
        given = max(0, self._num_intids() - FIRST)
        return (int.from_bytes(table, "little") & (1 << given) - 1) << FIRST_LPI_BIT

    def _store_pending(self, cpu: int, pending: int) -> None:
        address = (self._pendbaser[cpu] & _PEND.ADDRESS.mask) + _PENDING_OFFSET
        given = max(0, self._num_intids() - FIRST)
        table = (pending >> FIRST_LPI_BIT).to_bytes(NUM // 8, "little")
        with suppress(GranuleProtectionFault):
            self._memory.write(address, table[: given // 8])

    def _set_enabled(self, cpu: int, is_enabled: bool) -> None:
        """Enable or disable the LPIs of a CPU (GICR_CTLR.EnableLPIs)."""
        if is_enabled == self._is_enabled[cpu]:
            return
        bank = self._vgic.cpus[cpu].lpis
        if is_enabled:
            is_first = not any(self._is_enabled)
            self._is_enabled[cpu] = True
            bank.latch = self._load_pending(cpu)
            self._pendbaser[cpu] &= ~_PEND.PTZ.mask
            if is_first:
                self.reload_all()
            self._vgic.notify(cpu)
        else:
            for number in filter(FIRST_LPI_BIT.__le__, self._vgic.cpus[cpu].listed):
                self._vgic.retarget_lpi(number, None)
            self._store_pending(cpu, bank.latch)
            bank.latch = 0
            self._is_enabled[cpu] = False

    # --- registers ----------------------------------------------------------------------------

    def read(self, cpu: int, offset: int) -> int:
        """Return the word at an offset of a redistributor's RD frame; 0 if it is not of LPIs."""
        match offset & ~7:
            case gic.GICR_CTLR:
                is_enabled = gic.GICR_CTLR_ENABLE_LPIS if self._is_enabled[cpu] else 0
                register = is_enabled | gic.GICR_CTLR_CES | gic.GICR_CTLR_IR
            case gic.GICR_PROPBASER:
                register = self._propbaser
            case gic.GICR_PENDBASER:
                register = self._pendbaser[cpu] & ~_PEND.PTZ.mask
            case _:
                return 0
        return register >> 8 * (offset & 4) & 0xFFFF_FFFF

    def write(self, cpu: int, offset: int, size: int, value: int) -> None:
        """Write a register of a redistributor's RD frame, 4 or 8 bytes of it."""
        match offset & ~7:
            case gic.GICR_CTLR if offset == gic.GICR_CTLR:
                self._set_enabled(cpu, bool(value & gic.GICR_CTLR_ENABLE_LPIS))
            case gic.GICR_PROPBASER if not any(self._is_enabled):
                value = replace_bytes(self._propbaser, offset & 7, size, value)
                self._propbaser = value & _PROP_WRITABLE
            case gic.GICR_PENDBASER if not self._is_enabled[cpu]:
                value = replace_bytes(self._pendbaser[cpu], offset & 7, size, value)
                self._pendbaser[cpu] = value & _PEND_WRITABLE
            case gic.GICR_INVLPIR if offset == gic.GICR_INVLPIR:
                self.reload(value & 0xFFFF_FFFF)
            case gic.GICR_INVALLR if offset == gic.GICR_INVALLR:
                self.reload_all()
