"""Software that owns the normal world: it starts at EL2 (or EL1), and nothing of ours is below it.

It is the other client of a PE's normal world (ADR 10): its addresses are physical ones, its SMCs go
to the Monitor, and so it may have realms of its own.  Each PE's thread runs the context until an
SMC, an access outside DRAM or an interrupt; the distributor forwards interrupts to the physical
interface in the list registers of the context.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from pyvmm.arch.bits import MASK64
from pyvmm.arch.errors import UserError
from pyvmm.arch.esr import (
    EC_SHIFT,
    ESR_ABORT,
    ESR_EL2,
    ESR_SYSREG,
    ExceptionClass,
    FaultStatus,
    ipa_of,
)
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.gic import (
    ICH_HCR_EN,
    PPI_HYP_PHYSICAL_TIMER,
    PPI_HYP_VIRTUAL_TIMER,
    PPI_MAINTENANCE,
    PPI_PHYSICAL_TIMER,
    PPI_PMU,
    PPI_VIRTUAL_TIMER,
)
from pyvmm.arch.hcr import HCR_EL2
from pyvmm.arch.machine import GuestRegisters, PeContext, PeContextWithEl2, PeExit, PhysicalMemory
from pyvmm.arch.pas import GRANULE_OFFSET, GranuleProtectionFault, Pas
from pyvmm.arch.pstate import (
    EL1H_MASKED,
    EL2H_MASKED,
    SPSR_EL1,
    VECTOR_CURRENT_SP0,
    VECTOR_CURRENT_SPX,
    VECTOR_LOWER_A64,
)
from pyvmm.arch.smccc import NUM_ARGS
from pyvmm.arch.timer import CTL_ASSERTED, CTL_FIELDS
from pyvmm.host import cpu_interface, inject
from pyvmm.host.access import perform_access
from pyvmm.host.debug import DebugPort
from pyvmm.host.dma import LinearMemory
from pyvmm.host.guest import Bus, ExitKind, GuestConfig, GuestState, Outcome, Progress
from pyvmm.host.machine import Firmware, MachineWithEl2
from pyvmm.host.normal_debug import NormalDebug
from pyvmm.host.turns import Turns, make_vcpus
from pyvmm.host.vcpu import VcpuGuest
from pyvmm.host.vgic import NO_LIMITS, Vgic

BUDGET: Final = 1 << 40  # instructions; practically unlimited
NEVER: Final = MASK64  # a count of the generic timer
XZR: Final = 31
#: EL1 has no hypervisor: HVC is undefined, and all interrupts are its own.
HCR_WITHOUT_EL2: Final = int(HCR_EL2.of(RW=1, HCD=1, API=1, APK=1))


class Outputs(Protocol):
    """The registers of a context that show the levels of its outputs."""

    cntv_ctl: int
    cntp_ctl: int
    cnthp_ctl: int
    cnthv_ctl: int
    maintenance: int
    pmu_overflow: int


class Wires:
    """The wires from one PE's timers, PMU and GIC interface to the distributor."""

    __slots__ = ("_cpu", "_levels", "_vgic")

    def __init__(self, vgic: Vgic, cpu: int) -> None:
        self._vgic = vgic
        self._cpu = cpu
        self._levels = (False,) * len(_PPIS)

    def sample(self, context: Outputs) -> None:
        """Drive the wires to the levels at the exit."""
        levels = (
            context.cntv_ctl & CTL_FIELDS == CTL_ASSERTED,
            context.cntp_ctl & CTL_FIELDS == CTL_ASSERTED,
            context.cnthp_ctl & CTL_FIELDS == CTL_ASSERTED,
            context.cnthv_ctl & CTL_FIELDS == CTL_ASSERTED,
            bool(context.maintenance),
            bool(context.pmu_overflow),
        )
        if levels == self._levels:
            return
        for ppi, old, new in zip(_PPIS, self._levels, levels, strict=True):
            if old != new:
                self._vgic.set_ppi(self._cpu, ppi, new)
        self._levels = levels


_PPIS: Final = (
    PPI_VIRTUAL_TIMER,
    PPI_PHYSICAL_TIMER,
    PPI_HYP_PHYSICAL_TIMER,
    PPI_HYP_VIRTUAL_TIMER,
    PPI_MAINTENANCE,
    PPI_PMU,
)


