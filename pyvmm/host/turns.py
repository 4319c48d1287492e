"""vCPUs that take turns on one thread, so that a run can be repeated exactly (ADR 20).

A vCPU runs for at most ``TURN`` instructions.  Between two turns, and only then, ``Outside``
delivers what comes from outside of the guest, and timers of devices run out.  When every vCPU waits
for an interrupt, ``Outside`` decides how long.

The order of the turns follows from the guest's state alone: each runnable vCPU has one after the
other.  So the instruction counts at which input was delivered, and the input, determine a run.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Thread, current_thread
from typing import Final, Protocol

from pyvmm.arch.system import start_thread
from pyvmm.host.guest import Outcome
from pyvmm.host.vcpu import Vcpus
from pyvmm.host.vgic import Vgic

TURN: Final = 1 << 20  # instructions: four milliseconds of the guest's time
_NEVER: Final = (1 << 63) - 1  # ticks
_TICKS_PER_SECOND: Final = 62_500_000


class PeInTurns(Protocol):
    """A PE that runs only in its turns."""

    sleep: int | None  # the turn ended in a wait for an interrupt: ticks until a timer ends it

    def begin_turn(self, instructions: int, ended: Callable[[], None], /) -> None:
        """Allow it to execute so many instructions, and call ``ended`` at the end."""


class Machine(Protocol):
    """The machine whose PEs run in turns."""

    position: int  # instructions executed by all PEs

    def pe(self, index: int, /) -> PeInTurns:
        """Return a PE."""

    def counter(self) -> int:
        """Return the count of the machine's counter."""

    def set_counter(self, count: int, /) -> None:
        """Change it; between two turns."""


class Outside(Protocol):
    """Where input comes from: the host, which a recorder watches, or a record."""

    def put(self, target: str, data: bytes) -> None:
        """Add input; any thread."""

    def take(self, position: int) -> Sequence[tuple[str, bytes]]:
        """Return what is to be delivered now; on the vCPUs' thread."""

    def wake(self) -> None:
        """End a sleep; any thread."""

    def sleep(self, position: int, ticks: int | None) -> int:
        """Wait for input, but not longer than so many ticks; return how many have passed."""


