"""The threads of a guest's vCPUs: which are powered on, which must stand still, and the outcome.

``Vcpus`` has the threads; ``VcpuGuest`` is the part of a ``Guest`` that depends only on them.

A thread parks until its vCPU may run, then calls the guest's ``run(cpu)``, which stays in its loop
while ``running[cpu]`` is true; code that makes it false also kicks the PE.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from operator import ge
from threading import Condition, Thread

from pyvmm.arch.gic import PPI_PHYSICAL_TIMER, PPI_PMU, PPI_VIRTUAL_TIMER
from pyvmm.arch.machine import GuestRegisters
from pyvmm.arch.system import start_thread
from pyvmm.arch.timer import CTL_ASSERTED, CTL_FIELDS
from pyvmm.host.guest import ExitKind, Outcome, Progress, Rom
from pyvmm.host.vcpu_state import LastExit, VcpuState
from pyvmm.host.vgic import Vgic


class TimerLines:
    """The wires from one vCPU's timers to its interrupt controller."""

    __slots__ = ("_cntp_ctl", "_cntv_ctl", "_cpu", "_is_physical_up", "_is_virtual_up", "_vgic")

    def __init__(self, vgic: Vgic, cpu: int) -> None:
        self._vgic = vgic
        self._cpu = cpu
        self._is_virtual_up = self._is_physical_up = False
        self._cntv_ctl = self._cntp_ctl = 0

    def sample(self, cntv_ctl: int, cntp_ctl: int) -> None:
        """Drive the wires according to the control registers at the exit."""
        if cntv_ctl == self._cntv_ctl and cntp_ctl == self._cntp_ctl:
            return
        self._cntv_ctl, self._cntp_ctl = cntv_ctl, cntp_ctl
        is_up = cntv_ctl & CTL_FIELDS == CTL_ASSERTED
        if is_up != self._is_virtual_up:
            self._is_virtual_up = is_up
            self._vgic.set_ppi(self._cpu, PPI_VIRTUAL_TIMER, is_up)
        is_up = cntp_ctl & CTL_FIELDS == CTL_ASSERTED
        if is_up != self._is_physical_up:
            self._is_physical_up = is_up
            self._vgic.set_ppi(self._cpu, PPI_PHYSICAL_TIMER, is_up)


class PmuLine:
    """The wire from one vCPU's performance monitors to its interrupt controller."""

    __slots__ = ("_cpu", "_level", "_vgic")

    def __init__(self, vgic: Vgic, cpu: int) -> None:
        self._vgic = vgic
        self._cpu = cpu
        self._level = 0

    def sample(self, level: int) -> None:
        """Drive the wire to the level at the exit."""
        if level != self._level:
            self._level = level
            self._vgic.set_ppi(self._cpu, PPI_PMU, bool(level))


