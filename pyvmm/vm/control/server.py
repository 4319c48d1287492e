"""The server of an instance's API: a thread for each client, and nothing to hold a vCPU up.

Only processes of the same user, or of root, are heard.
"""

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version as installed_version
from queue import SimpleQueue
from typing import Final, cast

import msgspec
from msgspec.structs import asdict

from pyvmm.arch.errors import UserError
from pyvmm.arch.system import NoThreadError, shortages, start_thread
from pyvmm.arch.text import defect, printable
from pyvmm.vm.agent.client import AgentClient
from pyvmm.vm.control.api import (
    API_VERSION,
    METHODS,
    MUCH_TYPED,
    NOTIFICATIONS,
    Balloon,
    CommandNotifications,
    ConsolePlace,
    Encoding,
    Method,
    Notifications,
    Proxy,
    Statistics,
    Status,
    Vcpu,
    Version,
)
from pyvmm.vm.control.commands import Commands
from pyvmm.vm.control.lifecycle import Lifecycle
from pyvmm.vm.control.process import peer
from pyvmm.vm.control.rpc import ErrorCode, Id, Request, Response, RpcError, Stream, message
from pyvmm.vm.exit_code import ExitCode, Failure
from pyvmm.vm.json_text import decode

_ROOT: Final = 0
_CHUNK: Final = 64 << 10  # bytes of console output in a message at most
_PACE: Final = 0.005  # seconds until a guest that was behind is looked at again
_FAREWELL: Final = 2.0  # seconds that a client has to read the last words


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
        """Begin to accept clients."""
        self._thread.start()

    def close(self) -> None:
        """Answer what was asked, say what there is to say, and hang up.

        The listener goes on listening: by that others see that the instance is not gone yet.
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
                time.sleep(_PACE)  # out of descriptors: a client will go
                continue
            try:
                if _is_friend(connection):
                    self._admit(connection)
                    continue
            except (OSError, MemoryError, NoThreadError):
                pass  # what has run out costs this client
            connection.close()

    def _admit(self, connection: socket.socket) -> None:
        """Start a client's thread; who cannot have one is hung up on."""
        session = Session(Stream(connection), self._lifecycle)
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


def _is_friend(connection: socket.socket) -> bool:
    return peer(connection)[1] in {_ROOT, os.geteuid()}


