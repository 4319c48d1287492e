"""The platform that runs a guest, as the VMM uses it; the composition root provides one."""

from typing import Protocol

from pyvmm.arch import pictures
from pyvmm.arch.events import EventStream
from pyvmm.arch.timer import SystemCounter
from pyvmm.devices.bus import Bus
from pyvmm.host.guest import Guest, GuestConfig, RealmOptions
from pyvmm.host.machine import Usage
from pyvmm.host.vgic import Vgic


class Observer(Protocol):
    """Takes pictures of the whole machine; raises UserError for what does not exist."""

    def gpt(self) -> pictures.GptPicture:
        """Return the granule protection table and the RMM's use of the granules."""

    def granule(self, pa: int, /) -> pictures.GranulePicture:
        """Return one granule."""

    def walk(self, pe: int, address: int, /, *, el: int | None) -> pictures.WalkPicture:
        """Walk a virtual address at an exception level, by default the current one."""

    def walk_ipa(self, pe: int, address: int, /) -> pictures.WalkPicture:
        """Walk an intermediate physical address."""

    def stage1(self, pe: int, va: int, level: int | None, /) -> pictures.Stage1Picture:
        """Return the table of stage 1 for a virtual address at a level, by default the first."""

    def rtt(self) -> list[pictures.RttPicture]:
        """Return the translation tables of each realm."""

    def realms(self) -> list[pictures.RecordPicture]:
        """Return the attributes of each realm."""

    def recs(self) -> list[pictures.RecordPicture]:
        """Return the attributes of each REC."""

    def pes(self) -> list[pictures.PePicture]:
        """Return the registers of each PE."""

    def gic(self) -> list[pictures.GicPicture]:
        """Return the virtual CPU interface of each PE."""

    def timers(self) -> list[pictures.TimerPicture]:
        """Return the timers of each PE."""

    def tlbs(self) -> list[pictures.TlbPicture]:
        """Return the translations that each PE has cached."""

    def code(self, pe: int, address: int | None, /) -> pictures.CodePicture:
        """Return the code that a PE has executed: at a virtual address, by default at its PC."""


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

    def observer(self, guest: Guest) -> Observer:
        """Return an observer of the machine that runs ``guest``."""

    def usage(self) -> Usage:
        """Return the machine's counters and its resource usage."""

    def digests(self, guest: Guest) -> tuple[bytes, dict[str, bytes]]:
        """Return digests of the vCPUs' registers and of the memory of each PAS, after the end."""

    def rim(self) -> bytes:
        """Return the initial measurement of the realm; empty if there is none."""
