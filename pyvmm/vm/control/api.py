"""The API of an instance, declared once: client, server and schema derive from this file.

Each method of `Api` declares a JSON-RPC method: its name, parameters, result and documentation;
each method of `Notifications` declares a notification of the server.  To add one, declare it here
and implement it in `pyvmm.vm.control.server.Session`; `make gen` updates the schema.

Compatible changes (new methods, new optional parameters, new fields of results) keep `API_VERSION`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import FunctionType
from typing import Final, Literal, Protocol, get_type_hints

import msgspec

from pyvmm.arch import pictures
from pyvmm.arch.rmi_revisions import BETA, REVISIONS

API_VERSION: Final = 1
#: Bytes of unread console input above which `console_write` waits.
MAX_TYPED: Final = 4096
#: Bytes of input that may wait for a command; `exec_taken` reports what it has taken.
MAX_FED: Final = 256 << 10


#: The encoding of a command's texts; in latin-1 each character stands for a byte.
Encoding = Literal["utf-8", "latin-1"]


class State(StrEnum):
    """The state of an instance."""

    BUILDING = "building"  # its files are read, its memory is filled and measured
    NEW = "new"  # complete; a realm is measured and not yet active
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "shut off"  # its process is about to end, or has
    DEAD = "dead"  # its process ended unexpectedly; only seen from outside


class Version(msgspec.Struct, frozen=True):
    """The versions of the API and of the server."""

    api: int
    pyvmm: str
    rmi: str = ", ".join(REVISIONS) + f"-{BETA}"  # the revisions of RMI that its RMM serves


class Port(msgspec.Struct, frozen=True):
    """A port of the host that is forwarded to the guest."""

    protocol: str  # "tcp" or "udp"
    host: str  # address:port
    guest_port: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """An instance and its state; readers ignore fields that another version adds."""

    name: str
    state: State
    pid: int
    kind: str  # "realm" or "vm"
    num_cpus: int
    ram_size: int  # bytes
    kernel: str | None = None  # None: the built-in guest, or firmware
    ports: list[Port] = []
    rim: str | None = None  # initial measurement of a realm, hexadecimal, once it is new
    created: float  # seconds since 1970
    started: float | None = None
    ended: float | None = None
    reboots: int = 0  # after which it was started again
    exit_code: int | None = None  # once it is shut off
    program_status: int | None = None  # of a root file system for one program, like a shell's $?
    reason: str = ""  # why it ended, in one line, if the code does not say it

    @property
    def result(self) -> int:
        """The exit code of a command that waits for the end: the program's status on success."""
        return self.exit_code or self.program_status or 0


class VcpuStatistics(msgspec.Struct, frozen=True):
    """The counters of one vCPU."""

    instructions: int  # executed
    exits: dict[str, int]  # by kind


class MemoryStatistics(msgspec.Struct, frozen=True):
    """The memory of one physical address space."""

    granules: int  # of 4 KiB, assigned to it by the granule protection table
    resident: int  # bytes of host memory that it uses


class Statistics(msgspec.Struct, frozen=True):
    """An instance's counters since its start, and its resource usage."""

    time: float  # of the reading, seconds, monotonic
    vcpus: list[VcpuStatistics]
    memory: dict[str, MemoryStatistics]  # by physical address space
    devices: dict[str, dict[str, int]]  # the counters of each device
    rmi: str | None = None  # the revision of RMI by which a realm was made


class Balloon(msgspec.Struct, frozen=True):
    """The memory that a guest lends to its host, and its memory statistics."""

    target: int  # bytes requested from the guest
    actual: int  # bytes lent, as the guest reports
    statistics: dict[str, int]  # by the names in the virtio specification; bytes or counts


class NetworkCard(msgspec.Struct, frozen=True):
    """A network card of a guest."""

    name: str  # as in the statistics
    mac: str
    mtu: int
    queue_pairs: int  # that the guest uses
    is_up: bool  # whether the link is


class CodeLine(msgspec.Struct, frozen=True):
    """One instruction of a guest."""

    address: str  # hexadecimal like all numbers here, which may have 64 bits
    word: str
    text: str


