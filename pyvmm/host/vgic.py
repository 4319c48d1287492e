"""The interrupts of a guest: their state, and the contents of the list registers.

A GICv3 with affinity routing, one security state, SPIs, PPIs and SGIs, and LPIs if there is an
ITS.  This file has the state and its delivery; ``vgic_mmio.py`` has the register frames, ``lpi.py``
the tables of LPIs.  A vCPU thread gets the list registers for an entry from ``load_lrs`` and passes
them to ``sync_lrs`` after the exit, both for a normal VM (ICH_LR<n>_EL2) and for a realm
(REC_ENTER).

Interrupts are bits: every property is one integer in which bit n belongs to INTID n, so a register
of the distributor is a slice of it and the set of deliverable interrupts is one expression.  LPIs,
which are INTIDs from 8192 on, are the bits from 1024 on.

Invariant: an INTID is *held* by at most one CPU, from its entry into that CPU's list registers (or
its activation) until it is neither listed nor active; no other CPU gets it meanwhile.  An LPI is
pending at one CPU, which may change while a list register has it: the pending state then moves when
that list register is read back.

Spec: Arm IHI 0069, "Interrupt handling and prioritization", "ICH_LR<n>_EL2".
"""

from collections.abc import Callable, Iterator
from threading import Lock
from typing import Protocol

from pyvmm.arch.gic import (
    FIRST_LPI_INTID,
    GICD_CTLR_GRP0,
    GICD_CTLR_GRP1,
    ICH_HCR_EOICOUNT_SHIFT,
    ICH_HCR_UIE,
    ICH_LR_ACTIVE,
    ICH_LR_EOI,
    ICH_LR_GROUP1,
    ICH_LR_PENDING,
    ICH_LR_PRIORITY_SHIFT,
    MAX_SPI_INTID,
    NUM_LRS,
    NUM_PRIVATE,
    NUM_SGIS,
    PPI_PHYSICAL_TIMER,
    PPI_PMU,
    PPI_VIRTUAL_TIMER,
    PRIORITY_MASK,
    SGI_AFF1_SHIFT,
    SGI_AFF2_SHIFT,
    SGI_AFF3_SHIFT,
    SGI_INTID_SHIFT,
    SGI_IRM,
    SGI_RS_SHIFT,
    affinity_of,
)
from pyvmm.arch.saved import State, StateError, bits, items, number, part

#: INTID 32..159: UARTs 0-3, virtio-mmio 4-63, PCI 64-94, PL031 95, watchdog 96.
DEFAULT_NUM_SPIS = 128
_BANK_BITS = ("active", "edge", "enabled", "group1", "latch", "line")
_BANK_SIZE = 128  # bytes, for all INTIDs up to 1019
_PE_LINES = 1 << PPI_VIRTUAL_TIMER | 1 << PPI_PHYSICAL_TIMER | 1 << PPI_PMU
PRIVATE_MASK = (1 << NUM_PRIVATE) - 1
SGI_MASK = (1 << NUM_SGIS) - 1
FIRST_LPI_BIT = 1024
_LPI_OFFSET = FIRST_LPI_INTID - FIRST_LPI_BIT
NO_LRS = [0] * NUM_LRS
_NO_OTHERS = NO_LRS[1:]

Kick = Callable[[int], None]
#: For groups 0 and 1: the priority from which on no interrupt makes a CPU exit.
Limits = tuple[int, int]
NO_LIMITS: Limits = (0x100, 0x100)


class ListRegisters(Protocol):
    """List registers in any container: a list, a tuple, the core's array."""

    def __getitem__(self, index: int, /) -> int:
        """Return ICH_LR<index>_EL2."""


class LpiFrame(Protocol):
    """The registers of a redistributor that concern LPIs; the lock is held."""

    def read(self, cpu: int, offset: int, /) -> int:
        """Return the word at an offset; 0 if it does not concern LPIs."""

    def write(self, cpu: int, offset: int, size: int, value: int, /) -> None:
        """Write 4 or 8 bytes."""

    def save(self) -> State:
        """Return the state of all LPIs."""

    def load(self, state: State, /) -> None:
        """Set it; StateError if it is not the state of such LPIs."""


def intids(bits: int) -> Iterator[int]:
    """Yield the INTIDs of a bitmap, ascending.

    >>> list(intids(0b101))
    [0, 2]
    """
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def bitmap(value: int) -> bytes:
    """Return a bitmap of interrupts without LPIs as bytes."""
    return value.to_bytes(_BANK_SIZE, "little")


