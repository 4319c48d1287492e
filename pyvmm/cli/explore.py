"""pyvmm explore: show the inside of instances as a web page."""

import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import click

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.instances import complete, directory
from pyvmm.cli.common.say import print_lines
from pyvmm.explore.hub import Hub

_HELP = """Serve a web page that shows the inside of instances, and print its address.

Without a NAME, all instances may be chosen. An instance must have been created with --observe:
looking into all worlds is the simulator's privilege, no real host can do it. The page shows the
worlds and the PEs in them, the granules of DRAM, tables, registers and all events. Only programs
of this machine that know the address reach the server. Ctrl-C ends it.
"""
_LOOPBACK: Final = "127.0.0.1"
_TOKEN_SIZE: Final = 16  # bytes


@click.command(help=_HELP)
@click.argument("names", metavar="[NAME...]", nargs=-1, shell_complete=complete)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="TCP port to listen on  [default: any that is free]",
)
def explore(names: tuple[str, ...], port: int) -> None:
    """Serve the page until the user ends it."""
    serve = _server()
    hub = Hub(directory(), names)
    with _listener(port) as listener:
        token = secrets.token_urlsafe(_TOKEN_SIZE)
        address = f"http://{_LOOPBACK}:{listener.getsockname()[1]}/{token}/"
        hub.open()
        try:
            with suppress(KeyboardInterrupt):  # a way to end it
                print_lines(address)
                serve(hub, listener, token)
        finally:
            hub.close()


def _server() -> Callable[[Hub, socket.socket, str], None]:
    """Return the function that serves; UserError without the packages that it needs."""
    try:
        from pyvmm.explore.web import serve  # noqa: PLC0415  an optional extra
    except ModuleNotFoundError as error:
        line = f"explore requires {error.name}: pip install 'pyvmm[explore]'"
        raise UserError(line) from None
    return serve


def _listener(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_LOOPBACK, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise UserError(f"--port {port}: {error.strerror}: choose another port") from None
    return listener
