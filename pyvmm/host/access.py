"""A data abort's access to a device, as its syndrome describes it."""

from typing import Final

from pyvmm.arch.bits import MASK32, MASK64
from pyvmm.arch.errors import RepeatAccess
from pyvmm.arch.esr import ESR_ABORT
from pyvmm.arch.machine import PeContext
from pyvmm.host import inject
from pyvmm.host.guest import Bus

WNR: Final = ESR_ABORT.WnR.mask


def perform_access(bus: Bus, context: PeContext, addr: int, esr: int) -> None:
    """Perform it, and continue after the instruction; if it has to be repeated, at it."""
    size = 1 << (esr >> 22 & 3)
    register = esr >> 16 & 0x1F
    if esr & WNR:
        value = context.x[register] if register != 31 else 0
        try:
            bus.write(addr, size, value & (1 << 8 * size) - 1)
        except RepeatAccess:
            return  # the PC is still at the store
    elif register != 31:
        context.x[register] = extend(bus.read(addr, size), size, esr)
    else:
        bus.read(addr, size)
    inject.skip(context)


def extend(value: int, size: int, esr: int) -> int:
    """Extend the value of a load of ``size`` bytes to its register, by ESR_EL2.SSE and SF.

    >>> hex(extend(0x80, 1, ESR_ABORT.of(SSE=1)))
    '0xffffff80'
    """
    if esr & ESR_ABORT.SSE.mask and value >> 8 * size - 1:
        value |= MASK64 << 8 * size
        value &= MASK64 if esr & ESR_ABORT.SF.mask else MASK32
    return value
