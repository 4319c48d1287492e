"""What the host sees of an exit: RmiRecExit, in its run granule.

What both revisions of RMI have is at the same offsets.  Spec: DEN0137 1.0, RmiRecExit.
"""

from array import array
from collections.abc import Mapping
from typing import Final

from pyvmm.arch import gic
from pyvmm.arch.machine import PeContext
from pyvmm.arch.pas import Pas
from pyvmm.arch.rmi import EXIT_OFFSET, RecExit
from rmm.protocols import Machine
from rmm.rec import HostExit
from rmm.vgic import HCR_OF_HOST

_HCR_SHOWN: Final = HCR_OF_HOST | 0x1F << gic.ICH_HCR_EOICOUNT_SHIFT
#: The realm's registers that the host sees after every exit.
_TIMERS: Final[Mapping[str, int]] = {
    "cntp_ctl": RecExit.cntp_ctl.offset,
    "cntp_cval": RecExit.cntp_cval.offset,
    "cntv_ctl": RecExit.cntv_ctl.offset,
    "cntv_cval": RecExit.cntv_cval.offset,
    "pmu_overflow": RecExit.pmu_ovf_status.offset,
}
_INTERRUPTS: Final[Mapping[str, int]] = {
    "ich_lr": RecExit.gicv3_lrs.offset,
    "ich_misr": RecExit.gicv3_misr.offset,
    "ich_vmcr": RecExit.gicv3_vmcr.offset,
}

# Indices of words.
_REASON: Final = RecExit.exit_reason.offset // 8
_ESR: Final = RecExit.esr.offset // 8
_FAR: Final = RecExit.far.offset // 8
_HPFAR: Final = RecExit.hpfar.offset // 8
_GPRS: Final = RecExit.gprs.offset // 8
_HCR: Final = RecExit.gicv3_hcr.offset // 8
_RIPAS: Final = RecExit.ripas_base.offset // 8
_IMM: Final = RecExit.imm.offset // 8
_NOTHING: Final = bytes(RecExit.size)


class ExitRecord:
    """Writes RmiRecExit.

    Concurrency: the caller holds the RMM's lock.
    """

    __slots__ = ("_hcr_shown", "_record", "_words")

    def __init__(self, machine: Machine, *, shows_interrupts: bool = True) -> None:
        """``shows_interrupts``: as RMI 1.0; in RMI 2.0 the host reads ICH_*_EL2 itself."""
        registers = {**_TIMERS, **_INTERRUPTS} if shows_interrupts else _TIMERS
        self._hcr_shown = _HCR_SHOWN if shows_interrupts else 0
        self._record = machine.new_record(Pas.NS, RecExit.size, registers)
        self._words = self._record.words

    def write(self, run_pa: int, context: PeContext, leave: HostExit) -> None:
        """Write all of the record; GranuleProtectionFault if the granule is not the host's."""
        words, gprs = self._words, leave.gprs
        words[_REASON] = leave.reason
        words[_ESR] = leave.esr
        words[_FAR] = leave.far
        words[_HPFAR] = leave.hpfar
        words[_GPRS] = gprs[0] if gprs else 0
        words[_HCR] = context.ich_hcr & self._hcr_shown
        if len(gprs) > 1 or leave.imm or leave.ripas_change is not None:
            self._write_details(run_pa, context, leave)
        else:
            self._record.write(run_pa + EXIT_OFFSET, context)

    def _write_details(self, run_pa: int, context: PeContext, leave: HostExit) -> None:
        """Write what few exits have, for this time only."""
        words, gprs, change = self._words, leave.gprs, leave.ripas_change
        words[_GPRS : _GPRS + len(gprs)] = memoryview(array("Q", gprs))
        words[_IMM] = leave.imm
        if change is not None:
            words[_RIPAS : _RIPAS + 3] = memoryview(
                array("Q", (change.base, change.top, change.ripas))
            )
        try:
            self._record.write(run_pa + EXIT_OFFSET, context)
        finally:
            words[:] = memoryview(_NOTHING).cast("Q")
