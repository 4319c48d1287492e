"""The sockets of a guest's ports, while the guest runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from pyvmm.arch.errors import UserError
from pyvmm.devices.ioloop import IoEvents
from pyvmm.devices.port_socket import PortSocket
from pyvmm.vm.gdb.leftover import SocketNote, listen_unix
from pyvmm.vm.port_options import PortOptions


@contextmanager
def port_socket(options: PortOptions, events: IoEvents) -> Iterator[PortSocket]:
    """Make the socket of a port; remove it at the end, when the event loop has stopped.

    Raises:
        UserError: the path cannot be used.
    """
    try:
        listener = listen_unix(options.path)
    except OSError as error:
        raise UserError(
            f"--port {options.name}={options.path}: {error.strerror}: choose another path"
        ) from None
    note = SocketNote.of(options.path)
    made = PortSocket(options.name, listener, events)
    try:
        yield made
    finally:
        made.close()
        note.remove_own()
