"""The interface of a guest to the VM above it: the same for a normal VM and a realm.

A ``Guest`` is made from a ``GuestConfig`` (memory, payload and entry point), a bus for its device
accesses and a vGIC for its interrupts::

    vgic = Vgic(config.num_cpus)
    guest = NormalVm(machine, memory, allocator, bus=bus, vgic=vgic, config=config)  # or
    guest = Realm(firmware, memory, allocator, bus=bus, vgic=vgic, config=config,
                  kick=lambda cpu: machine.pe(cpu).kick(), options=RealmOptions())
    ...                        # devices get guest.dma and vgic.set_spi
    guest.build()              # load the payload, which also measures a realm
    guest.start()              # build it if necessary, start one thread per vCPU
    outcome = guest.wait()     # until the guest is off, stop() was called, or it crashed
    guest.close()              # free every granule
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Protocol

from pyvmm.arch.rmi_revisions import VERSION_1_0
from pyvmm.arch.saved import State
from pyvmm.host.debug import DebugPort
from pyvmm.host.vcpu_state import VcpuState

RPV_SIZE = 64
REALM_IS_CLOSED = (
    "a realm hides its registers and memory from its host, unless it is created with"
    " --realm-debug, which is measured"
)


class Bus(Protocol):
    """The target of a guest's accesses to device addresses."""

    def read(self, addr: int, size: int, /) -> int:
        """Return the value of a read of 1, 2, 4 or 8 bytes."""

    def write(self, addr: int, size: int, value: int, /) -> None:
        """Write 1, 2, 4 or 8 bytes.

        Raises:
            RepeatAccess: the vCPU has to repeat it, once it may run.
        """


class GuestMemory(Protocol):
    """A device's view of the guest's memory, by the addresses that the driver uses.

    An access to a page that the guest does not share with the host raises
    ``GranuleProtectionFault`` (``pa`` is the guest's address) and transfers nothing.
    """

    def read(self, addr: int, size: int) -> bytes:
        """Return a copy of the bytes."""

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        """Store the bytes."""

    def view(self, addr: int, size: int) -> memoryview:
        """Return a writable window; it is checked now, so use it immediately, or in a transfer."""

    def shared_size(self) -> int:
        """Return how many bytes devices can access now."""

    def begin_transfer(self) -> int:
        """Keep the windows made from now on valid until ``end_transfer`` with the result."""

    def end_transfer(self, transfer: int) -> None:
        """End a transfer."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the payload: its address, its bytes and its name."""

    ipa: int
    data: bytes
    name: str = ""


@dataclass(frozen=True, slots=True)
class RomRegion:
    """Memory of a normal VM that it only reads, of whole blocks of 2 MiB; zeros after the data."""

    ipa: int
    size: int
    data: bytes = b""


class Rom(Protocol):
    """Such memory, as a device sees it that owns it."""

    @property
    def size(self) -> int:
        """Its size in bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Return a copy of the bytes, which must be inside."""

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes, which must be inside."""

    def set_visible(self, *, is_visible: bool) -> None:
        """Let the VM read it, or make its reads come to the bus as its writes do."""


@dataclass(frozen=True, slots=True)
class GuestConfig:
    """A guest's initial state; sizes in bytes; RAM base and size are multiples of a granule."""

    num_cpus: int
    ram_base: int
    ram_size: int
    segments: Sequence[Segment]
    entry: int
    args: tuple[int, int, int, int] = (0, 0, 0, 0)  # x0..x3 of the boot vCPU
    backed_size: int | None = None  # of the RAM with memory; None: all; less only to measure
    num_counters: int = 0  # event counters of the PMU; 0: no PMU
    stolen_time: int | None = None  # address of a normal VM's stolen time (IPA); None: absent
    roms: Sequence[RomRegion] = ()  # of a normal VM
    owns_machine: bool = False  # no guest: it has the normal world, from EL1 or EL2 on
    has_el2: bool = False  # and starts at EL2

    @property
    def ram_end(self) -> int:
        """The first address after RAM."""
        return self.ram_base + self.ram_size