class PrivilegedSoftware(VcpuGuest):
    """The software of the normal world; a ``Guest``, whose RAM is DRAM itself."""

    def __init__(
        self,
        machine: MachineWithEl2,
        memory: PhysicalMemory,
        firmware: Firmware,
        *,
        bus: Bus,
        vgic: Vgic,
        config: GuestConfig,
        turns: Turns | None = None,
    ) -> None:
        self._machine = machine
        self._firmware = firmware
        self._bus = bus
        self._vgic = vgic
        self._config = config
        self.dma = LinearMemory(memory, config.ram_base, config.ram_size, config.ram_base)
        self._vcpus = make_vcpus(config.num_cpus, self._run, self._kick, vgic, turns)
        self._wires = [Wires(vgic, cpu) for cpu in range(config.num_cpus)]
        self._debug: NormalDebug | None = None
        self._memory = memory
        self._contexts = [self._new_context() for _ in range(config.num_cpus)]

    # --- power, for the Monitor -------------------------------------------------------------

    def power_on(self, cpu: int, entry: int, argument: int) -> bool:
        """Start a PE at the level of the boot PE; return False if it is on."""
        return self._vcpus.power_on(cpu, lambda: self._prepare(cpu, entry, argument))

    def power_off(self, cpu: int) -> None:
        """Turn a PE off."""
        self._vcpus.power_off(cpu)

    def is_on(self, cpu: int) -> bool:
        """Check whether a PE is on."""
        return self._vcpus.is_on(cpu)

    def end(self, *, is_reset: bool) -> None:
        """Turn the machine off, or reset it."""
        self._vcpus.finish(Outcome.RESET if is_reset else Outcome.OFF)

    # --- Guest ------------------------------------------------------------------------------

    def _build(self, progress: Progress | None) -> None:
        """Load the payload and set the boot PE's registers."""
        segments = self._config.segments
        for done, segment in enumerate(segments, 1):
            self.dma.write(segment.ipa, segment.data)
            if progress is not None:
                progress(done, len(segments))
        self._prepare(0, self._config.entry, 0)
        for n, value in enumerate(self._config.args):
            self._contexts[0].x[n] = value

    def debug_port(self) -> DebugPort:
        """Return the port for a debugger."""
        if self._debug is None:
            self._debug = NormalDebug(self._machine, self._memory, self._vcpus, self._contexts)
        return self._debug

    @property
    def contexts(self) -> Sequence[PeContext]:
        """The contexts of the PEs, for an observer while they stand still."""
        return self._contexts

    def _last_registers(self, cpu: int) -> GuestRegisters:
        return self._contexts[cpu]

    def save(self) -> GuestState:
        """Refuse: it may have realms, which cannot be saved."""
        raise UserError("software at EL2 or EL1 of the machine cannot be saved: run it as a guest")

    def load(self, state: GuestState) -> None:
        """Refuse."""
        del state
        raise UserError("a snapshot cannot be restored at EL2 or EL1 of the machine")

    def used_memory(self) -> Iterator[tuple[int, int]]:
        """Yield nothing: it cannot be saved."""
        yield from ()

    def send_serror(self, cpu: int) -> None:
        """Refuse: there is no source of SErrors in the machine."""
        raise UserError(f"no SError for CPU {cpu}: its software is not a guest")

    def release(self, ipa: int, size: int) -> None:
        """Take back some of the RAM."""
        offset = ipa - self._config.ram_base
        if not 0 <= offset <= self._config.ram_size - size:
            raise GranuleProtectionFault(ipa, Pas.NS)
        self.dma.transfers.after(lambda: self._machine.punch(Pas.NS, ipa, size))

    def close(self) -> None:
        """Stop the PEs and wait for them."""
        self.stop()
        self.wait()

    # --- PEs --------------------------------------------------------------------------------

    def _kick(self, cpu: int) -> None:
        self._machine.pe(cpu).kick()

    def _new_context(self) -> PeContextWithEl2:
        context = self._machine.new_context_with_el2()
        context.security = Pas.NS
        if not self._config.has_el2:
            context.pstate = EL1H_MASKED
            context.hcr_el2 = HCR_WITHOUT_EL2
        return context

    def _prepare(self, cpu: int, entry: int, argument: int) -> None:
        context = self._new_context()
        if self._debug is not None:
            self._debug.adopt(cpu, context)
        self._contexts[cpu] = context
        context.pstate = EL2H_MASKED if self._config.has_el2 else EL1H_MASKED
        context.pc = entry
        context.x[0] = argument

    def _run(self, cpu: int) -> None:
        """Run one PE while it may run."""
        vgic, running, wires = self._vgic, self._vcpus.running, self._wires[cpu]
        pe, exits, debug = self._machine.pe(cpu), self._vcpus.exits[cpu], self._debug
        while running[cpu]:
            context = self._contexts[cpu]  # CPU_ON may precede the parking of this thread
            for n, lr in enumerate(vgic.load_lrs(cpu)):
                context.icc_lr[n] = lr
            context.icc_hcr = ICH_HCR_EN | vgic.hcr(cpu)
            exit_ = pe.run(context, BUDGET)
            wires.sample(context)
            vgic.sync_lrs(cpu, context.icc_lr, context.icc_hcr)
            if exit_.reason == ExitReason.SYNC:
                exits[self._handle_sync(cpu, context, exit_)] += 1
            else:
                exits[ExitKind.IRQ] += 1
            if debug is not None:
                debug.ran(cpu, exit_, context.pc)

    def _handle_sync(self, cpu: int, context: PeContextWithEl2, exit_: PeExit) -> int:
        """Handle a synchronous exit; return its ``ExitKind``."""
        esr = exit_.esr
        last = self._vcpus.last_exits[cpu]
        last.esr = esr
        match esr >> EC_SHIFT & 0x3F:
            case ExceptionClass.SMC64:
                last.call = context.x[0] & 0xFFFF_FFFF
                self._call(cpu, context)
                return ExitKind.PSCI
            case ExceptionClass.DATA_ABORT_LOWER if esr & ESR_ABORT.ISV.mask:
                last.ipa = addr = ipa_of(exit_.hpfar) | exit_.far & GRANULE_OFFSET
                perform_access(self._bus, context, addr, esr)
                return ExitKind.MMIO
            case ExceptionClass.SYSREG:
                register = ESR_SYSREG.RT.decode(esr)
                self._vgic.send_sgi(cpu, context.x[register] if register != XZR else 0)
                inject.skip(context)
                return ExitKind.SYSREG
            case ExceptionClass.DATA_ABORT_LOWER if esr & ESR_ABORT.CM.mask:
                inject.skip(context)  # cache maintenance of a device: nothing to do
            case exception_class:
                last.ipa = ipa_of(exit_.hpfar)
                fetch = exception_class == ExceptionClass.INSTRUCTION_ABORT_LOWER
                external_abort(context, exit_.far, fetch=fetch)
        return ExitKind.OTHER

    def _call(self, cpu: int, context: PeContextWithEl2) -> None:
        """Have the Monitor serve an SMC, which may run a realm on this PE meanwhile.

        An interrupt that the PE's interface signals ends the run of the realm; so does a timer of
        EL2 whose interrupt it would signal.
        """
        inject.skip(context)
        vgic, pe, limits = self._vgic, self._machine.pe(cpu), cpu_interface.limits(context)
        vgic.limit(cpu, limits)
        lrs = vgic.load_lrs(cpu)
        if cpu_interface.signals(lrs, limits):
            self._kick(cpu)
        timers = cpu_interface.deadlines(context)
        pe.set_alarm(
            min((count for count, ppi in timers if vgic.may_signal(cpu, ppi)), default=NEVER)
        )
        results = self._firmware.smc(cpu, [context.x[n] for n in range(NUM_ARGS)])
        pe.set_alarm(NEVER)
        vgic.limit(cpu, NO_LIMITS)
        vgic.sync_lrs(cpu, lrs)
        for n, value in enumerate(results[:NUM_ARGS]):
            context.x[n] = value


def external_abort(context: PeContextWithEl2, far: int, *, fetch: bool) -> None:
    """Answer the access at ``far`` with an external abort, at the level that takes it."""
    level = SPSR_EL1.EL.decode(context.pstate)
    hcr = HCR_EL2(context.hcr_el2)
    if level < 2 and not (hcr.TGE and not level) and not hcr.TEA:
        inject.external_abort(context, far, fetch=fetch)
        return
    lower = ExceptionClass.INSTRUCTION_ABORT_LOWER if fetch else ExceptionClass.DATA_ABORT_LOWER
    is_same = level == 2
    context.esr_el2 = int(ESR_EL2.of(EC=lower + is_same, IL=1, ISS=FaultStatus.SYNC_EXTERNAL))
    context.far_el2, context.elr_el2, context.spsr_el2 = far, context.pc, context.pstate
    current = VECTOR_CURRENT_SPX if context.pstate & SPSR_EL1.SP.mask else VECTOR_CURRENT_SP0
    context.pc = context.vbar_el2 + (current if is_same else VECTOR_LOWER_A64)
    kept = SPSR_EL1.NZCV.mask | SPSR_EL1.DIT.mask | SPSR_EL1.PAN.mask
    context.pstate = context.pstate & kept | EL2H_MASKED
