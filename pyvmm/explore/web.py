"""The web server: the page, and one WebSocket per view of an instance.

It listens on loopback.  Other programs and web sites of this machine must not use it, so each
request needs the token, which is the first part of its path, a ``Host`` that is ours, and, if the
browser sends one, an ``Origin`` that is ours; a WebSocket needs one.
"""

import hmac
import socket
from importlib.resources import files
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from pyvmm.explore.hub import Hub
from pyvmm.explore.session import Session

LOOPBACK: Final = "127.0.0.1"
_MAX_MESSAGE: Final = 16 << 10  # bytes from a browser
_MAX_CONNECTIONS: Final = 64
_FILES: Final = {
    "": ("index.html", "text/html"),
    "explorer.js": ("explorer.js", "text/javascript"),
    "explorer.css": ("explorer.css", "text/css"),
}
_REFUSED: Final = "refused: open the address that pyvmm explore has printed\n"


def headers(port: int) -> dict[str, str]:
    """Return the headers of every response."""
    sources = f"'self' ws://{LOOPBACK}:{port} ws://localhost:{port}"
    return {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
            f" connect-src {sources}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }


class Guard:
    """Passes on only what comes from the page that the user has opened."""

    def __init__(self, app: ASGIApp, port: int, token: str) -> None:
        self._app = app
        self._hosts = {f"{LOOPBACK}:{port}".encode(), f"localhost:{port}".encode()}
        self._prefix = f"/{token}/".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] not in {"http", "websocket"} or self._is_allowed(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocket(scope, receive, send).close()  # before it is accepted: 403
        else:
            await PlainTextResponse(_REFUSED, 403)(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        found = [value for name, value in scope["headers"] if name == b"host"]
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        if len(found) != 1 or found[0] not in self._hosts:
            return False
        if origins != [b"http://" + found[0]] and (origins or scope["type"] == "websocket"):
            return False
        path = scope["raw_path"][: len(self._prefix)]
        return hmac.compare_digest(path, self._prefix)


def application(hub: Hub, port: int, token: str) -> ASGIApp:
    """Return the application."""

    async def page(request: Request) -> Response:
        found = _FILES.get(request.path_params["file"])
        if found is None:
            return PlainTextResponse("not found\n", 404, headers(port))
        name, kind = found
        data = (files("pyvmm.explore") / "page" / name).read_bytes()
        return Response(data, headers=headers(port), media_type=kind)

    async def live(browser: WebSocket) -> None:
        await Session(browser, hub).run()

    routes = [
        WebSocketRoute(f"/{token}/live", live),
        Route(f"/{token}/{{file:path}}", page, methods=["GET"]),
    ]
    return Guard(Starlette(routes=routes), port, token)


def configuration(hub: Hub, port: int, token: str) -> uvicorn.Config:
    """Return the configuration of a server, which says nothing and keeps little."""
    return uvicorn.Config(
        application(hub, port, token),
        ws="websockets-sansio",
        ws_max_size=_MAX_MESSAGE,
        ws_per_message_deflate=False,
        ws_ping_interval=None,  # on loopback, TCP tells that a browser is gone
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=1,
    )


def serve(hub: Hub, listener: socket.socket, token: str) -> None:
    """Serve until Ctrl-C, which raises KeyboardInterrupt, or SIGTERM.

    Args:
        hub: the instances.
        listener: bound to loopback.
        token: the secret part of the address.
    """
    config = configuration(hub, listener.getsockname()[1], token)
    uvicorn.Server(config).run(sockets=[listener])
