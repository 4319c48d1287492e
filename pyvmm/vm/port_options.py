"""The ports of a guest, as a user writes them."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.arch.system import MAX_SOCKET_PATH

MAX_PORTS: Final = 8
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class PortOptions:
    """A named port of the guest, and the socket of its other end."""

    name: str
    path: Path


def parse_ports(texts: Sequence[str]) -> tuple[PortOptions, ...]:
    """Read NAME=SOCKET of each port.

    Raises:
        UserError: a name or a path is invalid, or occurs twice.
    """
    ports = tuple(map(_parse_port, texts))
    if len(ports) > MAX_PORTS:
        raise UserError(f"--port: {len(ports)} ports given; the limit is {MAX_PORTS}")
    for one, other in combinations(ports, 2):
        if one.name == other.name or one.path == other.path:
            raise UserError(
                f"--port {other.name}={other.path}: name or path occurs twice: give each its own"
            )
    return ports


def _parse_port(text: str) -> PortOptions:
    name, _, socket = text.partition("=")
    path = Path(socket).absolute()
    if not _NAME.fullmatch(name):
        raise UserError(
            f"--port {text}: give NAME=SOCKET, where NAME has up to 64 letters, digits, dots,"
            " dashes and underscores"
        )
    if not socket or len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise UserError(
            f"--port {text}: give the path of a socket of at most {MAX_SOCKET_PATH} bytes"
        )
    return PortOptions(name, path)
