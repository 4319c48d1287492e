"""Why a PE stopped running guest code: values that the core returns to its caller."""

from enum import IntEnum, IntFlag


class ExitReason(IntEnum):
    """The reason for a return from ``pe.run()``."""

    SYNC = 0  # an exception was taken to EL2; esr, far and hpfar contain its syndrome
    IRQ = 1  # an interrupt for the caller: see IrqCause
    BUDGET = 2  # the instruction budget is used up
    SERROR = 3
    DIFFERS = 5  # engine check: translated code did not do what the interpreter does, at far
    DEBUG = 4  # a debug event requested by the context's debugger; esr, far as for the guest's own


class IrqCause(IntFlag):
    """The cause of ``ExitReason.IRQ``."""

    KICK = 1  # another thread called kick()
    TIMER = 2  # the output of a guest timer rose
    MAINTENANCE = 4  # the GIC CPU interface has a maintenance interrupt (ICH_MISR_EL2 != 0)
    IDLE = 8  # exact clock: the guest waits for an interrupt; far: ticks until a timer's, at most
    PMU = 16  # the overflow interrupt of the performance monitors rose
