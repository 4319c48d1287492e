"""The threads of a guest's vCPUs: who is powered on, who must stand still, how it all ended.

``Vcpus`` is that; ``VcpuGuest`` is the part of a ``Guest`` that follows from it.

A thread parks until its vCPU may run, then calls the guest's ``run(cpu)``, which stays in its loop
while ``running[cpu]`` is true; whoever makes that false also kicks the PE.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from operator import ge
from threading import Condition, Thread

from pyvmm.arch.gic import PPI_PHYSICAL_TIMER, PPI_VIRTUAL_TIMER
from pyvmm.arch.machine import GuestRegisters
from pyvmm.arch.system import start_thread
from pyvmm.arch.timer import CTL_ASSERTED, CTL_FIELDS
from pyvmm.host.guest import ExitKind, Outcome, Progress
from pyvmm.host.vcpu_state import LastExit, VcpuState
from pyvmm.host.vgic import Vgic


class TimerLines:
    """The wires from one vCPU's timers to its interrupt controller."""

    __slots__ = ("_cpu", "_is_physical_up", "_is_virtual_up", "_vgic")

    def __init__(self, vgic: Vgic, cpu: int) -> None:
        self._vgic = vgic
        self._cpu = cpu
        self._is_virtual_up = self._is_physical_up = False

    def sample(self, cntv_ctl: int, cntp_ctl: int) -> None:
        """Drive the wires as the control registers stood at the exit."""
        is_up = cntv_ctl & CTL_FIELDS == CTL_ASSERTED
        if is_up != self._is_virtual_up:
            self._is_virtual_up = is_up
            self._vgic.set_ppi(self._cpu, PPI_VIRTUAL_TIMER, is_up)
        is_up = cntp_ctl & CTL_FIELDS == CTL_ASSERTED
        if is_up != self._is_physical_up:
            self._is_physical_up = is_up
            self._vgic.set_ppi(self._cpu, PPI_PHYSICAL_TIMER, is_up)


class Vcpus:
    """One thread a vCPU, their power states and the outcome of the guest."""

    def __init__(
        self, num_cpus: int, run: Callable[[int], None], kick: Callable[[int], None]
    ) -> None:
        """``run`` and ``kick`` take the index of a vCPU; CPU 0 begins powered on."""
        self.running = [False] * num_cpus
        self.is_halting = False  # some are to stand still
        self.exits = [[0] * len(ExitKind) for _ in range(num_cpus)]  # by ExitKind
        self.last_exits = [LastExit() for _ in range(num_cpus)]
        self.outcome: Outcome | None = None
        self.reason = ""
        self._run = run
        self._kick = kick
        self._is_on = [cpu == 0 for cpu in range(num_cpus)]
        self._is_wanted = [False] * num_cpus  # turned on before it had turned off
        self._is_paused = False
        self._is_held = [False] * num_cpus  # by a debugger
        self._is_inside = [False] * num_cpus  # its thread is in ``run``
        self._failure: BaseException | None = None
        self._changed = Condition()
        self._threads: list[Thread] = []

    def start(self) -> None:
        """Let CPU 0 run and park the others.

        Raises:
            NoThreadError: not all of them have a thread; `finish` ends those that have.
        """
        with self._changed:
            self._update()
        for cpu in range(len(self.running)):
            thread = Thread(target=self._main, args=(cpu,), name=f"vcpu{cpu}", daemon=True)
            start_thread(thread)
            self._threads.append(thread)

    def power_on(self, cpu: int, prepare: Callable[[], None]) -> bool:
        """Turn a vCPU on after ``prepare`` set its registers; False if it was on."""
        with self._changed:
            if self._is_on[cpu]:
                return False
            prepare()
            self._is_on[cpu] = True
            self._update()
            return True

    def follow_on(self, cpu: int) -> None:
        """Turn a vCPU on because the RMM, which keeps the truth, has turned it on.

        The RMM may be ahead of the thread that has yet to turn its vCPU off here: then the next
        ``power_off`` of that vCPU is out of date and does nothing.
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
        """Make a vCPU's run, or its next one, end at once."""
        self._kick(cpu)

    def is_on(self, cpu: int, /) -> bool:
        """Say whether a vCPU is powered on."""
        return self._is_on[cpu]

    def pause(self) -> None:
        """Hold all vCPUs; return when they stand still, or are let go on again."""
        with self._changed:
            self._is_paused = True
            self._update()
            self._changed.wait_for(lambda: not any(self._is_inside) or not self._is_paused)

    def resume(self) -> None:
        """Let the vCPUs go on."""
        with self._changed:
            self._is_paused = False
            self._update()

    def set_held(self, held: Sequence[bool], /) -> None:
        """Say of each vCPU whether a debugger holds it; does not wait for it to stand still."""
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
        """End the guest; the first outcome is the one that counts."""
        with self._changed:
            if self.outcome is None:
                self.outcome = outcome
                self.reason = reason
                self._update()

    def wait_going(self) -> None:
        """Wait until every vCPU that may run has been let in; not on a vCPU's thread."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._threads or all(map(ge, self._is_inside, self.running))
            )

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Wait for the outcome and for every thread; raise what a thread raised."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.outcome is not None, timeout):
                return None
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure
        return self.outcome

    def _update(self) -> None:
        """Recompute who may run; the lock is held."""
        may_run = self.outcome is None and not self._is_paused
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
        """Note that a thread is back from ``run``."""
        with self._changed:
            self._is_inside[cpu] = False
            self._changed.notify_all()


class VcpuGuest(ABC):
    """The controls that every guest has; a subclass builds it, runs the vCPUs, owns the memory."""

    _vcpus: Vcpus
    _is_built = False

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it runs."""
        return self._vcpus.outcome

    @property
    def is_halting(self) -> bool:
        """Whether vCPUs are to stand still: devices then hold up none for long."""
        return self._vcpus.is_halting

    @property
    def reason(self) -> str:
        """One line on why it crashed; empty otherwise."""
        return self._vcpus.reason

    @property
    def exits(self) -> list[list[int]]:
        """How often each vCPU stopped running, by ``ExitKind``."""
        return self._vcpus.exits

    def vcpu_states(self) -> list[VcpuState]:
        """Return what the host knows of each vCPU; all of them stand still."""
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
        """Do it."""

    def start(self) -> None:
        """Build the guest unless that was done, and start the vCPU threads."""
        self.build()
        self._activate()
        self._vcpus.start()

    def _activate(self) -> None:  # noqa: B027  not every guest has something to do
        """Do what makes a guest that is built one that may run; a normal VM is one already."""

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Wait for the end, at most ``timeout`` seconds; raise what a vCPU thread raised."""
        return self._vcpus.wait(timeout)

    def stop(self) -> None:
        """Make every vCPU stand still for good."""
        self._vcpus.finish(Outcome.STOPPED)

    def pause(self) -> None:
        """Hold every vCPU until ``resume``; returns when all stand still."""
        self._vcpus.pause()

    def resume(self) -> None:
        """Let the vCPUs go on."""
        self._vcpus.resume()