class Turns:
    """The time between the turns: input, and the timers of devices.

    The composition root sets the machine; then devices bind their targets.
    """

    def __init__(self, outside: Outside) -> None:
        self.outside = outside
        self.machine: Machine
        self.has_thread = True
        self.take: Callable[[], None]  # without a thread: has all the turns of the guest
        self._targets: dict[str, Callable[[bytes], None]] = {}
        self._timers: dict[Callable[[], None], int] = {}  # callback -> deadline, in ticks

    def bind(self, target: str, deliver: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """Name a function that takes input; return the one to call instead, from any thread."""
        self._targets[target] = deliver
        return lambda data: self.outside.put(target, data)

    def set_timer(self, callback: Callable[[], None], seconds: float | None) -> None:
        """Call a function once after some seconds of the machine's time; None: do not."""
        self._timers.pop(callback, None)
        if seconds is not None:
            ticks = round(seconds * _TICKS_PER_SECOND)
            self._timers[callback] = self.machine.counter() + max(ticks, 0)

    def deliver(self) -> None:
        """Do what is to be done between two turns."""
        for target, data in self.outside.take(self.machine.position):
            deliver = self._targets.get(target)
            if deliver is not None:
                deliver(data)
        now = self.machine.counter()
        for callback in [each for each, deadline in self._timers.items() if deadline <= now]:
            if self._timers.get(callback, _NEVER) <= now:
                del self._timers[callback]
                callback()

    def sleep(self, ticks: int) -> None:
        """Let time pass until there is input, a timer of a device runs out, or ``ticks``."""
        now = self.machine.counter()
        ticks = min(ticks, *(each - now for each in self._timers.values()), _NEVER)
        passed = self.outside.sleep(
            self.machine.position, None if ticks == _NEVER else max(ticks, 0)
        )
        if passed:
            self.machine.set_counter(now + passed)


def make_vcpus(
    num_cpus: int,
    run: Callable[[int], None],
    kick: Callable[[int], None],
    vgic: Vgic,
    turns: Turns | None,
) -> Vcpus:
    """Make the vCPUs of a guest, with one thread each unless they take turns."""
    if turns is None:
        vcpus = Vcpus(num_cpus, run, kick)
    else:
        vcpus = VcpusInTurns(num_cpus, run, turns, vgic.has_pending)
    vgic.connect(vcpus.kick)
    return vcpus


class VcpusInTurns(Vcpus):
    """The vCPUs of a guest, one at a time."""

    def __init__(
        self,
        num_cpus: int,
        run: Callable[[int], None],
        turns: Turns,
        has_pending: Callable[[int], bool],
    ) -> None:
        """``has_pending`` returns whether an interrupt waits for a vCPU."""
        super().__init__(num_cpus, run, kick=lambda _: None)
        self._turns = turns
        self._has_pending = has_pending
        self._wake_at: list[int | None] = [None] * num_cpus  # of vCPUs that wait for an interrupt
        self._current: int | None = None
        self._is_over = False
        self._request_end = turns.bind("end", self._end)

    def start(self) -> None:
        """Start the one thread, unless the turns are taken by somebody else's."""
        if not self._turns.has_thread:
            self._turns.take = self._take_turns
            return
        thread = Thread(target=self._take_turns, name="vcpus", daemon=True)
        self._threads.append(thread)
        start_thread(thread)

    def power_on(self, cpu: int, prepare: Callable[[], None]) -> bool:
        """Turn a vCPU on."""
        self._wake_at[cpu] = None
        return super().power_on(cpu, prepare)

    def mirror_power_on(self, cpu: int) -> None:
        """Turn a vCPU on, because the RMM has."""
        self._wake_at[cpu] = None
        super().mirror_power_on(cpu)

    def finish(self, outcome: Outcome, reason: str = "") -> None:
        """End the guest: at once if it ends itself, otherwise between two turns."""
        if not self._threads or current_thread() in self._threads:
            super().finish(outcome, reason)
            return
        if not self._is_running():
            return
        self._request_end(outcome.value.encode())
        with self._changed:
            self._is_over = True  # a paused guest ends, too
            self._changed.notify_all()

    def _end(self, outcome: bytes) -> None:
        with suppress(ValueError):
            super().finish(Outcome(outcome.decode(errors="replace")))

    def _update(self) -> None:
        """Only the current vCPU runs; it is never interrupted within its turn."""
        for cpu, is_on in enumerate(self._is_on):
            self.running[cpu] = cpu == self._current and is_on and self.outcome is None
        if self._is_paused or self._num_observers:
            self._turns.outside.wake()
        self._changed.notify_all()

    def _take_turns(self) -> None:
        try:
            while self._is_running():
                self._wait_allowed()
                self._turns.deliver()
                if self._is_running() and not self._have_turns():
                    self._sleep()
        except BaseException as error:  # noqa: BLE001 - handed to wait(), which raises it
            self._failure = error
            super().finish(Outcome.CRASHED, repr(error))
        finally:
            self._leave(0)

    def _is_running(self) -> bool:
        return self.outcome is None

    def _wait_allowed(self) -> None:
        """Stand still while the guest is paused, or somebody looks at it."""
        with self._changed:
            self._is_inside[0] = False
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._is_over or not (self._is_paused or self._num_observers)
            )
            self._is_inside[0] = True

    def _have_turns(self) -> bool:
        """Give each vCPU that can run its turn; return whether there was one."""
        have_run = False
        for cpu in range(len(self.running)):
            if self._is_running() and self._is_on[cpu] and self._is_awake(cpu):
                self._turn(cpu)
                have_run = True
        return have_run

    def _is_awake(self, cpu: int) -> bool:
        wake_at = self._wake_at[cpu]
        if wake_at is None or wake_at <= self._turns.machine.counter() or self._has_pending(cpu):
            self._wake_at[cpu] = None
            return True
        return False

    def _turn(self, cpu: int) -> None:
        pe = self._turns.machine.pe(cpu)
        pe.begin_turn(TURN, self._stop_turn)
        self._current = cpu
        with self._changed:
            self._update()
        self._run(cpu)
        self._stop_turn()
        if pe.sleep is not None:
            self._wake_at[cpu] = min(self._turns.machine.counter() + pe.sleep, _NEVER)

    def _stop_turn(self) -> None:
        if self._current is not None:
            self.running[self._current] = False
            self._current = None

    def _sleep(self) -> None:
        """Every vCPU waits for an interrupt."""
        now = self._turns.machine.counter()
        deadlines = [
            wake_at
            for cpu, wake_at in enumerate(self._wake_at)
            if self._is_on[cpu] and wake_at is not None
        ]
        first = min(deadlines, default=_NEVER)
        self._turns.sleep(first - now if first != _NEVER else _NEVER)
