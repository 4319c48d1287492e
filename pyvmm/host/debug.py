"""A guest as its debugger sees it: vCPUs that stop and resume, their registers, their memory.

``DebugPort`` has the common part; a normal VM and a debuggable realm implement the access to
registers and memory.  Addresses are the guest's virtual addresses, translated by the vCPU's own
tables.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, IntFlag
from threading import Lock, RLock
from typing import Final, Protocol

from pyvmm.arch.bits import MASK64
from pyvmm.arch.esr import ESR_ABORT, ExceptionClass
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.machine import GuestRegisters, PeDebug, PeExit
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi_debug import MAX_BREAKPOINTS, MAX_WATCHPOINTS


class DebugFault(Exception):
    """The address has no memory, or the guest is gone."""


class TooManyError(Exception):
    """The limit of breakpoints or watchpoints is exceeded."""


class StopKind(Enum):
    """The reason why a vCPU stopped."""

    BREAKPOINT = "breakpoint"
    WATCHPOINT = "watchpoint"
    STEP = "step"
    BEGIN = "begin"  # of a replay, which cannot go back further
    END = "end"  # of a replay


STOP_KINDS: Final = {
    ExceptionClass.BREAKPOINT_LOWER: StopKind.BREAKPOINT,
    ExceptionClass.WATCHPOINT_LOWER: StopKind.WATCHPOINT,
    ExceptionClass.SOFTWARE_STEP_LOWER: StopKind.STEP,
}


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop of one vCPU; ``address`` and ``is_write`` belong to a watchpoint."""

    cpu: int
    kind: StopKind
    address: int = 0
    is_write: bool = False

    @classmethod
    def of(cls, cpu: int, esr: int, far: int) -> "Stop":
        """Decode the syndrome of an ``ExitReason.DEBUG``."""
        syndrome = ESR_ABORT(esr)
        return cls(cpu, STOP_KINDS.get(syndrome.EC, StopKind.STEP), far, syndrome.WnR)


class Access(IntFlag):
    """The accesses that a watchpoint watches."""

    READ = 1
    WRITE = 2


@dataclass(frozen=True, slots=True)
class Watch:
    """A watchpoint on a range of bytes."""

    address: int
    size: int
    access: Access


class Resume(Enum):
    """What a vCPU does after a resume."""

    STAY = "stay"
    RUN = "run"
    STEP = "step"


class Holder(Protocol):
    """The owner of the vCPU threads, which can hold vCPUs."""

    def set_held(self, held: Sequence[bool], /) -> None:
        """Set for each vCPU whether the debugger holds it."""

    def wait_held(self) -> None:
        """Wait until all held vCPUs stand still."""

    def wait_running(self) -> None:
        """Wait until all vCPUs that may run have started to."""

    def is_on(self, cpu: int, /) -> bool:
        """Check whether a vCPU is powered on."""


