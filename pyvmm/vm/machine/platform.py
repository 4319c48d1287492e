"""The platform that runs a guest, as the VMM uses it; the composition root provides one."""

from typing import Protocol

from pyvmm.arch.events import EventStream
from pyvmm.arch.timer import SystemCounter
from pyvmm.devices.bus import Bus
from pyvmm.host.guest import Guest, GuestConfig, RealmOptions
from pyvmm.host.machine import Usage
from pyvmm.host.vgic import Vgic


class Platform(Protocol):
    """The machine, its firmware and the hypervisor that run a guest."""

    @property
    def events(self) -> EventStream:
        """The stream of all events of the platform."""

    @property
    def counter(self) -> SystemCounter:
        """The counter of the machine."""

    def new_guest(
        self, config: GuestConfig, bus: Bus, vgic: Vgic, realm: RealmOptions | None
    ) -> Guest:
        """Make a guest: a realm if ``realm`` has options, else a normal VM."""

    def usage(self) -> Usage:
        """Return the machine's counters and its resource usage."""

    def rim(self) -> bytes:
        """Return the initial measurement of the realm; empty if there is none."""