class Bank:
    """The state of a set of interrupts: the private ones or the LPIs of one CPU, or all SPIs.

    ``latch`` is the pending state set by software or an edge; ``line`` has the input wires.  Bits
    outside ``implemented`` stay zero.
    """

    __slots__ = (
        "active", "edge", "enabled", "fixed_edge", "group1", "implemented", "latch", "line",
        "priority",
    )  # fmt: skip

    def __init__(self, implemented: int, fixed_edge: int = 0) -> None:
        self.implemented = implemented
        self.fixed_edge = fixed_edge  # SGIs: their configuration cannot be changed
        self.edge = fixed_edge
        self.group1 = implemented
        self.enabled = self.latch = self.line = self.active = 0
        self.priority = bytearray(implemented.bit_length())

    def save(self) -> State:
        """Return the state."""
        state: State = {name: bitmap(getattr(self, name)) for name in _BANK_BITS}
        return state | {"priority": bytes(self.priority)}

    def load(self, state: State) -> None:
        """Set the state; bits of interrupts that do not exist are ignored.

        Raises:
            StateError: it is not the state of these interrupts.
        """
        for name in _BANK_BITS:
            setattr(self, name, bits(state, name) & self.implemented)
        self.edge |= self.fixed_edge
        priority = state.get("priority")
        if not isinstance(priority, bytes) or len(priority) != len(self.priority):
            raise StateError("priority has another size")
        self.priority[:] = bytes(each & PRIORITY_MASK for each in priority)

    @property
    def pending(self) -> int:
        """The pending interrupts: latched, or level-sensitive with the line asserted."""
        return self.latch | (self.line & ~self.edge)

    def set_line(self, bit: int, level: bool) -> None:
        """Drive the input; an edge-triggered interrupt latches the rising edge."""
        if not level:
            self.line &= ~bit
            return
        self.latch |= bit & self.edge & ~self.line
        self.line |= bit


class Cpu:
    """One CPU: its private interrupts and LPIs, its route bitmap and its list registers."""

    __slots__ = (
        "affinity", "held", "is_kicked", "is_loaded", "leaving", "limits", "listed", "lpis",
        "private", "spis", "uie",
    )  # fmt: skip

    def __init__(self, index: int) -> None:
        self.affinity = affinity_of(index)
        self.private = Bank(PRIVATE_MASK, fixed_edge=SGI_MASK)
        self.lpis = Bank(0)  # none without an ITS
        self.spis = 0  # SPIs that IROUTER sends here
        self.held = 0
        self.listed: list[int] = []  # the bit of the interrupt in each list register
        self.leaving: dict[int, int | None] = {}  # listed LPIs that move to a CPU, or end
        self.is_loaded = False  # between load_lrs and sync_lrs
        self.is_kicked = False
        self.limits = NO_LIMITS
        self.uie = 0


