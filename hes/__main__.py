"""The HES process, started by ``client.py``: `python -m hes DIRECTORY ADDRESS LISTENER FIRST`.

DIRECTORY contains the state; ADDRESS is the path of the listening socket.  LISTENER and FIRST are
open file descriptors: the socket, and the mailbox of the machine that started the process.
"""

import socket
import sys
from pathlib import Path

from hes.hes import Hes
from hes.image import installation
from hes.sandbox import hes_sandbox
from hes.server import Server


def main(directory: str, address: str, listener: str, first: str) -> None:
    """Serve until the last client has gone."""
    hes = Hes(Path(directory), installation())
    server = Server(hes, socket.socket(fileno=int(listener)), Path(address))
    server.add(socket.socket(fileno=int(first)))
    hes_sandbox(Path(directory)).enter()  # also: a core file would contain every key
    server.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
