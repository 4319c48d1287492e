"""The commands of the protocol, on a guest's debug port: a payload in, a payload out.

All-stop: while the guest runs, only a break is accepted; one stop, of one vCPU, is reported.
Threads are vCPUs, numbered from 1.  Every command gets a reply of the protocol: empty for an
unknown command, ``E16`` for invalid arguments.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, runtime_checkable

from pyvmm.arch.machine import GuestRegisters
from pyvmm.host.debug import DebugFault, Resume, Stop, StopKind, TooManyError, Watch
from pyvmm.host.registers import PC, PSTATE, BadValueError, Register
from pyvmm.vm.gdb.arguments import (
    BadCommandError,
    from_hex,
    number,
    numbers,
    register_hex,
    register_of,
    to_hex,
)
from pyvmm.vm.gdb.packets import MAX_PACKET
from pyvmm.vm.gdb.points import Point, breakpoint_name, breakpoints_of, watch_name, watches_of
from pyvmm.vm.gdb.target import NUM_TOGETHER, REGISTERS, register_size, target_xml

OK: Final = b"OK"
EFAULT, EINVAL, ENOSPC = b"E0e", b"E16", b"E1c"
SIGINT, SIGTRAP = 2, 5
MAX_DATA: Final = MAX_PACKET // 2 - 1  # bytes in an answer, two digits each

_FEATURES: Final = (
    b"PacketSize=%x;qXfer:features:read+;vContSupported+;QStartNoAckMode+;swbreak+;hwbreak+"
    % MAX_PACKET
)


Command = Callable[["Stub", bytes], bytes | None]
_COMMANDS: Final[dict[bytes, Command]] = {}


def command(*prefixes: bytes) -> Callable[[Command], Command]:
    """Register a method for the commands with these prefixes; its argument is the rest."""

    def register(method: Command) -> Command:
        _COMMANDS.update(dict.fromkeys(prefixes, method))
        return method

    return register


class Guest(Protocol):
    """The guest's operations for a debugger besides the debug port."""

    def monitor(self, command: str, /) -> str:
        """Execute a ``monitor`` command; return lines of text."""

    def kill(self) -> None:
        """End the guest."""


class Port(Protocol):
    """The guest that is debugged: a `DebugPort`, or a replay."""

    @property
    def num_cpus(self) -> int:
        """The number of vCPUs."""

    def attach(self, notify: Callable[[], None]) -> None:
        """Stop the guest for a debugger; call ``notify`` when a vCPU has stopped."""

    def detach(self) -> None:
        """Remove what the debugger set, and resume the guest."""

    def hold(self) -> None:
        """Stop every vCPU."""

    def resume(self, actions: Sequence[Resume]) -> None:
        """Resume the vCPUs."""

    def take_stop(self) -> Stop | None:
        """Return the first stop, and clear it."""

    def is_on(self, cpu: int) -> bool:
        """Check whether a vCPU is powered on."""

    def registers(self, cpu: int) -> GuestRegisters:
        """Return the registers of a vCPU; DebugFault."""

    def set_registers(self, cpu: int, registers: GuestRegisters) -> None:
        """Set them; DebugFault."""

    def read(self, cpu: int, va: int, size: int) -> bytes:
        """Read memory; DebugFault."""

    def write(self, cpu: int, va: int, data: bytes) -> None:
        """Write memory; DebugFault."""

    def set_points(self, breakpoints: Sequence[int], watchpoints: Sequence[Watch]) -> None:
        """Replace all breakpoints and watchpoints; TooManyError."""


@runtime_checkable
class ReversiblePort(Port, Protocol):
    """A guest that also runs backwards."""

    def reverse(self, *, is_step: bool) -> None:
        """Run backwards: to the previous instruction, or to a breakpoint or watchpoint."""


