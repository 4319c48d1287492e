"""A guest as its debugger sees it: vCPUs that stop and go on, their registers, their memory.

``DebugPort`` is all of it but how registers and memory are reached, which a normal VM and a realm
that may be debugged answer each in their way.  Addresses are the guest's virtual ones, translated
by the vCPU's own tables.
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
    """There is no memory at the address, or the guest is gone."""


class TooManyError(Exception):
    """There is no room for another breakpoint or watchpoint."""


class StopKind(Enum):
    """What stopped a vCPU."""

    BREAKPOINT = "breakpoint"
    WATCHPOINT = "watchpoint"
    STEP = "step"


STOP_KINDS: Final = {
    ExceptionClass.BREAKPOINT_LOWER: StopKind.BREAKPOINT,
    ExceptionClass.WATCHPOINT_LOWER: StopKind.WATCHPOINT,
    ExceptionClass.SOFTWARE_STEP_LOWER: StopKind.STEP,
}


@dataclass(frozen=True, slots=True)
class Stop:
    """One vCPU stopped; ``address`` and ``is_write`` are a watchpoint's."""

    cpu: int
    kind: StopKind
    address: int = 0
    is_write: bool = False

    @classmethod
    def of(cls, cpu: int, esr: int, far: int) -> "Stop":
        """Read the syndrome of an ``ExitReason.DEBUG``."""
        syndrome = ESR_ABORT(esr)
        return cls(cpu, STOP_KINDS.get(syndrome.EC, StopKind.STEP), far, syndrome.WnR)


class Access(IntFlag):
    """What a watchpoint watches."""

    READ = 1
    WRITE = 2


@dataclass(frozen=True, slots=True)
class Watch:
    """A watchpoint on a range of bytes."""

    address: int
    size: int
    access: Access


class Resume(Enum):
    """What a vCPU is to do next."""

    STAY = "stay"
    RUN = "run"
    STEP = "step"


class Holder(Protocol):
    """Who can hold vCPUs: their threads' owner."""

    def set_held(self, held: Sequence[bool], /) -> None:
        """Say of each vCPU whether the debugger holds it."""

    def wait_held(self) -> None:
        """Wait until all that are held stand still."""

    def wait_going(self) -> None:
        """Wait until all that may run have begun to."""

    def is_on(self, cpu: int, /) -> bool:
        """Say whether a vCPU is powered on."""


class DebugPort(ABC):
    """The debugger's end of a guest.  One debugger has it at a time; looks may come beside it.

    Any thread but a vCPU's may call.
    """

    def __init__(self, vcpus: Holder, num_cpus: int) -> None:
        self.num_cpus = num_cpus
        self._vcpus = vcpus
        self._turn = RLock()  # held by who stops or resumes the guest, or looks at it
        self._lock = Lock()  # guards what vCPU threads change too
        self._held = [False] * num_cpus
        self._steps: dict[int, int] = {}  # vCPU that is to do one instruction -> where it is
        self._stop: Stop | None = None
        self._notify: Callable[[], None] | None = None

    # --- the debugger ---------------------------------------------------------------------

    def attach(self, notify: Callable[[], None]) -> None:
        """Stop the guest for a debugger.

        Args:
            notify: called on a vCPU's thread after it stopped at something; see ``take_stop``.
        """
        with self._turn:
            self.hold()
            self._notify = notify
            self._lend(True)
            self.set_points((), ())

    def detach(self) -> None:
        """Let the guest go on without a debugger; nothing is left of it."""
        with self._turn:
            self.hold()
            self._notify = None
            self.set_points((), ())
            self._lend(False)
            self.resume([Resume.RUN] * self.num_cpus)

    def hold(self) -> None:
        """Stop every vCPU; returns when all stand still."""
        with self._turn:
            self._set_held([True] * self.num_cpus)
            self._vcpus.wait_held()
            self._stopped()

    def resume(self, actions: Sequence[Resume]) -> None:
        """Let the vCPUs go on, as they are all stopped; one action each."""
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
        """Stop every vCPU meanwhile; afterwards each goes on with what it did.

        Between two of these it does go on, however soon the second one comes.
        """
        with self._turn:
            self._vcpus.wait_going()
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
        """Return what stopped the guest since it was resumed; the first, if several vCPUs did."""
        with self._turn, self._lock:
            stop, self._stop = self._stop, None
            return stop

    def is_on(self, cpu: int) -> bool:
        """Say whether a vCPU is powered on."""
        return self._vcpus.is_on(cpu)

    def read(self, cpu: int, va: int, size: int) -> bytes:
        """Return memory as a vCPU sees it, up to where there is none; DebugFault if at once."""
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
        """Change memory as a vCPU sees it; DebugFault where there is none."""
        done = 0
        with self._turn:
            for at, length in _pages(va, len(data)):
                self._write_part(cpu, at, data[done : done + length])
                done += length

    @abstractmethod
    def registers(self, cpu: int) -> GuestRegisters:
        """Return the registers of a vCPU that is stopped; DebugFault if it is gone."""

    @abstractmethod
    def set_registers(self, cpu: int, registers: GuestRegisters) -> None:
        """Take back what ``registers`` gave, changed; DebugFault."""

    @abstractmethod
    def set_points(self, breakpoints: Sequence[int], watchpoints: Sequence[Watch]) -> None:
        """Have these breakpoints and watchpoints and no others; TooManyError changes nothing."""

    # --- the vCPUs ------------------------------------------------------------------------

    def ran(self, cpu: int, exit_: PeExit, pc: int) -> None:
        """Note an exit of a vCPU, after it was handled; on that vCPU's thread."""
        if exit_.reason == ExitReason.DEBUG:
            self.stop_at(Stop.of(cpu, exit_.esr, exit_.far))
        elif cpu in self._steps:
            # A synchronous exit counts the instruction whether or not it was done.
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

    # --- how it is done -------------------------------------------------------------------

    @abstractmethod
    def _lend(self, is_attached: bool) -> None:
        """Have a debugger in every context, or none."""

    @abstractmethod
    def _set_steps(self, steps: Sequence[bool]) -> None:
        """Say which vCPUs do but one instruction when they run next."""

    @abstractmethod
    def _read_part(self, cpu: int, va: int, size: int) -> bytes:
        """Read within a page; DebugFault."""

    @abstractmethod
    def _write_part(self, cpu: int, va: int, data: bytes) -> None:
        """Write within a page; DebugFault."""

    @abstractmethod
    def _stopped(self) -> None:
        """Do what is due when all stand still; may come several times."""

    @abstractmethod
    def _resuming(self) -> None:
        """Do what is due before some go on."""


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
    """Cut a range at the ends of pages; addresses wrap."""
    while size > 0:
        length = min(size, GRANULE_SIZE - va % GRANULE_SIZE)
        yield va, length
        va, size = va + length & MASK64, size - length
