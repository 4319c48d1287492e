"""The API as HTTP: requests become calls of JSON-RPC, answers and notifications become responses.

h11 parses.  A request has a time limit and a size limit; a bad one gets a status and one line.
"""

import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

import h11
import msgspec

from pyvmm.arch.text import printable
from pyvmm.vm.control.api import METHODS, Method
from pyvmm.vm.control.routes import FEEDS, OPENAPI_PATH, ROUTES
from pyvmm.vm.control.rpc import MAX_LINE, ErrorCode, Request, Response, RpcError, Stream
from pyvmm.vm.json_text import decode

_MAX_HEAD: Final = 16 << 10  # bytes
_PATIENCE: Final = 30.0  # seconds for a whole request, and without one
_FAREWELL: Final = 1.0  # seconds for what a client still sends after a refusal
_OPENAPI: Final = Path(__file__).parent / OPENAPI_PATH
_VERSIONS: Final = (b"1.0", b"1.1")
_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream"
_STATUSES: Final[dict[int, HTTPStatus]] = {
    ErrorCode.PARSE_ERROR: HTTPStatus.BAD_REQUEST,
    ErrorCode.INVALID_REQUEST: HTTPStatus.BAD_REQUEST,
    ErrorCode.INVALID_PARAMS: HTTPStatus.BAD_REQUEST,
    ErrorCode.METHOD_NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.INTERNAL_ERROR: HTTPStatus.INTERNAL_SERVER_ERROR,
}


@dataclass
class _BadRequestError(Exception):
    """A request that is answered without a call."""

    status: int
    line: str
    code: ErrorCode = ErrorCode.INVALID_REQUEST
    allow: str = ""  # the verb that the path has


