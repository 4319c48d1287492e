"""Exits from a realm, and the RMM's handling of them.

A handler returns a ``HostExit`` if the host has to handle the exit, or None to resume the realm.
Spec: DEN0137 1.0, "Realm exception model".
"""

from collections.abc import Callable, Mapping
from typing import Final

from pyvmm.arch.bits import MASK32
from pyvmm.arch.esr import (
    EC_SHIFT,
    ESR_ABORT,
    ESR_SERROR,
    ESR_SYSREG,
    ESR_WFX,
    SYSREG_MASK,
    ExceptionClass,
    FaultStatus,
    SyncErrorType,
    hpfar_of,
    ipa_of,
    translation_fault,
)
from pyvmm.arch.events import PsciCall, RsiCall
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.islet import IsletRsiFid
from pyvmm.arch.machine import PeExit
from pyvmm.arch.psci import SMC64
from pyvmm.arch.rmi import RecExitReason, Ripas
from pyvmm.arch.smccc import FID_MASK, NOT_SUPPORTED
from pyvmm.arch.stage2 import PAGE_LEVEL, VALID
from rmm import sysregs
from rmm.commands import RealmCommand
from rmm.errors import RealmPageMissing, RsiError
from rmm.inject import inject_protection_fault, inject_sea, inject_undefined
from rmm.rec import HostExit, Rec
from rmm.rmm import Rmm
from rmm.rsi import REALM_CALLS
from rmm.rtt import ripas_of

_XZR: Final = 31
_HVC_SIZE: Final = 4

_EMULATABLE_WRITE: Final = ESR_ABORT.ISV.mask | ESR_ABORT.WnR.mask
_SAS_SHIFT: Final = ESR_ABORT.SAS.low
_WIDTH_MASKS: Final = tuple((1 << (8 << sas)) - 1 for sas in range(4))
_SRT_SHIFT: Final = ESR_ABORT.SRT.low
_FSC: Final = ESR_ABORT.FSC.mask
_EC: Final = ESR_ABORT.EC.mask
#: The syndrome bits that the host may see for an abort that needs a page.
_ABORT_SHOWN: Final = _EC | ESR_ABORT.SET.mask | ESR_ABORT.FnV.mask | ESR_ABORT.EA.mask | _FSC
#: And for an abort that it may emulate: neither the register nor the extension.
_EMULATABLE_SHOWN: Final = _ABORT_SHOWN | _EMULATABLE_WRITE | ESR_ABORT.SAS.mask | ESR_ABORT.SF.mask
_WFX_SHOWN: Final = _EC | ESR_WFX.TI.mask
_SERROR_SHOWN: Final = (
    _EC | ESR_SERROR.IDS.mask | ESR_SERROR.AET.mask | ESR_SERROR.EA.mask | ESR_SERROR.DFSC.mask
)
_FAR_SHOWN: Final = 0xFFF
_EXTERNAL: Final = frozenset(
    {
        int(FaultStatus.SYNC_EXTERNAL),
        *range(FaultStatus.SYNC_EXTERNAL_WALK, FaultStatus.SYNC_EXTERNAL_WALK + 4),
    }
)
_PROTECTION: Final = frozenset(range(FaultStatus.GPF_WALK, FaultStatus.GPF + 1))
_NOT_BY_STAGE_2: Final = _EXTERNAL | _PROTECTION
_SYNC: Final = RecExitReason.SYNC
_SYNC_EXIT: Final = int(ExitReason.SYNC)
_IRQ_EXIT: Final = int(ExitReason.IRQ)
#: The exit for an interrupt of the host; shared, so never modified.
IRQ: Final = HostExit(RecExitReason.IRQ)
_TRANSLATION: Final = range(FaultStatus.TRANSLATION, FaultStatus.TRANSLATION + 4)


def handle(rmm: Rmm, pe: int, rec: Rec, pe_exit: PeExit) -> HostExit | None:
    """Handle one return of the PE; the RMM's lock is held."""
    reason = pe_exit.reason
    if reason == _SYNC_EXIT:
        handler = _SYNC_HANDLERS.get(pe_exit.esr >> EC_SHIFT & 0x3F, _undefined)
        return handler(rmm, pe, rec, pe_exit)
    if reason == _IRQ_EXIT:
        return IRQ
    if reason == ExitReason.DEBUG:
        return HostExit(RecExitReason.SYNC, esr=pe_exit.esr, far=pe_exit.far)
    if reason == ExitReason.SERROR:
        return HostExit(RecExitReason.SERROR, esr=pe_exit.esr & _SERROR_SHOWN)
    return None  # the budget is used up: resume


