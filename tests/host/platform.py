"""A platform without a CPU: memory in four spaces, the real Monitor, the real RMM, scripted PEs."""

from collections.abc import Callable, Mapping
from mmap import mmap

from monitor.monitor import Monitor
from pyvmm.arch.events import Event, EventStream
from pyvmm.arch.pas import GRANULE_SIZE, GranuleProtectionFault, Pas
from pyvmm.arch.rmi_revisions import VERSION_2_0
from pyvmm.host.allocator import Allocator
from pyvmm.host.guest import GuestConfig, RealmOptions, Segment
from pyvmm.host.realm import Realm
from pyvmm.host.vgic import Vgic
from rmm.rmi import REVISIONS
from rmm.rmi2 import ALL_REVISIONS
from rmm.rmm import Rmm
from tests.host.fakes import DRAM_BASE, FakeBus, Script, ScriptedPes
from tests.memory import ViewedMemory
from tests.rmm.world import FakeRecord, Interfaces

DRAM_SIZE = 24 << 20
RAM_BASE = 0x8000_0000
RAM_SIZE = 4 << 20
ENTRY = RAM_BASE + 0x8_0000
ID_REGISTERS = {(3, 0, 0, 7, 0): 5, (3, 0, 0, 7, 1): 0x20, (3, 0, 0, 5, 0): 5 << 12 | 3 << 20}


class CheckedMemory(ViewedMemory):
    """One physical address space, checked against the Monitor's table once there is one."""

    def __init__(self, machine: "PlatformMachine", pas: Pas) -> None:
        """Start with zeros."""
        self._machine = machine
        self._pas = pas
        self.data = mmap(-1, DRAM_SIZE)

    def view(self, pa: int, size: int) -> memoryview:
        """Check, and return a window."""
        offset = pa - DRAM_BASE
        if not 0 <= offset <= DRAM_SIZE - size:
            raise GranuleProtectionFault(pa, self._pas)
        if self._machine.gpi is not None:
            for granule in range(pa & -GRANULE_SIZE, pa + size, GRANULE_SIZE):
                if self._machine.gpi(granule) != 8 | self._pas:
                    raise GranuleProtectionFault(granule, self._pas)
        return memoryview(self.data)[offset : offset + size]


class PlatformMachine(ScriptedPes, Interfaces):
    """DRAM, and PEs, each with a script."""

    dram_base = DRAM_BASE
    dram_size = DRAM_SIZE

    def __init__(self, *scripts: Script) -> None:
        """Make a PE of every script."""
        super().__init__(*scripts)
        self.num_pes = len(scripts)
        self.gpi: Callable[[int], int] | None = None
        self.memories = {pas: CheckedMemory(self, pas) for pas in Pas}

    def memory(self, pas: Pas) -> CheckedMemory:
        """Return one space."""
        return self.memories[pas]

    def set_gpt(self, gptbr_pa: int, gpccr: int) -> None:
        """Do nothing: the rig uses the Monitor's table."""

    def punch(self, pas: Pas, pa: int, size: int) -> None:
        """Zero memory without checking the table."""
        offset = pa - DRAM_BASE
        self.memories[pas].data[offset : offset + size] = bytes(size)

    def tlbi_pa(self, pa: int, size: int) -> None:
        """Nothing is cached."""

    def tlbi_ipa(self, vmid: int, ipa: int, size: int) -> None:
        """Nothing is cached."""

    def tlbi_vmid(self, vmid: int) -> None:
        """Nothing is cached."""

    def new_record(self, pas: Pas, size: int, registers: Mapping[str, int]) -> FakeRecord:
        """Make a record."""
        return FakeRecord(self.memory(pas), size, registers)

    def id_register(self, op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
        """Read one of a few."""
        return ID_REGISTERS.get((op0, op1, crn, crm, op2), 0)


class RealmRig:
    """A realm whose vCPUs follow scripts, on a booted platform."""

    def __init__(
        self,
        *scripts: Script,
        segments: tuple[Segment, ...] = (),
        options: RealmOptions | None = None,
    ) -> None:
        """Boot Monitor and RMM, and prepare the realm."""
        self.events: list[Event] = []
        stream = EventStream(self.events.append)
        self.machine = PlatformMachine(*scripts)
        self.monitor = Monitor(self.machine, stream)
        self.machine.gpi = self.monitor.gpi
        is_new = options is not None and options.revision == VERSION_2_0
        revisions = ALL_REVISIONS if is_new else REVISIONS
        self.rmm = Rmm(self.machine, self.monitor.conduit(Pas.REALM), revisions, stream)
        assert self.monitor.boot(self.rmm) == 0
        self.ns = self.machine.memory(Pas.NS)
        self.dram = self.monitor.layout.ns_size
        self.allocator = Allocator(DRAM_BASE, self.dram)
        self.bus = FakeBus(a1000004=0x80)
        self.vgic = Vgic(len(scripts))
        self.realm = Realm(
            self.monitor.conduit(Pas.NS),
            self.ns,
            self.allocator,
            bus=self.bus,
            vgic=self.vgic,
            config=GuestConfig(
                len(scripts), RAM_BASE, RAM_SIZE, segments, ENTRY, (0x1234, 0, 0, 0)
            ),
            kick=lambda cpu: self.machine.pe(cpu).kick(),
            options=options,
            interfaces=[pe.interface for pe in self.machine.pes] if is_new else (),
        )
