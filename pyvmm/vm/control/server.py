"""The server of an instance's API: one thread per client; it never blocks a vCPU.

It serves only processes of the same user or of root.
"""

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Final, cast

import msgspec
from msgspec.structs import asdict

from pyvmm import __version__
from pyvmm.arch import pictures
from pyvmm.arch.errors import UserError
from pyvmm.arch.system import NoThreadError, shortages, start_thread
from pyvmm.arch.text import defect, printable
from pyvmm.vm.agent.client import AgentClient
from pyvmm.vm.control.api import (
    API_VERSION,
    MAX_TYPED,
    METHODS,
    NOTIFICATIONS,
    Balloon,
    CommandNotifications,
    ConsolePlace,
    Encoding,
    Method,
    NetworkCard,
    Notifications,
    Proxy,
    Statistics,
    Status,
    TerminalSize,
    Vcpu,
    Version,
)
from pyvmm.vm.control.commands import Commands
from pyvmm.vm.control.event_log import EventLog
from pyvmm.vm.control.lifecycle import Lifecycle
from pyvmm.vm.control.patience import settling
from pyvmm.vm.control.process import peer
from pyvmm.vm.control.rpc import ErrorCode, Id, Request, Response, RpcError, Stream, message
from pyvmm.vm.exit_code import ExitCode, Failure
from pyvmm.vm.json_text import decode

_ROOT: Final = 0
_CHUNK: Final = 64 << 10  # maximum bytes of console output in a message
_PACE: Final = 0.005  # seconds between two checks of a condition
_FAREWELL: Final = 2.0  # seconds that a client has to read the last messages


class Server:
    """Serves one instance until it is closed."""

    def __init__(self, listener: socket.socket, lifecycle: Lifecycle) -> None:
        self._listener = listener
        self._lifecycle = lifecycle
        self._sessions: dict[Session, threading.Thread] = {}
        self._lock = threading.Lock()
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._accept, name="api", daemon=True)

    def start(self) -> None:
        """Start accepting clients."""
        self._thread.start()

    def close(self) -> None:
        """Answer pending requests, send pending notifications, and hang up.

        The listener stays open, which shows others that the instance still exists.
        """
        if not self._thread.is_alive():
            return
        os.eventfd_write(self._wakeup, 1)
        self._thread.join()
        os.close(self._wakeup)
        with self._lock:
            sessions = dict(self._sessions)
        deadline = time.monotonic() + _FAREWELL
        for session in sessions:
            session.end()
        for session, thread in sessions.items():
            thread.join(max(deadline - time.monotonic(), 0))
            session.hang_up()
        for thread in sessions.values():
            thread.join()

    def _accept(self) -> None:
        """Start a thread for each client until it is time to close."""
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        poll.register(self._listener, select.POLLIN)
        while all(fd != self._wakeup for fd, _ in poll.poll()):
            try:
                connection, _ = self._listener.accept()
            except (OSError, MemoryError):
                time.sleep(_PACE)  # out of descriptors: wait until a client leaves
                continue
            try:
                if _is_allowed(connection):
                    self._admit(connection)
                    continue
            except (OSError, MemoryError, NoThreadError):
                pass  # out of resources: reject this client
            connection.close()

    def _admit(self, connection: socket.socket) -> None:
        """Start a client's thread."""
        session = Session(connection, self._lifecycle)
        thread = threading.Thread(
            target=self._serve, args=(session,), name="api-session", daemon=True
        )
        with self._lock:
            self._sessions[session] = thread
        try:
            start_thread(thread)
        except BaseException:
            self._forget(session)
            raise

    def _serve(self, session: "Session") -> None:
        try:
            session.serve()
        finally:
            session.hang_up()
            self._forget(session)

    def _forget(self, session: "Session") -> None:
        with self._lock:
            del self._sessions[session]


def _is_allowed(connection: socket.socket) -> bool:
    return peer(connection)[1] in {_ROOT, os.geteuid()}


