"""The web server of a key broker.

It is plain HTTP: what it sends is either public or encrypted to a realm's key.  A client that has
to know which broker sent a secret needs TLS in front of it.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from pyvmm.kbs.broker import Broker
from pyvmm.kbs.messages import Refused

ROOT: Final = "/kbs/v0"
COOKIE: Final = "kbs-session-id"
MAX_BODY: Final = 512 << 10  # a token of 64 KiB takes up to four characters for each byte
_MAX_CONNECTIONS: Final = 64
_PATIENCE: Final = 10.0  # seconds that a body may take
_PROBLEM: Final = "https://github.com/confidential-containers/kbs/errors/"
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

#: Told about every decision: what was asked for, and what became of it.
Log = Callable[[str], None]


def application(broker: Broker, log: Log) -> ASGIApp:
    """Return the application."""

    async def auth(request: Request) -> Response:
        identifier, challenge = broker.challenge(await _body(request))
        response = JSONResponse(challenge, headers=_HEADERS)
        response.set_cookie(COOKIE, identifier, path=ROOT, httponly=True, samesite="strict")
        return response

    async def attest(request: Request) -> Response:
        token = broker.attest(request.cookies.get(COOKIE), await _body(request))
        log("attest: verified")
        return JSONResponse({"token": token}, headers=_HEADERS)

    async def resource(request: Request) -> Response:
        names = request.path_params
        secret = broker.resource(
            request.cookies.get(COOKIE),
            _bearer(request),
            (names["repo"], names["type"], names["tag"]),
        )
        log(f"{request.url.path}: released")
        return JSONResponse(secret, headers=_HEADERS)

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)  # noqa: S101  it is called for nothing else
        log(f"{request.url.path}: refused: {error}")
        problem = {"type": _PROBLEM + error.kind, "detail": str(error)}
        return JSONResponse(problem, error.status, headers=_HEADERS)

    routes = [
        Route(f"{ROOT}/auth", auth, methods=["POST"]),
        Route(f"{ROOT}/attest", attest, methods=["POST"]),
        Route(f"{ROOT}/resource/{{repo}}/{{type}}/{{tag}}", resource, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={Refused: refuse})


def serve(broker: Broker, listeners: Sequence[socket.socket], log: Log) -> None:
    """Serve until Ctrl-C, which raises KeyboardInterrupt, or SIGTERM."""
    config = uvicorn.Config(
        application(broker, log),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=list(listeners))


async def _body(request: Request) -> bytes:
    """Return the body of a request."""
    data = bytearray()
    try:
        async with asyncio.timeout(_PATIENCE):
            async for part in request.stream():
                data += part
                if len(data) > MAX_BODY:
                    raise Refused(413, "large", f"the body is larger than {MAX_BODY} bytes")
    except TimeoutError:
        raise Refused(408, "slow", f"no whole body in {_PATIENCE:.0f} seconds") from None
    except ClientDisconnect:
        raise Refused(400, "malformed", "the body ended early") from None
    return bytes(data)


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else None