class HttpStream(Stream):
    """A connection whose client speaks HTTP, as a stream of JSON-RPC messages."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._is_feed = False  # the answer to the request will be a feed
        self._is_answered = threading.Event()

    def receive(self, timeout: float | None = None) -> bytes | None:
        """Return the next call; empty when the client is gone or its last request was answered."""
        del timeout
        try:
            while not self._is_feed:
                try:
                    if (line := self._next_call()) is not None:
                        return line
                except _BadRequestError as bad:
                    self._refuse(bad)
                except h11.RemoteProtocolError as error:
                    self._refuse(_BadRequestError(error.error_status_hint, str(error)))
                if not self._can_go_on():
                    self._linger()
                    return b""
            while self._receive():  # a feed ends when its client leaves
                pass
        except (OSError, h11.ProtocolError):  # the client is gone, or has closed its side
            pass
        return b""

    def send(self, message: msgspec.Struct, descriptor: int | None = None) -> None:
        """Send an answer or, in a feed, a notification.

        Raises:
            OSError: the client is gone.
        """
        del descriptor
        try:
            if isinstance(message, Response):
                self._answer(message)
            elif isinstance(message, Request) and self._is_answered.wait():
                self._put(h11.Data(_event(message.method, message.params)))
        except h11.ProtocolError as error:  # there is no answer that could have notifications
            raise BrokenPipeError from error

    def close(self) -> None:
        """End a feed and release the socket."""
        if self._is_feed:
            with suppress(OSError, h11.ProtocolError):
                self._put(h11.EndOfMessage())
        super().close()

    # --- requests -----------------------------------------------------------------------------

    def _next_call(self) -> bytes | None:
        """Return the next request as a call; None if it needed none."""
        head, body = self._read()
        path, _, query = head.target.decode("latin-1").partition("?")
        name, verb = path.removeprefix("/"), head.method.decode("ascii")
        if name == OPENAPI_PATH:
            _check_verb(name, verb, "GET")
            self._respond(HTTPStatus.OK, _OPENAPI.read_bytes())
            return None
        if name not in ROUTES:
            raise _BadRequestError(
                HTTPStatus.NOT_FOUND,
                f"no path {path}: see /{OPENAPI_PATH}",
                ErrorCode.METHOD_NOT_FOUND,
            )
        _check_verb(name, verb, ROUTES[name])
        try:
            params = _parameters(METHODS[name], ROUTES[name] == "GET", query, body)
        except (msgspec.DecodeError, ValueError) as error:
            line = str(error)
            raise _BadRequestError(HTTPStatus.BAD_REQUEST, line, ErrorCode.INVALID_PARAMS) from None
        self._is_feed = name in FEEDS
        self._is_answered.clear()
        call = Request(name, "2.0", msgspec.Raw(msgspec.json.encode(params)), 1)
        return msgspec.json.encode(call)

    def _read(self) -> tuple[h11.Request, bytes]:
        """Return a request and its body."""
        deadline = time.monotonic() + _PATIENCE
        head, body = self._next_event(deadline), bytearray()
        if not isinstance(head, h11.Request):  # the client has closed its side
            raise BrokenPipeError
        if head.http_version not in _VERSIONS:
            raise _BadRequestError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "use version 1.1 of HTTP")
        while isinstance(event := self._next_event(deadline), h11.Data):
            body += event.data
            if len(body) > MAX_LINE:
                raise _BadRequestError(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    f"the body is too large: the limit is {MAX_LINE} bytes",
                )
        return head, bytes(body)

    def _next_event(self, deadline: float) -> h11.Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                self._put(h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[]))
            if not self._wait(deadline - time.monotonic()):
                if self._http.their_state is h11.IDLE and not self._http.trailing_data[0]:
                    raise BrokenPipeError  # it has nothing to ask
                raise _BadRequestError(
                    HTTPStatus.REQUEST_TIMEOUT, f"no complete request in {_PATIENCE:g} s"
                )
            self._http.receive_data(self._receive())
        if isinstance(event, h11.Event):
            return event
        raise BrokenPipeError  # paused: the connection cannot be used again

    def _linger(self) -> None:
        """Let the client read the answer before the connection is reset: read what it sends."""
        self._shut(socket.SHUT_WR)
        deadline = time.monotonic() + _FAREWELL
        while self._wait(deadline - time.monotonic()) and self._receive():
            pass

    def _can_go_on(self) -> bool:
        """Prepare for another request after an answer, if the client may send one."""
        try:
            self._http.start_next_cycle()
        except h11.ProtocolError:
            return False
        return True

    # --- responses ----------------------------------------------------------------------------

    def _answer(self, response: Response) -> None:
        try:
            if isinstance(response.error, RpcError):
                self._is_feed = False
                status = _STATUSES.get(response.error.code, HTTPStatus.CONFLICT)
                self._respond(status, msgspec.json.encode(response.error))
            elif isinstance(response.result, msgspec.Raw) and self._is_feed:
                self._put(h11.Response(status_code=HTTPStatus.OK, headers=_head(_EVENTS)))
                self._put(h11.Data(_event("result", response.result)))
            elif isinstance(response.result, msgspec.Raw):
                self._respond(HTTPStatus.OK, bytes(response.result))
        finally:
            self._is_answered.set()  # whatever waits for it fails if the client is gone
        if not self._is_feed and not self._can_go_on():
            self.end_input()

    def _refuse(self, bad: _BadRequestError) -> None:
        body = msgspec.json.encode(RpcError(bad.code, printable(bad.line)))
        allow = [("Allow", bad.allow)] if bad.allow else []
        self._respond(bad.status, body, allow)

    def _respond(self, status: int, body: bytes, more: list[tuple[str, str]] | None = None) -> None:
        headers = [*_head(_JSON), ("Content-Length", str(len(body))), *(more or [])]
        reason = HTTPStatus(status).phrase
        self._put(h11.Response(status_code=status, headers=headers, reason=reason))
        self._put(h11.Data(body))
        self._put(h11.EndOfMessage())

    def _put(self, event: h11.Event) -> None:
        with self._lock:
            if data := self._http.send(event):
                self._connection.sendall(data)


def _check_verb(name: str, verb: str, right: str) -> None:
    if verb != right:
        line = f"/{name} takes {right}, not {verb}"
        raise _BadRequestError(HTTPStatus.METHOD_NOT_ALLOWED, line, allow=right)


def _parameters(method: Method, is_query: bool, query: str, body: bytes) -> msgspec.Struct:
    """Return the parameters of a call.

    Raises:
        msgspec.DecodeError, ValueError: they are not those of the method.
    """
    if not is_query:
        if query:
            raise ValueError(f"/{method.name} takes its parameters in the body, as JSON")
        return decode(body or b"{}", method.params)
    pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    words = dict(pairs)
    if len(words) < len(pairs):
        raise ValueError("a parameter is given twice")
    return msgspec.convert(words, method.params, strict=False)


def _head(kind: str) -> list[tuple[str, str]]:
    return [("Content-Type", kind), ("Cache-Control", "no-store")]


def _event(name: str, data: msgspec.Raw) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), bytes(data))