def ask_for_page(missing: RealmPageMissing) -> HostExit:
    """Return a stage-2 fault at a protected IPA: only the host can provide the page."""
    esr = translation_fault(missing.level) & _ABORT_SHOWN
    return HostExit(RecExitReason.SYNC, esr=esr, hpfar=hpfar_of(missing.ipa))


def set_register(rec: Rec, rt: int, value: int) -> None:
    """Write a general-purpose register by its number in an instruction: 31 is XZR."""
    if rt != _XZR:
        rec.context.x[rt] = value


def access_bits(esr: int) -> int:
    """Return the width of an access that can be emulated."""
    return 8 << (esr >> _SAS_SHIFT & 0b11)


def access_register(esr: int) -> int:
    """Return the register of an access that can be emulated."""
    return esr >> _SRT_SHIFT & 0b11111


def _written(rec: Rec, esr: int) -> int:
    """Return the value of a write that can be emulated."""
    rt = esr >> _SRT_SHIFT & 0b11111
    return 0 if rt == _XZR else rec.context.x[rt] & _WIDTH_MASKS[esr >> _SAS_SHIFT & 0b11]


def _get_register(rec: Rec, rt: int) -> int:
    return 0 if rt == _XZR else rec.context.x[rt]


# --- instructions that trap -------------------------------------------------------------------


def _undefined(_rmm: Rmm, _pe: int, rec: Rec, _pe_exit: PeExit) -> HostExit | None:
    inject_undefined(rec.context, rec.context.pc)
    return None


def _hvc(_rmm: Rmm, _pe: int, rec: Rec, _pe_exit: PeExit) -> HostExit | None:
    inject_undefined(rec.context, rec.context.pc - _HVC_SIZE)  # the pc is already past the HVC
    return None


def _wfx(_rmm: Rmm, _pe: int, rec: Rec, pe_exit: PeExit) -> HostExit | None:
    rec.advance()
    return HostExit(RecExitReason.SYNC, esr=pe_exit.esr & _WFX_SHOWN)


def _sysreg(rmm: Rmm, _pe: int, rec: Rec, pe_exit: PeExit) -> HostExit | None:
    esr = pe_exit.esr
    syndrome = ESR_SYSREG(esr)
    rt, is_read = syndrome.RT, syndrome.READ
    rec.advance()
    if esr & SYSREG_MASK in sysregs.HOST_HANDLED:
        if is_read:
            rec.sysreg_rt = rt
            return HostExit(RecExitReason.SYNC, esr=esr)
        return HostExit(RecExitReason.SYNC, esr=esr, gprs=(_get_register(rec, rt),))
    if is_read:
        set_register(rec, rt, sysregs.read(rmm.machine, rec.realm, esr))
    return None


# --- aborts -----------------------------------------------------------------------------------


def _data_abort(_rmm: Rmm, _pe: int, rec: Rec, pe_exit: PeExit) -> HostExit | None:
    esr, hpfar, far = pe_exit.esr, pe_exit.hpfar, pe_exit.far
    if esr & _FSC in _NOT_BY_STAGE_2:
        return _failed_access(rec, pe_exit)
    half = ipa_of(hpfar) >> rec.realm.rtt.protected_bits
    if half == 0:
        return _protected_abort(rec, pe_exit)
    if half > 1:  # outside the IPA space
        inject_sea(rec.context, esr, far)
        return None
    rec.abort = esr, far
    gprs: tuple[int, ...] = ()
    if esr & _EMULATABLE_WRITE == _EMULATABLE_WRITE:
        gprs = (_written(rec, esr),)
    return HostExit(_SYNC, esr & _EMULATABLE_SHOWN, far & _FAR_SHOWN, hpfar, gprs)


