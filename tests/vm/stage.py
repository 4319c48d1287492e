"""A platform with a scripted guest."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Self

from pyvmm.arch.errors import UserError
from pyvmm.arch.events import EventStream
from pyvmm.arch.machine import GuestRegisters
from pyvmm.arch.pas import GranuleProtectionFault, Pas
from pyvmm.arch.timer import SystemCounter
from pyvmm.devices.bus import Bus
from pyvmm.host.debug import DebugPort, Watch
from pyvmm.host.guest import (
    ExitKind,
    Guest,
    GuestConfig,
    GuestState,
    Outcome,
    Progress,
    RealmOptions,
)
from pyvmm.host.machine import Usage
from pyvmm.host.vcpu import Vcpus
from pyvmm.host.vcpu_state import LastExit, VcpuState
from pyvmm.host.vgic import Vgic
from pyvmm.vm import memory_map
from pyvmm.vm.control.api import State, Status
from pyvmm.vm.control.console import ConsoleLog
from pyvmm.vm.control.instance import Instance
from pyvmm.vm.control.lifecycle import Lifecycle
from pyvmm.vm.control.terminal import Terminal
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.machine.platform import Observer
from pyvmm.vm.memory_map import MIB
from pyvmm.vm.options import VmOptions

CONFIG = GuestConfig(1, memory_map.RAM_BASE, 64 * MIB, (), memory_map.RAM_BASE)
END_OF_PANIC = b"[ 1.0] ---[ end Kernel panic - not syncing: x ]---\n"


class PrivateMemory:
    """Guest memory without any shared pages."""

    def read(self, addr: int, _size: int) -> bytes:
        """Refuse."""
        raise GranuleProtectionFault(addr, Pas.NS)

    def write(self, addr: int, _data: object) -> None:
        """Refuse."""
        raise GranuleProtectionFault(addr, Pas.NS)

    def view(self, addr: int, _size: int) -> memoryview:
        """Refuse."""
        raise GranuleProtectionFault(addr, Pas.NS)

    def shared_size(self) -> int:
        """Return the size of none."""
        return 0

    def begin_transfer(self) -> int:
        """Do nothing."""
        return 0

    def end_transfer(self, _transfer: int) -> None:
        """Do nothing."""


class NoDebug(DebugPort):
    """A debug port without vCPUs."""

    def registers(self, cpu: int) -> GuestRegisters:
        """Have none."""
        raise IndexError(cpu)

    def set_registers(self, cpu: int, _registers: GuestRegisters) -> None:
        """Have none."""
        raise IndexError(cpu)

    def set_points(self, _breakpoints: Sequence[int], _watchpoints: Sequence[Watch]) -> None:
        """Do nothing."""

    def _lend(self, is_attached: bool) -> None:
        """Do nothing."""

    def _set_steps(self, _steps: Sequence[bool]) -> None:
        """Do nothing."""

    def _read_part(self, cpu: int, _va: int, _size: int) -> bytes:
        raise IndexError(cpu)

    def _write_part(self, cpu: int, _va: int, _data: bytes) -> None:
        raise IndexError(cpu)

    def _stopped(self) -> None:
        """Do nothing."""

    def _resuming(self) -> None:
        """Do nothing."""


class ScriptedGuest:
    """A guest whose script, a function of the test, uses its bus; then it ends."""

    def __init__(self, bus: Bus, script: Callable[[Bus], Outcome | None]) -> None:
        self.dma = PrivateMemory()
        self.roms = ()
        self.outcome: Outcome | None = None
        self.is_halting = False
        self.reason = "a reason"
        self.is_closed = False
        self.calls: list[str] = []
        self.released: list[tuple[int, int]] = []
        self.bus = bus
        self._script = script
        self._ended = threading.Event()

    @property
    def exits(self) -> list[list[int]]:
        """Return one exit of each kind."""
        return [[1] * len(ExitKind)]

    def vcpu_states(self) -> list[VcpuState]:
        """Hide the registers, as a realm does."""
        return [VcpuState(is_on=True, exits=self.exits[0], last=LastExit())]

    def release(self, ipa: int, size: int) -> None:
        """Note it."""
        self.released.append((ipa, size))

    def build(self, progress: Progress | None = None) -> None:
        """Report two steps of loading."""
        for step in range(2):
            if progress is not None:
                progress(step, 2)

    def start(self) -> None:
        """Run the script."""
        self.calls.append("start")
        outcome = self._script(self.bus)
        if outcome is not None:
            self._end(outcome)

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Wait for the end."""
        self._ended.wait(timeout)
        return self.outcome

    def stop(self) -> None:
        """End now."""
        self._end(Outcome.STOPPED)

    def still(self) -> AbstractContextManager[None]:
        """Return a context in which nothing changes."""
        return nullcontext()

    def pause(self) -> None:
        """Note it."""
        self.calls.append("pause")

    def resume(self) -> None:
        """Note it."""
        self.calls.append("resume")

    def debug_port(self) -> DebugPort:
        """Return a port without vCPUs."""
        return NoDebug(Vcpus(0, lambda _: None, lambda _: None), 0)

    def save(self) -> GuestState:
        """Return nothing of a guest that has no state."""
        return GuestState(0, [])

    def used_memory(self) -> Iterator[tuple[int, int]]:
        """Yield nothing."""
        return iter(())

    def load(self, state: GuestState) -> None:
        """Note it."""
        self.calls.append(f"load {state.counter}")

    def send_serror(self, cpu: int) -> None:
        """Note it."""
        self.calls.append(f"SError to {cpu}")

    def close(self) -> None:
        """Note it."""
        self.is_closed = True

    def _end(self, outcome: Outcome) -> None:
        self.outcome = self.outcome or outcome
        self._ended.set()


