"""An instance with a scripted guest."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.devices.bus import Bus
from pyvmm.host.guest import Outcome
from pyvmm.vm import memory_map
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.machine.plan import device_plan
from pyvmm.vm.option_values import DiskOptions
from pyvmm.vm.options import VmOptions
from tests.vm.stage import END_OF_PANIC, Stage, show


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Make a stage."""
    made = Stage()
    yield made
    made.close()


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
    """Power-off and reset are success; a guest that continues reaches the time-out."""
    stage.script = lambda _: outcome
    assert stage.run(VmOptions(), timeout=0.01) == (code, b"")
    assert stage.guest is not None
    assert stage.guest.is_closed


def test_output_of_the_console_is_shown(stage: Stage) -> None:
    """All output is shown, also incomplete lines; other ports are silent."""

    def script(bus: Bus) -> Outcome:
        show(bus, b"hello\nroot# ")
        bus.write(memory_map.uart_base(1), 1, ord("!"))
        return Outcome.OFF

    stage.script = script
    assert stage.run(VmOptions()) == (ExitCode.OK, b"hello\nroot# ")


def test_panic_ends_the_guest(stage: Stage) -> None:
    """Otherwise Linux would hang for ever."""
    stage.script = lambda bus: show(bus, END_OF_PANIC)
    code, output = stage.run(VmOptions())
    assert (code, output) == (ExitCode.PANIC, END_OF_PANIC)


@pytest.mark.parametrize("on_reboot", ["exit", "restart"])
def test_a_watchdog_that_expires_ends_the_guest(stage: Stage, on_reboot: str) -> None:
    """With a code of its own, whatever a reboot does."""

    def script(bus: Bus) -> None:
        bus.write(memory_map.WATCHDOG_BASE + 8, 4, 1000)
        bus.write(memory_map.WATCHDOG_BASE, 4, 1)

    stage.script = script
    options = VmOptions(has_watchdog=True, on_reboot=on_reboot)
    assert stage.run(options, timeout=60)[0] is ExitCode.WATCHDOG


def test_panic_with_reboot_is_a_panic(stage: Stage) -> None:
    """With panic=1 on its command line the kernel resets before its last line."""

    def script(bus: Bus) -> Outcome:
        show(bus, b"[ 1.0] Kernel panic - not syncing: x\n")
        return Outcome.RESET

    stage.script = script
    assert stage.run(VmOptions())[0] is ExitCode.PANIC


def test_input_reaches_the_serial_port(stage: Stage) -> None:
    """Input arrives once the driver enables the receive interrupt."""

    def echo(bus: Bus) -> None:
        while not bus.read(memory_map.UART_BASE + 5, 1) & 1:  # LSR.DR
            pass
        show(bus, bytes((bus.read(memory_map.UART_BASE, 1),)) + b"\n" + END_OF_PANIC)

    def script(bus: Bus) -> None:
        os.write(stage.in_writer, b"y")
        bus.write(memory_map.UART_BASE + 1, 1, 1)  # IER.RDI
        threading.Thread(target=echo, args=(bus,)).start()

    stage.script = script
    assert stage.run(VmOptions())[1] == b"y\n" + END_OF_PANIC


def test_virtio_devices_take_slots_in_a_fixed_order(stage: Stage, tmp_path: Path) -> None:
    """Disks, console, entropy, agent, power button; their number is that in the device tree."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    found: list[int] = []

    def script(bus: Bus) -> Outcome:
        found.extend(bus.read(memory_map.virtio_base(slot) + 8, 4) for slot in range(6))
        return Outcome.OFF

    stage.script = script
    disks = (DiskOptions(disk),)
    options = VmOptions(disks=disks, console="virtio", has_rng=True, wants_agent=True)
    stage.run(options)
    assert found == [2, 3, 4, 3, 18, 0]
    assert [device.name for device in device_plan(options)][:6] == [
        *("blk0", "hvc1", "rng2", "agent3", "button4"),
        "uart0",
    ]


def test_disk_in_use_leaves_nothing_behind(stage: Stage, tmp_path: Path) -> None:
    """The guest is closed again."""
    missing = VmOptions(disks=(DiskOptions(tmp_path / "none"),))
    with pytest.raises(UserError, match="none"):
        stage.run(missing)
    assert stage.guest is not None
    assert stage.guest.is_closed
