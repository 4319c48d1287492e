"""REC_ENTER: complete the pending operation, run the realm, report the exit to the host.

Spec: DEN0137 1.0, RMI_REC_ENTER and "Realm execution context".
"""

from struct import Struct
from typing import Final

from pyvmm.arch.bits import MASK32, MASK64
from pyvmm.arch.esr import ESR_ABORT, ExceptionClass
from pyvmm.arch.events import RecExit as RecExitEvent
from pyvmm.arch.hcr import HCR_EL2
from pyvmm.arch.machine import PeContext
from pyvmm.arch.pas import GranuleProtectionFault
from pyvmm.arch.rmi import (
    RecEnter,
    RecEnterFlags,
    RecExitReason,
    Ripas,
    RipasResponse,
    RmiStatus,
)
from pyvmm.arch.rsi import RsiStatus
from pyvmm.arch.timer import CTL_ASSERTED, CTL_FIELDS
from rmm import exits, vgic
from rmm.errors import RealmPageMissing, RmiError, RsiError
from rmm.inject import inject_sea
from rmm.realm import RealmState
from rmm.rec import HCR, HostExit, Rec, RipasChange
from rmm.rmm import Rmm
from rmm.rsi.host_call import complete_host_call

BUDGET: Final = 1 << 30  # instructions: usually only an exit or an interrupt ends a run

#: Members of RmiRecEnter: flags, gprs[0], gicv3_hcr and the list registers in use.
_ENTER: Final = Struct(
    f"<Q{RecEnter.gprs.offset - 8}xQ"
    f"{RecEnter.gicv3_hcr.offset - RecEnter.gprs.offset - 8}xQ{len(vgic.NO_LRS)}s"
)

_ISV: Final = ESR_ABORT.ISV.mask
_WNR: Final = ESR_ABORT.WnR.mask
_SSE: Final = ESR_ABORT.SSE.mask
_SF: Final = ESR_ABORT.SF.mask
_ACTIVE: Final = RealmState.ACTIVE
_EMUL_MMIO: Final = int(RecEnterFlags.EMUL_MMIO)
_INJECT_SEA: Final = int(RecEnterFlags.INJECT_SEA)
_RIPAS_RESPONSE: Final = int(RecEnterFlags.RIPAS_RESPONSE)
#: HCR_EL2, indexed by TRAP_WFI and TRAP_WFE.
_HCR: Final = tuple(
    HCR | twi | twe for twe in (0, HCR_EL2.TWE.mask) for twi in (0, HCR_EL2.TWI.mask)
)
_TRAP_WFI_SHIFT: Final = 2
#: ESR_EL2 of a software step exception.
_STEPPED: Final = int(ESR_ABORT.of(EC=ExceptionClass.SOFTWARE_STEP_LOWER, IL=1, FSC=0x22))


def enter(rmm: Rmm, pe: int, rec_pa: int, run_pa: int) -> None:
    """Perform RMI_REC_ENTER; the RMM's lock is held except while the realm runs.

    Raises: RmiError as specified for the command, without a change, unless the host took
    ``run_pa`` away while the realm ran.
    """
    flags, gpr0, hcr, lrs = _ENTER.unpack(data := rmm.read_ns(run_pa, _ENTER.size))
    rec = rmm.rec(rec_pa)
    _check_state(rec)
    vgic.check(hcr, lrs)
    check_completion(rec, flags)
    vgic.load(rec, hcr, lrs)
    leave = proceed(rmm, pe, rec, flags, gpr0, data)
    try:
        rmm.exit_record.write(run_pa, rec.context, leave)
    except GranuleProtectionFault:
        raise RmiError(RmiStatus.ERROR_INPUT) from None


def proceed(rmm: Rmm, pe: int, rec: Rec, flags: int, gpr0: int, data: bytes) -> HostExit:
    """Complete what is pending, and run the realm unless the host is needed again at once."""
    rec.context.hcr_el2 = _HCR[flags >> _TRAP_WFI_SHIFT & 0b11]
    leave = _complete(rmm, rec, flags, gpr0, data) or _run(rmm, pe, rec)
    if rmm.events.listener is not None:
        rmm.events.listener(RecExitEvent(rec.pa, leave.reason, leave.esr, leave.far, leave.hpfar))
    return leave


# --- before the run ---------------------------------------------------------------------------


