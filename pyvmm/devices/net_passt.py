"""Network backend: user-mode networking through passt(1), without any privilege.

passt translates the guest's Ethernet into sockets of the host's own kernel, answers its DHCP,
ARP and DNS, and maps the gateway's address to the host's loopback.
"""

from collections.abc import Sequence

from pyvmm.devices.ioloop import IoEvents
from pyvmm.devices.net_stream import StreamBackend, start_program
from pyvmm.devices.net_user import GUEST, HOST, MTU, NETWORK, PortForward


def open_passt(
    loop: IoEvents, forwards: Sequence[PortForward] = (), *, command: str = "passt"
) -> StreamBackend:
    """Start passt and return a backend through it.

    Raises: UserError if passt is not installed or refuses to start, in its own words.
    """
    options = {"--mtu": MTU, "--address": GUEST, "--netmask": NETWORK.netmask, "--gateway": HOST}
    words = [str(word) for option in options.items() for word in option]
    words += [word for forward in forwards for word in _forward(forward)]
    return StreamBackend(loop, start_program("passt", command, "--quiet", *words))


def _forward(forward: PortForward) -> list[str]:
    option = "--tcp-ports" if forward.protocol == "tcp" else "--udp-ports"
    return [option, f"{forward.host_address}/{forward.host_port}:{forward.guest_port}"]
