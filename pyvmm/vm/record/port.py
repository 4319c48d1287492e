"""A replay as the GDB stub sees it, forwards and backwards."""

from collections.abc import Callable, Sequence
from threading import Lock, Thread

from pyvmm.arch.machine import GuestRegisters
from pyvmm.arch.rmi_debug import MAX_BREAKPOINTS, MAX_WATCHPOINTS
from pyvmm.arch.system import start_thread
from pyvmm.host.debug import (
    DebugFault,
    Resume,
    Stop,
    StopKind,
    TooManyError,
    Watch,
)
from pyvmm.vm.record.history import END, History, Points
from pyvmm.vm.record.machine_process import Read, Registers


class SavedRegisters:
    """A copy of a vCPU's registers; a `GuestRegisters`."""

    pc: int
    pstate: int
    sp_el0: int
    sp_el1: int
    fpcr: int
    fpsr: int
    x: list[int]
    v: list[int]

    def __init__(self, saved: dict[str, list[int]]) -> None:
        for name, values in saved.items():
            setattr(self, name, values if len(values) > 1 else values[0])


class ReplayPort:
    """A debug port (`pyvmm.vm.gdb.stub.Port`) of a replay, whose state cannot be changed.

    A thread works while the replay runs; `hold` stops it.
    """

    def __init__(self, num_cpus: int) -> None:
        self.num_cpus = num_cpus
        self._history: History
        self._points = Points()
        self._lock = Lock()  # held while the replay runs
        self._notify: Callable[[], None] | None = None
        self._worker: Thread | None = None
        self._stop: Stop | None = None
        self.is_interrupted = False
        self.problem = ""

    def connect(self, history: History) -> None:
        """Set the replay."""
        self._history = history

    def attach(self, notify: Callable[[], None]) -> None:
        """Begin a session; call ``notify`` at each stop."""
        self._notify = notify

    def detach(self) -> None:
        """End the session; the replay stands still."""
        self.hold()
        self._notify, self._points = None, Points()

    def hold(self) -> None:
        """Stop running; return when it stands still."""
        self.is_interrupted = True
        if self._worker is not None:
            self._worker.join()
            self._worker = None
        self.is_interrupted = False

    def take_stop(self) -> Stop | None:
        """Return why the replay stopped, once."""
        stop, self._stop = self._stop, None
        return stop

    def resume(self, actions: Sequence[Resume]) -> None:
        """Run forwards: to the next instruction if any vCPU is to step."""
        if Resume.STEP in actions:
            self._start(lambda: self._step(1))
        else:
            self._start(self._forward)

    def reverse(self, *, is_step: bool) -> None:
        """Run backwards."""
        self._start((lambda: self._step(-1)) if is_step else self._backward)

    def is_on(self, cpu: int) -> bool:
        """Check whether a vCPU has been turned on."""
        return bool(self.registers(cpu).pc)

    def registers(self, cpu: int) -> GuestRegisters:
        """Return the registers of a vCPU."""
        return SavedRegisters(self._history.ask(Registers(cpu)).registers)

    def set_registers(self, _cpu: int, _registers: GuestRegisters) -> None:
        """Refuse: the past cannot be changed."""
        raise DebugFault

    def read(self, cpu: int, va: int, size: int) -> bytes:
        """Read memory as a vCPU sees it."""
        data = self._history.ask(Read(cpu, va, size)).data
        if not data:
            raise DebugFault
        return data

    def write(self, _cpu: int, _va: int, _data: bytes) -> None:
        """Refuse: the past cannot be changed."""
        raise DebugFault

    def set_points(self, breakpoints: Sequence[int], watchpoints: Sequence[Watch]) -> None:
        """Replace all breakpoints and watchpoints."""
        if len(breakpoints) > MAX_BREAKPOINTS or len(watchpoints) > MAX_WATCHPOINTS:
            raise TooManyError
        self._points = Points(
            list(breakpoints), [(each.address, each.size, each.access) for each in watchpoints]
        )

    def describe(self) -> str:
        """Return where the replay is, for the user."""
        return f"instruction {self._history.position}\n"

    def _start(self, work: Callable[[], Stop]) -> None:
        def run() -> None:
            stop = work()
            is_quiet = self.is_interrupted and self._history.now.hit is None
            self._stop = None if is_quiet else stop
            if self._notify is not None:
                self._notify()

        self._worker = Thread(target=run, name="replay", daemon=True)
        start_thread(self._worker)

    def _step(self, distance: int) -> Stop:
        target = self._history.position + distance
        if target < 0:
            return Stop(self._history.now.cpu, StopKind.BEGIN)
        self._history.go(target)
        return self._stopped(StopKind.STEP)

    def _forward(self) -> Stop:
        self._history.forward(END, self._points)
        return self._stopped(StopKind.END if self._history.now.has_ended else StopKind.STEP)

    def _backward(self) -> Stop:
        has_hit = self._history.backward(self._points)
        return self._stopped(StopKind.STEP if has_hit else StopKind.BEGIN)

    def _stopped(self, kind: StopKind) -> Stop:
        now = self._history.now
        self.problem = now.problem
        if now.hit is None:
            return Stop(now.cpu, kind)
        _, cpu, is_watch, address, is_write = now.hit
        kind = StopKind.WATCHPOINT if is_watch else StopKind.BREAKPOINT
        return Stop(cpu, kind, address, is_write)