def _instruction_abort(_rmm: Rmm, _pe: int, rec: Rec, pe_exit: PeExit) -> HostExit | None:
    if pe_exit.esr & _FSC in _NOT_BY_STAGE_2:
        return _failed_access(rec, pe_exit)
    if not rec.realm.rtt.is_protected(ipa_of(pe_exit.hpfar)):
        inject_sea(rec.context, pe_exit.esr, pe_exit.far)
        return None
    return _protected_abort(rec, pe_exit)


def _protected_abort(rec: Rec, pe_exit: PeExit) -> HostExit | None:
    """Ask the host for the page, unless the realm has declared the IPA EMPTY."""
    esr, rtt, ipa = pe_exit.esr, rec.realm.rtt, ipa_of(pe_exit.hpfar)
    table, index, _ = rtt.walk(ipa, PAGE_LEVEL)
    entry = table.entries[index]
    if ripas_of(entry) == Ripas.EMPTY:
        inject_sea(rec.context, esr, pe_exit.far)
        return None
    if entry & VALID and esr & _FSC in _TRANSLATION:
        return None  # another thread of the host has mapped it in the meantime: retry
    return HostExit(RecExitReason.SYNC, esr=esr & _ABORT_SHOWN, hpfar=hpfar_of(ipa))


def _failed_access(rec: Rec, pe_exit: PeExit) -> HostExit | None:
    """Report an access that stage 2 permits and that failed nevertheless.

    An error of the memory system is the host's to handle; the realm gets it too if it is
    recoverable.  Shared memory that the host took away is reported only to the realm.
    Spec: DEN0137 1.0, "Realm access to an Unprotected IPA".
    """
    esr = pe_exit.esr
    if esr & _FSC in _PROTECTION:
        inject_protection_fault(rec.context, esr, pe_exit.far)
        return None
    if ESR_ABORT(esr).SET == SyncErrorType.UER:
        inject_sea(rec.context, esr, pe_exit.far)
    return HostExit(RecExitReason.SYNC, esr=esr & _ABORT_SHOWN)


# --- calls ------------------------------------------------------------------------------------


def _smc(rmm: Rmm, pe: int, rec: Rec, _pe_exit: PeExit) -> HostExit | None:
    """Serve an RSI or PSCI call; write the results to x0 up to at least x3."""
    x = rec.context.x
    fid = x[0] & FID_MASK
    command = REALM_CALLS.get(fid)
    if command is None:
        rec.reply(NOT_SUPPORTED)
        rec.advance()
        return None
    arguments = tuple([x[index] for index in range(1, 1 + command.num_args)])
    if not fid & SMC64:
        arguments = tuple([value & MASK32 for value in arguments])
    try:
        if command.wants_pe:
            reply = command.function(rmm, rec, pe, *arguments)
        else:
            reply = command.function(rmm, rec, *arguments)
    except RsiError as error:
        reply = error.results
    except RealmPageMissing as missing:
        return ask_for_page(missing)  # the realm executes the SMC again
    rec.advance()
    leave = reply if isinstance(reply, HostExit) else None
    results = () if isinstance(reply, HostExit) else reply
    if leave is None:
        rec.reply(*results)
    elif leave.reason == RecExitReason.PSCI:
        leave.gprs = (fid, *leave.gprs)
    listener = rmm.events.listener
    if listener is not None:
        listener(_event(rec, command, arguments, results))
    return leave


#: Calls whose results must not appear in a trace.
_SECRET: Final = frozenset({IsletRsiFid.RSI_ISLET_REALM_SEALING_KEY})


def _event(
    rec: Rec, command: RealmCommand, arguments: tuple[int, ...], results: tuple[int, ...]
) -> RsiCall | PsciCall:
    if command.name.startswith("RSI"):
        shown = results[:1] if command.fid in _SECRET else results
        return RsiCall(rec.pa, command.name, command.parameters, arguments, shown)
    return PsciCall(rec.pa, command.name, arguments, results[0] if results else None)


_SYNC_HANDLERS: Final[Mapping[int, Callable[[Rmm, int, Rec, PeExit], HostExit | None]]] = {
    ExceptionClass.WFX: _wfx,
    ExceptionClass.HVC64: _hvc,
    ExceptionClass.SMC64: _smc,
    ExceptionClass.SYSREG: _sysreg,
    ExceptionClass.INSTRUCTION_ABORT_LOWER: _instruction_abort,
    ExceptionClass.DATA_ABORT_LOWER: _data_abort,
}
