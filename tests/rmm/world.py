"""A world for the RMM's tests: a machine without a CPU, an EL3, and a host with helpers."""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from mmap import mmap
from typing import ClassVar

from pyvmm.arch import rmmd
from pyvmm.arch.esr import ESR_ABORT, ESR_SYSREG, ExceptionClass, hpfar_of
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.gic import NUM_LRS
from pyvmm.arch.machine import PeContext, PeDebug, PhysicalMemory
from pyvmm.arch.pas import GRANULE_SIZE, GranuleProtectionFault, Pas
from pyvmm.arch.rmi import EXIT_OFFSET, RealmParams, RecEnter, RecExit, RecParams, RmiFid
from pyvmm.arch.rmi2 import RealmParams2
from pyvmm.arch.rmi_debug import MAX_BREAKPOINTS, MAX_WATCHPOINTS
from pyvmm.arch.rmmd import RmmdError, RmmdFid
from pyvmm.arch.smccc import UNKNOWN, call_series
from pyvmm.token.generations import Generation
from rmm.commands import RmiCommand
from rmm.protocols import El3
from rmm.rmi import REVISIONS
from rmm.rmm import Rmm
from tests.memory import ViewedMemory

DRAM_BASE = 0x8000_0000
DRAM_SIZE = 4 << 20
NUM_GRANULES = DRAM_SIZE // GRANULE_SIZE
SHARED_PA = DRAM_BASE + DRAM_SIZE  # one granule more, always Realm: EL3's page for the RMM
NUM_PES = 4
ID_REGISTERS = {
    (3, 0, 0, 0, 0): 0x410F_D0C0,  # MIDR_EL1
    (3, 0, 0, 4, 0): 0x1111_1111_1111_1111,
    (3, 0, 0, 4, 1): 0x1111_1111_1111_1111,
    (3, 0, 0, 5, 0): 0x1111_1111_1115_5116 | 5 << 12 | 3 << 20,
    (3, 0, 0, 6, 0): 0x1234,
    (3, 0, 0, 7, 0): 0x5,  # 48 bits of PA
    (3, 0, 0, 7, 1): 0x20,  # 16-bit VMIDs
    (3, 3, 9, 12, 0): 6 << 11,  # PMCR_EL0: 6 event counters
}


class FakeMemory(ViewedMemory):
    """One PAS of the fake machine, checked against its GPT."""

    def __init__(self, machine: "FakeMachine", pas: Pas) -> None:
        """Start with zeros."""
        self.machine = machine
        self.pas = pas
        self.data = mmap(-1, DRAM_SIZE + GRANULE_SIZE)  # zeros that cost nothing until written

    def view(self, pa: int, size: int) -> memoryview:
        """Check each granule, and return a window."""
        offset = pa - DRAM_BASE
        if not 0 <= offset <= len(self.data) - size:
            raise GranuleProtectionFault(pa, self.pas)
        for granule in range(offset >> 12, offset + size + GRANULE_SIZE - 1 >> 12):
            if self.machine.gpt[granule] != self.pas:
                raise GranuleProtectionFault(pa, self.pas)
        return memoryview(self.data)[offset : offset + size]


@dataclass
class FakeContext:
    """The registers that the RMM touches."""

    x: list[int] = field(default_factory=lambda: [0] * 31)
    v: list[int] = field(default_factory=lambda: [0] * 64)
    ich_lr: list[int] = field(default_factory=lambda: [0] * 16)
    pc: int = 0
    pstate: int = 0
    sctlr_el1: int = 0
    elr_el1: int = 0
    spsr_el1: int = 0
    esr_el1: int = 0
    far_el1: int = 0
    vbar_el1: int = 0
    cntv_ctl: int = 0
    cntv_cval: int = 0
    cntp_ctl: int = 0
    cntp_cval: int = 0
    hcr_el2: int = 0
    vtcr_el2: int = 0
    vttbr_el2: int = 0
    vmpidr_el2: int = 0
    vpidr_el2: int = 0
    cntvoff_el2: int = 0
    cnthctl_el2: int = 0
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
    ich_hcr: int = 0
    ich_vmcr: int = 0
    ich_misr: int = 0
    security: int = 0
    sp_el0: int = 0
    sp_el1: int = 0
    fpcr: int = 0
    fpsr: int = 0
    csselr_el1: int = 0
    cpacr_el1: int = 0
    ttbr0_el1: int = 0
    ttbr1_el1: int = 0
    tcr_el1: int = 0
    afsr0_el1: int = 0
    afsr1_el1: int = 0
    par_el1: int = 0
    mair_el1: int = 0
    amair_el1: int = 0
    contextidr_el1: int = 0
    tpidr_el1: int = 0
    tpidr_el0: int = 0
    tpidrro_el0: int = 0
    cntkctl_el1: int = 0
    mdscr_el1: int = 0
    pmselr: int = 0
    pmuserenr: int = 0


