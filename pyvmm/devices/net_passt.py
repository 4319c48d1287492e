"""Network backend: user-mode networking through passt(1), without privileges.

passt translates the guest's Ethernet frames to sockets of the host's kernel, answers DHCP, ARP and
DNS requests, and maps the gateway's address to the host's loopback.
"""

from collections.abc import Sequence
from typing import Final

from pyvmm.devices.ioloop import IoEvents
from pyvmm.devices.net_stream import StreamBackend, start_program
from pyvmm.devices.net_user import MTU, PortForward, guest_of, host_of, user_network
from pyvmm.devices.virtio.net import NetFeature

#: It does not look at checksums from the guest, and the frames that it sends come from this host.
_OFFLOADS: Final = NetFeature.CSUM | NetFeature.GUEST_CSUM


def open_passt(
    loop: IoEvents,
    forwards: Sequence[PortForward] = (),
    *,
    number: int = 0,
    mtu: int = MTU,
    command: str = "passt",
) -> StreamBackend:
    """Start passt and return a backend that uses it.

    Each ``number`` is another network.

    Raises: UserError, with passt's message, if it is not installed or does not start.
    """
    words = [*passt_options(number, mtu), *(word for each in forwards for word in _forward(each))]
    return StreamBackend(loop, start_program("passt", command, "--quiet", *words), mtu, _OFFLOADS)


def passt_options(number: int = 0, mtu: int = MTU) -> list[str]:
    """Return the options that describe the guest's network to passt."""
    network = user_network(number)
    options = {
        "--mtu": mtu,
        "--address": guest_of(network),
        "--netmask": network.netmask,
        "--gateway": host_of(network),
    }
    return [str(word) for option in options.items() for word in option]


def _forward(forward: PortForward) -> list[str]:
    option = "--tcp-ports" if forward.protocol == "tcp" else "--udp-ports"
    return [option, f"{forward.host_address}/{forward.host_port}:{forward.guest_port}"]
