"""A guest put together, with a guest that plays its part from the test."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.arch.events import EventStream
from pyvmm.arch.pas import GranuleProtectionFault, Pas
from pyvmm.devices.bus import Bus
from pyvmm.host.guest import GuestConfig, Outcome, Progress, RealmOptions
from pyvmm.host.machine import Usage
from pyvmm.host.vgic import Vgic
from pyvmm.vm import machine
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.instance import Instance
from pyvmm.vm.machine import MIB
from pyvmm.vm.options import DiskOptions, VmOptions
from pyvmm.vm.terminal import Terminal

CONFIG = GuestConfig(1, machine.RAM_BASE, 64 * MIB, (), machine.RAM_BASE)
END_OF_PANIC = b"[ 1.0] ---[ end Kernel panic - not syncing: x ]---\n"


class PrivateMemory:
    """Guest memory of which nothing is shared."""

    def read(self, addr: int, _size: int) -> bytes:
        """Refuse."""
        raise GranuleProtectionFault(addr, Pas.NS)

    def write(self, addr: int, _data: object) -> None:
        """Refuse."""
        raise GranuleProtectionFault(addr, Pas.NS)

    def view(self, addr: int, _size: int) -> memoryview:
        """Refuse."""
        raise GranuleProtectionFault(addr, Pas.NS)


class ScriptedGuest:
    """A guest that does what a function of the test does with its bus, then ends."""

    def __init__(self, bus: Bus, script: Callable[[Bus], Outcome | None]) -> None:
        self.dma = PrivateMemory()
        self.outcome: Outcome | None = None
        self.reason = "a reason"
        self.is_closed = False
        self._bus = bus
        self._script = script
        self._ended = threading.Event()

    @property
    def exits(self) -> list[list[int]]:
        """Count nothing."""
        return []

    def build(self, progress: Progress | None = None) -> None:
        """Have nothing to load."""

    def start(self) -> None:
        """Play."""
        outcome = self._script(self._bus)
        if outcome is not None:
            self._end(outcome)

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Wait for the end."""
        self._ended.wait(timeout)
        return self.outcome

    def stop(self) -> None:
        """End now."""
        self._end(Outcome.STOPPED)

    def pause(self) -> None:
        """Do nothing."""

    def resume(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Note it."""
        self.is_closed = True

    def _end(self, outcome: Outcome) -> None:
        self.outcome = self.outcome or outcome
        self._ended.set()


class Stage:
    """A platform for one scripted guest, with a terminal that is two pipes."""

    def __init__(self) -> None:
        self.events = EventStream()
        self.script: Callable[[Bus], Outcome | None] = lambda _: Outcome.OFF
        self.guest: ScriptedGuest | None = None
        self.in_reader, self.in_writer = os.pipe()
        self.out_reader, self.out_writer = os.pipe()

    def new_guest(
        self, _config: GuestConfig, bus: Bus, _vgic: Vgic, _realm: RealmOptions | None
    ) -> ScriptedGuest:
        """Make the guest."""
        self.guest = ScriptedGuest(bus, self.script)
        return self.guest

    def usage(self) -> Usage:
        """Have done nothing."""
        return Usage((), {}, {})

    def run(self, options: VmOptions, timeout: float | None = None) -> tuple[ExitCode, bytes]:
        """Run an instance; return its exit code and what it showed."""
        with Terminal(self.in_reader, self.out_writer) as terminal:
            code = Instance(options, CONFIG, self, terminal).run(timeout)
        os.set_blocking(self.out_reader, False)
        try:
            return code, os.read(self.out_reader, 1 << 16)
        except BlockingIOError:
            return code, b""


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Make a stage."""
    made = Stage()
    yield made
    for fd in (made.in_reader, made.in_writer, made.out_reader, made.out_writer):
        os.close(fd)


def show(bus: Bus, text: bytes) -> None:
    """Write to the console as a guest does."""
    for byte in text:
        bus.write(machine.UART_BASE, 1, byte)


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome.OFF, ExitCode.OK),
        (Outcome.RESET, ExitCode.OK),
        (Outcome.CRASHED, ExitCode.CRASHED),
        (None, ExitCode.TIMEOUT),
    ],
)
def test_exit_code_says_how_it_ended(stage: Stage, outcome: Outcome | None, code: ExitCode) -> None:
    """Off and reset are fine; a guest that goes on runs out of time."""
    stage.script = lambda _: outcome
    assert stage.run(VmOptions(), timeout=0.01) == (code, b"")
    assert stage.guest is not None
    assert stage.guest.is_closed


def test_output_of_the_console_is_shown(stage: Stage) -> None:
    """All of it, also what is not a whole line; other ports are silent."""

    def script(bus: Bus) -> Outcome:
        show(bus, b"hello\nroot# ")
        bus.write(machine.uart_base(1), 1, ord("!"))
        return Outcome.OFF

    stage.script = script
    assert stage.run(VmOptions()) == (ExitCode.OK, b"hello\nroot# ")


def test_panic_ends_the_guest(stage: Stage) -> None:
    """Linux would stand still after it for ever."""
    stage.script = lambda bus: show(bus, END_OF_PANIC)
    code, output = stage.run(VmOptions())
    assert (code, output) == (ExitCode.PANIC, END_OF_PANIC)


def test_panic_with_reboot_is_a_panic(stage: Stage) -> None:
    """With panic=1 on its command line the kernel resets before its last line."""

    def script(bus: Bus) -> Outcome:
        show(bus, b"[ 1.0] Kernel panic - not syncing: x\n")
        return Outcome.RESET

    stage.script = script
    assert stage.run(VmOptions())[0] is ExitCode.PANIC


def test_input_reaches_the_serial_port(stage: Stage) -> None:
    """Once its driver enables the receive interrupt."""

    def echo(bus: Bus) -> None:
        while not bus.read(machine.UART_BASE + 5, 1) & 1:  # LSR.DR
            pass
        show(bus, bytes((bus.read(machine.UART_BASE, 1),)) + b"\n" + END_OF_PANIC)

    def script(bus: Bus) -> None:
        os.write(stage.in_writer, b"y")
        bus.write(machine.UART_BASE + 1, 1, 1)  # IER.RDI
        threading.Thread(target=echo, args=(bus,)).start()

    stage.script = script
    assert stage.run(VmOptions())[1] == b"y\n" + END_OF_PANIC


def test_virtio_devices_take_slots_in_a_fixed_order(stage: Stage, tmp_path: Path) -> None:
    """Disks, console, entropy: as many as the device tree says, and no more."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    found: list[int] = []

    def script(bus: Bus) -> Outcome:
        found.extend(bus.read(machine.virtio_base(slot) + 8, 4) for slot in range(4))
        return Outcome.OFF

    stage.script = script
    options = VmOptions(disks=(DiskOptions(disk),), console="virtio", has_rng=True)
    stage.run(options)
    assert found == [2, 3, 4, 0]
    assert options.num_virtio == 3


def test_disk_in_use_leaves_nothing_behind(stage: Stage, tmp_path: Path) -> None:
    """The guest that was made already is closed again."""
    missing = VmOptions(disks=(DiskOptions(tmp_path / "none"),))
    with pytest.raises(UserError, match="none"):
        stage.run(missing)
    assert stage.guest is not None
    assert stage.guest.is_closed
