"""Which frames a network card passes to its guest, by their destination address.

Spec: virtio 1.2, "Packet Receive Filtering" and "Setting MAC Address Filtering".
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pyvmm.arch.saved import State, StateError, items, number

ADDRESS_SIZE: Final = 6
BROADCAST: Final = b"\xff" * ADDRESS_SIZE


class Mode(IntEnum):
    """The modes that a driver turns on and off, by the numbers of their commands."""

    PROMISC = 0
    ALLMULTI = 1
    ALLUNI = 2
    NOMULTI = 3
    NOUNI = 4
    NOBCAST = 5


@dataclass(slots=True)
class ReceiveFilter:
    """The modes, and the addresses beside the card's own; None means all of that kind.

    Without a driver that sets anything, everything passes.
    """

    modes: frozenset[Mode] = frozenset({Mode.PROMISC})
    unicast: frozenset[bytes] | None = frozenset()
    multicast: frozenset[bytes] | None = frozenset()

    def save(self) -> State:
        """Return the state."""
        return {
            "modes": [int(mode) for mode in sorted(self.modes)],
            "unicast": None if self.unicast is None else b"".join(sorted(self.unicast)),
            "multicast": None if self.multicast is None else b"".join(sorted(self.multicast)),
        }

    def load(self, state: State) -> None:
        """Set the state; StateError if it is not one."""
        modes = [number({"mode": each}, "mode", len(Mode)) for each in items(state, "modes")]
        self.modes = frozenset(map(Mode, modes))
        self.unicast, self.multicast = _addresses(state, "unicast"), _addresses(state, "multicast")

    def set_mode(self, mode: Mode, *, is_on: bool) -> None:
        """Turn a mode on or off."""
        self.modes = self.modes | {mode} if is_on else self.modes - {mode}

    def accepts(self, target: bytes, mac: bytes) -> bool:
        """Check whether a frame to this address is for a card with the address ``mac``."""
        modes = self.modes
        if Mode.PROMISC in modes:
            return True
        if target == BROADCAST:
            return Mode.NOBCAST not in modes
        if target[:1] and target[0] & 1:
            if Mode.NOMULTI in modes:
                return False
            table = None if Mode.ALLMULTI in modes else self.multicast
            return table is None or target in table
        if Mode.NOUNI in modes:
            return False
        table = None if Mode.ALLUNI in modes else self.unicast
        return target == mac or table is None or target in table


def _addresses(state: State, name: str) -> frozenset[bytes] | None:
    value = state.get(name, b"")
    if value is None:
        return None
    if not isinstance(value, bytes) or len(value) % ADDRESS_SIZE:
        raise StateError(f"{name} has no whole addresses")
    return frozenset(value[at : at + ADDRESS_SIZE] for at in range(0, len(value), ADDRESS_SIZE))
