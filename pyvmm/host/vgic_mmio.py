"""The register frames of the guest's interrupt controller: one GICD, and one GICR per CPU.

The registers from IGROUPR to ICFGR have the same offsets in the GICD (for SPIs) and in the SGI
frame of a GICR (for INTID 0..31), and a ``Bank`` ignores INTIDs that it does not implement; so one
pair of functions serves both.  Unimplemented registers read as zero and ignore writes, as IHI 0069
allows: message-based SPIs, the legacy registers, and without an ITS those of LPIs; and GICR_WAKER,
as under KVM: a redistributor is always awake.  ``lpi.py`` has the registers of LPIs.

Spec: Arm IHI 0069, "Distributor register map", "Redistributor register map".
"""

from abc import ABC, abstractmethod

from pyvmm.arch import gic
from pyvmm.host.vgic import Bank, Vgic

IIDR = 0x5000_0000  # product 'P', no registered implementer: no driver has a quirk for it
WORD = 0xFFFF_FFFF
_ID_BITS_WITHOUT_LPIS = 10


class _Frame(ABC):
    """Registers of 32 bits, of which 1, 2, 4 or 8 bytes are read at a time."""

    def __init__(self, vgic: Vgic) -> None:
        self._vgic = vgic

    @abstractmethod
    def _read(self, offset: int) -> int:
        """Return the register at a multiple of 4; the lock is held."""

    def read(self, offset: int, size: int) -> int:
        """Return the value of a naturally aligned access of 1, 2, 4 or 8 bytes."""
        with self._vgic.lock:
            if size == 8:
                return self._read(offset & ~3) | self._read(offset + 4 & ~3) << 32
            word = self._read(offset & ~3)
        return word >> 8 * (offset & 3) & (1 << 8 * size) - 1


class Distributor(_Frame):
    """The GICD frame (64 KiB), an MMIO device."""

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register; 1- and 2-byte writes affect only the priorities."""
        with self._vgic.lock:
            if size >= 4:
                self._write(offset & ~3, value & WORD)
                if size == 8:
                    self._write(offset + 4 & ~3, value >> 32 & WORD)
            elif gic.GICD_IPRIORITYR <= offset < gic.GICD_ITARGETSR:
                write_priorities(self._vgic.spis, offset - gic.GICD_IPRIORITYR, size, value)

    def _read(self, offset: int) -> int:
        vgic = self._vgic
        if gic.GICD_IGROUPR <= offset < gic.GICD_IGRPMODR:
            return read_bank(vgic.spis, offset)
        if gic.GICD_IROUTER <= offset < gic.GICD_IROUTER_END:
            return self._read_route(offset)
        if offset == gic.GICD_CTLR:
            return vgic.groups | gic.GICD_CTLR_ARE | gic.GICD_CTLR_DS
        if offset == gic.GICD_TYPER:
            lines = (len(vgic.routes) + 31) // 32 - 1
            return lines | self._id_bits() | gic.GICD_TYPER_A3V | gic.GICD_TYPER_NO1N
        if offset == gic.GICD_IIDR:
            return IIDR
        return gic.PIDR2_GICV3 if offset == gic.GIC_PIDR2 else 0

    def _id_bits(self) -> int:
        """Return the fields of GICD_TYPER for the width of INTIDs: LPIs need more bits."""
        if self._vgic.lpis is None:
            return _ID_BITS_WITHOUT_LPIS - 1 << gic.GICD_TYPER_ID_BITS_SHIFT
        return gic.LPI_ID_BITS - 1 << gic.GICD_TYPER_ID_BITS_SHIFT | gic.GICD_TYPER_LPIS

    def _write(self, offset: int, value: int) -> None:
        vgic = self._vgic
        if gic.GICD_IGROUPR <= offset < gic.GICD_IGRPMODR:
            write_bank(vgic, vgic.spis, offset, value)
        elif gic.GICD_IROUTER <= offset < gic.GICD_IROUTER_END:
            self._write_route(offset, value)
        elif offset == gic.GICD_CTLR:
            vgic.groups = value & (gic.GICD_CTLR_GRP0 | gic.GICD_CTLR_GRP1)
        else:
            return
        vgic.notify_all()

    def _read_route(self, offset: int) -> int:
        intid = offset - gic.GICD_IROUTER >> 3
        if not self._vgic.spis.implemented >> intid & 1:
            return 0
        affinity = self._vgic.routes[intid]
        return affinity >> 24 if offset & 4 else affinity & 0xFF_FFFF

    def _write_route(self, offset: int, value: int) -> None:
        intid = offset - gic.GICD_IROUTER >> 3
        if not self._vgic.spis.implemented >> intid & 1:
            return
        old = self._vgic.routes[intid]
        if offset & 4:
            affinity = old & 0xFF_FFFF | (value & 0xFF) << 24
        else:  # bit 31, 1-of-N routing, is not implemented (GICD_TYPER.No1N)
            affinity = old & 0xFF00_0000 | value & 0xFF_FFFF
        self._vgic.route(intid, affinity)


class Redistributor(_Frame):
    """The two GICR frames (RD and SGI, 128 KiB together) of one CPU, an MMIO device."""

    def __init__(self, vgic: Vgic, cpu: int) -> None:
        super().__init__(vgic)
        self._cpu = cpu
        self._bank = vgic.cpus[cpu].private
        self._typer = (
            vgic.cpus[cpu].affinity << gic.GICR_TYPER_AFFINITY_SHIFT
            | cpu << gic.GICR_TYPER_NUMBER_SHIFT
            | (gic.GICR_TYPER_LAST if cpu == len(vgic.cpus) - 1 else 0)
        )

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register; 1- and 2-byte writes affect only the priorities."""
        sgi_offset = offset - gic.GICR_SGI_FRAME
        with self._vgic.lock:
            if gic.GICD_IPRIORITYR <= sgi_offset < gic.GICD_ITARGETSR:
                write_priorities(self._bank, sgi_offset - gic.GICD_IPRIORITYR, size, value)
            elif size >= 4 and gic.GICD_IGROUPR <= sgi_offset < gic.GICD_IGRPMODR:
                # The upper word of an 8-byte write is for INTIDs 32..63: not implemented here.
                write_bank(self._vgic, self._bank, sgi_offset & ~3, value & WORD)
                self._vgic.notify_all()
            elif size >= 4 and self._vgic.lpis is not None:
                self._vgic.lpis.write(self._cpu, offset & ~3, size, value)

    def _read(self, offset: int) -> int:
        sgi_offset = offset - gic.GICR_SGI_FRAME
        if gic.GICD_IGROUPR <= sgi_offset < gic.GICD_IGRPMODR:
            return read_bank(self._bank, sgi_offset)
        lpis = self._vgic.lpis
        match offset:
            case gic.GICR_TYPER:
                return self._typer & WORD | (0 if lpis is None else gic.GICR_TYPER_PLPIS)
            case _ if offset == gic.GICR_TYPER + 4:
                return self._typer >> 32
            case gic.GICR_IIDR:
                return IIDR
            case gic.GIC_PIDR2:
                return gic.PIDR2_GICV3
            case _:
                return 0 if lpis is None else lpis.read(self._cpu, offset)


