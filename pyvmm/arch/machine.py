"""The machine as the software of each world sees it: memory, PEs and the state that they run.

Protocols only: the core (``pyvmm.core``) is the machine, tests have others.  What one world
alone may do with the machine stands beside that world: ``pyvmm.host.machine``,
``rmm.protocols``, ``monitor.protocols``.
"""

from collections.abc import Sequence
from typing import Protocol

from pyvmm.arch.exits import ExitReason
from pyvmm.arch.pas import Pas


class PhysicalMemory(Protocol):
    """Memory as one physical address space shows it.

    Every access raises ``GranuleProtectionFault`` where the GPT refuses it, and then does
    nothing at all.  Sizes are bytes.
    """

    def read(self, pa: int, size: int) -> bytes:
        """Return a copy of the bytes."""

    def write(self, pa: int, data: bytes | bytearray | memoryview) -> None:
        """Store the bytes."""

    def zero(self, pa: int, size: int) -> None:
        """Store zeros."""

    def view(self, pa: int, size: int) -> memoryview:
        """Return a writable window; it is checked now, so use it at once."""


class RegisterArray(Protocol):
    """A fixed array of 64-bit registers."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class GuestRegisters(Protocol):
    """The registers of a guest: those named here, and EL1's by their names in lower case."""

    @property
    def x(self) -> RegisterArray:
        """X0 to X30."""

    @property
    def v(self) -> RegisterArray:
        """V0 to V31, two words each, the low one first."""

    pc: int
    pstate: int
    sp_el0: int
    sp_el1: int
    fpcr: int
    fpsr: int


class PeContext(GuestRegisters, Protocol):
    """The part of a PE's saved state that EL2 touches; the core knows the rest."""

    @property
    def ich_lr(self) -> RegisterArray:
        """ICH_LR<n>_EL2."""

    sctlr_el1: int
    cpacr_el1: int
    elr_el1: int
    spsr_el1: int
    esr_el1: int
    far_el1: int
    vbar_el1: int
    cntv_ctl: int
    cntv_cval: int
    cntp_ctl: int
    cntp_cval: int
    hcr_el2: int
    vtcr_el2: int
    vttbr_el2: int
    vmpidr_el2: int
    vpidr_el2: int
    cntvoff_el2: int
    cnthctl_el2: int
    mdcr_el2: int
    cptr_el2: int
    ich_hcr: int
    ich_vmcr: int
    ich_misr: int
    security: int


class Watchpoint(Protocol):
    """A range of virtual memory that a debugger watches."""

    addr: int
    size: int
    access: int  # bit 0: reads, bit 1: writes


class PeDebug(Protocol):
    """What a debugger wants a PE to stop at; the PE then leaves with ``ExitReason.DEBUG``."""

    @property
    def breakpoints(self) -> RegisterArray:
        """Addresses, of which the first ``num_breakpoints`` count."""

    @property
    def watchpoints(self) -> Sequence[Watchpoint]:
        """Ranges, of which the first ``num_watchpoints`` count."""

    step: int
    num_breakpoints: int
    num_watchpoints: int


class PeExit(Protocol):
    """Why ``Pe.run`` returned; overwritten by the next run of that PE."""

    @property
    def reason(self) -> ExitReason | int:
        """Its kind, an ``ExitReason``."""

    @property
    def irq(self) -> int:
        """``IrqCause`` bits of an IRQ exit."""

    @property
    def esr(self) -> int:
        """ESR_EL2 of a SYNC exit."""

    @property
    def far(self) -> int:
        """FAR_EL2 of an abort."""

    @property
    def hpfar(self) -> int:
        """HPFAR_EL2 of an abort: IPA[51:12] from bit 4 on."""

    @property
    def instructions(self) -> int:
        """How many were executed."""


class Pe(Protocol):
    """One processing element; one thread drives it at a time."""

    def run(self, context: PeContext, budget: int, /) -> PeExit:
        """Run a guest for at most ``budget`` instructions; its state is read and written back."""

    def translate(self, context: PeContext, va: int, access: int, /) -> tuple[int, int, Pas, bool]:
        """Translate as the guest would: fault status or 0, address, its PAS, is the fault EL2's.

        ``access`` is 0 for a read, 1 for a write, 2 for a fetch, and 3 for a debugger, whom stage 1
        denies nothing.  The PE runs nothing meanwhile.
        """


class Machine(Protocol):
    """What every hypervisor asks of the machine: contexts to run, and the end of a VMID."""

    def new_context(self) -> PeContext:
        """Make the state of a PE after reset."""

    def new_debug(self) -> PeDebug:
        """Make what a debugger lends to a context; it wants nothing yet."""

    def lend_debug(self, context: PeContext, debug: PeDebug | None, /) -> None:
        """Have a debugger in a context, or none."""

    def tlbi_vmid(self, vmid: int, /) -> None:
        """Wait until no PE uses an earlier translation of the VMID."""