class Session:
    """One client; an `Api`."""

    def __init__(self, connection: socket.socket, lifecycle: Lifecycle) -> None:
        self._connection = connection
        self._stream = Stream(connection, takes_descriptors=True)
        self._lifecycle = lifecycle
        self._is_leaving = threading.Event()  # the client is gone
        self._is_ending = False  # the instance ends; the last messages are still to be sent
        self._pumps: list[threading.Thread] = []
        self._states: SimpleQueue[Status | None] = SimpleQueue()
        self._is_watching = self._is_attached = self._is_observing = False
        proxy = Proxy(NOTIFICATIONS, self._notify)
        self._tell = cast("Notifications", proxy)
        self._commands = Commands(cast("CommandNotifications", proxy), self._pump)

    # --- the connection ---------------------------------------------------------------------

    def serve(self) -> None:
        """Answer until the client hangs up or the instance ends."""
        try:
            if self._connection.recv(1, socket.MSG_PEEK).isupper():  # the first letter of GET
                from pyvmm.vm.control.http_stream import HttpStream  # noqa: PLC0415  slow, and rare

                self._stream = HttpStream(self._connection)
            while line := self._stream.receive():
                if (response := self._answer(line)) is not None:
                    self._stream.send(response)
        except OSError:
            pass  # the client has gone without waiting for the answer
        if not self._is_ending:
            self._is_leaving.set()
            self._lifecycle.wake()
            self._commands.close()
        if self._is_watching:
            self._lifecycle.unsubscribe(self._states.put)
        self._states.put(None)
        for pump in self._pumps:
            pump.join()
        self._stream.close()

    def end(self) -> None:
        """Make `serve` return after the pending answers and notifications."""
        self._is_ending = True
        self._stream.end_input()

    def hang_up(self) -> None:
        """Make `serve` return now."""
        self._is_leaving.set()
        self._stream.hang_up()

    def _answer(self, line: bytes) -> Response | None:
        try:
            request = decode(line, Request)
        except msgspec.ValidationError as error:
            return _refusal(None, ErrorCode.INVALID_REQUEST, str(error))
        except msgspec.DecodeError as error:
            return _refusal(None, ErrorCode.PARSE_ERROR, str(error))
        id_ = None if request.id is msgspec.UNSET else request.id
        response = self._execute(request, id_)
        return None if request.id is msgspec.UNSET else response

    def _execute(self, request: Request, id_: Id) -> Response:
        method = METHODS.get(request.method)
        if method is None:
            return _refusal(id_, ErrorCode.METHOD_NOT_FOUND, f"no method {request.method}")
        try:
            params = decode(request.params, method.params)
        except msgspec.DecodeError as error:
            return _refusal(id_, ErrorCode.INVALID_PARAMS, str(error))
        try:
            with shortages():
                result = getattr(self, method.name)(**asdict(params))
        except UserError as error:
            return _refusal(id_, ExitCode.BAD_INPUT, str(error))
        except Failure as failure:
            return _refusal(id_, failure.code, str(failure))
        except Exception as error:  # noqa: BLE001  our bug must not end the guest
            sys.stderr.write(f"{defect()}\n")
            return _refusal(id_, ErrorCode.INTERNAL_ERROR, repr(error))
        return Response("2.0", id_, msgspec.Raw(msgspec.json.encode(result)))

    def _notify(self, method: Method, params: dict[str, object]) -> None:
        self._stream.send(message(method.name, params))

    # --- Api --------------------------------------------------------------------------------

    def version(self) -> Version:
        """Return the version of the API."""
        return Version(API_VERSION, __version__)

    def status(self) -> Status:
        """Return the status of the instance."""
        return self._lifecycle.status

    def start(self) -> Status:
        """Start the guest."""
        return self._lifecycle.start()

    def pause(self) -> Status:
        """Pause every vCPU."""
        return self._lifecycle.pause()

    def resume(self) -> Status:
        """Resume the vCPUs."""
        return self._lifecycle.resume()

    def snapshot(self, *, stop: bool = False) -> None:
        """Write the guest's state to the file that the client has opened."""
        fd = self._stream.take_descriptor()
        if fd is None:
            raise UserError("no file came with the request: send its descriptor (SCM_RIGHTS)")
        try:
            file = os.fdopen(fd, "wb")
        except OSError as error:  # a directory
            os.close(fd)
            raise UserError(f"the snapshot: {error.strerror}: choose another file") from None
        try:
            self._lifecycle.snapshot(file, stop=stop)
        finally:
            with suppress(OSError):  # what could not be written has been reported
                file.close()

    def stop(self) -> Status:
        """Stop the guest."""
        return self._lifecycle.stop()

    def press_power_button(self) -> bool:
        """Ask the guest to power off."""
        return self._lifecycle.press_power_button()

    def destroy(self) -> None:
        """Stop the guest and remove all files of the instance."""
        self._lifecycle.destroy()

    def statistics(self) -> Statistics:
        """Return the instance's counters and its resource usage."""
        return self._lifecycle.statistics()

    def balloon(self, change: int = 0) -> Balloon:
        """Resize the balloon; return its state."""
        return self._lifecycle.balloon(change)

    def network(self, card: str = "", *, is_plugged: bool = True) -> list[NetworkCard]:
        """Plug in or unplug a network card; return the state of all."""
        return self._lifecycle.network(card, is_plugged=is_plugged)

    def debug(self) -> list[Vcpu]:
        """Return the state of each vCPU."""
        return self._lifecycle.debug()

    def debug_step(self, cpu: int = 0) -> bool:
        """Execute one instruction of a vCPU."""
        return self._lifecycle.step(cpu)

    def observe_gpt(self) -> pictures.GptPicture:
        """Return the granule protection table."""
        return self._lifecycle.observer.gpt()

    def observe_granule(self, pa: int) -> pictures.GranulePicture:
        """Return one granule."""
        return self._lifecycle.observer.granule(pa)

    def observe_walk(
        self, address: int, *, pe: int = 0, el: int | None = None, is_ipa: bool = False
    ) -> pictures.WalkPicture:
        """Walk an address."""
        observer = self._lifecycle.observer
        if is_ipa:
            return observer.walk_ipa(pe, address)
        return observer.walk(pe, address, el=el)

    def observe_stage1(
        self, va: int = 0, *, pe: int = 0, level: int | None = None
    ) -> pictures.Stage1Picture:
        """Return a table of stage 1."""
        return self._lifecycle.observer.stage1(pe, va, level)

    def observe_rtt(self) -> list[pictures.RttPicture]:
        """Return the realm translation tables."""
        return self._lifecycle.observer.rtt()

    def observe_realms(self) -> list[pictures.RecordPicture]:
        """Return the attributes of each realm."""
        return self._lifecycle.observer.realms()

    def observe_recs(self) -> list[pictures.RecordPicture]:
        """Return the attributes of each REC."""
        return self._lifecycle.observer.recs()

    def observe_pes(self) -> list[pictures.PePicture]:
        """Return the registers of each PE."""
        return self._lifecycle.observer.pes()

    def observe_gic(self) -> list[pictures.GicPicture]:
        """Return the virtual CPU interface of each PE."""
        return self._lifecycle.observer.gic()

    def observe_timers(self) -> list[pictures.TimerPicture]:
        """Return the timers of each PE."""
        return self._lifecycle.observer.timers()

    def observe_tlbs(self) -> list[pictures.TlbPicture]:
        """Return the TLBs of each PE."""
        return self._lifecycle.observer.tlbs()

    def observe_code(self, address: int | None = None, *, pe: int = 0) -> pictures.CodePicture:
        """Return the code that a PE has executed."""
        return self._lifecycle.observer.code(pe, address)

    def observe_queues(self) -> list[pictures.QueuePicture]:
        """Return the virtqueues of each device."""
        return self._lifecycle.queues()

    def observe_events(self) -> None:
        """Send the events."""
        if self._is_observing:
            raise UserError("this connection gets the events already")
        log = self._lifecycle.observed_events
        self._is_observing = True
        self._pump(lambda: self._tell_events(log))

    def sysrq(self, key: str) -> None:
        """Press Alt-SysRq and a key."""
        self._lifecycle.sysrq(key)

    def nmi(self, cpu: int) -> None:
        """Send an SError to a vCPU."""
        self._lifecycle.nmi(cpu)

    def watch(self) -> Status:
        """Send each new state."""
        if self._is_watching:
            raise UserError("this connection is watching already")
        self._is_watching = True
        status = self._lifecycle.subscribe(self._states.put)
        self._pump(self._tell_states)
        return status

    def console_attach(self, *, scrollback: bool = True) -> ConsolePlace:
        """Send the console's output."""
        if self._is_attached:
            raise UserError("this connection is attached already")
        self._is_attached = True
        log = self._lifecycle.console_log
        start, end = log.bounds
        place = ConsolePlace(start if scrollback else end, end)
        self._pump(lambda: self._tell_output(place.position))
        return place

    def console_write(self, data: bytes) -> None:
        """Type on the console."""
        lifecycle = self._lifecycle
        self._wait_until(lambda: lifecycle.is_listening)
        lifecycle.type(data)
        self._wait_until(lambda: lifecycle.backlog < MAX_TYPED)

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait for a condition, until the instance ends or the client leaves."""
        while not is_so() and not self._is_ending and not self._is_leaving.wait(_PACE):
            pass

    def console_resize(self, columns: int, rows: int) -> None:
        """Report the size of the terminal."""
        self._lifecycle.resize(columns, rows)

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
        """Start a command in the guest."""
        words, variables = argv, env or {}
        if encoding == "latin-1":
            words, directory = [*map(_from_latin1, argv)], _from_latin1(directory)
            variables = {_from_latin1(name): _from_latin1(each) for name, each in variables.items()}
        size = None if terminal is None else (terminal.columns, terminal.rows)
        return self._commands.start(self._agent(patience), words, variables, directory, size)

    def exec_write(self, number: int, data: bytes) -> None:
        """Send input to a command."""
        self._commands.write(number, data)

    def exec_end_input(self, number: int) -> None:
        """Close a command's input."""
        self._commands.end_input(number)

    def exec_signal(self, number: int, signal: int) -> None:
        """Send a signal to a command."""
        self._commands.signal(number, signal)

    def exec_resize(self, number: int, columns: int, rows: int) -> None:
        """Report the size of a command's terminal."""
        self._commands.resize(number, columns, rows)

    def attest(self, challenge: bytes, *, patience: float = 60.0) -> bytes:
        """Return a token from the guest's agent."""
        return self._agent(patience).attest(challenge, min(patience, threading.TIMEOUT_MAX))

    def wait_agent(self, *, patience: float = 60.0) -> None:
        """Wait for the guest's agent."""
        self._agent(patience).wait_ready(0)

    def _agent(self, patience: float) -> AgentClient:
        """Return the agent's client when the agent is ready or cannot be expected any longer."""
        self._wait_until(settling(self._lifecycle, patience))
        return self._lifecycle.agent

    # --- notifications ----------------------------------------------------------------------

    def _pump(self, tell: Callable[[], None]) -> None:
        def run() -> None:
            with suppress(OSError):  # the client is gone; `serve` notices it too
                tell()

        self._pumps = [pump for pump in self._pumps if pump.is_alive()]
        thread = threading.Thread(target=run, name="api-pump", daemon=True)
        start_thread(thread)
        self._pumps.append(thread)

    def _tell_states(self) -> None:
        while (status := self._states.get()) is not None:
            self._tell.state_changed(status)

    def _tell_output(self, position: int) -> None:
        log = self._lifecycle.console_log
        while True:
            position, data = log.read(position, self._is_leaving.is_set)
            if not data:
                break
            for start in range(0, len(data), _CHUNK):
                part = data[start : start + _CHUNK]
                self._tell.console_output(position + start, part)
            position += len(data)
        if not self._is_leaving.is_set():
            self._tell.console_closed()

    def _tell_events(self, log: EventLog) -> None:
        number = 0
        while (batch := log.read(number, self._is_leaving.is_set)) is not None:
            number = batch.number + 1
            events = msgspec.Raw(batch.events)
            params = {"first": batch.first, "inside": batch.inside, "events": events}
            self._stream.send(message("events_recorded", params))


def _from_latin1(text: str) -> str:
    """Convert a text with one character per byte to the agent client's encoding."""
    try:
        return text.encode("latin-1").decode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise UserError(f"{text!r} has characters that are not in latin-1") from None


def _refusal(id_: Id, code: int, line: str) -> Response:
    return Response("2.0", id_, error=RpcError(code, printable(line)))
