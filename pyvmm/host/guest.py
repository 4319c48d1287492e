"""What a guest is to the VM above it: the same small interface for a normal VM and a realm.

A ``Guest`` is made from a ``GuestConfig`` (its memory, its payload and where it starts), a bus
for its device accesses and a vGIC for its interrupts::

    vgic = Vgic(config.num_cpus)
    guest = NormalVm(machine, memory, allocator, bus=bus, vgic=vgic, config=config)  # or
    guest = Realm(firmware, memory, allocator, bus=bus, vgic=vgic, config=config,
                  kick=lambda cpu: machine.pe(cpu).kick(), options=RealmOptions())
    ...                        # devices get guest.dma and vgic.set_spi
    guest.build()              # load the payload; a realm is measured by that
    guest.start()              # build it unless that was done, start one thread a vCPU
    outcome = guest.wait()     # until the guest is off, stop() was called, or it crashed
    guest.close()              # give every granule back
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Protocol

from pyvmm.host.debug import DebugPort
from pyvmm.host.vcpu_state import VcpuState

RPV_SIZE = 64
REALM_IS_CLOSED = (
    "a realm shows neither registers nor memory to its host, unless it was made with"
    " --realm-debug, which is measured"
)


class Bus(Protocol):
    """Where the accesses of a guest to device addresses go."""

    def read(self, addr: int, size: int, /) -> int:
        """Return the value of a read of 1, 2, 4 or 8 bytes."""

    def write(self, addr: int, size: int, value: int, /) -> None:
        """Do a write of 1, 2, 4 or 8 bytes.

        Raises ``RepeatAccess`` if the vCPU has to do it again, once it may run.
        """


class GuestMemory(Protocol):
    """A device's view of the guest's memory, by the address the driver gave it.

    Raises ``GranuleProtectionFault`` (its ``pa`` is then the guest's address) for a page that
    the guest does not share with the host, and then moves no byte.
    """

    def read(self, addr: int, size: int) -> bytes:
        """Return a copy of the bytes."""

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        """Store the bytes."""

    def view(self, addr: int, size: int) -> memoryview:
        """Return a writable window; checked now, for immediate use only."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the payload: its bytes, the guest address of the first, and what it is."""

    ipa: int
    data: bytes
    name: str = ""


@dataclass(frozen=True, slots=True)
class GuestConfig:
    """How a guest begins: sizes in bytes; RAM base and size are multiples of a granule."""

    num_cpus: int
    ram_base: int
    ram_size: int
    segments: Sequence[Segment]
    entry: int
    args: tuple[int, int, int, int] = (0, 0, 0, 0)  # x0..x3 of the boot vCPU
    backed_size: int | None = None  # of RAM with memory behind it; all, but for measuring
    stolen_time: int | None = None  # where a normal VM reads its stolen time (IPA); None: nowhere

    @property
    def ram_end(self) -> int:
        """The first address after RAM."""
        return self.ram_base + self.ram_size


@dataclass(frozen=True, slots=True)
class RealmOptions:
    """What only a realm has; ``personalization`` (RPV) is at most 64 bytes, zero padded."""

    measurement_algo: str = "sha256"  # or "sha512"
    personalization: bytes = b""
    metadata: bytes = b""  # what its owner says of it, signed: at most a granule
    is_debuggable: bool = False  # by its host; measured


class Outcome(Enum):
    """How the life of a guest ended."""

    OFF = "powered off"
    RESET = "asked for a reset"
    STOPPED = "was stopped"
    CRASHED = "crashed"


class ExitKind(IntEnum):
    """What a vCPU wanted of its host when it stopped running."""

    MMIO = 0  # a device access
    FAULT = 1  # memory that it has not yet
    SYSREG = 2  # a trapped register: an interrupt for another vCPU
    WFX = 3  # nothing to do
    IRQ = 4  # an interrupt for the host, or the host itself
    PSCI = 5  # a firmware call
    RIPAS = 6  # a realm changes who has some of its memory
    HOST_CALL = 7  # a realm calls its host
    OTHER = 8


#: Told how many pages of the payload are loaded, of how many; what it raises ends the building.
Progress = Callable[[int, int], None]


class Guest(Protocol):
    """A guest from the outside; every method may be called from any thread."""

    @property
    def dma(self) -> GuestMemory:
        """The memory that its devices reach."""

    def release(self, ipa: int, size: int) -> None:
        """Take back some of its RAM, which it lends: contents are gone, zeros are there instead.

        Raises ``GranuleProtectionFault`` for what is not RAM, or not the host's to take.
        """

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it runs."""

    @property
    def is_halting(self) -> bool:
        """Whether vCPUs are to stand still: devices then hold up none for long."""

    @property
    def reason(self) -> str:
        """One line on why it crashed; empty otherwise."""

    @property
    def exits(self) -> Sequence[Sequence[int]]:
        """How often each vCPU stopped running, by ``ExitKind``."""

    def vcpu_states(self) -> Sequence[VcpuState]:
        """Return what the host knows of each vCPU; all of them stand still."""

    def build(self, progress: Progress | None = None) -> None:
        """Build the guest and load its payload: all that is measured of a realm."""

    def start(self) -> None:
        """Build the guest unless that was done, and start its vCPU threads."""

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Return the outcome once all vCPUs stand still, or None after ``timeout`` seconds.

        Raises: whatever a vCPU thread raised, if it was our own bug.
        """

    def stop(self) -> None:
        """Make every vCPU stand still for good; does not wait for it."""

    def pause(self) -> None:
        """Hold every vCPU until ``resume``; returns when all stand still."""

    def resume(self) -> None:
        """Let the vCPUs go on after ``pause``."""

    def debug_port(self) -> DebugPort:
        """Let a debugger in; UserError, saying why, where that may not be."""

    def send_serror(self, cpu: int) -> None:
        """Make an SError pending for a vCPU; UserError, saying why, where that may not be."""

    def close(self) -> None:
        """Stop, wait, and give back everything the guest had."""
