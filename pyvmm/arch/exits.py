"""Why a PE stopped running guest code: the values that cross from the core to its caller."""

from enum import IntEnum, IntFlag


class ExitReason(IntEnum):
    """Reason of one return from ``pe.run()``."""

    SYNC = 0  # an exception was taken to EL2: esr, far, hpfar hold its syndrome
    IRQ = 1  # an interrupt for the caller: see IrqCause
    BUDGET = 2  # the instruction budget is spent
    SERROR = 3
    DEBUG = 4  # what the context's debugger asked for: esr, far as for the guest's own


class IrqCause(IntFlag):
    """What ended a run with ``ExitReason.IRQ``."""

    KICK = 1  # another thread called kick()
    TIMER = 2  # the output of a guest timer rose
    MAINTENANCE = 4  # the GIC CPU interface has a maintenance interrupt (ICH_MISR_EL2 != 0)