class Session:
    """One client; an `Api`."""

    def __init__(self, stream: Stream, lifecycle: Lifecycle) -> None:
        self._stream = stream
        self._lifecycle = lifecycle
        self._is_leaving = threading.Event()  # nobody is there to be told anything
        self._is_ending = False  # the instance is; its last words are still to be told
        self._pumps: list[threading.Thread] = []
        self._states: SimpleQueue[Status | None] = SimpleQueue()
        self._is_watching = self._is_attached = False
        proxy = Proxy(NOTIFICATIONS, self._notify)
        self._tell = cast("Notifications", proxy)
        self._commands = Commands(cast("CommandNotifications", proxy), self._pump)

    # --- the connection ---------------------------------------------------------------------

    def serve(self) -> None:
        """Answer until the client hangs up or the instance ends."""
        try:
            while line := self._stream.receive():
                if (response := self._answer(line)) is not None:
                    self._stream.send(response)
        except OSError:
            pass  # gone without waiting for the answer
        if not self._is_ending:
            self._is_leaving.set()
            self._lifecycle.console_log.wake()
            self._commands.close()
        if self._is_watching:
            self._lifecycle.unsubscribe(self._states.put)
        self._states.put(None)
        for pump in self._pumps:
            pump.join()
        self._stream.close()

    def end(self) -> None:
        """Let `serve` end once it has answered, and told, what there is."""
        self._is_ending = True
        self._stream.end_input()

    def hang_up(self) -> None:
        """Let `serve` end now."""
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
        except Exception as error:  # noqa: BLE001  ours, and no reason to lose the guest
            sys.stderr.write(f"{defect()}\n")
            return _refusal(id_, ErrorCode.INTERNAL_ERROR, repr(error))
        return Response("2.0", id_, msgspec.Raw(msgspec.json.encode(result)))

    def _notify(self, method: Method, params: dict[str, object]) -> None:
        self._stream.send(message(method.name, params))

    # --- Api --------------------------------------------------------------------------------

    def version(self) -> Version:
        """Say which API this is."""
        return Version(API_VERSION, installed_version("pyvmm"))

    def status(self) -> Status:
        """Say what the instance is and how it does."""
        return self._lifecycle.status

    def start(self) -> Status:
        """Start the guest."""
        return self._lifecycle.start()

    def pause(self) -> Status:
        """Hold every vCPU."""
        return self._lifecycle.pause()

    def resume(self) -> Status:
        """Let the vCPUs go on."""
        return self._lifecycle.resume()

    def stop(self) -> Status:
        """Stop the guest."""
        return self._lifecycle.stop()

    def destroy(self) -> None:
        """Stop the guest and leave nothing of it."""
        self._lifecycle.destroy()

    def statistics(self) -> Statistics:
        """Say what the instance has done and what it takes."""
        return self._lifecycle.statistics()

    def balloon(self, change: int = 0) -> Balloon:
        """Resize the balloon, and say how memory does."""
        return self._lifecycle.balloon(change)

    def debug(self) -> list[Vcpu]:
        """Say what each vCPU is at."""
        return self._lifecycle.debug()

    def sysrq(self, key: str) -> None:
        """Press Alt-SysRq and a key."""
        self._lifecycle.sysrq(key)

    def nmi(self, cpu: int) -> None:
        """Send a vCPU an SError."""
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
        self._wait_until(lambda: lifecycle.backlog < MUCH_TYPED)

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait for the guest, until it is over or nobody wants to know."""
        while not is_so() and not self._is_ending and not self._is_leaving.wait(_PACE):
            pass

    def console_resize(self, columns: int, rows: int) -> None:
        """Say how large the terminal is."""
        self._lifecycle.resize(columns, rows)

    def exec_start(
        self,
        argv: list[str],
        *,
        env: dict[str, str] | None = None,
        directory: str = "",
        patience: float = 10.0,
        encoding: Encoding = "utf-8",
    ) -> int:
        """Start a command in the guest."""
        words, variables = argv, env or {}
        if encoding == "latin-1":
            words, directory = [*map(_of_bytes, argv)], _of_bytes(directory)
            variables = {_of_bytes(name): _of_bytes(each) for name, each in variables.items()}
        return self._commands.start(self._agent(patience), words, variables, directory)

    def exec_write(self, number: int, data: bytes) -> None:
        """Give a command input."""
        self._commands.write(number, data)

    def exec_end_input(self, number: int) -> None:
        """Close its input."""
        self._commands.end_input(number)

    def exec_signal(self, number: int, signal: int) -> None:
        """Send it a signal."""
        self._commands.signal(number, signal)

    def attest(self, challenge: bytes, *, patience: float = 60.0) -> bytes:
        """Have the guest's agent ask for a token."""
        return self._agent(patience).attest(challenge, min(patience, threading.TIMEOUT_MAX))

    def wait_agent(self, *, patience: float = 60.0) -> None:
        """Wait for the guest's agent."""
        self._agent(patience).wait_ready(0)

    def _agent(self, patience: float) -> AgentClient:
        """Return the guest's agent, there or not once nothing has moved for so many seconds."""
        lifecycle, stillness = self._lifecycle, Stillness(patience)

        def is_over() -> bool:
            sign = None if lifecycle.is_coming else lifecycle.console_log.end
            return lifecycle.has_settled or stillness.lasts(sign)

        self._wait_until(is_over)
        return lifecycle.agent

    # --- notifications ----------------------------------------------------------------------

    def _pump(self, tell: Callable[[], None]) -> None:
        def run() -> None:
            with suppress(OSError):  # gone; `serve` sees it too
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


def _of_bytes(text: str) -> str:
    """Return a text whose characters are bytes as the agent's client takes it."""
    try:
        return text.encode("latin-1").decode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise UserError(f"{text!r} has characters that are not in latin-1") from None


class Stillness:
    """Notices that a guest has given no sign of life for some seconds."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._last_sign: int | None = None
        self._since = 0.0

    def lasts(self, sign: int | None) -> bool:
        """Tell whether the sign has been the same for so long; None is another each time."""
        now = time.monotonic()
        if sign is None or sign != self._last_sign:
            self._last_sign, self._since = sign, now
        return now - self._since > self._patience


def _refusal(id_: Id, code: int, line: str) -> Response:
    return Response("2.0", id_, error=RpcError(code, printable(line)))