class Vgic:
    """The guest's interrupt controller; every method may be called from any thread."""

    def __init__(
        self, num_cpus: int, num_spis: int = DEFAULT_NUM_SPIS, kick: Kick | None = None
    ) -> None:
        """Make the controller; ``num_spis`` is a multiple of 32."""
        last = min(NUM_PRIVATE + num_spis - 1, MAX_SPI_INTID)
        self.lock = Lock()
        self.cpus = [Cpu(index) for index in range(num_cpus)]
        self.spis = Bank(((1 << last + 1) - 1) & ~PRIVATE_MASK)
        self.routes = [0] * (last + 1)  # affinity by INTID
        self.cpus[0].spis = self.spis.implemented
        self.groups = 0  # GICD_CTLR.EnableGrp0/1
        self.lpis: LpiFrame | None = None  # with an ITS
        self._kick = kick

    def connect(self, kick: Kick) -> None:
        """Set the function that makes a CPU exit, so that it calls ``load_lrs`` again."""
        self._kick = kick

    def save(self) -> State:
        """Return the state, while all vCPUs stand still."""
        with self.lock:
            return {
                "lpis": self.lpis.save() if self.lpis is not None else {},
                "groups": self.groups,
                "routes": list(self.routes),
                "spis": self.spis.save(),
                "cpus": [
                    {
                        "private": cpu.private.save(),
                        "spis": bitmap(cpu.spis),
                        "held": bitmap(cpu.held),
                    }
                    for cpu in self.cpus
                ],
            }

    def load(self, state: State) -> None:
        """Set the state; timers and PMU drive their wires again at the next exit of each vCPU.

        Raises:
            StateError: it is not the state of such a controller.
        """
        self.groups = number(state, "groups", 4)
        routes = items(state, "routes", len(self.routes))
        self.routes = [number({"route": each}, "route", 1 << 40) for each in routes]
        self.spis.load(part(state, "spis"))
        for cpu, each in zip(self.cpus, items(state, "cpus", len(self.cpus)), strict=True):
            saved = part({"cpu": each}, "cpu")
            cpu.private.load(part(saved, "private"))
            cpu.private.line &= ~_PE_LINES
            cpu.spis = bits(saved, "spis") & self.spis.implemented
            cpu.held = bits(saved, "held") & (self.spis.implemented | PRIVATE_MASK)
        if self.lpis is not None:
            self.lpis.load(part(state, "lpis"))

    # --- inputs ---------------------------------------------------------------------------

    def set_spi(self, intid: int, level: bool) -> None:
        """Drive the wire of an SPI (INTID 32 and up); unknown INTIDs are ignored."""
        bit = 1 << intid & self.spis.implemented
        with self.lock:
            self.spis.set_line(bit, level)
            if level:
                self.notify_all()

    def set_ppi(self, cpu: int, intid: int, level: bool) -> None:
        """Drive the wire of a PPI (INTID 16..31) of one CPU."""
        with self.lock:
            self.cpus[cpu].private.set_line(1 << intid, level)
            if level:
                self.notify(cpu)

    def send_sgi(self, cpu: int, value: int) -> None:
        """Perform a write of ``value`` to ICC_SGI1R_EL1 by ``cpu``."""
        bit = 1 << (value >> SGI_INTID_SHIFT & 0xF)
        with self.lock:
            for index in self._sgi_targets(cpu, value):
                self.cpus[index].private.latch |= bit
                self.notify(index)

    def _sgi_targets(self, sender: int, value: int) -> Iterator[int]:
        if value & SGI_IRM:
            yield from (index for index in range(len(self.cpus)) if index != sender)
            return
        cluster = (
            (value >> SGI_AFF1_SHIFT & 0xFF) << 8
            | (value >> SGI_AFF2_SHIFT & 0xFF) << 16
            | (value >> SGI_AFF3_SHIFT & 0xFF) << 24
        )
        first = (value >> SGI_RS_SHIFT & 0xF) * 16  # range selector: our CPUs are below 16
        for index, cpu in enumerate(self.cpus):
            place = (cpu.affinity & 0xFF) - first
            if cpu.affinity & ~0xFF == cluster and 0 <= place < 16 and value >> place & 1:
                yield index

    # --- the vCPU thread ------------------------------------------------------------------

    def load_lrs(self, cpu: int) -> list[int]:
        """Return the list registers for an entry; from now on the CPU counts as running."""
        this, spis = self.cpus[cpu], self.spis
        private = this.private
        this.is_kicked = False
        this.is_loaded = True  # before the look: what changes after it kicks the CPU
        if not (
            private.latch | private.line | private.active | spis.latch | spis.line | spis.active
            | this.lpis.latch
        ):  # fmt: skip
            this.uie = 0
            return NO_LRS
        with self.lock:
            candidates = self._candidates(this)
            if not candidates:
                this.uie = 0
                return NO_LRS
            if not candidates & candidates - 1:  # only one: often it stays pending for many exits
                intid = candidates.bit_length() - 1
                this.uie = 0
                this.listed = [intid]
                return [self._list(this, intid), *_NO_OTHERS]
            chosen = self._choose(this, candidates)
            this.uie = ICH_HCR_UIE if len(chosen) > NUM_LRS else 0
            this.listed = chosen[:NUM_LRS]
            lrs = [self._list(this, intid) for intid in this.listed]
            return lrs + NO_LRS[len(lrs) :]

    def sync_lrs(self, cpu: int, lrs: ListRegisters, hcr: int = 0) -> None:
        """Process the list registers after an exit; ``hcr`` is ICH_HCR_EL2 at the exit."""
        this = self.cpus[cpu]
        if not this.listed and not hcr >> ICH_HCR_EOICOUNT_SHIFT:
            this.is_loaded = False
            return
        with self.lock:
            this.is_loaded = False
            released = 0
            for n, intid in enumerate(this.listed):
                released |= 1 << intid
                self._fold(this, intid, lrs[n])
            if hcr >> ICH_HCR_EOICOUNT_SHIFT:
                self._deactivate_unlisted(this, hcr >> ICH_HCR_EOICOUNT_SHIFT & 0x1F)
            this.listed = []
            this.held &= this.private.active | self.spis.active
            if this.leaving:
                self._let_go(this)
            if released & ~this.held & self.spis.implemented & ~this.spis:
                self.notify_all()  # an SPI has been rerouted to another CPU meanwhile

    def num_listed(self, cpu: int) -> int:
        """Return how many of the list registers of the last ``load_lrs`` are in use: the first."""
        return len(self.cpus[cpu].listed)

    def hcr(self, cpu: int) -> int:
        """Return the ICH_HCR_EL2 bits for the last ``load_lrs`` (without En)."""
        return self.cpus[cpu].uie

    def has_pending(self, cpu: int) -> bool:
        """Check whether an interrupt waits for this CPU."""
        with self.lock:
            return bool(self._deliverable(self.cpus[cpu]) & ~self.cpus[cpu].held)

    def limit(self, cpu: int, limits: Limits) -> None:
        """Make a CPU exit only for interrupts of higher priorities, from its next ``load_lrs`` on.

        For one whose interface masks the others, and which cannot change that meanwhile.
        """
        self.cpus[cpu].limits = limits

    def may_signal(self, cpu: int, intid: int) -> bool:
        """Check whether a CPU exits when the wire of a PPI rises."""
        with self.lock:
            this = self.cpus[cpu]
            bit = 1 << intid & this.private.enabled & ~this.private.active
            return bool(self._signalled(this, self._forwarded(bit, this.private.group1)))

    # --- delivery; the lock is held -------------------------------------------------------

    def _signalled(self, cpu: Cpu, bits: int) -> int:
        """Return those of some interrupts for which a CPU exits."""
        if cpu.limits == NO_LIMITS:
            return bits
        group1 = cpu.private.group1 | self.spis.group1 | cpu.lpis.group1
        return sum(
            1 << n
            for n in intids(bits)
            if self._bank(cpu, n).priority[n] & PRIORITY_MASK < cpu.limits[group1 >> n & 1]
        )

    def _deliverable(self, cpu: Cpu) -> int:
        """Return the interrupts that are pending, enabled, routed here and not held elsewhere."""
        private, spis = cpu.private, self.spis
        bits = (private.latch | private.line & ~private.edge) & private.enabled
        group1 = private.group1
        spi_bits = (spis.latch | spis.line & ~spis.edge) & spis.enabled & cpu.spis
        if spi_bits:
            bits |= spi_bits & ~self._held_by_others(cpu)
            group1 |= spis.group1
        if cpu.lpis.latch:
            bits |= cpu.lpis.latch & cpu.lpis.enabled
            group1 |= cpu.lpis.group1
        return self._forwarded(bits, group1) if bits else 0

    def _forwarded(self, bits: int, group1: int) -> int:
        """Return those of some interrupts whose group is enabled."""
        if not self.groups & GICD_CTLR_GRP1:
            bits &= ~group1
        if not self.groups & GICD_CTLR_GRP0:
            bits &= group1
        return bits

    def _candidates(self, cpu: Cpu) -> int:
        """Return the interrupts for the list registers: the deliverable and the active ones."""
        private, spis = cpu.private, self.spis
        bits = self._deliverable(cpu) | private.active
        active_spis = spis.active & (cpu.spis | cpu.held)
        if active_spis:
            bits |= active_spis & ~self._held_by_others(cpu)
        return bits

    def _held_by_others(self, cpu: Cpu) -> int:
        held = 0
        for other in self.cpus:
            if other is not cpu:
                held |= other.held
        return held

    def _choose(self, cpu: Cpu, candidates: int) -> list[int]:
        """Sort candidates: active ones first (needed for their EOI), then by priority."""
        order = list(intids(candidates))
        if len(order) > 1:
            active = cpu.private.active | self.spis.active
            order.sort(key=lambda n: (not active >> n & 1, self._bank(cpu, n).priority[n], n))
        return order

    def _bank(self, cpu: Cpu, intid: int) -> Bank:
        if intid < NUM_PRIVATE:
            return cpu.private
        return self.spis if intid < FIRST_LPI_BIT else cpu.lpis

    def _list(self, cpu: Cpu, intid: int) -> int:
        """Move one interrupt into a list register and return the register."""
        bank = self._bank(cpu, intid)
        bit = 1 << intid
        cpu.held |= bit
        lr = intid if intid < FIRST_LPI_BIT else intid + _LPI_OFFSET
        lr |= (bank.priority[intid] & PRIORITY_MASK) << ICH_LR_PRIORITY_SHIFT
        if bank.group1 & bit:
            lr |= ICH_LR_GROUP1
        is_active = bank.active & bit
        if is_active:
            lr |= ICH_LR_ACTIVE
        if not bank.edge & bit:
            # The line is sampled again after the EOI, so it is never pending and active.
            return lr | ICH_LR_EOI | (0 if is_active else ICH_LR_PENDING)
        if bank.latch & bit and (not is_active or bank.enabled & bit):
            bank.latch &= ~bit
            lr |= ICH_LR_PENDING
        return lr

    def _fold(self, cpu: Cpu, intid: int, lr: int) -> None:
        """Update the state of one listed interrupt after an exit."""
        bank = self._bank(cpu, intid)
        bit = 1 << intid
        if lr & ICH_LR_ACTIVE:
            bank.active |= bit
        else:
            bank.active &= ~bit
        if bank.edge & bit:
            if lr & ICH_LR_PENDING:
                bank.latch |= bit
        elif not lr & (ICH_LR_PENDING | ICH_LR_ACTIVE):
            bank.latch &= ~bit  # a pending state set by software ends with its handling

    def _deactivate_unlisted(self, cpu: Cpu, count: int) -> None:
        """Deactivate active interrupts without a list register, highest priority first."""
        unlisted = cpu.held & (cpu.private.active | self.spis.active)
        unlisted &= ~sum(1 << intid for intid in cpu.listed)
        for intid in self._choose(cpu, unlisted)[:count]:
            self._bank(cpu, intid).active &= ~(1 << intid)

    def _let_go(self, cpu: Cpu) -> None:
        """Move the pending state of LPIs that have left this CPU while it had them listed."""
        for intid, target in cpu.leaving.items():
            bit = 1 << intid
            is_pending = cpu.lpis.latch & bit
            cpu.lpis.latch &= ~bit
            if is_pending and target is not None:
                self.cpus[target].lpis.latch |= bit
                self.notify(target)
        cpu.leaving.clear()

    def notify(self, index: int) -> None:
        """Kick a CPU that runs its guest without a newly deliverable interrupt."""
        cpu = self.cpus[index]
        if not cpu.is_loaded or cpu.is_kicked or self._kick is None:
            return
        deliverable = self._signalled(cpu, self._deliverable(cpu))
        again = cpu.private.latch & cpu.private.edge | self.spis.latch & self.spis.edge
        again |= cpu.lpis.latch
        if deliverable & (~cpu.held | again):
            cpu.is_kicked = True
            self._kick(index)

    def notify_all(self) -> None:
        """Kick every CPU that lacks an interrupt; the caller holds the lock."""
        for index in range(len(self.cpus)):
            self.notify(index)

    # --- LPIs; the lock is held -------------------------------------------------------------

    def retarget_lpi(self, number: int, target: int | None) -> None:
        """Move an LPI's pending state, at whichever CPU it is, to another CPU, or drop it.

        ``number`` is that of its bit.
        """
        for index, cpu in enumerate(self.cpus):
            if index == target:
                cpu.leaving.pop(number, None)
            elif number in cpu.listed:
                cpu.leaving[number] = target
                self._recall(index)
            elif cpu.lpis.latch >> number & 1:
                cpu.lpis.latch &= ~(1 << number)
                if target is not None:
                    self.cpus[target].lpis.latch |= 1 << number
        if target is not None:
            self.notify(target)

    def _recall(self, index: int) -> None:
        """Make a CPU that runs its guest give its list registers back."""
        cpu = self.cpus[index]
        if cpu.is_loaded and not cpu.is_kicked and self._kick is not None:
            cpu.is_kicked = True
            self._kick(index)

    # --- registers; the lock is held --------------------------------------------------------

    def route(self, intid: int, affinity: int) -> None:
        """Route an SPI to the CPU of that affinity, or nowhere if it does not exist."""
        bit = 1 << intid
        self.routes[intid] = affinity
        for cpu in self.cpus:
            if cpu.affinity == affinity:
                cpu.spis |= bit
            else:
                cpu.spis &= ~bit

    def release_inactive(self) -> None:
        """Release interrupts deactivated by GICD_ICACTIVER, except those of running CPUs."""
        for cpu in self.cpus:
            if not cpu.is_loaded:
                cpu.held &= cpu.private.active | self.spis.active
