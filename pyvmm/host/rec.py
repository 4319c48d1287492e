"""One vCPU of a realm: its REC, its run granule, and the handling of its exits.

The run granule is the host's Non-secure memory and is not delegated while the REC exists; so the
window on it stays valid, and access to a register in it costs an index.
Spec: DEN0137 1.0, RmiRecRun, RMI_REC_ENTER.
"""

from collections.abc import Callable
from typing import Final

from pyvmm.arch.errors import RepeatAccess
from pyvmm.arch.esr import EC_SHIFT, ESR_ABORT, ESR_SYSREG, ExceptionClass, ipa_of
from pyvmm.arch.gic import ICH_HCR_EN, NUM_LRS
from pyvmm.arch.machine import PeContext
from pyvmm.arch.pas import GRANULE_OFFSET
from pyvmm.arch.psci import PsciFid, PsciReturn
from pyvmm.arch.rmi import (
    EXIT_OFFSET,
    RecEnter,
    RecEnterFlags,
    RecExit,
    RecExitReason,
    RmiFid,
    RmiStatus,
    status_name,
    unpack_status,
)
from pyvmm.arch.rsi import RsiFid
from pyvmm.arch.smccc import NOT_SUPPORTED
from pyvmm.host.debug import STOP_KINDS, DebugPort, Stop
from pyvmm.host.guest import Bus, ExitKind, Outcome
from pyvmm.host.realm_memory import RealmMemory
from pyvmm.host.rmi import Rmi, RmiFailed
from pyvmm.host.vcpu import PmuLine, TimerLines, Vcpus
from pyvmm.host.vgic import NO_LRS, Vgic

NUM_GPRS: Final = 31

# Indices of 64-bit words in the run granule.
ENTER_FLAGS: Final = RecEnter.flags.offset // 8
ENTER_GPRS: Final = RecEnter.gprs.offset // 8
ENTER_HCR: Final = RecEnter.gicv3_hcr.offset // 8
ENTER_LRS: Final = RecEnter.gicv3_lrs.offset // 8
EXIT: Final = EXIT_OFFSET // 8
EXIT_REASON: Final = EXIT + RecExit.exit_reason.offset // 8
EXIT_ESR: Final = EXIT + RecExit.esr.offset // 8
EXIT_FAR: Final = EXIT + RecExit.far.offset // 8
EXIT_HPFAR: Final = EXIT + RecExit.hpfar.offset // 8
EXIT_GPRS: Final = EXIT + RecExit.gprs.offset // 8
EXIT_HCR: Final = EXIT + RecExit.gicv3_hcr.offset // 8
EXIT_LRS: Final = EXIT + RecExit.gicv3_lrs.offset // 8
EXIT_CNTP_CTL: Final = EXIT + RecExit.cntp_ctl.offset // 8
EXIT_CNTV_CTL: Final = EXIT + RecExit.cntv_ctl.offset // 8
EXIT_PMU: Final = EXIT + RecExit.pmu_ovf_status.offset // 8
EXIT_RIPAS_BASE: Final = EXIT + RecExit.ripas_base.offset // 8
EXIT_RIPAS_TOP: Final = EXIT + RecExit.ripas_top.offset // 8
EXIT_RIPAS_VALUE: Final = EXIT + RecExit.ripas_value.offset // 8

# Used in every device access, as plain numbers: an enumeration's member costs a look-up.
SYNC: Final = int(RecExitReason.SYNC)
ABORTS: Final = (
    int(ExceptionClass.DATA_ABORT_LOWER),
    int(ExceptionClass.INSTRUCTION_ABORT_LOWER),
)
ISV: Final = ESR_ABORT.ISV.mask
WNR: Final = ESR_ABORT.WnR.mask
MMIO: Final = int(ExitKind.MMIO)
FAULT: Final = int(ExitKind.FAULT)
EMUL_MMIO: Final = int(RecEnterFlags.EMUL_MMIO)
INJECT_SEA: Final = int(RecEnterFlags.INJECT_SEA)

#: PSCI calls forwarded by the RMM whose first argument names a vCPU, in MPIDR layout.
TARGETED: Final = frozenset(
    {
        PsciFid.CPU_ON_32,
        PsciFid.CPU_ON_64,
        PsciFid.AFFINITY_INFO_32,
        PsciFid.AFFINITY_INFO_64,
    }
)
CPU_ON: Final = frozenset({PsciFid.CPU_ON_32, PsciFid.CPU_ON_64})

#: Finds the REC of an MPIDR: (vCPU index, REC granule), or None.
FindRec = Callable[[int], tuple[int, int] | None]


