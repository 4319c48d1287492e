"""A machine whose PEs follow a script: for the run loops of the host."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event

from pyvmm.arch.errors import RepeatAccess
from pyvmm.arch.esr import ESR_EL2, ExceptionClass
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.gic import NUM_LRS
from pyvmm.arch.machine import PeContext, PeDebug
from pyvmm.arch.pas import GranuleProtectionFault, Pas
from tests.memory import ViewedMemory

DRAM_BASE = 0x8000_0000
DRAM_SIZE = 8 << 20


class SparseMemory(ViewedMemory):
    """Non-secure memory by granule; ``refused`` are the granules that the GPT took away."""

    def __init__(self, base: int = DRAM_BASE, size: int = DRAM_SIZE) -> None:
        """Make memory of zeros."""
        self.base = base
        self.data = bytearray(size)
        self.refused: set[int] = set()

    def view(self, pa: int, size: int) -> memoryview:
        """Check, and return a window."""
        if not self.base <= pa <= self.base + len(self.data) - size:
            raise GranuleProtectionFault(pa, Pas.NS)
        for granule in range(pa & ~0xFFF, pa + size, 4096):
            if granule in self.refused:
                raise GranuleProtectionFault(granule, Pas.NS)
        return memoryview(self.data)[pa - self.base : pa - self.base + size]


@dataclass
class FakeContext:
    """The registers that the host uses."""

    x: list[int] = field(default_factory=lambda: [0] * 31)
    v: list[int] = field(default_factory=lambda: [0] * 64)
    ich_lr: list[int] = field(default_factory=lambda: [0] * 16)
    pc: int = 0
    pstate: int = 0
    sp_el0: int = 0
    sp_el1: int = 0
    fpcr: int = 0
    fpsr: int = 0
    sctlr_el1: int = 0
    tcr_el1: int = 0
    ttbr0_el1: int = 0
    ttbr1_el1: int = 0
    cpacr_el1: int = 0
    cntv_ctl: int = 0
    cntp_ctl: int = 0
    elr_el1: int = 0
    spsr_el1: int = 0
    esr_el1: int = 0
    far_el1: int = 0
    vbar_el1: int = 0
    hcr_el2: int = 0
    vtcr_el2: int = 0
    vttbr_el2: int = 0
    vmpidr_el2: int = 0
    vpidr_el2: int = 0
    cntvoff_el2: int = 0
    cnthctl_el2: int = 0
    ich_hcr: int = 0
    ich_vmcr: int = 0
    ich_misr: int = 0
    cntv_cval: int = 0
    cntp_cval: int = 0
    mdcr_el2: int = 0
    cptr_el2: int = 0
    pmcr: int = 0
    pmcntenset: int = 0
    pmintenset: int = 0
    pmovsset: int = 0
    pmccntr: int = 0
    pmccfiltr: int = 0
    pmu_overflow: int = 0
    pmevcntr: list[int] = field(default_factory=lambda: [0] * 6)
    pmevtyper: list[int] = field(default_factory=lambda: [0] * 6)
    security: int = 0


@dataclass
class FakeExit:
    """One exit from the guest."""

    reason: int = ExitReason.SYNC
    esr: int = 0
    far: int = 0
    hpfar: int = 0
    irq: int = 0
    instructions: int = 1


def call(ec: ExceptionClass, context: FakeContext, fid: int, *args: int) -> FakeExit:
    """Call what is below, by HVC from a normal VM or by SMC from a realm."""
    context.x[0] = fid
    context.x[1 : 1 + len(args)] = args
    return FakeExit(esr=ESR_EL2.of(EC=ec, IL=1))


#: The guest as a generator: it is given its context, and yields its exits.
Script = Callable[[FakeContext], Iterator[FakeExit]]


def fewer_interrupts(context: FakeContext, listed: list[list[int]]) -> Iterator[FakeExit]:
    """Assert both timers, then one, then none, and record the list registers of the next entries.

    The last one has been handled by the guest.
    """
    for cntv_ctl, cntp_ctl in ((5, 5), (7, 5), (7, 7)):
        context.cntv_ctl, context.cntp_ctl = cntv_ctl, cntp_ctl
        if cntp_ctl == 7:
            context.ich_lr[:NUM_LRS] = [0] * NUM_LRS
        yield FakeExit(ExitReason.IRQ, irq=2)
        listed.append([lr & 0xFFFF_FFFF for lr in context.ich_lr[:NUM_LRS]])


class FakePe:
    """Runs a script; at its end it sleeps until a kick."""

    def __init__(self, script: Script) -> None:
        """Store the script; it starts at the first run."""
        self.interface: PeContext = FakeContext()  # ICH_*_EL2
        self._script = script
        self._guest: Iterator[FakeExit] | None = None
        self._kicked = Event()
        self.kicks = 0

    def run(self, context: object, budget: int) -> FakeExit:
        """Continue the script to its next exit."""
        assert budget > 0
        assert isinstance(context, FakeContext)
        if self._guest is None:
            self._guest = self._script(context)
        exit_ = next(self._guest, None)
        if exit_ is None:
            assert self._kicked.wait(10), "nobody kicked a sleeping PE"
            self._kicked.clear()
            return FakeExit(ExitReason.IRQ, irq=1)
        return exit_

    def translate(
        self, _context: object, va: int, _access: int = 0, /
    ) -> tuple[int, int, Pas, bool]:
        """Return the address unchanged."""
        return 0, va, Pas.NS, False

    def kick(self) -> None:
        """Wake it."""
        self.kicks += 1
        self._kicked.set()


class ScriptedPes:
    """A machine's PEs, with a script each."""

    def __init__(self, *scripts: Script) -> None:
        """Make a PE of every script."""
        self.pes = [FakePe(script) for script in scripts]

    def pe(self, index: int) -> FakePe:
        """Return a PE."""
        return self.pes[index]

    def new_context(self) -> FakeContext:
        """Return zeros."""
        return FakeContext()

    def new_debug(self) -> PeDebug:
        """Return nothing: debugging needs the real machine."""
        raise NotImplementedError

    def lend_debug(self, context: object, debug: PeDebug | None) -> None:
        """See above."""
        raise NotImplementedError


