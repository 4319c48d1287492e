"""Network backend: user-mode networking through passt(1), without privileges.

passt translates the guest's Ethernet frames to sockets of the host's kernel, answers DHCP, ARP and
DNS requests, and maps the gateway's address to the host's loopback.
"""

from collections.abc import Sequence

from pyvmm.devices.ioloop import IoEvents
from pyvmm.devices.net_stream import StreamBackend, start_program
from pyvmm.devices.net_user import GUEST, HOST, MTU, NETWORK, PortForward


def open_passt(
    loop: IoEvents, forwards: Sequence[PortForward] = (), *, command: str = "passt"
) -> StreamBackend:
    """Start passt and return a backend that uses it.

    Raises: UserError, with passt's message, if it is not installed or does not start.
    """
    options = {"--mtu": MTU, "--address": GUEST, "--netmask": NETWORK.netmask, "--gateway": HOST}
    words = [str(word) for option in options.items() for word in option]
    words += [word for forward in forwards for word in _forward(forward)]
    return StreamBackend(loop, start_program("passt", command, "--quiet", *words))


def _forward(forward: PortForward) -> list[str]:
    option = "--tcp-ports" if forward.protocol == "tcp" else "--udp-ports"
    return [option, f"{forward.host_address}/{forward.host_port}:{forward.guest_port}"]
