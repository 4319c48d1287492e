"""The API of an instance, declared once: client, server and schema derive from this file.

Each method of `Api` is a JSON-RPC method of that name, its parameters, result and first line of
documentation included; each method of `Notifications` is what the server may tell unasked.  To add
one, declare it here and implement it in `pyvmm.vm.control.server.Session`; `make gen` renews the
schema.

Compatible changes (new methods, new optional parameters, new fields of results) keep `API_VERSION`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import FunctionType
from typing import Final, Literal, Protocol, get_type_hints

import msgspec

API_VERSION: Final = 1
#: Bytes of input that the guest has not taken: who types more has to wait.
MUCH_TYPED: Final = 4096
#: Bytes of input that may wait for a command; `exec_taken` tells what it has taken.
MUCH_FED: Final = 256 << 10


#: What a command's texts are in; in latin-1 each character is a byte, of whatever is not UTF-8.
Encoding = Literal["utf-8", "latin-1"]


class State(StrEnum):
    """Where an instance is in its life."""

    BUILDING = "building"  # its files are read, its memory is filled and measured
    NEW = "new"  # complete; a realm is measured and not yet active
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "shut off"  # its process is about to end, or has
    DEAD = "dead"  # its process ended without a word; only seen from outside


class Version(msgspec.Struct, frozen=True):
    """Who answers."""

    api: int
    pyvmm: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance is, and how it does; what another version adds is passed over."""

    name: str
    state: State
    pid: int
    kind: str  # "realm" or "vm"
    num_cpus: int
    ram_size: int  # bytes
    kernel: str | None = None  # None: the built-in guest
    rim: str | None = None  # initial measurement of a realm, hexadecimal, once it is new
    created: float  # seconds since 1970
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None  # once it is shut off
    program_status: int | None = None  # of a root file system of one program, as in a shell's $?
    reason: str = ""  # why it ended, in one line, where the code does not say it all

    @property
    def result(self) -> int:
        """What a command that waits for its end ends with: the program's status, if all is well."""
        return self.exit_code or self.program_status or 0


class VcpuStatistics(msgspec.Struct, frozen=True):
    """What one vCPU has done."""

    instructions: int  # executed
    exits: dict[str, int]  # by what it wanted


class MemoryStatistics(msgspec.Struct, frozen=True):
    """One physical address space."""

    granules: int  # of 4 KiB, that the granule protection table gives to it
    resident: int  # bytes that it takes from the host


class Statistics(msgspec.Struct, frozen=True):
    """What an instance has done since its start, and what it takes."""

    time: float  # of the reading, seconds, monotonic
    vcpus: list[VcpuStatistics]
    memory: dict[str, MemoryStatistics]  # by physical address space
    devices: dict[str, dict[str, int]]  # what each device counts


class Balloon(msgspec.Struct, frozen=True):
    """The memory that a guest lends to its host, and how the rest does."""

    target: int  # bytes that it is asked to lend
    actual: int  # bytes that it says it has lent
    statistics: dict[str, int]  # in the words of the virtio specification; bytes, or how often


class CodeLine(msgspec.Struct, frozen=True):
    """One instruction of a guest."""

    address: str  # hexadecimal, as all numbers here: they may have 64 bits
    word: str
    text: str


class Vcpu(msgspec.Struct, frozen=True, kw_only=True):
    """One vCPU, while it stands still."""

    is_on: bool
    pstate: str  # in words
    registers: dict[str, str]
    system: dict[str, str]  # registers of EL1
    stack: dict[str, str]  # words by their addresses, from the stack pointer up
    code: list[CodeLine]  # around the program counter


class ConsolePlace(msgspec.Struct, frozen=True):
    """Where a console's output begins for who attached."""

    position: int  # of the first byte that will come, in all that the guest has said
    end: int  # the position after the last byte said so far


