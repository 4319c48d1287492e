"""pyvmm explore: show the inside of instances as a web page."""

import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import click

from pyvmm.arch.errors import UserError
from pyvmm.arch.user_file import without_waiting
from pyvmm.cli.common.instances import complete, directory
from pyvmm.cli.common.say import print_lines, say
from pyvmm.explore.export import Pictures, export, take_pictures
from pyvmm.explore.hub import Hub
from pyvmm.explore.watcher import Watcher

_HELP = """Serve a web page that shows the inside of instances, and print its address.

Without a NAME, all instances may be chosen. An instance must have been created with --observe:
looking into all worlds is the simulator's privilege, no real host can do it. The page shows the
worlds and the PEs in them, the granules of DRAM, tables, registers and all events. Only programs
of this machine that know the address reach the server. Ctrl-C ends it.
"""
_PACE: Final = 5.0  # seconds between two pictures of a recorded run
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
@click.option(
    "--export",
    "exported",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="do not serve: write the run of one instance, up to its end or Ctrl-C, as one HTML file",
)
def explore(names: tuple[str, ...], port: int, exported: Path | None) -> None:
    """Serve the page until the user ends it, or write it."""
    if exported is not None:
        _export(names, exported)
        return
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


def _export(names: tuple[str, ...], path: Path) -> None:
    """Watch an instance until it ends or the user ends it, then write the file."""
    if len(names) != 1:
        raise UserError("--export requires the name of one instance (see pyvmm list)")
    _check_writable(path)
    hub = Hub(directory(), names)
    hub.open()
    try:
        watcher = hub.watch(names[0])
        say(f"recording {names[0]} up to its end; Ctrl-C ends the record")
        export(path, watcher, _record(watcher))
    finally:
        hub.close()


def _record(watcher: Watcher) -> Pictures:
    """Wait for the end of an instance or Ctrl-C; return the last pictures of it."""
    pictures: Pictures = {}
    with suppress(KeyboardInterrupt):
        while not watcher.has_ended:
            pictures |= take_pictures(watcher)
            watcher.wait_for_end(_PACE)
    return pictures | take_pictures(watcher)


def _check_writable(path: Path) -> None:
    """Find out before the run whether the file can be written."""
    is_new = not path.exists()
    try:
        with open(path, "ab", opener=without_waiting):
            pass
        if is_new:
            path.unlink()
    except OSError as error:
        raise UserError(f"--export {path}: {error.strerror}: choose another file") from None


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
