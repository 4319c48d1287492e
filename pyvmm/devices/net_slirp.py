"""Network backend: user-mode networking through libslirp, where there is no passt.

libslirp is a library that no guest should get at this process through, and one that wants a loop
of its own.  So it runs in a program of its own, `pyvmm.devices.slirp`, as passt does.
"""

import sys
from collections.abc import Sequence

from pyvmm.devices import libslirp
from pyvmm.devices.ioloop import IoEvents
from pyvmm.devices.net_stream import StreamBackend, start_program
from pyvmm.devices.net_user import PortForward


def open_slirp(loop: IoEvents, forwards: Sequence[PortForward] = ()) -> StreamBackend:
    """Start the program and return a backend through it.

    Raises: UserError if libslirp is not installed, or a port to be forwarded is not to be had.
    """
    libslirp.load()
    program = (sys.executable, "-P", "-m", "pyvmm.devices.slirp")
    return StreamBackend(loop, start_program("libslirp", *program, *map(str, forwards)))
