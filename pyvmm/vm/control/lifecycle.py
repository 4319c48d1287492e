"""The life cycle of an instance: its states, the transitions between them, and their listeners.

::

    BUILDING --> NEW --start--> RUNNING <--pause, resume--> PAUSED
    RUNNING --the guest reboots, with --on-reboot restart--> BUILDING --> RUNNING
        any of them --the guest ends, stop, a signal, a failure--> STOPPED

One thread, the owner's, calls `run`; any other thread may call the controls.
"""

import math
import os
import time
from collections.abc import Callable
from threading import Condition, Lock
from typing import BinaryIO, Final

from msgspec.structs import replace

from pyvmm.arch.errors import UserError
from pyvmm.arch.pictures import QueuePicture
from pyvmm.arch.system import shortages
from pyvmm.arch.text import printable
from pyvmm.devices.virtio.net import VirtioNet
from pyvmm.host.guest import ExitKind
from pyvmm.host.machine import Usage
from pyvmm.vm.agent.client import AgentClient
from pyvmm.vm.control.api import (
    Balloon,
    MemoryStatistics,
    NetworkCard,
    Port,
    State,
    Statistics,
    Status,
    Vcpu,
    VcpuStatistics,
)
from pyvmm.vm.control.console import ConsoleLog
from pyvmm.vm.control.event_log import EventLog
from pyvmm.vm.control.failures import refusals, storage_failures
from pyvmm.vm.control.instance import Instance
from pyvmm.vm.control.terminal import EndSignals
from pyvmm.vm.exit_code import ExitCode, Failure
from pyvmm.vm.machine.platform import Observer
from pyvmm.vm.options import VmOptions

#: Called with each new state, in order; must not block.
Listener = Callable[[Status], None]
#: Called with the current step and its progress (0 to 1); an exception from it ends the build.
Report = Callable[[str, float], None]
#: Reads the guest's files and makes the instance.
Assemble = Callable[[ConsoleLog], Instance]

_BALLOON_PATIENCE: Final = 1.0  # seconds to wait for the guest's memory statistics
_HAS_GUEST: Final = frozenset({State.NEW, State.RUNNING, State.PAUSED})
_HINTS: Final = {
    State.BUILDING: "it is not complete yet",
    State.NEW: "start it first",
    State.RUNNING: "it was started already",
    State.PAUSED: "it was started already",
    State.STOPPED: "its guest has ended",
}


class _Stopped(Exception):
    """A control stopped the build."""


