"""The process of the HES: `python -m hes DIRECTORY ADDRESS LISTENER FIRST`, by ``client.py``.

DIRECTORY holds the state, ADDRESS is the listening socket's; LISTENER and FIRST are open file
descriptors: the socket itself, and the mailbox of the machine that we are started for.
"""

import resource
import socket
import sys
from pathlib import Path

from hes.hes import Hes
from hes.image import installation
from hes.server import Server


def main(directory: str, address: str, listener: str, first: str) -> None:
    """Serve until nobody is left."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold every key
    hes = Hes(Path(directory), installation())
    server = Server(hes, socket.socket(fileno=int(listener)), Path(address))
    server.add(socket.socket(fileno=int(first)))
    server.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
