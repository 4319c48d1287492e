"""An instance: one guest with its devices and its console, from start to end.

The platform (machine and firmware) makes the guest, the board makes its devices; an instance
combines both.  The order is payload, platform, guest, devices, build, start; the end is in reverse
order.  `pyvmm.vm.control.lifecycle` decides which operations are allowed in which state.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from pyvmm.arch.errors import UserError
from pyvmm.arch.pas import GranuleProtectionFault
from pyvmm.arch.pictures import QueuePicture
from pyvmm.arch.saved import StateError
from pyvmm.devices.bus import Bus
from pyvmm.devices.virtio.port import Port
from pyvmm.host.guest import Guest, GuestConfig, GuestState, Outcome, Progress
from pyvmm.host.machine import Usage
from pyvmm.host.vgic import Vgic
from pyvmm.vm.agent.client import AgentClient
from pyvmm.vm.agent.volumes import mount_commands
from pyvmm.vm.control.api import Vcpu
from pyvmm.vm.control.console import ConsoleLog
from pyvmm.vm.control.terminal import Console, EndSignals, Terminal
from pyvmm.vm.diagnosis.last_words import Ending, last_words
from pyvmm.vm.diagnosis.panic import PanicWatch
from pyvmm.vm.diagnosis.spin import INTERVAL, SpinWatch
from pyvmm.vm.diagnosis.symbols import Symbols
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.machine.board import Board
from pyvmm.vm.machine.outside import Inlet, Outside
from pyvmm.vm.machine.platform import Platform
from pyvmm.vm.machine.queues import queue_pictures
from pyvmm.vm.option_values import GdbAddress
from pyvmm.vm.options import VmOptions

if TYPE_CHECKING:
    from pyvmm.vm.gdb.server import GdbServer
    from pyvmm.vm.record.session import Session
    from pyvmm.vm.snapshot import Snapshot

#: Seconds without output after which the console's setup is assumed to be complete.
_QUIET: Final = 0.2
_DISK_PATIENCE: Final = 10.0  # seconds that a disk may take to complete its requests
#: Ctrl-O, which Linux interprets as SysRq on a hypervisor console.
HVC_SYSRQ: Final = b"\x0f"


class InletConsole:
    """A console whose input takes effect between two turns of the vCPUs."""

    def __init__(self, device: Console, receive: Inlet) -> None:
        self._device = device
        self.receive = receive

    @property
    def backlog(self) -> int:
        """The number of bytes waiting for the guest."""
        return self._device.backlog


class InletPort:
    """A port to which the host's data goes between two turns of the vCPUs."""

    def __init__(self, port: Port, send: Inlet) -> None:
        self._port = port
        self._send = send

    @property
    def backlog(self) -> int:
        """The number of bytes waiting for the guest."""
        return self._port.backlog

    def send(self, data: bytes) -> bool:
        """Send bytes; return False if the port is closed in the guest."""
        if not self._port.is_open:
            return False
        self._send(data)
        return True


def _size_of(session: "Session | None", terminal: Terminal | None) -> tuple[int, int]:
    """Return columns and rows that the guest sees first."""
    if session is not None:
        return session.size
    return terminal.size if terminal is not None else (0, 0)


