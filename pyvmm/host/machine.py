"""What the normal world needs of the machine, as Protocols: memory, PEs and the SMC waist."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

    def read_u64(self, pa: int) -> int:
        """Return one little-endian word."""

    def write_u64(self, pa: int, value: int) -> None:
        """Store one little-endian word."""

    def zero(self, pa: int, size: int) -> None:
        """Fill with zeros."""

    def view(self, pa: int, size: int) -> memoryview:
        """Return a writable window; checked now, for immediate use only."""


class RegisterArray(Protocol):
    """A fixed array of 64-bit registers."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class GuestRegisters(Protocol):
    """The registers of a guest: those named here, and EL1's by their names in small letters."""

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
    """The part of a PE's saved state that a hypervisor touches; the core knows the rest."""

    @property
    def ich_lr(self) -> RegisterArray:
        """ICH_LR<n>_EL2."""

    sctlr_el1: int
    cpacr_el1: int
    cntv_ctl: int
    cntp_ctl: int
    elr_el1: int
    spsr_el1: int
    esr_el1: int
    far_el1: int
    vbar_el1: int
    hcr_el2: int
    vtcr_el2: int
    vttbr_el2: int
    vmpidr_el2: int
    vpidr_el2: int
    cntvoff_el2: int
    cnthctl_el2: int
    ich_hcr: int
    ich_vmcr: int
    security: int


class Watchpoint(Protocol):
    """A range that a debugger watches."""

    addr: int
    size: int
    access: int  # bit 0: reads, bit 1: writes


class PeDebug(Protocol):
    """What a debugger wants of the PE that runs a context: stops with ``ExitReason.DEBUG``."""

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
    """Why ``Pe.run`` returned; overwritten by the next run."""

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
        """Run the guest of ``context`` for at most ``budget`` instructions."""

    def kick(self) -> None:
        """Make the present or the next ``run`` return; from any thread."""

    def translate(
        self, context: PeContext, va: int, access: int = 0, /
    ) -> tuple[int, int, Pas, bool]:
        """Translate while the PE does not run: fault status or 0, address, its PAS, is it EL2's.

        ``access`` is 3 for a debugger.
        """


class Firmware(Protocol):
    """The SMC waist: the normal world's only way to the realm world."""

    def smc(self, pe: int, args: Sequence[int]) -> tuple[int, ...]:
        """Call with x0.. = ``args`` on a PE; return x0.. (the rest is as before)."""


class Machine(Protocol):
    """The machine as NS-EL2 software sees it: its PEs and nothing of other worlds."""

    def pe(self, index: int, /) -> Pe:
        """Return one PE."""

    def new_context(self) -> PeContext:
        """Make a context with every register in its reset state."""

    def new_debug(self) -> PeDebug:
        """Make what a debugger lends to a context."""

    def lend_debug(self, context: PeContext, debug: PeDebug | None, /) -> None:
        """Have a debugger in a context, or none."""

    def counter(self) -> int:
        """Return the physical count of the generic timer."""

    def tlbi_vmid(self, vmid: int, /) -> None:
        """Forget the translations of a VMID on every PE."""

    def punch(self, pas: Pas, pa: int, size: int, /) -> None:
        """Drop contents of the caller's own memory: they read as zeros afterwards."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a machine has done and what it takes, as its owner sees it from outside."""

    instructions: tuple[int, ...]  # executed, by PE
    granules: Mapping[Pas, int]  # that the GPT gives to each PAS
    resident: Mapping[Pas, int]  # bytes of the owner's memory