class Api(Protocol):
    """What an instance can be asked; all of it is refused with one line where it makes no sense."""

    def version(self) -> Version:
        """Say which API this is; clients ask it first."""
        ...

    def status(self) -> Status:
        """Say what the instance is and how it does."""
        ...

    def start(self) -> Status:
        """Start the guest, which is new; a realm is activated."""
        ...

    def pause(self) -> Status:
        """Hold every vCPU; answered when all stand still."""
        ...

    def resume(self) -> Status:
        """Let the vCPUs go on."""
        ...

    def stop(self) -> Status:
        """Stop the guest at once and flush its disks; answered when it is shut off."""
        ...

    def destroy(self) -> None:
        """Stop the guest and leave nothing of the instance behind."""
        ...

    def statistics(self) -> Statistics:
        """Say what the instance has done and what it takes."""
        ...

    def balloon(self, change: int = 0) -> Balloon:
        """Ask the guest to lend so many bytes more (or less), and say how its memory does."""
        ...

    def debug(self) -> list[Vcpu]:
        """Say what each vCPU is at; a realm without --realm-debug shows none of it."""
        ...

    def sysrq(self, key: str) -> None:
        """Press Alt-SysRq and a key on the guest's console."""
        ...

    def nmi(self, cpu: int) -> None:
        """Send a vCPU an SError, which an Arm kernel panics on; not to a realm."""
        ...

    def watch(self) -> Status:
        """Send `state_changed` from now on, also when the instance ends."""
        ...

    def console_attach(self, *, scrollback: bool = True) -> ConsolePlace:
        """Send `console_output` from now on, what was said before included if so asked."""
        ...

    def console_write(self, data: bytes) -> None:
        """Type bytes on the console; answered when the guest has taken enough to type more."""
        ...

    def console_resize(self, columns: int, rows: int) -> None:
        """Say how large the terminal is; for a virtio console."""
        ...

    def exec_start(
        self,
        argv: list[str],
        *,
        env: dict[str, str] | None = None,
        directory: str = "",
        patience: float = 10.0,
        encoding: Encoding = "utf-8",
    ) -> int:
        """Start a command by the guest's agent, awaited as by `wait_agent`; return its number."""
        ...

    def exec_write(self, number: int, data: bytes) -> None:
        """Give a command input, of which at most 256 KiB may wait; see `exec_taken`."""
        ...

    def exec_end_input(self, number: int) -> None:
        """Close a command's standard input behind what was given."""
        ...

    def exec_signal(self, number: int, signal: int) -> None:
        """Send a signal to a command and what it has started."""
        ...

    def wait_agent(self, *, patience: float = 60.0) -> None:
        """Wait for the agent; at most some seconds without a new word while the guest boots."""
        ...

    def attest(self, challenge: bytes, *, patience: float = 60.0) -> bytes:
        """Return a token on a challenge of 64 bytes, which the guest's agent asked for."""
        ...


class Notifications(Protocol):
    """What the server tells without being asked, once it was asked to."""

    def state_changed(self, status: Status) -> None:
        """Tell that the instance is in a new state."""
        ...

    def console_output(self, position: int, data: bytes) -> None:
        """Tell what the guest said; a gap between positions is what came too fast."""
        ...

    def console_closed(self) -> None:
        """Tell that the console will say nothing more."""
        ...


class CommandNotifications(Protocol):
    """What the server tells of commands to the connection that has started them."""

    def exec_output(self, number: int, stream: str, data: bytes) -> None:
        """Tell what a command wrote to stdout or stderr."""
        ...

    def exec_taken(self, number: int, size: int) -> None:
        """Tell how many bytes of its input have gone to the guest."""
        ...

    def exec_ended(self, number: int, exit_status: int, signal: int, error: str) -> None:
        """Tell how a command ended: a status, a signal, or an error if nobody knows."""
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """One method as the wire knows it."""

    name: str
    doc: str
    params: type[msgspec.Struct]
    result: type
    signature: inspect.Signature

    def pack(self, *args: object, **kwargs: object) -> dict[str, object]:
        """Return the arguments of a call by name, defaults left out."""
        return dict(self.signature.bind(*args, **kwargs).arguments)


def declared(protocol: type) -> dict[str, Method]:
    """Return what a Protocol declares, by name."""
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
    """A method of a proxy; who has it knows its arguments from the Protocol."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Make the call."""


class Proxy:
    """Has the methods of a Protocol, and hands on each call of one."""

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
NOTIFICATIONS: Final = declared(Notifications) | declared(CommandNotifications)