class Vcpus:
    """One thread per vCPU, the vCPUs' power states and the outcome of the guest."""

    def __init__(
        self, num_cpus: int, run: Callable[[int], None], kick: Callable[[int], None]
    ) -> None:
        """``run`` and ``kick`` take the index of a vCPU; CPU 0 starts powered on."""
        self.running = [False] * num_cpus
        self.is_halting = False  # some vCPUs must stand still
        self.exits = [[0] * len(ExitKind) for _ in range(num_cpus)]  # by ExitKind
        self.last_exits = [LastExit() for _ in range(num_cpus)]
        self.outcome: Outcome | None = None
        self.reason = ""
        self._run = run
        self._kick = kick
        self._is_on = [cpu == 0 for cpu in range(num_cpus)]
        self._is_wanted = [False] * num_cpus  # turned on again before it was turned off here
        self._is_paused = False
        self._num_observers = 0  # in `still`
        self._is_held = [False] * num_cpus  # by a debugger
        self._is_inside = [False] * num_cpus  # its thread is in ``run``
        self._failure: BaseException | None = None
        self._changed = Condition()
        self._threads: list[Thread] = []

    def start(self) -> None:
        """Start the threads: CPU 0 runs, the others park.

        Raises:
            NoThreadError: a thread could not be started; `finish` ends the others.
        """
        with self._changed:
            self._update()
        for cpu in range(len(self.running)):
            thread = Thread(target=self._main, args=(cpu,), name=f"vcpu{cpu}", daemon=True)
            start_thread(thread)
            self._threads.append(thread)

    def power_on(self, cpu: int, prepare: Callable[[], None]) -> bool:
        """Call ``prepare`` to set a vCPU's registers, and turn it on; return False if it was on."""
        with self._changed:
            if self._is_on[cpu]:
                return False
            prepare()
            self._is_on[cpu] = True
            self._update()
            return True

    def mirror_power_on(self, cpu: int) -> None:
        """Turn a vCPU on because the RMM, which owns the power states, has turned it on.

        The vCPU may have turned itself off before, with its thread still to call ``power_off``:
        then that call is out of date and has no effect.
        """
        with self._changed:
            self._is_wanted[cpu] = self._is_on[cpu]
            self._is_on[cpu] = True
            self._update()

    def power_off(self, cpu: int) -> None:
        """Turn a vCPU off."""
        with self._changed:
            self._is_on[cpu] = self._is_wanted[cpu]
            self._is_wanted[cpu] = False
            self._update()

    def kick(self, cpu: int) -> None:
        """End a vCPU's current run, or its next one, at once."""
        self._kick(cpu)

    def is_on(self, cpu: int, /) -> bool:
        """Check whether a vCPU is powered on."""
        return self._is_on[cpu]

    def set_on(self, is_on: Sequence[bool]) -> None:
        """Set which vCPUs are powered on, before `start`."""
        self._is_on = list(is_on)

    def pause(self) -> None:
        """Pause all vCPUs; return when they stand still, or are resumed."""
        with self._changed:
            self._is_paused = True
            self._update()
            self._changed.wait_for(lambda: not any(self._is_inside) or not self._is_paused)

    def resume(self) -> None:
        """Resume the vCPUs."""
        with self._changed:
            self._is_paused = False
            self._update()

    @contextmanager
    def still(self) -> Iterator[None]:
        """Make every vCPU stand still in this context; not on a vCPU's thread.

        Unlike ``pause``, it changes no state that anyone else sees.
        """
        with self._changed:
            self._num_observers += 1
            self._update()
            self._changed.wait_for(lambda: not any(self._is_inside))
        try:
            yield
        finally:
            with self._changed:
                self._num_observers -= 1
                self._update()

    def set_held(self, held: Sequence[bool], /) -> None:
        """Set for each vCPU whether a debugger holds it; do not wait for it to stand still."""
        with self._changed:
            self._is_held = list(held)
            self._update()

    def wait_held(self) -> None:
        """Wait until every vCPU that a debugger holds stands still; not on a vCPU's thread."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    not any(
                        held and inside
                        for held, inside in zip(self._is_held, self._is_inside, strict=True)
                    )
                )
            )

    def finish(self, outcome: Outcome, reason: str = "") -> None:
        """End the guest; the first outcome counts."""
        with self._changed:
            if self.outcome is None:
                self.outcome = outcome
                self.reason = reason
                self._update()

    def wait_running(self) -> None:
        """Wait until every vCPU that may run has started to; not on a vCPU's thread."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._threads or all(map(ge, self._is_inside, self.running))
            )

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Wait for the outcome and for every thread; raise an exception of a thread."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.outcome is not None, timeout):
                return None
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure
        return self.outcome

    def _update(self) -> None:
        """Recompute which vCPUs may run; the lock is held."""
        may_run = self.outcome is None and not self._is_paused and not self._num_observers
        self.is_halting = not may_run or any(self._is_held)
        for cpu, is_on in enumerate(self._is_on):
            was_running = self.running[cpu]
            self.running[cpu] = is_on and may_run and not self._is_held[cpu]
            if was_running and not self.running[cpu]:
                self._kick(cpu)
        self._changed.notify_all()

    def _main(self, cpu: int) -> None:
        try:
            while self._may_run(cpu):
                try:
                    self._run(cpu)
                finally:
                    self._leave(cpu)
        except BaseException as error:  # noqa: BLE001 - handed to wait(), which raises it
            self._failure = error
            self.finish(Outcome.CRASHED, f"vCPU {cpu}: {error!r}")

    def _may_run(self, cpu: int) -> bool:
        """Park until the vCPU may run; False when the guest has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self.running[cpu] or self.outcome is not None)
            self._is_inside[cpu] = self.outcome is None
            self._changed.notify_all()
            return self._is_inside[cpu]

    def _leave(self, cpu: int) -> None:
        """Record that a thread has returned from ``run``."""
        with self._changed:
            self._is_inside[cpu] = False
            self._changed.notify_all()


class VcpuGuest(ABC):
    """The controls common to all guests; a subclass builds it, runs its vCPUs, owns its memory."""

    roms: Sequence[Rom] = ()  # only a normal VM has some
    _vcpus: Vcpus
    _is_built = False

    @property
    def outcome(self) -> Outcome | None:
        """The outcome; None while it runs."""
        return self._vcpus.outcome

    @property
    def is_halting(self) -> bool:
        """Whether vCPUs must stand still: devices must not delay them then."""
        return self._vcpus.is_halting

    @property
    def reason(self) -> str:
        """The reason of a crash in one line; empty otherwise."""
        return self._vcpus.reason

    @property
    def exits(self) -> list[list[int]]:
        """The number of each vCPU's exits, by ``ExitKind``."""
        return self._vcpus.exits

    def vcpu_states(self) -> list[VcpuState]:
        """Return the host's knowledge of each vCPU; all of them must stand still."""
        vcpus = self._vcpus
        return [
            VcpuState(vcpus.is_on(cpu), vcpus.exits[cpu], last, self._last_registers(cpu))
            for cpu, last in enumerate(vcpus.last_exits)
        ]

    @abstractmethod
    def _last_registers(self, cpu: int) -> GuestRegisters | None:
        """Return the registers of a vCPU that stands still; None if they are hidden."""

    def build(self, progress: Progress | None = None) -> None:
        """Build the guest and load its payload, once."""
        if not self._is_built:
            self._is_built = True
            self._build(progress)

    @abstractmethod
    def _build(self, progress: Progress | None) -> None:
        """Build the guest."""

    def start(self) -> None:
        """Build the guest if necessary, and start the vCPU threads."""
        self.build()
        self._activate()
        self._vcpus.start()

    def _activate(self) -> None:  # noqa: B027  a normal VM has nothing to do
        """Make a built guest runnable; does nothing for a normal VM."""

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Wait for the end, at most ``timeout`` seconds; raise an exception of a vCPU thread."""
        return self._vcpus.wait(timeout)

    def stop(self) -> None:
        """Stop every vCPU for good."""
        self._vcpus.finish(Outcome.STOPPED)

    def still(self) -> AbstractContextManager[None]:
        """Return a context in which every vCPU stands still."""
        return self._vcpus.still()

    def pause(self) -> None:
        """Pause every vCPU until ``resume``; return when all stand still."""
        self._vcpus.pause()

    def resume(self) -> None:
        """Resume the vCPUs."""
        self._vcpus.resume()
