"""What the RMM needs of the world below it: memory, PEs and EL3."""

from collections.abc import Sequence
from typing import Protocol

from pyvmm.arch.pas import Pas


class Memory(Protocol):
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
        """Return a writable window."""


class Registers(Protocol):
    """A fixed array of 64-bit registers."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class Context(Protocol):
    """The part of a PE's saved state that the RMM touches; the rest is the realm's own."""

    @property
    def x(self) -> Registers:
        """General-purpose registers x0 to x30."""

    @property
    def ich_lr(self) -> Registers:
        """List registers of the virtual CPU interface."""

    @property
    def v(self) -> Registers:
        """Vector registers V0 to V31, two words each, the low one first."""

    pc: int
    pstate: int
    sctlr_el1: int
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
    access: int  # 1 reads, 2 writes


class PeDebug(Protocol):
    """What a debugger wants a PE to stop at; the PE then leaves with ``ExitReason.DEBUG``."""

    @property
    def breakpoints(self) -> Registers:
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
    def reason(self) -> int:
        """Why, as ExitReason."""

    @property
    def esr(self) -> int:
        """ESR_EL2 of the exception."""

    @property
    def far(self) -> int:
        """FAR_EL2 of the exception."""

    @property
    def hpfar(self) -> int:
        """HPFAR_EL2 of the exception."""


class Pe(Protocol):
    """One processing element; one thread drives it at a time."""

    def run(self, context: Context, budget: int, /) -> PeExit:
        """Run a guest for at most ``budget`` instructions; its state is read and written back."""

    def translate(self, context: Context, va: int, access: int, /) -> tuple[int, int, Pas, bool]:
        """Translate as the guest would: fault status or 0, address, its PAS, is the fault EL2's.

        ``access`` is 3 for a debugger.  The PE runs nothing meanwhile.
        """


class Machine(Protocol):
    """The machine as R-EL2 sees it."""

    def memory(self, pas: Pas, /) -> Memory:
        """Return the view of one physical address space."""

    def pe(self, index: int, /) -> Pe:
        """Return a PE."""

    def new_context(self) -> Context:
        """Make the state of a PE after reset."""

    def new_debug(self) -> PeDebug:
        """Make what a debugger lends to a context; it wants nothing yet."""

    def lend_debug(self, context: Context, debug: PeDebug, /) -> None:
        """Have a debugger in a context."""

    def tlbi_ipa(self, vmid: int, ipa: int, size: int, /) -> None:
        """Wait until no PE uses an earlier stage-2 translation of the range."""

    def tlbi_vmid(self, vmid: int, /) -> None:
        """Wait until no PE uses an earlier translation of the VMID."""

    def id_register(self, op0: int, op1: int, crn: int, crm: int, op2: int, /) -> int:
        """Read an ID register."""


class El3(Protocol):
    """The Monitor, as the RMM calls it: x0.. in, x0.. out; registers left out are as before."""

    def smc(self, pe: int, args: Sequence[int]) -> Sequence[int]:
        """Call EL3 on a PE."""