class Rec:
    """Runs one REC on the PE of the same index."""

    def __init__(
        self,
        cpu: int,
        rec_pa: int,
        run_pa: int,
        window: memoryview,
        *,
        interface: PeContext | None,
        rmi: Rmi,
        memory: RealmMemory,
        bus: Bus,
        vgic: Vgic,
        vcpus: Vcpus,
        alias: int,
        find_rec: FindRec,
        debug: DebugPort | None = None,
    ) -> None:
        """``window`` is the run granule at ``run_pa``; ``interface``, ICH_*_EL2 of the PE.

        Without an interface, interrupts are in the run granule, as in RMI 1.0.
        """
        self._interface = interface
        self._cpu = cpu
        self.rec_pa = rec_pa
        self._call = (RmiFid.RMI_REC_ENTER, rec_pa, run_pa)
        self._run_words = window.cast("B").cast("Q")
        self._exit_lrs = self._run_words[EXIT_LRS : EXIT_LRS + NUM_LRS]
        self._rmi = rmi
        self._memory = memory
        self._bus = bus
        self._vgic = vgic
        self._vcpus = vcpus
        self._exits = vcpus.exits[cpu]
        self._last = vcpus.last_exits[cpu]
        self._timers = TimerLines(vgic, cpu)
        self._pmu = PmuLine(vgic, cpu)
        self._alias = alias
        self._find_rec = find_rec
        self._debug = debug
        self._has_left = False  # its last exit was CPU_OFF

    def run(self) -> None:
        """Enter the REC repeatedly while its vCPU may run."""
        if self._interface is None:
            self._run_1_0()
        else:
            self._run_2_0(self._interface)

    def _run_2_0(self, interface: PeContext) -> None:
        cpu, vgic, words = self._cpu, self._vgic, self._run_words
        running, smc = self._vcpus.running, self._rmi.smc
        loaded = NUM_LRS  # list registers that may be in use
        while running[cpu] or self._must_settle():
            lrs, hcr = vgic.load_lrs(cpu), ICH_HCR_EN
            if lrs is not NO_LRS or loaded:
                listed = vgic.num_listed(cpu)
                for n in range(max(listed, loaded)):
                    interface.ich_lr[n] = lrs[n]
                loaded = listed
                hcr |= vgic.hcr(cpu)
            interface.ich_hcr = hcr
            x0 = smc(cpu, self._call)[0]
            vgic.sync_lrs(cpu, interface.ich_lr, interface.ich_hcr)
            if x0:
                self._handle_refusal(x0)
                continue
            self._timers.sample(words[EXIT_CNTV_CTL], words[EXIT_CNTP_CTL])
            self._has_left = False
            words[ENTER_FLAGS] = self._handle_exit(words)

    def _run_1_0(self) -> None:
        cpu, vgic, words = self._cpu, self._vgic, self._run_words
        running, smc = self._vcpus.running, self._rmi.smc
        loaded = NUM_LRS  # list registers that may be in use
        while running[cpu] or self._must_settle():
            lrs = vgic.load_lrs(cpu)
            if lrs is not NO_LRS or loaded:
                listed = vgic.num_listed(cpu)
                for n in range(max(listed, loaded)):
                    words[ENTER_LRS + n] = lrs[n]
                words[ENTER_HCR] = vgic.hcr(cpu)
                loaded = listed
            x0 = smc(cpu, self._call)[0]
            if x0:
                vgic.sync_lrs(cpu, lrs)
                self._handle_refusal(x0)
                continue
            vgic.sync_lrs(cpu, self._exit_lrs, words[EXIT_HCR])
            self._timers.sample(words[EXIT_CNTV_CTL], words[EXIT_CNTP_CTL])
            self._pmu.sample(words[EXIT_PMU])
            self._has_left = False
            words[ENTER_FLAGS] = self._handle_exit(words)

    def _must_settle(self) -> bool:
        """Check whether a REC that must stand still has to be entered once more for a debugger.

        The RMM completes the last exit at the next entry, which ends at once.
        """
        if self._debug is None or self._vcpus.outcome or not self._vcpus.is_on(self._cpu):
            return False
        words = self._run_words
        reason, exception = words[EXIT_REASON] & 0xFF, words[EXIT_ESR] >> EC_SHIFT & 0x3F
        is_settled = reason == RecExitReason.IRQ or (reason == SYNC and exception in STOP_KINDS)
        if not is_settled:
            self._vcpus.kick(self._cpu)
        return not is_settled

    def _handle_refusal(self, x0: int) -> None:
        """Handle a failure of REC_ENTER, which is expected if the realm or the vCPU is off."""
        status, _ = unpack_status(x0)
        is_over = status == RmiStatus.ERROR_REALM
        if is_over or (status == RmiStatus.ERROR_REC and self._has_left):
            self._vcpus.power_off(self._cpu)
            return
        self._vcpus.finish(Outcome.CRASHED, f"vCPU {self._cpu}: RMI_REC_ENTER -> {status_name(x0)}")

    # --- exits; each returns the flags of the next entry ------------------------------------

    def _handle_exit(self, words: memoryview) -> int:
        reason = words[EXIT_REASON] & 0xFF
        if reason == SYNC:
            return self._handle_sync(words)
        match reason:
            case RecExitReason.PSCI:
                self._exits[ExitKind.PSCI] += 1
                return self._handle_psci(words)
            case RecExitReason.RIPAS_CHANGE:
                self._exits[ExitKind.RIPAS] += 1
                return self._handle_ripas_change(words)
            case RecExitReason.HOST_CALL:
                self._exits[ExitKind.HOST_CALL] += 1
                self._last.call = RsiFid.RSI_HOST_CALL
                words[ENTER_GPRS : ENTER_GPRS + NUM_GPRS] = words[EXIT_GPRS : EXIT_GPRS + NUM_GPRS]
                words[ENTER_GPRS] = NOT_SUPPORTED  # there is no service to call
            case RecExitReason.SERROR:
                self._crash("SError")
            case _:  # IRQ, FIQ: only the exit was needed
                self._exits[ExitKind.IRQ] += 1
        return 0

    def _crash(self, reason: str) -> int:
        self._vcpus.finish(Outcome.CRASHED, f"vCPU {self._cpu}: {reason}")
        return 0

    def _handle_sync(self, words: memoryview) -> int:
        self._last.esr = esr = words[EXIT_ESR]
        exception_class = esr >> EC_SHIFT & 0x3F
        if exception_class in ABORTS:
            ipa = ipa_of(words[EXIT_HPFAR])
            if not ipa & self._alias:
                return self._handle_private_fault(ipa)
            ipa ^= self._alias
            self._last.ipa = addr = ipa | words[EXIT_FAR] & GRANULE_OFFSET
            if not self._memory.is_ram(ipa):
                return self._handle_mmio(words, esr, addr)
            self._exits[FAULT] += 1
            return 0 if self._memory.share(self._cpu, ipa) else INJECT_SEA
        if self._debug is not None and exception_class in STOP_KINDS:
            self._exits[ExitKind.OTHER] += 1
            self._debug.stop_at(Stop.of(self._cpu, esr, words[EXIT_FAR]))
            return 0
        if exception_class == ExceptionClass.SYSREG:
            self._exits[ExitKind.SYSREG] += 1
            if not esr & ESR_SYSREG.READ.mask:
                self._vgic.send_sgi(self._cpu, words[EXIT_GPRS])
            words[ENTER_GPRS] = 0
            return 0
        self._exits[ExitKind.WFX] += 1
        return 0  # WFI, WFE: check for interrupts and continue

    def _handle_private_fault(self, ipa: int) -> int:
        self._exits[FAULT] += 1
        self._last.ipa = ipa
        if not self._memory.is_ram(ipa):
            return self._crash(f"the realm accessed {ipa:#x}, outside its RAM")
        self._memory.back(self._cpu, ipa)
        return 0

    def _handle_mmio(self, words: memoryview, esr: int, addr: int) -> int:
        """Emulate a device access; the RMM extends the value of a load."""
        self._exits[MMIO] += 1
        if not esr & ISV:
            return INJECT_SEA
        size = 1 << (esr >> 22 & 3)
        if esr & WNR:
            try:
                self._bus.write(addr, size, words[EXIT_GPRS] & (1 << 8 * size) - 1)
            except RepeatAccess:
                return 0  # not emulated: the realm repeats the store
        else:
            words[ENTER_GPRS] = self._bus.read(addr, size)
        return EMUL_MMIO

    def _handle_psci(self, words: memoryview) -> int:
        self._last.call = fid = words[EXIT_GPRS]
        if fid in TARGETED:
            self._complete_psci(fid, words[EXIT_GPRS + 1])
        elif fid == PsciFid.CPU_OFF:
            self._has_left = True
            self._vcpus.power_off(self._cpu)
        elif fid == PsciFid.SYSTEM_OFF:
            self._vcpus.finish(Outcome.OFF)
        elif fid == PsciFid.SYSTEM_RESET:
            self._vcpus.finish(Outcome.RESET)
        return 0  # CPU_SUSPEND is a standby state that ends at once

    def _complete_psci(self, fid: int, mpidr: int) -> None:
        """Permit the call: the RMM has checked the target, and knows its state."""
        target = self._find_rec(mpidr)
        if target is None:
            self._crash(f"the RMM requested vCPU {mpidr:#x}, which does not exist")
            return
        cpu, rec_pa = target
        status = PsciReturn.SUCCESS.x0
        self._rmi.complete_psci(self._cpu, self.rec_pa, rec_pa, status)
        if fid in CPU_ON:
            self._vcpus.mirror_power_on(cpu)

    def _handle_ripas_change(self, words: memoryview) -> int:
        self._last.call = RsiFid.RSI_IPA_STATE_SET
        base, top = words[EXIT_RIPAS_BASE], words[EXIT_RIPAS_TOP]
        ripas = words[EXIT_RIPAS_VALUE] & 0xFF
        try:
            is_done = self._memory.change_ripas(self._cpu, self.rec_pa, base, top, ripas)
        except RmiFailed as error:
            return self._crash(str(error))
        return 0 if is_done else RecEnterFlags.RIPAS_RESPONSE