def idle(_bus: Bus) -> None:
    """Do nothing until the guest is stopped."""


class Stage:
    """A platform for one scripted guest, with a terminal that is two pipes."""

    def __init__(self) -> None:
        self.events = EventStream()
        self.counter = SystemCounter(time.monotonic_ns, 10**9)
        self.script: Callable[[Bus], Outcome | None] = lambda _: Outcome.OFF
        self.guest: ScriptedGuest | None = None
        self.in_reader, self.in_writer = os.pipe()
        self.out_reader, self.out_writer = os.pipe()

    def close(self) -> None:
        """Close the terminal."""
        for fd in (self.in_reader, self.in_writer, self.out_reader, self.out_writer):
            os.close(fd)

    def new_guest(
        self, _config: GuestConfig, bus: Bus, _vgic: Vgic, _realm: RealmOptions | None
    ) -> ScriptedGuest:
        """Make the guest."""
        self.guest = ScriptedGuest(bus, self.script)
        return self.guest

    def rim(self) -> bytes:
        """Return a measurement for every guest."""
        return b"\x12\x34"

    def digests(self, _guest: Guest) -> tuple[bytes, dict[str, bytes]]:
        """Return digests of nothing."""
        return b"", {}

    def observer(self, _guest: Guest) -> Observer:
        """Refuse: this machine is a script."""
        raise UserError("a stage cannot be observed")

    def usage(self) -> Usage:
        """Return small figures."""
        return Usage((7,), dict.fromkeys(Pas, 2), dict.fromkeys(Pas, 4096))

    def run(self, options: VmOptions, timeout: float | None = None) -> tuple[ExitCode, bytes]:
        """Run an instance; return its exit code and what it showed."""
        with Terminal(self.in_reader, self.out_writer) as terminal:
            code = Instance(options, CONFIG, self, terminal).run(timeout)
        os.set_blocking(self.out_reader, False)
        try:
            return code, os.read(self.out_reader, 1 << 16)
        except BlockingIOError:
            return code, b""


def show(bus: Bus, text: bytes) -> None:
    """Write to the console as a guest does."""
    for byte in text:
        bus.write(memory_map.UART_BASE, 1, byte)


class OwnerThread:
    """A lifecycle run by a thread; leaving the context ends it."""

    def __init__(self, options: VmOptions | None = None, timeout: float | None = None) -> None:
        self.stage = Stage()
        self.stage.script = idle
        self.options = options or VmOptions(name="r1")
        self.told: list[Status] = []
        self.lifecycle = Lifecycle(self.options, self.told.append)
        self.code: ExitCode | None = None
        self.error: Exception | None = None
        self._timeout = timeout
        self._thread = threading.Thread(target=self._run, name="owner", daemon=True)

    def assemble(self, log: ConsoleLog) -> Instance:
        """Make the guest."""
        return Instance(self.options, CONFIG, self.stage, None, log)

    @property
    def guest(self) -> ScriptedGuest:
        """The guest, once it exists."""
        assert self.stage.guest is not None
        return self.stage.guest

    def _run(self) -> None:
        try:
            self.code = self.lifecycle.run(self.assemble, self._timeout)
        except Exception as error:  # noqa: BLE001  for the test to look at
            self.error = error

    def until(self, state: State) -> Status:
        """Wait for a state."""
        self.lifecycle._wait_for(lambda: self.lifecycle.status.state == state)
        return self.lifecycle.status

    def end(self) -> ExitCode | None:
        """Wait for the end."""
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.code

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.lifecycle.quit()
        self.end()
        self.stage.close()