def _check_state(rec: Rec) -> None:
    if rec.running:
        raise RmiError(RmiStatus.ERROR_REC)
    if rec.realm.state is not _ACTIVE:
        raise RmiError(RmiStatus.ERROR_REALM, int(rec.realm.state is RealmState.SYSTEM_OFF))
    if not rec.runnable or rec.psci is not None:
        raise RmiError(RmiStatus.ERROR_REC)


def check_completion(rec: Rec, flags: int) -> None:
    """Check that the host completes an abort as it may; RmiError(ERROR_REC) otherwise."""
    abort = rec.abort
    if flags & _INJECT_SEA and abort is None:
        raise RmiError(RmiStatus.ERROR_REC)
    if flags & _EMUL_MMIO and (abort is None or not abort[0] & _ISV):
        raise RmiError(RmiStatus.ERROR_REC)


def _complete(rmm: Rmm, rec: Rec, flags: int, gpr0: int, data: bytes) -> HostExit | None:
    """Complete the pending operation, if any; a result means: do not enter the realm."""
    if rec.abort is not None:
        (esr, far), rec.abort = rec.abort, None
        if flags & _INJECT_SEA:  # takes precedence over EMUL_MMIO: the access did not happen
            inject_sea(rec.context, esr, far)
        elif flags & _EMUL_MMIO:
            _emulate(rec, esr, gpr0)
    elif rec.ripas_change is not None:
        change, rec.ripas_change = rec.ripas_change, None
        rec.reply(RsiStatus.SUCCESS, change.base, _response(change, flags))
    elif rec.sysreg_rt is not None:
        exits.set_register(rec, rec.sysreg_rt, gpr0)
        rec.sysreg_rt = None
    elif rec.host_call_ipa is not None:
        return _complete_host_call(rmm, rec, rec.host_call_ipa, RecEnter.gprs.load(data))
    return None


def _emulate(rec: Rec, esr: int, value: int) -> None:
    """Skip the access that the host emulated; write a value read to its register."""
    if not esr & _WNR:
        bits = exits.access_bits(esr)
        value &= (1 << bits) - 1
        if esr & _SSE and value >> (bits - 1):
            value |= MASK64 << bits
        value &= MASK64 if esr & _SF else MASK32
        exits.set_register(rec, exits.access_register(esr), value)
    rec.advance()


def _response(change: RipasChange, flags: int) -> RipasResponse:
    """Return the host's response; it can reject only an unfinished change to RAM."""
    if change.ripas == Ripas.RAM and change.base != change.top and flags & _RIPAS_RESPONSE:
        return RipasResponse.REJECT
    return RipasResponse.ACCEPT


def _complete_host_call(rmm: Rmm, rec: Rec, ipa: int, gprs: tuple[int, ...]) -> HostExit | None:
    """Give the realm the host's answer; ask for the page if it is missing now."""
    try:
        complete_host_call(rmm, rec, ipa, gprs)
    except RealmPageMissing as missing:
        return exits.ask_for_page(missing)
    except RsiError as error:
        rec.reply(*error.results)
    rec.host_call_ipa = None
    return None


# --- the run ----------------------------------------------------------------------------------


def _run(rmm: Rmm, pe: int, rec: Rec) -> HostExit:
    processor, context, lock = rmm.machine.pe(pe), rec.context, rmm.lock
    shown = _outputs(context)  # to the host, at the last exit
    rec.running = True
    try:
        while rec.step_from is None or not rec.has_stepped:
            lock.release()
            try:
                pe_exit = processor.run(context, BUDGET)
            finally:
                lock.acquire()
            leave = exits.handle(rmm, pe, rec, pe_exit)
            if leave is not None:
                return leave
            if _asserted(*_outputs(context)) != _asserted(*shown):
                return exits.IRQ
        return HostExit(RecExitReason.SYNC, esr=_STEPPED)  # the RMM or the host executed it
    finally:
        rec.running = False


def _outputs(context: PeContext) -> tuple[int, int, int]:
    """Return the registers of the virtual timer, the physical timer and the PMU."""
    return context.cntv_ctl, context.cntp_ctl, context.pmu_overflow


def _asserted(cntv_ctl: int, cntp_ctl: int, pmu_overflow: int) -> tuple[bool, bool, int]:
    """Return which of them assert their interrupts."""
    return (
        cntv_ctl & CTL_FIELDS == CTL_ASSERTED,
        cntp_ctl & CTL_FIELDS == CTL_ASSERTED,
        pmu_overflow,
    )