def read_bank(bank: Bank, offset: int) -> int:
    """Read the word at ``offset`` of the registers IGROUPR..ICFGR."""
    if offset >= gic.GICD_ICFGR:
        return _read_config(bank, offset - gic.GICD_ICFGR)
    if offset >= gic.GICD_IPRIORITYR:
        start = offset - gic.GICD_IPRIORITYR
        return int.from_bytes(bank.priority[start : start + 4], "little") if start < 1024 else 0
    match offset & ~0x7F:
        case gic.GICD_IGROUPR:
            bits = bank.group1
        case gic.GICD_ISENABLER | gic.GICD_ICENABLER:
            bits = bank.enabled
        case gic.GICD_ISPENDR | gic.GICD_ICPENDR:
            bits = bank.pending
        case _:
            bits = bank.active
    return bits >> 8 * (offset & 0x7F) & WORD


def write_bank(vgic: Vgic, bank: Bank, offset: int, value: int) -> None:
    """Write the word at ``offset`` of the registers IGROUPR..ICFGR; the lock is held."""
    if offset >= gic.GICD_ICFGR:
        _write_config(bank, offset - gic.GICD_ICFGR, value)
        return
    if offset >= gic.GICD_IPRIORITYR:
        write_priorities(bank, offset - gic.GICD_IPRIORITYR, 4, value)
        return
    shift = 8 * (offset & 0x7F)
    bits = value << shift & bank.implemented
    match offset & ~0x7F:
        case gic.GICD_IGROUPR:
            bank.group1 = bank.group1 & ~(WORD << shift) | bits
        case gic.GICD_ISENABLER:
            bank.enabled |= bits
        case gic.GICD_ICENABLER:
            bank.enabled &= ~bits
        case gic.GICD_ISPENDR:
            bank.latch |= bits
        case gic.GICD_ICPENDR:
            bank.latch &= ~bits
        case gic.GICD_ISACTIVER:
            bank.active |= bits
        case _:  # GICD_ICACTIVER
            bank.active &= ~bits
            vgic.release_inactive()


def write_priorities(bank: Bank, first: int, size: int, value: int) -> None:
    """Write ``size`` priorities from INTID ``first`` on; only implemented bits are kept."""
    for intid in range(first, first + size):
        if bank.implemented >> intid & 1:
            bank.priority[intid] = value & gic.PRIORITY_MASK
        value >>= 8


def _read_config(bank: Bank, offset: int) -> int:
    """Move 16 configuration bits to the odd bits of ICFGR<n>; 1 is edge-triggered."""
    edge = bank.edge >> 4 * offset & 0xFFFF
    return sum(2 << 2 * n for n in range(16) if edge >> n & 1)


def _write_config(bank: Bank, offset: int, value: int) -> None:
    edge = sum(1 << n for n in range(16) if value >> 2 * n & 2)
    window = 0xFFFF << 4 * offset & bank.implemented & ~bank.fixed_edge
    bank.edge = bank.edge & ~window | edge << 4 * offset & window
