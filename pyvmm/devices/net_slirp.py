"""Network backend: user-mode networking through libslirp, if passt is not installed.

A guest must not be able to attack this process through libslirp, and the library needs its own
loop.  So it runs in a separate program, `pyvmm.devices.slirp`, like passt.
"""

import sys
from collections.abc import Sequence

from pyvmm.devices import libslirp
from pyvmm.devices.ioloop import IoEvents
from pyvmm.devices.net_stream import StreamBackend, start_program
from pyvmm.devices.net_user import MTU, PortForward
from pyvmm.devices.virtio.net import NetFeature


def open_slirp(
    loop: IoEvents, forwards: Sequence[PortForward] = (), *, number: int = 0, mtu: int = MTU
) -> StreamBackend:
    """Start the program and return a backend that uses it.

    The library drops packets with a wrong checksum, so the guest must compute them.  Each
    ``number`` is another network.

    Raises: UserError if libslirp is not installed, or a forwarded port cannot be used.
    """
    libslirp.load()
    program = (sys.executable, "-P", "-m", "pyvmm.devices.slirp", str(number), str(mtu))
    stream = start_program("libslirp", *program, *map(str, forwards))
    return StreamBackend(loop, stream, mtu, NetFeature.GUEST_CSUM)