class DebugPort(ABC):
    """The debugger's access to a guest: one debugger at a time, besides short inspections.

    Any thread except a vCPU's may call the methods.
    """

    def __init__(self, vcpus: Holder, num_cpus: int) -> None:
        self.num_cpus = num_cpus
        self._vcpus = vcpus
        self._turn = RLock()  # held while stopping, resuming or inspecting the guest
        self._lock = Lock()  # guards state that vCPU threads change too
        self._held = [False] * num_cpus
        self._steps: dict[int, int] = {}  # vCPU that does one step -> its PC before
        self._stop: Stop | None = None
        self._notify: Callable[[], None] | None = None

    # --- the debugger ---------------------------------------------------------------------

    def attach(self, notify: Callable[[], None]) -> None:
        """Stop the guest for a debugger.

        Args:
            notify: called on a vCPU's thread after it stopped; see ``take_stop``.
        """
        with self._turn:
            self.hold()
            self._notify = notify
            self._lend(True)
            self.set_points((), ())

    def detach(self) -> None:
        """Remove everything that the debugger set, and resume the guest."""
        with self._turn:
            self.hold()
            self._notify = None
            self.set_points((), ())
            self._lend(False)
            self.resume([Resume.RUN] * self.num_cpus)

    def hold(self) -> None:
        """Stop every vCPU; return when all stand still."""
        with self._turn:
            self._set_held([True] * self.num_cpus)
            self._vcpus.wait_held()
            self._stopped()

    def resume(self, actions: Sequence[Resume]) -> None:
        """Resume the vCPUs, which are all stopped, with one action for each."""
        with self._turn:
            self._steps = {
                cpu: self.registers(cpu).pc
                for cpu, action in enumerate(actions)
                if action is Resume.STEP
            }
            self._set_steps([action is Resume.STEP for action in actions])
            self._resuming()
            self._stop = None
            self._set_held([action is Resume.STAY for action in actions])

    @contextmanager
    def still(self) -> Iterator[None]:
        """Stop every vCPU in this context; afterwards each continues as before.

        Between two of these contexts the vCPUs do run, even if the second follows at once.
        """
        with self._turn:
            self._vcpus.wait_running()
            before = list(self._held)
            self.hold()
            try:
                yield
            finally:
                self._resuming()
                with self._lock:
                    if self._stop is None:
                        self._held = before
                    self._vcpus.set_held(self._held)

    def take_stop(self) -> Stop | None:
        """Return the first stop since the guest was resumed, and clear it; None without a stop."""
        with self._turn, self._lock:
            stop, self._stop = self._stop, None
            return stop

    def is_on(self, cpu: int) -> bool:
        """Check whether a vCPU is powered on."""
        return self._vcpus.is_on(cpu)

    def read(self, cpu: int, va: int, size: int) -> bytes:
        """Read memory as a vCPU sees it, up to the first unmapped page.

        Raises:
            DebugFault: the first page is not mapped.
        """
        data = bytearray()
        try:
            with self._turn:
                for at, length in _pages(va, size):
                    data += self._read_part(cpu, at, length)
        except DebugFault:
            if not data:
                raise
        return bytes(data)

    def write(self, cpu: int, va: int, data: bytes) -> None:
        """Write memory as a vCPU sees it; DebugFault at an unmapped page."""
        done = 0
        with self._turn:
            for at, length in _pages(va, len(data)):
                self._write_part(cpu, at, data[done : done + length])
                done += length

    @abstractmethod
    def registers(self, cpu: int) -> GuestRegisters:
        """Return the registers of a stopped vCPU; DebugFault if it is gone."""

    @abstractmethod
    def set_registers(self, cpu: int, registers: GuestRegisters) -> None:
        """Set the registers to a changed result of ``registers``; DebugFault."""

    @abstractmethod
    def set_points(self, breakpoints: Sequence[int], watchpoints: Sequence[Watch]) -> None:
        """Replace all breakpoints and watchpoints; TooManyError changes nothing."""

    # --- the vCPUs ------------------------------------------------------------------------

    def ran(self, cpu: int, exit_: PeExit, pc: int) -> None:
        """Process a vCPU's exit after it was handled; on that vCPU's thread."""
        if exit_.reason == ExitReason.DEBUG:
            self.stop_at(Stop.of(cpu, exit_.esr, exit_.far))
        elif cpu in self._steps:
            # A synchronous exit counts the instruction even if it was not completed.
            is_counted = exit_.reason != ExitReason.SYNC and exit_.instructions
            if is_counted or pc != self._steps[cpu]:
                self.stop_at(Stop(cpu, StopKind.STEP))

    def stop_at(self, stop: Stop) -> None:
        """Stop every vCPU, because one has stopped; on that vCPU's thread."""
        with self._lock:
            if self._stop is None:
                self._stop = stop
            self._held = [True] * self.num_cpus
            self._vcpus.set_held(self._held)
            notify = self._notify
        if notify is not None:
            notify()

    def _set_held(self, held: list[bool]) -> None:
        with self._lock:
            self._held = held
            self._vcpus.set_held(held)

    # --- for subclasses -------------------------------------------------------------------

    @abstractmethod
    def _lend(self, is_attached: bool) -> None:
        """Put a debugger into every context, or remove it."""

    @abstractmethod
    def _set_steps(self, steps: Sequence[bool]) -> None:
        """Set which vCPUs execute only one instruction when they run next."""

    @abstractmethod
    def _read_part(self, cpu: int, va: int, size: int) -> bytes:
        """Read within a page; DebugFault."""

    @abstractmethod
    def _write_part(self, cpu: int, va: int, data: bytes) -> None:
        """Write within a page; DebugFault."""

    @abstractmethod
    def _stopped(self) -> None:
        """Called when all vCPUs stand still, possibly several times."""

    @abstractmethod
    def _resuming(self) -> None:
        """Called before vCPUs resume."""


def fill_debug(debug: PeDebug, breakpoints: Sequence[int], watchpoints: Sequence[Watch]) -> None:
    """Write breakpoints and watchpoints for a PE; TooManyError changes nothing."""
    if len(breakpoints) > MAX_BREAKPOINTS or len(watchpoints) > MAX_WATCHPOINTS:
        raise TooManyError
    for n, address in enumerate(breakpoints):
        debug.breakpoints[n] = address
    for slot, watch in zip(debug.watchpoints, watchpoints, strict=False):
        slot.addr, slot.size, slot.access = watch.address, watch.size, watch.access
    debug.num_breakpoints, debug.num_watchpoints = len(breakpoints), len(watchpoints)


def _pages(va: int, size: int) -> Iterator[tuple[int, int]]:
    """Split a range at page boundaries; addresses wrap."""
    while size > 0:
        length = min(size, GRANULE_SIZE - va % GRANULE_SIZE)
        yield va, length
        va, size = va + length & MASK64, size - length
