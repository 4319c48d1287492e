"""Typed events for everything that an observer of the system may want to see.

One ``EventStream`` serves the whole platform (ADR 11).  An emitter writes::

    if events.listener is not None:
        events.listener(GranuleTransition(pa, "UNDELEGATED", "DELEGATED"))

so that an event costs one branch without a listener.  ``str(event)`` is one line of a trace.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from pyvmm.arch import rmi, rsi
from pyvmm.arch.bits import MASK64
from pyvmm.arch.esr import name_syndrome
from pyvmm.arch.pas import Pas

#: Parameters that are small numbers, not addresses or register values.
_DECIMAL = frozenset({"level", "index", "size", "offset", "imm", "ripas"})


def _call(name: str, parameters: Sequence[str], arguments: Sequence[int]) -> str:
    shown = [
        f"{parameter}={_signed(value) if parameter in _DECIMAL else hex(value)}"
        for parameter, value in zip(parameters, arguments, strict=False)
    ]
    return " ".join([name, *shown])


def _signed(value: int) -> int:
    return value - (MASK64 + 1) if value >> 63 else value


def _outputs(results: Sequence[int]) -> str:
    return "".join(f" {value:#x}" for value in results[1:])


class _Event(msgspec.Struct, frozen=True, gc=False):
    """What all events are: cheap to make and to keep by the thousand, and in no reference cycle."""


class Smc(_Event, frozen=True):
    """An SMC as the Monitor sees it: x0.. of the caller and of the result."""

    pe: int
    security: Pas  # the caller's security state
    args: tuple[int, ...]
    results: tuple[int, ...]

    def __str__(self) -> str:
        from pyvmm.arch.smc_names import function_name  # noqa: PLC0415  few traces have SMCs

        name = function_name(self.args[0], self.security)
        args, results = (" ".join(map(hex, side)) for side in (self.args, self.results))
        return f"SMC pe={self.pe} from={self.security.name} {name} {args} -> {results}"


class HesCall(_Event, frozen=True):
    """A call of EL3 to the HES and its status; empty if there was no reply."""

    service: str
    status: str

    def __str__(self) -> str:
        return f"HES {self.service} -> {self.status or 'gone'}"


class WorldSwitch(_Event, frozen=True):
    """A PE switched from one security state to another."""

    pe: int
    old: Pas
    new: Pas

    def __str__(self) -> str:
        return f"WORLD pe={self.pe} {self.old.name} -> {self.new.name}"


class RmiCall(_Event, frozen=True):
    """An RMI command and its result."""

    command: str
    parameters: tuple[str, ...]
    arguments: tuple[int, ...]
    results: tuple[int, ...]

    def __str__(self) -> str:
        call = _call(self.command, self.parameters, self.arguments)
        return f"{call} -> {rmi.status_name(self.results[0])}{_outputs(self.results)}"


class RsiCall(_Event, frozen=True):
    """An RSI command of a realm and its result; ``results`` is empty if it exits to the host."""

    rec: int
    command: str
    parameters: tuple[str, ...]
    arguments: tuple[int, ...]
    results: tuple[int, ...]

    def __str__(self) -> str:
        call = _call(f"{self.command} rec={self.rec:#x}", self.parameters, self.arguments)
        if not self.results:
            return f"{call} -> exit"
        return f"{call} -> {rsi.status_name(self.results[0])}{_outputs(self.results)}"


class PsciCall(_Event, frozen=True):
    """A PSCI call of a realm and its result; None if it exits to the host first."""

    rec: int
    command: str
    arguments: tuple[int, ...]
    result: int | None

    def __str__(self) -> str:
        args = "".join(f" {value:#x}" for value in self.arguments)
        result = "exit" if self.result is None else f"{_signed(self.result):#x}"
        name = (
            self.command if self.command.startswith(("PSCI_", "SMCCC_")) else f"PSCI_{self.command}"
        )
        return f"{name} rec={self.rec:#x}{args} -> {result}"


class GranuleTransition(_Event, frozen=True):
    """A granule changed its state."""

    pa: int
    old: str
    new: str

    def __str__(self) -> str:
        return f"GRANULE pa={self.pa:#x} {self.old} -> {self.new}"


class GptChange(_Event, frozen=True):
    """The Monitor moved memory from one physical address space to another."""

    pa: int
    size: int
    old: Pas
    new: Pas

    def __str__(self) -> str:
        return f"GPT pa={self.pa:#x} size={self.size:#x} {self.old.name} -> {self.new.name}"


class RttChange(_Event, frozen=True):
    """An RTT entry changed: the raw descriptors before and after."""

    rd: int
    ipa: int
    level: int
    old: int
    new: int

    def __str__(self) -> str:
        change = f"{self.old:#x} -> {self.new:#x}"
        return f"RTT rd={self.rd:#x} ipa={self.ipa:#x} level={self.level} {change}"


class RimExtension(_Event, frozen=True):
    """A realm's initial measurement was started, or extended with a step of its construction.

    ``fields`` are the measured values, by their names in the specification, with hashes for
    contents.
    """

    rd: int
    step: str
    fields: tuple[tuple[str, int | bytes | tuple[int, ...]], ...]
    rim: bytes  # after the step

    @property
    def texts(self) -> dict[str, str]:
        """The fields as readable text."""
        return {name: _measured(value) for name, value in self.fields}

    def __str__(self) -> str:
        shown = "".join(f" {name}={text}" for name, text in self.texts.items())
        return f"RIM rd={self.rd:#x} {self.step}{shown} -> {self.rim.hex()}"


def _measured(value: int | bytes | tuple[int, ...]) -> str:
    if isinstance(value, bytes):
        return value.hex() or "-"
    return hex(value) if isinstance(value, int) else ",".join(map(hex, value))


class RecExit(_Event, frozen=True):
    """A REC left the realm for the host."""

    rec: int
    reason: rmi.RecExitReason
    esr: int
    far: int
    hpfar: int

    def __str__(self) -> str:
        name = f" ({name_syndrome(self.esr)})" if self.esr else ""
        syndrome = f"esr={self.esr:#x}{name} far={self.far:#x} hpfar={self.hpfar:#x}"
        return f"REC_EXIT rec={self.rec:#x} {self.reason.name} {syndrome}"


class MmioAccess(_Event, frozen=True):
    """A guest's access to the bus; ``device`` is empty if nothing answered."""

    device: str
    address: int
    size: int
    is_write: bool
    value: int

    def __str__(self) -> str:
        verb = "write" if self.is_write else "read"
        who = self.device or "(nothing)"
        return f"MMIO {verb} {self.address:#x} size={self.size} value={self.value:#x} {who}"


