"""A normal-world guest without firmware: one PE, RAM and a device, for the exercises.

It is the least that a VMM needs: stage-2 tables that map the RAM, and a PE that runs until an exit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from pyvmm.arch.esr import EC_SHIFT, ESR_ABORT, ExceptionClass, ipa_of
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.gic import ICH_HCR_EN
from pyvmm.arch.hcr import HCR_EL2
from pyvmm.arch.machine import PeContext, PeExit
from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.stage2 import level_size
from pyvmm.core import Machine
from pyvmm.host.allocator import Allocator
from pyvmm.host.stage2 import Stage2
from pyvmm.lab import code

DRAM_BASE: Final = 0x8000_0000
DRAM_SIZE: Final = 8 << 20
RAM: Final = 0x4000_0000  # where the guest sees its RAM
RAM_SIZE: Final = level_size(2)
DEVICE: Final = 0x0900_0000  # not mapped
SYSTEM_OFF: Final = 0x8400_0008

#: Interrupts and SMCs come to EL2; EL1 is AArch64.
_HCR: Final = HCR_EL2.of(VM=1, SWIO=1, FMO=1, IMO=1, AMO=1, TSC=1, RW=1, FWB=1)
_BUDGET: Final = 100_000  # instructions of a little program
_ZERO_REGISTER: Final = 31


class Device(Protocol):
    """What a guest finds at DEVICE."""

    def read(self, offset: int, size: int, /) -> int:
        """Return what a load of ``size`` bytes gives."""

    def write(self, offset: int, size: int, value: int, /) -> None:
        """Take the low ``size`` bytes that were stored."""


class Bare:
    """A machine, and the context of a guest on it whose X0 is DEVICE."""

    def __init__(self, listing: str) -> None:
        """Load a program; see ``pyvmm.lab.code.words``."""
        self.machine = Machine(DRAM_BASE, DRAM_SIZE, 1)
        self.memory = self.machine.memory(Pas.NS)
        self.allocator = Allocator(DRAM_BASE, DRAM_SIZE)
        self.ram_pa = self.allocator.allocate(RAM_SIZE, RAM_SIZE)
        self.memory.write(self.ram_pa, code.words(listing))
        stage2 = Stage2(self.memory, self.allocator, vmid=1)
        stage2.map(RAM, self.ram_pa, RAM_SIZE)
        self.pe = self.machine.pe(0)
        self.context: PeContext = self.machine.new_context()
        self.context.security = Pas.NS
        self.context.hcr_el2 = int(_HCR)
        self.context.vtcr_el2, self.context.vttbr_el2 = stage2.vtcr, stage2.vttbr
        self.context.ich_hcr = ICH_HCR_EN
        self.context.pc = RAM
        self.context.x[0] = DEVICE

    def page(self, content: bytes = b"") -> int:
        """Return the PA of a new granule of zeros, or with content."""
        pa = self.allocator.allocate()
        self.memory.write(pa, content.ljust(GRANULE_SIZE, b"\0"))
        return pa

    def run(self) -> PeExit:
        """Run to the next exit."""
        return self.pe.run(self.context, _BUDGET)

    def run_with(self, device: Device) -> None:
        """Run a guest whose accesses are loads and stores of unsigned values, until its HVC."""
        while (leave := self.run()).esr >> EC_SHIFT != ExceptionClass.HVC64:
            if leave.reason != ExitReason.SYNC or not ESR_ABORT(leave.esr).ISV:
                raise RuntimeError(f"the guest stopped: ESR {leave.esr:#x}")
            access = Access.of(leave)
            if access.is_write:
                is_zero = access.register == _ZERO_REGISTER
                value = 0 if is_zero else self.context.x[access.register]
                device.write(access.offset, access.size, value & (1 << 8 * access.size) - 1)
            elif access.register != _ZERO_REGISTER:
                self.context.x[access.register] = device.read(access.offset, access.size)
            self.context.pc += 4


@dataclass(frozen=True)
class Access:
    """An access of the guest to its device, as the syndrome describes it."""

    offset: int
    size: int
    register: int
    is_write: bool

    @classmethod
    def of(cls, leave: PeExit) -> "Access":
        """Decode ESR_EL2, HPFAR_EL2 and FAR_EL2."""
        syndrome = ESR_ABORT(leave.esr)
        address = ipa_of(leave.hpfar) | leave.far & (GRANULE_SIZE - 1)
        return cls(address - DEVICE, 1 << syndrome.SAS, syndrome.SRT, syndrome.WnR)


class Log:
    """A device that remembers what happened; a load gives ``answer`` of the offset."""

    def __init__(self, answer: Callable[[int], int]) -> None:
        self._answer = answer
        self.accesses: list[tuple[str, int, int, int]] = []

    def read(self, offset: int, size: int, /) -> int:
        """Return the answer, as many bytes of it as are wanted."""
        value = self._answer(offset) & (1 << 8 * size) - 1
        self.accesses.append(("load", offset, size, value))
        return value

    def write(self, offset: int, size: int, value: int, /) -> None:
        """Remember the store."""
        self.accesses.append(("store", offset, size, value))