class Stub:
    """One debugger's session.

    ``handle`` answers a payload; None means no answer yet: the guest runs, and ``stopped`` later
    returns why it stopped.
    """

    def __init__(self, port: Port, guest: Guest) -> None:
        self._port = port
        self._guest = guest
        self._cpu = 0  # for registers and memory
        self._resume_cpu: int | None = None  # for c and s; None: all
        self._points: set[Point] = set()
        self._names_breakpoints: set[bytes] = set()
        self._last_stop = self._stop_reply(None)
        self.is_running = False
        self.is_over = False  # the debugger has left
        self.wants_no_acks = False

    # --- events ---------------------------------------------------------------------------

    def interrupt(self) -> bytes | None:
        """Stop the guest at the debugger's request; return the reply."""
        if not self.is_running:
            return None
        self._port.hold()
        return self.stopped() or self._record_stop(None, SIGINT)

    def stopped(self) -> bytes | None:
        """Return the reply for a vCPU that stopped; None if none did."""
        stop = self._port.take_stop() if self.is_running else None
        if stop is None:
            return None
        self._port.hold()
        return self._record_stop(stop, SIGTRAP)

    def _record_stop(self, stop: Stop | None, signal: int) -> bytes:
        self.is_running = False
        self._cpu = stop.cpu if stop else self._cpu
        self._last_stop = self._stop_reply(stop, signal)
        return self._last_stop

    def _stop_reply(self, stop: Stop | None, signal: int = SIGTRAP) -> bytes:
        """Return the stop reply."""
        reason = self._reason(stop) if stop else b""
        return b"T%02x%sthread:%x;" % (signal, reason, self._cpu + 1)

    def _reason(self, stop: Stop) -> bytes:
        if stop.kind is StopKind.WATCHPOINT:
            return b"%s:%x;" % (watch_name(self._points, stop), stop.address)
        if stop.kind is StopKind.BREAKPOINT:
            name = breakpoint_name(self._points, PC.get(self._port.registers(stop.cpu)))
            return name + b":;" if name in self._names_breakpoints else b""
        if stop.kind in {StopKind.BEGIN, StopKind.END}:
            return b"replaylog:%s;" % stop.kind.value.encode()
        return b""

    # --- commands -------------------------------------------------------------------------

    def handle(self, payload: bytes) -> bytes | None:
        """Execute a command and return its answer."""
        if self.is_running:
            return None  # only a break is accepted
        try:
            return self._dispatch(payload)
        except (BadCommandError, BadValueError):
            return EINVAL
        except DebugFault:
            return EFAULT
        except TooManyError:
            return ENOSPC

    def _dispatch(self, payload: bytes) -> bytes | None:
        for length in _LENGTHS:
            method = _COMMANDS.get(payload[:length])
            if method is not None:
                return method(self, payload[length:])
        return b""

    @command(b"qSupported")
    def _query_supported(self, arguments: bytes) -> bytes:
        offered = arguments.removeprefix(b":").split(b";")
        self._names_breakpoints = {
            name for name in (b"swbreak", b"hwbreak") if name + b"+" in offered
        }
        is_reversible = isinstance(self._port, ReversiblePort)
        return _FEATURES + (b";ReverseStep+;ReverseContinue+" if is_reversible else b"")

    @command(b"QStartNoAckMode")
    def _start_no_acks(self, _arguments: bytes) -> bytes:
        self.wants_no_acks = True
        return OK

    @command(b"qXfer:features:read:")
    def _read_features(self, arguments: bytes) -> bytes:
        annex, _, window = arguments.partition(b":")
        if annex != b"target.xml":
            return b"E00"
        offset, length = numbers(window, 2)
        text = target_xml()
        part = text[offset : offset + min(length, MAX_DATA)]
        return (b"m" if offset + len(part) < len(text) else b"l") + part

    @command(b"?")
    def _why_stopped(self, _arguments: bytes) -> bytes:
        return self._last_stop

    # threads

    @command(b"qfThreadInfo")
    def _thread_list(self, _arguments: bytes) -> bytes:
        return b"m" + b",".join(b"%x" % (cpu + 1) for cpu in range(self._port.num_cpus))

    @command(b"qsThreadInfo")
    def _thread_list_end(self, _arguments: bytes) -> bytes:
        return b"l"

    @command(b"qThreadExtraInfo,")
    def _thread_extra(self, arguments: bytes) -> bytes:
        cpu = self._cpu_of(arguments)
        return to_hex(f"CPU {cpu}, {'on' if self._port.is_on(cpu) else 'off'}".encode())

    @command(b"qC")
    def _current_thread(self, arguments: bytes) -> bytes:
        return b"" if arguments else b"QC%x" % (self._cpu + 1)  # qCRC is another command

    @command(b"T")
    def _is_alive(self, arguments: bytes) -> bytes:
        self._cpu_of(arguments)
        return OK

    @command(b"H")
    def _set_thread(self, arguments: bytes) -> bytes:
        if arguments[:1] == b"c":
            means_all = arguments in {b"c-1", b"c0"}
            self._resume_cpu = None if means_all else self._cpu_of(arguments[1:])
        elif arguments[:1] == b"g":
            self._cpu = self._cpu_of(arguments[1:])
        else:
            raise BadCommandError
        return OK

    def _cpu_of(self, thread: bytes) -> int:
        """Return the vCPU of a thread; 0 and -1 mean any."""
        if thread in {b"-1", b"0"}:
            return self._cpu
        cpu = number(thread) - 1
        if not 0 <= cpu < self._port.num_cpus:
            raise BadCommandError
        return cpu

    # registers

    @command(b"g")
    def _read_all(self, _arguments: bytes) -> bytes:
        registers = self._port.registers(self._cpu)
        return b"".join(
            register_hex(register, register.get(registers)) for register in REGISTERS[:NUM_TOGETHER]
        )

    @command(b"G")
    def _write_all(self, arguments: bytes) -> bytes:
        data, at = from_hex(arguments), 0
        values: list[tuple[Register, int]] = []
        for register in REGISTERS[:NUM_TOGETHER]:
            size = register_size(register)
            if at + size > len(data):
                break  # GDB may omit the last ones
            values.append((register, int.from_bytes(data[at : at + size], "little")))
            at += size
        # PSTATE first: it may be rejected, and it selects the stack pointer that sp means
        values.sort(key=lambda pair: pair[0] is not PSTATE)
        registers = self._port.registers(self._cpu)
        for register, value in values:
            register.set(registers, value)
        self._port.set_registers(self._cpu, registers)
        return OK

    @command(b"p")
    def _read_one(self, arguments: bytes) -> bytes:
        register = register_of(arguments)
        return register_hex(register, register.get(self._port.registers(self._cpu)))

    @command(b"P")
    def _write_one(self, arguments: bytes) -> bytes:
        index, _, text = arguments.partition(b"=")
        register, value = register_of(index), from_hex(text)
        if len(value) != register_size(register):
            raise BadCommandError
        registers = self._port.registers(self._cpu)
        register.set(registers, int.from_bytes(value, "little"))
        self._port.set_registers(self._cpu, registers)
        return OK

    # memory

    @command(b"m")
    def _read_memory(self, arguments: bytes) -> bytes:
        address, size = numbers(arguments, 2)
        return to_hex(self._port.read(self._cpu, address, min(size, MAX_DATA)))

    @command(b"M")
    def _write_memory(self, arguments: bytes) -> bytes:
        return self._store(arguments, from_hex)

    @command(b"X")
    def _write_binary(self, arguments: bytes) -> bytes:
        return self._store(arguments, bytes)

    def _store(self, arguments: bytes, decode: Callable[[bytes], bytes]) -> bytes:
        window, _, encoded = arguments.partition(b":")
        address, size = numbers(window, 2)
        data = decode(encoded)
        if len(data) != size:
            raise BadCommandError
        self._port.write(self._cpu, address, data)
        return OK

    # breakpoints and watchpoints

    @command(b"Z")
    def _insert_point(self, arguments: bytes) -> bytes:
        return self._set_points(self._points | {Point.parse(arguments)})

    @command(b"z")
    def _remove_point(self, arguments: bytes) -> bytes:
        return self._set_points(self._points - {Point.parse(arguments)})

    def _set_points(self, points: set[Point]) -> bytes:
        self._port.set_points(breakpoints_of(points), watches_of(points))
        self._points = points
        return OK

    # going on

    @command(b"c")
    def _continue(self, arguments: bytes) -> bytes | None:
        return self._go_on(Resume.RUN, arguments)

    @command(b"s")
    def _step(self, arguments: bytes) -> bytes | None:
        return self._go_on(Resume.STEP, arguments)

    @command(b"C")
    def _continue_with(self, arguments: bytes) -> bytes | None:
        return self._go_on(Resume.RUN, arguments.partition(b";")[2])

    @command(b"S")
    def _step_with(self, arguments: bytes) -> bytes | None:
        return self._go_on(Resume.STEP, arguments.partition(b";")[2])

    def _go_on(self, action: Resume, address: bytes) -> bytes | None:
        """Continue or step, from an address if there is one; guests have no signals."""
        cpu = self._cpu if self._resume_cpu is None else self._resume_cpu
        if address:
            registers = self._port.registers(cpu)
            PC.set(registers, number(address))
            self._port.set_registers(cpu, registers)
        others = Resume.RUN if self._resume_cpu is None else Resume.STAY
        actions = [others] * self._port.num_cpus
        actions[cpu] = action
        return self._resume(actions)

    @command(b"bs")
    def _reverse_step(self, _arguments: bytes) -> bytes | None:
        return self._reverse(is_step=True)

    @command(b"bc")
    def _reverse_continue(self, _arguments: bytes) -> bytes | None:
        return self._reverse(is_step=False)

    def _reverse(self, *, is_step: bool) -> bytes | None:
        if not isinstance(self._port, ReversiblePort):
            return b""
        self.is_running = True
        self._port.reverse(is_step=is_step)
        return None

    @command(b"vCont?")
    def _list_actions(self, _arguments: bytes) -> bytes:
        return b"vCont;c;C;s;S"

    @command(b"vCont;")
    def _continue_each(self, arguments: bytes) -> bytes | None:
        """Resume by ``action[:thread]`` parts; for each vCPU the first match counts."""
        actions = [Resume.STAY] * self._port.num_cpus
        for part in reversed(arguments.split(b";")):
            action, has_thread, thread = part.partition(b":")
            verb = {b"c": Resume.RUN, b"C": Resume.RUN, b"s": Resume.STEP, b"S": Resume.STEP}.get(
                action[:1]
            )
            if verb is None:
                raise BadCommandError
            if has_thread and thread != b"-1":
                actions[self._cpu_of(thread)] = verb
            else:
                actions = [verb] * self._port.num_cpus
        if actions == [Resume.STAY] * self._port.num_cpus:
            raise BadCommandError
        return self._resume(actions)

    def _resume(self, actions: list[Resume]) -> bytes | None:
        self.is_running = True
        self._port.resume(actions)
        return None  # the answer comes when the guest stops

    # the rest

    @command(b"qRcmd,")
    def _monitor(self, arguments: bytes) -> bytes:
        text = from_hex(arguments).decode(errors="replace")
        return to_hex(self._guest.monitor(text).encode()[:MAX_DATA]) or OK

    @command(b"D")
    def _detach(self, _arguments: bytes) -> bytes:
        self.is_over = True
        return OK

    @command(b"vKill", b"k")
    def _kill(self, _arguments: bytes) -> bytes:
        self.is_over = True
        self._guest.kill()
        return OK

    @command(b"qAttached")
    def _is_attached(self, _arguments: bytes) -> bytes:
        return b"1"

    @command(b"qSymbol::")
    def _no_symbols(self, _arguments: bytes) -> bytes:
        return OK


_LENGTHS: Final = sorted(set(map(len, _COMMANDS)), reverse=True)


def commands() -> Iterable[bytes]:
    """Return the prefixes of all commands."""
    return _COMMANDS