Event = (
    Smc
    | HesCall
    | WorldSwitch
    | RmiCall
    | RsiCall
    | PsciCall
    | GranuleTransition
    | GptChange
    | RttChange
    | RimExtension
    | RecExit
    | MmioAccess
)


class Kind(NamedTuple):
    """A kind of events that a user may choose."""

    events: tuple[type[Event], ...]
    meaning: str


KINDS: Final[dict[str, Kind]] = {
    "rmi": Kind((RmiCall,), "commands from the host to the RMM"),
    "rsi": Kind((RsiCall,), "commands from a realm to the RMM"),
    "psci": Kind((PsciCall,), "a realm's requests to change the power state of its CPUs"),
    "smc": Kind((Smc, WorldSwitch), "each call of the Monitor, and each change of world"),
    "hes": Kind((HesCall,), "requests of the Monitor to the root of trust"),
    "gpt": Kind(
        (GptChange, GranuleTransition),
        "granules that move to another world, and their states in the RMM",
    ),
    "rtt": Kind((RttChange,), "changed entries of realms' translation tables"),
    "rim": Kind((RimExtension,), "steps of the initial measurement"),
    "exit": Kind((RecExit,), "why a REC returned to the host"),
    "mmio": Kind((MmioAccess,), "accesses to devices"),
}


#: Called with each event, on the thread of its emitter, which may hold a lock: it returns at once.
Listener = Callable[[Event], None]


class EventStream:
    """The destination of events: any number of listeners.

    ``listener`` is what an emitter calls: None without listeners.
    """

    __slots__ = ("_listeners", "listener")

    def __init__(self, listener: Listener | None = None) -> None:
        self.listener = listener
        self._listeners: tuple[Listener, ...] = () if listener is None else (listener,)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener; return the function that removes it."""
        self._set((*self._listeners, listener))
        return lambda: self._set(tuple(each for each in self._listeners if each is not listener))

    def _set(self, listeners: tuple[Listener, ...]) -> None:
        self._listeners = listeners
        if len(listeners) <= 1:
            self.listener = listeners[0] if listeners else None
            return

        def tell_all(event: Event) -> None:
            for each in listeners:
                each(event)

        self.listener = tell_all