class Lifecycle:
    """The state of one instance, and its controls."""

    def __init__(self, options: VmOptions, listener: Listener | None = None) -> None:
        self.console_log = ConsoleLog()
        self.event_log = EventLog() if options.is_observed else None
        self._listeners: list[Listener] = [listener] if listener else []
        self._changed = Condition()  # guards the status, the listeners and the instance's presence
        self._control = Lock()  # one change of the state at a time
        self._is_stopping = False
        self._starts_itself = False
        self._rmi = options.rmi if options.is_realm else None
        self.is_destroyed = False
        self.last_words = ""  # a report about a guest that died or stayed silent
        self._refusal: Failure | UserError | None = None  # why it could not be started
        self._program_status: int | None = None
        self._instance: Instance | None = None
        self._assembled: Instance | None = None  # the same, already while it is built
        self._status = Status(
            name=options.name,
            state=State.BUILDING,
            pid=os.getpid(),
            kind="vm" if options.realm is None else "realm",
            num_cpus=options.num_cpus,
            ram_size=options.ram_size,
            kernel=printable(str(options.kernel.absolute())) if options.kernel else None,
            ports=_ports(options),
            created=time.time(),
        )

    # --- the owner's thread -----------------------------------------------------------------

    def run(
        self,
        assemble: Assemble,
        timeout: float | None = None,
        report: Report | None = None,
        *,
        is_started: bool = False,
    ) -> ExitCode:
        """Build the guest, wait for its start, and run it to its end.

        Args:
            assemble: makes the instance; slow, as it reads the guest's files.
            timeout: stop the guest this many seconds after its start.
            report: called during the build; an exception from it ends the build.
            is_started: start the guest at once.

        Raises:
            UserError: an option is invalid or cannot be satisfied.
            Failure: the guest could not be created or started.
        """
        code, reason = ExitCode.INTERNAL, "a defect of pyvmm"
        self._starts_itself = is_started
        try:
            with shortages(), EndSignals(self.quit):
                code, reason = self._run(assemble, timeout, report, is_started=is_started)
        except Failure as failure:
            code, reason = failure.code, str(failure)
            raise
        except UserError as error:
            code, reason = ExitCode.BAD_INPUT, str(error)
            raise
        finally:
            self.console_log.close()
            if self.event_log is not None:
                self.event_log.close()
            self._become(
                State.STOPPED,
                ended=time.time(),
                exit_code=code,
                program_status=self._program_status,
                reason=reason,
            )
        return code

    def _run(
        self,
        assemble: Assemble,
        timeout: float | None,
        report: Report | None,
        *,
        is_started: bool,
    ) -> tuple[ExitCode, str]:
        instance: Instance | None = None
        try:
            instance = self._assembled = assemble(self.console_log)
            self._build(instance, report)
            self._instance = instance
            self._become(State.NEW, rim=instance.rim().hex() or None)
            if is_started:
                self.start()
            self._wait_for(lambda: self._is_stopping or self._status.state != State.NEW)
            if self._is_stopping:
                instance.quit()
            deadline = math.inf if timeout is None else time.monotonic() + timeout
            code = instance.wait(timeout)
            while instance.wants_restart and not self._is_stopping:
                if time.monotonic() > deadline:
                    code = ExitCode.TIMEOUT
                    break
                self._detach(instance)
                instance = self._assembled = instance.successor()
                self._restart(instance)
                code = instance.wait(_left(deadline))
            if self._status.started is not None:
                self.last_words = instance.last_words(code)
            ended = instance.agent.ended
            self._program_status = None if ended is None else ended.code
            if self._refusal is not None:
                raise self._refusal
        except _Stopped:
            code = ExitCode.QUIT
        finally:
            if instance is not None:
                self._detach(instance)
        return code, _reason(code, instance, timeout)

    def _build(self, instance: Instance, report: Report | None) -> None:
        with refusals():
            instance.build(lambda done, total: self._step(report, done / (total or 1)))

    def _detach(self, instance: Instance) -> None:
        """Close an instance whose guest has ended, out of reach of the controls."""
        with self._control, storage_failures():  # no control is about to start it
            with self._changed:
                self._instance = self._assembled = None
            instance.close()

    def _restart(self, instance: Instance) -> None:
        """Build and start the guest that replaces one that has rebooted."""
        self._wait_for(lambda: self._is_stopping or self._status.state != State.PAUSED)
        self._become(State.BUILDING, reboots=self._status.reboots + 1)
        self._build(instance, None)
        with self._control:
            with self._changed:
                self._instance = instance
            if self._is_stopping:
                raise _Stopped
            with refusals():
                instance.start()
            self._become(State.RUNNING, rim=instance.rim().hex() or None)

    def _step(self, report: Report | None, share: float) -> None:
        if self._is_stopping:
            raise _Stopped
        if report is not None:
            report("measuring" if self._status.kind == "realm" else "loading", share)

    def _become(self, state: State, *old: State, **fields: float | str | None) -> None:
        """Enter a state; if old states are given, only from one of them."""
        with self._changed:
            if old and self._status.state not in old:
                return
            self._status = replace(self._status, state=state, **fields)
            for listener in self._listeners:
                listener(self._status)
            self._changed.notify_all()
        self.wake()

    def wake(self) -> None:
        """Make the readers of the logs check whether they are leaving."""
        self.console_log.wake()
        if self.event_log is not None:
            self.event_log.wake()

    def _wait_for(self, is_so: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(is_so)

    # --- controls: any thread ---------------------------------------------------------------

    @property
    def status(self) -> Status:
        """The current status."""
        return self._status

    def subscribe(self, listener: Listener) -> Status:
        """Call the listener with each new state; return the current one."""
        with self._changed:
            self._listeners.append(listener)
            return self._status

    def unsubscribe(self, listener: Listener) -> None:
        """Stop calling the listener."""
        with self._changed:
            self._listeners.remove(listener)

    def start(self) -> Status:
        """Start a new guest.

        Raises:
            UserError: it is not new; or it cannot be started, and the instance ends.
            Failure: the RMM refused; the instance ends.
        """
        with self._control:
            instance = self._in(State.NEW)
            try:
                with refusals():
                    instance.start()
            except (Failure, UserError) as error:
                self._refusal = error
                self.quit()
                raise
            self._become(State.RUNNING, State.NEW, started=time.time())
            return self._status

    def pause(self) -> Status:
        """Pause every vCPU."""
        with self._control:
            self._in(State.RUNNING, State.PAUSED).pause()
            self._become(State.PAUSED, State.RUNNING)
            return self._status

    def resume(self) -> Status:
        """Resume the vCPUs."""
        with self._control:
            self._in(State.RUNNING, State.PAUSED).resume()
            self._become(State.RUNNING, State.PAUSED)
            return self._status

    def snapshot(self, file: BinaryIO, *, stop: bool = False) -> None:
        """Write the guest's state to a file; it is paused meanwhile.

        Args:
            file: it is empty.
            stop: stop the guest before it runs again; return when it is shut off.

        Raises:
            UserError: it cannot be saved, or does not run.
        """
        with self._control:
            instance = self._in(State.RUNNING, State.PAUSED)
            was_running = self._status.state == State.RUNNING
            instance.pause()
            try:
                instance.save(file)
                if stop:
                    self.quit()
            finally:
                if was_running:
                    instance.resume()
        if stop:
            self.stop()

    def quit(self) -> None:
        """Stop the guest as by a power failure; do not wait for its end."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
            if self._instance is not None:  # it cannot be closed while the lock is held
                self._instance.quit()

    def stop(self) -> Status:
        """Stop the guest; return when it is shut off."""
        self.quit()
        self._wait_for(lambda: self._status.state == State.STOPPED)
        return self._status

    def press_power_button(self) -> bool:
        """Press the power button; return False if no driver will notice it."""
        with self._changed:
            instance = self._instance
            if instance is None or self._status.state != State.RUNNING:
                return False
        return instance.press_button()

    def destroy(self) -> None:
        """Stop the guest, and tell its owner to remove all files of the instance."""
        self.is_destroyed = True
        self.stop()

    def statistics(self) -> Statistics:
        """Return the guest's counters and its resource usage.

        Raises:
            UserError: the guest is being built, or has ended.
        """
        instance = self._in(*_HAS_GUEST)
        usage = instance.usage()
        return Statistics(
            time.monotonic(),
            [
                VcpuStatistics(instructions, _named(counts))
                for instructions, counts in zip(usage.instructions, instance.exits, strict=True)
            ],
            _memory(usage),
            {name: dict(counters) for name, counters in instance.counters().items()},
            self._rmi,
        )

    def debug(self) -> list[Vcpu]:
        """Return the state of each vCPU.

        Raises:
            UserError: it is a realm without --realm-debug, or there is no guest.
        """
        return self._in(*_HAS_GUEST).debug()

    def step(self, cpu: int) -> bool:
        """Execute one instruction of a vCPU; return whether it was completed.

        Raises:
            UserError: the guest is not paused, or may not be debugged.
        """
        with self._control:
            instance = self._in(State.RUNNING, State.PAUSED)
            if self._status.state == State.RUNNING:
                raise UserError(f"{self._status.name} is running: pause it first")
            return instance.step(cpu)

    @property
    def observer(self) -> Observer:
        """The observer of the machine.

        Raises:
            UserError: the instance may not be observed, or there is no guest.
        """
        return self._observed()[1]

    def queues(self) -> list[QueuePicture]:
        """Return a picture of each virtqueue; UserError as for `observer`."""
        return self._observed()[0].queues()

    @property
    def observed_events(self) -> EventLog:
        """The events so far; UserError if the instance may not be observed."""
        if self.event_log is None:
            raise self._unobserved()
        return self.event_log

    def _observed(self) -> tuple[Instance, Observer]:
        instance = self._assembled
        if instance is None:
            instance = self._in(*_HAS_GUEST)
        if instance.observer is None:
            raise self._unobserved()
        return instance, instance.observer

    def _unobserved(self) -> UserError:
        return UserError(f"{self._status.name} cannot be observed: create it with --observe")

    def sysrq(self, key: str) -> None:
        """Press Alt-SysRq and a key on the console.

        Raises:
            UserError: the key does not exist, or the guest is not running.
        """
        self._in(State.RUNNING, State.PAUSED).sysrq(key)

    def nmi(self, cpu: int) -> None:
        """Send a vCPU an SError.

        Raises:
            UserError: it is a realm, the vCPU does not exist, or the guest is not running.
        """
        self._in(State.RUNNING, State.PAUSED).nmi(cpu)

    @property
    def agent(self) -> AgentClient:
        """The client of the guest's agent, whether or not an agent exists.

        Raises:
            UserError: the guest is not running.
        """
        if self._status.state == State.PAUSED:
            raise UserError(f"{self._status.name} is paused: resume it first")
        return self._in(State.RUNNING, State.PAUSED).agent

    @property
    def is_stopping(self) -> bool:
        """Whether someone has asked for the guest's end."""
        return self._is_stopping

    @property
    def is_starting(self) -> bool:
        """Whether the guest is being built, or is about to start by itself."""
        state = self._status.state
        return state == State.BUILDING or (state == State.NEW and self._starts_itself)

    @property
    def has_settled(self) -> bool:
        """Whether there is no reason to wait for the guest's agent."""
        instance = self._instance
        if self.is_starting:
            return False
        return self._status.state != State.RUNNING or instance is None or instance.agent.is_settled

    def balloon(self, change: int) -> Balloon:
        """Change the balloon's target by ``change`` bytes; return the balloon's state.

        Raises:
            UserError: the guest has no balloon, no driver for it, or not that much memory.
        """
        with self._control:
            instance, status = self._in(*_HAS_GUEST), self._status
            if status.kind == "realm":
                raise UserError(f"{status.name} is a realm: the host cannot take its memory")
            balloon = instance.board.balloon
            if balloon is None:
                raise UserError(f"{status.name} has no balloon: create it with --balloon")
            if status.state != State.NEW and not balloon.has_driver:
                raise UserError(
                    f"{status.name} has no driver for its balloon: wait until it has booted, or"
                    " load virtio_balloon there"
                )
            target = balloon.target + change
            if not 0 <= target <= status.ram_size:
                raise UserError(
                    f"{status.name}'s balloon has {balloon.target >> 20} MiB; it cannot have"
                    f" {target >> 20}: give a result from 0 to {status.ram_size >> 20} MiB"
                )
            if change:
                balloon.resize(target)
        statistics = balloon.ask(_BALLOON_PATIENCE if status.state == State.RUNNING else 0)
        return Balloon(balloon.target, balloon.actual, statistics)

    def network(self, card: str, *, is_plugged: bool) -> list[NetworkCard]:
        """Plug in or unplug a network card, if one is named; return the state of all.

        Raises:
            UserError: the guest has no such card.
        """
        with self._control:
            instance = self._in(*_HAS_GUEST)
            devices = instance.board.devices
            cards = {name: each for name, each in devices.items() if isinstance(each, VirtioNet)}
            if card and card not in cards:
                known = f"give {', '.join(cards)}" if cards else "create it with -n"
                raise UserError(f"{self._status.name} has no network card {card}: {known}")
            if card:
                instance.check_not_recorded("a change of its network")
                cards[card].enable(is_enabled=is_plugged)
            return [
                NetworkCard(name, each.mac.hex(":"), each.mtu, each.num_pairs, each.is_up)
                for name, each in cards.items()
            ]

    def type(self, data: bytes) -> None:
        """Type input on the console."""
        self._in(*_HAS_GUEST).type(data)

    @property
    def is_listening(self) -> bool:
        """Whether the guest would keep input; also true without a guest, so that no one waits."""
        instance = self._instance
        return instance is None or instance.is_listening

    @property
    def backlog(self) -> int:
        """The number of bytes of input that the guest has not read yet."""
        instance = self._instance
        return 0 if instance is None else instance.backlog

    def resize(self, columns: int, rows: int) -> None:
        """Tell the guest the size of the terminal."""
        self._in(*_HAS_GUEST).resize(columns, rows)

    def _in(self, *states: State) -> Instance:
        """Return the instance if it is in one of these states.

        Raises:
            UserError: it is not.
        """
        status, instance = self._status, self._instance
        if status.state not in states:
            raise UserError(f"{status.name} is {status.state}: {_HINTS[status.state]}")
        if instance is None:
            raise UserError(f"{status.name} is about to end")
        return instance


def _ports(options: VmOptions) -> list[Port]:
    """Return the ports that are forwarded to the guest."""
    forwards = (forward for card in options.networks for forward in card.forwards)
    return [Port(each.protocol, each.host, each.guest_port) for each in forwards]


def _left(deadline: float) -> float | None:
    """Return the seconds until a deadline; None if there is none."""
    return None if deadline == math.inf else max(deadline - time.monotonic(), 0)


def _reason(code: ExitCode, instance: Instance | None, timeout: float | None) -> str:
    if code is ExitCode.CRASHED and instance is not None:
        return instance.crash_reason
    if code is ExitCode.WATCHDOG:
        return "the guest's watchdog expired"
    if code is ExitCode.TIMEOUT:
        return f"stopped after {timeout:g} s"
    return ""


def _named(counts: list[int]) -> dict[str, int]:
    return {kind.name.lower(): counts[kind] for kind in ExitKind}


def _memory(usage: Usage) -> dict[str, MemoryStatistics]:
    return {
        pas.name.lower(): MemoryStatistics(granules, usage.resident[pas])
        for pas, granules in usage.granules.items()
    }
