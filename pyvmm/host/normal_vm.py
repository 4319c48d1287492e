"""A normal VM: what KVM does for kvmtool.

Its RAM is one contiguous range of Non-secure memory, mapped by stage 2 in advance; it may have ROM,
whose writes are device accesses.  Each vCPU
thread runs its PE until an exit and handles it: device accesses go to the bus, HVC is PSCI, SGIs
go to the vGIC; a forbidden operation becomes an exception in the guest.
"""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from pyvmm.arch.bits import MASK32
from pyvmm.arch.el1 import SCTLR_RESET
from pyvmm.arch.esr import (
    EC_SHIFT,
    ESR_ABORT,
    ESR_SYSREG,
    SYSREG_MASK,
    ExceptionClass,
    FaultStatus,
    ipa_of,
    is_id_register,
    sysreg_key,
)
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.gic import ICH_HCR_EN, NUM_LRS, mpidr_of
from pyvmm.arch.hcr import HCR_EL2, MDCR_EL2, MDCR_NO_PMU
from pyvmm.arch.machine import GuestRegisters, PeContext, PeExit, PhysicalMemory
from pyvmm.arch.pas import GRANULE_OFFSET, GRANULE_SIZE, GranuleProtectionFault, Pas
from pyvmm.arch.pstate import EL1H_MASKED
from pyvmm.arch.pv_time import PvTimeFid
from pyvmm.arch.saved import State, StateError, items, number, part
from pyvmm.arch.smccc import NOT_SUPPORTED
from pyvmm.arch.stage2 import level_size
from pyvmm.arch.take_exception import vector_of
from pyvmm.host import inject
from pyvmm.host.access import perform_access
from pyvmm.host.allocator import Allocator
from pyvmm.host.debug import DebugPort
from pyvmm.host.dma import LinearMemory
from pyvmm.host.guest import Bus, ExitKind, GuestConfig, GuestState, Outcome, Progress, Segment
from pyvmm.host.machine import Machine
from pyvmm.host.normal_debug import NormalDebug
from pyvmm.host.psci import Psci
from pyvmm.host.rom import RomMemory
from pyvmm.host.stage2 import Stage2
from pyvmm.host.stolen_time import StolenTime
from pyvmm.host.turns import Turns, make_vcpus
from pyvmm.host.vcpu import PmuLine, TimerLines, VcpuGuest
from pyvmm.host.vcpu_state import LastExit
from pyvmm.host.vgic import NO_LRS, Vgic

XZR: Final = 31
BUDGET: Final = 1 << 40  # instructions; practically unlimited

#: Stage 2 on; interrupts, SErrors and SMCs come to EL2; EL1 is AArch64, and may use PAuth.
HCR: Final = int(HCR_EL2.of(VM=1, SWIO=1, FMO=1, IMO=1, AMO=1, TSC=1, RW=1, APK=1, API=1, FWB=1))

#: Without performance monitors, their ID field is hidden.
HCR_NO_PMU: Final = HCR | HCR_EL2.TID3.mask
DFR0: Final = sysreg_key(3, 0, 0, 5, 0)
DFR0_PMU: Final = 0xF << 8  # PMUVer

HCR_VSE: Final = HCR_EL2.VSE.mask
#: A device access: a translation fault (any level) of an access that the syndrome describes.
ACCESS_KIND: Final = ESR_ABORT.ISV.mask | ESR_ABORT.S1PTW.mask | 0x3C
DEVICE_ACCESS: Final = ESR_ABORT.ISV.mask | FaultStatus.TRANSLATION
ROM_WRITE: Final = ESR_ABORT.ISV.mask | FaultStatus.PERMISSION
CM: Final = ESR_ABORT.CM.mask
DATA_ABORT: Final = int(ExceptionClass.DATA_ABORT_LOWER)
SYNC: Final = int(ExitReason.SYNC)
MMIO: Final = int(ExitKind.MMIO)

ICC_SGI1R: Final = sysreg_key(3, 0, 12, 11, 5)
ICC_ASGI1R: Final = sysreg_key(3, 0, 12, 11, 6)
ICC_SGI0R: Final = sysreg_key(3, 0, 12, 11, 7)
#: Registers of a context that belong to the host; the others are the guest's.
HOST_REGISTERS: Final = frozenset(
    {
        *("hcr_el2", "vtcr_el2", "vttbr_el2", "vmpidr_el2", "vpidr_el2", "cnthctl_el2"),
        *("mdcr_el2", "cptr_el2", "ich_hcr", "ich_lr", "ich_misr", "ich_eisr", "ich_elrsr"),
        *("cntvoff_el2", "security", "pmu_overflow"),
        *("excl_va", "excl_size", "excl_value"),  # the exclusive monitor may be lost at any time
    }
)
ILLEGAL_PSTATE: Final = 0x10  # AArch32
GUEST_MODES: Final = frozenset({0b0000, 0b0100, 0b0101})  # EL0t, EL1t, EL1h
SGI_REGISTERS: Final = frozenset({ICC_SGI1R, ICC_ASGI1R, ICC_SGI0R})