class Vcpu(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one vCPU, while it stands still."""

    is_on: bool
    pstate: str  # as text
    registers: dict[str, str]
    system: dict[str, str]  # registers of EL1
    stack: dict[str, str]  # words by address, from the stack pointer up
    code: list[CodeLine]  # around the program counter


class StampedEvent(msgspec.Struct, frozen=True, array_like=True):
    """An event of the platform, and when and where it happened."""

    time: int  # µs since the instance began to record
    pe: int  # on whose thread; -1 before it called the firmware
    took: int  # µs since this PE's last switch between worlds
    kind: str  # the name of its class in `pyvmm.arch.events`
    event: msgspec.Raw  # the fields of that class


class TracedEvent(msgspec.Struct, frozen=True):
    """A line of `--trace-format json`: an event, and when and where it happened."""

    time: int  # µs since the start of the trace
    pe: int  # on whose thread; -1 before it called the firmware
    depth: int  # how many of the traced events it happened inside of; those follow
    kind: str  # the name of its class in `pyvmm.arch.events`
    event: msgspec.Raw  # the fields of that class
    text: str  # the event in a trace of text


class ConsolePlace(msgspec.Struct, frozen=True):
    """The position in a console's output at which an attached client begins."""

    position: int  # of the first byte that will be sent, counted from the guest's first output
    end: int  # the position after the last byte written so far


class TerminalSize(msgspec.Struct, frozen=True):
    """The size of a terminal."""

    columns: int
    rows: int


class Api(Protocol):
    """The requests to an instance; an impossible one fails with a one-line error."""

    def version(self) -> Version:
        """Return the version of the API; clients call this first."""
        ...

    def status(self) -> Status:
        """Return the status of the instance."""
        ...

    def start(self) -> Status:
        """Start a new guest; a realm is activated."""
        ...

    def pause(self) -> Status:
        """Pause every vCPU; answered when all stand still."""
        ...

    def resume(self) -> Status:
        """Resume the vCPUs."""
        ...

    def snapshot(self, *, stop: bool = False) -> None:
        """Write the guest's state to the open file that comes with the request; not a realm's."""
        ...

    def stop(self) -> Status:
        """Stop the guest at once and flush its disks; answered when it is shut off."""
        ...

    def press_power_button(self) -> bool:
        """Ask the guest to power off; false if it does not run or has no driver for the button."""
        ...

    def destroy(self) -> None:
        """Stop the guest and remove all files of the instance."""
        ...

    def statistics(self) -> Statistics:
        """Return the instance's counters and its resource usage."""
        ...

    def balloon(self, change: int = 0) -> Balloon:
        """Ask the guest to lend some bytes more (or less); return the balloon's state."""
        ...

    def network(self, card: str = "", *, is_plugged: bool = True) -> list[NetworkCard]:
        """Plug in or unplug a network card, if one is named; return the state of all."""
        ...

    def debug(self) -> list[Vcpu]:
        """Return the state of each vCPU; refused for a realm without --realm-debug."""
        ...

    def debug_step(self, cpu: int = 0) -> bool:
        """Execute one instruction of a vCPU while the guest is paused.

        Returns false if it was not completed: the vCPU waits for an interrupt.
        """
        ...

    def observe_gpt(self) -> pictures.GptPicture:
        """Return the granule protection table and the RMM's use of the granules."""
        ...

    def observe_granule(self, pa: int) -> pictures.GranulePicture:
        """Return who may access a granule, who owns it, and what maps it."""
        ...

    def observe_walk(
        self, address: int, *, pe: int = 0, el: int | None = None, is_ipa: bool = False
    ) -> pictures.WalkPicture:
        """Walk an address with the tables of a PE, and tell what accesses would do."""
        ...

    def observe_stage1(
        self, va: int = 0, *, pe: int = 0, level: int | None = None
    ) -> pictures.Stage1Picture:
        """Return the table of stage 1 for an address at a level, by default the first one."""
        ...

    def observe_rtt(self) -> list[pictures.RttPicture]:
        """Return the realm translation tables."""
        ...

    def observe_realms(self) -> list[pictures.RecordPicture]:
        """Return the attributes of each realm (RD)."""
        ...

    def observe_recs(self) -> list[pictures.RecordPicture]:
        """Return the attributes of each REC."""
        ...

    def observe_pes(self) -> list[pictures.PePicture]:
        """Return the registers of each PE, those of EL2 included."""
        ...

    def observe_gic(self) -> list[pictures.GicPicture]:
        """Return the list registers and the virtual CPU interface of each PE."""
        ...

    def observe_timers(self) -> list[pictures.TimerPicture]:
        """Return the timers of each PE."""
        ...

    def observe_tlbs(self) -> list[pictures.TlbPicture]:
        """Return the translations that each PE has cached."""
        ...

    def observe_code(self, address: int | None = None, *, pe: int = 0) -> pictures.CodePicture:
        """Return the code that a PE has executed: at a virtual address, by default at its PC."""
        ...

    def observe_queues(self) -> list[pictures.QueuePicture]:
        """Return the virtqueues of each device."""
        ...

    def observe_events(self) -> None:
        """Send `events_recorded` from now on, beginning with the first event that is kept."""
        ...

    def sysrq(self, key: str) -> None:
        """Press Alt-SysRq and a key on the guest's console."""
        ...

    def nmi(self, cpu: int) -> None:
        """Send an SError to a vCPU, which makes an Arm kernel panic; not to a realm."""
        ...

    def watch(self) -> Status:
        """Send `state_changed` from now on, up to the end of the instance."""
        ...

    def console_attach(self, *, scrollback: bool = True) -> ConsolePlace:
        """Send `console_output` from now on; with scrollback, include earlier output."""
        ...

    def console_write(self, data: bytes) -> None:
        """Type bytes on the console; answered when the guest has read enough to accept more."""
        ...

    def console_resize(self, columns: int, rows: int) -> None:
        """Report the size of the terminal, for a virtio console."""
        ...

    def exec_start(
        self,
        argv: list[str],
        *,
        env: dict[str, str] | None = None,
        directory: str = "",
        patience: float = 10.0,
        encoding: Encoding = "utf-8",
        terminal: TerminalSize | None = None,
    ) -> int:
        """Wait for the guest's agent like `wait_agent`, start a command and return its number."""
        ...

    def exec_write(self, number: int, data: bytes) -> None:
        """Send input to a command; at most 256 KiB may wait, see `exec_taken`."""
        ...

    def exec_end_input(self, number: int) -> None:
        """Close a command's standard input after the input sent so far."""
        ...

    def exec_signal(self, number: int, signal: int) -> None:
        """Send a signal to a command and its children."""
        ...

    def exec_resize(self, number: int, columns: int, rows: int) -> None:
        """Report the size of the terminal of a command that has one."""
        ...

    def wait_agent(self, *, patience: float = 60.0) -> None:
        """Wait for the agent; give up after some seconds without console output."""
        ...

    def attest(self, challenge: bytes, *, patience: float = 60.0) -> bytes:
        """Return an attestation token for a challenge of 64 bytes, through the guest's agent."""
        ...


class Notifications(Protocol):
    """Notifications about the instance, which a client has to request."""

    def state_changed(self, status: Status) -> None:
        """Report a new state of the instance."""
        ...

    def console_output(self, position: int, data: bytes) -> None:
        """Report console output; a gap between positions is output that was lost."""
        ...

    def console_closed(self) -> None:
        """Report that no more console output will come."""
        ...


class CommandNotifications(Protocol):
    """Notifications about commands, on the connection that has started them."""

    def exec_output(self, number: int, stream: str, data: bytes) -> None:
        """Report output of a command on stdout or stderr."""
        ...

    def exec_taken(self, number: int, size: int) -> None:
        """Report how many bytes of a command's input have been sent to the guest."""
        ...

    def exec_ended(self, number: int, exit_status: int, signal: int, error: str) -> None:
        """Report how a command ended: a status, a signal, or an error if that is unknown."""
        ...


class EventNotifications(Protocol):
    """Notifications about events, on a connection that has called `observe_events`."""

    def events_recorded(self, first: int, inside: list[int], events: list[StampedEvent]) -> None:
        """Report events, numbered from ``first`` on; a gap between numbers is events lost.

        ``inside`` lists the PEs that are in the realm world afterwards.
        """
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the protocol."""

    name: str
    doc: str
    params: type[msgspec.Struct]
    result: type
    signature: inspect.Signature

    def pack(self, *args: object, **kwargs: object) -> dict[str, object]:
        """Return the arguments of a call by name, without defaults."""
        return dict(self.signature.bind(*args, **kwargs).arguments)


def declared(protocol: type) -> dict[str, Method]:
    """Return the methods that a Protocol declares, by name."""
    functions = {
        name: each
        for name, each in vars(protocol).items()
        if inspect.isfunction(each) and not name.startswith("_")
    }
    return {name: _method(name, function) for name, function in functions.items()}


def _method(name: str, function: FunctionType) -> Method:
    signature, hints = inspect.signature(function), get_type_hints(function)
    fields: list[tuple[str, type] | tuple[str, type, object]] = []
    parameters = list(signature.parameters.values())[1:]  # without self
    for parameter in parameters:
        kind = hints[parameter.name]
        if parameter.default is parameter.empty:
            fields.append((parameter.name, kind))
        else:
            fields.append((parameter.name, kind, parameter.default))
    params = msgspec.defstruct(f"{name}_params", fields, forbid_unknown_fields=True)
    signature = signature.replace(parameters=parameters)
    return Method(name, inspect.getdoc(function) or "", params, hints["return"], signature)


class _Call(Protocol):
    """A method of a proxy; the Protocol declares its arguments."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Make the call."""


class Proxy:
    """Has the methods of a Protocol, and forwards each call."""

    def __init__(
        self, methods: dict[str, Method], call: Callable[[Method, dict[str, object]], object]
    ) -> None:
        self._methods = methods
        self._call = call

    def __getattr__(self, name: str) -> _Call:
        method = self._methods.get(name)
        if method is None:
            raise AttributeError(name)

        def call(*args: object, **kwargs: object) -> object:
            return self._call(method, method.pack(*args, **kwargs))

        return call


METHODS: Final = declared(Api)
NOTIFICATIONS: Final = (
    declared(Notifications) | declared(CommandNotifications) | declared(EventNotifications)
)
