"""pyvmm kbs: serve a key broker."""

import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from cryptography.hazmat.primitives.asymmetric import ec

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.activation import inherited
from pyvmm.cli.common.address import unusable, url
from pyvmm.cli.common.say import print_lines, say
from pyvmm.cli.common.units import Seconds
from pyvmm.scripting.verification import trust_for
from pyvmm.token.keys import load_private_key, read_key

if TYPE_CHECKING:
    from pyvmm.kbs.broker import Broker

_HELP = """Serve a key broker: it releases secrets to realms whose attestation tokens verify.

DIRECTORY has a file resource/REPOSITORY/TYPE/TAG for each secret, and in policy/REPOSITORY one or
more files of reference values, as `pyvmm endorse --realm` prints them: a realm that meets one of
them may have all secrets of that repository. In the realm, `pyvmm-agent secret` requests them. The
protocol is that of the Confidential Containers' key broker; secrets are encrypted to a key that
only the realm has.

Without --cpak and --trust-store, the platform's key comes from the reference file, or else from
this machine's HES. It also serves the sockets of a systemd socket unit. Ctrl-C ends it.
"""
_FILE = click.Path(path_type=Path, readable=False)
_DIRECTORY = click.Path(path_type=Path, exists=True, file_okay=False)
_MODE: Final = 0o600


@click.command(help=_HELP)
@click.argument("directory", type=_DIRECTORY)
@click.option("--host", default="127.0.0.1", show_default=True, help="IP address to listen on")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="TCP port to listen on  [default: any that is free, unless there is a --socket]",
)
@click.option(
    "--socket",
    "sockets",
    type=_FILE,
    multiple=True,
    metavar="PATH",
    help="Unix socket to listen on; a guest reaches UDS_PORT of its --vsock as CID 2, port PORT",
)
@click.option("--cpak", type=_FILE, help="the platforms' public key: PEM, DER or JWK")
@click.option(
    "--trust-store",
    "stores",
    type=_DIRECTORY,
    multiple=True,
    help="directory of keys and reference files; a token's platform selects one",
)
@click.option("--key", type=_FILE, help="private key that signs results  [default: a new one]")
@click.option("--strict", is_flag=True, help="refuse a token that gives warnings")
@click.option(
    "--lifetime",
    type=Seconds(1),
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="when sessions and results expire",
)
def kbs(
    *,
    directory: Path,
    host: str,
    port: int | None,
    sockets: tuple[Path, ...],
    cpak: Path | None,
    stores: tuple[Path, ...],
    key: Path | None,
    strict: bool,
    lifetime: float,
) -> None:
    """Serve until the user ends it."""
    serve = _server()
    from pyvmm.kbs.broker import Broker, Settings  # noqa: PLC0415  msgspec, jwt: only here
    from pyvmm.kbs.library import Library  # noqa: PLC0415

    library = Library.load(directory)
    settings = Settings(
        trust={rule: trust_for(cpak, stores, rule.values) for rule in library.rules},
        signer=_signer(key),
        build=installed_version("pyvmm"),
        lifetime=lifetime,
        is_strict=strict,
    )
    broker = Broker(library, settings)
    with ExitStack() as stack:
        listeners = [stack.enter_context(each) for each in inherited()]
        listeners += [stack.enter_context(_unix(path)) for path in sockets]
        if port is not None or not listeners:
            listeners.append(stack.enter_context(_tcp(host, port or 0)))
            print_lines(url(host, listeners[-1].getsockname()[1]))
        with suppress(KeyboardInterrupt):  # a way to end it
            serve(broker, listeners, say)


def _server() -> "Callable[[Broker, Sequence[socket.socket], Callable[[str], None]], None]":
    """Return the function that serves; UserError without the packages that it needs."""
    try:
        from pyvmm.kbs.web import serve  # noqa: PLC0415  an optional extra
    except ModuleNotFoundError as error:
        raise UserError(f"kbs requires {error.name}: pip install 'pyvmm[kbs]'") from None
    return serve


def _signer(path: Path | None) -> ec.EllipticCurvePrivateKey:
    if path is None:
        return ec.generate_private_key(ec.SECP256R1())
    return load_private_key(read_key(path), str(path))


@contextmanager
def _tcp(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()
        except OSError as error:
            raise unusable(host, port, error) from None
        yield listener


@contextmanager
def _unix(path: Path) -> Iterator[socket.socket]:
    """Listen on a Unix socket, which replaces one that is left over; remove it at the end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
                path.unlink()
            listener.bind(str(path))
            path.chmod(_MODE)
            listener.listen()
        except OSError as error:
            why = error.strerror or str(error)
            raise UserError(f"--socket {path}: {why}: choose another path") from None
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)