@dataclass
class FakeExit:
    """One return of ``run``."""

    reason: int = ExitReason.IRQ
    esr: int = 0
    far: int = 0
    hpfar: int = 0
    irq: int = 0
    instructions: int = 0


class FakeRecord:
    """Words of which some are registers."""

    def __init__(self, memory: PhysicalMemory, size: int, registers: Mapping[str, int]) -> None:
        """Start with zeros."""
        self.memory = memory
        self.registers = registers
        self.words = memoryview(bytearray(size)).cast("Q")

    def write(self, pa: int, context: PeContext) -> None:
        """Copy the registers, then the words."""
        for name, at in self.registers.items():
            value = getattr(context, name)
            each = (value,) if isinstance(value, int) else value
            self.words[at // 8 : at // 8 + len(each)] = memoryview(array("Q", each))
        self.memory.write(pa, self.words.cast("B"))


#: One stretch of guest code: what it does to its registers, and how it ends.
Step = Callable[[PeContext], FakeExit]


@dataclass
class FakeWatchpoint:
    """A range."""

    addr: int = 0
    size: int = 0
    access: int = 0


@dataclass
class FakeDebug:
    """The debugger's part of a context."""

    breakpoints: list[int] = field(default_factory=lambda: [0] * MAX_BREAKPOINTS)
    watchpoints: list[FakeWatchpoint] = field(
        default_factory=lambda: [FakeWatchpoint() for _ in range(MAX_WATCHPOINTS)]
    )
    step: int = 0
    num_breakpoints: int = 0
    num_watchpoints: int = 0


class FakePe:
    """A PE whose guest is a list of Python functions; after the last one it takes an IRQ."""

    def __init__(self) -> None:
        """Start with nothing to run."""
        self.steps: list[Step] = []
        self.interface: PeContext = FakeContext()  # ICH_*_EL2
        self.translations: dict[int, tuple[int, Pas]] = {}  # of pages

    def translate(self, _context: PeContext, va: int, access: int, /) -> tuple[int, int, Pas, bool]:
        """Look a page up, for a debugger."""
        assert access == 3
        pa, pas = self.translations.get(va & -GRANULE_SIZE, (0, Pas.ROOT))
        return (0 if pa else 7), pa | va % GRANULE_SIZE, pas, False

    def run(self, context: PeContext, budget: int, /) -> FakeExit:
        """Do the next step."""
        assert budget > 0
        return self.steps.pop(0)(context) if self.steps else FakeExit()


class Interfaces:
    """Accesses ICH_*_EL2 of contexts."""

    def list_registers(self, context: PeContext) -> bytes:
        """Pack the list registers."""
        return array("Q", [context.ich_lr[n] for n in range(NUM_LRS)]).tobytes()

    def copy_interface(self, source: PeContext, target: PeContext) -> None:
        """Copy the registers."""
        for n in range(16):
            target.ich_lr[n] = source.ich_lr[n]
        for name in ("ich_hcr", "ich_vmcr", "ich_misr"):
            setattr(target, name, getattr(source, name))


class FakeMachine(Interfaces):
    """Memory with a GPT, scripted PEs, and a list of the invalidations."""

    def __init__(self) -> None:
        """Give all DRAM to the normal world."""
        self.gpt = [Pas.NS] * NUM_GRANULES + [Pas.REALM]
        self.memories = {pas: FakeMemory(self, pas) for pas in (Pas.NS, Pas.REALM)}
        self.pes = [FakePe() for _ in range(NUM_PES)]
        self.tlbis: list[tuple[int, ...]] = []
        self.lent: list[tuple[PeContext, PeDebug | None]] = []

    def memory(self, pas: Pas) -> FakeMemory:
        """Return one PAS."""
        return self.memories[pas]

    def pe(self, index: int) -> FakePe:
        """Return one PE."""
        return self.pes[index]

    def new_context(self) -> FakeContext:
        """Make a context."""
        return FakeContext()

    def new_record(self, pas: Pas, size: int, registers: Mapping[str, int]) -> FakeRecord:
        """Make a record."""
        return FakeRecord(self.memory(pas), size, registers)

    def new_debug(self) -> FakeDebug:
        """Make a debugger's part without points."""
        return FakeDebug()

    def lend_debug(self, context: PeContext, debug: PeDebug | None) -> None:
        """Record the operation."""
        self.lent.append((context, debug))

    def tlbi_ipa(self, vmid: int, ipa: int, size: int) -> None:
        """Record the operation."""
        self.tlbis.append((vmid, ipa, size))

    def tlbi_vmid(self, vmid: int) -> None:
        """Record the operation."""
        self.tlbis.append((vmid,))

    def id_register(self, op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
        """Read one of a few."""
        return ID_REGISTERS.get((op0, op1, crn, crm, op2), 0)


class FakeEl3:
    """The GTSI half of a Monitor, without other calls."""

    MOVES: ClassVar = {
        int(RmmdFid.GTSI_DELEGATE): (Pas.NS, Pas.REALM),
        int(RmmdFid.GTSI_UNDELEGATE): (Pas.REALM, Pas.NS),
    }

    def __init__(self, machine: FakeMachine) -> None:
        """Guard the GPT of a machine."""
        self.machine = machine

    def smc(self, _pe: int, args: Sequence[int]) -> tuple[int, ...]:
        """Move a granule; what it was before is dropped."""
        if args[0] not in self.MOVES:
            return UNKNOWN
        old, new = self.MOVES[args[0]]
        index = (args[1] - DRAM_BASE) // GRANULE_SIZE
        if self.machine.gpt[index] != old:
            return (RmmdError.BAD_PAS & (1 << 64) - 1,)
        self.machine.memories[old].zero(args[1], GRANULE_SIZE)
        self.machine.gpt[index] = new
        return (0,)

    def smc_series(
        self, pe: int, args: Sequence[int], steps: Sequence[int], count: int
    ) -> tuple[int, tuple[int, ...]]:
        """Call one by one."""
        return call_series(self.smc, pe, args, steps, count)


def boot_manifest() -> bytearray:
    """Describe the fake DRAM as EL3 would."""
    words = (1, SHARED_PA + rmmd.BANKS_OFFSET, DRAM_BASE, DRAM_SIZE)
    manifest = rmmd.BootManifest.of(
        version=rmmd.MANIFEST_VERSION,
        dram_num_banks=1,
        dram_banks=words[1],
        dram_checksum=-sum(words) & (1 << 64) - 1,
    )
    bank = rmmd.DramBank.of(base=DRAM_BASE, bank_size=DRAM_SIZE)
    manifest.data[rmmd.BANKS_OFFSET : rmmd.BANKS_OFFSET + bank.size] = bank.data
    return manifest.data


class Host:
    """A host that can build realms on a booted RMM.

    Subclasses say of which machine: they set the attributes below.
    """

    rmm: Rmm
    ns: PhysicalMemory
    realm_memory: PhysicalMemory
    pes: list[FakePe]

    def __init__(self) -> None:
        """Start with all memory unused."""
        self._next = DRAM_BASE

    # --- commands -----------------------------------------------------------------------------

    def call(self, fid: int, *args: int, pe: int = 0) -> tuple[int, ...]:
        """Issue a command; returns x0..x4."""
        raise NotImplementedError

    def do(self, fid: int, *args: int, pe: int = 0) -> tuple[int, ...]:
        """Issue a command that must succeed; returns its outputs."""
        results = self.call(fid, *args, pe=pe)
        assert results[0] == 0, f"{fid!r}: {results}"
        return results[1:]

    # --- granules -----------------------------------------------------------------------------

    def is_realm(self, pa: int) -> bool:
        """Ask the GPT whether a granule is in the Realm PAS."""
        raise NotImplementedError

    def ns_granule(self, data: bytes | bytearray = b"", *, align: int = GRANULE_SIZE) -> int:
        """Allocate a granule of the host, with content."""
        pa = -(-self._next // align) * align
        self._next = pa + GRANULE_SIZE
        assert self._next <= DRAM_BASE + DRAM_SIZE
        self.ns.write(pa, data)
        return pa

    def delegated(self, count: int = 1, *, align: int = GRANULE_SIZE) -> int:
        """Allocate and delegate ``count`` granules in a row; returns the first."""
        first = self.ns_granule(align=align)
        self._next = first + count * GRANULE_SIZE
        for pa in range(first, self._next, GRANULE_SIZE):
            self.do(RmiFid.RMI_GRANULE_DELEGATE, pa)
        return first

    # --- realms -------------------------------------------------------------------------------

    def realm_params(self, **changes: int | bytes) -> RealmParams:
        """Make parameters of a 33-bit realm with one start table at level 1."""
        params = RealmParams.of(s2sz=33, num_bps=1, num_wps=1, vmid=7, rtt_level_start=1)
        params.rtt_num_start = 1
        self.change(params, changes)
        return params

    def change(
        self, params: RealmParams | RealmParams2, changes: Mapping[str, int | bytes]
    ) -> None:
        """Change some parameters; unless the start tables are given, allocate them."""
        for name, value in changes.items():
            setattr(params, name, value)
        if "rtt_base" not in changes:
            count = max(1, params.rtt_num_start)
            params.rtt_base = self.delegated(count, align=count * GRANULE_SIZE)

    def realm(self, *, depth: int = 3, **changes: int | bytes) -> int:
        """Create a realm with tables down to ``depth`` for IPA 0 and the first unprotected IPA."""
        params = self.realm_params(**changes)
        rd = self.delegated()
        self.do(RmiFid.RMI_REALM_CREATE, rd, self.ns_granule(params.data))
        for base in (0, 1 << params.s2sz - 1):
            self.tables(rd, base, range(params.rtt_level_start + 1, depth + 1))
        return rd

    def tables(self, rd: int, ipa: int, levels: Sequence[int]) -> list[int]:
        """Create the tables for an IPA at each level; returns their PAs."""
        pas = [self.delegated() for _ in levels]
        for pa, level in zip(pas, levels, strict=True):
            mask = (1 << 12 + 9 * (4 - level)) - 1
            self.do(RmiFid.RMI_RTT_CREATE, rd, pa, ipa & ~mask, level)
        return pas

    def rec_params(self, **changes: int | tuple[int, ...]) -> RecParams:
        """Make parameters of a runnable REC 0 with its auxiliary granules."""
        params = RecParams.of(flags=1, pc=0x1000, num_aux=2)
        for name, value in changes.items():
            setattr(params, name, value)
        if "aux" not in changes:
            params.aux = (self.delegated(), self.delegated(), *[0] * 14)
        return params

    def rec(self, rd: int, **changes: int | tuple[int, ...]) -> int:
        """Create a REC."""
        rec = self.delegated()
        params = self.rec_params(**changes)
        self.do(RmiFid.RMI_REC_CREATE, rd, rec, self.ns_granule(params.data))
        return rec

    def page(self, rd: int, ipa: int) -> int:
        """Give a NEW realm a page of RAM; returns its PA."""
        pa = self.delegated()
        self.do(RmiFid.RMI_DATA_CREATE, rd, pa, ipa, self.ns_granule(), 0)
        return pa

    # --- running ------------------------------------------------------------------------------

    def enter(self, rec: int, *steps: Step, pe: int = 0, enter: RecEnter | None = None) -> RecExit:
        """Enter a REC that does ``steps``; returns what the host gets to see."""
        run = self.ns_granule((enter or RecEnter()).data)
        self._next = run  # the next one may have it
        if steps:
            self.pes[pe].steps += steps
        assert self.call(RmiFid.RMI_REC_ENTER, rec, run, pe=pe)[0] == 0
        return RecExit(self.ns.read(run + EXIT_OFFSET, RecExit.size))


class World(Host):
    """The fake machine and its host."""

    def __init__(
        self,
        make_el3: Callable[[FakeMachine], El3] = FakeEl3,
        token_generation: Generation = Generation.G1,
        revisions: Mapping[int, Mapping[int, RmiCommand]] = REVISIONS,
    ) -> None:
        """Boot the RMM on a fresh machine."""
        super().__init__()
        self.machine = FakeMachine()
        self.pes = self.machine.pes
        self.el3 = make_el3(self.machine)
        self.rmm = Rmm(self.machine, self.el3, revisions, token_generation=token_generation)
        self.ns = self.machine.memory(Pas.NS)
        self.realm_memory = self.machine.memory(Pas.REALM)
        self.realm_memory.write(SHARED_PA, boot_manifest())
        assert self.rmm.boot(0, rmmd.INTERFACE_VERSION, NUM_PES, SHARED_PA) == 0

    def call(self, fid: int, *args: int, pe: int = 0) -> tuple[int, ...]:
        """Issue a command; returns x0..x4."""
        return (*self.rmm.handle(pe, fid, args), 0, 0, 0, 0, 0)[:5]

    def is_realm(self, pa: int) -> bool:
        """Ask the GPT whether a granule is in the Realm PAS."""
        return self.machine.gpt[(pa - DRAM_BASE) // GRANULE_SIZE] is Pas.REALM

    def context(self, rec: int) -> FakeContext:
        """Look at a REC's registers."""
        context = self.rmm.recs[rec].context
        assert isinstance(context, FakeContext)
        return context

    # --- state --------------------------------------------------------------------------------

    def snapshot(self) -> tuple[object, ...]:
        """The state that a failed command must not change."""
        rmm = self.rmm
        used = self._next - DRAM_BASE  # nobody was told of memory beyond
        return (
            bytes(rmm.granules.states),
            tuple(self.machine.gpt),
            *(self.machine.memory(pas).data[:used] for pas in (Pas.NS, Pas.REALM)),
            [_realm_state(rmm, rd) for rd in rmm.realms],
            [_rec_state(rmm, rec) for rec in rmm.recs],
        )


def _realm_state(rmm: Rmm, rd: int) -> tuple[object, ...]:
    realm = rmm.realms[rd]
    live = {pa: (table.live, table.shared) for pa, table in realm.rtt.tables.items()}
    starts = [(table.live, table.shared) for table in realm.rtt.start]
    return (
        (rd, realm.state, realm.num_recs, realm.num_live_recs),
        list(realm.measurements.values),
        realm.metadata,
        live,
        starts,
    )


def _rec_state(rmm: Rmm, pa: int) -> tuple[object, ...]:
    rec = rmm.recs[pa]
    change = rec.ripas_change
    pending = (rec.psci, change, change and change.base, rec.host_call_ipa, rec.abort)
    return (pa, rec.runnable, rec.running, pending, rec.sysreg_rt, repr(rec.context))


# --- what guest code can do -------------------------------------------------------------------


def smc(*args: int) -> Step:
    """Return a step that calls the RMM with x0.. = ``args``."""

    def step(context: PeContext) -> FakeExit:
        for index, value in enumerate(args):
            context.x[index] = value
        return FakeExit(ExitReason.SYNC, int(ESR_ABORT.of(EC=ExceptionClass.SMC64, IL=1)))

    return step


def abort(ipa: int, va: int = 0xABC, *, fetch: int = 0, **fields: int) -> Step:
    """Return a step that faults at stage 2."""
    ec = ExceptionClass.INSTRUCTION_ABORT_LOWER if fetch else ExceptionClass.DATA_ABORT_LOWER
    esr = ESR_ABORT.of(**{"EC": ec, "IL": 1, "FSC": 0b000111, **fields})
    return lambda _: FakeExit(ExitReason.SYNC, int(esr), va, hpfar_of(ipa))


def sysreg(op0: int, op1: int, crn: int, crm: int, op2: int, *, rt: int, read: bool) -> Step:
    """Return a step that traps at a system register."""
    esr = ESR_SYSREG.of(
        EC=ExceptionClass.SYSREG,
        IL=1,
        OP0=op0,
        OP1=op1,
        CRN=crn,
        CRM=crm,
        OP2=op2,
        RT=rt,
        READ=read,
    )
    return lambda _: FakeExit(ExitReason.SYNC, int(esr))


def trap(ec: ExceptionClass, iss: int = 0) -> Step:
    """Return a step that ends with any other exception."""
    return lambda _: FakeExit(ExitReason.SYNC, int(ESR_ABORT.of(EC=ec, IL=1)) | iss)
