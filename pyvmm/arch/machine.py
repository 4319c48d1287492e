"""The machine as the software of each world sees it: memory, PEs and their contexts.

Protocols only: the core (``pyvmm.core``) implements the machine, and tests use fakes.  Operations
reserved for one world are declared beside that world: ``pyvmm.host.machine``, ``rmm.protocols``,
``monitor.protocols``.
"""

from collections.abc import Sequence
from typing import Protocol

from pyvmm.arch.exits import ExitReason
from pyvmm.arch.pas import Pas


class PhysicalMemory(Protocol):
    """Memory as seen through one physical address space.

    An access that the GPT refuses raises ``GranuleProtectionFault`` and has no effect.  Sizes are
    in bytes.
    """

    def read(self, pa: int, size: int) -> bytes:
        """Return a copy of the bytes."""

    def write(self, pa: int, data: bytes | bytearray | memoryview) -> None:
        """Store the bytes."""

    def zero(self, pa: int, size: int) -> None:
        """Store zeros."""

    def view(self, pa: int, size: int) -> memoryview:
        """Return a writable window; access is checked only now, so use it at once."""


class RegisterArray(Protocol):
    """A fixed array of 64-bit registers."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class GuestRegisters(Protocol):
    """The registers of a guest: those below, and the EL1 registers by their lower-case names."""

    @property
    def x(self) -> RegisterArray:
        """X0 to X30."""

    @property
    def v(self) -> RegisterArray:
        """V0 to V31, two words each, the low word first."""

    pc: int
    pstate: int
    sp_el0: int
    sp_el1: int
    fpcr: int
    fpsr: int


class PeContext(GuestRegisters, Protocol):
    """The part of a PE's saved state that EL2 accesses; the core knows the rest."""

    @property
    def ich_lr(self) -> RegisterArray:
        """ICH_LR<n>_EL2."""

    @property
    def pmevcntr(self) -> RegisterArray:
        """PMEVCNTR<n>_EL0."""

    @property
    def pmevtyper(self) -> RegisterArray:
        """PMEVTYPER<n>_EL0."""

    sctlr_el1: int
    cpacr_el1: int
    elr_el1: int
    spsr_el1: int
    esr_el1: int
    far_el1: int
    vbar_el1: int
    tcr_el1: int
    ttbr0_el1: int
    ttbr1_el1: int
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
    pmcr: int
    pmccntr: int
    pmccfiltr: int
    pmu_overflow: int  # the interrupt of the PMU is asserted: 0 or 1
    ich_hcr: int
    ich_vmcr: int
    ich_misr: int
    security: int


class PeContextWithEl2(PeContext, Protocol):
    """The part of the state of a context with EL2 that the machine around it accesses."""

    @property
    def icc_lr(self) -> RegisterArray:
        """The list registers of the physical interface of the GIC."""

    icc_hcr: int  # of this interface, as ICH_HCR_EL2
    vbar_el2: int
    esr_el2: int
    far_el2: int
    elr_el2: int
    spsr_el2: int
    icc_vmcr: int
    icc_ap0r0: int
    icc_ap1r0: int
    cnthp_ctl: int
    cnthp_cval: int
    cnthv_ctl: int
    cnthv_cval: int
    maintenance: int  # the interrupt of the virtual interface of the GIC is asserted: 0 or 1


class Watchpoint(Protocol):
    """A range of virtual memory that a debugger watches."""

    addr: int
    size: int
    access: int  # bit 0: reads, bit 1: writes


class PeDebug(Protocol):
    """The points at which a debugger stops a PE with ``ExitReason.DEBUG``."""

    @property
    def breakpoints(self) -> RegisterArray:
        """Addresses; the first ``num_breakpoints`` are active."""

    @property
    def watchpoints(self) -> Sequence[Watchpoint]:
        """Ranges; the first ``num_watchpoints`` are active."""

    step: int
    num_breakpoints: int
    num_watchpoints: int


class PeExit(Protocol):
    """Why ``Pe.run`` returned; overwritten by the next run of that PE."""

    @property
    def reason(self) -> ExitReason | int:
        """The ``ExitReason``."""

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
        """The number of executed instructions."""


class Pe(Protocol):
    """One processing element, used by one thread at a time."""

    @property
    def interface(self) -> PeContext:
        """ICH_*_EL2 as EL2 software of either security state last wrote them; nothing else."""

    def run(self, context: PeContext, budget: int, /) -> PeExit:
        """Run a guest for at most ``budget`` instructions, and update its context."""

    def translate(self, context: PeContext, va: int, access: int, /) -> tuple[int, int, Pas, bool]:
        """Translate as the guest would: fault status or 0, address, PAS, whether it faults to EL2.

        ``access`` is 0 for a read, 1 for a write, 2 for a fetch, and 3 for a debugger, which
        ignores the permissions of stage 1.  The PE must not be running.
        """


class Machine(Protocol):
    """What every hypervisor needs from the machine: contexts, and invalidation by VMID."""

    def new_context(self) -> PeContext:
        """Make a context in the reset state."""

    def new_debug(self) -> PeDebug:
        """Make the debugger's part of a context, without any points."""

    def lend_debug(self, context: PeContext, debug: PeDebug | None, /) -> None:
        """Attach a debugger's part to a context, or detach it."""

    def tlbi_vmid(self, vmid: int, /) -> None:
        """Wait until no PE uses an earlier translation of the VMID."""