class FakeMachine(ScriptedPes):
    """Stands still, and logs what it is asked to drop."""

    def __init__(self, *scripts: Script) -> None:
        """Start with empty logs."""
        super().__init__(*scripts)
        self.punched: list[tuple[Pas, int, int]] = []
        self.forgotten: list[int] = []

    def counter(self) -> int:
        """Stand still."""
        return 0

    dram_base = 0

    def id_register(self, op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
        """Have the low digits of the encoding in a field each."""
        return op0 << 12 | op1 << 16 | 1 << 8 | crn << 20 | crm << 4 | op2

    def set_counter(self, count: int) -> None:
        """See `memfd`."""
        raise NotImplementedError

    def save_context(self, context: object) -> dict[str, list[int]]:
        """See `memfd`."""
        raise NotImplementedError

    def load_context(self, context: object, saved: Mapping[str, Sequence[int]]) -> None:
        """See `memfd`."""
        raise NotImplementedError

    def memfd(self, pas: Pas) -> int:
        """Return nothing: a guest is saved from the real machine."""
        raise NotImplementedError

    def tlbi_vmid(self, vmid: int) -> None:
        """Log it."""
        self.forgotten.append(vmid)

    def punch(self, pas: Pas, pa: int, size: int) -> None:
        """Log it."""
        self.punched.append((pas, pa, size))


class FakeBus:
    """Logs accesses and answers reads from a table."""

    def __init__(self, **answers: int) -> None:
        """Reads of address ``a<hex>`` give the keyword's value."""
        self.num_repeats = 0  # writes that are to be repeated
        self.answers = {int(name[1:], 16): value for name, value in answers.items()}
        self.log: list[tuple[str, int, int, int]] = []

    def read(self, addr: int, size: int) -> int:
        """Answer a read."""
        value = self.answers.get(addr, 0)
        self.log.append(("read", addr, size, value))
        return value

    def write(self, addr: int, size: int, value: int) -> None:
        """Take a write."""
        self.log.append(("write", addr, size, value))
        if self.num_repeats:
            self.num_repeats -= 1
            raise RepeatAccess