@dataclass(frozen=True, slots=True)
class RealmOptions:
    """Options of a realm; ``personalization`` (RPV) is at most 64 bytes, zero padded."""

    measurement_algo: str = "sha256"  # or "sha512"; in RMI 2.0 also "sha384"
    personalization: bytes = b""
    metadata: bytes = b""  # signed by its owner; at most a granule
    is_debuggable: bool = False  # by its host; measured
    revision: int = VERSION_1_0  # of RMI


@dataclass(frozen=True, slots=True)
class GuestState:
    """The state of a guest whose vCPUs stand still, without its devices and its memory."""

    counter: int
    vcpus: Sequence[State]


class Outcome(Enum):
    """How a guest ended."""

    OFF = "powered off"
    RESET = "asked for a reset"
    STOPPED = "was stopped"
    CRASHED = "crashed"


class ExitKind(IntEnum):
    """The reason for an exit of a vCPU."""

    MMIO = 0  # a device access
    FAULT = 1  # an access to memory that is not mapped yet
    SYSREG = 2  # a trapped register: an interrupt for another vCPU
    WFX = 3  # waiting for an interrupt or event
    IRQ = 4  # an interrupt for the host, or a kick
    PSCI = 5  # a firmware call
    RIPAS = 6  # a realm changes the owner of some of its memory
    HOST_CALL = 7  # a realm calls its host
    OTHER = 8


#: Called with the number of loaded pages of the payload and their total; may raise to end it.
Progress = Callable[[int, int], None]


class Guest(Protocol):
    """A guest from the outside; every method may be called from any thread."""

    @property
    def dma(self) -> GuestMemory:
        """The memory that its devices can access."""

    @property
    def roms(self) -> Sequence[Rom]:
        """The memory that it only reads, in the order of its configuration."""

    def release(self, ipa: int, size: int) -> None:
        """Take back some of its RAM: its contents become zeros.

        Raises:
            GranuleProtectionFault: it is not RAM, or the host cannot take it.
        """

    @property
    def outcome(self) -> Outcome | None:
        """The outcome; None while it runs."""

    @property
    def is_halting(self) -> bool:
        """Whether vCPUs must stand still: devices must not delay them then."""

    @property
    def reason(self) -> str:
        """The reason of a crash in one line; empty otherwise."""

    @property
    def exits(self) -> Sequence[Sequence[int]]:
        """The number of each vCPU's exits, by ``ExitKind``."""

    def vcpu_states(self) -> Sequence[VcpuState]:
        """Return the host's knowledge of each vCPU; all of them must stand still."""

    def build(self, progress: Progress | None = None) -> None:
        """Build the guest and load its payload: everything that a realm's measurement covers."""

    def start(self) -> None:
        """Build the guest if necessary, and start its vCPU threads."""

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Return the outcome once all vCPUs stand still, or None after ``timeout`` seconds.

        Raises: an exception of a vCPU thread, which is our bug.
        """

    def stop(self) -> None:
        """Stop every vCPU for good; do not wait for it."""

    def still(self) -> AbstractContextManager[None]:
        """Return a context in which every vCPU stands still, for an observer."""

    def pause(self) -> None:
        """Pause every vCPU until ``resume``; return when all stand still."""

    def resume(self) -> None:
        """Resume the vCPUs after ``pause``."""

    def save(self) -> GuestState:
        """Return its state, while all vCPUs stand still; UserError if that is not allowed."""

    def used_memory(self) -> Iterator[tuple[int, int]]:
        """Yield address and size of the parts of RAM that may contain something."""

    def load(self, state: GuestState) -> None:
        """Set its state, after `build` and before `start`; StateError if it is not possible."""

    def debug_port(self) -> DebugPort:
        """Return the port for a debugger; UserError with the reason if that is not allowed."""

    def send_serror(self, cpu: int) -> None:
        """Make an SError pending for a vCPU; UserError with the reason if that is not allowed."""

    def close(self) -> None:
        """Stop the guest, wait for its end, and release its resources."""