class Instance:
    """A complete guest; `run` takes it from build to end.

    Args:
        terminal: shows the console and types on it; None leaves both to attached clients.
        console_log: keeps the console's output.
        notify: called with lines for the user while the guest runs; any thread.
        home: the instance's directory; None: it has none.
        snapshot: the state to continue from.
        session: of a run that is recorded or replayed.

    Raises:
        UserError: a disk cannot be opened, or the network cannot be set up.
    """

    def __init__(
        self,
        options: VmOptions,
        config: GuestConfig,
        platform: Platform,
        terminal: Terminal | None = None,
        console_log: ConsoleLog | None = None,
        notify: Callable[[str], None] = lambda _: None,
        home: Path | None = None,
        snapshot: "Snapshot | None" = None,
        session: "Session | None" = None,
    ) -> None:
        self._options = options
        self._restarts = options.on_reboot == "restart"
        self._config = config if self._restarts else None  # else the payload need not be kept
        self._load_address = config.entry
        self._symbols = Symbols(options.vmlinux) if options.vmlinux else None
        self._platform = platform
        self._home = home
        self._snapshot = snapshot
        self._session = session
        self._outside = session.outside if session is not None else Outside()
        self._terminal = terminal
        self._notify = notify
        self.console_log = console_log or ConsoleLog()
        self._panic = PanicWatch()
        self._has_quit = self._has_expired = False
        self.wants_restart = False  # it has ended by a reboot, after which it is to run again
        self.agent = AgentClient([*mount_commands(options.volumes)], notify)
        self._last_output = math.inf
        self._has_listened = options.console == "serial" or snapshot is not None
        self._resources = ExitStack()
        self._stop_listening = (
            platform.events.subscribe(session.source.listen) if session is not None else None
        )
        bus = Bus(platform.events)
        vgic = self._vgic = Vgic(options.num_cpus)
        self._guest = platform.new_guest(config, bus, vgic, options.realm)
        self._resources.callback(self._guest.close)
        try:
            self.board = Board(
                options,
                self._guest,
                bus,
                vgic,
                self._resources,
                sink=self._show,
                size=_size_of(session, terminal),
                agent=self.agent,
                notify=notify,
                counter=platform.counter,
                expire=self._expire,
                home=home,
                outside=self._outside,
            )
            self._attach(terminal)
            self.observer = platform.observer(self._guest) if options.is_observed else None
            self._gdb = self._make_gdb(options.gdb) if options.gdb else None
        except BaseException:
            self._resources.close()
            raise

    def _attach(self, terminal: Terminal | None) -> None:
        """Connect the terminal and the agent's client to their devices."""
        device: Console = self.board.hvc or self.board.uart
        self._console = device
        if self._session is not None:
            self._console = InletConsole(device, self._outside.inlet("console", device.receive))
        self._break = self._outside.inlet("break", self.board.uart.receive_break)
        self._resize = self._outside.inlet("resize", self._change_size)
        self._press = self._outside.inlet("button", self._press_button)
        if self.board.hvc is not None and terminal is not None:
            terminal.on_resize(self.resize)
        if self.board.port is not None:
            self._attach_agent(self.board.port)

    def _attach_agent(self, port: Port) -> None:
        def deliver(data: bytes) -> None:
            port.send(data)

        send = self._outside.inlet("agent", deliver)
        self.agent.attach(port if self._session is None else InletPort(port, send))

    @property
    def guest(self) -> Guest:
        """The guest without its devices."""
        return self._guest

    def run(self, timeout: float | None = None) -> ExitCode:
        """Build, start and run the guest to its end, then release its resources.

        Args:
            timeout: stop the guest after this many seconds.
        """
        try:
            self.build()
            self.start()
            with EndSignals(self.quit):
                return self.wait(timeout)
        finally:
            self.close()
            self.console_log.close()

    def build(self, progress: Progress | None = None) -> None:
        """Load the payload, which also measures a realm; once.

        Raises:
            RmiFailed: the RMM refused it.
        """
        self._guest.build(progress)
        if self._snapshot is not None:
            self._restore(self._snapshot)
            self._snapshot = None
        if self._gdb is not None:
            self._gdb.start()

    def start(self) -> None:
        """Start the guest; once.

        Raises:
            RmiFailed: the RMM refused it.
        """
        self._guest.start()
        if self._terminal is not None:
            self._terminal.start(self._console, self.quit, lambda: self.is_listening)

    def save(self, file: BinaryIO) -> None:
        """Write a snapshot, while every vCPU is paused.

        Raises:
            UserError: the guest cannot be saved, or the file cannot be written.
        """
        from msgspec.structs import replace  # noqa: PLC0415  few guests are saved

        from pyvmm.vm import snapshot  # noqa: PLC0415

        with self.board.still(_DISK_PATIENCE):
            state = self._guest.save()
            header = replace(
                snapshot.new_header(self._options, state.counter),
                vcpus=[snapshot.pack(each) for each in state.vcpus],
                gic=snapshot.pack(self._vgic.save()),
                devices=snapshot.pack(self.board.save()),
                disks=snapshot.saved_disks(self._options.disks),
                agent=snapshot.pack(self.agent.save()),
                console=self.console_log.tail(),
            )
            memory = (
                (ipa, self._guest.dma.read(ipa, size))
                for ipa, size in snapshot.pieces_of(self._guest.used_memory())
            )
            snapshot.write(file, header, memory)

    def _restore(self, snapshot: "Snapshot") -> None:
        """Set the state of guest and devices; UserError if the file is damaged."""
        from pyvmm.vm.snapshot import unpack  # noqa: PLC0415

        header = snapshot.header
        for ipa, data in snapshot.memory():
            try:
                self._guest.dma.write(ipa, data)
            except GranuleProtectionFault as fault:
                raise snapshot.damaged(fault) from None
        try:
            self._vgic.load(unpack(header.gic))
            self._guest.load(GuestState(header.counter, [unpack(each) for each in header.vcpus]))
            self.board.load(unpack(header.devices))
            self.agent.load(unpack(header.agent))
        except StateError as error:
            raise snapshot.damaged(error) from None
        self.console_log.write(header.console)

    def pause(self) -> None:
        """Pause every vCPU; return when all stand still.  The guest's clock continues."""
        self._guest.pause()

    def resume(self) -> None:
        """Resume the vCPUs."""
        self._guest.resume()

    def wait(self, timeout: float | None = None) -> ExitCode:
        """Wait for the end; stop the guest after ``timeout`` seconds."""
        outcome = self._wait_for_end(timeout)
        if outcome is None:
            self._stop()
        code = self._exit_code(outcome)
        if self._session is not None:
            self._end(self._session)
        self.wants_restart = self._restarts and outcome is Outcome.RESET and code is ExitCode.OK
        if self._gdb is not None:
            self._gdb.close(outcome)
        if self._terminal is not None:
            self._terminal.stop()
        self.board.uart.flush()
        return code

    def _end(self, session: "Session") -> None:
        """Compare the end of a run with its record, or record it."""
        from pyvmm.vm.record.items import State  # noqa: PLC0415  few runs are recorded

        outcome = self._guest.wait()
        if self._stop_listening is not None:
            self._stop_listening()
        self.board.uart.flush()
        registers, memory = self._platform.digests(self._guest)
        machine = session.turns.machine
        session.source.end(
            State(
                outcome.value if outcome is not None else "",
                machine.position,
                machine.counter(),
                registers,
                memory,
                session.source.num_events,
                self.console_log.end,
            )
        )

    def _wait_for_end(self, timeout: float | None) -> Outcome | None:
        """Wait for the outcome, and check periodically whether the guest makes progress."""
        watch = SpinWatch(self._options)
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            outcome = self._guest.wait(max(0, min(left, INTERVAL)))
            if outcome is not None or left <= INTERVAL:
                return outcome
            if line := watch.look(self._guest.exits, self.console_log.end):
                self._notify(line)

    def close(self) -> None:
        """Release the guest's resources; its disks are on stable storage afterwards."""
        self.agent.close()
        self._resources.close()

    def successor(self) -> "Instance":
        """Return a new instance with the same payload, after a reboot; this one is closed.

        Raises:
            UserError: a disk cannot be opened, or the network cannot be set up.
        """
        assert self._config is not None  # noqa: S101  kept if it is to be restarted
        return Instance(
            self._options,
            self._config,
            self._platform,
            self._terminal,
            self.console_log,
            self._notify,
            self._home,
        )

    def quit(self) -> None:
        """Stop the guest as by a power failure; any thread."""
        self._has_quit = True
        self._stop()

    def last_words(self, code: ExitCode) -> str:
        """Return a report on a guest that died or stayed silent; else nothing.  After `wait`."""
        self._guest.wait()
        ending = Ending(
            code,
            self._options,
            self.console_log.end,
            self._panic.message,
            self._load_address,
            self._guest.vcpu_states(),
        )
        return last_words(ending, self._symbols) if ending.is_reported else ""

    def _stop(self) -> None:
        if self._terminal is not None:
            self._terminal.hurry()  # a vCPU may be waiting for the terminal's reader
        self._guest.stop()

    def _expire(self) -> None:
        """End the guest because its watchdog has expired; any thread."""
        self._has_expired = self._guest.outcome is None
        self._stop()

    def _exit_code(self, outcome: Outcome | None) -> ExitCode:
        if self._panic.has_ended or (self._panic.has_begun and outcome is Outcome.RESET):
            return ExitCode.PANIC
        if self._has_quit:
            return ExitCode.QUIT
        if self._has_expired:
            return ExitCode.WATCHDOG
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
        """The address for a debugger; empty if there is no stub."""
        return self._gdb.address if self._gdb else ""

    @property
    def vsock_address(self) -> str:
        """The guest's CID and the host's socket for it, for the user; empty without a vsock."""
        vsock = self.board.vsock
        return f"CID {vsock.cid}, socket {vsock.path}" if vsock is not None else ""

    def debug(self) -> list[Vcpu]:
        """Return the state of each vCPU; any thread."""
        from pyvmm.vm.control.debug import inspect_vcpus  # noqa: PLC0415  a large disassembler

        self.check_not_recorded("looking into its CPUs")
        return inspect_vcpus(self._guest.debug_port())

    def step(self, cpu: int) -> bool:
        """Execute one instruction of a vCPU while the guest is paused; any thread."""
        from pyvmm.vm.control.debug import step_vcpu  # noqa: PLC0415  a large disassembler

        self.check_not_recorded("steps of its CPUs")
        if self._gdb is not None:
            raise UserError(f"{self._options.name} has --gdb: step with the debugger")
        return step_vcpu(self._guest.debug_port(), self._guest, cpu)

    def queues(self) -> list[QueuePicture]:
        """Return a picture of each virtqueue; any thread."""
        with self._guest.still():
            return list(queue_pictures(self.board.devices))

    def sysrq(self, key: str) -> None:
        """Press Alt-SysRq and a key on the console; any thread."""
        if len(key) != 1 or not key.isascii() or not key.isalnum():
            raise UserError(f"SysRq {key!r}: give one letter or digit, such as h for help")
        if self.board.hvc is not None:
            self._console.receive(HVC_SYSRQ + key.encode())
        else:
            self._break(key.encode())

    def nmi(self, cpu: int) -> None:
        """Send a vCPU an SError; any thread."""
        if not 0 <= cpu < self._options.num_cpus:
            count = self._options.num_cpus
            raise UserError(f"vCPU {cpu} does not exist: the guest has {count}, numbered from 0")
        self.check_not_recorded("an SError")
        self._guest.send_serror(cpu)

    def type(self, data: bytes) -> None:
        """Type input on the console; any thread."""
        self._console.receive(data)

    @property
    def backlog(self) -> int:
        """The number of bytes of input that the guest has not read yet."""
        return self._console.backlog

    def resize(self, columns: int, rows: int) -> None:
        """Tell the guest the terminal's size, if its console supports that; any thread."""
        if self.board.hvc is not None:
            self._resize(f"{columns} {rows}".encode())

    def _change_size(self, size: bytes) -> None:
        if self.board.hvc is not None:
            columns, rows = map(int, size.split())
            self.board.hvc.resize(columns, rows)

    def press_button(self) -> bool:
        """Press the power button; return False if no driver will notice it; any thread."""
        if self.board.button is None or not self.board.button.has_driver:
            return False
        self._press(b"")
        return True

    def _press_button(self, _: bytes) -> None:
        if self.board.button is not None:
            self.board.button.press()

    def check_not_recorded(self, what: str) -> None:
        """Refuse what a record does not contain.

        Raises:
            UserError: the run is recorded.
        """
        if self._session is not None:
            raise UserError(f"{self._options.name} is recorded, which excludes {what}")

    @property
    def exits(self) -> list[list[int]]:
        """The number of each vCPU's exits, by `ExitKind`."""
        return [list(counts) for counts in self._guest.exits]

    def usage(self) -> Usage:
        """Return the machine's counters and its resource usage."""
        return self._platform.usage()

    def rim(self) -> bytes:
        """Return the initial measurement of the realm; empty if there is none."""
        return self._platform.rim()

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        """Return the devices' counters, by device name."""
        console = {"output_bytes": self.console_log.end}
        return {"console": console} | {
            name: dict(device.counters)
            for name, device in self.board.devices.items()
            if device.counters
        }

    @property
    def is_listening(self) -> bool:
        """Whether the guest would keep input; once true, it stays true.

        The serial port keeps input until its driver reads it.  Linux's virtio console driver
        discards input until it has set up its port; during the setup it prints the log so far.
        """
        self._has_listened |= time.monotonic() > self._last_output + _QUIET
        return self._has_listened

    def _show(self, data: bytes) -> None:
        """Pass the console's output to the user and to the panic watch."""
        self._last_output = time.monotonic()
        self.console_log.write(data)
        if self._terminal is not None:
            self._terminal.write(data)
        self._panic.feed(data)
        if self._panic.has_ended:
            self._guest.stop()

    def _make_gdb(self, address: GdbAddress) -> "GdbServer":
        from pyvmm.vm.gdb.monitor import Monitor  # noqa: PLC0415  few guests are debugged
        from pyvmm.vm.gdb.server import GdbServer  # noqa: PLC0415

        port = self._guest.debug_port()
        server = GdbServer(address, port, Monitor(self._options, port, self.quit))
        self._resources.callback(server.close)
        if self._options.waits_for_gdb:
            port.hold()
        return server
