"""An ITS and its CPUs, used like by Linux's driver: tables, commands, messages of devices."""

from collections.abc import Callable
from struct import pack

from pyvmm.arch import gic, its
from pyvmm.arch.its import BASER, CBASER, ItsCommand
from pyvmm.host.dma import LinearMemory
from pyvmm.host.its import Its
from pyvmm.host.vgic import NO_LRS, Vgic
from pyvmm.host.vgic_mmio import Distributor, Redistributor
from tests.host.fakes import DRAM_BASE, SparseMemory

QUEUE = DRAM_BASE + 0x10_0000
DEVICES = DRAM_BASE + 0x11_0000
COLLECTIONS = DRAM_BASE + 0x12_0000
ITTS = DRAM_BASE + 0x13_0000  # 4 KiB each
CONFIG = DRAM_BASE + 0x20_0000
PENDING = DRAM_BASE + 0x21_0000  # 64 KiB each
MEMORY_SIZE = 0x24_0000

DEVICE = 8
LPI = gic.FIRST_LPI_INTID
VALID = 1 << 63


def never() -> bool:
    """Return False: vCPUs need not stop."""
    return False


class ItsBoard:
    """A probed controller with an ITS; each CPU has the collection of its number."""

    def __init__(self, num_cpus: int = 2, is_halting: Callable[[], bool] = never) -> None:
        self.memory = SparseMemory(size=MEMORY_SIZE)
        self.kicks: list[int] = []
        self.vgic = Vgic(num_cpus, kick=self.kicks.append)
        dma = LinearMemory(self.memory, DRAM_BASE, MEMORY_SIZE, DRAM_BASE)
        self.its = Its(self.vgic, dma, is_halting)
        self.gicrs = [Redistributor(self.vgic, cpu) for cpu in range(num_cpus)]
        Distributor(self.vgic).write(gic.GICD_CTLR, 4, gic.GICD_CTLR_GRP1)
        self.written = 0

    def start(self) -> "ItsBoard":
        """Give it all tables, and enable everything."""
        self.give_tables()
        self.its.write(its.GITS_CTLR, 4, its.GITS_CTLR_ENABLED)
        for cpu in range(len(self.gicrs)):
            self.enable_lpis(cpu)
            self.command(ItsCommand.MAPC, third=VALID | cpu << 16 | cpu)
        return self

    def give_tables(self) -> None:
        """Write the addresses of the queue and the tables."""
        self.its.write(its.GITS_CBASER, 8, CBASER.VALID.mask | QUEUE)
        self.its.write(its.GITS_BASER, 8, BASER.VALID.mask | DEVICES)
        self.its.write(its.GITS_BASER + 8, 8, BASER.VALID.mask | COLLECTIONS)

    def enable_lpis(self, cpu: int, is_enabled: bool = True) -> None:
        """Give a redistributor its tables, and set EnableLPIs."""
        self.gicrs[cpu].write(gic.GICR_PROPBASER, 8, CONFIG | gic.LPI_ID_BITS - 1)
        self.gicrs[cpu].write(gic.GICR_PENDBASER, 8, PENDING + 0x1_0000 * cpu)
        self.gicrs[cpu].write(gic.GICR_CTLR, 4, int(is_enabled))

    def command(
        self, kind: int, first: int = 0, second: int = 0, third: int = 0, last: int = 0
    ) -> None:
        """Append one command to the queue."""
        entry = pack("<4Q", kind | first << 32, second, third, last)
        place = QUEUE + self.written - DRAM_BASE
        self.memory.data[place : place + len(entry)] = entry
        self.written = (self.written + 32) % 0x1000
        self.its.write(its.GITS_CWRITER, 8, self.written)

    def map_device(self, device: int = DEVICE, event_bits: int = 5) -> None:
        """Give a device its ITT."""
        itt = ITTS + 0x1000 * device
        self.command(ItsCommand.MAPD, device, event_bits - 1, VALID | itt)

    def map(self, event: int, intid: int, cpu: int = 0, priority: int = 0xA0) -> None:
        """Give an event an enabled LPI in a CPU's collection."""
        self.configure(intid, priority | gic.LPI_ENABLED)
        self.command(ItsCommand.MAPTI, DEVICE, event | intid << 32, cpu)

    def configure(self, intid: int, config: int) -> None:
        """Write an LPI's byte of the configuration table."""
        self.memory.write(CONFIG + intid - LPI, bytes((config,)))

    def pending_byte(self, cpu: int, intid: int) -> int:
        """Return the byte of a CPU's pending table in memory that has an LPI's bit."""
        return self.memory.read(PENDING + 0x1_0000 * cpu + intid // 8, 1)[0]

    def listed(self, cpu: int = 0) -> list[int]:
        """Enter and leave a CPU, which takes no interrupt; return the pending INTIDs."""
        lrs = list(self.vgic.load_lrs(cpu))
        self.vgic.sync_lrs(cpu, lrs)
        return [lr & gic.ICH_LR_INTID_MASK for lr in lrs if lr & gic.ICH_LR_PENDING]

    def take(self, cpu: int = 0) -> list[int]:
        """Enter a CPU, which handles what is pending, and leave it; return the INTIDs."""
        lrs = list(self.vgic.load_lrs(cpu))
        self.vgic.sync_lrs(cpu, NO_LRS)
        return [lr & gic.ICH_LR_INTID_MASK for lr in lrs if lr & gic.ICH_LR_PENDING]