class NormalVm(VcpuGuest):
    """A guest without a realm; a ``Guest``."""

    def __init__(
        self,
        machine: Machine,
        memory: PhysicalMemory,
        allocator: Allocator,
        *,
        bus: Bus,
        vgic: Vgic,
        config: GuestConfig,
        vmid: int = 1,
        turns: Turns | None = None,
    ) -> None:
        """Take RAM from the allocator and map it; MemoryError if there is not enough."""
        self._machine = machine
        self._memory = memory
        self._allocator = allocator
        self._bus = bus
        self._vgic = vgic
        self._config = config
        self._vmid = vmid
        # The alignment allows blocks of 2 MiB, or of 1 GiB for RAM of at least that size.
        level = 1 if config.ram_size >= level_size(1) else 2
        self._ram_pa = allocator.allocate(config.ram_size, level_size(level))
        self._stage2 = Stage2(memory, allocator, vmid)
        self._stage2.map(config.ram_base, self._ram_pa, config.ram_size)
        self.dma = LinearMemory(memory, config.ram_base, config.ram_size, self._ram_pa)
        self._roms = [
            RomMemory(machine, memory, allocator, self._stage2, vmid, each) for each in config.roms
        ]
        self.roms = self._roms
        self._vcpus = make_vcpus(config.num_cpus, self._run, self._kick, vgic, turns)
        # The host's scheduler decides it, so a run that is to be repeated has none.
        self._stolen_time = self._new_stolen_time() if turns is None else None
        self._psci = Psci(self._vcpus, config.num_cpus, self._prepare, self._stolen_time)
        self._timers = [TimerLines(vgic, cpu) for cpu in range(config.num_cpus)]
        self._pmus = [PmuLine(vgic, cpu) for cpu in range(config.num_cpus)]
        self._debug: NormalDebug | None = None
        self._contexts = [self._new_context(cpu) for cpu in range(config.num_cpus)]

    # --- Guest ----------------------------------------------------------------------------

    def _build(self, progress: Progress | None) -> None:
        """Load the payload and set the boot vCPU's registers."""
        self._load(self._config.segments, progress)
        for rom, region in zip(self._roms, self._config.roms, strict=True):
            rom.write(0, region.data)
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
        """The contexts of the vCPUs, for an observer while they stand still."""
        return self._contexts

    def _last_registers(self, cpu: int) -> GuestRegisters:
        return self._contexts[cpu]

    # --- a snapshot -----------------------------------------------------------------------

    def save(self) -> GuestState:
        """Return the state."""
        machine = self._machine
        vcpus: list[State] = [
            {
                "is_on": self._vcpus.is_on(cpu),
                "has_stolen_time": self._stolen_time is not None and self._stolen_time.is_used(cpu),
                "registers": {
                    name: list(values)
                    for name, values in machine.save_context(context).items()
                    if name not in HOST_REGISTERS
                },
            }
            for cpu, context in enumerate(self._contexts)
        ]
        return GuestState(machine.counter(), vcpus)

    def used_memory(self) -> Iterator[tuple[int, int]]:
        """Yield the parts of RAM that are not holes."""
        file, start = self._machine.memfd(Pas.NS), self._ram_pa - self._machine.dram_base
        end = at = start
        end += self._config.ram_size
        while at < end:
            try:
                at = os.lseek(file, at, os.SEEK_DATA)
            except OSError:  # ENXIO: a hole up to the end
                return
            hole = min(os.lseek(file, at, os.SEEK_HOLE), end)
            if at < end:
                yield self._config.ram_base + at - start, hole - at
            at = hole

    def load(self, state: GuestState) -> None:
        """Set the state; the memory is written through ``dma``."""
        if len(state.vcpus) != len(self._contexts):
            raise StateError(f"{len(state.vcpus)} vCPUs")
        if not 0 <= state.counter < 1 << 63:
            raise StateError(f"counter {state.counter}")
        self._machine.set_counter(state.counter)
        is_on = [saved.get("is_on") is True for saved in state.vcpus]
        for cpu, saved in enumerate(state.vcpus):
            self._load_registers(cpu, part(saved, "registers"))
            context = self._contexts[cpu]
            self._timers[cpu].sample(context.cntv_ctl, context.cntp_ctl)
            if saved.get("has_stolen_time") is True and self._stolen_time is not None:
                self._stolen_time.call(cpu, PvTimeFid.PV_TIME_ST, 0)
        self._vcpus.set_on(is_on)

    def _load_registers(self, cpu: int, saved: State) -> None:
        context = self._contexts[cpu] = self._new_context(cpu)
        registers: dict[str, list[int]] = {}
        for name in saved:
            values = [number({name: each}, name, 1 << 64) for each in items(saved, name)]
            if name not in HOST_REGISTERS:
                registers[name] = values
        try:
            self._machine.load_context(context, registers)
        except ValueError as error:
            raise StateError(str(error)) from None
        if context.pstate & ILLEGAL_PSTATE or context.pstate & 0xF not in GUEST_MODES:
            raise StateError(f"PSTATE {context.pstate:#x}")

    def send_serror(self, cpu: int) -> None:
        """Make an SError pending for a vCPU."""
        with self.debug_port().still():
            self._contexts[cpu].hcr_el2 |= HCR_VSE

    def close(self) -> None:
        """Stop the vCPUs, wait, and free the memory after emptying it; once."""
        self.stop()
        try:
            self.wait()
        finally:
            self._machine.tlbi_vmid(self._vmid)
            self._machine.punch(Pas.NS, self._ram_pa, self._config.ram_size)
            self._stage2.close()
            if self._stolen_time is not None:
                self._stolen_time.close()
            for rom in self._roms:
                rom.close()
            self._allocator.free(self._ram_pa, self._config.ram_size)

    def _load(self, segments: Sequence[Segment], progress: Progress | None) -> None:
        total, done = sum(-(-len(each.data) // GRANULE_SIZE) for each in segments), 0
        for segment in segments:
            self.dma.write(segment.ipa, segment.data)
            done += -(-len(segment.data) // GRANULE_SIZE)
            if progress is not None:
                progress(done, total)

    def release(self, ipa: int, size: int) -> None:
        """Take back some of the RAM."""
        offset = ipa - self._config.ram_base
        if not 0 <= offset <= self._config.ram_size - size:
            raise GranuleProtectionFault(ipa, Pas.NS)
        punch = partial(self._machine.punch, Pas.NS, self._ram_pa + offset, size)
        self.dma.transfers.after(punch)

    # --- vCPUs ----------------------------------------------------------------------------

    def _kick(self, cpu: int) -> None:
        self._machine.pe(cpu).kick()

    def _new_context(self, cpu: int) -> PeContext:
        context = self._machine.new_context()
        context.security = Pas.NS
        num_counters = self._config.num_counters
        context.hcr_el2 = HCR if num_counters else HCR_NO_PMU
        context.mdcr_el2 = MDCR_EL2.of(HPMN=num_counters) if num_counters else MDCR_NO_PMU
        context.vtcr_el2 = self._stage2.vtcr
        context.vttbr_el2 = self._stage2.vttbr
        context.vmpidr_el2 = mpidr_of(cpu)
        context.ich_hcr = ICH_HCR_EN
        if self._debug is not None:
            self._debug.adopt(cpu, context)
        return context

    def _new_stolen_time(self) -> StolenTime | None:
        base = self._config.stolen_time
        if base is None:
            return None
        num_cpus = self._config.num_cpus
        return StolenTime(self._memory, self._allocator, self._stage2, base, num_cpus)

    def _prepare(self, cpu: int, entry: int, argument: int) -> None:
        """Set a vCPU to start at ``entry`` with x0 = ``argument``, as after reset."""
        context = self._contexts[cpu] = self._new_context(cpu)
        context.pstate = EL1H_MASKED
        context.sctlr_el1 = SCTLR_RESET
        context.pc = entry
        context.x[0] = argument

    def _run(self, cpu: int) -> None:
        """Run one vCPU while it may run."""
        vgic, running, timers = self._vgic, self._vcpus.running, self._timers[cpu]
        pe, exits, debug = self._machine.pe(cpu), self._vcpus.exits[cpu], self._debug
        stolen_time = self._stolen_time
        pmu = self._pmus[cpu] if self._config.num_counters else None
        loaded = NUM_LRS  # list registers that may be in use
        while running[cpu]:
            context = self._contexts[cpu]  # CPU_ON may precede the parking of this thread
            lrs, hcr = vgic.load_lrs(cpu), ICH_HCR_EN
            if lrs is not NO_LRS or loaded:
                listed = vgic.num_listed(cpu)
                for n in range(max(listed, loaded)):
                    context.ich_lr[n] = lrs[n]
                loaded = listed
                hcr |= vgic.hcr(cpu)
            context.ich_hcr = hcr
            exit_ = pe.run(context, BUDGET)
            vgic.sync_lrs(cpu, context.ich_lr, context.ich_hcr)
            timers.sample(context.cntv_ctl, context.cntp_ctl)
            if pmu is not None:
                pmu.sample(context.pmu_overflow)
            if stolen_time is not None:
                stolen_time.update(cpu)
            reason = exit_.reason
            if reason == SYNC:
                exits[self._handle_sync(cpu, context, exit_)] += 1
            else:
                exits[ExitKind.IRQ] += 1
                if reason == ExitReason.SERROR:
                    self._vcpus.finish(Outcome.CRASHED, f"vCPU {cpu}: SError")
            if debug is not None:
                debug.ran(cpu, exit_, context.pc)

    # --- exits ----------------------------------------------------------------------------

    def _handle_sync(self, cpu: int, context: PeContext, exit_: PeExit) -> int:
        """Handle a synchronous exit; return its ``ExitKind``."""
        esr = exit_.esr
        last = self._vcpus.last_exits[cpu]
        last.esr = esr
        exception_class = esr >> EC_SHIFT & 0x3F
        if exception_class == DATA_ABORT:
            return self._handle_data_abort(context, exit_, esr, last)
        match exception_class:
            case ExceptionClass.HVC64:
                last.call = fid = context.x[0] & MASK32
                context.x[0] = self._psci.call(cpu, fid, (context.x[1], context.x[2], context.x[3]))
                return ExitKind.PSCI
            case ExceptionClass.SMC64:  # no firmware behind it; the PC is still at the SMC
                context.x[0] = NOT_SUPPORTED
                inject.skip(context)
            case ExceptionClass.SYSREG:
                self._handle_sysreg(cpu, context, esr)
                return ExitKind.SYSREG
            case ExceptionClass.WFX:
                inject.skip(context)
                return ExitKind.WFX
            case ExceptionClass.INSTRUCTION_ABORT_LOWER:
                last.ipa = ipa_of(exit_.hpfar)
                self._handle_instruction_abort(cpu, context, exit_)
            case _:
                inject.undefined(context)
        return ExitKind.OTHER

    def _handle_instruction_abort(self, cpu: int, context: PeContext, exit_: PeExit) -> None:
        """Inject an abort of the fetch; crash if the handler cannot be fetched either."""
        if context.pc == vector_of(context):
            reason = f"vCPU {cpu}: no memory at its exception vector {context.pc:#x}"
            self._vcpus.finish(Outcome.CRASHED, reason)
        else:
            inject.external_abort(context, exit_.far, fetch=True)

    def _handle_data_abort(
        self, context: PeContext, exit_: PeExit, esr: int, last: LastExit
    ) -> int:
        """Emulate a device access; inject an abort if the syndrome does not describe it."""
        last.ipa = ipa = ipa_of(exit_.hpfar) | exit_.far & GRANULE_OFFSET
        if esr & CM:  # cache maintenance of a device: nothing to do
            inject.skip(context)
            return ExitKind.OTHER
        if esr & ACCESS_KIND != DEVICE_ACCESS and esr & ACCESS_KIND != ROM_WRITE:
            inject.external_abort(context, exit_.far, fetch=False)
            return ExitKind.OTHER
        perform_access(self._bus, context, ipa, esr)
        return MMIO

    def _handle_sysreg(self, cpu: int, context: PeContext, esr: int) -> None:
        """Read an ID register or send an SGI; any other trapped register does not exist."""
        key, register = esr & SYSREG_MASK, ESR_SYSREG.RT.decode(esr)
        if esr & ESR_SYSREG.READ.mask and is_id_register(key):
            if register != XZR:
                context.x[register] = self._id_register(ESR_SYSREG(esr))
        elif key in SGI_REGISTERS and not esr & ESR_SYSREG.READ.mask:
            self._vgic.send_sgi(cpu, context.x[register] if register != XZR else 0)
        else:
            inject.undefined(context)
            return
        inject.skip(context)

    def _id_register(self, esr: ESR_SYSREG) -> int:
        """Return an ID register of a guest without performance monitors."""
        value = self._machine.id_register(esr.OP0, esr.OP1, esr.CRN, esr.CRM, esr.OP2)
        return value & ~DFR0_PMU if esr & SYSREG_MASK == DFR0 else value
