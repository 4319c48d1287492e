"""An instance: one guest with its devices and its console, from start to end.

The platform (machine and firmware) makes the guest; everything a user sees of it is put together
here.  Order of life: payload, platform, guest, devices, build, start, and back in the opposite
order.  Who may do what when is the lifecycle's to say (`pyvmm.vm.lifecycle`).
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from pyvmm.arch.errors import UserError
from pyvmm.arch.events import EventStream
from pyvmm.arch.gic import GICR_SIZE
from pyvmm.arch.pas import GranuleProtectionFault
from pyvmm.devices.bus import Bus, IrqLine
from pyvmm.devices.disk import RawDisk
from pyvmm.devices.dma import DmaFault, GuestDma
from pyvmm.devices.ioloop import IoLoop
from pyvmm.devices.rtc import Mc146818, Pl031
from pyvmm.devices.uart import Uart
from pyvmm.devices.virtio.balloon import VirtioBalloon
from pyvmm.devices.virtio.blk import VirtioBlk
from pyvmm.devices.virtio.console import VirtioConsole
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.port import VirtioPort
from pyvmm.devices.virtio.rng import VirtioRng
from pyvmm.devices.virtio.transport import VirtioMmio
from pyvmm.host.guest import Guest, GuestConfig, Outcome, Progress, RealmOptions
from pyvmm.host.machine import Usage
from pyvmm.host.vgic import Vgic
from pyvmm.host.vgic_mmio import Distributor, Redistributor
from pyvmm.vm import machine
from pyvmm.vm.agent import AgentClient
from pyvmm.vm.agent_protocol import PORT_NAME
from pyvmm.vm.api import Vcpu
from pyvmm.vm.console import ConsoleLog
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.gdb.monitor import Monitor
from pyvmm.vm.gdb.server import GdbServer
from pyvmm.vm.machine import MemoryMap
from pyvmm.vm.options import GdbOptions, NetworkOptions, VmOptions
from pyvmm.vm.panic import PanicWatch
from pyvmm.vm.terminal import Console, EndSignals, Terminal

#: Seconds without output after which a console is taken to be done with its beginning.
_QUIET: Final = 0.2
#: Ctrl-O, which Linux takes for SysRq on a hypervisor console.
HVC_SYSRQ: Final = b"\x0f"


class Platform(Protocol):
    """The machine, its firmware and the hypervisor: what a guest runs on."""

    @property
    def events(self) -> EventStream:
        """Where everything that happens is told."""

    def new_guest(
        self, config: GuestConfig, bus: Bus, vgic: Vgic, realm: RealmOptions | None
    ) -> Guest:
        """Make a guest: a realm if there are options for one, else a normal VM."""

    def usage(self) -> Usage:
        """Say what the machine has done so far and what it takes."""

    def rim(self) -> bytes:
        """Return the initial measurement of the realm; empty if there is none."""


class Instance:
    """A guest that is put together; `run` is its life in one breath.

    Args:
        terminal: where its console is shown and typed; None leaves both to who attaches.
        console_log: where the console's output is kept.
        notify: told what the user should know while the guest runs; any thread.

    Raises:
        UserError: a disk or network as asked for is not to be had.
    """

    def __init__(
        self,
        options: VmOptions,
        config: GuestConfig,
        platform: Platform,
        terminal: Terminal | None = None,
        console_log: ConsoleLog | None = None,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._options = options
        self._platform = platform
        self._terminal = terminal
        self.console_log = console_log or ConsoleLog()
        self._devices: dict[str, VirtioDevice] = {}
        self.balloon: VirtioBalloon | None = None
        self._panic = PanicWatch()
        self._has_quit = False
        self.agent = AgentClient()
        self._last_output = math.inf
        self._has_listened = options.console == "serial"
        self._resources = ExitStack()
        self._num_virtio = 0
        self._notify = notify
        self._told: set[str] = set()
        self._bus = Bus(platform.events)
        self._vgic = Vgic(options.num_cpus)
        self._guest = platform.new_guest(config, self._bus, self._vgic, options.realm)
        self._resources.callback(self._guest.close)
        try:
            self._add_gic(MemoryMap(options.ram_size, options.num_cpus))
            self._add_uarts()
            self._bus.add(machine.RTC_BASE, machine.RTC_SIZE, Mc146818(), "rtc")
            self._bus.add(machine.PL031_BASE, machine.PL031_SIZE, Pl031(), "pl031")
            self._add_virtio()
            self._gdb = self._make_gdb(options.gdb) if options.gdb else None
        except BaseException:
            self._resources.close()
            raise

    def run(self, timeout: float | None = None) -> ExitCode:
        """Build, start and run the guest to its end, and give back all it had.

        Args:
            timeout: seconds after which it is stopped.
        """
        try:
            self.build()
            self.start()
            with EndSignals(self.quit):
                return self.wait(timeout)
        finally:
            self.close()

    def build(self, progress: Progress | None = None) -> None:
        """Load the payload, and measure a realm by that; once.

        Raises:
            RmiError: the RMM refused it.
        """
        self._guest.build(progress)
        if self._gdb is not None:
            self._gdb.start()

    def start(self) -> None:
        """Let the guest run; once.

        Raises:
            RmiError: the RMM refused it.
        """
        self._guest.start()
        if self._terminal is not None:
            self._terminal.start(self._console, self.quit, lambda: self.is_listening)

    def pause(self) -> None:
        """Hold every vCPU; returns when they stand still.  The guest's clock goes on."""
        self._guest.pause()

    def resume(self) -> None:
        """Let the vCPUs go on."""
        self._guest.resume()

    def wait(self, timeout: float | None = None) -> ExitCode:
        """Wait for the end, which comes at the latest after ``timeout`` seconds."""
        outcome = self._guest.wait(timeout)
        if outcome is None:
            self._stop()
        code = self._exit_code(outcome)
        if self._gdb is not None:
            self._gdb.close(outcome)
        if self._terminal is not None:
            self._terminal.stop()
        self._uart.flush()
        return code

    def close(self) -> None:
        """Give back all that the guest had; disks are on stable storage then."""
        try:
            self.agent.close()
            self._resources.close()
        finally:
            self.console_log.close()

    def quit(self) -> None:
        """Leave the guest as if the plug were pulled; any thread."""
        self._has_quit = True
        self._stop()

    def _stop(self) -> None:
        if self._terminal is not None:
            self._terminal.hurry()  # a vCPU may be waiting for its reader
        self._guest.stop()

    def _exit_code(self, outcome: Outcome | None) -> ExitCode:
        if self._panic.has_ended or (self._panic.has_begun and outcome is Outcome.RESET):
            return ExitCode.PANIC
        if self._has_quit:
            return ExitCode.QUIT
        match outcome:
            case None:
                return ExitCode.TIMEOUT
            case Outcome.CRASHED:
                return ExitCode.CRASHED
            case Outcome.STOPPED:
                return ExitCode.QUIT
            case Outcome.OFF | Outcome.RESET:
                return ExitCode.OK

    @property
    def crash_reason(self) -> str:
        """Why the guest crashed, in one line; empty otherwise."""
        return self._guest.reason

    @property
    def gdb_address(self) -> str:
        """What a debugger is told to connect to; empty if there is no stub."""
        return self._gdb.address if self._gdb else ""

    def debug(self) -> list[Vcpu]:
        """Say what each vCPU is at; any thread."""
        from pyvmm.vm.debug import look  # noqa: PLC0415  the disassembler is large

        return look(self._guest.debug_port())

    def sysrq(self, key: str) -> None:
        """Press Alt-SysRq and a key on the console; any thread."""
        if len(key) != 1 or not key.isascii() or not key.isalnum():
            raise UserError(f"SysRq {key!r}: give one letter or digit, such as h for help")
        if isinstance(self._console, VirtioConsole):
            self._console.receive(HVC_SYSRQ + key.encode())
        else:
            self._uart.receive_break(key.encode())

    def nmi(self, cpu: int) -> None:
        """Send a vCPU an SError; any thread."""
        if not 0 <= cpu < self._options.num_cpus:
            raise UserError(f"CPU {cpu}: there are only {self._options.num_cpus}, from 0 on")
        self._guest.send_serror(cpu)

    def type(self, data: bytes) -> None:
        """Give input to the console; any thread."""
        self._console.receive(data)

    @property
    def backlog(self) -> int:
        """How many bytes of input the guest has not taken yet."""
        return self._console.backlog

    def resize(self, columns: int, rows: int) -> None:
        """Tell the guest the size of the terminal, if its console can have one; any thread."""
        if isinstance(self._console, VirtioConsole):
            self._console.resize(columns, rows)

    @property
    def exits(self) -> list[list[int]]:
        """How often each vCPU stopped running, by `ExitKind`."""
        return [list(counts) for counts in self._guest.exits]

    def usage(self) -> Usage:
        """Say what the machine has done so far and what it takes."""
        return self._platform.usage()

    def rim(self) -> bytes:
        """Return the initial measurement of the realm; empty if there is none."""
        return self._platform.rim()

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        """Return what the devices count, by their names."""
        console = {"output_bytes": self.console_log.end}
        return {"console": console} | {
            name: dict(device.counters) for name, device in self._devices.items() if device.counters
        }

    @property
    def is_listening(self) -> bool:
        """Whether input would be kept: from some moment on, for good.

        The serial port keeps it until its driver asks. Linux's driver of the virtio console throws
        away what comes before it has set up its port, during which it prints the log so far.
        """
        self._has_listened |= time.monotonic() > self._last_output + _QUIET
        return self._has_listened

    def _tell_failure(self, disk: Path, error: OSError) -> None:
        """Say what is wrong with a disk's storage, each thing once: the guest tries again."""
        line = f"disk {disk}: {error.strerror}; the guest gets I/O errors"
        if line not in self._told:
            self._told.add(line)
            self._notify(line)

    # --- putting it together --------------------------------------------------------------------

    def _irq(self, spi: int) -> IrqLine:
        return partial(self._vgic.set_spi, machine.NUM_PRIVATE_INTIDS + spi)

    def _show(self, data: bytes) -> None:
        """Take the console's output: to the user, and to the one who looks for a panic."""
        self._last_output = time.monotonic()
        self.console_log.write(data)
        if self._terminal is not None:
            self._terminal.write(data)
        self._panic.feed(data)
        if self._panic.has_ended:
            self._guest.stop()

    def _make_gdb(self, gdb: GdbOptions) -> GdbServer:
        port = self._guest.debug_port()
        server = GdbServer(gdb.address, port, Monitor(self._options, port, self.quit))
        self._resources.callback(server.close)
        if gdb.waits:
            port.hold()
        return server

    def _add_gic(self, memory_map: MemoryMap) -> None:
        self._bus.add(machine.GICD_BASE, memory_map.gicd_size, Distributor(self._vgic), "gicd")
        for cpu in range(memory_map.num_cpus):
            base = memory_map.gicr_base + cpu * GICR_SIZE
            self._bus.add(base, GICR_SIZE, Redistributor(self._vgic, cpu), f"gicr{cpu}")

    def _add_uarts(self) -> None:
        for index in range(machine.NUM_UARTS):
            sink = self._show if index == 0 else _drop
            uart = Uart(self._irq(machine.UART_SPI + index), sink)
            self._bus.add(machine.uart_base(index), machine.UART_SIZE, uart, f"uart{index}")
            if index == 0:
                self._uart = uart
                self._console: Console = uart

    def _add_virtio(self) -> None:
        self._dma = GuestDma(self._guest.dma)
        for disk in self._options.disks:
            image = RawDisk(disk.path, is_read_only=disk.is_read_only)
            self._resources.callback(_close_disk, image)
            self._plug(VirtioBlk(image, on_failure=partial(self._tell_failure, disk.path)), "blk")
        if self._options.network is not None:
            self._add_network(self._options.network)
        if self._options.console == "virtio":
            console = VirtioConsole(self._show, self._terminal.size if self._terminal else (0, 0))
            self._plug(console, "hvc")
            self._console = console
            if self._terminal is not None:
                self._terminal.on_resize(console.resize)
        if self._options.has_rng:
            self._plug(VirtioRng(), "rng")
        if self._options.has_balloon:
            self.balloon = VirtioBalloon(self._release)
            self._plug(self.balloon, "balloon")
        if self._options.has_agent:
            port = VirtioPort(PORT_NAME, self.agent)
            self._plug(port, "agent")
            self.agent.attach(port)

    def _release(self, addr: int, size: int) -> None:
        try:
            self._guest.release(addr, size)
        except GranuleProtectionFault as fault:
            raise DmaFault(addr, size) from fault

    def _add_network(self, network: NetworkOptions) -> None:
        from pyvmm.devices.virtio.net import VirtioNet  # noqa: PLC0415  only with a network
        from pyvmm.vm.network import open_backend  # noqa: PLC0415

        loop = IoLoop()
        loop.start()
        self._resources.callback(loop.stop)
        backend = open_backend(network, loop)
        self._resources.callback(backend.close)
        card = VirtioNet(backend, network.mac)
        self._plug(card, "net")
        backend.start(card)

    def _plug(self, device: VirtioDevice, name: str) -> None:
        """Put a virtio device into the next slot; the device tree counts them in the same order."""
        slot = self._num_virtio
        self._num_virtio += 1
        transport = VirtioMmio(
            device,
            self._dma,
            self._irq(machine.VIRTIO_SPI + slot),
            access_platform=self._options.realm is not None,
        )
        self._devices[f"{name}{slot}"] = device
        self._bus.add(machine.virtio_base(slot), machine.VIRTIO_STRIDE, transport, f"{name}{slot}")


def _drop(_data: bytes) -> None:
    """Be the line of a serial port that goes nowhere."""


def _close_disk(disk: RawDisk) -> None:
    """Close a disk; what the guest wrote, and perhaps did not flush, stays."""
    try:
        if not disk.is_read_only:
            disk.flush()
    finally:
        disk.close()
