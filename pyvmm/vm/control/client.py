"""A client of running instances: the typed `Api`, and the notifications."""

import socket
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Final, Self, cast

import msgspec
from msgspec.structs import asdict

from pyvmm.arch.errors import UserError
from pyvmm.vm.control.api import (
    API_VERSION,
    METHODS,
    NOTIFICATIONS,
    Api,
    CommandNotifications,
    EventNotifications,
    Method,
    Notifications,
    Proxy,
    State,
    Status,
)
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.control.process import Process, peer
from pyvmm.vm.control.rpc import Id, Request, Response, Stream, message, parse
from pyvmm.vm.exit_code import ExitCode, Failure
from pyvmm.vm.name import check_name

Listener = Notifications | CommandNotifications | EventNotifications
PATIENCE: Final = 30.0  # seconds for an answer


class NoAnswer(Failure):
    """The instance is running but does not answer."""

    def __init__(self, name: str) -> None:
        line = f"{name} does not answer: pyvmm destroy {name} ends it"
        super().__init__(ExitCode.UNREACHABLE, line)


class Gone(Failure):
    """The instance has ended, or this connection to it has."""


class Client:
    """A connection to one instance, for one thread; any thread may call `post`.

    ``api`` calls and waits for the answer.  Notifications are kept until `listen`.
    """

    def __init__(
        self, connection: socket.socket, name: str, patience: float | None = PATIENCE
    ) -> None:
        self.name = name
        self.patience = patience  # seconds for an answer; None: no limit
        self.api = cast("Api", Proxy(METHODS, self._call))
        self._stream = Stream(connection)
        self.process = Process(peer(connection)[0])
        self._enclosed: int | None = None
        self._ids = count(1)
        self._posted: dict[Id, Callable[[], None]] = {}
        self._notifications: deque[Request] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hang_up(self) -> None:
        """End the connection: pending calls and `listen` raise `Gone`; any thread."""
        self._stream.hang_up()

    def close(self) -> None:
        """Hang up and release the resources."""
        self._stream.hang_up()
        self._stream.close()
        self.process.close()

    # --- calls ------------------------------------------------------------------------------

    def _call(self, method: Method, params: dict[str, object]) -> object:
        id_ = next(self._ids)
        self._send(method.name, params, id_)
        while True:
            response = self._receive(self.patience)
            if isinstance(response, Response) and response.id == id_:
                return self._result(method, response)
            if response is None:
                raise NoAnswer(self.name)

    def post(self, method: str, params: dict[str, object], then: Callable[[], None]) -> None:
        """Call without waiting; ``then`` is called by `listen` when the answer comes."""
        id_ = next(self._ids)
        self._posted[id_] = then
        self._send(method, params, id_)

    def enclose(self, descriptor: int) -> None:
        """Send an open file with the next request."""
        self._enclosed = descriptor

    def _send(self, method: str, params: dict[str, object], id_: Id) -> None:
        enclosed, self._enclosed = self._enclosed, None
        try:
            self._stream.send(message(method, params, id_), enclosed)
        except OSError:
            raise self._gone() from None

    def _result(self, method: Method, response: Response) -> object:
        error = response.error
        if error is not msgspec.UNSET:
            if error.code == ExitCode.BAD_INPUT:
                raise UserError(error.message)
            code = ExitCode(error.code) if error.code in set(ExitCode) else ExitCode.INTERNAL
            raise Failure(code, error.message)
        raw = response.result
        return msgspec.json.decode(b"null" if raw is msgspec.UNSET else raw, type=method.result)

    # --- messages from the instance ---------------------------------------------------------

    def listen(self, listener: Listener, timeout: float | None = None) -> bool:
        """Pass one notification to the listener; return False if none arrives in time.

        Raises:
            Failure: the instance is gone.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._notifications:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            if self._receive(left) is None:
                return False
        notification = self._notifications.popleft()
        method = NOTIFICATIONS.get(notification.method)
        if method is not None:  # a newer instance may have more notifications
            params = msgspec.json.decode(notification.params, type=method.params)
            getattr(listener, method.name)(**asdict(params))
        return True

    def _receive(self, timeout: float | None) -> Request | Response | None:
        """Receive one message; return None if none arrives in time."""
        line = self._stream.receive(timeout)
        if line is None:
            return None
        if not line:
            raise self._gone()
        try:
            received = parse(line)
        except msgspec.DecodeError as error:
            problem = f"{self.name} sent an invalid message: {error}"
            raise Failure(ExitCode.UNREACHABLE, problem) from None
        if isinstance(received, Request):
            self._notifications.append(received)
        elif received.id in self._posted:
            self._posted.pop(received.id)()
        return received

    def _gone(self) -> Gone:
        return Gone(ExitCode.UNREACHABLE, f"{self.name} has ended without an answer")


def connect(directory: Directory, name: str, patience: float | None = PATIENCE) -> Client:
    """Connect to a running instance; ``patience`` is the time limit for answers in seconds.

    Raises:
        UserError: the instance does not exist, or is shut off.
        Failure: it is dead, or speaks another version of the API.
    """
    check_name(name)
    promptly = PATIENCE if patience is None else patience  # for what takes no time
    try:
        client = Client(directory.connect(name, promptly), name, promptly)
    except TimeoutError:
        raise NoAnswer(name) from None
    except OSError:
        raise _not_running(directory.find(name)) from None
    try:
        version = client.api.version()
    except BaseException:
        client.close()
        raise
    if version.api != API_VERSION:
        client.close()
        line = (
            f"{name} has an incompatible API version ({version.api}; this pyvmm speaks"
            f" {API_VERSION}): use pyvmm {version.pyvmm}"
        )
        raise Failure(ExitCode.UNREACHABLE, line)
    client.patience = patience
    return client


def _not_running(status: Status) -> Exception:
    name = status.name
    if status.state == State.STOPPED:
        return UserError(f"{name} is shut off: pyvmm start {name} starts it again")
    return Failure(ExitCode.UNREACHABLE, f"{name} is dead: pyvmm destroy {name} cleans up")
