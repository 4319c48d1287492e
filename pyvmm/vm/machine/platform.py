"""The platform that a guest runs on, as the VMM sees it; the composition root provides one."""

from typing import Protocol

from pyvmm.arch.events import EventStream
from pyvmm.devices.bus import Bus
from pyvmm.host.guest import Guest, GuestConfig, RealmOptions
from pyvmm.host.machine import Usage
from pyvmm.host.vgic import Vgic


class Platform(Protocol):
    """The machine, its firmware and the hypervisor: what a guest runs on."""

    @property
    def events(self) -> EventStream:
        """Where everything that happens is told."""

    def new_guest(
        self, config: GuestConfig, bus: Bus, vgic: Vgic, realm: RealmOptions | None
    ) -> Guest:
        """Make a guest: a realm if there are options for one, else a normal VM."""

    def usage(self) -> Usage:
        """Say what the machine has done so far and what it takes."""

    def rim(self) -> bytes:
        """Return the initial measurement of the realm; empty if there is none."""
