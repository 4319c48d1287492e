"""User-mode networking for the guest, common to all backends: addresses and port forwards.

The guest gets its address by DHCP.  Its connections to `HOST` go to the host's loopback.
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Final

from pyvmm.arch.errors import UserError

NETWORK: Final = IPv4Network("192.168.33.0/24")
HOST: Final = NETWORK[1]
GUEST: Final = NETWORK[15]

#: The longest packets that both programs support.  For an interpreted guest the cost of a transfer
#: depends on the number of packets, not of bytes.
MTU: Final = 65520

_FORWARD = re.compile(r"(tcp|udp):(?:([^:]*):)?(\d{1,5})-:?(\d{1,5})")


@dataclass(frozen=True, slots=True)
class PortForward:
    """A port of the host that is forwarded to the guest."""

    protocol: str  # "tcp" or "udp"
    host_address: IPv4Address
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
                f"hostfwd={text}: give a forward such as tcp:8080-:80 or udp:127.0.0.1:5353-:53"
            )
        try:
            address = IPv4Address(match[2] or "127.0.0.1")
        except AddressValueError:
            raise UserError(f"hostfwd={text}: {match[2]} is not an IPv4 address") from None
        return cls(match[1], address, int(match[3]), int(match[4]))

    def __str__(self) -> str:
        return f"{self.protocol}:{self.host_address}:{self.host_port}-:{self.guest_port}"
