"""The typed interface to libslirp: its configuration, frames and timers."""

import os
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv6Network

import pytest

from pyvmm.devices import libslirp, slirp
from pyvmm.devices.libslirp import Slirp
from pyvmm.devices.net_user import MTU
from tests.devices.peer import router_solicitation

pytestmark = pytest.mark.skipif(not libslirp.is_installed(), reason="libslirp is not installed")

NETWORK6 = IPv6Network("fd33::/64")
ROUTER_ADVERTISEMENT = 134


class Guest:
    """A network, its frames, and a clock that stands still."""

    def __init__(self, *, has_ipv6: bool) -> None:
        self.now = 0
        self.frames: list[bytes] = []
        config = slirp._config(0, MTU, has_ipv6=has_ipv6)
        self.slirp = Slirp(config, self.frames.append, lambda: self.now)

    def turn(self) -> None:
        """Let the network handle pending events."""
        wakeup = os.eventfd(1)
        self.slirp.serve(wakeup)
        os.close(wakeup)

    def close(self) -> None:
        """End the network."""
        self.slirp.close()

    def solicit_router(self) -> None:
        """Send an IPv6 router solicitation."""
        self.slirp.input(router_solicitation())

    def num_advertisements(self) -> int:
        """Count the router advertisements since the last call."""
        count = sum(frame[54] == ROUTER_ADVERTISEMENT for frame in self.frames)
        assert all(NETWORK6.network_address.packed in frame for frame in self.frames)
        self.frames.clear()
        return count


@pytest.fixture
def guest() -> Iterator[Guest]:
    """Return a network with IPv6."""
    with closing(Guest(has_ipv6=True)) as guest:
        yield guest


def test_router_is_advertised_when_asked_for(guest: Guest) -> None:
    """There is one advertisement for each solicitation."""
    guest.solicit_router()
    assert guest.num_advertisements() == 1


def test_router_is_advertised_when_its_timer_expires(guest: Guest) -> None:
    """There is one advertisement; then the timer starts again."""
    guest.turn()
    assert guest.num_advertisements() == 0
    for _ in range(2):
        guest.now += 3600 * 10**9
        guest.turn()
        assert guest.num_advertisements() == 1
        guest.turn()
        assert guest.num_advertisements() == 0


def test_host_without_ipv6_has_none_for_its_guest() -> None:
    """Otherwise the guest would use IPv6 in vain."""
    with closing(Guest(has_ipv6=False)) as guest:
        guest.solicit_router()
        guest.now += 3600 * 10**9
        guest.turn()
        assert guest.num_advertisements() == 0
