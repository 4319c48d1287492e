"""User-mode networking for the guest, common to all backends: addresses and port forwards.

The guest gets its address by DHCP.  Its connections to `HOST` go to the host's loopback.
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address
from typing import Final

from pyvmm.arch.errors import UserError

_FIRST_NETWORK: Final = IPv4Network("192.168.33.0/24")

#: The longest packets that both programs support.  For an interpreted guest the cost of a transfer
#: depends on the number of packets, not of bytes.
MTU: Final = 65520

_FORWARD = re.compile(r"(tcp|udp):(?:(\[[^\]]*\]|[^:]*):)?(\d{1,5})-:?(\d{1,5})")


def user_network(number: int) -> IPv4Network:
    """Return the network of a guest's card in user mode; each card has another one."""
    size = _FIRST_NETWORK.num_addresses
    return IPv4Network((int(_FIRST_NETWORK[0]) + number * size, _FIRST_NETWORK.prefixlen))


def host_of(network: IPv4Network) -> IPv4Address:
    """Return the host's address, which is the router's."""
    return network[1]


def guest_of(network: IPv4Network) -> IPv4Address:
    """Return the guest's address."""
    return network[15]


HOST: Final = host_of(_FIRST_NETWORK)
GUEST: Final = guest_of(_FIRST_NETWORK)


@dataclass(frozen=True, slots=True)
class PortForward:
    """A port of the host that is forwarded to the guest."""

    protocol: str  # "tcp" or "udp"
    host_address: IPv4Address | IPv6Address
    host_port: int
    guest_port: int

    @classmethod
    def parse(cls, text: str) -> "PortForward":
        """Parse ``tcp|udp:[ADDRESS:]PORT-:GUEST_PORT``; the default address is loopback.

        Raises: UserError if it does not have that form.
        """
        match = _FORWARD.fullmatch(text)
        if match is None or not all(0 < int(match[i]) < 1 << 16 for i in (3, 4)):
            raise UserError(
                f"hostfwd={text}: give a forward such as tcp:8080-:80, udp:127.0.0.1:5353-:53 or"
                " tcp:[::1]:8080-:80"
            )
        return cls(match[1], _address(text, match[2] or "127.0.0.1"), int(match[3]), int(match[4]))

    @property
    def host(self) -> str:
        """The address and the port of the host."""
        address = str(self.host_address)
        return f"{f'[{address}]' if self.host_address.version == 6 else address}:{self.host_port}"

    def __str__(self) -> str:
        return f"{self.protocol}:{self.host}-:{self.guest_port}"


def _address(text: str, address: str) -> IPv4Address | IPv6Address:
    try:
        if address.startswith("["):
            return IPv6Address(address[1:-1])
        return IPv4Address(address)
    except AddressValueError:
        kind = "an IPv6" if address.startswith("[") else "an IPv4"
        raise UserError(f"hostfwd={text}: {address} is not {kind} address") from None
